"""Random states that are saved and put back."""

from __future__ import annotations

import warnings

import pytest
import torch

from lightning_sq.layers import PixelNoise
from lightning_sq.training.cluster.agreement import from_every_rank
from lightning_sq.training.resume.random_state import put_back_torch, random_streams

GREY = torch.full((1, 3, 4, 4), 0.5)
CPU = torch.device("cpu")


def test_torch_draws_on_where_it_was():
    torch.rand(3)
    (streams,) = from_every_rank(random_streams(None, CPU), world_size=1)
    expected = torch.rand(5)
    put_back_torch(streams, CPU)
    assert torch.equal(torch.rand(5), expected)


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
