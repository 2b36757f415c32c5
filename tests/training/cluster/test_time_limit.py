"""A schedule that reaches its end on time, in closed form and over simulated runs."""

from __future__ import annotations

import random

import pytest
import torch

from lightning_sq.errors import InputError
from lightning_sq.training import run_state
from lightning_sq.training.cluster.time_limit import TimePlan, parse_time_limit

LIMIT, TOTAL, PER_EPOCH = 48 * 60.0, 12000, 500


def test_a_time_limit_is_written_as_slurm_writes_it():
    assert parse_time_limit(None) is None
    assert parse_time_limit("48:00:00") == parse_time_limit("2-00:00:00") == 172800
    assert parse_time_limit("00:01:05") == 65
    for text in ("48", "0:00:00", "1:60:00", "two days"):
        with pytest.raises(InputError, match="time_limit="):
            parse_time_limit(text)


def test_without_a_limit_or_with_time_enough_a_step_goes_one_forward():
    for plan in (TimePlan(None, 10, 5), TimePlan(1000.0, 10, 5, step_seconds=1.0)):
        for step in range(10):
            assert plan.position == step
            plan.take(plan.propose(step * 1.0))
        assert plan.finished


def test_with_half_the_time_every_step_goes_two_forward():
    plan = TimePlan(100.0 / 0.995, 200, 1000, step_seconds=1.0)
    for step in range(100):
        assert not plan.finished
        assert plan.position == pytest.approx(2 * step)
        plan.take(plan.propose(float(step)))
    assert plan.finished


def test_validations_and_the_last_checkpoint_have_their_time():
    plan = TimePlan(1000.0, 10**6, 10, step_seconds=1.0, validation_seconds=5.0, checkpoint_seconds=3.0)
    assert plan.steps_that_fit(0.0) == pytest.approx((995 - 5 - 3) / 1.5)


def test_the_slowest_process_decides_for_all(monkeypatch):
    plan = TimePlan(51.0, 100, 10, step_seconds=1.0)
    assert plan.propose(0.0) == 50
    others = torch.tensor([0, 0, 0, -20])  # has no broken loss, is not to stop or to save, sees time for 20 steps
    monkeypatch.setattr(run_state, "largest_of_all", lambda own: own.maximum(others).tolist())
    monkeypatch.setattr(run_state, "seconds_since_start", lambda: 0.0)
    run = run_state.RunState(plan=plan)
    assert run.agree(torch.tensor(1.0), rank=0) is None
    plan.take(run.possible_steps)
    assert plan.position == 5


def simulate(seed: int) -> tuple[float, TimePlan]:
    """(seconds in all, plan) of a run whose nodes slow down, and which is preempted, or killed between checkpoints."""
    draw = random.Random(seed)
    elapsed, saved, slowness = 0.0, None, draw.uniform(0.8, 1.5)
    step_seconds, validation = draw.uniform(0.2, 0.4), draw.uniform(4.0, 12.0)
    plan = TimePlan(LIMIT, TOTAL, PER_EPOCH)
    while True:
        elapsed += draw.uniform(8.0, 25.0)  # the start of the processes
        plan = TimePlan(LIMIT, TOTAL, PER_EPOCH, **(saved or {}))
        end = elapsed + draw.expovariate(1 / 500)
        taken, killed = 0, draw.random() < 0.5
        while not plan.finished and elapsed < end:
            plan.take(plan.propose(elapsed))
            duration = step_seconds * slowness * draw.lognormvariate(0, 0.3)
            elapsed, taken = elapsed + duration, taken + 1
            if taken > 3:
                plan.note_step(duration)
            if taken % PER_EPOCH == 0 or plan.finished:
                plan.validation_seconds = validation * slowness * draw.uniform(0.9, 1.1)
                elapsed += plan.validation_seconds
            if taken % 100 == 0:
                saved = plan.state_dict()
        if plan.finished:
            return elapsed, plan
        if not killed:
            saved = plan.state_dict()
        slowness = draw.uniform(0.8, 1.5)  # other nodes


@pytest.mark.parametrize("seed", range(20))
def test_a_run_that_slows_down_and_is_preempted_ends_within_two_per_cent_of_its_limit_with_its_schedule_complete(seed):
    elapsed, plan = simulate(seed)
    assert plan.position == pytest.approx(TOTAL)
    assert 0.98 * LIMIT <= elapsed <= LIMIT
