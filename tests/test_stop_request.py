"""Signals that ask a run to stop, from the first import to the end of the process."""

from __future__ import annotations

import subprocess
import sys

from lightning_sq.stop_request import STOPPED
from tests.conftest import REPOSITORY

ASKED_TWICE = """
import atexit, os, signal
from lightning_sq.stop_request import SIGNALS, STOPPED, listening
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
with listening():
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # as a run does that has left
    raise SystemExit(STOPPED)
"""


def test_who_asks_again_while_the_process_ends_does_not_change_its_status():
    assert subprocess.run([sys.executable, "-c", ASKED_TWICE], check=False, cwd=REPOSITORY).returncode == STOPPED
