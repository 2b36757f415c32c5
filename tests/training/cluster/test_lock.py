"""One run at a time in an output folder."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

import pytest

from lightning_sq.errors import InputError
from lightning_sq.training.cluster.lock import lock_output


def test_the_second_of_two_runs_is_refused_and_told_who_holds_the_folder(tmp_path):
    with ExitStack() as first, ExitStack() as second:
        lock_output(tmp_path / "run", first)
        (tmp_path / "run/config.yaml").touch()
        with pytest.raises(InputError, match=f"run is in use by process {os.getpid()} on "):
            lock_output(tmp_path / "run", second)
    with ExitStack() as third:
        lock_output(tmp_path / "run", third)


def test_a_run_that_is_killed_leaves_no_lock(tmp_path):
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        with ExitStack() as held:
            lock_output(tmp_path, held)
            os.write(writer, b"x")
            signal.pause()
    os.read(reader, 1)
    with ExitStack() as ours, pytest.raises(InputError, match=f"process {child} "):
        lock_output(tmp_path, ours)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with ExitStack() as ours:
        lock_output(tmp_path, ours)


def test_a_folder_that_was_made_for_a_run_that_was_refused_is_not_left(tmp_path):
    with ExitStack() as held:
        lock_output(tmp_path / "a/run", held)
    assert not (tmp_path / "a/run").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    with ExitStack() as held:
        lock_output(tmp_path / "mine", held)
    assert (tmp_path / "mine/file").exists()
