"""One run at a time in an output folder, and a lock wherever a file system has some."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from lightning_sq.errors import InputError
from lightning_sq.run_files import STEP_FILE
from lightning_sq.slurm_job import JOB

LOCK_FILE = ".lock"
PATIENCE = 180.0
"""Seconds to wait for an earlier start of the same job: a file server keeps a lost node's locks, NFS's for 90 s."""

_held: set[int] = set()
"""Descriptors of this process's locks on folders: a process that is forked, a loader's worker, is not to keep them."""


def lock_output(output: Path, held: ExitStack) -> None:
    """Hold `output` until `held` closes or this process ends, however it ends: the kernel lets go of it then.

    On a file system that cannot lock that is said, and the run goes on without. A job that is queued again is not
    refused because of itself: it waits for what is left of its earlier start.

    Raises: InputError, with who it is, if another run holds it; and if the file that locks it is another user's.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / LOCK_FILE
    job = f" of job {os.environ[JOB]}" if JOB in os.environ else ""
    patient_until = time.monotonic() + PATIENCE
    while True:
        number = open_of_run(path, os.O_RDWR)
        try:
            is_locked = lock_file(number, output)
        except BlockingIOError:
            holder = os.pread(number, 200, 0).decode(errors="replace").strip() or "another run"
            os.close(number)
            if job and holder.endswith(job) and time.monotonic() < patient_until:
                time.sleep(1)
                continue
            raise InputError(
                f"{output} is in use by {holder}. Wait for it or end it, or write to another folder."
            ) from None
        if not is_locked:
            os.close(number)
            return
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(number), path.stat()):
                break
        os.close(number)  # the one before removed it in between
        output.mkdir(parents=True, exist_ok=True)
    _not_for_forked()
    _held.add(number)
    held.callback(_let_go, output, number)
    os.ftruncate(number, 0)
    os.pwrite(number, f"process {os.getpid()} on {socket.gethostname()}{job}\n".encode(), 0)


def lock_file(number: int, folder: Path, *, wait: bool = False) -> bool:
    """Lock an open file for this process alone; where the file system cannot lock, that is said, once, and it is False.

    Args:
        number: The file's descriptor.
        folder: What is locked by it.
        wait: Until another process lets go of it.
    Raises: BlockingIOError, unless it is to wait, if another process holds it.
    """
    try:
        fcntl.flock(number, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        _say_once(f"{folder} cannot be locked ({error.strerror}): see to it that only one run writes there.")
        return False
    return True


@contextmanager
def one_at_a_time(lock: Path, *, what: str) -> Iterator[None]:
    """One process after the other, where there are locks; the system lets go of one when its process ends, however.

    Args:
        lock: A file, made if need be. Where it cannot be, what is done does not wait: it may need to write nothing.
        what: The other process does, for people who wait for it.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("w")
    except OSError:
        yield
        return
    with stream:
        try:
            lock_file(stream.fileno(), lock.parent)
        except BlockingIOError:
            print(f"Another process {what}; waiting for it.", file=sys.stderr, flush=True)
            lock_file(stream.fileno(), lock.parent, wait=True)
        yield


@cache
def _say_once(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def open_of_run(path: Path, flags: int) -> int:
    """The descriptor of a small file of the run, which is made if it is not there.

    Raises: InputError if another user began the run and alone may write the file.
    """
    try:
        return os.open(path, flags | os.O_CREAT, 0o644)
    except PermissionError:
        raise InputError(
            f"{path} cannot be written: it is not yours. Have its owner allow it (chmod g+w), or write elsewhere."
        ) from None


@cache
def _not_for_forked() -> None:
    """Once: Python takes no function back. A lock goes when the last process that has its file open closes it."""
    os.register_at_fork(after_in_child=_close_held)


def _close_held() -> None:
    while _held:
        os.close(_held.pop())


def _let_go(output: Path, number: int) -> None:
    """Where no run has taken a step, a refused one made the file: it goes, and so does the folder if it is empty."""
    if number not in _held:  # but in the process that this one was forked from
        return
    with suppress(OSError):
        if not (output / STEP_FILE).exists():
            (output / LOCK_FILE).unlink()
            output.rmdir()
    _held.remove(number)
    os.close(number)
