"""An evaluation that was stopped goes on with its own verdicts, and with nobody else's."""

from __future__ import annotations

import shutil
import sqlite3

import pytest
import torch
from torch import nn

import lightning_sq
from lightning_sq.errors import InputError
from lightning_sq.evaluation.runner import StageRunner
from lightning_sq.evaluation.store import OtherVerdictsError, VerdictStore
from lightning_sq.layers import SoftQuantization
from tests.evaluation.models import IMAGES, linear_model


def test_killed_in_the_middle_it_goes_on_and_loses_nothing_that_was_finished(tmp_path, monkeypatch):
    attacked, attack = [], StageRunner._attack

    def noted(self, stage, *rest):
        attacked.append((stage, rest[-1].tolist()))
        return attack(self, stage, *rest)

    monkeypatch.setattr(StageRunner, "_attack", noted)
    model = linear_model(SoftQuantization(4, 60.0))
    labels = model(IMAGES).argmax(1)
    options = {"epsilon": [0.02, 0.05], "attacks": "standard", "batch_size": 8, "show": (3, 5)}
    whole = lightning_sq.evaluate(model, IMAGES, labels, **options)
    in_whole = attacked.copy()
    attacked.clear()
    calls = 0

    def power_cut(done, total, note):
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lightning_sq.evaluate(model, IMAGES, labels, **options, store=tmp_path, progress=power_cut)
    with sqlite3.connect(tmp_path / "rank-0.sqlite") as connection:
        before = connection.execute("SELECT COUNT(*) FROM batches").fetchone()[0]
    assert before >= 9
    assert attacked == in_whole[:before]

    attacked.clear()
    resumed = lightning_sq.evaluate(model, IMAGES, labels, **options, store=tmp_path)
    assert attacked == in_whole[before:] != []
    attacked.clear()
    lightning_sq.evaluate(model, IMAGES, labels, **options, store=tmp_path)
    assert attacked == []
    assert torch.equal(whole.verdicts, resumed.verdicts)
    assert whole.flags == resumed.flags
    for name, outcomes in whole.outcomes.items():
        for epsilon, outcome in outcomes.items():
            again = resumed.outcomes[name][epsilon]
            assert torch.equal(outcome.broken, again.broken)
            assert torch.equal(outcome.attacked, again.attacked)
    ours, theirs = whole.examples(), resumed.examples()
    assert ours.keys() == theirs.keys() == {3, 5}
    assert all(torch.equal(ours[i], theirs[i]) for i in ours)


def test_other_images_that_are_to_be_shown_are_attacked_once_more_and_no_verdict_changes(tmp_path):
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    options = {"epsilon": 0.05, "attacks": "quick", "batch_size": 8, "checks": False}
    first = lightning_sq.evaluate(model, IMAGES, labels, **options, show=(3,), store=tmp_path)
    other = lightning_sq.evaluate(model, IMAGES, labels, **options, show=(5, 30), store=tmp_path)
    afresh = lightning_sq.evaluate(model, IMAGES, labels, **options, show=(5, 30))
    assert torch.equal(first.verdicts, other.verdicts)
    assert other.examples().keys() == afresh.examples().keys() == {5, 30}
    assert all(torch.equal(pixels, afresh.examples()[i]) for i, pixels in other.examples().items())


def test_a_batch_that_was_half_written_when_the_process_was_killed_is_taken_back(tmp_path):
    model = linear_model(SoftQuantization(4, 60.0))
    labels = model(IMAGES).argmax(1)
    options = {"epsilon": 0.02, "attacks": "pgd", "batch_size": 8}
    whole = lightning_sq.evaluate(model, IMAGES, labels, **options, store=tmp_path / "whole")
    (left := tmp_path / "killed").mkdir()
    connection = sqlite3.connect(tmp_path / "whole/rank-0.sqlite")
    kept = connection.execute("SELECT COUNT(*) FROM batches").fetchone()[0]
    connection.execute("PRAGMA cache_size = 1")  # so that what is not yet committed is in the file already
    connection.execute("UPDATE batches SET seconds = 0.0")
    connection.executemany("INSERT INTO verdicts VALUES ('half', ?, 1, 0)", ((image,) for image in range(10_000)))
    for path in (tmp_path / "whole").iterdir():  # what a disk holds that lost its process
        shutil.copy(path, left)
    connection.close()
    assert {path.name for path in left.iterdir()} == {"rank-0.sqlite", "rank-0.sqlite-journal"}

    resumed = lightning_sq.evaluate(model, IMAGES, labels, **options, store=left)
    assert torch.equal(whole.verdicts, resumed.verdicts)
    with sqlite3.connect(left / "rank-0.sqlite") as connection:
        assert connection.execute("SELECT COUNT(*) FROM batches WHERE seconds > 0").fetchone()[0] == kept
        assert connection.execute("SELECT COUNT(*) FROM verdicts WHERE stage = 'half'").fetchone()[0] == 0


def test_another_model_to_transfer_from_is_another_evaluation(tmp_path):
    model, one, other = linear_model(), linear_model(), linear_model()
    other.backbone[1].bias.data[0] += 0.1
    options = {"epsilon": 0.02, "attacks": "pgd", "store": tmp_path}
    labels = model(IMAGES).argmax(1)
    lightning_sq.evaluate(model, IMAGES, labels, **options, transfer_from={"control": one})
    with pytest.raises(InputError, match=r"another evaluation \(transfer_from differs"):
        lightning_sq.evaluate(model, IMAGES, labels, **options, transfer_from={"control": other})


@pytest.mark.parametrize("change", ["weights", "images", "seed"])
def test_verdicts_of_something_else_are_refused(tmp_path, change):
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    options = {"epsilon": 0.02, "attacks": "pgd", "store": tmp_path}
    lightning_sq.evaluate(model, IMAGES, labels, **options)
    images = IMAGES
    if change == "weights":
        model.backbone[1].bias.data[0] += 1e-3
    if change == "images":
        images = (IMAGES + 1e-3).clamp(0, 1)
    name = {"weights": "model", "images": "images", "seed": "seed"}[change]
    with pytest.raises(InputError, match=rf"another evaluation \(.*{name}.*\. Delete that folder, or give another one"):
        lightning_sq.evaluate(model, images, labels, **options, seed=int(change == "seed"))


@pytest.mark.parametrize(("off", "is_same"), [(1e-6, True), (1e-2, False)])
def test_verdicts_of_another_gpu_that_rounds_otherwise_are_gone_on_with(tmp_path, off, is_same, monkeypatch):
    """The same function, which nothing tells from itself but what it says."""
    model, rounding = linear_model(), 0.0
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: forward(self, x) * (1 + rounding))
    labels = model(IMAGES).argmax(1)
    options = {"epsilon": 0.02, "attacks": "pgd", "store": tmp_path, "checks": False}
    lightning_sq.evaluate(model, IMAGES, labels, **options)
    rounding = off
    if is_same:
        lightning_sq.evaluate(model, IMAGES, labels, **options)
    else:
        with pytest.raises(InputError, match=r"another evaluation \(logits, logits_of_noise differ"):
            lightning_sq.evaluate(model, IMAGES, labels, **options)


def test_a_random_model_is_known_again(tmp_path):
    model = linear_model()
    labels = model(IMAGES).argmax(1)
    options = {"epsilon": 0.02, "attacks": "pgd", "store": tmp_path, "checks": False}
    first, second = (
        lightning_sq.evaluate(lambda x: model(x) + torch.rand(len(x), 2), IMAGES, labels, **options) for _ in range(2)
    )
    assert torch.equal(first.verdicts, second.verdicts)


def test_a_store_that_is_locked_for_a_while_is_not_one_of_another_evaluation(tmp_path):
    VerdictStore(tmp_path, {}).close()
    with sqlite3.connect(tmp_path / "rank-0.sqlite", isolation_level=None) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match=r"cannot be used now \(database is locked\). Start again") as caught:
            VerdictStore(tmp_path, {})
    assert not isinstance(caught.value, OtherVerdictsError)
    holder.close()


def test_a_damaged_store_has_a_sentence(tmp_path):
    (tmp_path / "rank-0.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match=r"cannot be read \(.*\). Delete that folder, or give another one\."):
        lightning_sq.evaluate(linear_model(), IMAGES, torch.zeros(40).long(), epsilon=0.1, store=tmp_path)


def test_what_autoattack_would_only_log_is_in_the_outcome_and_in_the_store(tmp_path):
    model = linear_model(SoftQuantization(4, hard=True), classes=5)
    labels = model(IMAGES).argmax(1)
    options = {"epsilon": 0.01, "attacks": "apgd_t", "store": tmp_path}
    for _ in range(2):  # the second time from the store
        found = lightning_sq.evaluate(model, IMAGES, labels, **options)
        (note,) = found.outcomes["apgd_t"][0.01].notes
        assert "zero gradient" in note
