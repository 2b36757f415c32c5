from __future__ import annotations

import shutil

import pytest

from lightning_sq.data.datamodule import ImageFolderData
from lightning_sq.data.digits import write_digits
from lightning_sq.errors import InputError


def test_digits_are_1797_real_images_in_ten_classes(digits):
    data = ImageFolderData(root=str(digits), image_size=32, resize_size=32)
    assert data.class_names == tuple("0123456789")
    assert (len(data.index("train")), len(data.index("val"))) == (1437, 360)
    assert data.num_training_batches(world_size=2) == 23


def test_digits_are_never_written_over_a_folder_of_somebody_else(tmp_path, digits):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not written by this command"):
        write_digits(tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine/thesis.txt").exists()
    with pytest.raises(InputError, match="exists already"):
        write_digits(digits)


def test_different_classes_in_train_and_val_are_named(few_digits, tmp_path):
    shutil.copytree(few_digits, tmp_path / "odd")
    (tmp_path / "odd/val/9").rename(tmp_path / "odd/val/nine")
    with pytest.raises(InputError, match=r"different classes: 9, nine are"):
        ImageFolderData(root=str(tmp_path / "odd"))


@pytest.fixture
def spoilt(few_digits, tmp_path):
    shutil.copytree(few_digits, tmp_path / "spoilt")
    for split in ("train", "val"):
        sorted((tmp_path / "spoilt" / split / "3").iterdir())[0].write_bytes(b"")
    return tmp_path / "spoilt"


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
