"""How many cores a command plans with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lightning_sq.cores import usable_cores


def test_a_job_that_is_bound_to_some_cores_does_not_count_those_of_others(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 8})
    monkeypatch.setattr("lightning_sq.cores.ROOT", Path("nowhere"))
    assert usable_cores() == 3


@pytest.mark.parametrize(
    ("group", "limits", "cores"),
    [
        ("0::/", {"cpu.max": "400000 100000"}, 4),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 64),
        ("0::/pod/own", {"pod/cpu.max": "250000 100000", "pod/own/cpu.max": "max 100000"}, 3),
        ("0::/../of/the/host", {"cpu.max": "200000 100000"}, 2),
        ("3:cpu,cpuacct:/docker/5", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ("3:cpu,cpuacct:/job", {"cpu/job/cpu.cfs_quota_us": "150000", "cpu/job/cpu.cfs_period_us": "100000"}, 2),
        ("3:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("4:cpuset:/\n0::/", {}, 64),
    ],
)
def test_a_container_that_has_a_part_of_all_cores_counts_that_part(group, limits, cores, tmp_path, monkeypatch):
    files = {f"sys/fs/cgroup/{name}": limit for name, limit in limits.items()} | {"proc/self/cgroup": group}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    monkeypatch.setattr("lightning_sq.cores.ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64))
    assert usable_cores() == cores
