from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_sq.data.crop import generator_for, random_resized_crop, resize_and_center_crop


@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 1000))
def test_a_training_window_lies_inside_the_image(height, width, seed):
    crop = random_resized_crop(224)(np.random.default_rng(seed), height, width)
    assert 0 <= crop.top <= crop.top + crop.height <= height
    assert 0 <= crop.left <= crop.left + crop.width <= width
    assert (crop.resized_height, crop.resized_width, crop.offset_top, crop.offset_left) == (224, 224, 0, 0)


def test_training_windows_have_the_area_and_shape_that_was_asked_for():
    rule = random_resized_crop(64, scale=(0.25, 1.0), flip_probability=0.3)
    crops = [rule(np.random.default_rng(seed), 400, 500) for seed in range(4000)]
    areas = np.array([c.height * c.width / 200_000 for c in crops])
    ratios = np.array([c.width / c.height for c in crops])
    assert areas.min() >= 0.245
    assert areas.max() <= 1.0
    assert ratios.min() >= 0.74
    assert ratios.max() <= 1.35
    assert np.mean([c.flip for c in crops]) == pytest.approx(0.3, abs=0.03)


def test_a_very_long_image_gets_its_largest_centred_window():
    crop = random_resized_crop(32)(np.random.default_rng(0), 10, 1000)
    assert (crop.height, crop.width, crop.top, crop.left) == (10, 13, 0, 493)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(375, 500, (256, 341, 16, 58)), (500, 375, (341, 256, 58, 16)), (256, 256, (256, 256, 16, 16))],
)
def test_validation_resizes_the_shorter_side_and_takes_the_centre(height, width, expected):
    crop = resize_and_center_crop(224, resize_size=256)(np.random.default_rng(0), height, width)
    assert crop[:4] == (0, 0, height, width)
    assert crop[4:8] == expected
    assert not crop.flip


def test_an_images_random_numbers_depend_on_seed_epoch_and_index_alone():
    def numbers(*key: int) -> list[float]:
        return generator_for(*key).random(4).tolist()

    assert numbers(1, 2, 3) == numbers(1, 2, 3)
    assert len({tuple(numbers(*key)) for key in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4)]}) == 4
