"""What was measured of the rows of a study, over their seeds and lengths, and how well it is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from lightning_sq.reproduction.studies import Study

PAPERS_ATTACKS = ("pgd", "bpda")
"""By which the paper judged: plain PGD, and PGD through BPDA where there is a quantizer."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds (None for one), and how many these are."""

    mean: float
    deviation: float | None
    num_seeds: int = 1

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Raises: statistics.StatisticsError if there are none."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, len(values))

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


def spread_of(rows: dict[str, Any], name: str, key: str) -> Spread | None:
    """Of one number of a row over its seeds; None if the row was not run, or has no such number."""
    values = [seed[key] for seed in rows.get(name, {}).get("seeds", []) if seed.get(key) is not None]
    return Spread.of(values) if values else None


def by_length(study: Study, name: str, row: dict[str, Any]) -> list[tuple[float, float]]:
    """[(seconds of training, accuracy)] at the end of each schedule of a row, the shortest first.

    The accuracy is the worst case over all attacks, or what interval bounds prove of the same images if the row is
    trained by them; of its whole schedule, the mean over the seeds.
    """
    key = "certified_of_attacked" if study.row(name).by_proof else "worst_case"
    ends = [[one] for one in row["shorter"]] + [row["seeds"]]
    ends = [one for one in ends if all(end.get(key) is not None for end in one)]
    return sorted((fmean(end["seconds"] for end in one), fmean(end[key] for end in one)) for one in ends)


def seconds_to(points: list[tuple[float, float]], accuracy: float) -> float:
    """Length of the shortest schedule that reaches `accuracy`, on the straight line between two that were measured.

    Args:
        points: Of `by_length`.
        accuracy: One of them reaches it.
    """
    index = next(k for k, (_, reached) in enumerate(points) if reached >= accuracy)
    if index == 0:
        return points[0][0]
    (before, less), (after, more) = points[index - 1 : index + 1]
    return before + (after - before) * (accuracy - less) / (more - less)


def standard_error(accuracy: float, num_images: int) -> float:
    """sqrt(p (1 - p) / n): how well n images tell it."""
    return math.sqrt(accuracy * (1 - accuracy) / num_images)


def _error_of_mean(spread: Spread, of_images: float) -> float:
    """How well an accuracy is known: the error of the images, which its seeds share, and that of the seeds."""
    return math.hypot(of_images, (spread.deviation or 0.0) / math.sqrt(spread.num_seeds))


def error_of_gap(one: Spread, other: Spread, num_images: int) -> float:
    """Standard error of the difference of two rows as if each had images of its own; on the same ones it is smaller.

    How much smaller would need the verdict on each image, which a page does not have.
    """
    return math.hypot(*(_error_of_mean(row, standard_error(row.mean, num_images)) for row in (one, other)))


def error_to_published(one: Spread, published: float, num_images: int) -> float:
    """Standard error of the difference to a number of the literature, whose own is as nothing.

    The larger one of the two accuracies, of which one may be 0 or 1, and so have none.
    """
    return _error_of_mean(one, max(standard_error(accuracy, num_images) for accuracy in (one.mean, published)))
