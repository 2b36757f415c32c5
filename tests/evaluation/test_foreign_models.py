"""Models that are not this project's: functions, foreign front ends, and what they say of themselves."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

import lightning_sq
from lightning_sq.attacks import TakenApart
from lightning_sq.layers import SoftQuantization
from tests.evaluation.models import IMAGES, linear_model


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


class Scorer:
    """Holds a network, and is no module."""

    def __init__(self, net):
        self.net = net

    def __call__(self, x):
        return self.net(x)

    def scores(self, x):
        return self.net(x)


HOLDERS = {
    "closure": lambda net: lambda x: net(x),
    "default": lambda net: lambda x, net=net: net(x),
    "partial": lambda net: partial(torch.func.functional_call, net, {}),
    "callable object": Scorer,
    "method": lambda net: Scorer(net).scores,
    "ensemble in a list": lambda net: (lambda nets: lambda x: sum(one(x) for one in nets))([net, net]),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_network_that_a_function_holds_is_attacked_in_eval_mode_and_its_weights_get_no_gradient(holder):
    norm = nn.BatchNorm2d(3)
    norm.running_mean.fill_(0.4)
    net = nn.Sequential(norm, nn.Dropout(0.5), linear_model()).train()
    labels = copy.deepcopy(net).eval()(IMAGES).argmax(1)
    options = {"epsilon": 0.02, "attacks": "pgd,fab_t", "batch_size": 16, "checks": False}
    found = lightning_sq.evaluate(HOLDERS[holder](net), IMAGES, labels, **options)
    expected = lightning_sq.evaluate(net, IMAGES, labels, **options)
    assert found.clean_accuracy == 1.0
    assert 0 < expected.robust_accuracy < 1
    assert torch.equal(found.verdicts, expected.verdicts)
    assert (net.training, norm.training) == (True, True)
    assert torch.equal(norm.running_mean, torch.full((3,), 0.4))
    assert all(weight.grad is None and weight.requires_grad for weight in net.parameters())


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


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
@pytest.mark.parametrize("quantizer", [None, SoftQuantization(3, 30.0)])
def test_a_model_of_torchscript_has_no_bounds_and_is_attacked_all_the_same(quantizer):
    model = nn.Sequential(*([] if quantizer is None else [quantizer]), nn.BatchNorm2d(3), linear_model()).eval()
    traced = torch.jit.trace(model, IMAGES[:2])
    labels = model(IMAGES).argmax(1)
    options = {"epsilon": 0.02, "attacks": "pgd", "checks": False}
    found, expected = (lightning_sq.evaluate(one, IMAGES, labels, **options) for one in (traced.train(), model))
    assert found.certified_accuracy is None
    assert torch.equal(found.outcomes["pgd"][0.02].broken, expected.outcomes["pgd"][0.02].broken)
    assert traced.training


class Inverts(nn.Module):
    """Its "quantizer" is a convolution, 1 - x, which turns the sides of a box about."""

    def __init__(self) -> None:
        super().__init__()
        self.quantizer, self.network = nn.Conv2d(3, 3, 1), linear_model()
        nn.init.dirac_(self.quantizer.weight).data.neg_()
        nn.init.ones_(self.quantizer.bias)

    def forward(self, x):
        return self.network(self.quantizer(x))


class NoNetwork(nn.Module):
    """Has a quantizer, and calls what is behind it something else."""

    def __init__(self) -> None:
        super().__init__()
        self.quantizer, self.net = nn.Hardtanh(0, 1), linear_model()

    def forward(self, x):
        return self.net(self.quantizer(x))


@pytest.mark.parametrize("model", [Inverts(), NoNetwork()], ids=["that is none", "without a network"])
def test_no_proof_rests_on_what_a_foreign_model_calls_its_quantizer(model):
    labels = model.eval()(IMAGES).argmax(1)
    epsilon, provers = 0.02, ["branch_and_bound", "mixed_integer"]
    truth = lightning_sq.evaluate(model, IMAGES, labels, epsilon=epsilon, attacks="pgd").survived(epsilon)
    assert 0 < truth.sum() < len(truth)
    for prover in provers:
        found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=epsilon, attacks=prover)
        assert torch.equal(found.survived(epsilon), truth)
        assert torch.equal(found.certified[epsilon], truth)
