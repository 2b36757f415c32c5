"""What the paper's abstract claims of its method, and the same asked of other rows, held against what was measured."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from lightning_sq.reproduction.studies import Study
from lightning_sq.words import counted

PAPERS_ATTACKS = ("pgd", "bpda")
"""By which the paper judged: plain PGD, and PGD through BPDA where there is a quantizer."""
COMPARABLE = 0.03
"""Two accuracies are comparable if they differ by no more than this."""
_LIMIT = f"{100 * COMPARABLE:.0f} points"


@dataclass(frozen=True)
class Claim:
    """A line of the page.

    Args:
        claim: In words.
        by_papers_attacks: What was measured under the attacks of the paper.
        by_strongest: What was measured under the worst case over all attacks, or proven.
        verdict: In words.
        holds: None where it was not measured.
    """

    claim: str
    by_papers_attacks: str
    by_strongest: str
    verdict: str
    holds: bool | None


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds (None for one)."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Raises: statistics.StatisticsError if there are none."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)

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


def judge(study: Study, rows: dict[str, Any], num_images: int) -> list[dict[str, Any]]:
    """The claims as plain values, for the page and its JSON; `num_images` were attacked."""
    claims = [_comparable(study, rows, num_images)]
    claims += [_robust(study, rows, name, num_images) for name in study.methods]
    claims += [_certified(study, rows, num_images)]
    claims += [_proven_as_published(study, rows, name) for name in study.proven_rows]
    claims += [_faster(study, rows, name, num_images) for name in study.timed_against_pgd]
    claims += [_as_published(study, rows, row.name, num_images) for row in study.rows if row.published]
    return [asdict(claim) for claim in claims]


def _do_not_tell(num_images: int) -> str:
    return f"{counted(num_images, 'image')} {'does' if num_images == 1 else 'do'} not tell"


def _not_told_apart(one: float, other: float, num_images: int) -> str:
    """A warning where two accuracies are nearer than two standard errors."""
    error = _error_of_both(one, other, num_images)
    if abs(one - other) >= 2 * error:
        return ""
    return f", but {_do_not_tell(num_images)} them apart (standard error {100 * error:.1f} points)"


def _hardly_comparable(gap: float, error: float, num_images: int) -> str:
    """A warning where `gap` is nearer than two standard errors to what still counts as comparable."""
    if abs(gap - COMPARABLE) >= 2 * error:
        return ""
    return f", but {_do_not_tell(num_images)} {_LIMIT} for sure (standard error {100 * error:.1f} points)"


def _error_of_both(one: float, other: float, num_images: int) -> float:
    """The larger standard error of two accuracies, of which one may be 0 or 1, and so have none."""
    return max(standard_error(one, num_images), standard_error(other, num_images))


def _of_one_seed(rows: dict[str, Any], *names: str) -> str:
    """A warning where a row was trained once, so that nobody knows its spread."""
    once = " and ".join(rows[name]["title"] for name in names if len(rows[name]["seeds"]) == 1)
    return f"; one seed of {once}" if once else ""


def _doubted(rows: dict[str, Any], *names: str, lengths: tuple[str, ...] = ("seeds",)) -> str:
    """A warning where checks doubt the worst case of one of the rows, or of its shorter schedules."""
    flagged = {name: any(end["flags"] for length in lengths for end in rows[name][length]) for name in names}
    doubted = " and ".join(rows[name]["title"] for name in names if flagged[name])
    return f"; upper bounds, which checks doubt in {doubted}" if doubted else ""


def _not_run(claim: str, rows: dict[str, Any], *names: str) -> Claim:
    missing = [name for name in names if name not in rows] or names
    return Claim(claim, "–", "–", f"not measured: {' and '.join(missing)} not trained here", None)


def _comparable(study: Study, rows: dict[str, Any], num_images: int) -> Claim:
    text = "the method is comparable to PGD training under PGD and BPDA"
    both = study.method, study.adversarial
    method, pgd = (spread_of(rows, name, "papers_attacks") for name in both)
    if method is None or pgd is None:
        return _not_run(text, rows, *both)
    worst, worst_pgd = (spread_of(rows, name, "worst_case") for name in both)
    holds = method.mean >= pgd.mean - COMPARABLE
    verdict = "reproduced" if holds else f"not reproduced: {100 * (pgd.mean - method.mean):.1f} points less"
    error = _error_of_both(method.mean, pgd.mean, num_images)
    warning = _hardly_comparable(pgd.mean - method.mean, error, num_images)
    if holds and worst.mean < worst_pgd.mean - COMPARABLE:
        verdict = (
            f"reproduced by the paper's attacks, but {100 * (worst_pgd.mean - worst.mean):.1f} points less in truth"
        )
    return Claim(
        text,
        f"{method} against {pgd} of PGD training",
        f"{worst} against {worst_pgd} of PGD training",
        verdict + warning + _of_one_seed(rows, *both) + _doubted(rows, *both),
        holds,
    )


def _robust(study: Study, rows: dict[str, Any], name: str, num_images: int) -> Claim:
    published = study.row(study.adversarial).published
    method = "the method" if name == study.method else study.row(name).title
    worst = spread_of(rows, name, "worst_case")
    if published is None:
        text = f"PGD training is not needed: {method} is as robust as PGD-trained models in truth"
        other = spread_of(rows, study.adversarial, "worst_case")
        goal, source = (None, "") if other is None else (other.mean, "our PGD-trained row")
    else:
        goal, source = published
        text = f"PGD training is not needed: {method} is as robust in truth as {source} ({100 * goal:.1f} %)"
    if worst is None or goal is None:
        return _not_run(text, rows, name)
    holds = worst.mean >= goal
    verdict = "reached" if holds else f"not reached: {100 * (goal - worst.mean):.1f} points less than {source}"
    verdict += _not_told_apart(worst.mean, goal, num_images) + _of_one_seed(rows, name) + _doubted(rows, name)
    return Claim(text, str(spread_of(rows, name, "papers_attacks")), str(worst), verdict, holds)


def _certified(study: Study, rows: dict[str, Any], num_images: int) -> Claim:
    """On the same images: those that were attacked are easier for one row and harder for another than all are."""
    text = "natural samples alone, no input gradient, and a proof instead of an attack (quantizer + interval bounds)"
    proven = spread_of(rows, study.certified_row, "certified")
    if proven is None:
        return _not_run(text, rows, study.certified_row)
    paper, shown = spread_of(rows, study.certified_row, "papers_attacks"), f"{proven} proven on all validation images"
    same = spread_of(rows, study.certified_row, "certified_of_attacked")
    worst_pgd = spread_of(rows, study.adversarial, "worst_case")
    if same is None or worst_pgd is None:
        return Claim(text, str(paper), shown, "nothing to compare with on the same images", None)
    holds = same.mean >= worst_pgd.mean - 1e-9
    shown += f"; {same} by interval bounds on those attacked, where PGD training keeps {worst_pgd} without a proof"
    verdict = "at least as much is proven as" if holds else "less is proven than"
    verdict += " PGD training keeps under attack on the same images"
    verdict += _not_told_apart(same.mean, worst_pgd.mean, num_images)
    verdict += _of_one_seed(rows, study.certified_row, study.adversarial)
    return Claim(text, str(paper), shown, verdict, holds)


def _proven_as_published(study: Study, rows: dict[str, Any], name: str) -> Claim:
    known = ", ".join(f"{100 * accuracy:.1f} %: {source}" for accuracy, source in study.published_proofs)
    text = f"{study.row(name).title}: as much is proven as has been published ({known})"
    proven = spread_of(rows, name, "certified")
    if proven is None:
        return _not_run(text, rows, name)
    best, source = study.published_proofs[-1]
    holds = proven.mean >= best
    verdict = "reached" if holds else f"not reached: {100 * (best - proven.mean):.1f} points less than {source}"
    if less := [known for known in study.published_proofs[:-1] if not holds and proven.mean >= known[0]]:
        verdict += f"; {100 * (proven.mean - less[-1][0]):.1f} more than {less[-1][1]}"
    verdict += _of_one_seed(rows, name)
    return Claim(text, str(spread_of(rows, name, "papers_attacks")), f"{proven} proven", verdict, holds)


def _faster(study: Study, rows: dict[str, Any], name: str, num_images: int) -> Claim:
    title, wanted = study.row(name).title, study.times_faster or 1.0
    text = f"{title}: {'' if wanted == 1 else f'{wanted:g} times '}faster than PGD training to the same accuracy"
    if name not in rows or study.adversarial not in rows:
        return _not_run(text, rows, name, study.adversarial)
    ours, theirs = (by_length(study, row, rows[row]) for row in (name, study.adversarial))
    if min(len(ours), len(theirs)) < 2:
        return Claim(text, "–", "–", "not measured: no shorter schedules of the two here", None)
    goal, (first, shortest) = _both_reach(ours, theirs), theirs[0]
    ratio, seconds, seconds_pgd = _ratio(ours, theirs), seconds_to(ours, goal), seconds_to(theirs, goal)
    how = "proven, against PGD training under attack" if study.row(name).by_proof else "in the worst case"
    measured = f"{100 * goal:.1f} % {how}: {seconds:.0f} s of training against "
    if goal < shortest:
        measured += f"at most the {first:.0f} s that PGD training takes to {100 * shortest:.1f} %"
        verdict = f"not reached: at most {ratio:.1f} times"
        if ratio >= wanted:
            verdict = "not measured: PGD training has no schedule so short"
        return Claim(text, "–", measured, verdict, False if ratio < wanted else None)
    error = standard_error(goal, num_images)
    least, most = sorted(_ratio(ours, [(time, reached + off) for time, reached in theirs]) for off in (-error, error))
    measured += f"{seconds_pgd:.0f} s, {ratio:.1f} times"
    measured += f" ({least:.1f} to {most:.1f} where PGD training keeps {100 * error:.1f} points more or less)"
    for number, (sooner, less) in enumerate(ours):
        if shortest <= less < goal and all(less > before for _, before in ours[:number]):
            measured += f"; to {100 * less:.1f} %: {sooner:.0f} s, {seconds_to(theirs, less) / sooner:.1f} times"
    verdict = "reached" if ratio >= wanted else f"not reached: {ratio:.1f} times"
    if least < wanted <= most:
        verdict += f", but {_do_not_tell(num_images)} {wanted:g} times for sure"
    verdict += _of_one_seed(rows, name, study.adversarial)
    verdict += _doubted(rows, name, study.adversarial, lengths=("seeds", "shorter"))
    return Claim(text, "–", measured, verdict, ratio >= wanted)


def _both_reach(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> float:
    """The accuracy to which two rows are timed: the best of the less robust one."""
    return min(max(reached for _, reached in points) for points in (ours, theirs))


def _ratio(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> float:
    """How many times as long `theirs` takes as `ours` to what both reach; below its shortest schedule at most that."""
    goal = _both_reach(ours, theirs)
    return seconds_to(theirs, goal) / seconds_to(ours, goal)


def _as_published(study: Study, rows: dict[str, Any], name: str, num_images: int) -> Claim:
    row = study.row(name)
    accuracy, source = row.published
    text = f"our {row.title} row is as robust as published ({100 * accuracy:.1f} %: {source})"
    worst = spread_of(rows, name, "worst_case")
    if worst is None:
        return _not_run(text, rows, name)
    gap = accuracy - worst.mean
    verdict = f"within {_LIMIT}, or better" if gap <= COMPARABLE else f"{100 * gap:.1f} points less"
    warning = _hardly_comparable(gap, _error_of_both(worst.mean, accuracy, num_images), num_images)
    each = [f"{100 * seed['worst_case']:.1f}" for seed in rows[name]["seeds"]]
    if len(each) > 1:
        verdict += f" (seed by seed {', '.join(each)})"
        if gap > COMPARABLE and row.why_not:
            verdict += f"; {row.why_not}"
    verdict += warning + _of_one_seed(rows, name)
    return Claim(text, str(spread_of(rows, name, "papers_attacks")), str(worst), verdict, gap <= COMPARABLE)
