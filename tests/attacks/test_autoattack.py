"""The stages of AutoAttack: the ways in which pyautoattack would harm whoever calls it, and that they are mended."""

from __future__ import annotations

import logging
import sys
from typing import get_args

import pytest
import torch
from torch import nn

import lightning_sq
from lightning_sq.attacks import AutoAttackStage, fools
from lightning_sq.attacks.autoattack import LOGGER, Stage
from lightning_sq.errors import InputError
from lightning_sq.layers import SoftQuantization
from tests.attacks.models import IMAGES, SEEDS, linear, quantized_linear, small_net


def test_autoattack_gets_float32_logits_from_a_half_precision_model():
    model = linear(classes=5)
    labels = model(IMAGES).argmax(1)
    seen = []

    def half(x):
        seen.append(torch.is_autocast_enabled("cpu"))
        return model(x).bfloat16()

    with torch.autocast("cpu", torch.bfloat16):
        found = AutoAttackStage("square", num_queries=20)(half, IMAGES, labels, SEEDS, 0.1)
    assert found.dtype == torch.float32
    assert not any(seen)


def test_autoattack_works_inside_inference_mode():
    model = small_net(0)
    labels = model(IMAGES).argmax(1)
    with torch.inference_mode():
        found = AutoAttackStage("apgd-t", num_steps=10)(model, IMAGES.clone(), labels.clone(), SEEDS, 0.1)
    assert fools(model, found, IMAGES, labels, epsilon=0.1).any()


@pytest.mark.parametrize("stage", ["apgd-ce", "fab-t"])
def test_autoattack_leaves_the_model_as_it_was(stage):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 5)).train()
    model[0].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    AutoAttackStage(stage, num_steps=5)(model, IMAGES, torch.zeros(24).long(), SEEDS, 0.1)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert [weight.requires_grad for weight in model.parameters()] == [False] + [True] * 5
    assert all(weight.grad is None for weight in model.parameters())


def test_autoattack_leaves_the_random_numbers_and_the_tracer_alone():
    model = small_net(0)
    torch.manual_seed(3)
    state, tracer = torch.get_rng_state(), sys.gettrace()
    AutoAttackStage("apgd-ce", num_steps=3)(model, IMAGES, model(IMAGES).argmax(1), SEEDS, 0.1)
    assert torch.equal(torch.get_rng_state(), state)
    assert sys.gettrace() is tracer
    from pyautoattack import checks

    assert not any(checks.funcs.values())


@pytest.mark.parametrize("stage", ["apgd-t", "fab-t"])
def test_autoattack_asks_for_no_more_classes_than_there_are(stage):
    model = small_net(0)  # 5 classes, the package would try 9 others
    labels = model(IMAGES).argmax(1)
    found = AutoAttackStage(stage, num_steps=10)(model, IMAGES, labels, SEEDS, 0.1)
    assert fools(model, found, IMAGES, labels, epsilon=0.1).any()
    with pytest.raises(InputError, match="needs 4 classes"):
        AutoAttackStage("apgd-t")(linear(classes=3), IMAGES, labels.clamp(max=2), SEEDS, 0.1)


def test_what_autoattack_would_only_log_can_be_collected(caplog):
    with caplog.at_level(logging.WARNING, logger=LOGGER.name):
        AutoAttackStage("apgd-dlr", num_steps=2)(
            quantized_linear(SoftQuantization(4, hard=True), classes=5), IMAGES, torch.zeros(24).long(), SEEDS, 0.1
        )
    assert "zero gradient" in caplog.text


@pytest.mark.parametrize("stage", ["apgd-ce", "apgd-t"])
def test_apgd_finds_what_the_package_finds_without_asking_again_about_what_is_broken(stage, monkeypatch):
    model = small_net(0)
    labels, asked, verdicts = model(IMAGES).argmax(1), [0, 0], []

    def counted(x):
        asked[-1] += len(x)
        return model(x)

    for epsilon in (0.01, 0.03):
        mine = AutoAttackStage(stage, num_steps=20)(counted, IMAGES, labels, SEEDS, epsilon)
        asked.append(0)
        with monkeypatch.context() as patch:
            patch.setattr("lightning_sq.attacks.autoattack.leave_broken_out", lambda attack: None)
            theirs = AutoAttackStage(stage, num_steps=20)(counted, IMAGES, labels, SEEDS, epsilon)
        verdicts.append(fools(model, mine, IMAGES, labels, epsilon=epsilon))
        assert torch.equal(verdicts[-1], fools(model, theirs, IMAGES, labels, epsilon=epsilon))
        assert asked[-2] < asked[-1]
        asked.append(0)
    assert 0 < verdicts[0].sum() < verdicts[1].sum()
    assert not verdicts[0].all()


def root_of(kind: str):
    """A network of x and of a root whose derivative is infinite at black, or not a number there."""
    net = small_net(0)
    return lambda x: net(x + (x.sqrt() if kind == "infinite" else (x * x).sqrt()))


@pytest.mark.parametrize("kind", ["infinite", "no number"])
@pytest.mark.parametrize("stage", ["apgd-ce", "apgd-dlr", "apgd-t", "fab-t"])
def test_in_l2_a_gradient_that_is_no_number_somewhere_leads_on_where_it_is_one(stage, kind):
    model, images = root_of(kind), IMAGES.clone()
    images[:, 0, :, 0] = 0
    labels, x = model(images).argmax(1), images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    assert torch.equal(~gradient.isfinite(), images == 0)
    found = AutoAttackStage(stage, num_steps=10, norm="l2")(model, images, labels, SEEDS, 1.0)
    assert fools(model, found, images, labels, epsilon=1.0, norm="l2").sum() > 20


def test_fab_bears_a_gradient_that_is_no_number_in_linf_too():
    model, images = root_of("no number"), IMAGES.clone()
    images[:, 0, :, 0] = 0
    labels = model(images).argmax(1)
    found = AutoAttackStage("fab-t", num_steps=10)(model, images, labels, SEEDS, 0.1)
    assert fools(model, found, images, labels, epsilon=0.1).sum() > 20


@pytest.mark.parametrize("stage", get_args(Stage))
def test_what_one_draw_of_a_random_model_gets_wrong_is_attacked_all_the_same(stage):
    net, asked, generator = small_net(0), [], torch.Generator().manual_seed(0)
    labels = net(IMAGES).argmax(1)

    def model(x):
        asked.append(len(x))
        logits = net(x) + 1e-2 * torch.rand(len(x), 1, generator=generator)
        return logits.flip(1) if len(asked) == 3 else logits  # after two looks whether it is random

    found = AutoAttackStage(stage, num_steps=5, num_queries=20)(model, IMAGES, labels, SEEDS, 0.1)
    assert fools(net, found, IMAGES, labels, epsilon=0.1).any()


def test_in_l2_a_model_whose_gradient_is_never_a_number_is_flagged_and_not_the_attack_blamed():
    net = small_net(0)

    def model(x):
        return net(x) * (1 + (0 * x).abs().flatten(1).sum(1, keepdim=True).sqrt())

    labels = model(IMAGES).argmax(1)
    found = AutoAttackStage("apgd-ce", 3, norm="l2")(model, IMAGES, labels, SEEDS, 1.0)
    assert found.isfinite().all()
    attacks = ["apgd_ce:num_steps=3", "pgd:num_steps=3"]
    assert (
        "zero_gradients" in lightning_sq.evaluate(model, IMAGES, labels, epsilon=1.0, attacks=attacks, norm="l2").flags
    )


@pytest.mark.parametrize("stage", ["apgd-ce", "apgd-t", "fab-t"])
def test_in_l2_a_gradient_of_numbers_alone_is_left_as_it_is(stage, monkeypatch):
    model = small_net(0)
    attack, labels = AutoAttackStage(stage, num_steps=5, norm="l2"), model(IMAGES).argmax(1)
    found = attack(model, IMAGES, labels, SEEDS, 0.3)
    monkeypatch.setattr("lightning_sq.attacks.autoattack._with_finite_gradient", lambda x: x)
    assert torch.equal(found, attack(model, IMAGES, labels, SEEDS, 0.3))


@pytest.mark.parametrize(("noise", "leaves_out"), [(0.0, True), (1.0, False)])
def test_a_model_that_answers_at_random_is_asked_again_about_what_it_once_got_wrong(noise, leaves_out, monkeypatch):
    net, left_out = small_net(0), []

    def model(x):
        return net(x) + noise * torch.randn(len(x), 5)

    monkeypatch.setattr("lightning_sq.attacks.autoattack.leave_broken_out", left_out.append)
    AutoAttackStage("apgd-ce", num_steps=2)(model, IMAGES, net(IMAGES).argmax(1), SEEDS, 0.01)
    assert bool(left_out) is leaves_out


def test_the_same_seed_gives_the_same_images_from_autoattack():
    model = small_net(0)
    labels = model(IMAGES).argmax(1)
    once, again, other = (
        AutoAttackStage("apgd-ce", num_steps=3)(model, IMAGES, labels, [seed] * 24, 0.1) for seed in (1, 1, 2)
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack.autopgd_base", None)
    with pytest.raises(InputError, match="pip install 'pyautoattack"):
        AutoAttackStage("square")(small_net(0), IMAGES, torch.zeros(24).long(), SEEDS, 0.1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("stage", ["apgd-ce", "apgd-t", "fab-t", "square"])
def test_autoattack_takes_images_whose_channels_lie_last(stage, norm):
    images = IMAGES.contiguous(memory_format=torch.channels_last)
    model = small_net(0).to(memory_format=torch.channels_last)
    labels = model(images).argmax(1)
    attack = AutoAttackStage(stage, num_steps=3, num_queries=20, norm=norm)
    fools(model, attack(model, images, labels, SEEDS, 0.1), images, labels, epsilon=0.1, norm=norm)


def test_a_model_of_one_class_is_refused_by_every_stage():
    for stage in get_args(Stage):
        with pytest.raises(InputError, match=rf"{stage} cannot be run: it needs \d classes, the model has 1"):
            AutoAttackStage(stage)(linear(classes=1), IMAGES, torch.zeros(24).long(), SEEDS, 0.1)


@pytest.mark.parametrize(
    ("height", "width", "fits"),
    [(4, 4, False), (5, 5, True), (5, 8, True), (9, 6, True), (14, 14, False), (28, 20, False), (28, 28, True)],
)
def test_square_in_l2_is_refused_on_images_that_its_tiles_do_not_fit_into(height, width, fits):
    torch.manual_seed(0)
    images = 0.2 + 0.6 * torch.rand(3, 1, height, width)
    model = nn.Sequential(nn.Flatten(), nn.Linear(height * width, 3))
    labels, attack = model(images).argmax(1), AutoAttackStage("square", num_queries=300, norm="l2")
    if fits:
        attack(model, images, labels, SEEDS[:3], 1e-3)
    else:
        with pytest.raises(InputError, match=f"tiles, which do not fit into {height} x {width} pixels"):
            attack(model, images, labels, SEEDS[:3], 1e-3)


def test_the_package_gets_what_a_stage_was_made_with_and_what_autoattack_has_for_the_rest():
    def made(stage):
        attack = AutoAttackStage(stage, num_steps=7, num_restarts=2, num_draws=3, num_queries=11)
        return attack._attack(small_net(0), 0.1, 5, 20, torch.device("cpu"))

    for stage, loss in (("apgd-ce", "ce"), ("apgd-dlr", "dlr"), ("apgd-t", None)):
        apgd = made(stage)
        assert (apgd.n_iter, apgd.n_restarts, apgd.eot_iter, apgd.thr_decr) == (7, 2, 3, 0.75)
        assert loss in (None, apgd.loss)
    fab, square = made("fab-t"), made("square")
    assert (fab.n_iter, fab.n_restarts, fab.targeted) == (7, 2, True)
    assert [made(stage).n_target_classes for stage in ("apgd-t", "fab-t")] == [9, 9]
    assert (square.n_queries, square.n_restarts, square.p_init, square.rescale_schedule) == (11, 2, 0.8, False)
    assert {(made(stage).eps, made(stage).seed) for stage in get_args(Stage)} == {(0.1, 5)}
