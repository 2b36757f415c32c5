"""MNIST and CIFAR-10 become image folders with their own pixels, or a sentence and nothing at all."""

from __future__ import annotations

import gzip
import io
import shutil
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_sq.__main__ import main
from lightning_sq.data import benchmark_sets
from lightning_sq.data.benchmark_sets import write_cifar10, write_mnist
from lightning_sq.errors import InputError
from tests.data.idx import NUM_TEST, NUM_TRAIN, idx, tiny_mnist, write_idx

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture(scope="module")
def mnist() -> dict[str, np.ndarray]:
    return tiny_mnist()


@pytest.fixture
def source(mnist, tmp_path) -> Path:
    return write_idx(tmp_path / "source/MNIST/raw", mnist)


def nothing_but(tmp_path: Path, *names: str) -> bool:
    return sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def pixels_of(folder: Path) -> dict[int, np.ndarray]:
    return {int(path.stem): np.asarray(Image.open(path)) for path in folder.glob("*/*.png")}


@pytest.mark.parametrize("gzipped", [True, False])
def test_mnist_keeps_every_pixel_label_and_split(mnist, tmp_path, gzipped):
    told = []
    write_idx(tmp_path / "source", mnist, gzipped=gzipped)
    count = write_mnist(tmp_path / "out", source=tmp_path / "source", progress=lambda *now: told.append(now))
    assert count == NUM_TRAIN + NUM_TEST
    assert told == [(k, count) for k in range(1, count + 1)]
    for split, prefix in (("train", "train"), ("val", "t10k")):
        images, labels = mnist[f"{prefix}-images-idx3-ubyte"], mnist[f"{prefix}-labels-idx1-ubyte"]
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            with Image.open(tmp_path / f"out/{split}/{label}/{number:05d}.png") as written:
                assert written.mode == "L"
                assert np.array_equal(np.asarray(written), image)


def test_tuning_holds_out_the_last_training_images_and_leaves_the_test_images_alone(
    mnist, source, tmp_path, monkeypatch
):
    monkeypatch.setattr(benchmark_sets, "HELD_OUT", 10)
    for path in source.glob("t10k*"):
        path.unlink()
    assert write_mnist(tmp_path / "out", source=source, tuning=True) == NUM_TRAIN
    train, val = pixels_of(tmp_path / "out/train"), pixels_of(tmp_path / "out/val")
    assert np.array_equal([train[k] for k in range(NUM_TRAIN - 10)], mnist[IMAGES][:-10])
    assert np.array_equal([val[k] for k in range(10)], mnist[IMAGES][-10:])


def test_more_images_than_there_are_cannot_be_held_out(source, tmp_path):
    with pytest.raises(InputError, match=r"holds 40 training images, and 5,000 are held out.*Leave --tuning out"):
        write_mnist(tmp_path / "out", source=source, tuning=True)
    assert nothing_but(tmp_path, "source")


def spoil_checksum(content: bytes) -> bytes:
    return content[:-8] + bytes(8)


def spoil_stream(content: bytes) -> bytes:
    return content[:10] + b"\xff" * 20 + content[30:]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"not gzipped",
        gzip.compress(b""),
        gzip.compress(b"\0\0\x08"),
        gzip.compress(b"\0\0\x0d\x03" + bytes(12)),
        gzip.compress(idx(np.zeros((40, 28, 28), np.uint8))[:-1]),
        gzip.compress(idx(np.zeros((40, 28, 28), np.uint8)))[:-20],
        spoil_checksum(gzip.compress(idx(np.arange(40 * 784, dtype=np.uint8).reshape(40, 28, 28)))),
        spoil_stream(gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)))),
    ],
    ids=["empty", "short", "text", "nothing", "cut header", "floats", "byte missing", "cut", "checksum", "stream"],
)
def test_a_damaged_file_of_mnist_is_named_and_nothing_is_written(source, tmp_path, content):
    (source / f"{IMAGES}.gz").write_bytes(content)
    with pytest.raises(InputError, match=rf"{IMAGES}\.gz is damaged \(.+\)\. Download it again\.") as refused:
        write_mnist(tmp_path / "out", source=source)
    assert "\n" not in str(refused.value)
    assert nothing_but(tmp_path, "source")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (IMAGES, np.zeros((39, 28, 28), np.uint8)),
        (IMAGES, np.zeros((40, 27, 28), np.uint8)),
        (IMAGES, np.zeros(40, np.uint8)),
        (LABELS, np.full(40, 10, np.uint8)),
        (LABELS, np.zeros((40, 1), np.uint8)),
    ],
    ids=["one fewer", "another size", "labels as images", "label 10", "images as labels"],
)
def test_files_that_are_not_mnists_are_refused(mnist, tmp_path, name, values):
    source = write_idx(tmp_path / "source", mnist | {name: values})
    with pytest.raises(InputError, match="holds train files of MNIST that do not belong together"):
        write_mnist(tmp_path / "out", source=source)
    assert nothing_but(tmp_path, "source")


def test_files_without_an_image_are_refused(tmp_path):
    empty = {"images-idx3": np.zeros((0, 28, 28), np.uint8), "labels-idx1": np.zeros(0, np.uint8)}
    arrays = {f"{split}-{name}-ubyte": values for split in ("train", "t10k") for name, values in empty.items()}
    with pytest.raises(InputError, match="has no training images, or no test images"):
        write_mnist(tmp_path / "out", source=write_idx(tmp_path / "source", arrays))
    assert nothing_but(tmp_path, "source")


def test_a_missing_file_of_mnist_is_named(source, tmp_path):
    (source / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"holds no t10k-labels-idx1-ubyte\.gz\. Give the folder of .* by --from"):
        write_mnist(tmp_path / "out", source=source)
    for nowhere in (tmp_path / "nowhere", source / f"{IMAGES}.gz"):
        with pytest.raises(InputError, match=r"holds no train-images-idx3-ubyte\.gz"):
            write_mnist(tmp_path / "out", source=nowhere)
    assert nothing_but(tmp_path, "source")


def test_a_folder_by_the_name_of_a_file_is_looked_into(mnist, tmp_path):
    for name, values in mnist.items():
        write_idx(tmp_path / "source" / name, {name: values}, gzipped=False)  # as some archives unpack
    assert write_mnist(tmp_path / "out", source=tmp_path / "source") == NUM_TRAIN + NUM_TEST


def test_files_of_two_sets_by_one_name_are_refused(source, mnist, tmp_path):
    write_idx(tmp_path / "source/FashionMNIST/raw", mnist)
    with pytest.raises(
        InputError, match=r"holds train-images-idx3-ubyte in \S*/FashionMNIST/raw and in \S*/MNIST/raw\."
    ):
        write_mnist(tmp_path / "out", source=tmp_path / "source")
    assert nothing_but(tmp_path, "source")


def test_two_first_downloads_take_turns(tmp_path, monkeypatch):
    at_once, most = 0, 0

    def downloads(root, download):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.2)
        at_once -= 1

    monkeypatch.setenv("LIGHTNING_SQ_CACHE", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.MNIST", downloads)
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(benchmark_sets._downloaded, ["MNIST"] * 3)) == {tmp_path / "downloads"}
    assert most == 1


def test_a_download_that_is_all_there_needs_no_leave_to_write(tmp_path, monkeypatch):
    (tmp_path / "downloads").write_text("no folder, so that no lock can be made in it")
    monkeypatch.setenv("LIGHTNING_SQ_CACHE", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.MNIST", lambda root, download: None)
    assert benchmark_sets._downloaded("MNIST") == tmp_path / "downloads"


def test_a_download_that_fails_is_a_sentence_that_says_what_to_give(tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried https://...")

    monkeypatch.setattr("torchvision.datasets.MNIST", unreachable)
    with pytest.raises(
        InputError, match=r"MNIST could not be downloaded \(RuntimeError\)\. .* remove .*downloads .* by --from"
    ):
        write_mnist(tmp_path / "out")
    assert nothing_but(tmp_path)


def test_a_folder_that_is_in_the_way_is_refused_before_anything_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_sets, "_downloaded", lambda name: pytest.fail("downloads"))
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        write_mnist(tmp_path / "out")


def test_a_folder_is_replaced_only_by_the_set_that_it_holds(source, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_sets, "HELD_OUT", 10)
    write_mnist(tmp_path / "out", source=source)
    with pytest.raises(InputError, match="exists already"):
        write_mnist(tmp_path / "out", source=source)
    with pytest.raises(InputError, match="not written by this command"):
        write_mnist(tmp_path / "out", source=source, tuning=True, overwrite=True)
    assert write_mnist(tmp_path / "out", source=source, overwrite=True) == NUM_TRAIN + NUM_TEST
    (source / f"{IMAGES}.gz").write_bytes(b"")
    with pytest.raises(InputError, match="damaged"):
        write_mnist(tmp_path / "out", source=source, overwrite=True)
    assert len(list((tmp_path / "out").rglob("*.png"))) == NUM_TRAIN + NUM_TEST
    assert nothing_but(tmp_path, "out", "source")


@pytest.mark.parametrize("foreign", ["notes.txt", "train/cat/00001.png", "val/3/00001.jpg", "val/3/mine.png"])
def test_a_set_with_a_file_of_somebody_else_in_it_is_left_alone(source, tmp_path, foreign):
    write_mnist(tmp_path / "out", source=source)
    (tmp_path / "out" / foreign).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / foreign).write_text("years of work")
    with pytest.raises(InputError, match="which this command did not write"):
        write_mnist(tmp_path / "out", source=source, overwrite=True)
    assert (tmp_path / "out" / foreign).read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_a_sentence(source, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"file/out cannot be written \(.+\)\. Give another folder"):
        write_mnist(tmp_path / "file/out", source=source)
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="link exists already"):
        write_mnist(tmp_path / "link", source=source)
    (tmp_path / "link").unlink()
    write_mnist(tmp_path / "out", source=source)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(InputError, match=r"link is a link, and would be replaced by a folder\. Give \S*out"):
        write_mnist(tmp_path / "link", source=source, overwrite=True)
    assert (tmp_path / "link").is_symlink()


CLASSES = benchmark_sets.CLASS_NAMES["CIFAR10"]


def photograph(seed: int, size: int = 32, suffix: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, suffix)
    return stream.getvalue()


def files_of_zip() -> dict[str, bytes]:
    names = [f"cifar/{split}/{name}/{k}.png" for split in ("train", "test") for name in CLASSES for k in range(3)]
    return {name: photograph(seed) for seed, name in enumerate(names)}


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_zip_of_photographs_keeps_their_pixels_and_what_else_is_in_it_is_passed_over(tmp_path):
    files = files_of_zip()
    files["cifar/train/cat/jpeg.JPG"] = photograph(99, suffix="JPEG")
    others = {"cifar/readme.md": b"", "__MACOSX/cifar/train/cat/._0.png": b"mac", "cifar/train/cat/list.txt": b"0"}
    source = write_zip(tmp_path / "cifar.zip", files | others)
    assert write_cifar10(tmp_path / "out", source=source) == 61
    for split, folder in (("train", "train"), ("test", "val")):
        for name in CLASSES:
            stored = [Image.open(io.BytesIO(v)) for k, v in files.items() if f"{split}/{name}/" in k]
            written = [Image.open(path) for path in (tmp_path / "out" / folder / name).iterdir()]
            assert {image.format for image in written} == {"PNG"}
            assert {np.asarray(a).tobytes() for a in stored} == {np.asarray(a).tobytes() for a in written}


def test_what_is_held_out_of_a_zip_is_of_all_its_classes_and_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_sets, "HELD_OUT", 15)
    source = write_zip(tmp_path / "cifar.zip", files_of_zip())
    assert write_cifar10(tmp_path / "out", source=source, tuning=True) == 30
    held_out = [path.parent.name for path in (tmp_path / "out/val").rglob("*.png")]
    assert len(held_out) == 15
    assert len(set(held_out)) > 5
    write_cifar10(tmp_path / "again", source=source, tuning=True)
    for path in (tmp_path / "out").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "out")).read_bytes()
    assert write_cifar10(tmp_path / "out", source=source, tuning=True, overwrite=True) == 30


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cifar/train/cat/0.png": b"no image"}, r"cifar/train/cat/0\.png in .* is no readable image"),
        ({"cifar/train/cat/0.png": photograph(0)[:200]}, r"cifar/train/cat/0\.png in .* is no readable image"),
        ({"cifar/test/dog/0.png": photograph(0, size=28)}, r"cifar/test/dog/0\.png in .* is 28 x 28 pixels"),
        ({"cifar/test/owl/0.png": photograph(0)}, r"has a class 'owl' in test/\. Name the folders as CIFAR-10's"),
        ({"cifar/train/../0.png": photograph(0)}, r"has a class '\.\.' in train/"),
    ],
)
def test_a_zip_with_something_odd_in_it_is_refused_whole(tmp_path, change, sentence):
    source = write_zip(tmp_path / "cifar.zip", files_of_zip() | change)
    with pytest.raises(InputError, match=sentence) as refused:
        write_cifar10(tmp_path / "out", source=source)
    assert "\n" not in str(refused.value)
    assert nothing_but(tmp_path, "cifar.zip")


def test_a_zip_without_one_of_the_classes_is_refused(tmp_path):
    files = {name: content for name, content in files_of_zip().items() if "test/frog" not in name}
    with pytest.raises(InputError, match="lacks the class 'frog' in test/"):
        write_cifar10(tmp_path / "out", source=write_zip(tmp_path / "cifar.zip", files))
    assert nothing_but(tmp_path, "cifar.zip")


def test_a_zip_without_images_of_a_split_or_none_at_all_is_refused(tmp_path):
    train_alone = {name: content for name, content in files_of_zip().items() if "/train/" in name}
    with pytest.raises(InputError, match="holds no images in test/<class>/"):
        write_cifar10(tmp_path / "out", source=write_zip(tmp_path / "cifar.zip", train_alone))
    (tmp_path / "cifar.zip").write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"cifar\.zip is no zip file.*own archive, unpack it, and give the folder"):
        write_cifar10(tmp_path / "out", source=tmp_path / "cifar.zip")


def test_a_zip_that_was_altered_is_refused(tmp_path):
    content = bytearray(write_zip(tmp_path / "cifar.zip", files_of_zip()).read_bytes())
    content[200:300] = bytes(100)
    (tmp_path / "cifar.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"cifar\.zip is no readable zip file"):
        write_cifar10(tmp_path / "out", source=tmp_path / "cifar.zip")


def test_the_original_batches_keep_their_pixels_and_their_parts(tmp_path, monkeypatch):
    class Batches:
        def __init__(self, root, train):
            self.data = np.full((10, 32, 32, 3), 200 if train else 50, np.uint8)
            self.targets = list(range(10))

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Batches)
    assert write_cifar10(tmp_path / "out", source=tmp_path) == 20
    for part, value in (("train", 200), ("val", 50)):
        for name in CLASSES:
            (file,) = (tmp_path / "out" / part / name).iterdir()
            assert (np.asarray(Image.open(file)) == value).all()


@pytest.mark.parametrize("made", [(), ("data_batch_1", "test_batch", "batches.meta")])
def test_original_batches_that_are_missing_or_altered_are_never_unpickled(tmp_path, made):
    folder = tmp_path / "source/cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in made:
        (folder / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(InputError, match="holds no whole cifar-10-batches-py") as refused:
        write_cifar10(tmp_path / "out", source=tmp_path / "source")
    assert "\n" not in str(refused.value)
    assert nothing_but(tmp_path, "source")


def test_a_set_that_another_process_wrote_meanwhile_is_kept(source, tmp_path, capsys, monkeypatch):
    def slower(folder, **options):
        write_mnist(folder, source=source)
        return write_mnist(folder, **options)

    monkeypatch.setattr(benchmark_sets, "write_mnist", slower)
    assert main(["data", "mnist", str(tmp_path / "out"), "--from", str(source), "--keep"]) == 0
    assert "out is there by now" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out")
    assert main(["data", "mnist", str(tmp_path / "out"), "--from", str(source)]) == 2


def test_the_command_writes_keeps_and_replaces(source, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "mnist", "--from", str(source)]) == 0
    assert capsys.readouterr().out == f"{NUM_TRAIN + NUM_TEST} images written to data/mnist\n"
    assert main(["data", "mnist", "--from", str(source)]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert main(["data", "mnist", "--from", str(tmp_path / "nowhere"), "--keep"]) == 0
    assert capsys.readouterr().out == "data/mnist is there already\n"
    assert main(["data", "mnist", "--from", str(source), "--overwrite"]) == 0
    assert main(["data", "check", "data/mnist"]) == 0
    assert "40 images in 10 classes, 4 to 4 a class" in capsys.readouterr().out
    assert main(["data", "mnist", "--from", str(source), "--tuning"]) == 2
    assert "held out for tuning" in capsys.readouterr().err
    assert main(["data", "cifar10", "--from", str(write_zip(tmp_path / "cifar.zip", files_of_zip()))]) == 0
    shutil.rmtree(source)
    assert nothing_but(tmp_path / "data", "cifar10", "mnist")
