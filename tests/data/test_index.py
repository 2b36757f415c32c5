from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_sq.data.index import index_path, load_index
from lightning_sq.errors import InputError


@pytest.fixture
def folder(tmp_path) -> Path:
    for label, name in enumerate(("ant", "bee")):
        (tmp_path / "val" / name).mkdir(parents=True)
        for i in range(3):
            pixels = np.full((20 + i, 30, 3), 40 * label, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "val" / name / f"{i}.jpg")
    return tmp_path / "val"


def checked_files(folder: Path, cache: Path) -> int:
    calls = []
    load_index(folder, cache=cache, progress=lambda done, total: calls.append((done, total)))
    return calls[-1][0] if calls else 0


def test_an_index_names_classes_labels_and_sizes(folder, tmp_path):
    index = load_index(folder, cache=tmp_path / "cache")
    assert index.class_names == ("ant", "bee")
    assert index.paths[:2] == ("ant/0.jpg", "ant/1.jpg")
    assert index.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert index.sizes[1].tolist() == [21, 30]


def test_files_are_looked_at_once_and_again_when_they_change(folder, tmp_path):
    cache = tmp_path / "cache"
    assert checked_files(folder, cache) == 6
    assert checked_files(folder, cache) == 0
    os.utime(folder / "bee/1.jpg", (1, 1))
    assert checked_files(folder, cache) == 1


def test_a_damaged_index_is_made_again(folder, tmp_path):
    cache = tmp_path / "cache"
    load_index(folder, cache=cache)
    index_path(folder, cache).write_bytes(b"PK\x03\x04 not an index")
    assert checked_files(folder, cache) == 6


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "truncated"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"<html>404</html>"), "not an image"),
    ],
)
def test_an_unreadable_file_is_named_with_its_reason_and_left_out(folder, tmp_path, spoil, reason):
    spoil(folder / "ant/1.jpg")
    index = load_index(folder, cache=tmp_path / "cache")
    assert index.paths[:2] == ("ant/0.jpg", "ant/2.jpg")
    assert index.labels.tolist() == [0, 0, 1, 1, 1]
    ((path, found),) = index.unreadable
    assert path == "ant/1.jpg"
    assert found == reason


def test_no_folder_no_classes_and_no_images_each_have_a_sentence(tmp_path):
    with pytest.raises(InputError, match="There is no data folder"):
        load_index(tmp_path / "none", cache=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no class folders"):
        load_index(tmp_path / "empty", cache=tmp_path)
    (tmp_path / "empty/ant").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        load_index(tmp_path / "empty", cache=tmp_path)


def test_two_folders_of_one_name_do_not_share_an_index(folder, tmp_path):
    other = tmp_path / "other" / "val"
    shutil.copytree(folder, other)
    assert index_path(folder, tmp_path) != index_path(other, tmp_path)


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="LIGHTNING_SQ_CACHE"):
        assert len(load_index(folder, cache=tmp_path / "file" / "cache")) == 6
