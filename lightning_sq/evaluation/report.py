"""report.html: one self-contained file with the verdict, the table, the checks, the curves and the images."""

from __future__ import annotations

import base64
import io
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from lightning_sq.evaluation import examples
from lightning_sq.evaluation.figures import Figure, descent_figure, examples_figure, robustness_figure, save_png
from lightning_sq.evaluation.results import OLDER, is_older, read_results
from lightning_sq.evaluation.tables import largest_budget, percent, table_columns, table_rows, three_digits
from lightning_sq.paths import whole_file, write_whole
from lightning_sq.run_files import EXAMPLES_FILE, FIGURE_FILE, REPORT_FILE
from lightning_sq.types import format_epsilon
from lightning_sq.words import counted


def write_report(folder: Path) -> None:
    """Draw robustness.png and report.html from the results in `folder`, and from the examples if they were kept.

    Raises: InputError if there are no results, or something is damaged.
    """
    results = read_results(folder)
    shown = examples.read(folder) if (folder / EXAMPLES_FILE).exists() else {}
    with whole_file(folder / FIGURE_FILE) as temporary:
        save_png(robustness_figure(results), temporary)
    template = files("lightning_sq.evaluation").joinpath("templates/report.html.j2").read_text()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"epsilon": format_epsilon, "percent": percent, "three_digits": three_digits}
    environment.filters |= {"in_words": _in_words, "counted": counted}
    page = environment.from_string(template).render(
        results=results,
        columns=table_columns(results),
        rows=table_rows(results),
        largest=largest_budget(results),
        warning=OLDER if is_older(results) else "",
        curve=_encode((folder / FIGURE_FILE).read_bytes()),
        descent=_data_uri(descent_figure(results)),
        grids=[(name, _data_uri(examples_figure(name, kept))) for name, kept in shown.items()],
    )
    write_whole(folder / REPORT_FILE, page)


def _in_words(parameters: dict[str, Any]) -> str:
    """An attack's parameters in one line, an attack inside another one first."""
    given = {name: value for name, value in parameters.items() if name != "kind" and value is not None}
    parts = [
        _in_words(value) if isinstance(value, dict) else f"{name.replace('_', ' ')} {value}"
        for name, value in given.items()
    ]
    return f"{parameters['kind']}({', '.join(parts)})"


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    save_png(figure, buffer)
    return _encode(buffer.getvalue())


def _encode(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
