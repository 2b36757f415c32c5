"""How the rows of a study were trained and judged: by what, on what, and when, in sentences for its page."""

from __future__ import annotations

from typing import Any

from lightning_sq.evaluation.results import OLDER, is_older
from lightning_sq.reproduction.measured import ends, numbers_of_images, standard_error
from lightning_sq.words import counted


def machines(rows: dict[str, Any]) -> str:
    """On what the rows were trained, and when."""
    seeds = ends(*rows.values())
    machines = {
        f"on {seed['device'].split(',')[0]}, {counted(seed['num_threads'], 'thread')} a row, "
        f"{counted(seed['jobs'], 'row')} at a time"
        for seed in seeds
    }
    return f"Trained {'; '.join(sorted(machines))}. Measured on {', '.join(sorted({seed['day'] for seed in seeds}))}."


def images(rows: dict[str, Any]) -> str:
    """How many were attacked, and in which rows more."""
    few, *others = numbers_of_images(rows)
    more = {n: [row["title"] for row in rows.values() if n in numbers_of_images({"": row})] for n in others}
    return ", ".join([counted(few, "test image"), *(f"{n:,} in {'; '.join(titles)}" for n, titles in more.items())])


def errors(rows: dict[str, Any]) -> str:
    """How well so many images tell an accuracy."""

    def error(accuracy: float, number: int) -> str:
        return f"{100 * standard_error(accuracy, number):.1f}"

    few, *others = numbers_of_images(rows)
    known = f"the standard error of 90 % or 10 % is {error(0.9, few)} points, that of 50 % {error(0.5, few)}"
    if not others:
        return f"On so many images {known}."
    more = (f"on {n:,} {error(0.9, n)} and {error(0.5, n)}" for n in others)
    return f"On {'; '.join([f'{few:,} images {known}', *more])}."


def clock(rows: dict[str, Any]) -> list[str]:
    """How far the seconds of an epoch of a row differ, which all take the same steps: what else the machine did.

    And of which rows they are of a training that was repeated for them.
    """
    seconds = [[end["seconds"] / end["epochs"] for end in ends(row)] for row in rows.values()]
    most = max((max(one) / min(one) for one in seconds if len(one) > 1), default=None)
    if most is None:
        return []
    return [
        "Seconds are of training, by the clock of a machine that did other things at times: an epoch's of one row,",
        f"which takes the same steps in all its seeds and schedules, differ by up to {most:.1f} times.",
        *_timed_again(rows),
    ]


def _timed_again(rows: dict[str, Any]) -> list[str]:
    titles = [row["title"] for row in rows.values() if any(end.get("timed_again") for end in ends(row))]
    if not titles:
        return []
    return [
        "Those of these rows are, in whole or in part, of other trainings than those whose nets were attacked, with",
        f"the same accuracies after every epoch: {'; '.join(titles)}.",
    ]


def older(rows: dict[str, Any]) -> list[str]:
    """Which rows were judged by attacks and checks that have been made stronger since."""
    older = [row["title"] for row in rows.values() if any(map(is_older, ends(row)))]
    if not older:
        return []
    return [f"{OLDER}: {'all rows' if len(older) == len(rows) else '; '.join(older)}."]


def transfers(rows: dict[str, Any]) -> list[str]:
    """Whose adversarial images were tried on the others, and on which they were not."""
    tried = {
        name: set.intersection(*(set(end.get("transfers", ())) for end in ends(row))) for name, row in rows.items()
    }
    sources = sorted(set().union(*tried.values()))
    if not sources:
        return []
    without = [rows[name]["title"] for name, known in tried.items() if not known >= {*sources} - {name}]
    but = f", except, in whole or in part, {'; '.join(without)}" * bool(without)
    titles = " and ".join(rows[name]["title"] if name in rows else name for name in sources)
    return [f"Adversarial images made on the nets of these rows were tried on all others too: {titles}{but}."]


def networks(rows: dict[str, Any]) -> str:
    """The commonest network, and which rows have another."""
    names = [row["network"] for row in rows.values()]
    usual = max(sorted(set(names)), key=names.count)
    others = [f"{row['network']} in {row['title']}" for row in rows.values() if row["network"] != usual]
    return "; ".join([f"network {usual}", *others])


def tuning(rows: dict[str, Any]) -> str:
    """The sentence on where the learning rates are from."""
    tried = sorted({len(row["tuning"]) for row in rows.values()} - {0})
    if not tried:
        return "The learning rate of each row is its recipe's; none was tuned here."
    best = f"the best of {' or '.join(map(str, tried))} on held-out training images"
    untuned = "; ".join(row["title"] for row in rows.values() if not row["tuning"])
    if not untuned:
        return f"The learning rate of each row is {best}."
    return f"Learning rates are {best}, those of the recipes in {untuned}."
