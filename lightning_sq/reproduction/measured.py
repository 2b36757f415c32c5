"""What was measured of the rows of a study, over their seeds and lengths, and how well it is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np

from lightning_sq.evaluation.inputs import drawn
from lightning_sq.reproduction.studies import Study

PAPERS_ATTACKS = ("pgd", "bpda")
"""By which the paper judged: plain PGD, and PGD through BPDA where there is a quantizer."""


@dataclass(frozen=True)
class Spread:
    """One number of a row over its seeds.

    Args:
        mean: Over the seeds.
        deviation: Their standard deviation; None for one seed.
        num_seeds: How many these are.
        num_images: That were attacked, the fewest of any seed.
        by_image: The share of the seeds that got each image right, where the number is an accuracy whose verdicts
            are known.
    """

    mean: float
    deviation: float | None
    num_seeds: int = 1
    num_images: int = 1
    by_image: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: list[float], num_images: int = 1, verdicts: Sequence[str] = ()) -> Spread:
        """From the values of the seeds, and of each its verdicts ("1011...").

        Raises: statistics.StatisticsError if there are none.
        """
        by_image = tuple(fmean(map(int, image)) for image in zip(*verdicts, strict=True))
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, len(values), num_images, by_image)

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


def numbers_of_images(rows: dict[str, Any]) -> list[int]:
    """How many were attacked, in ascending order: of more in some rows perhaps."""
    return sorted({end["num_images"] for end in ends(*rows.values())})


def ends(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    """Every seed and every shorter schedule."""
    return [end for row in rows for end in (*row["seeds"], *row["shorter"])]


def on_shared_images(rows: dict[str, Any], num_test: int) -> dict[str, Any]:
    """The rows as they are on those images that all of them were attacked on.

    Args:
        rows: Whose fewest images are among the more of the others, as `evaluate` draws them.
        num_test: Of how many they were drawn.
    Returns: Rows with the accuracies and verdicts of these images; as it was where its verdicts are not known.
    """
    fewest, *_ = numbers_of_images(rows)
    return {
        name: row | {key: [_on_fewer(end, fewest, num_test) for end in row[key]] for key in ("seeds", "shorter")}
        for name, row in rows.items()
    }


def _on_fewer(end: dict[str, Any], count: int, num_test: int) -> dict[str, Any]:
    if end["num_images"] == count or not end.get("verdicts"):
        return end
    places = np.searchsorted(drawn(num_test, end["num_images"], 0), drawn(num_test, count, 0))
    verdicts = {key: "".join(of_all[place] for place in places) for key, of_all in end["verdicts"].items()}
    accuracies = {key: fmean(map(int, of_some)) for key, of_some in verdicts.items()}
    return end | accuracies | {"num_images": count, "verdicts": verdicts}


def spread_of(rows: dict[str, Any], name: str, key: str) -> Spread | None:
    """Of one number of a row over its seeds; None if the row was not run, or has no such number."""
    seeds = [seed for seed in rows.get(name, {}).get("seeds", []) if seed.get(key) is not None]
    if not seeds:
        return None
    verdicts = [seed.get("verdicts", {}).get(key) for seed in seeds]
    known = all(verdicts) and len(set(map(len, verdicts))) == 1
    fewest = min(seed["num_images"] for seed in seeds)
    return Spread.of([seed[key] for seed in seeds], fewest, verdicts if known else ())


def strongest(study: Study, name: str) -> str:
    """The number by which a row is timed: what is proven of the images attacked, or what all attacks leave."""
    return "certified_of_attacked" if study.row(name).by_proof else "worst_case"


def by_length(study: Study, name: str, row: dict[str, Any]) -> list[tuple[float, float]]:
    """[(seconds of training, accuracy)] at the end of each schedule of a row, the shortest first.

    The accuracy is the worst case over all attacks, or what interval bounds prove of the same images if the row is
    trained by them; of its whole schedule, the mean over the seeds.
    """
    key = strongest(study, name)
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


def is_paired(one: Spread | None, other: Spread | None) -> bool:
    """Whether the verdicts on the images of both rows are known; as many are the same images."""
    return one is not None and other is not None and 0 < len(one.by_image) == len(other.by_image)


def error_of_gap(one: Spread, other: Spread) -> float:
    """Standard error of the difference of two rows, of the images and of the seeds.

    Where the verdicts of both are known, that of the images is of the differences image by image, s / sqrt(n);
    else as if each had images of its own: on the same ones it is at most that, as what is hard for one is for both.
    """
    if not is_paired(one, other):
        return math.hypot(*(_error_of_mean(row, standard_error(row.mean, row.num_images)) for row in (one, other)))
    differences = [a - b for a, b in zip(one.by_image, other.by_image, strict=True)]
    deviation = stdev(differences) if len(differences) > 1 else 1.0  # one image tells nothing
    of_images = deviation / math.sqrt(len(differences))
    return math.hypot(of_images, *(_error_of_mean(row, 0.0) for row in (one, other)))


def error_to_published(one: Spread, published: float) -> float:
    """Standard error of the difference to a number of the literature, whose own is as nothing.

    The larger one of the two accuracies, of which one may be 0 or 1, and so have none.
    """
    return _error_of_mean(one, max(standard_error(accuracy, one.num_images) for accuracy in (one.mean, published)))
