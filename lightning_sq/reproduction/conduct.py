"""A study from its settings to its page: tune, train, attack, judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from lightning_sq.errors import InputError
from lightning_sq.evaluation.results import read_results
from lightning_sq.models.checkpoint_format import versions
from lightning_sq.progress import Advance, progress_bar
from lightning_sq.reproduction import claims, page
from lightning_sq.reproduction.earlier import Earlier
from lightning_sq.reproduction.plan import Estimate
from lightning_sq.reproduction.proofs import prove
from lightning_sq.reproduction.recipes import Recipe
from lightning_sq.reproduction.runs import EVALUATION, TRAINED, Run, Step, forget, run_all, trained_at_hand
from lightning_sq.reproduction.settings import RATE, SHARES, Settings
from lightning_sq.reproduction.studies import Row
from lightning_sq.reproduction.trials import (
    is_lost_trial,
    rates_of,
    tried_rates,
    tried_variants,
    tuned_rates,
    untried_rates,
    untried_variants,
)


class NothingMeasuredError(InputError):
    """No row has been trained and attacked."""


def conduct(settings: Settings, known: dict[str, Estimate], *, anew: bool = False) -> None:
    """Tune, train and attack every row, or only train it where it is to be timed.

    What was done before is not done again, unless all is to be done `anew`.
    """

    def seconds(run: Run) -> float:
        return known[run.row.name].of_training(run.recipe)

    if settings.tuning_data is not None:
        trials = untried_rates(settings)
        again = trials if anew else filter(is_lost_trial, trials)
        _train(settings, "tuning", [settings.trial_of(run, seconds(run)) for run in trials], again)
    if not anew:
        _refuse_others(settings)
    runs = settings.missing(tuned_rates(settings))
    again = runs if anew else filter(settings.is_lost, runs)
    _train(settings, "training", [settings.training_of(run, seconds(run)) for run in runs], again)
    if settings.times:
        return
    sources = settings.transfer_sources(runs)
    attacks = []
    for run in runs:
        others = [f"{name}={file}" for name, file in sources.items() if file != run.checkpoint]
        attacks.append(settings.attacks_on(run, others, known[run.row.name].attacking))
    _all(settings, "attacking", attacks)


def choose(settings: Settings, seconds: Sequence[float], *, anew: bool = False) -> None:
    """Train the untried variants of the method on the tuning split; `seconds` is what each takes, about."""
    if settings.tuning_data is not None:
        runs = untried_variants(settings)
        steps = [settings.trial_of(run, s) for run, s in zip(runs, seconds, strict=True)]
        _train(settings, "trying variants of the method", steps, runs if anew else ())


def refuse_untimed(settings: Settings) -> None:
    """Before rows are trained for the clock alone.

    Raises: InputError if the page has none by the recipe of now of a row that is to be timed.
    """
    runs = settings.missing(tuned_rates(settings))
    for name in settings.rows:
        if not any(run.row.name == name for run in runs):
            raise InputError(
                f"--time: the page there has no row {name} by the recipe and learning rate of now. Run it first, "
                "without --time."
            )


def are_timed(settings: Settings) -> bool:
    """Whether all that is to be timed has been trained here before."""
    return all(trained_at_hand(run) is not None for run in settings.missing(tuned_rates(settings)))


def refuse_changed(settings: Settings) -> None:
    """Before hours of work, and not when the page is written.

    Raises: InputError if the earlier page has a row that is not chosen by another recipe than the present one.
    """
    for row in settings.study.rows:
        if row.name in settings.earlier.rows and row.name not in settings.rows:
            _kept(settings, row)


def refuse_loss(settings: Settings, content: dict[str, Any], *, measures: bool, chooses: bool = False) -> None:
    """The same of a page that would be replaced.

    Args:
        settings: Of the command.
        content: Of the page there.
        measures: Whether all that is planned will be measured; else the new page is of what was, if anything was.
        chooses: Whether the variants of the method will be tried.
    Raises: InputError if it says more than the new page would.
    """
    runs = settings.planned({})
    if not measures:
        runs = [run for run in settings.planned(tuned_rates(settings)) if settings.is_measured(run)]
        if not runs:
            return
    is_alike = (content["study"], content["form"]) == (settings.study.name, settings.form)
    tried = [run.recipe.fingerprint() for run in untried_variants(settings) if chooses or trained_at_hand(run)]
    choice = [entry for entry in content["choice"] if not (is_alike and entry["recipe"] in tried)]
    if more := Earlier(content["rows"], choice).without(runs if is_alike else []).in_words():
        raise InputError(
            f"The page there would be replaced, and this lost: {more}. Add --add to keep them, or give another "
            "--output."
        )


def _refuse_others(settings: Settings) -> None:
    """Before hours of work, and not when the page is written: as `Step.is_done`."""
    for run in settings.planned(tuned_rates(settings)):
        for step in (settings.training_of(run), settings.attacks_on(run)):
            step.is_done()


def _train(settings: Settings, what: str, steps: list[Step], again: Iterable[Run]) -> None:
    for run in again:
        forget(run)
    _all(settings, what, steps)


def _all(settings: Settings, what: str, steps: list[Step]) -> None:
    with progress_bar(what, "seconds of work") as advance:
        run_all(steps, jobs=settings.jobs, advance=advance, num_threads=settings.num_threads, began=settings.began)


def collect(settings: Settings) -> dict[str, Any]:
    """The content of the page, from the runs that have been trained and attacked, and from the earlier page.

    Raises: NothingMeasuredError if there is none; InputError if one is by another recipe than the present one.
    """
    trials, rates = tried_rates(settings), tuned_rates(settings)
    planned = settings.planned(rates)
    entries = _entries(settings, planned) + _entries_besides(settings, planned, rates)
    rows: dict[str, Any] = {}
    for row in settings.study.rows:
        own = [(run, entry) for run, entry in entries if run.row == row]
        if any(not run.is_shorter for run, _ in own):
            recipe = next(run.recipe for run in planned if run.row == row)
            rows[row.name] = _row(row, recipe, own, trials[row.name] if row.name in rates else [])
            rows[row.name] |= settings.earlier.beside_runs(
                row.name, rows[row.name], rates_of(settings, row), partial(_at_rate, settings, row)
            )
        elif row.name in settings.earlier.rows:
            rows[row.name] = _kept(settings, row)
    if not rows:
        raise NothingMeasuredError(f"{settings.runs} holds no row that was trained and attacked. Leave --page out.")
    conditions = settings.conditions()
    return {
        "schema_version": page.SCHEMA_VERSION,
        "title": settings.study.title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        **conditions,
        "rows": rows,
        "choice": tried_variants(settings),
        "not_run": [row.title for row in settings.study.rows if row.name not in rows],
        "claims": claims.judge(
            settings.study, rows, num_test=conditions["data"]["val"], smaller=page.is_smaller(conditions)
        ),
    }


def _entries(settings: Settings, planned: Sequence[Run]) -> list[tuple[Run, dict[str, Any]]]:
    """The page's entry of every planned run that has one, measured here or on the earlier page."""
    found = []
    with progress_bar("reading the runs, and proving what can be proven", "rows") as advance:
        for done, run in enumerate(planned):
            tell = partial(_tell, advance, done, len(planned), run.title)
            entry = _by_one_clock(settings, run, _better(_measured(settings, run, tell), settings.earlier.seed(run)))
            if entry is not None:
                found.append((run, entry))
            advance(done + 1, len(planned), run.title)
    return found


def _entries_besides(
    settings: Settings, planned: Sequence[Run], rates: Mapping[str, float]
) -> list[tuple[Run, dict[str, Any]]]:
    """What the earlier page says of the chosen rows beyond the plan: of more seeds, and of shorter schedules."""
    known = {run.folder for run in planned}
    more = replace(settings, num_seeds=None, shares=SHARES).planned(rates)
    return [(run, entry) for run in more if run.folder not in known and (entry := settings.earlier.seed(run))]


def _by_one_clock(settings: Settings, run: Run, entry: dict[str, Any] | None) -> dict[str, Any] | None:
    """An entry with the clock of the earlier page, beside whose other rows it stands, if its training was alike; with
    that of the training at hand where rows are timed.
    """
    clock = trained_at_hand(run) if settings.times else settings.earlier.seed(run)
    return entry if entry is None or clock is None else page.by_clock_of(entry, clock)


def timed_otherwise(settings: Settings) -> list[str]:
    """Titles of the runs that were trained again, and gave other accuracies than the earlier page says."""
    found = []
    for run in settings.planned(tuned_rates(settings)):
        entry, trained = settings.earlier.seed(run), trained_at_hand(run)
        if entry is not None and trained is not None and not page.is_alike(entry, trained):
            found.append(run.title)
    return found


def _better(here: dict[str, Any] | None, earlier: dict[str, Any] | None) -> dict[str, Any] | None:
    """The one by the later attacks, then that of more images; what is at hand if they are alike."""
    known = (entry for entry in (here, earlier) if entry is not None)
    return max(known, key=lambda entry: (entry.get("suite_version", 1), entry["num_images"]), default=None)


def _tell(advance: Advance, done: int, total: int, title: str, note: str) -> None:
    advance(done, total, f"{title}: {note}")


def _row(
    row: Row, recipe: Recipe, entries: Sequence[tuple[Run, dict[str, Any]]], tuning: list[dict[str, Any]]
) -> dict[str, Any]:
    """A row of the page: `recipe` is that of its first seed, `tuning` what its learning rates gave."""
    model = recipe.values()["model"]
    return {
        "title": row.title,
        "network": model["architecture"],
        "options": recipe.options(),
        "learning_rate": model["optimization"]["base_learning_rate"],
        "tuning": tuning,
        "seeds": [entry for run, entry in entries if not run.is_shorter],
        "shorter": [entry for run, entry in entries if run.is_shorter],
    }


def _measured(settings: Settings, run: Run, tell: Callable[[str], None]) -> dict[str, Any] | None:
    """What was measured of a run; None if it was not, or its checkpoint is gone before it was proven."""
    if not settings.is_measured(run):
        return None
    proof = prove(run, settings.data, settings.study.epsilon, max_boxes=settings.max_boxes, tell=tell)
    trained = json.loads((run.folder / TRAINED).read_text())
    return page.seed_entry(run, trained, read_results(run.folder / EVALUATION), proof)


def _kept(settings: Settings, row: Row) -> dict[str, Any]:
    """What the earlier page says of a row that is not run now. Raises: InputError if it is of another recipe."""
    content = settings.earlier.rows[row.name]

    def present(entry: dict[str, Any]) -> Recipe:
        return _at_rate(settings, row, entry["seed"], content["learning_rate"])

    shorter = [(entry, present(entry)) for entry in content["shorter"]]
    known = [(entry, whole.shorter(entry["epochs"] / whole.num_epochs)) for entry, whole in shorter]
    known += [(entry, present(entry)) for entry in content["seeds"]]
    if any(entry["recipe"] != recipe.fingerprint() for entry, recipe in known):
        remedy = "Run it, without --page" if row.name in settings.rows else "Add it to --rows"
        raise InputError(
            f"The page there has the row {row.name} by another recipe than configs has now. {remedy}, or restore the "
            "recipe of then."
        )
    return content


def _at_rate(settings: Settings, row: Row, seed: int, rate: float) -> Recipe:
    """That of a whole schedule."""
    return settings.recipe(row, seed, {RATE: rate})
