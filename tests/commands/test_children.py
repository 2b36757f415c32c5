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


STARTING = """
import os, signal, subprocess, sys
from lightning_sq import children
sys.executable = sys.argv[1]
class Slow(subprocess.Popen):
    def __init__(self, *words, **options):
        super().__init__(*words, **options)
        while not os.path.exists(sys.argv[2]):
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # the child runs, and nobody knows it yet
children.subprocess.Popen = Slow
with children.handing_on():
    children.run_command(["fit"])
"""


def test_a_sigterm_while_a_child_is_being_started_reaches_it(tmp_path):
    child = tmp_path / "child"
    child.write_text(CHILD.format(folder=tmp_path))
    child.chmod(0o755)
    words = [sys.executable, "-c", STARTING, str(child), str(tmp_path / "started")]
    assert subprocess.run(words, timeout=60).returncode == 128 + signal.SIGTERM
    assert (tmp_path / "saved").exists()
