"""Nothing forgets on which device it is: shown without a GPU, on an emulated device in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("what", ["refusals", "objectives", "attacks", "places", "training"])
def test_on_a_device_that_is_not_the_cpu(what, tmp_path):
    words = [sys.executable, "-m", "tests.devices.everything", what, str(tmp_path)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-3000:]
