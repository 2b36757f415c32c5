"""When the batch scripts queue a job again, and what goes on then: with stubs in the place of SLURM."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from lightning_sq.__main__ import main
from lightning_sq.commands.evaluate import VERDICTS
from lightning_sq.evaluation.store import Kept, VerdictStore
from tests.conftest import REPOSITORY

STEPS = 'mkdir -p "$OUTPUT"; printf "%12d %12.1f\\n" "$STEP" 3.5 > "$OUTPUT/.step"\n'
"""What the ranks of a training do that comes to step $STEP."""


def keep_verdicts(output: Path, first: int) -> None:
    """What one process of an evaluation does behind a batch."""
    store = VerdictStore(output / VERDICTS / "model", {})
    store.keep("pgd", [first, first + 1], Kept({first: True, first + 1: False}))
    store.close()


@pytest.mark.parametrize(("script", "most"), [("imagenet", 3), ("evaluate", 20)])
def test_where_nothing_is_said_a_job_may_fail_as_often_as_the_readme_says(scripts, script, most):
    scripts.output.mkdir()
    over = f"It is not started again: MAX_RESTARTS={most}."
    for failures, said in ((most - 1, "To be queued again."), (most, over)):
        (scripts.output / ".failures-7").write_text(f"{failures} elsewhere\n")
        assert scripts.run(f"slurm/{script}.sh", STATUS="1").stdout.splitlines()[-1] == said


@pytest.mark.parametrize("restarted", [{"SLURM_RESTART_COUNT": "1"}, {}])
def test_a_job_that_is_queued_again_goes_on_and_a_new_one_does_not(scripts, restarted):
    scripts.take_on("7")
    scripts.run("slurm/imagenet.sh", SLURM_RESTART_COUNT="0")  # once more in the same allocation, by hand
    assert "--resume" not in scripts.started()
    if not restarted:  # a SLURM that counts no restarts
        (scripts.output / ".failures-7").write_text("1 5\n")
    scripts.run("slurm/imagenet.sh", **restarted)
    assert scripts.started()[-1] == "--resume"


@pytest.mark.parametrize("of_job", [None, "6"])
def test_a_job_whose_start_died_before_it_took_on_its_output_does_not_go_on_with_what_is_there(scripts, of_job):
    scripts.at_step(5)  # an older run
    if of_job:
        scripts.take_on(of_job)
    assert "To be queued again." in scripts.run("slurm/imagenet.sh", "--overwrite", STATUS="1").stdout
    again = {"SLURM_RESTART_COUNT": "1"}
    scripts.run("slurm/imagenet.sh", "--overwrite", **again)
    assert scripts.started()[-3:] == ["--overwrite", "--output", str(scripts.output)]
    done = scripts.run("slurm/imagenet.sh", STATUS="2", **again)  # with neither it is refused, and that is no accident
    assert (done.returncode, done.stdout) == (2, "")
    scripts.srun('echo "$SLURM_JOB_ID" > "$OUTPUT/.job"\n')
    scripts.run("slurm/imagenet.sh", "--overwrite", **again)
    scripts.run("slurm/imagenet.sh", "--overwrite", **again)
    assert scripts.started()[-4:] == ["--overwrite", "--output", str(scripts.output), "--resume"]


def test_a_task_of_an_array_is_queued_again_by_its_own_number(scripts):
    task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}  # the last task's number is that of the array
    status, text = scripts.again(75, **task)
    assert (status, text.splitlines()[-1]) == (0, "To be queued again.")
    assert scripts.asked() == ["show job 7_1 --oneliner", "requeue 7_1"]


def test_a_job_that_one_rank_refuses_is_over_although_the_ranks_that_waited_for_it_were_killed(scripts, tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "slurm").symlink_to(REPOSITORY / "slurm")
    scripts.at_step(5)  # of another job's run
    (folder / ".refused-7").touch()  # of a start that ended before it was looked at
    where = {"SLURM_SUBMIT_DIR": str(folder), "STATUS": "137"}
    assert "To be queued again." in scripts.run("slurm/imagenet.sh", **where).stdout
    (scripts.output / ".failures-7").unlink()
    scripts.srun('touch "$LIGHTNING_SQ_REFUSED"\n')
    done = scripts.run("slurm/imagenet.sh", **where)
    assert (done.returncode, done.stdout) == (2, "")
    assert [path.name for path in scripts.output.iterdir()] == [".step"]
    assert [path.name for path in folder.iterdir()] == ["slurm"]
    assert scripts.asked().count("requeue 7") == 1


@pytest.mark.parametrize(("rank", "met"), [("0", False), ("0", True), ("1", False)])
def test_a_refusal_is_noted_by_the_first_rank_as_long_as_the_ranks_have_not_met(tmp_path, monkeypatch, rank, met):
    note = tmp_path / "refused"
    monkeypatch.setenv("LIGHTNING_SQ_REFUSED", str(note))
    monkeypatch.setenv("SLURM_PROCID", rank)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: met)
    assert main(["evaluate", "--there-is-no-such-option"]) == 2
    assert note.exists() == (rank == "0" and not met)
    monkeypatch.setenv("LIGHTNING_SQ_REFUSED", str(tmp_path / "not/there"))
    assert main(["evaluate", "--there-is-no-such-option"]) == 2


@pytest.mark.parametrize("status", [0, 2])
def test_a_job_that_is_done_or_was_typed_wrongly_is_over(scripts, status):
    assert scripts.again(status) == (status, "")
    assert scripts.asked() == []


def test_a_refusal_of_words_that_ran_before_is_a_failure_like_any_other(scripts):
    again = {"SLURM_RESTART_COUNT": "1"}
    scripts.take_on("7")
    scripts.at_step(5)
    status, text = scripts.again(2, **again)
    assert (status, text.splitlines()[-1]) == (0, "To be queued again.")
    assert "It was refused, though the same words ran before" in text
    scripts.at_step(6)
    assert "To be queued again." in scripts.again(2)[1]  # a SLURM that counts no restarts: the failure before is noted
    status, text = scripts.again(2, **again)
    assert status == 1
    assert text.splitlines()[-1].startswith("It has ended twice at step 6, so it is not started again.")
    assert scripts.asked().count("requeue 7") == 2


def test_a_controller_that_does_not_answer_for_some_minutes_is_asked_again(scripts):
    for silent in (1, 20):
        (scripts.stubs / "asked").unlink(missing_ok=True)
        status, text = scripts.again(75, SILENT=str(silent))
        assert (status, text.splitlines()[-1]) == (0, "To be queued again.")
        assert scripts.asked() == ["show job 7 --oneliner"] * (silent + 1) + ["requeue 7"]
    assert (scripts.stubs / "slept").read_text().splitlines() == ["sleep 10"] * 21


@pytest.mark.parametrize(("deaf", "asked"), [("show", ["show"]), ("requeue", ["show", "requeue"])])
@pytest.mark.parametrize("status", [1, 75])
def test_a_job_whose_controller_does_not_come_back_is_to_be_submitted_by_hand(scripts, status, deaf, asked):
    ended, text = scripts.again(status, DEAF=deaf, CONTROLLER_SECONDS="0")
    assert ended == status
    assert "was cancelled" not in text
    said = "SLURM does not answer, or refuses (see above): the job is not queued again. Submit it once more by hand,"
    assert f"{said} a training with --resume behind the script's name." in text.splitlines()
    assert [words.split()[0] for words in scripts.asked()] == asked


def test_a_job_that_was_asked_to_stop_is_queued_again_however_often(scripts):
    scripts.at_step(5)
    for _ in range(3):
        status, text = scripts.again(75, MAX_RESTARTS="0")
        assert (status, text.splitlines()[-1]) == (0, "To be queued again.")
        assert "asked to stop" in text
    assert scripts.asked() == ["show job 7 --oneliner", "requeue 7"] * 3


def test_a_job_that_fails_at_other_steps_is_queued_again_as_often_as_it_may_be(scripts):
    for failure, step in enumerate((5, 8), start=1):
        scripts.at_step(step)
        status, text = scripts.again(1, MAX_RESTARTS="2")
        assert f"failed with status 1 at step {step}: failure {failure} of this job." in text
        assert (status, "To be queued again." in text) == (0, True)
    scripts.at_step(9)
    status, text = scripts.again(137, MAX_RESTARTS="2")
    assert status == 137
    assert text.splitlines()[-1] == "It is not started again: MAX_RESTARTS=2."
    assert scripts.asked().count("requeue 7") == 2


def test_a_training_that_fails_at_the_same_step_twice_is_over(scripts):
    scripts.srun(STEPS.replace("$STEP", "5"))
    assert "To be queued again." in scripts.run("slurm/imagenet.sh", STATUS="1").stdout
    asked = scripts.run("slurm/imagenet.sh", STATUS="75")  # being asked to stop in between is no failure
    assert "To be queued again." in asked.stdout
    done = scripts.run("slurm/imagenet.sh", STATUS="1")
    assert done.returncode == 1
    said = "It has ended twice at step 5, so it is not started again. The cause stands above."
    assert done.stdout.splitlines()[-1] == said
    assert scripts.asked().count("requeue 7") == 2


def test_a_training_that_takes_no_step_is_started_as_often_as_it_may_be_a_minute_apart(scripts):
    for failure in (1, 2, 3):
        done = scripts.run("slurm/imagenet.sh", STATUS="1")
        assert f"failed with status 1 at the start: failure {failure}" in done.stdout
        assert done.stdout.splitlines()[-1] == "To be queued again."
    done = scripts.run("slurm/imagenet.sh", STATUS="1")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "It is not started again: MAX_RESTARTS=3.")
    assert (scripts.stubs / "slept").read_text().splitlines() == ["sleep 60"] * 3


def test_a_start_that_its_time_ends_twice_is_over(scripts):
    ended = str(128 + signal.SIGUSR1)
    assert "no failure" in scripts.run("slurm/imagenet.sh", STATUS=ended).stdout
    done = scripts.run("slurm/imagenet.sh", STATUS=ended)  # it would never end
    assert done.stdout.splitlines()[-1].startswith("It has ended twice at the start, so it is not started again.")
    assert not (scripts.stubs / "slept").exists()  # the time would end in it


def test_failures_are_counted_anew_behind_a_checkpoint_and_only_there(scripts):
    (scripts.output / "checkpoints").mkdir(parents=True)
    (scripts.output / "checkpoints/last.ckpt").touch()  # of before the first failure
    for step in range(5, 9):
        scripts.srun(STEPS.replace("$STEP", str(step)))
        done = scripts.run("slurm/imagenet.sh", STATUS="1")
        assert ("To be queued again." in done.stdout) == (step < 8)
    assert "failure 4 of this job" in done.stdout
    saves = 'touch "$OUTPUT/checkpoints/last.ckpt"\n'
    for step in (9, 10):
        scripts.srun(STEPS.replace("$STEP", str(step)) + saves)
        done = scripts.run("slurm/imagenet.sh", STATUS="1")
        assert f"failed with status 1 at step {step}: failure 1 of this job." in done.stdout
        assert done.stdout.splitlines()[-1] == "To be queued again."
    done = scripts.run("slurm/imagenet.sh", STATUS="1")
    assert done.stdout.splitlines()[-1].startswith("It has ended twice at step 10, so it is not started again.")


def test_a_start_that_takes_no_step_does_not_count_as_a_failure_at_the_step_before(scripts):
    scripts.srun(STEPS.replace("$STEP", "5"))
    assert "failed with status 1 at step 5: failure 1" in scripts.run("slurm/imagenet.sh", STATUS="1").stdout
    scripts.srun()  # a node without the disk, say
    done = scripts.run("slurm/imagenet.sh", STATUS="1")
    assert "failed with status 1 at the start behind step 5: failure 2" in done.stdout
    assert done.stdout.splitlines()[-1] == "To be queued again."
    scripts.srun(STEPS.replace("$STEP", "5"))  # the same step once more, in as many seconds
    assert "failed with status 1 at step 5: failure 3" in scripts.run("slurm/imagenet.sh", STATUS="1").stdout


def test_an_evaluation_that_keeps_more_verdicts_each_time_goes_on_until_it_has_failed_too_often(scripts):
    for failure in (1, 2, 3):
        keep_verdicts(scripts.output, first=2 * failure)
        done = scripts.run("slurm/evaluate.sh", STATUS="1", MAX_RESTARTS="2")
        assert f": failure {failure} of this job." in done.stdout
        assert ("To be queued again." in done.stdout) == (failure < 3)
    assert done.stdout.splitlines()[-1] == "It is not started again: MAX_RESTARTS=2."


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_an_evaluation_whose_time_is_over_goes_on_as_often_as_it_keeps_more_verdicts(scripts, number):
    ended = str(128 + number)
    for allocation in range(4):
        keep_verdicts(scripts.output, first=2 * allocation)
        done = scripts.run("slurm/evaluate.sh", STATUS=ended, MAX_RESTARTS="0")
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "To be queued again.")
        assert f"by {number.name}, its time being over or another job's: no failure" in done.stdout
    done = scripts.run("slurm/evaluate.sh", STATUS=ended, MAX_RESTARTS="0")  # it would never end
    assert str(done.returncode) == ended
    said = r"It has ended twice at checksum \d+ of its verdicts, so it is not started again\. The cause stands above\."
    assert re.fullmatch(said, done.stdout.splitlines()[-1])


def test_a_job_whose_failures_cannot_be_counted_is_over(scripts):
    scripts.output.touch()  # not a folder: a disk that is full or not there answers the same
    status, text = scripts.again(1)
    assert status == 1
    assert text.splitlines()[-1] == "It is not started again: nobody would count how often."
    assert scripts.asked() == []


@pytest.mark.parametrize("state", ["CANCELLED", "PENDING", "COMPLETING"])
@pytest.mark.parametrize("status", [1, 75])
def test_a_job_that_was_cancelled_or_is_queued_already_is_left_alone(scripts, state, status):
    ended, text = scripts.again(status, STATE=state)
    assert ended == status
    assert text.splitlines()[-1] == "The job was cancelled or is queued again already."
    assert scripts.asked() == ["show job 7 --oneliner"]
