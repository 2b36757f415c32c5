"""What the paper's abstract claims of its method, and the same asked of other rows, held against what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from lightning_sq.reproduction.doubts import (
    COMPARABLE,
    LIMIT,
    do_not_tell,
    doubted,
    hardly_comparable,
    not_told_apart,
    of_one_seed,
    of_several_runs,
    outdated,
)
from lightning_sq.reproduction.measured import (
    Spread,
    by_length,
    error_of_gap,
    is_paired,
    numbers_of_images,
    on_shared_images,
    seconds_to,
    spread_of,
    strongest,
)
from lightning_sq.reproduction.studies import Study
from lightning_sq.words import counted


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


def judge(study: Study, rows: dict[str, Any], *, num_test: int, smaller: bool) -> list[dict[str, Any]]:
    """The claims as plain values, for the page and its JSON.

    Args:
        study: Which.
        rows: As they stand on its page.
        num_test: How many test images there are, of which those attacked were drawn.
        smaller: Whether schedules, networks or images are not those of the recipes and of the data set as published, so
            that no row can be held against what others measured.
    """
    against_others = _against_literature if smaller else lambda claim: claim
    against_pgd = partial(_against_pgd, study, rows, num_test)
    claims = [against_pgd(_comparable, name) for name in (study.method, study.plain_method)]
    if study.row(study.adversarial).published is None:
        claims += [against_pgd(_robust, name) for name in study.methods]
    else:
        claims += [against_others(_robust(study, rows, name)) for name in study.methods]
    claims += [against_pgd(_certified, study.certified_row)]
    claims += [against_others(_proven_as_published(study, rows, name)) for name in study.proven_rows]
    claims += [against_pgd(_faster, name) for name in study.timed_against_pgd]
    claims += [against_others(_as_published(study, rows, row.name)) for row in study.rows if row.published]
    return [asdict(claim) for claim in claims]


def _against_pgd(
    study: Study, rows: dict[str, Any], num_test: int, judged: Callable[[Study, dict[str, Any], str], Claim], name: str
) -> Claim:
    """What is `judged` of a row and of PGD training on the images that both were attacked on."""
    both = {one: rows[one] for one in (name, study.adversarial) if one in rows}
    if len(both) < 2:
        return judged(study, both, name)
    shared = on_shared_images(both, num_test)
    claim, (fewest, *more) = judged(study, shared, name), numbers_of_images(shared)
    if more or numbers_of_images(both) == [fewest]:
        return claim
    return replace(claim, verdict=f"{claim.verdict}; of the {counted(fewest, 'image')} that both were attacked on")


def _against_literature(claim: Claim) -> Claim:
    """What a smaller form says of it."""
    if claim.holds is None:
        return claim
    return replace(
        claim, verdict="not comparable: a smaller form, or on other images, than what is published", holds=None
    )


def _published(accuracy: float) -> str:
    """With the decimals of its source: 91.95 %, 88.5 %."""
    return f"{100 * accuracy:.4g} %"


def _not_run(claim: str, rows: dict[str, Any], *names: str) -> Claim:
    missing = [name for name in names if name not in rows] or names
    return Claim(claim, "–", "–", f"not measured: {' and '.join(missing)} not trained here", None)


def _comparable(study: Study, rows: dict[str, Any], name: str) -> Claim:
    text = "the method is comparable to PGD training under PGD and BPDA"
    if name != study.method:
        text = f"the same of the method without a search for the noise ({study.row(name).title})"
    both = name, study.adversarial
    method, pgd = (spread_of(rows, row, "papers_attacks") for row in both)
    if method is None or pgd is None:
        return _not_run(text, rows, *both)
    worst, worst_pgd = (spread_of(rows, row, "worst_case") for row in both)
    holds = method.mean >= pgd.mean - COMPARABLE
    verdict = "reproduced" if holds else f"not reproduced: {100 * (pgd.mean - method.mean):.1f} points less"
    if holds and worst.mean < worst_pgd.mean - COMPARABLE:
        less = f"{100 * (worst_pgd.mean - worst.mean):.1f} points less"
        verdict = f"reproduced by the paper's attacks, but {less} in the worst case"
    verdict += hardly_comparable(method, pgd)
    return Claim(
        text,
        f"{method} against {pgd} of PGD training",
        f"{worst} against {worst_pgd} of PGD training",
        verdict + of_one_seed(rows, *both) + doubted(rows, *both) + outdated(rows, *both),
        holds,
    )


def _robust(study: Study, rows: dict[str, Any], name: str) -> Claim:
    published = study.row(study.adversarial).published
    method = "the method" if name == study.method else f"{study.row(name).title},"
    worst = spread_of(rows, name, "worst_case")
    if published is None:
        text = f"PGD training is not needed: {method} is as robust in the worst case as our PGD-trained row"
        goal, source, judged = spread_of(rows, study.adversarial, "worst_case"), "it", (name, study.adversarial)
    else:
        (goal, source), judged = published, (name,)
        text = f"PGD training is not needed: {method} is as robust in the worst case as {source} ({_published(goal)})"
    if worst is None or goal is None:
        return _not_run(text, rows, *judged)
    gap = (goal.mean if isinstance(goal, Spread) else goal) - worst.mean
    verdict = "reached" if gap <= 0 else f"not reached: {100 * gap:.1f} points less than {source}"
    verdict += not_told_apart(worst, goal)
    verdict += of_one_seed(rows, *judged) + doubted(rows, *judged) + outdated(rows, *judged)
    return Claim(text, str(spread_of(rows, name, "papers_attacks")), str(worst), verdict, gap <= 0)


def _certified(study: Study, rows: dict[str, Any], name: str) -> Claim:
    """On the same images: those that were attacked are easier for one row and harder for another than all are."""
    text = "natural samples alone, no input gradient, and a proof instead of an attack (quantizer + interval bounds)"
    proven = spread_of(rows, name, "certified")
    if proven is None:
        return _not_run(text, rows, name)
    paper, shown = spread_of(rows, name, "papers_attacks"), f"{proven} proven on all validation images"
    same = spread_of(rows, name, "certified_of_attacked")
    worst_pgd = spread_of(rows, study.adversarial, "worst_case")
    if same is None or worst_pgd is None or same.num_images != worst_pgd.num_images:
        return Claim(text, str(paper), shown, "nothing to compare with on the same images", None)
    holds = same.mean >= worst_pgd.mean - 1e-9
    shown += f"; {same} by interval bounds on those attacked, where PGD training keeps {worst_pgd} without a proof"
    verdict = "at least as much is proven as" if holds else "less is proven than"
    verdict += " PGD training keeps under attack on the same images"
    verdict += not_told_apart(same, worst_pgd)
    verdict += of_one_seed(rows, name, study.adversarial) + outdated(rows, study.adversarial)
    verdict += "" if holds else doubted(rows, study.adversarial)
    return Claim(text, str(paper), shown, verdict, holds)


def _proven_as_published(study: Study, rows: dict[str, Any], name: str) -> Claim:
    known = ", ".join(f"{_published(accuracy)}: {source}" for accuracy, source in study.published_proofs)
    text = f"{study.row(name).title}: as much is proven as has been published ({known})"
    proven = spread_of(rows, name, "certified")
    if proven is None:
        return _not_run(text, rows, name)
    best, source = study.published_proofs[-1]
    holds = proven.mean >= best
    verdict = "reached" if holds else f"not reached: {100 * (best - proven.mean):.1f} points less than {source}"
    if less := [known for known in study.published_proofs[:-1] if not holds and proven.mean >= known[0]]:
        verdict += f"; {100 * (proven.mean - less[-1][0]):.1f} more than {less[-1][1]}"
    verdict += of_one_seed(rows, name)
    return Claim(text, str(spread_of(rows, name, "papers_attacks")), f"{proven} proven", verdict, holds)


def _faster(study: Study, rows: dict[str, Any], name: str) -> Claim:
    title, wanted = study.row(name).title, study.times_faster or 1.0
    text = f"{title}: {'' if wanted == 1 else f'{wanted:g} times '}faster than PGD training to the same accuracy"
    if name not in rows or study.adversarial not in rows:
        return _not_run(text, rows, name, study.adversarial)
    ours, theirs = (by_length(study, row, rows[row]) for row in (name, study.adversarial))
    if min(len(ours), len(theirs)) < 2:
        return Claim(text, "–", "–", "not measured: no shorter schedules of the two here", None)
    goal, (first, shortest) = _both_reach(ours, theirs), theirs[0]
    ratio, seconds, seconds_pgd = _ratio(ours, theirs), seconds_to(ours, goal), seconds_to(theirs, goal)
    both, lengths = (name, study.adversarial), ("seeds", "shorter")
    by_proof = study.row(name).by_proof
    attacked = (study.adversarial,) if by_proof else both
    warnings = of_one_seed(rows, *both) + doubted(rows, *attacked, lengths=lengths)
    warnings += outdated(rows, *attacked, lengths=lengths) + of_several_runs(rows, *both)
    how = "proven, against PGD training under attack" if by_proof else "in the worst case"
    measured = f"{100 * goal:.1f} % {how}: {seconds:.0f} s of training against "
    if goal < shortest:
        measured += f"at most the {first:.0f} s that PGD training takes to {100 * shortest:.1f} %"
        verdict = f"not reached: at most {ratio:.1f} times"
        if ratio >= wanted:
            verdict = "not measured: PGD training has no schedule so short"
        return Claim(text, "–", measured, verdict + warnings, False if ratio < wanted else None)
    spreads = spread_of(rows, name, strongest(study, name)), spread_of(rows, study.adversarial, "worst_case")
    fewest = min(end["num_images"] for row in both for length in lengths for end in rows[row][length])
    error = error_of_gap(*(_as_crossed(spread, goal) for spread in spreads))
    shifted = [[(time, reached + off * error) for time, reached in theirs] for off in (-2, -1, 0, 1, 2)]
    ratios = [_ratio(ours, points) for points in shifted]
    least, most = min(ratios), max(ratios)
    measured += f"{seconds_pgd:.0f} s, {ratio:.1f} times ({least:.1f} to {most:.1f} where PGD training keeps up to "
    measured += (
        f"{200 * error:.1f} points more or less, two standard errors{'' if is_paired(*spreads) else ' at most'})"
    )
    for number, (sooner, less) in enumerate(ours):
        if shortest <= less < goal and all(less > before for _, before in ours[:number]):
            measured += f"; to {100 * less:.1f} %: {sooner:.0f} s, {seconds_to(theirs, less) / sooner:.1f} times"
    verdict = "reached" if ratio >= wanted else f"not reached: {ratio:.1f} times"
    if least < wanted <= most:
        verdict += f", but {do_not_tell(fewest, 1)} {wanted:g} times for sure"
    return Claim(text, "–", measured, verdict + warnings, ratio >= wanted)


def _as_crossed(spread: Spread, goal: float) -> Spread:
    """A row whose line crosses `goal` between schedules of which the shorter have one seed: as uncertain as one is."""
    return spread if spread.mean == goal else replace(spread, num_seeds=1)


def _both_reach(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> float:
    """The accuracy to which two rows are timed: the best of the less robust one."""
    return min(max(reached for _, reached in points) for points in (ours, theirs))


def _ratio(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> float:
    """How many times as long `theirs` takes as `ours` to what both reach; below its shortest schedule at most that."""
    goal = _both_reach(ours, theirs)
    return seconds_to(theirs, goal) / seconds_to(ours, goal)


def _as_published(study: Study, rows: dict[str, Any], name: str) -> Claim:
    row = study.row(name)
    accuracy, source = row.published
    text = f"our {row.title} row is as robust as published ({_published(accuracy)}: {source})"
    worst = spread_of(rows, name, "worst_case")
    if worst is None:
        return _not_run(text, rows, name)
    gap = accuracy - worst.mean
    verdict = f"within {LIMIT}, or better" if gap <= COMPARABLE else f"{100 * gap:.1f} points less"
    each = [f"{100 * seed['worst_case']:.1f}" for seed in rows[name]["seeds"]]
    if len(each) > 1:
        verdict += f" (seed by seed {', '.join(each)})"
    verdict += hardly_comparable(worst, accuracy)
    if len(each) > 1 and gap > COMPARABLE and row.why_not:
        verdict += f"; {row.why_not}"
    verdict += of_one_seed(rows, name) + doubted(rows, name) + outdated(rows, name)
    return Claim(text, str(spread_of(rows, name, "papers_attacks")), str(worst), verdict, gap <= COMPARABLE)
