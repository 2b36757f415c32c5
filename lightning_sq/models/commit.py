"""Which commit of lightning_sq this code is, for checkpoints, releases and results."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from importlib.metadata import distribution
from pathlib import Path


@cache
def commit() -> str:
    """Of the clone that this code lies in, with a word if files differ from it; else of what pip installed."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # or this clone is another project's
        changes = ", with changes" if _git("status", "--porcelain", "--untracked-files=no", "..") else ""
        return _git("rev-parse", "HEAD") + changes
    except (OSError, subprocess.SubprocessError):
        pass
    try:
        origin = json.loads(distribution("lightning-sq").read_text("direct_url.json") or "{}")
        return str(origin["vcs_info"]["commit_id"])
    except (OSError, ModuleNotFoundError, ValueError, KeyError, TypeError):
        return "unknown"


def _git(*words: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
