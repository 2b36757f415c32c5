"""What part of a training step takes how long, for benchmarks/gpu.py."""

from __future__ import annotations

import time
from statistics import median

import torch
from common.harness import synchronize
from common.steps import automatic_precision
from gpu_parts.network import Network

PARTS_ROUNDS = 3
COPY = "copy to channels_last"
"""Of the batch, NCHW as the loader gives it: a part of its own, since it moves as much as the front end has to."""


def parts_of_a_step(network: Network, name: str, batch_size: int, size: int, *, compiled: bool) -> dict[str, float]:
    """Part -> median seconds of the step of one way, taken apart; an attack's own passes are one part.

    Nobody waits for the GPU between two steps: where it waited for Python, the short parts would seem long.
    """
    objective, model = network.objective(name, compiled=compiled), network.model(name, compiled=compiled)
    images, labels = network.batch(batch_size, size)
    attack = getattr(objective, "attack", None)
    clocks = []
    for _ in range(1 + PARTS_ROUNDS):
        clock = Stopwatch(images.is_cuda)
        with automatic_precision(images.device):
            x = images.contiguous(memory_format=torch.channels_last)
            clock.note(COPY)
            if attack is None:
                x = objective.perturb(x)
            else:
                x = attack(model, x, labels)
                clock.note("attack")
            x = model.front_end(x)
            clock.note("front end")
            loss = objective.loss(model.backbone(x), labels)
            clock.note("network forward")
        network.optimizer.zero_grad()
        loss.backward()
        clock.note("backward")
        network.optimizer.step()
        clock.note("optimizer")
        clocks.append(clock)
    synchronize()
    taken = [clock.seconds() for clock in clocks[1:]]
    return {part: median(seconds[part] for seconds in taken) for part in taken[0]}


class Stopwatch:
    """Seconds between moments: events that the GPU reaches in its turn, or the processor's clock."""

    def __init__(self, gpu: bool) -> None:
        self.gpu = gpu
        self._moments = [("", self._now())]

    def _now(self) -> torch.cuda.Event | float:
        if not self.gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def note(self, part: str) -> None:
        """`part` ends here."""
        self._moments.append((part, self._now()))

    def seconds(self) -> dict[str, float]:
        """Of each part; a GPU has to have come to its end."""
        pairs = zip(self._moments, self._moments[1:], strict=False)
        return {name: start.elapsed_time(end) / 1e3 if self.gpu else end - start for (_, start), (name, end) in pairs}
