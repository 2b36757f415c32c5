"""Packages that are imported part by part offer what they offer when they are imported whole."""

from __future__ import annotations

import json
import subprocess
import sys

import torchmetrics

PROGRAM = """
import json, sys
from lightning_sq.late_imports import import_late
import_late()
early = "torch" in sys.modules
import lightning_sq.training.cli
import torchmetrics
heavy = sorted({"scipy.signal", "torchmetrics.image", "torchmetrics.functional.audio"} & sys.modules.keys())
homes = {name: getattr(torchmetrics, name).__module__ for name in torchmetrics.__all__ if name[0].isupper()}
parts = [len(torchmetrics.functional.__all__), callable(torchmetrics.functional.accuracy), early]
print(json.dumps([heavy, homes, parts, hasattr(torchmetrics, "nothing")]))
"""


def test_the_command_line_imports_no_metrics_of_sound_and_image_and_every_name_is_there():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    heavy, homes, parts, nothing = json.loads(done.stdout)
    assert heavy == []
    names = [name for name in torchmetrics.__all__ if name[0].isupper()]
    assert homes == {name: getattr(torchmetrics, name).__module__ for name in names}
    assert parts == [len(torchmetrics.functional.__all__), True, False]
    assert not nothing
