"""Who reads what when: the images of every batch of every epoch on every rank, from one seed.

The order is a function of (seed, epoch, position), not the state of a running reader. So a resumed run needs to know
only how many batches it had taken, every rank's share can be computed anywhere, and all backends agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lightning_sq.errors import InputError
from lightning_sq.types import PADDING_INDEX


def check_64_bit_seed(seed: int) -> None:
    """Raises: InputError for what no random generator takes as a key of 64 bits."""
    if not 0 <= seed < 2**64:
        raise InputError(f"seed={seed} is not in [0, 2**64). Write 0 or another whole number.")


@dataclass(frozen=True)
class EpochOrder:
    """The share of one rank in each epoch.

    A global batch is `world_size * batch_size` consecutive images of the epoch's order, dealt to the ranks in turn: so
    two processes with batches of 32 see in each step just what one process with batches of 64 sees.

    Args:
        num_images: Images in the split.
        batch_size: Images a rank takes in one step.
        world_size: Number of ranks.
        rank: This rank, from 0; the global one.
        shuffle: A new permutation each epoch for training; else the index's own order.
        pad_by_repeating: Fill the last global batch with images from the epoch's start (training); else with
            `PADDING_INDEX`, so that every image counts exactly once (validation).
        seed: Of the permutations.
        repeats: How often each batch comes before the next one (free adversarial training replays it).
    """

    num_images: int
    batch_size: int
    world_size: int = 1
    rank: int = 0
    shuffle: bool = False
    pad_by_repeating: bool = False
    seed: int = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size_per_device={self.batch_size} is not at least 1.")
        if self.repeats < 1:
            raise InputError(f"batch_repeats={self.repeats} is not at least 1.")
        check_64_bit_seed(self.seed)
        if not 0 <= self.rank < self.world_size:
            raise InputError(f"rank={self.rank} is not in [0, {self.world_size}), the number of processes.")

    @property
    def num_batches(self) -> int:
        """Batches an epoch, repeats included, the same on every rank."""
        return self._num_global_batches * self.repeats

    @property
    def _num_global_batches(self) -> int:
        return math.ceil(self.num_images / (self.batch_size * self.world_size))

    def epoch(self, epoch: int) -> np.ndarray:
        """(num_batches, batch_size) int64 positions in the index: this rank's share of `epoch`."""
        order = np.arange(self.num_images, dtype=np.int64)
        if self.shuffle:
            np.random.default_rng((self.seed, epoch)).shuffle(order)
        total = self._num_global_batches * self.batch_size * self.world_size
        if self.pad_by_repeating:
            order = np.resize(order, total)
        else:
            order = np.concatenate([order, np.full(total - self.num_images, PADDING_INDEX, np.int64)])
        shares = order.reshape(self._num_global_batches, self.batch_size, self.world_size)[:, :, self.rank]
        return np.repeat(shares, self.repeats, axis=0)
