"""A checkpoint becomes a release: what lies in it, what its card says, and what it must not say."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import lightning_sq
from lightning_sq.__main__ import main
from lightning_sq.errors import InputError
from lightning_sq.evaluation.tables import percent
from lightning_sq.models import ModelConfig, QuantizerConfig, build_model
from lightning_sq.models.checkpoint_format import checkpoint_entry, read_checkpoint
from lightning_sq.paths import sha256
from lightning_sq.release_files import SUMS_FILE, read_sums
from lightning_sq.releasing import export as module
from lightning_sq.releasing.card import model_card
from lightning_sq.releasing.evidence import evidence_for, why_not_robust
from lightning_sq.releasing.export import export
from lightning_sq.releasing.golden import compare, golden_images, logits_of, verify
from lightning_sq.releasing.programs import verify_onnx
from tests.conftest import REPOSITORY

CONFIG = ModelConfig(
    "test_resnet",
    tuple("0123456789"),
    (0.5,) * 3,
    (0.25,) * 3,
    32,
    36,
    QuantizerConfig(4, 60.0, learnable_sharpness=True),
)


def write_checkpoint(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    state = {f"model.{key}": value for key, value in build_model(CONFIG).state_dict().items()}
    entry = checkpoint_entry(
        CONFIG, {"data": {"root": "/home/ann/digits"}, "trainer": {"max_epochs": 3, "plugins": None}}
    )
    torch.save({"state_dict": state, "lightning_sq": entry, "global_step": 18}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("run") / "last.ckpt", seed=0)


@pytest.fixture(scope="module")
def results(checkpoint, few_digits, tmp_path_factory) -> Path:
    """Of an evaluation of that checkpoint, and of another one beside it, by the real command."""
    output = tmp_path_factory.mktemp("evaluation") / "robustness"
    other = write_checkpoint(checkpoint.with_name("other.ckpt"), seed=1)
    words = ["evaluate", f"other={other}", f"mine={checkpoint}", "--data", str(few_digits), "--output", str(output)]
    assert main([*words, "--attacks", "fgsm,pgd", "--epsilon", "1/255", "--device", "cpu"]) == 0
    return output


def with_results(results: Path, folder: Path, change) -> Path:
    """The same evaluation with something else in it."""
    content = json.loads((results / "results.json").read_text())
    change(content)
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def test_a_release_holds_every_file_that_is_named_and_a_fresh_process_has_loaded_it(
    checkpoint, results, tmp_path, capsys
):
    folder = tmp_path / "release"
    words = ["export", str(checkpoint), str(folder), "--results", str(results), "--license", "apache-2.0"]
    assert main([*words, "--onnx", "--torch-export"]) == 0
    said = capsys.readouterr().out
    assert "the card does not call it robust: " in said
    names = {
        "model.safetensors",
        "config.json",
        "README.md",
        "golden.safetensors",
        "results.json",
        "model.onnx",
        "model.pt2",
    }
    assert {path.name for path in folder.iterdir()} == names | {SUMS_FILE}
    assert read_sums(folder) == {name: sha256(folder / name) for name in names}
    config = json.loads((folder / "config.json").read_text())
    assert config["model"] == json.loads(json.dumps(CONFIG.to_dict()))
    assert re.fullmatch(r"[0-9a-f]{40}(, with changes)?|unknown", config["exported_with"]["commit"])
    assert config["training"]["versions"].keys() == config["exported_with"].keys()
    for made in config["programs"].values():
        assert made["parity"]["num_images"] == 8
        assert made["parity"]["largest_difference"] < 1e-5
        assert made["parity"]["same_class"] == 1.0
    golden = load_file(folder / "golden.safetensors")
    model = lightning_sq.load(folder)
    assert torch.equal(model(golden["images"].float() / 255), golden["logits"])
    assert main(["verify", str(folder)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"the logits of 8 images differ by at most 0 ", said)
    assert re.search(r"^those of model\.onnx by at most \d", said, re.MULTILINE)


def test_a_program_for_another_runtime_takes_any_number_of_images(checkpoint, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    export(checkpoint, tmp_path / "release", onnx=True, torch_export=True, check=verify)
    model, images = lightning_sq.load(tmp_path / "release"), torch.rand(5, 3, 32, 32)
    session = runtime.InferenceSession(tmp_path / "release/model.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load(tmp_path / "release/model.pt2").module()
    for number in (1, 5):
        some = images[:number]
        (logits,) = session.run(["logits"], {"images": some.numpy()})
        assert torch.allclose(torch.from_numpy(logits), model(some), atol=1e-5)
        assert torch.allclose(program(some), model(some), atol=1e-5)


def test_a_release_that_a_fresh_process_cannot_load_is_not_made(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "write_golden", lambda folder, model: save_file({}, folder / "golden.safetensors"))
    with pytest.raises(InputError, match=r"^No release was written, .* cannot load it: .*golden"):
        export(checkpoint, tmp_path / "release")
    assert list(tmp_path.iterdir()) == []


def test_other_logits_than_the_golden_ones_are_refused(checkpoint, tmp_path):
    folder = tmp_path / "release"
    export(checkpoint, folder, check=verify)
    golden = load_file(folder / "golden.safetensors")
    golden["logits"][3, 2] += 0.01
    save_file(golden, folder / "golden.safetensors")
    with pytest.raises(InputError, match=r"golden\.safetensors is not the file that SHA256SUMS names"):
        verify(folder)
    sums = "".join(f"{sha256(folder / name)}  {name}\n" for name in read_sums(folder))
    (folder / SUMS_FILE).write_text(sums)
    with pytest.raises(InputError, match=r"other logits than when it was made: they differ by up to 0\.01\."):
        verify(folder)


@pytest.mark.parametrize("name", ["README.md", "model.pt2", "model.onnx"])
def test_a_file_for_people_or_other_runtimes_that_was_altered_is_named(checkpoint, tmp_path, name):
    folder = tmp_path / "release"
    export(checkpoint, folder, onnx=True, torch_export=True, check=verify)
    with (folder / name).open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(InputError, match=rf"{re.escape(name)} is not the file that SHA256SUMS names"):
        verify(folder)
    (folder / name).unlink()  # a download brings those alone that a model is loaded from
    verify(folder)


def test_a_program_says_nothing_of_the_disk_that_it_was_made_on(checkpoint, tmp_path):
    folder = tmp_path / "release"
    export(checkpoint, folder, onnx=True, torch_export=True, check=verify)
    with ZipFile(folder / "model.pt2") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert len(parts) > 1
    for name, content in (parts | {path.name: path.read_bytes() for path in folder.iterdir()}).items():
        for place in (str(REPOSITORY), sys.prefix, str(tmp_path)):
            assert place.encode() not in content, name


@pytest.mark.parametrize("name", ["README.md", "model.onnx"])
def test_a_file_that_was_put_beside_a_release_is_refused(checkpoint, tmp_path, name):
    folder = tmp_path / "release"
    export(checkpoint, folder, check=verify)
    sums = "".join(f"{digest}  {listed}\n" for listed, digest in read_sums(folder).items() if listed != name)
    (folder / SUMS_FILE).write_text(sums)
    (folder / name).write_text("a stranger's")
    with pytest.raises(InputError, match=rf"{re.escape(name)} is not the file that SHA256SUMS names"):
        verify(folder)


def test_golden_logits_that_are_no_numbers_are_told_in_a_sentence(checkpoint, tmp_path):
    folder = tmp_path / "release"
    export(checkpoint, folder, check=verify)
    golden = load_file(folder / "golden.safetensors")
    save_file(golden | {"logits": golden["logits"] > 0}, folder / "golden.safetensors")
    (folder / SUMS_FILE).write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in read_sums(folder)))
    with pytest.raises(InputError, match=r"golden\.safetensors holds no images of this model \(TypeError\)"):
        verify(folder)


def test_a_program_that_another_runtime_cannot_run_or_that_gives_other_logits_is_refused(checkpoint, tmp_path):
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "release"
    export(checkpoint, folder, onnx=True, check=verify)
    assert verify_onnx(folder).holds
    golden = load_file(folder / "golden.safetensors")
    save_file(golden | {"logits": golden["logits"] + 1}, folder / "golden.safetensors")
    with pytest.raises(InputError, match=r"model\.onnx gives other logits than the model when it was released: .* 1\."):
        verify_onnx(folder)
    (folder / "model.onnx").write_bytes(b"no program")
    with pytest.raises(InputError, match=r"^onnxruntime .* cannot run .*model\.onnx"):
        verify_onnx(folder)
    (folder / "model.onnx").unlink()
    assert verify_onnx(folder) is None


def test_parity_is_measured_against_the_largest_logit_and_fails_on_nan():
    expected = torch.tensor([[1.0, -10.0], [3.0, 2.0]])
    near = compare(expected + torch.tensor([[5e-4, 0.0], [0.0, 0.0]]), expected)
    assert (near.num_images, near.largest_logit, near.same_class) == (2, 10.0, 1.0)
    assert near.largest_difference == pytest.approx(5e-4, rel=1e-3)
    assert near.holds
    assert not compare(expected + 2e-3, expected).holds
    assert not compare(expected * float("nan"), expected).holds
    assert not compare(expected, expected * float("inf")).holds
    with pytest.raises(InputError, match="There are logits of the shape"):
        compare(expected[:0], expected[:0])
    assert compare(expected.flip(1), expected).same_class == 0.0
    with pytest.raises(InputError, match=r"\(2, 1\) instead of \(2, 2\)"):
        compare(expected[:, :1], expected)


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 28)])
def test_golden_images_are_the_same_each_time_and_use_all_of_the_range(channels, size):
    config = ModelConfig("small_cnn", ("a", "b"), (0.0,) * channels, (1.0,) * channels, size, size)
    images = golden_images(config)
    assert images.shape == (8, channels, size, size)
    assert images.dtype == torch.uint8
    assert (images.min(), images.max()) == (0, 255)
    torch.manual_seed(5)
    assert torch.equal(golden_images(config), images)
    assert len({tuple(image.flatten().tolist()) for image in images}) == 8


def test_the_evaluation_of_a_release_is_of_its_weights_alone_and_says_nothing_of_the_disk(checkpoint, results):
    evidence = evidence_for(read_checkpoint(checkpoint), results)
    (row,) = evidence["models"]
    assert row["name"] == "mine"
    assert evidence["data"]["folder"] == "few/val"
    assert row["source"] == "last.ckpt"
    assert str(results.parent) not in json.dumps(evidence)


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("/data", "data"),
        ("/data/val", "data/val"),
        ("../pets", "pets"),
        (".", "a folder"),
        ("/home/ann/val", "val"),
        ("/a/b\udcff", "a/b\\udcff"),
    ],
)
def test_the_images_of_a_card_have_a_name_wherever_they_lay(checkpoint, results, tmp_path, folder, said):
    moved = with_results(results, tmp_path / "moved", lambda r: r["data"].update(folder=folder))
    card = model_card(read_checkpoint(checkpoint), evidence_for(read_checkpoint(checkpoint), moved))
    dataset = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"][0]["dataset"]
    assert dataset == {"type": said.split("/")[0], "name": f"{said}, 40 images"}
    assert f"Measured on 40 images of {said} with" in card


def test_a_card_says_which_of_its_numbers_are_over_fewer_attacks(checkpoint, results, tmp_path):
    trained = read_checkpoint(checkpoint)
    said = "At 0.00131 and 0.00261 only those attacks were run that every image gets."
    assert said in model_card(trained, evidence_for(trained, results))

    def all_complete(content):
        for row in content["models"]:
            row["curve"] = [point | {"complete": True} for point in row["curve"]]

    complete = with_results(results, tmp_path / "complete", all_complete)
    assert "only those attacks" not in model_card(trained, evidence_for(trained, complete))


def test_a_card_has_a_dash_for_what_a_check_found_that_is_no_finite_number(checkpoint, results, tmp_path):
    def change(content):
        for row in content["models"]:
            row["diagnostics"][0]["measured"] = float("nan")
            row["input_gradient_l1"] = float("inf")

    evidence = evidence_for(read_checkpoint(checkpoint), with_results(results, tmp_path / "changed", change))
    check = evidence["models"][0]["diagnostics"][0]
    line = f"| {check['title']} | {'**yes**' if check['fired'] else 'no'} | – | {check['limit']:.3g} |"
    assert line in model_card(read_checkpoint(checkpoint), evidence).splitlines()
    assert "NaN" not in (text := json.dumps(evidence))
    assert "Infinity" not in text


def test_a_card_promises_feature_maps_only_where_timm_has_them(checkpoint):
    assert "feature maps, of a network that has them in timm" in model_card(read_checkpoint(checkpoint))


def test_a_training_that_has_diverged_is_said_to_be_no_release(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "diverged.ckpt", seed=0)
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["model.backbone.fc.bias"][0] = float("nan")
    torch.save(content, checkpoint)
    with pytest.raises(InputError, match="infinite or NaN: its training has diverged"):
        export(checkpoint, tmp_path / "release")
    assert not (tmp_path / "release").exists()


def test_an_evaluation_of_other_weights_or_of_unknown_ones_is_refused(checkpoint, results, tmp_path):
    third = write_checkpoint(tmp_path / "third.ckpt", seed=2)
    with pytest.raises(InputError, match=r"is of other weights\. Evaluate this checkpoint"):
        export(third, tmp_path / "release", results=results)
    older = with_results(results, tmp_path / "older", lambda r: [row.pop("fingerprint") for row in r["models"]])
    with pytest.raises(InputError, match="does not say which weights it is of"):
        export(checkpoint, tmp_path / "release", results=older)
    with pytest.raises(InputError, match="There is no"):
        export(checkpoint, tmp_path / "release", results=tmp_path)
    assert not (tmp_path / "release").exists()


def convincing(results) -> None:
    """As if everything had been tried and nothing was found."""
    for row in results["models"]:
        row["robust_accuracy"], row["flags"] = 0.5, []
        row["attacks"].append(row["attacks"][0] | {"attack": "square"})


DOUBTS = {
    "flagged": (
        lambda r: r["models"][1].update(flags=["zero_gradients"]),
        "checks of its evaluation fired (zero gradients)",
    ),
    "older": (lambda r: r.update(suite_version=1), "an older and weaker set of attacks and checks"),
    "quick": (lambda r: r["models"][1]["attacks"].pop(), "the search without a gradient of --attacks standard"),
    "guessing": (lambda r: r["models"][1].update(robust_accuracy=0.1), "no better than guessing"),
}


@pytest.mark.parametrize("doubt", [None, *DOUBTS])
def test_a_card_calls_robust_only_what_was_evaluated_without_a_doubt(checkpoint, results, tmp_path, doubt):
    def change(content):
        convincing(content)
        if doubt:
            DOUBTS[doubt][0](content)

    evidence = evidence_for(read_checkpoint(checkpoint), with_results(results, tmp_path / "results", change))
    card = model_card(read_checkpoint(checkpoint), evidence)
    called_robust = (
        "**Robust on 50.0 % of 40 images at L-inf 1/255, under the worst of 4 attacks; no check fired.**" in card
    )
    front = yaml.safe_load(card.split("---")[1])
    assert called_robust == ("adversarial-robustness" in front["tags"]) == (doubt is None)
    reason = why_not_robust(evidence)
    if doubt is not None:
        assert DOUBTS[doubt][1] in reason
        assert f"**Not to be called robust: {reason}.**" in card


PROOFS = {
    "proven": (
        0.45,
        [],
        "**Proven robust on 45.0 % of 40 images at L-inf 1/255; not to be called robust beyond that: ",
    ),
    "proven of no more than a guess": (0.1, [], "**Not to be called robust: "),
    "refuted": (0.45, ["attacks_break_what_is_proven"], "**Not to be called robust: "),
}


@pytest.mark.parametrize("kind", PROOFS)
def test_a_card_calls_robust_what_is_proven_though_checks_doubt_the_attacks(checkpoint, results, tmp_path, kind):
    proven, flags, expected = PROOFS[kind]

    def change(content):
        convincing(content)
        content["models"][1].update(certified_accuracy=proven, flags=["zero_gradients", *flags])

    evidence = evidence_for(read_checkpoint(checkpoint), with_results(results, tmp_path / "results", change))
    card = model_card(read_checkpoint(checkpoint), evidence)
    assert f"{expected}checks of its evaluation fired" in card
    assert ("adversarial-robustness" in yaml.safe_load(card.split("---")[1])["tags"]) is (kind == "proven")


def test_without_an_evaluation_the_card_claims_nothing(checkpoint):
    trained = read_checkpoint(checkpoint)
    card = model_card(trained)
    assert why_not_robust(None) == "it has not been evaluated"
    assert "**Not to be called robust: it has not been evaluated.**" in card
    assert yaml.safe_load(card.split("---")[1])["tags"] == ["image-classification", "timm", "soft-quantization"]
    assert "model-index" not in card


def test_every_number_about_robustness_on_the_card_is_from_results_json(checkpoint, results, tmp_path):
    folder = tmp_path / "release"
    export(checkpoint, folder, results=results, check=verify)
    card = (folder / "README.md").read_text()
    evidence = json.loads((folder / "results.json").read_text())
    assert card == model_card(module.without_private_parts(read_checkpoint(checkpoint)), evidence)
    (row,) = evidence["models"]
    section = card.split("## Robustness")[1].split("## Limits")[0]
    allowed = {percent(row["clean_accuracy"]), str(row["num_images"]), "255"}
    for point in row["curve"]:
        allowed |= {percent(point["worst_case"]), percent(point["certified"]), f"{point['epsilon']:.3g}"}
    for attack in row["attacks"]:
        allowed |= {str(attack["attacked"]), str(attack["broken"]), percent(attack["accuracy_after"])}
    for check in row["diagnostics"]:
        allowed |= {f"{check['measured']:.3g}", f"{check['limit']:.3g}", *re.findall(r"[\d.]+", check["title"])}
    numbers = set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?", section)) - {"1"}
    assert numbers <= allowed
    assert len(numbers) > 5
    front = yaml.safe_load(card.split("---")[1])
    values = [metric["value"] for metric in front["model-index"][0]["results"][0]["metrics"]]
    assert values == [round(100 * row["clean_accuracy"], 2), round(100 * row["robust_accuracy"], 2)]


def test_the_card_is_read_by_the_hubs_own_library_with_its_results(checkpoint, results):
    hub = pytest.importorskip("huggingface_hub")
    evidence = evidence_for(read_checkpoint(checkpoint), results)
    card = hub.ModelCard(model_card(read_checkpoint(checkpoint), evidence))
    clean, robust = card.data.eval_results
    assert clean.metric_type == robust.metric_type == "accuracy"
    assert clean.dataset_name == "few/val, 40 images"
    assert "worst case over 3 attacks at L-inf 1/255" in robust.metric_name


def test_an_architecture_that_cannot_be_exported_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("data-dependent\ncontrol flow")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(InputError, match=r"test_resnet cannot be written for ONNX \(RuntimeError\)"):
        export(checkpoint, tmp_path / "release", onnx=True)
    assert list(tmp_path.iterdir()) == []


def test_a_release_that_is_there_is_refused_before_anything_is_computed(checkpoint, tmp_path, monkeypatch):
    export(checkpoint, tmp_path / "release", check=verify)
    monkeypatch.setattr(module, "read_checkpoint", lambda path: pytest.fail("it was read"))
    with pytest.raises(InputError, match="--overwrite"):
        export(checkpoint, tmp_path / "release")


def test_anybody_may_read_the_files_of_a_release(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "release", check=verify)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "release").iterdir()}
    (tmp_path / "plain").write_text("")
    assert modes == {(tmp_path / "plain").stat().st_mode & 0o777}
    shutil.rmtree(tmp_path / "release")


def test_logits_are_of_pixels_divided_by_255(checkpoint):
    model = read_checkpoint(checkpoint).build()
    images = golden_images(CONFIG)
    assert torch.equal(logits_of(model, images), model(images.float() / 255).detach())
