"""Going on with a run whose folder is not as it was: moved, copied, behind a link, or without its best."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from lightning_sq.training.resume.start import is_of_run

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
"""What a `ModelCheckpoint` saves besides the folder, one file each."""


def bring_here(checkpoint: dict[str, Any], path: Path, callbacks: Iterable[Checkpoint]) -> None:
    """Give `checkpoint`, before Lightning reads it, the folders in which `callbacks` now save.

    Where the folder is another one than it says, Lightning forgets what was the best: the first validation would be
    taken for it, and written over a better model. A best whose file is not there, in the same folder too, is forgotten:
    one that is not as good would never be written. States that an earlier version saved get the names of today.

    Args:
        checkpoint: As loaded.
        path: Its file; if that is not of the run which `callbacks` save, theirs is a new one and nothing is changed.
        callbacks: Of the trainer, which knows their folders.
    """
    states = checkpoint["callbacks"]
    for callback in callbacks:
        former = getattr(callback, "former_state_key", None)
        if former in states and callback.state_key not in states:
            states[callback.state_key] = states.pop(former)
        state = states.get(callback.state_key)
        if not state or not isinstance(callback, ModelCheckpoint) or not is_of_run(path, Path(callback.dirpath).parent):
            continue
        here = Path(callback.dirpath)
        best = {str(here / Path(file).name): score for file, score in state["best_k_models"].items()}
        if all(Path(file).is_file() for file in best):
            files = {name: state[name] and str(here / Path(state[name]).name) for name in PATHS}
            state.update(files, dirpath=callback.dirpath, best_k_models=best)
        else:
            state.update(callback.state_dict())  # of one that has saved nothing yet
