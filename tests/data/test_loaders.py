"""DALI and torchvision are held against each other; each image is the same wherever and whenever it is read."""

from __future__ import annotations

import errno
import gc
import inspect
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from nvidia.dali import fn
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from lightning_sq.data.backends import make_loader, read_all
from lightning_sq.data.crop import random_resized_crop, resize_and_center_crop
from lightning_sq.data.dali import PREFETCH, DaliLoader, decoder_options
from lightning_sq.data.index import load_index
from lightning_sq.data.loader import Dataset
from lightning_sq.data.order import EpochOrder
from lightning_sq.errors import InputError
from lightning_sq.types import PADDING_INDEX
from tests.data.kinds import write_kinds

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


def fail(number: int):
    raise OSError(number, os.strerror(number))


def loader(
    folder,
    tmp_path_factory,
    backend: str,
    *,
    train: bool,
    batch_size: int = 8,
    rank: int = 0,
    world_size: int = 1,
    num_threads: int | None = None,
):
    index = load_index(folder, cache=tmp_path_factory.getbasetemp() / "indexes")
    rule = random_resized_crop(SIZE) if train else resize_and_center_crop(SIZE, resize_size=72)
    order = EpochOrder(len(index), batch_size, world_size, rank, train, train, seed=3)
    threads = (2 if backend == "dali" else 0) if num_threads is None else num_threads
    return make_loader(Dataset(index, rule, SIZE, seed=3), order, backend=backend, num_threads=threads)


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


@pytest.mark.parametrize("train", [True, False])
def test_a_pipeline_that_finishes_its_images_as_on_a_gpu_gives_those_that_are_finished_behind_it(
    photographs, tmp_path_factory, monkeypatch, train
):
    behind = read_all(loader(photographs, tmp_path_factory, "dali", train=train))[0]
    monkeypatch.setattr(DaliLoader, "_finishes", True)
    within = read_all(loader(photographs, tmp_path_factory, "dali", train=train))[0]
    difference = (within - behind).abs()
    assert 0 < difference.max() <= LARGEST_DIFFERENCE
    assert difference.mean() <= 0.3 / 255


@pytest.mark.parametrize("finishes", [False, True], ids=["cut behind the pipeline", "finished within"])
def test_what_dali_reads_in_place_is_bit_for_bit_what_it_would_copy(
    photographs, tmp_path_factory, monkeypatch, finishes
):
    monkeypatch.setattr(DaliLoader, "_finishes", finishes)
    external_source, asked = fn.external_source, []

    def images(**changed):
        def source(**options):
            asked.append(options["no_copy"])
            return external_source(**options | changed)

        monkeypatch.setattr(fn, "external_source", source)
        dali = loader(photographs, tmp_path_factory, "dali", train=True, batch_size=4)
        found = []
        for epoch in range(2):
            dali.set_epoch(epoch)
            found += [batch.images.clone() for batch in dali]
        return found

    in_place, copied = images(), images(no_copy=False)
    assert asked == [True, True]
    assert len(in_place) == 12
    assert all(map(torch.equal, in_place, copied))


@pytest.mark.parametrize("finishes", [False, True], ids=["cut behind the pipeline", "finished within"])
def test_what_dali_reads_in_place_is_kept_until_its_batch_has_come_out(
    photographs, tmp_path_factory, monkeypatch, finishes
):
    monkeypatch.setattr(DaliLoader, "_finishes", finishes)
    columns, run, fed, kept = DaliLoader._columns, DaliLoader._run, [], []

    def noted_columns(self, samples):
        made = columns(self, samples)
        fed.append([weakref.ref(array) for column in made for array in (column if type(column) is list else [column])])
        return made

    def noted_run(self):
        outputs = run(self)
        kept.append([all(array() is not None for array in batch) for batch in fed])
        return outputs

    monkeypatch.setattr(DaliLoader, "_columns", noted_columns)
    monkeypatch.setattr(DaliLoader, "_run", noted_run)
    for batch in loader(photographs, tmp_path_factory, "dali", train=True, batch_size=4):
        del batch
    assert len(kept) == len(fed) == 6
    for number, batches in enumerate(kept):  # when batch `number` has come out, and is not yet taken
        assert batches == [False] * number + [True] * (len(batches) - number)
        assert len(batches) == min(number + PREFETCH, 6)


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
def test_a_loader_takes_nothing_from_the_random_numbers_that_dropout_draws_from(photographs, tmp_path_factory, backend):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    list(loader(photographs, tmp_path_factory, backend, train=True))
    assert torch.equal(torch.get_rng_state(), state)


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


def test_a_position_that_was_put_back_can_be_saved_again_before_its_first_batch(photographs, tmp_path_factory):
    first = loader(photographs, tmp_path_factory, "torchvision", train=True)
    next(iter(first))
    state = first.state_dict()
    second = loader(photographs, tmp_path_factory, "torchvision", train=True)
    second.load_state_dict(state)
    assert second.state_dict() == state
    second.set_epoch(1)
    assert second.state_dict() == state | {"epoch": 1, "batches_taken": 0}


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
    folder = tmp_path / "copy"
    shutil.copytree(photographs, folder)
    spoilt = loader(folder, tmp_path_factory, backend, train=False)
    (folder / "bee/17.jpg").write_bytes(b"no longer an image")
    with pytest.raises(InputError, match=r"bee/17\.jpg"):
        list(spoilt)


@pytest.mark.parametrize("backend", ["dali", "torchvision"])
@pytest.mark.parametrize("number", [None, errno.ENOENT, errno.EIO], ids=["damaged", "gone", "disk"])
def test_behind_a_file_that_went_bad_the_next_epoch_is_whole(
    photographs, tmp_path_factory, tmp_path, monkeypatch, backend, number
):
    shutil.copytree(photographs, tmp_path / "copy")
    spoilt = loader(tmp_path / "copy", tmp_path_factory, backend, train=False, batch_size=4)
    expected, path, read = list(spoilt), tmp_path / "copy/bee/17.jpg", type(spoilt.dataset.index).read
    content = path.read_bytes()
    with monkeypatch.context() as patch:
        if number is None:
            path.write_bytes(b"no longer an image")
        else:
            patch.setattr(
                type(spoilt.dataset.index), "read", lambda index, i: fail(number) if i == 17 else read(index, i)
            )
        with pytest.raises((InputError, OSError), match=r"bee/17\.jpg"):
            list(spoilt)
    path.write_bytes(content)
    for ours, theirs in zip(spoilt, expected, strict=True):
        assert torch.equal(ours.indices, theirs.indices)
        assert torch.equal(ours.images, theirs.images)


@pytest.mark.parametrize(("backend", "num_threads"), [("dali", 2), ("torchvision", 0), ("torchvision", 1)])
@pytest.mark.parametrize(
    ("number", "raised"),
    [(errno.ENOENT, InputError), (errno.EACCES, InputError), (errno.EIO, OSError), (errno.ESTALE, OSError)],
    ids=["gone", "forbidden", "disk", "network"],
)
def test_a_disk_that_fails_is_no_mistake_of_whoever_started_the_run(
    photographs, tmp_path_factory, monkeypatch, backend, num_threads, number, raised
):
    made = loader(photographs, tmp_path_factory, backend, train=False, num_threads=num_threads)
    monkeypatch.setattr(type(made.dataset.index), "read", lambda index, i: fail(number))
    with pytest.raises(raised, match=r"ant/00\.jpg") as found:
        next(iter(made))
    assert os.strerror(number) in str(found.value)
    assert raised is InputError or (found.value.errno, "ant/00.jpg" in found.value.filename) == (number, True)


@pytest.mark.parametrize("num_threads", [0, 1])
def test_what_was_read_for_the_last_batch_counts_too(photographs, tmp_path_factory, num_threads):
    whole = loader(photographs, tmp_path_factory, "torchvision", train=False, batch_size=100, num_threads=num_threads)
    assert len(list(whole)) == 1
    assert 0 < whole.waited_for_reader < whole.waited


def test_workers_name_a_bad_file_in_one_sentence(photographs, tmp_path):
    shutil.copytree(photographs, tmp_path / "copy")
    index = load_index(tmp_path / "copy", cache=tmp_path)
    dataset = Dataset(index, random_resized_crop(SIZE), SIZE)
    spoilt = make_loader(dataset, EpochOrder(len(index), 8), backend="torchvision", num_threads=1)
    (tmp_path / "copy/bee/17.jpg").write_bytes(b"no longer an image")
    with pytest.raises(InputError, match=r"bee/17\.jpg cannot be decoded \(not an image\).*restart_epoch") as caught:
        list(spoilt)
    assert "\n" not in str(caught.value)


READS_WITH_A_WORKER = """
import multiprocessing, sys
from pathlib import Path
from lightning_sq.data.backends import make_loader
from lightning_sq.data.crop import random_resized_crop
from lightning_sq.data.index import load_index
from lightning_sq.data.loader import Dataset
from lightning_sq.data.order import EpochOrder
multiprocessing.set_start_method(sys.argv[1])
index = load_index(Path(sys.argv[2]))
dataset = Dataset(index, random_resized_crop(16), 16)
print(len(list(make_loader(dataset, EpochOrder(len(index), 8), backend="torchvision", num_threads=1))))
"""


LEFT_IN_THE_MIDDLE = (
    READS_WITH_A_WORKER.rpartition("print")[0]
    + """
loader = make_loader(dataset, EpochOrder(len(index), 2), backend="torchvision", num_threads=1)
sys.modules["kept"] = batches = iter(loader)
next(batches)
print("left")
"""
)


def test_a_process_that_ends_in_the_middle_of_an_epoch_does_not_wait_for_its_workers(photographs):
    words = [sys.executable, "-c", LEFT_IN_THE_MIDDLE, "fork", str(photographs)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.returncode) == ("left\n", 0), done.stderr


def test_workers_are_forked_where_python_would_start_them_otherwise(photographs):
    words = [sys.executable, "-c", READS_WITH_A_WORKER, "forkserver", str(photographs)]  # Python 3.14's way
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout == "3\n", done.stderr


@pytest.mark.parametrize("backend", ["dali", "torchvision"])
def test_a_file_replaced_by_a_smaller_image_is_named(photographs, tmp_path, tmp_path_factory, backend):
    shutil.copytree(photographs, tmp_path / "copy")
    changed = loader(tmp_path / "copy", tmp_path_factory, backend, train=False)
    Image.new("RGB", (9, 9)).save(tmp_path / "copy/bee/12.jpg")
    with pytest.raises(InputError, match=r"bee/12\.jpg"):
        list(changed)


def test_a_file_that_only_dali_refuses_is_named_with_its_reason(photographs, tmp_path, tmp_path_factory, monkeypatch):
    shutil.copytree(photographs, tmp_path / "copy")
    Image.new("RGB", (200, 150)).save(tmp_path / "copy/ant/02.jpg", format="GIF")
    monkeypatch.setattr("lightning_sq.data.inspection._check_alike", lambda image: None)
    with pytest.raises(InputError, match=r"ant/02\.jpg cannot be decoded \(DALI: .*\)\. Mend it, and resume"):
        list(loader(tmp_path / "copy", tmp_path_factory, "dali", train=False))


def test_a_file_that_spoils_the_rest_of_an_epoch_that_was_left_is_named_too(photographs, tmp_path, tmp_path_factory):
    shutil.copytree(photographs, tmp_path / "copy")
    left = loader(tmp_path / "copy", tmp_path_factory, "dali", train=False)
    (tmp_path / "copy/bee/12.jpg").write_bytes(b"no longer an image")
    next(iter(left))
    left.set_epoch(1)
    with pytest.raises(InputError, match=r"bee/12\.jpg cannot be decoded"):
        next(iter(left))


def test_every_kind_of_file_that_the_index_accepts_is_the_same_image_to_both_backends(tmp_path, tmp_path_factory):
    written = write_kinds(tmp_path / "kinds/ant")
    index = load_index(tmp_path / "kinds", cache=tmp_path)
    refused = {Path(item.path).name: item.reason for item in index.unreadable}
    assert refused.keys() == {name for name in written if name.startswith("no_")}
    assert all("convert it to JPEG" in reason for reason in refused.values())
    assert refused["no_gif.jpg"].startswith("a GIF: ")
    assert refused["no_avif.jpg"].startswith("an AVIF: ")
    images = [
        read_all(loader(tmp_path / "kinds", tmp_path_factory, backend, train=False))[0]
        for backend in ("dali", "torchvision")
    ]
    difference = (images[0] - images[1]).abs().amax(dim=(1, 2, 3))
    assert [path for path, worst in zip(index.paths, difference, strict=True) if worst > LARGEST_DIFFERENCE] == []


def test_a_very_long_image_is_the_same_to_both_backends(tmp_path, tmp_path_factory):
    (tmp_path / "long/ant").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20_000, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "long/ant/wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "long/ant/tall.png")
    images = [
        read_all(loader(tmp_path / "long", tmp_path_factory, backend, train=False))[0]
        for backend in ("dali", "torchvision")
    ]
    assert images[0].shape == (2, 3, SIZE, SIZE)
    assert (images[0] - images[1]).abs().max() <= LARGEST_DIFFERENCE


def test_the_validation_crop_is_torchvisions_resize_and_centre_crop(photographs, tmp_path_factory):
    ours = loader(photographs, tmp_path_factory, "torchvision", train=False)
    images, _ = read_all(ours)
    for path, image in zip(ours.dataset.index.paths, images, strict=True):
        with Image.open(photographs / path) as file:
            resized = transforms.resize(file.convert("RGB"), 72)
        expected = transforms.pil_to_tensor(transforms.center_crop(resized, SIZE)).float() / 255
        assert (image - expected).abs().max() <= 1.01 / 255


def test_the_gpu_decoder_is_asked_for_the_cpu_decoders_colours():
    known = inspect.signature(fn.decoders.image_slice).parameters
    on_gpu, on_cpu = decoder_options(on_gpu=True), decoder_options(on_gpu=False)
    assert on_gpu.keys() <= set(known)
    assert on_gpu["device"] == "mixed"
    assert on_gpu["jpeg_fancy_upsampling"] is True
    assert decoder_options(True, hw_decoder_load=0.25)["hw_decoder_load"] == 0.25
    assert "jpeg_fancy_upsampling" not in on_cpu


def test_padding_is_marked(photographs, tmp_path_factory):
    last = list(loader(photographs, tmp_path_factory, "dali", train=False, batch_size=10))[-1]
    assert last.indices.tolist() == [20, 21, 22] + [PADDING_INDEX] * 7
    assert last.valid.sum() == 3


def test_a_loader_that_nobody_holds_is_gone_at_once(photographs, tmp_path_factory):
    gc.disable()  # what it collects it may collect in a forked process, where DALI waits for threads that are not there
    try:
        dali = loader(photographs, tmp_path_factory, "dali", train=True)
        list(dali)
        pipeline = weakref.ref(dali._pipeline)
        del dali
        assert pipeline() is None
    finally:
        gc.enable()


class Canary:
    """Writes down the process in which it is collected; nobody else holds it."""

    def __init__(self, file: Path) -> None:
        self.file, self.itself = file, self

    def __del__(self) -> None:
        with self.file.open("a") as stream:
            stream.write(f"{os.getpid()}\n")


def test_a_worker_never_collects_what_its_parent_has_left(photographs, tmp_path, monkeypatch):
    index = load_index(photographs, cache=tmp_path)
    dataset = Dataset(index, random_resized_crop(SIZE), SIZE)
    read, said = Dataset.read, tmp_path / "collected"
    monkeypatch.setattr(Dataset, "read", lambda self, i: (gc.collect(), read(self, i))[1])
    gc.disable()
    try:
        Canary(said)
        assert len(list(make_loader(dataset, EpochOrder(len(index), 8), backend="torchvision", num_threads=1))) == 3
        assert not said.exists()
        gc.collect()
        assert said.read_text() == f"{os.getpid()}\n"
    finally:
        gc.enable()
