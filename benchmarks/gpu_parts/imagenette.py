"""The recipes by the real command line, for benchmarks/gpu.py: imagenette's at ImageNet's length, ImageNet's speed."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

from common.budget import Record
from common.harness import Row
from gpu_parts.files import kind_of, mean_pixels
from gpu_parts.fit import GRACE, MOST_BATCHES, SHORT, SPEED, Fit, fit, missing, words_for
from gpu_parts.network import recipe

from lightning_sq.data.index import count_images, load_index
from lightning_sq.training.cluster.scaling import Network, Work, plan_row
from lightning_sq.words import counted

RECIPES = {"natural": "imagenette_natural.yaml", "method": "imagenette.yaml", "FGSM-RS": "imagenette_fgsm_rs.yaml"}
REHEARSAL = 90.0
"""Seconds that a short run is given."""
PRICES = {"FGSM-RS": 2.0}
"""Of a step against natural's, where nothing was measured: one more pass forward and backward."""
LEAST_BATCHES = 60
"""Of an epoch by the command line: of 20 of them the wait for the first one would be about a twelfth."""


def command_line_rows(record: Record, options: argparse.Namespace, rate: float | None) -> None:
    """Images/s of the method by `lightning-sq fit --config configs/imagenet.yaml`, against those of the bare step.

    Args:
        record: Takes the rows.
        options: imagenette, threads, image_size, batch_size, architecture.
        rate: Of the bare step, not compiled, from memory; None where it was not timed, which is said.
    """
    what = f"method by lightning-sq fit, {options.architecture}"
    if reasons := missing(imagenette=options.imagenette):
        record.skip(what, "; ".join(reasons))
    elif record.allows(what, REHEARSAL):
        words = words_for("imagenet.yaml", options, options.image_size)
        words += ["--model.architecture", options.architecture]
        batches = math.ceil(count_images(options.imagenette / "train") / options.batch_size)
        repeats = math.ceil(LEAST_BATCHES / batches)  # each is read and decoded as often
        words += ["--data.batch_size_per_device", str(options.batch_size), "--data.batch_repeats", str(repeats)]
        done = fit([*words, *SHORT], REHEARSAL)
        if done.failure:
            not_whole(record, what, done)
            return
        found = done.metrics[SPEED]
        samples = load_index(options.imagenette / "train")  # the fit has looked at every file
        detail = {"log": done.metrics, "batches an epoch": min(MOST_BATCHES, batches * repeats)}
        detail |= {"pixels of a file": mean_pixels(samples)}
        question = f"{what}, batch {options.batch_size}, from {kind_of(samples)}"
        record.add(Row(question, found, "images/s", detail=detail))
        against = f"{what}: against the bare step, eager, from memory"
        if rate is None:
            record.skip(against, "the section eager, which times that step, was not run to its end in this call")
        else:
            record.add(Row(against, found / rate, "times"))


def imagenette_rows(record: Record, options: argparse.Namespace, ratios: dict[str, float]) -> None:
    """Clean top-1, seconds and images/s of natural, method and FGSM-RS, those for which there is time.

    A rehearsal of the first says how long a start takes and how many images a second there are.

    Args:
        record: Takes the rows.
        options: imagenette, weights, threads, image_size, imagenette_architecture, smoke.
        ratios: Name -> the step's price against natural's, as measured; what a loader holds back costs less.
    """
    everything = f"imagenette at full length ({', '.join(RECIPES)})"
    if reasons := missing(imagenette=options.imagenette, weights=options.weights):
        record.skip(everything, "; ".join(reasons))
        return
    if not record.allows(everything, REHEARSAL):
        return
    first = fit([*_words("natural", options), *SHORT], REHEARSAL)
    rate = first.metrics.get(SPEED)
    if first.failure or not rate:
        record.skip(everything, f"a rehearsal: {first.failure or 'it logged no images a second'}")
        return
    start, work = first.seconds - first.metrics["train/seconds"], _work(options)
    for name in RECIPES:
        price = ratios.get(name, PRICES.get(name, 1.0))
        whole = replace(work, validation_passes=2) if name == "method" else work  # on noisy images too
        row = plan_row(whole, nodes=1, per_node=1, images_per_second=rate / price, network=Network())
        what, estimate = f"imagenette, {name}, {counted(work.epochs, 'epoch')}", start + 3600 * row["hours"]
        if not record.allows(what, estimate):
            continue
        words = [*_words(name, options), "--trainer.max_epochs", str(work.epochs)]
        done = fit(words, max(estimate, record.left - GRACE))
        if done.failure:
            not_whole(record, what, done)
        else:
            record.add(*_rows(what, done, estimate))


def not_whole(record: Record, what: str, done: Fit) -> None:
    """Why a training did not come to its end, and the images/s of the epochs that did."""
    record.skip(what, done.failure)
    if done.epochs:
        question = f"{what}: training, stopped after {counted(done.epochs, 'epoch')}"
        record.add(Row(question, done.metrics[SPEED], "images/s", detail={"log": done.metrics}))


def _rows(what: str, done: Fit, estimate: float) -> list[Row]:
    detail = {"log": done.metrics, "seconds estimated": estimate}
    return [
        Row(f"{what}: clean top-1", 100 * done.metrics["val/clean_top1"], "%", detail=detail),
        Row(f"{what}: from start to end", done.seconds, "s"),
        Row(f"{what}: training", done.metrics[SPEED], "images/s"),
    ]


def _work(options: argparse.Namespace) -> Work:
    epochs = 1 if options.smoke else recipe("imagenet.yaml")["trainer"]["max_epochs"]
    batch_size = recipe(RECIPES["method"])["data"]["batch_size_per_device"]
    train, val = (count_images(options.imagenette / split) for split in ("train", "val"))
    return Work(train, val, epochs, batch_size, gradient_bytes=0)


def _words(name: str, options: argparse.Namespace) -> list[str]:
    """The recipe with ImageNet's image size and the local weights."""
    size = options.image_size if options.smoke else recipe("imagenet.yaml")["data"]["image_size"]
    words = [*words_for(RECIPES[name], options, size), "--model.architecture", options.imagenette_architecture]
    return [*words, "--model.checkpoint_path", str(options.weights.resolve())]
