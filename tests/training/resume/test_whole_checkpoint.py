"""Checkpoint files are whole or not there, and say themselves whether they are."""

from __future__ import annotations

import os
import subprocess

import pytest
import torch

from lightning_sq.training.resume.checkpointing import WholeFileIO
from lightning_sq.training.resume.start import choose_start
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


def test_resuming_takes_the_newest_whole_checkpoint_lightnings_or_ours(tmp_path, caplog):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    paths = [folder / "best.ckpt", folder / "last-1.ckpt", tmp_path / "hpc_ckpt_2.ckpt", folder / "last.ckpt"]
    for age, path in enumerate(paths):
        write_checkpoint(CONTENT, path)
        os.utime(path, ns=(age, age))
    for newest in reversed(paths):
        assert choose_start(tmp_path, None, resume=True, overwrite=False) == newest
        stat = newest.stat()
        newest.write_bytes(newest.read_bytes()[:-300])
        os.utime(newest, ns=(stat.st_mtime_ns, stat.st_mtime_ns))


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
