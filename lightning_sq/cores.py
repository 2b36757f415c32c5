"""How many CPU cores there are to work with."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Of the machine's, those that this process may use: a container or a job may have a part of them."""
    return len(os.sched_getaffinity(0))
