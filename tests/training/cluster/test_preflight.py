"""What differs between processes is named with its host before the first step."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_sq.data.index import load_index
from lightning_sq.errors import InputError
from lightning_sq.training.cluster.preflight import check_alike, check_room, fingerprint

SAME = {"data": "d", "recipe": "r", "versions": "v"}


def everybody(**odd):
    """Four processes on two hosts, of which the third differs."""
    found = [SAME | {"host": f"node{rank // 2}", "rank": rank} for rank in range(4)]
    found[2] |= odd
    return found


@pytest.mark.parametrize(("what", "remedy"), [("data", "same files"), ("recipe", "same command"), ("versions", "lock")])
def test_the_host_that_differs_is_named(what, remedy):
    check_alike(everybody())
    with pytest.raises(InputError, match=rf"^node1 \(process 2\) has .*{remedy}"):
        check_alike(everybody(**{what: "other"}))


def test_the_fingerprint_sees_a_file_that_is_missing_and_one_of_another_size(few_digits, tmp_path):
    index = load_index(few_digits / "train", cache=tmp_path)
    found = fingerprint(index)
    assert fingerprint(index) == found
    assert fingerprint(index.take(np.arange(len(index) - 1))) != found
    index.sizes[5] += 1
    assert fingerprint(index) != found


def test_a_disk_without_room_for_the_checkpoints_is_refused(tmp_path, monkeypatch):
    module = torch.nn.Linear(1000, 1000, bias=False)
    check_room(tmp_path / "run", module)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=4 * 3 * 4 * 10**6 - 1))
    with pytest.raises(InputError, match=r"0\.05 GB free .* may need 0\.05 GB"):
        check_room(tmp_path / "run", module)
