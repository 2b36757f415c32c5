"""L2, momentum, targets, flips, Square, transfer and foreign front ends."""

from __future__ import annotations

import itertools

import pytest
import torch

from lightning_sq.attacks import (
    BPDA,
    FGSM,
    PGD,
    AutoAttackStage,
    Expectation,
    GreedyFlips,
    OverDraws,
    QuantizedBox,
    Square,
    TakenApart,
    Transfer,
    fools,
    take_apart,
    with_bpda,
)
from lightning_sq.attacks.criteria import cross_entropy, dlr, margin
from lightning_sq.attacks.draws import logits_and_values
from lightning_sq.errors import InputError
from lightning_sq.layers import SoftQuantization
from lightning_sq.ops import l2_ball
from tests.attacks.models import IMAGES, SEEDS, best_linear_attack, linear, quantized_linear, small_net

LINF_ATTACKS = {
    "pgd with momentum": PGD(num_steps=10, momentum=0.9),
    "pgd with a cosine step": PGD(num_steps=10, schedule="cosine"),
    "pgd towards a class": PGD(num_steps=10, targeted=True),
    "fgsm": FGSM,
    "greedy flips": GreedyFlips(num_rounds=30),
    "square": Square(num_queries=800),
    "apgd-ce": AutoAttackStage("apgd-ce", num_steps=20),
    "fab-t": AutoAttackStage("fab-t", num_steps=20),
    "square of the authors": AutoAttackStage("square", num_queries=800),
}


@pytest.mark.parametrize("name", LINF_ATTACKS)
@pytest.mark.parametrize("epsilon", [0.02, 0.3])
def test_every_linf_attack_reaches_the_closed_form_on_a_linear_model(name, epsilon):
    model = linear()
    labels = model(IMAGES).argmax(1)
    truth = margin(model(best_linear_attack(model, IMAGES, labels, epsilon)), labels) > 0
    assert truth.any()
    found = LINF_ATTACKS[name](model, IMAGES, labels, SEEDS, epsilon)
    ours = fools(model, found, IMAGES, labels, epsilon=epsilon)
    assert not (ours & ~truth).any()
    assert ours.sum() >= 0.9 * truth.sum() if "square" in name else torch.equal(ours, truth)


@pytest.mark.parametrize(
    "attack",
    [PGD(60, 0.3, schedule="cosine", norm="l2"), AutoAttackStage("apgd-ce", num_steps=30, norm="l2")],
)
def test_l2_attacks_reach_the_closed_form_on_a_linear_model(attack):
    """Away from the pixel bounds the worst case is eps ||w||_2."""
    model = linear()
    images = 0.4 + 0.2 * IMAGES
    labels = model(images).argmax(1)
    weight = model[1].weight[1 - labels] - model[1].weight[labels]
    epsilon = 0.15
    truth = margin(model(images), labels) + epsilon * weight.norm(dim=1) > 0
    assert truth.any()
    assert not truth.all()
    found = attack(model, images, labels, SEEDS, epsilon)
    assert torch.equal(fools(model, found, images, labels, epsilon=epsilon, norm="l2"), truth)


def test_an_l2_attack_that_leaves_its_ball_is_caught():
    model = linear()
    with pytest.raises(InputError, match=r"outside the ball of .* \(l2\)\. End it with lightning_sq\.ops\.l2_ball"):
        fools(model, (IMAGES + 0.05).clamp(0, 1), IMAGES, torch.zeros(24).long(), epsilon=0.1, norm="l2")


def test_targets_find_what_the_likeliest_class_alone_does_not():
    model = small_net(2)
    labels = model(IMAGES).argmax(1)
    one, all_classes = (
        fools(
            model,
            PGD(20, targeted=True, num_restarts=n)(model, IMAGES, labels, SEEDS, 0.06),
            IMAGES,
            labels,
            epsilon=0.06,
        )
        for n in (1, 4)
    )
    assert (all_classes | ~one).all()
    assert all_classes.sum() > one.sum() > 0  # 21 and 19; four starts towards the likeliest class find 19 too


def test_the_difference_of_logits_ratio_is_the_margin_over_the_gap_to_the_third_class():
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    assert dlr(logits, torch.tensor([1])).item() == pytest.approx(-1.0 / 2.0)
    assert dlr(10 * logits, torch.tensor([0])).item() == pytest.approx(2.0 / 2.0)


def test_square_finds_the_same_for_an_image_alone_and_in_a_batch():
    model = small_net(1)
    labels = model(IMAGES).argmax(1)
    attack = Square(num_queries=60)
    together = attack(model, IMAGES, labels, SEEDS, 0.05)
    alone = attack(model, IMAGES[5:6], labels[5:6], SEEDS[5:6], 0.05)
    assert torch.allclose(together[5], alone[0], atol=1e-6)


def test_square_asks_as_often_as_it_says_by_squares_that_shrink():
    asked, images = [], torch.full((2, 1, 10, 10), 0.5)

    def unbreakable(x):
        asked.append(x)
        return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)

    Square(60, 0.8)(unbreakable, images, torch.zeros(2).long(), [0, 1], 0.1)
    rows = [(x != asked[0]).any(3).sum((1, 2)).max().item() for x in asked[1:]]
    assert len(asked) == 60
    assert [max(rows[:10]), max(rows[10:50]), max(rows[50:])] == [9, 6, 4]  # of areas 0.8, 0.4, 0.2


@pytest.mark.parametrize("attack", [GreedyFlips(), Square(400)])
@pytest.mark.parametrize("hard", [False, True])
def test_any_search_inside_the_quantized_box_finds_the_closed_form(attack, hard):
    epsilon = 0.15
    model = quantized_linear(SoftQuantization(2, 60.0, hard=hard))
    labels = model(IMAGES).argmax(1)
    weight = (model.backbone[1].weight[1 - labels] - model.backbone[1].weight[labels]).view_as(IMAGES)
    truth = margin(model((IMAGES + epsilon * weight.sign()).clamp(0, 1)), labels) > 0
    found = QuantizedBox(attack)(model, IMAGES, labels, SEEDS, epsilon)
    ours = fools(model, found, IMAGES, labels, epsilon=epsilon)
    assert not (ours & ~truth).any()
    assert ours.sum() >= 0.9 * truth.sum() > 0


@pytest.mark.parametrize(("backward", "sharpness"), [("identity", None), ("surrogate", 5.0)])
def test_a_foreign_front_end_is_attacked_through_bpda_and_in_its_box(backward, sharpness):
    def five_levels(x):
        return (x * 4).round() / 4

    apart = take_apart(linear(), IMAGES, quantizer=five_levels)
    labels = apart(IMAGES).argmax(1)
    plain = PGD(10, from_random_start=False)(apart, IMAGES, labels, SEEDS, 0.2)
    assert not fools(apart, plain, IMAGES, labels, epsilon=0.2).any()
    for attack in (BPDA(PGD(10), backward, sharpness), QuantizedBox(PGD(10, criterion="margin"))):
        found = attack(apart, IMAGES, labels, SEEDS, 0.2)
        assert fools(apart, found, IMAGES, labels, epsilon=0.2).float().mean() > 0.9


def test_transfer_uses_the_other_model_alone():
    model, source = small_net(0), small_net(0)
    labels = model(IMAGES).argmax(1)
    attack = Transfer(source, PGD(20, criterion="margin", stop_when_fooled=False))

    def unseen(x):
        raise AssertionError("the attacked model was called")

    found = attack(unseen, IMAGES, labels, SEEDS, 0.1)
    direct = PGD(20, criterion="margin")(model, IMAGES, labels, SEEDS, 0.1)
    assert torch.equal(*(fools(model, x, IMAGES, labels, epsilon=0.1) for x in (found, direct)))


def test_an_attack_that_goes_on_ends_with_a_larger_margin():
    model = small_net(0)
    labels = model(IMAGES).argmax(1)
    stopped, gone_on = (
        PGD(20, criterion="margin", stop_when_fooled=stop)(model, IMAGES, labels, SEEDS, 0.1) for stop in (True, False)
    )
    fooled = margin(model(stopped), labels) > 0
    assert fooled.any()
    assert margin(model(gone_on), labels)[fooled].mean() > margin(model(stopped), labels)[fooled].mean() + 0.01


def test_expectation_attacks_through_the_noise_of_a_model():
    model = small_net(2)
    generator = torch.Generator().manual_seed(0)

    def noisy(x):
        return model(x + torch.randn(x.shape, generator=generator))

    labels = model(IMAGES).argmax(1)
    plain = PGD(5, stop_when_fooled=False)
    one, many = (
        margin(model(attack(noisy, IMAGES, labels, SEEDS, 0.1)), labels).mean().item()
        for attack in (plain, Expectation(plain, 30))
    )
    assert many > one + 0.03  # 0.14 and 0.09


def test_the_criterion_of_an_expectation_is_its_mean_over_the_draws_and_so_is_the_gradient():
    draws = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
    answers = itertools.cycle(draws)
    images, label = torch.zeros(1, 1), torch.tensor([0])
    model = OverDraws(lambda x: next(answers)[None] * (1 + x), 2)
    of_draws = cross_entropy(draws, torch.tensor([0, 0])).mean().item()
    assert of_draws == pytest.approx(1.204, abs=1e-3)
    assert cross_entropy(model(images), label).item() == pytest.approx(0.693, abs=1e-3)
    x = images.clone().requires_grad_()
    logits, values = logits_and_values(model, x, label, cross_entropy)
    assert values.item() == pytest.approx(of_draws)
    assert torch.equal(logits, model(images))
    gradients = []
    for answer in draws:
        y = images.clone().requires_grad_()
        cross_entropy(answer[None] * (1 + y), label).sum().backward()
        gradients.append(y.grad)
    values.sum().backward()
    assert torch.allclose(x.grad, torch.stack(gradients).mean(0))
    assert x.grad.abs() > 0.1  # that of the mean logits is 0


def test_an_expectation_leaves_images_out_of_what_knows_its_rows():
    class KnowsItsRows:
        def __init__(self, rows: torch.Tensor) -> None:
            self.rows = rows

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            assert len(x) == len(self.rows)
            return model(x)

        def for_rows(self, rows: torch.Tensor) -> KnowsItsRows:
            return KnowsItsRows(self.rows[rows])

    model = linear()
    labels = model(IMAGES).argmax(1)
    found = Expectation(PGD(10), 2)(KnowsItsRows(torch.arange(24)), IMAGES, labels, SEEDS, 0.05)
    plain = PGD(10)(model, IMAGES, labels, SEEDS, 0.05)
    assert torch.equal(*(fools(model, x, IMAGES, labels, epsilon=0.05) for x in (found, plain)))
    assert fools(model, found, IMAGES, labels, epsilon=0.05).any()


def test_what_is_pulled_back_into_an_l2_ball_of_many_pixels_counts_as_inside():
    """A sum of 150,528 equal squares drifts in float32 by more than the tolerance."""
    generator = torch.Generator().manual_seed(1)
    images = 0.4 + 0.2 * torch.rand(4, 1, 1, 1, generator=generator).expand(4, 3, 224, 224)
    adversarial = l2_ball.project(images + torch.randn(4, 3, 1, 1, generator=generator), images, 10.0)
    assert l2_ball.distance(adversarial, images).tolist() == pytest.approx([10.0] * 4, abs=1e-5)
    fools(lambda x: x.mean((2, 3)), adversarial, images, torch.zeros(4).long(), epsilon=10.0, norm="l2")
    farther = images + (adversarial - images) * (1 + 1e-5)
    with pytest.raises(InputError, match=r"outside the ball of .* \(l2\)\. End it with lightning_sq\.ops\.l2_ball"):
        fools(lambda x: x.mean((2, 3)), farther, images, torch.zeros(4).long(), epsilon=10.0, norm="l2")


def test_the_softer_slope_of_a_quantizer_is_asked_within_the_pixel_range_alone():
    table = torch.linspace(0, 1, 256).mul(4).round() / 4
    images = torch.tensor([0.0, 0.1, 0.5, 1.0]).view(4, 1, 1, 1).requires_grad_()

    def looked_up(x):
        return table[(x * 255).round().long()]

    quantized = with_bpda(TakenApart(looked_up, torch.nn.Identity()), "surrogate", 4.0)(images)
    assert torch.equal(quantized, looked_up(images))
    quantized.sum().backward()
    ends = [(0.25, 0.0), (0.35, 0.0), (0.75, 0.25), (1.0, 0.75)]
    slopes = [((table[round(255 * b)] - table[round(255 * a)]) / (b - a)).item() for b, a in ends]
    assert images.grad.flatten().tolist() == pytest.approx(slopes)


def no_number_off_the_grid(x):
    """A model that is only one on 8-bit images, of which a clean accuracy says nothing."""
    off = (x * 255 - (x * 255).round()).abs().amax((1, 2, 3))
    return linear()(x) * torch.sqrt(0.01 - off)[:, None]


@pytest.mark.parametrize(
    "attack",
    [
        PGD(3),
        PGD(3, criterion="margin", stop_when_fooled=False),
        GreedyFlips(3),
        Square(20),
        AutoAttackStage("apgd-ce", 3),
    ],
)
def test_a_model_that_gives_no_number_where_an_attack_goes_is_not_taken_for_robust(attack):
    images = (IMAGES * 255).round() / 255
    labels = no_number_off_the_grid(images).argmax(1)
    found = attack(no_number_off_the_grid, images, labels, SEEDS, 0.03)
    with pytest.raises(InputError, match="not finite numbers"):
        fools(no_number_off_the_grid, found, images, labels, epsilon=0.03)


def test_square_gives_back_an_image_of_which_the_model_says_no_number():
    """From its stripes, of which it does, by a square."""
    images, model = torch.full((24, 3, 6, 6), 0.5), linear()

    def of_stripes(x):
        return model(x) * torch.sqrt(1e-3 - (x.amax(2) - x.amin(2)).amax((1, 2)))[:, None]

    labels = model(images).argmax(1)
    found = Square(20)(of_stripes, images, labels, SEEDS, 0.03)
    assert of_stripes(found).isnan().any()


def test_the_difference_of_logits_ratio_of_two_classes_is_refused():
    with pytest.raises(InputError, match="criterion=dlr needs 3 classes, the model has 2"):
        PGD(criterion="dlr")(linear(), IMAGES, torch.zeros(24).long(), SEEDS, 0.1)
