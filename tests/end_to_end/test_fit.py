"""The real command line on a small data set: resuming, and one process against two."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lightning_sq
from lightning_sq.__main__ import main
from lightning_sq.models.checkpoint_format import read_checkpoint
from tests.callbacks import Recorder
from tests.conftest import REPOSITORY

POWER_CUT = ["--checkpoint_minutes", "0", "--trainer.callbacks+=tests.callbacks.PowerCut"]
CONFIG = str(REPOSITORY / "configs" / "digits.yaml")
SMALL = [
    *("--model.architecture", "test_resnet", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "3"),
    *("--trainer.enable_progress_bar", "false", "--data.batch_size_per_device", "16"),
]


@pytest.fixture
def fit(few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["lightning-sq"])

    def run(name: str, *options: str) -> Path:
        output = tmp_path / name
        words = ["fit", "--config", CONFIG, "--data.root", str(few_digits), "--output", str(output), *SMALL, *options]
        assert main(words) == 0
        return output

    return run


def final_weights(output: Path) -> dict[str, torch.Tensor]:
    return torch.load(output / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def test_interrupted_and_resumed_gives_the_weights_of_the_run_that_was_never_stopped(fit):
    whole = fit("whole")
    with pytest.raises(SystemExit, match="power cut"):
        fit("cut", *POWER_CUT, "--trainer.callbacks.step", "9")
    cut = fit("cut", "--resume", "--checkpoint_minutes", "0")
    assert_same_weights(final_weights(cut), final_weights(whole))


def test_every_epoch_of_a_fit_has_an_order_and_crops_of_its_own(fit):
    Recorder.seen.clear()
    fit("run", "--trainer.callbacks+=tests.callbacks.Recorder")
    assert sorted(Recorder.seen) == [0, 1, 2]
    orders = [[index for indices, _ in rows for index in indices] for rows in Recorder.seen.values()]
    assert all(set(order) == set(range(90)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert len({tuple(total for _, total in rows) for rows in Recorder.seen.values()}) == 3


def test_a_run_leaves_what_the_readme_says(fit):
    output = fit("run")
    files = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    assert files[:3] == ["checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml"]
    assert [name.split("/")[-1][:15] for name in files[3:]] == ["events.out.tfev", "hparams.yaml", "metrics.csv"]
    header = (output / "logs/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    for column in (
        "train/loss",
        "train/top1",
        "train/images_per_second",
        "val/clean_top1",
        "val/clean_top5",
        "val/noisy_top1",
        "val/input_gradient_l1",
        "val/loss",
    ):
        assert column in header
    assert any(column.startswith("lr-SGD") for column in header)


def test_the_moving_average_is_what_is_exported(fit, tmp_path):
    ema = ["--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging", "--trainer.callbacks.decay", "0.9"]
    output = fit("ema", *ema)
    content = torch.load(output / "checkpoints/last.ckpt", weights_only=True)
    averaged, current = content["state_dict"], content["current_model_state"]
    key = "model.backbone.fc.weight"
    assert not torch.equal(averaged[key], current[key])
    assert main(["export", str(output / "checkpoints/last.ckpt"), str(tmp_path / "release")]) == 0
    assert torch.equal(lightning_sq.load(tmp_path / "release").backbone.fc.weight, averaged[key])


def test_released_weights_give_identical_logits(fit, tmp_path):
    checkpoint = fit("run") / "checkpoints/last.ckpt"
    assert main(["export", str(checkpoint), str(tmp_path / "release")]) == 0
    images = torch.rand(3, 3, 32, 32)
    released, direct = lightning_sq.load(tmp_path / "release"), read_checkpoint(checkpoint).build()
    assert torch.equal(released(images), direct(images))
    card = (tmp_path / "release/README.md").read_text()
    assert "test_resnet" in card
    assert "2 levels" in card


def assert_same_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def command(*words: str, succeeds: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "lightning_sq", *words], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.end_to_end
def test_two_processes_resume_exactly_and_validate_like_one(few_digits, tmp_path):
    base = ["--config", CONFIG, "--data.root", str(few_digits), *SMALL, "--data.batch_size_per_device", "7"]
    two = ["fit", *base, "--trainer.max_epochs", "2", "--trainer.devices", "2"]
    command(*two, "--output", str(tmp_path / "whole"))
    cut = [*two, "--output", str(tmp_path / "cut")]
    command(*cut, *POWER_CUT, "--trainer.callbacks.step", "10", succeeds=False)
    stopped = torch.load(tmp_path / "cut/checkpoints/last.ckpt", weights_only=True)
    assert stopped["global_step"] == 10  # in the second epoch, which has 7 steps
    command(*cut, "--resume")
    assert_same_weights(final_weights(tmp_path / "cut"), final_weights(tmp_path / "whole"))

    odd = tmp_path / "odd"
    shutil.copytree(few_digits, odd)
    next((odd / "val/7").iterdir()).unlink()  # 39 images: with batches of 19 the last one of rank 1 is all padding
    base += ["--data.root", str(odd), "--data.batch_size_per_device", "19"]
    numbers = []
    for devices in ("1", "2"):
        output = tmp_path / f"validated-{devices}"
        checkpoint = str(tmp_path / "whole/checkpoints/last.ckpt")
        command("validate", *base, "--trainer.devices", devices, "--ckpt_path", checkpoint, "--output", str(output))
        numbers.append(json.loads((output / "validate.json").read_text()))
    assert numbers[0].keys() == numbers[1].keys() >= {"val/clean_top1", "val/noisy_top1", "val/loss"}
    for key in numbers[0]:
        assert numbers[0][key] == pytest.approx(numbers[1][key], rel=1e-5), key
