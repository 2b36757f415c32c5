"""`lightning-sq data check` names every odd file, and what it found is what training reads."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lightning_sq.__main__ import main
from lightning_sq.data import index as index_module
from lightning_sq.data.index import class_names_of, load_index
from lightning_sq.data.inspection import MAX_PIXELS, inspect_bytes, inspect_file
from lightning_sq.errors import InputError


@pytest.fixture
def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((60, 50))


def kinds_of(path: Path) -> tuple[str, ...]:
    look = inspect_file(path)
    assert look.reason == ""
    return look.kinds


def test_names_that_are_no_text_are_looked_at_and_printed(picture, tmp_path):
    """By a process of its own, whose standard output is a pipe."""
    for split in ("train", "val"):
        folder = tmp_path / "data" / split / os.fsdecode(b"caf\xe9")
        folder.mkdir(parents=True)
        picture.convert("L").save(folder / os.fsdecode(b"\xff.png"))
    environment = os.environ | {"LIGHTNING_SQ_CACHE": str(tmp_path / "cache")}
    words = [sys.executable, "-m", "lightning_sq", "data", "check", str(tmp_path / "data")]
    done = subprocess.run(words, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"greyscale" in done.stdout
    assert done.stdout.count(b"1 image in 1 class, 1 to 1 a class") == 2


def test_an_ordinary_photograph_is_not_odd(picture, tmp_path):
    for name in ("a.jpg", "a.JPEG", "a.png", "a.webp", "a.bmp", "a.tif", "a.ppm"):
        picture.save(tmp_path / name)
        assert kinds_of(tmp_path / name) == ()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_each_oddity_has_its_kind(picture, tmp_path):
    rotated, damaged = Image.Exif(), tmp_path / "damaged_exif.jpg"
    rotated[0x0112] = 6
    saved = {
        "cmyk.jpg": (picture.convert("CMYK"), {}, ("CMYK",)),
        "grey.jpg": (picture.convert("L"), {}, ("greyscale",)),
        "grey.pgm": (picture.convert("L"), {}, ("greyscale",)),
        "transparent.png": (picture.convert("RGBA"), {}, ("alpha",)),
        "palette.png": (picture.quantize(8), {"transparency": 1}, ("alpha",)),
        "grey_alpha.png": (picture.convert("LA"), {}, ("greyscale", "alpha")),
        "n02105855_2933.JPEG": (picture, {"format": "PNG"}, ("PNG named .JPEG",)),
        "turned.jpg": (picture, {"exif": rotated}, ("EXIF-rotated",)),
    }
    for name, (image, options, kinds) in saved.items():
        image.save(tmp_path / name, **options)
        assert kinds_of(tmp_path / name) == kinds, name
    picture.save(damaged, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert kinds_of(damaged) == ()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("deep.png", "16 bit or deeper, a PNG"), ("deep.tif", "16 bit or deeper, a TIFF"), ("cut.jpg", "truncated")],
)
def test_what_both_backends_cannot_read_alike_has_its_reason(picture, tmp_path, name, reason):
    path = tmp_path / name
    if name == "cut.jpg":
        picture.save(path)
        path.write_bytes(path.read_bytes()[:-200])
    else:
        Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(path)
    assert inspect_file(path).reason.startswith(reason)


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    side = int(MAX_PIXELS**0.5)
    assert inspect_bytes(png_that_claims(side + 1, side + 1), ".png").reason == "more than 178,956,970 pixels"
    assert inspect_bytes(png_that_claims(40, 40), ".png").reason == "truncated"


@pytest.fixture
def data(few_digits, tmp_path) -> Path:
    """Digits with one file of each of many kinds."""
    folder = tmp_path / "data"
    shutil.copytree(few_digits, folder)
    shutil.copy(sorted((folder / "train/3").iterdir())[0], folder / "val/4/copied.jpg")
    with Image.open(sorted((folder / "train/5").iterdir())[0]) as image:
        image.convert("RGB").save(folder / "train/5/png.JPEG", format="PNG")
    return folder


def check(folder: Path, *options: str, status: int = 0) -> dict:
    report = folder.parent / "report.json"
    assert main(["data", "check", str(folder), "--report", str(report), *options]) == status
    return json.loads(report.read_text())


def test_the_report_counts_classes_and_names_odd_files_and_the_same_file_in_both_splits(data, capsys):
    report = check(data)
    train, val = report["splits"]["train"], report["splits"]["val"]
    assert (train["images"], val["images"]) == (91, 41)
    assert train["classes"] == {str(label): 9 + (label == 5) for label in range(10)}
    assert train["odd"]["PNG named .JPEG"] == ["5/png.JPEG"]
    ((original, copied),) = report["in_train_and_val"]
    assert (original[:2], copied) == ("3/", "4/copied.jpg")
    assert report["largest_image_in_pixels"] == MAX_PIXELS
    printed = capsys.readouterr().out
    assert "  PNG named .JPEG: 1 (5/png.JPEG)\n" in printed
    assert f"  the same file in train and val: 1 ({original} = 4/copied.jpg)\n" in printed


def test_what_training_would_pass_over_is_named(data, capsys):
    (data / "train/3/more").mkdir()
    shutil.copy(next((data / "train/4").glob("*.jpg")), data / "train/3/more/inner.jpg")
    for name in ("old.gif", ".hidden"):
        (data / "train/3" / name).write_bytes(b"")
    (data / "train/lost").symlink_to(data / "gone")
    (data / "train/stray.jpg").write_bytes(b"")
    found = ["lost", "stray.jpg", "3/more", "3/old.gif"]
    assert check(data)["splits"]["train"]["passed_over"] == found
    printed = capsys.readouterr().out
    assert "  passed over, in no class or none of .bmp" in printed
    assert ".webp: 4 (lost, stray.jpg, 3/more, ...)\n" in printed


def test_a_class_that_this_user_may_not_look_into_is_no_class_less(data, monkeypatch, capsys):
    def forbidden(entry):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), entry.path)

    entry = SimpleNamespace(name="3", path=str(data / "train/3"))
    entry.is_dir = lambda: forbidden(entry)
    monkeypatch.setattr("lightning_sq.data.listing._entries", lambda folder: [entry])
    with pytest.raises(InputError, match=r"train/3 cannot be listed \(Permission denied\)"):
        class_names_of(data / "train")


def test_a_report_that_is_a_folder_is_refused_before_hours_of_looking(data, monkeypatch, capsys):
    monkeypatch.setattr("lightning_sq.commands.data_check.look_through", lambda *args, **options: pytest.fail("looked"))
    assert main(["data", "check", str(data), "--report", str(data)]) == 2
    assert f"--report {data} is a folder. Give a file, such as {data}/report.json." in capsys.readouterr().err


def test_a_class_in_one_split_only_is_an_error_as_it_is_to_training(data, capsys):
    (data / "val/9").rename(data / "val/nine")
    check(data, status=2)
    printed = capsys.readouterr()
    assert "classes in one split only: 9, nine\n" in printed.out
    assert f"2 one-split classes in {data}, named above" in printed.err


def test_a_class_may_be_called_like_a_split(data):
    for split in ("train", "val"):
        (data / split / "0").rename(data / split / "train")
    assert [found["classes"]["train"] for found in check(data)["splits"].values()] == [9, 4]
    assert check(data / "val")["splits"]["val"]["images"] == 41
    assert main(["data", "shard", str(data / "val"), str(data / "shards")]) == 0
    assert class_names_of(data / "shards") == (*"123456789", "train")


def test_splits_without_classes_are_not_taken_for_classes(data, capsys):
    for split in ("train", "val"):
        for image in sorted((data / split).glob("*/*")):
            image.rename(data / split / f"{image.parent.name}-{image.name}")
        for label in sorted((data / split).glob("*/")):
            label.rmdir()
    assert main(["data", "check", str(data)]) == 2
    assert f"{data}/train has no class folders" in capsys.readouterr().err


def test_damage_that_leaves_size_and_time_is_found_by_looking_again_and_then_left_out(data):
    check(data)
    path = data / "train/5/png.JPEG"
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    check(data)
    report = check(data, "--again", status=2)
    assert report["splits"]["train"]["unreadable"] == [{"path": "5/png.JPEG", "reason": "not an image"}]
    cache = Path(os.environ["LIGHTNING_SQ_CACHE"]) / "indexes"
    assert "5/png.JPEG" not in load_index(data / "train", cache=cache).paths


def test_an_index_remembers_kinds_and_digests_when_files_come_and_go(data, tmp_path):
    before = load_index(data / "train", cache=tmp_path)
    sorted((data / "train/1").iterdir())[0].unlink()
    shutil.copy(data / "train/5/png.JPEG", data / "train/0/another.png")
    looked = []
    after = load_index(data / "train", cache=tmp_path, progress=lambda done, total: looked.append(total))
    assert looked == [1]
    assert after.kinds == before.kinds
    known = dict(zip(before.paths, before.digests.tolist(), strict=True))
    for path, digest in zip(after.paths, after.digests.tolist(), strict=True):
        assert digest == known["5/png.JPEG" if path == "0/another.png" else path]


def test_a_long_look_is_kept_now_and_then(data, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(index_module, "SECONDS_BETWEEN_SAVES", -1.0)
    save = index_module.save_columns
    monkeypatch.setattr(
        index_module, "save_columns", lambda path, files: (kept.append((files.heights > 0).sum()), save(path, files))
    )
    load_index(data / "val", cache=tmp_path)
    assert kept == [*range(1, 42), 41]


def test_names_that_are_no_text_are_kept(data, tmp_path):
    odd = os.fsdecode(b"train/7/\xff\xfe odd.jpg")
    shutil.copy(sorted((data / "train/7").iterdir())[0], data / odd)
    for _ in range(2):
        assert odd.removeprefix("train/") in load_index(data / "train", cache=tmp_path).paths
