"""The folder of a run: what is in it, where a fit starts, and what is refused before anything is written."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lightning_sq.errors import InputError
from lightning_sq.models.checkpoint_format import CHECKPOINT_KEY
from lightning_sq.paths import nearest_existing
from lightning_sq.run_files import CHECKPOINTS, CONFIG_FILE, LOGS, STEP_FILE
from lightning_sq.training.resume.whole_checkpoint import is_whole

LAST, BEST, BEST_ROBUST = "last", "best", "best_robust"
LIGHTNINGS_OWN = "hpc_ckpt_*.ckpt"
"""What Lightning's requeueing leaves in the output, and would take up by itself in any later job."""


def check_output(output: Path) -> None:
    """Raises: InputError if `output` cannot be made or written into."""
    there = nearest_existing(output)
    if not there.is_dir():
        raise InputError(f"--output {output} cannot be a folder: {there} is a file. Give another --output.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"--output {output} cannot be written: {there} is not yours. Give another --output.")


def remove_half_written(output: Path) -> None:
    """What a run that was killed while it wrote a checkpoint has left; whoever calls holds the lock on `output`."""
    for path in (output / CHECKPOINTS).glob(".*.tmp"):
        path.unlink(missing_ok=True)


def choose_start(output: Path, ckpt_path: Path | None, *, resume: bool, overwrite: bool) -> Path | None:
    """The checkpoint that a fit starts from; None for a new run.

    With `resume` it is the last one in `output` that is whole; a run that was killed before its first checkpoint
    starts anew.

    Raises: InputError if `output` holds a run that the fit would neither go on with nor was told to replace.
    """
    if resume:
        last = _last_whole(output)
        if last is not None:
            rank_zero_info(f"Going on from {last}")
            return last
    if not overwrite and not (ckpt_path and is_of_run(ckpt_path, output)):
        _refuse_other_run(output, allow_without_checkpoint=resume)
    if resume:
        rank_zero_info(f"There is no checkpoint in {output} to go on from: a new run starts.")
    return ckpt_path


def seconds_saved(output: Path) -> float:
    """The longest that a checkpoint in `output` says its run had taken, in seconds; 0 without one.

    It may be more than the last step knows, by a validation behind it: a run that goes back to an earlier checkpoint
    begins its clock behind both, or it would seem to be behind what it leaves.
    """
    seconds = (_written(path)[0] for path in _checkpoints(output))
    return max(filter(math.isfinite, seconds), default=0.0)


def _checkpoints(output: Path) -> list[Path]:
    """All that runs write, the names that are preferred first."""
    patterns = [f"{LAST}.ckpt", f"{LAST}-*.ckpt", f"{BEST}.ckpt", f"{BEST_ROBUST}.ckpt"]
    found = [path for pattern in patterns for path in (output / CHECKPOINTS).glob(pattern)]
    return found + list(output.glob(LIGHTNINGS_OWN))


def _last_whole(output: Path) -> Path | None:
    """Of all checkpoints that runs write, the last written one that is what was written."""
    for path in sorted(_checkpoints(output), key=_written, reverse=True):  # of equal ones, the first in this list
        if is_whole(path):
            return path
        rank_zero_info(f"{path} is damaged and passed over for the one before it.")
    return None


def _written(path: Path) -> tuple[float, float, int]:
    """When: by the run's own clock, the seconds of all its starts; then by its steps; then by the file's time.

    Two nodes' clocks may differ, and `cp -r` gives files the times at which it copied them. By steps alone a run that
    went back to an earlier checkpoint would seem to be behind what it left. No tensor is read. A file that cannot be
    read, or lacks that, counts as the last: it is looked at, and what is wrong with it said, before another is taken.
    """
    changed = path.stat().st_mtime_ns
    try:
        content = torch.load(path, weights_only=True, mmap=True, map_location="meta")
        plan = content[CHECKPOINT_KEY]["resume"].get("plan") or {}
        return plan.get("elapsed", 0.0), content.get("global_step", 0), changed
    except Exception:  # torch raises whatever it stumbles over
        return math.inf, math.inf, changed


def is_of_run(checkpoint: Path, output: Path) -> bool:
    """Whether `checkpoint` is one of the run in `output`."""
    checkpoint, output = checkpoint.resolve(), output.resolve()
    own = checkpoint.parent == output and checkpoint.match(LIGHTNINGS_OWN)
    return own or checkpoint.is_relative_to(output / CHECKPOINTS)


def _parts_of_run(output: Path) -> list[Path]:
    parts = [output / name for name in (CONFIG_FILE, CHECKPOINTS, LOGS, STEP_FILE) if (output / name).exists()]
    return parts + sorted(output.glob(LIGHTNINGS_OWN))


@rank_zero_only
def _refuse_other_run(output: Path, *, allow_without_checkpoint: bool) -> None:
    damaged = _checkpoints(output)  # if the run is to go on: a whole one of them would have been taken
    others = sorted(set((output / CHECKPOINTS).glob("*.ckpt")) - set(damaged))
    if allow_without_checkpoint and others:
        raise InputError(
            f"{output} holds no whole checkpoint to go on from, but {others[0].name}. "
            f"Give --ckpt_path {others[0]} to go on from it, or --overwrite to replace the run."
        )
    if allow_without_checkpoint and damaged:
        raise InputError(
            f"{output} holds damaged checkpoints alone ({', '.join(path.name for path in damaged)}). Put back a copy "
            "of one, or add --overwrite to replace the run."
        )
    if _parts_of_run(output) and not allow_without_checkpoint:
        raise InputError(
            f"{output} already holds a run. "
            "Add --resume to go on with it, --overwrite to replace it, or give another --output."
        )


@rank_zero_only
def remove_run(output: Path) -> None:
    """Remove what a run wrote into `output`, and nothing else that is there."""
    for path in _parts_of_run(output):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
