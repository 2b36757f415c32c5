"""Progress of everything that is not Lightning's own loop: what is done, how far, and how long it will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

LINE_SECONDS = 30.0
"""Between two lines of a log."""

Advance = Callable[..., None]


def progress_bar(what: str, unit: str) -> AbstractContextManager[Advance]:
    """Progress on standard error, from the first call of `advance(done, total)` or `advance(done, total, note)` on.

    On a terminal it is a bar that stays when it is full; in a log a line every half a minute, and one at the end.
    """
    console = Console(stderr=True)
    return _bar(what, unit, console) if console.is_terminal else _lines(what, unit)


@contextmanager
def _bar(what: str, unit: str, console: Console) -> Iterator[Advance]:
    progress = Progress(
        TextColumn(
            "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", min_width=12)
        ),
        BarColumn(bar_width=16),
        TextColumn("{task.completed:,}/{task.total:,}"),
        TextColumn(unit),
        TimeElapsedColumn(table_column=Column(min_width=7)),
        TextColumn("left", table_column=Column(min_width=4)),
        TimeRemainingColumn(table_column=Column(min_width=7)),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
    )
    task = None

    def advance(done: int, total: int, note: str = "") -> None:
        nonlocal task
        if task is None:
            progress.start()
            task = progress.add_task(what, total=total, note=note)
        progress.update(task, completed=done, total=total, note=note)

    try:
        yield advance
    finally:
        if task is not None:
            progress.stop()


@contextmanager
def _lines(what: str, unit: str) -> Iterator[Advance]:
    began = printed = time.monotonic()
    newest = ""
    first: tuple[float, int] | None = None

    def advance(done: int, total: int, note: str = "") -> None:
        nonlocal printed, newest, first
        now = time.monotonic()
        if first is None:
            first = now, done  # what an earlier start has done is in it, which says nothing about the speed
        since, taken = now - first[0], done - first[1]
        left = f", {_clock(since * (total - done) / taken)} left" if taken else ""
        newest = f"{what}: {done:,}/{total:,} {unit}, {_clock(now - began)} so far{left}{note and f', {note}'}"
        if now - printed >= LINE_SECONDS:
            printed = now
            print(newest, file=sys.stderr, flush=True)
            newest = ""

    try:
        yield advance
    finally:
        if newest:
            print(newest, file=sys.stderr, flush=True)


def _clock(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))
