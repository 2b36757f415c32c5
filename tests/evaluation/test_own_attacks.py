"""An attack of somebody else may do to a model what it likes: no number changes. What it gives back is looked at."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import lightning_sq
from lightning_sq.attacks import Transfer
from lightning_sq.errors import InputError
from lightning_sq.evaluation import SuiteEntry, attacks_by_name
from lightning_sq.layers import SoftQuantization
from tests.evaluation.models import IMAGES, linear_model

EPSILON = 0.02


class Averages(nn.Module):
    """Puts a new tensor into its buffer, as some running means do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, 1, 1))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))[:, None, None]
        return x - self.mean


class Foreign(nn.Module):
    """Somebody else's model around our layer."""

    def __init__(self) -> None:
        super().__init__()
        self.quantize, self.net = SoftQuantization(3, 20.0), normed()

    def forward(self, x):
        return self.net(self.quantize(x))


def normed() -> nn.Module:
    norm = nn.BatchNorm2d(3)
    norm.running_mean.fill_(0.4)
    return nn.Sequential(norm, Averages(), nn.Dropout(0.5), linear_model())


def trains(model, images, labels, seeds, epsilon):
    model.train()
    return images


def trains_and_asks(model, images, labels, seeds, epsilon):
    """And then puts it into the mode in which it was, as a careful one would."""
    model.train()
    model(images)
    model.eval()
    return images


def lets_weights_learn(model, images, labels, seeds, epsilon):
    model.requires_grad_(True).train()
    model(images).sum().backward()
    return images


def evaluated(model, attack, **options):
    entries = {} if attack is None else {"mine": SuiteEntry("mine", attack, "plain", on_everyone=True)}
    entries |= attacks_by_name("pgd,quantized_box,apgd_ce")
    with torch.no_grad():
        labels = copy.deepcopy(model).eval()(IMAGES).argmax(1)
    options = {"epsilon": EPSILON, "batch_size": 16, "checks": False} | options
    return lightning_sq.evaluate(model, IMAGES, labels, attacks=entries, **options)


@pytest.mark.parametrize("attack", [trains, trains_and_asks, lets_weights_learn])
@pytest.mark.parametrize(
    ("make", "options"),
    [(normed, {}), (Foreign, {}), (normed, {"quantizer": nn.Hardtanh(0, 1)})],
    ids=["whole", "taken apart", "behind a front end"],
)
def test_an_attack_that_leaves_a_model_in_training_mode_changes_no_number(attack, make, options):
    model = make().train()
    model.get_submodule("net" if make is Foreign else "")[0].eval()
    state, modes = copy.deepcopy(model.state_dict()), [part.training for part in model.modules()]
    alone, after = evaluated(model, None, **options), evaluated(model, attack, **options)
    assert 0 < alone.robust_accuracy < 1
    assert after.clean_accuracy == alone.clean_accuracy == 1.0
    for name, outcomes in alone.outcomes.items():
        assert torch.equal(outcomes[EPSILON].broken, after.outcomes[name][EPSILON].broken)
    assert not after.outcomes["mine"][EPSILON].broken.any()
    assert [part.training for part in model.modules()] == modes
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert all(weight.requires_grad for weight in model.parameters())


def follows_the_gradient(model, images, labels, seeds, epsilon):
    """And does not say itself that it needs one."""
    x = images.clone().requires_grad_(True)
    torch.nn.functional.cross_entropy(model(x), labels).backward()
    return (images + epsilon * x.grad.sign()).clamp(0, 1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_attack_has_gradients_whatever_the_mode_of_the_caller(mode):
    model = normed()
    expected = evaluated(model, follows_the_gradient)
    with mode():
        found = evaluated(model, follows_the_gradient)
    broken = [one.outcomes["mine"][EPSILON].broken for one in (expected, found)]
    assert broken[0].any()
    assert torch.equal(*broken)


def test_a_model_that_lends_images_is_held_still_too():
    source = normed().train()
    state = copy.deepcopy(source.state_dict())
    found = Transfer(source, trains_and_asks)(None, IMAGES, torch.zeros(40).long(), range(40), EPSILON)
    assert torch.equal(found, IMAGES)
    assert source.training
    assert all(torch.equal(state[key], value) for key, value in source.state_dict().items())


NOT_IMAGES = {
    "a NoneType": lambda images: None,
    "a ndarray": lambda images: images.numpy(),
    "a tuple": lambda images: (images, None),
    r"images of \(10, 3, 6\)": lambda images: images[..., 0],
    "pixels that are not numbers": lambda images: images / 0,
    r"pixels from -0\.05": lambda images: images - images.min() - 0.05,
    r"an image 0\.0200\d* away from the one .* outside the ball of 0\.02 \(linf\)\. End it with lightning_sq\.ops": (
        lambda images: (images + 0.02001).clamp(0, 1)
    ),
}


@pytest.mark.parametrize("what", NOT_IMAGES)
def test_what_an_attack_gives_that_are_no_adversarial_images_is_one_sentence_with_its_name(what):
    def attack(model, images, labels, seeds, epsilon):
        return NOT_IMAGES[what](images)

    with pytest.raises(InputError, match=rf"^mine@0\.02 gave {what}"):
        evaluated(normed(), attack, show=(0,))


@pytest.mark.parametrize(
    "convert",
    [lambda x: x.double(), lambda x: x.half(), lambda x: x.clone().requires_grad_()],
    ids=["64", "16", "graph"],
)
def test_images_in_other_numbers_are_taken_for_what_they_are(convert, tmp_path):
    found = evaluated(linear_model(), lambda model, x, *rest: convert(x), show=(0,), store=tmp_path)
    assert found.accuracy("mine", EPSILON) == 1.0
    assert found.examples()[0].dtype == torch.float32
