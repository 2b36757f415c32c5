"""What differs between processes is named with its host before the first step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

from lightning_sq.errors import InputError
from lightning_sq.training.cluster.preflight import (
    Preflight,
    about_this_process,
    check_alike,
    check_disk_space,
    different_commits,
    free_bytes,
)
from lightning_sq.training.resume.checkpointing import most_checkpoints

SAME = {"data": "d" * 64, "recipe": "r" * 64, "versions": "v", "commit": "c", "checkpoint": "last.ckpt of step 9"}
SAME |= {"precision": "bf16-mixed"}
SAME |= {"free": 10**12, "clock": 1000.0}


def everybody(**odd):
    """Four processes on two hosts, of which the third differs."""
    found = [SAME | {"host": f"node{rank // 2}", "rank": rank} for rank in range(4)]
    found[2] |= odd
    return found


@pytest.mark.parametrize(
    ("what", "remedy"),
    [
        ("data", "same files"),
        ("recipe", "same command"),
        ("versions", "lock"),
        ("precision", "what all of them have: other in the place of bf16-mixed"),
        ("checkpoint", "a disk that all"),
    ],
)
def test_the_host_that_differs_is_named(what, remedy):
    check_alike(everybody())
    with pytest.raises(InputError, match=rf"^node1 \(process 2\) has .*{remedy}"):
        check_alike(everybody(**{what: "other"}))


def test_the_checkpoint_that_one_host_alone_goes_on_from_is_named():
    with pytest.raises(
        InputError, match=r"all hosts share: last-1\.ckpt of step 5 in the place of last\.ckpt of step 9"
    ):
        check_alike(everybody(checkpoint="last-1.ckpt of step 5"))


@pytest.mark.parametrize("commit", ["unknown", "d, with changes"])
def test_a_host_whose_code_is_of_another_commit_or_knows_none_is_not_refused(tmp_path, monkeypatch, commit):
    def seen(commit: str) -> dict:
        monkeypatch.setattr("lightning_sq.models.checkpoint_format.commit", lambda: commit)
        return about_this_process(trainer, SimpleNamespace(run=SimpleNamespace(recipe={})), tmp_path)

    index = SimpleNamespace(fingerprint=lambda: "f")
    trainer = SimpleNamespace(global_rank=0, precision="32-true", datamodule=SimpleNamespace(index=lambda split: index))
    usual, odd = seen("c") | {"checkpoint": "none"}, seen(commit) | {"checkpoint": "none", "host": "node1"}
    check_alike([usual, usual, odd])
    said = f"The code is of different commits: c on {usual['host']}, {commit} on node1."
    assert different_commits([usual, usual, odd]) == (None if commit == "unknown" else said)
    assert different_commits([usual, usual]) is None


def test_room_is_asked_for_as_many_checkpoints_as_are_kept_and_the_one_that_is_being_written():
    assert most_checkpoints(2, robust=False) == 4  # last, last-1, best
    assert most_checkpoints(5, robust=True) == 8  # last to last-4, best, best_robust


def test_a_disk_without_room_for_the_checkpoints_is_refused_with_the_host_that_writes_them(tmp_path, monkeypatch):
    module, needed = torch.nn.Linear(1000, 1000, bias=False), 4 * 3 * 4 * 10**6
    found = everybody(free=0)  # the third writes none
    found[0]["free"] = needed
    check_disk_space(found, tmp_path / "run", module, 4)
    found[0]["free"] -= 1
    with pytest.raises(InputError, match=r"0\.05 GB free on node0 for --output .*/run, .* may need 0\.05 GB"):
        check_disk_space(found, tmp_path / "run", module, 4)
    found[0]["free"] = needed
    with pytest.raises(InputError, match=r"may need 0\.06 GB"):  # an average and what it is of
        check_disk_space(found, tmp_path / "run", module, 4, averages=True)
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

    def gather(found, callbacks=()):
        def gather_objects(own):
            assert own["clock"] == 5000.0
            assert order == ["look", "barrier", "clock"]  # or slow imports would pass for a clock that is ahead
            return found

        monkeypatch.setattr(f"{name}.gather_objects", gather_objects)
        order.clear()
        caplog.clear()
        trainer = SimpleNamespace(
            world_size=len(found),
            strategy=SimpleNamespace(barrier=lambda: order.append("barrier")),
            callbacks=callbacks,
        )
        module = SimpleNamespace(state_dict=dict, device=torch.device("cpu"))
        with caplog.at_level("INFO"):
            Preflight(tmp_path, 4).on_fit_start(trainer, module)
        return caplog.messages

    return gather


def test_a_run_that_averages_its_weights_is_asked_for_more_room(printed, monkeypatch):
    asked = []
    name = "lightning_sq.training.cluster.preflight.check_disk_space"
    monkeypatch.setattr(name, lambda *_, averages: asked.append(averages))
    for callbacks in ([], [EMAWeightAveraging()]):
        printed(everybody(), callbacks)
    assert asked == [False, True]


def test_a_clock_that_is_ahead_is_named_with_its_host_and_seconds(printed):
    assert len(printed(everybody(clock=1005.0))) == 1
    assert printed(everybody(clock=1007.4))[1] == "The clock of node1 is 7 s ahead of that of node0."
    assert printed(everybody(clock=990.0))[1] == "The clock of node0 is 10 s ahead of that of node1."


def test_different_commits_are_said_and_do_not_end_the_run(printed):
    assert printed(everybody(commit="d"))[1] == "The code is of different commits: c on node0, d on node1."
    assert len(printed(everybody(commit="unknown"))) == 1


def test_the_line_says_how_many_processes_see_the_same_and_how_fast_they_are_joined(printed):
    assert printed(everybody()) == [
        "4 processes on 2 hosts see the same data (dddddddddddd), recipe (rrrrrrrrrrrr) and versions; "
        "an all-reduce of 67 MB moves 0.20 GB/s."  # 2 * 3 / 4 * 67108864 bytes in half a second
    ]
    assert printed(everybody()[:1]) == []
