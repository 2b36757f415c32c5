"""A schedule that reaches its end on time: steps are skipped evenly where the machine is too slow for all of them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from lightning_sq.errors import InputError

MARGIN = 0.005
"""Of the limit: what is left for the end of the processes, and for a last validation slower than those before."""
MEMORY = 0.98
"""A step's share of the average step time that the next one keeps."""
LARGEST = 2**31 - 1
"""What the processes tell each other in 32 bits: as many steps as you like."""
KEPT = ("position", "step_seconds", "validation_seconds", "checkpoint_seconds")
"""What a run goes on with; the limit and the lengths are those of the new start."""


def parse_time_limit(text: str | None) -> float | None:
    """Seconds of "HH:MM:SS" or "DAYS-HH:MM:SS", as SLURM writes them; None for None.

    Raises: InputError for anything else, or for no time at all.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", str(text))
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0, 0)
    seconds += 60 * (minutes + 60 * (hours + 24 * days))
    if seconds <= 0:
        raise InputError(f'time_limit={text} is no time. Write it in quotes, such as "48:00:00" or "2-00:00:00".')
    return float(seconds)


@dataclass
class TimePlan:
    """Where a run is in its schedule of `total_steps`, and how far its next step goes.

    A step goes 1 forward while there is time for all of them, and

    $$ (total - position) / n $$

    where only n more fit into what is left of the limit, one validation an epoch and the last checkpoint included. So
    the last step that there is time for reaches the end exactly, and the learning rate with it. n is computed anew at
    each step from the average time of the steps so far, the newest counting most, and from the last validation.

    Args:
        limit: Seconds of all starts together; None for no limit.
        total_steps: Optimizer steps of the whole schedule; 0 until they are known.
        steps_per_epoch: A validation comes behind so many.
        position: How far the run is in the schedule, in its steps.
        step_seconds: The average of a step, 0 before the first.
        validation_seconds: Of the last one; a guess before it, and 0 before that.
        checkpoint_seconds: Of the last one, 0 before the first.
    """

    limit: float | None = None
    total_steps: int = 0
    steps_per_epoch: int = 1
    position: float = 0.0
    step_seconds: float = 0.0
    validation_seconds: float = 0.0
    checkpoint_seconds: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether the schedule is through."""
        return self.position >= self.total_steps - 1e-6

    def ends_early(self, num_steps: int) -> bool:
        """Whether a time limit, of this start or of one before, brought the schedule to its end in `num_steps`, fewer
        than it has: behind it the rate is 0. They are those of its own batches, not of what the run began with.
        """
        return self.finished and num_steps < self.total_steps

    def note_step(self, seconds: float) -> None:
        """How long the last step took. The very first one of a start is no measure: leave it out."""
        self.step_seconds = seconds if not self.step_seconds else MEMORY * self.step_seconds + (1 - MEMORY) * seconds

    def seconds_left(self, elapsed: float) -> float:
        """Of the limit, `elapsed` seconds after the run began; infinity without one."""
        return math.inf if self.limit is None else max(0.0, self.limit * (1 - MARGIN) - elapsed)

    def steps_that_fit(self, elapsed: float) -> float:
        """Optimizer steps that there is time for after `elapsed` seconds; infinity without a limit or a measure."""
        if self.limit is None or not self.step_seconds:
            return math.inf
        left = self.seconds_left(elapsed) - self.validation_seconds - self.checkpoint_seconds
        return max(0.0, left / (self.step_seconds + self.validation_seconds / self.steps_per_epoch))

    def propose(self, elapsed: float) -> int:
        """Steps that this process sees time for, `elapsed` seconds after the run began; at least 1, the next one."""
        return int(min(max(1.0, self.steps_that_fit(elapsed)), LARGEST))

    def take(self, possible: int) -> None:
        """Take one step of `possible`, the smallest of what the processes propose."""
        left = self.total_steps - self.position
        self.position += min(left, max(1.0, left / possible))

    def state_dict(self) -> dict[str, float]:
        """`KEPT`."""
        return {name: getattr(self, name) for name in KEPT}
