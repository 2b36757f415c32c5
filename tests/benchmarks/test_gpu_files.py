"""The GPU benchmark's rows from files: by which decoder, of which images, and what they are held to."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.benchmarks.tiny_gpu import gpu_smoke, gpu_training


@pytest.mark.parametrize("dali", [True, False])
def test_a_gpu_trains_from_files_by_dali_or_says_that_it_is_missing(benchmark, few_digits, monkeypatch, dali):
    if not dali:
        monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    record, options, network = gpu_training(data=few_digits / "train", batches=8, threads=1 if dali else 2)
    importlib.import_module("gpu_parts.files").file_rows(record, options, network, batch_size=4)
    called = "DALI on the CPU" if dali else "torchvision (PIL) in processes"
    questions = [row.question for row in record.rows if row.unit == "images/s"]
    end = "test_resnet, batch 4 at 32 px"
    kind = "JPEGs of 1,024 pixels, not ImageNet's 180,000"
    assert questions == [
        *(f"{name}, eager, from {kind} by {called}, {end}" for name in ("natural", "method")),
        f"the loader alone, {kind} by {called}, {options.threads} threads",
    ]
    pixels = [row for row in record.rows if row.question == "validation pixels, DALI against PIL"]
    assert len(pixels) == dali
    assert all(row.reached is None for row in record.rows if row not in pixels)
    missing = "natural and method from JPEGs with DALI: nvidia.dali is not installed; torchvision decodes instead"
    assert record.skipped == ([] if dali else [missing])


def test_a_plan_by_files_says_by_what_they_were_decoded(benchmark, tmp_path, few_digits):
    rows, skipped = gpu_smoke(benchmark, tmp_path, "--sections", "files", "--data", str(few_digits / "train"))
    source = "eager, from JPEGs of 1,024 pixels, not ImageNet's 180,000 by DALI on the CPU"
    assert f"method, {source}, predicted: 15 epochs of ImageNet on 1 GPU" in rows
    assert rows["validation pixels, DALI against PIL"]["measured"] <= 2
    assert not any("pixels" in reason for reason in skipped)


def test_only_files_of_imagenets_size_say_something_about_imagenet(benchmark):
    files, plan = importlib.import_module("gpu_parts.files"), importlib.import_module("gpu_parts.plan")
    kinds = {}
    for height, width in ((375, 500), (224, 224)):
        sizes = np.array([[height, width]], np.int32)
        kinds[height] = files.kind_of(SimpleNamespace(sizes=sizes))
        assert files.mean_pixels(SimpleNamespace(sizes=sizes)) == height * width
    assert kinds == {375: "JPEGs", 224: "JPEGs of 50,176 pixels, not ImageNet's 180,000"}
    rows = plan.plan_rows(plan.Plan(256, 25_557_032), {"method": 9000.0}, f"from {kinds[224]}")
    assert all("not ImageNet's" in row.question and row.reached is None for row in rows)


@pytest.mark.parametrize(
    ("wrong", "off"), [([], 0), ([5, 6, 7], 40), ([6], 20)], ids=["the same", "another colour", "one wrong image"]
)
def test_the_images_that_dali_decodes_are_held_against_pils_and_the_worst_is_named(
    benchmark, few_digits, monkeypatch, wrong, off
):
    pixels = importlib.import_module("data_parts.pixels")
    read_all = pixels.read_all

    def spoilt(loader):
        images, labels = read_all(loader)
        images[wrong] += off * (type(loader).__name__ == "DaliLoader") / 255
        images[6] += (type(loader).__name__ == "DaliLoader") / 255
        return images, labels

    monkeypatch.setattr(pixels, "read_all", spoilt)
    files = importlib.import_module("gpu_parts.files")
    monkeypatch.setattr(files, "MOST_COMPARED", 20)
    monkeypatch.setattr(files, "MOST_ODD", 0)
    record, options, network = gpu_training(threads=1)
    samples = files.load_index(few_digits / "train")
    files.compare_pixels(record, options, samples, network.device)
    (row,) = record.rows
    assert row.detail["images"] == 20
    assert row.detail["worst image"] == samples.paths[round(6 * 89 / 19)]
    assert row.detail["apart in it, of 255"] == pytest.approx(off + 1, abs=1)
    assert row.measured == pytest.approx((len(wrong) * off + 1) / 20, abs=0.5)
    assert row.reached == (not wrong)


def test_some_images_of_each_odd_kind_are_held_against_pils_before_those_of_all_classes(benchmark, few_digits):
    files = importlib.import_module("gpu_parts.files")
    samples = files.load_index(few_digits / "train")
    kinds = {"CMYK": samples.paths[40:80], "PNG named .jpg": (samples.paths[3], samples.paths[41])}
    found = files.compared(replace(samples, kinds=kinds)).tolist()
    assert found[:5] == [40, 3, 41, 42, 43]  # in turn, each once
    assert sorted(found[: files.MOST_ODD]) == [3, *range(40, 71)]
    assert sorted(found) == list(range(90))
    assert files.compared(replace(samples, kinds={})).tolist() == list(range(90))


def test_torchvisions_speed_is_no_verdict_on_a_training_that_dali_feeds(benchmark, few_digits, monkeypatch):
    module = importlib.import_module("gpu_parts.files")
    monkeypatch.setattr(module, "kind_of", lambda index: module.JPEGS)
    verdicts = {}
    for installed in (True, False):
        monkeypatch.setattr(module, "is_installed", lambda library, installed=installed: installed)
        record, options, network = gpu_training(data=few_digits / "train", batches=8, threads=1)
        files = module.file_rows(record, options, network, batch_size=4)
        shares = [row for row in record.rows if row.question.endswith("against one batch in memory")]
        verdicts[files.decoder] = {row.reached is None for row in shares}
    assert verdicts == {"DALI on the CPU": {False}, "torchvision (PIL) in processes": {True}}


@pytest.mark.parametrize(("judged", "network"), [(False, ("resnet50", 224)), (True, ("test_resnet", 32))])
def test_only_a_step_of_resnet_50_from_files_is_held_to_images_a_second(
    benchmark, few_digits, monkeypatch, judged, network
):
    module = importlib.import_module("gpu_parts.files")
    monkeypatch.setattr(module, "RESNET50", network)
    monkeypatch.setattr(module, "kind_of", lambda index: module.JPEGS)
    monkeypatch.setattr(module, "device_name", lambda: "NVIDIA H200")
    record, options, made = gpu_training(data=few_digits / "train", batches=8, threads=1)
    files = module.file_rows(record, options, made, batch_size=4)
    assert (files.judged, set(files.rates)) == (judged, {"natural", "method"})
    row = next(row for row in record.rows if row.question.startswith("method, eager, from JPEGs by DALI on the CPU, t"))
    assert isinstance(row.reached, bool) == judged
    assert row.to_reach.startswith(">= 4,000" if judged else "reported")


@pytest.mark.parametrize("given", [None, 0.2])
def test_a_gpus_rows_from_files_take_the_share_of_the_hardware_engine_that_is_given_or_fastest(
    benchmark, few_digits, monkeypatch, given
):
    module = importlib.import_module("gpu_parts.files")
    on_the_cpu, asked, tried = module.training_loader, [], []

    def training_loader(*arguments, hw_decoder_load, **how):
        asked.append(hw_decoder_load)
        return on_the_cpu(*arguments[:-1], torch.device("cpu"), hw_decoder_load=hw_decoder_load, **how)

    def rate(loader, step, device):
        tried.append(len(loader))
        return {0.4: 10.0, 0.65: 20.0, 0.9: 30.0}[asked[-1]]

    monkeypatch.setattr(module, "training_loader", training_loader)
    monkeypatch.setattr(module, "rate", rate)
    monkeypatch.setattr(module, "compare_pixels", lambda *_: None)
    monkeypatch.setattr(module, "nvjpeg_in_use", lambda record: {"warning": "old"})
    monkeypatch.setattr(module, "end_to_end", lambda *_, **__: dict.fromkeys(("memory", "files", "loader"), 1.0))
    record, options, network = gpu_training(data=few_digits / "train", batches=8, threads=1, hw_decoder_load=given)
    network.device = torch.device("cuda")
    module.file_rows(record, options, network, batch_size=4)
    assert asked == ([0.4, 0.65, 0.9, 0.9, 0.9] if given is None else [given, given])
    assert tried == [module.SHARE_BATCHES] * (3 if given is None else 0)
    took = given or 0.9
    shares = [row for row in record.rows if row.question == "--data.hw_decoder_load of the rows from files"]
    assert [row.measured for row in shares] == [took] * (given is None)
    assert all(row.detail["images/s by share"] == {0.4: 10.0, 0.65: 20.0, 0.9: 30.0} for row in shares)
    whole = [row for row in record.rows if row.question.endswith("against one batch in memory")]
    assert [row.detail["--data.hw_decoder_load"] for row in whole] == [took, took]
    assert [row.detail["warning"] for row in record.rows if row.question.startswith(("nat", "method"))] == ["old"] * 4
    assert not record.skipped
    words = importlib.import_module("gpu_parts.fit").words_for
    options.imagenette = few_digits
    assert words("imagenet.yaml", options, 32)[10:12] == ["--data.hw_decoder_load", str(took)]


def test_a_share_that_cannot_be_tried_takes_no_row_from_files_with_it(benchmark, few_digits, monkeypatch):
    module = importlib.import_module("gpu_parts.files")
    monkeypatch.setattr(module, "rate", lambda *_: [][0])
    monkeypatch.setattr(module, "training_loader", lambda *_, **__: None)
    record, options, _ = gpu_training(data=few_digits / "train", threads=1)
    samples = module.load_index(few_digits / "train")
    assert module.try_shares(record, options, samples, 4, gpu=True) == module.HW_DECODER_LOAD
    assert options.hw_decoder_load is None
    assert record.skipped == ["the hardware engine's share: IndexError: list index out of range"]


def test_only_an_h100_class_gpu_is_held_to_images_a_second(benchmark, monkeypatch):
    module = importlib.import_module("gpu_parts.files")
    for name, rate, reached in (
        ("NVIDIA H100 80GB HBM3", 4000, True),
        ("NVIDIA H200", 3999, False),
        ("T4", 5000, None),
    ):
        monkeypatch.setattr(module, "device_name", lambda name=name: name)
        assert module.goal(rate)[1] is reached
