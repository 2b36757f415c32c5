from __future__ import annotations

from types import SimpleNamespace

import pytest
from lightning.pytorch.plugins.environments import LightningEnvironment

from lightning_sq.training.prepare import prepare_data_once


@pytest.mark.parametrize(("local_rank", "times"), [(0, 1), (1, 0)])
def test_only_the_first_process_of_a_node_prepares_the_data(local_rank, times):
    prepared = []
    strategy = SimpleNamespace(cluster_environment=LightningEnvironment())
    prepare_data_once(
        SimpleNamespace(strategy=strategy, local_rank=local_rank),
        SimpleNamespace(prepare_data=lambda: prepared.append(1)),
    )
    assert len(prepared) == times
