"""What does AutoAttack cost here, and what in the authors' own loop?

    python benchmarks/autoattack.py mnist --data MNIST/raw --weights NET.pth --num-images 1000
    python benchmarks/autoattack.py imagenet --data FOLDER --weights resnet18.safetensors --num-images 200
    python benchmarks/autoattack.py mnist --data MNIST/raw --weights NET.pth --two-seeds

Both sides run the same four stages of the same package on the same images, one after the other in one run, each in
fresh processes whose start is not counted. Ours: the stages through `lightning_sq.evaluate`, with the
cheap ones first and FAB-T last, frozen weights, one process or two, and APGD asks about no image that it has broken.
The starts are drawn at random, by the authors for a batch, by us for an image, so that the number of processes changes
nothing: --two-seeds says how many verdicts chance decides in the authors' own loop.

mnist: the net of the published robust models, conv(16, 4, 2, 1) relu conv(32, 4, 2, 1) relu linear(100) relu
linear(10), at 0.3. imagenet: a ResNet-18 of timm at 224 px, at 4/255, on a folder with a class folder for each synset:
on an undefended net of which APGD-CE leaves nothing, so that our times are those of APGD-CE and the checks alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common.harness import Row, report
from torch import Tensor, nn

import lightning_sq
from lightning_sq.commands.evaluation_images import choose_images, read_images


@dataclass(frozen=True)
class Case:
    """A net, its images, how large the parts of a batch may be, and what is to be known of its rows."""

    network: Callable[[str], nn.Module]
    images_and_labels: Callable[[argparse.Namespace], tuple[Tensor, Tensor]]
    epsilon: float
    batch_size: int
    note: str = ""


@dataclass(frozen=True)
class Side:
    """One way to run the stages; `share` of the case's batch size."""

    ours: bool
    processes: int
    threads: int
    share: float = 1.0
    seed: int = 0


SIDES = {
    "authors, 1 process": Side(False, 1, 2),
    "ours, 1 process": Side(True, 1, 2),
    "ours, 1 process, 1 thread": Side(True, 1, 1, 0.2),
    "ours, 2 processes, 1 thread each": Side(True, 2, 1, 0.2),
}
SEEDS = {f"authors, seed {seed}": Side(False, 1, 2, seed=seed) for seed in (0, 1)}


def mnist_network(path: str) -> nn.Sequential:
    """The published net; its layers come in order, whatever their names."""
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10)),
    )
    saved = torch.load(path, weights_only=True, map_location="cpu")
    saved = saved.get("state_dict", saved)
    net.load_state_dict(dict(zip(net.state_dict(), saved.values(), strict=True)))
    return net.eval()


def mnist_images(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """The first test images of MNIST."""
    pixels = gzip.decompress(Path(options.data, "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress(Path(options.data, "t10k-labels-idx1-ubyte.gz").read_bytes())
    images = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 1, 28, 28)[: options.num_images]
    return torch.from_numpy(images / np.float32(255)), torch.from_numpy(
        np.frombuffer(labels, np.uint8, offset=8)[: options.num_images].astype(np.int64)
    )


def imagenet_network(path: str) -> nn.Module:
    """timm's ResNet-18 with the weights of a file."""
    return lightning_sq.load(f"timm:resnet18@{path}")


def imagenet_images(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Photographs of the folder, cut as the net wants them."""
    files = choose_images(Path(options.data), options.num_images, 0, allow_unreadable=False)
    config = imagenet_network(options.weights).config
    device = torch.device("cpu")
    return read_images(config, files, batch_size=50, backend="torchvision", num_threads=2, device=device)


CASES = {
    "mnist": Case(mnist_network, mnist_images, 0.3, 250),
    "imagenet": Case(
        imagenet_network, imagenet_images, 4 / 255, 50, ", on an undefended net of which APGD-CE leaves nothing"
    ),
}


def work(rank: int, side: Side, options: argparse.Namespace, folder: str) -> None:
    """One process of one side; process 0 leaves seconds and verdicts in a file."""
    torch.set_num_threads(side.threads)
    if side.processes > 1:
        where = f"file://{folder}/meeting"
        torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=side.processes)
    case = CASES[options.case]
    net, (x, y) = case.network(options.weights), torch.load(Path(folder, "images.pt"))
    batch_size = max(1, round(case.batch_size * side.share))
    net(x[:2])
    began = time.perf_counter()
    if side.ours:
        stages = ["apgd_ce", "apgd_t", "square", "fab_t"]
        found = lightning_sq.evaluate(net, x, y, epsilon=case.epsilon, attacks=stages, batch_size=batch_size)
        checks = time.perf_counter() - began - sum(row["seconds"] for row in found.table) / side.processes
        robust = found.verdicts
        spent = {row["attack"]: row["seconds"] for row in found.table}
        profile = {"seconds of the stages, all processes together": spent, "seconds of checks and the rest": checks}
    else:
        from pyautoattack import AutoAttack

        attack = AutoAttack(net, norm="Linf", eps=case.epsilon, seed=side.seed, version="standard")
        adversarial, _ = attack.run_standard_evaluation(x, y, batch_size=batch_size)
        robust, profile = net(adversarial).argmax(1) == y, {}
    seconds = time.perf_counter() - began
    if rank == 0:
        content = {"seconds": seconds, "robust": robust.tolist(), "profile": profile}
        Path(folder, "found.json").write_text(json.dumps(content))


def run(sides: dict[str, Side], images: tuple[Tensor, Tensor], options: argparse.Namespace) -> dict[str, dict]:
    """What process 0 of each side left, one side after the other."""
    found = {}
    for name, side in sides.items():
        with tempfile.TemporaryDirectory() as folder:
            torch.save(images, Path(folder, "images.pt"))
            torch.multiprocessing.spawn(work, (side, options, folder), nprocs=side.processes)
            found[name] = json.loads(Path(folder, "found.json").read_text())
        print(f"{name}: {found[name]['seconds']:.1f} s, {sum(found[name]['robust'])} robust", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=tuple(CASES))
    parser.add_argument("--data", required=True, help="folder of the four MNIST files, or of the photographs")
    parser.add_argument("--weights", required=True, help="of the net")
    parser.add_argument("--num-images", type=int, default=200)
    parser.add_argument("--two-seeds", action="store_true", help="the authors' loop against itself alone")
    options = parser.parse_args()
    images = CASES[options.case].images_and_labels(options)
    settings = {"case": options.case, "num_images": len(images[1]), "epsilon": CASES[options.case].epsilon}
    note = CASES[options.case].note
    if options.two_seeds:
        first, second = run(SEEDS, images, options).values()
        rows = [_same(f"verdicts of the authors' that another seed leaves as they were{note}", first, second)]
        report(f"autoattack-{options.case}-seeds", rows, skipped=[], settings=settings, on="cpu")
        return
    found = run(SIDES, images, options)
    authors, ours, one, two = found.values()
    detail = {name: {"seconds": f["seconds"], "robust": sum(f["robust"])} for name, f in found.items()}
    rows = [
        _row(f"one process of ours against the authors' loop{note}", ours, authors, 0.6, detail),
        _row(f"two processes of ours against the authors' loop{note}", two, authors, 0.6, two["profile"]),
        _row(f"two processes against one{note}", two, one, 0.6, one["profile"]),
        _same(f"verdicts that are the same as the authors'{note}", authors, two, to_reach=1.0),
    ]
    report(f"autoattack-{options.case}", rows, skipped=[], settings=settings, on="cpu")


def _same(question: str, one: dict, other: dict, to_reach: float | None = None) -> Row:
    """The share of images of which both say the same, and how many each one broke alone."""
    pairs = list(zip(one["robust"], other["robust"], strict=True))
    share = sum(a == b for a, b in pairs) / len(pairs)
    detail = {"broken by the first alone": pairs.count((False, True)), "by the second": pairs.count((True, False))}
    if to_reach is None:
        return Row(question, share, "share", detail=detail)
    return Row(question, share, "share", f"{to_reach:g}", share >= to_reach, detail)


def _row(question: str, numerator: dict, denominator: dict, to_reach: float, detail: dict) -> Row:
    ratio = numerator["seconds"] / denominator["seconds"]
    return Row(question, ratio, "of the time", f"<= {to_reach}", ratio <= to_reach, detail)


if __name__ == "__main__":
    main()
