from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, softplus

from lightning_sq.errors import InputError
from lightning_sq.layers import SoftQuantization
from lightning_sq.metrics import input_gradient_l1
from lightning_sq.models import PixelClassifier
from lightning_sq.objectives import Natural
from lightning_sq.objectives.gradient_penalty import GradientPenalty

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(12, 3, 6, 6, generator=GENERATOR)
LABELS = torch.arange(12) % 2
METHODS = ["double_backward", "finite_difference"]


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 2))


def smooth_net(quantizer: SoftQuantization | None = None, *, norm: bool = False) -> PixelClassifier:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(8)] if norm else []
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), *norms, nn.Tanh(), nn.Flatten(), nn.Linear(128, 5))
    parts = {"backbone": backbone} if quantizer is None else {"quantize": quantizer, "backbone": backbone}
    return PixelClassifier(OrderedDict(parts))


def losing_margin(model: nn.Sequential) -> tuple[torch.Tensor, torch.Tensor]:
    """Of two classes: (B,) z_other - z_own, and (B,) the l1 norm of its gradient in x, ||w_other - w_own||_1."""
    logits = model(IMAGES)
    rows = torch.arange(len(LABELS))
    weights = model[1].weight
    return logits[rows, 1 - LABELS] - logits[rows, LABELS], (weights[1 - LABELS] - weights[LABELS]).abs().sum(1)


def weight_gradient(objective, model: nn.Module) -> torch.Tensor:
    model.zero_grad()
    objective(model, IMAGES, LABELS)[0].backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_the_penalty_of_a_linear_model_by_hand():
    # CE = softplus(m), grad_x CE = sigmoid(m) (w_other - w_own)
    model = linear()
    loss, logits = GradientPenalty(0.1)(model, IMAGES, LABELS)
    margin, norm = losing_margin(model)
    expected = (softplus(margin) + 0.1 * margin.sigmoid() * norm).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(logits, model(IMAGES))
    by_hand = torch.cat([g.flatten() for g in torch.autograd.grad(expected, list(model.parameters()))])
    assert torch.allclose(weight_gradient(GradientPenalty(0.1), model), by_hand, atol=1e-6)


def test_the_finite_difference_of_a_linear_model_by_hand():
    # a step of h along the sign of the gradient adds h ||w||_1 to the margin
    model = linear()
    loss, _ = GradientPenalty(0.1, "finite_difference", step=0.02)(model, IMAGES, LABELS)
    margin, norm = losing_margin(model)
    expected = (softplus(margin) + 0.1 * (softplus(margin + 0.02 * norm) - softplus(margin)) / 0.02).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_with_a_step_of_epsilon_it_is_training_on_fgsm():
    model = linear()
    loss, _ = GradientPenalty("16/255", "finite_difference", step="16/255")(model, IMAGES, LABELS)
    margin, norm = losing_margin(model)
    assert loss.item() == pytest.approx(softplus(margin + 16 / 255 * norm).mean().item(), rel=1e-5)


@pytest.mark.parametrize("quantizer", [None, SoftQuantization(3, 20.0)], ids=["plain", "quantized"])
def test_the_penalty_is_the_mean_of_the_images_own_norms(quantizer):
    model = smooth_net(quantizer)
    loss, _ = GradientPenalty(0.3)(model, IMAGES, LABELS)
    natural, _ = Natural()(model, IMAGES, LABELS)
    norms = input_gradient_l1(model, IMAGES, LABELS)
    assert (loss - natural).item() == pytest.approx(0.3 * norms.mean().item(), rel=1e-4)


@pytest.mark.parametrize("quantizer", [None, SoftQuantization(3, 20.0)], ids=["plain", "quantized"])
@pytest.mark.parametrize("norm", [False, True], ids=["alone", "batch_norm"])
def test_both_methods_agree_on_a_smooth_net_in_value_and_weight_gradient(quantizer, norm):
    # in float64 with a small step; the penalty alone, without the loss that both share
    model = smooth_net(quantizer, norm=norm).double()
    images = IMAGES.double()
    losses, gradients = [], []
    for objective in (Natural(), GradientPenalty(1.0), GradientPenalty(1.0, "finite_difference", step=1e-5)):
        model.zero_grad()
        loss, _ = objective(model, images, LABELS)
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    natural, exact, approximate = losses
    assert exact > natural
    assert approximate - natural == pytest.approx(exact - natural, rel=1e-3)
    exact, approximate = gradients[1] - gradients[0], gradients[2] - gradients[0]
    assert cosine_similarity(exact, approximate, dim=0) > 0.9999
    assert (approximate.norm() / exact.norm()).item() == pytest.approx(1.0, abs=1e-3)


def test_the_default_step_is_near_enough_for_a_small_smooth_net_in_float32():
    model, natural = smooth_net(), weight_gradient(Natural(), smooth_net())
    exact, approximate = (weight_gradient(GradientPenalty(1.0, method), model) - natural for method in METHODS)
    assert cosine_similarity(exact, approximate, dim=0) > 0.99


@pytest.mark.parametrize("method", METHODS)
def test_epsilon_0_is_natural_training(method):
    model = smooth_net()
    loss, logits = GradientPenalty(0, method, label_smoothing=0.1)(model, IMAGES, LABELS)
    natural, natural_logits = Natural(label_smoothing=0.1)(model, IMAGES, LABELS)
    assert torch.equal(loss, natural)
    assert torch.equal(logits, natural_logits)


def test_a_hard_quantizer_has_no_gradient_to_penalise():
    model = smooth_net(SoftQuantization(2, hard=True))
    for method in METHODS:
        assert torch.equal(GradientPenalty(1.0, method)(model, IMAGES, LABELS)[0], Natural()(model, IMAGES, LABELS)[0])


@pytest.mark.parametrize("method", METHODS)
def test_running_statistics_see_the_natural_images_once(method):
    models = [smooth_net(norm=True), smooth_net(norm=True)]
    weight_gradient(GradientPenalty(0.1, method), models[0])
    weight_gradient(Natural(), models[1])
    for ours, natural in zip(models[0].buffers(), models[1].buffers(), strict=True):
        assert torch.equal(ours, natural)
    assert models[0].backbone[1].track_running_stats


@pytest.mark.parametrize("method", METHODS)
def test_the_forward_pass_touches_neither_the_images_nor_a_parameters_grad(method):
    model, images = smooth_net(), IMAGES.clone()
    GradientPenalty(0.1, method)(model, images, LABELS)
    assert torch.equal(images, IMAGES)
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_training_shrinks_the_input_gradient_below_that_of_natural_training(method):
    norms = []
    for objective in (Natural(), GradientPenalty(0.2, method)):
        model = smooth_net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(40):
            optimizer.zero_grad()
            objective(model, IMAGES, LABELS)[0].backward()
            optimizer.step()
        norms.append(input_gradient_l1(model, IMAGES, LABELS).mean().item())
    assert norms[1] < 0.8 * norms[0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"epsilon": 8}, "epsilon=8 "),
        ({"method": "guess"}, "method='guess'"),
        ({"step": 0}, "step=0 "),
        ({"step": 2.0}, "step=2.0 "),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_a_penalty_that_cannot_be_is_refused(options, named):
    with pytest.raises(InputError, match=named):
        GradientPenalty(**options)


def test_in_half_precision_the_penalty_of_an_image_that_is_known_for_sure_looks_ahead_too():
    """Its loss is some 1e-9, and float16 knows nothing between 0 and 6e-8."""
    torch.manual_seed(0)
    model, seen = nn.Sequential(nn.Flatten(), nn.Linear(IMAGES[0].numel(), 2)), []
    model[1].weight.data.copy_(torch.tensor([[0.2], [-0.2]]).expand(2, IMAGES[0].numel()))
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    with torch.autocast("cpu", torch.float16):
        GradientPenalty(0.1, "finite_difference", step=0.1)(model, IMAGES, torch.zeros(len(IMAGES)).long())
    assert torch.allclose(seen[-1], IMAGES - 0.1)


def test_in_half_precision_the_norm_of_an_image_that_is_known_for_sure_is_not_0():
    """Some 1e-7 a pixel is below what float16 tells from 0, or near it; what is large it cannot hold scaled."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(IMAGES[0].numel(), 2))
    labels = torch.zeros(len(IMAGES)).long()

    def norm() -> float:
        with_norm, without = (GradientPenalty(weight)(model, IMAGES, labels)[0].item() for weight in (1.0, 0.0))
        return with_norm - without

    for weight, smallest, largest in ((0.13, 0, 1e-4), (-30.0, 1e3, 1e5)):
        model[1].weight.data.copy_(torch.tensor([[weight], [-weight]]).expand(2, IMAGES[0].numel()))
        whole = norm()
        with torch.autocast("cpu", torch.float16):
            half = norm()
        assert smallest < whole < largest
        assert half == pytest.approx(whole, rel=0.05)
