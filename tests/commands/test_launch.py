from __future__ import annotations

import pytest

from lightning_sq.commands.launch import launch, started_by_others
from lightning_sq.errors import InputError


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


def test_one_process_needs_no_group():
    assert launch("cpu", 1).type == "cpu"
