"""The batch scripts on a real SLURM cluster of two nodes, and what clusters do to a run."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from pathlib import Path

import pytest
import torch

from lightning_sq.__main__ import main
from tests.conftest import REPOSITORY
from tests.run_logs import assert_same_weights, logged_rows, step_of, weights
from tests.slurm.cluster import Cluster, why_not

WHY_NOT = why_not()
pytestmark = [pytest.mark.end_to_end, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]

SMALL = [
    *("--model.architecture", "small_cnn", "--data.backend", "torchvision", "--data.num_threads", "0"),
    *("--data.image_size", "28", "--data.resize_size", "28", "--trainer.max_epochs", "2"),
    *("--trainer.log_every_n_steps", "1", "--checkpoint_minutes", "600"),
    *("--model.optimization.base_learning_rate", "2.0", "--model.optimization.warmup_epochs", "0.3"),
]
CONFIG = "configs/digits_natural.yaml"
BATCH = 8  # of each of two processes: 90 images are 6 steps an epoch
BATCHES = ["--data.batch_size_per_device", str(BATCH)]


class Jobs:
    """Submits the batch scripts as a person would, with CPUs in place of GPUs."""

    def __init__(self, cluster: Cluster, folder: Path, data: Path) -> None:
        self.cluster, self.folder = cluster, folder
        program = folder / "venv/bin/lightning-sq"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m lightning_sq "$@"\n')
        program.chmod(0o755)
        self.environment = {
            "VENV": str(folder / "venv"),
            "ACCELERATOR": "cpu",
            "CONFIG": CONFIG,
            "DATA": str(data),
            "PYTHONPATH": str(REPOSITORY),
        }

    def submit(
        self, script: str | Path, output: Path, *words: str, options: tuple[str, ...] = (), **environment: str
    ) -> str:
        """The number of the job; `options` are sbatch's, `words` the script's."""
        self.cluster.wait_for_nodes()
        size = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1")
        name = "%A_%a" if any(option.startswith("--array") for option in options) else "%j"
        where = f"--output={self.folder}/job-{name}.log"
        values = self.environment | {"OUTPUT": str(output)} | environment
        return self.cluster.submit(*size, where, *options, str(script), *words, environment=values, folder=REPOSITORY)

    def fit(self, output: Path, *words: str, options: tuple[str, ...] = (), **environment: str) -> str:
        return self.submit("slurm/imagenet.sh", output, *SMALL, *BATCHES, *words, options=options, **environment)

    def log(self, job: str) -> str:
        file = self.folder / f"job-{job}.log"
        return file.read_text() if file.exists() else ""

    def ends(self, job: str) -> str:
        """How it ended, once it has; the last of its processes may be a moment longer on its way out."""
        state = self.cluster.wait(job)["JobState"]
        self.until(job, lambda: self.cluster.processes("node1") == self.cluster.processes("node2") == [], seconds=10)
        return state

    def until(self, job: str, condition, seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log(job)
            time.sleep(0.05)

    def imports_torch(self, node: str) -> bool:
        """Whether a rank on `node` is in the middle of its imports, or behind them."""
        maps = (Path(f"/proc/{number}/maps") for number in self.cluster.processes(node, "-m lightning_sq fit"))
        return any("libtorch" in file.read_text() for file in maps if file.exists())

    def starts(self, job: str, times: int) -> None:
        """Wait until the job has been started again `times` times and its processes are there."""
        self.until(
            job,
            lambda: int(self.cluster.job(job).get("Restarts", 0)) == times and self.cluster.processes("node1", "fit"),
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def jobs(cluster, few_digits, tmp_path_factory) -> Jobs:
    return Jobs(cluster, tmp_path_factory.mktemp("jobs"), few_digits)


@pytest.fixture(autouse=True)
def _no_job_is_left(cluster):
    yield
    cluster.mend()
    cluster.command("scancel", "--user=root")


@pytest.fixture(scope="module")
def whole_run(jobs) -> Path:
    """The output of a job that nobody disturbed."""
    output = jobs.folder / "whole"
    job = jobs.fit(output)
    assert jobs.ends(job) == "COMPLETED", jobs.log(job)
    return output


def logged(output: Path) -> list[dict[str, str]]:
    """The rows that say more than what depends on the clock."""
    return [row for row in logged_rows(output) if row.keys() - {"step", "epoch"}]


def assert_same_run(output: Path, whole: Path) -> None:
    assert_same_weights(weights(output), weights(whole))
    assert logged(output) == logged(whole)


def test_two_nodes_give_the_losses_and_weights_of_one_process(whole_run, few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["lightning-sq"])
    words = ["fit", "--config", str(REPOSITORY / CONFIG), "--data.root", str(few_digits), *SMALL]
    words += ["--data.batch_size_per_device", str(2 * BATCH), "--trainer.accelerator", "cpu"]
    assert main([*words, "--output", str(tmp_path / "one")]) == 0
    one, two = weights(tmp_path / "one"), weights(whole_run)
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=1e-4, atol=1e-6), name
    losses = [
        [float(row["val/loss"]) for row in logged(output) if "val/loss" in row]
        for output in (tmp_path / "one", whole_run)
    ]
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_batch_script_without_srun_starts_the_processes_of_its_node_itself(jobs, whole_run, few_digits, tmp_path):
    words = ["--config", CONFIG, "--data.root", str(few_digits), *SMALL, *BATCHES, "--trainer.accelerator", "cpu"]
    words += ["--trainer.devices", "2", "--output", str(tmp_path / "run")]
    script = tmp_path / "own.sh"
    script.write_text(f"#!/bin/bash\nexport OMP_NUM_THREADS=1\n$VENV/bin/lightning-sq fit {shlex.join(words)}\n")
    job = jobs.submit(script, tmp_path, options=("--nodes=1", "--ntasks-per-node=1"))
    assert jobs.ends(job) == "COMPLETED", jobs.log(job)
    assert_same_run(tmp_path / "run", whole_run)


def test_a_job_that_is_asked_to_stop_in_a_step_in_its_imports_and_in_validation_ends_as_if_it_had_not_been(
    jobs, whole_run
):
    output = jobs.folder / "preempted"
    slow = ["--trainer.callbacks+=tests.callbacks.Pause", "--trainer.callbacks.rank", "1"]
    slow += ["--trainer.callbacks.seconds", "0.3", "--trainer.callbacks.validation", "1.5"]
    waits = ["--trainer.callbacks+=tests.callbacks.WaitForSignal", "--trainer.callbacks.rank", "1"]
    waits += ["--trainer.callbacks.step", "2"]
    job = jobs.fit(output, *slow, *waits)
    jobs.until(job, lambda: step_of(output) >= 2)
    jobs.cluster.command("scancel", "--signal=USR1", job)  # while process 0 waits for process 1
    jobs.starts(job, 1)
    first = re.findall(r"saved at step (\d+), because", jobs.log(job))
    assert len(first) == 1, jobs.log(job)
    jobs.until(job, lambda: jobs.imports_torch("node1") and jobs.imports_torch("node2"))
    jobs.cluster.command("scancel", "--signal=USR1", job)
    jobs.starts(job, 2)
    second = re.findall(r"saved at step (\d+), because", jobs.log(job))
    assert second == [first[0], str(int(first[0]) + 1)], jobs.log(job)
    jobs.until(
        job, lambda: step_of(output) == 5 and torch_step(output) == 6
    )  # saved behind the epoch: validation begins
    jobs.cluster.command("scontrol", "requeue", job)  # SIGTERM, and SIGKILL after five seconds
    assert jobs.ends(job) == "COMPLETED", jobs.log(job)
    assert "The run was saved at step 6, before this validation, because SIGTERM asked for it" in jobs.log(job)
    assert_same_run(output, whole_run)


def torch_step(output: Path) -> int:
    """The step of its last checkpoint; -1 without one, as while a new one takes its place."""
    try:
        return torch.load(output / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    except FileNotFoundError:
        return -1


def test_a_new_job_on_an_output_that_holds_a_run_is_refused_and_leaves_it_alone(jobs, whole_run):
    before = {path: path.stat().st_mtime_ns for path in whole_run.rglob("*") if path.name != ".lock"}
    job = jobs.fit(whole_run)  # the first rank refuses, and the other waits for it until it is killed
    assert jobs.ends(job) == "FAILED", jobs.log(job)
    assert f"{whole_run} already holds a run." in jobs.log(job)
    assert "To be queued again." not in jobs.log(job)
    assert jobs.cluster.job(job)["ExitCode"] == "2:0"
    assert {path: path.stat().st_mtime_ns for path in whole_run.rglob("*") if path.name != ".lock"} == before
    assert not list(REPOSITORY.glob(".refused-*"))


def test_a_job_whose_process_is_killed_at_the_same_step_twice_stops_and_says_so(jobs):
    output = jobs.folder / "killed"
    killed = ["--trainer.callbacks+=tests.callbacks.Disaster", "--trainer.callbacks.rank", "1"]
    job = jobs.fit(output, *killed, "--trainer.callbacks.step", "3", "--trainer.callbacks.number", "SIGKILL")
    assert jobs.ends(job) == "FAILED"
    text = jobs.log(job)
    assert "task 1: Killed" in text
    assert "node2" in text
    assert text.count("To be queued again.") == 1, text
    assert "It has ended twice at step 3, so it is not started again." in text


def test_a_loss_that_is_not_finite_is_named_and_an_accident_is_made_good_from_the_checkpoint_before(jobs, whole_run):
    output = jobs.folder / "spoilt"
    spoilt = ["--trainer.callbacks+=tests.callbacks.Spoil", "--trainer.callbacks.rank", "1"]
    spoilt += ["--trainer.callbacks.step", "8", "--trainer.callbacks.once", str(jobs.folder / "spoilt-once")]
    job = jobs.fit(output, *spoilt)
    assert jobs.ends(job) == "COMPLETED", jobs.log(job)
    text = jobs.log(job)
    assert re.search(r"process 1: the loss is nan on \S+\.jpg, ", text), text
    assert "The loss stopped being finite in epoch 2, at step 8, batch 3, in process 1 of 2." in text
    assert re.search(r"The run failed with status \d+ at step 8: failure 1 of this job\.", text), text
    assert text.count("To be queued again.") == text.count("Going on from ") == 1
    assert_same_run(output, whole_run)


def test_a_job_that_may_not_be_started_again_says_so(jobs):
    spoilt = ["--trainer.callbacks+=tests.callbacks.Spoil", "--trainer.callbacks.rank", "0"]
    spoilt += ["--trainer.callbacks.step", "1"]
    job = jobs.fit(jobs.folder / "given-up", *spoilt, options=("--nodes=1",), MAX_RESTARTS="0")
    assert jobs.ends(job) == "FAILED", jobs.log(job)
    text = jobs.log(job)
    assert "in process 0 of 1." in text
    assert "It is not started again: MAX_RESTARTS=0." in text
    assert "To be queued again." not in text


def test_a_job_whose_time_is_nearly_over_is_told_so_by_slurm_and_goes_on_with_new_time(jobs, whole_run):
    output = jobs.folder / "short"
    waits = ["--trainer.callbacks+=tests.callbacks.WaitForSignal", "--trainer.callbacks.rank", "1"]
    waits += ["--trainer.callbacks.step", "3", "--hang_seconds", "300"]
    # a minute is SLURM's shortest limit, and it looks every thirty seconds which jobs are near theirs
    job = jobs.fit(output, *waits, options=("--time=1", "--signal=USR1@5"))
    assert jobs.ends(job) == "COMPLETED", jobs.log(job)
    text = jobs.log(job)
    saved = re.findall(r"saved at step (\d+), because (?:SIGUSR1|another process) asked for it", text)
    assert "4" in saved, text  # on a slow machine the signal comes in the imports too
    assert text.count("To be queued again.") == len(saved)
    assert_same_run(output, whole_run)


def test_a_process_that_hangs_a_cable_that_is_pulled_and_a_node_that_dies_end_the_job_with_a_name(jobs):
    output = jobs.folder / "hung"
    hangs = ["--trainer.callbacks+=tests.callbacks.Disaster", "--trainer.callbacks.rank", "1", "--hang_seconds", "8"]
    hangs += ["--trainer.callbacks.step", "3", "--trainer.callbacks.number", "SIGSTOP"]
    hangs += ["--trainer.callbacks.once", str(jobs.folder / "hung-once"), "--trainer.max_epochs", "1000"]
    job = jobs.fit(output, *hangs)
    jobs.starts(job, 1)
    named = "ends the run: process 1 on node2 shows no sign of life"
    assert jobs.log(job).count(named) == 1, jobs.log(job)
    jobs.until(job, lambda: step_of(output) >= 4)
    jobs.cluster.pull_cable("node2")
    jobs.until(job, lambda: jobs.log(job).count(named) == 2)
    jobs.cluster.pull_cable("node2", plug=True)
    jobs.starts(job, 2)
    before = step_of(output)
    jobs.until(job, lambda: step_of(output) > before)
    jobs.cluster.kill_node("node2")
    jobs.until(job, lambda: jobs.cluster.job(job).get("JobState") in ("PENDING", "COMPLETING"))
    jobs.cluster.start_node("node2")
    jobs.starts(job, 3)
    jobs.cluster.command("scancel", job)
    assert jobs.ends(job) == "CANCELLED", jobs.log(job)


def test_an_array_of_evaluations_on_two_nodes_one_stopped_by_its_time_gives_each_model_the_verdicts_of_one_process(
    jobs, whole_run, few_digits, tmp_path
):
    models = []
    for name in ("last", "last-1"):
        assert main(["export", str(whole_run / f"checkpoints/{name}.ckpt"), str(tmp_path / name)]) == 0
        models.append(f"{name}={tmp_path / name}")
    words = ["--attacks", "quick", "--num-images", "20", "--batch-size", "4", "--device", "cpu"]
    environment = {"MODELS": " ".join(models), "EPSILON": "0.02"}
    job = jobs.submit("slurm/evaluate.sh", tmp_path / "two", *words, options=("--array=0-1",), **environment)
    jobs.until(f"{job}_0", (tmp_path / "two-0/verdicts/last/rank-0.sqlite").exists)
    jobs.cluster.command("scancel", "--signal=USR1", f"{job}_0")
    for task, model in enumerate(models):
        alone = ["evaluate", model, "--data", str(few_digits), "--epsilon", "0.02", *words]
        assert main([*alone, "--output", str(tmp_path / f"one-{task}")]) == 0
        assert jobs.cluster.wait(f"{job}_{task}")["JobState"] == "COMPLETED", jobs.log(f"{job}_{task}")
    assert re.findall(r"ended at checksum \d+ of its verdicts by SIGUSR1", jobs.log(f"{job}_0")), jobs.log(f"{job}_0")
    assert jobs.log(f"{job}_0").count("Going on with the verdicts in") == 1
    one, two = ([model_of(tmp_path / f"{name}-{task}") for task in (0, 1)] for name in ("one", "two"))
    for ours, theirs, name in zip(two, one, ("last", "last-1"), strict=True):
        assert (ours["name"], ours["verdicts"]) == (name, theirs["verdicts"])
    assert one[0]["verdicts"] != one[1]["verdicts"]
    assert 0 < one[0]["robust_accuracy"] < one[0]["clean_accuracy"]


def model_of(evaluation: Path) -> dict:
    (model,) = json.loads((evaluation / "results.json").read_text())["models"]
    return model


def test_a_task_of_an_array_that_is_queued_again_leaves_the_others_alone(jobs, tmp_path):
    script = tmp_path / "task.sh"
    script.write_text(
        "#!/bin/bash\nsource slurm/start.sh\n"
        "((SLURM_ARRAY_TASK_ID == 1 && ${SLURM_RESTART_COUNT:-0} == 0)) || exec sleep 2\n"
        "again_if_it_helps 75 notes step\n"
    )
    job = jobs.submit(script, tmp_path, options=("--array=0-1", "--nodes=1", "--requeue"))
    ended = [jobs.cluster.wait(f"{job}_{task}") for task in (0, 1)]
    assert [(task["JobState"], task["Restarts"]) for task in ended] == [("COMPLETED", "0"), ("COMPLETED", "1")]


def test_torchrun_on_two_hosts_gives_the_weights_of_the_job(jobs, whole_run, few_digits, tmp_path):
    (command,) = re.findall(r"^    (torchrun .*\\\n.*)$", (REPOSITORY / "slurm/README.md").read_text(), re.MULTILINE)
    for theirs, ours in {
        "\\\n": " ",
        "torchrun": f"{sys.executable} -m torch.distributed.run",
        "HOST1": "node1",
        "--nproc-per-node=8": "--nproc-per-node=1",
        "--trainer.devices 8": "--trainer.devices 1",
        "configs/imagenet.yaml": CONFIG,
        '"$DATA"': shlex.quote(str(few_digits)),
    }.items():
        assert command.count(theirs) == 1, command
        command = command.replace(theirs, ours)
    words = [*shlex.split(command), "--trainer.accelerator", "cpu", *SMALL, *BATCHES]
    environment = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    hosts = [
        jobs.cluster.begin(
            node,
            *(*words, "--output", str(tmp_path / "run")),
            environment=environment,
            folder=REPOSITORY,
            log=tmp_path / f"{node}.log",
        )
        for node in jobs.cluster.nodes
    ]
    try:
        statuses = [host.wait(300) for host in hosts]
    finally:
        for host in hosts:
            host.terminate()  # and its process with it
            host.wait(60)
    assert statuses == [0, 0], "\n".join((tmp_path / f"{node}.log").read_text() for node in jobs.cluster.nodes)
    assert_same_run(tmp_path / "run", whole_run)
