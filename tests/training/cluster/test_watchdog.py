"""Who keeps the others waiting."""

from __future__ import annotations

import math
import threading
from types import SimpleNamespace

import pytest
import torch

from lightning_sq.errors import InputError
from lightning_sq.training.cluster import watchdog
from lightning_sq.training.cluster.watchdog import OVER, Watchdog, check_hang_seconds, missing, silent


def test_a_process_whose_beat_has_stopped_is_named():
    earlier = {0: ["8", "5", "inside", "a"], 1: ["8", "5", "inside", "b"], 2: ["8", "5", "inside", "b"]}
    later = {0: ["8", "5", "inside", "a"], 1: ["8", "5", "inside", "b"], 2: ["9", "5", "inside", "b"]}
    assert missing(earlier, later, own=0) == ["process 1 on b shows no sign of life"]


def test_a_process_that_beats_and_is_behind_is_named():
    earlier, later = (
        {0: ["8", "5", "inside", "a"], 1: ["8", "4", "inside", "b"]},
        {0: ["8", "5", "inside", "a"], 1: ["9", "4", "inside", "b"]},
    )
    assert missing(earlier, later, own=0) == ["process 1 on b is alive and does not come to batch 5"]
    later[1][1] = "5"
    assert missing(earlier, later, own=0) == ["every process is inside the same batch"]


def test_a_process_whose_training_is_over_keeps_nobody_waiting():
    beats = {0: ["8", "5", "inside", "a"], 1: [OVER, "5", "inside", "b"]}
    assert silent(beats, beats, own=0) == []
    assert missing(beats, beats, own=0) == ["every process is inside the same batch"]


@pytest.mark.parametrize(("inside", "ends"), [(True, True), (False, False)])
def test_between_two_batches_only_a_beat_that_has_stopped_ends_the_run(inside, ends, monkeypatch):
    beats = ended(monkeypatch, Store(other_beats=True), inside=inside, at_most=60 if ends else 3)
    assert bool(beats) == ends
    assert ended(monkeypatch, Store(other_beats=False), inside=inside, at_most=60)


def test_the_first_batch_of_a_start_may_take_longer_unless_a_beat_has_stopped(monkeypatch):
    first = {"inside": True, "has_trained": False}
    assert ended(monkeypatch, Store(other_beats=True), at_most=4, **first) == []
    assert ended(monkeypatch, Store(other_beats=False), at_most=60, **first)
    assert watchdog.BUSY == 240 < watchdog.GRACE  # four minutes, as slurm/README.md says
    monkeypatch.setattr(watchdog, "BUSY", 1.0)
    assert ended(monkeypatch, Store(other_beats=True), at_most=60, **first)


@pytest.mark.parametrize("other_is", ["0 between", "0 inside", "1 between"])
def test_a_process_that_is_behind_and_between_two_batches_is_waited_for_longer_and_then_named(monkeypatch, other_is):
    behind, waits = "process 1 on node2 is alive and does not come to batch 1", other_is == "0 between"
    named = [behind] if other_is.startswith("0") else ["every process is inside the same batch"]
    stuck = Store(other_beats=True, other_is=other_is)
    assert ended(monkeypatch, stuck, inside=True, at_most=4 if waits else 60) == ([] if waits else named)
    gone = Store(other_beats=False, other_is=other_is)
    assert ended(monkeypatch, gone, inside=True, at_most=60)[0] == "process 1 on node2 shows no sign of life"
    monkeypatch.setattr(watchdog, "BUSY", 1.0)
    assert ended(monkeypatch, Store(other_beats=True, other_is=other_is), inside=True, at_most=60) == named


def test_a_first_process_that_does_not_answer_ends_the_run(monkeypatch):
    class Gone(Store):
        def set(self, key, value):
            raise torch.distributed.DistNetworkError("Connection reset by peer")

    absent = ended(monkeypatch, Gone(other_beats=True), inside=True, at_most=60)
    assert absent == ["process 0 does not answer (DistNetworkError)"]
    assert ended(monkeypatch, Gone(other_beats=True), inside=True, at_most=60, member=False) == []  # it has left


class Board(dict):
    """A store of processes in one."""

    def set(self, key, value):
        self[key] = value.encode()

    def check(self, keys):
        return all(key in self for key in keys)

    def get(self, key):
        return self[key]


class InStep:
    """Waits that two threads come to together, without a clock; over behind twenty."""

    def __init__(self, together: threading.Barrier) -> None:
        self.together, self.left = together, 20

    def wait(self, _: float) -> bool:
        self.together.wait(30)
        self.left -= 1
        return self.is_set()

    def is_set(self) -> bool:
        return self.left <= 0


def test_processes_that_are_held_up_at_once_do_not_take_each_other_for_dead(monkeypatch):
    board, found = Board(), []  # a checkpoint that takes long, data that do not come: both wait, and both are well
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", lambda: board)
    monkeypatch.setattr(watchdog, "in_process_group", lambda: True)
    dogs, together = [Watchdog(2), Watchdog(2)], threading.Barrier(2)
    for dog in dogs:
        dog._since, dog._over = float("-inf"), InStep(together)
        monkeypatch.setattr(dog, "_end", lambda trainer, absent: found.extend(absent))
    trainers = [SimpleNamespace(global_rank=rank, world_size=2, global_step=3) for rank in (0, 1)]
    threads = [
        threading.Thread(target=dog._watch, args=(trainer,)) for dog, trainer in zip(dogs, trainers, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == []


class Store:
    """Where process 0 beats, and process 1 too or no longer."""

    def __init__(self, *, other_beats: bool, other_is: str = "1 inside") -> None:
        self.other_beats, self.other_is, self.values, self.looks = other_beats, other_is, {}, []

    def set(self, key, value):
        self.values[key] = value.encode()

    def check(self, keys):
        return True

    def get(self, key):
        self.looks.append(key)
        beat = len(self.looks) if self.other_beats else 7
        return self.values.get(key, f"{beat} {self.other_is} node2".encode())


def ended(
    monkeypatch, store: Store, *, inside: bool, at_most: float, member: bool = True, has_trained: bool = True
) -> list[str]:
    """Whom a watchdog names that ends process 0, which has come no further for longer than it may; in `at_most` s.

    `member`: the process is still in its group. `has_trained`: it has a batch behind it.
    """
    dog = Watchdog(1)
    if has_trained:
        dog.on_train_batch_end()
    monkeypatch.setattr(watchdog, "in_process_group", lambda: member)
    dog._comes_on(inside=inside)
    found = []
    c10d = torch.distributed.distributed_c10d
    monkeypatch.setattr(c10d, "_get_default_store", lambda: store)

    def end(trainer, absent):
        found.extend(absent)
        dog._over.set()

    monkeypatch.setattr(dog, "_end", end)
    enough = threading.Timer(at_most, dog._over.set)
    enough.start()
    dog._watch(SimpleNamespace(global_rank=0, world_size=2, global_step=3))
    enough.cancel()
    return found


def test_no_time_at_all_and_a_time_without_end_are_refused():
    for seconds in (0, math.inf):
        with pytest.raises(InputError, match=f"hang_seconds={seconds:g}"):
            check_hang_seconds(seconds)
