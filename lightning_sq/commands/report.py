"""`lightning-sq report`: draw the report of an evaluation again."""

from __future__ import annotations

from pathlib import Path

from lightning_sq.commands.parser import Parser
from lightning_sq.run_files import REPORT_FILE


def main(arguments: list[str]) -> None:
    parser = Parser(
        "lightning-sq report",
        description="Draw robustness.png and report.html again.",
        examples=["lightning-sq report runs/demo", "lightning-sq report results/demo --markdown"],
    )
    parser.add_argument("folder", type=Path, help="with results.json, and examples.safetensors for the images")
    parser.add_argument("--markdown", action="store_true", help="print the table for a README, and draw nothing")
    options = parser.parse_args(arguments)

    from lightning_sq.evaluation.results import read_results
    from lightning_sq.evaluation.tables import markdown_table

    if options.markdown:
        print(markdown_table(read_results(options.folder)))
        return

    from rich.console import Console

    from lightning_sq.evaluation.report import write_report
    from lightning_sq.evaluation.tables import printed_table

    write_report(options.folder)
    Console().print(printed_table(read_results(options.folder)))
    print(f"{options.folder / REPORT_FILE}")
