"""Each diagnostic catches the model that was planted for it, and none flags a sound one."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.autograd import grad

import lightning_sq
from lightning_sq.attacks import TakenApart
from lightning_sq.evaluation import derivatives_inside
from lightning_sq.evaluation.derivatives_inside import uses_derivatives
from lightning_sq.evaluation.diagnostics import Situation
from lightning_sq.evaluation.diagnostics.answers import not_float32
from lightning_sq.evaluation.diagnostics.attacks import more_steps_break_more
from lightning_sq.evaluation.diagnostics.gradients import small_steps_jump, successes_get_lost, zero_gradients
from lightning_sq.evaluation.diagnostics.situation import row
from lightning_sq.evaluation.runner import StageRunner
from lightning_sq.evaluation.store import VerdictStore
from lightning_sq.evaluation.suites import SUITES, SuiteEntry, attacks_by_name
from lightning_sq.layers import SoftQuantization
from lightning_sq.ops import linf_ball
from tests.evaluation.models import IMAGES, TwoFaced, linear_model, sound

EPSILON = 0.05


def through(function) -> nn.Module:
    """A sound model whose logits go through a function."""

    class Planted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = sound()

        def forward(self, x):
            return function(self.net, x)

    return Planted()


def takes_derivatives(net, x):
    with torch.enable_grad():
        y = x.detach().clone().requires_grad_()
        torch.autograd.grad(net(y).sum(), y)
    return net(x)


def rough(net, x):
    return net(x) + 5 * torch.sin(3e4 * x.flatten(1)[:, :5])


PLANTED = {
    "attacks_break_what_is_proven": TwoFaced(sound()),
    "zero_gradients": through(lambda net, x: net(x.detach()) + 0 * x.flatten(1)[:, :5]),
    "plain_gradient_misses": linear_model(SoftQuantization(8, hard=True)),
    "quantizer_widens_the_ball": linear_model(SoftQuantization(3, 500.0)),
    "survives_everything": through(lambda net, x: net(x.detach()) + 0 * x.flatten(1)[:, :5]),
    "small_steps_jump": through(rough),
    "random_answers": through(lambda net, x: net(x) + 0.1 * torch.randn(len(x), 5)),
    "outputs_are_probabilities": through(lambda net, x: net(x).softmax(1)),
    "optimises_at_inference": through(takes_derivatives),
    "not_float32": through(lambda net, x: net(x.bfloat16()).float()),
    "black_box_beats_white_box": through(lambda net, x: net(x.detach()) + 0 * x.flatten(1)[:, :5]),
    "successes_get_lost": through(lambda net, x: net(x) + 0.3 * torch.randn(len(x), 5)),
}

OTHER_BUDGETS = {"plain_gradient_misses": 0.2, "black_box_beats_white_box": 0.2, "attacks_break_what_is_proven": 0.01}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_caught(name):
    model = PLANTED[name]
    if name == "not_float32":
        model = model.bfloat16()
    torch.manual_seed(0)  # two of them answer at random
    with torch.no_grad():
        labels = model(IMAGES).argmax(1)
    attacks = ["quick", "own_square"] if name == "black_box_beats_white_box" else "quick"
    epsilon = OTHER_BUDGETS.get(name, EPSILON)
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=epsilon, attacks=attacks)
    assert name in found.flags, {d.name: d.measured for d in found.diagnostics}


@pytest.mark.parametrize("also", [True, False])
def test_what_a_search_broke_first_is_no_doubt_of_gradients_if_a_later_attack_breaks_it_too(also):
    entries = {"blind": SuiteEntry("a gradient that leads nowhere", lambda model, images, *_: images, "plain")}
    entries |= attacks_by_name("own_square,pgd")
    entries["pgd"] = replace(entries["pgd"], on_everyone=False)  # behind the search, which leaves it nothing
    entries = {name: entries[name] for name in ("blind", "own_square", *(["pgd"] if also else []))}
    model = linear_model()
    found = lightning_sq.evaluate(model, IMAGES, model(IMAGES).argmax(1), epsilon=0.1, attacks=entries)
    assert not found.verdicts.any()
    assert found.outcomes["own_square"][0.1].broken.all()
    (check,) = (one for one in found.diagnostics if one.name == "black_box_beats_white_box")
    assert check.measured == (0.0 if also else 1.0)
    assert check.fired is not also


def test_without_an_attack_by_gradient_none_is_said_to_mislead():
    model = linear_model()
    found = lightning_sq.evaluate(model, IMAGES, model(IMAGES).argmax(1), epsilon=0.2, attacks="own_square")
    assert found.outcomes["own_square"][0.2].broken.any()
    assert "black_box_beats_white_box" not in {check.name for check in found.diagnostics}


def test_attacks_that_get_weaker_with_more_steps_or_more_room_are_caught(monkeypatch):
    from lightning_sq.attacks import PGD

    whole = PGD.__call__

    def weaker(self, model, images, labels, seeds, epsilon):
        if self.num_steps >= 40 and epsilon > 0.02:
            return images.clone()
        return whole(self, model, images, labels, seeds, epsilon)

    monkeypatch.setattr(PGD, "__call__", weaker)
    model = linear_model()
    found = lightning_sq.evaluate(model, IMAGES, model(IMAGES).argmax(1), epsilon=0.05, curve=[0.02], attacks="pgd")
    assert {"more_steps_help_the_model", "larger_ball_helps_the_model", "survives_everything"} <= set(found.flags)


def far_from_its_boundary() -> nn.Module:
    """By more than 1 in L2, so that only a budget of the whole pixel range breaks everything."""
    model = linear_model()
    model.backbone[1].bias.data[0] += 2
    return model


@pytest.mark.parametrize(
    ("norm", "epsilon", "attacks"),
    [("linf", EPSILON, "standard"), ("l2", 0.1, "quick,apgd_ce,square:num_queries=50")],
    ids=["linf", "l2"],
)
@pytest.mark.parametrize(
    "model",
    [sound(), linear_model(), linear_model(SoftQuantization(2, 5.0)), far_from_its_boundary()],
    ids=["convolution", "linear", "soft quantizer", "far from its boundary"],
)
def test_a_sound_model_has_no_flag(model, norm, epsilon, attacks):
    labels = model(IMAGES).argmax(1)
    found = lightning_sq.evaluate(
        model, IMAGES, labels, epsilon=epsilon, curve=[0.4 * epsilon], attacks=attacks, norm=norm
    )
    assert found.flags == [], {d.name: (d.measured, d.limit) for d in found.diagnostics if d.fired}


def one_start_in_ten(x):
    """Fooled where the first pixel, which no gradient moves, lies in a tenth of its values by chance."""
    first, others = x.flatten(1)[:, 0].detach(), x.flatten(1)[:, 1:]
    fooled = (1e4 * first).frac() < 0.1
    return torch.stack([1 - 2 * fooled.float(), 0.01 * others.sum(1)], 1)


def situation(model, norm="linf", epsilon=EPSILON, images=IMAGES, apart=None) -> Situation:
    """After an attack that finds nothing; of a model without a quantizer, if it is not said how it is taken `apart`."""
    with torch.no_grad():
        labels = model(images).argmax(1)
    idle = {"idle": SuiteEntry("does nothing", lambda model, images, *rest: images, "plain")}
    found = lightning_sq.evaluate(model, images, labels, epsilon=epsilon, attacks=idle, norm=norm, checks=False)
    runner = StageRunner(model, model, images, labels, VerdictStore(None, {}), device=images.device, norm=norm)
    return Situation(runner, TakenApart(None, model) if apart is None else apart, found)


@pytest.mark.parametrize("whole", [True, False])
def test_a_model_that_is_not_its_parts_loses_what_fools_them_in_the_box(whole):
    quantizer, images = SoftQuantization(2, 60.0, hard=True), torch.full_like(IMAGES, 0.501)  # the ball reaches black

    def network(x):
        darkness = 0.01 - x.flatten(1).mean(1)  # above 0 where all pixels are black, which no random start is
        return torch.stack([-darkness, darkness], 1)

    def steady(x):
        return network(quantizer(x)) if whole else network(torch.ones_like(x)) + 0 * x.sum()

    found = successes_get_lost(situation(steady, images=images, apart=TakenApart(quantizer, network)))
    assert found.fired != whole


LIMITS = {
    "plain_gradient_misses": 1 / 40,  # one image of those here; 0.01 of many
    "black_box_beats_white_box": 0.002,
    "more_steps_break_more": 0.02,
    "more_steps_help_the_model": 0.02,
    "survives_everything": 0.05,
    "larger_ball_helps_the_model": 0.02,
    "attacks_break_what_is_proven": 0.0,
    "zero_gradients": 0.01,
    "quantizer_widens_the_ball": 1.0 + 1e-6,
    "small_steps_jump": 0.1,
    "successes_get_lost": 0.0,
    "random_answers": 1e-4,
    "outputs_are_probabilities": 0.5,
    "optimises_at_inference": 0.5,
    "not_float32": 0.0,
}


def test_every_check_has_a_model_that_it_must_catch():
    """Those besides `PLANTED` are asked of made-up results."""
    of_results = {"more_steps_break_more", "more_steps_help_the_model", "larger_ball_helps_the_model"}
    assert PLANTED.keys() | of_results == LIMITS.keys()


@pytest.mark.parametrize(
    "convert",
    [
        lambda net, x: net(x.bfloat16()),
        lambda net, x: net(x.bfloat16()).float(),
        lambda net, x: net(x.bfloat16()).half().float(),
    ],
)
def test_low_precision_inside_a_function_is_seen(convert):
    net = sound().bfloat16()
    assert not_float32(situation(lambda x: convert(net, x))).fired


def test_low_precision_by_autocast_inside_a_model_is_seen():
    def cast(net, x):
        with torch.autocast("cpu", torch.bfloat16):
            return net(x)

    assert not_float32(situation(through(cast))).fired


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net(x),
        lambda net, x: net(x.double()).float() if next(net.parameters()).dtype == torch.float64 else net(x) * 1e-3,
        lambda net, x: (10 * net(x)).round(),
        lambda net, x: (10 * net(x)).round() / 16,
        lambda net, x: 0 * net(x),
    ],
    ids=["float32", "small", "votes", "shares of votes", "nothing"],
)
def test_float32_and_whole_numbers_in_it_are_not_taken_for_low_precision(function):
    assert not not_float32(situation(through(function))).fired


def test_what_cannot_be_measured_is_a_flag():
    assert row("", float("nan"), 0.5, "").fired


def test_a_quantizer_that_changes_no_8_bit_pixel_widens_nothing():
    """Its box is the ball, and the ratio of their widths is 1 up to float32 rounding, above it or below."""
    images = torch.randint(256, (200, 3, 6, 6), generator=torch.Generator().manual_seed(6)) / 255
    model = linear_model(SoftQuantization(256, hard=True))
    found = lightning_sq.evaluate(model, images, model(images).argmax(1), epsilon=8 / 255, attacks="fgsm")
    (check,) = (check for check in found.diagnostics if check.name == "quantizer_widens_the_ball")
    assert (check.fired, check.measured) == (False, pytest.approx(1.0, abs=1e-6))  # 1.0000001


def four_levels(x):
    return (3 * x).round() / 3


@pytest.mark.parametrize(("scale", "shift"), [(255.0, 0.0), (2.0, -1.0), (0.01, 0.0)])
def test_a_quantizer_is_measured_in_its_own_unit(scale, shift):
    """The same front end and the same network, by other numbers between them."""
    net = linear_model()
    images = 0.1 + 0.1 * IMAGES  # far from the first threshold, so that the box is narrow
    labels = net(four_levels(images)).argmax(1)

    def measured(network, quantizer):
        found = lightning_sq.evaluate(network, images, labels, epsilon=0.02, attacks="fgsm", quantizer=quantizer)
        return {check.name: (check.fired, pytest.approx(check.measured, abs=1e-5)) for check in found.diagnostics}

    expected = measured(net, four_levels)
    assert expected["quantizer_widens_the_ball"][1].expected > 0
    found = measured(lambda x: net((x - shift) / scale), lambda x: scale * four_levels(x) + shift)
    for name in ("quantizer_widens_the_ball", "zero_gradients"):
        assert found[name] == expected[name]


def test_a_limit_changes_on_purpose_alone_and_a_check_fires_above_it():
    """Every planted model is far beyond its limit: none of them would notice a laxer one."""
    model = linear_model(SoftQuantization(4, 60.0))
    found = lightning_sq.evaluate(
        model, IMAGES, model(IMAGES).argmax(1), epsilon=[EPSILON, 2 * EPSILON], attacks=["quick", "own_square"]
    )
    assert {check.name: check.limit for check in found.diagnostics} == LIMITS
    for limit in set(LIMITS.values()):
        assert not row("", limit, limit, "").fired
        assert row("", limit + 1e-9, limit, "").fired


def test_another_start_may_break_what_the_standard_attacks_leave():
    images = torch.rand(200, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    labels = one_start_in_ten(images).argmax(1)
    standard = [name for name in SUITES["standard"] if name != "square"]  # which takes long, and finds one in 49 here
    found = lightning_sq.evaluate(one_start_in_ten, images, labels, epsilon=0.1, attacks=standard)
    assert found.outcomes["pgd_thorough"][0.1].broken.any()
    assert "more_steps_break_more" in found.flags


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_longer_search_goes_around_a_quantizer_without_a_derivative(norm):
    model = linear_model(SoftQuantization(8, hard=True))
    labels = model(IMAGES).argmax(1)
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=1.0, attacks="fgsm", norm=norm)  # which goes nowhere
    assert found.robust_accuracy > 0.5
    assert "more_steps_break_more" in found.flags


def test_the_longer_search_starts_where_no_attack_of_the_suite_did(monkeypatch):
    starts = {"suite": set(), "check": set()}
    draw = linf_ball.random_start

    def noted(images, epsilon, seeds):
        starts["check" if checking else "suite"].update(seeds)
        return draw(images, epsilon, seeds)

    monkeypatch.setattr(linf_ball, "random_start", noted)
    net, checking = linear_model(), False

    def model(x):  # of which nothing can be proven, so that all that is left is attacked
        return net(x)

    labels = model(IMAGES).argmax(1)
    attacks = ["pgd_thorough", "pgd_targeted"]
    found = lightning_sq.evaluate(model, IMAGES, labels, epsilon=0.01, attacks=attacks, checks=False)
    checking, alive = True, found.survived()
    runner = StageRunner(model, model, IMAGES, labels, VerdictStore(None, {}), device=IMAGES.device)
    more_steps_break_more(Situation(runner, TakenApart(None, model), found))
    assert len(starts["check"]) == alive.sum() > 0
    assert starts["suite"].isdisjoint(starts["check"])


def test_a_model_with_weights_that_learn_and_pixels_without_a_gradient_is_caught():
    net = sound()

    def model(x):  # whose weights nobody holds still
        return net((x > 0.5).float())

    check = zero_gradients(situation(model))
    assert (check.fired, check.measured) == (True, 1.0)


@pytest.mark.parametrize("hides", [False, True])
def test_pixels_that_a_model_does_not_read_need_no_gradient_and_those_that_it_reads_do(hides):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 2), nn.Tanh(), nn.Flatten(), nn.Linear(72, 5))

    def model(x):
        x = x[:, :, 1:-1, 1:-1]
        return net(torch.cat([x[:, :, :1].detach(), x[:, :, 1:]], 2) if hides else x)

    check = zero_gradients(situation(model))
    assert check.fired is hides
    assert check.measured == pytest.approx(24 / 36 if hides else 0.0)  # of the 36 pixels 20 are cropped away


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_small_steps_stay_within_a_hundredth_of_the_budget_in_its_norm(norm):
    seen, net = [], sound()

    def model(x):
        seen.append(x)
        return net(x)

    asked = situation(model, norm, epsilon=1.0)
    seen.clear()
    assert not small_steps_jump(asked).fired
    order = float("inf") if norm == "linf" else 2.0
    distances = torch.cdist(torch.cat(seen).flatten(1).double(), IMAGES.flatten(1).double(), p=order).amin(1)
    assert len(distances) == 11 * len(IMAGES)
    assert 0.005 < distances.max() <= 0.01 + 1e-6


def by_name(net, x):
    with torch.enable_grad():
        y = x.detach().clone().requires_grad_()
        grad(net(y).sum(), y)
    return net(x)


def by_function(net, x):
    torch.func.grad(lambda y: net(y).sum())(x.detach())
    return net(x)


def by_tensor(net, x):
    with torch.enable_grad():
        net(x.detach().clone().requires_grad_()).sum().backward()
    return net(x)


@pytest.mark.parametrize("way", [by_name, by_function, by_tensor, takes_derivatives])
def test_a_derivative_is_seen_whatever_it_is_called_by(way):
    assert uses_derivatives(through(way), IMAGES)


@pytest.mark.parametrize("way", [by_tensor, takes_derivatives])
def test_where_torch_has_no_such_engine_its_public_functions_are_watched(way, monkeypatch):
    monkeypatch.setattr(derivatives_inside, "WATCHED", derivatives_inside.PUBLIC)
    assert uses_derivatives(through(way), IMAGES)
    assert not uses_derivatives(sound(), IMAGES)


def test_watching_for_derivatives_leaves_nothing_behind():
    places = [*derivatives_inside.ENGINE, *derivatives_inside.PUBLIC]
    before, tracer = [getattr(*place, None) for place in places], sys.gettrace()
    assert not uses_derivatives(sound(), IMAGES)
    assert uses_derivatives(through(takes_derivatives), IMAGES)
    assert not uses_derivatives(sound(), IMAGES)  # the flag of one model is not another's
    assert ([getattr(*place, None) for place in places], sys.gettrace()) == (before, tracer)
