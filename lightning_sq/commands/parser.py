"""argparse with this project's manners: what is wrong in one sentence, exit status 2."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from lightning_sq.errors import InputError
from lightning_sq.misspelt import did_you_mean

EXAMPLE_WIDTH = 72
"""Columns, beside which there is room for the indentation and a backslash in 80."""


class Parser(argparse.ArgumentParser):
    """Raises InputError where argparse would print a usage page.

    Args:
        examples: Commands that the help ends with, each of them on one line.
        options: Of argparse.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self.examples = examples

    def format_help(self) -> str:
        examples = "".join(["\nexamples:\n", *map(_shown, self.examples)] if self.examples else [])
        return f"{super().format_help()}{examples}"

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}.{did_you_mean(message, self)} {self.prog} --help lists the options.")

    def parse_known_args(self, *args: Any, **options: Any) -> Any:
        """A subparser refuses here what it does not know: the parser above it does not know its options."""
        found, unknown = super().parse_known_args(*args, **options)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def _shown(example: str) -> str:
    """On as many lines as it needs; an option and its value stay together."""
    tied = re.sub(r"(--\S+) (?!-)", "\\1\xa0", example)
    lines = textwrap.wrap(tied, EXAMPLE_WIDTH, break_long_words=False, break_on_hyphens=False)
    return "  " + " \\\n    ".join(lines).replace("\xa0", " ") + "\n"


def check_at_least_one(options: argparse.Namespace, *names: str) -> None:
    """Raises: InputError for the first of these counts that is below 1; one that was not given may be None."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value} is not at least 1.")
