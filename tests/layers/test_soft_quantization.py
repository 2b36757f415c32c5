"""The layer: what it holds, learns, shares and shows. Its arithmetic is tested in tests/ops."""

from __future__ import annotations

import copy

import pytest
import torch

from lightning_sq import SoftQuantization
from lightning_sq.errors import InputError
from lightning_sq.ops.soft_quantize import hard_quantize, soft_quantize

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
THREE = [0.2, 0.3, 0.9]
EACH = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.3, 0.6, 0.9]]
LEARNING = {"learnable_thresholds": True, "learnable_sharpness": True}


def loss_gradients(layer: SoftQuantization) -> dict[str, torch.Tensor]:
    layer.zero_grad()
    layer(IMAGES).square().sum().backward()
    return {name: parameter.grad for name, parameter in layer.named_parameters()}


@pytest.mark.parametrize("settings", [{}, {"thresholds": THREE}, {"thresholds": EACH, "staircase": "tanh"}])
def test_a_layer_that_learns_nothing_adds_nothing_to_a_state_dict(settings):
    layer = SoftQuantization(4, **settings)
    assert layer.state_dict() == {}
    assert list(layer.parameters()) == []


def test_what_is_learnt_is_in_the_state_dict_and_comes_back():
    layer = SoftQuantization(4, 50.0, thresholds=THREE, **LEARNING)
    assert {key: tuple(value.shape) for key, value in layer.state_dict().items()} == {
        "thresholds": (3,),
        "log_sharpness": (),
    }
    other = SoftQuantization(4, **LEARNING)
    assert other.thresholds.tolist() == pytest.approx([1 / 6, 3 / 6, 5 / 6])
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(IMAGES), layer(IMAGES))
    assert other.sharpness == pytest.approx(50.0)


def test_what_was_learnt_may_lie_anywhere_near_and_makes_the_same_layer_again():
    layer = SoftQuantization(4, 50.0, thresholds=THREE, **LEARNING)
    with torch.no_grad():
        layer.thresholds.copy_(torch.tensor([0.4, -0.003, 1.2]))
    again = SoftQuantization(**layer.settings())
    assert again.thresholds.tolist() == pytest.approx([-0.003, 0.4, 1.2])
    assert torch.equal(again(IMAGES), layer(IMAGES))
    with pytest.raises(InputError, match="Divide 8-bit thresholds by 255"):
        SoftQuantization(4, thresholds=[64, 128, 192], **LEARNING)


@pytest.mark.parametrize("staircase", ["sigmoid", "tanh"])
@pytest.mark.parametrize("thresholds", [None, THREE, EACH])
def test_the_layer_is_the_function(staircase, thresholds):
    table = None if thresholds is None else torch.tensor(thresholds)
    layer = SoftQuantization(4, 50.0, staircase=staircase, thresholds=thresholds)
    expected = soft_quantize(IMAGES, num_levels=4, sharpness=50.0, staircase=staircase, thresholds=table)
    assert torch.allclose(layer(IMAGES), expected, atol=2e-6)
    layer.hard = True
    assert torch.equal(layer(IMAGES), hard_quantize(IMAGES, num_levels=4, thresholds=table))


@pytest.mark.parametrize("staircase", ["sigmoid", "tanh"])
@pytest.mark.parametrize("settings", [LEARNING, {"thresholds": EACH, **LEARNING}])
def test_a_layer_that_has_learnt_nothing_yet_is_the_fixed_one(staircase, settings):
    learning = SoftQuantization(4, 50.0, staircase=staircase, **settings)
    fixed = SoftQuantization(4, 50.0, staircase=staircase, thresholds=settings.get("thresholds"))
    assert torch.allclose(learning(IMAGES), fixed(IMAGES), atol=2e-6)


@pytest.mark.parametrize("staircase", ["sigmoid", "tanh"])
@pytest.mark.parametrize("thresholds", [THREE, EACH])
def test_learnt_values_get_gradients_that_agree_with_finite_differences(staircase, thresholds):
    layer = SoftQuantization(4, 20.0, staircase=staircase, thresholds=thresholds, **LEARNING).double()
    images, step = IMAGES.double(), 1e-6
    for parameter in layer.parameters():
        (gradient,) = torch.autograd.grad(layer(images).square().sum(), parameter)
        differences = []
        for place in range(parameter.numel()):
            ends = []
            for sign in (1, -1):
                moved = copy.deepcopy(layer)
                twin = next(p for p in moved.parameters() if p.shape == parameter.shape)
                twin.data.view(-1)[place] += sign * step
                ends.append(moved(images).square().sum().item())
            differences.append((ends[0] - ends[1]) / (2 * step))
        assert gradient.flatten().tolist() == pytest.approx(differences, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("staircase", ["sigmoid", "tanh"])
@pytest.mark.parametrize("moved", [[0.9, 0.3, 0.2], [0.3, 0.3, 0.3], [-0.4, 0.5, 1.3], [-0.4, -0.3, -0.2]])
def test_thresholds_that_training_moves_anywhere_leave_a_monotone_staircase_with_finite_gradients(staircase, moved):
    layer = SoftQuantization(4, 50.0, staircase=staircase, **LEARNING)
    layer.thresholds.data.copy_(torch.tensor(moved))
    y = layer(torch.linspace(0, 1, 501))
    assert (y.diff() >= -1e-6).all()
    assert y.min() >= 0
    assert y.max() <= 1
    assert all(gradient.isfinite().all() for gradient in loss_gradients(layer).values())
    assert torch.allclose(layer(IMAGES), layer_with(sorted(moved), staircase)(IMAGES), atol=1e-6)
    layer.hard = True
    assert layer(torch.linspace(0, 1, 501)).diff().min() >= 0


def layer_with(thresholds: list[float], staircase: str) -> SoftQuantization:
    layer = SoftQuantization(4, 50.0, staircase=staircase, **LEARNING)
    layer.thresholds.data.copy_(torch.tensor(thresholds))
    return layer


def test_a_sharpness_may_be_set_and_is_looked_at():
    for layer in (SoftQuantization(2, 20.0), SoftQuantization(2, 20.0, learnable_sharpness=True)):
        layer.sharpness = 80.0
        assert layer.sharpness == pytest.approx(80.0)
        assert torch.allclose(layer(IMAGES), SoftQuantization(2, 80.0)(IMAGES), atol=1e-5)
        with pytest.raises(InputError, match="sharpness=-1"):
            layer.sharpness = -1.0


@pytest.mark.parametrize("backward", ["exact", "identity", "surrogate"])
@pytest.mark.parametrize("settings", [{"thresholds": EACH}, LEARNING, {"thresholds": THREE, **LEARNING}])
def test_another_derivative_keeps_the_staircase_and_shares_what_is_learnt(backward, settings):
    layer = SoftQuantization(4, 50.0, staircase="tanh", **settings)
    other = layer.with_backward(backward)
    assert torch.equal(other(IMAGES), layer(IMAGES))
    assert [id(p) for p in other.parameters()] == [id(p) for p in layer.parameters()]
    assert other.state_dict().keys() == layer.state_dict().keys()
    assert other.settings() == layer.settings()
    assert [layer.eval().with_backward(backward).training, layer.train().with_backward(backward).training] == [0, 1]
    for parameter in layer.parameters():
        parameter.data += 0.01
    assert torch.equal(other(IMAGES), layer(IMAGES))


def test_a_surrogate_is_the_same_staircase_only_softer():
    layer = SoftQuantization(4, hard=True, staircase="tanh", thresholds=EACH, backward="surrogate")
    softer = SoftQuantization(4, 10.0, staircase="tanh", thresholds=EACH)
    gradients = []
    for quantizer in (layer, softer):
        x = IMAGES.clone().requires_grad_()
        gradients.append(torch.autograd.grad(quantizer(x).sum(), x)[0])
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    "settings", [{}, {"hard": True}, {"staircase": "tanh", "thresholds": EACH}, {"thresholds": THREE, **LEARNING}]
)
def test_the_settings_make_the_same_layer_again(settings):
    layer = SoftQuantization(4, 50.0, **settings)
    layer.sharpness = 70.0
    for parameter in layer.parameters():
        parameter.data += 0.01
    again = SoftQuantization(**layer.settings())
    assert torch.allclose(again(IMAGES), layer(IMAGES), atol=1e-6)
    assert again.settings()["thresholds"] == layer.settings()["thresholds"]
    assert again.state_dict().keys() == layer.state_dict().keys()


def test_rounded_thresholds_in_half_precision_are_not_trusted_to_keep_their_distance():
    layer = SoftQuantization(4, 4000.0, thresholds=[0.5, 0.5001, 0.9]).half()
    assert layer.thresholds.dtype == torch.float16
    assert layer(IMAGES.half()).isfinite().all()


def test_the_layer_says_what_it_is():
    assert repr(SoftQuantization()) == "SoftQuantization(num_levels=2, sharpness=30, backward='exact')"
    text = repr(SoftQuantization(4, 50.0, backward="surrogate", staircase="tanh", thresholds=EACH, **LEARNING))
    for part in ("sharpness=50,", "surrogate_sharpness=10,", "'tanh'", "thresholds=(3, 3)"):
        assert part in text
    assert text.endswith("learnable_thresholds=True, learnable_sharpness=True)")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"thresholds": THREE}, "2 levels have 1"),
        ({"staircase": "erf"}, "sigmoid, tanh"),
        ({"hard": True, "learnable_sharpness": True}, "no sharpness to learn"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        SoftQuantization(**settings)


@pytest.mark.parametrize(
    "options", [{"staircase": "tanh"}, {"backward": "identity"}, {"hard": True, "backward": "surrogate"}]
)
def test_torch_func_takes_the_derivative_that_autograd_takes(options):
    quantize = SoftQuantization(3, 20.0, **options)
    x = torch.tensor([[0.1, 0.24], [0.6, 0.76]], requires_grad=True)
    (expected,) = torch.autograd.grad(quantize(x).sum(), x)
    each = torch.func.vmap(torch.func.grad(lambda row: quantize(row).sum()))(x.detach())
    assert torch.equal(each, expected)
    assert torch.equal(torch.func.jacrev(quantize)(x.detach()).sum((0, 1)), expected)
