"""A command that starts others does not leave them behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

CHILD = """#!/bin/sh
trap 'sleep 0.3; touch {folder}/saved; exit 75' TERM
touch {folder}/started
while :; do sleep 0.02; done
"""
PARENT = """
import sys
from lightning_sq.__main__ import main
from lightning_sq.commands import demo
demo.main = lambda words: demo.run_command(["fit"])
sys.executable = sys.argv[1]
main(["demo"])
"""


def test_the_demo_hands_sigterm_on_and_waits_for_its_child(tmp_path):
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
import os, signal, subprocess, sys, threading
from concurrent.futures import ThreadPoolExecutor, wait
from lightning_sq import children
sys.executable = sys.argv[1]
told = threading.Event()
class Slow(subprocess.Popen):
    def __init__(self, *words, **options):
        super().__init__(*words, **options)
        while not os.path.exists(sys.argv[2]):
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # the child runs, and nobody knows it yet
        if threading.current_thread() is not threading.main_thread():
            told.wait()
children.subprocess.Popen = Slow
with children.handing_on():
    {start}
"""
IN_THIS_THREAD = 'children.run_command(["fit"])'
IN_ANOTHER_THREAD = """with ThreadPoolExecutor(1) as pool:
        try:
            starting = pool.submit(children.run_command, ["fit"])
            while not starting.done():
                wait([starting], 0.05)
        finally:
            told.set()  # the signal has been handed on to every child that is known"""


@pytest.mark.parametrize("start", [IN_THIS_THREAD, IN_ANOTHER_THREAD], ids=["in this thread", "in another"])
def test_a_sigterm_while_a_child_is_being_started_reaches_it(tmp_path, start):
    child = tmp_path / "child"
    child.write_text(CHILD.format(folder=tmp_path))
    child.chmod(0o755)
    words = [sys.executable, "-c", STARTING.format(start=start), str(child), str(tmp_path / "started")]
    assert subprocess.run(words, timeout=60).returncode == 128 + signal.SIGTERM
    assert (tmp_path / "saved").exists()


LATE = """
import os, subprocess, sys
from lightning_sq.children import end_with_first
end_with_first()
ended = "import os, time\\nwhile os.getppid() == int(os.environ['LIGHTNING_SQ_FIRST_PROCESS']): time.sleep(0.02)"
call = "from lightning_sq.children import end_with_first\\nend_with_first()"
subprocess.Popen([sys.executable, "-c", f"{ended}\\n{call}"], env=os.environ | {"LOCAL_RANK": "1"})
"""


def test_a_process_of_a_launch_that_comes_when_the_first_has_gone_does_not_begin():
    done = subprocess.run([sys.executable, "-c", LATE], stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 0
    assert "ProcessLostError: The process that started this one has ended." in done.stderr
