"""The LightningModule: wiring between a model, an objective and an optimiser, all built elsewhere."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any, NoReturn

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from lightning_sq.metrics import input_gradient_l1, one_of_every
from lightning_sq.models import ModelConfig, PixelClassifier
from lightning_sq.models.checkpoint_format import CHECKPOINT_KEY, checkpoint_entry
from lightning_sq.objectives import Objective
from lightning_sq.ops.pixels import check_pixels
from lightning_sq.ops.random_numbers import SEED_STRIDE
from lightning_sq.stop_request import seconds_since_start, stop_requested
from lightning_sq.training.cluster.agreement import from_every_rank, largest_of_all
from lightning_sq.training.cluster.time_limit import LARGEST, TimePlan
from lightning_sq.training.optim import Optimization, make_optimizer, make_schedule
from lightning_sq.training.resume.begin_epoch_again import begin_epoch_again
from lightning_sq.training.resume.random_state import put_back_torch, random_streams
from lightning_sq.training.resume.saved_state import settings
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

    `recipe`, the run's whole configuration, is set by the command line and saved in every checkpoint; `total_steps`,
    the optimizer steps of the whole run, is known once the optimizer is made. `asked_to_stop` is True in every process
    once a signal has asked one of them, see `leaving`; `save_is_due`, once `TimedCheckpoint` has set it in the first.
    `time_limit` and `seconds_before`, of earlier starts, are seconds that the command line sets; `plan` is where the
    run is in its schedule. `begins_epoch_again` says that the checkpoint to go on from is of other batches.
    """

    def __init__(self, model: PixelClassifier, objective: Objective, optimization: Optimization, seed: int = 0) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.objective = objective
        self.optimization = optimization
        self.seed = seed
        self.recipe: dict[str, Any] = {}
        self.total_steps = 0
        self.begins_epoch_again = False
        self.asked_to_stop = False
        self.save_is_due = False
        self.time_limit: float | None = None
        self.seconds_before = 0.0
        self.plan = TimePlan(None, 0, 1)
        self._saved_plan: dict[str, float] = {}
        self._trained_before = (0.0, 0)
        self._possible_steps = LARGEST
        self._pixels_checked = False
        self._streams: dict[str, Tensor | None] | None = None
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
        self.objective.seed(self.seed, self.global_rank)
        if stage == "fit" and self.global_rank:  # all ranks have the same: they would draw the same dropout
            torch.manual_seed((self.seed + 1) * SEED_STRIDE - self.global_rank)  # from above: none of the objective's

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.contiguous(memory_format=torch.channels_last))

    def on_train_epoch_start(self) -> None:
        self.train_top1.reset()  # a checkpoint of an epoch's end holds that epoch's count

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if not self._pixels_checked:  # once: it makes a GPU wait
            check_pixels(batch.images, "the first training batch")
            self._pixels_checked = True

    def training_step(self, batch: Batch) -> Tensor:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        loss, logits = self.objective(self.model, images, batch.labels)
        self._agree(loss, batch)
        self.train_top1(logits.detach(), batch.labels)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

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
            self.val_metrics["input_gradient_l1"].update(input_gradient_l1(self, images[probe], labels[probe]))

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = make_optimizer(self.model, self.optimization, global_batch_size=self._global_batch_size())
        steps_per_epoch, self.total_steps = self._count_steps()
        warmup_steps = min(self.total_steps, round(self.optimization.warmup_epochs * steps_per_epoch))
        self.plan = TimePlan(self.time_limit, self.total_steps, steps_per_epoch, **self._saved_plan)
        schedule = make_schedule(
            optimizer,
            warmup_steps=warmup_steps,
            total_steps=self.total_steps,
            decay=self.optimization.decay,
            position=lambda _: self.plan.position,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _global_batch_size(self) -> int:
        trainer = self.trainer
        return trainer.datamodule.batch_size_per_device * trainer.world_size * trainer.accumulate_grad_batches

    def _count_steps(self) -> tuple[int, int]:
        """(optimizer steps an epoch, in all), without `estimated_stepping_batches`, which drops a loader's state."""
        trainer = self.trainer
        batches = trainer.datamodule.num_training_batches(trainer.world_size)
        limit = trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        steps_per_epoch = max(1, math.ceil(batches / trainer.accumulate_grad_batches))
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else math.inf
        limits = [steps_per_epoch * epochs] + ([trainer.max_steps] if trainer.max_steps > 0 else [])
        total = min(limits)
        return steps_per_epoch, int(total) if math.isfinite(total) else steps_per_epoch

    def _agree(self, loss: Tensor, batch: Batch) -> None:
        """Once a step, all processes together: whether one has a loss that is not finite, is to stop, or to save.

        Raises: FloatingPointError in all of them, before the optimizer steps.
        """
        finite = loss.detach().isfinite().all()
        own = [stop_requested() is not None, self.save_is_due, -self.plan.propose(self.elapsed)]
        votes = torch.cat([(~finite * (self.global_rank + 1)).view(1), torch.tensor(own, device=loss.device)])
        broken, self.asked_to_stop, self.save_is_due, fewest = largest_of_all(votes)
        self._possible_steps = -fewest
        if not broken:
            return
        if not finite:
            names = [str(self.trainer.datamodule.index("train").paths[i]) for i in batch.indices[:3].tolist()]
            print(f"process {self.global_rank}: the loss is {loss.item()} on {', '.join(names)}, ...", file=sys.stderr)
        self._diverged("loss", f", in process {broken - 1} of {self.trainer.world_size}")

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.plan.take(self._possible_steps)  # before the scheduler asks where that leads to

    @property
    def elapsed(self) -> float:
        """Seconds of all starts of this run."""
        return self.seconds_before + seconds_since_start()

    def _stop_unless_finite(self, what: str, *values: Tensor) -> None:
        """Every rank comes here and all stop together: one that stopped alone would leave the others waiting."""
        finite = torch.stack([value.detach().isfinite().all() for value in values]).all()
        (broken,) = largest_of_all((~finite).unsqueeze(0))
        if broken:
            self._diverged(what)

    def _diverged(self, what: str, where: str = "") -> NoReturn:
        if self.global_rank:  # rank 0 says it
            raise SystemExit(1)
        batch = self.trainer.fit_loop.epoch_loop.batch_idx + 1
        raise FloatingPointError(
            f"The {what} stopped being finite in epoch {self.current_epoch + 1}, at step {self.global_step}, "
            f"batch {batch}{where}. Add --resume to try once more from the last checkpoint, which is as it was; if it "
            "comes again, start anew with a lower --model.optimization.base_learning_rate than "
            f"{self.optimization.base_learning_rate:g}."
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Every rank comes here, only rank 0 writes."""
        self._stop_unless_finite("weights", *self.model.parameters())
        streams = random_streams(self.objective.random_state, self.device)
        streams["train_top1"] = {name: getattr(self.train_top1, name).cpu() for name in self.train_top1._defaults}
        checkpoint[CHECKPOINT_KEY] = checkpoint_entry(
            self.model.current_config(),
            self.recipe,
            epochs_trained=self._epochs_trained(),
            resume={
                "model_at_start": self.model.config.to_dict(),
                "settings": settings(self.trainer, self.trainer.datamodule, self.optimization),
                "plan": self.plan.state_dict()
                | {"elapsed": self.elapsed, "steps_per_epoch": float(self.plan.steps_per_epoch)},
                "random_streams": from_every_rank(streams, self.trainer.world_size),
            },
        )

    def _epochs_trained(self) -> float:
        """With the steps an epoch has now, and had in the starts before."""
        epochs, steps = self._trained_before
        return epochs + (self.global_step - steps) / self._count_steps()[0]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        entry = checkpoint[CHECKPOINT_KEY]
        saved = ModelConfig.from_dict(entry["model"]).quantizer
        if saved is not None and self.model.quantizer is not None:  # a schedule moves it, and no tensor holds it
            self.model.quantizer.sharpness = saved.sharpness
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        if self.begins_epoch_again:
            here = settings(self.trainer, self.trainer.datamodule, self.optimization)
            limited = self.time_limit is not None
            begin_epoch_again(checkpoint, here, steps_per_epoch=self._count_steps()[0], limited=limited)
        self._go_on_with_plan(entry["resume"].get("plan"), checkpoint["global_step"])
        if entry.get("epochs_trained") is not None:
            self._trained_before = entry["epochs_trained"], checkpoint["global_step"]
        streams = entry["resume"]["random_streams"]
        if len(streams) != self.trainer.world_size:
            rank_zero_warn(
                f"The checkpoint is from {len(streams)} processes and this run has {self.trainer.world_size}: "
                "noise starts a new stream, and the epoch starts again."
            )
            return
        self._streams = streams[self.global_rank]
        self.objective.random_state = self._streams["objective"]

    def _go_on_with_plan(self, saved: dict[str, float] | None, step: int) -> None:
        saved = dict(saved or {"position": float(step)})  # an older checkpoint has none: it took every step
        self.seconds_before = max(self.seconds_before, saved.pop("elapsed", 0.0))
        saved.pop("steps_per_epoch", None)
        self._saved_plan = saved
        self.plan = replace(self.plan, **saved)

    def on_train_start(self) -> None:
        # the rate that was put back is of the schedule that the run had: with other batches or epochs it is another
        schedule = self.lr_schedulers()
        for group, factor in zip(schedule.optimizer.param_groups, schedule.lr_lambdas, strict=True):
            group["lr"] = group["initial_lr"] * factor(schedule.last_epoch)
        self.put_back_streams()

    def put_back_streams(self) -> None:
        """What the checkpoint holds of this process, once: when all is set up, which draws from torch's stream, and
        before the first batch or the validation that is owed, behind which the run is saved with them."""
        if self._streams is None:
            return
        put_back_torch(self._streams, self.device)
        for name, value in self._streams.get("train_top1", {}).items():  # counted so far in this epoch
            setattr(self.train_top1, name, value.to(self.device))
            self.train_top1._update_count += int(value.any())
        self._streams = None
