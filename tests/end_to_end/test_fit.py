"""The real command line on a small data set: resuming, and one process against two."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

import lightning_sq
from lightning_sq.__main__ import main
from lightning_sq.models.checkpoint_format import read_checkpoint
from lightning_sq.objectives import NoisyNatural
from lightning_sq.training.optim import warmup_decay
from tests.callbacks import Recorder
from tests.conftest import REPOSITORY
from tests.ports import port_that_stays_free
from tests.run_logs import assert_same_weights, logged_rows, weights

POWER_CUT = ["--checkpoint_minutes", "0", "--trainer.callbacks+=tests.callbacks.PowerCut"]
CONFIG = str(REPOSITORY / "configs" / "digits.yaml")
SMALL = [
    *("--model.architecture", "test_resnet", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "3"),
    *(
        "--trainer.enable_progress_bar",
        "false",
        "--trainer.log_every_n_steps",
        "1",
        "--data.batch_size_per_device",
        "16",
    ),
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


WHERE = {  # 90 images, 6 batches an epoch
    "in the middle of an epoch": ["--trainer.callbacks.step", "9"],
    "behind the last batch of an epoch": [
        *("--trainer.callbacks.step", "6", "--trainer.callbacks.hook", "on_validation_start")
    ],
    "behind an epoch": ["--trainer.callbacks.step", "6", "--trainer.callbacks.hook", "on_train_epoch_start"],
}


@pytest.fixture(scope="module")
def whole_runs() -> dict[tuple[str, ...], tuple[dict[str, torch.Tensor], list[dict[str, str]]]]:
    """Weights and logs of runs that were never stopped, by their options."""
    return {}


def assert_resumed_like_whole(fit, whole_runs, options: list[str], cut: list[str]) -> None:
    """A run with `options` that `cut` ends and that is resumed has weights and logs of the one that went through."""
    key = tuple(options)
    if key not in whole_runs:
        output = fit("whole", *options)
        whole_runs[key] = weights(output), logged_rows(output)
    with pytest.raises(SystemExit, match="power cut"):
        fit("cut", *options, *POWER_CUT, *cut)
    resumed = fit("cut", *options, "--resume", "--checkpoint_minutes", "0")
    expected, rows = whole_runs[key]
    assert_same_weights(weights(resumed), expected)
    assert logged_rows(resumed) == rows


@pytest.mark.parametrize("where", WHERE)
def test_interrupted_and_resumed_gives_the_weights_and_logs_of_the_run_that_was_never_stopped(fit, whole_runs, where):
    assert_resumed_like_whole(fit, whole_runs, [], WHERE[where])


def test_dropout_goes_on_where_it_was(fit, whole_runs):
    options = ["--trainer.callbacks+=tests.callbacks.Dropout"]
    assert_resumed_like_whole(fit, whole_runs, options, WHERE["in the middle of an epoch"])
    assert_other_weights(whole_runs[tuple(options)][0], weights(fit("without")))


def test_a_run_that_is_stopped_while_it_gathers_gradients_goes_on_from_the_step_before(fit, whole_runs):
    # 4 + 2 batches make the two steps of an epoch; batch 5 of the second epoch has been gathered and is lost
    options, cut = ["--trainer.accumulate_grad_batches", "4"], ["--trainer.callbacks.step", "3"]
    assert_resumed_like_whole(fit, whole_runs, options, [*cut, "--trainer.callbacks.batch", "5"])


@pytest.mark.parametrize("hook", ["on_validation_start", "on_train_epoch_end"])
def test_a_run_that_is_stopped_behind_the_last_batch_of_a_limited_epoch_takes_none_of_those_left_out(
    fit, whole_runs, hook
):
    options, cut = ["--trainer.limit_train_batches", "4"], ["--trainer.callbacks.step", "4"]
    assert_resumed_like_whole(fit, whole_runs, options, [*cut, "--trainer.callbacks.hook", hook])


def test_the_end_of_an_epoch_without_validation_is_made_up_for_too(fit, whole_runs):
    options, cut = ["--trainer.check_val_every_n_epoch", "2"], ["--trainer.callbacks.step", "6"]
    assert_resumed_like_whole(fit, whole_runs, options, [*cut, "--trainer.callbacks.hook", "on_train_epoch_end"])


def test_the_size_of_the_images_is_logged_of_an_epoch_that_is_gone_on_with_too(fit, whole_runs):
    resizing = ["lightning_sq.training.resizing.ProgressiveResizing", "--trainer.callbacks.sizes=[[0, 16], [2, 32]]"]
    options = [f"--trainer.callbacks+={resizing[0]}", resizing[1]]
    assert_resumed_like_whole(fit, whole_runs, options, WHERE["in the middle of an epoch"])
    assert any("train/image_size" in row for row in whole_runs[tuple(options)][1])


def test_a_run_that_was_stopped_between_its_best_and_its_last_checkpoint_goes_on_from_the_best(fit):
    whole = fit("whole")
    with pytest.raises(SystemExit, match="power cut"):
        fit("cut", *POWER_CUT, *WHERE["behind an epoch"])
    (whole.parent / "cut/checkpoints/last.ckpt").unlink()
    assert_same_weights(weights(fit("cut", "--resume")), weights(whole))


def test_a_run_that_is_stopped_again_behind_the_validation_that_it_owed_takes_no_image_twice(fit, whole_runs, caplog):
    options = ["--trainer.val_check_interval", "0.5", "--trainer.callbacks+=tests.callbacks.Dropout"]
    cut = ["--trainer.callbacks.step", "3"]  # of 6 in an epoch: a validation belongs behind it
    with pytest.raises(SystemExit, match="power cut"):
        fit("cut", *options, *POWER_CUT, *cut, "--trainer.callbacks.hook", "on_validation_start")
    with caplog.at_level("INFO"):
        assert_resumed_like_whole(fit, whole_runs, options, [*cut, "--resume"])
    starts = [line.rpartition("/")[2] for line in caplog.messages if line.startswith("Going on from")]
    assert starts == ["last.ckpt", "best.ckpt"]  # which was saved behind the validation, before the next batch


@pytest.mark.parametrize("again", ["on_train_epoch_end", "on_train_epoch_start"])
def test_a_run_that_is_stopped_before_the_end_of_an_epoch_and_again_at_it_logs_the_epoch_once(fit, whole_runs, again):
    cut = ["--trainer.callbacks.step", "6"]  # of 6 in an epoch
    with pytest.raises(SystemExit, match="power cut"):
        fit("cut", *POWER_CUT, *cut, "--trainer.callbacks.hook", "on_validation_start")
    assert_resumed_like_whole(fit, whole_runs, [], [*cut, "--trainer.callbacks.hook", again, "--resume"])


def test_a_run_that_goes_on_from_what_was_best_behind_an_epoch_comes_to_its_end(fit, whole_runs, caplog):
    # by batches, or the best is saved at the end of an epoch, as the last is
    options = ["--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", "6"]
    cut = ["--trainer.callbacks.step", "6", "--trainer.callbacks.hook", "on_train_epoch_end"]
    with caplog.at_level("INFO"):
        assert_resumed_like_whole(fit, whole_runs, options, cut)
    (start,) = [line for line in caplog.messages if line.startswith("Going on from")]
    assert start.endswith("best.ckpt")


def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_anew(fit, caplog):
    with pytest.raises(SystemExit, match="power cut"):
        fit("cut", "--trainer.callbacks+=tests.callbacks.PowerCut", "--trainer.callbacks.step", "2")
    with caplog.at_level("INFO"):
        output = fit("cut", "--resume", "--trainer.max_epochs", "1")
    assert "no checkpoint in" in caplog.text
    assert sorted(path.name for path in (output / "logs").iterdir()) == ["version_0"]
    assert (output / "checkpoints/last.ckpt").is_file()


def test_a_run_can_go_on_with_other_batches_from_the_beginning_of_its_epoch(fit, caplog):
    with pytest.raises(SystemExit, match="power cut"):
        fit("cut", *POWER_CUT, "--trainer.callbacks.step", "9")  # in the second epoch, at batch 3 of 6
    Recorder.seen.clear()
    other = ["--data.batch_size_per_device", "30", "--trainer.callbacks+=tests.callbacks.Recorder"]
    with caplog.at_level("INFO"):
        output = fit("cut", "--resume", *other, "--on_mismatch", "restart_epoch")
    assert "starts again from its first image: batch_size_per_device=16 is now 30" in caplog.text
    seen = {epoch: [index for indices, _ in rows for index in indices] for epoch, rows in Recorder.seen.items()}
    assert [sorted(images) for images in seen.values()] == [list(range(90))] * 2
    assert list(seen) == [1, 2]
    rates = {int(row["step"]): float(row["lr-SGD/pg1"]) for row in logged_rows(output) if "lr-SGD/pg1" in row}
    assert list(rates) == list(range(15))  # 9 steps, and two epochs of 3
    for step in range(9, 15):
        factor = warmup_decay(step - 6, warmup_steps=3, total_steps=9)
        assert rates[step] == pytest.approx(0.4 * 30 / 256 * factor), step


def test_the_recipe_of_a_resumed_run_is_the_one_it_began_with_and_can_be_run(fit):
    first = fit("run", "--trainer.max_epochs", "1")
    recipe = (first / "config.yaml").read_text()
    second = fit("run", "--trainer.max_epochs", "1", "--resume")
    assert (second / "config.yaml").read_text() == recipe
    assert not yaml.safe_load(recipe).keys() & {"resume", "overwrite", "ckpt_path"}
    again = fit("again", "--config", str(first / "config.yaml"), "--output", str(first.parent / "again"))
    assert_same_weights(weights(again), weights(first))


def test_a_job_has_taken_on_its_output_once_the_run_that_was_there_is_gone_and_not_before(fit, monkeypatch):
    def dies(output):
        raise RuntimeError("a node is gone")

    note = fit("run", "--trainer.max_epochs", "1") / ".job"
    assert not note.exists()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with monkeypatch.context() as earlier:
        earlier.setattr("lightning_sq.training.cli.remove_run", dies)
        with pytest.raises(RuntimeError, match="a node is gone"):
            fit("run", "--overwrite")
    assert not note.exists()
    for job, options in (("7", ["--overwrite"]), ("8", ["--resume"])):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        fit("run", "--trainer.max_epochs", "1", *options)
        assert note.read_text() == f"{job}\n"


def test_every_epoch_of_a_fit_has_an_order_and_crops_of_its_own(fit):
    Recorder.seen.clear()
    fit("run", "--trainer.callbacks+=tests.callbacks.Recorder")
    assert sorted(Recorder.seen) == [0, 1, 2]
    orders = [[index for indices, _ in rows for index in indices] for rows in Recorder.seen.values()]
    assert all(set(order) == set(range(90)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    first, *others = (dict(pair for row in rows for pair in zip(*row, strict=True)) for rows in Recorder.seen.values())
    for other in others:
        assert sum(abs(first[i] - other[i]) > 1e-2 for i in range(90)) > 45


def test_a_new_run_takes_the_weights_of_another(fit):
    still = ["--trainer.max_epochs", "1", "--model.optimization.base_learning_rate", "1e-12"]
    first, fresh = fit("first", "--trainer.max_epochs", "1"), fit("fresh", *still)
    second = fit("second", *still, "--model.checkpoint_path", str(first / "checkpoints/last.ckpt"))
    ours, theirs, other = (weights(run)["model.backbone.fc.weight"] for run in (second, first, fresh))
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert not torch.allclose(ours, other, atol=1e-6)


def test_so_many_of_the_last_checkpoints_are_kept(fit):
    output = fit("run", "--keep_last", "1")
    assert sorted(path.stem for path in (output / "checkpoints").iterdir()) == ["best", "last"]


def test_a_run_leaves_what_the_readme_says(fit):
    output = fit("run")
    files = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    checkpoints = [f"checkpoints/{name}.ckpt" for name in ("best", "last-1", "last")]
    assert files[:6] == [".lock", ".step", *checkpoints, "config.yaml"]
    assert [name.split("/")[-1][:15] for name in files[6:]] == ["events.out.tfev", "hparams.yaml", "metrics.csv"]
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


def test_the_moving_average_is_what_is_exported_and_described(fit, tmp_path):
    ema = ["--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging", "--trainer.callbacks.decay", "0.9"]
    learns = ["--model.quantizer.learnable_sharpness", "true", "--model.quantizer.learnable_thresholds", "true"]
    output = fit("ema", *ema, *learns)
    content = torch.load(output / "checkpoints/last.ckpt", weights_only=True)
    averaged, current = content["state_dict"], content["current_model_state"]
    key = "model.backbone.fc.weight"
    assert not torch.equal(averaged[key], current[key])
    assert main(["export", str(output / "checkpoints/last.ckpt"), str(tmp_path / "release")]) == 0
    assert torch.equal(lightning_sq.load(tmp_path / "release").backbone.fc.weight, averaged[key])
    told = json.loads((tmp_path / "release/config.json").read_text())["model"]["quantizer"]
    logarithm, thresholds = (averaged[f"model.quantize.{name}"] for name in ("log_sharpness", "thresholds"))
    assert (told["sharpness"], told["thresholds"]) == (math.exp(logarithm), thresholds.tolist())
    assert not torch.equal(logarithm, current["model.quantize.log_sharpness"])
    assert not torch.equal(thresholds, current["model.quantize.thresholds"])


def test_released_weights_give_identical_logits(fit, tmp_path):
    checkpoint = fit("run") / "checkpoints/last.ckpt"
    assert main(["export", str(checkpoint), str(tmp_path / "release")]) == 0
    images = torch.rand(3, 3, 32, 32)
    released, direct = lightning_sq.load(tmp_path / "release"), read_checkpoint(checkpoint).build()
    assert torch.equal(released(images), direct(images))
    card = (tmp_path / "release/README.md").read_text()
    assert "test_resnet" in card
    assert "2 levels" in card


def assert_other_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert any(not torch.equal(ours[key], theirs[key]) for key in ours)


def command(*words: str, succeeds: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "lightning_sq", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env=os.environ | {"MASTER_PORT": str(port_that_stays_free())},
    )
    assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.end_to_end
def test_torchrun_prepares_the_data_once_and_seeds_the_noise_of_each_rank(few_digits, tmp_path):
    callback = ["--trainer.callbacks+=tests.callbacks.NoiseDiary", "--trainer.callbacks.folder", str(tmp_path)]
    start = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "lightning_sq"]
    words = ["fit", "--config", CONFIG, "--data.root", str(few_digits), *SMALL, *callback]
    words += ["--trainer.fast_dev_run", "true", "--trainer.devices", "2", "--output", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", *start, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env=os.environ | {"LIGHTNING_SQ_CACHE": str(tmp_path / "cold"), "OMP_NUM_THREADS": "1"},
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert text.count("checking") == 2, text  # train and val, by one of the two
    first, second = ((tmp_path / f"rank-{rank}.txt").read_text() for rank in (0, 1))
    assert first != second
    assert first == noise_by_hand(rank=0)
    assert second == noise_by_hand(rank=1)


def noise_by_hand(rank: int) -> str:
    """What is drawn after the one batch of a fast run."""
    objective = NoisyNatural("uniform", 0.2)
    objective.seed(0, rank)
    objective.perturb(torch.zeros(16, 3, 32, 32))
    return str(objective.perturb(torch.full((1, 3, 4, 4), 0.5)).flatten().tolist())


@pytest.mark.end_to_end
def test_two_processes_resume_exactly_or_as_one_and_validate_like_one(
    few_digits, tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.setattr("sys.argv", ["lightning-sq"])
    base = ["--config", CONFIG, "--data.root", str(few_digits), *SMALL, "--data.batch_size_per_device", "7"]
    two = ["fit", *base, "--trainer.max_epochs", "2", "--trainer.devices", "2"]
    command(*two, *diary(tmp_path / "whole-diary"), "--output", str(tmp_path / "whole"))
    check_diaries(tmp_path / "whole-diary")
    cut = [*two, "--output", str(tmp_path / "cut")]
    command(*cut, *POWER_CUT, "--trainer.callbacks.step", "10", succeeds=False)
    stopped = torch.load(tmp_path / "cut/checkpoints/last.ckpt", weights_only=True)
    assert stopped["global_step"] == 10  # in the second epoch, which has 7 steps
    shutil.copytree(tmp_path / "cut", tmp_path / "alone")
    alone = ["fit", *base, "--trainer.max_epochs", "2", "--resume", "--output", str(tmp_path / "alone")]
    assert main(alone) == 2
    assert "num_processes=2, this one has 1" in capsys.readouterr().err
    with caplog.at_level("INFO"), pytest.warns(UserWarning, match="from 2 processes and this run has 1: noise starts"):
        assert main([*alone, "--on_mismatch", "restart_epoch", *diary(tmp_path / "alone-diary")]) == 0
    assert "starts again from its first image: num_processes=2 is now 1" in caplog.text
    taken = [i for row in read_diary(tmp_path / "alone-diary", "train", 0) for i in row["indices"]]
    assert (len(taken), set(taken)) == (91, set(range(90)))  # one process takes 13 batches of 7
    command(*cut, "--resume", *diary(tmp_path / "cut-diary"))
    for rank in (0, 1):  # each takes what it would have taken, to the last bit of each pixel
        whole, resumed = (read_diary(tmp_path / name, "train", rank) for name in ("whole-diary", "cut-diary"))
        assert resumed == [row for row in whole if row["step"] >= 10]
    assert_same_weights(weights(tmp_path / "cut"), weights(tmp_path / "whole"))

    odd = tmp_path / "odd"
    shutil.copytree(few_digits, odd)
    next((odd / "val/7").iterdir()).unlink()  # 39 images: with batches of 19 the last one of rank 1 is all padding
    base += ["--data.root", str(odd), "--data.batch_size_per_device", "19"]
    numbers = []
    for devices in ("1", "2"):
        output = tmp_path / f"validated-{devices}"
        checkpoint = str(tmp_path / "whole/checkpoints/last.ckpt")
        where = ["--trainer.devices", devices, "--ckpt_path", checkpoint, "--output", str(output)]
        if devices == "1":  # how many trained it is nothing to who measures: a warning would be an error here
            assert main(["validate", *base, *where]) == 0
        else:
            command("validate", *base, *where)
        numbers.append(json.loads((output / "validate.json").read_text()))
    assert numbers[0].keys() == numbers[1].keys() >= {"val/clean_top1", "val/noisy_top1", "val/loss"}
    for key in numbers[0]:
        assert numbers[0][key] == pytest.approx(numbers[1][key], rel=1e-5), key


def diary(folder: Path) -> list[str]:
    return ["--trainer.callbacks+=tests.callbacks.BatchDiary", "--trainer.callbacks.folder", str(folder)]


def read_diary(folder: Path, split: str, rank: int) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{split}-{rank}.jsonl").read_text().splitlines()]


def check_diaries(folder: Path) -> None:
    """Two processes, two epochs of 90 training images in batches of 7, 40 validation images."""
    ranks = [read_diary(folder, "train", rank) for rank in (0, 1)]
    for epoch in (0, 1):
        taken = [i for rows in ranks for row in rows[7 * epoch : 7 * epoch + 7] for i in row["indices"]]
        assert (len(taken), set(taken)) == (98, set(range(90)))  # the last batch of both is filled up
    validated = [i for rank in (0, 1) for row in read_diary(folder, "val", rank) for i in row["indices"] if i >= 0]
    assert sorted(validated) == sorted([*range(40)] * 2)


@pytest.mark.end_to_end
def test_no_process_that_lightning_has_started_is_left_when_the_first_is_killed(fit, few_digits, tmp_path):
    """Of a validation, in which none of them waits for another."""
    checkpoint, held = fit("run", "--trainer.max_epochs", "1") / "checkpoints/last.ckpt", tmp_path / "held"
    words = ["validate", "--config", CONFIG, "--data.root", str(few_digits), "--ckpt_path", str(checkpoint), *SMALL]
    words += ["--output", str(tmp_path / "validated"), "--trainer.devices", "2", "--data.backend", "memory"]
    words += ["--trainer.callbacks+=tests.callbacks.Disaster", "--trainer.callbacks.validates", "true"]
    words += ["--trainer.callbacks.rank", "1", "--trainer.callbacks.step", "0", "--trainer.callbacks.number", "SIGSTOP"]
    environment = os.environ | {"MASTER_PORT": str(port_that_stays_free()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lightning_sq", *words, "--trainer.callbacks.once", str(held)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, start_new_session=True, **streams) as first:
        try:
            while not held.exists() and first.poll() is None:
                time.sleep(0.05)
            assert first.poll() is None
            first.kill()
            first.communicate(timeout=60)  # to the end of what both of them write to
        finally:
            with suppress(ProcessLookupError):
                os.killpg(first.pid, signal.SIGKILL)


def test_the_input_gradient_is_looked_at_over_all_classes(fit, monkeypatch):
    from lightning_sq.training import module

    seen = []

    def note(model, images, labels):
        seen.extend(labels.tolist())
        return torch.zeros(len(labels))

    monkeypatch.setattr(module, "GRADIENT_IMAGES", 10)  # of 40, four a class
    monkeypatch.setattr(module, "input_gradient_l1", note)
    fit("run", "--trainer.max_epochs", "1", "--trainer.num_sanity_val_steps", "0")
    assert sorted(seen) == list(range(10))


def test_a_fit_ends_with_its_accuracies_and_the_command_that_attacks_the_model(fit, few_digits, caplog):
    robust = ["--trainer.callbacks+=lightning_sq.training.robust_accuracy.RobustAccuracy"]
    robust += ["--trainer.callbacks.epsilon", "0.1", "--trainer.callbacks.num_images", "4"]
    with caplog.at_level("INFO"):
        output = fit("run", "--trainer.max_epochs", "1", *robust)
    clean, attacked = (
        next(float(row[f"val/{name}_top1"]) for row in logged_rows(output) if f"val/{name}_top1" in row)
        for name in ("clean", "robust")
    )
    checkpoint = output / "checkpoints/last.ckpt"
    command = f"lightning-sq evaluate {checkpoint} --data {few_digits} --epsilon 0.1 --output {output}/robustness"
    found = f"clean top-1 {clean:.3f}, robust top-1 {attacked:.3f}"
    assert caplog.messages[-1] == f"{checkpoint}, last validated: {found}. To attack it: {command}"
    assert "weights_only" not in caplog.text  # Lightning's remark at the first save, which nobody can do anything about
