"""The LightningModule: wiring between a model, an objective and an optimiser, all built elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from lightning_sq.data.datamodule import ImageFolderData
from lightning_sq.errors import InputError
from lightning_sq.metrics import batches_of_any_size, input_gradient_l1, one_of_every
from lightning_sq.models import ModelConfig, PixelClassifier
from lightning_sq.models.checkpoint_format import CHECKPOINT_KEY
from lightning_sq.objectives import Objective
from lightning_sq.ops.pixels import check_pixels
from lightning_sq.ops.random_numbers import SEED_STRIDE
from lightning_sq.training.divergence import stop_for_loss, stop_unless_finite
from lightning_sq.training.loop import count_steps, global_batch_size
from lightning_sq.training.optim import Optimization, make_optimizer, make_schedule
from lightning_sq.training.resume.going_on import entry_of, go_on, put_back_rate
from lightning_sq.training.resume.rank_state import put_back_rank_state
from lightning_sq.training.run_state import RunState
from lightning_sq.types import Batch

GRADIENT_IMAGES = 256
"""At least so many validation images, if there are, show the input gradient: every n-th, over all classes."""


class ClassifierModule(LightningModule):
    """Trains `model` by `objective`.

    Logs train/loss, train/top1 (on the images as trained, noisy ones included); val/loss, val/clean_top1,
    val/clean_top5, val/input_gradient_l1 and, if the objective adds noise, val/noisy_top1. Accuracies are in [0, 1].

    Args:
        model: Pixels in [0, 1] to logits.
        objective: What is minimised.
        optimization: How.
        seed: Of the objective's random streams; each rank has its own.

    `run` is what is known of the run besides; the command line gives one with its recipe and time limit.
    """

    def __init__(self, model: PixelClassifier, objective: Objective, optimization: Optimization, seed: int = 0) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.objective = objective
        self.optimization = optimization
        self.seed = seed
        self.run = RunState()
        self._pixels_checked = False
        num_classes = len(model.config.class_names)
        top1 = {"num_classes": num_classes, "average": "micro", "validate_args": False}
        self.train_top1 = MulticlassAccuracy(**top1)
        self.val_metrics = nn.ModuleDict(
            {
                "loss": MeanMetric(),
                "clean_top1": MulticlassAccuracy(**top1),
                "clean_top5": MulticlassAccuracy(**top1, top_k=min(5, num_classes)),
                "input_gradient_l1": MeanMetric(),
            }
        )
        if objective.adds_noise:
            self.val_metrics["noisy_top1"] = MulticlassAccuracy(**top1)

    def setup(self, stage: str) -> None:
        if not isinstance(self.trainer.datamodule, ImageFolderData):
            given = "a DataLoader" if self.trainer.datamodule is None else type(self.trainer.datamodule).__name__
            raise InputError(
                "ClassifierModule takes its images from a data module, with which a run can stop and go on at any "
                "step: give the Trainer datamodule=lightning_sq.data.datamodule.ImageFolderData(...), or a subclass "
                f"of it, not {given}."
            )
        self.objective.seed(self.seed, self.global_rank)
        if stage == "fit":
            self.run.plan.position = 0.0  # of a fit behind another; one that resumes is told its own after this
        if stage == "fit" and self.global_rank:  # all ranks have the same: they would draw the same dropout
            torch.manual_seed((self.seed + 1) * SEED_STRIDE - self.global_rank)  # from above: none of the objective's

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.contiguous(memory_format=torch.channels_last))

    def on_train_start(self) -> None:
        put_back_rate(self.lr_schedulers())
        put_back_rank_state(self)

    def on_train_epoch_start(self) -> None:
        self.train_top1.reset()  # a checkpoint of an epoch's end holds that epoch's count

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if not self._pixels_checked:  # once: it makes a GPU wait
            check_pixels(batch.images, "the first training batch")
            self._pixels_checked = True

    def training_step(self, batch: Batch) -> Tensor:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        loss, logits = self.objective(self.model, images, batch.labels)
        self.train_top1(logits.detach(), batch.labels)
        self.log("train/loss", loss.detach(), prog_bar=True)  # written behind the step, if that is not refused
        broken = self.run.agree(loss, self.global_rank)  # last, as it waits for the GPU
        if broken is not None:
            stop_for_loss(self, loss, batch, broken)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.run.plan.take(self.run.possible_steps)  # before the scheduler asks where that leads to

    def on_train_epoch_end(self) -> None:
        self.log("train/top1", self.train_top1)

    def validation_step(self, batch: Batch) -> None:
        images, labels, indices = (part[batch.valid] for part in batch)
        if len(labels):
            self._measure(images, labels, indices)
        for name, metric in self.val_metrics.items():  # all of them on every rank, or the ranks wait for each other
            self.log(f"val/{name}", metric, prog_bar=name.endswith("top1"), batch_size=max(1, len(labels)))

    test_step = validation_step

    def _measure(self, images: Tensor, labels: Tensor, indices: Tensor) -> None:
        logits = self(images)
        self.val_metrics["loss"].update(cross_entropy(logits.float(), labels), weight=len(labels))
        self.val_metrics["clean_top1"].update(logits, labels)
        self.val_metrics["clean_top5"].update(logits, labels)
        if "noisy_top1" in self.val_metrics:
            noisy = self.objective.perturb_repeatably(images, indices)
            self.val_metrics["noisy_top1"].update(self(noisy), labels)
        probe = one_of_every(max(1, len(self.trainer.datamodule.index("val")) // GRADIENT_IMAGES), indices)
        if probe.any():
            with batches_of_any_size():
                norms = input_gradient_l1(self, images[probe], labels[probe])
            self.val_metrics["input_gradient_l1"].update(norms)

    def configure_optimizers(self) -> dict[str, Any]:
        plan, (steps_per_epoch, total_steps) = self.run.plan, count_steps(self.trainer)
        plan.steps_per_epoch, plan.total_steps = steps_per_epoch, total_steps
        optimizer = make_optimizer(
            self.model,
            self.optimization,
            global_batch_size=global_batch_size(self.trainer),
            objective=self.objective,
        )
        schedule = make_schedule(
            optimizer,
            warmup_steps=min(total_steps, round(self.optimization.warmup_epochs * steps_per_epoch)),
            total_steps=total_steps,
            decay=self.optimization.decay,
            position=lambda _: self.run.plan.position,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stop_unless_finite(self, "weights", self.parameters())
        checkpoint[CHECKPOINT_KEY] = entry_of(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = ModelConfig.from_dict(checkpoint[CHECKPOINT_KEY]["model"]).quantizer
        if saved is not None and self.model.quantizer is not None:  # a schedule moves it, and no tensor holds it
            self.model.quantizer.sharpness = saved.sharpness
        if self.trainer.state.fn == TrainerFn.FITTING:
            go_on(self, checkpoint)
