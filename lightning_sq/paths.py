"""Where the project keeps what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$LIGHTNING_SQ_CACHE, else the user's cache folder (XDG)."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_sq"
    return Path(os.environ.get("LIGHTNING_SQ_CACHE") or default)
