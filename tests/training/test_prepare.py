"""Who looks at the data when, before processes wait for each other with little patience."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment

from lightning_sq.errors import ProcessLostError
from lightning_sq.training.prepare import FOREVER, prepare_data_once


@pytest.fixture
def prepare(monkeypatch):
    """What a process of that rank does, in order, with two on each node."""

    def run(environment, rank: int, **instead: Callable) -> list[str]:
        done = []

        def broadcast(found, *, src, group):
            done.append(f"{'tell' if found[0] else 'hear'} of {src}")
            found[0] = "fingerprints"

        group = SimpleNamespace(
            is_available=lambda: True,
            get_rank=lambda: rank,
            get_world_size=lambda: 4,
            is_initialized=lambda: True,
            new_group=lambda *, backend, timeout: done.append(f"{backend} group") if timeout == FOREVER else None,
            broadcast_object_list=broadcast,
            barrier=lambda group: done.append("wait"),
            destroy_process_group=lambda group: done.append("leave"),
        )
        group.__dict__.update(instead)
        monkeypatch.setattr(torch, "distributed", group)
        strategy = SimpleNamespace(cluster_environment=environment, setup_environment=lambda: done.append("meet"))
        trainer = SimpleNamespace(strategy=strategy, global_rank=rank, local_rank=rank % 2)
        data = SimpleNamespace(
            prepare_data=lambda: done.append("look"),
            fingerprints=lambda: done.append("look first") or "fingerprints",
            take_prepared=lambda found: done.append(f"take {found}"),
        )
        prepare_data_once(trainer, data)
        return done

    return run


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_lightning_starts_has_looked_at_the_data_before_it_meets_the_others(prepare, rank):
    assert prepare(LightningEnvironment(), rank) == ["look"]  # it is started once the first one has looked


@pytest.mark.parametrize(
    ("rank", "order"),
    [
        (0, ["look first", "tell of 0", "look", "wait", "wait"]),
        (2, ["hear of 0", "look", "wait", "wait"]),
        (1, ["hear of 0", "wait", "take fingerprints", "wait"]),
        (3, ["hear of 0", "wait", "take fingerprints", "wait"]),
    ],
    ids=["first of all", "first of a node", "other of the first node", "other"],
)
def test_the_first_looks_then_the_other_nodes_first_and_the_rest_take_what_these_have_kept(prepare, rank, order):
    assert prepare(TorchElasticEnvironment(), rank) == ["meet", "gloo group", *order, "leave"]


@pytest.mark.parametrize("lost", ["broadcast_object_list", "barrier"])
def test_who_waits_for_a_process_that_was_refused_says_so_in_a_sentence(prepare, lost):
    def closed(*_, **options):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:5")

    with pytest.raises(ProcessLostError, match=r"Process 1 of 4 has lost another one: .*, or its error stands above\."):
        prepare(TorchElasticEnvironment(), 1, **{lost: closed})
