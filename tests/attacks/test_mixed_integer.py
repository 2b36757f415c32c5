"""Mixed-integer programming against the whole truth, which behind a hard quantizer can be counted."""

from __future__ import annotations

import sys
from collections import OrderedDict

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from lightning_sq.attacks import BranchAndBound, MixedInteger, TakenApart, fools
from lightning_sq.errors import InputError
from lightning_sq.evaluation import evaluate
from lightning_sq.layers import SoftQuantization, UnitClamp
from lightning_sq.models import PixelClassifier
from lightning_sq.ops.linf_ball import project
from lightning_sq.verification.interval_network import certified
from tests.attacks.test_branch_and_bound import EPSILON, IMAGES, QUANTIZERS, labels_of, net, robust_by_counting


def of_every_layer(quantizer: SoftQuantization) -> PixelClassifier:
    """Planes of thresholds, convolution, batch norm, two layers of ReLU, average pooling."""
    torch.manual_seed(2)
    planes = nn.Conv2d(1, 2, 1)
    planes.weight.data.copy_(torch.tensor([2.0, 2.0]).view(2, 1, 1, 1))
    planes.bias.data.copy_(torch.tensor([0.0, -1.0]))
    layers = [planes, UnitClamp(), nn.Conv2d(2, 5, 2, padding=1), nn.BatchNorm2d(5), nn.ReLU()]
    layers += [nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(30, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)]
    for layer in layers:
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.1, 0.5)
        elif isinstance(layer, nn.Linear):
            layer.weight.data.mul_(3)
    return PixelClassifier(OrderedDict(quantize=quantizer, backbone=nn.Sequential(*layers))).eval()


@pytest.mark.parametrize("build", [net, of_every_layer])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_it_ends_with_the_truth_behind_a_hard_quantizer(name, build):
    model = build(QUANTIZERS[name])
    labels = labels_of(model)
    truth = robust_by_counting(model, labels)
    assert truth.any()
    assert not truth.all()
    found = MixedInteger()(model, IMAGES, labels, (), EPSILON)
    assert torch.equal(found.proven, truth)
    assert torch.equal(fools(model, found.images, IMAGES, labels, epsilon=EPSILON), ~truth)


class OtherLevels(SoftQuantization):
    """Elementwise and increasing, and its levels are not those that its class says."""

    def forward(self, x):
        return (super().forward(x) - 0.13) / 0.3


@pytest.mark.parametrize("prover", [MixedInteger(), BranchAndBound(max_boxes=2000)])
@pytest.mark.parametrize("by_hook", [False, True])
def test_a_quantizer_that_only_descends_from_ours_is_taken_for_what_it_does(prover, by_hook):
    quantizer = SoftQuantization(3, hard=True) if by_hook else OtherLevels(3, hard=True)
    if by_hook:
        quantizer.register_forward_hook(lambda module, given, value: OtherLevels(3, hard=True)(given[0]))
    network = net().network
    model = TakenApart(quantizer, network)
    labels = labels_of(model)
    same = TakenApart(SoftQuantization(3, hard=True), lambda levels: network((levels - 0.13) / 0.3))
    truth = robust_by_counting(same, labels)
    found = prover(model, IMAGES, labels, (), EPSILON)
    assert not (found.proven & ~truth).any()
    assert fools(model, found.images, IMAGES, labels, epsilon=EPSILON).any()


@pytest.mark.parametrize(("margin", "sure"), [(5e-5, False), (2e-4, True)])
def test_a_mistake_that_is_nearer_than_the_solver_rounds_is_not_ruled_out(margin, sure):
    model = net()
    model.backbone[1], model.backbone[3] = nn.Linear(6, 2), nn.Linear(2, 2)
    twice, difference = model.backbone[1], model.backbone[3]
    for layer in (twice, difference):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    twice.weight.data[:, 0] = 1.0
    difference.weight.data[1] = torch.tensor([1.0, -1.0])  # of the same number, which bounds do not know
    difference.bias.data[1] = -margin
    found = MixedInteger()(model, IMAGES[:3], torch.zeros(3).long(), (), EPSILON)
    assert found.proven.tolist() == [sure] * 3
    assert not certified(model, IMAGES[:3], torch.zeros(3).long(), EPSILON).any()


UNITS = {
    "tiny": torch.full((12,), 2.0**-26),
    "huge": torch.full((12,), 2.0**40),
    "each neuron's own": 2.0 ** torch.linspace(-40, 40, 12).round(),
}


@pytest.mark.parametrize("name", ["two levels", "six levels"])
@pytest.mark.parametrize("unit", UNITS)
def test_the_truth_is_the_same_in_whatever_unit_a_layer_counts(unit, name):
    model = net(QUANTIZERS[name])
    labels = labels_of(model)
    first, last, factor = model.backbone[1], model.backbone[3], UNITS[unit]
    first.weight.data.mul_(factor[:, None])
    first.bias.data.mul_(factor)
    last.weight.data.div_(factor)
    assert torch.equal(labels_of(model), labels)
    truth = robust_by_counting(model, labels)
    found = MixedInteger()(model, IMAGES, labels, (), EPSILON)
    assert torch.equal(found.proven, truth)
    assert torch.equal(fools(model, found.images, IMAGES, labels, epsilon=EPSILON), ~truth)


def test_a_box_of_tiny_width_is_searched_like_any_other():
    model, images = net(), 0.5 * IMAGES  # away from white, where the pixels end
    labels = model(images).argmax(1)
    whole = MixedInteger()(model, images, labels, (), EPSILON)
    model.backbone[1].weight.data.mul_(2.0**30)
    found = MixedInteger()(model, images * 2.0**-30, labels, (), EPSILON * 2.0**-30)
    assert torch.equal(found.proven, whole.proven)
    assert found.proven.any()
    assert not found.proven.all()


@pytest.mark.parametrize("quantizer", [None, SoftQuantization(3, 40.0)], ids=["no quantizer", "a soft one"])
def test_without_levels_it_settles_every_image_as_branch_and_bound_does(quantizer):
    model = net(quantizer)
    labels = labels_of(model)
    found = MixedInteger()(model, IMAGES, labels, (), EPSILON)
    other = BranchAndBound(20_000)(model, IMAGES, labels, (), EPSILON)
    assert torch.equal(found.proven, other.proven)
    assert torch.equal(fools(model, found.images, IMAGES, labels, epsilon=EPSILON), ~found.proven)


def test_what_it_finds_without_a_quantizer_is_within_the_ball_and_the_pixels():
    model, images = net(), IMAGES.round()  # where a corner of the box is an end of the pixels
    with torch.no_grad():
        labels = model(images).argmax(1)
    found = MixedInteger()(model, images, labels, (), EPSILON)
    assert (found.images != images).any()
    assert torch.equal(found.images, project(found.images, images, EPSILON))


@pytest.mark.parametrize("limits", [{"max_seconds": 1e-6}, {"max_variables": 20}], ids=str)
def test_where_it_comes_to_no_end_it_claims_nothing(limits):
    model = net(QUANTIZERS["six levels"])
    labels = labels_of(model)
    truth = robust_by_counting(model, labels)
    found = MixedInteger(**limits)(model, IMAGES, labels, (), EPSILON)
    broken = fools(model, found.images, IMAGES, labels, epsilon=EPSILON)
    assert not (found.proven & ~truth).any()
    assert not (broken & truth).any()
    assert (~found.proven & ~broken).any()


def test_an_image_that_is_wrong_from_the_start_is_not_proven():
    model = net(QUANTIZERS["two levels"])
    labels = (labels_of(model) + 1) % 3
    found = MixedInteger()(model, IMAGES, labels, (), EPSILON)
    assert not found.proven.any()
    assert torch.equal(found.images, IMAGES)


def test_an_evaluation_with_it_leaves_nothing_open():
    model = net(QUANTIZERS["six levels"])
    labels = labels_of(model)
    found = evaluate(model, IMAGES, labels, epsilon=EPSILON, attacks="fgsm,mixed_integer", checks=False)
    truth = robust_by_counting(model, labels).double().mean().item()
    assert found.certified_accuracy == found.robust_accuracy == truth


class Residual(nn.Module):
    """No chain."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        return self.second(x + torch.relu(self.first(x)))


@pytest.mark.parametrize("network", [Residual(), nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.Sigmoid())])
def test_another_network_is_refused_and_left_out_of_an_evaluation(network):
    model = PixelClassifier(OrderedDict(backbone=network)).eval()
    with pytest.raises(InputError, match=r"is no chain of modules|no integer program for Sigmoid"):
        MixedInteger()(model, IMAGES, labels_of(model), (), EPSILON)
    found = evaluate(model, IMAGES, labels_of(model), epsilon=EPSILON, attacks="pgd,mixed_integer", checks=False)
    assert found.skipped == {"mixed_integer": "the network is no chain of layers that are linear or ReLU"}


class Squares(nn.Linear):
    """A linear layer by its class alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).square()


def with_a_hook() -> nn.Module:
    layer = nn.Linear(6, 3)
    layer.register_forward_hook(lambda module, inputs, output: output.abs())
    return layer


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Flatten(), Squares(6, 3)],
        [nn.Flatten(), with_a_hook()],
        [BatchNormAct2d(1), nn.Flatten(), nn.Linear(6, 3)],  # a batch norm with a ReLU inside
        [nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(6, 3)],
        [nn.Hardtanh(-1.0, 1.0), nn.Flatten(), nn.Linear(6, 3)],
    ],
    ids=["subclass", "hook", "timm", "no statistics", "another clamp"],
)
def test_what_only_looks_linear_is_refused(layers):
    model = PixelClassifier(OrderedDict(backbone=nn.Sequential(*layers))).eval()
    with pytest.raises(InputError, match=r"no integer program for|is no chain of modules"):
        MixedInteger()(model, IMAGES, torch.zeros(60, dtype=torch.long), (), EPSILON)


def test_without_the_solver_one_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "highspy", None)
    model = net(QUANTIZERS["two levels"])
    with pytest.raises(InputError, match=r"pip install 'lightning-sq\[attacks\]'"):
        MixedInteger()(model, IMAGES, labels_of(model), (), EPSILON)


@pytest.mark.parametrize("values", [{"max_seconds": 0.0}, {"max_seconds": float("nan")}, {"max_variables": 0}])
def test_no_time_and_no_variables_are_refused(values):
    with pytest.raises(InputError, match="above 0"):
        MixedInteger(**values)


def test_a_solver_that_is_known_to_prove_too_much_is_refused(monkeypatch):
    monkeypatch.setattr("lightning_sq.attacks.mixed_integer.version", lambda name: "1.16.0")
    model = net(QUANTIZERS["six levels"])
    with pytest.raises(InputError, match=r"highspy 1\.16\.0 finds no solution where there is one"):
        MixedInteger()(model, IMAGES, labels_of(model), range(len(IMAGES)), EPSILON)
