"""What a page says to be proven of all validation images."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from lightning_sq.errors import InputError
from lightning_sq.reproduction import proofs, tables
from lightning_sq.reproduction.proofs import Proof, prove
from lightning_sq.reproduction.runs import TRAINED
from tests.attacks.test_branch_and_bound import EPSILON, IMAGES, QUANTIZERS, net


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of a network behind six levels, on sixty images of which it gets some wrong."""
    model = net(QUANTIZERS["six levels"])
    model.config = SimpleNamespace(image_size=0, num_channels=1)
    images = (255 * IMAGES).round().to(torch.uint8)
    labels = model(images.float() / 255).argmax(1)
    labels[:5] = (labels[:5] + 1) % 3
    monkeypatch.setattr(proofs, "load", lambda checkpoint: model)
    monkeypatch.setattr(proofs, "_decoded", lambda *place: (images, labels))
    (tmp_path / TRAINED).write_text("{}")
    return SimpleNamespace(folder=tmp_path, checkpoint=tmp_path)


def test_with_boxes_enough_every_image_is_proven_or_wrong(run, tmp_path):
    bounds = prove(run, tmp_path, f"{EPSILON}", max_boxes=0)
    assert bounds == Proof(bounds.bounds, bounds.bounds, 5 / 60, 0)
    proof = prove(run, tmp_path, f"{EPSILON}", max_boxes=100_000)
    assert proof.bounds == bounds.bounds < proof.proven
    assert proof.wrong > 5 / 60
    assert proof.proven + proof.wrong == pytest.approx(1)
    assert (proof.proven_by_boxes, proof.wrong_by_boxes) == (proof.proven, proof.wrong)


def test_what_few_boxes_leave_open_is_settled_by_an_integer_program(run, tmp_path, monkeypatch):
    truth = prove(run, tmp_path, f"{EPSILON}", max_boxes=100_000)
    not_asked = prove(run, tmp_path, f"{EPSILON}", max_boxes=3)
    assert not_asked.proven_by_boxes is None
    assert 1 - not_asked.proven - not_asked.wrong > proofs.MOST_LEFT
    monkeypatch.setattr(proofs, "MOST_LEFT", 1.0)
    (tmp_path / proofs.PROVEN).unlink()
    notes: list[str] = []
    settled = prove(run, tmp_path, f"{EPSILON}", max_boxes=3, tell=notes.append)
    by_solver = [note for note in notes if "integer programs" in note]
    left = round(60 * (1 - not_asked.proven - not_asked.wrong))
    assert by_solver == [f"integer programs, {count} images left" for count in range(left, 0, -proofs.FEW)]
    assert (settled.proven_by_boxes, settled.wrong_by_boxes) == (not_asked.proven, not_asked.wrong)
    assert (settled.bounds, settled.proven, settled.wrong) == (truth.bounds, truth.proven, truth.wrong)


def test_without_a_solver_branch_and_bound_has_the_last_word(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highspy", None)
    monkeypatch.setattr(proofs, "MOST_LEFT", 1.0)
    proof = prove(run, tmp_path, f"{EPSILON}", max_boxes=3)
    assert proof.wrong > 5 / 60
    assert proof.proven + proof.wrong < 1
    assert proof.proven_by_boxes is None


def test_a_proof_without_a_solver_is_made_again_once_there_is_one_and_never_the_other_way(run, tmp_path, monkeypatch):
    monkeypatch.setattr(proofs, "MOST_LEFT", 1.0)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "highspy", None)
        first = prove(run, tmp_path, f"{EPSILON}", max_boxes=3)
        assert prove(run, tmp_path, f"{EPSILON}", max_boxes=3) == first
    second = prove(run, tmp_path, f"{EPSILON}", max_boxes=3)
    assert first.proven_by_boxes is None
    assert second.proven_by_boxes == first.proven < second.proven
    assert json.loads((tmp_path / proofs.PROVEN).read_text())["made_of"].keys() == {"trained", "asked", "prover"}
    monkeypatch.setitem(sys.modules, "highspy", None)
    assert prove(run, tmp_path, f"{EPSILON}", max_boxes=3) == second


def test_images_that_cannot_be_read_are_an_error_and_no_missing_proof(run, tmp_path, monkeypatch):
    def missing(*place):
        raise InputError("There is no folder of images.")

    monkeypatch.setattr(proofs, "_decoded", missing)
    with pytest.raises(InputError, match="no folder of images"):
        prove(run, tmp_path, f"{EPSILON}")
    assert not (tmp_path / proofs.PROVEN).exists()


def test_a_proof_is_kept_until_the_run_is_trained_anew(run, tmp_path, monkeypatch):
    proof = prove(run, tmp_path, f"{EPSILON}")
    monkeypatch.setattr(proofs, "load", lambda checkpoint: pytest.fail("it was loaded again"))
    assert prove(run, tmp_path, f"{EPSILON}") == proof
    (tmp_path / TRAINED).write_text('{"key": "another"}')
    with pytest.raises(pytest.fail.Exception, match="loaded again"):
        prove(run, tmp_path, f"{EPSILON}")


def test_a_network_without_bounds_has_no_proof(run, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise InputError("Interval bounds have no rule for it.")

    monkeypatch.setattr(proofs, "certified", refuse)
    assert prove(run, tmp_path, f"{EPSILON}") is None
    assert prove(run, tmp_path, f"{EPSILON}") is None  # and that is kept as well


def test_the_page_shows_how_near_the_truth_is_known():
    seeds = [{"proof": {"bounds": b, "proven": p, "wrong": w, "max_boxes": 1000}}
             for b, p, w in ((0.90, 0.91, 0.08), (0.92, 0.93, 0.06))]  # fmt: skip
    rows = {
        "natural": {"title": "natural samples", "seeds": [{"proof": None}, {}]},
        "interval_bound": {"title": "bounds", "seeds": seeds},
    }
    lines = tables.proofs_section(rows)
    assert lines[-1] == "| bounds | 91.0 ± 1.4 | 92.0 ± 1.4 | 93.0 ± 1.4 | – | – |"
    assert any("into 1,000 boxes at most" in line for line in lines)
    for seed in seeds:
        seed["proof"] |= {"proven_by_boxes": seed["proof"]["proven"] - 0.005, "wrong_by_boxes": 0.05}
    assert (
        tables.proofs_section(rows)[-1] == "| bounds | 91.0 ± 1.4 | 91.5 ± 1.4 | 95.0 ± 0.0 | 92.0 ± 1.4 | 93.0 ± 1.4 |"
    )
    assert tables.proofs_section({"natural": rows["natural"]}) == []
