"""The table of an evaluation in words: for a terminal, for a README, and its rows for the report."""

from __future__ import annotations

import math
from typing import Any

from rich.markup import escape
from rich.table import Table

from lightning_sq.types import format_epsilon
from lightning_sq.words import counted


def table_columns(results: dict[str, Any]) -> list[str]:
    """The attacks that have a number of their own, because they attacked everyone."""
    return [name for name, attack in results["attacks"].items() if attack["on_everyone"]]


def table_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a model at the largest budget: what the printed table, the README's and the report's show.

    `worst_case_below` is the worst case at each budget below it, where there are several.
    """
    below = results["threat_model"]["budgets"][:-1]
    return [
        {
            "name": model["name"],
            "clean": model["clean_accuracy"],
            "attacks": [model["curve"][-1]["attacks"].get(name) for name in table_columns(results)],
            "worst_case_below": [point["worst_case"] for point in model["curve"] if point["epsilon"] in below],
            "worst_case": model["robust_accuracy"],
            "certified": model["certified_accuracy"],
            "input_gradient_l1": model["input_gradient_l1"],
            "num_flags": len(model["flags"]),
        }
        for model in results["models"]
    ]


def percent(value: float | None) -> str:
    """72.0 for 0.72; a dash for what there is no number of."""
    return "–" if value is None else f"{100 * value:.1f}"


def three_digits(value: float | None) -> str:
    """1.5 for 1.5; a dash for what is no finite number."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3g}"


def markdown_table(results: dict[str, Any]) -> str:
    """The same table for a README."""
    columns = ["clean", *table_columns(results), *(f"worst case at {text}" for text in budgets_below(results))]
    columns += ["worst case", "proven", "l1 norm of the input gradient", "flags"]
    lines = [
        f"| {_caption(results)} | {' | '.join(columns)} |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for row in table_rows(results):
        numbers = [percent(x) for x in (row["clean"], *row["attacks"], *row["worst_case_below"])]
        numbers += [f"**{percent(row['worst_case'])}**", percent(row["certified"])]
        lines.append(
            f"| {row['name']} | "
            + " | ".join([*numbers, three_digits(row["input_gradient_l1"]), str(row["num_flags"])])
            + " |"
        )
    return "\n".join(lines)


def largest_budget(results: dict[str, Any]) -> str:
    """For people."""
    return format_epsilon(results["threat_model"]["budgets"][-1])


def budgets_below(results: dict[str, Any]) -> list[str]:
    """Those below the largest, for people."""
    return [format_epsilon(value) for value in results["threat_model"]["budgets"][:-1]]


def _caption(results: dict[str, Any]) -> str:
    return f"accuracy in %, {counted(results['data']['num_images'], 'image')}, attacks at {largest_budget(results)}"


def printed_table(results: dict[str, Any]) -> Table:
    """The report's table for a terminal: a column a model, so that it fits."""
    table = Table("", title=_caption(results))
    rows = table_rows(results)
    for row in rows:
        table.add_column(escape(row["name"]), justify="right", overflow="fold")
    table.add_row("clean", *(percent(row["clean"]) for row in rows))
    for number, name in enumerate(table_columns(results)):
        table.add_row(name, *(percent(row["attacks"][number]) for row in rows))
    table.add_section()
    for number, epsilon in enumerate(budgets_below(results)):
        table.add_row(f"worst case at {epsilon}", *(percent(row["worst_case_below"][number]) for row in rows))
    table.add_row("worst case of all", *(percent(row["worst_case"]) for row in rows), style="bold")
    table.add_row("proven", *(percent(row["certified"]) for row in rows))
    table.add_row("flags", *(str(row["num_flags"]) for row in rows))
    return table
