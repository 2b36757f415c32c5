"""argparse with this project's manners: what is wrong in one sentence, exit status 2."""

from __future__ import annotations

import argparse
from typing import NoReturn

from lightning_sq.errors import InputError


class Parser(argparse.ArgumentParser):
    """Raises InputError where argparse would print a usage page."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. {self.prog} --help lists the options.")
