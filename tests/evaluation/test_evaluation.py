from __future__ import annotations

import re
import shutil
import sqlite3
from itertools import pairwise

import pytest
import torch
from torch import nn

import lightning_sq
from lightning_sq.attacks import PGD, TakenApart
from lightning_sq.errors import InputError
from lightning_sq.evaluation import diagnostics, runner, suites
from lightning_sq.evaluation.runner import StageRunner
from lightning_sq.evaluation.suites import Entry
from lightning_sq.layers import SoftQuantization
from tests.evaluation.models import IMAGES, closed_form, linear_model


def only(attack, **options) -> dict[str, Entry]:
    return {"only": Entry("the only one", attack, "plain", on_everyone=True, **options)}


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
        "idle": Entry("sees nothing", lambda model, images, *rest: images, "plain"),
        "box": Entry("breaks everything", PGD(), "black box"),
    }
    found = lightning_sq.evaluate(lambda x: model(x), IMAGES, labels, epsilon=budgets, attacks=entries)
    assert [row["accuracy_after"] for row in found.table] == [1.0, found.robust_accuracy] == [1.0, 0.0]
    (check,) = (check for check in found.diagnostics if check.name == "black_box_beats_white_box")
    assert check.measured == 1.0


def test_an_attack_that_cheats_is_caught():
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    with pytest.raises(AssertionError, match="outside the ball"):
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
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=0.02, attacks="pgd,own_square,apgd_ce")
    proven = found.certified[0.02]
    left = found.correct & ~found.outcomes["pgd"][0.02].broken & ~proven
    for name in ("apgd_ce", "own_square"):
        assert torch.equal(found.outcomes[name][0.02].attacked, left)
    assert proven.any()


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


@pytest.mark.parametrize("attacks", ["quick", "own_square"])
def test_batch_size_changes_no_verdict(attacks):
    model = linear_model(SoftQuantization(4, 40.0))
    labels = model(IMAGES).argmax(1)
    whole, parts = (
        lightning_sq.evaluate(model, IMAGES, labels, epsilon=0.03, attacks=attacks, batch_size=size) for size in (40, 7)
    )
    for name in whole.outcomes:
        assert torch.equal(whole.outcomes[name][0.03].broken, parts.outcomes[name][0.03].broken)


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
    assert "no quantizer" in found.skipped["bpda"]
    assert "needs 4 classes" in found.skipped["apgd_t"]
    with pytest.raises(InputError, match="No attack is left"):
        lightning_sq.evaluate(model, IMAGES, model(IMAGES).argmax(1), epsilon=0.02, attacks="bpda")


def test_a_foreign_front_end_is_given_and_attacked_in_its_box():
    network = linear_model()

    def three_levels(x):
        return (x * 2).round() / 2

    labels = TakenApart(three_levels, network)(IMAGES).argmax(1)
    found = lightning_sq.evaluate(network, IMAGES, labels, epsilon=0.3, attacks="quick", quantizer=three_levels)
    assert found.accuracy("pgd", 0.3) > 0.5
    assert found.robust_accuracy == found.certified_accuracy < 0.2


def test_any_function_can_be_evaluated_and_the_caller_is_left_alone():
    net = nn.Sequential(nn.Dropout(0.5), linear_model()).train()
    labels = net.eval()(IMAGES).argmax(1)
    net.train()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    function = lightning_sq.evaluate(lambda x: net[1](x), IMAGES, labels, epsilon=0.02, attacks="pgd")
    module = lightning_sq.evaluate(net, IMAGES, labels, epsilon=0.02, attacks="pgd")
    assert function.robust_accuracy == module.robust_accuracy
    assert function.certified_accuracy is None
    assert module.certified_accuracy is not None
    assert net.training
    assert net[0].training
    assert all(weight.requires_grad for weight in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_behind_a_foreign_front_end_is_attacked_in_eval_mode_throughout():
    norm, quantizer = nn.BatchNorm2d(3), nn.Hardtanh(0, 1)
    network = nn.Sequential(norm, nn.Dropout(0.5), linear_model()).train()
    modes = set()
    norm.register_forward_pre_hook(lambda module, _: modes.add(module.training))
    quantizer.register_forward_pre_hook(lambda module, _: modes.add(module.training))
    labels = torch.zeros(40).long()
    lightning_sq.evaluate(
        network, IMAGES, labels, epsilon=0.02, attacks="pgd,bpda,quantized_box,apgd_ce", quantizer=quantizer
    )
    assert modes == {False}
    assert not norm.running_mean.any()
    assert network.training
    assert norm.training
    assert quantizer.training


def test_l2_budgets_may_be_larger_than_one():
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=[0.1, 3.0], attacks=["pgd", "apgd_ce"], norm="l2")
    assert 0 < found.survived(0.1).sum() < 40
    assert found.robust_accuracy == 0.0
    assert found.certified_accuracy is None
    with pytest.raises(InputError, match="no l2 attack 'quantized_box'"):
        lightning_sq.evaluate(model, IMAGES, labels, epsilon=1.0, attacks="quantized_box", norm="l2")


def test_killed_in_the_middle_it_goes_on_and_loses_nothing_that_was_finished(tmp_path):
    model = linear_model(SoftQuantization(4, 60.0))
    labels = model(IMAGES).argmax(1)
    options = {"epsilon": [0.02, 0.05], "attacks": "standard", "batch_size": 8, "show": (3, 5)}
    whole = lightning_sq.evaluate(model, IMAGES, labels, **options)
    calls = 0

    def power_cut(done, total, note):
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lightning_sq.evaluate(model, IMAGES, labels, **options, store=tmp_path, progress=power_cut)
    with sqlite3.connect(tmp_path / "rank-0.sqlite") as connection:
        before = connection.execute("SELECT COUNT(*) FROM batches").fetchone()[0]
    assert before >= 9

    resumed = lightning_sq.evaluate(model, IMAGES, labels, **options, store=tmp_path)
    assert torch.equal(whole.verdicts, resumed.verdicts)
    assert whole.flags == resumed.flags
    for name, outcomes in whole.outcomes.items():
        for epsilon, outcome in outcomes.items():
            again = resumed.outcomes[name][epsilon]
            assert torch.equal(outcome.broken, again.broken)
            assert torch.equal(outcome.attacked, again.attacked)
    ours, theirs = whole.examples(IMAGES), resumed.examples(IMAGES)
    assert ours.keys() == theirs.keys() == {3, 5}
    assert all(torch.equal(ours[i], theirs[i]) for i in ours)


def test_a_batch_that_was_half_written_when_the_process_was_killed_is_taken_back(tmp_path):
    model = linear_model(SoftQuantization(4, 60.0))
    labels = model(IMAGES).argmax(1)
    options = {"epsilon": 0.02, "attacks": "pgd", "batch_size": 8}
    whole = lightning_sq.evaluate(model, IMAGES, labels, **options, store=tmp_path / "whole")
    (left := tmp_path / "killed").mkdir()
    connection = sqlite3.connect(tmp_path / "whole/rank-0.sqlite")
    kept = connection.execute("SELECT COUNT(*) FROM batches").fetchone()[0]
    connection.execute("PRAGMA cache_size = 1")  # so that what is not yet committed is in the file already
    connection.execute("UPDATE batches SET seconds = 0.0")
    connection.executemany("INSERT INTO verdicts VALUES ('half', ?, 1, 0)", ((image,) for image in range(10_000)))
    for path in (tmp_path / "whole").iterdir():  # what a disk holds that lost its process
        shutil.copy(path, left)
    connection.close()
    assert {path.name for path in left.iterdir()} == {"rank-0.sqlite", "rank-0.sqlite-journal"}

    resumed = lightning_sq.evaluate(model, IMAGES, labels, **options, store=left)
    assert torch.equal(whole.verdicts, resumed.verdicts)
    with sqlite3.connect(left / "rank-0.sqlite") as connection:
        assert connection.execute("SELECT COUNT(*) FROM batches WHERE seconds > 0").fetchone()[0] == kept
        assert connection.execute("SELECT COUNT(*) FROM verdicts WHERE stage = 'half'").fetchone()[0] == 0


def test_another_model_to_transfer_from_is_another_evaluation(tmp_path):
    model, one, other = linear_model(), linear_model(), linear_model()
    other.backbone[1].bias.data[0] += 0.1
    options = {"epsilon": 0.02, "attacks": "pgd", "store": tmp_path}
    labels = model(IMAGES).argmax(1)
    lightning_sq.evaluate(model, IMAGES, labels, **options, transfer_from={"control": one})
    with pytest.raises(InputError, match=r"another evaluation \(transfer_from differs"):
        lightning_sq.evaluate(model, IMAGES, labels, **options, transfer_from={"control": other})


class Wrapped(nn.Module):
    """Somebody else's model around ours."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside(x)


@pytest.mark.parametrize("wrap", [lambda source: source, Wrapped], ids=["ours", "a foreign one"])
def test_a_source_behind_a_hard_quantizer_lends_images_too(wrap):
    """Its own gradient is 0 wherever it has one."""
    model, source = linear_model(), linear_model(SoftQuantization(8, hard=True))
    labels = model(IMAGES).argmax(1)
    found = lightning_sq.evaluate(
        model, IMAGES, labels, epsilon=0.2, attacks="fgsm", transfer_from={"hard": wrap(source)}, checks=False
    )
    outcome = found.outcomes["transfer_hard"][0.2]
    entry = found.attacks["transfer_hard"]
    alone = entry.attack(None, IMAGES, labels, range(40), 0.2)
    assert (model(alone).argmax(1) != labels).float().mean() > 0.9
    assert not (outcome.attacked & ~outcome.broken).any()
    assert "BPDA" in entry.title
    assert entry.cost == 3 * 40


@pytest.mark.parametrize("change", ["weights", "images", "seed"])
def test_verdicts_of_something_else_are_refused(tmp_path, change):
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    options = {"epsilon": 0.02, "attacks": "pgd", "store": tmp_path}
    lightning_sq.evaluate(model, IMAGES, labels, **options)
    images = IMAGES
    if change == "weights":
        model.backbone[1].bias.data[0] += 1e-3
    if change == "images":
        images = (IMAGES + 1e-3).clamp(0, 1)
    name = {"weights": "model", "images": "images", "seed": "seed"}[change]
    with pytest.raises(InputError, match=rf"another evaluation \(.*{name}.*--overwrite"):
        lightning_sq.evaluate(model, images, labels, **options, seed=int(change == "seed"))


@pytest.mark.parametrize(("off", "is_same"), [(1e-6, True), (1e-2, False)])
def test_verdicts_of_another_gpu_that_rounds_otherwise_are_gone_on_with(tmp_path, off, is_same):
    """The same function, whose weights cannot be looked at: only what it says tells."""
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    options = {"epsilon": 0.02, "attacks": "pgd", "store": tmp_path, "checks": False}
    lightning_sq.evaluate(lambda x: model(x), IMAGES, labels, **options)
    if is_same:
        lightning_sq.evaluate(lambda x: model(x) * (1 + off), IMAGES, labels, **options)
    else:
        with pytest.raises(InputError, match=r"another evaluation \(logits differs"):
            lightning_sq.evaluate(lambda x: model(x) * (1 + off), IMAGES, labels, **options)


def test_a_random_model_is_known_again(tmp_path):
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    options = {"epsilon": 0.02, "attacks": "pgd", "store": tmp_path, "checks": False}
    first, second = (
        lightning_sq.evaluate(lambda x: model(x) + torch.rand(len(x), 2), IMAGES, labels, **options) for _ in range(2)
    )
    assert torch.equal(first.verdicts, second.verdicts)


def test_a_damaged_store_has_a_sentence(tmp_path):
    (tmp_path / "rank-0.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match="cannot be read"):
        lightning_sq.evaluate(linear_model(), IMAGES, torch.zeros(40).long(), epsilon=0.1, store=tmp_path)


def test_progress_ends_full_and_its_cost_is_that_of_the_attacks():
    model = linear_model(SoftQuantization(4, 60.0))
    labels = model(IMAGES).argmax(1)
    seen = []
    lightning_sq.evaluate(
        model, IMAGES, labels, epsilon=0.02, batch_size=8, progress=lambda *report: seen.append(report)
    )
    assert all(0 <= before[0] <= after[0] for before, after in pairwise(seen))
    assert all(done <= total for done, total, _ in seen)
    assert seen[0][2].endswith("% robust at 0.02 so far")
    assert "images left" in seen[0][2]
    assert seen[-1][0] == seen[-1][1]
    checks = [re.search(r"% robust, check (\d+) of (\d+): [a-z]", note) for _, _, note in seen]
    numbers = [tuple(map(int, check.groups())) for check in checks if check]
    assert numbers == [(k, len(diagnostics.CHECKS)) for k in range(1, len(diagnostics.CHECKS) + 1)]
    entries = suites.catalogue()
    assert entries["pgd"].cost == entries["bpda"].cost == 3 * 40
    assert entries["eot_pgd"].cost == 20 * 3 * 40
    assert entries["quantized_box_square"].cost == entries["square"].cost == 5000


def test_what_autoattack_would_only_log_is_in_the_outcome_and_in_the_store(tmp_path):
    model = linear_model(SoftQuantization(4, hard=True), classes=5)
    labels = model(IMAGES).argmax(1)
    options = {"epsilon": 0.01, "attacks": "apgd_t", "store": tmp_path}
    for _ in range(2):  # the second time from the store
        found = lightning_sq.evaluate(model, IMAGES, labels, **options)
        (note,) = found.outcomes["apgd_t"][0.01].notes
        assert "zero gradient" in note


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
