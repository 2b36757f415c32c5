"""Shards hold the images of a folder, in its order, and are read by both backends, by DALI's own reader and by tar."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import resource
import shutil
import subprocess
import tarfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def
from PIL import Image
from wds2idx import IndexCreator

from lightning_sq.__main__ import main
from lightning_sq.data import shard_writer, shards
from lightning_sq.data.backends import make_loader
from lightning_sq.data.crop import random_resized_crop
from lightning_sq.data.index import class_names_of, load_index
from lightning_sq.data.index_file import Columns
from lightning_sq.data.loader import Dataset
from lightning_sq.data.order import EpochOrder
from lightning_sq.data.shard_writer import ShardSettings, write_shards
from lightning_sq.data.shards import ShardIndex, damaged_shards, load_shards
from lightning_sq.errors import InputError
from lightning_sq.output_lock import lock_output
from tests.conftest import REPOSITORY

SIZE = 32


@pytest.fixture
def photographs(tmp_path) -> Path:
    """13 images: smooth ones of several sizes, a grey one, a PNG with alpha and one of CMYK."""
    rng = np.random.default_rng(0)
    for i in range(13):
        height, width = rng.integers(60, 140, 2).tolist()
        image = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height))
        path = tmp_path / "images" / ("ant" if i < 6 else "bee") / f"{i:02d}.{'png' if i == 4 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.convert({3: "L", 4: "RGBA", 5: "CMYK"}.get(i, "RGB")).save(path)
    return tmp_path / "images"


@pytest.fixture
def index(photographs, tmp_path):
    return load_index(photographs, cache=tmp_path / "cache")


def batches(index, backend: str, first: int = 0) -> list:
    order = EpochOrder(len(index), 4, shuffle=True, pad_by_repeating=True, seed=1)
    loader = make_loader(Dataset(index, random_resized_crop(SIZE), SIZE, seed=1), order, backend=backend, num_threads=1)
    return list(loader.batches(2, first))


@pytest.mark.parametrize("backend", ["dali", "torchvision"])
def test_unchanged_files_in_shards_give_the_batches_of_the_folder_from_any_position(index, tmp_path, backend):
    write_shards(index, tmp_path / "shards", ShardSettings(images_per_shard=4))
    sharded = load_index(tmp_path / "shards", cache=tmp_path / "cache")
    assert isinstance(sharded, ShardIndex)
    assert len(sharded.shards) == 4
    for first in (0, 2):
        for ours, theirs in zip(batches(sharded, backend, first), batches(index, backend, first), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_every_image_keeps_its_place_name_label_and_bytes(index, tmp_path):
    write_shards(index, tmp_path / "shards", ShardSettings(images_per_shard=5))
    sharded = load_shards(tmp_path / "shards")
    assert (sharded.paths, sharded.class_names) == (index.paths, class_names_of(tmp_path / "shards"))
    assert np.array_equal(sharded.labels, index.labels)
    assert np.array_equal(sharded.sizes, index.sizes)
    assert np.array_equal(sharded.digests, index.digests)
    assert all(np.array_equal(sharded.read(i), index.read(i)) for i in range(len(index)))
    few = sharded.take(np.array([7, 2]))
    assert np.array_equal(few.read(1), index.read(2))
    assert few.where(1).endswith(f".tar ({index.paths[2]})")


def test_with_more_shards_than_files_may_be_open_every_image_is_read_at_its_place(index, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MOST_OPEN_FILES", 1)
    write_shards(index, tmp_path / "shards", ShardSettings(images_per_shard=5))
    sharded = load_shards(tmp_path / "shards")
    assert len(sharded.shards) == 3
    assert all(np.array_equal(sharded.read(i), index.read(i)) for i in range(len(index)))


@pytest.mark.parametrize("most_open_files", [512, 0])
def test_an_image_is_read_whole_where_the_system_gives_less_at_once_or_not_at_all(
    index, tmp_path, monkeypatch, most_open_files
):
    monkeypatch.setattr(shards, "MOST_OPEN_FILES", most_open_files)
    write_shards(index, tmp_path / "shards", ShardSettings())
    sharded, at_once = load_shards(tmp_path / "shards"), os.pread
    with monkeypatch.context() as slow:
        slow.setattr(os, "pread", lambda descriptor, length, offset: at_once(descriptor, min(length, 100), offset))
        assert sharded.read(0).tobytes() == index.read(0).tobytes()
    os.truncate(tmp_path / "shards" / sharded.shards[0], sum(sharded.places[0, 1:]) - 1)
    with pytest.raises(OSError, match="bytes could be read") as found:
        sharded.read(0)
    assert found.value.errno == errno.EIO


def test_the_shards_of_two_splits_leave_room_for_other_files(tmp_path):
    for i in range(600):
        (tmp_path / str(i)).write_bytes(b"image")
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_already = len([*Path("/proc/self/fd").iterdir()])  # by other tests
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024 + open_already, usual[1]))
    try:
        splits = [shards._OpenFiles(), shards._OpenFiles()]
        for split in splits:
            assert {split.read(tmp_path / str(i), 0, 5) for i in range(600)} == {b"image"}
        with ExitStack() as others:
            for _ in range(150):
                others.enter_context(Path(os.devnull).open())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)


def test_images_are_shrunk_to_the_short_side_and_never_enlarged(index, tmp_path):
    write_shards(index, tmp_path / "shards", ShardSettings(short_side=80, quality=90))
    sharded = load_shards(tmp_path / "shards")
    assert (index.sizes.min(1) < 80).any()
    assert np.array_equal(sharded.sizes.min(1), np.minimum(index.sizes.min(1), 80))
    for i in range(len(index)):
        with Image.open(io.BytesIO(sharded.read(i))) as small, Image.open(index.folder / index.paths[i]) as large:
            assert small.format == "JPEG"
            assert small.size[::-1] == tuple(sharded.sizes[i])
            expected = large.convert("RGB").resize(small.size, Image.Resampling.LANCZOS)
            difference = np.abs(np.asarray(small.convert("RGB"), float) - np.asarray(expected, float))
            assert difference.mean() < 3


def test_the_quality_is_libjpegs(index, tmp_path):
    for quality in (30, 95):
        write_shards(index, tmp_path / str(quality), ShardSettings(short_side=50, quality=quality))
        with Image.open(io.BytesIO(load_shards(tmp_path / str(quality)).read(0))) as image:
            reference = io.BytesIO()
            image.save(reference, "JPEG", quality=quality)
            with Image.open(reference) as expected:
                assert image.quantization == expected.quantization


def test_a_writer_that_was_stopped_goes_on_and_writes_no_shard_twice(index, tmp_path, monkeypatch):
    settings = ShardSettings(short_side=80, images_per_shard=4)
    write_shards(index, tmp_path / "whole", settings)

    def stop(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(index, tmp_path / "shards", settings, stop)
    with pytest.raises(InputError, match="has no class folders"):  # what is not whole is not trained on
        load_index(tmp_path / "shards", cache=tmp_path / "cache")
    encoded, encode = [], shard_writer.encode
    monkeypatch.setattr(shard_writer, "encode", lambda index, i, s: encoded.append(i) or encode(index, i, s))
    (tmp_path / "shards/.shard-000002.tar.0123.tmp").write_bytes(b"of a writer that was killed")
    write_shards(index, tmp_path / "shards", settings)
    assert len(encoded) == 5  # of 13, eight were in the two whole shards
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")
    encoded.clear()
    write_shards(index, tmp_path / "shards", settings)
    assert encoded == []


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.iterdir() if path.suffix != ".npz")  # a zip holds the time
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_shard_that_is_lost_is_named_and_made_again(index, tmp_path):
    settings = ShardSettings(images_per_shard=4)
    write_shards(index, tmp_path / "shards", settings)
    before = contents(tmp_path / "shards")
    (tmp_path / "shards/shard-000002.tar").unlink()
    with pytest.raises(InputError, match=r"shard-000002\.tar is missing"):
        load_shards(tmp_path / "shards")
    (tmp_path / "shards/shard-000001.tar").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"shard-000001\.tar has 3 bytes instead of"):
        load_shards(tmp_path / "shards")
    write_shards(index, tmp_path / "shards", settings)
    assert contents(tmp_path / "shards") == before


@pytest.mark.parametrize(
    ("lost", "made_again"),
    [
        ({"shard-000002.tar": None}, [2]),
        ({"shard-000003.tar": b"cut"}, [3]),
        ({"shard-000002.tar": None, "shard-000000.idx": None}, [0, 2]),
        ({"shard-000001.tar": "another byte"}, [1]),
        ({"shard-000001.tar": "another byte", "shard-000003.tar": None}, [1, 3]),
        ({"shard-000002.idx": None}, [2]),
        ({"SHA256SUMS": None}, []),
        ({"shard-000001.tar": None, "index.npz": None}, [0, 1, 2, 3]),
        ({"shard-000001.tar": None, "index.npz": b"cut"}, [0, 1, 2, 3]),
    ],
)
def test_of_a_finished_set_only_what_is_lost_is_written_again(index, tmp_path, monkeypatch, lost, made_again):
    settings, folder = ShardSettings(short_side=80, images_per_shard=4), tmp_path / "shards"
    size = write_shards(index, folder, settings)
    before, columns = contents(folder), load_shards(folder)
    written, write = [], shard_writer._write_shard

    def spy(pool, index, positions, folder, number, *rest):
        written.append(number)
        return write(pool, index, positions, folder, number, *rest)

    monkeypatch.setattr(shard_writer, "_write_shard", spy)
    for name, content in lost.items():
        kept = bytearray((folder / name).read_bytes())
        (folder / name).unlink()
        if content == "another byte":
            kept[700] ^= 1
            content = kept
        if content is not None:
            (folder / name).write_bytes(content)
    assert write_shards(index, folder, settings) == size
    assert written == made_again
    assert contents(folder) == before
    again = load_shards(folder)
    assert again.paths == columns.paths
    for column in ("labels", "sizes", "digests", "places"):
        one, other = getattr(again, column), getattr(columns, column)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


def test_a_writer_that_is_stopped_while_it_makes_a_lost_shard_again_keeps_the_others(index, tmp_path, monkeypatch):
    settings, folder = ShardSettings(images_per_shard=4), tmp_path / "shards"
    write_shards(index, folder, settings)
    before = contents(folder)
    (folder / "shard-000001.tar").unlink()

    def stop(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(index, folder, settings, stop)
    encoded, encode = [], shard_writer.encode
    monkeypatch.setattr(shard_writer, "encode", lambda index, i, s: encoded.append(i) or encode(index, i, s))
    write_shards(index, folder, settings)
    assert len(encoded) == 4
    assert contents(folder) == before


@pytest.mark.parametrize("short_side", [None, 80])
def test_a_file_that_has_changed_or_gone_since_it_was_looked_at_is_named_and_not_stored(index, tmp_path, short_side):
    settings, folder = ShardSettings(short_side, images_per_shard=4), tmp_path / "shards"
    path = index.folder / index.paths[7]
    before = path.read_bytes()
    path.write_bytes(before[:-40])
    with pytest.raises(InputError, match=rf"{path} is another file than when it was looked at\. .* --again"):
        write_shards(index, folder, settings)
    path.unlink()
    with pytest.raises(InputError, match=rf"{path} cannot be read any more \(No such file"):
        write_shards(index, folder, settings)
    path.write_bytes(before)
    write_shards(index, folder, settings)
    assert load_shards(folder).paths == index.paths


def test_a_small_image_stays_as_it_is_where_a_jpeg_file_would_be_no_smaller(photographs, tmp_path):
    Image.new("RGB", (16, 16), (10, 200, 30)).save(photographs / "bee/13.png")
    index = load_index(photographs, cache=tmp_path / "cache")
    encoded, suffix, size = shard_writer.encode(index, 13, ShardSettings(short_side=352))
    assert (encoded, suffix, size) == ((photographs / "bee/13.png").read_bytes(), "png", (16, 16))


@pytest.mark.parametrize("spoil", ["other settings", "other images", "foreign file", "a list", "not text"])
def test_a_folder_that_holds_something_else_is_left_alone(index, tmp_path, spoil):
    write_shards(index, tmp_path / "shards", ShardSettings())
    settings = ShardSettings(short_side=80) if spoil == "other settings" else ShardSettings()
    if spoil == "foreign file":
        (tmp_path / "shards/thesis.txt").write_text("years of work")
    if spoil in ("a list", "not text"):
        (tmp_path / "shards/shards.json").write_bytes(b"[1]" if spoil == "a list" else b"\xff\xfe")
    before = contents(tmp_path / "shards")
    with pytest.raises(InputError, match="Give another folder"):
        write_shards(index.take(np.arange(9)) if spoil == "other images" else index, tmp_path / "shards", settings)
    assert contents(tmp_path / "shards") == before


def test_the_sums_are_what_sha256sum_says_and_damage_is_found(index, tmp_path):
    write_shards(index, tmp_path / "shards", ShardSettings(images_per_shard=5))
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "shards", check=True)
    assert damaged_shards(tmp_path / "shards") == []
    path = tmp_path / "shards/shard-000001.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    assert damaged_shards(tmp_path / "shards") == ["shard-000001.tar"]


def test_dalis_own_tool_writes_the_same_index(index, tmp_path):
    write_shards(index, tmp_path / "shards", ShardSettings())
    with IndexCreator(str(tmp_path / "shards/shard-000000.tar"), str(tmp_path / "theirs.idx"), verbose=False) as tool:
        tool.create_index()
    assert (tmp_path / "shards/shard-000000.idx").read_text() == (tmp_path / "theirs.idx").read_text()


def test_dalis_own_reader_and_tar_see_the_images_and_labels(index, tmp_path):
    write_shards(index, tmp_path / "shards", ShardSettings(short_side=64))
    path = tmp_path / "shards/shard-000000.tar"

    @pipeline_def(batch_size=13, num_threads=1, device_id=None)
    def reader():
        paths = {"paths": [str(path)], "index_paths": [str(path.with_suffix(".idx"))]}
        return tuple(fn.readers.webdataset(**paths, ext=["jpg", "cls"]))

    encoded, labels = reader().run()
    with tarfile.open(path) as tar:
        names = [name for name in tar.getnames() if name.endswith(".jpg")]
    sharded = load_shards(tmp_path / "shards")
    assert sorted(int(name[:8]) for name in names) == list(range(13))
    for k, name in enumerate(names):
        i = int(name[:8])
        assert np.array_equal(np.asarray(encoded[k]), sharded.read(i))
        assert int(bytes(np.asarray(labels[k]))) == index.labels[i]


def test_the_command_writes_and_checks_both_splits_and_a_run_trains_on_them(few_digits, tmp_path, capsys, monkeypatch):
    shards = tmp_path / "shards"
    words = ["data", "shard", str(few_digits), str(shards), "--short-side", "24", "--images-per-shard", "30"]
    assert main(words) == 0
    assert "90 images" in capsys.readouterr().out
    assert main(["data", "check", str(shards)]) == 0
    assert f"{shards}/val: 40 images in 10 classes, 4 to 4 a class" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["lightning-sq"])
    config = ["--config", str(REPOSITORY / "configs/digits.yaml"), "--model.architecture", "test_resnet"]
    options = [*config, "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1"]
    output = tmp_path / "run"
    assert main(["fit", *options, "--data.root", str(shards), "--output", str(output)]) == 0
    assert (output / "checkpoints/last.ckpt").is_file()


def test_the_check_names_a_damaged_shard_and_an_image_that_cannot_be_decoded(few_digits, tmp_path, capsys):
    assert main(["data", "shard", str(few_digits / "val"), str(tmp_path / "shards")]) == 0
    index = load_shards(tmp_path / "shards")
    _, offset, length = index.places[11].tolist()
    path = tmp_path / "shards/shard-000000.tar"
    content = bytearray(path.read_bytes())
    content[offset : offset + length] = bytes(length)
    path.write_bytes(content)
    assert main(["data", "check", str(tmp_path / "shards")]) == 2
    printed = capsys.readouterr()
    assert f"damaged shard: {path}: its SHA-256" in printed.out
    assert f"shard-000000.tar ({index.paths[11]}): not an image" in printed.out
    assert "1 unreadable image and 1 damaged shard in" in printed.err
    order = EpochOrder(len(index), 8)
    loader = make_loader(Dataset(index, random_resized_crop(SIZE), SIZE), order, backend="dali", num_threads=1)
    with pytest.raises(
        InputError, match=rf"{index.paths[11]}\) cannot be decoded \(not an image\)\. Fetch that shard again"
    ):
        list(loader)


def test_unreadable_images_are_left_out_only_if_that_is_allowed(few_digits, tmp_path, capsys):
    shutil.copytree(few_digits / "val", tmp_path / "val")
    (tmp_path / "val/3/x.jpg").write_bytes(b"")
    words = ["data", "shard", str(tmp_path / "val"), str(tmp_path / "shards")]
    assert main(words) == 2
    assert "3/x.jpg (empty). Mend or remove them, or add --allow-unreadable" in capsys.readouterr().err
    assert not (tmp_path / "shards").exists()
    assert main([*words, "--allow-unreadable"]) == 0
    assert len(load_shards(tmp_path / "shards")) == 40


@pytest.mark.parametrize("options", [[], ["--allow-unreadable"]])
def test_a_folder_without_an_image_that_can_be_read_is_refused_and_nothing_is_written(tmp_path, capsys, options):
    for name in ("3", "4"):
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "x.jpg").write_bytes(b"no image")
    assert main(["data", "shard", str(tmp_path / "val"), str(tmp_path / "shards"), *options]) == 2
    told = capsys.readouterr().err
    assert "val has no image that can be read: 3/x.jpg (not an image)" in told
    assert "--allow-unreadable" not in told
    assert not (tmp_path / "shards").exists()


def test_where_nothing_can_be_kept_the_size_of_the_files_is_left_out(few_digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lightning_sq.commands.data_shard.load_columns", lambda path: Columns.unseen([], [], []))
    assert main(["data", "shard", str(few_digits / "val"), str(tmp_path / "shards")]) == 0
    assert "shards: 40 images, 0 MB as shards" in capsys.readouterr().out


def test_a_second_writer_in_the_same_folder_is_refused_and_leaves_the_first_ones_files(few_digits, tmp_path, capsys):
    words = ["data", "shard", str(few_digits / "val"), str(tmp_path / "shards")]
    with ExitStack() as first:
        lock_output(tmp_path / "shards", first)
        half_written = tmp_path / "shards/.shard-000000.tar.0123.tmp"
        half_written.touch()
        assert main(words) == 2
        assert f"{tmp_path}/shards is in use by process" in capsys.readouterr().err
        assert half_written.exists()
    assert main(words) == 0  # it was killed
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == sorted(
        ["SHA256SUMS", "index.npz", "shard-000000.idx", "shard-000000.tar", "shards.json"]
    )


def test_shards_are_not_written_into_a_file(few_digits, tmp_path, capsys):
    (tmp_path / "shards").touch()
    assert main(["data", "shard", str(few_digits / "val"), str(tmp_path / "shards")]) == 2
    assert "shards cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--short-side", "0"), ("--quality", "99"), ("--images-per-shard", "0")])
def test_an_option_that_cannot_be_is_refused_before_anything_is_written(few_digits, tmp_path, capsys, option):
    assert main(["data", "shard", str(few_digits), str(tmp_path / "shards"), *option]) == 2
    assert " ".join(option) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
