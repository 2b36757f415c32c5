"""The GPU benchmark's plan, and its trainings by the command line."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys

import pytest

from lightning_sq.__main__ import main
from lightning_sq.training.cluster.scaling import Network, plan_row
from tests.conftest import REPOSITORY

FAR = {"hours": 1e6}


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
