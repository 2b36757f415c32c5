"""DALI and torchvision are held against each other; each image is the same wherever and whenever it is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_sq.data.crop import random_resized_crop, resize_and_center_crop
from lightning_sq.data.index import load_index
from lightning_sq.data.loader import Dataset, make_loader, read_all
from lightning_sq.data.order import EpochOrder
from lightning_sq.errors import InputError
from lightning_sq.types import PADDING_INDEX

SIZE = 64
LARGEST_DIFFERENCE = 2.01 / 255
"""PIL rounds to 8 bits between its two passes, DALI does not: two steps at most, seen where a window is enlarged."""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """23 smooth colour images of many shapes, two classes; one grey, one with an EXIF rotation."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for i in range(23):
        height, width = rng.integers(120, 220, 2).tolist()
        coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        if i == 5:
            exif[0x0112] = 6
        path = folder / ("ant" if i < 11 else "bee") / f"{i:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        (image.convert("L") if i == 3 else image).save(path, quality=92, exif=exif)
    return folder


def loader(
    folder, tmp_path_factory, backend: str, *, train: bool, batch_size: int = 8, rank: int = 0, world_size: int = 1
):
    index = load_index(folder, cache=tmp_path_factory.getbasetemp() / "indexes")
    rule = random_resized_crop(SIZE) if train else resize_and_center_crop(SIZE, resize_size=72)
    order = EpochOrder(len(index), batch_size, world_size, rank, train, train, seed=3)
    return make_loader(
        Dataset(index, rule, SIZE, seed=3), order, backend=backend, num_threads=2 if backend == "dali" else 0
    )


@pytest.mark.parametrize("train", [True, False])
def test_dali_and_torchvision_give_the_same_images(photographs, tmp_path_factory, train):
    dali = loader(photographs, tmp_path_factory, "dali", train=train)
    torchvision = loader(photographs, tmp_path_factory, "torchvision", train=train)
    batches = 0
    for ours, theirs in zip(dali, torchvision, strict=True):
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.indices, theirs.indices)
        assert ours.images.shape == (8, 3, SIZE, SIZE)
        difference = (ours.images - theirs.images).abs()
        assert difference.max() <= LARGEST_DIFFERENCE
        assert difference.mean() <= 0.3 / 255
        batches += 1
    assert batches == 3


@pytest.mark.parametrize("backend", ["dali", "torchvision"])
def test_pixels_lie_in_the_unit_interval_and_use_it(photographs, tmp_path_factory, backend):
    images, labels = read_all(loader(photographs, tmp_path_factory, backend, train=False))
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert 0.9 < images.max() <= 1.0
    assert labels.tolist() == [0] * 11 + [1] * 12


def test_an_epoch_can_be_left_and_begun_again(photographs, tmp_path_factory):
    dali = loader(photographs, tmp_path_factory, "dali", train=True)
    whole = [batch.images for batch in dali]
    for kept in (0, 1, 2):
        for number, batch in enumerate(dali):
            assert torch.equal(batch.images, whole[number])
            if number == kept:
                break
    assert all(torch.equal(a.images, b) for a, b in zip(dali, whole, strict=True))


@pytest.mark.parametrize("backend", ["dali", "torchvision"])
def test_a_loader_goes_on_at_the_batch_that_would_have_come(photographs, tmp_path_factory, backend):
    first = loader(photographs, tmp_path_factory, backend, train=True)
    first.set_epoch(4)
    iterator = iter(first)
    next(iterator)
    state = first.state_dict()
    expected = list(iterator)
    second = loader(photographs, tmp_path_factory, backend, train=True)
    second.load_state_dict(state)
    second.set_epoch(4)  # as Lightning does
    for ours, theirs in zip(second, expected, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.indices, theirs.indices)
    second.set_epoch(5)
    assert len(list(second)) == 3


def test_a_position_among_other_batches_starts_its_epoch_again(photographs, tmp_path_factory):
    first = loader(photographs, tmp_path_factory, "torchvision", train=True)
    next(iter(first))
    second = loader(photographs, tmp_path_factory, "torchvision", train=True, batch_size=4)
    second.load_state_dict(first.state_dict())
    assert len(list(second)) == len(second)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_together_read_each_validation_image_once(photographs, tmp_path_factory, world_size):
    seen, pixels = [], {}
    for rank in range(world_size):
        for batch in loader(
            photographs, tmp_path_factory, "dali", train=False, batch_size=5, rank=rank, world_size=world_size
        ):
            for index, image in zip(batch.indices[batch.valid].tolist(), batch.images[batch.valid], strict=True):
                seen.append(index)
                pixels[index] = image
    assert sorted(seen) == list(range(23))
    alone, _ = read_all(loader(photographs, tmp_path_factory, "dali", train=False))
    assert torch.equal(torch.stack([pixels[i] for i in range(23)]), alone)


def test_crops_and_order_are_new_every_epoch(photographs, tmp_path_factory):
    dali = loader(photographs, tmp_path_factory, "dali", train=True)
    epochs = []
    for epoch in range(2):
        dali.set_epoch(epoch)
        images = {}
        for batch in dali:
            images |= dict(zip(batch.indices.tolist(), batch.images, strict=True))
        epochs.append(images)
    assert list(epochs[0]) != list(epochs[1])
    assert sum(torch.equal(epochs[0][i], epochs[1][i]) for i in range(23)) == 0


@pytest.mark.parametrize("backend", ["dali", "torchvision"])
def test_a_file_that_goes_bad_later_is_named(photographs, tmp_path_factory, tmp_path, backend):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(photographs, folder)
    spoilt = loader(folder, tmp_path_factory, backend, train=False)
    (folder / "bee/17.jpg").write_bytes(b"no longer an image")
    with pytest.raises(InputError, match=r"bee/17\.jpg"):
        list(spoilt)


def test_padding_is_marked(photographs, tmp_path_factory):
    last = list(loader(photographs, tmp_path_factory, "dali", train=False, batch_size=10))[-1]
    assert last.indices.tolist() == [20, 21, 22] + [PADDING_INDEX] * 7
    assert last.valid.sum() == 3
