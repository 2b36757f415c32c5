"""report.html: one self-contained file with the verdict, the table, the curves and the images."""

from __future__ import annotations

import base64
import io
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from rich.table import Table

from lightning_sq.evaluation import examples
from lightning_sq.evaluation.figures import Figure, examples_figure, robustness_figure, save_png
from lightning_sq.evaluation.results import format_epsilon, read_results, table_rows, verdict
from lightning_sq.paths import write_whole

REPORT_FILE, FIGURE_FILE = "report.html", "robustness.png"


def write_report(folder: Path) -> None:
    """Draw robustness.png and report.html from the results and examples in `folder`.

    Raises: InputError if there are none, or they are damaged.
    """
    results, shown = read_results(folder), examples.read(folder)
    save_png(robustness_figure(results), folder / FIGURE_FILE)
    template = files("lightning_sq.evaluation").joinpath("templates/report.html.j2").read_text()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"epsilon": format_epsilon, "percent": lambda value: f"{100 * value:.1f}"}
    page = environment.from_string(template).render(
        results=results,
        rows=table_rows(results),
        verdicts=[verdict(model) for model in results["models"]],
        largest=results["threat_model"]["epsilons"][-1],
        curve=_data_uri_of_file(folder / FIGURE_FILE),
        grids=[(name, _data_uri(examples_figure(name, kept))) for name, kept in shown.items()],
    )
    write_whole(folder / REPORT_FILE, page)


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    save_png(figure, buffer)
    return _encode(buffer.getvalue())


def _data_uri_of_file(path: Path) -> str:
    return _encode(path.read_bytes())


def _encode(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def printed_table(results: dict[str, Any]) -> Table:
    """The report's table for a terminal."""
    epsilon = format_epsilon(results["threat_model"]["epsilons"][-1])
    table = Table(title=f"accuracy in %, {results['data']['num_images']} images, attacks at {epsilon}")
    table.add_column("model")
    for name in ("clean", *results["attacks"], "worst case"):
        table.add_column(name, justify="right")
    for row in table_rows(results):
        numbers = (row["clean"], *row["attacks"].values(), row["worst_case"])
        table.add_row(row["name"], *(f"{100 * number:.1f}" for number in numbers))
    return table
