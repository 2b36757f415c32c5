from __future__ import annotations

import random
import re
from collections import OrderedDict
from itertools import pairwise

import pytest
import torch
from torch import nn

import lightning_sq
from lightning_sq.attacks import PGD
from lightning_sq.errors import InputError
from lightning_sq.evaluation import diagnostics, runner, suites
from lightning_sq.evaluation.runner import StageRunner
from lightning_sq.evaluation.suites import SuiteEntry
from lightning_sq.layers import SoftQuantization
from lightning_sq.models import PixelClassifier
from lightning_sq.verification import tracing
from tests.evaluation.models import IMAGES, TwoFaced, closed_form, linear_model, sound


def only(attack, **options) -> dict[str, SuiteEntry]:
    return {"only": SuiteEntry("the only one", attack, "plain", on_everyone=True, **options)}


@pytest.mark.parametrize(
    "quantizer", [None, SoftQuantization(2, 60.0), SoftQuantization(4, 200.0), SoftQuantization(8, hard=True)]
)
def test_the_worst_case_and_the_proof_meet_at_the_truth_about_a_linear_model(quantizer):
    model = linear_model(quantizer)
    labels = model(IMAGES).argmax(1)
    labels[:4] = 1 - labels[:4]  # four clean mistakes
    epsilons = [0.005, 0.02, 0.1]
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=epsilons)
    assert found.clean_accuracy == pytest.approx(36 / 40)
    truth = [closed_form(model, labels, epsilon) for epsilon in epsilons]
    assert 0 < truth[1] < 0.9
    assert [found.survived(e).double().mean().item() for e in found.budgets] == pytest.approx(truth)
    assert [found.certified[e].double().mean().item() for e in found.budgets] == pytest.approx(truth)
    assert found.robust_accuracy == found.certified_accuracy == found.verdicts.double().mean().item()


def test_an_attack_that_does_nothing_is_seen_to_do_nothing():
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    idle = only(lambda model, images, labels, seeds, epsilon: images)
    entries = idle | {"pgd": suites.catalogue()["pgd"]}
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=0.5, attacks=entries)
    assert found.accuracy("only", 0.5) == 1.0
    assert found.robust_accuracy == 0.0  # the worst case is over all attacks
    alone = lightning_sq.evaluate(model, IMAGES, labels, epsilon=0.02, attacks=idle)
    assert alone.robust_accuracy == 1.0
    assert "more_steps_break_more" in alone.flags  # the checks do not believe it


@pytest.mark.parametrize("budgets", [[0.9], [0.5, 0.9]])
def test_what_is_broken_at_a_smaller_budget_counts_at_the_largest_too(budgets):
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    entries = {
        "idle": SuiteEntry("sees nothing", lambda model, images, *rest: images, "plain"),
        "box": SuiteEntry("breaks everything", PGD(), "black box"),
    }
    found = lightning_sq.evaluate(lambda x: model(x), IMAGES, labels, epsilon=budgets, attacks=entries)
    assert [row["accuracy_after"] for row in found.table] == [1.0, found.robust_accuracy] == [1.0, 0.0]
    (check,) = (check for check in found.diagnostics if check.name == "black_box_beats_white_box")
    assert check.measured == 1.0


def test_an_attack_that_cheats_is_caught():
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    with pytest.raises(InputError, match=r"only@0\.1 gave an image .* outside the ball"):
        lightning_sq.evaluate(
            model, IMAGES, labels, epsilon=0.1, attacks=only(lambda model, images, labels, seeds, epsilon: 1 - images)
        )


def test_clean_mistakes_are_never_attacked():
    model = linear_model()
    labels = 1 - model(IMAGES).argmax(1)
    seen = []
    watch = only(lambda model, images, *rest: seen.append(len(images)) or images)
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=0.1, attacks=watch)
    assert found.clean_accuracy == found.robust_accuracy == 0.0
    assert seen == []


def test_images_that_are_broken_or_proven_leave_the_batch():
    model = sound()
    labels = model(IMAGES).argmax(1)
    attacks = ["pgd", "apgd_ce", "own_square:num_queries=50"]
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=0.02, attacks=attacks)
    proven, broken = found.certified[0.02], found.outcomes["pgd"][0.02].broken
    assert proven.any()
    assert broken.any()
    left = found.correct & ~broken & ~proven
    for name in attacks[1:]:
        assert left.any()
        assert torch.equal(found.outcomes[name][0.02].attacked, left)
        left = left & ~found.outcomes[name][0.02].broken


def test_a_smaller_attack_would_have_lied_about_a_hard_quantizer():
    model = linear_model(SoftQuantization(16, hard=True))
    labels = model(IMAGES).argmax(1)
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=0.15, attacks="quick")
    assert found.accuracy("pgd", 0.15) > 0.5
    assert found.accuracy("bpda", 0.15) < 0.1
    assert found.robust_accuracy <= found.accuracy("bpda", 0.15)
    assert {"plain_gradient_misses", "zero_gradients"} <= set(found.flags)


def test_the_curve_never_rises_and_only_attacks_on_everyone_run_between_the_budgets():
    model = linear_model(SoftQuantization(8, 100.0))
    labels = model(IMAGES).argmax(1)
    found = lightning_sq.evaluate(
        model, IMAGES, labels, epsilon=[0.2, 0.05], curve=[0.01, 0.1], attacks=["quick", "bpda_thorough"]
    )
    assert found.epsilons == (0.01, 0.05, 0.1, 0.2)
    assert sorted(found.outcomes["pgd"]) == [0.01, 0.05, 0.1, 0.2]
    assert sorted(found.outcomes["bpda_thorough"]) == [0.05, 0.2]
    curve = [found.survived(e).sum().item() for e in found.epsilons]
    assert curve == sorted(curve, reverse=True)


@pytest.mark.parametrize(
    ("attacks", "model", "epsilon"),
    [("quick", linear_model(SoftQuantization(4, 40.0)), 0.03), ("own_square:num_queries=20", sound(), 0.2)],
    ids=["quick", "own_square"],
)
def test_batch_size_changes_no_verdict(attacks, model, epsilon):
    labels = model(IMAGES).argmax(1)
    whole, parts = (
        lightning_sq.evaluate(model, IMAGES, labels, epsilon=epsilon, attacks=attacks, batch_size=size)
        for size in (40, 7)
    )
    for name in whole.outcomes:
        outcome = whole.outcomes[name][epsilon]
        assert 0 < outcome.broken.sum() < outcome.attacked.sum()
        assert torch.equal(outcome.broken, parts.outcomes[name][epsilon].broken)


def test_the_seed_changes_the_random_starts_and_nothing_else():
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    starts = []

    def note(model, images, labels, seeds, epsilon):
        starts.extend(seeds)
        return PGD(2)(model, images, labels, seeds, epsilon)

    first, again, other = (
        lightning_sq.evaluate(model, IMAGES, labels, epsilon=0.02, attacks=only(note), seed=seed) for seed in (0, 0, 1)
    )
    of_first, of_again, of_other = starts[:40], starts[40:80], starts[80:]
    assert len(set(of_first)) == 40
    assert of_first == of_again
    assert set(of_first).isdisjoint(of_other)
    assert torch.equal(first.verdicts, again.verdicts)
    assert first.clean_accuracy == other.clean_accuracy


def test_an_attack_that_makes_no_sense_for_a_model_is_left_out_with_a_reason():
    model = linear_model()
    found = lightning_sq.evaluate(model, IMAGES, model(IMAGES).argmax(1), epsilon=0.02)
    assert found.skipped["bpda"].startswith("no quantizer was found")
    assert "needs 4 classes" in found.skipped["apgd_t"]
    with pytest.raises(InputError, match="No attack is left"):
        lightning_sq.evaluate(model, IMAGES, model(IMAGES).argmax(1), epsilon=0.02, attacks="bpda")


def test_l2_budgets_may_be_larger_than_one():
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=[0.1, 3.0], attacks=["pgd", "apgd_ce"], norm="l2")
    assert 0 < found.survived(0.1).sum() < 40
    assert found.robust_accuracy == 0.0
    assert found.certified_accuracy is None
    with pytest.raises(InputError, match="no l2 attack 'quantized_box'"):
        lightning_sq.evaluate(model, IMAGES, labels, epsilon=1.0, attacks="quantized_box", norm="l2")


def test_progress_ends_full_and_its_cost_is_that_of_the_attacks():
    model = linear_model(SoftQuantization(4, 60.0))
    labels = model(IMAGES).argmax(1)
    seen = []
    lightning_sq.evaluate(
        model, IMAGES, labels, epsilon=0.02, batch_size=8, progress=lambda *report: seen.append(report)
    )
    assert all(0 <= before[0] <= after[0] for before, after in pairwise(seen))
    assert all(done <= total for done, total, _ in seen)
    assert seen[0][2].endswith("% unbroken at 0.02 so far")
    assert "images left" in seen[0][2]
    assert seen[-1][0] == seen[-1][1]
    checks = [re.search(r"% unbroken, check (\d+) of (\d+): [a-z]", note) for _, _, note in seen]
    numbers = [tuple(map(int, check.groups())) for check in checks if check]
    assert numbers == [(k, len(diagnostics.CHECKS)) for k in range(1, len(diagnostics.CHECKS) + 1)]
    entries = suites.catalogue()
    assert entries["pgd"].cost == entries["bpda"].cost == 3 * 40
    assert entries["eot_pgd"].cost == 20 * 3 * 40
    assert entries["quantized_box_square"].cost == entries["square"].cost == 5000


def test_verdicts_do_not_depend_on_what_else_the_process_evaluated():
    """AutoAttack's own check counts a derivative in one model against every later one."""
    model = linear_model()
    labels = model(IMAGES).argmax(1)

    def optimises(x):
        with torch.enable_grad():
            y = x.detach().clone().requires_grad_()
            torch.autograd.grad(model(y).sum(), y)
        return model(x)

    flags = [
        lightning_sq.evaluate(f, IMAGES, labels, epsilon=0.02, attacks="pgd,apgd_ce").flags
        for f in (model, optimises, model)
    ]
    assert flags == [[], ["optimises_at_inference"], []]


@pytest.mark.parametrize("count", [1, 7, 8, 30, 100, 513, 2000])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_every_image_of_a_stage_has_one_process_and_few_images_are_shared_too(count, processes, monkeypatch):
    asked = StageRunner(None, None, None, None, None, device=torch.device("cpu"), batch_size=128)
    numbers = 3 * torch.arange(count)
    shares = []
    monkeypatch.setattr(runner, "world_size", lambda: processes)
    for rank in range(processes):
        monkeypatch.setattr(runner, "rank", lambda rank=rank: rank)
        shares.append([batch.tolist() for batch in asked._own_batches(numbers)])
    batches = sorted(batch for share in shares for batch in share)
    assert [image for batch in batches for image in batch] == numbers.tolist()
    assert all(len(batch) <= 128 for batch in batches)
    monkeypatch.setattr(runner, "world_size", lambda: 1)
    monkeypatch.setattr(runner, "rank", lambda: 0)
    assert batches == [batch.tolist() for batch in asked._own_batches(numbers)]
    if count >= 32:
        assert len(batches) >= 4
    else:
        assert len(batches) == -(-count // 8)


@pytest.mark.parametrize("quantizer", [None, SoftQuantization(4, 60.0)])
def test_a_network_is_traced_once_however_often_it_is_bounded(quantizer, monkeypatch):
    """A model that shows its network may make a new one at each look."""
    traced, trace = [], tracing._Tracer.trace

    def counted(self, root, *rest):
        traced.append(root)
        return trace(self, root, *rest)

    monkeypatch.setattr(tracing._Tracer, "trace", counted)
    model = linear_model(quantizer)
    epsilons = [0.01, 0.02, 0.03]
    found = lightning_sq.evaluate(
        model, IMAGES, model(IMAGES).argmax(1), epsilon=epsilons, attacks="fgsm", batch_size=8, checks=False
    )
    assert found.certified.keys() == set(epsilons)
    assert len(traced) == 1


class Defends(nn.Module):
    """A linear model that may see all images alike, by what its forward method reads."""

    def __init__(self, **reads) -> None:
        super().__init__()
        self.net, self.reads = linear_model(), reads
        for name, value in reads.items():
            setattr(self, name, value)

    def forward(self, x):
        defends = self.reads["nested"][0] if "nested" in self.reads else self.front is not None
        return self.net(torch.clamp(x, 0.5, 0.5) if defends else x)


@pytest.mark.parametrize("name", ["nested", "front"])
def test_each_evaluation_proves_something_of_the_model_as_it_is_by_then(name):
    model = Defends(**{name: [True]})
    labels = torch.full((40,), int(model(IMAGES)[0].argmax()))
    options = {"epsilon": 0.3, "attacks": "fgsm", "checks": False}
    assert lightning_sq.evaluate(model, IMAGES, labels, **options).certified_accuracy == 1.0
    if name == "nested":
        model.nested[0] = False
    else:
        model.front = None
    assert lightning_sq.evaluate(model, IMAGES, labels, **options).certified_accuracy < 0.5


class Dice(nn.Module):
    """Answers by one of two networks; tracing sees one."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList([linear_model(), linear_model()])
        nn.init.zeros_(self.nets[1].backbone[1].weight)

    def forward(self, x):
        return self.nets[random.randrange(2)](x)


def test_nothing_is_proven_of_a_network_that_is_random_in_a_way_that_tracing_does_not_see():
    random.seed(0)
    model = Dice()
    found = lightning_sq.evaluate(model, IMAGES, linear_model()(IMAGES).argmax(1), epsilon=0.001, attacks="fgsm")
    assert found.certified_accuracy is None
    assert "random_answers" in found.flags


def test_the_suite_for_models_with_noise_takes_expectations():
    of_expectations = ["eot_pgd", "eot_apgd_ce", "eot_apgd_dlr", "bpda_eot_pgd"]
    assert list(suites.attacks_by_name("rand")) == ["pgd", *of_expectations, "quantized_box_eot_pgd"]
    assert list(suites.attacks_by_name("rand", "l2")) == ["pgd", *of_expectations]


class Noise(nn.Module):
    """x + 0.3 n, n from a standard normal, in eval mode too."""

    def forward(self, x):
        return x + 0.3 * torch.randn_like(x)


def test_noise_behind_a_hard_quantizer_hides_nothing_from_the_suite_for_noise():
    """Exact derivatives of the quantizer are 0, and one draw's derivative points elsewhere than the mean's."""
    torch.manual_seed(0)
    network = nn.Sequential(Noise(), nn.Flatten(), nn.Linear(108, 32), nn.ReLU(), nn.Linear(32, 5))
    parts = OrderedDict(quantize=SoftQuantization(2, 60.0, hard=True), backbone=network)
    model = PixelClassifier(parts).eval()

    @torch.no_grad()
    def draws(images):
        return torch.stack([model(images) for _ in range(100)])

    images = IMAGES[:20]
    labels = draws(images).mean(0).argmax(1)

    def accuracy(x):
        return (draws(x).argmax(2) == labels).double().mean().item()

    def left(name):
        return accuracy(suites.catalogue()[name].attack(model, images, labels, list(range(20)), 0.1))

    assert accuracy(images) > 0.75
    assert min(left(name) for name in ("eot_pgd", "bpda", "quantized_box")) > 0.5
    for name in ("bpda_eot_pgd", "quantized_box_eot_pgd"):
        assert name in suites.SUITES["rand"]
        assert left(name) < 0.3
        assert suites.catalogue()[name].cost == 20 * 3 * 40
        found = lightning_sq.evaluate(model, images, labels, epsilon=0.1, attacks=name, checks=False)
        assert found.robust_accuracy < 0.5


ORDERS = {"fgsm first": ["fgsm", "own_square:num_queries=50"], "fgsm last": ["own_square:num_queries=50", "fgsm"]}


@pytest.mark.parametrize("order", ORDERS)
def test_once_a_proof_is_refuted_none_is_believed_and_every_image_is_attacked(order, tmp_path):
    model = TwoFaced(linear_model())
    labels = model(IMAGES).argmax(1)
    by_name = suites.attacks_by_name(ORDERS[order])
    entries = {name: by_name[name] for name in ORDERS[order]}
    seen = []
    options = {"epsilon": [0.01, 0.02], "attacks": entries, "batch_size": 8, "store": tmp_path}
    found, again = (
        lightning_sq.evaluate(model, IMAGES, labels, **options, progress=lambda *said: seen.append(said))
        for _ in range(2)
    )
    alone = lightning_sq.evaluate(lambda x: model(x), IMAGES, labels, **options | {"store": None})
    assert found.certified_accuracy is None
    assert found.certified is None
    assert "attacks_break_what_is_proven" in found.flags
    assert 0 < found.robust_accuracy < found.clean_accuracy == 1
    for name in entries:
        for epsilon in (0.01, 0.02):
            outcome, of_function = found.outcomes[name][epsilon], alone.outcomes[name][epsilon]
            assert torch.equal(outcome.attacked, of_function.attacked)
            assert torch.equal(outcome.broken, of_function.broken)
            assert torch.equal(outcome.broken, again.outcomes[name][epsilon].broken)
    passes = [done for done, _, _ in seen[: len(seen) // 2]]
    assert passes == sorted(passes)
    assert seen[-1][0] == seen[-1][1]


def test_an_epsilon_is_one_that_was_evaluated_or_a_sentence_says_which_were():
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    found = lightning_sq.evaluate(
        model, IMAGES, labels, epsilon="8/255", curve=[0.01], attacks=["fgsm", "own_square:num_queries=9"], checks=False
    )
    assert 0 < found.robust_accuracy < found.survived(0.01).float().mean() < 1
    for rounded in (8 / 255, "8/255", torch.tensor(8 / 255).item(), 0.03137255):
        assert torch.equal(found.survived(rounded), found.verdicts)
        assert found.accuracy("fgsm", rounded) == found.accuracy("fgsm", found.budgets[0])
    for other in (0.0313, 0.5, 0.0):
        for ask in (found.survived, lambda epsilon: found.accuracy("fgsm", epsilon)):
            with pytest.raises(
                InputError, match=rf"epsilon={other} was not evaluated\. Ask for one of 0\.01, 0\.0313725"
            ):
                ask(other)
    with pytest.raises(InputError, match=r"epsilon=0\.01 was not evaluated\. Ask for one of 0\.0313725\d*\.$"):
        found.accuracy("own_square:num_queries=9", 0.01)
    for ask in (lambda: found.accuracy("pgd", 0.01), lambda: found.survived(0.01, ["pgd"])):
        with pytest.raises(InputError, match=r"The attack 'pgd' was not run\. Ask for one of fgsm, own_square"):
            ask()


def test_what_is_shown_of_an_image_broke_it_at_the_smallest_budget_or_was_tried_last():
    def outcome(value, broken):
        flags = torch.tensor([broken, False])
        return runner.Outcome(flags, flags, ~flags, 0.0, (), {i: torch.tensor(value) for i in range(2)})

    found = lightning_sq.evaluate(
        linear_model(), IMAGES, torch.zeros(40).long(), epsilon=0.1, attacks="fgsm", checks=False
    )
    found.outcomes = {
        "a": {0.1: outcome(1, False), 0.2: outcome(2, True)},
        "b": {0.1: outcome(3, True), 0.2: outcome(4, True)},
        "c": {0.1: outcome(5, True), 0.2: outcome(6, True)},
    }
    assert {i: pixels.item() for i, pixels in found.examples().items()} == {0: 3, 1: 6}
