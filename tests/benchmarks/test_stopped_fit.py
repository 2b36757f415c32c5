"""A training that a benchmark starts: what is known of it when it fails, and that it ends with whoever started it."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

LOG = """epoch,train/loss,train/images_per_second
0,2.0,
0,,50
1,,60
2,1.0,
"""
COMMAND = """
import os, sys, time
from pathlib import Path
run = Path(sys.argv[sys.argv.index("--output") + 1], "logs", "version_0")
run.mkdir(parents=True)
(run / "metrics.csv").write_text({log!r})
Path("process").write_text(f"{{os.getpid()}}\\n")
{then}
"""


def command_line(folder, then):
    """Where `fit` is to look for recipes, so that `lightning_sq` is one that logs two epochs and a half."""
    (folder / "lightning_sq").mkdir()
    (folder / "lightning_sq/__init__.py").touch()
    (folder / "lightning_sq/__main__.py").write_text(COMMAND.format(log=LOG, then=then))
    return folder / "configs"


@pytest.mark.parametrize("library", ["docstring_parser", "typeshed_client"])
def test_a_command_line_that_lacks_a_library_is_not_started(benchmark, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    assert importlib.import_module("gpu_parts.fit").missing() == [f"{library} is not installed"]


def test_a_fit_that_does_not_end_well_leaves_the_speed_of_the_epochs_that_it_ended(benchmark, tmp_path, monkeypatch):
    module = importlib.import_module("gpu_parts.fit")
    monkeypatch.setattr(module, "CONFIGS", command_line(tmp_path, "sys.exit('no space is left')"))
    done = module.fit([], 60)
    assert (done.epochs, done.metrics[module.SPEED], done.failure) == (2, 60.0, "it failed: no space is left")


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from gpu_parts import fit
fit.CONFIGS = Path(sys.argv[2])
fit.fit([], 600)
"""


def test_a_fit_does_not_outlive_a_benchmark_that_is_killed(tmp_path):
    words = [sys.executable, "-c", PARENT, REPOSITORY / "benchmarks", command_line(tmp_path, "time.sleep(600)")]
    parent = subprocess.Popen(words, cwd=REPOSITORY, env=os.environ | {"TMPDIR": str(tmp_path)})
    process = tmp_path / "process"
    try:
        assert comes_true(lambda: process.exists() and process.read_text().endswith("\n"), 120)
    finally:
        parent.kill()
        parent.wait()
    child = int(process.read_text())
    try:
        assert comes_true(lambda: has_ended(child), 20)
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def comes_true(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def has_ended(process):
    """Whether or not somebody has asked for its exit status."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except FileNotFoundError:
        return True
