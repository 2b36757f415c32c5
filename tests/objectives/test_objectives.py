from __future__ import annotations

import math

import pytest
import torch

from lightning_sq.errors import InputError
from lightning_sq.objectives import Natural, NoisyNatural

IMAGES = torch.full((2, 3, 4, 4), 0.5)
LABELS = torch.tensor([0, 1])


def first_pixels(images: torch.Tensor) -> torch.Tensor:
    """Logits are the first two pixels."""
    return images.flatten(1)[:, :2]


def test_cross_entropy_by_hand():
    images = IMAGES.clone()
    images[:, 0, 0, 0] = 1.0  # logits (1, 0.5) for both; labels 0 and 1
    loss, logits = Natural()(first_pixels, images, LABELS)
    expected = (math.log(1 + math.exp(-0.5)) + math.log(1 + math.exp(0.5))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert logits.tolist() == [[1.0, 0.5], [1.0, 0.5]]


def test_label_smoothing_by_hand():
    # smoothing s spreads s over both classes: (1 - s/2) CE(own) + s/2 CE(other)
    images = IMAGES.clone()
    images[:, 0, 0, 0] = 1.0
    loss, _ = Natural(label_smoothing=0.2)(first_pixels, images[:1], LABELS[:1])
    own, other = math.log(1 + math.exp(-0.5)), math.log(1 + math.exp(0.5))
    assert loss.item() == pytest.approx(0.9 * own + 0.1 * other, rel=1e-6)


def test_noisy_natural_trains_on_noisy_pixels_within_epsilon():
    seen = []
    objective = NoisyNatural("rademacher", "51/255")
    objective.seed(0, 0)
    objective(lambda x: seen.append(x) or first_pixels(x), IMAGES, LABELS)
    assert sorted(seen[0].unique().tolist()) == pytest.approx([0.3, 0.7])


def test_natural_leaves_the_pixels_alone_and_has_no_random_state():
    assert torch.equal(Natural().perturb(IMAGES), IMAGES)
    assert Natural().random_state is None
    assert not Natural.adds_noise


def test_bad_values_are_refused():
    with pytest.raises(InputError, match="epsilon=8 "):
        NoisyNatural(epsilon=8)
    with pytest.raises(InputError, match="label_smoothing"):
        Natural(label_smoothing=1.0)
