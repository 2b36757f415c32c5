"""The benchmark of loaders runs with DALI and without, on the CPU and where there is a GPU."""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import files, version
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file

from lightning_sq.data.index import load_index
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities of TorchVision")
SYNSETS = ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475")
NO_DALI = "nvidia.dali is not installed"


@pytest.fixture
def everything(few_digits, tmp_path, monkeypatch):
    """Options of every section, on 20 images."""
    monkeypatch.setenv("LIGHTNING_SQ_CACHE", str(tmp_path / "cache"))  # the script sets its own
    for label, synset in enumerate(SYNSETS):
        shutil.copytree(few_digits / "val" / str(label), tmp_path / "images" / synset)
    weights = {name: value.half() for name, value in timm.create_model("resnet18").state_dict().items()}
    save_file(weights, tmp_path / "weights.safetensors")
    words = ["--data", str(tmp_path / "images"), "--weights", str(tmp_path / "weights.safetensors"), "--threads", "1"]
    words += ["--batch-size", "8", "--num-images", "24", "--rounds", "1", "--epochs", "3", "--start-files", "1200"]
    words += ["--train", "--training-batch-size", "8", "--training-batches", "8", "--architecture", "test_resnet"]
    return [*words, "--short-side", "24"]


def test_all_loaders_are_timed_on_the_same_files_and_memory_start_and_accuracy_are_looked_at(
    benchmark, tmp_path, everything
):
    benchmark("data", *everything).main()
    (file,) = tmp_path.glob("data-*.json")
    content = json.loads(file.read_text())
    rows = {row["question"]: row for row in content["rows"]}
    assert sum(row["unit"] == "images/s" for row in rows.values()) == 13
    assert rows["DALI CPU against torchvision's DataLoader, original files"]["to_reach"] == ">= 1.5"
    assert rows["validation pixels, DALI against torchvision"]["measured"] <= 2
    assert set(rows["start to first batch with 1,200 files, from their index"]["detail"]) == {
        "index",
        "first batch",
        "of a processor",
    }
    growth = rows["growth of the resident memory from epochs 2 to 2 to 3 to 3, DALI"]
    assert len(growth["detail"]["megabytes"]) == 3
    end_to_end = rows["test_resnet trained from files against one batch in memory, batch 8"]
    assert end_to_end["measured"] > 0
    assert ("reason" in end_to_end["detail"]) == (end_to_end["measured"] < 0.95)
    assert len(content["skipped"]) == 1


def test_without_dali_its_rows_are_skipped_by_name_and_all_others_are_measured(
    benchmark, tmp_path, everything, monkeypatch
):
    for module in ("nvidia.dali", "lightning_sq.data.dali"):
        monkeypatch.setitem(sys.modules, module, None)
    benchmark("data", *everything).main()
    (file,) = tmp_path.glob("data-*.json")
    content = json.loads(file.read_text())
    rows = {row["question"]: row for row in content["rows"]}
    assert sum(row["unit"] == "images/s" for row in rows.values()) == 7
    assert "top-1 of ResNet-18, 20 images, torchvision, original files" in rows
    assert content["skipped"] == [
        *(f"{section}: {NO_DALI}" for section in ("decoder", "training", "memory")),
        *(f"images/s of {name}: {NO_DALI}" for name in ("DALI CPU", "DALI CPU, shards", "DALI CPU, decoding alone")),
        *(f"top-1 of ResNet-18, {name}: {NO_DALI}" for name in ("DALI, original files", "DALI, shards")),
        f"start: {NO_DALI}",
    ]


def test_what_is_of_a_gpu_is_measured_first_and_kept_in_a_file_of_its_own(benchmark, tmp_path, few_digits, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    words = ["--data", str(few_digits / "val"), "--sections", "speed", "training", "memory", "decoder"]
    module = benchmark("data", *words)
    row, kept = importlib.import_module("common.harness").Row, []

    def measures(section):
        def measure(record, options, images):
            if section == "training":
                raise RuntimeError("out of memory")
            record.add(row(section, 1.0, "s"))
            kept.append(sorted(file.name for file in tmp_path.glob("data*.json")))

        return measure

    for section in module.SECTIONS:
        monkeypatch.setitem(module.SECTIONS, section, measures(section))
    module.main()
    (cpu, gpu), *before = reversed(kept)
    assert gpu.startswith("data_speed_training_memory_decoder-gpu-torch")
    assert before == [[gpu], [gpu]]
    contents = [json.loads((tmp_path / name).read_text()) for name in (gpu, cpu)]
    assert [[row["question"] for row in content["rows"]] for content in contents] == [["decoder", "memory"], ["speed"]]
    assert [content["skipped"] for content in contents] == [["training: RuntimeError: out of memory"], []]
    assert contents[0]["settings"]["training_batch_size"] == 256
    versions = [any(name.startswith("nvidia-nvimgcodec") for name in content["settings"]) for content in contents]
    assert versions == [True, False]


@pytest.mark.parametrize(("fastest", "warned"), [(104.0, True), (120.0, False)])
def test_each_share_of_the_hardware_engine_has_the_gpu_to_itself(benchmark, few_digits, monkeypatch, fastest, warned):
    module = importlib.import_module("data_parts.decoder")
    made = []

    class Loader:
        def __init__(self, share):
            assert not made
            made.append(share)
            self.share = share

        def __del__(self):
            made.clear()

        def set_epoch(self, epoch):
            self.epoch = epoch

    def rate(loader, step, device):
        return (fastest if loader.share == 0.8 else 100.0) + 1000 * (loader.epoch == 0)

    monkeypatch.setattr(module, "make_loader", lambda *_, hw_decoder_load, **__: Loader(hw_decoder_load))
    monkeypatch.setattr(module, "rate", rate)
    monkeypatch.setattr(module, "nvjpeg_in_use", lambda record: {"warning": "old"})
    record = importlib.import_module("common.budget").Record("tiny", 1, {})
    options = argparse.Namespace(tune=True, hw_decoder_load=0.65, training_batch_size=4, threads=1, rounds=3)
    assert module.decoder_rows(record, options, load_index(few_digits / "train")) == 0.8
    rows = {row.question: row for row in record.rows}
    for transform in ("training", "validation"):
        assert rows[f"{transform}, DALI GPU, batch 4, --data.hw_decoder_load 0.8"].measured == fastest
        best = rows[f"{transform}, DALI GPU: best --data.hw_decoder_load"]
        assert best.measured == 0.8
        assert ("warning" in best.detail) == warned
    assert len(rows) == 2 * (len(module.SHARES) + 1)


MAPS = """\
7f00-7f01 r--p 00000000 08:01 11 /env/torchvision.libs/libnvjpeg.4a0b5c81.so.13
7f01-7f02 r-xp 00001000 08:01 12                 /env/nvidia/libnvjpeg2k.so.0
7f02-7f03 rw-p 00000000 00:00 0
7f03-7f04 r-xp 00001000 08:01 13                 {library}
"""


def installed_nvjpeg():
    """The file of its package, which a machine with a GPU has beside DALI."""
    return next(Path(str(file.locate())) for file in files("nvidia-nvjpeg") if file.match("libnvjpeg.so.*"))


@pytest.mark.parametrize("library", ["/my env/nvidia/libnvjpeg.so.13", "/env/libnvjpeg.so", "/env/libnvjpeg.so.13.0.2"])
def test_the_nvjpeg_that_dali_has_loaded_is_found_and_torchvisions_copy_is_not_it(benchmark, library):
    nvjpeg = benchmark("data_parts.nvjpeg")
    assert nvjpeg.loaded_nvjpeg(MAPS.format(library=library)) == Path(library)
    assert nvjpeg.loaded_nvjpeg(MAPS.format(library="")) is None


@pytest.mark.parametrize(
    ("told", "warned"), [((13, 2, 0), None), ((13, 1, 9), "nvJPEG 13.1.9 is older than 13.2"), (None, "no libnvjpeg")]
)
def test_an_nvjpeg_that_leaves_crops_to_the_cpu_is_named_where_the_mixed_decoder_is_measured(
    benchmark, tmp_path, monkeypatch, told, warned
):
    nvjpeg = benchmark("data_parts.nvjpeg")
    (tmp_path / "maps").write_text(MAPS.format(library="/env/libnvjpeg.so.13" if told else ""))
    monkeypatch.setattr(nvjpeg, "MAPS", tmp_path / "maps")
    monkeypatch.setattr(nvjpeg, "version_of", lambda library: told)
    record = importlib.import_module("common.budget").Record("tiny", 1, {})
    found = nvjpeg.nvjpeg_in_use(record)
    assert found.get("warning", "").startswith(warned or "")
    assert bool(found) == bool(warned)
    assert record.settings[nvjpeg.SETTING] == (".".join(map(str, told)) if told else "none")


def test_a_library_that_does_not_tell_its_version_costs_no_row(benchmark, tmp_path, monkeypatch):
    nvjpeg = benchmark("data_parts.nvjpeg")
    (tmp_path / "maps").write_text(MAPS.format(library=tmp_path / "libnvjpeg.so.13"))
    monkeypatch.setattr(nvjpeg, "MAPS", tmp_path / "maps")
    record = importlib.import_module("common.budget").Record("tiny", 1, {})
    assert "libnvjpeg.so.13" in nvjpeg.nvjpeg_in_use(record)["warning"]
    assert record.settings[nvjpeg.SETTING] == "unknown"


def test_an_nvjpeg_says_its_version_itself(benchmark):
    library = installed_nvjpeg()
    major, minor, patch = benchmark("data_parts.nvjpeg").version_of(library)
    assert library.name == f"libnvjpeg.so.{major}"
    assert version("nvidia-nvjpeg").startswith(f"{major}.{minor}.{patch}")


@pytest.mark.parametrize(("cores", "gpu", "threads"), [(16, True, 14), (16, False, 16), (2, True, 1)])
def test_two_cores_are_left_to_what_starts_a_gpus_kernels(benchmark, few_digits, monkeypatch, cores, gpu, threads):
    harness = benchmark("common.harness")
    monkeypatch.setattr(harness, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert benchmark("data", "--data", str(few_digits)).parse().threads == threads


@pytest.mark.parametrize(
    ("share", "reason"),
    [
        (None, "28 threads would feed it, or shards of smaller images"),
        (0.65, "another share than --data.hw_decoder_load 0.65 may, which python benchmarks/data.py --tune looks for"),
    ],
)
def test_a_loader_that_is_too_slow_on_a_gpu_is_told_of_the_hardware_engines_share(benchmark, share, reason):
    training = importlib.import_module("data_parts.training")
    rates = {"memory": 4000.0, "files": 1900.0, "loader": 2000.0}
    _, detail = training.held_against_memory(rates, 14, share)
    assert reason in detail["reason"]
    assert "28 threads" in detail["reason"]
    assert detail.get("--data.hw_decoder_load") == share


def test_a_share_that_there_is_no_time_for_is_skipped_by_name(benchmark, few_digits, monkeypatch):
    module, now = importlib.import_module("data_parts.decoder"), [0.0]

    def decoder_rate(index, options, share, *, train):
        now[0] += 25.0
        return 100.0 - share

    monkeypatch.setattr(module, "decoder_rate", decoder_rate)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    record = importlib.import_module("common.budget").Record("tiny", 1, {}, clock=lambda: now[0])
    options = argparse.Namespace(tune=True, hw_decoder_load=0.65, training_batch_size=4, threads=1, rounds=3)
    assert module.decoder_rows(record, options, load_index(few_digits / "train")) == 0.0
    assert [row.unit for row in record.rows] == ["images/s", "images/s", "of the images"]
    assert len(record.skipped) == 2 * len(module.SHARES) - 2
    late = "training, DALI GPU, batch 4, --data.hw_decoder_load 0.5: it would take about 25 s and 10 s are left"
    assert record.skipped[0].startswith(late)


def test_without_time_every_section_is_skipped_by_name_and_what_hangs_is_ended(
    benchmark, tmp_path, everything, monkeypatch
):
    seconds = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda after, **how: seconds.append((after, how["exit"])))
    module = benchmark("data", *everything, "--minutes", "0")
    module.main()
    (file,) = tmp_path.glob("data-*.json")
    content = json.loads(file.read_text())
    assert not content["rows"]
    late = "it would take about 20 s and 0 s are left; give more --minutes"
    sections = ("training", "memory", "speed", "accuracy", "start")
    assert content["skipped"][1:] == [f"{section}: {late}" for section in sections]
    assert seconds == [(60.0, True)]


HANGS = """
import time
from common.budget import watchdog
with watchdog(-0.99):  # 0.6 s, with the minute of grace
    time.sleep(60)
"""


def test_a_benchmark_that_hangs_is_ended_and_says_where(benchmark):
    words = {"env": os.environ | {"PYTHONPATH": f"{REPOSITORY}/benchmarks:{REPOSITORY}"}, "timeout": 120}
    ended = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, **words)
    assert ended.returncode == 1
    assert "Timeout (0:00:00.6" in ended.stderr
    assert 'File "<string>", line 5 in <module>' in ended.stderr


def test_training_and_memory_take_the_share_that_the_decoders_section_found(benchmark, few_digits, monkeypatch):
    module = benchmark("data", "--data", str(few_digits / "train"), "--tune", "--num-images", "8", "--epochs", "3")
    training, taken = importlib.import_module("data_parts.training"), []

    def make_loader(*_, hw_decoder_load, **__):
        taken.append(hw_decoder_load)
        return [None]

    monkeypatch.setattr(module, "decoder_rows", lambda *_: 0.8)
    monkeypatch.setattr(module, "make_loader", make_loader)
    monkeypatch.setattr(module, "ours", lambda loader: lambda: None)
    monkeypatch.setattr(training, "make_loader", make_loader)
    monkeypatch.setattr(training, "end_to_end", lambda *_, **__: dict.fromkeys(("memory", "files", "loader"), 1.0))
    options = module.parse()
    options.architecture = "test_resnet"
    record, images = importlib.import_module("common.budget").Record("tiny", 1, {}), SimpleNamespace()
    images.files = images.of_training = load_index(few_digits / "train")
    for section in ("decoder", "training", "memory"):
        module.SECTIONS[section](record, options, images)
    assert taken == [0.8, 0.8]
    assert record.settings["hw_decoder_load"] == 0.8
