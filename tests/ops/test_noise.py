from __future__ import annotations

import pytest
import torch

from lightning_sq.ops import l2_ball
from lightning_sq.ops.linf_ball import distance, project, random_start
from lightning_sq.ops.noise import (
    BLURRED_DEVIATION,
    INDEPENDENT,
    as_uniform,
    blurred,
    correlated_noise,
    draw_for_each,
    gaussian_field,
    noise_like,
    random_int16,
)


def draw(kind: str, seed: int = 0, shape: tuple[int, ...] = (64, 3, 16, 16)) -> torch.Tensor:
    return INDEPENDENT[kind](torch.zeros(shape), epsilon=0.1, generator=torch.Generator().manual_seed(seed))


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


def test_uniform_noise_takes_65536_equally_spaced_values_inside_the_ball():
    values = as_uniform(torch.arange(-(2**15), 2**15).to(torch.int16), epsilon=0.25)
    assert values.dtype == torch.float32
    assert torch.equal(values, -values.flip(0))  # symmetric about 0
    assert values.max() == 0.25 - 0.25 / 2**16
    assert torch.allclose(values.diff(), torch.tensor(0.25 / 2**15), rtol=1e-3)


@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (2, 3, 5, 5)])
def test_draws_have_the_shape_asked_for_when_it_is_no_multiple_of_four(shape):
    drawn = random_int16(torch.zeros(shape), generator=torch.Generator().manual_seed(0))
    assert drawn.shape == shape
    assert drawn.dtype == torch.int16


def test_every_bit_of_a_draw_is_fair_and_tells_nothing_of_another():
    drawn = random_int16(torch.zeros(100_000), generator=torch.Generator().manual_seed(0))
    bits = torch.stack([(drawn >> k) & 1 for k in range(16)]).double()
    assert bits.mean(1).tolist() == pytest.approx([0.5] * 16, abs=0.01)
    assert (torch.corrcoef(bits) - torch.eye(16)).abs().max() < 0.02
    top, bottom = bits[15], bits[0]
    for lag in (1, 2, 3, 4):  # four come from one draw of 64 bits
        for bit in (top, bottom):
            assert correlation(bit[lag:], bit[:-lag]) == pytest.approx(0, abs=0.02)
    counts = torch.bincount((drawn.int() + 2**15) >> 8, minlength=256).double()
    assert ((counts - 390.625).square() / 390.625).sum() < 360  # chi-square, 255 degrees, odds of 1 in 100,000


@pytest.mark.parametrize("kind", INDEPENDENT)
def test_one_seed_one_noise(kind):
    assert torch.equal(draw(kind, 3), draw(kind, 3))
    assert not torch.equal(draw(kind, 3), draw(kind, 4))


def test_noise_of_an_image_does_not_depend_on_its_batch():
    images = torch.zeros(5, 3, 4, 4)
    alone = draw_for_each(images[2:3], [7], lambda x, g: INDEPENDENT["uniform"](x, epsilon=1.0, generator=g))
    together = draw_for_each(images, [1, 2, 7, 4, 5], lambda x, g: INDEPENDENT["uniform"](x, epsilon=1.0, generator=g))
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


def correlated(pattern: str, kind: str = "gaussian", *, images: int = 4000, size: int = 8, scales=(3,)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    like = torch.zeros(images, 2, size, size)
    return correlated_noise(like, kind=kind, epsilon=0.1, pattern=pattern, scales=scales, generator=generator)


@pytest.mark.parametrize("pattern", ["pixel", "image", "blocks", "smooth", "mixture"])
@pytest.mark.parametrize("kind", MOMENTS)
def test_every_pattern_keeps_the_distribution_of_a_pixel(kind, pattern):
    noise, (deviation, largest) = correlated(pattern, kind), MOMENTS[kind]
    for pixel in (noise[:, 0, 0, 0], noise[:, 1, 4, 3], noise[:, 0, 7, 7]):
        assert pixel.mean().item() == pytest.approx(0, abs=0.006)
        assert pixel.std().item() == pytest.approx(deviation, rel=0.05)
    if largest is not None:
        assert noise.abs().max().item() <= largest + 1e-7


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def test_patterns_hang_together_as_they_say():
    image, blocks, smooth, pixel = (correlated(pattern) for pattern in ("image", "blocks", "smooth", "pixel"))
    assert (image == image[:, :1, :1, :1]).all()
    assert torch.equal(blocks[:, :, 0, 0], blocks[:, :, 2, 2])  # one cell of 3 x 3 on 8 x 8 pixels
    assert correlation(blocks[:, 0, 0, 0], blocks[:, 0, 0, 3]) == pytest.approx(0, abs=0.05)
    near, far = (correlation(smooth[:, 0, 0, 0], smooth[:, 0, 0, k]) for k in (1, 7))
    assert near > 0.9
    assert far == pytest.approx(0, abs=0.05)
    assert correlation(pixel[:, 0, 0, 0], pixel[:, 0, 0, 1]) == pytest.approx(0, abs=0.05)


def test_a_smooth_field_has_unit_variance_between_its_cells_too():
    field = gaussian_field(
        torch.zeros(20000, 1, 9, 9), cells=3, smooth=True, generator=torch.Generator().manual_seed(1)
    )
    assert field.var(0).flatten().tolist() == pytest.approx([1.0] * 81, abs=0.05)


def test_correlated_noise_is_float32_under_autocast_too():
    field = torch.randn(2, 3, 8, 8)
    alone = blurred(field), gaussian_field(field, cells=4, smooth=True, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        same = blurred(field), gaussian_field(field, cells=4, smooth=True, generator=torch.Generator().manual_seed(0))
    for one, other in zip(alone, same, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert torch.equal(one, other)


def test_a_mixture_deals_its_patterns_to_the_images_in_turn():
    noise = correlated("mixture", "rademacher", images=8, size=16, scales=(2, 4))
    constant = [(x == x[0, 0, 0]).all().item() for x in noise]
    assert constant[1]
    distinct = [len(x[0].unique(dim=0)) for x in noise]
    assert distinct[0] > 8  # independent: every row another
    assert distinct[2] <= 2  # two blocks a side
    assert distinct[4] <= 4


def test_a_blurred_point_weighs_on_its_neighbours():
    point = torch.zeros(1, 2, 5, 5)
    point[0, 1, 2, 2] = 1.0
    row = torch.tensor([0.0, 0.5, 1.0, 0.5, 0.0])
    assert torch.equal(blurred(point)[0, 1], row[:, None] * row)
    assert not blurred(point)[0, 0].any()  # no channel weighs on another


def test_random_starts_fill_the_l2_ball_evenly():
    images = torch.full((4000, 1, 1, 2), 0.5)
    offsets = (l2_ball.random_start(images, 0.2, range(4000)) - images).flatten(1)
    radii = offsets.norm(dim=1) / 0.2
    assert radii.max() <= 1 + 1e-5
    assert radii.square().mean().item() == pytest.approx(0.5, abs=0.03)  # uniform in two dimensions
    assert offsets.mean(0).tolist() == pytest.approx([0.0, 0.0], abs=0.01)


def test_the_deviation_of_blurred_noise_is_as_stated():
    noise = torch.randn(200, 1, 22, 22, generator=torch.Generator().manual_seed(0))
    assert blurred(noise)[..., 1:-1, 1:-1].std().item() == pytest.approx(BLURRED_DEVIATION, rel=0.02)


@pytest.mark.parametrize("kind", INDEPENDENT)
@pytest.mark.parametrize("pattern", ["pixel", "image", "blocks", "smooth", "mixture"])
def test_noise_is_float32_whatever_torchs_default(kind, pattern):
    def drawn():
        generator = torch.Generator().manual_seed(0)
        options = {"kind": kind, "epsilon": 0.1, "pattern": pattern, "scales": (2, 3), "generator": generator}
        images = torch.full((7, 3, 8, 8), 0.5, dtype=torch.float32)
        return correlated_noise(images, **options), l2_ball.random_start(images, 0.1, range(7)), noise_like(images)

    expected = drawn()
    torch.set_default_dtype(torch.float64)
    try:
        found = drawn()
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
