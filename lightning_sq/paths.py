"""Where the project keeps what can be made again, and how it writes files."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$LIGHTNING_SQ_CACHE, else the user's cache folder (XDG)."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_sq"
    return Path(os.environ.get("LIGHTNING_SQ_CACHE") or default)


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that nobody ever sees half of it; makes the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
