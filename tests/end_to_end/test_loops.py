"""Lightning's ways to cut a run up work with DALI: sanity validation, limits, intervals, accumulation, a fast run."""

from __future__ import annotations

import csv

import pytest
import torch
import yaml

from lightning_sq.__main__ import main
from tests.callbacks import Recorder, Shapes
from tests.conftest import REPOSITORY

CONFIG = str(REPOSITORY / "configs" / "digits.yaml")
SMALL = [
    *("--model.architecture", "test_resnet", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--data.batch_size_per_device", "16", "--trainer.log_every_n_steps", "1"),
    "--trainer.callbacks+=tests.callbacks.Recorder",
]
EPOCH = [16] * 6  # 90 images, the last batch filled up


@pytest.fixture
def fit(few_digits, tmp_path, monkeypatch):
    """Trains with options and gives the sizes of the batches of each epoch, and the rows that were logged."""
    monkeypatch.setattr("sys.argv", ["lightning-sq"])

    def run(*options: str) -> tuple[dict[int, list[int]], list[dict[str, str]]]:
        Recorder.seen.clear()
        output = tmp_path / "run"
        words = ["--config", CONFIG, "--data.root", str(few_digits), "--output", str(output)]
        assert main(["fit", *words, *SMALL, *options]) == 0
        logs = list(output.glob("logs/*/metrics.csv"))
        rows = list(csv.DictReader(logs[0].read_text().splitlines())) if logs else []
        return {epoch: [len(indices) for indices, _ in batches] for epoch, batches in Recorder.seen.items()}, rows

    return run


def validations(rows: list[dict[str, str]]) -> list[int]:
    """The steps behind which there was a validation."""
    return [int(row["step"]) for row in rows if row.get("val/clean_top1")]


def test_sanity_validation_leaves_the_epochs_as_they_are(fit):
    seen, rows = fit("--trainer.max_epochs", "2", "--trainer.num_sanity_val_steps", "1")
    assert seen == {0: EPOCH, 1: EPOCH}
    assert validations(rows) == [5, 11]


def test_limits_cut_epochs_short_and_the_next_one_starts_at_its_beginning(fit):
    fit("--trainer.max_epochs", "2")
    whole = dict(Recorder.seen)
    limits = ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
    seen, rows = fit("--trainer.max_epochs", "2", "--overwrite", *limits)
    assert seen == {0: [16, 16], 1: [16, 16]}
    assert [Recorder.seen[epoch] for epoch in (0, 1)] == [whole[epoch][:2] for epoch in (0, 1)]
    assert validations(rows) == [1, 3]


def test_validation_inside_an_epoch_does_not_disturb_it(fit):
    fit("--trainer.max_epochs", "2")
    whole = dict(Recorder.seen)
    _, rows = fit("--trainer.max_epochs", "2", "--overwrite", "--trainer.val_check_interval", "0.5")
    assert Recorder.seen == whole
    assert validations(rows) == [2, 5, 8, 11]


@pytest.mark.parametrize(
    ("options", "steps"), [([], [3, 9]), (["--trainer.check_val_every_n_epoch", "null"], [3, 7, 11])]
)
def test_validation_comes_at_its_interval_and_not_at_each_end_of_an_epoch_too(fit, options, steps):
    _, rows = fit("--trainer.max_epochs", "2", "--trainer.val_check_interval", "4", *options)
    assert validations(rows) == steps


def test_validation_by_the_clock_does_not_come_at_each_end_of_an_epoch_too(fit):
    seen, rows = fit("--trainer.max_epochs", "2", "--trainer.val_check_interval", "00:01:00:00")
    assert seen == {0: EPOCH, 1: EPOCH}
    assert validations(rows) == []


def test_a_run_needs_no_logger(fit, tmp_path):
    seen, rows = fit("--trainer.max_epochs", "1", "--trainer.logger", "false")
    assert (seen, rows) == ({0: EPOCH}, [])
    assert (tmp_path / "run/checkpoints/last.ckpt").exists()


def test_what_an_objective_learns_is_learnt(fit, tmp_path):
    fit("--trainer.max_epochs", "1", "--model.objective", "tests.own_objective.Tempered")
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert saved["state_dict"]["objective.log_temperature"] != 0


def test_gathered_gradients_take_every_batch(fit):
    seen, rows = fit("--trainer.max_epochs", "1", "--trainer.accumulate_grad_batches", "4")
    assert seen == {0: EPOCH}
    assert validations(rows) == [1]  # the second of two optimizer steps


def test_a_fast_run_takes_one_batch_and_writes_nothing(fit, tmp_path):
    seen, rows = fit("--trainer.fast_dev_run", "true")
    assert (seen, rows) == ({0: [16]}, [])
    assert not (tmp_path / "run").exists()


def test_each_epoch_logs_speed_and_waiting(fit):
    _, rows = fit("--trainer.max_epochs", "2")
    for name in ("train/images_per_second", "train/waiting_share", "train/reader_seconds", "train/decoder_seconds"):
        assert len([row for row in rows if row.get(name)]) == 2, name
    assert all(0 <= float(row["train/waiting_share"]) <= 1 for row in rows if row.get("train/waiting_share"))


def test_a_recipe_trains_on_growing_images(fit, tmp_path):
    recipe = tmp_path / "resizing.yaml"
    resizing = {"class_path": "lightning_sq.training.resizing.ProgressiveResizing"}
    resizing["init_args"] = {"sizes": [[0, 16], [2, 32]]}
    callbacks = [resizing, {"class_path": "tests.callbacks.Shapes"}]
    recipe.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks, "max_epochs": 3}}))
    Shapes.seen.clear()
    _, rows = fit("--config", str(recipe))
    assert Shapes.seen == {0: {16}, 1: {16}, 2: {32}}
    assert [float(row["train/image_size"]) for row in rows if row.get("train/image_size")] == [16, 16, 32]
