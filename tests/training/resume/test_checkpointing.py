"""What is the best, as far as that can be seen without a training; the rest is in tests/end_to_end/test_leaving.py."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch

from lightning_sq.training.resume.checkpointing import WholeFileIO, checkpointing
from lightning_sq.training.resume.moved_run import bring_here


@pytest.mark.parametrize("failed", [False, True])
def test_whether_the_best_was_written_is_what_the_first_process_says(tmp_path, failed):
    """All have to write the same score down, and the others write no file."""
    best = checkpointing(tmp_path, 15.0)[0]
    strategy = SimpleNamespace(
        checkpoint_io=WholeFileIO(), broadcast=lambda own: failed, reduce_boolean_decision=lambda own: own
    )
    trainer = SimpleNamespace(
        strategy=strategy, save_checkpoint=lambda *_: None, global_step=3, is_global_zero=False, ckpt_path=None
    )
    nothing = deepcopy(best.state_dict())
    best._save_monitor_checkpoint(
        trainer, {"val/clean_top1": torch.tensor(0.5), "epoch": torch.tensor(0), "step": torch.tensor(3)}
    )
    assert (best.state_dict() == nothing) is failed
    assert best.best_model_score == (None if failed else 0.5)


def test_what_was_the_best_to_an_earlier_version_still_is(tmp_path):
    best = checkpointing(tmp_path, 15.0)[0]
    file = tmp_path / "checkpoints/best.ckpt"
    file.parent.mkdir()
    file.touch()
    state = best.state_dict() | {"best_model_path": str(file), "best_k_models": {str(file): torch.tensor(0.5)}}
    rhythm = {"every_n_train_steps": 0, "every_n_epochs": 1, "train_time_interval": None}
    key = f"ModelCheckpoint{ {'monitor': 'val/clean_top1', 'mode': 'max'} | rhythm }"
    checkpoint = {"callbacks": {key: state}}
    bring_here(checkpoint, file.with_name("last.ckpt"), [best])
    assert checkpoint["callbacks"] == {best.state_key: state}
