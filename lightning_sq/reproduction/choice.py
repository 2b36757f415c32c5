"""How the method's noise, levels and sharpness are chosen: each tried alone, on training images that are held out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lightning_sq.reproduction.plan import Settings, estimate_of
from lightning_sq.reproduction.runs import TRAINED, Run
from lightning_sq.reproduction.studies import Variant


def trials(settings: Settings) -> list[tuple[Variant, Run]]:
    """The method as its recipe says, and with each change, all for the same part of the recipe's epochs."""
    row = settings.study.row(settings.study.method)
    found = []
    for variant in (Variant("as the recipe"), *settings.study.variants):
        recipe = settings.trial(row, variant.changes)
        folder = settings.runs / "choice" / re.sub(r"\W+", "_", variant.title)
        found.append((variant, Run(replace(row, name=variant.title), 0, recipe, folder)))
    return found


def seconds_of_trials(settings: Settings, progress: Callable[[int, int], None]) -> list[float]:
    """What each trial takes, about, from a few steps that are timed now."""
    runs, seconds = [run for _, run in trials(settings)], []
    for done, run in enumerate(runs, start=1):
        seconds.append(estimate_of(settings, run.recipe).training)
        progress(done, len(runs))
    return seconds


def tried(settings: Settings) -> list[dict[str, Any]]:
    """[{title, changes, accuracy, seconds}] of the trials that were run, as the page shows them.

    accuracy: under the quick attack on held-out training images; seconds: of training.
    """
    found = []
    for variant, run in trials(settings):
        marker = run.folder / TRAINED
        if marker.exists():
            trained = json.loads(marker.read_text())
            if trained["key"] == run.recipe.fingerprint():  # else the recipe has changed since
                last = trained["curve"][-1]
                found.append({"title": variant.title, "changes": variant.changes, "epochs": trained["epochs"],
                              "accuracy": last["robust"], "seconds": last["seconds"]})  # fmt: skip
    return found
