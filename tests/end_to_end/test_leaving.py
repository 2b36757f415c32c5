"""A run that is asked to stop, that has too little time, or that diverges, in one process; two are in tests/slurm."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lightning_sq.__main__ import main
from lightning_sq.stop_request import STOPPED
from lightning_sq.training.resume.whole_checkpoint import write_checkpoint
from lightning_sq.training.robust_accuracy import RobustAccuracy
from tests.conftest import REPOSITORY
from tests.run_logs import assert_same_weights, logged_rows, step_of, weights

SMALL = [
    *("--config", str(REPOSITORY / "configs/digits.yaml"), "--model.architecture", "test_resnet"),
    *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "2", "--data.batch_size_per_device", "16"),
]
DISASTER = ["--trainer.callbacks+=tests.callbacks.Disaster", "--trainer.callbacks.rank", "0"]

ROBUST = ["--trainer.callbacks+=lightning_sq.training.robust_accuracy.RobustAccuracy"]


@pytest.fixture
def fit(few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["lightning-sq"])

    def run(name: str, *options: str) -> Path:
        output = tmp_path / name
        status = main(["fit", *SMALL, "--data.root", str(few_digits), "--output", str(output), *options])
        assert status == 0
        return output

    return run


def last(output: Path) -> dict:
    return torch.load(output / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize("number", ["SIGUSR1", "SIGTERM"])
def test_a_signal_is_answered_behind_the_step_with_a_checkpoint_and_status_75(fit, tmp_path, number, caplog):
    options = ["--trainer.callbacks.step", "3", "--trainer.callbacks.number", number]
    with pytest.raises(SystemExit) as left, caplog.at_level("INFO"):
        fit("run", *DISASTER, *options, "--checkpoint_minutes", "600")
    assert left.value.code == STOPPED == 75
    assert f"saved at step 4, because {number} asked for it" in caplog.text
    assert last(tmp_path / "run")["global_step"] == 4
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # to the end of the process
    if number == "SIGTERM":
        assert_same_weights(weights(fit("run", "--resume")), weights(fit("whole")))


@pytest.mark.end_to_end
def test_a_signal_to_the_processes_that_read_images_too_ends_the_run_saved(few_digits, tmp_path):
    """torchrun sends it to all that each of its processes has started."""
    output, slowly = tmp_path / "run", ["--trainer.callbacks+=tests.callbacks.Pause", "--trainer.callbacks.seconds"]
    words = ["fit", *SMALL, "--data.root", str(few_digits), "--output", str(output), "--checkpoint_minutes", "600"]
    words += ["--data.backend", "torchvision", "--data.num_threads", "2", *slowly, "0.1"]
    command = [sys.executable, "-m", "lightning_sq", *words]
    with subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stderr=subprocess.PIPE, text=True) as run:
        while step_of(output) < 1 and run.poll() is None:
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGTERM)
        said = run.communicate(timeout=60)[1]  # to the end of what its workers write to as well
    assert run.returncode == STOPPED, said
    assert last(output)["global_step"] < 12


def test_a_run_that_is_asked_to_stop_and_cannot_be_saved_says_so_and_fails(fit, caplog, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lightning_sq.training.resume.checkpointing.write_checkpoint", full)
    options = ["--trainer.callbacks.step", "3", "--trainer.callbacks.number", "SIGUSR1"]
    with pytest.raises(SystemExit) as left, caplog.at_level("INFO"):
        fit("run", *DISASTER, *options, "--checkpoint_minutes", "600")
    assert left.value.code == 1
    assert "is saved at step" not in caplog.text
    said = (
        r"The run ends unsaved, because SIGUSR1 asked for it: \S+/last\.ckpt was not written at step 4: No space left"
    )
    assert re.search(said, caplog.text)


def test_a_run_without_time_for_its_steps_ends_with_its_schedule_complete_and_is_over(fit, caplog, monkeypatch):
    monkeypatch.setattr("lightning_sq.training.run_state.seconds_since_start", lambda: 100.0)
    with caplog.at_level("INFO"):
        output = fit("run", "--time_limit", "00:00:01")
    content = last(output)
    assert content["global_step"] == 5  # three steps are not timed, the fourth is, and the fifth is the last
    assert "The time limit ends the run at step 5, its schedule complete." in caplog.text
    assert content["lightning_sq"]["resume"]["plan"]["position"] == 12
    assert max(group["lr"] for group in content["optimizer_states"][0]["param_groups"]) == pytest.approx(0)
    assert (output / "checkpoints/best.ckpt").is_file()  # it was validated
    assert last(fit("run", "--time_limit", "00:00:01", "--resume"))["global_step"] == 5
    assert last(fit("run", "--resume"))["global_step"] == 5  # without a limit too: behind its schedule the rate is 0


def test_a_limit_ends_a_run_that_goes_on_with_larger_batches(fit, tmp_path, caplog, monkeypatch):
    """Of 24 an epoch it has taken 30, and of 6 an epoch it has 24 in all."""
    longer = ["--trainer.max_epochs", "4", "--data.batch_size_per_device"]
    with pytest.raises(SystemExit):
        fit("run", *longer, "4", *DISASTER, "--trainer.callbacks.step", "29", "--trainer.callbacks.number", "SIGTERM")
    assert last(tmp_path / "run")["global_step"] == 30
    monkeypatch.setattr("lightning_sq.training.run_state.seconds_since_start", lambda: 100.0)
    onward = [*longer, "16", "--resume", "--on_mismatch", "restart_epoch", "--time_limit", "00:00:01"]
    with caplog.at_level("INFO"):
        output = fit("run", *onward)
    assert last(output)["global_step"] == 31  # how long a step takes is known from before
    assert "The time limit ends the run at step 31, its schedule complete." in caplog.text
    assert last(fit("run", *longer, "16", "--resume"))["global_step"] == 31


def test_a_run_does_not_go_on_in_another_precision(fit, few_digits, tmp_path, capsys):
    with pytest.raises(SystemExit):
        fit("run", *DISASTER, "--trainer.callbacks.step", "3", "--trainer.callbacks.number", "SIGTERM")
    words = ["fit", *SMALL, "--data.root", str(few_digits), "--output", str(tmp_path / "run"), "--resume"]
    assert main([*words, "--trainer.precision", "bf16-mixed"]) == 2
    assert "is from a run with precision=32-true, this one has bf16-mixed" in capsys.readouterr().err


def test_a_run_whose_schedule_is_complete_makes_up_for_its_last_validation(fit, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_sq.training.run_state.seconds_since_start", lambda: 100.0)
    limit = ["--time_limit", "00:00:01"]
    cut = ["--trainer.callbacks+=tests.callbacks.PowerCut", "--trainer.callbacks.step", "5"]
    with pytest.raises(SystemExit):
        fit("run", *limit, *cut, "--trainer.callbacks.hook", "on_validation_start")
    assert last(tmp_path / "run")["global_step"] == 5
    resumed, whole = logged_rows(fit("run", *limit, "--resume")), logged_rows(fit("whole", *limit))
    assert [row for row in resumed if "val/loss" in row] == [row for row in whole if "val/loss" in row]


def test_the_time_of_all_starts_counts_against_a_limit(fit, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_sq.training.run_state.seconds_since_start", lambda: 100.0)
    limit = ["--time_limit", "10:00:00"]
    with pytest.raises(SystemExit):
        fit("run", *DISASTER, *limit, "--trainer.callbacks.step", "3", "--trainer.callbacks.number", "SIGTERM")
    elapsed = [last(output)["lightning_sq"]["resume"]["plan"]["elapsed"] for output in [tmp_path / "run"]]
    elapsed += [last(fit("run", *limit, "--resume"))["lightning_sq"]["resume"]["plan"]["elapsed"]]
    assert elapsed == [100.0, 200.0]


def test_the_rate_goes_by_all_images_of_a_step(fit):
    (rate,) = {group["initial_lr"] for group in last(fit("one"))["optimizer_states"][0]["param_groups"]}
    gathered = last(fit("two", "--trainer.accumulate_grad_batches", "2"))["optimizer_states"][0]["param_groups"]
    assert [group["initial_lr"] for group in gathered] == pytest.approx([2 * rate] * len(gathered))


def test_a_limit_with_time_enough_changes_nothing(fit):
    assert_same_weights(weights(fit("limited", "--time_limit", "10:00:00")), weights(fit("free")))


def test_the_best_by_the_worst_case_is_kept_beside_the_best_by_clean_accuracy(fit, monkeypatch):
    # less and less robust, whatever clean accuracy does
    monkeypatch.setattr(RobustAccuracy, "_count", lambda self, module, _: (8 - module.global_step // 2, 8))
    output = fit("run", *ROBUST)
    assert sorted(path.stem for path in (output / "checkpoints").iterdir()) == ["best", "best_robust", "last", "last-1"]
    robust = torch.load(output / "checkpoints/best_robust.ckpt", weights_only=True)
    assert (robust["global_step"], last(output)["global_step"]) == (6, 12)


def best_robust(output: Path) -> tuple[int, float]:
    """(step of the file, score that the last checkpoint takes for the best)"""
    (kept,) = (state for name, state in last(output)["callbacks"].items() if "robust" in name)
    file = torch.load(output / "checkpoints/best_robust.ckpt", weights_only=True)
    return file["global_step"], float(kept["best_model_score"])


def test_a_score_whose_checkpoint_could_not_be_written_is_not_the_best(fit, monkeypatch):
    """Of three epochs, the second is the best and finds the disk full; the third is better than the first."""
    counts = {6: 2, 12: 8, 18: 4}
    monkeypatch.setattr(RobustAccuracy, "_count", lambda self, module, _: (counts[module.global_step], 8))

    def write(content, path, **options):
        if (path.stem, content["global_step"]) == ("best_robust", 12):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_checkpoint(content, path, **options)

    monkeypatch.setattr("lightning_sq.training.resume.checkpointing.write_checkpoint", write)
    assert best_robust(fit("run", *ROBUST, "--trainer.max_epochs", "3")) == (18, 0.5)


def test_a_best_that_has_gone_from_its_folder_is_replaced_by_the_next(fit, tmp_path, monkeypatch):
    monkeypatch.setattr(RobustAccuracy, "_count", lambda self, module, _: (8 - module.global_step // 2, 8))
    with pytest.raises(SystemExit):
        fit("run", *ROBUST, *DISASTER, "--trainer.callbacks.step", "7", "--trainer.callbacks.number", "SIGTERM")
    (tmp_path / "run/checkpoints/best_robust.ckpt").unlink()
    assert best_robust(fit("run", *ROBUST, "--resume")) == (12, 0.25)


def test_a_recipe_may_keep_checkpoints_of_its_own_beside_those_of_every_run(fit, tmp_path):
    kinds = {
        "all": ["filename={epoch}", "save_top_k=-1"],
        "few": ["monitor=val/clean_top1", "mode=max", "save_top_k=3"],
    }
    own = []
    for folder, options in kinds.items():
        own += ["--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"]
        own += [f"--trainer.callbacks.{option}" for option in (f"dirpath={tmp_path / folder}", *options)]
    with pytest.raises(SystemExit):
        fit("run", *own, *DISASTER, "--trainer.callbacks.step", "7", "--trainer.callbacks.number", "SIGTERM")
    output = fit("run", *own, "--resume")
    assert [len(list((tmp_path / folder).iterdir())) for folder in kinds] == [2, 2]
    assert sorted(path.stem for path in (output / "checkpoints").iterdir()) == ["best", "last", "last-1"]


@pytest.mark.parametrize("has_best", [True, False])
def test_a_run_that_is_moved_keeps_the_best_that_it_had_if_that_was_moved_too(fit, tmp_path, monkeypatch, has_best):
    monkeypatch.setattr(RobustAccuracy, "_count", lambda self, module, _: (8 - module.global_step // 2, 8))
    with pytest.raises(SystemExit):
        fit("run", *ROBUST, *DISASTER, "--trainer.callbacks.step", "7", "--trainer.callbacks.number", "SIGTERM")
    (tmp_path / "run").rename(tmp_path / "moved")
    best = tmp_path / "moved/checkpoints/best_robust.ckpt"
    if not has_best:
        best.unlink()
    callbacks = last(fit("moved", *ROBUST, "--resume"))["callbacks"]
    assert torch.load(best, weights_only=True)["global_step"] == (6 if has_best else 12)
    (kept,) = (state for name, state in callbacks.items() if "best_robust" in name)
    assert list(kept["best_k_models"]) == [kept["best_model_path"]] == [str(best.resolve())]


def test_a_second_run_in_the_same_output_is_refused_while_the_first_runs(fit, tmp_path, capsys, few_digits):
    from contextlib import ExitStack

    from lightning_sq.output_lock import lock_output

    with ExitStack() as held:
        lock_output(tmp_path / "run", held)
        assert main(["fit", *SMALL, "--data.root", str(few_digits), "--output", str(tmp_path / "run")]) == 2
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    assert "is in use by process" in capsys.readouterr().err


def test_a_validation_inside_an_epoch_is_made_up_for_too(fit, tmp_path):
    interval = ["--trainer.val_check_interval", "0.5"]
    with pytest.raises(SystemExit):
        fit("run", *DISASTER, *interval, "--trainer.callbacks.step", "2", "--trainer.callbacks.number", "SIGTERM")
    assert last(tmp_path / "run")["global_step"] == 3  # of 6 in an epoch: a validation belongs here
    resumed, whole = (logged_rows(fit(name, *interval, *more)) for name, more in (("run", ["--resume"]), ("whole", [])))
    assert [int(row["step"]) for row in whole if "val/loss" in row] == [2, 5, 8, 11]
    assert resumed == whole


@pytest.mark.parametrize(("step", "hook"), [("6", "on_train_epoch_start"), ("9", "on_train_batch_start")])
def test_a_run_with_a_number_of_steps_goes_on_with_the_epoch_that_would_have_come(fit, step, hook):
    length = ["--trainer.max_epochs", "3", "--trainer.max_steps", "18", "--checkpoint_minutes", "0"]
    cut = ["--trainer.callbacks+=tests.callbacks.PowerCut", "--trainer.callbacks.step", step]
    with pytest.raises(SystemExit):
        fit("run", *length, *cut, "--trainer.callbacks.hook", hook)
    resumed, whole = fit("run", *length, "--resume"), fit("whole", *length)
    assert last(resumed)["global_step"] == last(whole)["global_step"] == 18
    assert logged_rows(resumed) == logged_rows(whole)


def test_a_run_that_was_left_before_a_validation_makes_up_for_it(fit, tmp_path):
    options = ["--trainer.callbacks.step", "11", "--trainer.callbacks.number", "SIGTERM"]
    with pytest.raises(SystemExit):
        fit("run", *DISASTER, *options)
    assert last(tmp_path / "run")["global_step"] == 12  # of 12
    resumed, whole = logged_rows(fit("run", "--resume")), logged_rows(fit("whole"))
    assert resumed == whole
    checkpoints = [torch.load(tmp_path / name / "checkpoints/best.ckpt")["global_step"] for name in ("run", "whole")]
    assert checkpoints[0] == checkpoints[1]


@pytest.mark.parametrize(("interval", "step"), [("1.0", "6"), ("0.5", "3")])  # behind the epoch, and inside
def test_a_run_is_left_in_the_validation_that_it_goes_on_with_too(fit, tmp_path, caplog, interval, step):
    often = ["--trainer.val_check_interval", interval]
    stop = [*DISASTER, "--trainer.callbacks.number", "SIGTERM", "--trainer.callbacks.step"]
    with pytest.raises(SystemExit):
        fit("run", *often, *stop, str(int(step) - 1))
    assert last(tmp_path / "run")["global_step"] == int(step)
    with pytest.raises(SystemExit) as left, caplog.at_level("INFO"):
        fit("run", *often, "--resume", *stop, step, "--trainer.callbacks.validates", "true")
    assert left.value.code == STOPPED
    assert f"The run was saved at step {step}, before this validation, because SIGTERM asked for it" in caplog.text
    assert logged_rows(fit("run", *often, "--resume")) == logged_rows(fit("whole", *often))
