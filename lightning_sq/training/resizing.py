"""Progressive resizing: small images in the early epochs, full size in the last, in one run."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sq.errors import InputError
from lightning_sq.models.backbone import check_image_size


class ProgressiveResizing(Callback):
    """Trains on images of another size in each range of epochs; validation keeps `data.image_size`.

    The size is a function of the epoch, so a run resumes at the size that it had, and `--time_limit`, which may leave
    out the last epochs, is refused with it. Logs train/image_size.

    Args:
        sizes: [first epoch, image size in pixels], the epochs rising from 0: `[[0, 128], [6, 176], [12, 224]]`.
    Raises: InputError for what is no such list, and, before training starts, for a size that the model does not take.
    """

    def __init__(self, sizes: list[list[int]]) -> None:
        if any(len(pair) != 2 for pair in sizes):
            raise InputError(f"sizes={sizes} are not pairs of an epoch and a size. Write [[0, 128], [6, 224]].")
        self.sizes: Sequence[tuple[int, int]] = [(epoch, size) for epoch, size in sizes]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        trainer.datamodule.resize_progressively(self.sizes)
        config = pl_module.model.config
        for _, size in self.sizes:
            check_image_size(
                pl_module.model, config.architecture, size, len(config.class_names), trainer.datamodule.channels
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        size = trainer.train_dataloader.dataset.square(trainer.current_epoch)
        pl_module.log("train/image_size", float(size))  # only now: an epoch that is gone on with does not start
