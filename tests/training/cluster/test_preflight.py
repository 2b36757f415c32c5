"""What differs between processes is named with its host before the first step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lightning_sq.errors import InputError
from lightning_sq.training.cluster.preflight import Preflight, check_alike, check_room, free_bytes

SAME = {"data": "d" * 64, "recipe": "r" * 64, "versions": "v", "free": 10**12, "clock": 1000.0}


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


def test_a_disk_without_room_for_the_checkpoints_is_refused_with_the_host_that_writes_them(tmp_path, monkeypatch):
    module, needed = torch.nn.Linear(1000, 1000, bias=False), 4 * 3 * 4 * 10**6
    found = everybody(free=0)  # the third writes none
    found[0]["free"] = needed
    check_room(found, tmp_path / "run", module)
    found[0]["free"] -= 1
    with pytest.raises(InputError, match=r"0\.05 GB free on node0 for --output .*/run, .* may need 0\.05 GB"):
        check_room(found, tmp_path / "run", module)
    seen = []
    monkeypatch.setattr("shutil.disk_usage", lambda path: seen.append(path) or SimpleNamespace(free=7))
    assert free_bytes(tmp_path / "not/yet/there") == 7
    assert seen == [tmp_path]


@pytest.fixture
def printed(monkeypatch, caplog, tmp_path):
    """What the preflight of a process says, given what the others saw."""
    name = "lightning_sq.training.cluster.preflight"
    order = []
    monkeypatch.setattr(f"{name}.about_this_process", lambda *_: order.append("look") or dict(SAME))
    monkeypatch.setattr(f"{name}.measured_all_reduce_seconds", lambda device: 0.5)
    monkeypatch.setattr(f"{name}.time", SimpleNamespace(time=lambda: order.append("clock") or 5000.0))

    def gather(found):
        def from_every_rank(own, world_size):
            assert own["clock"] == 5000.0
            assert order == ["look", "barrier", "clock"]  # or slow imports would pass for a clock that is ahead
            return found

        monkeypatch.setattr(f"{name}.from_every_rank", from_every_rank)
        order.clear()
        caplog.clear()
        trainer = SimpleNamespace(
            world_size=len(found), strategy=SimpleNamespace(barrier=lambda: order.append("barrier"))
        )
        module = SimpleNamespace(state_dict=dict, device=torch.device("cpu"))
        with caplog.at_level("INFO"):
            Preflight(tmp_path).on_fit_start(trainer, module)
        return caplog.messages

    return gather


def test_a_clock_that_is_ahead_is_named_with_its_host_and_seconds(printed):
    assert len(printed(everybody(clock=1005.0))) == 1
    assert printed(everybody(clock=1007.4))[1] == "The clock of node1 is 7 s ahead of that of node0."
    assert printed(everybody(clock=990.0))[1] == "The clock of node0 is 10 s ahead of that of node1."


def test_the_line_says_how_many_processes_see_the_same_and_how_fast_they_are_joined(printed):
    assert printed(everybody()) == [
        "4 processes on 2 hosts see the same data (dddddddddddd), recipe (rrrrrrrrrrrr) and versions; "
        "an all-reduce of 67 MB moves 0.20 GB/s."  # 2 * 3 / 4 * 67108864 bytes in half a second
    ]
    assert printed(everybody()[:1]) == []
