"""The linear model of the margin by which noisy natural samples are refined."""

from __future__ import annotations

import torch
from torch.nn.functional import cosine_similarity, interpolate

from lightning_sq.objectives.margin_model import MarginModel
from lightning_sq.ops.default_dtype import default_dtype

SHAPE = (3, 2, 5, 5)


def told(model: MarginModel, gradient: torch.Tensor, draws: list[torch.Tensor]) -> MarginModel:
    for seen in draws:
        model.update(seen[None], 7.0 + (gradient * seen).sum((1, 2, 3))[None])
    return model


def random_images(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_a_linear_margin_is_found_cell_by_cell_and_smooth():
    cells = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    gradient = cells.repeat_interleave(2, 2).repeat_interleave(2, 3)
    draws = [torch.randn(gradient.shape, generator=torch.Generator().manual_seed(seed)) for seed in range(1, 401)]
    found = told(MarginModel(), gradient, draws).direction()
    expected = interpolate(cells, size=(6, 6), mode="bilinear")
    assert (cosine_similarity(found.flatten(1), expected.flatten(1)) > 0.95).all()
    assert torch.allclose(
        found.square().mean((1, 2, 3)) / expected.square().mean((1, 2, 3)), 1 / cells.square().mean((1, 2, 3)), rtol=0.2
    )


def test_draws_in_the_same_direction_count_once():
    """Where the sum over m_i v_i would lean to the direction that was drawn nine times."""
    one, other = torch.zeros(3, 2, 6, 6), torch.zeros(3, 2, 6, 6)
    one[:, 0, :2, :2], other[:, 1, 4:, 4:] = 1.0, 1.0
    direction = told(MarginModel(), one + other, [torch.zeros_like(one)] + 9 * [one] + [other]).direction()
    assert (direction[:, 1, 5, 5] > 0).all()
    assert (direction[:, 0, 0, 0] / direction[:, 1, 5, 5]).sub(1).abs().max() < 0.5


def test_each_image_has_a_model_of_its_own():
    gradient = random_images(0)
    draws = [random_images(seed) for seed in range(1, 20)]
    together = told(MarginModel(), gradient, draws).direction()
    alone = told(MarginModel(), gradient[1:2], [seen[1:2] for seen in draws]).direction()
    assert torch.allclose(together[1:2], alone, atol=1e-4)


def test_several_draws_at_a_time_are_as_many_one_by_one():
    gradient, draws = random_images(0), [random_images(seed) for seed in range(1, 7)]
    expected = told(MarginModel(), gradient, draws).direction()
    model, seen = told(MarginModel(), gradient, draws[:2]), torch.stack(draws[2:])
    before = model.direction()
    model.update(seen, 7.0 + (gradient * seen).sum((2, 3, 4)))
    assert torch.allclose(model.direction(), expected, atol=1e-5)
    assert not torch.allclose(before, expected, atol=0.1)


def test_images_that_are_not_kept_are_forgotten_and_the_others_remembered():
    gradient, kept = random_images(0), torch.tensor([2, 0])
    draws = [random_images(seed) for seed in range(1, 20)]
    expected = told(MarginModel(), gradient, draws).direction()[kept]
    model = told(MarginModel(), gradient, draws[:10])
    model.keep(kept)
    assert torch.allclose(
        told(model, gradient[kept], [seen[kept] for seen in draws[10:]]).direction(), expected, atol=1e-4
    )


def test_where_no_draw_moves_a_pixel_there_is_no_direction():
    seen = torch.full(SHAPE, 0.3)
    model = MarginModel()
    for _ in range(3):
        model.update(seen[None], torch.randn(1, 3))
    assert not model.direction().any()


def test_pixels_that_draws_do_not_move_do_not_make_the_others_smaller():
    """Behind two levels most pixels of a digit stand still; the direction is to be as long where it matters."""
    moved = torch.zeros(SHAPE)
    moved[:, :, :, :2] = 1.0  # a cell and the border of the next
    draws = [random_images(seed) * moved for seed in range(1, 60)]
    direction = told(MarginModel(), random_images(0) * moved, draws).direction()
    mean_square = direction[:, :, :, 0].square().mean((1, 2))
    assert torch.allclose(mean_square, torch.ones(3), atol=0.4)


def test_it_is_as_exact_under_autocast():
    gradient, draws = random_images(0), [random_images(seed) for seed in range(1, 20)]
    expected = told(MarginModel(), gradient, draws).direction()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(told(MarginModel(), gradient, draws).direction(), expected)


def test_the_callers_default_dtype_does_not_matter():
    draws, gradient = [random_images(seed) for seed in range(4)], random_images(9)
    before = told(MarginModel(), gradient, draws).direction()
    with default_dtype(torch.float64):
        assert torch.equal(told(MarginModel(), gradient, draws).direction(), before)
