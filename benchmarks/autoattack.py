"""What does AutoAttack cost here, and what in the authors' own loop?

    python benchmarks/autoattack.py --data MNIST/raw --weights NET.pth [--num-images 200]

Both sides run the same four stages of the same package on the same images, one after the other in one run, each in
fresh processes whose start is not counted. Ours: the stages through `lightning_sq.evaluate`, with the
cheap ones first and FAB-T last, frozen weights, one process or two. The net is the one of the published robust MNIST
models: conv(16, 4, 2, 1) relu conv(32, 4, 2, 1) relu linear(100) relu linear(10).
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from harness import Row, report
from torch import Tensor, nn

EPSILON = 0.3


@dataclass(frozen=True)
class Side:
    """One way to run the stages."""

    ours: bool
    processes: int
    threads: int
    batch_size: int


SIDES = {
    "authors, 1 process": Side(False, 1, 2, 250),
    "ours, 1 process": Side(True, 1, 2, 250),
    "ours, 1 process, 1 thread": Side(True, 1, 1, 50),
    "ours, 2 processes, 1 thread each": Side(True, 2, 1, 50),
}


def network(path: str) -> nn.Sequential:
    """The published net; its layers come in order, whatever their names."""
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10)),
    )
    saved = torch.load(path, weights_only=True, map_location="cpu")
    saved = saved.get("state_dict", saved)
    net.load_state_dict(dict(zip(net.state_dict(), saved.values(), strict=True)))
    return net.eval()


def images_and_labels(folder: str, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` test images of MNIST."""
    pixels = gzip.decompress(Path(folder, "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress(Path(folder, "t10k-labels-idx1-ubyte.gz").read_bytes())
    images = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 1, 28, 28)[:count]
    return torch.from_numpy(images / np.float32(255)), torch.from_numpy(
        np.frombuffer(labels, np.uint8, offset=8)[:count].astype(np.int64)
    )


def work(rank: int, side: Side, options: argparse.Namespace, folder: str) -> None:
    """One process of one side; process 0 leaves seconds and verdicts in a file."""
    torch.set_num_threads(side.threads)
    if side.processes > 1:
        where = f"file://{folder}/meeting"
        torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=side.processes)
    net, (x, y) = network(options.weights), images_and_labels(options.data, options.num_images)
    import lightning_sq

    net(x[:2])
    began = time.perf_counter()
    if side.ours:
        stages = ["apgd_ce", "apgd_t", "square", "fab_t"]
        found = lightning_sq.evaluate(net, x, y, epsilon=EPSILON, attacks=stages, batch_size=side.batch_size)
        checks = time.perf_counter() - began - sum(row["seconds"] for row in found.table) / side.processes
        robust = found.verdicts
        profile = {row["attack"]: row["seconds"] for row in found.table} | {"checks and the rest": checks}
    else:
        from pyautoattack import AutoAttack

        attack = AutoAttack(net, norm="Linf", eps=EPSILON, seed=0, version="standard")
        adversarial, _ = attack.run_standard_evaluation(x, y, batch_size=side.batch_size)
        robust, profile = net(adversarial).argmax(1) == y, {}
    seconds = time.perf_counter() - began
    if rank == 0:
        content = {"seconds": seconds, "robust": robust.tolist(), "profile": profile}
        Path(folder, "found.json").write_text(json.dumps(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the four MNIST files")
    parser.add_argument("--weights", required=True, help="a state_dict of the net above")
    parser.add_argument("--num-images", type=int, default=200)
    options = parser.parse_args()
    found = {}
    for name, side in SIDES.items():
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(work, (side, options, folder), nprocs=side.processes)
            found[name] = json.loads(Path(folder, "found.json").read_text())
        print(f"{name}: {found[name]['seconds']:.1f} s, {sum(found[name]['robust'])} robust", flush=True)
    authors, ours, one, two = found.values()
    same = sum(a == b for a, b in zip(authors["robust"], two["robust"], strict=True))
    detail = {name: {"seconds": f["seconds"], "robust": sum(f["robust"])} for name, f in found.items()}
    rows = [
        _row("one process of ours against the authors' loop", ours, authors, 0.6, detail),
        _row("two processes of ours against the authors' loop", two, authors, 0.6, two["profile"]),
        _row("two processes against one", two, one, 0.6, one["profile"]),
        Row(
            "verdicts that are the same as the authors'",
            same / len(two["robust"]),
            "share",
            "1",
            same == len(two["robust"]),
        ),
    ]
    report("autoattack", rows, skipped=[], settings={"num_images": options.num_images, "epsilon": EPSILON})


def _row(question: str, numerator: dict, denominator: dict, to_reach: float, detail: dict) -> Row:
    ratio = numerator["seconds"] / denominator["seconds"]
    return Row(question, ratio, "of the time", f"<= {to_reach}", ratio <= to_reach, detail)


if __name__ == "__main__":
    main()
