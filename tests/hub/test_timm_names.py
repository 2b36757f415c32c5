"""timm knows the released names after `import lightning_sq`, and gives the function that was released."""

from __future__ import annotations

import copy
import importlib
import json
import math
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import _registry, save_for_hf

import lightning_sq
from lightning_sq.data.backends import make_loader
from lightning_sq.data.crop import resize_and_center_crop
from lightning_sq.data.index import look_through
from lightning_sq.data.loader import Dataset
from lightning_sq.data.order import EpochOrder
from lightning_sq.errors import InputError
from lightning_sq.hub import on_import, timm_names
from lightning_sq.hub.registry import INDEX_VARIABLE, RegistryEntry, parse_index
from lightning_sq.hub.timm_names import register
from lightning_sq.models import ModelConfig, QuantizerConfig, build_model
from lightning_sq.models.backbone import check_architecture, load_backbone
from lightning_sq.models.checkpoint_format import TrainedModel
from lightning_sq.models.release_format import write_release
from lightning_sq.models.weights_file import file_state
from lightning_sq.paths import sha256
from tests.conftest import REPOSITORY
from tests.hub.conftest import IMAGES, NAME, put


@pytest.fixture(autouse=True)
def _registry_as_it_was():
    tables = ("_model_pretrained_cfgs", "_model_has_pretrained", "_model_with_tags", "_model_entrypoints")
    before = {name: copy.copy(getattr(_registry, name)) for name in tables}
    tags = {name: list(found) for name, found in _registry._model_with_tags.items()}
    yield
    for name, table in before.items():
        now = getattr(_registry, name)
        now.clear()
        now.update(table)
    _registry._model_with_tags.update(tags)


@pytest.fixture
def named(entry) -> RegistryEntry:
    register(entry)
    return entry


def test_the_model_by_timms_name_is_the_released_function_with_the_keys_of_plain_timm(named, release):
    model = timm.create_model(NAME, pretrained=True).eval()
    released = lightning_sq.load(release)
    assert torch.equal(model(IMAGES), released(IMAGES))
    plain = timm.create_model("test_resnet", num_classes=3).eval()
    plain.load_state_dict(model.state_dict(), strict=True)
    assert not torch.allclose(plain(IMAGES), released(IMAGES))


def stripes(height: int, width: int) -> Image.Image:
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@pytest.mark.parametrize("backend", ["dali", "torchvision"])
@pytest.mark.parametrize("use_test_size", [False, True])
@pytest.mark.parametrize("resize_size", [None, 36])
def test_timms_own_transform_cuts_images_as_our_evaluation_does(entry, resize_size, use_test_size, backend, tmp_path):
    """resnet18 has a larger size for tests and another interpolation in timm; an older registry says no resize_size."""
    register(replace(entry, resize_size=resize_size))
    model = timm.create_model(NAME, pretrained=True)
    transform = create_transform(**resolve_data_config(model=model, use_test_size=use_test_size))
    white = transform(Image.new("RGB", (40, 40), "white"))
    assert torch.equal(white, torch.ones(3, 32, 32))
    (tmp_path / "a").mkdir()
    stripes(70, 50).save(tmp_path / "a/0.png")
    order = EpochOrder(1, 1)
    data = Dataset(look_through(tmp_path), resize_and_center_crop(32, resize_size=36), 32)
    ((images, *_),) = make_loader(data, order, backend=backend, num_threads=1).batches(0, 0)
    assert (transform(stripes(70, 50)) - images[0]).abs().max() < 0.02


def test_a_tag_says_nothing_of_the_weights_that_timm_has_of_the_architecture(entry):
    register(replace(entry, name="resnet18.sq_pets", resize_size=36))
    found, known = timm.get_pretrained_cfg("resnet18.sq_pets"), timm.get_pretrained_cfg("resnet18")
    assert known.test_input_size == (3, 288, 288)
    assert found.test_input_size is found.test_crop_pct is found.license is found.hf_hub_id is None
    assert (found.input_size, found.interpolation, found.crop_pct) == ((3, 32, 32), "bilinear", 32 / 36)
    assert (found.first_conv, found.classifier) == (known.first_conv, known.classifier)


def test_timm_makes_every_resize_size_again_of_the_share_that_it_is_told():
    for image_size in range(1, 400):
        for resize_size in range(image_size, 2 * image_size):
            share = timm_names.preprocessing((3, image_size, image_size), resize_size)["crop_pct"]
            assert math.floor(image_size / share) == resize_size


def test_a_list_without_and_one_with_the_resize_size_are_read(entry):
    for one in (entry, replace(entry, resize_size=36)):
        assert parse_index(one.as_toml(), source="list", base="") == {NAME: one}


def test_it_takes_what_timm_takes_for_transfer(named, release):
    released = lightning_sq.load(release)
    new_head = timm.create_model(NAME, pretrained=True, num_classes=7).eval()
    assert new_head(IMAGES).shape == (2, 7)
    assert torch.equal(new_head.forward_features(IMAGES), released.forward_features(IMAGES))
    features = timm.create_model(NAME, pretrained=True, features_only=True).eval()
    ours = lightning_sq.load(release, features=True)(IMAGES)
    assert all(torch.equal(a, b) for a, b in zip(features(IMAGES), ours, strict=True))


def test_it_is_copied_pickled_and_listed_like_any_other(named):
    model = timm.create_model(NAME, pretrained=True).eval()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(IMAGES), model(IMAGES))
    assert "state_dict" not in model.pretrained_cfg
    assert NAME in timm.list_pretrained("test_resnet.*")
    assert timm.get_pretrained_cfg(NAME).num_classes == 3


def test_under_its_own_name_timms_model_is_what_it_was(named, server):
    assert timm.create_model("test_resnet", num_classes=3).conv1[0]._forward_pre_hooks == {}
    assert server.requests == []


def test_a_tag_is_the_same_network_without_its_weights(named, release):
    untrained, released = timm.create_model(NAME).eval(), lightning_sq.load(release)
    assert untrained.num_classes == 3
    assert not torch.equal(untrained.fc.weight, released.backbone.fc.weight)
    plain = timm.create_model("test_resnet", num_classes=3).eval()
    plain.load_state_dict(untrained.state_dict())
    assert torch.equal(untrained(IMAGES), plain(released.normalize(released.quantize(IMAGES))))
    tuned = timm.create_model(NAME, pretrained=True).eval()
    untrained.load_state_dict(tuned.state_dict(), strict=True)
    assert torch.equal(untrained(IMAGES), tuned(IMAGES))


def test_what_timm_saved_of_a_fine_tuned_model_keeps_its_front_end_and_its_own_weights(named, tmp_path):
    tuned = timm.create_model(NAME, pretrained=True, num_classes=7).eval()
    save_for_hf(tuned, tmp_path / "tuned", safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path / 'tuned'}", pretrained=True).eval()
    assert torch.equal(again(IMAGES), tuned(IMAGES))


def test_the_description_of_a_tag_makes_the_same_model_as_the_tag(named):
    for description in (timm.get_pretrained_cfg(NAME), timm.get_pretrained_cfg(NAME).to_dict()):
        model = timm.create_model("test_resnet", pretrained=True, pretrained_cfg=description).eval()
        assert torch.equal(model(IMAGES), timm.create_model(NAME, pretrained=True).eval()(IMAGES))


def test_a_front_end_that_cannot_be_had_is_not_left_out(named, server):
    server.server_close()
    server.shutdown()
    with pytest.raises(
        InputError, match=r"cannot be reached.*The quantizer of .*lightning-sq download test_resnet\.sq"
    ):
        timm.create_model(NAME)


def test_a_front_end_is_in_the_mode_of_the_network(named):
    model = timm.create_model(NAME, pretrained=True)
    assert {part.training for part in model.modules()} == {True}


def test_a_learnt_quantizer_comes_along_and_adds_no_parameter(server, tmp_path):
    moved = [-0.01, 0.7]  # training may move one out of the pixels
    learnt = QuantizerConfig(3, 50.0, thresholds=moved, learnable_thresholds=True, learnable_sharpness=True)
    config = ModelConfig("vit_tiny_patch16_224", ("a", "b"), (0.5,) * 3, (0.2,) * 3, 224, 224, learnt)
    torch.manual_seed(0)
    model = build_model(config).eval()
    write_release(tmp_path / "vit", TrainedModel(config, model.state_dict()), "# card\n")
    put(server, tmp_path / "vit", "vit/")
    sums = sha256(tmp_path / "vit/SHA256SUMS")
    register(RegistryEntry("vit_tiny_patch16_224.sq", f"{server.url}vit/", sums, 2, (3, 224, 224)))
    found = timm.create_model("vit_tiny_patch16_224.sq", pretrained=True).eval()
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(found(images), model(images), atol=1e-6)
    assert found.state_dict().keys() == model.backbone.state_dict().keys()


@pytest.mark.parametrize(("architecture", "channels", "size"), [("resnet18_cifar", 3, 32), ("small_cnn", 1, 28)])
def test_a_small_network_of_this_project_is_had_by_its_released_name(server, tmp_path, architecture, channels, size):
    mean, std = (0.5,) * channels, (0.2,) * channels
    config = ModelConfig(architecture, ("a", "b", "c"), mean, std, size, size, QuantizerConfig(4, 60.0))
    write_release(tmp_path / "small", TrainedModel(config, build_model(config).state_dict()), "# card\n")
    put(server, tmp_path / "small", "small/")
    digest = sha256(tmp_path / "small/SHA256SUMS")
    name, images = f"{architecture}.sq_pets", torch.rand(2, channels, size, size)
    register(RegistryEntry(name, f"{server.url}small/", digest, 3, (channels, size, size), size))
    found = timm.create_model(name, pretrained=True).eval()
    assert torch.allclose(found(images), lightning_sq.load(tmp_path / "small")(images), atol=1e-6)
    assert timm.create_model(name)(images).shape == (2, 3)


@pytest.mark.parametrize("architecture", ["fastvit_t8", "mobileone_s0"])
def test_a_network_with_several_first_convolutions_is_refused(architecture):
    """The front end would stand before one of them, and the others see pixels as they are."""
    config = ModelConfig(architecture, ("a", "b"), (0.5,) * 3, (0.2,) * 3, 64, 64, QuantizerConfig(3, 50.0))
    model = build_model(config)
    with pytest.raises(InputError, match=f"{architecture} has no one first convolution"):
        timm_names._put_in_front(build_model(config).backbone, model)


def test_other_channels_and_an_entry_that_is_not_so_are_refused(named, entry):
    with pytest.raises(InputError, match="3 channels, not of 1"):
        timm.create_model(NAME, pretrained=True, in_chans=1)
    wrong = {"num_classes": 4, "input_size": (3, 64, 64), "resize_size": 40}
    for name, value in wrong.items():
        register(replace(entry, name=f"test_resnet.{name}", **{name: value}))
        with pytest.raises(InputError, match="not what its entry in the registry says"):
            timm.create_model(f"test_resnet.{name}", pretrained=True)
    with pytest.raises(InputError, match="this timm lacks"):
        register(replace(entry, name="resnet5O.sq"))


def test_a_release_whose_training_began_from_a_tag_of_timms_is_one_of_the_architecture(server, tmp_path):
    config = ModelConfig("test_resnet.r160_in1k", ("a", "b"), (0.5,) * 3, (0.2,) * 3, 32, 32, QuantizerConfig(3, 50.0))
    write_release(tmp_path / "tagged", TrainedModel(config, build_model(config).state_dict()), "# card\n")
    put(server, tmp_path / "tagged", "tagged/")
    digest = sha256(tmp_path / "tagged/SHA256SUMS")
    register(RegistryEntry("test_resnet.sq_tagged", f"{server.url}tagged/", digest, 2, (3, 32, 32)))
    model = timm.create_model("test_resnet.sq_tagged", pretrained=True).eval()
    assert torch.equal(model(IMAGES), lightning_sq.load(tmp_path / "tagged")(IMAGES))


def test_a_name_of_timms_own_is_not_taken_over(entry):
    before = timm.get_pretrained_cfg("resnet50.a1_in1k")
    register(replace(entry, name="resnet50.a1_in1k"))
    assert timm.get_pretrained_cfg("resnet50.a1_in1k") == before


def test_a_recipe_starts_from_the_weights_of_a_release_and_not_from_its_name(named, release):
    with pytest.raises(InputError, match=r"--model\.architecture test_resnet .* --model\.checkpoint_path"):
        check_architecture(NAME)
    backbone = timm.create_model("test_resnet", num_classes=3)
    assert load_backbone(backbone, file_state(release / "model.safetensors"), source="a release") == []
    released = lightning_sq.load(release).backbone.state_dict()
    assert all(torch.equal(value, released[key]) for key, value in backbone.state_dict().items())


def test_a_list_that_cannot_be_read_does_not_stop_timm(monkeypatch, entry, tmp_path):
    monkeypatch.setenv(INDEX_VARIABLE, "nowhere.toml")
    with pytest.warns(UserWarning, match=r"No released model is registered with timm.*nowhere\.toml"):
        on_import._register()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv(INDEX_VARIABLE, "https://pets..example/")
    with pytest.warns(UserWarning, match=r"No released model is registered with timm: https://pets\.\.example/ is no"):
        on_import._register()
    (tmp_path / "list.toml").write_text(replace(entry, name="resnet5O.sq").as_toml() + entry.as_toml())
    monkeypatch.setenv(INDEX_VARIABLE, str(tmp_path / "list.toml"))
    with pytest.warns(UserWarning, match=r"is not registered with timm: resnet5O\.sq"):
        on_import._register()
    assert timm.get_pretrained_cfg(NAME).notes == ("lightning_sq",)


PROGRAM = """
import json, sys
{first}
before = sorted({{"torch", "timm"}} & sys.modules.keys())
{second}
assert timm.list_pretrained("small_cnn*") == ["small_cnn.sq"]
import torch
images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
logits = timm.create_model({name!r}, pretrained=True).eval()(images)
print(json.dumps([before, logits.tolist()]))
"""


@pytest.mark.end_to_end
@pytest.mark.parametrize("order", [("lightning_sq", "timm"), ("timm", "lightning_sq")])
def test_in_a_fresh_process_the_name_works_in_either_order_of_imports(index, entry, release, order):
    index.write_text(entry.as_toml() + replace(entry, name="small_cnn.sq").as_toml())  # one of our own networks
    program = PROGRAM.format(first=f"import {order[0]}", second=f"import {order[1]}", name=NAME)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    before, logits = json.loads(done.stdout)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = lightning_sq.load(release)(images)
    assert torch.allclose(torch.tensor(logits), expected, atol=1e-6)
    assert (before == []) == (order[0] == "lightning_sq")


def test_a_mistake_of_ours_does_not_stop_timm(monkeypatch, index):
    """Nor does a timm that keeps its names elsewhere."""

    def fail(*arguments):
        raise AttributeError("no such table\n\nand more")

    monkeypatch.setattr(timm_names, "register", fail)
    with pytest.warns(
        UserWarning, match=r"A released .* is not registered with timm: AttributeError: no such table\.$"
    ):
        on_import._register()
    monkeypatch.setattr("lightning_sq.hub.registry.entries", fail)
    with pytest.warns(UserWarning, match=r"No released .* is registered with timm: AttributeError: no such table\.$"):
        on_import._register()


BY_PACKAGE = """
import sys, lightning_sq
lightning_sq.load(sys.argv[1])
import timm
print(timm.list_pretrained("*.sq*"))
"""


@pytest.mark.end_to_end
def test_a_list_of_releases_does_not_stop_the_package_that_is_the_first_to_import_timm(index, entry, release):
    """The names are registered while `models/backbone` is in the middle of its own imports."""
    index.write_text(entry.as_toml() + replace(entry, name="small_cnn.sq").as_toml())  # one of our own networks
    command = [sys.executable, "-c", BY_PACKAGE, str(release)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert (done.stdout.strip(), done.stderr) == (f"['small_cnn.sq', '{NAME}']", "")


@pytest.mark.end_to_end
@pytest.mark.parametrize("words", [("verify", "{folder}"), ("fit", "--print_config")], ids=lambda words: words[0])
def test_a_list_of_releases_does_not_stop_the_command_line(index, whole, words):
    command = [sys.executable, "-m", "lightning_sq", *(word.format(folder=whole) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (0, "")


PROBE = """
import importlib.util, sys
{imports}
import lightning_sq
for _ in range(3):
    spec = importlib.util.find_spec("timm")
assert spec.loader.get_filename("timm") == spec.origin and "timm" not in sys.modules
import timm
assert timm.__loader__ is timm.__spec__.loader and type(timm.__loader__).__name__ == "SourceFileLoader"
assert not any(type(finder).__name__ == "_TimmWatcher" for finder in sys.meta_path)
print(timm.list_pretrained("test_resnet.sq*"))
"""
OTHER_HOOK = """
class Other:
    def find_spec(self, name, path=None, target=None):  # asks all others too
        found = (finder.find_spec(name, path, target) for finder in list(sys.meta_path) if finder is not self)
        return next((spec for spec in found if spec is not None), None)
sys.meta_path.insert(0, Other())
"""


@pytest.mark.end_to_end
@pytest.mark.parametrize("imports", ["", OTHER_HOOK], ids=["", "another hook"])
def test_a_look_whether_timm_is_there_leaves_the_names_for_the_import(index, imports):
    """As transformers, accelerate and others look."""
    program = PROBE.format(imports=imports)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.stdout.strip() == f"['{NAME}']", done.stderr


def test_where_timm_cannot_be_imported_the_watcher_waits_for_the_next_time(monkeypatch, tmp_path):
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm/__init__.py").write_text("raise ImportError('half installed')")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "modules", {name: one for name, one in sys.modules.items() if name != "timm"})
    watcher = on_import._TimmWatcher()
    monkeypatch.setattr(sys, "meta_path", [watcher, *sys.meta_path])
    with pytest.raises(ImportError, match="half installed"):
        importlib.import_module("timm")
    assert watcher in sys.meta_path


STRICT = """
import sys, timm, torch
from safetensors.torch import load_file
state = {k.removeprefix("backbone."): v for k, v in load_file(sys.argv[1]).items() if k.startswith("backbone.")}
model = timm.create_model("test_resnet", num_classes=3)
print(model.load_state_dict(state, strict=True), "lightning_sq" in sys.modules)
"""


@pytest.mark.end_to_end
def test_a_release_loads_into_plain_timm_where_nothing_of_ours_is_imported(release):
    command = [sys.executable, "-c", STRICT, str(release / "model.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "<All keys matched successfully> False"


def test_torch_hub_loads_a_release_and_a_released_name(index, release):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.hub's own
        by_folder = torch.hub.load(str(REPOSITORY), "release", str(release), source="local")
        by_name = torch.hub.load(str(REPOSITORY), NAME, source="local")
        pooled = torch.hub.load(str(REPOSITORY), "release", str(release), num_classes=0, source="local")
    assert torch.equal(by_folder(IMAGES), by_name(IMAGES))
    assert pooled(IMAGES).shape == (2, 96)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("http://127.0.0.1:9/list.toml", "No copy of that list"),
        ("nowhere.toml", "only the package's own have names here"),
    ],
)
def test_torch_hub_loads_a_folder_where_the_list_cannot_be_read(release, monkeypatch, named, said):
    monkeypatch.setenv(INDEX_VARIABLE, named)
    with pytest.warns(UserWarning, match=said):
        model = torch.hub.load(str(REPOSITORY), "release", str(release), source="local")
    assert torch.equal(model(IMAGES), lightning_sq.load(release)(IMAGES))
