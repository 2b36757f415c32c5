"""Nothing forgets on which device it is: shown without a GPU, on an emulated device in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVERYTHING = """
import runpy, sys
sys.modules.update(dict.fromkeys({without}))
runpy.run_module("tests.devices.everything", run_name="__main__", alter_sys=True)
"""


def everything(what, folder, without=(), **environment):
    """The ended process, as if some modules were not installed."""
    words = [sys.executable, "-c", EVERYTHING.format(without=without), what, str(folder)]
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 600}
    return subprocess.run(words, env=os.environ | environment, **options)


@pytest.mark.parametrize("what", ["refusals", "objectives", "attacks", "places", "plan", "training"])
def test_on_a_device_that_is_not_the_cpu(what, tmp_path):
    ended = everything(what, tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.mark.parametrize(
    ("what", "missing", "skipped"),
    [
        ("places", ["highspy", "pyautoattack"], ["mixed_integer", "apgd_ce"]),
        ("training", ["jsonargparse"], ["training"]),
    ],
)
def test_only_a_real_device_is_excused_from_what_is_not_installed(what, missing, skipped, tmp_path):
    real = everything(what, tmp_path, missing, LIGHTNING_SQ_TEST_DEVICE="cpu")
    assert real.returncode == 0, real.stderr[-3000:]
    told = [line for line in real.stdout.splitlines() if line.startswith("skipped")]
    assert told == [f"skipped: {what}: not installed: {name}" for what, name in zip(skipped, missing, strict=True)]
    assert everything(what, tmp_path, missing, LIGHTNING_SQ_TEST_DEVICE="").returncode != 0


def test_on_a_real_device_a_training_needs_no_dali(tmp_path):
    ended = everything("training", tmp_path, ["nvidia.dali"], LIGHTNING_SQ_TEST_DEVICE="cpu")
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "skipped" not in ended.stdout
    assert list(tmp_path.glob("run/checkpoints/last*.ckpt"))
