"""A plan counts what will be run, and times it as it will be run."""

from __future__ import annotations

import json
import math
import time
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn

from lightning_sq.commands.evaluate import CURVE
from lightning_sq.commands.evaluate_options import parse
from lightning_sq.errors import InputError
from lightning_sq.evaluation import evaluate
from lightning_sq.evaluation.runner import images_together
from lightning_sq.layers import SoftQuantization
from lightning_sq.models import PixelClassifier
from lightning_sq.reproduction import plan
from lightning_sq.reproduction.earlier import Earlier
from lightning_sq.reproduction.plan import Estimate, plan_in_words, seconds_per_image, time_in_words
from lightning_sq.reproduction.recipes import recipe_of
from lightning_sq.reproduction.runs import TRAINED
from lightning_sq.reproduction.studies import MNIST
from lightning_sq.reproduction.trials import variants
from tests.conftest import REPOSITORY
from tests.reproduction.builders import rows, seed, settings


def test_the_plan_counts_tuning_training_and_attacks_of_all_seeds(tmp_path):
    known = {"natural": Estimate(1.0, 50.0), "pgd": Estimate(10.0, 60.0)}
    ours = settings(tmp_path, tuning_data=None, jobs=1)
    natural, pgd, *_ = (run.recipe.num_epochs for run in ours.planned({}))
    untuned = 25 + natural + 50 + 3 * (25 + 10 * pgd + 60)
    tuning = 6 * 25 + 3 * (math.ceil(natural / 3) * 1 + math.ceil(pgd / 3) * 10)
    shorter = 25 + 10 * round(pgd / 2) + 60

    def last_line(one, **more):
        return plan_in_words(one, known, **more).splitlines()[-1]

    def sentence(seconds):
        return f"in all at most {time_in_words(seconds)}, 1 row at a time"

    assert last_line(ours) == sentence(untuned)
    assert last_line(replace(ours, tuning_data=tmp_path / "tuning")) == sentence(untuned + tuning)
    assert last_line(replace(ours, shares=(0.5,))) == sentence(untuned + shorter)
    proven = replace(ours, rows=("interval_bound",))
    line = plan_in_words(proven, {"interval_bound": Estimate(1.0, 50.0)}).splitlines()[-1]
    assert line.endswith("1 row at a time, and what the solver takes to prove")
    runs = proven.planned({})
    entries = [seed(0.5) | {"recipe": run.recipe.fingerprint(), "seed": run.seed} for run in runs[:2]]
    timed = replace(proven, times=True, earlier=Earlier(rows(interval_bound=entries), []))
    line = plan_in_words(timed, {"interval_bound": Estimate(1.0, 50.0)}).splitlines()[-1]
    assert line == sentence(2 * (25 + runs[0].recipe.num_epochs))  # the page has two of its three seeds


def test_the_plan_of_rows_side_by_side_waits_for_each_stage_and_its_longest_row(tmp_path):
    known = {"natural": Estimate(1.0, 50.0), "pgd": Estimate(10.0, 60.0)}
    one = settings(tmp_path, rows=("natural",), tuning_data=None, jobs=2)
    (run,) = one.planned({})
    alone = 25 + run.recipe.num_epochs + 50
    assert plan_in_words(one, known).splitlines()[-1] == f"in all at most {time_in_words(alone)}, 2 rows at a time"
    both = settings(tmp_path, tuning_data=None, jobs=2)
    epochs = both.planned({})[-1].recipe.num_epochs
    two_of_three = 2 * (25 + 10 * epochs) + 60 + 60  # the third one runs beside the row that is short
    assert plan_in_words(both, known).splitlines()[-1] == (
        f"in all at most {time_in_words(two_of_three)}, 2 rows at a time"
    )


def test_the_plan_leaves_out_what_is_done_unless_all_is_done_anew(tmp_path):
    known = {"natural": Estimate(1.0, 50.0)}
    ours = settings(tmp_path, rows=("natural",), tuning_data=None)
    (run,) = ours.planned({})
    whole = plan_in_words(ours, known)
    run.folder.mkdir(parents=True)
    (run.folder / TRAINED).write_text(json.dumps({"key": run.recipe.fingerprint()}))
    assert plan_in_words(ours, known) == whole  # without its checkpoint
    run.checkpoint.parent.mkdir()
    run.checkpoint.touch()
    assert plan_in_words(ours, known).splitlines()[-1] == "in all at most 0 min 50 s, 2 rows at a time"
    assert plan_in_words(ours, known, anew=True) == whole
    (run.folder / TRAINED).write_text(json.dumps({"key": "of another recipe"}))
    with pytest.raises(InputError, match="by other settings"):
        plan_in_words(ours, known)


def test_the_plan_of_the_variants_leaves_out_those_that_were_tried(tmp_path):
    first, second, *others = (run for _, run in variants(settings(tmp_path)))
    page = Earlier({}, [{"recipe": first.recipe.fingerprint()}])
    ours = settings(tmp_path, earlier=page, jobs=len(others))
    seconds = [10.0] * len([second, *others])
    second.folder.mkdir(parents=True)
    (second.folder / TRAINED).write_text(json.dumps({"key": second.recipe.fingerprint()}))
    about = f"left, {ours.jobs} at a time: about"
    assert plan.choice_in_words(ours, seconds) == f"{len(others)} variants {about} 0 min 10 s"
    assert plan.choice_in_words(ours, seconds, anew=True) == f"{len(seconds)} variants {about} 0 min 20 s"


def test_a_plan_needs_no_held_out_images(tmp_path, few_digits):
    known = {"natural": Estimate(1.0, 50.0)}
    ours = settings(tmp_path, rows=("natural",), data=few_digits, assumed=None)
    assert not ours.tuning_data.exists()
    assert "natural" in plan_in_words(ours, known)


def recipe(name):
    return recipe_of(MNIST, MNIST.row(name), configs=REPOSITORY / "configs", seed=0, changes={})


class Unbreakable(nn.Module):
    """Sure of class 0 whatever it sees. Counts passes as the plan does, and notes how many images come at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.passes = 0
        self.batches: list[int] = []

    def forward(self, x):
        self.batches.append(len(x))
        self.passes += len(x)
        score = (self.weight * x).flatten(1).sum(1, keepdim=True)
        if score.requires_grad:
            score.register_hook(self._count_backward)
        return torch.cat([score + 9, *[score - 9] * 9], 1)

    def _count_backward(self, gradient):
        self.passes += 2 * len(gradient)


def test_the_passes_that_are_planned_are_those_of_a_net_that_nothing_breaks():
    net, num_images = Unbreakable(), 70
    images, labels = torch.rand(num_images, 1, 6, 6), torch.zeros(num_images, dtype=torch.long)
    model = PixelClassifier(OrderedDict(quantize=SoftQuantization(2, 100.0), backbone=net))
    lenders = dict.fromkeys(("natural", "pgd"), model)
    evaluate(model, images, labels, epsilon=0.3, attacks="quick", curve=[0.1, 0.2], transfer_from=lenders)
    assert net.passes == pytest.approx(plan.passes_of_evaluation("quick", num_images), rel=0.05)
    assert max(net.batches[1:], key=net.batches.count) == images_together(num_images, plan.LARGEST_BATCH)


def test_an_evaluation_is_planned_with_the_budgets_and_the_batch_that_evaluate_takes():
    assert len(CURVE) + 1 == plan.NUM_BUDGETS
    assert parse(["model", "--data", "data", "--output", "output"]).batch_size == plan.LARGEST_BATCH
    assert [images_together(n, plan.LARGEST_BATCH) for n in (4, 100, 200, 1000)] == [8, 25, 50, 128]


def test_a_row_is_estimated_by_the_images_of_its_epochs_and_by_all_passes_of_its_attacks(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "seconds_per_image", lambda recipe, num_attacked, device: (0.5, 0.25))
    ours = settings(tmp_path, num_images=10, assumed=(600, 100))
    passes = plan.passes_of_evaluation("quick", 10)
    assert plan.estimate_of(ours, recipe("natural")) == Estimate(300.0, plan.START_SECONDS + passes / 4)
    changes = {"trainer.limit_train_batches": 2}
    short = replace(recipe("natural"), changes=changes)
    assert plan.estimate_of(ours, short).epoch == 128.0  # two batches of 128 images


def test_a_step_that_takes_long_is_timed_on_a_few_of_its_images(monkeypatch):
    seen = []
    monkeypatch.setattr(plan, "SLOW_STEP", 0.0)
    given = recipe("natural")
    network = given.model(10)
    network.register_forward_pre_hook(lambda module, arguments: seen.append(len(arguments[0])))
    monkeypatch.setattr(type(given), "model", lambda self, num_classes: network)
    assert min(seconds_per_image(given, 100)) > 0
    assert set(seen) == set(plan.FEW_IMAGES)


def test_what_a_step_takes_for_any_number_of_images_is_not_counted_for_each(monkeypatch):
    now, counts = 0.0, []

    def run(count):
        nonlocal now
        now += 3.0 + 0.25 * count
        counts.append(count)

    monkeypatch.setattr(plan.time, "perf_counter", lambda: now)
    assert plan._seconds_of_each(run, 512) == pytest.approx((3.0 + 0.25 * 512) / 512)
    assert max(counts) == 64
    assert plan._seconds_of_each(run, 48) == pytest.approx((3.0 + 0.25 * 48) / 48)
    assert counts[-1] == 48


def test_a_pass_is_timed_on_as_many_images_as_are_attacked_together(monkeypatch):
    monkeypatch.setattr(plan, "SLOW_STEP", float("inf"))
    seen = []
    given = recipe("natural")
    network = given.model(10)
    network.register_forward_pre_hook(lambda module, arguments: seen.append((module.training, len(arguments[0]))))
    monkeypatch.setattr(type(given), "model", lambda self, num_classes: network)
    seconds_per_image(given, 20)
    assert {count for training, count in seen if not training} == {min(plan.FEW_IMAGES), 20}
    assert max(count for training, count in seen if training) == 128


def test_a_dearer_objective_is_timed_as_dearer(monkeypatch):
    passes = 0.0  # a clock that goes on by one with every image that passes the network

    def count(module, given, _):
        nonlocal passes
        passes += len(given[0]) if isinstance(module, PixelClassifier) else 0

    hook = torch.nn.modules.module.register_module_forward_hook(count)
    monkeypatch.setattr(time, "perf_counter", lambda: passes)
    natural, one_pass = seconds_per_image(recipe("natural"), 50)
    pgd, _ = seconds_per_image(recipe("pgd"), 50)
    hook.remove()
    assert (one_pass, natural, pgd) == (1, 1, 41)  # the step itself, and 40 of the attack
