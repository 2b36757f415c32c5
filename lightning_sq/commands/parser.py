"""argparse with this project's manners: what is wrong in one sentence, exit status 2."""

from __future__ import annotations

import argparse
from typing import NoReturn

from lightning_sq.errors import InputError


class Parser(argparse.ArgumentParser):
    """Raises InputError where argparse would print a usage page."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. {self.prog} --help lists the options.")


def check_at_least_one(options: argparse.Namespace, *names: str) -> None:
    """Raises: InputError for the first of these counts that is below 1; one that was not given may be None."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value} is not at least 1.")
