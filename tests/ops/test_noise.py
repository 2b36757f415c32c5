from __future__ import annotations

import pytest
import torch

from lightning_sq.ops.linf_ball import distance, project, random_start
from lightning_sq.ops.noise import NOISES, draw_for_each


def draw(kind: str, seed: int = 0, shape: tuple[int, ...] = (64, 3, 16, 16)) -> torch.Tensor:
    return NOISES[kind](torch.zeros(shape), epsilon=0.1, generator=torch.Generator().manual_seed(seed))


# mean, standard deviation and largest value of each kind, worked out by hand
MOMENTS = {"uniform": (0.1 / 3**0.5, 0.1), "rademacher": (0.1, 0.1), "gaussian": (0.1, None)}


@pytest.mark.parametrize("kind", MOMENTS)
def test_moments(kind):
    noise, (deviation, largest) = draw(kind), MOMENTS[kind]
    assert noise.mean().item() == pytest.approx(0, abs=2e-3)
    assert noise.std().item() == pytest.approx(deviation, rel=0.01)
    if largest is not None:
        assert noise.abs().max().item() <= largest + 1e-7
    else:
        assert noise.abs().max().item() > 0.3


def test_rademacher_takes_two_values_in_equal_shares():
    noise = draw("rademacher")
    assert sorted(noise.unique().tolist()) == pytest.approx([-0.1, 0.1])
    assert (noise > 0).double().mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("kind", NOISES)
def test_one_seed_one_noise(kind):
    assert torch.equal(draw(kind, 3), draw(kind, 3))
    assert not torch.equal(draw(kind, 3), draw(kind, 4))


def test_noise_of_an_image_does_not_depend_on_its_batch():
    images = torch.zeros(5, 3, 4, 4)
    alone = draw_for_each(images[2:3], [7], lambda x, g: NOISES["uniform"](x, epsilon=1.0, generator=g))
    together = draw_for_each(images, [1, 2, 7, 4, 5], lambda x, g: NOISES["uniform"](x, epsilon=1.0, generator=g))
    assert torch.equal(alone[0], together[2])


def test_projection_stays_in_ball_and_box_and_moves_nothing_that_is_inside():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 5, 5, generator=generator)
    far = images + torch.randn(images.shape, generator=generator)
    near = project(far, images, 0.1)
    assert distance(near, images).max() <= 0.1 + 1e-6
    assert near.min() >= 0
    assert near.max() <= 1
    assert torch.equal(project(near, images, 0.1), near)


def test_random_starts_fill_the_ball():
    images = torch.full((4, 3, 32, 32), 0.5)
    starts = random_start(images, 0.2, [1, 2, 3, 4])
    offsets = starts - images
    assert offsets.abs().max() <= 0.2 + 1e-6
    assert offsets.std().item() == pytest.approx(0.2 / 3**0.5, rel=0.02)
    assert not torch.equal(starts[0], starts[1])
