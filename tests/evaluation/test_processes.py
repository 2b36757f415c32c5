"""What several processes know together, and what one says when it has lost another."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import os, sys
    import torch.distributed
    from lightning_sq.errors import InputError
    from lightning_sq.evaluation.processes import barrier, gather, rank

    meeting, own = "file://" + sys.argv[1], int(sys.argv[2])
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=own, world_size=2)
    assert gather(10 * rank()) == [0, 10]
    if rank() == 1:
        os._exit(9)  # as if killed
    try:
        {call}
    except InputError as error:
        print(error, flush=True)
        os._exit(0)  # what gloo does at the end without the other is not asked here
"""


@pytest.mark.parametrize("call", ["gather(0)", "barrier()"])
def test_a_process_that_loses_another_says_so_in_one_sentence(call, tmp_path):
    program = textwrap.dedent(PROGRAM).format(call=call)
    words = [sys.executable, "-c", program, str(tmp_path / "meeting")]
    with (
        subprocess.Popen([*words, "0"], stdout=subprocess.PIPE, text=True) as first,
        subprocess.Popen([*words, "1"]) as second,
    ):
        told, _ = first.communicate(timeout=120)
        assert (first.returncode, second.wait(120)) == (0, 9)
    assert told.startswith("Process 0 of 2 has lost another one: it was killed, or its error stands above.")
    assert told.count("\n") == 1
