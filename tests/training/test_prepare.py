"""Who looks at the data when, before processes wait for each other with little patience."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment

from lightning_sq.training.prepare import FOREVER, prepare_data_once


@pytest.fixture
def prepare(monkeypatch):
    """What a process of that local rank does, in order."""

    def run(environment, local_rank: int) -> list[str]:
        done = []
        group = SimpleNamespace(
            is_initialized=lambda: True,
            new_group=lambda *, backend, timeout: done.append(f"{backend} group") if timeout == FOREVER else None,
            barrier=lambda group: done.append("wait"),
            destroy_process_group=lambda group: done.append("leave"),
        )
        monkeypatch.setattr(torch, "distributed", group)
        strategy = SimpleNamespace(cluster_environment=environment, setup_environment=lambda: done.append("meet"))
        trainer = SimpleNamespace(strategy=strategy, local_rank=local_rank)
        prepare_data_once(trainer, SimpleNamespace(prepare_data=lambda: done.append("look")))
        return done

    return run


@pytest.mark.parametrize("local_rank", [0, 1])
def test_a_process_that_lightning_starts_has_looked_at_the_data_before_it_meets_the_others(prepare, local_rank):
    assert prepare(LightningEnvironment(), local_rank) == ["look"]  # it is started once the first one has looked


@pytest.mark.parametrize(
    ("local_rank", "order"), [(0, ["look", "wait", "wait"]), (1, ["wait", "look", "wait"])], ids=["first", "other"]
)
def test_a_nodes_first_process_looks_and_then_the_others_and_all_wait_for_all(prepare, local_rank, order):
    assert prepare(TorchElasticEnvironment(), local_rank) == ["meet", "gloo group", *order, "leave"]
