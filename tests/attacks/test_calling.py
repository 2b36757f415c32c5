"""Wherever an attack is called from, and with whatever: it finds what it finds anyhow, or says why it does not."""

from __future__ import annotations

import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from lightning_sq.attacks import (
    BPDA,
    PGD,
    AutoAttackStage,
    BranchAndBound,
    Expectation,
    GreedyFlips,
    MixedInteger,
    QuantizedBox,
    Square,
    TakenApart,
    fools,
)
from lightning_sq.attacks.checks import classify
from lightning_sq.attacks.gradients import ascent
from lightning_sq.errors import InputError
from lightning_sq.layers import SoftQuantization
from lightning_sq.verification.interval_network import certified
from tests.attacks.models import IMAGES, SEEDS, linear, quantized_linear, small_net

ATTACKS = {
    "pgd": PGD(5, from_random_start=False),
    "bpda": BPDA(PGD(5, from_random_start=False), "surrogate"),
    "greedy flips": GreedyFlips(5),
    "quantized box": QuantizedBox(PGD(5, criterion="margin")),
    "expectation": Expectation(PGD(5, from_random_start=False), 2),
    "square": Square(50),
    "apgd": AutoAttackStage("apgd-ce", num_steps=5),
}


def soft() -> nn.Module:
    return quantized_linear(SoftQuantization(2, 20.0))


@pytest.mark.parametrize("where", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("name", ATTACKS)
def test_it_finds_the_same_wherever_gradients_are_off(name, where):
    """A validation of Lightning's is in inference mode, in which no gradient can be switched on."""
    model, attack = soft(), ATTACKS[name]
    labels = model(IMAGES).argmax(1)
    expected = attack(model, IMAGES, labels, SEEDS, 0.1)
    assert fools(model, expected, IMAGES, labels, epsilon=0.1).any()
    with where():
        found = attack(model, IMAGES.clone(), labels.clone(), SEEDS, 0.1)
    assert torch.equal(found, expected)
    assert not found.is_inference()


@pytest.mark.parametrize("name", ATTACKS)
def test_images_that_want_a_gradient_of_their_own_are_attacked_like_others(name):
    model, attack = soft(), ATTACKS[name]
    labels = model(IMAGES).argmax(1)
    wanting = IMAGES.clone().requires_grad_()
    found = attack(model, wanting, labels, SEEDS, 0.05)
    assert torch.equal(found, attack(model, IMAGES, labels, SEEDS, 0.05))
    assert not found.requires_grad
    assert wanting.grad is None


@pytest.mark.parametrize("attack", [*ATTACKS.values(), BranchAndBound(), MixedInteger()])
def test_a_budget_that_is_text_is_refused_in_a_sentence(attack):
    with pytest.raises(InputError, match=r"epsilon='8/255' is text, .* Write 8/255\."):
        attack(soft(), IMAGES, torch.zeros(24).long(), SEEDS, "8/255")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PGD(step_size="2/255"), "step_size=2/255 is no length above 0"),
        (lambda: AutoAttackStage("apgd-ce", norm="L2"), "norm='L2' is not one of linf, l2"),
        (lambda: BPDA(PGD(), "identity", 5.0), "surrogate_sharpness=5.0 needs backward=surrogate"),
        (lambda: BPDA(PGD(), "surrogate", 0.0), "sharpness=0.0 is not a finite number above 0"),
        (lambda: BPDA(PGD(), "guess"), "backward='guess' is not one of"),
        (lambda: Expectation(BPDA(PGD())), r"Write BPDA\(Expectation\(\.\.\.\)\), not the reverse"),
        (lambda: Expectation(QuantizedBox(PGD())), r"Write QuantizedBox\(Expectation\(\.\.\.\)\), not the reverse"),
        (lambda: QuantizedBox(AutoAttackStage("apgd-ce")), "Give PGD, or Square"),
        (lambda: QuantizedBox(PGD(norm="l2")), "Give one with norm='linf'"),
    ],
)
def test_what_would_do_nothing_or_break_later_is_refused_when_it_is_made(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


@pytest.mark.parametrize("attack", [BPDA(PGD(2)), QuantizedBox(PGD(2))])
def test_a_model_that_calls_something_its_quantizer_and_shows_no_more_is_told_how_to_show_it(attack):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.quantizer, self.rest = SoftQuantization(2, hard=True), linear()

        def forward(self, images):
            return self.rest(self.quantizer(images))

    with pytest.raises(InputError, match=r"is a Own that shows no quantizer\. Give .*TakenApart\(quantizer, network\)"):
        attack(Own(), IMAGES, torch.zeros(24).long(), SEEDS, 0.1)


def test_of_a_random_model_one_draw_is_differentiated_at_a_time():
    class Counted(torch.autograd.Function):
        alive = most = 0

        @staticmethod
        def forward(ctx, x):
            Counted.alive += 1
            Counted.most = max(Counted.most, Counted.alive)
            weakref.finalize(ctx, lambda: setattr(Counted, "alive", Counted.alive - 1))
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    network = linear()
    labels = network(IMAGES).argmax(1)
    Expectation(PGD(3), 8)(lambda x: network(Counted.apply(x)), IMAGES, labels, SEEDS, 0.05)
    assert Counted.most <= 2  # the next one's graph is made while the last one's is let go


def test_the_gradient_of_a_draw_that_is_no_number_leaves_those_of_the_others():
    model, factors = linear(), iter([float("nan"), 2.0])
    labels = model(IMAGES).argmax(1)

    def criterion(logits, labels):
        return logits[:, 0] * next(factors)

    attacked = Expectation(lambda over_draws, *_: ascent(over_draws, IMAGES, labels, criterion)[2], 2)
    _, _, alone = ascent(model, IMAGES, labels, lambda logits, labels: logits[:, 0])
    assert torch.allclose(attacked(model, IMAGES, labels, SEEDS, 0.1), alone)


@pytest.mark.parametrize("autocast", [nullcontext(), torch.autocast("cpu", torch.bfloat16)])
def test_verdicts_and_proofs_are_of_full_float32_whatever_the_caller_computes_in(autocast, monkeypatch):
    seen = []

    def asked(x):
        seen.append((torch.backends.cudnn.conv.fp32_precision, torch.is_autocast_enabled("cpu"), x.dtype))
        return network(x)

    def bound(model, box, labels):
        return 0 * asked(box[0])[:, 0] + 0 * box[1].sum() - 1

    network, labels = small_net(), torch.zeros(24).long()
    monkeypatch.setattr("lightning_sq.verification.interval_network.margin_bound", bound)
    monkeypatch.setattr("lightning_sq.attacks.branch_and_bound.margin_bound", bound)
    with autocast:
        classify(asked, IMAGES)
        certified(network, IMAGES, labels, 0.1)
        BranchAndBound()(TakenApart(None, network), IMAGES, labels, SEEDS, 0.01)
    assert seen == [("ieee", False, torch.float32)] * 3
