"""Who keeps the others waiting."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch

from lightning_sq.errors import InputError
from lightning_sq.training.cluster.watchdog import OVER, Watchdog, check_hang_seconds, missing, silent


def test_a_process_whose_beat_has_stopped_is_named():
    earlier = {0: ["8", "5", "a"], 1: ["8", "5", "b"], 2: ["8", "5", "b"]}
    later = {0: ["8", "5", "a"], 1: ["8", "5", "b"], 2: ["9", "5", "b"]}
    assert missing(earlier, later, own=0) == ["process 1 on b shows no sign of life"]


def test_a_process_that_beats_and_is_behind_is_named():
    earlier, later = {0: ["8", "5", "a"], 1: ["8", "4", "b"]}, {0: ["8", "5", "a"], 1: ["9", "4", "b"]}
    assert missing(earlier, later, own=0) == ["process 1 on b is alive and does not come to batch 5"]
    later[1][1] = "5"
    assert missing(earlier, later, own=0) == ["every process is inside the same batch"]


def test_a_process_whose_training_is_over_keeps_nobody_waiting():
    beats = {0: ["8", "5", "a"], 1: [OVER, "5", "b"]}
    assert silent(beats, beats, own=0) == []
    assert missing(beats, beats, own=0) == ["every process is inside the same batch"]


@pytest.mark.parametrize(("inside", "ends"), [(True, True), (False, False)])
def test_between_two_batches_only_a_beat_that_has_stopped_ends_the_run(inside, ends, monkeypatch):
    assert ended(monkeypatch, inside=inside, other_beats=True) == ends
    assert ended(monkeypatch, inside=inside, other_beats=False)


def ended(monkeypatch, *, inside: bool, other_beats: bool) -> bool:
    """Whether a watchdog ends process 0 when it has come no further for longer than it may."""
    dog = Watchdog(1)
    dog._comes_on(inside=inside)
    store, looks, found = {}, [], []

    class Store:
        def set(self, key, value):
            store[key] = value.encode()

        def check(self, keys):
            return True

        def get(self, key):
            looks.append(key)
            return store.get(key, f"{len(looks) if other_beats else 7} 1 node2".encode())

    c10d = torch.distributed.distributed_c10d
    monkeypatch.setattr(c10d, "_get_default_store", Store)

    def end(trainer, absent):
        found.extend(absent)
        dog._over.set()

    monkeypatch.setattr(dog, "_end", end)
    threading.Timer(3, dog._over.set).start()
    dog._watch(SimpleNamespace(global_rank=0, world_size=2, global_step=3))
    return bool(found)


def test_no_time_at_all_is_refused():
    with pytest.raises(InputError, match="hang_seconds=0"):
        check_hang_seconds(0)
