from __future__ import annotations

import shutil

import pytest
import torch

from lightning_sq.data import datamodule
from lightning_sq.data.datamodule import ImageFolderData
from lightning_sq.data.digits import write_digits
from lightning_sq.errors import InputError


def test_digits_are_1797_real_images_in_ten_classes(digits):
    data = ImageFolderData(root=str(digits), image_size=32, resize_size=32)
    assert data.class_names == tuple("0123456789")
    assert (len(data.index("train")), len(data.index("val"))) == (1437, 360)
    assert data.num_training_batches(world_size=2) == 23


@pytest.mark.parametrize("backend", ["dali", "torchvision", "memory"])
def test_another_seed_is_another_order_and_other_crops(few_digits, backend):
    shifts = {"max_shift": 2} if backend == "memory" else {}

    def first_epoch(seed):
        options = {"backend": backend, "seed": seed, "image_size": 32, "resize_size": 32}
        data = ImageFolderData(root=str(few_digits), **options, **shifts)
        batches = [(b.indices.clone(), b.images.clone()) for b in data.loader("train").batches(0, 0)]
        order, images = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return order, images[order.argsort()[:20]]  # the same images, whichever came first

    (one, images), (again, same), (other, others) = map(first_epoch, (1, 1, 2))
    assert torch.equal(one, again)
    assert torch.equal(images, same)
    assert not torch.equal(one, other)
    assert not torch.equal(images, others)


def test_what_another_process_has_just_looked_at_is_listed_again_only_where_the_cache_has_something_else(
    few_digits, tmp_path, monkeypatch
):
    first, second, third = (ImageFolderData(root=str(few_digits), image_size=32) for _ in range(3))
    monkeypatch.setenv("LIGHTNING_SQ_CACHE", str(tmp_path))
    fingerprints, listed = first.fingerprints(), []
    look_through = datamodule.look_through
    monkeypatch.setattr(datamodule, "look_through", lambda split: listed.append(split.name) or look_through(split))
    second.take_prepared(fingerprints)
    assert listed == []
    assert second.fingerprints() == fingerprints
    third.take_prepared(fingerprints | {"val": "of other images"})
    assert listed == ["val"]
    assert third.fingerprints() == fingerprints


def test_digits_are_never_written_over_a_folder_of_somebody_else(tmp_path, digits):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not written by this command"):
        write_digits(tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine/thesis.txt").exists()
    with pytest.raises(InputError, match="exists already"):
        write_digits(digits)


@pytest.mark.parametrize("foreign", ["notes.txt", "train/3/mine.jpg", "train/cat/0001.jpg", "val/3/0001.jpg/deep.txt"])
def test_digits_with_a_file_of_somebody_else_among_them_are_left_alone(tmp_path, few_digits, foreign):
    folder = tmp_path / "digits"
    shutil.copytree(few_digits, folder)
    (folder / foreign).parent.mkdir(parents=True, exist_ok=True)
    (folder / foreign).write_text("years of work")
    with pytest.raises(InputError, match="which this command did not write"):
        write_digits(folder, overwrite=True)
    assert (folder / foreign).read_text() == "years of work"


def test_a_readme_of_somebody_else_does_not_make_a_folder_ours(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/README.txt").write_text("My experiments.")
    with pytest.raises(InputError, match="not written by this command"):
        write_digits(tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine/README.txt").exists()


def test_digits_are_written_anew_and_nothing_beside_them_is_touched(tmp_path, few_digits):
    shutil.copytree(few_digits, tmp_path / "digits")
    (tmp_path / "digits.part").mkdir()
    (tmp_path / "digits.part/thesis.txt").write_text("years of work")
    assert write_digits(tmp_path / "digits", overwrite=True) == 1797
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits", "digits.part"]
    assert (tmp_path / "digits.part/thesis.txt").exists()
    assert len(list((tmp_path / "digits").glob("*/*/*.jpg"))) == 1797


def test_different_classes_in_train_and_val_are_named(few_digits, tmp_path):
    shutil.copytree(few_digits, tmp_path / "odd")
    (tmp_path / "odd/val/9").rename(tmp_path / "odd/val/nine")
    with pytest.raises(InputError, match=r"different classes: 9, nine are"):
        ImageFolderData(root=str(tmp_path / "odd"))


def test_one_class_alone_is_refused_by_its_name(few_digits, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(few_digits / split / "3", tmp_path / "one" / split / "3")
    with pytest.raises(InputError, match=r"one class alone, '3'"):
        ImageFolderData(root=str(tmp_path / "one"))


@pytest.fixture
def spoilt(few_digits, tmp_path):
    shutil.copytree(few_digits, tmp_path / "spoilt")
    for split in ("train", "val"):
        sorted((tmp_path / "spoilt" / split / "3").iterdir())[0].write_bytes(b"")
    return tmp_path / "spoilt"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"backend": "pil"}, "backend='pil' is not one of dali, torchvision, memory"),
        ({"channels": 2}, "channels=2 is neither 3, for RGB, nor 1"),
        ({"shift_epochs": 3}, "shift_epochs=3 is done by backend=memory alone"),
        ({"min_crop_area": 0.0}, "min_crop_area=0.0"),
        ({"flip_probability": 1.5}, "flip_probability=1.5"),
        ({"image_size": 0}, "image_size=0"),
        ({"resize_size": 0}, "resize_size=0"),
        ({"resize_size": 16}, "resize_size=16"),
        ({"batch_size_per_device": 0}, "batch_size_per_device=0"),
        ({"batch_repeats": 0}, "batch_repeats=0"),
        ({"num_threads": 0}, "num_threads=0"),
        ({"hw_decoder_load": 1.5}, "hw_decoder_load=1.5"),
        ({"num_threads": -1, "backend": "torchvision"}, "num_threads=-1"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_any_file_is_looked_at(options, message):
    with pytest.raises(InputError, match=message):
        ImageFolderData(**{"root": "nowhere", "image_size": 32} | options)


def test_a_loader_is_asked_for_as_the_options_say(few_digits, monkeypatch):
    asked = {}
    monkeypatch.setattr("lightning_sq.data.datamodule.make_loader", lambda *_, **options: asked.update(options))
    data = ImageFolderData(str(few_digits), backend="dali", image_size=32, num_threads=3, hw_decoder_load=0.25)
    data.loader("val", device_id=1)
    assert asked == {"backend": "dali", "num_threads": 3, "device_id": 1, "hw_decoder_load": 0.25}


def test_training_batches_come_as_often_as_is_said_and_validation_once(few_digits):
    options = {"batch_size_per_device": 30, "num_threads": 0, "batch_repeats": 2}
    data = ImageFolderData(str(few_digits), "torchvision", 32, **options)
    train = [batch.indices.tolist() for batch in data.loader("train")]
    assert len(train) == data.num_training_batches(1) == 6
    assert train[::2] == train[1::2]
    assert len(list(data.loader("val"))) == 2


@pytest.mark.parametrize(("where", "root"), [("/", "{}/train"), ("{}", "val"), ("{}/train", ".")])
def test_who_gives_one_split_is_told_the_folder_of_both(few_digits, monkeypatch, where, root):
    monkeypatch.chdir(where.format(few_digits))
    with pytest.raises(InputError, match=f"train, but {few_digits} has train/ and val/: give that one"):
        ImageFolderData(root.format(few_digits))


def test_torchvision_may_decode_in_the_main_process(few_digits):
    data = ImageFolderData(root=str(few_digits), image_size=32, backend="torchvision", num_threads=0)
    assert next(iter(data.loader("val"))).images.shape == (32, 3, 32, 32)


def test_a_class_without_images_is_named(few_digits, tmp_path):
    shutil.copytree(few_digits, tmp_path / "odd")
    for split in ("train", "val"):
        (tmp_path / "odd" / split / "[bold]ten").mkdir()
    data = ImageFolderData(root=str(tmp_path / "odd"), image_size=32)
    with pytest.raises(InputError, match=r"1 class without a readable image in .*train: \[bold\]ten\. Add images"):
        data.index("train")
    with pytest.warns(UserWarning, match=r"1 class without a readable image in .*val: \[bold\]ten"):
        assert len(data.index("val")) == 40


def test_an_unreadable_training_image_is_named_counted_and_skipped(spoilt):
    data = ImageFolderData(root=str(spoilt), image_size=32)
    with pytest.warns(UserWarning, match=r"1 unreadable image in .*3/\d+\.jpg \(empty\)\. Skipped"):
        assert len(data.index("train")) == 89


def test_an_unreadable_validation_image_is_an_error_unless_allowed(spoilt):
    with pytest.raises(InputError, match=r"3/\d+\.jpg \(empty\).*allow_unreadable_validation"):
        ImageFolderData(root=str(spoilt), image_size=32).index("val")
    data = ImageFolderData(root=str(spoilt), image_size=32, allow_unreadable_validation=True)
    with pytest.warns(UserWarning, match="Skipped"):
        assert len(data.index("val")) == 39
