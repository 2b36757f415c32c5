"""How long a study takes on this machine, from a few steps that are timed now."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_sq.attacks import PGD, Attack, Square
from lightning_sq.attacks.frozen import frozen
from lightning_sq.evaluation.diagnostics.situation import FEW, MANY
from lightning_sq.evaluation.runner import images_together
from lightning_sq.evaluation.suites import attacks_by_name, passes
from lightning_sq.models import PixelClassifier
from lightning_sq.ops.precision import full_precision
from lightning_sq.reproduction.recipes import Recipe
from lightning_sq.reproduction.runs import Run
from lightning_sq.reproduction.settings import Settings
from lightning_sq.reproduction.trials import is_lost_trial, tuned_rates, untried_rates, untried_variants
from lightning_sq.types import Progress
from lightning_sq.words import counted

START_SECONDS = 25.0
"""What a command costs before it works, about: imports, and decoding the images."""
NUM_BUDGETS = 3
"""The study's and the two smaller ones of evaluate's curve: attacks on everyone are run at each."""
LENDERS = 2
"""Nets whose adversarial images are tried on the others: the undefended and the PGD-trained one."""
CHECKS_ON_MANY, CHECKS_ON_FEW = 450, 510
"""Passes of an evaluation's checks for each of the images that they take, `MANY` or `FEW` at most."""
LARGEST_BATCH = 128
"""Of an evaluation, in images."""
NUM_CLASSES = 10
"""Of every study's data."""
PROBES: tuple[Attack, ...] = (PGD(num_steps=3, stop_when_fooled=False), Square(num_queries=10))
"""Short attacks by which a pass is timed, with gradients and without: for small networks the rest costs as much."""
UNSEEN = 1e-6
"""A budget in which they break nothing, so that they go to their end."""
FEW_IMAGES, SLOW_STEP = (16, 64), 2.0
"""Numbers of images by which a step is told if a whole batch takes more than SLOW_STEP seconds. Two, because some of it
may be the same for any number, as bounds of large weights are."""

STAGES = ("tuning", "training", "attacks")
"""Each begins when the one before it has ended, in all rows."""


class Estimate(NamedTuple):
    """Seconds that a row takes, about."""

    epoch: float
    attacking: float

    def of_training(self, recipe: Recipe) -> float:
        """For the epochs of a recipe of that row."""
        return START_SECONDS + recipe.num_epochs * self.epoch


def estimates(settings: Settings, progress: Progress) -> dict[str, Estimate]:
    """Row -> seconds, from a few steps of each that are timed now.

    Args:
        settings: With the data in place, or with how many images they will have.
        progress: Called with (rows timed, rows to time).
    """
    found = {}
    for done, row in enumerate(map(settings.study.row, settings.rows), start=1):
        found[row.name] = estimate_of(settings, settings.recipe(row, 0, {}))
        progress(done, len(settings.rows))
    return found


def estimate_of(settings: Settings, recipe: Recipe) -> Estimate:
    """What a recipe takes, from a few steps of it that are timed now."""
    num_images, _ = settings.num_data
    threads_before = torch.get_num_threads()
    torch.set_num_threads(settings.num_threads)
    together = images_together(settings.num_attacked, LARGEST_BATCH)
    step, one_pass = seconds_per_image(recipe, together, "cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(threads_before)
    values = recipe.values()
    seen = num_images * values["data"].get("batch_repeats", 1)
    limit = values["trainer"].get("limit_train_batches")
    seen = seen if limit is None else min(seen, limit * values["data"]["batch_size_per_device"])
    in_all = passes_of_evaluation(settings.attacks, settings.num_attacked)
    return Estimate(seen * step, START_SECONDS + in_all * one_pass)


def passes_of_evaluation(attacks: str, num_images: int) -> int:
    """Passes of the model with one image, if nothing breaks any image; a gradient counts as three.

    Args:
        attacks: As of evaluate.
        num_images: That are attacked.
    """
    entries = attacks_by_name(attacks).values()
    for_each = sum(entry.cost * (NUM_BUDGETS if entry.on_everyone else 1) for entry in entries)
    for_each += LENDERS * passes(PGD())
    checks = CHECKS_ON_MANY * min(num_images, MANY) + CHECKS_ON_FEW * min(num_images, FEW)
    return num_images * for_each + checks


def seconds_per_image(recipe: Recipe, num_attacked: int, device: str = "cpu") -> tuple[float, float]:
    """(of a training step, of a pass of an attack) for one image on this machine and this many threads, measured.

    Args:
        recipe: Of the training.
        num_attacked: Images that are attacked together.
        device: To measure on.
    """
    torch.manual_seed(0)
    model, objective = recipe.model(NUM_CLASSES).to(device).train(), recipe.objective().to(device)
    data = recipe.values()["data"]
    together = max(data["batch_size_per_device"], num_attacked)
    images = torch.rand(together, data.get("channels", 3), *[data["image_size"]] * 2).to(device)
    labels = torch.randint(0, NUM_CLASSES, (together,), device=device)

    def step(count: int) -> None:
        loss, _ = objective(model, images[:count], labels[:count])
        loss.backward()

    of_step = _seconds_of_each(step, data["batch_size_per_device"])
    with full_precision(), frozen(model):
        of_passes = [_seconds_of_pass(probe, model, images[:num_attacked]) for probe in PROBES]
    return of_step, max(of_passes)


def _seconds_of_pass(probe: Attack, model: PixelClassifier, images: Tensor) -> float:
    def attack(count: int) -> None:
        with torch.no_grad():
            labels = model(images[:count]).argmax(1)
        probe(model, images[:count], labels, range(count), UNSEEN)

    return _seconds_of_each(attack, len(images)) / (1 + passes(probe))  # one for the labels


def _seconds_of_each(run: Callable[[int], Any], num_images: int) -> float:
    """Seconds of `run(num_images)` over that number; on a line through fewer images if it is slow: see `SLOW_STEP`."""

    def seconds(count: int) -> float:
        began = time.perf_counter()
        run(count)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began

    few, more = FEW_IMAGES
    seconds(min(few, num_images))  # the first is slower
    if num_images > more:
        of_few, of_more = seconds(few), seconds(more)
        told = of_more + max(0.0, of_more - of_few) * (num_images - more) / (more - few)
        if told > SLOW_STEP:
            return told / num_images
    return (seconds(num_images) + seconds(num_images)) / 2 / num_images


def plan_in_words(settings: Settings, known: dict[str, Estimate], *, anew: bool = False) -> str:
    """What is left of each row and of all, as an upper bound: what an attack has broken costs no more.

    Args:
        settings: What is asked for.
        known: Row -> what it takes.
        anew: Whether all is done again.
    Raises: InputError if a run is there by another recipe.
    """
    runs, trials = settings.missing(tuned_rates(settings)), untried_rates(settings)

    def seconds(run: Run) -> float:
        return known[run.row.name].of_training(run.recipe)

    steps = [("tuning", run, settings.trial_of(run, seconds(run))) for run in trials]
    steps += [("training", run, settings.training_of(run, seconds(run))) for run in runs]
    if not settings.times:
        steps += [("attacks", run, settings.attacks_on(run, estimate=known[run.row.name].attacking)) for run in runs]
    again = [*runs, *trials] if anew else [*filter(settings.is_lost, runs), *filter(is_lost_trial, trials)]
    left = [(run.row.name, kind, step.estimate) for kind, run, step in steps if run in again or step.is_left()]
    lines = [f"{'left of row':28}{'runs':>6}{'tuning':>15}{'training':>15}{'attacks':>15}"]
    for name in settings.rows:
        own = {stage: [seconds for row, kind, seconds in left if (row, kind) == (name, stage)] for stage in STAGES}
        num_runs = max(len(own["training"]), len(own["attacks"]))
        times = "".join(f"{time_in_words(sum(seconds)):>15}" for seconds in own.values())
        lines.append(f"{name:28}{num_runs:6}{times}")
    stages = ([seconds for _, kind, seconds in left if kind == stage] for stage in STAGES)
    at_most = time_in_words(sum(_side_by_side(seconds, settings.jobs) for seconds in stages))
    proves = left and not settings.times and any(settings.study.row(name).by_proof for name in settings.rows)
    more = ", and what the solver takes to prove" if proves else ""
    return "\n".join([*lines, f"in all at most {at_most}, {counted(settings.jobs, 'row')} at a time{more}"])


def _side_by_side(seconds: Sequence[float], jobs: int) -> float:
    """Until the last command of a stage has ended, where `runs.run_all` begins the longest first, `jobs` at a time."""
    busy = [0.0] * jobs
    for one in sorted(seconds, reverse=True):
        busy[busy.index(min(busy))] += one
    return max(busy)


def time_in_words(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def seconds_of_variants(settings: Settings, progress: Progress) -> list[float]:
    """What each untried variant of the method takes, about, from a few steps that are timed now."""
    runs, seconds = untried_variants(settings), []
    for done, run in enumerate(runs, start=1):
        seconds.append(estimate_of(settings, run.recipe).of_training(run.recipe))
        progress(done, len(runs))
    return seconds


def choice_in_words(settings: Settings, seconds: Sequence[float], *, anew: bool = False) -> str:
    """How many variants of the method are left, and how long they take: `seconds`, each."""
    steps = [settings.trial_of(run, s) for run, s in zip(untried_variants(settings), seconds, strict=True)]
    left = [step.estimate for step in steps if anew or step.is_left()]
    about = time_in_words(_side_by_side(left, settings.jobs))
    return f"{counted(len(left), 'variant')} left, {settings.jobs} at a time: about {about}"
