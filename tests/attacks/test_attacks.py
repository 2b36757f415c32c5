from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch

from lightning_sq.attacks import BPDA, PGD, AutoAttackStage, GreedyFlips, QuantizedBox, TakenApart, fools, with_bpda
from lightning_sq.attacks.criteria import cross_entropy, margin
from lightning_sq.attacks.quantized_box import preimage
from lightning_sq.errors import InputError
from lightning_sq.layers import SoftQuantization
from lightning_sq.models import PixelClassifier
from lightning_sq.ops.linf_ball import distance, random_start
from tests.attacks.models import IMAGES, SEEDS, best_linear_attack, linear, quantized_linear, small_net


@pytest.mark.parametrize("criterion", ["cross_entropy", "margin"])
@pytest.mark.parametrize("epsilon", [0.02, 0.2, 0.7])
def test_pgd_reaches_the_closed_form_optimum_of_a_linear_model(criterion, epsilon):
    model = linear()
    labels = model(IMAGES).argmax(1)
    best = margin(model(best_linear_attack(model, IMAGES, labels, epsilon)), labels)
    found = PGD(num_steps=10, criterion=criterion)(model, IMAGES, labels, SEEDS, epsilon)
    robust = best <= 0
    assert torch.equal(margin(model(found), labels) > 0, ~robust)
    assert margin(model(found), labels)[robust].tolist() == pytest.approx(best[robust].tolist(), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("criterion", ["cross_entropy", "margin"])
def test_pgd_never_does_worse_than_its_random_start(seed, criterion):
    model = small_net(seed)
    labels = model(IMAGES).argmax(1)
    rule = {"cross_entropy": cross_entropy, "margin": margin}[criterion]
    starts = random_start(IMAGES, 0.05, [s * 1009 for s in SEEDS])
    found = PGD(num_steps=3, step_size=10, criterion=criterion)(model, IMAGES, labels, SEEDS, 0.05)  # a wild step
    fooled = margin(model(found), labels) > 0
    assert (fooled | (rule(model(found), labels) >= rule(model(starts), labels) - 1e-6)).all()
    assert (fooled | (margin(model(starts), labels) <= 0)).all()


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 1.0])
def test_pgd_never_leaves_the_ball_or_the_box(epsilon):
    model = small_net()
    found = PGD(num_steps=5, num_restarts=2)(model, IMAGES, model(IMAGES).argmax(1), SEEDS, epsilon)
    assert distance(found, IMAGES).max() <= epsilon + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1


def test_the_cosine_step_goes_from_twice_the_mean_towards_0():
    model, seen, images = linear(), [], 0.25 + 0.5 * IMAGES
    attack = PGD(4, 0.05, schedule="cosine", from_random_start=False, stop_when_fooled=False)
    attack(lambda x: seen.append(x.detach()) or model(x), images, torch.zeros(24).long(), SEEDS, 0.2)
    steps = [(after - before).abs().max().item() / 0.2 for before, after in itertools.pairwise(seen)]
    assert steps == pytest.approx([0.05 * (1 + math.cos(math.pi * k / 4)) for k in range(4)], rel=1e-3)


@pytest.mark.parametrize(("momentum", "last"), [(0.0, 0.45), (1.0, 0.75)])
def test_momentum_carries_on_past_a_gradient_that_turns(momentum, last):
    seen = []

    def hill(x):
        seen.append(x.item())
        return torch.stack([0 * x.flatten(), -((x.flatten() - 0.5) ** 2)], 1)

    options = {"criterion": "margin", "from_random_start": False, "stop_when_fooled": False}
    PGD(3, 0.15, momentum=momentum, **options)(hill, torch.full((1, 1, 1, 1), 0.3), torch.tensor([0]), [0], 1.0)
    assert seen == pytest.approx([0.3, 0.45, 0.6, last])


@pytest.mark.parametrize("attack", [PGD(num_steps=1), GreedyFlips(num_rounds=1)])
def test_more_restarts_fool_more_images(attack):
    model = small_net(0)
    labels = model(IMAGES).argmax(1)
    counts = [
        (margin(model(replace(attack, num_restarts=n)(model, IMAGES, labels, SEEDS, 0.05)), labels) > 0).sum().item()
        for n in (1, 2, 8)
    ]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0] > 0  # 15 and 14; 12 and 8


@pytest.mark.parametrize("attack", [PGD(num_steps=1, num_restarts=4), GreedyFlips(num_rounds=1, num_restarts=4)])
def test_an_images_attack_depends_on_its_seed_and_not_on_its_batch(attack):
    model = small_net(0)
    labels = model(IMAGES).argmax(1)
    together = attack(model, IMAGES, labels, SEEDS, 0.05)
    assert 0 < fools(model, together, IMAGES, labels, epsilon=0.05).sum() < len(IMAGES)  # some leave the batch early
    alone = [attack(model, IMAGES[i : i + 1], labels[i : i + 1], [SEEDS[i]], 0.05) for i in range(len(IMAGES))]
    assert torch.allclose(torch.cat(alone), together, atol=1e-6)
    otherwise = attack(model, IMAGES, labels, [seed + 100 for seed in SEEDS], 0.05)
    assert not torch.allclose(otherwise, together, atol=1e-6)


def test_pgd_leaves_no_gradient_behind_and_works_under_no_grad():
    model = small_net()
    with torch.no_grad():
        found = PGD(num_steps=2)(model, IMAGES, torch.zeros(24, dtype=torch.long), SEEDS, 0.1)
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("attack", [PGD(3), GreedyFlips(3), AutoAttackStage("apgd-ce", 3), AutoAttackStage("fab-t", 3)])
def test_a_function_that_loses_the_gradient_on_its_way_has_one_of_0_though_its_weights_want_theirs(attack):
    model = linear()

    def hard(x):
        return model((x > 0.5).float())

    labels = hard(IMAGES).argmax(1)
    found = attack(hard, IMAGES, labels, SEEDS, 0.1)
    assert distance(found, IMAGES).max() <= 0.1 + 1e-6


def test_bpda_fools_a_hard_quantizer_that_stops_plain_pgd():
    model = quantized_linear(SoftQuantization(8, hard=True))
    labels = model(IMAGES).argmax(1)
    plain = PGD(num_steps=10, from_random_start=False)(model, IMAGES, labels, SEEDS, 0.2)
    through = PGD(num_steps=10, from_random_start=False)(with_bpda(model), IMAGES, labels, SEEDS, 0.2)
    assert not fools(model, plain, IMAGES, labels, epsilon=0.2).any()
    assert fools(model, through, IMAGES, labels, epsilon=0.2).float().mean() > 0.9


def test_bpda_shares_the_weights_and_the_values_and_leaves_the_model_alone():
    model = quantized_linear(SoftQuantization(4, 60.0))
    wrapped = with_bpda(model, "surrogate", 5.0)
    assert torch.equal(wrapped(IMAGES), model(IMAGES))
    assert wrapped.backbone is model.backbone
    assert model.quantizer.backward_mode == "exact"
    assert wrapped.quantizer.backward_mode == "surrogate"
    unquantized = PixelClassifier(OrderedDict(backbone=linear()))
    assert with_bpda(unquantized) is unquantized
    with pytest.raises(InputError, match="backward='identiy' is not one of exact, identity, surrogate"):
        with_bpda(TakenApart(torch.round, model.network), "identiy")


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("num_levels", [2, 3, 8])
def test_the_quantized_box_attack_finds_the_closed_form_behind_a_quantizer(num_levels, hard):
    """Behind a quantizer a linear model's worst case is known: each value at the end of the box that hurts."""
    epsilon = 0.15
    model = quantized_linear(SoftQuantization(num_levels, 60.0, hard=hard))
    labels = model(IMAGES).argmax(1)
    weight = (model.backbone[1].weight[1 - labels] - model.backbone[1].weight[labels]).view_as(IMAGES)
    worst = (IMAGES + epsilon * weight.sign()).clamp(0, 1)  # monotone: the end of the ball is the end of the box
    truth = margin(model(worst), labels) > 0
    found = QuantizedBox(PGD(criterion="margin"))(model, IMAGES, labels, SEEDS, epsilon)
    assert torch.equal(fools(model, found, IMAGES, labels, epsilon=epsilon), truth)
    assert truth.any()


def test_the_preimage_is_quantized_to_what_was_asked_for():
    quantizer = SoftQuantization(4, 40.0)
    low, high = quantizer((IMAGES - 0.2).clamp(0, 1)), quantizer((IMAGES + 0.2).clamp(0, 1))
    share = torch.rand(IMAGES.shape, generator=torch.Generator().manual_seed(3))
    values = low + share * (high - low)
    pixels = preimage(quantizer, values, IMAGES, 0.2)
    assert distance(pixels, IMAGES).max() <= 0.2 + 1e-6
    assert (quantizer(pixels) - values).abs().max() < 1e-5
    assert torch.equal(preimage(quantizer, quantizer(IMAGES), IMAGES, 0.2), IMAGES)


def test_margin_is_positive_exactly_where_the_image_is_misclassified():
    logits = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    assert margin(logits, torch.tensor([1, 2])).tolist() == [-1.0, 1.0]
    assert cross_entropy(logits, torch.tensor([1, 2])).tolist() == pytest.approx([0.4076, 1.4076], abs=1e-4)


def test_an_adversarial_image_outside_ball_or_box_is_caught():
    model, labels = linear(), torch.zeros(24, dtype=torch.long)
    with pytest.raises(InputError, match=r"^The attack gave an image 0\.11\d* away .* the ball of 0\.1 \(linf\)"):
        fools(model, (IMAGES + 0.11).clamp(0, 1), IMAGES, labels, epsilon=0.1)
    with pytest.raises(InputError, match=r"outside \[0, 1\]"):
        fools(model, IMAGES + 1e-3 + IMAGES.max(), IMAGES, labels, epsilon=1.0)
    with pytest.raises(InputError, match="not numbers"):
        fools(model, IMAGES * float("nan"), IMAGES, labels, epsilon=1.0)


@pytest.mark.parametrize(
    "options", [{"num_steps": 0}, {"num_restarts": 0}, {"criterion": "guess"}, {"norm": "l7"}, {"schedule": "no"}]
)
def test_an_attack_that_cannot_be_is_refused(options):
    ((name, value),) = options.items()
    with pytest.raises(InputError, match=f"{name}={value!r}"):
        PGD(**options)


@pytest.mark.parametrize("attack", [BPDA(PGD(1)), QuantizedBox(PGD(1))])
def test_an_attack_through_the_quantizer_of_a_function_says_how_to_show_it(attack):
    with pytest.raises(InputError, match=r"The model is a function that shows no quantizer.*TakenApart\(quantizer"):
        attack(lambda x: linear()(x), IMAGES, torch.zeros(24, dtype=torch.long), SEEDS, 0.1)
