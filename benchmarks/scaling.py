"""What the model of `lightning-sq plan` predicts for two processes from one, against two, and the chart of both.

    python benchmarks/scaling.py

One process is timed, the all-reduce between two is timed, and from these alone the speed of two is predicted. All run
the same recipe on the same images, in turns. On CPUs nothing hides an all-reduce, so its overlap is 0.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import matplotlib as mpl
from common.harness import CONFIGS, REPOSITORY, RESULTS, Row, report

from lightning_sq.children import last_words
from lightning_sq.data.digits import write_digits
from lightning_sq.metrics_file import training_curve
from lightning_sq.models.backbone import create_backbone
from lightning_sq.training.cluster.scaling import Network, Work, plan_row

mpl.use("Agg")
import matplotlib.pyplot as plt

CHART = REPOSITORY / "slurm" / "scaling.png"
"""Of the results that the repository keeps; of others it lies beside them."""
ALL_REDUCE = re.compile(r"an all-reduce of \d+ MB moves ([\d.]+) GB/s")


def measure(options: argparse.Namespace, data: Path, devices: int) -> tuple[float, float | None]:
    """(images a second of all processes in the last epoch, GB/s of an all-reduce) of one run."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["fit", "--config", str(CONFIGS / "digits_natural.yaml"), "--data.root", str(data)]
        words += ["--model.architecture", options.architecture, "--trainer.accelerator", "cpu", "--output", folder]
        words += ["--data.batch_size_per_device", str(options.batch_size), "--trainer.max_epochs", "2"]
        words += ["--data.image_size", str(options.image_size), "--data.resize_size", str(options.image_size)]
        words += ["--trainer.limit_train_batches", str(options.batches), "--trainer.limit_val_batches", "0"]
        words += ["--trainer.devices", str(devices)]
        done = subprocess.run(
            [sys.executable, "-m", "lightning_sq", *words],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            raise RuntimeError(f"fit with {devices} processes failed: {last_words(done.stderr)}")
        epochs = training_curve(Path(folder), {"train/images_per_second": "rate"})
        bandwidth = ALL_REDUCE.search(done.stdout + done.stderr)
        return epochs[-1]["rate"], bandwidth and float(bandwidth[1])


def draw(rows: list[dict[str, float]], measured: dict[int, float]) -> Path:
    figure, axes = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    processes = [row["processes"] for row in rows]
    axes.plot(processes, [row["images_per_second"] for row in rows], label="predicted from one process", color="C0")
    axes.plot(processes, [n * measured[1] for n in processes], "--", color="0.6", label="no cost of communication")
    axes.plot(list(measured), list(measured.values()), "o", color="C1", label="measured")
    axes.set(xscale="log", yscale="log", xlabel="processes", ylabel="images/s")
    axes.set_xticks(processes, [str(number) for number in processes], minor=False)
    axes.minorticks_off()
    axes.legend(frameon=False)
    chart = CHART if RESULTS == REPOSITORY / "benchmarks/results" else RESULTS / CHART.name
    figure.savefig(chart, dpi=120)
    return chart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found: dict[int, list[float]] = {1: [], 2: []}
    bandwidths = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "digits"
        write_digits(data)
        for _ in range(options.rounds):
            for devices, rates in found.items():
                rate, bandwidth = measure(options, data, devices)
                rates.append(rate)
                bandwidths += [] if bandwidth is None else [bandwidth]
    measured = {devices: median(rates) for devices, rates in found.items()}
    parameters = sum(p.numel() for p in create_backbone(options.architecture, 10, 3).parameters())
    work = Work(1437, 360, 1, options.batch_size, 4 * parameters)
    network = Network(median(bandwidths) * 1e9, median(bandwidths) * 1e9, latency=1e-4, overlap=0.0)
    rows = [
        plan_row(work, nodes=1, per_node=number, images_per_second=measured[1], network=network)
        for number in (1, 2, 4, 8, 16, 32, 64)
    ]
    predicted = rows[1]["images_per_second"]
    ratio = predicted / measured[2]
    detail = {"measured": found, "all_reduce_gigabytes_per_second": bandwidths, "predicted": rows}
    report(
        "scaling",
        [
            Row("one process", measured[1], "images/s", detail=detail),
            Row("two processes", measured[2], "images/s"),
            Row("two, predicted from one", predicted, "images/s"),
            Row("prediction / measurement", ratio, "", "within 0.8 to 1.25", 0.8 <= ratio <= 1.25),
        ],
        skipped=["more processes: this machine has no more cores"],
        settings=vars(options),
        on="cpu",
    )
    print(draw(rows, measured))


if __name__ == "__main__":
    main()
