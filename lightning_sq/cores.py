"""How many CPU cores there are to work with."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def usable_cores() -> int:
    """Of the machine's, those that this process may use: a job may be bound to some, a container have a part of all."""
    return min([len(os.sched_getaffinity(0)), *map(math.ceil, _quotas())])


def _quotas() -> Iterator[float]:
    """Of CPU time, in cores: the limits of this process's control groups, and of those that these are in.

    Inside a container the own group may be named as it is outside; what it has then stands at the top.
    """
    with suppress(OSError):
        for line in (ROOT / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            top = ROOT / "sys/fs/cgroup" / ("cpu" if controllers else "")
            for name in (PurePosixPath(group), *PurePosixPath(group).parents):
                with suppress(OSError, ValueError):  # no such group here, or "max"
                    quota, period = _limit(top / name.relative_to("/"), first_version=bool(controllers))
                    if quota > 0:
                        yield quota / period


def _limit(folder: Path, *, first_version: bool) -> tuple[int, int]:
    """(CPU time, in so much time) of a control group of version 1 or 2; the first is -1 where it has no limit."""
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if first_version else ("cpu.max",)
    quota, period = (word for name in names for word in (folder / name).read_text().split())
    return int(quota), int(period)
