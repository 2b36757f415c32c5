from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from lightning_sq.data.crop import generator_for, random_resized_crop, resize_and_center_crop
from lightning_sq.errors import InputError


@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 1000))
def test_a_training_window_lies_inside_the_image(height, width, seed):
    crop = random_resized_crop(224)(np.random.default_rng(seed), height, width)
    assert 0 <= crop.top < crop.top + crop.height <= height
    assert 0 <= crop.left < crop.left + crop.width <= width
    assert (crop.box_top, crop.box_left, crop.box_bottom, crop.box_right) == (0, 0, crop.height, crop.width)


def test_training_windows_have_the_area_and_shape_that_was_asked_for():
    rule = random_resized_crop(64, min_crop_area=0.25, flip_probability=0.3)
    crops = [rule(np.random.default_rng(seed), 400, 500) for seed in range(4000)]
    areas = np.array([c.height * c.width / 200_000 for c in crops])
    ratios = np.array([c.width / c.height for c in crops])
    assert areas.min() >= 0.245
    assert areas.max() <= 1.0
    assert ratios.min() >= 0.74
    assert ratios.max() <= 1.35
    assert np.mean([c.flip for c in crops]) == pytest.approx(0.3, abs=0.03)


def test_training_windows_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    height, width, area = 400, 500, (0.25, 1.0)
    rule, image = random_resized_crop(64, min_crop_area=area[0]), torch.zeros(3, height, width)
    ours = [rule(np.random.default_rng(seed), height, width) for seed in range(4000)]
    theirs = [v2.RandomResizedCrop(64, scale=area).make_params([image]) for _ in range(4000)]

    def moments(windows):
        """Of the area, of the logarithm of the shape, and of the place in the room that there is."""
        top, left, h, w = np.array(windows, dtype=float).T
        values = [h * w / (height * width), np.log(w / h)]
        values += [start[room > 0] / room[room > 0] for start, room in ((top, height - h), (left, width - w))]
        return [moment for value in values for moment in (value.mean(), value.std())]

    expected = moments([(p["top"], p["left"], p["height"], p["width"]) for p in theirs])
    assert moments([(c.top, c.left, c.height, c.width) for c in ours]) == pytest.approx(expected, abs=0.02)


def test_seeds_that_differ_in_their_last_bit_alone_cut_otherwise():
    drawn = [generator_for(seed, 0, 0).random() for seed in (0, 1, 2**63, 2**63 + 1, 2**64 - 1)]
    assert len(set(drawn)) == len(drawn)


def test_a_very_long_image_gets_its_largest_centred_window():
    crop = random_resized_crop(32)(np.random.default_rng(0), 10, 1000)
    assert (crop.height, crop.width, crop.top, crop.left) == (10, 13, 0, 493)


@pytest.mark.parametrize(
    ("height", "width", "resized", "offset"),
    [
        (375, 500, (256, 341), (16, 58)),
        (500, 375, (341, 256), (58, 16)),
        (256, 256, (256, 256), (16, 16)),
        (40, 30, (341, 256), (58, 16)),
    ],
)
def test_validation_shows_the_centre_of_the_image_resized_by_its_shorter_side(height, width, resized, offset):
    crop = resize_and_center_crop(224, resize_size=256)(np.random.default_rng(0), height, width)
    scales = height / resized[0], width / resized[1]
    assert crop.top + crop.box_top == pytest.approx(offset[0] * scales[0])
    assert crop.left + crop.box_left == pytest.approx(offset[1] * scales[1])
    assert crop.top + crop.box_bottom == pytest.approx((offset[0] + 224) * scales[0])
    assert crop.left + crop.box_right == pytest.approx((offset[1] + 224) * scales[1])
    assert not crop.flip


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 40))
def test_a_validation_window_holds_all_that_its_box_shows_and_the_filter_reaches(height, width, image_size):
    resize_size = round(image_size * 8 / 7)
    crop = resize_and_center_crop(image_size, resize_size=resize_size)(np.random.default_rng(0), height, width)
    for first, count, start, end, length in (
        (crop.top, crop.height, crop.box_top, crop.box_bottom, height),
        (crop.left, crop.width, crop.box_left, crop.box_right, width),
    ):
        reach = max(1, (end - start) / image_size)
        assert 0 <= first <= first + count <= length
        assert 0 <= start < end <= count
        assert first == 0 or start >= reach
        assert first + count == length or count - end >= reach


def test_a_very_long_validation_image_costs_no_more_than_what_is_shown():
    for shape in [(1, 20_000), (20_000, 1), (2, 60_000)]:
        crop = resize_and_center_crop(224, resize_size=256)(np.random.default_rng(0), *shape)
        assert crop.height * crop.width <= 2 * 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size=0 is not at least 1"),
        ({"image_size": 8, "min_crop_area": 0.0}, r"min_crop_area=0.0 is not in \(0, 1\]"),
        ({"image_size": 8, "min_crop_area": 1.5}, r"min_crop_area=1.5"),
        ({"image_size": 8, "min_crop_area": float("nan")}, r"min_crop_area=nan"),
        ({"image_size": 8, "flip_probability": -0.1}, r"flip_probability=-0.1 is not in \[0, 1\]"),
        ({"image_size": 8, "flip_probability": 2.0}, r"flip_probability=2.0"),
    ],
)
def test_a_crop_that_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        random_resized_crop(**options)


def test_a_square_larger_than_what_it_is_cut_from_is_refused():
    with pytest.raises(InputError, match="resize_size=30 is smaller than image_size=32"):
        resize_and_center_crop(32, resize_size=30)
    with pytest.raises(InputError, match="image_size=0"):
        resize_and_center_crop(0, resize_size=0)


def test_an_images_random_numbers_depend_on_seed_epoch_and_index_alone():
    def numbers(*key: int) -> list[float]:
        return generator_for(*key).random(4).tolist()

    assert numbers(1, 2, 3) == numbers(1, 2, 3)
    assert len({tuple(numbers(*key)) for key in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4)]}) == 4
