"""Training by the real command line, in a process of its own and within a time: for benchmarks/gpu.py."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common.budget import is_installed
from common.harness import CONFIGS

from lightning_sq.children import last_words
from lightning_sq.metrics_file import read_rows, training_curve
from lightning_sq.run_files import ALL_METRICS

NEEDED = ("lightning", "torchmetrics", "jsonargparse", "docstring_parser", "typeshed_client")
"""Libraries that the command line needs, and that a machine for trials may lack."""
GRACE = 20.0
"""Seconds in which a fit that is asked to stop saves where it is."""
MOST_BATCHES = 100
SHORT = ["--trainer.max_epochs", "2", "--trainer.limit_val_batches", "0"]
SHORT += ["--trainer.limit_train_batches", str(MOST_BATCHES)]
SPEED = "train/images_per_second"
"""In the log, of each epoch."""
COMMAND_LINE = """
import ctypes, runpy, signal
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: whatever the parent dies of, this dies with it
runpy.run_module("lightning_sq", run_name="__main__", alter_sys=True)
"""


@dataclass
class Fit:
    """What a `lightning-sq fit` left: seconds in all, epochs that it ended, the last value of each column of its log,
    and what went wrong.
    """

    seconds: float
    epochs: int
    metrics: dict[str, float]
    failure: str | None


def fit(words: list[str], limit: float) -> Fit:
    """`lightning-sq fit WORDS`, asked to stop when its seconds are over; like a person's, in a process of its own, but
    one that does not outlive this one.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        command = [sys.executable, "-c", COMMAND_LINE, "fit", *words, "--output", f"{folder}/run"]
        began = time.perf_counter()
        with log.open("w") as stream:
            process = subprocess.Popen(
                command, stdout=stream, stderr=stream, cwd=CONFIGS.parent, start_new_session=True
            )
            ended = _wait(process, limit)
        seconds = time.perf_counter() - began
        failure = None
        if not ended:
            failure = f"it did not end within {limit:.0f} s"
        elif process.returncode:
            failure = f"it failed: {last_words(log.read_text(errors='replace'))[:300]}"
        run = Path(folder) / "run"
        return Fit(seconds, len(training_curve(run, {SPEED: SPEED})), _last_values(run), failure)


def _wait(process: subprocess.Popen, limit: float) -> bool:
    """Whether it ended by itself."""
    try:
        process.wait(limit)
        return True
    except subprocess.TimeoutExpired:
        pass
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE)
            break
        except (subprocess.TimeoutExpired, ProcessLookupError):
            continue
    return False


def _last_values(run: Path) -> dict[str, float]:
    values: dict[str, float] = {}
    for file in run.glob(ALL_METRICS):
        for row in read_rows(file):
            values |= {name: float(cell) for name, cell in row.items()}
    return values


def missing(**paths: Path | None) -> list[str]:
    """What keeps the command line from being run: libraries, and options that were not given."""
    libraries = [f"{library} is not installed" for library in NEEDED if not is_installed(library)]
    return libraries + [f"--{name} was not given" for name, path in paths.items() if path is None]


def words_for(recipe_file: str, options: argparse.Namespace, size: int) -> list[str]:
    """A recipe on the data of --imagenette at an image size, with the decoder that is there and the hardware engine's
    share that was given or found, in one process.
    """
    backend = "dali" if is_installed("nvidia.dali") else "torchvision"
    words = ["--config", str(CONFIGS / recipe_file), "--data.root", str(options.imagenette.resolve())]
    words += ["--data.image_size", str(size), "--data.backend", backend, "--data.num_threads", str(options.threads)]
    if options.hw_decoder_load is not None:
        words += ["--data.hw_decoder_load", str(options.hw_decoder_load)]
    return [*words, "--model.pretrained", "false", "--trainer.devices", "1", "--trainer.num_nodes", "1"]
