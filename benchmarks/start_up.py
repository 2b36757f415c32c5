"""What a process costs before it does anything:   python benchmarks/start_up.py

CPU seconds of the imports of each command, and the packages that they go into (`python -X importtime`, own time of all
modules of a package). On a cluster every process pays this at once, from one shared disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from statistics import median

from harness import Row, report

from lightning_sq.__main__ import COMMANDS

PROGRAM = """
import json, resource, sys
from importlib import import_module
import_module(sys.argv[1])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, len(sys.modules)]))
"""
MEASURED = {"fit": COMMANDS["fit"][0], "evaluate": "lightning_sq.evaluation", "export": "lightning_sq.release"}
"""What each command imports, some of them once their options are read."""
SHOWN = 8
"""Packages."""


def start(module: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A process that imports `module` and ends."""
    return subprocess.run([sys.executable, *options, "-c", PROGRAM, module], capture_output=True, text=True, check=True)


def seconds_by_package(module: str) -> dict[str, float]:
    """The packages whose modules take longest to import, the slowest first."""
    spent: Counter[str] = Counter()
    for line in start(module, "-X", "importtime").stderr.splitlines():
        own, _, name = line.removeprefix("import time:").split("|") if line.count("|") == 2 else ("", "", "")
        if own.strip().isdigit():
            spent[name.strip().partition(".")[0]] += int(own) / 1e6
    return dict(spent.most_common(SHOWN))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for command, module in MEASURED.items():
        start(module)  # fills the disk cache
        found = [json.loads(start(module).stdout.splitlines()[-1]) for _ in range(options.rounds)]
        detail = {"module": module, "modules": found[0][1], "seconds by package": seconds_by_package(module)}
        rows.append(Row(f"{command}: imports", median(seconds for seconds, _ in found), "CPU s", detail=detail))
    report("start_up", rows, skipped=[], settings={"rounds": options.rounds})


if __name__ == "__main__":
    main()
