"""Times things side by side in one run: warm-up, then rounds in which every candidate has its turn, and the medians."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from lightning_sq.cores import usable_cores
from lightning_sq.evaluation.figures import Figure, save_png
from lightning_sq.models.checkpoint_format import versions
from lightning_sq.paths import write_whole
from lightning_sq.words import counted

REPOSITORY = Path(__file__).parent.parent.parent
CONFIGS = REPOSITORY / "configs"
RESULTS = Path(os.environ.get("LIGHTNING_SQ_RESULTS", REPOSITORY / "benchmarks/results"))
"""Where every benchmark keeps its numbers; another folder by the environment, where this one is not kept."""
COLUMNS = ("question", "measured", "to reach", "")
LAUNCHING = 2
"""Cores for the thread that starts a GPU's kernels, and for whatever else runs beside the decoder."""
THREADS_HELP = (
    f"that decode; default: a core each, but with a GPU {LAUNCHING} cores are left to what starts its kernels"
)
Kind = Literal["cuda", "cpu"]
"""Of the device that something is measured on."""


@dataclass
class Row:
    """One question: what was measured, and what was to be reached."""

    question: str
    measured: float
    unit: str
    to_reach: str = "reported"
    reached: bool | None = None
    detail: dict[str, Any] = field(default_factory=dict)


def seconds_of(candidates: dict[str, Callable[[], Any]], *, rounds: int, warmup: int = 2) -> dict[str, float]:
    """Median seconds of each candidate; they take turns, so that a slow minute of the machine slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(warmup + rounds):
        for name, run in candidates.items():
            synchronize()
            began = time.perf_counter()
            run()
            synchronize()
            if number >= warmup:
                times[name].append(time.perf_counter() - began)
    return {name: median(values) for name, values in times.items()}


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def usual_device() -> Kind:
    """Where a script computes that takes a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def decoding_threads() -> int:
    """As many as there are cores; where there is a GPU all but `LAUNCHING`, and one at least."""
    return max(1, usable_cores() - (LAUNCHING if usual_device() == "cuda" else 0))


def device_name(on: Kind | None = None) -> str:
    """The GPU, or the processor with the number of threads that torch uses. Default: of `usual_device`."""
    if (on or usual_device()) == "cuda":
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{model}, {counted(torch.get_num_threads(), 'thread')}"


def provenance(on: Kind | None = None) -> dict[str, Any]:
    """On what numbers were measured: they mean nothing without. `load_average` is of the last 15 minutes.

    A script that computes on the CPU whatever there is says so by `on`.
    """
    return {"device": device_name(on), "versions": versions(), "load_average": os.getloadavg()[2]}


def command_typed() -> str:
    """This script with its options; of a path outside the repository the last name, for the rest is one machine's."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).stem}.py", *map(_without_folders, sys.argv[1:])])


def _without_folders(word: str) -> str:
    """A word of a command, such as NAME=timm:resnet18@FILE, with its paths shortened."""
    return "".join(_shortened(part) for part in re.split("([=@,])", word))


def _shortened(part: str) -> str:
    path = Path(part)
    if not path.is_absolute() and ".." not in path.parts:
        return part
    path = Path(os.path.normpath(Path.cwd() / path))
    return str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else path.name


def written_by(content: dict[str, Any], script: str) -> str:
    """The command that wrote a page, for the page; contents of before do not say their options."""
    return f"`{content.get('command', f'python benchmarks/{script}.py')}`"


def report(name: str, rows: list[Row], *, skipped: list[str], settings: dict[str, Any], on: Kind | None = None) -> None:
    """Print a table, say what was skipped, and keep everything as JSON in `RESULTS`."""
    table = Table(title=f"{name} on {device_name(on)}")
    for column in COLUMNS:
        table.add_column(column)
    for row in rows:
        table.add_row(*_cells(row))
    Console().print(table)
    for reason in skipped:
        print(f"skipped: {reason}")
    print(keep(name, rows, skipped=skipped, settings=settings, on=on))


def _cells(row: Row) -> tuple[str, ...]:
    """What stands in `COLUMNS`."""
    mark = "" if row.reached is None else ("reached" if row.reached else "not reached")
    return row.question, f"{_three_digits(row.measured)} {row.unit}", row.to_reach, mark


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def keep(name: str, rows: list[Row], *, skipped: list[str], settings: dict[str, Any], on: Kind | None = None) -> Path:
    """Write everything as JSON in `RESULTS`, and the page of all that lies there anew. Returns: the JSON file."""
    device = "gpu" if (on or usual_device()) == "cuda" else "cpu"
    path = RESULTS / f"{name}-{device}-torch{torch.__version__.split('+')[0]}.json"
    content = {
        "benchmark": name,
        **provenance(on),
        "settings": settings,
        "rows": [row.__dict__ for row in rows],
        "skipped": skipped,
    }
    write_whole(path, json.dumps(content, indent=1) + "\n")
    write_whole(RESULTS / "README.md", page_of_all(RESULTS))
    return path


def page_of_all(folder: Path) -> str:
    """Every result that is kept in a folder as a table in Markdown."""
    lines = [
        "# What was measured",
        "",
        "Written by the scripts in [benchmarks/](..). The load is the machine's mean over a script's last 15 minutes:",
        "above its number of threads others were at work too, and only ratios say something.",
    ]
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or not {"settings", "rows", "skipped"} <= content.keys():
            continue  # somebody else's, in a folder that was chosen
        settings = ", ".join(f"{key} {value}" for key, value in content["settings"].items())
        lines += [
            "",
            f"## {path.stem}",
            "",
            f"On {content['device']}, load {content['load_average']:.1f}; {settings}.",
        ]
        lines += ["", f"[{path.name}]({path.name})"]
        lines += ["", f"| {' | '.join(COLUMNS)} |", "| --- | ---: | --- | --- |"]
        lines += [f"| {' | '.join(_cells(Row(**row)))} |" for row in content["rows"]]
        details = [f"- {row['question']}: {_in_words(row['detail'])}" for row in content["rows"] if row["detail"]]
        lines += ["", "In detail:", "", *details] if details else []
        lines += [line for reason in content["skipped"] for line in ("", f"Skipped: {reason}.")]
    return "\n".join(lines) + "\n"


def _in_words(detail: Any) -> str:
    """What a row keeps beside its number, in one line; but for tables, which are for programs."""
    if isinstance(detail, dict):
        inner = {
            key: value for key, value in detail.items() if not (isinstance(value, list) and dict in map(type, value))
        }
        return ", ".join(
            f"{key} ({_in_words(value)})" if isinstance(value, dict) else f"{key} {_in_words(value)}"
            for key, value in inner.items()
        )
    if isinstance(detail, list):
        return " ".join(map(_in_words, detail))
    return _three_digits(detail) if isinstance(detail, float) else str(detail)


def write_page(folder: Path, name: str, content: dict[str, Any], page: str, figure: Figure) -> None:
    """Print `page` and write it as README.md, with NAME.json and NAME.png beside it."""
    write_whole(folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
    write_whole(folder / "README.md", page)
    save_png(figure, folder / f"{name}.png")
    print(page)
