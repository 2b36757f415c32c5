"""A request to stop, sent as a signal: only noted here, and acted upon where all processes can leave together.

SLURM sends SIGUSR1 before the time limit (`--signal=USR1@300`) and SIGTERM before it takes the nodes away; Docker and
torchrun send SIGTERM. To do anything inside the handler is to do it in the middle of an all-reduce.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
STOPPED = 75
"""Exit status of a run that saved where it was because it was asked to stop: EX_TEMPFAIL, "try again"."""

_received: list[str] = []
_began = [time.monotonic()]


@contextmanager
def listening() -> Iterator[None]:
    """Note `SIGNALS` instead of dying of them, from before torch is imported to the end of the command.

    A run that has left because of one ignores them from then on (`training/cluster/leaving`): the status that says so
    has still to leave the process, which takes a while, and who asks twice is not to spoil it.
    """
    _received.clear()
    _began[0] = time.monotonic()
    try:
        with handled(_note, *SIGNALS):
            yield
    finally:
        _received.clear()


@contextmanager
def handled(handler: Callable[[int, FrameType | None], object], *numbers: int) -> Iterator[None]:
    """`handler` takes these signals inside; one that is ignored by the end stays so. In another thread than the main
    one, where Python allows none, nothing is changed.
    """
    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers} if in_main else {}
    try:
        yield
    finally:
        for number, old in before.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, old)


def _note(number: int, frame: FrameType | None) -> None:
    _received.append(signal.Signals(number).name)


def stop_requested() -> str | None:
    """The name of the signal that has come to this process, if any."""
    return _received[0] if _received else None


def seconds_since_start() -> float:
    """Since `listening` began, the imports included: a cluster counts them too."""
    return time.monotonic() - _began[0]
