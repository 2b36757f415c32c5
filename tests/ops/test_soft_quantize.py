from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_sq.errors import InputError
from lightning_sq.ops.checks import check_thresholds
from lightning_sq.ops.pixels import check_pixels
from lightning_sq.ops.replace_backward import replace_backward
from lightning_sq.ops.soft_quantize import (
    hard_quantize,
    soft_quantize,
)
from lightning_sq.ops.staircases import FEW_LEVELS, TAIL_BOUND, num_terms_within
from lightning_sq.ops.thresholds import smallest_gap, uniform_thresholds

GRID = torch.linspace(0, 1, 1001, dtype=torch.float64)
STAIRCASES = ("sigmoid", "tanh")


def full_sum(x: torch.Tensor, thresholds: torch.Tensor, sharpness: float) -> torch.Tensor:
    """The definition, term by term."""
    return torch.sigmoid(sharpness * (x[..., None] - thresholds)).mean(-1)


@st.composite
def irregular_thresholds(draw, most: int = 40) -> torch.Tensor:
    """1 to `most` of 2000 places in (0, 1), often near to each other."""
    places = draw(st.sets(st.integers(1, 1999), min_size=1, max_size=most))
    return torch.tensor(sorted(places), dtype=torch.float64) / 2000


def test_two_levels_by_hand():
    x = torch.tensor([0.0, 0.5, 0.6, 1.0], dtype=torch.float64)
    expected = [1 / (1 + math.exp(5)), 0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-5))]
    assert soft_quantize(x, num_levels=2, sharpness=10.0).tolist() == pytest.approx(expected, abs=1e-12)


def test_three_levels_by_hand():
    # thresholds 1/4 and 3/4, step 1/2; at 1/4 the first sigmoid is 1/2 and the second sigma(-10)
    value = soft_quantize(torch.tensor([0.25], dtype=torch.float64), num_levels=3, sharpness=20.0).item()
    assert value == pytest.approx(0.5 * (0.5 + 1 / (1 + math.exp(10))), abs=1e-12)


@pytest.mark.parametrize("num_levels", [2, 3, 4, 8, 17, 24, 25, 64, 256])
@pytest.mark.parametrize("relative_sharpness", [0.01, 0.3, 0.999, 1.0, 5.0, 30.0, 500.0])
def test_what_is_summed_is_within_the_stated_bound_of_the_full_sum(num_levels, relative_sharpness):
    sharpness = relative_sharpness * (num_levels - 1)
    expected = full_sum(GRID, uniform_thresholds(num_levels), sharpness)
    for a in (sharpness, torch.tensor(sharpness, dtype=torch.float64)):
        value = soft_quantize(GRID, num_levels=num_levels, sharpness=a)
        assert (value - expected).abs().max() <= TAIL_BOUND


@given(st.integers(2, 300), st.floats(0.01, 1e5))
@example(FEW_LEVELS, FEW_LEVELS - 1.0)
@example(FEW_LEVELS + 1, 23.999999)
def test_the_bound_holds_for_every_sharpness(num_levels, sharpness):
    value = soft_quantize(GRID, num_levels=num_levels, sharpness=sharpness)
    assert (value - full_sum(GRID, uniform_thresholds(num_levels), sharpness)).abs().max() <= TAIL_BOUND


@given(irregular_thresholds(), st.floats(0.01, 1e5))
@example(torch.tensor([0.1, 0.2, 0.3, 0.8, 0.81, 0.9], dtype=torch.float64), 2000.0)
def test_the_bound_holds_for_irregular_thresholds_because_their_smallest_gap_sets_the_window(thresholds, sharpness):
    settings_ = {"num_levels": len(thresholds) + 1, "sharpness": sharpness, "thresholds": thresholds}
    expected = full_sum(GRID, thresholds, sharpness)
    windowed = soft_quantize(GRID, **settings_, smallest_gap=smallest_gap(thresholds))
    in_full = soft_quantize(GRID, **settings_)
    assert (windowed - expected).abs().max() <= TAIL_BOUND
    assert (in_full - expected).abs().max() <= 1e-12


def test_irregular_thresholds_are_summed_through_a_window_where_their_gap_allows_it():
    irregular = {"num_levels": 41, "sharpness": 4000.0}
    assert num_terms_within(TAIL_BOUND, **irregular, smallest_gap=0.02) == 1
    assert num_terms_within(TAIL_BOUND, **irregular, smallest_gap=0.0012) == 5
    assert num_terms_within(TAIL_BOUND, **irregular, smallest_gap=1e-6) == 40
    assert num_terms_within(TAIL_BOUND, **irregular, smallest_gap=0.0) == 40


def test_the_number_of_terms_does_not_grow_with_the_number_of_levels():
    terms = {k: num_terms_within(TAIL_BOUND, num_levels=k, sharpness=20.0 * (k - 1)) for k in (16, 64, 256, 4096)}
    assert max(terms.values()) <= 3
    assert num_terms_within(TAIL_BOUND, num_levels=FEW_LEVELS + 1, sharpness=float(FEW_LEVELS)) < FEW_LEVELS


@pytest.mark.parametrize("staircase", STAIRCASES)
@pytest.mark.parametrize("num_levels", [2, 3, 5, 16, 100])
def test_soft_tends_to_hard_as_sharpness_grows(num_levels, staircase):
    away = (GRID * (num_levels - 1) % 1 - 0.5).abs() > 0.05  # on a threshold the two differ for ever
    errors = [
        (
            soft_quantize(GRID, num_levels=num_levels, sharpness=a * (num_levels - 1), staircase=staircase)
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


@given(irregular_thresholds(), st.floats(0.5, 1e4), st.floats(0.01, 0.2))
@example(torch.tensor([0.071], dtype=torch.float64), 3345.0, 0.010000000000000002)  # rounding of 1 is seen
def test_soft_tends_to_hard_away_from_given_thresholds(thresholds, sharpness, distance):
    num_levels = len(thresholds) + 1
    away = (GRID[:, None] - thresholds).abs().amin(1) > distance
    hard = hard_quantize(GRID, num_levels=num_levels, thresholds=thresholds)
    soft = soft_quantize(GRID, num_levels=num_levels, sharpness=sharpness, thresholds=thresholds)
    rounding = num_levels * torch.finfo(torch.float64).eps
    assert ((soft - hard).abs()[away] <= math.exp(-sharpness * distance) * (1 + 1e-9) + rounding).all()


@given(irregular_thresholds(), st.floats(0.5, 1e5), st.lists(st.floats(0, 1), min_size=2, max_size=30), st.booleans())
@pytest.mark.parametrize("staircase", STAIRCASES)
def test_soft_quantize_is_monotone_and_in_range(staircase, thresholds, sharpness, values, uniform):
    x = torch.tensor(sorted(values), dtype=torch.float64)
    given_ = {} if uniform else {"thresholds": thresholds, "smallest_gap": smallest_gap(thresholds)}
    y = soft_quantize(x, num_levels=len(thresholds) + 1, sharpness=sharpness, staircase=staircase, **given_)
    assert (y.diff() >= (-TAIL_BOUND if staircase == "sigmoid" else -1e-12)).all()
    assert y.min() >= 0
    assert y.max() <= 1


@given(st.integers(2, 300), st.floats(0.1, 1e5), st.sampled_from([torch.float32, torch.float64]))
def test_the_tanh_staircase_meets_every_level_exactly_and_half_levels_on_the_thresholds(num_levels, sharpness, dtype):
    levels = torch.arange(num_levels, dtype=torch.float64) / (num_levels - 1)
    for x in (levels, uniform_thresholds(num_levels)):
        y = soft_quantize(x.to(dtype), num_levels=num_levels, sharpness=sharpness, staircase="tanh")
        steepest = max(1.0, sharpness / 4 / (num_levels - 1))  # how much of the rounding of x comes through
        assert (y - x).abs().max() <= 4 * steepest * torch.finfo(dtype).eps


def test_the_tanh_staircase_by_hand():
    # cell 2 of 3 levels is [1/2, 1] around 3/4; sharpness 8 is a' = 4, and a' d / 2 = 1
    value = soft_quantize(torch.tensor([0.65], dtype=torch.float64), num_levels=3, sharpness=8.0, staircase="tanh")
    assert value.item() == pytest.approx(0.75 + 0.25 * math.tanh(-0.4) / math.tanh(1), abs=1e-12)


def test_a_cell_of_the_tanh_staircase_ends_half_way_between_given_thresholds():
    thresholds = torch.tensor([0.2, 0.3, 0.9], dtype=torch.float64)
    x = torch.tensor([0.0, 0.2, 0.25, 0.3, 0.6, 0.9, 1.0], dtype=torch.float64)
    y = soft_quantize(x, num_levels=4, sharpness=20.0, staircase="tanh", thresholds=thresholds)
    assert (3 * y).tolist() == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3], abs=1e-12)
    inside = soft_quantize(
        torch.tensor([0.7], dtype=torch.float64), num_levels=4, sharpness=20.0, staircase="tanh", thresholds=thresholds
    )
    assert 3 * inside.item() == pytest.approx(2.5 - 0.5 * math.tanh(10 * 0.2) / math.tanh(10 * 0.3), abs=1e-12)


@pytest.mark.parametrize("num_levels", [2, 5, 16])
def test_the_two_staircases_have_the_same_slope_scale(num_levels):
    sharpness = 40.0 * (num_levels - 1)
    both = [soft_quantize(GRID, num_levels=num_levels, sharpness=sharpness, staircase=s) for s in STAIRCASES]
    assert (both[0] - both[1]).abs().max() < 1e-8


@given(st.integers(2, 300), st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30))
def test_rounding_twice_is_rounding_once(num_levels, values):
    once = hard_quantize(torch.tensor(values), num_levels=num_levels)
    assert torch.equal(hard_quantize(once, num_levels=num_levels), once)


@pytest.mark.parametrize("staircase", STAIRCASES)
@pytest.mark.parametrize(("num_levels", "sharpness"), [(2, 30.0), (5, 60.0), (16, 400.0), (64, 3000.0)])
def test_given_thresholds_that_are_uniform_change_nothing(staircase, num_levels, sharpness):
    thresholds = uniform_thresholds(num_levels)
    plain = soft_quantize(GRID, num_levels=num_levels, sharpness=sharpness, staircase=staircase)
    for gap in (0.0, smallest_gap(thresholds)):
        same = soft_quantize(
            GRID,
            num_levels=num_levels,
            sharpness=sharpness,
            staircase=staircase,
            thresholds=thresholds,
            smallest_gap=gap,
        )
        assert (plain - same).abs().max() <= (2 * TAIL_BOUND if staircase == "sigmoid" else 1e-12)
    off = GRID[(GRID * (num_levels - 1) % 1 - 0.5).abs() > 1e-9]
    hard = hard_quantize(off, num_levels=num_levels, thresholds=thresholds)
    assert torch.equal(hard, hard_quantize(off, num_levels=num_levels))


@pytest.mark.parametrize("sharpness", [50.0, 3000.0])
@pytest.mark.parametrize("staircase", STAIRCASES)
def test_each_channel_has_its_own_thresholds(staircase, sharpness):
    thresholds = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.3, 0.6, 0.9]])
    x = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    for images in (x, x.contiguous(memory_format=torch.channels_last)):
        both = {"num_levels": 4, "sharpness": sharpness, "staircase": staircase, "smallest_gap": 0.09}
        y = soft_quantize(images, thresholds=thresholds, **both)
        hard = hard_quantize(images, num_levels=4, thresholds=thresholds)
        for channel, row in enumerate(thresholds):
            alone = images[:, channel]
            assert torch.allclose(y[:, channel], soft_quantize(alone, thresholds=row, **both), atol=1e-7)
            assert torch.equal(hard[:, channel], hard_quantize(alone, num_levels=4, thresholds=row))


def test_a_pixel_on_a_given_threshold_goes_up():
    x = torch.tensor([0.25, 0.75])
    assert hard_quantize(x, num_levels=3, thresholds=x).tolist() == [0.5, 1.0]
    assert hard_quantize(x, num_levels=3).tolist() == [0.0, 1.0]  # to even, as torch.round


def test_thresholds_for_other_channels_are_refused():
    thresholds = torch.tensor([[0.2], [0.5], [0.8]])
    for shape in [(1, 1, 4, 4), (4, 4)]:
        with pytest.raises(InputError, match=r"thresholds for 3 channels.*4, 4"):
            soft_quantize(torch.zeros(shape), num_levels=2, sharpness=9.0, thresholds=thresholds)


@pytest.mark.parametrize("staircase", STAIRCASES)
@pytest.mark.parametrize(("num_levels", "sharpness"), [(2, 8.0), (5, 40.0), (16, 300.0), (30, 20.0)])
def test_gradcheck(num_levels, sharpness, staircase):
    x = torch.rand(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def quantize(v: torch.Tensor) -> torch.Tensor:
        return soft_quantize(v, num_levels=num_levels, sharpness=sharpness, staircase=staircase)

    assert torch.autograd.gradcheck(quantize, x)
    assert torch.autograd.gradgradcheck(quantize, x)


@pytest.mark.parametrize("staircase", STAIRCASES)
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_gradients_of_thresholds_and_sharpness_agree_with_finite_differences(staircase, shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 2, 3, 4, dtype=torch.float64, generator=generator).requires_grad_()
    thresholds = torch.rand(shape, dtype=torch.float64, generator=generator).sort(-1).values.requires_grad_()
    sharpness = torch.tensor(25.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v, t, a: soft_quantize(v, num_levels=4, sharpness=a, staircase=staircase, thresholds=t),
        (x, thresholds, sharpness),
    )


@pytest.mark.parametrize("num_levels", [4, 30])
@pytest.mark.parametrize("relative_sharpness", [0.7, 5.0])
def test_the_gradient_of_a_learnt_sharpness_is_the_same_in_every_form(num_levels, relative_sharpness):
    a = torch.tensor(relative_sharpness * (num_levels - 1), dtype=torch.float64, requires_grad=True)
    x = GRID[::50]
    assert torch.autograd.gradcheck(lambda a: soft_quantize(x, num_levels=num_levels, sharpness=a), a)
    (gradient,) = torch.autograd.grad(soft_quantize(x, num_levels=num_levels, sharpness=a).square().sum(), a)
    (expected,) = torch.autograd.grad(full_sum(x, uniform_thresholds(num_levels), a).square().sum(), a)
    assert gradient.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("staircase", STAIRCASES)
@pytest.mark.parametrize("x", [0.7, 0.9, 1.0])
def test_the_gradient_is_exact_where_autograd_of_sigmoid_and_tanh_gives_zero(staircase, x):
    x = torch.tensor([x], requires_grad=True)
    (gradient,) = torch.autograd.grad(soft_quantize(x, num_levels=2, sharpness=100.0, staircase=staircase).sum(), x)
    z = 100.0 * (x.detach().double() - 0.5)
    expected = 100.0 * torch.sigmoid(z) * torch.sigmoid(-z)  # the tanh staircase's s is 1 + 4e-22 here
    assert gradient.item() == pytest.approx(expected.item(), rel=1e-4)
    naive = torch.sigmoid(100 * (x - 0.5)) if staircase == "sigmoid" else torch.tanh(50 * (x - 0.5))
    if x > 0.8:  # why the layer does it otherwise
        assert torch.autograd.grad(naive.sum(), x)[0] == 0.0


@pytest.mark.parametrize("staircase", STAIRCASES)
@pytest.mark.parametrize("num_levels", [2, 3, 16, 64, 256])
@pytest.mark.parametrize("given_thresholds", [False, True])
def test_no_pixel_loses_its_gradient_at_sharpness_100(staircase, num_levels, given_thresholds):
    x = torch.linspace(0, 1, 2001).requires_grad_()
    thresholds = uniform_thresholds(num_levels).square() if given_thresholds else None
    y = soft_quantize(x, num_levels=num_levels, sharpness=100.0, staircase=staircase, thresholds=thresholds)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert (gradient > 0).all()


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


@pytest.mark.parametrize("num_levels", [1, 0, -3, 2.5, True, math.nan, None, "2", 1e9])
def test_a_number_of_levels_that_cannot_be_is_refused(num_levels):
    with pytest.raises(InputError, match=f"num_levels={num_levels}"):
        soft_quantize(torch.zeros(1), num_levels=num_levels, sharpness=1.0)


@pytest.mark.parametrize("sharpness", [0.0, -1.0, math.inf, math.nan, "30", None])
def test_a_sharpness_that_cannot_be_is_refused(sharpness):
    with pytest.raises(InputError, match="sharpness="):
        soft_quantize(torch.zeros(1), num_levels=2, sharpness=sharpness)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integers_are_no_intensities(dtype):
    images = torch.ones(1, 3, 2, 2).to(dtype)
    with pytest.raises(InputError, match=r"The intensities are torch\..*Divide uint8 by 255"):
        soft_quantize(images, num_levels=4, sharpness=30.0)
    with pytest.raises(InputError, match=r"The intensities are torch\..*Divide uint8 by 255"):
        hard_quantize(images, num_levels=4)


def test_a_staircase_that_is_not_known_is_refused():
    with pytest.raises(InputError, match=r"'erf' is not one of sigmoid, tanh"):
        soft_quantize(torch.zeros(1), num_levels=2, sharpness=1.0, staircase="erf")


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ([0.2, 0.4, 0.6, 0.8], r"shape \(4,\), and 4 levels have 3"),
        ([], r"shape \(0,\)"),
        (0.5, r"shape \(\)"),
        ([[0.2, 0.4], [0.3, 0.5]], r"shape \(2, 2\)"),
        ([0.2, 0.6, 0.4], r"0\.4 comes after 0\.6"),
        ([[0.2, 0.4, 0.6], [0.2, 0.4, 0.4]], r"0\.4 comes after 0\.4"),
        ([0.0, 0.4, 0.6], r"threshold 0 is not between"),
        ([64, 128, 192], r"threshold 64 is not between.*255"),
        ([0.2, math.nan, 0.6], r"threshold nan is not between"),
        ([[0.2, 0.4, 0.6], [0.2]], r"neither a list of numbers"),
        (["a", "b", "c"], r"neither a list of numbers"),
    ],
)
def test_thresholds_that_cannot_be_are_refused(thresholds, message):
    with pytest.raises(InputError, match=message):
        check_thresholds(thresholds, num_levels=4)


def test_pixels_pass_as_they_are():
    for images in (torch.rand(2, 3, 4, 4), torch.zeros(0, 3, 4, 4), torch.tensor([-1e-6, 1 + 1e-6])):
        assert check_pixels(images) is images


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.tensor([0.0, 255.0]), r"in \[0, 255\].*Divide by 255"),
        (torch.zeros(2, dtype=torch.uint8), r"torch\.uint8.*Divide uint8 by 255"),
        (torch.tensor([-2.1, 2.6]), r"in \[-2\.1, 2\.6\].*already normalised.*the model normalises"),
        (torch.tensor([0.3, 1.1]), r"in \[0\.3, 1\.1\].*Clip"),
        (torch.tensor([0.3, math.nan]), r"NaN or infinite"),
        (torch.tensor([0.3, math.inf]), r"NaN or infinite"),
    ],
)
def test_images_that_are_no_pixels_are_refused_with_the_likely_cause(pixels, message):
    with pytest.raises(InputError, match=rf"^Pixels in the first training batch.*{message}"):
        check_pixels(pixels, where="the first training batch")


@pytest.mark.parametrize("thresholds", [None, torch.tensor([0.3, 0.6])], ids=["uniform", "given"])
def test_the_derivative_of_the_hard_quantizer_is_0_and_not_missing(thresholds):
    x = torch.rand(5, requires_grad=True)
    (gradient,) = torch.autograd.grad(hard_quantize(x, num_levels=3, thresholds=thresholds).sum(), x)
    assert torch.equal(gradient, torch.zeros(5))
