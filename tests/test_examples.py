"""The examples run."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys

import pytest
import torch

from lightning_sq.errors import InputError
from lightning_sq.models import ModelConfig, QuantizerConfig, build_model
from lightning_sq.models.checkpoint_format import TrainedModel
from lightning_sq.models.release_format import write_release
from tests.conftest import REPOSITORY


def module_of(name: str):
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example(monkeypatch):
    """Runs examples/NAME.py with words, and gives back the module."""

    def run(name: str, *words: str):
        module = module_of(name)
        monkeypatch.setattr(sys, "argv", [name, *words])
        module.main()
        return module

    return run


@pytest.mark.parametrize("part", ["all", "head"])
def test_two_backbones_are_transferred_to_another_folder_and_attacked(example, few_digits, tmp_path, capsys, part):
    sources = []
    for name, quantizer, channels in (("robust", QuantizerConfig(2, 60.0), 3), ("natural", None, 1)):
        config = ModelConfig("test_resnet", ("a", "b"), (0.5,) * channels, (0.25,) * channels, 32, 32, quantizer)
        torch.manual_seed(0)
        write_release(tmp_path / name, TrainedModel(config, build_model(config).state_dict()), "# card\n")
        sources.append(f"{name}={tmp_path / name}")
    fast = [
        "--epochs",
        "1",
        "--attacks",
        "fgsm",
        "--num-images",
        "12",
        "--train",
        part,
        "--output",
        str(tmp_path / "out"),
    ]
    example("transfer", *sources, "--data", str(few_digits), *fast)
    found = json.loads((tmp_path / "out/transfer.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["robust", "natural"]
    assert found["settings"]["train"] == part
    for row in found["rows"]:
        assert (row["num_images"], row["num_attacked"], row["attacks"]) == (40, 12, ["fgsm"])
        assert row["robust_accuracy"] <= row["clean_accuracy_of_attacked"]
    printed = capsys.readouterr().out.strip()
    assert "| robust |" in printed
    assert printed in (tmp_path / "out/README.md").read_text()
    assert str(tmp_path) not in (tmp_path / "out/transfer.json").read_text()


def test_only_what_is_said_to_be_trained_is_trained(few_digits, tmp_path, monkeypatch):
    config = ModelConfig("test_resnet", ("a", "b"), (0.5,) * 3, (0.25,) * 3, 32, 32)
    write_release(tmp_path / "one", TrainedModel(config, build_model(config).state_dict()), "# card\n")
    fast = ["--epochs", "1", "--data", str(few_digits), "--train", "head"]
    monkeypatch.setattr(sys, "argv", ["transfer", f"one={tmp_path / 'one'}", *fast])
    module = module_of("transfer")
    options = module.parse()
    model = module.lightning_sq.load(tmp_path / "one", num_classes=10).to(module.DEVICE)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images, labels, classes = module.read(few_digits / "train", model)
    assert images.shape == (90, 3, 32, 32)
    assert len(classes) == 10
    module.train(model, images, labels, options, "one")
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"backbone.fc.weight", "backbone.fc.bias"}


def test_no_batch_is_left_with_one_image_which_batch_norm_refuses():
    module = module_of("transfer")
    model = build_model(ModelConfig("resnet18", ("a", "b"), (0.5,) * 3, (0.25,) * 3, 32, 32)).to(module.DEVICE)
    images, labels = torch.zeros(5, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1, 0, 1, 0])
    options = argparse.Namespace(train="all", epochs=1, batch_size=4, learning_rate=1e-3, seed=0)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model.train()(torch.rand(1, 3, 32, 32, device=module.DEVICE))
    module.train(model, images, labels, options, "one")


def test_labels_go_by_the_names_of_the_training_images_where_val_lacks_a_class(few_digits, tmp_path):
    module = module_of("transfer")
    model = build_model(ModelConfig("test_resnet", ("a", "b"), (0.5,) * 3, (0.25,) * 3, 32, 32))
    names = [str(digit) for digit in range(10)]
    whole = module.read(few_digits / "val", model, names)[1]
    shutil.copytree(few_digits / "val", tmp_path / "val")
    shutil.rmtree(tmp_path / "val/0")
    images, labels, _ = module.read(tmp_path / "val", model, names)
    assert len(images) == len(labels)
    assert torch.equal(labels, whole[whole != 0])
    with pytest.raises(InputError, match="has the class '1', which the training images have not"):
        module.read(tmp_path / "val", model, names[2:])
    with pytest.raises(InputError, match="Give --data a folder with train/<class>/ and val/<class>/"):
        module.read(tmp_path / "train", model)


@pytest.mark.parametrize("option", ["--batch-size", "--num-images"])
def test_a_count_that_cannot_be_is_refused_before_anything_is_read(example, option):
    with pytest.raises(InputError, match=f"{option} 0 is not at least 1"):
        example("transfer", "a=nowhere", "--data", "nowhere", option, "0")
