"""What would be seen if the attacks were too weak for a model: each check is a row of the report, and may be a flag.

Sources: the flags of AutoAttack (arXiv 2003.01690), the indicators of attack failure of Pintor et al. 2022 (arXiv
2106.09947), the checklists of Athalye et al. 2018 (arXiv 1802.00420) and Carlini et al. 2019 (arXiv 1902.06705), and
two of this project's own: the width of the quantized box, and gradients that are exactly zero where a pixel can move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_sq.attacks import PGD, Attack, QuantizedBox
from lightning_sq.attacks.criteria import cross_entropy, margin
from lightning_sq.attacks.front_end import Quantized
from lightning_sq.attacks.watched import Watched
from lightning_sq.evaluation.derivatives_inside import uses_derivatives
from lightning_sq.evaluation.runner import StageRunner
from lightning_sq.ops.interval import quantized_box

if TYPE_CHECKING:
    from lightning_sq.evaluation.evaluation import Evaluation

FEW = 64
"""Images on which a check that needs no precise share is made."""
MANY = 256
"""Images on which a check that counts is made."""


@dataclass(frozen=True)
class Diagnostic:
    """One check.

    Args:
        name: The flag's.
        title: What was asked.
        fired: Whether the answer casts doubt.
        measured: The number that was found, and `limit`, above which the check fires.
        why: What it means, for people.
    """

    name: str
    title: str
    fired: bool
    measured: float
    limit: float
    why: str


@dataclass(frozen=True)
class Situation:
    """What a check may look at.

    Args:
        runner: The model, the images, and stages of further attacks.
        apart: The model's parts, if it has a quantizer.
        found: The evaluation, with all attacks done.
    """

    runner: StageRunner
    apart: Quantized | None
    found: Evaluation

    @property
    def budget(self) -> float:
        """The largest."""
        return self.found.budgets[-1]

    def some(self, flags: Tensor, count: int) -> Tensor:
        """(N,) bool: `count` of the flagged images, spread over the set."""
        numbers = torch.nonzero(flags)[:, 0]
        chosen = torch.zeros_like(flags)
        if len(numbers):
            chosen[numbers[torch.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().long()]] = True
        return chosen

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """A few images and labels on the model's device, spread over the set."""
        chosen = torch.nonzero(self.some(torch.ones_like(self.found.correct), count))[:, 0]
        runner = self.runner
        here = chosen.to(runner.images.device)
        return runner.images[here].to(runner.device), runner.labels[here].to(runner.device)

    def behind(self, search: Attack) -> Attack:
        """`search` where nothing can hide from it: in the quantized box, if there is one."""
        return QuantizedBox(search) if self.apart is not None and self.found.norm == "linf" else search

    def pgd(self, **options: Any) -> PGD:
        """In the norm of this evaluation, or inside the box, which is L-inf's."""
        return PGD(norm=self.found.norm, **options)

    def broken(self, name: str, attack: Attack, epsilon: float, todo: Tensor) -> Tensor:
        """(N,) bool: a further stage, kept like the others."""
        return self.runner.run(f"check {name}", attack, epsilon, todo).broken


def diagnose(situation: Situation) -> list[Diagnostic]:
    """Every check that applies, in the order of the report."""
    rows: list[Diagnostic] = []
    for check in CHECKS:
        row = check(situation)
        rows += [] if row is None else [row]
    return rows


def _row(check_name: str, title: str, measured: float, limit: float, why: str) -> Diagnostic:
    return Diagnostic(check_name, title, measured > limit, measured, limit, why)


def _share(flags: Tensor, of: Tensor | None = None) -> float:
    """Of all images, or of those flagged in `of`."""
    count = len(flags) if of is None else int(of.sum())
    return int(flags.sum()) / max(count, 1)


def plain_gradient_misses(s: Situation) -> Diagnostic | None:
    """BPDA and the quantized box against plain PGD."""
    outcomes = s.found.outcomes
    adaptive = [name for name, entry in s.found.attacks.items() if entry.family == "adaptive"]
    if "pgd" not in outcomes or not adaptive:
        return None
    left = s.found.correct & ~outcomes["pgd"][s.budget].broken
    also = torch.stack([outcomes[name][s.budget].broken for name in adaptive]).any(0)
    return _row(
        "plain_gradient_misses",
        "share of images that plain PGD leaves and an attack that knows the quantizer breaks",
        _share(left & also),
        0.01,
        "The gradient that the model shows leads attacks astray: whoever uses plain PGD reports too much.",
    )


def black_box_beats_white_box(s: Situation) -> Diagnostic | None:
    """Square and transfer against everything that uses a gradient."""
    black = [name for name, entry in s.found.attacks.items() if entry.family == "black box"]
    if not black:
        return None
    white = [name for name in s.found.attacks if name not in black]
    left = s.found.survived(s.budget, white)
    broken = torch.stack([s.found.outcomes[name][s.budget].broken for name in black]).any(0)
    return _row(
        "black_box_beats_white_box",
        "share of images that only attacks without a gradient break",
        _share(left & broken),
        0.002,
        "A search without a gradient should not find more: the gradients used are misleading.",
    )


def more_steps_break_more(s: Situation) -> Diagnostic:
    """Another, longer attack on what is left: it should find next to nothing."""
    alive = s.some(s.found.survived(), MANY)
    longer = s.behind(s.pgd(num_steps=100, schedule="cosine", criterion="margin"))
    return _row(
        "more_steps_break_more",
        "share of the surviving images that another 100 steps from another start break",
        _share(s.broken("more steps", longer, s.budget, alive), alive),
        0.02,
        "The attacks have not converged: the robust accuracy is lower than what is printed.",
    )


def more_steps_help_the_model(s: Situation) -> Diagnostic:
    """PGD with 10 steps against PGD with 40: more steps must not leave more images."""
    some = s.some(s.found.correct, MANY)
    short, long = (s.broken(f"pgd {n}", s.pgd(num_steps=n), s.budget, some) for n in (10, 40))
    return _row(
        "more_steps_help_the_model",
        "share of images that PGD breaks in 10 steps and not in 40, net",
        _share(short, some) - _share(long, some),
        0.02,
        "More steps should never help the defender: the gradient does not point where the loss grows.",
    )


def survives_everything(s: Situation) -> Diagnostic:
    """With the whole pixel range as budget, nothing may be left."""
    some = s.some(s.found.correct, FEW)
    radius = 1.0 if s.found.norm == "linf" else s.runner.images[0].numel() ** 0.5
    plain = s.broken("unbounded pgd", s.pgd(criterion="margin"), radius, some)
    behind = s.broken("unbounded", s.behind(s.pgd(criterion="margin")), radius, some & ~plain)
    return _row(
        "survives_everything",
        "accuracy where every pixel may be anything",
        1 - _share(plain | behind, some) if some.any() else 0.0,
        0.05,
        "No image of the label is left unchanged, so a working attack must succeed: this one is broken or blind.",
    )


def larger_ball_helps_the_model(s: Situation) -> Diagnostic | None:
    """The curve over epsilon, each point attacked on its own, must fall."""
    back = [
        (smaller[1].broken & ~larger[1].broken).sum().item()
        for name, outcomes in s.found.outcomes.items()
        if s.found.attacks[name].on_everyone
        for smaller, larger in _pairs(sorted(outcomes.items()))
    ]
    if not back:
        return None
    return _row(
        "larger_ball_helps_the_model",
        "share of images that an attack breaks in a smaller ball and not in a larger one",
        max(back) / len(s.found.correct),
        0.02,
        "The larger ball holds the smaller one: an attack that loses an image there is not optimising.",
    )


def _pairs(items: list[Any]) -> Iterable[tuple[Any, Any]]:
    return pairwise(items)


def zero_gradients(s: Situation) -> Diagnostic:
    """Pixels that an attacker can move and whose gradient is exactly 0, or not a number."""
    images, labels = s.batch(FEW)
    epsilon = s.budget if s.found.norm == "linf" else 1 / 255
    movable = quantized_box(images, epsilon)
    with torch.no_grad():
        if s.apart is not None:
            movable = quantized_box(images, epsilon, s.apart.quantizer)
        can_move = movable.upper - movable.lower > 0.01 * epsilon
    with torch.enable_grad():
        x = images.clone().requires_grad_()
        value = cross_entropy(s.runner.model(x), labels).sum()
        gradient = torch.autograd.grad(value, x)[0] if value.requires_grad else torch.zeros_like(x)
    gone = (gradient == 0) | ~torch.isfinite(gradient)
    return _row(
        "zero_gradients",
        "share of movable pixels whose gradient is exactly zero or not a number",
        ((gone & can_move).sum() / can_move.sum().clamp(min=1)).item(),
        0.1,
        "An attack that follows this gradient cannot move these pixels although they matter.",
    )


def quantizer_widens_the_ball(s: Situation) -> Diagnostic | None:
    """The mean width of the quantized box against that of the ball of pixels."""
    if s.apart is None or s.found.norm != "linf":
        return None
    images, _ = s.batch(MANY)
    with torch.no_grad():
        behind, before = (quantized_box(images, s.budget, q) for q in (s.apart.quantizer, None))
    ratio = (behind.upper - behind.lower).mean() / (before.upper - before.lower).mean().clamp(min=1e-12)
    return _row(
        "quantizer_widens_the_ball",
        "mean width of the quantized box, relative to the ball of pixels",
        ratio.item(),
        1.0,
        "Above 1 the quantizer gives the attacker more room than there was: what looks like robustness is hiding.",
    )


def small_steps_jump(s: Situation) -> Diagnostic:
    """The loss around an image at a hundredth of the budget (unstable predictions)."""
    images, labels = s.batch(FEW)
    generator = torch.Generator(images.device).manual_seed(0)
    with torch.no_grad():
        here = cross_entropy(s.runner.model(images), labels)
        change = torch.zeros_like(here)
        for _ in range(10):
            noise = (2 * torch.rand(images.shape, generator=generator, device=images.device) - 1) * s.budget / 100
            change += (cross_entropy(s.runner.model((images + noise).clamp(0, 1)), labels) - here).abs() / 10
    return _row(
        "small_steps_jump",
        "mean change of the loss within a hundredth of the budget, relative to the loss (at least 1)",
        (change / here.clamp(min=1.0)).clamp(max=1.0).mean().item(),
        0.1,
        "The loss is too rough for an attack that goes step by step.",
    )


def successes_get_lost(s: Situation) -> Diagnostic:
    """What an attack saw and did not give back, and what fools the network in its box but not the model."""
    some = s.some(s.found.correct, FEW)
    lost = 0
    search = s.pgd(criterion="margin")
    for name, make in (("plain", lambda attack: attack), ("box", s.behind)):
        if name == "box" and s.apart is None:
            continue
        watched = Watched(search)
        numbers = torch.nonzero(some)[:, 0].to(s.runner.images.device)
        x, y = s.runner.images[numbers].to(s.runner.device), s.runner.labels[numbers].to(s.runner.device)
        if len(x) == 0:
            continue
        attacked = s.runner.model if s.apart is None else s.apart
        found = make(watched)(attacked, x, y, numbers.tolist(), s.budget)
        with torch.no_grad():
            fooled = margin(s.runner.model(found), y) > 0
        lost += int((watched.seen & ~fooled).sum())
    return _row(
        "successes_get_lost",
        "share of images that an attack saw broken and that a fresh look finds unbroken",
        lost / max(int(some.sum()), 1),
        0.0,
        "The model answers differently to the same image, or the attack gives back the wrong one.",
    )


def random_answers(s: Situation) -> Diagnostic:
    """Two passes over the same images."""
    images, _ = s.batch(FEW)
    with torch.no_grad():
        first, second = s.runner.model(images), s.runner.model(images)
    return _row(
        "random_answers",
        "largest difference between the logits of two passes, relative to their size",
        ((first - second).abs().amax() / first.abs().amax().clamp(min=1e-12)).item(),
        1e-4,
        "The model is random: attack its expectation (--attacks rand).",
    )


def outputs_are_probabilities(s: Situation) -> Diagnostic:
    """A softmax at the end saturates, and then has no gradient."""
    images, _ = s.batch(FEW)
    with torch.no_grad():
        out = s.runner.model(images)
    likely = bool((out >= 0).all() and (out <= 1).all() and ((out.sum(1) - 1).abs() < 1e-4).all())
    return _row(
        "outputs_are_probabilities",
        "whether the outputs are probabilities instead of logits",
        float(likely),
        0.5,
        "A softmax that is sure has a gradient of zero. Give the logits.",
    )


def optimises_at_inference(s: Situation) -> Diagnostic:
    """A defence that takes derivatives inside its forward pass has to be attacked through them."""
    images, _ = s.batch(4)
    return _row(
        "optimises_at_inference",
        "whether the forward pass takes derivatives itself",
        float(uses_derivatives(s.runner.model, images)),
        0.5,
        "The attacks here do not see through an optimisation inside the model.",
    )


def not_float32(s: Situation) -> Diagnostic:
    """Lower precision rounds small gradients to zero."""
    model = s.runner.model
    weights = list(model.parameters()) if isinstance(model, nn.Module) else []
    low = [weight for weight in weights if weight.is_floating_point() and weight.dtype.itemsize < 4]
    return _row(
        "not_float32",
        "share of weights in less than float32",
        len(low) / max(len(weights), 1),
        0.0,
        "In bfloat16 a quarter of the gradients behind a quantizer vanish. Evaluate in float32.",
    )


CHECKS: tuple[Callable[[Situation], Diagnostic | None], ...] = (
    plain_gradient_misses,
    black_box_beats_white_box,
    more_steps_break_more,
    more_steps_help_the_model,
    survives_everything,
    larger_ball_helps_the_model,
    zero_gradients,
    quantizer_widens_the_ball,
    small_steps_jump,
    successes_get_lost,
    random_answers,
    outputs_are_probabilities,
    optimises_at_inference,
    not_float32,
)
