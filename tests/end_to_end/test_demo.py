"""The whole demo, small: every file that the README names, and numbers that hang together."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

import lightning_sq
from tests.conftest import REPOSITORY
from tests.ports import port_that_stays_free

MODELS = ("natural", "soft_quantization")
OF_A_RUN = ("config.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "logs/version_0/metrics.csv")


@pytest.mark.end_to_end
def test_the_demo_makes_everything_that_the_readme_names(few_digits, tmp_path):
    output = tmp_path / "demo"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lightning_sq", "demo", "--output", str(output), "--data", str(few_digits)),
            *("--num-images", "6", "--max-epochs", "1"),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MASTER_PORT": str(port_that_stays_free())},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in (
        "release/model.safetensors",
        "release/config.json",
        "release/README.md",
        "release/golden.safetensors",
        "release/results.json",
        "release/SHA256SUMS",
        "results.json",
        "results.csv",
        "robustness.png",
        "report.html",
        *(f"robustbench/{model}.json" for model in MODELS),
        *(f"{model}/{file}" for model in MODELS for file in OF_A_RUN),
    ):
        assert (output / name).stat().st_size > 0, name
    results = json.loads((output / "results.json").read_text())
    assert [model["name"] for model in results["models"]] == ["natural", "soft_quantization"]
    assert {model["num_images"] for model in results["models"]} == {6}
    for model in results["models"]:
        worst = [model["clean_accuracy"], *(point["worst_case"] for point in model["curve"])]
        assert worst == sorted(worst, reverse=True)
    tried = [{n for n in m["verdicts"]["attacks"] if not n.startswith("transfer_")} for m in results["models"]]
    assert tried == [{"pgd", "pgd_margin"}, {"pgd", "pgd_margin", "bpda", "quantized_box"}]
    assert "distributed_backend=gloo" in done.stderr
    assert done.stdout.rstrip().endswith(str(output / "report.html"))
    assert "worst case" in done.stdout
    model = lightning_sq.load(output / "release")
    assert model.quantizer.num_levels == 2
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    assert "the search without a gradient of --attacks standard" in (output / "release/README.md").read_text()
