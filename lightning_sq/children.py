"""Commands of `lightning-sq` that one of its commands starts: a SIGTERM to the parent is handed on to them.

Without it the parent would die alone and leave a training behind; and as the first process of a container, which the
kernel protects from signals that it has no handler for, it would not end at all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

_running: set[subprocess.Popen] = set()


@contextmanager
def handing_on() -> Iterator[None]:
    """End on SIGTERM by status 143, once every child has ended: a training saves where it is before it does."""
    if threading.current_thread() is not threading.main_thread():  # Python allows it nowhere else
        yield
        return
    before = signal.signal(signal.SIGTERM, _hand_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _hand_on(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # the children are waited for
    for child in tuple(_running):
        child.send_signal(number)
    raise SystemExit(128 + number)


@contextmanager
def _sigterm_held_back() -> Iterator[list[int]]:
    """The signals that came inside: a child that is only being started cannot be told of them."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


def run_command(words: Sequence[str], **options: Any) -> int:
    """`lightning-sq` with `words` in a process of its own: its exit status. `options` are Popen's."""
    with ExitStack() as ended:  # whatever comes from here on, the child is waited for
        with _sigterm_held_back() as came:
            child = ended.enter_context(subprocess.Popen([sys.executable, "-m", "lightning_sq", *words], **options))
            _running.add(child)
        for number in came:
            os.kill(os.getpid(), number)
        status = child.wait()
        _running.discard(child)
    return status
