"""What `evaluate` is given is refused in one sentence or taken for what it means, and is the caller's afterwards."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

import lightning_sq
from lightning_sq.attacks import (
    BPDA,
    PGD,
    AutoAttackStage,
    Expectation,
    GreedyFlips,
    QuantizedBox,
    Square,
)
from lightning_sq.errors import InputError
from lightning_sq.evaluation import SuiteEntry, suites
from lightning_sq.evaluation.inputs import epsilons_in
from lightning_sq.evaluation.runner import StageRunner
from lightning_sq.layers import SoftQuantization
from tests.evaluation.models import IMAGES, linear_model

LABELS = linear_model()(IMAGES).argmax(1)


def evaluated(model=None, images=IMAGES, labels=LABELS, **options):
    given = {"epsilon": 0.01, "attacks": "fgsm", "checks": False} | options
    return lightning_sq.evaluate(linear_model() if model is None else model, images, labels, **given)


def test_a_model_that_gives_no_numbers_is_refused():
    with pytest.raises(InputError, match="not finite"):
        lightning_sq.evaluate(
            lambda x: x.flatten(1)[:, :3] / 0, IMAGES, torch.zeros(40).long(), epsilon=0.1, attacks="pgd"
        )


def test_a_model_that_masks_classes_is_told_what_to_give_in_the_place_of_infinity():
    model, masked = linear_model(classes=3), torch.tensor([False, False, True])
    with pytest.raises(InputError, match=r"gives logits of -inf, as of classes that are masked.*such as -1e4"):
        evaluated(lambda x: model(x).masked_fill(masked, float("-inf")))
    found = evaluated(lambda x: model(x).masked_fill(masked, -1e4), attacks="quick,apgd_ce,fab_t:num_steps=3")
    assert 0 < found.robust_accuracy <= found.clean_accuracy


@pytest.mark.parametrize("labels", [LABELS, 0 * LABELS])
def test_a_model_with_one_logit_is_told_how_to_give_two(labels):
    model = linear_model(classes=1)
    with pytest.raises(InputError, match=r"gives one logit z.*torch\.cat\(\[-z, z\], 1\)"):
        evaluated(model, labels=labels)
    wrapped = evaluated(lambda x: torch.cat([-model(x), model(x)], 1), labels=(model(IMAGES)[:, 0] > 0).long())
    assert wrapped.clean_accuracy == 1.0


def test_labels_that_are_not_one_for_each_image_are_refused():
    with pytest.raises(InputError, match="40 images and 3 labels"):
        lightning_sq.evaluate(linear_model(), IMAGES, torch.zeros(3).long(), epsilon=0.1)


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_that_are_no_classes_of_the_model_are_refused(label):
    labels = torch.zeros(40).long()
    labels[7] = label
    with pytest.raises(InputError, match=rf"go from {min(label, 0)} to {max(label, 0)}, and the model has 2 classes"):
        lightning_sq.evaluate(linear_model(), IMAGES, labels, epsilon=0.1)


@pytest.mark.parametrize("attacks", ["fgsm", "bpda", "quantized_box", "own_square"])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_pixels_that_rounding_left_a_little_outside_are_taken_for_the_bounds(attacks, epsilon):
    model, images = linear_model(SoftQuantization(4, hard=True)), IMAGES.clone()
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 1 + 5e-6, -5e-6
    given = images.clone()
    labels = model(images).argmax(1)
    found = lightning_sq.evaluate(
        model, images, labels, epsilon=0.1, curve=[epsilon], attacks=attacks, checks=False, show=(0,)
    )
    assert found.clean_accuracy == 1.0
    assert torch.equal(images, given)


def test_an_unknown_attack_is_refused_with_the_choice():
    with pytest.raises(InputError, match=r"no linf attack 'pgdd'.*quantized_box"):
        suites.attacks_by_name("pgd,pgdd")
    with pytest.raises(InputError, match="No attack is named"):
        suites.attacks_by_name(",")
    with pytest.raises(InputError, match="not one of linf, l2"):
        suites.attacks_by_name("pgd", norm="l3")


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (IMAGES.numpy(), r"The images are a ndarray\. Give a tensor"),
        (IMAGES.flatten(1), r"The images have the shape \(40, 108\)"),
        (IMAGES[:0], r"shape \(0, 3, 6, 6\)\. Give .* at least one"),
        ((255 * IMAGES).byte(), "Divide uint8 by 255"),
    ],
)
def test_images_are_pixels_in_a_batch(images, sentence):
    with pytest.raises(InputError, match=sentence):
        evaluated(images=images)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (LABELS.tolist(), r"The labels are a list\. Give a tensor"),
        (LABELS + 0.5, r"The labels are torch\.float32 of the shape \(40,\)"),
        (LABELS == 1, r"The labels are torch\.bool"),
        (nn.functional.one_hot(LABELS), r"shape \(40, 2\)\. Give .*argmax\(1\)"),
    ],
)
def test_labels_are_class_numbers(labels, sentence):
    with pytest.raises(InputError, match=sentence):
        evaluated(labels=labels)


@pytest.mark.parametrize("attacks", ["fgsm", "own_square"])
def test_other_number_formats_are_taken_for_what_they_mean(attacks):
    expected = evaluated(attacks=attacks).verdicts
    images = IMAGES.double().requires_grad_()
    assert torch.equal(evaluated(images=images, labels=LABELS.int(), attacks=attacks).verdicts, expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epsilon": []}, "epsilon is empty"),
        ({"epsilon": None}, "epsilon=None is not a number"),
        ({"epsilon": True}, "epsilon=True is not a number"),
        ({"epsilon": "1e400"}, "epsilon=1e400 is not a number"),
        ({"epsilon": -1, "norm": "l2"}, "epsilon=-1 is not a number of at least 0"),
        ({"batch_size": 0}, "batch_size=0 is not a whole number of at least 1"),
        ({"attacks": {}}, "No attack is given"),
        ({"attacks": {"mine": PGD()}}, r"The attack 'mine' is a PGD\. Wrap it: .*SuiteEntry"),
        ({"transfer_from": {"other": linear_model(classes=3)}}, "transfer_from 'other' has 3 classes, and the model 2"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(options, sentence):
    with pytest.raises(InputError, match=sentence):
        evaluated(**options)


@pytest.mark.parametrize("epsilon", [torch.tensor(0.01), torch.tensor([0.01]), torch.tensor(0.01).numpy()])
def test_a_budget_may_be_anybodys_number(epsilon):
    assert evaluated(epsilon=epsilon).budgets == (pytest.approx(0.01),)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda logits: (logits, None), "The model gives a tuple for 16 images"),
        (lambda logits: {"logits": logits}, "The model gives a dict"),
        (lambda logits: logits[:, 0], r"gives the shape \(16,\)"),
        (lambda logits: logits[:, :, None, None], r"gives the shape \(16, 2, 1, 1\)"),
    ],
)
def test_a_model_gives_logits(change, sentence):
    model = linear_model()
    with pytest.raises(InputError, match=sentence):
        evaluated(lambda x: change(model(x)))


def test_a_model_of_other_numbers_is_told_what_to_write():
    with pytest.raises(InputError, match=r"has weights in torch\.float64 .* Write model\.float\(\)"):
        evaluated(linear_model().double())
    model = linear_model().double()
    assert evaluated(lambda x: model(x.double())).clean_accuracy == 1.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_model_of_other_numbers_behind_a_quantizer_is_told_so_too(dtype):
    sentence = rf"has weights in {dtype} .* Write model\.float\(\)"
    with pytest.raises(InputError, match=f"The model {sentence}"):
        evaluated(linear_model(SoftQuantization(3, 30.0)).to(dtype))
    with pytest.raises(InputError, match=f"The model {sentence}"):
        evaluated(linear_model().to(dtype), quantizer=nn.Hardtanh(0, 1))
    with pytest.raises(InputError, match=f"ransfer_from 'other' {sentence}"):
        evaluated(transfer_from={"other": linear_model(SoftQuantization(3, 30.0)).to(dtype)})


ATTACKS = (
    "quick,own_square:num_queries=9,quantized_box_flips,branch_and_bound:max_boxes=4,mixed_integer:max_variables=99"
)


@pytest.mark.parametrize("quantizer", [None, SoftQuantization(3, 30.0), SoftQuantization(3, hard=True)])
def test_torchs_defaults_are_no_matter_of_an_evaluation(quantizer):
    model, images = linear_model(quantizer), IMAGES[:16]
    labels = model(images).argmax(1)

    def all_that_is_found(attacks=ATTACKS, **options):
        usual = {"attacks": attacks, "epsilon": 0.02, "checks": True}
        found = evaluated(model, images=images, labels=labels, **usual | options)
        return found.verdicts.tolist(), found.certified_accuracy, [check.measured for check in found.diagnostics]

    def with_the_package():
        attacks = "apgd_ce:num_steps=5,fab_t:num_steps=3,square:num_queries=20"
        return all_that_is_found(attacks), all_that_is_found("pgd,apgd_ce:num_steps=5", norm="l2", epsilon=0.3)

    expected, of_the_package = all_that_is_found(), with_the_package()
    assert 0 < sum(expected[0]) < 16
    with torch.device("meta"):  # as by torch.set_default_device, a device that holds no numbers
        assert all_that_is_found() == expected
    torch.set_default_dtype(torch.float64)
    try:
        assert all_that_is_found() == expected
        assert with_the_package() == of_the_package
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_model_that_writes_into_its_images_is_refused_and_they_stay_as_they_were():
    model, images = linear_model(), IMAGES.clone()
    with pytest.raises(InputError, match=r"The model writes into its images\. Write \(x - mean\)"):
        evaluated(lambda x: model(x.sub_(0.5)), images=images)
    assert torch.equal(images, IMAGES)


def own(attack):
    return {"mine": SuiteEntry("mine", attack, "plain", on_everyone=True)}


def test_an_attack_that_writes_into_what_it_is_given_is_held_against_what_was_given():
    def moves_too_far(model, images, labels, seeds, epsilon):
        return images.add_(0.5).clamp_(0, 1)

    def changes_the_labels(model, images, labels, seeds, epsilon):
        labels.add_(1)
        return images

    with pytest.raises(InputError, match="outside the ball"):
        evaluated(attacks=own(moves_too_far))
    assert evaluated(attacks=own(changes_the_labels)).robust_accuracy == 1.0
    with pytest.raises(InputError, match=r"mine@0\.01 gave images of .*: one for each"):
        evaluated(attacks=own(lambda model, images, *rest: images[:1]))


def test_a_foreign_attribute_that_is_called_quantizer_and_is_none_is_no_quantizer():
    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.quantizer = linear_model(), nn.Embedding(4, 4)
            self.network = nn.Identity()

        def forward(self, x):
            return self.inner(x)

    assert evaluated(Strange()).clean_accuracy == 1.0
    model = Strange()
    del model.network
    model.network = "resnet"
    assert evaluated(model).clean_accuracy == 1.0


def shifted(model, images, labels, seeds, epsilon, by=0.0):
    return (images + by).clamp(0, 1)


def test_kept_verdicts_are_those_of_a_function_and_its_arguments_and_not_of_its_name(tmp_path):
    folder = str(tmp_path / "a # folder, 100%41?")  # of which SQLite would make something else
    evaluated(attacks=own(functools.partial(shifted, by=0.0)), store=folder)
    evaluated(attacks=own(functools.partial(shifted, by=0.0)), store=folder)
    for other in (functools.partial(shifted, by=0.01), shifted, lambda model, images, *rest: images):
        with pytest.raises(InputError, match="another evaluation \\(attacks differs"):
            evaluated(attacks=own(other), store=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["a # folder, 100%41?"]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: AutoAttackStage("apgd-ce", num_restarts=0), "num_restarts=0 of apgd-ce is not at least 1"),
        (lambda: AutoAttackStage("square", num_queries=0), "num_queries=0 of square is not at least 1"),
        (lambda: PGD(step_size=-1.0), "step_size=-1.0 is no length above 0"),
        (lambda: PGD(step_size=float("nan")), "step_size=nan is no length above 0"),
        (lambda: PGD(momentum=-0.5), "momentum=-0.5 is not at least 0"),
        (lambda: Expectation(PGD(), num_draws=0), "num_draws=0 is not at least 1"),
        (lambda: suites.attacks_by_name("square:num_steps=9"), r"has no parameter 'num_steps'.*num_queries"),
        (lambda: suites.attacks_by_name("bpda_apgd_ce:num_queries=9"), r"has no parameter 'num_queries'"),
    ],
)
def test_an_attack_that_would_do_nothing_is_refused(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"attacks": PGD()}, r"attacks holds a PGD, which has no name.*SuiteEntry\('its title', PGD\(...\), 'plain'\)"),
        ({"attacks": ["fgsm", PGD()]}, "attacks holds a PGD, which has no name"),
        ({"model": "runs/x/release"}, r"The model is a str, and no model. Give lightning_sq.load\(...\)."),
        ({"model": 3}, "The model is a int, and no model. Give a function from pixels to logits"),
        ({"transfer_from": [linear_model()]}, "transfer_from is a list. Give models by name"),
        ({"transfer_from": {"b": "runs/b"}}, r"transfer_from 'b' is a str, and no model. Give lightning_sq.load"),
        ({"store": __file__}, "test_inputs.py is a file, and verdicts are kept in a folder. Give another"),
    ],
)
def test_what_is_likely_to_be_tried_first_is_told_what_to_type(options, sentence):
    with pytest.raises(InputError, match=sentence):
        evaluated(**options)


def test_attacks_may_be_named_by_whatever_can_be_gone_through():
    assert list(evaluated(attacks={"fgsm": None}.keys()).attacks) == ["fgsm"]


def test_without_checks_nobody_is_told_that_none_fired():
    with pytest.raises(InputError, match="Nothing was checked"):
        _ = evaluated(attacks="fgsm").flags


def test_a_package_that_is_missing_is_missed_before_anything_is_attacked(monkeypatch):
    def missing():
        raise InputError("AutoAttack and Square need pyautoattack.")

    monkeypatch.setattr("lightning_sq.evaluation.inputs.load_package", missing)
    with pytest.raises(InputError, match="need pyautoattack"):
        evaluated(lambda x: pytest.fail("the model was asked"), attacks="fgsm,bpda_apgd_ce")


def test_an_evaluation_inside_inference_mode_finds_what_it_finds_outside():
    options = {"attacks": "quick,apgd_ce,own_square", "epsilon": 0.02}
    model, expected = linear_model(), evaluated(**options)
    with torch.inference_mode():
        found = evaluated(model, images=IMAGES.clone(), labels=LABELS.clone(), **options)
    assert 0 < expected.verdicts.sum() < 40
    assert torch.equal(found.verdicts, expected.verdicts)
    assert found.accuracy("pgd", 0.02) == expected.accuracy("pgd", 0.02)


def test_a_model_that_was_made_in_inference_mode_is_told_the_way_out():
    with torch.inference_mode():
        model = linear_model()
    with pytest.raises(InputError, match=r"The model was made inside torch\.inference_mode.*Make it outside"):
        evaluated(model)


def test_images_whose_channels_lie_last_are_images():
    images = IMAGES.contiguous(memory_format=torch.channels_last)
    attacks = "pgd,apgd_ce:num_steps=3,fab_t:num_steps=3,square:num_queries=20"
    assert torch.equal(evaluated(images=images, attacks=attacks).verdicts, evaluated(attacks=attacks).verdicts)


@pytest.mark.parametrize(
    ("norm", "attack"),
    [
        ("l2", PGD()),
        ("linf", PGD(norm="l2")),
        ("l2", BPDA(PGD())),
        ("l2", Square()),
        ("l2", GreedyFlips()),
        ("l2", QuantizedBox(PGD())),
        ("linf", AutoAttackStage("apgd-ce", norm="l2")),
    ],
)
def test_an_attack_of_another_norm_is_refused_before_the_model_is_asked(norm, attack):
    with pytest.raises(InputError, match=f"The attack 'mine' does not stay in the {norm} ball"):
        evaluated(lambda x: pytest.fail("the model was asked"), norm=norm, attacks=own(attack))


def test_an_attack_that_says_something_else_by_norm_is_left_alone():
    def still(model, images, *rest):
        return images

    still.norm = 2
    assert evaluated(attacks=own(still)).robust_accuracy == 1.0


@pytest.mark.parametrize("attack", ["pgd:criterion=dlr", "bpda:criterion=dlr", "eot_apgd_dlr", "apgd_t"])
def test_an_attack_for_more_classes_than_the_model_has_is_left_out(attack):
    model = linear_model(SoftQuantization(4, 60.0))
    assert "classes, the model has 2" in evaluated(model, attacks=["fgsm", attack]).skipped[attack]
    assert attack not in evaluated(linear_model(SoftQuantization(4, 60.0), classes=5), attacks=["fgsm", attack]).skipped
    assert evaluated(attacks="fgsm,pgd:criterion=dlr:targeted=True").skipped == {}


def test_an_attack_for_images_of_another_size_is_left_out():
    images = torch.rand(4, 3, 2, 18, generator=torch.Generator().manual_seed(0))
    found = evaluated(images=images, labels=LABELS[:4], norm="l2", attacks="fgsm,square")
    assert "do not fit into 2 x 18 pixels" in found.skipped["square"]


@pytest.mark.parametrize("seed", [20240101120000, 2**63, -1])
def test_a_seed_may_be_any_number(seed):
    attacks = "pgd,own_square:num_queries=10,apgd_ce:num_steps=3"
    first, again, other = (evaluated(attacks=attacks, seed=s, epsilon=0.02) for s in (seed, seed, seed + 1))
    assert torch.equal(first.verdicts, again.verdicts)
    assert first.clean_accuracy == other.clean_accuracy


def test_the_seeds_that_are_in_use_give_what_they_gave():
    asked = StageRunner(None, None, None, None, None, device=torch.device("cpu"), seed=12345)
    assert asked._seeds(torch.tensor([0, 7])) == [12345 * 1_000_003, 12345 * 1_000_003 + 7]


def test_a_point_of_the_curve_that_is_a_budget_but_for_rounding_is_attacked_once():
    assert epsilons_in("0.3", [0.3 / 3, 0.3 * 2 / 3], "linf")[1] == pytest.approx((0.1, 0.2, 0.3))
    budgets, epsilons = epsilons_in([0.1, "0.2", 0.3], [0.3 / 3, 0.3 * 2 / 3], "linf")
    assert budgets == epsilons == (0.1, 0.2, 0.3)
