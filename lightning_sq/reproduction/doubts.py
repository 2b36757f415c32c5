"""How surely a verdict is known: what is said behind it of too few images, seeds, doubted attacks and clocks."""

from __future__ import annotations

from typing import Any

from lightning_sq.evaluation.results import is_older
from lightning_sq.reproduction.measured import Spread, error_of_gap, error_to_published, is_paired
from lightning_sq.words import counted

COMPARABLE = 0.03
"""Two accuracies are comparable if they differ by no more than this."""
LIMIT = f"{100 * COMPARABLE:.0f} points"


def do_not_tell(num_images: int, num_seeds: int) -> str:
    """The beginning of a warning: "200 images and 3 seeds do not tell"."""
    seeds = f" and {counted(num_seeds, 'seed')}" if num_seeds > 1 else ""
    return f"{counted(num_images, 'image')}{seeds} {'does' if num_images == 1 and not seeds else 'do'} not tell"


def not_told_apart(one: Spread, other: Spread | float) -> str:
    """A warning where an accuracy is nearer than two standard errors to another row's, or to a published one."""
    return _nearly(one, other, 0.0, "them apart")


def hardly_comparable(one: Spread, other: Spread | float) -> str:
    """A warning where what `one` lacks is nearer than two standard errors to what still counts as comparable."""
    return _nearly(one, other, COMPARABLE, f"{LIMIT} for sure")


def _nearly(one: Spread, other: Spread | float, limit: float, what: str) -> str:
    if isinstance(other, Spread):
        gap, error = other.mean - one.mean, error_of_gap(one, other)
        most = "" if is_paired(one, other) else "at most "
    else:
        gap, error, most = other - one.mean, error_to_published(one, other), ""
    if abs(gap - limit) >= 2 * error:
        return ""
    fewest = min(row.num_images for row in (one, other) if isinstance(row, Spread))
    return f", but {do_not_tell(fewest, one.num_seeds)} {what} (standard error {most}{100 * error:.1f} points)"


def of_one_seed(rows: dict[str, Any], *names: str) -> str:
    """A warning where a row was trained once, so that nobody knows its spread."""
    once = " and ".join(rows[name]["title"] for name in names if len(rows[name]["seeds"]) == 1)
    return f"; one seed of {once}" if once else ""


def doubted(rows: dict[str, Any], *names: str, lengths: tuple[str, ...] = ("seeds",)) -> str:
    """A warning where checks doubt the worst case of one of the rows, or of its shorter schedules."""
    flagged = {name: any(end["flags"] for length in lengths for end in rows[name][length]) for name in names}
    doubted = " and ".join(rows[name]["title"] for name in names if flagged[name])
    return f"; upper bounds, which checks doubt in {doubted}" if doubted else ""


def outdated(rows: dict[str, Any], *names: str, lengths: tuple[str, ...] = ("seeds",)) -> str:
    """A warning where one of the rows was attacked by an older set than is run now."""
    older = [name for name in names if any(is_older(end) for length in lengths for end in rows[name][length])]
    titles = " and ".join(rows[name]["title"] for name in older)
    return f"; by an older and weaker set of attacks: {titles}" if older else ""


def of_several_runs(rows: dict[str, Any], *names: str) -> str:
    """A warning where the seconds of some rows are not all from one command, or nobody knows which it was."""
    ends = (end for name in names for length in ("seeds", "shorter") for end in rows[name][length])
    commands = {end.get("command") for end in ends}
    if len(commands - {None}) > 1:
        return "; seconds not all of one run"
    return "; seconds not known to be of one run" if None in commands else ""
