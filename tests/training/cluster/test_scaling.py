"""The model of a run's time, in closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_sq.training.cluster.scaling import Network, Work, all_reduce_seconds, plan_row, step_seconds

NETWORK = Network(bandwidth=10e9, bandwidth_inside=100e9, latency=1e-3, overlap=0.5)
WORK = Work(num_images=1000, num_validation_images=300, epochs=3, batch_size=10, gradient_bytes=10**9)


def test_a_ring_moves_almost_twice_the_bytes_over_the_slowest_link():
    assert all_reduce_seconds(1e9, nodes=1, per_node=1, network=NETWORK) == 0
    assert all_reduce_seconds(1e9, nodes=1, per_node=2, network=NETWORK) == pytest.approx(0.01 + 0.001)
    assert all_reduce_seconds(1e9, nodes=2, per_node=2, network=NETWORK) == pytest.approx(2 * 0.75 * 0.1 + 0.002)


def test_an_all_reduce_hides_behind_its_share_of_the_backward_pass():
    fast = step_seconds(WORK, nodes=2, per_node=1, images_per_second=5.0, network=NETWORK)  # two seconds of arithmetic
    assert fast == pytest.approx(2 + 0.001)
    slow = step_seconds(WORK, nodes=2, per_node=1, images_per_second=100.0, network=NETWORK)
    assert slow == pytest.approx(0.1 + (0.1 + 0.001 - 0.5 * 2 / 3 * 0.1) + 0.001)


def test_a_step_that_gathers_batches_reduces_once_and_agrees_behind_each():
    gathers = replace(WORK, accumulate=3)
    seconds = step_seconds(gathers, nodes=2, per_node=1, images_per_second=5.0, network=NETWORK)
    assert seconds == pytest.approx(3 * (2 + 0.001))


def test_a_run_on_one_process_takes_its_images_over_its_speed():
    row = plan_row(WORK, nodes=1, per_node=1, images_per_second=100.0, network=NETWORK)
    assert row["steps"] == 300
    assert row["hours"] == pytest.approx((3 * 1000 / 100 + 3 * 300 / 300) / 3600)
    assert row["efficiency"] == pytest.approx(1)
    many = plan_row(WORK, nodes=2, per_node=4, images_per_second=100.0, network=NETWORK)
    assert many["global_batch_size"] == 80
    assert many["steps"] == 3 * 13
    assert many["gpu_hours"] == pytest.approx(8 * many["hours"])
    assert many["efficiency"] < 1


@pytest.mark.parametrize(
    ("every_n_epochs", "interval", "steps", "validations"),
    [
        (1, None, 12, 2),
        (1, 1.0, 11, 1),  # the last epoch does not come to its end
        (1, 0.5, 12, 4),
        (1, 0.5, 9, 3),
        (1, 4, 12, 2),  # as `tests/end_to_end/test_loops.py` has it of a fit
        (None, 4, 12, 3),
        (1, 0.01, 12, 12),
        (2, 1.0, 18, 1),
        (2, 0.5, 9, 1),
        (2, 0.5, 15, 2),
        (4, 1.0, 18, 0),
    ],
)
def test_validations_come_as_often_as_a_recipe_says(every_n_epochs, interval, steps, validations):
    work = replace(WORK, check_val_every_n_epoch=every_n_epochs, val_check_interval=interval)
    assert work.num_validations(steps, steps_per_epoch=6, batches=6) == validations


def test_validations_are_counted_in_batches_where_steps_gather_several():
    work = replace(WORK, accumulate=4, val_check_interval=2)
    assert work.num_validations(2, steps_per_epoch=2, batches=6) == 3
    assert work.num_validations(3, steps_per_epoch=2, batches=6) == 3 + 2
