from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import lightning_sq
from lightning_sq.errors import InputError
from lightning_sq.models import ModelConfig, QuantizerConfig, build_model
from lightning_sq.models.backbone import check_architecture, file_state, load_backbone
from lightning_sq.models.checkpoint_format import TrainedModel, checkpoint_entry, write_release

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
    write_release(tmp_path / "release", TrainedModel(CONFIG, model.state_dict(), {"epoch": 3}), "# card\n")
    return tmp_path / "release"


def test_the_model_is_a_visible_pipeline(model):
    assert [name for name, _ in model.named_children()] == ["quantize", "normalize", "backbone"]
    by_hand = model.backbone(model.normalize(model.quantize(IMAGES)))
    assert torch.equal(model(IMAGES), by_hand)
    plain = build_model(ModelConfig(**{**CONFIG.__dict__, "quantizer": None}))
    assert [name for name, _ in plain.named_children()] == ["normalize", "backbone"]
    assert plain.quantizer is None


def test_the_backbone_loads_into_plain_timm(model):
    timm.create_model("test_resnet", num_classes=3).load_state_dict(model.backbone.state_dict(), strict=True)


def test_the_description_survives_json():
    assert ModelConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG


@pytest.mark.parametrize(
    "spoil", [lambda d: d.pop("mean"), lambda d: d.update(extra=1), lambda d: d.update(quantizer={"bits": 2})]
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


def test_a_flipped_bit_anywhere_in_a_checkpoint_is_caught_or_changes_nothing(model, tmp_path):
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    entry = checkpoint_entry(CONFIG, [None], {})
    torch.save({"state_dict": state, "lightning_sq": entry, "epoch": 1, "global_step": 2}, tmp_path / "whole.ckpt")
    whole, expected = (tmp_path / "whole.ckpt").read_bytes(), model(IMAGES)
    assert torch.equal(lightning_sq.load(tmp_path / "whole.ckpt")(IMAGES), expected)
    caught = 0
    for place in torch.randint(0, len(whole) * 8, (40,), generator=torch.Generator().manual_seed(0)).tolist():
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        (tmp_path / "flipped.ckpt").write_bytes(flipped)
        try:
            assert torch.equal(lightning_sq.load(tmp_path / "flipped.ckpt")(IMAGES), expected)
        except InputError:
            caught += 1
    assert caught > 30


def test_a_name_that_timm_lacks_gets_the_nearest_ones():
    with pytest.raises(InputError, match="resnet50"):
        check_architecture("resnet5O")


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
