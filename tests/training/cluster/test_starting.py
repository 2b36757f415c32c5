"""Who starts the processes of a launch, and what is refused before anybody waits for one that never comes."""

from __future__ import annotations

import pytest
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment

from lightning_sq.errors import InputError
from lightning_sq.training.cluster.starting import cluster_environment

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "8", "SLURM_NTASKS": "1"}
BATCH_SCRIPT = {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "8", "SLURM_PROCID": "0"}
SRUN = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "1"}


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, None),
        (TORCHRUN, None),
        (BATCH_SCRIPT, LightningEnvironment),
        (BATCH_SCRIPT | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}, LightningEnvironment),
        (BATCH_SCRIPT | SRUN, SLURMEnvironment),
        (BATCH_SCRIPT | SRUN | {"SLURM_JOB_NAME": "interactive"}, SLURMEnvironment),
    ],
    ids=["no cluster", "torchrun in a job", "a batch script", "one task of srun", "srun", "srun in an interactive job"],
)
def test_the_tasks_of_a_job_count_as_processes_only_where_srun_has_started_them(given, kind, monkeypatch):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert [type(plugin) for plugin in cluster_environment()] == ([] if kind is None else [kind])


@pytest.mark.parametrize(("told", "shown"), [(None, "not set"), ("1", "1")])
def test_tasks_that_lightning_would_not_count_are_refused_with_the_option_that_it_counts_by(told, shown, monkeypatch):
    for name, value in (BATCH_SCRIPT | SRUN).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    if told is not None:
        monkeypatch.setenv("SLURM_NTASKS_PER_NODE", told)
    said = rf"started 8 tasks on 1 node, and --ntasks-per-node is {shown}\. Give srun or sbatch --ntasks-per-node=8 in"
    with pytest.raises(InputError, match=said):
        cluster_environment()
