"""What a model is called that nobody has named, and what else is taken where nothing is typed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lightning_sq.commands.evaluate import _attack, _read
from lightning_sq.commands.evaluate_options import parse


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("runs/a/checkpoints/last.ckpt", "a"),
        ("runs/eps0.1/checkpoints/last.ckpt", "eps0.1"),
        ("runs/eps0.1", "eps0.1"),
        ("runs/demo/release/", "release"),
        ("elsewhere/best.ckpt", "best"),
        ("timm:resnet50@weights/mine.safetensors", "mine"),
        ("timm:resnet50.a1_in1k", "timm:resnet50.a1_in1k"),
        ("hf-hub:org/pets@v1.0", "pets@v1.0"),
        (f"https://models.example/pets/#sha256={64 * '0'}", "pets"),
        ("mine=runs/eps0.1", "mine"),
    ],
)
def test_a_model_has_the_name_of_its_run_its_folder_or_its_file(source, name):
    words = [source, "--data", "data", "--output", "out", "--transfer-from", source]
    options = parse(words)
    assert list(options.models) == list(options.transfer_from) == [name]


def test_two_folders_that_differ_behind_a_dot_have_two_names():
    options = parse(["runs/eps0.1", "runs/eps0.2", "--data", "data", "--output", "out"])
    assert list(options.models) == ["eps0.1", "eps0.2"]


def test_who_types_nothing_gets_the_attacks_the_images_and_the_budget_that_the_documents_promise():
    options = parse(["runs/demo", "--data", "data", "--output", "out"])
    assert (options.attacks, options.num_images, options.norm, options.seed) == ("standard", 1000, "linf", 0)
    assert options.budgets == [8 / 255]


def test_the_curve_has_a_third_and_two_thirds_of_the_largest_budget(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr("lightning_sq.evaluation.evaluate", lambda *_, **options: asked.update(options))
    subject = SimpleNamespace(name="demo", model=None, images=None, labels=None)
    options = parse(["runs/demo", "--data", "data", "--output", "out", "--epsilon", "0.3,0.1"])
    _attack(subject, {}, [], tmp_path, options)
    assert (asked["attacks"], asked["norm"], asked["seed"]) == ("standard", "linf", 0)
    assert asked["epsilon"] == [0.3, 0.1]
    assert asked["curve"] == pytest.approx([0.1, 0.2])


def test_what_is_typed_reaches_the_attacks_and_the_loader(monkeypatch, tmp_path):
    attacked, read = {}, {}
    monkeypatch.setattr("lightning_sq.evaluation.evaluate", lambda *_, **options: attacked.update(options))
    monkeypatch.setattr("lightning_sq.commands.evaluate.read_images", lambda *_, **options: read.update(options))
    words = ["runs/demo", "--data", "data", "--output", "out", "--norm", "l2", "--epsilon", "0.5", "--seed", "3"]
    options = parse([*words, "--batch-size", "7", "--backend", "torchvision", "--attacks", "quick"])
    subject = SimpleNamespace(name="demo", model=None, images=None, labels=None)
    _attack(subject, {"other": None}, [4], tmp_path, options)
    names = ("norm", "epsilon", "seed", "batch_size", "attacks", "store", "show", "transfer_from")
    assert [attacked[name] for name in names] == ["l2", [0.5], 3, 7, "quick", tmp_path, [4], {"other": None}]
    _read(SimpleNamespace(config=None), None, options, "cpu")
    assert (read["backend"], read["batch_size"], read["device"]) == ("torchvision", 7, "cpu")
