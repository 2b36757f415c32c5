"""The step that is being taken is noted where the disk lets it."""

from __future__ import annotations

import errno
import os
import socket
from types import SimpleNamespace

from lightning_sq.errors import InputError
from lightning_sq.training.cluster.last_words import LastWords, seconds_noted


def test_the_step_and_the_seconds_are_noted_and_a_quota_that_is_used_up_ends_no_run(tmp_path, monkeypatch):
    words, module = LastWords(tmp_path), SimpleNamespace(run=SimpleNamespace(elapsed=12.5))
    words.on_train_start(SimpleNamespace(is_global_zero=True), module)
    words.on_train_batch_start(SimpleNamespace(global_step=3), module, None, 0)

    def used_up(*_):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", used_up)
        words.on_train_batch_start(SimpleNamespace(global_step=4), module, None, 1)
    assert seconds_noted(tmp_path) == 12.5
    assert (tmp_path / ".step").read_text().split() == ["3", "12.5"]
    words.on_train_batch_start(SimpleNamespace(global_step=5), module, None, 2)
    assert (tmp_path / ".step").read_text().split() == ["5", "12.5"]
    words.teardown(None, module, "fit")


def test_a_process_that_dies_is_named_with_its_host(tmp_path, capsys):
    trainer = SimpleNamespace(global_rank=1, world_size=2, global_step=7)
    LastWords(tmp_path).on_exception(trainer, None, OSError("gone"))
    assert capsys.readouterr().err == f"process 1 of 2 on {socket.gethostname()} stops at step 7: OSError: gone\n"
    for error in (SystemExit(75), InputError("said by the command itself")):
        LastWords(tmp_path).on_exception(trainer, None, error)
    assert capsys.readouterr().err == ""
