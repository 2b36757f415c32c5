"""What is known of a run besides its model: one object, which the module, the callbacks and the command line share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_sq.process_group import largest_of_all
from lightning_sq.stop_request import seconds_since_start, stop_requested
from lightning_sq.training.cluster.time_limit import LARGEST, TimePlan


@dataclass
class RunState:
    """What a run was asked for, how far it is, and what its processes have agreed on in the step under way.

    Args:
        recipe: Its whole configuration, saved in every checkpoint.
        plan: Where it is in its schedule, whose lengths are known once the optimizer is made, and its time limit.
        seconds_before: That its earlier starts took.
        epochs_before: Trained in them, by `steps_before` optimizer steps; an epoch may have had other steps then.
        steps_before: See there.
        begins_epoch_again: The checkpoint to go on from is of other batches: its epoch starts anew.
        rank_state: Of this process, from the checkpoint, until it is put back; see `resume.rank_state`.
        asked_to_stop: A signal has come to one of the processes; see `cluster.leaving`.
        save_is_due: `TimedCheckpoint` says so in the first process, and behind `agree` it is so in all.
        possible_steps: For which the slowest process sees time.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    plan: TimePlan = field(default_factory=TimePlan)
    seconds_before: float = 0.0
    epochs_before: float = 0.0
    steps_before: int = 0
    begins_epoch_again: bool = False
    rank_state: dict[str, Any] | None = None
    asked_to_stop: bool = False
    save_is_due: bool = False
    possible_steps: int = LARGEST

    @property
    def elapsed(self) -> float:
        """Seconds of all starts."""
        return self.seconds_before + seconds_since_start()

    def epochs_trained(self, step: int) -> float:
        """Of all starts, when `step` optimizer steps have been taken."""
        return self.epochs_before + (step - self.steps_before) / self.plan.steps_per_epoch

    def ends_early(self, step: int) -> bool:
        """Whether its schedule is through after `step` optimizer steps, sooner than by all of them; see `TimePlan`."""
        return self.plan.ends_early(round(self.epochs_trained(step) * self.plan.steps_per_epoch))

    def agree(self, loss: Tensor, rank: int) -> int | None:
        """Once a batch, all processes together: whether one is to stop, or to save, and for how many steps there is
        time.

        Args:
            loss: Of this process.
            rank: Of this process.
        Returns: A process whose loss is not finite; None if all are.
        """
        finite = loss.detach().isfinite().all()
        own = [stop_requested() is not None, self.save_is_due, -self.plan.propose(self.elapsed)]
        votes = torch.cat([(~finite * (rank + 1)).view(1), torch.tensor(own, device=loss.device)])
        broken, asked_to_stop, save_is_due, fewest = largest_of_all(votes)
        self.asked_to_stop, self.save_is_due, self.possible_steps = bool(asked_to_stop), bool(save_is_due), -fewest
        return broken - 1 if broken else None

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint holds of it."""
        own = {"elapsed": self.elapsed, "steps_per_epoch": float(self.plan.steps_per_epoch)}
        return self.plan.state_dict() | own

    def load_state_dict(self, saved: dict[str, float] | None, *, step: int, epochs_trained: float | None) -> None:
        """Go on from a checkpoint.

        Args:
            saved: Of `state_dict`; an older checkpoint has none, and its run took every step of its schedule.
            step: Optimizer steps taken.
            epochs_trained: By these; None in an older checkpoint.
        """
        saved = dict(saved or {"position": float(step)})
        self.seconds_before = max(self.seconds_before, saved.pop("elapsed", 0.0))
        saved.pop("steps_per_epoch", None)
        self.plan = replace(self.plan, **saved)
        if epochs_trained is not None:
            self.epochs_before, self.steps_before = epochs_trained, step
