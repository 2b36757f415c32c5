"""Branch and bound against the whole truth: behind a hard quantizer a small ball can be counted through."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import pytest
import torch
from torch import nn

from lightning_sq.attacks import PGD, BranchAndBound, QuantizedBox, branch_and_bound, fools
from lightning_sq.attacks.branch_and_bound import _not_proven as not_proven
from lightning_sq.errors import InputError
from lightning_sq.evaluation import evaluate
from lightning_sq.layers import SoftQuantization
from lightning_sq.models import PixelClassifier
from lightning_sq.ops.interval import quantized_box
from lightning_sq.verification.interval_network import certified

IMAGES = torch.rand(60, 1, 2, 3, generator=torch.Generator().manual_seed(3))
EPSILON = 0.2
QUANTIZERS = {
    "two levels": SoftQuantization(2, hard=True),
    "three levels": SoftQuantization(3, hard=True),
    "three levels where they are wanted": SoftQuantization(3, hard=True, thresholds=[0.3, 0.6]),
    "six levels": SoftQuantization(6, hard=True),
    "seven levels": SoftQuantization(7, hard=True),  # of which float32 misses some by its last digit
}


def net(quantizer: SoftQuantization | None = None) -> PixelClassifier:
    torch.manual_seed(1)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    backbone[1].weight.data.mul_(4)
    backbone[3].weight.data.mul_(4)
    parts = OrderedDict(backbone=backbone)
    return PixelClassifier(parts if quantizer is None else OrderedDict(quantize=quantizer, **parts)).eval()


def labels_of(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IMAGES).argmax(1)


def robust_by_counting(model: PixelClassifier, labels: torch.Tensor) -> torch.Tensor:
    """Every image of the levels that the ball reaches, one by one."""
    steps = model.quantizer.num_levels - 1
    lower, upper = (end.flatten(1).mul(steps).round().int() for end in quantized_box(IMAGES, EPSILON, model.quantizer))
    robust = []
    for low, high, label in zip(lower.tolist(), upper.tolist(), labels, strict=True):
        ranges = [range(a, b + 1) for a, b in zip(low, high, strict=True)]
        points = torch.tensor(list(itertools.product(*ranges)), dtype=torch.float32).view(-1, 1, 2, 3) / steps
        with torch.no_grad():
            robust.append((model.network(points).argmax(1) == label).all())
    return torch.stack(robust)


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("at_a_time", [1, 7, 256])
def test_it_ends_with_the_truth_behind_a_hard_quantizer(name, at_a_time):
    model = net(QUANTIZERS[name])
    labels = labels_of(model)
    truth = robust_by_counting(model, labels)
    bounds = certified(model, IMAGES, labels, EPSILON)
    assert truth.any()
    assert not truth.all()
    assert (truth & ~bounds).any()  # bounds alone do not tell
    found = BranchAndBound(100_000, at_a_time)(model, IMAGES, labels, (), EPSILON)
    assert torch.equal(found.proven, truth)
    assert torch.equal(fools(model, found.images, IMAGES, labels, epsilon=EPSILON), ~truth)


@pytest.mark.parametrize(("margin", "sure"), [(1e-6, False), (1e-4, True)])
def test_what_rounding_alone_may_have_brought_below_zero_is_no_proof(margin, sure):
    model = net()
    nn.init.zeros_(model.backbone[3].weight)
    model.backbone[3].bias.data.copy_(torch.tensor([1.0, 1.0 - margin, 0.0]))
    found = BranchAndBound(10)(model, IMAGES[:5], torch.zeros(5).long(), (), EPSILON)
    assert found.proven.tolist() == [sure] * 5


@pytest.mark.parametrize("max_boxes", [1, 3, 10])
def test_with_few_boxes_it_gives_up_and_claims_nothing_false(max_boxes):
    model = net(QUANTIZERS["six levels"])
    labels = labels_of(model)
    truth = robust_by_counting(model, labels)
    found = BranchAndBound(max_boxes)(model, IMAGES, labels, (), EPSILON)
    broken = fools(model, found.images, IMAGES, labels, epsilon=EPSILON)
    assert not (found.proven & ~truth).any()
    assert not (broken & truth).any()
    assert (~found.proven & ~broken).any()
    assert (found.proven | ~certified(model, IMAGES, labels, EPSILON)).all()


@pytest.mark.parametrize("quantizer", [None, SoftQuantization(3, 40.0)], ids=["no quantizer", "a soft one"])
def test_without_levels_it_cuts_in_the_middle_and_proves_more_than_bounds_do(quantizer):
    model = net(quantizer)
    labels = labels_of(model)
    found = BranchAndBound(20_000)(model, IMAGES, labels, (), EPSILON)
    bounds = certified(model, IMAGES, labels, EPSILON)
    assert (found.proven & ~bounds).any()
    assert (found.proven | ~bounds).all()
    pgd = PGD(num_steps=50, num_restarts=5, criterion="margin")
    attack = pgd if quantizer is None else QuantizedBox(pgd)
    worst = attack(model, IMAGES, labels, list(range(60)), EPSILON)
    broken = fools(model, worst, IMAGES, labels, epsilon=EPSILON)
    assert broken.any()
    assert not (broken & found.proven).any()


def test_an_image_that_is_wrong_from_the_start_is_not_proven():
    model = net(QUANTIZERS["two levels"])
    labels = (labels_of(model) + 1) % 3
    assert not BranchAndBound()(model, IMAGES, labels, (), EPSILON).proven.any()


def test_an_evaluation_with_it_leaves_nothing_open_and_goes_on_where_it_was(tmp_path):
    model = net(QUANTIZERS["six levels"])
    labels = labels_of(model)
    truth = robust_by_counting(model, labels).double().mean().item()

    def found(**options):
        return evaluate(model, IMAGES, labels, epsilon=[0.05, EPSILON], checks=False, **options)

    quick = found(attacks="fgsm")
    assert quick.certified_accuracy < truth < quick.robust_accuracy
    whole = found(attacks="fgsm,branch_and_bound:max_boxes=100000", store=tmp_path)
    assert whole.certified_accuracy == whole.robust_accuracy == truth
    assert (whole.certified[0.05] | ~whole.certified[EPSILON]).all()
    again = found(attacks="fgsm,branch_and_bound:max_boxes=100000", store=tmp_path)
    assert all(torch.equal(again.certified[e], whole.certified[e]) for e in whole.epsilons)
    assert again.table == whole.table


def test_it_is_left_out_where_there_are_no_bounds_and_in_l2():
    model = net()
    found = evaluate(lambda x: model(x), IMAGES, labels_of(model), epsilon=EPSILON, attacks="pgd,branch_and_bound")
    assert found.skipped == {"branch_and_bound": "interval bounds have no rule for a part of the network"}
    with pytest.raises(InputError, match="There is no l2 attack 'branch_and_bound'"):
        evaluate(model, IMAGES, labels_of(model), epsilon=0.5, norm="l2", attacks="branch_and_bound")


def too_deep_for_bounds() -> PixelClassifier:
    """Its layers keep every length, and make every box four times as wide: its bounds are beyond float32."""
    mixing = torch.tensor([[1.0]])
    for _ in range(4):
        mixing = torch.cat([torch.cat([mixing, mixing], 1), torch.cat([mixing, -mixing], 1)]) / 2**0.5
    torch.manual_seed(1)
    layers = [nn.Linear(6, 16), *(nn.Linear(16, 16, bias=False) for _ in range(70)), nn.Linear(16, 3)]
    for layer in layers[1:-1]:
        layer.weight.data.copy_(mixing)
    return PixelClassifier(OrderedDict(backbone=nn.Sequential(nn.Flatten(), *layers))).eval()


def test_bounds_that_are_no_numbers_prove_nothing_and_the_image_is_given_up_at_once(monkeypatch):
    model, rounds = too_deep_for_bounds(), []
    monkeypatch.setattr(branch_and_bound, "_not_proven", lambda *of: rounds.append(of) or not_proven(*of))
    labels = labels_of(model)
    found = BranchAndBound()(model, IMAGES, labels, (), EPSILON)
    worst = PGD(criterion="margin")(model, IMAGES, labels, list(range(60)), EPSILON)
    assert fools(model, worst, IMAGES, labels, epsilon=EPSILON).any()
    assert not certified(model, IMAGES, labels, EPSILON).any()
    assert not found.proven.any()
    assert len(rounds) == 1


def test_a_slope_that_is_no_number_promises_nothing(monkeypatch):
    """Where a gradient is beyond float32, a pixel that cannot move would be the first to be cut."""
    model = net(QUANTIZERS["six levels"])
    labels = labels_of(model)
    real = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *of: [gradient * float("inf") for gradient in real(*of)])
    boxes = branch_and_bound._Boxes(*quantized_box(IMAGES, EPSILON, model.quantizer), torch.arange(60))
    _, bounds, gains = not_proven(model.network, boxes, labels)
    assert len(bounds)
    assert gains.isfinite().all()


@pytest.mark.parametrize("values", [{"max_boxes": 0}, {"boxes_at_a_time": 0}])
def test_no_boxes_are_refused(values):
    with pytest.raises(InputError, match="at least 1"):
        BranchAndBound(**values)
