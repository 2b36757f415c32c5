"""What several processes know together, and how one ends that has lost another."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import os, sys
    import torch.distributed
    from lightning_sq.__main__ import COMMANDS, main as lightning_sq
    from lightning_sq.evaluation.processes import barrier, gather
    from lightning_sq.process_group import rank

    def main(arguments):
        meeting, own = "file://" + arguments[0], int(arguments[1])
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=own, world_size=2)
        assert gather(10 * rank()) == [0, 10]
        if rank() == 1:
            os._exit(9)  # as if killed
        {call}

    COMMANDS["meet"] = ("__main__", "this program's own")
    os._exit(lightning_sq(["meet", *sys.argv[1:]]))  # what gloo does at the end without the other is not asked here
"""


@pytest.mark.parametrize("call", ["gather(0)", "barrier()"])
def test_a_process_that_loses_another_says_so_and_ends_by_a_status_that_is_tried_again(call, tmp_path):
    program = textwrap.dedent(PROGRAM).format(call=call)
    words = [sys.executable, "-c", program, str(tmp_path / "meeting")]
    with (
        subprocess.Popen([*words, "0"], stderr=subprocess.PIPE, text=True) as first,
        subprocess.Popen([*words, "1"]) as second,
    ):
        try:
            _, told = first.communicate(timeout=120)
            assert (first.returncode, second.wait(120)) == (1, 9)
        finally:  # or `with` waits for them for ever
            first.kill()
            second.kill()
    said = [line for line in told.splitlines() if line.startswith("lightning-sq: error: ")]
    assert len(said) == 1
    assert "Process 0 of 2 has lost another one: it was killed, or its error stands above." in said[0]
