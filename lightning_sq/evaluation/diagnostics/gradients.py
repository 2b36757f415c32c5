"""Checks of what an attack has to go by: the gradient, the quantizer, the loss around an image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lightning_sq.attacks import Attack
from lightning_sq.attacks.criteria import cross_entropy, margin
from lightning_sq.attacks.front_end import is_ours
from lightning_sq.attacks.interface import Model
from lightning_sq.attacks.pgd import BALLS
from lightning_sq.attacks.watched import Watched
from lightning_sq.evaluation.diagnostics.situation import FEW, MANY, Diagnostic, Situation, row
from lightning_sq.evaluation.found import share_of
from lightning_sq.ops.interval import quantized_box
from lightning_sq.ops.noise import noise_like
from lightning_sq.ops.smallest import SMALLEST
from lightning_sq.types import PIXEL_BOUNDS


def zero_gradients(s: Situation) -> Diagnostic:
    """Pixels that the model reads, that an attacker can move, and whose gradient is exactly 0 or not a number."""
    epsilon = s.budget if s.found.norm == "linf" else 1 / 255

    def counts(images: Tensor, labels: Tensor, numbers: list[int]) -> Tensor:
        with torch.no_grad():
            movable = quantized_box(images, epsilon, s.apart.quantizer)
            can_move = movable.upper - movable.lower > 0.01 * epsilon * _white_less_black(s, images)
        with torch.enable_grad():
            x = images.clone().requires_grad_()
            value = cross_entropy(s.runner.model(x), labels).sum()
            depends = value.requires_grad  # on a weight perhaps, and not on x: then the gradient is 0
            gradient = torch.autograd.grad(value, x, materialize_grads=True)[0] if depends else torch.zeros_like(x)
        gone = (gradient == 0) | ~torch.isfinite(gradient)
        can_move &= ~_unread(s.runner.model, images, gone.all(0))
        return torch.stack([(gone & can_move).flatten(1).sum(1), can_move.flatten(1).sum(1)], 1)

    without, of = s.ask_few(counts).sum(0).tolist()
    return row(
        "share of movable pixels whose gradient is exactly zero or not a number",
        without / max(of, 1),
        0.01,
        "An attack that follows this gradient cannot move these pixels although they matter.",
    )


@torch.no_grad()
def _unread(model: Model, images: Tensor, pixels: Tensor) -> Tensor:
    """`pixels` (C, H, W) bool, such as those that the model crops away; none of them if noise there changes a logit, or
    if they are all there are: something it does read.
    """
    changed = torch.where(pixels, noise_like(images), images)
    return pixels & (model(changed) == model(images)).all() & ~pixels.all()


def _white_less_black(s: Situation, images: Tensor) -> Tensor:
    """Q(1) - Q(0), like `images`: the unit of a quantizer that is not ours, which may give 0 to 255, or -1 to 1."""
    quantizer = s.apart.quantizer
    if quantizer is None or is_ours(quantizer):
        return torch.ones_like(images)
    black, white = (quantizer(torch.full_like(images, value)) for value in PIXEL_BOUNDS)
    return (white - black).clamp(min=SMALLEST)


def quantizer_widens_the_ball(s: Situation) -> Diagnostic | None:
    """The mean width of the quantized box against that of the ball of pixels, each in its own unit."""
    if s.apart.quantizer is None or s.found.norm != "linf":
        return None
    images, _ = s.batch(MANY)
    with torch.no_grad():
        behind, before = (quantized_box(images, s.budget, q) for q in (s.apart.quantizer, None))
        unit = _white_less_black(s, images)
    ratio = ((behind.upper - behind.lower) / unit).mean() / (before.upper - before.lower).mean().clamp(min=SMALLEST)
    return row(
        "mean width of the quantized box, relative to the ball of pixels",
        ratio.item(),
        1.0 + 1e-6,  # float32 rounds a ratio of 1
        "Above 1 the quantizer gives the attacker more room than there was: what looks like robustness is hiding.",
    )


def small_steps_jump(s: Situation) -> Diagnostic:
    """The loss at random points of a ball of a hundredth of the budget (unstable predictions)."""

    @torch.no_grad()
    def change(images: Tensor, labels: Tensor, numbers: list[int]) -> Tensor:
        here = cross_entropy(s.runner.model(images), labels)
        found = torch.zeros_like(here)
        for _ in range(10):
            seeds = torch.randint(2**31, (len(images),), device="cpu").tolist()
            near = BALLS[s.found.norm].random_start(images, s.budget / 100, seeds)
            found += (cross_entropy(s.runner.model(near), labels) - here).abs() / 10
        return (found / here.clamp(min=1.0)).clamp(max=1.0)

    return row(
        "mean change of the loss within a hundredth of the budget, relative to the loss (at least 1)",
        s.ask_few(change).mean().item(),
        0.1,
        "The loss is too rough for an attack that goes step by step.",
    )


def successes_get_lost(s: Situation) -> Diagnostic:
    """What an attack saw and did not give back, and what fools the network in its box but not the model."""
    some = s.some(s.found.correct, FEW)
    makes: list[Callable[[Attack], Attack]] = [lambda attack: attack]
    if s.apart.quantizer is not None:
        makes.append(s.behind)

    def lost(images: Tensor, labels: Tensor, numbers: list[int], make: Callable[[Attack], Attack]) -> Tensor:
        watched = Watched(s.pgd(criterion="margin"))
        found = make(watched)(s.apart, images, labels, numbers, s.budget)
        with torch.no_grad():
            return watched.seen & ~(margin(s.runner.model(found), labels) > 0)

    any_lost = torch.stack([s.runner.ask(partial(lost, make=make), some) for make in makes]).any(0)
    return row(
        "share of images that an attack saw broken and that a fresh look finds unbroken",
        share_of(any_lost, some),
        0.0,
        "The model answers differently to the same image, or the attack gives back the wrong one.",
    )
