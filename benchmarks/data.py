"""Does the loader keep up?   python benchmarks/data.py --data FOLDER [--weights resnet18.safetensors]

FOLDER holds JPEG files of original size, <class>/*.JPEG. The sections, in their order:

    decoder     on a GPU: DALI's mixed decoder; --tune searches the share of the hardware engine, and the next
                two take the best
    training    on a GPU, or with --train: a ResNet-50 end to end, against the same step on one batch in memory
    memory      of the loader, over epochs
    speed       all loaders read the same files in turn on the same cores: ours, what a user of torchvision would write,
                and bare decoding; then from shards whose images were shrunk once
    accuracy    with --weights of a timm ResNet-18: its top-1 by each decoder (folders are synsets), and how far the
                pixels differ
    start       with --start-files, which links that many files: the time to the first batch

The first three are a GPU's where there is one, and are kept in a file of their own then. --sections NAME ... measures
only some; what there is no library, GPU, option or, with --minutes, time for is skipped by name. The result is
benchmarks/results/data-*.json, or data_SECTIONS-*.json of some, written anew with each row; with
LIGHTNING_SQ_RESULTS=FOLDER before the command it lies there.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import tempfile
from functools import cached_property
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common.budget import Record, is_installed, watchdog
from common.harness import THREADS_HELP, Kind, Row, decoding_threads, seconds_of
from data_parts.cuts import dataset_of, order_of
from data_parts.decoder import decoder_rows, decoder_versions
from data_parts.loaders import ALONE, BY_DALI, DALI, PIL, SHARDS, bare_decode, loaders, ours
from data_parts.nvjpeg import nvjpeg_in_use
from data_parts.pixels import pixels_row, validation_images
from data_parts.start import seconds_to_first_batch
from data_parts.training import HW_DECODER_LOAD, training_rows

from lightning_sq.data.backends import make_loader
from lightning_sq.data.image_index import ImageIndex
from lightning_sq.data.index import load_index
from lightning_sq.data.shard_writer import ShardSettings, write_shards
from lightning_sq.release import load

NO_DALI = "nvidia.dali is not installed"
BARE = "libjpeg-turbo alone, whole images"


class Images:
    """What is read: the files of --data, and the same images in shards, written when somebody asks for them.

    Args:
        options: data, short_side, quality.
        room: An empty folder.
    """

    def __init__(self, options: argparse.Namespace, room: Path) -> None:
        self.options, self.room = options, room
        self.files = load_index(options.data, cache=room / "cache")

    @cached_property
    def shards(self) -> ImageIndex:
        folder = self.room / "shards"
        write_shards(self.files, folder, ShardSettings(self.options.short_side, self.options.quality))
        return load_index(folder, cache=self.room / "cache")

    @property
    def of_training(self) -> ImageIndex:
        """An epoch of the sections decoder and training."""
        return repeated(self.files, self.options.training_batches * self.options.training_batch_size)


def repeated(index: ImageIndex, count: int) -> ImageIndex:
    """`count` images, each as often as that takes."""
    return index.take(np.resize(np.arange(len(index)), count))


def decoder(record: Record, options: argparse.Namespace, images: Images) -> None:
    """DALI's mixed decoder."""
    options.hw_decoder_load = decoder_rows(record, options, images.of_training)
    record.settings["hw_decoder_load"] = options.hw_decoder_load


def training(record: Record, options: argparse.Namespace, images: Images) -> None:
    """End to end from files, against one batch in memory."""
    sizes = (options.training_batch_size, options.threads, options.hw_decoder_load)
    rows = training_rows(images.of_training, options.architecture, *sizes)
    rows[0].detail |= nvjpeg_in_use(record) if torch.cuda.is_available() else {}
    record.add(*rows)


def memory(record: Record, options: argparse.Namespace, images: Images) -> None:
    """Memory at the end of each of several epochs. The first one fills buffers; behind it memory wanders with what was
    read last, so the later half of the epochs is held against the earlier one."""
    index = repeated(images.files, max(options.num_images, 16 * options.batch_size))
    order = order_of(len(index), options.batch_size, train=True)
    gpu = 0 if torch.cuda.is_available() else None
    dataset = dataset_of(index, train=True)
    where = {"num_threads": options.threads, "device_id": gpu, "hw_decoder_load": options.hw_decoder_load}
    loader = make_loader(dataset, order, backend="dali", **where)
    epoch, resident, device = ours(loader), [], []
    for _ in range(options.epochs):
        epoch()
        resident.append(_resident_megabytes())
        if gpu is not None:
            free, total = torch.cuda.mem_get_info()
            device.append((total - free) / 1e6)
    for name, sampled in {"resident memory": resident, "device memory": device}.items():
        if sampled:
            half = 1 + (len(sampled) - 1) // 2
            growth = 100 * (median(sampled[half:]) / median(sampled[1:half]) - 1)
            question = f"growth of the {name} from epochs 2 to {half} to {half + 1} to {options.epochs}, DALI"
            record.add(Row(question, growth, "%", "<= 2", growth <= 2, {"megabytes": sampled}))


def _resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def speed(record: Record, options: argparse.Namespace, images: Images) -> None:
    """Images/s of every loader on the CPU for both transforms, and the ratios that were to be reached."""
    files, shards = (repeated(index, options.num_images) for index in (images.files, images.shards))
    sizes = [float(np.mean([len(index.read(i)) for i in range(len(index))])) for index in (images.files, images.shards)]
    if not is_installed("nvidia.dali"):
        for name in BY_DALI:
            record.skip(f"images/s of {name}", NO_DALI)
    for train in (True, False):
        what = "training" if train else "validation"
        ways = loaders(files, shards, train=train, batch_size=options.batch_size, threads=options.threads)
        if train:
            ways[BARE] = bare_decode(files, options.threads)
        counts = {name: run() for name, run in ways.items()}
        seconds = seconds_of(ways, rounds=options.rounds, warmup=0)
        rates = {name: counts[name] / seconds[name] for name in ways}
        rows = [Row(f"{what}, {name}", value, "images/s") for name, value in rates.items()]
        if train:
            rows[0].detail = {"bytes an image": sizes[0], "bytes an image in shards": sizes[1]}
            rows += _ratios(rates) if DALI in rates else []
        record.add(*rows)


def _ratios(rate: dict[str, float]) -> list[Row]:
    bare = rate[BARE]
    wanted = [
        ("DALI CPU against torchvision's DataLoader, original files", rate[DALI] / rate[PIL], 1.5),
        ("DALI CPU from shards against torchvision's DataLoader on the original files", rate[SHARDS] / rate[PIL], 3.0),
        ("DALI CPU against the bare decoding of whole images", rate[DALI] / bare, 0.6),
    ]
    rows = [Row(name, ratio, "times", f">= {least}", ratio >= least) for name, ratio, least in wanted]
    whole, alone = 1 / rate[DALI], 1 / rate[ALONE]
    rows[2].detail = {
        "of a DALI image, reading and decoding its window": alone / whole,
        "of a DALI image, resize, flip and float": 1 - alone / whole,
        "of bare decoding, reading and decoding the window": alone * bare,
    }
    return rows


def accuracy(record: Record, options: argparse.Namespace, images: Images) -> None:
    """Top-1 of a pretrained ResNet-18 on the files by both backends, and on the shards; and how far pixels differ."""
    model = load(f"timm:resnet18@{options.weights}")
    labels = torch.tensor([model.config.class_names.index(name) for name in images.files.class_names])
    ways = {
        "torchvision, original files": (images.files, "torchvision"),
        "DALI, original files": (images.files, "dali"),
        "DALI, shards": (images.shards, "dali"),
    }
    top1, seen = {}, {}
    for name, (files, backend) in ways.items():
        if backend == "dali" and not is_installed("nvidia.dali"):
            record.skip(f"top-1 of ResNet-18, {name}", NO_DALI)
            continue
        seen[name], found = validation_images(files, backend, batch_size=options.batch_size, threads=options.threads)
        with torch.inference_mode():
            logits = torch.cat([model(part) for part in seen[name].split(options.batch_size)])
        top1[name] = 100 * (logits.argmax(1) == labels[found]).double().mean().item()
        record.add(Row(f"top-1 of ResNet-18, {len(files)} images, {name}", top1[name], "%"))
    if len(top1) < len(ways):
        return
    theirs, dali, sharded = ways
    gap = abs(top1[dali] - top1[theirs])
    record.add(Row("top-1, DALI against torchvision", gap, "points", "<= 0.3", gap <= 0.3))
    record.add(Row("top-1, shards against original files, DALI", top1[sharded] - top1[dali], "points"))
    record.add(pixels_row("validation pixels, DALI against torchvision", images.files, seen[dali], seen[theirs]))


def start(record: Record, options: argparse.Namespace, images: Images) -> None:
    """From the start of a run, whose files are known, to its first batch."""
    seconds = seconds_to_first_batch(images.files, options.start_files, images.room, options.threads)
    whole = seconds["index"] + seconds["first batch"]
    question = f"start to first batch with {options.start_files:,} files, from their index"
    record.add(Row(question, whole, "s", "< 10", whole < 10, seconds))


SECTIONS = {
    "decoder": decoder,
    "training": training,
    "memory": memory,
    "speed": speed,
    "accuracy": accuracy,
    "start": start,
}
"""In their order: those of a GPU come first."""
ON_A_GPU = ("decoder", "training", "memory")
"""Where there is one; the others are the processor's."""
SECTION_GUESS = 20.0
"""Seconds that the shortest of them takes."""
BY_DALI_ALONE = (*ON_A_GPU, "start")


def lacking(section: str, options: argparse.Namespace) -> str | None:
    """What keeps a section from being measured here."""
    if section in BY_DALI_ALONE and not is_installed("nvidia.dali"):
        return NO_DALI
    gpu = torch.cuda.is_available()
    there = {
        "decoder": (gpu, "there is no CUDA GPU here"),
        "training": (gpu or options.train, "there is no CUDA GPU here, and --train was not given"),
        "accuracy": (options.weights, "--weights was not given"),
        "start": (options.start_files, "--start-files was not given"),
    }
    found, reason = there.get(section, (True, None))
    return None if found else reason


def parse() -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=tuple(SECTIONS))
    parser.add_argument("--minutes", type=float, help="after which no section begins; default: no limit")
    parser.add_argument("--short-side", type=int, default=352)
    parser.add_argument("--quality", type=int, default=90)
    parser.add_argument("--threads", type=int, default=decoding_threads(), help=THREADS_HELP)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-images", type=int, default=1024, help="of an epoch; files are repeated to reach it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=9, help="over which memory is watched, at least 3")
    parser.add_argument("--start-files", type=int, default=0)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--hw-decoder-load", type=float, default=HW_DECODER_LOAD, help="where --tune does not find it")
    parser.add_argument("--train", action="store_true", help="train end to end on the CPU too")
    parser.add_argument("--architecture", default="resnet50", help="that is trained end to end")
    of_both = "of the sections decoder and training"
    parser.add_argument("--training-batch-size", type=int, default=256 if gpu else 64, help=of_both)
    parser.add_argument("--training-batches", type=int, default=32 if gpu else 16, help=f"of an epoch {of_both}")
    return parser.parse_args()


def minutes_of(options: argparse.Namespace) -> float:
    """That all may take."""
    return math.inf if options.minutes is None else options.minutes


def records(options: argparse.Namespace) -> dict[Kind, Record]:
    """Device -> what takes its rows, which is one for both where there is no GPU."""
    settings = {name: value for name, value in vars(options).items() if name not in ("data", "weights")}
    name = "_".join(["data", *(options.sections if options.sections != tuple(SECTIONS) else ())])
    cpu = Record(name, minutes_of(options), dict(settings), on="cpu")
    gpu = (
        Record(name, minutes_of(options), settings | decoder_versions(), on="cuda")
        if torch.cuda.is_available()
        else cpu
    )
    return {"cpu": cpu, "cuda": gpu}


def main() -> None:
    options = parse()
    record_of = records(options)
    with watchdog(minutes_of(options)), tempfile.TemporaryDirectory() as folder:
        images = Images(options, Path(folder))
        for record in record_of.values():
            record.settings["files"] = len(images.files)
        for section in (name for name in SECTIONS if name in options.sections):
            record = record_of["cuda" if section in ON_A_GPU else "cpu"]
            if reason := lacking(section, options):
                record.skip(section, reason)
                continue
            if not record.allows(section, SECTION_GUESS):
                continue
            with record.section(section):
                SECTIONS[section](record, options, images)
            gc.collect()  # a process that is forked later must not come to what DALI or the GPU left
    for record in dict.fromkeys(record_of.values()):
        if record.rows or record.skipped:
            record.report()


if __name__ == "__main__":
    main()
