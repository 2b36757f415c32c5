"""Where the processes of a test meet."""

from __future__ import annotations

import contextlib
import random
import socket


def port_that_stays_free() -> int:
    """A port below those that Linux gives to whoever connects, so that nobody gets it before it is listened at."""
    for port in random.SystemRandom().sample(range(20_000, 30_000), 100):  # not the same one wherever a run is seeded
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("100 ports, and none is free")
