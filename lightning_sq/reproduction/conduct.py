"""A study from its settings to its page: tune, train, attack, judge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning_sq.data.index import load_index
from lightning_sq.errors import InputError
from lightning_sq.evaluation.results import read_results
from lightning_sq.models.checkpoint_format import versions
from lightning_sq.progress import progress_bar
from lightning_sq.reproduction import choice, claims, page
from lightning_sq.reproduction.plan import RATE, Estimate, Settings, tuning_seconds
from lightning_sq.reproduction.proofs import proven_share
from lightning_sq.reproduction.runs import (
    EVALUATED,
    EVALUATION,
    TRAINED,
    Run,
    Step,
    evaluation_step,
    forget,
    run_all,
    training_step,
)


def conduct(settings: Settings, known: dict[str, Estimate], *, anew: bool = False) -> None:
    """Tune, train and attack every row; what was done before is not done again, unless all is to be done `anew`."""
    if settings.tuning_data is not None:
        trials = settings.to_tune()
        _train(
            settings,
            "tuning",
            trials,
            settings.tuning_data,
            [tuning_seconds(r, known[r.row.name]) for r in trials],
            anew,
        )
    runs = settings.planned(tuned_rates(settings))
    _train(settings, "training", runs, settings.data, [known[run.row.name].training for run in runs], anew)
    sources = settings.transfer_sources()
    attacks = []
    for run in runs:
        others = [f"{name}={file}" for name, file in sources.items() if file != run.checkpoint]
        attacks.append(evaluation_step(run, settings.attack_options(), others, known[run.row.name].attacking))
    _all(settings, "attacking", attacks)


def choose(settings: Settings, seconds: Sequence[float], *, anew: bool = False) -> None:
    """Train every variant of the method on the tuning split; `seconds` is what each takes, about."""
    assert settings.tuning_data is not None
    runs = [run for _, run in choice.trials(settings)]
    _train(settings, "trying variants of the method", runs, settings.tuning_data, seconds, anew)


def _train(
    settings: Settings, what: str, runs: Sequence[Run], data: Path, seconds: Sequence[float], anew: bool
) -> None:
    if anew:
        for run in runs:
            forget(run)
    _all(settings, what, [training_step(run, data, s, anew=anew) for run, s in zip(runs, seconds, strict=True)])


def _all(settings: Settings, what: str, steps: list[Step]) -> None:
    with progress_bar(what, "seconds of work") as advance:
        run_all(steps, jobs=settings.jobs, advance=advance, num_threads=settings.num_threads)


def tuned_rates(settings: Settings) -> dict[str, float]:
    """Row -> the learning rate with the largest accuracy on held-out training images: under the quick attack, or
    proven where the row is trained by bounds.

    Of equally good ones the recipe's own wins, if it is among them. A row whose rates have not all been tried is left
    out, as are all where nothing is to be tuned.
    """
    if settings.tuning_data is None:
        return {}
    found: dict[str, list[tuple[float, float]]] = {}
    for run in settings.to_tune():
        if (run.folder / TRAINED).exists():
            rate = run.recipe.changes[RATE]
            found.setdefault(run.row.name, []).append((_accuracy_of_trial(settings, run), rate))
    complete = {name: tried for name, tried in found.items() if len(tried) == _num_rates(settings, name)}
    rates = {}
    for name, tried in complete.items():
        own = settings.recipe(settings.study.row(name), 0, {}).values()["model"]["optimization"]["base_learning_rate"]
        rates[name] = max(tried, key=lambda pair: (pair[0], pair[1] == own))[1]
    return rates


def _accuracy_of_trial(settings: Settings, run: Run) -> float:
    if run.row.by_proof:
        assert settings.tuning_data is not None
        return proven_share(run, settings.tuning_data, settings.study.epsilon) or 0.0
    return _marker(run, TRAINED)["curve"][-1]["robust"]


def _num_rates(settings: Settings, name: str) -> int:
    return sum(run.row.name == name for run in settings.to_tune())


def collect(settings: Settings) -> dict[str, Any]:
    """The content of the page, from the runs that have been trained and attacked.

    Raises: InputError if there is none, or one by another recipe than the present one.
    """
    rates = tuned_rates(settings)
    planned = settings.planned(rates)
    trained_runs = [run for run in planned if training_step(run, settings.data, 0.0).is_done()]
    ended = [run for run in trained_runs if (run.folder / EVALUATED).exists()]
    if not ended:
        raise InputError(f"{settings.runs} holds no row that was trained and attacked. Leave --page out.")
    rows: dict[str, Any] = {}
    trained: dict[str, Any] = {}
    results: dict[str, Any] = {}
    with progress_bar("proving what interval bounds can", "rows") as advance:
        shares = []
        for run in ended:
            shares.append(proven_share(run, settings.data, settings.study.epsilon))
            advance(len(shares), len(ended), run.title)
    for run, share in zip(ended, shares, strict=True):
        trained, results = _marker(run, TRAINED), read_results(run.folder / EVALUATION)
        entry = page.seed_entry(run.seed, trained, results["models"][0], share)
        network = run.recipe.values()["model"]["architecture"]
        new = {"title": run.row.title, "network": network, "options": run.recipe.options(), "seeds": []}
        row = rows.setdefault(run.row.name, new)
        row["learning_rate_tuned"] = run.row.name in rates
        row["seeds"].append(entry)
    return {
        "schema_version": page.SCHEMA_VERSION,
        "study": settings.study.name,
        "title": settings.study.title,
        "epsilon": settings.study.epsilon,
        "form": "quick" if settings.quick else "full",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": results["device"],
        "num_threads": trained["num_threads"],
        "jobs": trained["jobs"],
        "versions": versions(),
        "data": _data(settings),
        "attacks": [name for name in results["attacks"] if not name.startswith("transfer_")],
        "num_images": results["data"]["num_images"],
        "rows": rows,
        "choice": choice.tried(settings),
        "not_run": [row.title for row in settings.study.rows if row.name not in rows],
        "claims": claims.judge(settings.study, rows),
    }


def _data(settings: Settings) -> dict[str, Any]:
    train, val = (len(load_index(settings.data / split)) for split in ("train", "val"))
    return {"train": train, "val": val, "whole": (train, val) == settings.study.num_images}


def _marker(run: Run, name: str) -> dict[str, Any]:
    return json.loads((run.folder / name).read_text())
