"""What a run still owes when it goes on from behind a batch: a validation, the end of an epoch, or both."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_sq.training.loop import validates_behind
from lightning_sq.training.resume.rank_state import put_back_rank_state


class OwedValidation(Callback):
    """Validates where a run was saved behind a batch and before the validation that belongs there.

    Lightning goes on with the next batch, and takes an epoch that was at its end as done: without this the validation
    and its row in the logs would be missing, and `best` with it; behind the last epoch the run would end unvalidated.
    The end of an epoch would be missing too, validated or not. A checkpoint from before it says that the epoch is not
    over and that all batches are taken: the run that goes on finds none left, and comes to the end once more.
    """

    def __init__(self) -> None:
        self.owed = False
        self._behind_batch = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.owed, self._behind_batch = validates_behind(trainer), True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ready = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        inside = 0 < ready < trainer.num_training_batches  # of an epoch: Lightning goes on with its next batch
        if self.owed and (trainer.should_stop or inside):  # or its schedule is complete: no epoch is begun
            put_back_rank_state(pl_module)  # it may draw from its streams, and what is best behind it is saved
            self._validate(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.owed = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._behind_batch = False
        if self.owed:
            loop = trainer.fit_loop.epoch_loop
            loop._batches_that_stepped -= 1  # the step behind which it belongs, as it is counted in the logs
            self._validate(trainer)
            loop._batches_that_stepped += 1

    @staticmethod
    def _validate(trainer: Trainer) -> None:
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._behind_batch and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            loops = checkpoint["loops"]["fit_loop"]
            loops["epoch_loop.batch_progress"]["is_last_batch"] = False
            for loader in loops["state_dict"].get("combined_loader", ()):  # a limit may have left batches in it
                loader["batches_taken"] = len(trainer.train_dataloader)

    def state_dict(self) -> dict[str, Any]:
        return {"owed": self.owed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.owed = state_dict["owed"]
