"""The same work for a million items in threads, without a million of them waiting in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TypeVar

AT_ONCE = 4096
"""Items that an executor is given; each costs it two kilobytes and some microseconds beforehand."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_parts(pool: Executor, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """`pool.map`, which would be given all of `items` before the first result."""
    for first in range(0, len(items), AT_ONCE):
        yield from pool.map(function, items[first : first + AT_ONCE])
