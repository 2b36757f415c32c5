from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from lightning_sq.__main__ import main
from lightning_sq.commands.launch import launch
from lightning_sq.errors import HostError, InputError
from lightning_sq.process_group import started_by_others
from lightning_sq.slurm_job import check_gpus
from tests.conftest import REPOSITORY
from tests.ports import port_that_stays_free


def test_torchrun_and_srun_say_how_many_processes_there_are():
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}
    srun = {"SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NUM_NODES": "3", "SLURM_NTASKS": "6"}
    batch_script = {"SLURM_NTASKS": "6", "SLURM_PROCID": "0"}
    assert started_by_others(torchrun) == (4, 2)
    assert started_by_others(srun) == (2, 3)
    assert started_by_others(batch_script) is None
    assert started_by_others({}) is None


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(InputError, match=f"--device {device}"):
        launch(device, 1)


@pytest.mark.parametrize("given", [("SLURM_GPUS_ON_NODE", "8"), ("SLURM_JOB_GPUS", "0,1")])
@pytest.mark.parametrize("words", [["evaluate", "model"], ["fit", "--trainer.accelerator", "gpu"]])
def test_a_host_that_lacks_the_gpus_of_its_job_is_named_and_nothing_that_was_typed_is_blamed(
    words, given, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr("sys.argv", ["lightning-sq"])
    monkeypatch.setattr("socket.gethostname", lambda: "node7")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    options = ["--data", "x", "--epsilon", "4/255", "--device", "cuda"] if words[0] == "evaluate" else []
    words = [*words, *options, "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "SLURM gave" not in capsys.readouterr().err
    monkeypatch.setenv(*given)
    assert main(words) == 1
    assert "SLURM gave this job GPUs on node7, and torch sees none there." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shown", "seen", "lacks"),
    [("0,1,2,3", 3, True), ("0,1,2,3", 4, False), ("2", 1, False), ("MIG-5c89852c,MIG-fa2b0a4d", 1, False)],
)
def test_one_gpu_of_several_that_is_gone_is_the_hosts_fault(shown, seen, lacks, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: seen)
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    if lacks:
        with pytest.raises(HostError, match=r"SLURM gave this job 4 GPUs on .*, and torch sees 3 there"):
            launch("cuda", 1)
    else:
        assert launch("cuda", 1).type == "cuda"


@pytest.fixture
def bound(monkeypatch):
    """Two nodes whose tasks are each shown one GPU of four."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    given = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_PROCID": "0"}
    for name, value in (given | {"CUDA_VISIBLE_DEVICES": "0"}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("words", [["evaluate", "model"], ["fit", "--trainer.accelerator", "gpu"]])
def test_a_cluster_that_binds_one_gpu_to_each_task_is_refused_once_with_what_to_submit(
    bound, words, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr("sys.argv", ["lightning-sq"])
    monkeypatch.setenv("LIGHTNING_SQ_REFUSED", str(tmp_path / "refused"))
    options = ["--data", "x", "--epsilon", "4/255", "--device", "cuda"] if words[0] == "evaluate" else []
    assert main([*words, *options, "--output", str(tmp_path / "out")]) == 2
    told = (
        "Each of the 4 tasks on a node sees one GPU: this cluster binds one GPU to a task. Submit with --gpu-bind=none"
    )
    assert told in capsys.readouterr().err
    assert (tmp_path / "refused").exists()  # by which the script does not queue the job again


@pytest.mark.parametrize(
    ("name", "value"), [("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_STEP_NUM_TASKS", "1"), ("CUDA_VISIBLE_DEVICES", "MIG-5")]
)
def test_one_gpu_is_enough_for_one_task_a_node_and_for_a_shell_in_a_job(bound, name, value, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    monkeypatch.setenv(name, value)
    check_gpus()


def test_one_process_needs_no_group():
    assert launch("cpu", 1).type == "cpu"


TWO_PROCESSES = """
import os, time
from lightning_sq.commands.launch import launch
from lightning_sq.process_group import world_size
launch("cpu", 2)
os.write(1, f"{world_size()}\\n".encode())  # at once, as two write
time.sleep(600)
"""
BATCH_SCRIPT = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "run", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
BATCH_SCRIPT |= {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize("given", [{}, BATCH_SCRIPT], ids=["by itself", "in a batch script, without srun"])
def test_a_launch_starts_its_processes_and_none_is_left_when_the_first_is_killed(given, tmp_path):
    (tmp_path / "program.py").write_text(TWO_PROCESSES)
    environment = os.environ | given | {"PYTHONPATH": str(REPOSITORY), "MASTER_PORT": str(port_that_stays_free())}
    words = [sys.executable, str(tmp_path / "program.py")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, start_new_session=True) as first:
        try:
            for _ in range(2):
                assert first.stdout.readline() == b"2\n"
            first.kill()
            first.communicate(timeout=60)  # to the end of what both of them write to
        finally:
            with suppress(ProcessLookupError):
                os.killpg(first.pid, signal.SIGKILL)
