"""Options that a parser does not know: which one was meant."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Collection

NEAR, NEAR_WITH_A_PATH = 0.6, 0.8
"""How alike two names have to be, as difflib counts it; what begins with the same `model.` is alike anyway."""


def did_you_mean(message: str, parser: ArgumentParser) -> str:
    """The question that belongs behind the `message` of a parser, with a space in front; empty if nothing is near."""
    options = (name.lstrip("-") for name in parser._option_string_actions if name.startswith("--"))
    known = [name for name in options if not name.endswith((".help", "+"))]
    meant = [name for word in _unknown_in(message) if (name := _nearest(word, known))]
    return f" Did you mean {' and '.join(meant)}?" if meant else ""


def _unknown_in(message: str) -> list[str]:
    """Of argparse with dashes, of jsonargparse, where it is a key of a file or of a class, without."""
    typed = message.partition("unrecognized arguments: ")[2].split()
    keys = re.findall(r"ption '([^']+)'", message) if "accept" in message else []
    return [word.partition("=")[0] for word in typed if word.startswith("--")] + keys


def _nearest(word: str, known: Collection[str]) -> str | None:
    from difflib import get_close_matches

    name = word.lstrip("-")
    dashes, path, behind = word[: len(word) - len(name)], name, ""
    while path not in known:
        found = get_close_matches(path, known, n=1, cutoff=NEAR_WITH_A_PATH if "." in path else NEAR)
        if found:
            return f"{dashes}{found[0]}{behind}"
        path, _, last = path.rpartition(".")  # the mistake may lie further to the left
        if "." not in path:
            return None
        behind = f".{last}{behind}"
    return None
