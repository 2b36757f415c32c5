"""MNIST's files to a trained, released and attacked grey model, by the real command line, on sixty digits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import lightning_sq
from lightning_sq.__main__ import main
from lightning_sq.metrics import input_gradient_l1
from lightning_sq.models.checkpoint_format import read_checkpoint
from tests.callbacks import Recorder
from tests.conftest import REPOSITORY
from tests.data.idx import NUM_TEST, NUM_TRAIN, tiny_mnist, write_idx
from tests.run_logs import assert_same_weights, weights

CONFIG = str(REPOSITORY / "configs" / "mnist.yaml")
BATCH = 8
SMALL = [
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--data.batch_size_per_device", str(BATCH), "--data.max_shift", "1", "--trainer.log_every_n_steps", "1"),
]


@pytest.fixture(scope="module")
def mnist(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mnist")
    source = write_idx(folder / "source", tiny_mnist())
    assert main(["data", "mnist", str(folder / "mnist"), "--from", str(source)]) == 0
    return folder / "mnist"


def fit(mnist: Path, output: Path, *options: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["lightning-sq"])
        words = ["fit", "--config", CONFIG, "--data.root", str(mnist), "--output", str(output), *SMALL, *options]
        assert main(words) == 0
    return output


@pytest.fixture(scope="module")
def run(mnist, tmp_path_factory) -> Path:
    Recorder.seen.clear()
    return fit(mnist, tmp_path_factory.mktemp("run") / "run", "--trainer.callbacks+=tests.callbacks.Recorder")


def test_an_epoch_shows_every_digit_to_a_grey_model_that_learns_with_adamw(run):
    shown = [index for indices, _ in Recorder.seen[0] for index in indices]
    assert sorted(shown) == list(range(NUM_TRAIN))
    trained = read_checkpoint(run / "checkpoints/last.ckpt")
    assert trained.config.num_channels == 1
    assert trained.config.class_names == tuple("0123456789")
    assert trained.training["steps"] == NUM_TRAIN // BATCH
    header = (run / "logs/version_0/metrics.csv").read_text().splitlines()[0]
    assert "lr-AdamW" in header
    assert "val/clean_top1" in header


def test_a_run_that_was_stopped_in_the_middle_of_an_epoch_ends_with_the_same_weights(mnist, run, tmp_path):
    cut = ["--trainer.callbacks+=tests.callbacks.PowerCut", "--trainer.callbacks.step", "3"]
    with pytest.raises(SystemExit, match="power cut"):
        fit(mnist, tmp_path / "cut", *cut, "--checkpoint_minutes", "0")
    fit(mnist, tmp_path / "cut", "--resume")
    assert_same_weights(weights(tmp_path / "cut"), weights(run))
    assert yaml.safe_load((tmp_path / "cut/config.yaml").read_text())["data"]["max_shift"] == 1


def test_it_is_exported_and_attacked_on_the_pixels_that_it_was_validated_on(mnist, run, tmp_path):
    release = tmp_path / "release"
    assert main(["export", str(run / "checkpoints/last.ckpt"), str(release)]) == 0
    model = lightning_sq.load(release)
    accuracies = []
    for backend in ("dali", "torchvision"):
        output = tmp_path / backend
        words = ["evaluate", f"mnist={release}", "--data", str(mnist), "--output", str(output), "--backend", backend]
        fast = ["--attacks", "fgsm,pgd,quantized_box", "--epsilon", "0.1", "--device", "cpu", "--batch-size", "10"]
        assert main([*words, *fast]) == 0
        accuracies.append(json.loads((output / "results.json").read_text())["models"][0]["clean_accuracy"])
        assert (output / "report.html").is_file()
    test = tiny_mnist()
    images = torch.from_numpy(test["t10k-images-idx3-ubyte"])[:, None].float() / 255
    labels = torch.from_numpy(test["t10k-labels-idx1-ubyte"]).long()
    with torch.no_grad():
        clean = (model(images).argmax(1) == labels).float().mean().item()
    assert accuracies == pytest.approx([clean, clean])
    (row,) = json.loads((output / "results.json").read_text())["models"]
    assert row["input_gradient_l1"] == pytest.approx(input_gradient_l1(model, images, labels).mean().item(), rel=1e-3)
    assert len(labels) == NUM_TEST


def test_training_is_not_gone_on_with_in_other_colours(mnist, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["lightning-sq"])
    checkpoint = str(run / "checkpoints/last.ckpt")
    words = ["fit", "--config", CONFIG, "--data.root", str(mnist), "--output", str(tmp_path / "colour"), *SMALL]
    assert main([*words, "--data.channels", "3", "--ckpt_path", checkpoint]) == 2
    assert "channels is 1 in it and 3 here. Set --data.channels as it was" in capsys.readouterr().err
    assert not (tmp_path / "colour").exists()
