"""How robust the model is by now, after each validation: a quick attack, to see a curve grow, not to report."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_sq.attacks import PGD, QuantizedBox
from lightning_sq.attacks.checks import classify, fools
from lightning_sq.errors import InputError
from lightning_sq.metrics import batches_of_any_size, one_of_every
from lightning_sq.types import Batch, parse_epsilon


class RobustAccuracy(Callback):
    """Logs val/robust_top1: the share of validation images that no quick attack breaks, an upper bound of the truth.

    PGD on the margin, in the quantized box where the model has a quantizer, because the quantizer hides nothing there.
    The images are one of every n of the validation set, the same each time. Its time is no training time.

    Args:
        epsilon: Radius of the L-inf ball, in units of the full pixel range, such as 8/255.
        num_images: Attacked over all processes, about.
        num_steps: Of PGD.
    """

    def __init__(self, epsilon: float | str = "8/255", num_images: int = 256, num_steps: int = 20) -> None:
        self.epsilon = parse_epsilon(epsilon)
        if num_images < 1:
            raise InputError(f"num_images={num_images} is not at least 1.")
        self.num_images = num_images
        self.attack = PGD(num_steps=num_steps, criterion="margin")
        self._taken: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._taken = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        every = max(1, len(trainer.datamodule.index("val")) // self.num_images)
        chosen = batch.valid & one_of_every(every, batch.indices)
        if chosen.any():
            self._taken.append((batch.images[chosen], batch.labels[chosen], batch.indices[chosen]))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        counts = torch.zeros(2, device=pl_module.device)  # still right, of so many
        if self._taken:
            with batches_of_any_size():
                counts[0], counts[1] = self._count(pl_module, trainer.datamodule.batch_size_per_device)
        counts = trainer.strategy.reduce(counts, reduce_op="sum")
        if counts[1]:
            pl_module.log("val/robust_top1", counts[0] / counts[1], prog_bar=True, sync_dist=True)

    def _count(self, module: LightningModule, batch_size: int) -> tuple[int, int]:
        """(still right, of so many), of what was taken."""
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(module.device.type, enabled=False):
            images, labels, indices = (torch.cat(part).clone() for part in zip(*self._taken, strict=True))
            attack = self.attack if module.model.quantizer is None else QuantizedBox(self.attack)
            still_right = 0
            for x, y, rows in zip(*(part.split(batch_size) for part in (images, labels, indices)), strict=True):
                adversarial = attack(module.model, x, y, rows.tolist(), self.epsilon)
                wrong = classify(module.model, x) != y
                wrong |= fools(module.model, adversarial, x, y, epsilon=self.epsilon)
                still_right += int((~wrong).sum())
        self._taken = []
        return still_right, len(labels)
