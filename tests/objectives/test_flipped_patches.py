import pytest
import torch

from lightning_sq.layers import SoftQuantization
from lightning_sq.objectives.flipped_patches import FlippedPatches

EPSILON = 0.25


def flip(natural, noisy, side, *, quantizer=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    patches = FlippedPatches.drawn(quantizer, natural, epsilon=EPSILON, sides=[side], generator=generator)
    return patches(noisy, 0)


def moved(noisy, flipped):
    """Rows and columns of what changed in one image, (H, W)."""
    where = (noisy != flipped).any(0).nonzero()
    return where.amin(0).tolist(), where.amax(0).tolist(), len(where)


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_one_square_of_each_image_is_put_at_the_other_end_of_the_noise(side):
    natural = torch.full((50, 3, 9, 7), 0.5)
    signs = torch.randint(0, 2, natural.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noisy = natural + EPSILON * signs
    flipped = flip(natural, noisy, side)
    sizes = []
    for before, after in zip(noisy, flipped, strict=True):
        (top, left), (bottom, right), count = moved(before, after)
        height, width = bottom - top + 1, right - left + 1
        assert count == height * width
        assert height == side or (height < side and (top == 0 or bottom == 8))  # cut at the edge alone
        assert width == side or (width < side and (left == 0 or right == 6))
        sizes.append((height, width))
    assert (side, side) in sizes
    changed = flipped != noisy
    assert torch.equal(flipped[changed], (natural - EPSILON * signs)[changed])


def test_what_noise_has_left_alone_goes_to_one_of_the_ends():
    natural = torch.full((4, 1, 5, 5), 0.6)
    flipped = flip(natural, natural, 1)
    assert (flipped != natural).sum(dim=(1, 2, 3)).tolist() == [1] * 4
    assert (flipped[flipped != natural] - 0.6).abs().tolist() == pytest.approx([EPSILON] * 4)


def test_noise_stays_in_its_ball_and_pixels_in_their_range():
    natural = torch.rand(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    noisy = natural.clone()
    for step in range(30):
        noisy = flip(natural, noisy, 3, seed=step)
    assert (noisy - natural).abs().max() <= EPSILON + 1e-6
    assert noisy.min() >= 0
    assert noisy.max() <= 1


def test_behind_a_quantizer_the_centre_is_a_pixel_that_noise_can_move():
    natural = torch.zeros(100, 1, 8, 8)
    natural[:, :, 2, 5] = 0.4  # alone within 0.25 of the threshold at 0.5
    quantizer = SoftQuantization(2, 100.0, hard=True)
    flipped = flip(natural, natural, 1, quantizer=quantizer)
    assert all(moved(*pair)[:2] == ([2, 5], [2, 5]) for pair in zip(natural, flipped, strict=True))
    assert quantizer(flipped)[:, 0, 2, 5].tolist() == [1.0] * 100


def test_the_odds_are_those_of_the_widths():
    natural = torch.zeros(4000, 1, 1, 2)
    natural[..., 1] = 0.5  # twice the width of the pixel at the edge of the range
    flipped = flip(natural, natural, 1)
    share = (flipped[..., 1] != natural[..., 1]).float().mean().item()
    assert share == pytest.approx(2 / 3, abs=0.03)  # four standard deviations


def test_an_image_that_noise_cannot_move_stays_as_it_is():
    natural = torch.zeros(3, 1, 4, 4)
    quantizer = SoftQuantization(2, 100.0, hard=True)
    flipped = flip(natural, natural, 2, quantizer=quantizer)
    assert torch.equal(quantizer(flipped), quantizer(natural))


def test_weights_that_are_not_finite_are_no_error_here():
    class Broken(torch.nn.Module):
        def forward(self, images):
            return images * float("nan")

    assert flip(torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3), 1, quantizer=Broken()).isfinite().all()
