"""The benchmarks run: not how fast, but that they measure what they say and write it down."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections import OrderedDict

import pytest
import timm
import torch
from safetensors.torch import save_file

from lightning_sq.models import ModelConfig, build_model
from tests.conftest import REPOSITORY


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """Import a benchmark by name, with its results below `tmp_path`."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    harness = importlib.import_module("harness")
    monkeypatch.setattr(harness, "RESULTS", tmp_path)

    def run(name, *options):
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, "argv", [name, *options])
        return module

    yield run
    for script in (REPOSITORY / "benchmarks").glob("*.py"):
        sys.modules.pop(script.stem, None)


def test_objectives_are_timed_against_the_natural_step(benchmark, tmp_path):
    options = ["--architecture", "test_resnet", "--image-size", "32", "--batch-size", "2", "--rounds", "1"]
    module = benchmark("objectives", *options)
    module.main()
    (file,) = tmp_path.glob("objectives-*.json")
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == len(module.candidates())
    assert all(row["measured"] > 0 for row in rows)


def test_loading_is_timed_beside_plain_timm(benchmark, tmp_path):
    benchmark("loading", "--architecture", "test_resnet", "--rounds", "1").main()
    (file,) = tmp_path.glob("loading-*.json")
    rows = json.loads(file.read_text())["rows"]
    assert [row["question"] for row in rows] == ["lightning_sq.load of a test_resnet", "timm and torch, unchecked"]
    assert all(row["measured"] > 0 for row in rows)


def test_the_theory_holds_prediction_against_truth_over_seeds(benchmark, tmp_path, monkeypatch):
    module = benchmark("theory", "--output", str(tmp_path), "--epochs", "1", "--num-images", "6", "--num-seeds", "2")
    all_rows = module.rows_to_train
    kept = ("natural", "2 levels, sharpness 80, natural")
    monkeypatch.setattr(module, "SHARPNESSES", (80.0,))
    monkeypatch.setattr(
        module, "rows_to_train", lambda *a: {k: v for k, v in all_rows(*a).items() if k in kept or k.endswith("noise")}
    )
    sets = {split: (images[:64], labels[:64]) for split, (images, labels) in module.read_digits().items()}
    monkeypatch.setattr(module, "read_digits", lambda: sets)
    module.main()
    content = json.loads((tmp_path / "theory.json").read_text())
    for row in content["rows"].values():
        assert len(row["seeds"]) == 2
        assert row["rise_by_strongest"] >= row["rise_by_plain_pgd"] - 1e-6
        assert row["predicted_rise"] == pytest.approx(content["settings"]["epsilon"] * row["gradient_natural"])
        for key in row["seeds"][0]:
            assert row[key] == pytest.approx(sum(seed[key] for seed in row["seeds"]) / 2)
    assert "2 seeds" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "theory.png").stat().st_size > 0


def test_the_attack_of_the_theory_goes_for_the_largest_loss_and_does_not_stop_when_it_fools(benchmark):
    module = benchmark("theory")
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 2)
    model = module.PixelClassifier(OrderedDict(backbone=torch.nn.Sequential(torch.nn.Flatten(), layer)))
    images, labels = torch.full((6, 1, 2, 2), 0.5), torch.tensor([0, 1] * 3)
    found = module.attacked_losses(model, images, labels, 0.3)["plain"]
    direction = (layer.weight[1 - labels] - layer.weight[labels]).sign().view(6, 1, 2, 2)
    corner = torch.nn.functional.cross_entropy(model(images + 0.3 * direction), labels, reduction="none")
    assert torch.allclose(found, corner, rtol=1e-4)


def test_the_front_ends_of_the_benchmark_are_the_layers(benchmark):
    module = benchmark("front_end")
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    for run in module.front_ends(2, 0.0, torch.float32, "cpu").values():
        layers = torch.nn.Sequential(
            module.SoftQuantization(2, module.RELATIVE_SHARPNESS),
            module.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        )
        found = run(pixels)
        assert torch.allclose(found, layers(pixels.float() / 255), atol=1e-5)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_levels_are_put_before_the_same_weights_and_attacked(benchmark, few_digits, tmp_path, monkeypatch):
    options = ["--data", str(few_digits / "val"), "--model", "net=anything", "--output", str(tmp_path)]
    module = benchmark("levels", *options, "--num-images", "20", "--num-attacked", "5", "--attacks", "pgd")
    torch.manual_seed(0)
    names = tuple(str(digit) for digit in range(10))
    net = build_model(ModelConfig("test_resnet", names, (0.5,) * 3, (0.5,) * 3, 32, 32)).eval()
    monkeypatch.setattr(module, "load", lambda source: net)
    monkeypatch.setattr(module, "LEVELS", (2, 256))
    module.main()
    content = json.loads((tmp_path / "levels.json").read_text())
    assert (content["num_images"], content["num_attacked"]) == (20, 5)
    rows = content["models"]["net"]
    assert [row["levels"] for row in rows] == [None, *module.LEVELS]
    for row in rows:
        curve = [row["clean_of_attacked"], *row["worst_case"].values()]
        assert curve == sorted(curve, reverse=True)
    assert (tmp_path / "README.md").read_text() == module.markdown(content)
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(module.quantized(net, 256)(images), net(images), atol=0.05)
    assert not torch.allclose(module.quantized(net, 2)(images), net(images), atol=0.05)


@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities of TorchVision")
def test_all_loaders_are_timed_on_the_same_files_and_memory_start_and_accuracy_are_looked_at(
    benchmark, tmp_path, few_digits, monkeypatch
):
    monkeypatch.setenv("LIGHTNING_SQ_CACHE", str(tmp_path / "cache"))  # it sets its own
    synsets = ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475")
    for label, synset in enumerate(synsets):
        shutil.copytree(few_digits / "val" / str(label), tmp_path / "images" / synset)
    weights = {name: value.half() for name, value in timm.create_model("resnet18").state_dict().items()}
    save_file(weights, tmp_path / "weights.safetensors")
    words = ["--data", str(tmp_path / "images"), "--weights", str(tmp_path / "weights.safetensors"), "--threads", "1"]
    words += ["--batch-size", "8", "--num-images", "24", "--rounds", "1", "--epochs", "3", "--start-files", "1200"]
    benchmark("data", *words, "--short-side", "24", "--train", "--architecture", "test_resnet").main()
    (file,) = tmp_path.glob("data-*.json")
    content = json.loads(file.read_text())
    rows = {row["question"]: row for row in content["rows"]}
    assert sum(row["unit"] == "images/s" for row in rows.values()) == 13
    assert rows["DALI CPU against torchvision's DataLoader, original files"]["to_reach"] == ">= 1.5"
    assert rows["validation pixels, DALI against torchvision"]["measured"] <= 2
    assert set(rows["start to first batch with 1,200 files, from their index"]["detail"]) == {
        "index",
        "first batch",
        "of a processor",
    }
    assert len(rows["growth of the resident memory from epoch 1 to 2, DALI"]["detail"]["megabytes"]) == 2
    end_to_end = rows["test_resnet trained from files against one batch in memory, batch 8"]
    assert end_to_end["measured"] > 0
    assert ("reason" in end_to_end["detail"]) == (end_to_end["measured"] < 0.95)
    assert len(content["skipped"]) == 1
