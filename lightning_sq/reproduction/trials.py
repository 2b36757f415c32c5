"""What is tried on training images that are held out, never on test images: learning rates, variants of the method."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

from lightning_sq.reproduction.proofs import can_prove, prove
from lightning_sq.reproduction.recipes import Recipe
from lightning_sq.reproduction.runs import TRAINED, Run, trained_at_hand
from lightning_sq.reproduction.settings import RATE, Settings
from lightning_sq.reproduction.studies import Row, Variant

RATE_FACTORS = (0.5, 1.0, 2.0)
"""Learning rates that are tried for every row, in terms of its recipe's: the same number for all."""
TRIAL_SHARE = 1 / 3
"""Of the epochs of a row, for each learning rate and each variant that is tried."""
TRIAL_IMAGES = 1000
"""Held-out training images that the quick attack gets at the end of a trial, about."""
LEARNED_NOTHING = 0.2
"""Clean accuracy, twice chance, up to which a trial counts as 0: no attack makes a net worse that has one answer."""


def _trial(settings: Settings, row: Row, changes: dict[str, Any]) -> Recipe:
    """The recipe of a row with `changes`, for a part of its epochs and one look at held-out images at their end.

    The learning rate grows for half of them at most: it has to come down again. What an objective ramps up over more
    steps than a trial has ends with the same share of it as with the whole.
    """
    whole = settings.recipe(row, 0, {})
    values = whole.values()
    trainer, epochs = values["trainer"], math.ceil(TRIAL_SHARE * whole.num_epochs)
    callbacks = [
        one | {"init_args": one.get("init_args", {}) | {"num_images": TRIAL_IMAGES}} if _is_probe(one) else one
        for one in trainer["callbacks"]
    ]
    form = {"trainer.max_epochs": epochs, "trainer.check_val_every_n_epoch": epochs, "trainer.callbacks": callbacks}
    if values["model"]["optimization"].get("warmup_epochs", 0) > epochs / 2:
        form["model.optimization.warmup_epochs"] = epochs / 2
    steps = epochs * settings.steps_per_epoch(values["data"])
    if whole.ramp_steps > steps:
        form |= whole.shorter(epochs / whole.num_epochs).ramp
    return settings.recipe(row, 0, form | changes)


def _is_probe(callback: dict[str, Any]) -> bool:
    return callback["class_path"].endswith(".RobustAccuracy")


def rates_to_try(settings: Settings) -> list[Run]:
    """Every row with every learning rate; none where nothing is to be tuned."""
    if settings.tuning_data is None:
        return []
    return [run for row in map(settings.study.row, settings.rows) for run in rates_of(settings, row)]


def rates_of(settings: Settings, row: Row) -> list[Run]:
    """One row with every learning rate."""
    usual = _usual_rate(settings, row)
    return [
        Run(row, 0, _trial(settings, row, {RATE: rate}), settings.runs / row.name / f"tuning/rate{rate:g}")
        for rate in (factor * usual for factor in RATE_FACTORS)
    ]


def untried_rates(settings: Settings) -> list[Run]:
    """Those that no earlier page knows; none where rows are only timed."""
    return [run for run in rates_to_try(settings) if not settings.times and settings.earlier.trial(run) is None]


def is_lost_trial(run: Run) -> bool:
    """Whether it was run, and its checkpoint, of which something is yet to be proven, has been removed."""
    trained = trained_at_hand(run)
    return trained is not None and _is_proven(run, trained["curve"][-1]) and not can_prove(run, max_boxes=0)


def tried_rates(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Row -> [{rate, accuracy, recipe}] of the learning rates that have been tried, as the page shows them.

    accuracy: on held-out training images, under the quick attack, or proven where the row is trained by bounds.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in settings.rows}
    for run in rates_to_try(settings):
        entry = settings.earlier.trial(run)
        if trained_at_hand(run) is not None and not is_lost_trial(run):
            accuracy = _accuracy_of_trial(settings, run)
            entry = {"rate": run.recipe.changes[RATE], "accuracy": accuracy, "recipe": run.recipe.fingerprint()}
        if entry is not None:
            found[run.row.name].append(entry)
    return found


def tuned_rates(settings: Settings) -> dict[str, float]:
    """Row -> the best of its learning rates; of equally good ones the recipe's own wins, if it is among them.

    A row whose rates have not all been tried is left out, as are all where nothing is to be tuned.
    """
    rates = {}
    for name, entries in tried_rates(settings).items():
        if len(entries) == len(RATE_FACTORS):
            usual = _usual_rate(settings, settings.study.row(name))
            rates[name] = max(entries, key=lambda entry: (entry["accuracy"], entry["rate"] == usual))["rate"]
    return rates


def _usual_rate(settings: Settings, row: Row) -> float:
    return settings.recipe(row, 0, {}).values()["model"]["optimization"]["base_learning_rate"]


def _accuracy_of_trial(settings: Settings, run: Run) -> float:
    last = json.loads((run.folder / TRAINED).read_text())["curve"][-1]
    if _is_proven(run, last):
        assert settings.tuning_data is not None
        proof = prove(run, settings.tuning_data, settings.study.epsilon, max_boxes=0)
        return 0.0 if proof is None else proof.bounds
    return _under_attack(last)


def _is_proven(run: Run, last: dict[str, float]) -> bool:
    """Whether a trial counts by what is proven."""
    return run.row.by_proof and last["clean"] > LEARNED_NOTHING


def _under_attack(last: dict[str, float]) -> float:
    """What the quick attack leaves at the end of a trial, which is nothing where nothing was learned."""
    return 0.0 if last["clean"] <= LEARNED_NOTHING else last["robust"]


def variants(settings: Settings) -> list[tuple[Variant, Run]]:
    """The method as its recipe says, and with each change, all for the same part of the recipe's epochs."""
    row = settings.study.row(settings.study.method)
    found = []
    for variant in (Variant("as the recipe"), *settings.study.variants):
        folder = settings.runs / "choice" / re.sub(r"\W+", "_", variant.title)
        recipe = _trial(settings, row, variant.changes)
        found.append((variant, Run(replace(row, name=variant.title), 0, recipe, folder)))
    return found


def untried_variants(settings: Settings) -> list[Run]:
    """Those that no earlier page knows."""
    return [run for _, run in variants(settings) if settings.earlier.variant(run) is None]


def tried_variants(settings: Settings) -> list[dict[str, Any]]:
    """[{title, changes, epochs, accuracy, seconds, recipe}] of the variants that were run, as the page shows them.

    accuracy: under the quick attack on held-out training images; seconds: of training.
    """
    found = []
    for variant, run in variants(settings):
        entry, trained = settings.earlier.variant(run), trained_at_hand(run)
        if trained is not None:
            last = trained["curve"][-1]
            entry = {"title": variant.title, "changes": variant.changes, "epochs": trained["epochs"],
                     "accuracy": _under_attack(last), "seconds": last["seconds"], "recipe": trained["key"]}  # fmt: skip
        if entry is not None:
            found.append(entry)
    return found
