from __future__ import annotations

import errno
import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import lightning_sq
from lightning_sq.errors import InputError
from lightning_sq.layers import Normalize, SoftQuantization
from lightning_sq.models import ModelConfig, QuantizerConfig, build_model
from lightning_sq.models.backbone import (
    check_architecture,
    check_image_size,
    create_backbone,
    load_backbone,
)
from lightning_sq.models.checkpoint_format import TrainedModel, checkpoint_entry
from lightning_sq.models.release_format import write_release
from lightning_sq.models.weights_file import file_state
from lightning_sq.releasing.export import export, without_paths
from lightning_sq.releasing.golden import verify

CONFIG = ModelConfig(
    "test_resnet", ("cat", "dog", "owl"), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), 32, 36, QuantizerConfig(4, 60.0)
)
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(CONFIG).eval()


@pytest.fixture
def release(model, tmp_path):
    write_release(tmp_path / "release", TrainedModel(CONFIG, model.state_dict(), {"epochs": 3.0}), "# card\n")
    return tmp_path / "release"


def test_the_model_is_a_visible_pipeline(model):
    assert [name for name, _ in model.named_children()] == ["quantize", "normalize", "backbone"]
    by_hand = model.backbone(model.normalize(model.quantize(IMAGES)))
    assert torch.equal(model(IMAGES), by_hand)
    plain = build_model(ModelConfig(**{**CONFIG.__dict__, "quantizer": None}))
    assert [name for name, _ in plain.named_children()] == ["normalize", "backbone"]
    assert plain.quantizer is None


@pytest.mark.parametrize("training", [False, True])
def test_what_is_cut_out_of_a_model_is_in_its_mode(training):
    """An attack library puts back the mode that it found: `train()` would move the statistics of batch norms."""
    model = build_model(CONFIG).train(training)
    parts = [
        model.network,
        model[1:],
        model[:2],
        model.with_quantizer(torch.round),
        model.with_quantizer(SoftQuantization()),
    ]
    for part in parts:
        assert {module.training for module in part.modules()} == {training}


def test_an_attack_that_puts_the_network_back_into_its_mode_leaves_its_statistics_alone():
    model = build_model(CONFIG).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    network = model.network
    found = network.training
    network.eval()
    network.train(found)  # as torchattacks ends
    network(IMAGES)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_another_quantizer_stands_in_front_whether_there_was_one_or_not(model):
    plain = build_model(ModelConfig(**{**CONFIG.__dict__, "quantizer": None})).eval()
    for one in (model, plain):
        other = one.with_quantizer(SoftQuantization(3, hard=True))
        assert [name for name, _ in other.named_children()] == ["quantize", "normalize", "backbone"]
        assert torch.equal(other(IMAGES), one.network((IMAGES * 2).round() / 2))
        assert other.current_config().quantizer == QuantizerConfig(3, 30.0, hard=True)
    assert plain.quantizer is None
    assert plain.current_config() == plain.config


class Dither(torch.nn.Module):
    def forward(self, x):
        return (x * 3).round() / 3


class Descends(SoftQuantization):
    forward = Dither.forward


@pytest.mark.parametrize(
    "own", [Dither(), lambda x: (x * 3).round() / 3, Descends(2)], ids=["module", "function", "descends from ours"]
)
def test_a_quantizer_of_ones_own_works_and_cannot_be_described(model, own):
    other = model.with_quantizer(own)
    assert torch.equal(other(IMAGES), model.network(Dither()(IMAGES)))
    assert torch.equal(other.quantizer(IMAGES), Dither()(IMAGES))
    with pytest.raises(InputError, match="a description has words for a SoftQuantization alone"):
        other.current_config()
    assert torch.equal(other.with_quantizer(model.quantizer)(IMAGES), model(IMAGES))


@pytest.mark.parametrize("nothing", [None, 4])
def test_what_is_no_function_is_no_quantizer(model, nothing):
    with pytest.raises(InputError, match=f"quantizer={nothing} is no function of pixels"):
        model.with_quantizer(nothing)


def test_integers_are_refused_with_and_without_a_quantizer(model):
    for one in (model, build_model(ModelConfig(**{**CONFIG.__dict__, "quantizer": None})).eval()):
        with pytest.raises(InputError, match=r"torch\.uint8.*Divide uint8 by 255"):
            one((255 * IMAGES).byte())


def test_the_backbone_loads_into_plain_timm(model):
    timm.create_model("test_resnet", num_classes=3).load_state_dict(model.backbone.state_dict(), strict=True)


def test_the_description_survives_json():
    assert ModelConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.pop("mean"),
        lambda d: d.update(extra=1),
        lambda d: d.update(quantizer={"bits": 2}),
        lambda d: d.update(image_size=0),
        lambda d: d.update(resize_size=-5),
        lambda d: d.update(mean=[float("nan")] * 3),
        lambda d: d.update(std=[0.2, 0.0, 0.2]),
    ],
)
def test_a_description_that_is_not_ours_is_refused(spoil):
    values = CONFIG.to_dict()
    spoil(values)
    with pytest.raises(InputError, match="description"):
        ModelConfig.from_dict(values)


def test_a_release_gives_identical_logits_in_eval_mode(model, release):
    loaded = lightning_sq.load(release)
    assert not loaded.training
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    assert sorted(path.name for path in release.iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "config.json",
        "model.safetensors",
    ]


def test_a_release_is_not_written_over_something_else(model, release, tmp_path):
    trained = TrainedModel(CONFIG, model.state_dict())
    with pytest.raises(InputError, match="--overwrite"):
        write_release(release, trained, "# card\n")
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="not a release"):
        write_release(tmp_path / "mine", trained, "# card\n", overwrite=True)
    write_release(release, trained, "# another card\n", overwrite=True)
    assert (release / "README.md").read_text() == "# another card\n"


def test_overwriting_a_release_removes_nothing_that_is_not_a_release(model, release, tmp_path):
    trained = TrainedModel(CONFIG, model.state_dict())
    (release / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not a release: it holds notes\.txt"):
        write_release(release, trained, "# card\n", overwrite=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "SHA256SUMS").write_text("a list of my own")
    with pytest.raises(InputError, match="not a release"):
        write_release(other, trained, "# card\n", overwrite=True)
    part = tmp_path / "new.part"
    part.mkdir()
    (part / "thesis.tex").write_text("mine")
    write_release(tmp_path / "new", trained, "# card\n")
    assert (part / "thesis.tex").read_text() == (release / "notes.txt").read_text() == "mine"
    assert (other / "SHA256SUMS").read_text() == "a list of my own"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "new.part", "other", "release"]
    assert (tmp_path / "new").stat().st_mode == other.stat().st_mode


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_somebody_puts_there_while_a_release_is_made_stays(model, tmp_path, overwrite):
    folder = tmp_path / "new"

    def meanwhile(made):
        folder.mkdir()
        (folder / "thesis.tex").write_text("mine")

    with pytest.raises(InputError, match="exists already"):
        write_release(
            folder, TrainedModel(CONFIG, model.state_dict()), "# card\n", overwrite=overwrite, check=meanwhile
        )
    assert (folder / "thesis.tex").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_weights_beside_a_large_program_are_a_file_of_the_release(model, tmp_path):
    beside = tmp_path / "beside"
    beside.mkdir()
    for name in ("model.onnx", "model.onnx.data"):
        (beside / name).write_text(name)
    trained = TrainedModel(CONFIG, model.state_dict())
    for overwrite in (False, True):
        write_release(tmp_path / "new", trained, "# card\n", overwrite=overwrite, beside=beside)
    assert "model.onnx.data" in (tmp_path / "new/SHA256SUMS").read_text()


def test_a_full_disk_is_told_with_the_folder_that_was_to_be_written(model, tmp_path, monkeypatch):
    def full(tensors):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lightning_sq.models.release_format.save", full)
    with pytest.raises(OSError, match="No space left") as told:
        write_release(tmp_path / "new", TrainedModel(CONFIG, model.state_dict()), "# card\n")
    assert told.value.filename == str(tmp_path / "new")


def test_a_release_loads_where_timm_lacks_the_tag_that_its_training_began_from(model):
    config = replace(CONFIG, architecture="test_resnet.a_tag_of_another_timm")
    built = TrainedModel(config, model.state_dict()).build()
    assert built.config == config
    assert torch.equal(built(IMAGES), model(IMAGES))
    assert lightning_sq.models.build.as_feature_maps(built)(IMAGES)
    with pytest.raises(InputError, match="timm has no weights named"):
        build_model(config)


def test_a_model_is_loaded_in_its_own_precision_whatever_the_default_is(model):
    torch.set_default_dtype(torch.float64)
    try:
        built = TrainedModel(CONFIG, model.state_dict()).build()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(built(IMAGES), model(IMAGES))


def test_a_line_of_checksums_that_is_none_is_passed_over(model, release):
    sums = release / "SHA256SUMS"
    sums.write_text("justoneword \n\n" + sums.read_text().replace("  model", " *model"))
    assert torch.equal(lightning_sq.load(release)(IMAGES), model(IMAGES))


def write_checkpoint(path, weights_of, recipe_, **entry) -> None:
    state = {f"model.{key}": value for key, value in weights_of.state_dict().items()}
    content = {"state_dict": state, "lightning_sq": checkpoint_entry(CONFIG, recipe_) | entry, "global_step": 18}
    torch.save(content, path)


def test_a_release_says_how_long_it_was_trained_and_nothing_of_the_disk(model, tmp_path):
    recipe = {
        "output": "/home/ann/runs/a",
        "ckpt_path": "/home/ann/runs/b/last.ckpt",
        "data": {"root": "/home/ann/digits", "image_size": 32},
        "model": {"checkpoint_path": "/home/ann/w.safetensors", "architecture": "test_resnet"},
        "trainer": {"default_root_dir": "/home/ann", "callbacks": [{"init_args": {"dirpath": "/home/ann/x"}}]},
        "else": ["/home/ann/file.txt", "~/ann"],
    }
    write_checkpoint(tmp_path / "a.ckpt", model, recipe, epochs_trained=3.0)
    export(tmp_path / "a.ckpt", tmp_path / "release", check=verify)
    card, config = ((tmp_path / "release" / name).read_text() for name in ("README.md", "config.json"))
    assert "/home/ann" not in card + config
    assert "image_size" in config
    assert "| trained | 3 epochs, 18 steps |" in card
    assert "--epsilon 8/255 --output" in card.replace("\n", " ")
    assert without_paths({"noise": "8/255", "a": 1}) == {"noise": "8/255", "a": 1}


@pytest.mark.parametrize("key", ["model", "recipe", "versions"])
def test_a_checkpoint_of_ours_that_lacks_a_part_is_refused_by_name(model, tmp_path, key):
    write_checkpoint(tmp_path / "a.ckpt", model, {}, **{key: None})
    with pytest.raises(InputError, match=rf"a\.ckpt lacks {key}"):
        lightning_sq.load(tmp_path / "a.ckpt")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_release_is_refused_by_name(release, name, damage):
    path = release / name
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(content[:-1])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        lightning_sq.load(release)


def test_a_folder_that_is_no_release_and_a_path_that_is_nothing_are_refused(tmp_path):
    with pytest.raises(InputError, match="SHA256SUMS"):
        lightning_sq.load(tmp_path)
    with pytest.raises(InputError, match="There is no model"):
        lightning_sq.load(tmp_path / "nothing")


class Bomb:
    """A pickle that would run code."""

    def __reduce__(self):
        import os

        return os.system, ("echo the code in the file has run > bomb-went-off",)


def test_checkpoints_that_are_foreign_damaged_or_armed_are_refused_and_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "epoch": 1}, tmp_path / "foreign.ckpt")
    torch.save({"state_dict": {}, "lightning_sq": Bomb()}, tmp_path / "armed.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    whole = (tmp_path / "foreign.ckpt").read_bytes()
    (tmp_path / "truncated.ckpt").write_bytes(whole[: len(whole) // 2])
    for name in ("foreign", "armed", "text", "truncated"):
        with pytest.raises(InputError, match=name):
            lightning_sq.load(tmp_path / f"{name}.ckpt")
    assert not (tmp_path / "bomb-went-off").exists()


def test_a_name_that_timm_lacks_gets_the_nearest_ones():
    with pytest.raises(InputError, match="resnet50"):
        check_architecture("resnet5O")


def test_weights_that_timm_lacks_of_a_model_that_it_has_get_the_names_of_those_it_has():
    with pytest.raises(InputError, match=r"'resnet50\.nonexistent'.*resnet50\.a1_in1k"):
        check_architecture("resnet50.nonexistent")


def test_a_model_for_images_of_another_size_is_refused_before_it_is_trained():
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=1)
    with pytest.raises(InputError, match=r"32 x 32.*--data.image_size 224"):
        check_image_size(vit, "vit_tiny_patch16_224", 32, 3)
    assert vit.training
    before = {key: value.clone() for key, value in vit.state_dict().items()}
    check_image_size(vit, "vit_tiny_patch16_224", 224, 3)
    assert all(torch.equal(value, before[key]) for key, value in vit.state_dict().items())
    with pytest.raises(InputError, match="one logit for each of 4 classes"):
        check_image_size(vit, "vit_tiny_patch16_224", 224, 4)


def test_pretrained_weights_keep_their_head_only_for_the_same_classes(model, tmp_path):
    torch.manual_seed(1)
    source = timm.create_model("test_resnet", num_classes=7)
    save_file(
        {key: value.half() if value.is_floating_point() else value for key, value in source.state_dict().items()},
        tmp_path / "w.safetensors",
    )
    backbone = timm.create_model("test_resnet", num_classes=3)
    skipped = load_backbone(backbone, file_state(tmp_path / "w.safetensors"), source="w")
    assert sorted(skipped) == ["fc.bias", "fc.weight"]
    ours, theirs = backbone.state_dict(), source.state_dict()
    assert torch.equal(ours["conv1.0.weight"], theirs["conv1.0.weight"].half().float())
    same = timm.create_model("test_resnet", num_classes=7)
    assert load_backbone(same, file_state(tmp_path / "w.safetensors"), source="w") == []


def test_weights_of_another_architecture_or_no_weights_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    backbone = timm.create_model("test_resnet", num_classes=3)
    with pytest.raises(InputError, match=r"other.*--model\.architecture"):
        load_backbone(backbone, load_file(tmp_path / "other.safetensors"), source="other")
    (tmp_path / "broken.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(InputError, match=r"broken\.safetensors is not a readable"):
        file_state(tmp_path / "broken.safetensors")
    with pytest.raises(InputError, match="no weights file"):
        file_state(tmp_path / "none.safetensors")


OWN_NETWORK = """
from timm.models import register_model
from torch import nn

@register_model
def a_network_of_mine(pretrained=False, num_classes=10, in_chans=3, **more):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_chans, num_classes))
"""


def test_a_network_of_a_module_of_ones_own_is_found_by_the_environment(tmp_path, monkeypatch):
    (tmp_path / "networks_of_mine.py").write_text(OWN_NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"no model named 'a_network_of_mine'.*module in \$LIGHTNING_SQ_IMPORT"):
        create_backbone("a_network_of_mine", 4)
    monkeypatch.setenv("LIGHTNING_SQ_IMPORT", "json, networks_of_mine")
    mine = create_backbone("a_network_of_mine", 4)
    assert mine(torch.zeros(1, 3, 8, 8)).shape == (1, 4)
    assert load_backbone(create_backbone("a_network_of_mine", 4), mine.state_dict(), source="mine") == []
    monkeypatch.setenv("LIGHTNING_SQ_IMPORT", "networks_of_nobody")
    with pytest.raises(InputError, match="names networks_of_nobody, which cannot be imported"):
        create_backbone("resnet18", 4)


def test_weights_of_another_head_than_imagenets_are_no_classifier_of_imagenet(tmp_path):
    save_file(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"w\.safetensors has another head than one of ImageNet-1k's 1000 classes"):
        lightning_sq.load(f"timm:test_resnet@{tmp_path / 'w.safetensors'}")
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    assert len(lightning_sq.load(f"timm:test_resnet@{tmp_path / 'w.safetensors'}").config.class_names) == 1000


def test_weights_over_imagenet_see_images_as_timm_cuts_and_normalises_them_and_name_its_classes_in_order(tmp_path):
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "w.safetensors")
    config = lightning_sq.load(f"timm:resnet18.tv_in1k@{tmp_path / 'w.safetensors'}").config
    assert (config.mean, config.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (config.image_size, config.resize_size) == (224, 256)
    assert (config.class_names[0], config.class_names[-1]) == ("n01440764", "n15075141")


@pytest.mark.parametrize("squashed", [False, True])
def test_who_loads_weights_of_squashed_images_is_told_that_these_are_cut(squashed, tmp_path, monkeypatch):
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    known = replace(timm.get_pretrained_cfg("test_resnet"), crop_mode="squash" if squashed else "center")
    monkeypatch.setattr("timm.get_pretrained_cfg", lambda name: known)
    with (
        pytest.warns(UserWarning, match="timm squashes images to a square for test_resnet")
        if squashed
        else nullcontext()
    ):
        lightning_sq.load(f"timm:test_resnet@{tmp_path / 'w.safetensors'}")


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (0.0,)), ((0.5,), (-1.0,)), ((0.5, 0.5), (1.0,)), ((0.5,), (float("nan"),))]
)
def test_a_normalisation_that_cannot_be_is_refused(mean, std):
    with pytest.raises(InputError, match="not one number a channel each, with std above 0"):
        Normalize(mean, std)
