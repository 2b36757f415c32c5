"""Which options of Lightning's Trainer a run cannot have, known before anything is written, or removed for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_sq.errors import InputError
from lightning_sq.objectives import IntervalBound
from lightning_sq.training.loop import count_batches, count_steps
from lightning_sq.training.resizing import ProgressiveResizing

if TYPE_CHECKING:
    from lightning_sq.training.module import ClassifierModule

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""In which weights and pixels stay float32, as a checkpoint, an evaluation and a release have them."""


def check_trainer(trainer: Trainer) -> None:
    """Raises: InputError for a strategy, a precision or a callback that this project does not work with."""
    strategy = trainer.strategy
    spawns = isinstance(strategy.launcher, _MultiProcessingLauncher)
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)) or spawns:
        raise InputError(
            f"--trainer.strategy is {_name_of(strategy)}, and a run is one process or several of DDP, each started by "
            "the command itself. Set --trainer.strategy ddp, or leave it out."
        )
    if trainer.precision not in PRECISIONS:
        raise InputError(
            f"--trainer.precision is {trainer.precision}, and weights and pixels stay float32 here. "
            f"Set --trainer.precision to one of {', '.join(PRECISIONS)}."
        )
    for callback in trainer.callbacks:
        if isinstance(callback, StochasticWeightAveraging):
            raise InputError(
                "StochasticWeightAveraging puts its average in place behind the last checkpoint, where nothing saves "
                "it. Take lightning.pytorch.callbacks.EMAWeightAveraging."
            )
        if isinstance(callback, GradientAccumulationScheduler) and set(callback.scheduling.values()) != {1}:
            raise InputError(
                "GradientAccumulationScheduler changes the steps of an epoch, which the schedule of the learning rate "
                "counts beforehand. Set --trainer.accumulate_grad_batches, or leave the callback out."
            )


def check_sync_batchnorm(trainer: Trainer, module: ClassifierModule) -> None:
    """Raises: InputError where --trainer.sync_batchnorm would train another function than is saved and attacked."""
    if not isinstance(trainer.strategy, DDPStrategy) or trainer.strategy._layer_sync is None:
        return
    for layer in module.model.modules():
        if isinstance(layer, _BatchNorm) and next(layer.children(), None) is not None:
            raise InputError(
                f"--trainer.sync_batchnorm puts torch's norm in the place of every {type(layer).__name__} of "
                f"{module.model.config.architecture}, and leaves out the activation inside. Leave it out."
            )
    if isinstance(module.objective, IntervalBound):
        raise InputError(
            "--trainer.sync_batchnorm has no part in the bounds of IntervalBound, which go by the batch of each "
            "process. Leave it out."
        )


def _name_of(strategy: object) -> str:
    return getattr(strategy, "_start_method", None) or type(strategy).__name__


def check_fit(trainer: Trainer, *, has_time_limit: bool = False) -> None:
    """What Lightning would refuse, or train nothing with, when the run that was there is already removed.

    Raises: InputError if there would be no step, no end, or validation that never came or not to all processes at once;
        or perhaps no image of the size that training is to end with.
    """
    if has_time_limit and any(isinstance(callback, ProgressiveResizing) for callback in trainer.callbacks):
        raise InputError(
            "ProgressiveResizing goes by epochs, and --time_limit may leave out the last of them, with the largest "
            "images. Set --trainer.max_epochs to what there is time for in the place of --time_limit, or leave the "
            "callback out."
        )
    if trainer.overfit_batches:
        raise InputError(
            f"--trainer.overfit_batches is {trainer.overfit_batches:g}, and takes torch's DataLoader, which this "
            "project's loaders are not. Set --trainer.limit_train_batches, and --data.root to a folder of few images."
        )
    if trainer.accumulate_grad_batches < 1:
        raise InputError(
            f"--trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}, not at least 1. Leave it out."
        )
    if 0 in (trainer.max_epochs, trainer.max_steps):
        name = "max_epochs" if trainer.max_epochs == 0 else "max_steps"
        raise InputError(f"--trainer.{name} is 0: nothing would be trained. Set it to at least 1.")
    batches = count_batches(trainer)
    if not batches:
        raise InputError(
            f"--trainer.limit_train_batches is {trainer.limit_train_batches:g}, which leaves no batch of an epoch. "
            "Set it to at least 1, or leave it out."
        )
    count_steps(trainer)
    if trainer._val_check_time_interval is not None and trainer.world_size > 1:
        raise InputError(
            f"--trainer.val_check_interval is a time, and each of the {trainer.world_size} processes goes by its own "
            "clock: one would validate while another trains on. Set it to a number of batches or a share of an epoch."
        )
    every = getattr(trainer, "val_check_interval", None)  # Lightning has none where it is a time
    by_epoch = trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches
    if isinstance(every, int) and by_epoch and every > batches:
        raise InputError(
            f"--trainer.val_check_interval is {every}, and an epoch has {batches} batches. Set it to at most that, or "
            "--trainer.check_val_every_n_epoch null to count over epochs, or --trainer.limit_val_batches 0 for none."
        )
