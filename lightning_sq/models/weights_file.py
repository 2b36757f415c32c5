"""Files of weights from elsewhere: what trainers put around the tensors is taken off, and nothing in them is run."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lightning_sq.errors import InputError
from lightning_sq.paths import expanded

WRAPPINGS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "net")
"""Where trainers keep weights beside other things. The first that is there counts: an average before what it is of."""
UNTRACKED = "num_batches_tracked"
"""Ends the names of tensors that older files lack, and that change nothing."""
SAVE_ALONE = "Save state_dict() alone where it was trained: torch.save(model.state_dict(), FILE)."


def file_state(path: str | Path, *, named_by: str = "--model.checkpoint_path") -> dict[str, Tensor]:
    """The float32 tensors of a safetensors file, or of what torch.save wrote, under the names that stand there.

    Of several that a checkpoint of another trainer holds it is the first of `WRAPPINGS`.

    Args:
        path: Of the file.
        named_by: How the caller was told of it.
    Raises: InputError if there is no such file, it is damaged, or it holds what is no tensor: that is never opened.
    """
    path = expanded(path)
    if not path.is_file():
        raise InputError(f"There is no weights file {path}. Give another by {named_by}.")
    content = _content(path)
    for name in WRAPPINGS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
            break
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, and no tensors by name. {SAVE_ALONE}")
    if other := next((name for name, value in content.items() if not isinstance(value, Tensor)), None):
        what = f"{other!r} ({type(content[other]).__name__}), and nothing is named {' or '.join(WRAPPINGS)}"
        raise InputError(f"{path} holds more than tensors: {what}. {SAVE_ALONE}")
    return {str(key): value.float() if value.is_floating_point() else value for key, value in content.items()}


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # SafetensorError, UnpicklingError, and whatever a damaged pickle makes torch raise
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):  # what `weights_only` has refused to make
            raise InputError(f"{path} holds more than tensors ({found[1]}). {SAVE_ALONE}") from error
        raise InputError(
            f"{path} is not a readable weights file ({type(error).__name__}). Download it again, or give another."
        ) from error


def without_prefix(state: dict[str, Tensor], own: Collection[str], *, source: str) -> dict[str, Tensor]:
    """`state` by the names of the model, where it has all of these behind one prefix; else as it is.

    DDP writes `module.` before each name, a Lightning module `net.`, a release `backbone.`. What stands beside those,
    such as the weights of a loss, is left out.

    Args:
        state: As a file has it.
        own: Names of the model's tensors.
        source: For the message.
    Raises: InputError if there are several such prefixes, so two models.
    """
    needed = [name for name in own if not name.endswith(UNTRACKED)]
    longest = max(needed, key=len, default="")
    prefixes = [name.removesuffix(longest) for name in state if name.endswith(longest)]
    fitting = [prefix for prefix in prefixes if all(f"{prefix}{name}" in state for name in needed)]
    if len(fitting) > 1 and "" not in fitting:
        raise InputError(f"{source} holds {len(fitting)} such models, behind {' and '.join(fitting)}. {SAVE_ALONE}")
    if len(fitting) != 1:
        return state
    return {name.removeprefix(fitting[0]): value for name, value in state.items() if name.startswith(fitting[0])}
