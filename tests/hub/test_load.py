"""`lightning_sq.load` as somebody downstream uses it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import lightning_sq
from lightning_sq.errors import InputError
from lightning_sq.models import ModelConfig, QuantizerConfig, build_model
from lightning_sq.models.checkpoint_format import TrainedModel
from lightning_sq.models.release_format import write_release
from tests.conftest import REPOSITORY
from tests.hub.conftest import IMAGES

PROGRAM = """
import json, sys, lightning_sq, torch
model = lightning_sq.load(sys.argv[1])
model(torch.rand(1, 3, 32, 32))
heavy = {"lightning", "pytorch_lightning", "lightning_fabric", "nvidia", "torchmetrics", "jsonargparse", "scipy"}
print(json.dumps(sorted(heavy & {name.split(".")[0] for name in sys.modules if not name.startswith("nvidia.cu")})))
"""


@pytest.mark.end_to_end
def test_a_model_is_loaded_and_run_without_lightning_and_without_dali(release):
    command = [sys.executable, "-c", PROGRAM, str(release)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert json.loads(done.stdout) == []


def test_a_new_head_leaves_everything_before_it_as_it_was(release):
    released, other = lightning_sq.load(release), lightning_sq.load(release, num_classes=7)
    assert other(IMAGES).shape == (2, 7)
    assert not other.training
    assert len(other.config.class_names) == 7
    theirs = released.state_dict()
    changed = {key for key, value in other.state_dict().items() if not torch.equal(value, theirs[key])}
    assert changed == {"backbone.fc.weight", "backbone.fc.bias"}
    same = lightning_sq.load(release, num_classes=3)  # as many classes, and yet a new head
    assert not torch.equal(same.backbone.fc.weight, released.backbone.fc.weight)


@pytest.mark.parametrize("number", ["7", 7.0, True])
def test_a_number_of_classes_that_is_none_is_refused(release, number):
    with pytest.raises(InputError, match=rf"num_classes={number!r} is not a whole number\. Write 7"):
        lightning_sq.load(release, num_classes=number)


def test_a_weights_file_that_is_not_there_is_named_as_it_was_given(tmp_path):
    with pytest.raises(InputError, match=r"no weights file nofile. Give another by timm:test_resnet@FILE\.$"):
        lightning_sq.load("timm:test_resnet@nofile")


def test_without_a_head_it_gives_what_its_own_head_sees(release):
    released, pooled = lightning_sq.load(release), lightning_sq.load(release, num_classes=0)
    features = pooled(IMAGES)
    assert features.shape == (2, released.backbone.num_features)
    assert torch.allclose(released.backbone.fc(features), released(IMAGES), atol=1e-6)


def test_feature_maps_end_with_the_one_that_is_pooled(release):
    released, maps = lightning_sq.load(release), lightning_sq.load(release, features=True)
    found = maps(IMAGES)
    assert [one.shape[1] for one in found] == maps.backbone.feature_info.channels()
    assert [32 // one.shape[-1] for one in found] == maps.backbone.feature_info.reduction()
    last = released.forward_features(IMAGES)
    assert torch.equal(found[-1], last)
    assert torch.allclose(released.backbone.forward_head(last), released(IMAGES), atol=1e-6)
    assert not maps.training


@pytest.mark.parametrize("architecture", ["small_cnn", "madry_cnn"])
def test_the_small_networks_change_their_heads_and_say_that_they_have_no_feature_maps(architecture, tmp_path):
    config = ModelConfig(architecture, ("a", "b"), (0.0,), (1.0,), 28, 28)
    write_release(tmp_path / "small", TrainedModel(config, build_model(config).state_dict()), "# card\n")
    images = torch.rand(2, 1, 28, 28)
    model = lightning_sq.load(tmp_path / "small")
    pooled = lightning_sq.load(tmp_path / "small", num_classes=0)
    assert torch.equal(model.backbone.head(pooled(images)), model(images))
    assert torch.equal(model.forward_features(images), pooled(images))
    assert lightning_sq.load(tmp_path / "small", num_classes=5)(images).shape == (2, 5)
    with pytest.raises(InputError, match=rf"timm takes no feature maps from {architecture}"):
        lightning_sq.load(tmp_path / "small", features=True)


def test_the_classes_of_a_new_head_have_the_names_that_are_given(release):
    other = lightning_sq.load(release, num_classes=2, class_names=["n01440764", "n02102040"])
    assert other.config.class_names == ("n01440764", "n02102040")
    assert other(IMAGES).shape == (2, 2)
    assert lightning_sq.load(release, num_classes=2).config.class_names == ("0", "1")
    assert lightning_sq.load(release, num_classes=0).config.class_names == ()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_classes": -1}, "is not 0"),
        ({"features": True, "num_classes": 2}, "leave out num_classes"),
        ({"class_names": ["a", "b"]}, "Give num_classes too"),
        ({"num_classes": 2, "class_names": ["a"]}, "class_names has 1 name, .* num_classes is 2"),
        ({"num_classes": 2, "class_names": ["a", "a"]}, "2 names, of which 1 differ"),
        ({"num_classes": 2, "class_names": "ab"}, "class_names has 1 name"),
    ],
)
def test_options_that_make_no_sense_are_refused(release, options, sentence):
    with pytest.raises(InputError, match=sentence):
        lightning_sq.load(release, **options)


def test_what_is_nothing_gets_every_form_that_would_be_something(tmp_path):
    with pytest.raises(InputError, match=r"no model at .*none yet.*hf-hub:org/name, timm:NAME"):
        lightning_sq.load("resnet50.sq_in1k")


def test_a_name_that_is_timms_is_said_to_be_so(monkeypatch):
    for name in ("resnet50", "resnet50.a1_in1k"):
        with pytest.raises(InputError, match=rf"no model at {name}, .*Did you mean timm:{name}\?"):
            lightning_sq.load(name)
    with pytest.raises(InputError, match="none yet"):
        lightning_sq.load("small_cnn")  # timm has no weights of it


def test_a_home_folder_is_found_as_a_shell_does(release, monkeypatch):
    monkeypatch.setenv("HOME", str(release.parent))
    expected = lightning_sq.load(release)(IMAGES)
    assert torch.equal(lightning_sq.load(f"~/{release.name}")(IMAGES), expected)
    with pytest.raises(InputError, match="There is no model at ~nobody-of-this-name/x"):
        lightning_sq.load("~nobody-of-this-name/x")


def test_it_keeps_robustbenchs_convention(release):
    """Pixels in [0, 1] in, logits out, deterministic in eval mode, a gradient that is not zero."""
    model = lightning_sq.load(release)
    assert torch.equal(model(IMAGES), model(IMAGES))
    assert torch.equal(model(IMAGES)[1:], model(IMAGES[1:])) or torch.allclose(model(IMAGES)[1:], model(IMAGES[1:]))
    images = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(images).sum(), images)
    assert gradient.abs().sum() > 0


@pytest.mark.filterwarnings("ignore")  # of its imports
def test_robustbenchs_own_helper_counts_what_we_count(release):
    helper = pytest.importorskip("robustbench.utils", reason="RobustBench is not installed", exc_type=ImportError)
    model, images = lightning_sq.load(release), torch.rand(20, 3, 32, 32)
    labels = model(images).argmax(1)
    labels[:5] = (labels[:5] + 1) % 3
    assert helper.clean_accuracy(model, images, labels, batch_size=7) == 0.75


@pytest.mark.filterwarnings("ignore")  # of its imports
def test_robustbenchs_own_evaluation_runs_on_a_release(tmp_path, monkeypatch):
    """AutoAttack's standard suite over images that stand in for CIFAR-10, which it would download."""
    evaluation = pytest.importorskip("robustbench.eval", reason="RobustBench is not installed", exc_type=ImportError)
    config = ModelConfig("test_resnet", tuple("0123456789"), (0.5,) * 3, (0.25,) * 3, 32, 32, QuantizerConfig(4, 60.0))
    write_release(tmp_path / "release", TrainedModel(config, build_model(config).state_dict()), "# card\n")
    model, images = lightning_sq.load(tmp_path / "release"), torch.rand(4, 3, 32, 32)
    monkeypatch.setattr(evaluation, "load_clean_dataset", lambda *arguments: (images, model(images).argmax(1)))
    clean, robust = evaluation.benchmark(model, 4, "cifar10", "Linf", eps=0.5, batch_size=4)
    assert clean == 1.0
    assert robust < 1.0
