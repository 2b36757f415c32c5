from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_sq.errors import InputError
from lightning_sq.ops.soft_quantize import (
    TAIL_BOUND,
    hard_quantize,
    num_terms_within,
    replace_backward,
    soft_quantize,
)

GRID = torch.linspace(0, 1, 1001, dtype=torch.float64)


def full_sum(x: torch.Tensor, num_levels: int, sharpness: float) -> torch.Tensor:
    """The definition, term by term."""
    step = 1 / (num_levels - 1)
    return step * sum(torch.sigmoid(sharpness * (x - (k - 0.5) * step)) for k in range(1, num_levels))


def test_two_levels_by_hand():
    x = torch.tensor([0.0, 0.5, 0.6, 1.0], dtype=torch.float64)
    expected = [1 / (1 + math.exp(5)), 0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-5))]
    assert soft_quantize(x, num_levels=2, sharpness=10.0).tolist() == pytest.approx(expected, abs=1e-12)


def test_three_levels_by_hand():
    # thresholds 1/4 and 3/4, step 1/2; at 1/4 the first sigmoid is 1/2 and the second sigma(-10)
    value = soft_quantize(torch.tensor([0.25], dtype=torch.float64), num_levels=3, sharpness=20.0).item()
    assert value == pytest.approx(0.5 * (0.5 + 1 / (1 + math.exp(10))), abs=1e-12)


@pytest.mark.parametrize("num_levels", [2, 3, 4, 8, 17, 64, 256])
@pytest.mark.parametrize("relative_sharpness", [0.3, 1.0, 5.0, 30.0, 500.0])
def test_the_windowed_sum_is_within_the_stated_bound_of_the_full_sum(num_levels, relative_sharpness):
    sharpness = relative_sharpness * (num_levels - 1)
    error = (
        soft_quantize(GRID, num_levels=num_levels, sharpness=sharpness) - full_sum(GRID, num_levels, sharpness)
    ).abs()
    assert error.max() <= TAIL_BOUND


def test_the_number_of_terms_does_not_grow_with_the_number_of_levels():
    terms = {k: num_terms_within(TAIL_BOUND, num_levels=k, sharpness=20.0 * (k - 1)) for k in (16, 64, 256, 4096)}
    assert max(terms.values()) <= 3


@pytest.mark.parametrize("num_levels", [2, 3, 5, 16])
def test_soft_tends_to_hard_as_sharpness_grows(num_levels):
    away = (GRID * (num_levels - 1) % 1 - 0.5).abs() > 0.05  # on a threshold the two differ for ever
    errors = [
        (
            soft_quantize(GRID, num_levels=num_levels, sharpness=a * (num_levels - 1))
            - hard_quantize(GRID, num_levels=num_levels)
        )
        .abs()[away]
        .max()
        .item()
        for a in (10, 100, 1000)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6


def test_hard_quantize_rounds_to_equally_spaced_levels():
    x = torch.tensor([0.0, 0.1, 0.2, 0.4, 0.6, 1.0])
    assert hard_quantize(x, num_levels=4).tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 1])


@given(st.integers(2, 40), st.floats(0.5, 2000), st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_soft_quantize_is_monotone_and_in_range(num_levels, sharpness, values):
    x = torch.tensor(sorted(values), dtype=torch.float64)
    y = soft_quantize(x, num_levels=num_levels, sharpness=sharpness)
    assert (y.diff() >= -TAIL_BOUND).all()
    assert y.min() >= 0
    assert y.max() <= 1


@pytest.mark.parametrize(("num_levels", "sharpness"), [(2, 8.0), (5, 40.0), (16, 300.0)])
def test_gradcheck(num_levels, sharpness):
    x = torch.rand(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: soft_quantize(v, num_levels=num_levels, sharpness=sharpness), x)
    assert torch.autograd.gradgradcheck(lambda v: soft_quantize(v, num_levels=num_levels, sharpness=sharpness), x)


def test_the_gradient_is_exact_where_autograd_of_the_sigmoid_gives_zero():
    x = torch.tensor([0.7, 0.9], requires_grad=True)
    (gradient,) = torch.autograd.grad(soft_quantize(x, num_levels=2, sharpness=100.0).sum(), x)
    (naive,) = torch.autograd.grad(torch.sigmoid(100.0 * (x - 0.5)).sum(), x)
    z = 100.0 * (x.detach().double() - 0.5)
    expected = 100.0 * torch.sigmoid(z) * torch.sigmoid(-z)
    assert naive[1] == 0.0  # why the layer does it otherwise
    assert gradient.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_half_precision_is_computed_in_float32():
    x = torch.linspace(0, 1, 256).half()
    y = soft_quantize(x, num_levels=8, sharpness=200.0)
    assert y.dtype == torch.float16
    assert (y - soft_quantize(x.float(), num_levels=8, sharpness=200.0).half()).abs().max() == 0


def test_replace_backward_keeps_the_value_and_takes_the_derivative_of_the_proxy():
    x = torch.tensor([0.2, 0.8], requires_grad=True)
    y = replace_backward(hard_quantize(x, num_levels=2), 3 * x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == [0.0, 1.0]
    assert gradient.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("num_levels", [1, 0, -3, 2.5, True])
def test_a_number_of_levels_that_cannot_be_is_refused(num_levels):
    with pytest.raises(InputError, match=f"num_levels={num_levels}"):
        soft_quantize(torch.zeros(1), num_levels=num_levels, sharpness=1.0)


@pytest.mark.parametrize("sharpness", [0.0, -1.0, math.inf, math.nan])
def test_a_sharpness_that_cannot_be_is_refused(sharpness):
    with pytest.raises(InputError, match="sharpness="):
        soft_quantize(torch.zeros(1), num_levels=2, sharpness=sharpness)
