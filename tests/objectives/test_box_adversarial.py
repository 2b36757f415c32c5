"""Adversarial training inside the quantized box, against what can be counted through or solved by hand."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.nn.functional import cross_entropy

from lightning_sq.attacks.quantized_box import InsideBox, preimage
from lightning_sq.errors import InputError
from lightning_sq.layers import SoftQuantization
from lightning_sq.objectives import BoxAdversarial, Natural
from lightning_sq.ops.linf_ball import distance
from tests.objectives.test_adversarial import IMAGES, LABELS, classifier, grad, seeded, worse_direction

QUANTIZERS = {
    "soft": SoftQuantization(4, 30.0),
    "hard": SoftQuantization(4, hard=True),
    "hard thresholds": SoftQuantization(2, hard=True, thresholds=[0.4]),
}
behind_each = pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)


@behind_each
@pytest.mark.parametrize("criterion", ["cross_entropy", "margin"])
def test_behind_a_quantizer_it_finds_the_closed_form_optimum_of_a_linear_network(quantizer, criterion):
    model = classifier(quantizer)
    loss, logits = seeded(BoxAdversarial(0.2, criterion=criterion))(model, IMAGES, LABELS)
    best = (IMAGES + 0.2 * worse_direction(model)).clamp(0, 1)
    assert torch.allclose(logits, model(best), atol=1e-5)
    assert loss.item() == pytest.approx(cross_entropy(model(best), LABELS).item(), rel=1e-5)


def test_no_corner_of_a_small_ball_is_worse_than_what_is_trained_on():
    model = classifier(SoftQuantization(2, hard=True), kind="convolution").eval()
    images = IMAGES[:8].round()  # no pixel moves at 0.3, but for three of each image
    images[:, 0, 0, :3] = 0.5
    _, logits = seeded(BoxAdversarial(0.3, num_steps=20))(model, images, LABELS[:8])
    corners = []
    for ends in product((0.0, 1.0), repeat=3):
        moved = images.clone()
        moved[:, 0, 0, :3] = torch.tensor(ends)
        corners.append(cross_entropy(model(moved), LABELS[:8], reduction="none"))
    least, worst = torch.stack(corners).amin(0), torch.stack(corners).amax(0)
    found = cross_entropy(logits, LABELS[:8], reduction="none")
    assert (found <= worst + 1e-5).all()
    assert (found - least).sum() > 0.9 * (worst - least).sum()


@behind_each
def test_what_it_trains_on_are_pixels_of_the_ball(quantizer):
    model, objective = classifier(quantizer, kind="convolution").eval(), seeded(BoxAdversarial(0.1))
    inside = InsideBox.around(model, IMAGES, 0.1)
    values = inside.values(objective.attack(inside, LABELS))
    pixels = preimage(quantizer, values, IMAGES, 0.1)
    assert distance(pixels, IMAGES).max() <= 0.1 + 1e-6
    assert torch.allclose(quantizer(pixels), values, atol=1e-3)
    assert not torch.allclose(values, quantizer(IMAGES), atol=0.1)


def test_epsilon_0_is_natural_training():
    model = classifier(QUANTIZERS["soft"])
    loss, logits = seeded(BoxAdversarial(0, label_smoothing=0.1))(model, IMAGES, LABELS)
    natural, natural_logits = Natural(label_smoothing=0.1)(model, IMAGES, LABELS)
    assert loss.item() == pytest.approx(natural.item(), rel=1e-6)
    assert torch.allclose(logits, natural_logits, atol=1e-6)


def test_the_ramp_grows_the_ball_a_batch_at_a_time():
    model, objective = classifier(QUANTIZERS["soft"]), seeded(BoxAdversarial(0.2, ramp_steps=4))
    for share in (0.25, 0.5, 0.75, 1.0, 1.0):
        _, logits = objective(model, IMAGES, LABELS)
        best = (IMAGES + share * 0.2 * worse_direction(model)).clamp(0, 1)
        assert torch.allclose(logits, model(best), atol=1e-5)
    assert objective.step == 5


def test_running_statistics_see_the_trained_images_alone_and_no_grad_is_left_behind():
    model = classifier(QUANTIZERS["soft"], kind="convolution")
    objective = seeded(BoxAdversarial(0.1))
    inside = InsideBox.around(model, IMAGES, 0.1)
    loss, _ = objective(model, IMAGES, LABELS)
    assert model.backbone[1].num_batches_tracked == 1
    loss.backward()
    ours = grad(model)

    model.zero_grad()
    model.backbone[1].reset_running_stats()
    values = inside.values(seeded(BoxAdversarial(0.1)).attack(inside, LABELS))
    model.backbone[1].reset_running_stats()
    cross_entropy(model.network(values), LABELS).backward()
    assert torch.equal(ours, grad(model))


def test_a_learned_sharpness_has_a_gradient_through_the_ends_of_the_box():
    model = classifier(SoftQuantization(4, 10.0, learnable_sharpness=True))
    seeded(BoxAdversarial(0.05))(model, IMAGES, LABELS)[0].backward()
    assert model.quantizer.log_sharpness.grad.abs() > 0


def test_the_random_start_is_seeded_by_rank_and_resumes():
    model = classifier(QUANTIZERS["soft"], kind="convolution").eval()
    inside = InsideBox.around(model, IMAGES, 0.1)

    def attack(objective: BoxAdversarial) -> torch.Tensor:
        return objective.attack(inside, LABELS)

    first = seeded(BoxAdversarial(0.1, step_size=0.01), 1, 0)
    one = attack(first)
    assert torch.equal(one, attack(seeded(BoxAdversarial(0.1, step_size=0.01), 1, 0)))
    assert not torch.equal(one, attack(seeded(BoxAdversarial(0.1, step_size=0.01), 1, 1)))
    state = first.random_state.clone()
    two = attack(first)
    resumed = seeded(BoxAdversarial(0.1, step_size=0.01), 99, 0)
    resumed.random_state = state
    assert torch.equal(attack(resumed), two)
    assert not torch.equal(one, two)


def test_without_a_quantizer_it_says_what_to_take():
    with pytest.raises(InputError, match="needs a quantizer"):
        BoxAdversarial(0.1)(classifier(), IMAGES, LABELS)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_steps": 0}, "num_steps=0"),
        ({"criterion": "guess"}, "criterion='guess'"),
        ({"step_size": 0.0}, "0.0 is"),
        ({"step_size": "2/255"}, "step_size='2/255' is no number above 0, in widths of the box"),
    ],
)
def test_an_attack_that_cannot_be_is_refused(options, named):
    with pytest.raises(InputError, match=named):
        BoxAdversarial(**options)
