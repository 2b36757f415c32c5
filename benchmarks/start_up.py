"""What a process costs before it does anything:   python benchmarks/start_up.py

CPU seconds of the imports of each command, with compiled Python files (as `make setup` and the image leave them) and
without (as uv leaves them by default, and as every process finds them that may not write beside the sources); beside
them torch alone, below which no command can come, and the four libraries as a program imports them that does not care,
against which `fit` is held, both compiled; and the packages that the seconds go into (`python -X importtime`, own time
of all modules of a package). On a cluster every process pays this at once, from one shared disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from statistics import median

from common.harness import Row, report

from lightning_sq.__main__ import COMMANDS

PROGRAM = """
import json, resource, sys
from importlib import import_module
for name in sys.argv[1].split():
    import_module(name)
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, len(sys.modules)]))
"""
LIBRARIES = "torch torchvision torchmetrics lightning"
MEASURED = {
    LIBRARIES: LIBRARIES,
    "fit": COMMANDS["fit"][0],
    "evaluate": "lightning_sq.evaluation",
    "export": "lightning_sq.release",
    "torch alone": "torch",
}
"""What each command imports, some of them once their options are read."""
NOTHING_COMPILED = {"PYTHONPYCACHEPREFIX": os.devnull, "PYTHONDONTWRITEBYTECODE": "1"}
SHOWN = 8
"""Packages."""


def start(module: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process that imports `module` and ends."""
    command = [sys.executable, *options, "-c", PROGRAM, module]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment)


def seconds_by_package(module: str) -> dict[str, float]:
    """The packages whose modules take longest to import, the slowest first."""
    spent: Counter[str] = Counter()
    for line in start(module, "-X", "importtime").stderr.splitlines():
        own, _, name = line.removeprefix("import time:").split("|") if line.count("|") == 2 else ("", "", "")
        if own.strip().isdigit():
            spent[name.strip().partition(".")[0]] += int(own) / 1e6
    return dict(spent.most_common(SHOWN))


def rows_of(command: str, module: str, rounds: int) -> list[Row]:
    """The seconds with compiled files and without, taken in turn, and how they compare."""
    start(module)  # fills the disk cache, and compiles
    found = []
    for _ in range(rounds):
        compiled, not_compiled = (
            json.loads(start(module, **environment).stdout.splitlines()[-1]) for environment in ({}, NOTHING_COMPILED)
        )
        found.append((compiled[0], not_compiled[0], compiled[1]))
    now, before = median(run[0] for run in found), median(run[1] for run in found)
    detail = {"module": module, "modules": found[0][2], "seconds by package": seconds_by_package(module)}
    return [
        Row(f"{command}: imports, Python files not compiled", before, "CPU s"),
        Row(f"{command}: imports", now, "CPU s", detail=detail),
        Row(f"{command}: compiled against not", now / before, "of the time"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = [row for command, module in MEASURED.items() for row in rows_of(command, module, options.rounds)]
    seconds = {row.question: row.measured for row in rows}
    against = seconds["fit: imports"] / seconds[f"{LIBRARIES}: imports"]
    rows.append(Row(f"fit against {LIBRARIES}, both compiled", against, "of the time", "<= 0.5", against <= 0.5))
    report("start_up", rows, skipped=[], settings={"rounds": options.rounds}, on="cpu")


if __name__ == "__main__":
    main()
