from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
import zlib
from array import array
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lightning_sq.__main__ import main
from lightning_sq.data import listing
from lightning_sq.data.index import index_path, kept_index, load_index, look_through
from lightning_sq.errors import InputError
from lightning_sq.paths import whole_file
from lightning_sq.stop_request import STOPPED, listening


@pytest.fixture
def folder(tmp_path) -> Path:
    for label, name in enumerate(("ant", "bee")):
        (tmp_path / "val" / name).mkdir(parents=True)
        for i in range(3):
            pixels = np.full((20 + i, 30, 3), 40 * label, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "val" / name / f"{i}.jpg")
    return tmp_path / "val"


def checked_files(folder: Path, cache: Path | None) -> int:
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


@pytest.mark.filterwarnings("error")
def test_what_is_kept_is_the_index_also_when_files_have_gone_or_cannot_be_read(folder, tmp_path, monkeypatch):
    (folder / "bee/1.jpg").write_bytes(b"")
    load_index(folder, cache=tmp_path)
    (folder / "ant/0.jpg").unlink()  # nothing is left to be looked at
    expected = load_index(folder, cache=tmp_path)
    monkeypatch.delattr("lightning_sq.data.index.list_files")
    found = kept_index(folder, cache=tmp_path)
    assert len(found) == 4
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.unreadable == expected.unreadable == (("bee/1.jpg", "empty"),)
    assert found.fingerprint() == expected.fingerprint()
    assert np.array_equal(found.digests, expected.digests)


def test_what_is_kept_of_other_classes_or_is_not_finished_is_no_index(folder, tmp_path):
    assert kept_index(folder, cache=tmp_path) is None

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_index(folder, cache=tmp_path, progress=interrupt)
    assert kept_index(folder, cache=tmp_path) is None
    load_index(folder, cache=tmp_path)
    assert len(kept_index(folder, cache=tmp_path)) == 6
    (folder / "bee").rename(folder / "cow")
    assert kept_index(folder, cache=tmp_path) is None


def test_a_damaged_index_is_made_again(folder, tmp_path):
    cache = tmp_path / "cache"
    load_index(folder, cache=cache)
    index_path(folder, cache).write_bytes(b"PK\x03\x04 not an index")
    assert checked_files(folder, cache) == 6


def test_a_damaged_byte_anywhere_in_an_index_is_never_an_error(folder, tmp_path):
    cache = tmp_path / "cache"
    expected = load_index(folder, cache=cache)
    path = index_path(folder, cache)
    whole = path.read_bytes()
    for position in range(0, len(whole), 9):
        damaged = bytearray(whole)
        damaged[position] ^= 0x5A
        path.write_bytes(damaged)
        found = load_index(folder, cache=cache)
        assert found.paths == expected.paths
        assert np.array_equal(found.sizes, expected.sizes)


@pytest.mark.parametrize("error", [zlib.error("bad"), NotImplementedError("method 97"), RuntimeError, MemoryError])
def test_whatever_a_damaged_index_raises_it_is_made_again(folder, tmp_path, monkeypatch, error):
    def load(*args, **options):
        raise error

    load_index(folder, cache=tmp_path / "cache")
    monkeypatch.setattr("lightning_sq.data.index_file.np.load", load)
    assert checked_files(folder, tmp_path / "cache") == 6


def test_columns_of_different_lengths_are_no_index(folder, tmp_path):
    load_index(folder, cache=tmp_path)
    path = index_path(folder, tmp_path)
    with np.load(path) as saved:
        columns = {name: saved[name] for name in saved.files}
    np.savez(path, **columns | {"heights": columns["heights"][:2]})
    assert checked_files(folder, tmp_path) == 6


def test_writers_at_the_same_time_have_names_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("os.getpid", lambda: 1)  # as on two machines
    path = tmp_path / "index.npz"
    with whole_file(path) as first, whole_file(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert [p.name for p in tmp_path.iterdir()] == ["index.npz"]
    assert path.read_text() in ("first", "second")


def test_a_file_that_is_not_written_whole_is_not_written_at_all(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("before")

    def interrupted() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half of")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "before"


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_an_error_of_the_system_is_no_verdict_on_the_image(folder, tmp_path, monkeypatch, number):
    read_bytes = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == "1.jpg" and path.parent.name == "bee":
            raise OSError(number, os.strerror(number), str(path))
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        mendable = number == errno.EACCES  # the others pass: a cluster tries them again
        sentence = rf"bee/1\.jpg cannot be read \({os.strerror(number)}\)" if mendable else os.strerror(number)
        with pytest.raises(InputError if mendable else OSError, match=sentence):
            load_index(folder, cache=tmp_path / "cache")
    index = load_index(folder, cache=tmp_path / "cache")
    assert len(index) == 6
    assert index.unreadable == ()


@pytest.mark.parametrize(("number", "status"), [(errno.EIO, 1), (errno.ESTALE, 1), (errno.EACCES, 2)])
def test_a_disk_that_fails_while_a_folder_is_listed_is_no_slip_of_who_typed(
    folder, tmp_path, monkeypatch, capsys, number, status
):
    def failing(path, *more, **options):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(listing.os, "scandir", failing)
    monkeypatch.setenv("LIGHTNING_SQ_CACHE", str(tmp_path / "cache"))
    assert main(["data", "check", str(folder)]) == status
    told = capsys.readouterr().err
    assert os.strerror(number) in told
    assert told.count("lightning-sq: error: ") == 1


def test_a_disk_that_fails_while_an_image_is_read_gives_an_error_and_no_other_image(folder, tmp_path):
    index = load_index(folder, cache=tmp_path / "cache")
    path = folder / index.paths[0]
    path.unlink()
    path.symlink_to("/proc/self/mem")  # of which the first byte cannot be read
    with pytest.raises(OSError, match="Input/output error"):
        index.read(0)


def test_what_was_looked_at_before_an_interruption_is_kept(folder, tmp_path):
    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_index(folder, cache=tmp_path / "cache", progress=interrupt)
    assert checked_files(folder, tmp_path / "cache") == 2


def test_to_look_again_and_be_interrupted_loses_nothing_that_was_known(folder, tmp_path):
    def interrupt(done: int, total: int) -> None:
        assert total == 6
        if done == 2:
            raise KeyboardInterrupt

    load_index(folder, cache=tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        load_index(folder, cache=tmp_path / "cache", again=True, progress=interrupt)
    assert checked_files(folder, tmp_path / "cache") == 0
    assert len(kept_index(folder, cache=tmp_path / "cache")) == 6


def test_a_hidden_file_is_no_image(folder, tmp_path):
    (folder / "ant/._0.jpg").write_bytes(b"what macOS keeps beside each file")
    index = load_index(folder, cache=tmp_path / "cache")
    assert (len(index), index.unreadable) == (6, ())


def test_a_first_look_is_left_when_the_cluster_asks_and_goes_on_afterwards(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIGHTNING_SQ_CACHE", str(tmp_path / "cache"))
    with listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(SystemExit) as left:
            look_through(folder)
    assert left.value.code == STOPPED
    assert "because SIGUSR1 asked for it" in capsys.readouterr().out
    assert 0 < checked_files(folder, None) < 6
    assert len(look_through(folder)) == 6


def test_a_broken_link_is_named_and_looked_at_again(folder, tmp_path):
    (folder / "ant/link.jpg").symlink_to(tmp_path / "later.jpg")
    (folder / "ant/loop.jpg").symlink_to(folder / "ant/loop.jpg")
    index = load_index(folder, cache=tmp_path / "cache")
    assert index.unreadable == (("ant/link.jpg", "a broken link"), ("ant/loop.jpg", "a broken link"))
    shutil.copy(folder / "ant/0.jpg", tmp_path / "later.jpg")
    assert "ant/link.jpg" in load_index(folder, cache=tmp_path / "cache").paths


def test_a_pipe_is_no_image_and_nobody_waits_for_it(folder, tmp_path):
    os.mkfifo(folder / "ant/pipe.jpg")
    assert load_index(folder, cache=tmp_path / "cache").unreadable == (("ant/pipe.jpg", "not a regular file"),)


def test_classes_without_a_readable_image_are_known(folder, tmp_path):
    (folder / "cow").mkdir()
    for path in (folder / "bee").iterdir():
        path.write_bytes(b"")
    assert load_index(folder, cache=tmp_path / "cache").empty_classes == ("bee", "cow")


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


@pytest.mark.parametrize("letter", ["a", "\N{ANT}", os.fsdecode(b"\xff")], ids=["1 byte", "4 bytes", "no text"])
def test_a_folder_with_the_longest_name_that_there_can_be_has_an_index_and_a_report(folder, tmp_path, letter):
    name = letter * (255 // len(os.fsencode(letter)))
    longest = tmp_path / name / name
    shutil.copytree(folder, longest)
    assert main(["data", "check", str(longest)]) == 0
    assert index_path(longest).is_file()
    assert index_path(longest) != index_path(longest.parent / f"{name[:-1]}b")


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="LIGHTNING_SQ_CACHE"):
        assert len(load_index(folder, cache=tmp_path / "file" / "cache")) == 6


@pytest.mark.parametrize("share_computing", [0.2, 0.9])
def test_many_threads_list_a_folder_whose_answers_are_waited_for_and_one_lists_another(
    tmp_path, monkeypatch, share_computing
):
    names = tuple(f"{k:03d}" for k in range(3 * listing.CLASSES_AT_ONCE))
    threads = []

    def list_class(_folder, name):
        threads.append(threading.get_ident())
        return listing.Listed([name], array("q", [1]), array("q", [2]))

    clock = SimpleNamespace(
        perf_counter=lambda: float(len(threads)), process_time=lambda: share_computing * len(threads)
    )
    monkeypatch.setattr(listing, "time", clock)
    monkeypatch.setattr(listing, "_list_class", list_class)
    files, labels = listing.list_files(tmp_path, names)
    assert (files.paths, labels.tolist()) == (list(names), list(range(len(names))))
    assert (set(files.bytes.tolist()), set(files.mtimes.tolist())) == ({1}, {2})
    here = [thread == threading.get_ident() for thread in threads]
    others, rest = here[: listing.CLASSES_AT_ONCE], here[listing.CLASSES_AT_ONCE :]
    assert not any(others)
    assert set(rest) == {share_computing > 0.5}


def test_the_fingerprint_sees_a_file_that_is_missing_and_one_of_another_size(few_digits, tmp_path):
    index = load_index(few_digits / "train", cache=tmp_path)
    found = index.fingerprint()
    assert index.fingerprint() == found
    assert index.take(np.arange(len(index) - 1)).fingerprint() != found
    index.sizes[5] += 1
    assert index.fingerprint() != found


def test_the_fingerprint_takes_a_name_that_is_not_utf_8_by_its_bytes(few_digits, tmp_path):
    index = load_index(few_digits / "train", cache=tmp_path)
    odd = [
        replace(index, paths=(os.fsdecode(b"0/caf" + end + b".jpg"), *index.paths[1:])) for end in (b"\xe9", b"\xe8")
    ]
    assert len({each.fingerprint() for each in (index, *odd)}) == 3
