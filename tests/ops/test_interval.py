from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional

from lightning_sq.layers import SoftQuantization
from lightning_sq.ops import interval
from lightning_sq.ops.interval import (
    Interval,
    batch_norm,
    conv2d,
    linear,
    margin_upper_bounds,
    non_decreasing,
    quantized_box,
    worst_case_logits,
)
from lightning_sq.ops.linf_ball import project

GENERATOR = torch.Generator().manual_seed(0)
ROUNDING = 1e-12  # of float64, in which all of this is computed


@pytest.fixture(autouse=True)
def _same_numbers():
    """Whatever other tests have drawn."""
    GENERATOR.manual_seed(0)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=GENERATOR)


def random_box(*shape: int) -> Interval:
    centre, radius = random(*shape), random(*shape).abs()
    return Interval(centre - radius, centre + radius)


def points(box: Interval, count: int = 60) -> list[torch.Tensor]:
    """Both ends, random corners, and random points of the inside."""
    shares = [torch.zeros_like(box.lower), torch.ones_like(box.lower)]
    shares += [torch.rand(box.lower.shape, dtype=torch.float64, generator=GENERATOR) for _ in range(count)]
    shares += [share.round() for share in shares[2:]]
    return [box.lower + share * (box.upper - box.lower) for share in shares]


def assert_within(value: torch.Tensor, box: Interval) -> None:
    assert (value >= box.lower - ROUNDING).all()
    assert (value <= box.upper + ROUNDING).all()


def test_a_linear_layer_by_hand():
    # x in [0, 1] x [1, 3]: x1 - 2 x2 + 5 in [-1, 4], 3 x1 + x2 in [1, 6]
    box = Interval(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 3.0]]))
    out = linear(box, torch.tensor([[1.0, -2.0], [3.0, 1.0]]), torch.tensor([5.0, 0.0]))
    assert out.lower.tolist() == [[-1.0, 1.0]]
    assert out.upper.tolist() == [[4.0, 6.0]]


def test_batch_norm_by_hand():
    # (x - 1) / 2 * (-4) + 3 is 5 - 2x, on [0, 2] in [1, 5]; the second channel is x / 0.5 on [-1, 1]
    box = Interval(torch.tensor([[0.0, -1.0]]), torch.tensor([[2.0, 1.0]]))
    statistics = torch.tensor([1.0, 0.0]), torch.tensor([4.0, 0.25])
    out = batch_norm(box, *statistics, torch.tensor([-4.0, 1.0]), torch.tensor([3.0, 0.0]), eps=0.0)
    assert out.lower.tolist() == [[1.0, -2.0]]
    assert out.upper.tolist() == [[5.0, 2.0]]


def test_the_bounds_of_a_linear_layer_are_reached_at_corners():
    box, weight, bias = random_box(1, 6), random(4, 6), random(4)
    corners = torch.stack([torch.where(torch.tensor(c), *box) for c in itertools.product((True, False), repeat=6)])
    reached = functional.linear(corners[:, 0], weight, bias)
    out = linear(box, weight, bias)
    assert torch.allclose(reached.amin(0), out.lower, rtol=0, atol=ROUNDING)
    assert torch.allclose(reached.amax(0), out.upper, rtol=0, atol=ROUNDING)


WEIGHTS = {
    "linear": (linear, functional.linear, (random(5, 4), random(5)), {}, (3, 4)),
    "conv2d": (conv2d, functional.conv2d, (random(4, 2, 3, 3), None), {"stride": 2, "padding": 1}, (2, 2, 7, 7)),
    "conv2d in groups": (conv2d, functional.conv2d, (random(4, 1, 3, 3), random(4), 1, 2, 2, 2), {}, (2, 2, 7, 7)),
    "batch_norm": (
        lambda box, *values: batch_norm(box, *values, eps=0.1),
        lambda x, *values: functional.batch_norm(x, *values, training=False, eps=0.1),
        (random(2), random(2).abs(), random(2), random(2)),
        {},
        (3, 2, 4, 4),
    ),
    "batch_norm without weights": (
        lambda box, *values: batch_norm(box, *values, eps=0.1),
        lambda x, *values: functional.batch_norm(x, *values, training=False, eps=0.1),
        (random(2), random(2).abs()),
        {},
        (3, 2),
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_no_point_of_the_box_leaves_the_bounds_of_an_affine_map(name):
    bound, function, values, options, shape = WEIGHTS[name]
    box = random_box(*shape)
    out = bound(box, *values, **options)
    for point in points(box):
        assert_within(function(point, *values, **options), out)
    width = (function(box.lower, *values, **options) - function(box.upper, *values, **options)).abs()
    assert (out.upper - out.lower >= width - ROUNDING).all()


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_box_without_width_gives_the_plain_value(name):
    bound, function, values, options, shape = WEIGHTS[name]
    x = random(*shape)
    out = bound(Interval(x, x), *values, **options)
    torch.testing.assert_close(out.lower, function(x, *values, **options), rtol=1e-13, atol=1e-13)
    assert torch.equal(out.upper, out.lower)


NON_DECREASING = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hardtanh": functional.hardtanh,
    "max_pool2d": lambda x: functional.max_pool2d(x, 3, 2, padding=1),
    "avg_pool2d": lambda x: functional.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "mean": lambda x: x.mean((2, 3)),
    "flatten": lambda x: x.flatten(1),
    "soft quantizer": SoftQuantization(3, 20.0),
    "hard quantizer": SoftQuantization(3, hard=True),
}


@pytest.mark.parametrize("name", NON_DECREASING)
def test_no_point_of_the_box_leaves_the_bounds_of_a_non_decreasing_function_and_its_ends_reach_them(name):
    box = random_box(2, 2, 6, 6)
    if "quantizer" in name:
        box = Interval(*(torch.sigmoid(end) for end in box))
    out = non_decreasing(NON_DECREASING[name], box)
    for point in points(box):
        assert_within(NON_DECREASING[name](point), out)
    assert torch.equal(NON_DECREASING[name](box.lower), out.lower)
    assert torch.equal(NON_DECREASING[name](box.upper), out.upper)


def test_a_sum_of_boxes_is_bounded_by_the_sums_of_their_ends():
    first, second = random_box(2, 3), random_box(2, 3)
    total = non_decreasing(torch.add, first, second)
    assert torch.equal(total.lower, first.lower + second.lower)
    assert torch.equal(total.upper, first.upper + second.upper)
    joined = non_decreasing(torch.cat, [first, second], dim=1)
    assert torch.equal(joined.upper, torch.cat([first.upper, second.upper], 1))


@pytest.mark.parametrize("quantizer", [None, SoftQuantization(4, 60.0), SoftQuantization(4, hard=True)])
def test_the_quantized_box_holds_the_quantized_ball_and_reaches_it(quantizer):
    images = torch.rand(4, 3, 5, 5, generator=GENERATOR)
    box = quantized_box(images, 0.1, quantizer)
    quantize = quantizer or torch.nn.Identity()
    for _ in range(100):  # points around the ball too, brought back as an attack brings them back
        wild = images + 0.3 * torch.randn(images.shape, generator=GENERATOR)
        quantized = quantize(project(wild, images, 0.1))
        assert (quantized >= box.lower - 1e-6).all()  # TAIL_BOUND of the soft quantizer
        assert (quantized <= box.upper + 1e-6).all()
    assert torch.equal(quantize(project(images - 1, images, 0.1)), box.lower)
    assert torch.equal(quantize(project(images + 1, images, 0.1)), box.upper)


def test_a_hard_quantizer_makes_most_of_a_small_ball_a_point():
    images = torch.rand(4, 3, 32, 32, generator=GENERATOR)
    box = quantized_box(images, 2 / 255, SoftQuantization(2, hard=True))
    moved = (box.upper - box.lower > 0).float().mean().item()
    assert moved == pytest.approx(4 / 255, abs=0.005)  # pixels within 2/255 of the threshold


def test_worst_case_logits_by_hand():
    logits = Interval(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[3.0, 4.0, 5.0]]))
    assert worst_case_logits(logits, torch.tensor([1])).tolist() == [[3.0, 1.0, 5.0]]


def test_margins_by_hand():
    # z = (h, h + 1) for one h in [0, 10]: z_0 - z_1 is -1 for each h, though the bounds of the two overlap
    features, weight, bias = Interval(*torch.tensor([[[0.0]], [[10.0]]])), torch.ones(2, 1), torch.tensor([0.0, 1.0])
    assert margin_upper_bounds(features, weight, bias, torch.tensor([1])).tolist() == [[-1.0, 0.0]]
    assert worst_case_logits(linear(features, weight, bias), torch.tensor([1])).tolist() == [[10.0, 1.0]]


@pytest.mark.parametrize("bias", [None, random(5)])
def test_margins_with_the_last_layer_folded_in_are_sound_and_at_least_as_tight(bias):
    features, weight, labels = random_box(8, 6), random(5, 6), torch.arange(8) % 5
    margins = margin_upper_bounds(features, weight, bias, labels)
    worst = worst_case_logits(linear(features, weight, bias), labels)
    own = labels[:, None]
    others = torch.ones_like(margins).scatter(1, own, 0) > 0
    assert (margins.gather(1, own) == 0).all()
    assert (margins < worst - worst.gather(1, own))[others].all()
    for point in points(features):
        logits = functional.linear(point, weight, bias)
        assert (logits - logits.gather(1, own) <= margins + ROUNDING).all()
        assert (functional.cross_entropy(logits, labels) <= functional.cross_entropy(margins, labels)).all()


@pytest.mark.parametrize("at_once", [1, 48, 100, 10**6])
def test_the_margins_of_many_classes_are_the_same_a_few_at_a_time(at_once, monkeypatch):
    features, weight, bias, labels = random_box(8, 6), random(23, 6), random(23), torch.arange(8) % 23
    weight.requires_grad_()
    expected = margin_upper_bounds(features, weight, bias, labels)
    (gradient,) = torch.autograd.grad(expected.sum(), weight)
    taken, bounds_of = [], interval._bounds_of
    monkeypatch.setattr(interval, "MOST_NUMBERS", at_once)
    monkeypatch.setattr(interval, "_bounds_of", lambda some, box: taken.append(some.numel()) or bounds_of(some, box))
    found = margin_upper_bounds(features, weight, bias, labels)
    assert torch.allclose(found, expected, rtol=0, atol=ROUNDING)
    assert torch.allclose(torch.autograd.grad(found.sum(), weight)[0], gradient, rtol=0, atol=ROUNDING)
    assert max(taken) <= max(at_once, features.lower.numel())
    assert sum(taken) == 23 * 48


def test_bounds_are_differentiable_in_the_weights():
    box, weight, bias = random_box(2, 3), random(4, 3).requires_grad_(), random(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda w, b: tuple(linear(box, w, b)), (weight, bias))
    labels = torch.tensor([0, 3])
    assert torch.autograd.gradcheck(lambda w, b: margin_upper_bounds(box, w, b, labels), (weight, bias))
