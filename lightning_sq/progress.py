"""Progress bars for everything that is not Lightning's own loop: what is done, how far, and how long it will take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column


@contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error that appears with the first call of `advance(done, total)` and stays when it is full.

    A last column shows what is passed as `advance(done, total, note)`.
    """
    console = Console(stderr=True)
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
