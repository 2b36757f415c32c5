"""What is taken for a quantizer in front of a model, and what is not."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_sq.attacks import (
    BPDA,
    PGD,
    QuantizedBox,
    TakenApart,
    quantizer_with_backward,
    take_apart,
    with_bpda,
)
from lightning_sq.attacks.front_end import is_ours
from lightning_sq.errors import InputError
from lightning_sq.layers import SoftQuantization
from lightning_sq.models import PixelClassifier
from tests.attacks.models import IMAGES, SEEDS, linear, quantized_linear


def five_levels(x):
    return (x * 4).round() / 4


def levels_of_each_channel(x):
    return (x > torch.tensor([0.2, 0.5, 0.8]).view(3, 1, 1)).float()


class Foreign(nn.Module):
    """Somebody else's model with our layer inside."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.ModuleDict({"quantize": SoftQuantization(4, hard=True)})
        self.net = linear(classes=5)

    def forward(self, x):
        return self.net(self.front["quantize"](x))


def test_a_quantizer_inside_a_foreign_model_is_found_and_the_weights_are_shared():
    model = Foreign()
    apart = take_apart(model, IMAGES)
    assert apart.quantizer is model.front["quantize"]
    assert next(apart.network.parameters()) is next(model.parameters())
    assert torch.equal(apart(IMAGES), model(IMAGES))
    assert isinstance(model.front["quantize"], SoftQuantization)


def test_a_quantizer_that_is_not_in_front_is_not_taken_for_one():
    behind = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid(), SoftQuantization(4), linear())
    assert take_apart(behind, IMAGES) is None
    assert take_apart(linear(), IMAGES) is None
    assert take_apart(lambda x: x.flatten(1), IMAGES) is None


def sharpen(x):
    return (2 * x - functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)).clamp(0, 1)


NOT_ELEMENTWISE = {
    "a sharpening filter": sharpen,
    "a threshold at the mean": lambda x: (x > x.mean((1, 2, 3), keepdim=True)).float(),
    "one channel from another": lambda x: x.flip(1),
    "pixels moved about": lambda x: x.roll(1, -1),
    "the batch's own scale": lambda x: x / x.max(),
}


@pytest.mark.parametrize("name", NOT_ELEMENTWISE)
def test_a_front_end_that_is_not_elementwise_is_refused(name):
    with pytest.raises(InputError, match="not an elementwise"):
        take_apart(linear(), IMAGES, quantizer=NOT_ELEMENTWISE[name])


@pytest.mark.parametrize("quantizer", [five_levels, levels_of_each_channel, SoftQuantization(3, 1000.0)])
def test_one_that_is_elementwise_is_taken_whatever_its_levels(quantizer):
    assert take_apart(linear(), IMAGES, quantizer=quantizer).quantizer is quantizer


def test_a_layer_that_descends_from_ours_is_looked_at_like_a_foreign_one():
    class Falls(SoftQuantization):
        def forward(self, x):
            return -super().forward(x)

    hooked = SoftQuantization(2)
    hooked.register_forward_hook(lambda module, given, value: -value)
    assert is_ours(SoftQuantization(2))
    assert not is_ours(None)
    for quantizer in (Falls(2), hooked):
        assert not is_ours(quantizer)
        assert take_apart(PixelClassifier(OrderedDict(quantize=quantizer, backbone=linear())), IMAGES) is None
        slope = quantizer_with_backward(quantizer, "surrogate", 5.0)
        assert torch.equal(slope(IMAGES), quantizer(IMAGES))  # the function stays what it is


def test_a_front_end_that_decreases_is_refused():
    with pytest.raises(InputError, match="non-decreasing"):
        take_apart(linear(), IMAGES, quantizer=lambda x: 1 - x)


DIPS = {
    "between any two 8-bit greys": lambda x: x + 0.3 * torch.sin(255 * 2 * torch.pi * x),
    "between any two of 1024 greys": lambda x: x + 0.01 * torch.sin(1023 * 2 * torch.pi * x),
    "at one grey, by a thousandth": lambda x: x - 0.001 * ((x - 0.4321).abs() < 5e-4),
    "fast and small": lambda x: x + 1e-4 * torch.sin(2e4 * torch.pi * x),
}


@pytest.mark.parametrize("name", DIPS)
def test_a_front_end_that_decreases_between_the_8_bit_greys_is_refused(name):
    with pytest.raises(InputError, match="non-decreasing"):
        take_apart(linear(), IMAGES, quantizer=DIPS[name])


@pytest.mark.parametrize("scale", [1.0, 255.0, 1e-3])
def test_what_rounding_takes_away_is_no_decrease_whatever_the_unit(scale):
    def through(x):
        return x + (scale * five_levels(x) - x).detach()

    assert take_apart(linear(), IMAGES, quantizer=through).quantizer is through
    with pytest.raises(InputError, match="non-decreasing"):
        take_apart(linear(), IMAGES, quantizer=lambda x: scale * (five_levels(x) - 1e-4 * (x > 0.6)))


class Beside(nn.Module):
    """The network is given more than the quantizer lets through, which binary images do not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.quantize, self.net = SoftQuantization(2, hard=True), linear()

    def forward(self, x):
        return self.net(self.quantize(x) + x)


def test_a_network_that_sees_the_pixels_too_is_not_taken_apart_though_binary_images_look_alike():
    assert take_apart(Beside(), IMAGES.round()) is None


class NumbersInFront(nn.Module):
    """What stands before the quantizer is the image itself, but where it is given the black that a quantizer makes."""

    def __init__(self) -> None:
        super().__init__()
        self.quantize, self.net = SoftQuantization(2, hard=True), linear()

    def forward(self, x):
        return self.net(self.quantize(x * x / x))


def test_parts_whose_logits_are_no_numbers_are_not_those_of_a_model_whose_logits_are():
    model, images = NumbersInFront(), IMAGES.clamp(min=0.1)
    assert model(images).isfinite().all()
    assert take_apart(model, images) is None


class Claims(nn.Module):
    """Says of itself what it is made of."""

    def __init__(self, quantizer, network, forward) -> None:
        super().__init__()
        self.quantizer, self.network, self._forward = quantizer, network, forward

    def forward(self, x):
        return self._forward(self, x)


def both(model, x):
    return model.network(model.quantizer(x))


def test_what_a_model_says_of_its_parts_is_held_against_its_logits():
    true = take_apart(Claims(five_levels, linear(), both), IMAGES)
    assert true.quantizer is five_levels
    assert take_apart(Claims(five_levels, linear(), lambda model, x: model.network(x)), IMAGES) is None
    assert take_apart(Claims(five_levels, nn.Flatten(), lambda model, x: x.flatten(1)[:, :3]), IMAGES) is None
    assert take_apart(Claims(sharpen, linear(), both), IMAGES) is None
    assert take_apart(Claims(None, linear(), lambda model, x: model.network(x)), IMAGES) is None


def test_a_quantizer_is_found_in_a_model_that_says_something_else_of_its_parts():
    model = Claims(SoftQuantization(3), linear(), lambda model, x: 2 * both(model, x))
    apart = take_apart(model, IMAGES)
    assert apart.quantizer is model.quantizer
    assert torch.equal(apart(IMAGES), model(IMAGES))


def test_a_model_that_is_random_behind_its_quantizer_is_taken_apart_and_nobody_elses_random_numbers_change():
    model = Claims(SoftQuantization(3), linear(), lambda model, x: both(model, x) + torch.randn(len(x), 2))
    before = torch.get_rng_state()
    assert take_apart(model, IMAGES).quantizer is model.quantizer
    assert torch.equal(torch.get_rng_state(), before)
    assert take_apart(quantized_linear(SoftQuantization(2)), IMAGES) is not None


@pytest.mark.parametrize("training", [False, True])
def test_an_attack_on_the_parts_leaves_them_in_the_mode_that_they_are_in(training):
    network = nn.Sequential(nn.BatchNorm2d(3), linear()).train(training)
    quantizer = nn.Hardtanh(0, 1).train(training)
    apart = TakenApart(quantizer, network)
    assert apart.training is training
    assert with_bpda(apart).training is training
    for attack in (BPDA(PGD(2)), QuantizedBox(PGD(2))):
        attack(apart, IMAGES, torch.zeros(24).long(), SEEDS, 0.1)
        assert {module.training for part in (network, quantizer) for module in part.modules()} == {training}
    assert not TakenApart(five_levels, five_levels).training


class Normed(nn.Module):
    """Its weight is made anew at each pass, as a tensor that can be copied by nobody."""

    def __init__(self, made_by) -> None:
        super().__init__()
        self.quantize, self.net = SoftQuantization(3, 30.0), made_by(nn.Linear(108, 5))

    def forward(self, x):
        return self.net(self.quantize(x).flatten(1))


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("made_by", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_a_quantizer_is_taken_out_of_a_model_with_torchs_older_norms(made_by):
    model = Normed(made_by)
    model(IMAGES)
    apart = take_apart(model.eval(), IMAGES)
    assert apart.quantizer is model.quantize
    assert torch.allclose(apart(IMAGES), model(IMAGES))


def test_a_model_that_cannot_be_copied_is_told_the_way_out():
    model = Foreign()
    model.kept = [model(IMAGES)]
    with pytest.raises(InputError, match=r"cannot be copied to take it out .*Give the quantizer as quantizer="):
        take_apart(model, IMAGES)
    assert take_apart(model.net, IMAGES, quantizer=model.front["quantize"]) is not None
