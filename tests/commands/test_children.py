"""A command that starts others does not leave them behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

CHILD = """#!/bin/sh
trap 'sleep 0.3; touch {folder}/saved; exit 75' TERM
touch {folder}/started
while :; do sleep 0.02; done
"""
PARENT = """
import sys
from lightning_sq.children import handing_on, run_command
sys.executable = sys.argv[1]
with handing_on():
    run_command(["fit"])
"""


def test_sigterm_is_handed_on_and_the_child_is_waited_for(tmp_path):
    child = tmp_path / "child"
    child.write_text(CHILD.format(folder=tmp_path))
    child.chmod(0o755)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(child)])
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(60) == 128 + signal.SIGTERM
    assert (tmp_path / "saved").exists()
