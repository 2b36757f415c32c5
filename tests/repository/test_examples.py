"""`examples/transfer.py`: what it refuses, and that its page is what its numbers give."""

from __future__ import annotations

import importlib.util
import json

import pytest

from lightning_sq.errors import InputError
from tests.conftest import REPOSITORY

spec = importlib.util.spec_from_file_location("transfer", REPOSITORY / "examples/transfer.py")
transfer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(transfer)


def test_the_page_is_the_one_that_its_numbers_give():
    folder = REPOSITORY / "results/transfer"
    known = json.loads((folder / "transfer.json").read_text())
    assert (folder / "README.md").read_text() == transfer.page(known["settings"], known["rows"])


def test_the_page_says_which_attacks_not_every_backbone_was_given():
    rows = [
        {"name": "a", "attacks": ["pgd", "bpda"]},
        {"name": "b", "attacks": ["pgd"]},
        {"name": "c", "attacks": ["pgd", "bpda"]},
    ]
    assert transfer.attacks_of(rows) == "Attacks: pgd. On a, c also: bpda."
    assert transfer.attacks_of(rows[1:2]) == "Attacks: pgd."


def test_a_backbone_without_a_name_is_read_from_all_that_was_typed(monkeypatch):
    address = f"https://models.example/pets/#sha256={64 * '0'}"
    monkeypatch.setattr("sys.argv", ["transfer.py", address, "runs/lr=0.1/release", "mine=timm:resnet18"])
    named = {"pets": address, "release": "runs/lr=0.1/release", "mine": "timm:resnet18"}
    assert transfer.check(transfer.parse()) == named


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a=runs/a", "--epochs", "0"], "--epochs 0 is not at least 1"),
        (["a=runs/a", "--learning-rate", "0"], "--learning-rate 0 is not above 0. 0.001 is usual"),
        (["a=runs/a", "--output", __file__], "test_examples.py lies at or below a file. Give a folder"),
        (["a=runs/a", "a=runs/b"], "Two models have the same name. Write NAME=MODEL for each"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(words, sentence, monkeypatch):
    monkeypatch.setattr("sys.argv", ["transfer.py", *words])
    monkeypatch.setattr(transfer, "transfer", lambda *_: pytest.fail("it began"))
    with pytest.raises(InputError, match=sentence):
        transfer.main()
