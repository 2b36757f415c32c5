"""The GPU benchmark runs on a CPU: not how fast, but that it measures what it says and what it leaves out."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from lightning_sq.__main__ import main
from lightning_sq.data.dali import BATCHES_AHEAD, PREFETCH, DaliLoader
from lightning_sq.errors import InputError
from lightning_sq.training.cluster.scaling import Network, plan_row
from lightning_sq.types import Batch
from tests.conftest import REPOSITORY

FAR = {"hours": 1e6}
WAYS = ["natural", "method", "FGSM-RS", "free (one replay)", "PGD-7"]


def gpu_smoke(benchmark, folder, *options):
    """(question -> row, reasons) of `benchmarks/gpu.py --smoke`."""
    benchmark("gpu", "--smoke", *options).main()
    (file,) = folder.glob("gpu_smoke-*.json")
    content = json.loads(file.read_text())
    return {row["question"]: row for row in content["rows"]}, content["skipped"]


def test_a_gpus_objectives_are_timed_taken_apart_and_planned_with(benchmark, tmp_path):
    rows, skipped = gpu_smoke(benchmark, tmp_path, "--sections", "eager", "files", "sizes", "sweep")
    for name in WAYS:
        assert rows[f"{name}, eager, from memory, test_resnet, batch 4 at 32 px"]["measured"] > 0
        shares = {question: row["measured"] for question, row in rows.items() if f"{name}, eager: " in question}
        parts = [share for question, share in shares.items() if question.endswith("share of the step")]
        assert len(parts) == (6 if name in ("FGSM-RS", "PGD-7") else 5)
        assert f"{name}, eager: copy to channels_last's share of the step" in shares
        assert sum(parts) == pytest.approx(100)
        assert (f"{name}, eager: step against natural's" in rows) == (name != "natural")
        predicted = "of ImageNet in 48 h on 64 GPUs (100 GB/s inside a node, 12.5 between nodes, assumed)"
        assert any(q.startswith(name) and ", predicted: " in q and q.endswith(predicted) for q in rows)
    whole = "method, eager, from memory, predicted: 15 epochs of ImageNet on 1 GPU"
    assert rows[whole]["to_reach"].startswith("<= 2; the paper")
    assert rows[whole]["detail"] == {}  # a step from memory is no speed of `fit`
    assert f"{whole}, 128 to 176 to 224 px" in rows
    sweep = [f"sweep: method, eager, from memory, batch {size}" for size in (8, 4)]
    assert [q for q in rows if q.startswith("sweep")] == sweep
    assert all(row["reached"] is None for row in rows.values())
    not_copied = "the front end's section, which times a copy, was not run to its end"
    assert f"method, eager: front end's bandwidth against a plain copy's: {not_copied}" in skipped
    assert "natural and method from JPEGs: no --data FOLDER with <class>/*.JPEG was given" in skipped


@pytest.mark.parametrize(
    ("words", "told"),
    [((), True), (("--data", "elsewhere"), False), (("--sections", "command_line"), False)],
    ids=["not given", "given", "not needed"],
)
def test_files_that_were_not_given_as_data_are_said_to_judge_nothing_at_the_start(benchmark, capsys, words, told):
    benchmark("gpu", "--smoke", "--imagenette", "somewhere", *words).parse()
    assert ("no --data: the rows from files take --imagenette's" in capsys.readouterr().out) == told


def test_what_is_judged_is_measured_before_what_is_compiled_for_minutes(benchmark, monkeypatch):
    gpu, told = benchmark("gpu"), []
    files = gpu.FromFiles("JPEGs", "DALI, mixed decoder", judged=True, rates={"method": 4000.0})
    record, options, _ = gpu_training(sections=gpu.SECTIONS, largest_batch=8, smallest_batch=4)
    judged = []

    class Training:
        batch_size, network, rates = 4, SimpleNamespace(parameters=1), {False: {"natural": 1.0}, True: {"natural": 1.0}}

        def fit_batch(self):
            pass

        def all_objectives(self, *, compiled):
            judged.append([row.question for row in record.rows if row.reached is not None])
            told.append("compiled" if compiled else "eager")

        def against_a_copy(self, *, compiled):
            told.append("against a copy")

        def sizes(self, sizes, *, compiled):
            assert not compiled
            told.append("sizes")
            return {}

        def sweep(self, *sizes, compiled):
            told.append("sweep")

    monkeypatch.setattr(gpu, "file_rows", lambda *_: told.append("files") or files)
    monkeypatch.setattr(gpu, "front_end", lambda *_: told.append("front_end") or 1.0)
    gpu.train(record, options, Training())
    assert [name for name in told if name in gpu.TRAINING] == list(gpu.TRAINING)
    assert told.index("files") < told.index("front_end") < told.index("compiled")
    hours = "method, eager, from JPEGs by DALI, mixed decoder, predicted: 15 epochs of ImageNet on 1 GPU"
    assert judged == [[], [hours]]


def test_a_front_end_that_fails_takes_no_other_section_with_it(benchmark, tmp_path, monkeypatch):
    module = benchmark("gpu")

    def fails(*arguments):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(module, "front_end", fails)
    rows, skipped = gpu_smoke(benchmark, tmp_path, "--sections", "front_end", "eager")
    assert "the front end's bandwidth: RuntimeError: no compiler" in skipped
    assert rows["method, eager: front end's bandwidth, noise and all"]["measured"] > 0
    assert "method, eager: front end's share of the step" in rows


def test_memory_that_is_not_let_go_takes_no_section_with_it(benchmark, tmp_path, monkeypatch):
    module = benchmark("gpu")

    def fails():
        raise RuntimeError("an error of the driver")

    monkeypatch.setattr(module, "let_go", fails)
    _, skipped = gpu_smoke(benchmark, tmp_path, "--sections", "command_line")
    assert "letting go of the GPU's memory: RuntimeError: an error of the driver" in skipped
    assert "method by lightning-sq fit, test_resnet: --imagenette was not given" in skipped


@pytest.mark.parametrize(("dali", "threads"), [(True, 16), (False, 5)])
def test_fewer_processes_decode_where_shared_memory_is_small(benchmark, tmp_path, monkeypatch, dali, threads):
    module, asked = benchmark("gpu"), []
    if not dali:
        monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2 * 10**9))
    monkeypatch.setattr(module, "command_line_rows", lambda record, options, rate: asked.append(options.threads))
    sizes = ("--threads", "16", "--batch-size", "256", "--image-size", "224")
    _, skipped = gpu_smoke(benchmark, tmp_path, "--sections", "command_line", *sizes)
    assert asked == [threads]
    why = "2,000 MB of /dev/shm are free, and each takes 2 batches of 154 MB"
    assert (f"11 of 16 processes that decode: {why}" in skipped) == (not dali)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at it
def test_a_gpus_steps_are_compiled_each_into_whole_graphs(benchmark, monkeypatch):
    module = importlib.import_module("gpu_parts.network")
    all_ways = module.ways()
    monkeypatch.setattr(module, "ways", lambda: {name: all_ways[name] for name in ("natural", "FGSM-RS")})
    module.compile_many()
    record, options, network = gpu_training(backend="eager")
    importlib.import_module("gpu_parts.training").Training(record, options, network).all_objectives(compiled=True)
    rows = {row.question: row.measured for row in record.rows}
    assert rows["FGSM-RS, compiled: step against natural's"] > 0
    assert rows["natural, compiled, from memory, test_resnet, batch 4 at 32 px"] > 0
    assert not record.skipped
    made = {name: network.graph_of(name) for name in network.ways}
    assert made["natural"] != made["FGSM-RS"]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at it
@pytest.mark.parametrize(
    ("name", "graphs"),
    [
        ("natural", [True]),
        ("method", [True]),
        ("FGSM-RS", [False, True]),
        ("free (one replay)", [True]),  # one pass gives the gradients of weights and images
        ("PGD-7", [False, True]),  # its seven steps share a graph
    ],
)
def test_a_compiled_attack_computes_no_gradient_of_the_weights(benchmark, name, graphs):
    asked = []

    def backward(graph, inputs):
        asked.append([node.args[-1][1] for node in graph.graph.nodes if "convolution_backward" in str(node.target)])
        return make_boxed_func(graph.forward)

    def forward(graph, inputs):
        return make_boxed_func(graph.forward)

    importlib.import_module("gpu_parts.network").compile_many()
    _, _, network = gpu_training(backend=aot_autograd(fw_compiler=forward, bw_compiler=backward))
    network.trains(name, 2, 32, compiled=True)()
    assert sorted(map(any, filter(None, asked))) == graphs  # of each backward pass with convolutions
    assert all(weight.requires_grad and weight.grad is not None for weight in network.backbone.parameters())


def test_a_gpus_front_end_is_held_against_its_copy(benchmark, tmp_path):
    rows, _ = gpu_smoke(benchmark, tmp_path, "--sections", "front_end", "--backend", "eager")
    share = rows["front end's bandwidth, noise drawn by its generator, against a plain copy's"]
    copied = rows["a plain copy on the device, bytes read and written"]
    assert share["detail"]["copy bytes a second"] == pytest.approx(1e9 * copied["measured"])
    assert share["measured"] == pytest.approx(100 * share["detail"]["bytes a second"] / (1e9 * copied["measured"]))


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


def test_all_ways_are_timed_on_one_batch_that_is_let_go_before_another_is_made(benchmark):
    _, _, network = gpu_training()
    images, labels = network.batch(4, 32)
    assert network.batch(4, 32)[0] is images
    assert network.batch(4, 32)[1] is labels
    assert network.batch(2, 32)[0].shape == (2, 3, 32, 32)
    assert network.batch(4, 32)[0] is not images


def gpu_training(backend="aot_eager", **options):
    """(record, options, network) of a tiny GPU benchmark; after `benchmark`."""
    sizes = {"architecture": "test_resnet", "image_size": 32, "batch_size": 4, "rounds": 1, "backend": backend}
    options = {"hw_decoder_load": None} | options
    options = argparse.Namespace(**sizes, compile_seconds=5.0, copy_bandwidth=None, **options)
    record = importlib.import_module("common.budget").Record("tiny", 5, {})
    return record, options, importlib.import_module("gpu_parts.network").Network(options, torch.device("cpu"))


def test_a_gpu_benchmark_without_time_skips_everything_by_name(benchmark, tmp_path):
    rows, skipped = gpu_smoke(benchmark, tmp_path, "--minutes", "0", "--imagenette", "i", "--weights", "w")
    assert not rows
    told = "\n".join(skipped)
    assert "training (eager, files, front_end, sizes, compiled, sweep): it would take about" in told
    assert "imagenette at full length (natural, method, FGSM-RS): it would take about" in told


def test_a_gpu_that_has_no_memory_for_a_batch_halves_it_and_says_so(benchmark, monkeypatch):
    record, options, network = gpu_training()
    trains = network.trains

    def out_of_memory(name, batch_size, size, *, compiled):
        if batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return trains(name, batch_size, size, compiled=compiled)

    monkeypatch.setattr(network, "trains", out_of_memory)
    training = importlib.import_module("gpu_parts.training").Training(record, options, network)
    training.fit_batch()
    training.sweep(4, 2, compiled=False)
    assert training.batch_size == 2
    assert [row.question for row in record.rows] == ["sweep: method, eager, from memory, batch 2"]
    assert record.skipped == [
        "batch 4: out of memory: halved to 2",
        "method, eager, from memory, batch 4: out of memory: halved to 2",
    ]


def test_a_section_that_fails_is_skipped_by_its_error_and_leaves_what_there_is(benchmark, tmp_path):
    now = [0.0]
    budget = importlib.import_module("common.budget")
    record = budget.Record("tiny", 1, {}, clock=lambda: now[0])
    with record.section("one"):
        record.add(budget.Row("a question", 1.0, "s"))
        raise RuntimeError("no compiler\n\nat all")
    assert record.allows("two", 60)
    now[0] = 1.0
    assert not record.allows("three", 60)
    (file,) = tmp_path.glob("tiny-*.json")
    content = json.loads(file.read_text())
    assert [row["question"] for row in content["rows"]] == ["a question"]
    assert content["skipped"] == [
        "one: RuntimeError: no compiler",
        "three: it would take about 60 s and 59 s are left; give more --minutes",
    ]


def test_a_run_that_is_killed_inside_a_section_leaves_what_it_had_measured(benchmark, tmp_path):
    budget = importlib.import_module("common.budget")
    record = budget.Record("tiny", 1, {})
    with record.section("long"):
        record.skip("two", "no reason")
        record.add(budget.Row("a question", 1.0, "s"))
        (file,) = tmp_path.glob("tiny-*.json")
        content = json.loads(file.read_text())
    assert [row["question"] for row in content["rows"]] == ["a question"]
    assert content["skipped"] == ["two: no reason"]


def test_the_environment_says_where_results_are_kept(benchmark, tmp_path, monkeypatch):
    harness = importlib.import_module("common.harness")
    monkeypatch.setenv("LIGHTNING_SQ_RESULTS", str(tmp_path / "elsewhere"))
    importlib.reload(harness)
    assert harness.keep("tiny", [], skipped=[], settings={}).parent == tmp_path / "elsewhere"
    assert (harness.CONFIGS / "imagenet.yaml").exists()


def test_the_rate_of_a_loader_is_that_of_a_pipeline_that_is_filled(benchmark, monkeypatch):
    steps = importlib.import_module("common.steps")
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(steps, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def batches(count):
        for number in range(count):
            clock.now += 1.0 if number else 50.0
            yield Batch(torch.zeros(4, 3, 8, 8), torch.zeros(4), torch.arange(4))

    assert steps.rate(batches(11), None, torch.device("cpu")) == pytest.approx(4.0)
    with pytest.raises(InputError, match=r"An epoch of 1 batches has no speed: .* Give 2 or more"):
        steps.rate(batches(1), None, torch.device("cpu"))


def test_the_rate_of_processes_that_make_a_batch_each_is_that_of_whole_rounds(benchmark, monkeypatch):
    steps = importlib.import_module("common.steps")
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(steps, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    class Workers(list):
        num_workers = 4

        def __iter__(self):
            for number, batch in enumerate(super().__iter__()):
                clock.now += 0.0 if number % self.num_workers else 8.0  # all four are ready at once
                yield batch

    batch = Batch(torch.zeros(6, 3, 8, 8), torch.zeros(6), torch.arange(6))
    for rounds in (2, 5):
        assert steps.rate(Workers([batch] * 4 * rounds), None, torch.device("cpu")) == pytest.approx(4 * 6 / 8)
    with pytest.raises(InputError, match=r"An epoch of 7 batches has no speed: .* Give 8 or more"):
        steps.rate(Workers([batch] * 7), None, torch.device("cpu"))


def test_what_dali_has_decoded_before_the_clock_begins_is_no_speed(benchmark, monkeypatch):
    steps = importlib.import_module("common.steps")
    clock, held = SimpleNamespace(now=0.0), BATCHES_AHEAD + PREFETCH
    monkeypatch.setattr(steps, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    class AllAtOnce(DaliLoader):
        def __init__(self, count):
            self.count = count

        def __iter__(self):
            for number in range(self.count):
                clock.now += 50.0 if number == 0 else float(number >= held)
                yield Batch(torch.zeros(4, 3, 8, 8), torch.zeros(4), torch.arange(4))

    assert steps.rate(AllAtOnce(3 * held), None, torch.device("cpu")) == pytest.approx(4.0)
    with pytest.raises(InputError, match=rf"Give {2 * held} or more"):
        steps.rate(AllAtOnce(2 * held - 1), None, torch.device("cpu"))


def test_parts_are_timed_by_the_gpus_own_events(benchmark, monkeypatch):
    class Event:
        milliseconds = 0.0

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            Event.milliseconds += 5
            self.at = Event.milliseconds

        def elapsed_time(self, end):
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = importlib.import_module("gpu_parts.step_parts").Stopwatch(gpu=True)
    for part in ("front end", "backward"):
        clock.note(part)
    assert clock.seconds() == pytest.approx({"front end": 0.005, "backward": 0.005})


def test_only_an_h100_class_gpu_is_held_to_images_a_second(benchmark, monkeypatch):
    module = importlib.import_module("gpu_parts.files")
    for name, rate, reached in (
        ("NVIDIA H100 80GB HBM3", 4000, True),
        ("NVIDIA H200", 3999, False),
        ("T4", 5000, None),
    ):
        monkeypatch.setattr(module, "device_name", lambda name=name: name)
        assert module.goal(rate)[1] is reached


def test_a_gpus_plan_is_that_of_the_command_line(benchmark, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    module = importlib.import_module("gpu_parts.plan")
    plan = module.Plan(batch_size=256, parameters=25_557_032)
    hours = plan_row(plan.work, nodes=1, per_node=1, images_per_second=3000.0, network=Network())["hours"]
    assert plan.resized_hours(lambda size: 3000.0) == pytest.approx(hours, rel=1e-9)
    assert plan.resized_hours({128: 9000.0, 176: 5000.0, 224: 3000.0}.__getitem__) < hours
    rates = {"method": 3000.0, "FGSM-RS": 1500.0}
    rows = {row.question: row for row in module.plan_rows(plan, rates, "measured", judged=True)}
    whole = rows["method, measured, predicted: 15 epochs of ImageNet on 1 GPU"]
    assert whole.measured == pytest.approx(hours)
    assert whole.reached == (hours <= 2)
    inside = "100 GB/s inside a node, assumed"
    fit = [
        rows[f"method, measured, predicted: epochs of ImageNet in 48 h on {gpus}"].measured
        for gpus in ("1 GPU", f"8 GPUs ({inside})")
    ]
    assert fit[0] == int(48 * 15 / hours)
    assert 7 * fit[0] < fit[1] < 9 * fit[0]
    four = rows[f"FGSM-RS, measured, predicted: 15 epochs of ImageNet on 4 GPUs ({inside})"]
    assert "Fast: 12 hours" in four.to_reach
    assert main([*shlex.split(whole.detail["plan"])[1:], "--json"]) == 0
    (asked,) = (row for row in json.loads(capsys.readouterr().out)["rows"] if row["asked_for"])
    assert asked["processes"] == 1
    assert asked["hours"] == pytest.approx(hours)


def test_imagenette_is_trained_by_the_command_line_as_far_as_there_is_time(
    benchmark, few_digits, tmp_path, monkeypatch
):
    module = importlib.import_module("gpu_parts.imagenette")
    commands = []

    def fit(words, limit):
        commands.append(words)
        metrics = {"train/images_per_second": 10.0, "train/seconds": 5.0, "val/clean_top1": 0.75}
        return module.Fit(20.0, 3, metrics, "it did not end" if "configs/imagenette.yaml" in words[1] else None)

    monkeypatch.setattr(module, "fit", fit)
    options = argparse.Namespace(
        imagenette=few_digits,
        weights=tmp_path,
        threads=1,
        smoke=True,
        image_size=32,
        batch_size=4,
        architecture="test_resnet",
        imagenette_architecture="any",
        hw_decoder_load=None,
    )
    record = importlib.import_module("common.budget").Record("tiny", 2, {})
    module.imagenette_rows(record, options, {"FGSM-RS": 1000.0})
    assert [row.question for row in record.rows] == [
        *(f"imagenette, natural, 1 epoch: {what}" for what in ("clean top-1", "from start to end", "training")),
        "imagenette, method, 1 epoch: training, stopped after 3 epochs",
    ]
    assert [record.rows[0].measured, record.rows[3].measured] == [75.0, 10.0]
    assert record.skipped[0] == "imagenette, method, 1 epoch: it did not end"
    assert record.skipped[1].startswith("imagenette, FGSM-RS, 1 epoch: it would take about")
    assert [word.rpartition("/")[2] for words in commands for word in words[1:2]] == [
        "imagenette_natural.yaml",
        "imagenette_natural.yaml",
        "imagenette.yaml",
    ]
    module.command_line_rows(record, options, 20.0)
    rows = {row.question: row for row in record.rows[4:]}
    assert commands[-1][commands[-1].index("--data.batch_repeats") + 1] == "3"  # 23 batches an epoch are too few
    kind = "JPEGs of 1,024 pixels, not ImageNet's 180,000"
    assert rows[f"method by lightning-sq fit, test_resnet, batch 4, from {kind}"].detail["batches an epoch"] == 69
    assert rows["method by lightning-sq fit, test_resnet: against the bare step, eager, from memory"].measured == 0.5
    module.command_line_rows(record, options, None)
    assert record.skipped.pop() == (
        "method by lightning-sq fit, test_resnet: against the bare step, eager, from memory: "
        "the section eager, which times that step, was not run to its end in this call"
    )
    speeds = []
    monkeypatch.setattr(module, "plan_row", lambda *_, images_per_second, **__: speeds.append(images_per_second) or FAR)
    module.imagenette_rows(record, options, {})
    assert speeds == [10.0, 10.0, 5.0]  # FGSM-RS costs twice as much, where nobody has measured it
    del record.skipped[2:]
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    module.imagenette_rows(record, options, {})
    assert record.skipped[2].endswith("(natural, method, FGSM-RS): jsonargparse is not installed")
    module.command_line_rows(record, options, None)
    assert record.skipped[3] == "method by lightning-sq fit, test_resnet: jsonargparse is not installed"
