"""Seconds before days: whether all processes see the same data, code and recipe, and how well they are joined."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_info

from lightning_sq.errors import InputError
from lightning_sq.models.checkpoint_format import versions
from lightning_sq.paths import nearest_existing
from lightning_sq.process_group import gather_objects
from lightning_sq.run_files import CHECKPOINTS
from lightning_sq.words import counted

REDUCED_BYTES = 1 << 26
"""64 MB, of the size of a ResNet's gradients: what is reduced to see the bandwidth."""
CLOCK_SKEW = 5.0
"""Seconds between two hosts' clocks that are worth a word: logs and file times would mislead."""


class Preflight(Callback):
    """Compares what every process sees, before the first step, and prints one line.

    Args:
        output: Folder of the run, where checkpoints need room.
        num_checkpoints: Of how many there is to be room: those that are kept, and the one that is being written.
        start: The checkpoint that this process goes on from, in words; the same in all of them.
    """

    def __init__(self, output: Path, num_checkpoints: int, start: str = "none") -> None:
        self.output, self.num_checkpoints, self.start = output, num_checkpoints, start

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        own = about_this_process(trainer, pl_module, self.output) | {"checkpoint": self.start}
        trainer.strategy.barrier()  # a process that came late is not one whose clock is ahead
        everybody = gather_objects(own | {"clock": time.time()})
        check_alike(everybody)
        averages = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)
        check_disk_space(everybody, self.output, pl_module, self.num_checkpoints, averages=averages)
        skew = max(item["clock"] for item in everybody) - min(item["clock"] for item in everybody)
        if trainer.world_size > 1:
            hosts = {item["host"] for item in everybody}
            rank_zero_info(
                f"{trainer.world_size} processes on {counted(len(hosts), 'host')} see the same data "
                f"({own['data'][:12]}), recipe ({own['recipe'][:12]}) and versions; "
                f"{_joined(trainer, pl_module.device)}."
            )
        if commits := different_commits(everybody):
            rank_zero_info(commits)
        if skew > CLOCK_SKEW:
            slow, fast = (pick(everybody, key=lambda item: item["clock"])["host"] for pick in (min, max))
            rank_zero_info(f"The clock of {fast} is {skew:.0f} s ahead of that of {slow}.")


def about_this_process(trainer: Trainer, module: LightningModule, output: Path) -> dict[str, Any]:
    """What has to be the same everywhere, with the host's name and the bytes that are free for `output` there, or hold
    checkpoints that will be replaced.
    """
    data, installed = hashlib.sha256(), versions()
    for split in ("train", "val"):
        data.update(trainer.datamodule.index(split).fingerprint().encode())
    return {
        "host": socket.gethostname(),
        "rank": trainer.global_rank,
        "data": data.hexdigest(),
        "recipe": hashlib.sha256(json.dumps(module.run.recipe, sort_keys=True, default=str).encode()).hexdigest(),
        "commit": installed.pop("commit"),
        "versions": json.dumps(installed, sort_keys=True),
        "precision": trainer.precision,
        "free": free_bytes(output) + sum(path.stat().st_size for path in output.glob(f"{CHECKPOINTS}/*.ckpt")),
    }


REMEDIES = {
    "data": "other images (the fingerprint of names, classes and sizes differs). Give every host the same files",
    "recipe": "another recipe. Start every process by the same command",
    "versions": "other versions. Install the same requirements.lock everywhere",
    "precision": "another precision, as its GPU has no other. Set --trainer.precision to what all of them have",
    "checkpoint": "another checkpoint to go on from. Have it, and --output, on a disk that all hosts share",
}
SHOWN = ("versions", "precision", "checkpoint")
"""What is named as it differs; a fingerprint says nothing."""


def check_alike(everybody: list[dict[str, Any]]) -> None:
    """Raises: InputError that names the hosts that differ from most of the others."""
    for name, remedy in REMEDIES.items():
        usual, _ = Counter(item[name] for item in everybody).most_common(1)[0]
        odd = [item for item in everybody if item[name] != usual]
        if odd:
            hosts = ", ".join(dict.fromkeys(f"{item['host']} (process {item['rank']})" for item in odd[:5]))
            detail = f": {odd[0][name]} in the place of {usual}" if name in SHOWN else ""
            raise InputError(f"{hosts} has {remedy}{detail}.")


def different_commits(everybody: list[dict[str, Any]]) -> str | None:
    """A line if the hosts' code is of different commits, as far as they know theirs: one without git knows none. It is
    no reason to refuse, as a change may be of a page.
    """
    known: dict[str, str] = {}  # commit -> the first host that has it
    for item in everybody:
        if item["commit"] != "unknown":
            known.setdefault(item["commit"], item["host"])
    if len(known) < 2:
        return None
    return f"The code is of different commits: {', '.join(f'{one} on {host}' for one, host in known.items())}."


def free_bytes(output: Path) -> int:
    """Of the disk that holds `output`, or will."""
    return shutil.disk_usage(nearest_existing(output)).free


def check_disk_space(
    everybody: list[dict[str, Any]],
    output: Path,
    module: LightningModule,
    num_checkpoints: int,
    *,
    averages: bool = False,
) -> None:
    """Raises: InputError, in every process, if the disk of the first one has no room: only it writes checkpoints."""
    writer = everybody[0]
    weights = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    copies = 3 + averages  # two moments, at most; beside an average, the weights that are trained
    needed, free = num_checkpoints * copies * weights, writer["free"]
    if free < needed:
        raise InputError(
            f"There are {free / 1e9:.2f} GB free on {writer['host']} for --output {output}, and its checkpoints may "
            f"need {needed / 1e9:.2f} GB. Make room, or give another --output."
        )


def _joined(trainer: Trainer, device: torch.device) -> str:
    """The bandwidth of an all-reduce, in words."""
    seconds = measured_all_reduce_seconds(device)
    moved = 2 * (trainer.world_size - 1) / trainer.world_size * REDUCED_BYTES
    return f"an all-reduce of {REDUCED_BYTES / 1e6:.0f} MB moves {moved / seconds / 1e9:.2f} GB/s"


def measured_all_reduce_seconds(device: torch.device) -> float:
    """Of one all-reduce of `REDUCED_BYTES`, the second of two."""
    values = torch.zeros(REDUCED_BYTES // 4, device=device)
    for _ in range(2):
        began = time.perf_counter()
        torch.distributed.all_reduce(values)
        values[0].item()  # waits for a GPU
        seconds = time.perf_counter() - began
    return seconds
