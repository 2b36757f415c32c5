"""The benchmarks run: not how fast, but that they measure what they say and write it down."""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from lightning_sq.evaluation.results import markdown_table, read_results
from lightning_sq.models import ModelConfig, build_model
from lightning_sq.training.cluster.scaling import Network, plan_row
from tests.conftest import REPOSITORY


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """Import a benchmark by name, with its results below `tmp_path`."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    harness = importlib.import_module("common.harness")
    monkeypatch.setattr(harness, "RESULTS", tmp_path)

    def run(name, *options):
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, "argv", [name, *options])
        return module

    yield run
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(REPOSITORY / "benchmarks")):
            del sys.modules[name]


def test_the_page_of_what_was_measured_is_of_the_results_that_are_kept(benchmark):
    folder = REPOSITORY / "benchmarks" / "results"
    assert (folder / "README.md").read_text() == benchmark("common.harness").page_of_all(folder)


def test_a_start_is_timed_with_and_without_compiled_files(benchmark, tmp_path, monkeypatch):
    module = benchmark("start_up", "--rounds", "1")
    monkeypatch.setattr(module, "MEASURED", {module.LIBRARIES: "json csv", "fit": "lightning_sq.stop_request"})
    monkeypatch.setattr(module, "SHOWN", 10_000)  # all: which of them are slow is chance
    module.main()
    (file,) = tmp_path.glob("start_up-*.json")
    _, libraries, _, not_compiled, compiled, ratio, against = json.loads(file.read_text())["rows"]
    assert ratio["measured"] == compiled["measured"] / not_compiled["measured"]
    assert ratio["reached"] is None  # torch alone would reach it too
    assert against["measured"] == compiled["measured"] / libraries["measured"]
    assert "lightning_sq" in compiled["detail"]["seconds by package"]
    assert "| fit: imports |" in (tmp_path / "README.md").read_text()


def test_objectives_are_timed_against_the_natural_step(benchmark, tmp_path):
    options = ["--architecture", "test_resnet", "--image-size", "32", "--batch-size", "2", "--rounds", "1"]
    module = benchmark("objectives", *options)
    module.main()
    (file,) = tmp_path.glob("objectives-*.json")
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == len(module.candidates())
    assert all(row["measured"] > 0 for row in rows)


def test_verdicts_are_compared_image_by_image(benchmark):
    module = benchmark("autoattack")
    one, other = ({"robust": robust} for robust in ([True, True, False, True], [True, False, True, False]))
    row = module._same("alike", one, other)
    assert (row.measured, row.reached) == (0.25, None)
    assert row.detail == {"broken by the first alone": 1, "by the second": 2}
    assert module._same("alike", one, one, to_reach=1.0).reached
    assert not module._same("alike", one, other, to_reach=1.0).reached


def test_loading_is_timed_beside_plain_timm(benchmark, tmp_path):
    benchmark("loading", "--architecture", "test_resnet", "--rounds", "1").main()
    (file,) = tmp_path.glob("loading-*.json")
    rows = json.loads(file.read_text())["rows"]
    assert [row["question"] for row in rows] == ["lightning_sq.load of a test_resnet", "timm and torch, unchecked"]
    assert all(row["measured"] > 0 for row in rows)


def test_the_theory_holds_prediction_against_truth_over_seeds(benchmark, tmp_path, monkeypatch):
    module = benchmark("theory", "--output", str(tmp_path), "--epochs", "1", "--num-images", "6", "--num-seeds", "2")
    all_rows = module.rows_to_train
    kept = ("natural", "2 levels, sharpness 80, natural")
    monkeypatch.setattr(module, "SHARPNESSES", (80.0,))
    monkeypatch.setattr(
        module, "rows_to_train", lambda *a: {k: v for k, v in all_rows(*a).items() if k in kept or k.endswith("noise")}
    )
    sets = {split: (images[:64], labels[:64]) for split, (images, labels) in module.read_digits().items()}
    monkeypatch.setattr(module, "read_digits", lambda: sets)
    module.main()
    content = json.loads((tmp_path / "theory.json").read_text())
    for row in content["rows"].values():
        assert len(row["seeds"]) == 2
        assert row["rise_by_strongest"] >= row["rise_by_plain_pgd"] - 1e-6
        assert row["predicted_rise"] == pytest.approx(content["settings"]["epsilon"] * row["gradient_natural"])
        for key in row["seeds"][0]:
            assert row[key] == pytest.approx(sum(seed[key] for seed in row["seeds"]) / 2)
    assert "2 seeds" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "theory.png").stat().st_size > 0


def test_the_attack_of_the_theory_goes_for_the_largest_loss_and_does_not_stop_when_it_fools(benchmark):
    module = benchmark("theory")
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 2)
    model = module.PixelClassifier(OrderedDict(backbone=torch.nn.Sequential(torch.nn.Flatten(), layer)))
    images, labels = torch.full((6, 1, 2, 2), 0.5), torch.tensor([0, 1] * 3)
    found = module.attacked_losses(model, images, labels, 0.3)["plain"]
    direction = (layer.weight[1 - labels] - layer.weight[labels]).sign().view(6, 1, 2, 2)
    corner = torch.nn.functional.cross_entropy(model(images + 0.3 * direction), labels, reduction="none")
    assert torch.allclose(found, corner, rtol=1e-4)


def test_the_front_ends_of_the_benchmark_are_the_layers(benchmark):
    module = benchmark("front_end")
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    for run in module.front_ends(2, 0.0, torch.float32, "cpu").values():
        layers = torch.nn.Sequential(
            module.SoftQuantization(2, module.RELATIVE_SHARPNESS),
            module.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        )
        found = run(pixels)
        assert torch.allclose(found, layers(pixels.float() / 255), atol=1e-5)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_the_rows_on_ten_classes_are_trained_and_attacked_by_the_commands_of_a_person(benchmark, tmp_path, monkeypatch):
    kept = REPOSITORY / "results" / "imagenette"
    options = ["--data", "images", "--weights", "net.safetensors", "--num-images", "7", "--attacks", "quick"]
    module = benchmark("imagenette", *options, "--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "out"))
    commands = []

    def run_command(words):
        commands.append(words)
        folder = Path(words[words.index("--output") + 1])
        (folder / "logs/version_0").mkdir(parents=True, exist_ok=True)
        columns = [*module.LOGGED, "epoch"]
        (folder / "logs/version_0/metrics.csv").write_text(f"{','.join(columns)}\n60.0,80.0,0.9,3.0,0\n")
        if words[0] == "evaluate":
            for name in module.KEPT:
                shutil.copyfile(kept / name, folder / name)
        return 0

    monkeypatch.setattr(module, "run_command", run_command)
    module.main()
    assert [words[0] for words in commands] == ["fit", "fit", "fit", "evaluate"]
    for words, recipe in zip(commands, module.RECIPES.values(), strict=False):
        assert words[2] == str(REPOSITORY / "configs" / f"{recipe}.yaml")
        assert words[-3:] == ["--output", str(tmp_path / "runs" / recipe), "--resume"]
    assert commands[3][1:4] == [
        f"{row}={tmp_path}/runs/{recipe}/checkpoints/last.ckpt" for row, recipe in module.RECIPES.items()
    ]
    page = (tmp_path / "out" / "README.md").read_text()
    assert page.count("| 1 | 60 | 80 | 90.0 |") == 3
    assert markdown_table(read_results(kept)) in page
    module.main()
    assert len(commands) == 7  # what was attacked is not attacked again; fit itself sees that it has ended
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--attacks", "standard"])
    with pytest.raises(SystemExit, match=r"holds an evaluation by other words\. Remove it"):
        module.main()


def test_the_page_on_ten_classes_is_the_one_that_its_numbers_give(benchmark):
    folder = REPOSITORY / "results" / "imagenette"
    content = json.loads((folder / "training.json").read_text())
    assert (folder / "README.md").read_text() == benchmark("imagenette").markdown(content, read_results(folder))


def test_levels_are_put_before_the_same_weights_and_attacked(benchmark, few_digits, tmp_path, monkeypatch):
    options = ["--data", str(few_digits / "val"), "--model", "net=anything", "--output", str(tmp_path)]
    options += ["--runs", str(tmp_path / "runs")]
    module = benchmark("levels", *options, "--num-images", "20", "--num-attacked", "5", "--attacks", "pgd")
    torch.manual_seed(0)
    names = tuple(str(digit) for digit in range(10))
    net = build_model(ModelConfig("test_resnet", names, (0.5,) * 3, (0.5,) * 3, 32, 32)).eval()
    monkeypatch.setattr(module, "load", lambda source: net)
    monkeypatch.setattr(module, "LEVELS", (2, 256))
    module.main()
    content = json.loads((tmp_path / "levels.json").read_text())
    assert (content["num_images"], content["num_attacked"]) == (20, 5)
    rows = content["models"]["net"]
    assert [row["levels"] for row in rows] == [None, *module.LEVELS]
    for row in rows:
        curve = [row["clean_of_attacked"], *row["worst_case"].values()]
        assert curve == sorted(curve, reverse=True)
    assert (tmp_path / "README.md").read_text() == module.markdown(content)
    monkeypatch.setattr(module, "evaluate", None)  # what is known is not measured again
    module.main()
    assert json.loads((tmp_path / "levels.json").read_text())["models"] == content["models"]
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(module.quantized(net, 256)(images), net(images), atol=0.05)
    assert not torch.allclose(module.quantized(net, 2)(images), net(images), atol=0.05)


@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities of TorchVision")
def test_all_loaders_are_timed_on_the_same_files_and_memory_start_and_accuracy_are_looked_at(
    benchmark, tmp_path, few_digits, monkeypatch
):
    monkeypatch.setenv("LIGHTNING_SQ_CACHE", str(tmp_path / "cache"))  # it sets its own
    synsets = ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475")
    for label, synset in enumerate(synsets):
        shutil.copytree(few_digits / "val" / str(label), tmp_path / "images" / synset)
    weights = {name: value.half() for name, value in timm.create_model("resnet18").state_dict().items()}
    save_file(weights, tmp_path / "weights.safetensors")
    words = ["--data", str(tmp_path / "images"), "--weights", str(tmp_path / "weights.safetensors"), "--threads", "1"]
    words += ["--batch-size", "8", "--num-images", "24", "--rounds", "1", "--epochs", "3", "--start-files", "1200"]
    benchmark("data", *words, "--short-side", "24", "--train", "--architecture", "test_resnet").main()
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
        assert rows[f"{name}, eager, test_resnet, batch 4 at 32 px"]["measured"] > 0
        shares = {question: row["measured"] for question, row in rows.items() if f"{name}, eager: " in question}
        parts = [share for question, share in shares.items() if question.endswith("share of the step")]
        assert len(parts) == (5 if name in ("FGSM-RS", "PGD-7") else 4)
        assert sum(parts) == pytest.approx(100)
        assert (f"{name}, eager: step against natural's" in rows) == (name != "natural")
        assert any(q.startswith(name) and q.endswith("epochs of ImageNet in 48 h on 64 GPUs") for q in rows)
    assert rows["method, eager, from memory: 15 epochs of ImageNet on 1 GPU"]["to_reach"].startswith("<= 2; the paper")
    assert "method, eager, from memory: 15 epochs of ImageNet on 1 GPU, 128 to 176 to 224 px" in rows
    assert [q for q in rows if q.startswith("sweep")] == [f"sweep: method, eager, batch {size}" for size in (8, 4)]
    assert all(row["reached"] is None for row in rows.values())
    assert "natural and method from JPEGs: no --data FOLDER with <class>/*.JPEG was given" in skipped


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
    assert rows["natural, compiled, test_resnet, batch 4 at 32 px"] > 0
    assert not record.skipped
    made = {name: network.graph_of(name) for name in network.ways}
    assert made["natural"] != made["FGSM-RS"]


def test_a_gpus_front_end_is_held_against_its_copy(benchmark, tmp_path):
    rows, _ = gpu_smoke(benchmark, tmp_path, "--sections", "front_end", "--backend", "eager")
    share = rows["front end's bandwidth, noise drawn by its generator, against a plain copy's"]
    copied = rows["a plain copy on the device, bytes read and written"]
    assert share["detail"]["copy bytes a second"] == pytest.approx(1e9 * copied["measured"])
    assert share["measured"] == pytest.approx(100 * share["detail"]["bytes a second"] / (1e9 * copied["measured"]))


@pytest.mark.parametrize("dali", [True, False])
def test_a_gpu_trains_from_files_by_dali_or_says_that_it_is_missing(benchmark, tmp_path, few_digits, monkeypatch, dali):
    if not dali:
        monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    record, options, network = gpu_training(data=few_digits / "train", batches=2, threads=1)
    importlib.import_module("gpu_parts.files").file_rows(record, options, network, batch_size=4, compiled=False)
    called = "DALI on the CPU" if dali else "torchvision (PIL) in processes"
    questions = [row.question for row in record.rows if row.unit == "images/s"]
    end = "batch 4 at 32 px"
    assert questions == [
        *(f"{name}, eager, from JPEGs by {called}, {end}" for name in ("natural", "method")),
        f"the loader alone, {called}, 1 threads",
    ]
    missing = "natural and method from JPEGs with DALI: nvidia.dali is not installed; torchvision decodes instead"
    assert record.skipped == ([] if dali else [missing])


def gpu_training(backend="aot_eager", **options):
    """(record, options, network) of a tiny GPU benchmark; after `benchmark`."""
    sizes = {"architecture": "test_resnet", "image_size": 32, "batch_size": 4, "rounds": 1, "backend": backend}
    options = argparse.Namespace(**sizes, compile_seconds=5.0, copy_bandwidth=None, **options)
    record = importlib.import_module("common.budget").Record("tiny", 5, {})
    return record, options, importlib.import_module("gpu_parts.network").Network(options, torch.device("cpu"))


def test_a_gpu_benchmark_without_time_skips_everything_by_name(benchmark, tmp_path):
    rows, skipped = gpu_smoke(benchmark, tmp_path, "--minutes", "0", "--imagenette", "i", "--weights", "w")
    assert not rows
    told = "\n".join(skipped)
    for what in ("front end's bandwidth", "training (eager, compiled, files, sizes, sweep)"):
        assert f"{what}: it would take about" in told
    assert "imagenette at full length (natural, method, FGSM-RS): it would take about" in told


def test_a_gpu_that_has_no_memory_for_a_batch_halves_it_and_says_so(benchmark, tmp_path, monkeypatch):
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
    assert [row.question for row in record.rows] == ["sweep: method, eager, batch 2"]
    assert record.skipped == [
        "batch 4: out of memory: halved to 2",
        "method, eager, batch 4: out of memory: halved to 2",
    ]


def test_a_section_that_fails_is_skipped_by_its_error_and_leaves_what_there_is(benchmark, tmp_path):
    now = [0.0]
    budget = importlib.import_module("common.budget")
    record = budget.Record("tiny", 1, {}, clock=lambda: now[0])
    with record.section("one"):
        record.add(budget.Row("a question", 1.0, "s"))
        raise RuntimeError("no compiler\nat all")
    assert record.allows("two", 60)
    now[0] = 1.0
    assert not record.allows("three", 60)
    (file,) = tmp_path.glob("tiny-*.json")
    content = json.loads(file.read_text())
    assert [row["question"] for row in content["rows"]] == ["a question"]
    assert content["skipped"] == ["one: RuntimeError: no compiler"]
    assert record.skipped[1] == "three: it would take about 60 s and 59 s are left; give more --minutes"


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
    module = importlib.import_module("gpu_parts.training")
    for name, rate, reached in (
        ("NVIDIA H100 80GB HBM3", 4000, True),
        ("NVIDIA H200", 3999, False),
        ("T4", 5000, None),
    ):
        monkeypatch.setattr(module, "device_name", lambda name=name: name)
        assert module.goal(rate)[1] is reached


def test_a_gpus_plan_is_that_of_the_command_line(benchmark):
    module = importlib.import_module("gpu_parts.plan")
    plan = module.Plan(batch_size=256, parameters=25_557_032)
    hours = plan_row(plan.work, nodes=1, per_node=1, images_per_second=3000.0, network=Network())["hours"]
    assert plan.resized_hours(lambda size: 3000.0) == pytest.approx(hours, rel=1e-9)
    assert plan.resized_hours({128: 9000.0, 176: 5000.0, 224: 3000.0}.__getitem__) < hours
    rows = {row.question: row for row in module.plan_rows(plan, {"method": 3000.0, "FGSM-RS": 1500.0}, "measured")}
    assert rows["method, measured: 15 epochs of ImageNet on 1 GPU"].measured == pytest.approx(hours)
    assert rows["method, measured: 15 epochs of ImageNet on 1 GPU"].reached == (hours <= 2)
    fit = [rows[f"method, measured: epochs of ImageNet in 48 h on {gpus}"].measured for gpus in ("1 GPU", "8 GPUs")]
    assert fit[0] == int(48 * 15 / hours)
    assert 7 * fit[0] < fit[1] < 9 * fit[0]
    assert "Fast: 12 hours" in rows["FGSM-RS, measured: 15 epochs of ImageNet on 4 GPUs"].to_reach


def test_imagenette_is_trained_by_the_command_line_as_far_as_there_is_time(
    benchmark, few_digits, tmp_path, monkeypatch
):
    module = importlib.import_module("gpu_parts.imagenette")
    commands = []

    def fit(words, limit):
        commands.append(words)
        metrics = {"train/images_per_second": 10.0, "train/seconds": 5.0, "val/clean_top1": 0.75}
        return module.Fit(20.0, metrics, "it failed: no" if "configs/imagenette.yaml" in words[1] else None)

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
    )
    record = importlib.import_module("common.budget").Record("tiny", 2, {})
    module.imagenette_rows(record, options, {"FGSM-RS": 1000.0})
    assert [row.question for row in record.rows] == [
        f"imagenette, natural, 1 epochs: {what}" for what in ("clean top-1", "from start to end", "training")
    ]
    assert record.rows[0].measured == 75.0
    assert record.skipped[0] == "imagenette, method, 1 epochs: it failed: no"
    assert record.skipped[1].startswith("imagenette, FGSM-RS, 1 epochs: it would take about")
    assert [word.rpartition("/")[2] for words in commands for word in words[1:2]] == [
        "imagenette_natural.yaml",
        "imagenette_natural.yaml",
        "imagenette.yaml",
    ]
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    module.imagenette_rows(record, options, {})
    assert record.skipped[2].endswith("(natural, method, FGSM-RS): jsonargparse is not installed")
    module.command_line_rows(record, options, None)
    assert record.skipped[3] == "method by lightning-sq fit, test_resnet: jsonargparse is not installed"
