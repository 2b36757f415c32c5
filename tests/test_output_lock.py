"""One run at a time in an output folder."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from lightning_sq.errors import InputError
from lightning_sq.output_lock import lock_output
from lightning_sq.training.cluster.last_words import LastWords
from tests.conftest import REPOSITORY


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
        try:
            with ExitStack() as held:
                lock_output(tmp_path, held)
                os.write(writer, b"x")
                signal.pause()
        finally:
            os._exit(1)  # and not back into pytest
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    with ExitStack() as ours, pytest.raises(InputError, match=f"process {child} "):
        lock_output(tmp_path, ours)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with ExitStack() as ours:
        lock_output(tmp_path, ours)


def test_a_process_that_a_run_has_forked_does_not_keep_its_lock(tmp_path):
    """As a loader's worker, which only after seconds sees that the run was killed."""
    reader, writer = os.pipe()
    if (run := os.fork()) == 0:
        try:
            with ExitStack() as held:
                lock_output(tmp_path, held)
                if os.fork() == 0:
                    os.write(writer, str(os.getpid()).encode())
                signal.pause()
        finally:
            os._exit(1)  # and not back into pytest
    os.close(writer)
    worker = int(os.read(reader, 20))
    try:
        os.kill(run, signal.SIGKILL)
        os.waitpid(run, 0)
        with ExitStack() as ours:
            lock_output(tmp_path, ours)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_job_that_is_queued_again_waits_for_its_earlier_start_to_let_go_and_another_job_does_not(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with ExitStack() as second:
        first, waited = ExitStack(), []
        lock_output(tmp_path, first)
        (tmp_path / ".step").touch()
        monkeypatch.setattr("time.sleep", lambda seconds: waited.append(seconds) or first.close())
        lock_output(tmp_path, second)
        assert waited == [1]
        monkeypatch.setenv("SLURM_JOB_ID", "17")
        with ExitStack() as third, pytest.raises(InputError, match=r"is in use by process .* of job 7\."):
            lock_output(tmp_path, third)
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setattr("lightning_sq.output_lock.PATIENCE", 0)
        with ExitStack() as third, pytest.raises(InputError, match=r"is in use by process .* of job 7\."):
            lock_output(tmp_path, third)
    assert waited == [1]


def test_where_the_file_system_cannot_lock_that_is_said_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with ExitStack() as held:
        lock_output(tmp_path / "run", held)
        assert (tmp_path / "run").is_dir()
    assert f"{tmp_path / 'run'} cannot be locked (No locks available): see to it that" in capsys.readouterr().err


def test_a_folder_that_was_made_for_a_run_that_was_refused_is_not_left(tmp_path):
    with ExitStack() as held:
        lock_output(tmp_path / "a/run", held)
    assert not (tmp_path / "a/run").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    with ExitStack() as held:
        lock_output(tmp_path / "mine", held)
    assert (tmp_path / "mine/file").exists()


def test_what_another_user_left_in_a_folder_of_a_group_is_refused_in_a_sentence(tmp_path, monkeypatch):
    def not_yours(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("os.open", not_yours)  # root would be let in
    with ExitStack() as held, pytest.raises(InputError, match=r"run/\.lock cannot be written: it is not yours\. Have"):
        lock_output(tmp_path / "run", held)
    with pytest.raises(InputError, match=r"run/\.step cannot be written: it is not yours\."):
        LastWords(tmp_path / "run").on_train_start(SimpleNamespace(is_global_zero=True), None)


def test_a_command_that_locks_a_folder_imports_neither_lightning_nor_torch():
    code = "import sys, lightning_sq.output_lock; sys.exit(bool({'lightning', 'torch'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=REPOSITORY).returncode == 0
