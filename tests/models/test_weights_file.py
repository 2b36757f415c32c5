"""Weights that other trainers saved: read from whatever they are wrapped in, and one sentence where they cannot be."""

from __future__ import annotations

import argparse

import pytest
import timm
import torch
from safetensors.torch import save_file

from lightning_sq.errors import InputError
from lightning_sq.models.backbone import load_backbone
from lightning_sq.models.weights_file import file_state


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(2)
    return timm.create_model("test_resnet", num_classes=3).state_dict()


def behind(prefix: str, state: dict) -> dict:
    return {f"{prefix}{name}": value for name, value in state.items()}


def of_others(state: dict) -> dict:
    return {name: torch.zeros_like(value) for name, value in state.items()}


WRAPPED = {
    "plain": lambda s: s,
    "PyTorch's tutorial": lambda s: {"model_state_dict": s, "epoch": 3, "loss": 0.5},
    "torchvision's references": lambda s: {"model": s, "epoch": 3, "args": None},
    "pytorch-cifar": lambda s: {"net": behind("module.", s), "acc": 95.0},
    "DDP": lambda s: behind("module.", s),
    "PyTorch's ImageNet example": lambda s: {"state_dict": behind("module.", s), "best_acc1": torch.tensor(1.0)},
    "timm with an average": lambda s: {"state_dict": of_others(s), "state_dict_ema": s, "epoch": 3},
    "torchvision with an average": lambda s: {
        "model": of_others(s),
        "model_ema": {"n_averaged": torch.tensor(9)} | behind("module.", s),
    },
    "Lightning": lambda s: {"state_dict": behind("net.", s), "hyper_parameters": {"lr": 0.1}},
    "Lightning, compiled, with a weighted loss": lambda s: {
        "state_dict": behind("model._orig_mod.", s) | {"loss.weight": torch.ones(3)}
    },
    "fit": lambda s: {"state_dict": behind("model.backbone.", s) | {"model.normalize.std": torch.ones(3)}, "epoch": 3},
}


@pytest.mark.parametrize("form", WRAPPED)
def test_the_weights_are_found_in_what_a_trainer_saves(weights, form, tmp_path):
    torch.save(WRAPPED[form](weights), tmp_path / "w.pth.tar")
    backbone = timm.create_model("test_resnet", num_classes=3)
    assert load_backbone(backbone, file_state(tmp_path / "w.pth.tar"), source="w") == []
    assert all(torch.equal(value, weights[name]) for name, value in backbone.state_dict().items())


def test_behind_a_prefix_too_a_head_of_other_classes_is_left_as_it_was(weights, tmp_path):
    save_file(behind("module.", weights), tmp_path / "w.safetensors")
    backbone = timm.create_model("test_resnet", num_classes=5)
    skipped = load_backbone(backbone, file_state(tmp_path / "w.safetensors"), source="w")
    assert sorted(skipped) == ["fc.bias", "fc.weight"]
    assert torch.equal(backbone.conv1[0].weight, weights["conv1.0.weight"])


def test_a_network_whose_own_names_have_a_prefix_keeps_it():
    network = torch.nn.Sequential()
    network.add_module("net", torch.nn.Linear(2, 2))
    network.pretrained_cfg = {"classifier": "net"}
    wanted = behind("net.", torch.nn.Linear(2, 2).state_dict())
    for state in (wanted, behind("net.", wanted), behind("module.", wanted)):
        load_backbone(network, state, source="w")
        assert torch.equal(network.net.weight, wanted["net.weight"])


def test_two_models_in_one_file_are_not_guessed_between(weights):
    backbone = timm.create_model("test_resnet", num_classes=3)
    with pytest.raises(InputError, match=r"w holds 2 such models, behind student\. and teacher\.\. Save state_dict"):
        load_backbone(backbone, behind("student.", weights) | behind("teacher.", weights), source="w")


class Bomb:
    """A pickle that would run code."""

    def __reduce__(self):
        import os

        return os.system, ("touch bomb-went-off",)


MORE = {
    "timm's train.py": (lambda s: {"state_dict": s, "args": argparse.Namespace(lr=1.0)}, r"\(argparse\.Namespace\)"),
    "a whole model": (lambda s: timm.create_model("test_resnet"), r"\(timm\.models\.resnet\.ResNet\)"),
    "code": (lambda s: {"state_dict": s, "more": Bomb()}, r"\(\w+\.system\)"),
    "another name": (
        lambda s: {"weights": s, "epoch": 3},
        r"'weights' \(OrderedDict\), and nothing is named state_dict_ema or",
    ),
    "a number": (lambda s: {"state_dict": {**s, "epoch": 3}}, r"'epoch' \(int\)"),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("what", MORE)
def test_a_file_with_more_than_tensors_is_told_how_to_be_saved_and_nothing_in_it_runs(
    weights, what, legacy, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    make, sentence = MORE[what]
    torch.save(make(weights), "w.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        InputError, match=rf"w\.pth holds more than tensors.*{sentence}.*Save state_dict\(\) alone"
    ) as caught:
        file_state(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_what_is_damaged_or_no_dictionary_is_said_to_be_so(weights, tmp_path):
    torch.save(weights, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"w\.pth is not a readable weights file .*Download it again"):
        file_state(tmp_path / "w.pth")
    torch.save(torch.zeros(3), tmp_path / "w.pth")
    with pytest.raises(InputError, match="holds a Tensor, and no tensors by name"):
        file_state(tmp_path / "w.pth")


def test_a_home_folder_is_found_as_a_shell_does(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(weights, tmp_path / "w.pth")
    assert file_state("~/w.pth").keys() == weights.keys()
    with pytest.raises(InputError, match="no weights file ~nobody-of-this-name/w"):
        file_state("~nobody-of-this-name/w.pth")
