"""Commands of `lightning-sq` that one of its commands starts: a SIGTERM to the parent is handed on to them.

Without it the parent would die alone and leave a training behind; and as the first process of a container, which the
kernel protects from signals that it has no handler for, it would not end at all. The other processes of a launch, which
Lightning starts, end with the first one, of a training as of an evaluation; those of torchrun and srun are theirs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

from lightning_sq.errors import ERROR, ProcessLostError
from lightning_sq.stop_request import handled

FIRST = "LIGHTNING_SQ_FIRST_PROCESS"
"""The number of the process that starts the others of a launch, for these."""
PR_SET_PDEATHSIG = 1
"""Of linux/prctl.h."""

_running: set[subprocess.Popen] = set()
_handed_on: list[int] = []
"""Signals that the children were told of. One that another thread was only starting hears of them from that thread."""


@contextmanager
def handing_on() -> Iterator[None]:
    """End on SIGTERM by status 143, once every child has ended: a training saves where it is before it does."""
    _handed_on.clear()
    with handled(_hand_on, signal.SIGTERM):
        yield


def _hand_on(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # the children are waited for
    _handed_on.append(number)
    for child in tuple(_running):
        child.send_signal(number)
    raise SystemExit(128 + number)


@contextmanager
def _sigterm_held_back() -> Iterator[list[int]]:
    """The signals that came inside: a child that is only being started cannot be told of them."""
    came: list[int] = []
    with handled(lambda number, frame: came.append(number), signal.SIGTERM):
        yield came


def run_command(words: Sequence[str], **options: Any) -> int:
    """`lightning-sq` with `words` in a process of its own: its exit status. `options` are Popen's."""
    with ExitStack() as ended:  # whatever comes from here on, the child is waited for
        with _sigterm_held_back() as came:
            child = ended.enter_context(subprocess.Popen([sys.executable, "-m", "lightning_sq", *words], **options))
            _running.add(child)
            for number in tuple(_handed_on):
                child.send_signal(number)
        for number in came:
            os.kill(os.getpid(), number)
        status = child.wait()
        _running.discard(child)
    return status


def refusal_of(words: Sequence[str]) -> str | None:
    """The last that `lightning-sq` with `words` says where it fails; None where it does not. Nothing of it is shown."""
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        failed = run_command(words, stdout=subprocess.DEVNULL, stderr=said)
        said.seek(0)
        return last_words(said.read()) if failed else None


def last_words(said: str) -> str:
    """The sentence that the output of a command ends with."""
    lines = said.strip().splitlines() or ["It said nothing."]
    return lines[-1].removeprefix(ERROR)


def end_with_first() -> None:
    """Have the kernel kill this process once the first one of its launch has ended, however that did.

    The first one calls it too, before Lightning starts the others by the same words. None of them is left to work on,
    with its GPU, beside the next start.

    Raises: ProcessLostError if the first one has ended already.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.environ[FIRST] = str(os.getpid())
    elif FIRST in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(os.environ[FIRST]):
            raise ProcessLostError("The process that started this one has ended. Start the same command again.")
