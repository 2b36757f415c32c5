"""Does the loader keep up?   python benchmarks/data.py --data FOLDER [--weights resnet18.safetensors]

FOLDER holds JPEG files of original size, <class>/*.JPEG. All loaders read the same files in turn on the same cores:
ours, what a user of torchvision would write, and bare decoding; then from shards whose images were shrunk once. With
weights of a timm ResNet-18 the top-1 on each is compared (folders are synsets). --start-files links that many files and
times the way to the first batch. On a GPU: DALI's mixed decoder (--tune searches the share of the hardware engine) and
its memory, and a ResNet-50 trained end to end against the same step on one batch in memory. These rows are kept in a
file of their own there, since the others are the processor's.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common.harness import Row, report, seconds_of, usual_device
from data_parts.cuts import dataset_of, order_of
from data_parts.loaders import DaliLoader, bare_decode, loaders, ours
from data_parts.pixels import pixels_row, validation_images
from data_parts.start import seconds_to_first_batch
from data_parts.training import training_rows

from lightning_sq.data.image_index import ImageIndex
from lightning_sq.data.index import load_index
from lightning_sq.data.shard_writer import ShardSettings, write_shards
from lightning_sq.release import load

PIL, DALI, SHARDS, ALONE = "torchvision DataLoader (PIL)", "DALI CPU", "DALI CPU, shards", "DALI CPU, decoding alone"


def speed_rows(index: ImageIndex, shards: ImageIndex, options: argparse.Namespace) -> list[Row]:
    """Images/s of every loader for both transforms, and the ratios that were to be reached."""
    rows = []
    for train in (True, False):
        what = "training" if train else "validation"
        ways = loaders(index, shards, train=train, batch_size=options.batch_size, threads=options.threads)
        if train:
            ways["libjpeg-turbo alone, whole images"] = bare_decode(index, options.threads)
        counts = {name: run() for name, run in ways.items()}
        seconds = seconds_of(ways, rounds=options.rounds, warmup=0)
        rate = {name: counts[name] / seconds[name] for name in ways}
        rows += [Row(f"{what}, {name}", value, "images/s") for name, value in rate.items()]
        if train:
            rows += _ratios(rate)
    return rows


def _ratios(rate: dict[str, float]) -> list[Row]:
    bare = rate["libjpeg-turbo alone, whole images"]
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


def memory_rows(index: ImageIndex, options: argparse.Namespace) -> list[Row]:
    """Memory at the end of each of several epochs. The first one fills buffers; behind it memory wanders with what was
    read last, so the later half of the epochs is held against the earlier one."""
    order = order_of(len(index), options.batch_size, train=True)
    gpu = 0 if torch.cuda.is_available() else None
    loader = DaliLoader(dataset_of(index, train=True), order, num_threads=options.threads, device_id=gpu)
    epoch, resident, device = ours(loader), [], []
    for _ in range(options.epochs):
        epoch()
        resident.append(_resident_megabytes())
        if gpu is not None:
            free, total = torch.cuda.mem_get_info()
            device.append((total - free) / 1e6)
    rows = []
    for name, sampled in {"resident memory": resident, "device memory": device}.items():
        if sampled:
            half = 1 + (len(sampled) - 1) // 2
            growth = 100 * (median(sampled[half:]) / median(sampled[1:half]) - 1)
            question = f"growth of the {name} from epochs 2 to {half} to {half + 1} to {options.epochs}, DALI"
            rows.append(Row(question, growth, "%", "<= 2", growth <= 2, {"megabytes": sampled}))
    return rows


def _resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def accuracy_rows(index: ImageIndex, shards: ImageIndex, options: argparse.Namespace) -> list[Row]:
    """Top-1 of a pretrained ResNet-18 on the files by both backends, and on the shards; and how far pixels differ."""
    model = load(f"timm:resnet18@{options.weights}")
    labels = torch.tensor([model.config.class_names.index(name) for name in index.class_names])
    top1, images = {}, {}
    for name, files, backend in (
        ("torchvision, original files", index, "torchvision"),
        ("DALI, original files", index, "dali"),
        ("DALI, shards", shards, "dali"),
    ):
        sizes = {"batch_size": options.batch_size, "threads": options.threads}
        images[name], found = validation_images(files, backend, **sizes)
        with torch.inference_mode():
            logits = torch.cat([model(part) for part in images[name].split(options.batch_size)])
        top1[name] = 100 * (logits.argmax(1) == labels[found]).double().mean().item()
    theirs, dali, sharded = top1
    rows = [Row(f"top-1 of ResNet-18, {len(index)} images, {name}", value, "%") for name, value in top1.items()]
    gap = abs(top1[dali] - top1[theirs])
    rows.append(Row("top-1, DALI against torchvision", gap, "points", "<= 0.3", gap <= 0.3))
    rows.append(Row("top-1, shards against original files, DALI", top1[sharded] - top1[dali], "points"))
    question = "validation pixels, DALI against torchvision"
    return [*rows, pixels_row(question, index, images[dali], images[theirs])]


def gpu_rows(index: ImageIndex, options: argparse.Namespace) -> list[Row]:
    """Images/s of DALI's mixed decoder, by the share of images that go to the hardware engine if it is to be tuned."""
    shares = [0.0, 0.25, 0.5, 0.65, 0.8, 1.0] if options.tune else [options.hw_decoder_load]
    rows = []
    for train in (True, False):
        dataset, order = dataset_of(index, train=train), order_of(len(index), options.batch_size, train=train)
        common = {"num_threads": options.threads, "device_id": 0}
        ways = {share: ours(DaliLoader(dataset, order, hw_decoder_load=share, **common)) for share in shares}
        seconds = seconds_of(ways, rounds=options.rounds, warmup=1)
        best = min(seconds, key=seconds.get)
        what = f"{'training' if train else 'validation'}, DALI GPU, --data.hw_decoder_load {best}"
        tried = {str(share): len(index) / value for share, value in seconds.items()}
        rows.append(Row(what, tried[str(best)], "images/s", detail={"images/s by hw_decoder_load": tried}))
    return rows


def start_rows(options: argparse.Namespace, samples: ImageIndex, room: Path) -> list[Row]:
    seconds = seconds_to_first_batch(samples, options.start_files, room, options.threads)
    whole = seconds["index"] + seconds["first batch"]
    question = f"start to first batch with {options.start_files:,} files, from their index"
    return [Row(question, whole, "s", "< 10", whole < 10, seconds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--short-side", type=int, default=352)
    parser.add_argument("--quality", type=int, default=90)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-images", type=int, default=1024, help="of an epoch; files are repeated to reach it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=9, help="over which memory is watched, at least 3")
    parser.add_argument("--start-files", type=int, default=0)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--hw-decoder-load", type=float, default=0.65)
    parser.add_argument("--train", action="store_true", help="train end to end on the CPU too")
    parser.add_argument("--architecture", default="resnet50", help="that is trained end to end")
    options = parser.parse_args()
    if options.num_images <= options.batch_size:
        parser.error("--num-images has to be above --batch-size: the first batch of an epoch only fills the pipeline")
    device, began = usual_device(), time.time()
    gpu, rows = device == "cuda", {"cpu": [], device: []}
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        samples = load_index(options.data, cache=room / "cache")
        write_shards(samples, room / "shards", ShardSettings(options.short_side, options.quality))
        small = load_index(room / "shards", cache=room / "cache")
        often = np.resize(np.arange(len(samples)), options.num_images)
        rows["cpu"] += speed_rows(samples.take(often), small.take(often), options)
        sizes = [float(np.mean([len(index.read(i)) for i in range(len(index))])) for index in (samples, small)]
        rows["cpu"][0].detail = {"bytes an image": sizes[0], "bytes an image in shards": sizes[1]}
        rows[device] += memory_rows(samples.take(np.resize(often, max(len(often), 16 * options.batch_size))), options)
        rows["cpu"] += accuracy_rows(samples, small, options) if options.weights else []
        rows["cpu"] += start_rows(options, samples, room) if options.start_files else []
        rows[device] += gpu_rows(samples.take(often), options) if gpu else []
        if gpu or options.train:
            images = samples.take(often)
            rows[device] += training_rows(images, options.architecture, options.batch_size, options.threads)
    wanted = {"top-1 and pixels: --weights": options.weights, "start: --start-files": options.start_files}
    skipped = [f"{name} was not given" for name, value in wanted.items() if not value]
    skipped += [] if gpu else ["the rows of a CUDA GPU (mixed decoder, ResNet-50 end to end): there is none here"]
    settings = {name: value for name, value in vars(options).items() if name not in ("data", "weights")}
    settings |= {"files": len(samples), "seconds": time.time() - began}
    for on, found in rows.items():
        report("data", found, skipped=skipped if on == "cpu" else [], settings=settings, on=on)


if __name__ == "__main__":
    main()
