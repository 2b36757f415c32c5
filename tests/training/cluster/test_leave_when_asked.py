"""How processes part when a cluster asks for its nodes; what it looks like from outside is in tests/end_to_end."""

from __future__ import annotations

import inspect
import signal
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_sq.stop_request import STOPPED
from lightning_sq.training.cluster import leaving
from lightning_sq.training.cluster.leaving import LeaveWhenAsked


@pytest.mark.parametrize(("all_say", "is_long"), [(0, False), (1, True)])
def test_whether_a_validation_is_long_is_what_all_processes_say(tmp_path, monkeypatch, all_say, is_long):
    """Each has a clock of its own, and all have to save, or none."""
    asked: list[list[int]] = []
    monkeypatch.setattr(leaving, "largest_of_all", lambda own: asked.append(own.tolist()) or [all_say])
    callback = LeaveWhenAsked(tmp_path / "last.ckpt")
    assert callback._validation_is_long  # nobody knows yet
    callback.on_validation_start(None, None)
    callback.on_validation_end(None, SimpleNamespace(device="cpu"))
    assert asked == [[False]]
    assert callback._validation_is_long is is_long


@pytest.mark.parametrize(("seconds", "is_long"), [(4.9, False), (5.1, True)])
def test_a_validation_of_more_than_five_seconds_is_long(tmp_path, monkeypatch, seconds, is_long):
    clock = iter((100.0, 100.0 + seconds))
    monkeypatch.setattr(leaving.time, "monotonic", lambda: next(clock))
    callback = LeaveWhenAsked(tmp_path / "last.ckpt")
    callback.on_validation_start(None, None)
    callback.on_validation_end(None, SimpleNamespace(device="cpu"))
    assert callback._validation_is_long is is_long


def test_no_process_is_asked_before_each_batch_whether_lightning_was_signalled(tmp_path, monkeypatch):
    """By a broadcast, behind which the GPU has nothing to do. It would be of what no handler sets."""
    asked: list[object] = []
    monkeypatch.setattr(torch.distributed, "broadcast", lambda *what, **more: asked.append(what))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    loop = trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor()
    assert len(asked) == 1
    assert "self._broadcast_sigterm_tensor()" in inspect.getsource(type(loop).advance)
    leaving.switch_off_own_handlers(trainer)
    loop._broadcast_sigterm_tensor()
    assert len(asked) == 1


def test_all_processes_take_their_group_down_together_before_the_first_one_ends_alone(tmp_path, monkeypatch):
    done: list[str] = []
    together = {
        "is_initialized": lambda: True,
        "barrier": lambda: done.append("all are here"),
        "destroy_process_group": lambda: done.append("the group is gone"),
    }
    for name, function in together.items():
        monkeypatch.setattr(torch.distributed, name, function)
    monkeypatch.setattr(signal, "signal", lambda *what: done.append("signals are ignored"))
    trainer = SimpleNamespace(global_rank=0, strategy=SimpleNamespace(checkpoint_io=None))
    with pytest.raises(SystemExit) as left:
        LeaveWhenAsked(tmp_path / "last.ckpt")._leave(trainer, "The run is saved")
    assert left.value.code == STOPPED
    assert done[:2] == ["all are here", "the group is gone"]
