"""A model that was trained on by somebody's own code becomes a release like any other."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import lightning_sq
from lightning_sq.__main__ import main
from lightning_sq.errors import InputError
from lightning_sq.models import ModelConfig, PixelClassifier, QuantizerConfig, build_model
from lightning_sq.models.checkpoint_format import TrainedModel
from lightning_sq.models.release_format import write_release
from lightning_sq.releasing.golden import verify
from tests.conftest import REPOSITORY

CONFIG = ModelConfig(
    "test_resnet", tuple("abcdef"), (0.5,) * 3, (0.25,) * 3, 32, 36, QuantizerConfig(4, 60.0, learnable_sharpness=True)
)
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A release to start from."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("source") / "release"
    write_release(folder, TrainedModel(CONFIG, build_model(CONFIG).state_dict()), "# card\n")
    return folder


@pytest.fixture
def tuned(source) -> PixelClassifier:
    """A new head and a step of training, which moves the sharpness and the statistics of the batch norms too."""
    torch.manual_seed(1)
    model = lightning_sq.load(source, num_classes=10, class_names=DIGITS).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    nn.functional.cross_entropy(model(IMAGES), torch.arange(4)).backward()
    optimizer.step()
    return model


def test_a_fine_tuned_model_comes_back_as_it_was_with_its_classes(tuned, tmp_path):
    before = {key: value.clone() for key, value in tuned.state_dict().items()}
    recipe = {"learning_rate": 0.1, "data": {"root": "/home/ann/digits", "classes": list(DIGITS)}}
    lightning_sq.save(tuned, tmp_path / "mine", recipe=recipe, license_name="apache-2.0", check=verify)
    assert {part.training for part in tuned.modules()} == {True}
    assert all(torch.equal(value, before[key]) for key, value in tuned.state_dict().items())
    again = lightning_sq.load(tmp_path / "mine")
    assert again.config.class_names == DIGITS
    assert again.config == tuned.current_config()
    assert again.quantizer.sharpness == tuned.quantizer.sharpness != 60.0
    assert torch.equal(again(IMAGES), tuned.eval()(IMAGES))
    card = (tmp_path / "mine/README.md").read_text()
    for sentence in (
        "license: apache-2.0",
        "**Not to be called robust: it has not been evaluated.**",
        "timm `test_resnet`, 10 classes",
        "`model.backbone` is a plain timm model; ",
        "| trained | not said |",
        "As told by whoever saved the model.",
        '"learning_rate": 0.1',
    ):
        assert sentence in card
    assert "/home/ann" not in card + (tmp_path / "mine/config.json").read_text()


def test_a_card_says_whose_the_network_is(tmp_path):
    config = ModelConfig("small_cnn", DIGITS, (0.5,), (0.25,), 28, 28)
    lightning_sq.save(build_model(config), tmp_path / "mine", check=verify)
    card = (tmp_path / "mine/README.md").read_text()
    assert "| architecture | `small_cnn`, registered with timm by lightning_sq, 10 classes |" in card
    assert "`model.backbone` is the network alone; " in card


def test_a_release_that_is_there_is_replaced_by_who_says_so_in_python(tuned, tmp_path):
    lightning_sq.save(tuned, tmp_path / "mine", check=verify)
    with pytest.raises(InputError, match="exists already; add overwrite=True to replace a release"):
        lightning_sq.save(tuned, tmp_path / "mine", check=verify)


@pytest.mark.end_to_end
def test_what_was_saved_is_verified_evaluated_saved_with_the_evidence_and_uploaded(
    tuned, few_digits, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path))
    lightning_sq.save(tuned, "~/mine")  # a new process looks at it
    assert "None was given with the weights" in (tmp_path / "mine/README.md").read_text()
    words = ["evaluate", str(tmp_path / "mine"), "--data", str(few_digits), "--output", str(tmp_path / "robustness")]
    assert main([*words, "--attacks", "fgsm", "--epsilon", "1/255", "--device", "cpu"]) == 0
    with pytest.raises(InputError, match="add overwrite=True to replace"):
        lightning_sq.save(tuned, tmp_path / "mine")
    lightning_sq.save(tuned, tmp_path / "mine", results="~/robustness", overwrite=True, torch_export=True)
    (row,) = json.loads((tmp_path / "mine/results.json").read_text())["models"]
    card = (tmp_path / "mine/README.md").read_text()
    assert f"| clean accuracy | {100 * row['clean_accuracy']:.1f} |" in card
    assert "| model.pt2 | torch " in card
    assert main(["verify", str(tmp_path / "mine")]) == 0
    pytest.importorskip("huggingface_hub")
    assert main(["upload", str(tmp_path / "mine"), "ann/digits", "--dry-run"]) == 0
    assert "num_classes = 10\ninput_size = [3, 32, 32]\nresize_size = 36\n" in capsys.readouterr().out


def test_evidence_of_other_weights_is_refused_and_nothing_is_written(tuned, tmp_path):
    with pytest.raises(InputError, match="There is no"):
        lightning_sq.save(tuned, tmp_path / "mine", results=tmp_path, check=verify)
    with pytest.raises(InputError, match="is of other weights"):
        lightning_sq.save(tuned, tmp_path / "mine", results=REPOSITORY / "results/demo", check=verify)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [({"image_size": 64}, (64, 72)), ({"image_size": 28, "resize_size": 28}, (28, 28)), ({}, (32, 36))],
)
def test_the_size_that_it_was_trained_on_with_is_released(tuned, tmp_path, sizes, expected):
    lightning_sq.save(tuned, tmp_path / "mine", check=verify, **sizes)
    config = lightning_sq.load(tmp_path / "mine").config
    assert (config.image_size, config.resize_size) == expected


def test_layers_that_share_their_weights_are_saved_with_a_copy_each(tuned, tmp_path):
    block = tuned.backbone.layer1[0]
    block.conv1.weight = block.conv2.weight
    lightning_sq.save(tuned, tmp_path / "mine", check=verify)
    assert torch.equal(lightning_sq.load(tmp_path / "mine")(IMAGES), tuned.eval()(IMAGES))


def with_another_activation(model):
    model.backbone.act1 = nn.Identity()
    model.backbone.conv1[2] = nn.Identity()
    return model


def with_a_head_of_timms(model):
    model.backbone.reset_classifier(3)
    return model


def with_nan(model):
    with torch.no_grad():
        model.backbone.fc.bias[0] = float("nan")
    return model


OTHERS = {
    "a wrapper": (nn.DataParallel, "is a DataParallel without a description"),
    "a part": (lambda m: m.backbone, "is a ResNet without a description"),
    "a slice": (lambda m: m[1:], "is a PixelClassifier without a description"),
    "half precision": (lambda m: m.half(), r"of float16 and not of float32.*model\.float\(\)"),
    "another activation": (with_another_activation, "logits differ by up to .*something without weights was replaced"),
    "a head of timm's": (with_a_head_of_timms, r"test_resnet with 10 classes.*\(3,\) and not \(10,\).*num_classes=N"),
    "NaN": (with_nan, "infinite or NaN: its training has diverged"),
    "a quantizer of one's own": (lambda m: m.with_quantizer(torch.round), "words for a SoftQuantization alone"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_model_that_its_description_does_not_make_is_refused(tuned, tmp_path, what):
    change, sentence = OTHERS[what]
    with pytest.raises(InputError, match=sentence):
        lightning_sq.save(change(tuned), tmp_path / "mine", check=verify)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_head_is_refused(source, tmp_path):
    with pytest.raises(InputError, match=r"has no head.*num_classes=N"):
        lightning_sq.save(lightning_sq.load(source, num_classes=0), tmp_path / "mine")
    with pytest.raises(InputError, match="no longer the test_resnet with 6 classes"):
        lightning_sq.save(lightning_sq.load(source, features=True), tmp_path / "mine")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"recipe": {"model": torch.nn.Identity()}}, "recipe holds more than JSON can"),
        ({"recipe": {"best_loss": float("nan")}}, "recipe holds more than JSON can"),
        ({"image_size": 40, "resize_size": 32}, "image_size=40 and resize_size=32 do not go"),
        ({"image_size": 0}, "do not go"),
    ],
)
def test_options_that_cannot_be_are_refused(tuned, tmp_path, options, sentence):
    with pytest.raises(InputError, match=sentence):
        lightning_sq.save(tuned, tmp_path / "mine", **options)


def test_a_size_that_the_network_does_not_take_is_refused(tmp_path):
    config = ModelConfig("madry_cnn", ("a", "b"), (0.0,), (1.0,), 28, 28)
    with pytest.raises(InputError, match=r"madry_cnn takes no images of 32 x 32 pixels.*image_size"):
        lightning_sq.save(build_model(config), tmp_path / "mine", image_size=32)


def test_a_quantizer_in_front_of_a_model_that_had_none_is_released_with_it(tmp_path):
    plain = build_model(ModelConfig("small_cnn", ("a", "b"), (0.0,), (1.0,), 28, 28)).eval()
    quantized = plain.with_quantizer(lightning_sq.SoftQuantization(3, 40.0))
    lightning_sq.save(quantized, tmp_path / "mine", check=verify)
    again, images = lightning_sq.load(tmp_path / "mine"), torch.rand(2, 1, 28, 28)
    assert again.config.quantizer == QuantizerConfig(3, 40.0)
    assert torch.equal(again(images), quantized(images))
    assert not torch.equal(again(images), plain(images))
