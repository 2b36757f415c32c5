"""Files from strangers: whatever is wrong with them, nothing in them runs, and one sentence says what it is."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lightning_sq
from lightning_sq.errors import InputError
from lightning_sq.models import ModelConfig, QuantizerConfig, build_model
from lightning_sq.models.checkpoint_format import TrainedModel, checkpoint_entry
from lightning_sq.models.release_format import write_release
from lightning_sq.paths import sha256
from lightning_sq.release_files import NEEDED, SUMS_FILE, parse_sums

CONFIG = ModelConfig("small_cnn", ("cat", "dog", "owl"), (0.0,), (1.0,), 28, 28, QuantizerConfig(4, 60.0))
IMAGES = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
NUM_FLIPS = 1000


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    torch.manual_seed(0)
    return TrainedModel(CONFIG, build_model(CONFIG).state_dict())


@pytest.fixture(scope="module")
def expected(trained) -> torch.Tensor:
    return trained.build()(IMAGES)


@pytest.fixture
def release(trained, tmp_path) -> Path:
    write_release(tmp_path / "release", trained, "# card\n")
    return tmp_path / "release"


@pytest.fixture
def checkpoint(trained, tmp_path) -> Path:
    state = {f"model.{key}": value for key, value in trained.state.items()}
    content = {"state_dict": state, "lightning_sq": checkpoint_entry(CONFIG, {}), "epoch": 1, "global_step": 2}
    torch.save(content, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def sign_again(folder: Path) -> None:
    """As whoever made the file would: the checksums are right."""
    (folder / SUMS_FILE).write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in NEEDED))


def the_sentence(source: Path) -> str:
    with pytest.raises(InputError) as caught:
        lightning_sq.load(source)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def caught_flips(path: Path, source: Path, expected: torch.Tensor, places: Sequence[int] | None = None) -> int:
    """Of the files with one other bit (`NUM_FLIPS` at random) so many are refused; the rest give the same logits."""
    whole, caught = path.read_bytes(), 0
    if places is None:
        generator = torch.Generator().manual_seed(1)
        places = torch.randint(0, len(whole) * 8, (NUM_FLIPS,), generator=generator).tolist()
    for place in places:
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            assert torch.equal(lightning_sq.load(source)(IMAGES), expected), place
        except InputError:
            caught += 1
    path.write_bytes(whole)
    assert torch.equal(lightning_sq.load(source)(IMAGES), expected)
    return caught


def test_checksums_beside_a_checkpoint_do_not_make_it_a_part_of_a_release(checkpoint, expected):
    (checkpoint.parent / SUMS_FILE).write_text(f"{sha256(checkpoint)}  {checkpoint.name}\n")
    assert torch.equal(lightning_sq.load(checkpoint)(IMAGES), expected)


def test_of_a_thousand_flipped_bits_of_a_checkpoint_each_is_caught_or_changes_nothing(checkpoint, expected):
    assert caught_flips(checkpoint, checkpoint, expected) > 0.95 * NUM_FLIPS


def test_no_bit_of_a_checkpoints_list_of_entries_makes_torch_read_something_else(checkpoint, expected):
    content = checkpoint.read_bytes()
    start = content.index(b"PK\x01\x02")  # one of its bits marks an entry as a folder, which torch does not read at all
    first = content.index(b"PK\x01\x02", start + 1)
    assert caught_flips(checkpoint, checkpoint, expected, range(8 * start, 8 * first)) > 100
    marks = [place for place in entry_starts(content) if content[place + 38 : place + 42] == b"\0" * 4]
    assert len(marks) > 5
    flips = [8 * (place + 38) + 4 for place in marks]
    assert caught_flips(checkpoint, checkpoint, expected, flips) == len(marks)


def entry_starts(content: bytes) -> list[int]:
    return [match.start() for match in re.finditer(re.escape(b"PK\x01\x02"), content)]


@pytest.mark.parametrize("name", NEEDED)
def test_of_a_thousand_flipped_bits_of_a_release_all_are_caught(release, expected, name):
    assert caught_flips(release / name, release, expected) == NUM_FLIPS


def test_of_a_thousand_flipped_bits_of_the_checksums_each_is_caught_or_changes_nothing(release, expected):
    lines = len((release / SUMS_FILE).read_text().splitlines())
    caught = caught_flips(release / SUMS_FILE, release, expected)
    assert 0.5 * NUM_FLIPS < caught < NUM_FLIPS  # the card's line is not looked at
    assert lines == 3


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(checkpoint, release, part):
    for path, source in ((checkpoint, checkpoint), (release / "model.safetensors", release)):
        content = path.read_bytes()
        path.write_bytes(content[: int(part * len(content))])
        assert path.name in the_sentence(source)


def test_a_renamed_file_is_refused(checkpoint, release, tmp_path):
    assert "one file of a release. Give the folder" in the_sentence(release / "model.safetensors")
    (release / "model.safetensors").rename(tmp_path / "w.ckpt")
    assert "model.safetensors is missing" in the_sentence(release)
    assert "w.ckpt is truncated, altered, or no checkpoint" in the_sentence(tmp_path / "w.ckpt")
    checkpoint.rename(release / "model.safetensors")
    assert "is not the file that SHA256SUMS names" in the_sentence(release)
    sign_again(release)
    assert "model.safetensors is not what a release has there" in the_sentence(release)


def test_a_link_out_of_the_release_is_refused_and_one_inside_is_not(release, tmp_path, expected):
    weights = release / "model.safetensors"
    weights.rename(tmp_path / "elsewhere.safetensors")
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    assert "a link that leads out of the release" in the_sentence(release)
    weights.unlink()
    (tmp_path / "elsewhere.safetensors").rename(release / "w")
    weights.symlink_to("w")
    assert torch.equal(lightning_sq.load(release)(IMAGES), expected)
    (tmp_path / "latest").symlink_to(release)  # the folder itself is the user's to name
    assert torch.equal(lightning_sq.load(tmp_path / "latest")(IMAGES), expected)
    weights.unlink()
    weights.symlink_to("nothing")
    assert "model.safetensors is no file" in the_sentence(release)


def test_a_list_of_checksums_behind_a_link_and_a_pipe_for_weights_are_refused(release, tmp_path):
    (release / "model.safetensors").unlink()
    os.mkfifo(release / "model.safetensors")  # reading it would wait for ever
    assert "model.safetensors is no file" in the_sentence(release)
    (release / SUMS_FILE).rename(tmp_path / "sums")
    (release / SUMS_FILE).symlink_to(tmp_path / "sums")
    assert "leads out of the release" in the_sentence(release)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b", "..", "..\\w"])
def test_a_name_that_climbs_out_is_refused(release, name):
    with (release / SUMS_FILE).open("a") as stream:
        stream.write(f"{'0' * 64}  {name}\n")
    assert "which is a path and no file of a release" in the_sentence(release)


TENSORS = {
    "missing": (lambda s: s.pop("backbone.head.bias"), r"1 difference, .* 'backbone\.head\.bias', which is missing"),
    "extra": (lambda s: s.update(more=torch.zeros(1)), r"1 difference, the first in 'more', which the model has not"),
    "shape": (
        lambda s: s.update({"backbone.head.bias": torch.zeros(4)}),
        r"'backbone\.head\.bias', which has the shape \(4,\) and not \(3,\)",
    ),
    "dtype": (
        lambda s: s.update({"backbone.head.bias": torch.zeros(3, dtype=torch.float16)}),
        r"'backbone\.head\.bias', which is of float16 and not of float32",
    ),
}


@pytest.mark.parametrize("what", TENSORS)
def test_tensors_that_do_not_fit_are_named(release, checkpoint, what):
    spoil, sentence = TENSORS[what]
    # copies: an older safetensors keeps the file mapped, which is written anew here
    state = {key: value.clone() for key, value in load_file(release / "model.safetensors").items()}
    spoil(state)
    save_file(state, release / "model.safetensors")
    sign_again(release)
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"] = {f"model.{key}": value for key, value in state.items()}
    torch.save(content, checkpoint)
    for source in (release, checkpoint):
        assert re.search(sentence, the_sentence(source))


def test_a_state_that_holds_no_tensors_is_refused(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["model.backbone.head.bias"] = [0.0, 0.0, 0.0]
    torch.save(content, checkpoint)
    assert "no tensor" in the_sentence(checkpoint)


def test_a_sharpness_that_no_number_holds_is_refused(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    content["lightning_sq"]["model"]["quantizer"]["learnable_sharpness"] = True
    content["state_dict"]["model.quantize.log_sharpness"] = torch.tensor(1000.0)
    torch.save(content, checkpoint)
    assert "has learnt a sharpness that is larger than any number" in the_sentence(checkpoint)


DESCRIPTIONS = {
    "no json": (lambda d: "{", "config.json is not what a release has there"),
    "deep": (lambda d: "[" * 100_000, "config.json is not what a release has there"),
    "a list": (lambda d: "[]", "config.json is not what a release has there"),
    "no format": (lambda d: d.pop("format_version"), "config.json is not what a release has there"),
    "a later format": (lambda d: d.update(format_version=2), "has format 2, this version reads 1"),
    "no model": (lambda d: d.update(model=None), "description cannot be read"),
    "an architecture of the Hub": (lambda d: d["model"].update(architecture="hf-hub:a/b"), "no model named"),
    "a local architecture": (lambda d: d["model"].update(architecture="local-dir:/etc"), "no model named"),
    "levels": (lambda d: d["model"]["quantizer"].update(num_levels=1e30), "num_levels"),
    "levels in words": (lambda d: d["model"]["quantizer"].update(num_levels="two"), "num_levels"),
    "an endless image": (lambda d: d["model"].update(image_size=float("inf")), "description cannot be read"),
    "a staircase": (lambda d: d["model"]["quantizer"].update(staircase=[]), r"staircase=\[\] is not one of"),
    "thresholds": (lambda d: d["model"]["quantizer"].update(thresholds={}), r"thresholds=\{\} is neither a list"),
    "no channel": (lambda d: d["model"].update(mean=[], std=[]), "weights do not fit|as its description says"),
    "unlike channels": (lambda d: d["model"].update(std=[1.0, 1.0]), "are not one number a channel each"),
    "no class": (lambda d: d["model"].update(class_names=[]), "weights do not fit|as its description says"),
}


@pytest.mark.parametrize("what", DESCRIPTIONS)
def test_a_description_that_cannot_be_is_refused(release, what):
    spoil, sentence = DESCRIPTIONS[what]
    path = release / "config.json"
    values = json.loads(path.read_text())
    spoilt = spoil(values)
    path.write_text(spoilt if isinstance(spoilt, str) and spoilt[0] in "{[" else json.dumps(values))
    sign_again(release)
    assert re.search(sentence, the_sentence(release))


def test_lines_of_checksums_are_those_of_sha256sum():
    text = f"{'a' * 64}  one\n{'B' * 64} *two words\r\nno line\n{'c' * 63}  short\n"
    assert parse_sums(text, source="s") == {"one": "a" * 64, "two words": "b" * 64}


def test_the_fingerprint_is_of_weights_and_description(trained, release, checkpoint):
    from lightning_sq.release import read_trained

    same = trained.fingerprint()
    assert read_trained(release).fingerprint() == read_trained(checkpoint).fingerprint() == same
    others = [
        TrainedModel(CONFIG, trained.state | {"backbone.head.bias": torch.ones(3)}),
        TrainedModel(ModelConfig(**CONFIG.__dict__ | {"quantizer": QuantizerConfig(4, 61.0)}), trained.state),
    ]
    assert len({same, *(other.fingerprint() for other in others)}) == 3
