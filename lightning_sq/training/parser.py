"""LightningCLI's parser with this project's manners, and Lightning's own chatter kept down."""

from __future__ import annotations

import logging
import os
import warnings
from textwrap import shorten
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from lightning_sq.errors import InputError, input_error_in
from lightning_sq.misspelt import did_you_mean

LARGEST_SEED = 2**32 - 1  # numpy's
LONGEST = 400
"""Characters of what is told of an option."""
OF_TYPES = (
    "Does not validate against any of",
    "Subtypes:",
    "Errors:",
    "Given value type:",
    "Expected a <class 'NoneType'>",
)
"""What begins the lines that tell nothing to whoever has typed an option."""


class Parser(LightningArgumentParser):
    """Says what is wrong in one sentence instead of a usage page."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        hint = did_you_mean(message, getattr(ex, "subcommand_parser", self))
        told = f"{_in_one_line(message)}{hint} `lightning-sq fit --help` lists the options."
        raise input_error_in(ex) or InputError(told) from None


def _in_one_line(message: str) -> str:
    """The reasons, which jsonargparse nests over many lines: each once, without the types that Python has for them."""
    lines = (line.strip(" -") for line in message.splitlines())
    said = dict.fromkeys(line for line in lines if line and not line.startswith(OF_TYPES))
    return f"{shorten('; '.join(said).replace(':; ', ': '), LONGEST, placeholder=' ...').rstrip('.')}."


def check_seed(seed: Any) -> None:
    """Raises: InputError unless `seed` is a number that every library can be seeded with."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"seed_everything={seed} is not a whole number in [0, {LARGEST_SEED}]. 0 is usual.")


def _is_no_tip(record: logging.LogRecord) -> bool:
    return "Tip: " not in record.getMessage()


def _is_not_about_pickles(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("`weights_only` was not set")  # at each first save; nobody can set it


def quiet_lightning(*, trains: bool = True) -> None:
    """Keep advertisements, deprecations inside Lightning itself and wrong alarms out of what people read."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_tip)
    logging.getLogger("lightning.pytorch.trainer.connectors.checkpoint_connector").addFilter(_is_not_about_pickles)
    for message in (
        r".*LeafSpec.* is deprecated",
        r"Checkpoint directory .* exists and is not empty",  # so --resume wants it
        r"The dirpath has changed from",  # so --ckpt_path of another run wants it
        r"The `srun` command is available",  # a login node, where nobody meant to start a job
    ):
        warnings.filterwarnings("ignore", message=message)
    if not trains:  # who only measures has no need of the callbacks that trained
        warnings.filterwarnings("ignore", message=r"Be aware that when using `ckpt_path`, callbacks used to create")
