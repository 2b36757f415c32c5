"""Runs attacks on one model and keeps a verdict for every image."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_sq.attacks import fools
from lightning_sq.evaluation.suites import Attack, attacks_by_name
from lightning_sq.ops.pixels import check_pixels
from lightning_sq.types import parse_epsilon

Model = Callable[[Tensor], Tensor]
Progress = Callable[[int, int, str], None]


@dataclass
class Evaluation:
    """What was found about one model.

    Args:
        epsilons: Budgets, ascending, in units of the full pixel range.
        correct: (N,) bool: clean images that are classified as labelled.
        survived: For each attack (epsilons, N) bool: still classified as labelled. What an attack breaks within a
            small ball stays broken in a larger one.
        adversarial: (N, C, H, W): the first image found that fools the model, or where there is none the last attempt.
        seconds: For each attack.
    """

    epsilons: tuple[float, ...]
    correct: Tensor
    adversarial: Tensor
    survived: dict[str, Tensor] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def clean_accuracy(self) -> float:
        """In [0, 1]."""
        return self.correct.double().mean().item()

    @property
    def worst_case(self) -> Tensor:
        """(epsilons, N) bool: images that survived every attack."""
        return torch.stack(list(self.survived.values())).all(0)

    @property
    def robust_accuracy(self) -> float:
        """Share of images that survived every attack at the largest epsilon, in [0, 1]: an upper bound of the truth."""
        return self.accuracy(self.worst_case, len(self.epsilons) - 1)

    @staticmethod
    def accuracy(survived: Tensor, epsilon_number: int) -> float:
        """Share of images that survived at one of the epsilons."""
        return survived[epsilon_number].double().mean().item()


def evaluate(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float | str | Sequence[float],
    attacks: str | Sequence[str] = "standard",
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Attack `model` on `images` with each of `attacks` at each epsilon.

    Clean mistakes are never attacked, images that an attack has broken are not attacked by it again, and every
    adversarial image is checked for ball, box and misclassification before it counts.

    Args:
        model: Pixels in [0, 1] to logits, in eval mode; BPDA needs a model that shows its `quantizer`.
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64.
        epsilon: One budget or several, such as 8/255.
        attacks: "quick", "standard" or names from `suites.ATTACKS`.
        batch_size: Images at a time.
        seed: Of the random starts; each image has its own, so batches and processes do not change a verdict.
        progress: Called with (images done, images in all, note).
    Raises: InputError for an epsilon or an attack that cannot be, and for images that are not pixels in [0, 1].
    """
    budgets = [epsilon] if isinstance(epsilon, (str, float, int)) else list(epsilon)
    epsilons = tuple(sorted({parse_epsilon(value) for value in budgets}))
    chosen = attacks_by_name(attacks)
    check_pixels(images, "the images to evaluate on")
    correct = _correct(model, images, labels, batch_size)
    adversarial, unbroken = images.clone(), correct.clone()
    result = Evaluation(epsilons, correct.cpu(), adversarial)
    total, done = len(images) * len(epsilons) * len(chosen), 0
    for name, attack in chosen.items():
        began = time.perf_counter()
        alive, rows = correct.clone(), []
        for budget in epsilons:
            todo = torch.nonzero(alive)[:, 0]
            done += len(images) - len(todo)
            for chunk in todo.split(batch_size) if len(todo) else ():
                found = _attack(attack, model, images[chunk], labels[chunk], _seeds(seed, chunk), budget)
                alive[chunk] = ~fools(model, found, images[chunk], labels[chunk], epsilon=budget)
                adversarial[chunk[unbroken[chunk]]] = found[unbroken[chunk]]
                unbroken[chunk] &= alive[chunk]
                done += len(chunk)
                if progress is not None:
                    progress(done, total, f"{name} at {budget:.3g}: {100 * alive.double().mean():.1f} % so far")
            rows.append(alive.clone())
        result.survived[name] = torch.stack(rows).cpu()
        result.seconds[name] = time.perf_counter() - began
    result.adversarial = adversarial.cpu()
    return result


def _attack(
    attack: Attack, model: Model, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float
) -> Tensor:
    return attack(model, images, labels, seeds, epsilon) if epsilon > 0 else images.clone()


def _seeds(seed: int, chunk: Tensor) -> list[int]:
    return [seed * 1_000_003 + i for i in chunk.tolist()]


def _correct(model: Model, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    with torch.no_grad():
        logits = [model(x).argmax(1) for x in images.split(batch_size)]
    return torch.cat(logits) == labels
