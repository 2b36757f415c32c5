"""How many cores a command plans with."""

from __future__ import annotations

import os

from lightning_sq.cores import usable_cores


def test_a_job_that_is_bound_to_some_cores_does_not_count_those_of_others(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 8})
    assert usable_cores() == 3
