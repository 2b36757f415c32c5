from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_sq.data.order import EpochOrder
from lightning_sq.errors import InputError
from lightning_sq.types import PADDING_INDEX

sizes = {"num_images": st.integers(1, 200), "batch_size": st.integers(1, 40), "world_size": st.integers(1, 9)}


def ranks(num_images: int, batch_size: int, world_size: int, **options) -> list[np.ndarray]:
    return [EpochOrder(num_images, batch_size, world_size, rank, **options).epoch(3) for rank in range(world_size)]


@given(**sizes)
def test_validation_sees_every_image_exactly_once(num_images, batch_size, world_size):
    seen = np.concatenate([order.ravel() for order in ranks(num_images, batch_size, world_size)])
    assert sorted(seen[seen != PADDING_INDEX].tolist()) == list(range(num_images))


@given(**sizes)
def test_training_sees_every_image_up_to_the_padding_of_the_last_batch(num_images, batch_size, world_size):
    orders = ranks(num_images, batch_size, world_size, shuffle=True, pad_by_repeating=True)
    seen = np.concatenate([order.ravel() for order in orders])
    assert set(seen.tolist()) == set(range(num_images))
    assert len(seen) - num_images < batch_size * world_size


@given(**sizes)
def test_all_ranks_have_the_same_number_of_full_batches(num_images, batch_size, world_size):
    shapes = {order.shape for order in ranks(num_images, batch_size, world_size)}
    assert len(shapes) == 1
    assert shapes.pop()[1] == batch_size


@given(num_images=st.integers(1, 300), half=st.integers(1, 16))
def test_a_step_of_two_processes_sees_what_a_step_of_one_does(num_images, half):
    options = {"shuffle": True, "pad_by_repeating": True, "seed": 7}
    one = ranks(num_images, 2 * half, 1, **options)[0]
    two = np.concatenate(ranks(num_images, half, 2, **options), axis=1)
    assert [sorted(step) for step in one.tolist()] == [sorted(step) for step in two.tolist()]


@given(num_images=st.integers(1, 60), repeats=st.integers(1, 5))
def test_repeated_batches_come_one_after_the_other(num_images, repeats):
    once, often = (EpochOrder(num_images, 8, shuffle=True, pad_by_repeating=True, repeats=r) for r in (1, repeats))
    assert often.num_batches == repeats * once.num_batches
    assert np.array_equal(often.epoch(2)[::repeats], once.epoch(2))
    assert np.array_equal(often.epoch(2)[repeats - 1 :: repeats], once.epoch(2))


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    order = EpochOrder(100, 10, shuffle=True, seed=1)
    assert not np.array_equal(order.epoch(0), order.epoch(1))
    assert np.array_equal(order.epoch(1), EpochOrder(100, 10, shuffle=True, seed=1).epoch(1))
    other = EpochOrder(100, 10, shuffle=True, seed=2)
    assert not np.array_equal(order.epoch(0), other.epoch(0))
    assert not np.array_equal(order.epoch(1), other.epoch(0))  # not of their sum


def test_every_rank_sees_all_classes_of_a_sorted_index():
    labels = np.repeat(np.arange(10), 50)
    for order in ranks(500, 25, 4, shuffle=True, pad_by_repeating=True):
        assert len(set(labels[order.ravel()].tolist())) == 10


def test_a_batch_or_a_rank_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="batch_size_per_device=0"):
        EpochOrder(10, 0)
    with pytest.raises(InputError, match="rank=2"):
        EpochOrder(10, 1, world_size=2, rank=2)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_no_generator_takes_is_refused(seed):
    with pytest.raises(InputError, match=r"seed=-?\d+ is not in \[0, 2\*\*64\)"):
        EpochOrder(10, 1, shuffle=True, seed=seed)
