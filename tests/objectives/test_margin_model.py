"""The linear model of the margin by which noisy natural samples are refined."""

from __future__ import annotations

import torch

from lightning_sq.objectives.margin_model import MarginModel
from lightning_sq.ops.noise import blurred

SHAPE = (3, 2, 5, 5)


def told(model: MarginModel, gradient: torch.Tensor, draws: list[torch.Tensor]) -> MarginModel:
    for seen in draws:
        model.update(seen, 7.0 + (gradient * seen).sum((1, 2, 3)))
    return model


def random_images(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def unit(field: torch.Tensor) -> torch.Tensor:
    return field / field.square().mean((1, 2, 3), keepdim=True).sqrt()


def test_a_linear_margin_is_found_but_for_the_blur():
    gradient = random_images(0)
    model = told(MarginModel(gradient, 400), gradient, [random_images(seed) for seed in range(1, 401)])
    cosine = (unit(model.direction()) * unit(blurred(gradient))).mean((1, 2, 3))
    assert (cosine > 0.99).all()
    assert torch.allclose(model.direction().square().mean((1, 2, 3)), torch.ones(3), atol=0.1)


def test_draws_in_the_same_direction_count_once():
    """Where the sum over m_i v_i would lean to the direction that was drawn nine times."""
    one, other = torch.zeros(SHAPE), torch.zeros(SHAPE)
    one[:, 0, 0, 0], other[:, 1, 4, 4] = 1.0, 1.0
    model = told(MarginModel(one, 11), one + other, [torch.zeros(SHAPE)] + 9 * [one] + [other])
    direction = model.direction()
    assert torch.allclose(direction[:, 0, 0, 0], direction[:, 1, 4, 4], rtol=0.2)
    assert (direction[:, 0, 0, 0] > 0).all()


def test_each_image_has_a_model_of_its_own():
    gradient = random_images(0)
    draws = [random_images(seed) for seed in range(1, 20)]
    together = told(MarginModel(gradient, 19), gradient, draws).direction()
    alone = told(MarginModel(gradient[1:2], 19), gradient[1:2], [seen[1:2] for seen in draws]).direction()
    assert torch.allclose(together[1:2], alone, atol=1e-4)


def test_where_no_draw_moves_a_pixel_there_is_no_direction():
    seen = torch.full(SHAPE, 0.3)
    model = MarginModel(seen, 3)
    for _ in range(3):
        model.update(seen, torch.randn(3))
    assert not model.direction().any()


def test_pixels_that_draws_do_not_move_do_not_make_the_others_smaller():
    """Behind two levels most pixels of a digit stand still; the direction is to be as long where it matters."""
    moved = torch.zeros(SHAPE)
    moved[:, :, :, 0] = 1.0
    draws = [random_images(seed) * moved for seed in range(1, 60)]
    direction = told(MarginModel(moved, 59), random_images(0) * moved, draws).direction()
    mean_square = (direction * moved).square().sum((1, 2, 3)) / moved[0].sum()
    assert torch.allclose(mean_square, torch.ones(3), atol=0.3)


def test_it_is_as_exact_under_autocast():
    gradient, draws = random_images(0), [random_images(seed) for seed in range(1, 20)]
    expected = told(MarginModel(gradient, 19), gradient, draws).direction()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(told(MarginModel(gradient, 19), gradient, draws).direction(), expected)
