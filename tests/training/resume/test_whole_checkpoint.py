"""Checkpoint files are whole or not there, and say themselves whether they are."""

from __future__ import annotations

import errno
import os
import stat
import subprocess

import pytest
import torch

from lightning_sq.models.checkpoint_format import CHECKPOINT_KEY
from lightning_sq.training.resume.checkpointing import WholeFileIO
from lightning_sq.training.resume.start import choose_start, seconds_saved
from lightning_sq.training.resume.whole_checkpoint import is_whole, write_checkpoint

CONTENT = {"global_step": 3, "weights": torch.arange(5000.0), "nested": {"text": "a", "numbers": [1, 2]}}


def test_what_is_written_is_read_by_torch_and_carries_its_sha256(tmp_path):
    path = tmp_path / "last.ckpt"
    write_checkpoint(CONTENT, path)
    content = torch.load(path, weights_only=True)
    assert torch.equal(content.pop("weights"), CONTENT["weights"])
    assert content == {"global_step": 3, "nested": CONTENT["nested"]}
    assert is_whole(path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("place", [10, 3000, -100, -1])
def test_one_flipped_bit_anywhere_is_seen(tmp_path, place):
    path = tmp_path / "last.ckpt"
    write_checkpoint(CONTENT, path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert not is_whole(path)


@pytest.mark.parametrize("kept", [0, 1, 100, -1, -200])
def test_a_truncated_file_is_not_whole(tmp_path, kept):
    path = tmp_path / "last.ckpt"
    write_checkpoint(CONTENT, path)
    path.write_bytes(path.read_bytes()[:kept])
    assert not is_whole(path)


def test_a_checkpoint_without_a_sha256_is_judged_by_the_sums_of_its_zip(tmp_path):
    path = tmp_path / "hpc_ckpt_1.ckpt"
    torch.save(CONTENT, path)
    assert is_whole(path)
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(content)
    assert not is_whole(path)


def test_as_many_as_asked_for_are_kept(tmp_path):
    io = WholeFileIO(keep_last=3)
    for step in range(5):
        io.save_checkpoint({"global_step": step}, tmp_path / "last.ckpt")
        io.save_checkpoint({"global_step": step}, tmp_path / "best.ckpt")
    found = {path.name: torch.load(path)["global_step"] for path in tmp_path.iterdir()}
    assert found == {"last.ckpt": 4, "last-1.ckpt": 3, "last-2.ckpt": 2, "best.ckpt": 4}


def test_resuming_takes_of_checkpoints_of_the_same_step_the_newest_whole_one_lightnings_or_ours(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    paths = [folder / "best.ckpt", folder / "last-1.ckpt", tmp_path / "hpc_ckpt_2.ckpt", folder / "last.ckpt"]
    for age, path in enumerate(paths):
        write_checkpoint(CONTENT | content(3, 70.5), path)
        os.utime(path, ns=(age, age))
    for newest in reversed(paths):
        assert choose_start(tmp_path, None, resume=True, overwrite=False) == newest
        stat = newest.stat()
        newest.write_bytes(newest.read_bytes()[:-300])
        os.utime(newest, ns=(stat.st_mtime_ns, stat.st_mtime_ns))


def content(step: int, seconds: float | None) -> dict:
    """Of a checkpoint, `seconds` after its run began; None for one of before that was saved."""
    plan = {} if seconds is None else {"plan": {"elapsed": seconds}}
    return {"global_step": step, CHECKPOINT_KEY: {"resume": plan}}


@pytest.mark.parametrize("saved", [[(1000, 70.5), (2000, 140.5)], [(1000, None), (2000, None)]])
def test_resuming_takes_the_last_checkpoint_whatever_its_file_says_of_its_time(tmp_path, caplog, saved):
    last, before = tmp_path / "checkpoints/last.ckpt", tmp_path / "checkpoints/last-1.ckpt"
    io = WholeFileIO(keep_last=2)
    for step, seconds in saved:
        io.save_checkpoint(content(step, seconds) | {"weights": torch.zeros(5000)}, last)
    os.utime(last, (1.7e9, 1.7e9))  # by a node whose clock is behind, or copied before the other one
    assert choose_start(tmp_path, None, resume=True, overwrite=False) == last
    size = last.stat().st_size
    for kept in (size - 10, size // 2, 0):
        os.truncate(last, kept)
        with caplog.at_level("INFO"):
            assert choose_start(tmp_path, None, resume=True, overwrite=False) == before
        assert f"{last} is damaged and passed over for the one before it." in caplog.messages
        caplog.clear()


def test_a_run_that_went_back_to_an_earlier_checkpoint_goes_on_from_there_and_not_from_what_it_left(tmp_path):
    last, best = tmp_path / "checkpoints/last.ckpt", tmp_path / "checkpoints/best.ckpt"
    io = WholeFileIO(keep_last=2)
    io.save_checkpoint(content(5000, 500.0), best)
    io.save_checkpoint(content(9000, 900.0), last)  # whose loss has grown, say
    io.save_checkpoint(content(5500, 960.0), last)  # from the best one on
    os.utime(last, (1.7e9, 1.7e9))
    assert choose_start(tmp_path, None, resume=True, overwrite=False) == last
    io.save_checkpoint(content(5500, 961.0), best)  # behind the validation that belongs there
    assert choose_start(tmp_path, None, resume=True, overwrite=False) == best


def test_the_clock_of_a_run_that_goes_back_begins_behind_what_any_checkpoint_says(tmp_path):
    assert seconds_saved(tmp_path) == 0
    io = WholeFileIO(keep_last=2)
    io.save_checkpoint(content(5000, 500.0), tmp_path / "checkpoints/best.ckpt")
    io.save_checkpoint(content(9000, 1200.0), tmp_path / "checkpoints/last.ckpt")  # behind a long validation
    (tmp_path / "checkpoints/best_robust.ckpt").write_bytes(b"cut")
    assert seconds_saved(tmp_path) == 1200


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_file_system_that_cannot_write_a_folder_through_is_not_a_failure_to_save(tmp_path, monkeypatch, number):
    def fsync(descriptor, really=os.fsync):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        really(descriptor)

    monkeypatch.setattr("lightning_sq.training.resume.whole_checkpoint.os.fsync", fsync)
    io = WholeFileIO(keep_last=1)
    io.save_checkpoint(CONTENT, tmp_path / "last.ckpt")
    assert is_whole(tmp_path / "last.ckpt")
    assert (io.failure is None) == (number == errno.EINVAL)


def test_a_full_disk_leaves_the_checkpoint_before_as_it_was_and_is_reported(tmp_path, caplog):
    full = tmp_path / "full"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(full)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    try:
        io, path = WholeFileIO(keep_last=1), full / "last.ckpt"
        io.save_checkpoint(CONTENT, path)
        before = path.read_bytes()
        with caplog.at_level("INFO"):
            io.save_checkpoint({"global_step": 4, "weights": torch.zeros(10**6)}, path)
        assert path.read_bytes() == before
        assert [file.name for file in full.iterdir()] == ["last.ckpt"]
        assert io.failure == f"{path} was not written at step 4: No space left on device."
        assert "The one before it is as it was" in caplog.text
        io.save_checkpoint(CONTENT, path)
        assert io.failure is None
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_a_writer_that_is_killed_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    write_checkpoint(CONTENT, path)
    before = path.read_bytes()
    if (child := os.fork()) == 0:  # dies when half is on the disk
        try:
            monkeypatch.setattr("lightning_sq.training.resume.whole_checkpoint.os.fsync", lambda number: os._exit(9))
            write_checkpoint(CONTENT | {"global_step": 4}, path)
        finally:
            os._exit(1)  # and not back into pytest
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert path.read_bytes() == before
    assert is_whole(path)
