from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_sq.errors import InputError
from lightning_sq.layers import SoftQuantization
from lightning_sq.models import PixelClassifier
from lightning_sq.objectives.interval_bound import IntervalBound
from lightning_sq.ops.interval import quantized_box
from lightning_sq.verification.interval_network import certified, interval_margins

EPSILON = 0.15


def toy(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy grey images (count, 3, 6, 6) whose left or right half is brighter, which is the label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    images = 0.3 + 0.2 * torch.rand(count, 3, 6, 6, generator=generator)
    images[labels == 0, :, :, :3] += 0.35
    images[labels == 1, :, :, 3:] += 0.35
    return images, labels


def small_net() -> PixelClassifier:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    return PixelClassifier(OrderedDict(quantize=SoftQuantization(2, 30.0), backbone=backbone))


def count(objective: IntervalBound, steps: int) -> list[tuple[float, float]]:
    """(epsilon, kappa) of each step."""
    model, (images, labels), seen = small_net(), toy(4), []
    for _ in range(steps):
        seen.append(tuple(value.item() for value in objective.schedule()))
        objective(model, images, labels)
    return seen


def test_the_schedule_by_hand():
    seen = count(IntervalBound(0.4, kappa=0.5, warmup_steps=2, ramp_steps=4), 8)
    assert [epsilon for epsilon, _ in seen] == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.4])
    assert [kappa for _, kappa in seen] == pytest.approx([1, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.5])


def test_the_schedule_goes_on_where_its_state_was_saved():
    whole = count(IntervalBound(0.4, warmup_steps=1, ramp_steps=5), 7)
    first, second = (IntervalBound(0.4, warmup_steps=1, ramp_steps=5) for _ in range(2))
    seen = count(first, 3)
    assert first.state_dict() == {"step": torch.tensor(3)}
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert seen + count(second, 4) == whole


def test_only_training_counts_batches():
    objective = IntervalBound(EPSILON).eval()
    count(objective, 2)
    assert objective.step == 0


def test_the_first_step_is_natural_cross_entropy():
    model, (images, labels) = small_net(), toy(8)
    loss, logits = IntervalBound(EPSILON)(model, images, labels)
    assert torch.equal(logits, model(images))
    assert torch.equal(loss, cross_entropy(logits, labels))


def test_the_loss_mixes_natural_cross_entropy_and_its_bound():
    model, (images, labels) = small_net(), toy(8)
    objective = IntervalBound(EPSILON, kappa=0.25, warmup_steps=0, ramp_steps=2, label_smoothing=0.1)
    objective.step += 1  # half way
    loss, logits = objective(model, images, labels)
    bound = cross_entropy(interval_margins(model, quantized_box(images, EPSILON / 2), labels), labels)
    expected = 0.625 * cross_entropy(logits, labels, label_smoothing=0.1) + 0.375 * bound
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_bound_alone_is_above_the_loss_of_every_point_of_the_ball():
    model, (images, labels) = small_net(), toy(8)
    objective = IntervalBound(EPSILON, kappa=0.0, warmup_steps=0, ramp_steps=1)
    objective.step += 1
    bound, _ = objective(model, images, labels)
    for seed in range(20):
        noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        for point in (noise, noise.sign()):
            assert cross_entropy(model((images + EPSILON * point).clamp(0, 1)), labels) <= bound


def test_batch_norm_goes_by_the_centres_of_the_batch_and_its_running_statistics_follow_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).train()
    model[1].momentum = 1.0
    images, labels = toy(16)
    objective = IntervalBound(EPSILON, kappa=0.0, warmup_steps=0, ramp_steps=1)
    objective.step += 1
    loss, _ = objective(model, images, labels)
    loss.backward()
    assert model[1].num_batches_tracked == 1
    assert model[1].weight.grad.abs().sum() > 0
    centres = model[0](quantized_box(images, EPSILON).centre)  # of a linear layer that of the box behind it
    assert torch.allclose(model[1].running_mean, centres.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(model[1].running_var, centres.var((0, 2, 3)), rtol=1e-5)
    count = centres.numel() // 4
    model[1].running_var *= (count - 1) / count  # torch's is unbiased, and it normalises by the biased one
    bound = cross_entropy(interval_margins(model.eval(), quantized_box(images, EPSILON), labels), labels)
    assert loss.item() == pytest.approx(bound.item(), rel=1e-5)


def test_without_natural_cross_entropy_no_natural_pass_is_made_and_what_is_told_is_what_is_proven():
    model, (images, labels), epsilon = train(IntervalBound(EPSILON, warmup_steps=10, ramp_steps=50)), toy(200), 0.17
    proven = certified(model, images, labels, epsilon)
    assert 0.2 < proven.float().mean() < 0.8
    objective = IntervalBound(epsilon, kappa=0.0, first_kappa=0.0, warmup_steps=0, ramp_steps=1)
    objective.step += 1
    model.forward = lambda x: pytest.fail("a natural pass was made")  # the bounds go by its layers
    loss, margins = objective(model, images, labels)
    assert loss == cross_entropy(margins, labels)
    assert torch.equal(margins.argmax(1) == labels, proven)


def train(objective: IntervalBound, steps: int = 100) -> PixelClassifier:
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        loss, _ = objective(model, *toy(32, seed=step + 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_training_makes_the_certified_share_rise():
    images, labels = toy(200)
    natural = train(IntervalBound(EPSILON, warmup_steps=1000))  # it never gets beyond the warm-up
    robust = train(IntervalBound(EPSILON, warmup_steps=10, ramp_steps=50))
    before, after = (certified(model, images, labels, EPSILON).float().mean() for model in (natural, robust))
    assert (natural(images).argmax(1) == labels).float().mean() > 0.95
    assert before < 0.5
    assert after > 0.9


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"epsilon": 8}, "epsilon=8 "),
        ({"kappa": 1.5}, "kappa=1.5"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"ramp_steps": 0}, "ramp_steps=0"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_bad_values_are_refused(options, name):
    with pytest.raises(InputError, match=name):
        IntervalBound(**options)


def test_a_function_has_no_layers_to_bound():
    images, labels = toy(4)
    with pytest.raises(InputError, match="The model is a function, and bounds go by layers"):
        IntervalBound(EPSILON)(lambda x: x.flatten(1), images, labels)
