"""What is measured so far, what is skipped and why, and how much time is left, for benchmarks that have a limit."""

from __future__ import annotations

import faulthandler
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from common.harness import Kind, Row, keep, report

from lightning_sq.errors import one_line


class Record:
    """Rows and reasons of one benchmark that ends within its minutes.

    Whoever is about to take long asks `allows` first. Each row is on the disk as soon as it is known, so that a run
    that is killed leaves what it had.

    Args:
        name: Of the benchmark.
        minutes: That it may take, from now on; infinity where there is no limit.
        settings: Kept with the numbers.
        judged: Whether rows say that they reached what was to be reached.
        on: The device; default: `usual_device`.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        name: str,
        minutes: float,
        settings: dict[str, Any],
        *,
        judged: bool = True,
        on: Kind | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.settings, self.judged, self.on = name, settings, judged, on
        self.rows: list[Row] = []
        self.skipped: list[str] = []
        self._clock, self._ends, self._began = clock, clock() + 60 * minutes, clock()

    @property
    def left(self) -> float:
        """Seconds."""
        return self._ends - self._clock()

    def add(self, *rows: Row) -> None:
        """Print and keep what was measured."""
        for row in rows:
            row.reached = row.reached if self.judged else None
            print(f"[{self._clock() - self._began:4.0f} s] {row.question}: {row.measured:.4g} {row.unit}", flush=True)
        self.rows += rows
        self._keep()

    def skip(self, what: str, why: str) -> None:
        """Say and keep what is not measured, and why."""
        print(f"[{self._clock() - self._began:4.0f} s] skipped: {what}: {why}", flush=True)
        self.skipped.append(f"{what}: {why}")
        self._keep()

    def allows(self, what: str, seconds: float) -> bool:
        """Whether so many seconds are left; if not, `what` is skipped by name."""
        if seconds <= self.left:
            return True
        left = max(0.0, self.left)
        self.skip(what, f"it would take about {seconds:.0f} s and {left:.0f} s are left; give more --minutes")
        return False

    @contextmanager
    def section(self, what: str) -> Iterator[None]:
        """What fails inside is skipped by its error, and the other sections go on."""
        try:
            yield
        except Exception as error:  # whatever a missing library, compiler or driver makes torch raise
            traceback.print_exc(file=sys.stderr)
            self.skip(what, one_line(error, named=True))

    def _keep(self) -> None:
        self.settings["seconds"] = self._clock() - self._began
        keep(self.name, self.rows, skipped=self.skipped, settings=self.settings, on=self.on)

    def report(self) -> None:
        """The table, the reasons and the file."""
        self.settings["seconds"] = self._clock() - self._began
        report(self.name, self.rows, skipped=self.skipped, settings=self.settings, on=self.on)


@contextmanager
def watchdog(minutes: float) -> Iterator[None]:
    """What hangs inside, in a driver say, ends the process a minute past its minutes, and says where each thread was.

    Nothing is cleaned up then; the rows of a `Record` are on the disk. Without a limit, infinity, nobody watches.
    """
    if math.isfinite(minutes):
        faulthandler.dump_traceback_later(60 * minutes + 60, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def is_installed(library: str) -> bool:
    """Whether a library, such as "nvidia.dali", can be imported; its parent too."""
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:
        return False
