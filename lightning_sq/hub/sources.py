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
    known = f"Did you mean timm:{source}?" if timm else _nearest_released(str(source))
    return InputError(
        f"There is no model at {source}, and no released one has this name. {known} Give a release folder, a .ckpt of "
        f"lightning-sq fit, an address, hf-hub:org/name, timm:NAME, or set ${INDEX_VARIABLE} to a list of releases."
    )


def nothing_to_download(source: str) -> InputError:
    """What to say of a source that lies nowhere else: it may well be here, or be timm's."""
    return InputError(
        f"{source} is neither the name of a released model nor an address of one. {_nearest_released(source)} Give a "
        "name, an address or hf-hub:org/name, or by --index a list that has it. What lies here needs no download."
    )


def _nearest_released(source: str) -> str:
    names = list(entries())
    near = difflib.get_close_matches(source, names, n=1)
    return f"Did you mean {near[0]}?" if near else f"Released: {', '.join(names) or 'none yet'}."
