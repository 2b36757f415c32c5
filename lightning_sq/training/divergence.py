"""A loss or weights that are no longer finite: all processes stop together, and the first says what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import NoReturn

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_sq.process_group import largest_of_all
from lightning_sq.types import Batch


def stop_for_loss(module: LightningModule, loss: Tensor, batch: Batch, broken: int) -> NoReturn:
    """Before the optimizer steps, in every process; those whose loss it is name their images.

    Args:
        module: That is trained.
        loss: Of this process.
        batch: The same.
        broken: A process whose loss is not finite.
    Raises: FloatingPointError in the first process, SystemExit in the others.
    """
    if not loss.isfinite().all():
        names = [str(module.trainer.datamodule.index("train").paths[i]) for i in batch.indices[:3].tolist()]
        print(f"process {module.global_rank}: the loss is {loss.item()} on {', '.join(names)}, ...", file=sys.stderr)
    _stop(module, "loss", f", in process {broken} of {module.trainer.world_size}")


def stop_unless_finite(module: LightningModule, what: str, values: Iterable[Tensor]) -> None:
    """Every rank comes here and all stop together: one that stopped alone would leave the others waiting.

    Raises: FloatingPointError in the first process, SystemExit in the others, if one has values that are not finite.
    """
    finite = torch.stack([value.detach().isfinite().all() for value in values]).all()
    (broken,) = largest_of_all((~finite).unsqueeze(0))
    if broken:
        _stop(module, what)


def _stop(module: LightningModule, what: str, where: str = "") -> NoReturn:
    if module.global_rank:  # rank 0 says it
        raise SystemExit(1)
    batch = module.trainer.fit_loop.epoch_loop.batch_idx + 1
    raise FloatingPointError(
        f"The {what} stopped being finite in epoch {module.current_epoch + 1}, at step {module.global_step}, "
        f"batch {batch}{where}. Add --resume to try once more from the last checkpoint, which is as it was; if it "
        "comes again, start anew with a lower --model.optimization.base_learning_rate than "
        f"{module.optimization.base_learning_rate:g}."
    )
