"""A checkpoint of other batches becomes one of the beginning of its epoch."""

from __future__ import annotations

import pytest

from lightning_sq.models.checkpoint_format import CHECKPOINT_KEY
from lightning_sq.training.resume.begin_epoch_again import begin_epoch_again


@pytest.mark.parametrize(("limited", "position"), [(False, 3.0), (True, 6.0)])
def test_a_schedule_that_a_time_limit_has_brought_ahead_of_its_epochs_stays_ahead(limited, position):
    """Two epochs of four steps by the schedule, when one has been trained; with other batches an epoch has three."""
    batches = {"batch_size_per_device": 30, "num_processes": 1, "accumulate_grad_batches": 1}
    plan = {"position": 8.0, "steps_per_epoch": 4.0}
    counts = {"ready": 1, "processed": 1}
    checkpoint = {
        CHECKPOINT_KEY: {"resume": {"settings": batches, "plan": plan}},
        "global_step": 5,
        "callbacks": {},
        "optimizer_states": [{"param_groups": [{"initial_lr": 0.1}]}],
        "lr_schedulers": [{"base_lrs": [0.1]}],
        "loops": {
            "fit_loop": {
                "epoch_progress": {"total": dict(counts), "current": dict(counts)},
                "epoch_loop.batch_progress": {"total": {"ready": 5, "processed": 4}, "current": dict(counts)},
                "epoch_loop.state_dict": {},
            }
        },
    }
    begin_epoch_again(checkpoint, batches | {"batch_size_per_device": 40}, steps_per_epoch=3, limited=limited)
    assert plan["position"] == position
    loops = checkpoint["loops"]["fit_loop"]
    assert loops["epoch_loop.batch_progress"]["total"] == {"ready": 5, "processed": 5}
    assert not any(loops["epoch_loop.batch_progress"]["current"].values())
    assert checkpoint["lr_schedulers"][0]["base_lrs"] == pytest.approx([0.1 * 4 / 3])
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["initial_lr"] == pytest.approx(0.1 * 4 / 3)
