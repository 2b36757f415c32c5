"""What a process costs before it does anything: CPU seconds of the imports of each command, as they are and as they
were when every package came with all its parts.

    python benchmarks/start_up.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from statistics import median

from harness import Row, report

from lightning_sq.__main__ import COMMANDS

PROGRAM = """
import json, resource, sys
from importlib import import_module
if sys.argv[2] == "late":
    from lightning_sq.late_imports import import_late
    import_late()
import_module(sys.argv[1])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, len(sys.modules)]))
"""
MEASURED = {"fit": COMMANDS["fit"][0], "evaluate": "lightning_sq.evaluation", "export": "lightning_sq.release"}
"""What each command imports, some of them once their options are read."""


def start(module: str, how: str) -> tuple[float, int]:
    """(CPU seconds, modules) of a process that imports `module` and ends."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, module, how], capture_output=True, text=True, check=True)
    seconds, modules = json.loads(done.stdout.splitlines()[-1])
    return seconds, modules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for command, module in MEASURED.items():
        found = {how: [] for how in ("whole", "late")}
        for number in range(options.rounds + 1):
            for how, values in found.items():  # side by side, so that a slow minute slows both
                measured = start(module, how)
                if number:  # the first fills the disk cache
                    values.append(measured)
        before, after = (median(seconds for seconds, _ in found[how]) for how in ("whole", "late"))
        rows.append(
            Row(
                f"{command}: imports",
                after,
                "CPU s",
                "half of before",
                after <= before / 2,
                {
                    "module": module,
                    "before": before,
                    "after": after,
                    "modules_before": found["whole"][0][1],
                    "modules_after": found["late"][0][1],
                },
            )
        )
    report("start_up", rows, skipped=[], settings={"rounds": options.rounds})


if __name__ == "__main__":
    main()
