"""The benchmarks run: not how fast, but that they measure what they say and write it down."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from lightning_sq.evaluation.results import read_results
from lightning_sq.evaluation.tables import markdown_table
from lightning_sq.layers import SoftQuantization
from lightning_sq.models import ModelConfig, PixelClassifier, build_model
from tests.conftest import REPOSITORY


def test_the_page_of_what_was_measured_is_of_the_results_that_are_kept(benchmark):
    folder = REPOSITORY / "benchmarks" / "results"
    assert (folder / "README.md").read_text() == benchmark("common.harness").page_of_all(folder)


def test_what_is_measured_on_the_processor_is_said_to_be_of_it_where_there_is_a_gpu_too(benchmark, monkeypatch):
    harness = benchmark("common.harness")
    processor = harness.device_name("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    for on, name, device in ((None, "NVIDIA H200", "gpu"), ("cuda", "NVIDIA H200", "gpu"), ("cpu", processor, "cpu")):
        file = harness.keep("tiny", [], skipped=[], settings={}, on=on)
        assert file.name.startswith(f"tiny-{device}-torch")
        assert json.loads(file.read_text())["device"] == harness.provenance(on)["device"] == name


def test_a_page_says_by_which_words_it_was_written_and_nothing_of_a_machines_folders(benchmark, monkeypatch):
    harness = benchmark("common.harness")
    monkeypatch.chdir(REPOSITORY)
    words = ["--data", "/home/me/images", "--model", f"net=timm:resnet18@{REPOSITORY}/runs/a b.ckpt"]
    words += ["--weights=../elsewhere/net.pth", "--runs", "runs/x", "--epsilon", "1/255,2/255"]
    monkeypatch.setattr(sys, "argv", [str(REPOSITORY / "benchmarks/levels.py"), *words])
    command = harness.command_typed()
    assert command == (
        "python benchmarks/levels.py --data images --model 'net=timm:resnet18@runs/a b.ckpt' --weights=net.pth "
        "--runs runs/x --epsilon 1/255,2/255"
    )
    assert harness.written_by({"command": command}, "levels") == f"`{command}`"
    assert harness.written_by({}, "levels") == "`python benchmarks/levels.py`"


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


def test_a_step_that_is_timed_keeps_no_cast_weights_as_lightning_keeps_none(benchmark):
    precision = MixedPrecision("bf16-mixed", "cpu")
    ours = benchmark("common.steps").automatic_precision(torch.device("cpu"))
    for context in (precision.autocast_context_manager(), ours):
        with context:
            assert not torch.is_autocast_cache_enabled()


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


@pytest.mark.parametrize("name", ["levels", "theory", "truth"])
def test_a_page_of_results_is_the_one_that_its_numbers_give(benchmark, name):
    folder = REPOSITORY / "results" / name
    content = json.loads((folder / f"{name}.json").read_text())
    assert (folder / "README.md").read_text() == benchmark(name).markdown(content)


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
    layer = nn.Linear(4, 2)
    model = module.PixelClassifier(OrderedDict(backbone=nn.Sequential(nn.Flatten(), layer)))
    images, labels = torch.full((6, 1, 2, 2), 0.5), torch.tensor([0, 1] * 3)
    found = module.attacked(model, images, labels, 0.3)["plain"]
    direction = (layer.weight[1 - labels] - layer.weight[labels]).sign().view(6, 1, 2, 2)
    corner = nn.functional.cross_entropy(model(images + 0.3 * direction), labels, reduction="none")
    assert torch.allclose(found, corner, rtol=1e-4)


def test_robust_is_what_no_attack_of_the_theory_fools_and_not_what_the_largest_loss_is_of(benchmark, monkeypatch):
    """Darker images have the larger loss and the right class, lighter ones the smaller loss and another."""
    module = benchmark("theory")

    class ByBrightness(nn.Module):
        def forward(self, images):
            brightness = images.mean((1, 2, 3))[:, None]
            dark, light, usual = torch.tensor([[0.01, 0.0, 0.0], [1.0, 1.01, -9.0], [2.0, 0.0, 0.0]])
            return torch.where(brightness < 0.4, dark, torch.where(brightness > 0.6, light, usual))

    @dataclasses.dataclass(frozen=True)
    class Darker:
        by: float = -0.2
        momentum: float = 0.0
        schedule: str = ""

        def __call__(self, model, images, labels, seeds, epsilon):
            return images + self.by

    def attacked() -> dict[str, torch.Tensor]:
        model = module.PixelClassifier(OrderedDict(backbone=ByBrightness()))
        return module.attacked(model, torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 2]), 0.3)

    monkeypatch.setattr(module, "PGD", lambda **options: Darker())
    monkeypatch.setattr(module, "Square", lambda **options: Darker())
    assert attacked()["robust"].tolist() == [True, False]  # the second is wrong unattacked
    monkeypatch.setattr(module, "Square", lambda **options: Darker(by=0.2))
    found = attacked()
    assert found["robust"].tolist() == [False, False]
    assert found["images"][0].mean() == pytest.approx(0.3)
    assert found["strongest"][0] == pytest.approx(math.log(math.exp(0.01) + 2) - 0.01)


def test_the_front_ends_of_the_benchmark_are_the_layers(benchmark):
    module = benchmark("front_end")
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    for run in module.front_ends(2, 0.0, torch.float32, "cpu").values():
        layers = nn.Sequential(
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
        else:
            checkpoint = folder / "checkpoints/last.ckpt"
            checkpoint.parent.mkdir(exist_ok=True)
            checkpoint.write_text("weights")
        return 0

    monkeypatch.setattr(module, "run_command", run_command)
    module.main()
    assert [words[0] for words in commands] == ["fit", "fit", "fit", "evaluate"]
    for words, recipe in zip(commands, module.RECIPES.values(), strict=False):
        assert words[2] == str(REPOSITORY / "configs" / f"{recipe}.yaml")
        assert words[words.index("--trainer.devices") + 1] == "1"
        assert words[-3:] == ["--output", str(tmp_path / "runs" / recipe), "--resume"]
    assert commands[3][1:4] == [
        f"{row}={tmp_path}/runs/{recipe}/checkpoints/last.ckpt" for row, recipe in module.RECIPES.items()
    ]
    page = (tmp_path / "out" / "README.md").read_text()
    assert page.count("| 1 | 60 | 80 | 90.0 |") == 3
    assert page.startswith(module.TITLE)
    assert "Written by `python benchmarks/imagenette.py --data images --weights net.safetensors --num-images 7" in page
    assert markdown_table(read_results(kept)) in page
    module.main()
    assert len(commands) == 7  # what was attacked is not attacked again; fit itself sees that it has ended
    with monkeypatch.context() as other:
        other.setattr(sys, "argv", [*sys.argv, "--attacks", "standard"])
        with pytest.raises(SystemExit, match=r"holds an evaluation of other nets or by other words\. Remove it"):
            module.main()
    monkeypatch.setattr(module, "sha256", lambda path: "of a net that was trained again")
    with pytest.raises(SystemExit, match="of other nets"):
        module.main()


def test_the_page_on_ten_classes_is_the_one_that_its_numbers_give(benchmark):
    folder = REPOSITORY / "results" / "imagenette"
    content = json.loads((folder / "training.json").read_text())
    assert (folder / "README.md").read_text() == benchmark("imagenette").markdown(content, read_results(folder))


def test_attacks_are_held_against_a_truth_that_is_known(benchmark, few_digits, tmp_path, monkeypatch):
    options = ["--data", str(few_digits / "val"), "--model", "net=anything", "--output", str(tmp_path)]
    options += ["--runs", str(tmp_path / "runs"), "--attacks", "pgd,quantized_box,quantized_box_flips"]
    module = benchmark("truth", *options, "--num-images", "40", "--epsilon", "0.05")
    torch.manual_seed(0)
    layers = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3 * 16, 12), nn.ReLU(), nn.Linear(12, 10))
    net = PixelClassifier(OrderedDict(quantize=SoftQuantization(2, hard=True), backbone=layers)).eval()
    net.config = ModelConfig("net", tuple("0123456789"), (0.0,) * 3, (1.0,) * 3, 32, 32)
    monkeypatch.setattr(module, "load", lambda source: net)
    module.main()
    content = json.loads((tmp_path / "truth.json").read_text())
    row = content["models"]["net"]
    assert row["num_images"] == 40
    assert row["not_known"] == 0
    assert row["clean"] == row["proven"] + row["breakable"]
    assert row["breakable"] > 0
    assert row["broken"]["pgd"] == 0  # there is no gradient in front of a hard quantizer
    assert 0 < row["broken"]["quantized_box"] <= row["broken"]["all"] <= row["breakable"]
    assert (tmp_path / "README.md").read_text() == module.markdown(content)
    assert (tmp_path / "truth.png").stat().st_size > 0


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
