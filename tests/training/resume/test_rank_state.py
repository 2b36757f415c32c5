"""What each process saves, and has put back."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from lightning_sq.layers import PixelNoise
from lightning_sq.training.resume.rank_state import put_back_rank_state, rank_state
from lightning_sq.training.run_state import RunState

GREY = torch.full((1, 3, 4, 4), 0.5)


def process() -> SimpleNamespace:
    """As much of a `ClassifierModule` as is saved of each process."""
    counted = MulticlassAccuracy(2, average="micro")
    return SimpleNamespace(
        device=torch.device("cpu"),
        objective=SimpleNamespace(random_state=None),
        train_top1=counted,
        run=RunState(),
    )


def test_torch_draws_on_where_it_was_and_the_epochs_count_is_as_it_was():
    before, after = process(), process()
    before.objective.random_state = torch.tensor([7])
    before.train_top1(torch.tensor([1, 1, 0]), torch.tensor([1, 0, 0]))
    torch.rand(3)
    after.run.rank_state = rank_state(before)
    expected = torch.rand(5)
    put_back_rank_state(after)
    assert torch.equal(torch.rand(5), expected)
    assert after.train_top1.compute() == pytest.approx(2 / 3)
    assert after.objective.random_state.tolist() == [7]


def test_it_is_put_back_once():
    module = process()
    module.run.rank_state = rank_state(module)
    put_back_rank_state(module)
    drawn = torch.rand(5)
    put_back_rank_state(module)
    assert not torch.equal(torch.rand(5), drawn)


def resumed_elsewhere(state: torch.Tensor, rank: int = 0) -> PixelNoise:
    noise = PixelNoise("uniform", 0.2)
    noise.seed(0, rank)
    noise.generator_state = state
    return noise


def test_noise_of_another_kind_of_device_goes_on_with_a_new_stream_and_says_so_once():
    state = torch.arange(16, dtype=torch.uint8)  # as long as a GPU's
    first = resumed_elsewhere(state)
    with pytest.warns(UserWarning, match="another kind of device"):
        drawn = first(GREY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first(GREY)
        assert torch.equal(resumed_elsewhere(state, rank=1)(GREY), drawn)  # by the state; rank 0 alone warns
        assert not torch.equal(resumed_elsewhere(state + 1, rank=1)(GREY), drawn)
    fresh = PixelNoise("uniform", 0.2)
    fresh.seed(0)
    assert not torch.equal(fresh(GREY), drawn)
