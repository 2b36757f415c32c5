"""The small networks: built by timm's name, as their papers count them, with interval bounds that hold."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import lightning_sq
from lightning_sq.errors import InputError
from lightning_sq.models import ModelConfig, PixelClassifier, QuantizerConfig, build_model, small_networks
from lightning_sq.models.backbone import (
    check_image_size,
    evaluation_sizes,
    pretrained_normalization,
    pretrained_state,
)
from lightning_sq.models.checkpoint_format import TrainedModel, checkpoint_entry
from lightning_sq.models.release_format import write_release
from lightning_sq.ops.interval import Interval, quantized_box
from lightning_sq.releasing.card import model_card
from lightning_sq.releasing.export import export
from lightning_sq.releasing.golden import verify
from lightning_sq.verification.interval_network import certified, interval_forward, interval_margins

GENERATOR = torch.Generator().manual_seed(0)
DIGIT_NAMES = tuple("0123456789")
# image size, channels, parameters as counted by hand
NETWORKS = {
    "small_cnn": (28, 1, 16 * 17 + 32 * (16 * 16 + 1) + 100 * 1569 + 10 * 101),
    "small_cnn_wide": (28, 1, 32 * 17 + 64 * (32 * 16 + 1) + 200 * 3137 + 10 * 201),
    "small_cnn_cifar": (32, 3, 16 * (16 * 3 + 1) + 32 * (16 * 16 + 1) + 100 * 2049 + 10 * 101),
    "madry_cnn": (28, 1, 32 * 26 + 64 * (32 * 25 + 1) + 1024 * 3137 + 10 * 1025),
    "box_cnn": (28, 1, 2 * 2 + 80 * (2 * 144 + 3) + 512 * (2880 + 3) + 10 * 513),
    "box_cnn_wide": (28, 1, 2 * 2 + 160 * (2 * 144 + 3) + 1024 * (5760 + 3) + 10 * 1025),
    "box_cnn_cifar": (32, 3, 2 * 21 + 64 * (21 * 25 + 3) + 128 * (64 * 25 + 3) + 512 * (8192 + 3) + 10 * 513),
    "resnet18_cifar": (32, 3, 11_173_962),  # as in the widely used CIFAR-10 code of K. Liu
}
each_network = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(autouse=True)
def _same_numbers():
    """Whatever other tests have drawn."""
    GENERATOR.manual_seed(0)


def network(name: str, seed: int = 0, **options) -> nn.Module:
    """With batch norm's statistics as after some training, its scales of either sign."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **options)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, -1.0, 1.0)
    return model.eval()


def test_every_network_is_tested():
    assert set(small_networks.default_cfgs) == set(NETWORKS)


@each_network
def test_timm_makes_it_by_name_with_the_parameters_of_its_paper(name):
    size, channels, count = NETWORKS[name]
    model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == count
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 10)
    assert evaluation_sizes(name) == (size, size)


@each_network
@pytest.mark.parametrize("channels", [1, 3])
def test_it_takes_other_classes_and_channels(name, channels):
    model = timm.create_model(name, num_classes=3, in_chans=channels)
    check_image_size(model, name, NETWORKS[name][0], num_classes=3, channels=channels)
    assert pretrained_normalization(name, channels) == ((0.0,) * channels, (1.0,) * channels)
    head = model.get_submodule(model.pretrained_cfg["classifier"])
    assert head.out_features == 3


def test_images_of_another_size_are_refused_with_the_size_to_set():
    model = timm.create_model("small_cnn")
    with pytest.raises(
        InputError, match=r"small_cnn takes no images of 32 x 32 pixels .*--data.image_size 28"
    ) as refused:
        check_image_size(model, "small_cnn", 32, num_classes=10, channels=1)
    assert "\n" not in str(refused.value)


@each_network
def test_nobody_is_given_random_weights_for_pretrained_ones(name):
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model(name, pretrained=True)
    with pytest.raises(InputError, match=f"pretrained weights of {name} could not be"):
        pretrained_state(name)


def test_a_cifar_resnet_keeps_all_its_pixels_to_the_first_block():
    model = network("resnet18_cifar")
    seen = []
    model.layer1.register_forward_hook(lambda module, args, output: seen.append(args[0].shape))
    model(torch.zeros(1, 3, 32, 32))
    assert seen == [(1, 64, 32, 32)]


@each_network
@pytest.mark.parametrize("quantizer", [None, QuantizerConfig(2, 60.0)])
def test_no_point_of_the_box_leaves_the_interval_bounds(name, quantizer):
    size, channels, _ = NETWORKS[name]
    mean, std = pretrained_normalization(name, channels)
    model = build_model(ModelConfig(name, DIGIT_NAMES, mean, std, size, size, quantizer))
    model.backbone = network(name)
    model.eval()
    images, labels = torch.rand(2, channels, size, size, generator=GENERATOR), torch.tensor([3, 7])
    box = quantized_box(images, 4 / 255)
    with torch.no_grad():
        bounds, margins = interval_forward(model, box), interval_margins(model, box, labels)
        assert (bounds.upper > bounds.lower).all()
        assert (margins.gather(1, labels[:, None]) == 0).all()
        slack = 1e-5 * (1 + bounds.upper.abs().max())
        for _ in range(4):
            share = torch.rand(images.shape, generator=GENERATOR)
            for point in (share, share.round()):  # inside, and at a corner
                logits = model(box.lower + point * (box.upper - box.lower))
                assert (logits >= bounds.lower - slack).all()
                assert (logits <= bounds.upper + slack).all()
                assert (logits - logits.gather(1, labels[:, None]) <= margins + slack).all()
        plain = interval_forward(model, Interval(images, images))
        assert torch.allclose(plain.lower, model(images), atol=1e-4)


def test_interval_bounds_can_be_trained_through():
    model = network("box_cnn")
    box = quantized_box(torch.rand(2, 1, 28, 28, generator=GENERATOR), 0.1)
    interval_margins(model, box, torch.tensor([1, 2])).sum().backward()
    learnt = [p for p in model.parameters() if p.requires_grad]
    assert len(learnt) == 10
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learnt)


GREY = ModelConfig("small_cnn", DIGIT_NAMES, (0.0,), (1.0,), 28, 28, QuantizerConfig(2, 100.0))


@pytest.fixture(scope="module")
def grey() -> PixelClassifier:
    torch.manual_seed(0)
    return build_model(GREY).eval()


def test_a_grey_model_goes_through_checkpoint_export_and_load_unchanged(grey, tmp_path):
    images = torch.rand(4, 1, 28, 28, generator=GENERATOR)
    state = {f"model.{key}": value for key, value in grey.state_dict().items()}
    entry = checkpoint_entry(GREY, {"data": {"channels": 1}})
    torch.save({"state_dict": state, "lightning_sq": entry, "global_step": 18}, tmp_path / "last.ckpt")
    export(tmp_path / "last.ckpt", tmp_path / "release", check=verify)
    for loaded in (lightning_sq.load(tmp_path / "last.ckpt"), lightning_sq.load(tmp_path / "release")):
        assert loaded.config == GREY
        assert loaded.config.num_channels == 1
        assert torch.equal(loaded(images), grey(images))
    card = (tmp_path / "release/README.md").read_text()
    assert "| input | grey pixels in [0, 1], 28 x 28;" in card
    assert "# (B, 1, 28, 28) in [0, 1]" in card
    timm.create_model("small_cnn").load_state_dict(grey.backbone.state_dict(), strict=True)
    assert "| input | RGB pixels" in model_card(
        TrainedModel(ModelConfig("resnet18_cifar", DIGIT_NAMES, (0.0,) * 3, (1.0,) * 3, 32, 32), {})
    )


def test_a_residual_network_of_small_images_has_feature_maps_and_says_how_small_they_are(tmp_path):
    config = ModelConfig("resnet18_cifar", DIGIT_NAMES, (0.0,) * 3, (1.0,) * 3, 32, 32)
    model = build_model(config).eval()
    write_release(tmp_path / "release", TrainedModel(config, model.state_dict()), "# card\n")
    features, images = lightning_sq.load(tmp_path / "release", features=True), torch.rand(2, 3, 32, 32)
    maps, reductions = features(images), features.backbone.feature_info.reduction()
    assert reductions == [1, 1, 2, 4, 8]
    assert [found.shape[-1] for found in maps] == [32 // reduction for reduction in reductions]
    assert torch.equal(maps[-1], model.forward_features(images))


def test_weights_of_colour_under_a_grey_description_are_refused(grey, tmp_path):
    write_release(tmp_path / "release", TrainedModel(GREY, grey.state_dict()), "# card\n")
    colour = ModelConfig("small_cnn", DIGIT_NAMES, (0.0,) * 3, (1.0,) * 3, 28, 28, GREY.quantizer)
    with pytest.raises(InputError, match="weights do not fit a small_cnn with 10 classes"):
        TrainedModel(colour, grey.state_dict()).build()
    assert json.loads((tmp_path / "release/config.json").read_text())["model"]["mean"] == [0.0]


def test_a_grey_image_is_certified_only_if_no_corner_of_its_box_fools_the_network(grey):
    images = torch.rand(100, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    labels = grey(images).argmax(1)
    assert certified(grey, images, labels, 0.0).all()
    assert not certified(grey, images, (labels + 1) % 10, 0.0).any()
    assert not certified(grey, images, labels, 1.0).any()
    sure = certified(grey, images, labels, 2e-4)
    assert sure.any()
    assert not sure.all()
    for _ in range(20):
        signs = torch.randint(0, 2, images.shape, generator=GENERATOR) * 2 - 1
        corners = (images + 2e-4 * signs).clamp(0, 1)
        assert torch.equal(grey(corners).argmax(1)[sure], labels[sure])
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(grey(x), labels, reduction="sum"), x)
    fooled = grey((images + 4e-3 * gradient.sign()).clamp(0, 1)).argmax(1) != labels
    assert fooled.any()
    assert not certified(grey, images, labels, 4e-3)[fooled].any()


def test_the_planes_of_quantized_levels_say_which_thresholds_are_passed():
    model = timm.create_model("box_cnn_cifar")
    levels = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 3, 1, 8)
    found = model.binary(model.planes(levels / 7))
    passed = (levels[:, :, None] >= torch.arange(1, 8).view(7, 1, 1)).float()
    assert torch.allclose(found.unflatten(1, (3, 7)), passed, rtol=0, atol=1e-6)  # some kernels keep l / 7's rounding
    assert not any(p.requires_grad for p in model.planes.parameters())
