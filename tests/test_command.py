"""How a process ends that others may wait for."""

from __future__ import annotations

import subprocess
import sys

import pytest

IN_A_GROUP = """
import atexit, sys
import torch.distributed
from lightning_sq import __main__ as entry

torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
atexit.register(print, "what waits for the others")

def main():
    print("begun")
    {ends}

entry.main = main
entry.command()
"""


@pytest.mark.parametrize(
    ("ends", "status", "waits"),
    [
        ("return 0", 0, True),  # as all of them do
        ("return 2", 2, False),
        ("raise SystemExit(75)", 75, False),
        ("raise RuntimeError('out of memory')", 1, False),
    ],
)
def test_a_process_that_ends_alone_does_not_wait_for_those_that_wait_for_it(ends, status, waits):
    """At the exit of Python Lightning has the group destroyed, and NCCL waits there for all processes of a node."""
    words = [sys.executable, "-c", IN_A_GROUP.format(ends=ends)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == status
    assert ended.stdout == "begun\n" + "what waits for the others\n" * waits
    assert ("RuntimeError: out of memory" in ended.stderr) is (status == 1)
