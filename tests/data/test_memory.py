"""Images kept in memory: the pixels of the other backends, shifts that are the same wherever an image is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_sq.data import memory
from lightning_sq.data.backends import make_loader, read_all
from lightning_sq.data.crop import RandomShift, resize_and_center_crop
from lightning_sq.data.datamodule import ImageFolderData
from lightning_sq.data.index import load_index
from lightning_sq.data.loader import Dataset
from lightning_sq.data.memory import MemoryLoader
from lightning_sq.data.order import EpochOrder
from lightning_sq.data.torch_loader import decode
from lightning_sq.errors import InputError
from lightning_sq.types import PADDING_INDEX
from tests.data.kinds import HEIGHT, write_kinds

SIZE, COUNT, SEED = 12, 23, 3
ONE_LEVEL, ONE_BIT = 1.01 / 255, 2**-23  # DALI multiplies by 1 / 255, the others divide


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """23 images of noise in two classes, grey and colour by turns; no pixel is black."""
    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        pixels = rng.integers(1, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        path = folder / ("ant" if i < 11 else "bee") / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels if i % 2 else pixels[..., 0]).save(path)
    return folder


def loader(
    folder: Path,
    rule=None,
    *,
    backend: str = "memory",
    channels: int = 3,
    train: bool = False,
    rank: int = 0,
    world_size: int = 1,
    repeats: int = 1,
):
    rule = rule or (RandomShift() if backend == "memory" else resize_and_center_crop(SIZE, resize_size=SIZE))
    index = load_index(folder, cache=folder.parent / "indexes")
    order = EpochOrder(len(index), 4, world_size, rank, train, train, seed=SEED, repeats=repeats)
    return make_loader(Dataset(index, rule, SIZE, SEED, channels), order, backend=backend, num_threads=1)


def by_index(batches) -> dict[int, torch.Tensor]:
    return {i: x for b in batches for i, x in zip(b.indices.tolist(), b.images, strict=True) if i != PADDING_INDEX}


@pytest.mark.parametrize("channels", [1, 3])
def test_all_backends_give_the_same_pixels_but_for_the_rounding_of_colour_to_grey(small, channels):
    loaders = (loader(small, backend=backend, channels=channels) for backend in ("memory", "torchvision", "dali"))
    for kept, torchvision, dali in zip(*loaders, strict=True):
        assert kept.images.shape == (4, channels, SIZE, SIZE)
        assert kept.images.dtype == torch.float32
        for batch in (torchvision, dali):
            assert torch.equal(kept.labels, batch.labels)
            assert torch.equal(kept.indices, batch.indices)
        assert torch.equal(kept.images, torchvision.images)
        difference = (kept.images - dali.images).abs()
        assert difference[kept.indices % 2 == 0].max() <= ONE_BIT  # stored in grey
        assert difference.max() <= (ONE_LEVEL if channels == 1 else ONE_BIT)


def test_every_kind_of_file_is_the_same_grey_image_to_both_decoders(tmp_path):
    write_kinds(tmp_path / "kinds/ant")
    index = load_index(tmp_path / "kinds", cache=tmp_path)
    dataset = Dataset(index, resize_and_center_crop(HEIGHT, resize_size=HEIGHT), HEIGHT, channels=1)
    dali, torchvision = (
        read_all(make_loader(dataset, EpochOrder(len(index), 8), backend=backend, num_threads=1))[0]
        for backend in ("dali", "torchvision")
    )
    worst = dict(zip(index.paths, (dali - torchvision).abs().amax(dim=(1, 2, 3)).tolist(), strict=True))
    assert {path: difference for path, difference in worst.items() if difference > ONE_LEVEL} == {}
    for name in ("grey.png", "grey.jpg", "rgb.jpg", "black_and_white.png"):
        assert worst[f"ant/{name}"] <= ONE_BIT


def test_a_shift_moves_the_image_over_black_and_a_flip_mirrors_what_is_seen(small):
    rule = RandomShift(max_shift=3, flip_probability=0.5)
    stored = by_index(loader(small))
    for epoch in range(3):
        shifted = loader(small, rule, train=True)
        shifted.set_epoch(epoch)
        draws = rule.of_epoch(SEED, epoch, COUNT)
        for i, image in by_index(shifted).items():
            around = torch.zeros(3, SIZE + 6, SIZE + 6)
            around[:, 3 : 3 + SIZE, 3 : 3 + SIZE] = stored[i]
            seen = around[:, draws.top[i] : draws.top[i] + SIZE, draws.left[i] : draws.left[i] + SIZE]
            assert torch.equal(image, seen.flip(-1) if draws.flip[i] else seen)


def test_shifts_and_flips_are_drawn_as_asked_and_anew_each_epoch():
    rule = RandomShift(max_shift=2, flip_probability=0.3)
    draws = rule.of_epoch(0, 0, 20_000)
    for along in (draws.top, draws.left):
        assert np.bincount(along, minlength=5) / 20_000 == pytest.approx([0.2] * 5, abs=0.015)
    assert np.corrcoef(draws.top, draws.left)[0, 1] == pytest.approx(0, abs=0.03)
    assert draws.flip.mean() == pytest.approx(0.3, abs=0.015)
    again = rule.of_epoch(0, 0, 20_000)
    assert all(np.array_equal(a, b) for a, b in zip(draws, again, strict=True))
    for other in (rule.of_epoch(0, 1, 20_000), rule.of_epoch(1, 0, 20_000)):
        assert (draws.top == other.top).mean() == pytest.approx(0.2, abs=0.015)


def test_the_last_epochs_are_not_shifted_where_that_is_asked_and_flips_go_on(small):
    rule, always = RandomShift(2, 0.5, shift_epochs=2), RandomShift(2, 0.5)
    for epoch in (0, 1):
        assert np.array_equal(rule.of_epoch(0, epoch, COUNT), always.of_epoch(0, epoch, COUNT))
    last = rule.of_epoch(0, 2, COUNT)
    assert set(last.top) == set(last.left) == {2}
    assert np.array_equal(last.flip, always.of_epoch(0, 2, COUNT).flip)
    stored, unshifted = by_index(loader(small)), loader(small, RandomShift(2, shift_epochs=2), train=True)
    unshifted.set_epoch(2)
    assert all(torch.equal(image, stored[i]) for i, image in by_index(unshifted).items())


@pytest.mark.parametrize("rule", [RandomShift(2, 0.5), RandomShift(0, 0.5), RandomShift(2), RandomShift()])
def test_an_image_of_an_epoch_is_the_same_on_any_rank_of_any_world(small, rule):
    alone = loader(small, rule, train=True)
    alone.set_epoch(5)
    expected = by_index(alone)
    assert sorted(expected) == list(range(COUNT))
    for world_size in (2, 3):
        seen = {}
        for rank in range(world_size):
            share = loader(small, rule, train=True, rank=rank, world_size=world_size)
            share.set_epoch(5)
            seen |= by_index(share)
        assert sorted(seen) == sorted(expected)
        assert all(torch.equal(seen[i], expected[i]) for i in expected)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_together_validate_each_image_once_and_padding_is_masked(small, world_size):
    batches = [b for rank in range(world_size) for b in loader(small, rank=rank, world_size=world_size)]
    assert sorted(i for b in batches for i in b.indices[b.valid].tolist()) == list(range(COUNT))
    assert {len(b.images) for b in batches} == {4}
    assert all((b.labels[~b.valid] == 0).all() for b in batches)
    assert sum((~b.valid).sum().item() for b in batches) == len(batches) * 4 - COUNT > 0


def test_a_loader_goes_on_at_the_batch_that_would_have_come(small):
    first = loader(small, RandomShift(2, 0.5), train=True)
    first.set_epoch(4)
    iterator = iter(first)
    next(iterator), next(iterator)
    state = first.state_dict()
    expected = list(iterator)
    second = loader(small, RandomShift(2, 0.5), train=True)
    second.load_state_dict(state)
    second.set_epoch(4)  # as Lightning does
    for ours, theirs in zip(second, expected, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.indices, theirs.indices)
    second.set_epoch(5)
    assert len(list(second)) == len(second) == 6


def test_a_batch_that_comes_again_is_the_same_batch(small):
    batches = list(loader(small, RandomShift(2, 0.5), train=True, repeats=2))
    assert len(batches) == 12
    for first, again in zip(batches[::2], batches[1::2], strict=True):
        assert torch.equal(first.images, again.images)


def test_what_is_done_to_a_batch_is_not_done_to_what_is_kept(small):
    kept = loader(small)
    next(iter(kept)).images.zero_()
    assert next(iter(kept)).images.min() > 0


def test_a_loader_takes_nothing_from_the_random_numbers_that_dropout_draws_from(small):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    list(loader(small, RandomShift(2, 0.5), train=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_image_of_another_size_is_named_with_what_to_do(small, tmp_path):
    shutil.copytree(small, tmp_path / "copy")
    Image.new("L", (SIZE, SIZE + 1)).save(tmp_path / "copy/bee/15.png")
    with pytest.raises(InputError, match=r"bee/15\.png is 13 x 12 pixels, and backend=memory takes .*image_size=12"):
        loader(tmp_path / "copy")


def test_a_file_that_goes_bad_after_it_was_indexed_is_named(small, tmp_path):
    shutil.copytree(small, tmp_path / "copy")
    index = load_index(tmp_path / "copy", cache=tmp_path / "indexes")
    (tmp_path / "copy/bee/15.png").write_bytes(b"no longer an image")
    with pytest.raises(InputError, match=r"bee/15\.png cannot be decoded") as refused:
        make_loader(Dataset(index, RandomShift(), SIZE), EpochOrder(COUNT, 4), backend="memory", num_threads=2)
    assert "\n" not in str(refused.value)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_SQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/decoded"


def test_what_was_decoded_once_is_read_again_until_a_file_or_what_is_asked_changes(small, tmp_path, cache, monkeypatch):
    shutil.copytree(small, tmp_path / "copy")
    decoded = []
    monkeypatch.setattr(memory, "decode", lambda dataset, i, data: decoded.append(i) or decode(dataset, i, data))
    first = by_index(loader(tmp_path / "copy"))
    assert len(decoded) == COUNT
    again = by_index(loader(tmp_path / "copy"))
    assert len(decoded) == COUNT
    assert all(torch.equal(first[i], again[i]) for i in first)
    assert next(iter(loader(tmp_path / "copy", channels=1))).images.shape[1] == 1
    assert len(decoded) == 2 * COUNT
    assert len(list(cache.iterdir())) == 2
    Image.new("RGB", (SIZE, SIZE), (9, 9, 9)).save(tmp_path / "copy/bee/15.png")
    changed = by_index(loader(tmp_path / "copy"))
    assert (changed[15] * 255).unique().tolist() == [9]
    assert len(decoded) == 3 * COUNT
    assert len(list(cache.iterdir())) == 2  # in the place of the old ones


def test_a_damaged_cache_is_as_none_and_one_that_cannot_be_written_costs_only_time(small, tmp_path, cache, monkeypatch):
    first = by_index(loader(small))
    (kept,) = cache.iterdir()
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    assert all(torch.equal(image, first[i]) for i, image in by_index(loader(small)).items())
    (tmp_path / "file").touch()
    monkeypatch.setenv("LIGHTNING_SQ_CACHE", str(tmp_path / "file"))
    with pytest.warns(
        UserWarning, match="Nothing can be kept in .*so every run decodes the images.*Set LIGHTNING_SQ_CACHE"
    ):
        blocked = by_index(loader(small))
    assert all(torch.equal(image, first[i]) for i, image in blocked.items())


def test_many_images_are_not_kept(small, cache, monkeypatch):
    monkeypatch.setattr(memory, "MAX_KEPT_BYTES", COUNT * 3 * SIZE**2 - 1)
    loader(small)
    assert not cache.exists()


def test_rules_and_loaders_that_do_not_go_together_are_refused(small):
    cropped = loader(small, backend="torchvision")
    with pytest.raises(InputError, match="backend=memory shifts images and does not resize them"):
        MemoryLoader(cropped.dataset, cropped.order, torch.zeros(COUNT, 3, SIZE, SIZE, dtype=torch.uint8))
    shifted = Dataset(cropped.dataset.index, RandomShift(), SIZE)
    with pytest.raises(InputError, match="Shifted images are cut in memory"):
        shifted.crop(0, 0)
    with pytest.raises(InputError, match="channels=2"):
        loader(small, channels=2)


@pytest.fixture(scope="module")
def split(small, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    for name in ("train", "val"):
        shutil.copytree(small, folder / name)
    return folder


def data(folder: Path, **options) -> ImageFolderData:
    return ImageFolderData(**{"root": str(folder), "backend": "memory", "image_size": SIZE} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size=0"),
        ({"image_size": 65}, "up to 64 pixels a side, and image_size=65"),
        ({"resize_size": 14}, "resize_size=14. Set --data.resize_size 12"),
        ({"max_shift": -1}, "max_shift=-1 is negative"),
        ({"max_shift": 1, "shift_epochs": -1}, "shift_epochs=-1 is negative"),
        ({"max_shift": 12}, "max_shift=12 would move images of 12 pixels out of sight"),
        ({"max_shift": 1, "backend": "dali"}, "max_shift=1 is done by backend=memory alone, and backend=dali"),
        ({"flip_probability": -0.1}, "flip_probability=-0.1"),
        ({"num_threads": 0}, "num_threads=0"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_any_file_is_looked_at(options, message):
    with pytest.raises(InputError, match=message) as refused:
        data(Path("nowhere"), **options)
    assert "\n" not in str(refused.value)


def test_training_is_shifted_and_flipped_and_validation_is_as_stored(split):
    module = data(split, max_shift=2, channels=1)
    assert module.resize_size == SIZE
    stored = by_index(loader(split / "val", channels=1))
    validation, training = by_index(module.loader("val")), by_index(module.loader("train"))
    assert all(torch.equal(validation[i], stored[i]) for i in stored)
    assert sum(not torch.equal(training[i], stored[i]) for i in stored) > COUNT // 2
    assert next(iter(module.loader("train"))).images.shape == (32, 1, SIZE, SIZE)
    flipped = by_index(data(split, channels=1).loader("train"))  # without shifts
    mirrored = {i for i in stored if torch.equal(flipped[i], stored[i].flip(-1))}
    assert 0 < len(mirrored) < COUNT
    assert all(torch.equal(flipped[i], stored[i]) for i in stored.keys() - mirrored)
