"""Each mistake gets one sentence that names the file or the option and says what to do, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from lightning_sq.__main__ import main
from tests.conftest import REPOSITORY
from tests.sentences import assert_one_sentence

CONFIG = str(REPOSITORY / "configs" / "digits.yaml")


@pytest.fixture
def fit(few_digits, tmp_path, capsys, monkeypatch):
    """Runs `lightning-sq fit` with options, and gives back (status, what stood on standard error)."""
    monkeypatch.setattr("sys.argv", ["lightning-sq"])

    def run(*options: str) -> tuple[int, str]:
        words = ["fit", "--config", CONFIG, "--data.root", str(few_digits), "--output", str(tmp_path / "run"), *options]
        return main(words), capsys.readouterr().err

    return run


MISTAKES = {
    "no such data folder": (["--data.root", "nowhere/digits"], ["nowhere/digits/train", "--data.root"]),
    "a model that timm lacks": (["--model.architecture", "resnet5O"], ["'resnet5O'", "resnet50"]),
    "one level": (["--model.quantizer.num_levels", "1"], ["num_levels=1", "at least 2"]),
    "no sharpness": (["--model.quantizer.sharpness", "0"], ["sharpness=0", "hard=True"]),
    "a negative epsilon": (["--model.objective.init_args.epsilon", "-0.1"], ["epsilon=-0.1", "8/255"]),
    "an epsilon in 8-bit steps": (["--model.objective.init_args.epsilon", "8"], ["epsilon=8", "Write 8/255 if"]),
    "an unknown noise": (["--model.objective.init_args.noise", "pink"], ["pink", "uniform", "rademacher"]),
    "an unknown option": (["--model.sharpnes", "3"], ["sharpnes"]),
    "a misspelt option": (["--data.rot", "x"], ["--data.rot x.", "Did you mean --data.root?"]),
    "two misspelt options": (
        ["--traner.max_epochs=3", "--resum_e"],
        ["Did you mean --trainer.max_epochs and --resume?"],
    ),
    "a mistake within a long option": (
        ["--model.optimisation.base_learning_rate", "1"],
        ["Did you mean --model.optimization.base_learning_rate?"],
    ),
    "a misspelt option of a class": (
        ["--model.objective.init_args.epsilom", "0.3"],
        ["'epsilom'", "Did you mean epsilon?"],
    ),
    "a word for a number": (["--data.batch_size_per_device", "many"], ["batch_size_per_device", "many"]),
    "no batch": (["--data.batch_size_per_device", "0"], ["batch_size_per_device=0"]),
    "a crop larger than the image": (["--data.resize_size", "16"], ["resize_size=16", "image_size=32"]),
    "no such weights": (
        ["--model.checkpoint_path", "none.safetensors"],
        ["none.safetensors", "--model.checkpoint_path"],
    ),
    "no such checkpoint": (["--ckpt_path", "none.ckpt"], ["none.ckpt"]),
    "a checkpoint without a suffix": (["--ckpt_path", "none"], ["checkpoint none", ".ckpt"]),
    "weights that timm lacks": (["--model.architecture", "resnet50.nonexistent"], ["nonexistent", "a1_in1k"]),
    "images that the model does not take": (
        ["--model.architecture", "vit_tiny_patch16_224"],
        ["vit_tiny_patch16_224 takes no images of 32 x 32", "--data.image_size 224"],
    ),
    "a negative seed": (["--seed_everything", "-1"], ["seed_everything=-1"]),
    "a time before now": (["--checkpoint_minutes", "-1"], ["checkpoint_minutes=-1"]),
    "a time that never comes": (["--checkpoint_minutes", ".inf"], ["checkpoint_minutes=inf is not a finite number"]),
    "no last checkpoint": (["--keep_last", "0"], ["keep_last=0", "at least 1"]),
    "no device": (["--trainer.devices", "0"], ["devices"]),
    "a word for devices": (["--trainer.devices", "many"], ["devices"]),
    "a strategy that starts processes by itself": (
        ["--trainer.strategy", "ddp_spawn", "--trainer.accelerator", "cpu", "--trainer.devices", "2"],
        ["--trainer.strategy is spawn", "--trainer.strategy ddp"],
    ),
    "weights in double precision": (["--trainer.precision", "64"], ["64-true", "bf16-mixed"]),
    "weights in half precision": (["--trainer.precision", "bf16-true"], ["bf16-true", "bf16-mixed"]),
    "an average that nothing saves": (
        [
            *("--trainer.callbacks+", "lightning.pytorch.callbacks.StochasticWeightAveraging"),
            *("--trainer.callbacks.swa_lrs", "0.1", "--trainer.callbacks.device", "null"),
        ],
        ["StochasticWeightAveraging", "EMAWeightAveraging"],
    ),
    "an accumulation that changes": (
        [
            "--trainer.callbacks+=lightning.pytorch.callbacks.GradientAccumulationScheduler",
            "--trainer.callbacks.scheduling={1: 2}",
        ],
        ["GradientAccumulationScheduler", "--trainer.accumulate_grad_batches"],
    ),
    "an unknown accelerator": (["--trainer.accelerator", "abacus"], ["accelerator='abacus'"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_on_the_command_line(fit, tmp_path, name):
    options, parts = MISTAKES[name]
    assert_one_sentence(fit(*options), *parts)
    assert not (tmp_path / "run").exists()


UNTRAINABLE = {
    "overfitting by Lightning": (["--trainer.overfit_batches", "1"], ["overfit_batches is 1", "limit_train_batches"]),
    "no batch a step": (["--trainer.accumulate_grad_batches", "0"], ["accumulate_grad_batches is 0"]),
    "no epoch": (["--trainer.max_epochs", "0"], ["max_epochs is 0"]),
    "no step": (["--trainer.max_steps", "0"], ["max_steps is 0"]),
    "no batch": (["--trainer.limit_train_batches", "0"], ["limit_train_batches is 0"]),
    "less than a batch": (["--trainer.limit_train_batches", "0.001"], ["limit_train_batches is 0.001"]),
    "validation behind the end": (["--trainer.val_check_interval", "9999"], ["val_check_interval is 9999", "batches"]),
    "validation by two clocks": (
        ["--trainer.val_check_interval", "00:01:00:00", "--trainer.devices", "2"],
        ["val_check_interval is a time", "2 processes"],
    ),
    "no end": (["--trainer.max_epochs", "-1"], ["max_epochs", "--time_limit"]),
    "largest images perhaps left out": (
        [
            *("--time_limit", "10:00:00", "--trainer.callbacks+=lightning_sq.training.resizing.ProgressiveResizing"),
            "--trainer.callbacks.sizes=[[0, 16], [2, 32]]",
        ],
        ["ProgressiveResizing goes by epochs", "Set --trainer.max_epochs"],
    ),
}


@pytest.mark.parametrize("name", UNTRAINABLE)
def test_options_that_would_train_nothing_are_refused_before_a_run_is_replaced(fit, tmp_path, name):
    options, parts = UNTRAINABLE[name]
    old = tmp_path / "run" / "checkpoints" / "last.ckpt"
    old.parent.mkdir(parents=True)
    old.write_text("weeks of work")
    small = ["--model.architecture", "test_resnet", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    assert_one_sentence(fit("--overwrite", *small, *options), *parts)
    assert old.read_text() == "weeks of work"


JOB = {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": "0"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}
NOT_STARTED = {
    "tasks of srun that Lightning does not count": (JOB, ["--ntasks-per-node=8"]),
    "another number than srun has started": (
        JOB | {"SLURM_NTASKS_PER_NODE": "8"},
        ["--trainer.devices is 1", "has started 8 processes on a node", "Set --trainer.devices 8"],
    ),
    "another number than torchrun has started": (
        TORCHRUN,
        ["4 processes on each of 2 nodes", "--trainer.devices 4 --trainer.num_nodes 2"],
    ),
    "nodes on which nobody starts it": ({}, ["--trainer.num_nodes is 2", "by srun or torchrun"]),
}


@pytest.mark.parametrize("name", NOT_STARTED)
def test_processes_that_nobody_starts_are_refused_before_a_run_is_replaced(fit, tmp_path, monkeypatch, name):
    environment, parts = NOT_STARTED[name]
    old = tmp_path / "run" / "checkpoints" / "last.ckpt"
    old.parent.mkdir(parents=True)
    old.write_text("weeks of work")
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    small = ["--model.architecture", "test_resnet", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    assert_one_sentence(fit("--overwrite", *small, "--trainer.num_nodes", "1" if environment else "2"), *parts)
    assert old.read_text() == "weeks of work"


def test_an_output_that_is_a_file(fit, tmp_path):
    (tmp_path / "run").write_text("mine")
    assert_one_sentence(fit(), "--output", "is a file")
    assert (tmp_path / "run").read_text() == "mine"


COMMANDS_THAT_WRITE = {
    "evaluate": ["evaluate", "timm:test_resnet", "--data", "DATA", "--epsilon", "0.1", "--output", "FILE/run"],
    "check": ["data", "check", "DATA", "--report", "FILE/report.json"],
}


@pytest.mark.parametrize("name", COMMANDS_THAT_WRITE)
def test_an_output_below_a_file(few_digits, tmp_path, capsys, name):
    (tmp_path / "file").write_text("mine")
    paths = {"DATA": str(few_digits), "FILE": str(tmp_path / "file")}
    words = [paths.get(word, word.replace("FILE", paths["FILE"])) for word in COMMANDS_THAT_WRITE[name]]
    status = main(words)
    assert_one_sentence((status, capsys.readouterr().err), paths["FILE"], "Give another path")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_config_key_that_does_not_exist(fit, tmp_path):
    config = tmp_path / "typo.yaml"
    config.write_text("model:\n  architektur: resnet18\n")
    assert_one_sentence(fit("--config", str(config)), "'model.architektur'", "Did you mean model.architecture?")
    config.write_text("model:\n  quantizer:\n    num_level: 3\n")
    assert_one_sentence(fit("--config", str(config)), "'num_level'", "Did you mean num_levels?")


def test_a_config_file_that_does_not_exist(fit):
    assert_one_sentence(fit("--config", "none.yaml"), "none.yaml")


def test_a_folder_without_images_and_different_classes(fit, few_digits, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(few_digits, data)
    for path in (data / "val").glob("*/*.jpg"):
        path.unlink()
    assert_one_sentence(fit("--data.root", str(data)), "data/val holds no images")
    shutil.rmtree(data / "val" / "4")
    assert_one_sentence(fit("--data.root", str(data)), "different classes: 4 is")
    assert not (tmp_path / "run").exists()


def test_pretrained_without_a_network_names_both_ways_out(fit, monkeypatch):
    import timm

    create = timm.create_model

    def no_network(*args, pretrained=False, **options):
        if pretrained:
            raise OSError("Name or service not known")
        return create(*args, **options)

    monkeypatch.setattr("timm.create_model", no_network)
    found = fit("--model.pretrained", "true")
    assert_one_sentence(found, "could not be downloaded", "--model.pretrained false", "--model.checkpoint_path")


def test_an_output_folder_that_holds_a_run_is_left_as_it_is(fit, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/last.ckpt").write_bytes(b"precious")
    assert_one_sentence(fit(), "already holds a run", "--resume", "--overwrite")
    assert_one_sentence(fit("--overwrite", "--model.architecture", "resnet5O"), "resnet5O")
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["checkpoints", "last.ckpt"]
    assert (tmp_path / "run/checkpoints/last.ckpt").read_bytes() == b"precious"


@pytest.mark.parametrize("content", ["truncated", "altered", "foreign", "text"])
def test_a_checkpoint_to_resume_from_that_is_no_good(fit, tmp_path, content):
    path = tmp_path / "run/checkpoints/last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"epoch": 1, "state_dict": {"a": torch.zeros(1000)}}, path)
    whole = path.read_bytes()
    damaged = {
        "truncated": whole[:-200],
        "altered": whole[:100] + bytes(b ^ 255 for b in whole[100:400]) + whole[400:],
        "foreign": whole,
        "text": b"hello",
    }
    path.write_bytes(damaged[content])
    assert_one_sentence(fit("--resume"), "last.ckpt")
    assert path.read_bytes() == damaged[content]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "SUBCOMMAND"),
        (["fitt"], "'fitt'"),
        (["data"], "shard"),
        (["data", "check", "nowhere"], "nowhere"),
        (["export", "none.ckpt", "out"], "none.ckpt"),
        (["report", "nowhere"], "nowhere"),
        (["evaluate", "none.ckpt", "--data", "x", "--output", "y"], "none.ckpt"),
        (["evaluate", "m", "--data", "x", "--output", "y", "--epsilon", "8"], "Write 8/255"),
    ],
)
def test_the_other_commands_say_what_is_wrong_too(arguments, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    text = "".join(capsys.readouterr())
    assert "Traceback" not in text
    assert named in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(unbuffered):
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "lightning_sq", "--help"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    found = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, cwd=REPOSITORY, env=environment, check=False)
    os.close(write)
    assert (found.returncode, found.stderr) == (128 + signal.SIGPIPE, b"")


def test_help_answers_before_anything_heavy_is_imported():
    program = "import sys; from lightning_sq.__main__ import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip().endswith("False")
    assert "evaluate" in done.stdout
