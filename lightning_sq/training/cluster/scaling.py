"""How long a run takes on N nodes: a model of one step, said in full, so that it can be held against a measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_sq.training.loop import limited

BACKWARD = 2 / 3
"""Of a step's arithmetic: the backward pass costs twice the forward pass, and gradients are reduced during it."""
VALIDATION_SPEEDUP = 3.0
"""A forward pass alone, against a whole step."""


@dataclass(frozen=True)
class Network:
    """What joins the processes.

    Args:
        bandwidth: Bytes a second that an all-reduce moves through a node's link, of nodes.
        bandwidth_inside: The same among the processes of one node.
        latency: Seconds of one small all-reduce between two processes.
        overlap: Share of the backward pass behind which the all-reduce of the gradients can hide, in [0, 1].
    """

    bandwidth: float = 12.5e9
    bandwidth_inside: float = 100e9
    latency: float = 30e-6
    overlap: float = 0.7


@dataclass(frozen=True)
class Work:
    """What a recipe asks for, whatever it runs on.

    Args:
        num_images, num_validation_images: Of the data set.
        epochs: Of the recipe.
        batch_size: Images a process takes in one forward pass.
        accumulate: Forward passes a step.
        batch_repeats: How often each batch comes.
        gradient_bytes: What is reduced a step: 4 bytes a parameter.
        limit_train_batches, limit_val_batches: Of an epoch, see `limited`; None for all of them.
        max_steps: At which the run ends, if that is sooner; below 1 for none.
        validation_passes: Of all validation images: 2 where the objective adds noise, 1 on clean ones alone.
        check_val_every_n_epoch, val_check_interval: When there is a validation, as Lightning has them: a number of
            batches or a share of an epoch's; no time.
    """

    num_images: int
    num_validation_images: int
    epochs: int
    batch_size: int
    gradient_bytes: int
    accumulate: int = 1
    batch_repeats: int = 1
    limit_train_batches: float | None = None
    limit_val_batches: float | None = None
    max_steps: int = -1
    check_val_every_n_epoch: int | None = 1
    val_check_interval: float | None = None
    validation_passes: int = 1

    def num_validations(self, steps: int, *, steps_per_epoch: int, batches: int) -> int:
        """Of a run of `steps` optimizer steps, with `batches` an epoch."""
        epochs, rest = divmod(steps, steps_per_epoch)
        begun = min(rest * self.accumulate, batches)
        interval = 1.0 if self.val_check_interval is None else self.val_check_interval
        every = interval if isinstance(interval, int) else max(1, int(batches * interval))
        if self.check_val_every_n_epoch is None:
            return (epochs * batches + begun) // every
        whole, last = divmod(epochs, self.check_val_every_n_epoch)
        validates = last + 1 == self.check_val_every_n_epoch
        return whole * (batches // every) + validates * (begun // every)


def all_reduce_seconds(num_bytes: float, *, nodes: int, per_node: int, network: Network) -> float:
    r"""Of a ring: $ 2 (W - 1) / W \cdot bytes / bandwidth + latency \log_2 W $, W = nodes x per_node processes.

    The slowest link decides: a node's link to the others where there are some, else what is inside.
    """
    processes = nodes * per_node
    if processes == 1:
        return 0.0
    bandwidth = network.bandwidth if nodes > 1 else network.bandwidth_inside
    return 2 * (processes - 1) / processes * num_bytes / bandwidth + network.latency * math.log2(processes)


def step_seconds(work: Work, *, nodes: int, per_node: int, images_per_second: float, network: Network) -> float:
    r"""Of one optimizer step: $ t + \max(0, r - o \cdot b \cdot t_1) + n \log_2 W \cdot latency $.

    t is the arithmetic of all its forward and backward passes at `images_per_second` a process, r the all-reduce of the
    gradients, $ b \cdot t_1 $ the last backward pass, of which the share o hides it; the last term is the agreement of
    the processes behind each of the n forward passes.
    """
    arithmetic = work.batch_size / images_per_second
    reduce = all_reduce_seconds(work.gradient_bytes, nodes=nodes, per_node=per_node, network=network)
    exposed = max(0.0, reduce - network.overlap * BACKWARD * arithmetic)
    agreement = all_reduce_seconds(0, nodes=nodes, per_node=per_node, network=network)
    return (arithmetic + agreement) * work.accumulate + exposed


def plan_row(work: Work, *, nodes: int, per_node: int, images_per_second: float, network: Network) -> dict[str, float]:
    """Time, steps and throughput of the whole run on `nodes` with `per_node` processes each."""
    processes = nodes * per_node
    step = step_seconds(work, nodes=nodes, per_node=per_node, images_per_second=images_per_second, network=network)
    together = work.batch_size * processes
    batches = limited(math.ceil(work.num_images / together) * work.batch_repeats, work.limit_train_batches)
    steps_per_epoch = max(1, math.ceil(batches / work.accumulate))
    steps = steps_per_epoch * work.epochs
    steps = min(steps, work.max_steps) if work.max_steps > 0 else steps
    validated = limited(math.ceil(work.num_validation_images / together), work.limit_val_batches) * together
    validated = min(validated, work.num_validation_images) * work.validation_passes
    validation = validated / (VALIDATION_SPEEDUP * images_per_second * processes)
    validations = work.num_validations(steps, steps_per_epoch=steps_per_epoch, batches=batches)
    seconds = steps * step + validations * validation
    throughput = work.batch_size * work.accumulate * processes / step
    return {
        "nodes": nodes,
        "processes": processes,
        "global_batch_size": work.batch_size * work.accumulate * processes,
        "steps": steps,
        "steps_per_epoch": steps_per_epoch,
        "step_seconds": step,
        "images_per_second": throughput,
        "efficiency": throughput / (processes * images_per_second),
        "hours": seconds / 3600,
        "gpu_hours": seconds / 3600 * processes,
    }
