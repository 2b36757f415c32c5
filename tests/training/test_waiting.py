from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_sq.data.loader import Loader
from lightning_sq.data.order import EpochOrder
from lightning_sq.training import waiting
from lightning_sq.training.waiting import WaitingForData, hint
from lightning_sq.types import Batch


class SlowLoader(Loader):
    """Half of the time it reads, half of it it decodes, on the clock that the test moves."""

    def __init__(self, clock) -> None:
        super().__init__(None, EpochOrder(6, 2))
        self.clock = clock

    def batches(self, epoch, first):
        for _ in range(3):
            self.clock.now += 3.0
            self.waited_for_reader += 1.0
            yield Batch(torch.zeros(2, 1, 1, 1), torch.zeros(2), torch.from_numpy(np.arange(2)))


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: clock.now)
    return clock


@pytest.fixture
def epoch(clock, monkeypatch):
    """Runs an epoch whose steps take so many seconds; gives what was logged and said."""
    said = []
    monkeypatch.setattr(waiting, "rank_zero_info", said.append)

    def run(
        step_seconds: float, callback=None, loader=None, validation: float = 0.0, backend: str = "dali"
    ) -> tuple[dict, list[str]]:
        logged = {}
        loader = loader or SlowLoader(clock)
        callback = callback or WaitingForData()
        trainer = SimpleNamespace(
            train_dataloader=loader,
            current_epoch=0,
            datamodule=SimpleNamespace(num_threads=1, backend=backend, max_shift=0, flip_probability=0.5),
        )
        module = SimpleNamespace(log=lambda name, value, **options: logged.update({name: value}))
        callback.on_train_epoch_start(trainer, module)
        for _ in loader:
            clock.now += step_seconds
        callback.on_validation_start(trainer, module)
        clock.now += validation
        callback.on_validation_end(trainer, module)
        callback.on_train_epoch_end(trainer, module)
        return logged, said

    return run


def test_the_share_of_waiting_is_of_the_training_time_alone(epoch):
    logged, _ = epoch(step_seconds=1.0, validation=500.0)
    assert logged["train/waiting_share"] == pytest.approx(9 / 12)
    assert logged["train/reader_seconds"] == pytest.approx(3)
    assert logged["train/decoder_seconds"] == pytest.approx(6)


def test_each_epoch_is_measured_by_itself(epoch, clock):
    loader, callback = SlowLoader(clock), WaitingForData()
    for step_seconds, share in ((1.0, 9 / 12), (6.0, 9 / 27)):
        logged, _ = epoch(step_seconds, callback, loader)
        assert logged["train/waiting_share"] == pytest.approx(share)
        assert logged["train/reader_seconds"] == pytest.approx(3)


def test_only_much_waiting_is_talked_about(epoch):
    _, said = epoch(step_seconds=58.0)  # 3 of 61 seconds
    assert said == []
    _, said = epoch(step_seconds=56.0)  # 3 of 59
    assert len(said) == 1
    assert said[0].startswith("Epoch 1 waited for data 5% of its time, most of it for the decoder: ")
    _, said = epoch(step_seconds=1.0, backend="memory")
    assert "for batches to be cut in memory: " in said[-1]


def test_the_hint_names_what_would_help():
    few = hint(0, 0.2, 0.1, num_threads=2, cores=16)
    assert "raise --data.num_threads from 2 (this process may use 16 cores)" in few
    assert "data shard --short-side 352" in hint(0, 0.2, 0.1, num_threads=16, cores=16)
    assert "most of it for the reader: put the data on a local disk" in hint(4, 0.2, 0.9, num_threads=2, cores=16)
    in_memory = hint(4, 0.123, 0.0, num_threads=2, cores=16, in_memory=True)
    assert "to be cut in memory: leave shifts and flips out (--data.max_shift 0 --data.flip_probability 0)" in in_memory
    assert "num_threads" not in in_memory
    assert "data shard" not in in_memory
    as_they_are = hint(4, 0.123, 0.0, num_threads=2, cores=16, in_memory=True, cuts=False)
    assert as_they_are.endswith("to be cut in memory: give it a faster core.")
    assert hint(4, 0.123, 0.9, num_threads=2, cores=16).startswith("Epoch 5 waited for data 12% of its time")
