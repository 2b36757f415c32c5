"""What the batch scripts start, word by word, and when they queue a job again: with stubs in the place of SLURM."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from lightning_sq.__main__ import main
from lightning_sq.commands.evaluate import VERDICTS
from lightning_sq.evaluation.store import Kept, VerdictStore
from tests.conftest import REPOSITORY

JOB = {
    "HOME": "/home/me",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_CPUS_PER_TASK": "3",
}
NOTES_WORDS = 'printf "%s\\n" "$@" > "$STUBS/$(basename "$0").words"\n'
SCONTROL = """
echo "$*" >> "$STUBS/asked"
if [[ $1 == "${DEAF:-}" ]] || (($(wc -l < "$STUBS/asked") <= ${SILENT:-0})); then
  echo "Unable to contact slurm controller" >&2
  exit 1
fi
if [[ $1 == show ]]; then echo "JobId=7 JobState=$STATE Restarts=0"; fi
"""
SRUN = ("--export=ALL", "--kill-on-bad-exit=1")


class Scripts:
    """Runs lines of bash in the repository, with `srun`, `scontrol` and `sleep` that only note what they are told.

    The first $SILENT questions to `scontrol` are not answered, and none that begins with $DEAF.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.stubs = folder, folder / "stubs"
        self.output = folder / "run"
        self.place = "step unknown"
        self.srun()
        self._program(self.stubs / "scontrol", SCONTROL)
        self._program(self.stubs / "sleep", 'echo "sleep $*" >> "$STUBS/slept"\n')
        self.program = self._program(folder / "venv/bin/lightning-sq", NOTES_WORDS)

    @staticmethod
    def _program(path: Path, text: str) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}")
        path.chmod(0o755)
        return str(path)

    def srun(self, does: str = "") -> None:
        """An `srun` that ends with $STATUS, once it has done what its ranks would."""
        threads = 'echo "$OMP_NUM_THREADS $SRUN_CPUS_PER_TASK" > "$STUBS/threads"\n'
        self._program(self.stubs / "srun", f"{NOTES_WORDS}{threads}{does}exit ${{STATUS:-0}}\n")

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        (self.stubs / "srun.words").unlink(missing_ok=True)  # of a run before
        values = {"PATH": f"{self.stubs}:{os.environ['PATH']}", "STUBS": str(self.stubs), "STATE": "RUNNING"} | JOB
        values |= {"VENV": str(self.folder / "venv"), "DATA": "/data/few", "OUTPUT": str(self.output)} | environment
        return subprocess.run(
            ["bash", *words], capture_output=True, text=True, env=values, cwd=REPOSITORY, check=False, timeout=60
        )

    def container(self) -> dict[str, str]:
        """The environment in which a container is started."""
        return {"CONTAINER_IMAGE": "image", "XDG_CACHE_HOME": str(self.folder / "cache")}

    def started(self) -> list[str]:
        """The words of `srun`."""
        return (self.stubs / "srun.words").read_text().splitlines()

    def asked(self) -> list[str]:
        """What `scontrol` was asked, in order."""
        file = self.stubs / "asked"
        return file.read_text().splitlines() if file.exists() else []

    def again(self, status: int, **environment: str) -> tuple[int, str]:
        """(status, words) of `again_if_it_helps` after a command that ended with `status`."""
        call = 'set -uo pipefail; source slurm/start.sh; again_if_it_helps "$@"'
        done = self.run("-c", call, "_", str(status), str(self.output / ".failures-7"), self.place, **environment)
        return done.returncode, done.stderr + done.stdout

    def take_on(self, job: str) -> None:
        """What the first rank of a start leaves in OUTPUT."""
        self.output.mkdir(exist_ok=True)
        (self.output / ".job").write_text(f"{job}\n")

    def at_step(self, step: int) -> None:
        self.place = f"step {step}"
        self.output.mkdir(exist_ok=True)
        (self.output / ".step").write_text(f"{step:>12} {3.5:>12.1f}\n")


@pytest.fixture
def scripts(tmp_path) -> Scripts:
    return Scripts(tmp_path)


def fit_words(output: Path, *words: str) -> list[str]:
    return [
        *("fit", "--config", "configs/imagenet.yaml", "--data.root", "/data/few", "--output", str(output)),
        *("--trainer.accelerator", "gpu", "--trainer.enable_progress_bar", "false"),
        *("--trainer.num_nodes", "2", "--trainer.devices", "4", *words),
    ]


HERE = str(REPOSITORY)
SEEN = f"{HERE}:{HERE},/data/few:/data/few,{{output}}:{{output}}"


def test_a_virtual_environment_is_started_by_its_path(scripts):
    assert scripts.run("slurm/imagenet.sh", "--trainer.max_epochs", "3").returncode == 0
    expected = fit_words(scripts.output, "--trainer.max_epochs", "3")
    assert scripts.started() == [*SRUN, scripts.program, *expected]
    assert (scripts.stubs / "threads").read_text() == "3 3\n"


@pytest.mark.parametrize(("mounts", "seen"), [({}, SEEN), ({"MOUNTS": "/a:/b,/c:/d"}, "/a:/b,/c:/d")])
def test_an_image_of_enroot_is_started_by_srun_itself(scripts, mounts, seen):
    image, cache = "/images/lightning sq.sqsh", str(scripts.folder / "cache")
    where = {"VENV": "/nowhere", "XDG_CACHE_HOME": cache} | mounts
    assert scripts.run("slurm/imagenet.sh", CONTAINER_IMAGE=image, **where).returncode == 0
    options = [f"--container-image={image}", f"--container-mounts={seen.format(output=scripts.output)},{cache}:{cache}"]
    options += [f"--container-workdir={HERE}", "env", f"XDG_CACHE_HOME={cache}", "lightning-sq"]
    assert scripts.started() == [*SRUN, *options, *fit_words(scripts.output)]
    assert Path(cache).is_dir()  # or they could not be mounted
    assert scripts.output.is_dir()


@pytest.mark.parametrize(("mounts", "seen"), [({}, SEEN), ({"MOUNTS": "/a:/b,/c:/d"}, "/a:/b,/c:/d")])
def test_an_image_of_apptainer_is_started_by_apptainer_on_every_rank(scripts, mounts, seen):
    image, home = "/images/lightning sq.sif", scripts.folder / "home"
    where = {"VENV": "/nowhere", "HOME": str(home)} | mounts
    assert scripts.run("slurm/imagenet.sh", APPTAINER_IMAGE=image, **where).returncode == 0
    bound = f"{seen.format(output=scripts.output)},{home}/.cache:{home}/.cache"
    program = ["apptainer", "exec", "--nv", "--bind", bound, "--pwd", HERE]
    program += ["--env", f"XDG_CACHE_HOME={home}/.cache", image, "lightning-sq"]
    assert scripts.started() == [*SRUN, *program, *fit_words(scripts.output)]
    assert (home / ".cache").is_dir()


def mounts(scripts) -> list[str]:
    """What the container sees besides this folder, DATA, OUTPUT and the cache."""
    (option,) = (word for word in scripts.started() if word.startswith("--container-mounts="))
    *found, _ = option.removeprefix("--container-mounts=").split(",")
    assert found[:3] == SEEN.format(output=scripts.output).split(",")
    return found[3:]


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A folder outside the clone, with a file of each kind."""
    folder = tmp_path / "else where"
    (folder / "release").mkdir(parents=True)
    for name in ("recipe.yaml", "last.ckpt", "weights.safetensors"):
        (folder / name).touch()
    return folder


def test_a_recipe_outside_the_clone_is_seen_in_a_container(scripts, elsewhere):
    recipe = elsewhere / "recipe.yaml"
    start = elsewhere / "last.ckpt"
    scripts.run("slurm/imagenet.sh", "--ckpt_path", str(start), CONFIG=str(recipe), **scripts.container())
    assert mounts(scripts) == [f"{recipe}:{recipe}", f"{start}:{start}"]


@pytest.mark.parametrize("model", ["{}/last.ckpt", "ours={}/release", "timm:resnet50@{}/weights.safetensors"])
def test_a_model_outside_the_clone_is_seen_in_a_container(scripts, elsewhere, model):
    path = re.search(r"/[^@]+$", model.format(elsewhere))[0]
    scripts.run("slurm/evaluate.sh", MODEL=model.format(elsewhere), **scripts.container())
    assert mounts(scripts) == [f"{path}:{path}"]


def test_what_lies_behind_a_link_is_seen_by_both_names_and_what_lies_in_the_clone_needs_no_word(scripts, elsewhere):
    link, real = scripts.folder / "link.ckpt", elsewhere / "last.ckpt"
    link.symlink_to(real)
    scripts.run("slurm/evaluate.sh", MODEL=str(link), **scripts.container())
    assert mounts(scripts) == [f"{real}:{real}", f"{real}:{link}"]
    for model in ("README.md", str(REPOSITORY / "README.md"), "hf-hub:org/name", "resnet50.tag", "nowhere/last.ckpt"):
        scripts.run("slurm/evaluate.sh", MODEL=model, **scripts.container())
        assert mounts(scripts) == []


@pytest.mark.parametrize("image", ["CONTAINER_IMAGE", "APPTAINER_IMAGE"])
def test_every_folder_for_downloads_that_is_set_is_seen_in_a_container(scripts, image):
    names = ("XDG_CACHE_HOME", "LIGHTNING_SQ_CACHE", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME")
    folders = {name: str(scripts.folder / "caches" / name) for name in names}
    assert scripts.run("slurm/imagenet.sh", **folders, **{image: "image"}).returncode == 0
    seen = [SEEN.format(output=scripts.output), *(f"{folder}:{folder}" for folder in folders.values())]
    assert any(word.removeprefix("--container-mounts=") == ",".join(seen) for word in scripts.started())
    assert all(Path(folder).is_dir() for folder in folders.values())


def test_a_link_in_the_clone_that_leads_through_another_link_can_be_followed_in_a_container(scripts, tmp_path):
    clone, lustre = tmp_path / "clone", tmp_path / "lustre"
    (clone / "data").mkdir(parents=True)
    (clone / "slurm").symlink_to(REPOSITORY / "slurm")
    (lustre / "me/imagenet").mkdir(parents=True)
    (tmp_path / "scratch").symlink_to("lustre")  # beside itself
    (clone / "data/imagenet").symlink_to(tmp_path / "scratch/me/imagenet")
    (clone / "data/ring").symlink_to("ring")
    where = {"SLURM_SUBMIT_DIR": str(clone), **scripts.container()}
    assert scripts.run("slurm/imagenet.sh", DATA="data/imagenet", **where).returncode == 0
    (option,) = (word for word in scripts.started() if word.startswith("--container-mounts="))
    real, met = lustre / "me/imagenet", tmp_path / "scratch/me/imagenet"
    mounts = [f"{clone}:{clone}", f"{real}:{real}", f"{real}:{met}", f"{scripts.output}:{scripts.output}"]
    cache = scripts.folder / "cache"
    assert option == f"--container-mounts={','.join(mounts)},{cache}:{cache}"
    assert scripts.run("slurm/imagenet.sh", DATA="data/ring", **where).returncode == 0  # ends


@pytest.mark.parametrize(("script", "most"), [("imagenet", 3), ("evaluate", 20)])
def test_where_nothing_is_said_a_job_may_fail_as_often_as_the_readme_says(scripts, script, most):
    scripts.output.mkdir()
    over = f"It is not started again: MAX_RESTARTS={most}."
    for failures, said in ((most - 1, "To be queued again."), (most, over)):
        (scripts.output / ".failures-7").write_text(f"{failures} elsewhere\n")
        assert scripts.run(f"slurm/{script}.sh", STATUS="1").stdout.splitlines()[-1] == said


@pytest.mark.parametrize("recipe", ["imagenet", "imagenet_fgsm_rs"])
def test_a_run_is_kept_by_its_recipes_name_where_nothing_else_is_said(scripts, recipe):
    assert scripts.run("slurm/imagenet.sh", CONFIG=f"configs/{recipe}.yaml", OUTPUT="").returncode == 0
    words = scripts.started()
    assert words[words.index("--output") + 1] == f"runs/{recipe}"


def test_without_an_environment_or_an_image_it_says_what_to_do_and_is_not_queued_again(scripts):
    done = scripts.run("slurm/imagenet.sh", VENV="/nowhere")
    assert done.returncode == 2
    sentence = "There is no /nowhere/bin/lightning-sq. Run make setup, or set VENV, CONTAINER_IMAGE or APPTAINER_IMAGE."
    assert done.stderr == f"{sentence}\n"
    assert not (scripts.stubs / "srun.words").exists()
    assert scripts.asked() == []


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
    assert scripts.started()[-1] == "--overwrite"
    done = scripts.run("slurm/imagenet.sh", STATUS="2", **again)  # with neither it is refused, and that is no accident
    assert (done.returncode, done.stdout) == (2, "")
    scripts.srun('echo "$SLURM_JOB_ID" > "$OUTPUT/.job"\n')
    scripts.run("slurm/imagenet.sh", "--overwrite", **again)
    scripts.run("slurm/imagenet.sh", "--overwrite", **again)
    assert scripts.started()[-2:] == ["--overwrite", "--resume"]


@pytest.mark.parametrize("script", ["imagenet", "evaluate"])
@pytest.mark.parametrize("words", [("--output", "runs/b"), ("--output=runs/b",)])
def test_an_output_that_the_script_does_not_know_of_is_refused(scripts, script, words):
    done = scripts.run(f"slurm/{script}.sh", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("Set OUTPUT in the place of --output")
    assert not (scripts.stubs / "srun.words").exists()


def test_a_task_of_an_array_attacks_its_own_model_into_its_own_folder(scripts):
    models = "ours=runs/a/release natural=runs/b/release"
    for task, model in enumerate(models.split()):
        done = scripts.run("slurm/evaluate.sh", "--batch-size", "4", MODELS=models, SLURM_ARRAY_TASK_ID=str(task))
        assert done.returncode == 0, done.stderr
        words = ["evaluate", model, "--data", "/data/few", "--epsilon", "4/255", "--output", f"{scripts.output}-{task}"]
        words += ["--device", "cuda"]
        assert scripts.started() == [*SRUN, scripts.program, *words, "--batch-size", "4"]
        assert Path(f"{scripts.output}-{task}").is_dir()
    done = scripts.run("slurm/evaluate.sh", MODELS=models, SLURM_ARRAY_TASK_ID="2")
    assert done.returncode != 0
    assert "MODELS names fewer models than the array has tasks" in done.stderr


def test_several_models_without_an_array_are_refused_and_no_other_is_attacked(scripts):
    done = scripts.run("slurm/evaluate.sh", MODELS="ours=runs/a/release natural=runs/b/release")
    assert done.returncode == 2
    assert done.stderr == "MODELS needs a job array: sbatch --array=0-1 slurm/evaluate.sh\n"
    assert not (scripts.stubs / "srun.words").exists()


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


@pytest.mark.parametrize("script", ["imagenet", "evaluate"])
def test_a_script_that_is_submitted_from_elsewhere_says_from_where_to_submit_it(scripts, tmp_path, script):
    done = scripts.run(f"slurm/{script}.sh", SLURM_SUBMIT_DIR=str(tmp_path))
    assert done.returncode == 2
    said = f"Submit this from the clone's folder: cd CLONE && sbatch slurm/{script}.sh"
    assert done.stderr.splitlines()[-1] == said
    assert not (scripts.stubs / "srun.words").exists()


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


STEPS = 'mkdir -p "$OUTPUT"; printf "%12d %12.1f\\n" "$STEP" 3.5 > "$OUTPUT/.step"\n'
"""What the ranks of a training do that comes to step $STEP."""


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


def keep_verdicts(output: Path, first: int) -> None:
    """What one process of an evaluation does behind a batch."""
    store = VerdictStore(output / VERDICTS / "model", {})
    store.keep("pgd", [first, first + 1], Kept({first: True, first + 1: False}))
    store.close()


def test_an_evaluation_that_keeps_more_verdicts_each_time_goes_on_until_it_has_failed_too_often(scripts):
    for failure in (1, 2, 3):
        keep_verdicts(scripts.output, first=2 * failure)
        done = scripts.run("slurm/evaluate.sh", STATUS="1", MAX_RESTARTS="2")
        assert f": failure {failure} of this job." in done.stdout
        assert ("To be queued again." in done.stdout) == (failure < 3)
    assert done.stdout.splitlines()[-1] == "It is not started again: MAX_RESTARTS=2."


def test_an_evaluation_whose_time_is_over_goes_on_as_often_as_it_keeps_more_verdicts(scripts):
    ended = str(128 + signal.SIGUSR1)
    for allocation in range(4):
        keep_verdicts(scripts.output, first=2 * allocation)
        done = scripts.run("slurm/evaluate.sh", STATUS=ended, MAX_RESTARTS="0")
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "To be queued again.")
        assert "no failure" in done.stdout
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
