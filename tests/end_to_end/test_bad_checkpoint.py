"""A checkpoint that does not fit what it is given to is refused in one sentence, and the folder stays as it is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from lightning_sq.__main__ import main
from tests.conftest import REPOSITORY
from tests.sentences import assert_one_sentence

CONFIG = str(REPOSITORY / "configs" / "digits.yaml")
SMALL = [
    *("--model.architecture", "test_resnet", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2"),
    *("--trainer.log_every_n_steps", "1", "--data.batch_size_per_device", "30"),
]


@pytest.fixture
def command(few_digits, tmp_path, capsys, monkeypatch):
    """Runs a subcommand with options, and gives back (status, what stood on standard error)."""
    monkeypatch.setattr("sys.argv", ["lightning-sq"])

    def run(name: str, *options: str) -> tuple[int, str]:
        words = [name, "--config", CONFIG, "--data.root", str(few_digits), *SMALL, *options]
        return main([*words, "--output", str(tmp_path / "run")]), capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def checkpoint(few_digits, tmp_path_factory) -> Path:
    """Of a run of one epoch."""
    output = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["lightning-sq"])
        options = ["--trainer.max_epochs", "1", "--output", str(output)]
        assert main(["fit", "--config", CONFIG, "--data.root", str(few_digits), *SMALL, *options]) == 0
    return output / "checkpoints/last.ckpt"


@pytest.fixture
def stopped(checkpoint, tmp_path) -> Path:
    """A folder with that run in it."""
    shutil.copytree(checkpoint.parent.parent, tmp_path / "run")
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OTHER_MODELS = {
    "architecture": (["--model.architecture", "test_efficientnet"], ["architecture is test_resnet", "test_efficient"]),
    "levels": (["--model.quantizer.num_levels", "4"], ["quantizer.num_levels is 2 in it and 4 here"]),
    "sharpness": (["--model.quantizer.sharpness", "61"], ["quantizer.sharpness is 60.0", "61.0"]),
    "channels": (["--data.channels", "1"], ["channels is 3 in it and 1 here. Set --data.channels as it was"]),
    "size": (["--data.image_size", "28"], ["image_size is 32", "28", "--data.image_size"]),
}


@pytest.mark.parametrize("field", OTHER_MODELS)
@pytest.mark.parametrize("name", ["fit", "validate"])
def test_a_checkpoint_of_another_model(command, stopped, name, field):
    before, (options, parts) = contents(stopped), OTHER_MODELS[field]
    start = ["--resume"] if name == "fit" else ["--ckpt_path", str(stopped / "checkpoints/last.ckpt")]
    assert_one_sentence(command(name, *start, *options), "last.ckpt holds another model", *parts)
    assert contents(stopped) == before


@pytest.mark.parametrize("name", ["fit", "validate"])
def test_a_checkpoint_of_an_objective_that_learns_other_things(command, stopped, name):
    before = contents(stopped)
    start = ["--resume"] if name == "fit" else ["--ckpt_path", str(stopped / "checkpoints/last.ckpt")]
    found = command(name, *start, "--model.objective", "tests.own_objective.Tempered")
    assert_one_sentence(found, "last.ckpt is of another objective than Tempered: 'log_temperature'")
    assert contents(stopped) == before


def test_a_checkpoint_of_other_classes(command, checkpoint, few_digits, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(few_digits, data)
    for split in ("train", "val"):
        (data / split / "7").rename(data / split / "7b")
    found = command("fit", "--ckpt_path", str(checkpoint), "--data.root", str(data))
    assert_one_sentence(found, "class_names is 7 in it and 7b here", "--data.root")
    assert not (tmp_path / "run").exists()


OTHER_BATCHES = {
    "batch size": (["--data.batch_size_per_device", "15"], ["batch_size_per_device=30", "15", "size_per_device 30"]),
    "processes": (["--trainer.devices", "2"], ["num_processes=1", "has 2", "--trainer.devices"]),
    "gathered": (["--trainer.accumulate_grad_batches", "2"], ["accumulate_grad_batches=1", "has 2"]),
    "seed": (["--seed_everything", "1"], ["seed=0", "has 1", "--seed_everything 0"]),
    "flips": (["--data.flip_probability", "0.25"], ["flip_probability=0.0", "has 0.25", "--data.flip_probability 0.0"]),
    "crops": (
        ["--data.backend", "memory"],
        ["backend=dali or torchvision", "has memory", "Set --data.backend dali"],
    ),
    "rate": (["--model.optimization.base_learning_rate", "0.1"], ["base_learning_rate=0.4", "has 0.1"]),
}


@pytest.mark.parametrize("what", OTHER_BATCHES)
def test_going_on_with_other_batches(command, stopped, what):
    before, (options, parts) = contents(stopped), OTHER_BATCHES[what]
    assert_one_sentence(command("fit", "--resume", *options), *parts, "--output")
    assert contents(stopped) == before


OTHER_TRAINING = {
    "noise": (["--model.objective.epsilon", "0.3"], ["--model.objective.epsilon 0.2, this one has 0.3"]),
    "objective": (["--model.objective", "Natural"], ["lightning_sq.objectives.NoisyNatural", "objectives.Natural"]),
    "average": (
        ["--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging", "--trainer.callbacks.decay=0.9"],
        ["the callback EMAWeightAveraging none, this one has {", "'decay': 0.9"],
    ),
}


@pytest.mark.parametrize("what", OTHER_TRAINING)
def test_going_on_with_another_training(command, stopped, what):
    before, (options, parts) = contents(stopped), OTHER_TRAINING[what]
    assert_one_sentence(command("fit", "--resume", *options), *parts, "--output", "--model.checkpoint_path")
    assert contents(stopped) == before


def test_a_setting_that_an_older_checkpoint_lacks_was_as_it_is_by_default(command, stopped):
    path = stopped / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    content["lightning_sq"]["resume"]["settings"].pop("optimizer")
    torch.save(content, path)
    found = command("fit", "--resume", "--model.optimization.optimizer", "adamw")
    assert_one_sentence(found, "optimizer=sgd, this one has adamw", "Set --model.optimization.optimizer sgd")
    assert command("fit", "--resume")[0] == 0


def test_going_on_with_other_images(command, stopped, few_digits, tmp_path, caplog):
    before, data = contents(stopped), tmp_path / "data"
    shutil.copytree(few_digits, data)
    next((data / "train/3").iterdir()).unlink()
    found = command("fit", "--resume", "--data.root", str(data))
    remedies = "Give --data.root the 90 images", "add --on_mismatch restart_epoch"
    assert_one_sentence(found, "num_images=90", "has 89", *remedies)
    assert contents(stopped) == before
    assert command("fit", "--resume", "--data.root", str(data), "--on_mismatch", "restart_epoch")[0] == 0
    assert "starts again from its first image: num_images=90 is now 89, images=" in caplog.text


def test_a_checkpoint_of_another_run_is_no_leave_to_overwrite_the_one_in_output(command, checkpoint, stopped):
    before = contents(stopped)
    assert_one_sentence(command("fit", "--ckpt_path", str(checkpoint)), "already holds a run", "--overwrite")
    assert contents(stopped) == before


@pytest.mark.parametrize("part", ["loops", "optimizer_states", "resume"])
def test_a_checkpoint_of_ours_without_what_going_on_needs(command, stopped, part):
    path = stopped / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    (content["lightning_sq"] if part == "resume" else content).pop(part)
    torch.save(content, path)
    assert_one_sentence(command("fit", "--resume"), f"last.ckpt lacks {part}")


def test_a_folder_as_checkpoint(command, stopped):
    for name in ("fit", "validate"):
        found = command(name, "--ckpt_path", str(stopped / "checkpoints"), "--overwrite")
        assert_one_sentence(found, "checkpoints: it is a folder", ".ckpt")


def test_a_checkpoint_holds_the_weights_so_nothing_is_downloaded(command, checkpoint, monkeypatch, tmp_path):
    def no_network(architecture):
        raise AssertionError("download")

    monkeypatch.setattr("lightning_sq.training.build.pretrained_state", no_network)
    assert command("validate", "--ckpt_path", str(checkpoint), "--model.pretrained", "true")[0] == 0
    (tmp_path / "run/validate.json").unlink()
    assert command("fit", "--ckpt_path", str(checkpoint), "--model.pretrained", "true")[0] == 0
    assert "pretrained: true" in (tmp_path / "run/config.yaml").read_text()


@pytest.mark.parametrize("name", ["validate", "test"])
def test_a_model_without_weights_is_not_scored(command, tmp_path, name):
    assert_one_sentence(command(name), "no weights", "--ckpt_path", "--model.pretrained")
    assert not (tmp_path / "run").exists()


def test_a_model_is_scored_on_its_validation_images(command, checkpoint, tmp_path):
    assert command("test", "--ckpt_path", str(checkpoint))[0] == 0
    tested = json.loads((tmp_path / "run/test.json").read_text())
    assert command("validate", "--ckpt_path", str(checkpoint))[0] == 0
    assert tested == json.loads((tmp_path / "run/validate.json").read_text())
    assert 0 <= tested["val/clean_top1"] <= 1


def test_weights_that_are_not_finite_are_not_saved(command, tmp_path):
    spoilt = ["--trainer.callbacks+=tests.callbacks.SpoilWeights", "--trainer.callbacks.step", "2"]
    status, text = command("fit", *spoilt, "--checkpoint_minutes", "0")
    assert status == 1
    assert "The weights stopped being finite in epoch 1, at step 2, batch 2." in text
    content = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] == 1
    assert all(value.isfinite().all() for value in content["state_dict"].values())


def test_a_training_that_diverges_says_where_and_leaves_the_checkpoint_before(command, tmp_path):
    huge = ["--model.optimization.base_learning_rate", "1e30", "--model.optimization.warmup_epochs", "0"]
    status, text = command("fit", *huge, "--checkpoint_minutes", "0")
    assert status == 1
    assert "Traceback" not in text
    (line,) = (line for line in text.splitlines() if "error" in line)
    assert re.search(r"finite in epoch 1, at step \d+, batch \d+, in process 0 of 1\.", line)
    assert re.search(r"process 0: the loss is (nan|inf) on \S+\.jpg", text)
    assert "--resume" in line
    assert "--model.optimization.base_learning_rate than 1e+30" in line
    path = tmp_path / "run/checkpoints/last.ckpt"
    assert all(value.isfinite().all() for value in torch.load(path, weights_only=True)["state_dict"].values())
