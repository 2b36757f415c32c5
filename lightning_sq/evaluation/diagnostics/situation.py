"""What a check may look at, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_sq.attacks import BPDA, PGD, Attack, QuantizedBox
from lightning_sq.attacks.front_end import Quantized
from lightning_sq.evaluation.found import Diagnostic, Evaluation, spread
from lightning_sq.evaluation.runner import StageRunner

FEW = 64
"""Images on which a check that needs no precise share is made."""
MANY = 256
"""Images on which a check that counts is made."""
OTHER_STARTS = 500_000
"""Added to the seed of an image for a start that no attack of the suite has had: far from its seed, and from that which
another `--seed` gives it (`StageRunner._seeds`)."""


@dataclass(frozen=True)
class FromOtherStarts:
    """`attack` with other seeds than an evaluation gives it: the same seeds would be the same search once more."""

    attack: Attack

    def __call__(self, model: Any, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float) -> Any:
        """See `PGD.__call__`."""
        return self.attack(model, images, labels, [seed + OTHER_STARTS for seed in seeds], epsilon)


@dataclass(frozen=True)
class Situation:
    """What a check may look at.

    Args:
        runner: The model, the images, and stages of further attacks.
        apart: The model's parts.
        found: The evaluation, with all attacks done.
    """

    runner: StageRunner
    apart: Quantized
    found: Evaluation

    @property
    def budget(self) -> float:
        """The largest."""
        return self.found.budgets[-1]

    def some(self, flags: Tensor, count: int) -> Tensor:
        """(N,) bool: `count` of the flagged images, spread over the set."""
        chosen = torch.zeros_like(flags)
        chosen[spread(torch.nonzero(flags)[:, 0], count)] = True
        return chosen

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """A few images and labels on the model's device, spread over the set."""
        return self.runner.batch(spread(torch.arange(len(self.found.correct), device="cpu"), count))

    def ask_few(self, question: Callable[[Tensor, Tensor, list[int]], Tensor]) -> Tensor:
        """(n, ...) on the CPU: `question(images, labels, numbers)` -> (B, ...) of those images, over all processes."""
        chosen = self.some(torch.ones_like(self.found.correct), FEW)
        return self.runner.ask(question, chosen)[chosen]

    def behind(self, search: Attack) -> Attack:
        """`search` where nothing can hide from it: in the quantized box, if there is one, and in L2 through BPDA."""
        if self.apart.quantizer is None:
            return search
        return QuantizedBox(search) if self.found.norm == "linf" else BPDA(search)

    def pgd(self, **options: Any) -> PGD:
        """In the norm of this evaluation, or inside the box, which is L-inf's."""
        return PGD(norm=self.found.norm, **options)

    def broken(self, name: str, attack: Attack, epsilon: float, todo: Tensor) -> Tensor:
        """(N,) bool: a further stage, kept like the others."""
        return self.runner.run(f"check {name}", attack, epsilon, todo).broken


def row(title: str, measured: float, limit: float, why: str) -> Diagnostic:
    """What a check gives back: it fires above its limit, and where what is measured is no number.

    It has no name yet: `diagnose` calls it as its check is called.
    """
    return Diagnostic("", title, not measured <= limit, measured, limit, why)
