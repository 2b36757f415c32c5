"""From what a person types to a folder on this disk."""

from __future__ import annotations

import difflib
from pathlib import Path

from lightning_sq.errors import InputError
from lightning_sq.hub.cache import fetch_address, fetch_entry
from lightning_sq.hub.huggingface import PREFIX, fetch_repository
from lightning_sq.hub.registry import INDEX_VARIABLE, IS_ADDRESS, NAME, entries


def fetch(source: str) -> Path | None:
    """The folder of a released model's name, `https://.../folder/`, or `hf-hub:org/name`, downloaded if need be.

    Returns: None if `source` is none of them.
    Raises: InputError if it is one of them and cannot be had.
    """
    if source.startswith(PREFIX):
        return fetch_repository(source)
    if IS_ADDRESS.match(source):
        return fetch_address(source)
    if NAME.fullmatch(source) and (entry := entries().get(source)):
        return fetch_entry(entry)
    return None


def no_such_source(source: str | Path, *, timm: bool = False) -> InputError:
    """What to say where nothing is found: every form that would have been understood, and the nearest name.

    Args:
        source: What was typed.
        timm: Whether timm has weights of this name.
    """
    names = list(entries())
    near = [f"timm:{source}"] if timm else difflib.get_close_matches(str(source), names, n=1)
    known = f"Did you mean {near[0]}?" if near else f"Released: {', '.join(names) or 'none yet'}."
    return InputError(
        f"There is no model at {source}, and no released one has this name. {known} Give a release folder, a .ckpt of "
        f"lightning-sq fit, an address, hf-hub:org/name, timm:NAME, or set ${INDEX_VARIABLE} to a list of releases."
    )
