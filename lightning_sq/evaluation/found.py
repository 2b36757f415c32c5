"""What was found about one model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_sq.errors import InputError
from lightning_sq.evaluation.runner import Outcome
from lightning_sq.evaluation.suites import SuiteEntry
from lightning_sq.types import Norm, parse_epsilon

SAME_EPSILON = 1e-6
"""Two numbers that differ by less, relative to themselves, are one epsilon."""


@dataclass(frozen=True)
class Diagnostic:
    """One check.

    Args:
        name: The flag's, and the function's that makes it.
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


@dataclass
class Evaluation:
    """What was found about one model.

    Args:
        epsilons: All radii, ascending, in units of the full pixel range (L2: its square root of a sum of squares).
        budgets: Those at which every attack was run; at the others only the attacks on everyone were.
        norm: Of all of them.
        correct: (N,) bool: clean images that are classified as labelled.
        certified: For each epsilon (N,) bool, proven by interval bounds or by an attack that proves as well; None where
            there is no proof for this model, or none that is believed.
        attacks: What was run, by name.
        skipped: Why an attack of the suite was not.
        outcomes: What each attack did, by name and epsilon.
        diagnostics: What may be wrong with these numbers; None if that was not asked.
        batch_size: Images at a time, at most.
        num_processes: That shared the work.
        disbelieved: What would be `certified`, had no attack broken an image that is proven.
    """

    epsilons: tuple[float, ...]
    budgets: tuple[float, ...]
    norm: Norm
    correct: Tensor
    certified: dict[float, Tensor] | None
    attacks: dict[str, SuiteEntry]
    skipped: dict[str, str]
    outcomes: dict[str, dict[float, Outcome]]
    diagnostics: list[Diagnostic] | None = None
    batch_size: int = 128
    num_processes: int = 1
    disbelieved: dict[float, Tensor] | None = None

    @property
    def clean_accuracy(self) -> float:
        """In [0, 1]."""
        return share_of(self.correct)

    @property
    def robust_accuracy(self) -> float:
        """Share of images that survived every attack at the largest budget, in [0, 1]: an upper bound of the truth."""
        return share_of(self.survived())

    @property
    def certified_accuracy(self) -> float | None:
        """Share of images that are proven at the largest budget: a lower bound of the truth."""
        return None if self.certified is None else share_of(self.certified[self.budgets[-1]])

    @property
    def refuted(self) -> Tensor:
        """(N,) bool: proven and yet broken, in a ball of the same size."""
        proofs = self.certified or self.disbelieved or {}
        both = [proven & ~self.survived(epsilon) for epsilon, proven in proofs.items()]
        return torch.stack(both).any(0) if both else torch.zeros_like(self.correct)

    @property
    def flags(self) -> list[str]:
        """Names of the diagnostics that fired. With one a model is not to be called robust beyond what is proven of it.

        Raises: InputError if no diagnostics were made.
        """
        if self.diagnostics is None:
            raise InputError("Nothing was checked in this evaluation. Call evaluate with checks=True.")
        return [diagnostic.name for diagnostic in self.diagnostics if diagnostic.fired]

    @property
    def verdicts(self) -> Tensor:
        """(N,) bool: classified right, whatever was tried at the largest budget."""
        return self.survived()

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row an attack at the largest budget; `accuracy` is its own number if it attacked everyone, else None.

        `accuracy_after` counts what it and those before it broke at that budget or less: what is broken at a smaller
        one is not attacked again.
        """
        rows, names = [], list(self.outcomes)
        for number, (name, outcomes) in enumerate(self.outcomes.items(), start=1):
            outcome = outcomes[self.budgets[-1]]
            everyone = self.attacks[name].on_everyone
            rows.append(
                {
                    "attack": name,
                    "title": self.attacks[name].title,
                    "attacked": int(outcome.attacked.sum()),
                    "broken": int(outcome.broken.sum()),
                    "accuracy": self.accuracy(name, self.budgets[-1]) if everyone else None,
                    "accuracy_after": share_of(self.survived(attacks=names[:number])),
                    "seconds": sum(one.seconds for one in outcomes.values()),
                }
            )
        return rows

    def survived(self, epsilon: float | str | None = None, attacks: Sequence[str] | None = None) -> Tensor:
        """(N,) bool: right, and not broken by any of `attacks` (all) at `epsilon` (the largest budget) or less.

        Raises: InputError for an epsilon that was not evaluated, or an attack that was not run.
        """
        epsilon = self.budgets[-1] if epsilon is None else self._evaluated(epsilon, self.epsilons)
        alive = self.correct.clone()
        for name in self.outcomes if attacks is None else attacks:
            for value, outcome in self._outcomes_of(name).items():
                if value <= epsilon:
                    alive &= ~outcome.broken
        return alive

    def accuracy(self, attack: str, epsilon: float | str) -> float:
        """Share of images that survive one attack at one epsilon, if it attacked everyone. Raises: as `survived`."""
        outcomes = self._outcomes_of(attack)
        return share_of(self.correct & ~outcomes[self._evaluated(epsilon, outcomes)].broken)

    def _evaluated(self, epsilon: float | str, among: Iterable[float]) -> float:
        """The one of `among` that is meant by a number, which may be rounded to float32."""
        wanted = parse_epsilon(epsilon, norm=self.norm)
        for known in among:
            if math.isclose(known, wanted, rel_tol=SAME_EPSILON):
                return known
        raise InputError(f"epsilon={epsilon} was not evaluated. Ask for one of {', '.join(map(repr, among))}.")

    def _outcomes_of(self, attack: str) -> dict[float, Outcome]:
        if attack not in self.outcomes:
            raise InputError(f"The attack {attack!r} was not run. Ask for one of {', '.join(self.outcomes)}.")
        return self.outcomes[attack]

    def examples(self) -> dict[int, Tensor]:
        """For each image that was to be shown: what broke it at the smallest epsilon, else the last attempt."""
        outcomes = [pair for of_attack in self.outcomes.values() for pair in of_attack.items()]
        last = {i: pixels for _, outcome in outcomes for i, pixels in outcome.examples.items()}
        first_broken: dict[int, Tensor] = {}
        for _, outcome in sorted(outcomes, key=lambda pair: pair[0]):
            first_broken = {i: x for i, x in outcome.examples.items() if outcome.broken[i]} | first_broken
        return last | first_broken


def share_of(flags: Tensor, among: Tensor | None = None) -> float:
    """How many images are flagged, of all or of those flagged in `among`: in [0, 1]."""
    count = len(flags) if among is None else int(among.sum())
    return int(flags.sum()) / max(count, 1)


def spread(numbers: Tensor, count: int) -> Tensor:
    """`count` of them at equal distances, from the first to the last; all where there are no more. (n,) -> (m,)."""
    options = {"device": numbers.device, "dtype": torch.float32}
    return numbers[torch.linspace(0, len(numbers) - 1, min(count, len(numbers)), **options).round().long()]
