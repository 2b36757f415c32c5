"""Files and folders are there whole, or as they were."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from lightning_sq.paths import cache_folder, errors_named, nearest_existing, replace_folder, write_whole


@pytest.fixture
def places(tmp_path) -> tuple[Path, Path, Path]:
    """A new folder, the one that is to be replaced by it, and where that is to go."""
    new, folder, old = (tmp_path / name for name in ("new", "folder", "old"))
    write_whole(new / "file", "new")
    write_whole(folder / "file", "old")
    return new, folder, old


def test_a_folder_that_cannot_be_put_in_its_place_leaves_the_one_that_was_there(places, monkeypatch):
    new, folder, old = places
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path == new:
            raise OSError("a quota, perhaps")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="quota"):
            replace_folder(new, folder, old)
    assert (folder / "file").read_text() == "old"
    assert not old.exists()
    replace_folder(new, folder, old)
    assert (folder / "file").read_text() == "new"
    assert (old / "file").read_text() == "old"


def test_whoever_is_stopped_between_the_two_names_of_a_folder_has_the_old_one(places, monkeypatch):
    new, folder, old = places
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        renamed = rename(path, target)
        if target == old:
            raise KeyboardInterrupt
        return renamed

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(new, folder, old)
    assert (folder / "file").read_text() == "old"


def test_an_error_of_a_full_disk_says_where_it_is_full(tmp_path):
    for given, said in ((OSError(errno.ENOSPC, "full"), str(tmp_path)), (OSError(errno.EIO, "bad", "that"), "that")):
        with pytest.raises(OSError, match=r"full|bad") as told, errors_named(tmp_path):
            raise given
        assert told.value.filename == said


def test_a_text_file_that_cannot_be_written_leaves_the_one_that_was_there(tmp_path):
    write_whole(tmp_path / "a/file", "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a/file", "new \ud800")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]
    assert (tmp_path / "a/file").read_text() == "old"


def test_the_folder_in_which_another_would_be_made_is_found(tmp_path, monkeypatch):
    assert nearest_existing(tmp_path) == tmp_path
    assert nearest_existing(tmp_path / "a/b/c") == tmp_path
    monkeypatch.chdir(tmp_path)
    assert nearest_existing(Path("a/b")) == tmp_path


def test_what_is_kept_between_runs_lies_where_a_user_or_a_system_says(monkeypatch):
    names = {"LIGHTNING_SQ_CACHE": "/own", "XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    found = [cache_folder()]
    for name in ("LIGHTNING_SQ_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
        found.append(cache_folder())
    assert found == [Path("/own"), Path("/xdg/lightning_sq"), Path("/home/me/.cache/lightning_sq")]
