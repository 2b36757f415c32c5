"""Runs attacks on one model and keeps a verdict for every image.

A stage is one attack at one epsilon. The images of a stage are cut into batches before it starts, and batch b belongs
to process b mod n: so neither the number of processes nor a restart changes what is attacked together, with which seed.
Few images are still several batches, so that the processes share the last stages too, which are the dear ones.
"""

from __future__ import annotations

import logging
import math
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_sq.attacks import Attack, Prover, Settled, fools
from lightning_sq.attacks.autoattack import LOGGER
from lightning_sq.attacks.checks import classify
from lightning_sq.attacks.frozen import frozen
from lightning_sq.attacks.interface import Model
from lightning_sq.errors import InputError
from lightning_sq.evaluation.processes import gather
from lightning_sq.evaluation.store import Kept, VerdictStore
from lightning_sq.ops.random_numbers import SEED_STRIDE, random_numbers_kept
from lightning_sq.process_group import rank, world_size
from lightning_sq.types import Norm

SHARES = 4
"""The fewest batches of a stage, for processes to share, where each has `SMALLEST_SHARE` images."""
SMALLEST_SHARE = 8
"""The fewest images of a batch that is cut for the sake of `SHARES`: a network is slow at less."""

LARGEST_SEED = 2**52
"""Of an image: an attack multiplies it by some 1000, and torch takes 64 bits."""

Progress = Callable[[int, int, str], None]


def images_together(num_images: int, batch_size: int) -> int:
    """The images of a batch, of so many that a stage has left; `batch_size` at most."""
    return min(batch_size, max(SMALLEST_SHARE, math.ceil(num_images / SHARES)))


@dataclass(frozen=True)
class Outcome:
    """What one attack did at one epsilon.

    Args:
        attacked: (N,) bool: the images that it was given.
        broken: (N,) bool: those of them that it broke.
        proven: (N,) bool: those of them of which it proved that nothing can.
        seconds: Over all processes.
        notes: What it had to say, each thing once, as of the first batch that it was said of.
        examples: Adversarial images that are to be shown, by image number: (C, H, W).
    """

    attacked: Tensor
    broken: Tensor
    proven: Tensor
    seconds: float
    notes: tuple[str, ...]
    examples: dict[int, Tensor]


class StageRunner:
    """Attacks images of one data set on one model, over all processes.

    Args:
        model: Pixels to logits; its verdict is what counts.
        attacked: What the attacks are given: the model, or its parts if they are known.
        images: (N, C, H, W) float32 in [0, 1], on the CPU or the device.
        labels: (N,) int64.
        store: Where verdicts are kept.
        device: Where the model is.
        norm: Of the ball.
        batch_size: Images at a time, at most.
        seed: Of everything random; each image has its own.
        show: Numbers of images whose adversarial version is to be kept.
    """

    def __init__(
        self,
        model: Model,
        attacked: Any,
        images: Tensor,
        labels: Tensor,
        store: VerdictStore,
        *,
        device: torch.device,
        norm: Norm = "linf",
        batch_size: int = 128,
        seed: int = 0,
        show: Sequence[int] = (),
    ) -> None:
        self.model, self.attacked = model, attacked
        self.images, self.labels = images, labels
        self.store, self.device, self.norm = store, device, norm
        self.batch_size, self.seed, self.show = batch_size, seed, frozenset(show)

    def ask(
        self,
        question: Callable[[Tensor, Tensor, list[int]], Tensor],
        todo: Tensor | None = None,
    ) -> Tensor:
        """(N, ...) on the CPU: `question(images, labels, numbers)` -> (B, ...) of every image, over all processes.

        Args:
            todo: (N,) bool: ask of these images only, of the others it is 0 or false.
        """
        found: list[tuple[Tensor, Tensor]] = []
        numbers = torch.arange(len(self.images), device="cpu") if todo is None else torch.nonzero(todo)[:, 0]
        for chunk in self._own_batches(numbers):
            x, y = self.batch(chunk)
            with random_numbers_kept(self.device, zlib.crc32(f"{self._seeds(chunk)[0]}".encode())):
                found.append((chunk, question(x, y, chunk.tolist()).cpu()))
        parts = [part for of_rank in gather(found) for part in of_rank]
        if not parts:
            return self._flags(())
        answers = parts[0][1].new_zeros(len(self.images), *parts[0][1].shape[1:])
        for chunk, answer in parts:
            answers[chunk] = answer
        return answers

    def batch(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels of these numbers (B,), on the model's device."""
        numbers = numbers.to(self.images.device)
        return self.images[numbers].to(self.device), self.labels[numbers].to(self.device)

    def correct(self) -> Tensor:
        """(N,) bool: classified as labelled, before any attack."""
        return self.ask(lambda x, y, _: classify(self.model, x) == y)

    def run(
        self,
        name: str,
        attack: Attack | Prover,
        epsilon: float,
        todo: Tensor,
        advance: Callable[[int], None] | None = None,
    ) -> Outcome:
        """One stage: `attack` at `epsilon` on the images flagged in `todo` (N,), kept batch by batch.

        Args:
            name: Of the attack; with epsilon, of the stage.
            advance: Called with the number of images done.
        """
        stage = f"{name}@{epsilon:.9g}"
        found: list[Kept] = []
        for chunk in self._own_batches(torch.nonzero(todo)[:, 0]):
            numbers = chunk.tolist()
            kept = self.store.find(stage, numbers)
            if kept is None or not self.show.intersection(numbers) <= kept.examples.keys():  # others were shown before
                kept = self._attack(stage, attack, epsilon, chunk)
                self.store.keep(stage, numbers, kept)
            found.append(kept)
            if advance is not None:
                advance(len(chunk) * world_size())
        parts = sorted((part for of_rank in gather(found) for part in of_rank), key=lambda part: min(part.broken))
        shape = self.images.shape[1:]
        return Outcome(
            attacked=todo,
            broken=self._flags(i for part in parts for i, broken in part.broken.items() if broken),
            proven=self._flags(i for part in parts for i in part.proven),
            seconds=sum(part.seconds for part in parts),
            notes=_distinct(note for part in parts for note in part.notes),
            examples={i: x.view(shape) for part in parts for i, x in part.examples.items() if i in self.show},
        )

    def _attack(self, stage: str, attack: Attack | Prover, epsilon: float, chunk: Tensor) -> Kept:
        began = time.perf_counter()
        x, y = self.batch(chunk)
        seeds = self._seeds(chunk)
        of_batch = zlib.crc32(f"{stage}/{seeds[0]}".encode())  # so what a random model draws is a function of the batch
        with random_numbers_kept(self.device, of_batch), _collected_notes() as notes:
            with frozen(self.model, self.attacked):  # once more: an attack may leave them in training mode
                # copies, because an attack that writes into what it is given would be compared with its own
                given = attack(self.attacked, x.clone(), y.clone(), seeds, epsilon) if epsilon > 0 else x.clone()
            found, proven = _taken(given, x, stage)
            broken = fools(self.model, found, x, y, epsilon=epsilon, norm=self.norm, attack=stage)
        shown = {i: found[k].cpu() for k, i in enumerate(chunk.tolist()) if i in self.show}
        verdicts = dict(zip(chunk.tolist(), broken.tolist(), strict=True))
        certain = frozenset(chunk[(proven & ~broken).cpu()].tolist())
        return Kept(verdicts, time.perf_counter() - began, _distinct(notes), shown, certain)

    def _own_batches(self, numbers: Tensor) -> Iterator[Tensor]:
        batches = numbers.split(images_together(len(numbers), self.batch_size)) if len(numbers) else ()
        yield from batches[rank() :: world_size()]

    def _seeds(self, chunk: Tensor) -> list[int]:
        first = self.seed * SEED_STRIDE
        first = first if abs(first) < LARGEST_SEED else first % LARGEST_SEED
        return [first + i for i in chunk.tolist()]

    def _flags(self, numbers: Iterable[int]) -> Tensor:
        flags = torch.zeros(len(self.images), dtype=torch.bool, device="cpu")
        flags[list(numbers)] = True
        return flags


def _taken(given: Any, images: Tensor, stage: str) -> tuple[Tensor, Tensor]:
    """(adversarial images, which are proven to have none) from what an attack gave for `images`, in their dtype.

    Raises: InputError if that is not one image for each.
    """
    found, proven = given if isinstance(given, Settled) else (given, images.new_zeros(len(images), dtype=torch.bool))
    if not isinstance(found, Tensor):
        raise InputError(
            f"{stage} gave a {type(found).__name__}. An attack gives the adversarial images alone, as a tensor of "
            f"{tuple(images.shape)} like the images that it was given."
        )
    if found.shape != images.shape:
        raise InputError(f"{stage} gave images of {tuple(found.shape)} for {tuple(images.shape)}: one for each.")
    return found.detach().to(images), proven


def _distinct(notes: Iterable[str]) -> tuple[str, ...]:
    """Each once, in order; those that differ in their numbers only are one, with the numbers of the first."""
    first: dict[str, str] = {}
    for note in notes:
        first.setdefault(re.sub(r"\d+", "#", note), note)
    return tuple(first[key] for key in sorted(first))


@contextmanager
def _collected_notes() -> Iterator[list[str]]:
    notes: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: notes.append(record.getMessage())
    passes_on, LOGGER.propagate = LOGGER.propagate, False
    LOGGER.addHandler(handler)
    try:
        yield notes
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.propagate = passes_on
