"""What does quantization cost a pretrained network, and what does it buy, before any fine-tuning?

    python benchmarks/levels.py --data FOLDER --model resnet18=timm:resnet18 --model resnet50=timm:resnet50

Each model (anything that `lightning_sq.load` takes, without a quantizer of its own) gets a soft-quantization layer of
2, 4, ... levels in front, and nothing is trained. Clean top-1 on --num-images of the folder, and on --num-attacked of
them the worst case over the attacks at each epsilon. Writes levels.json, README.md and levels.png to --output; stopped
and started again with the same words it goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from common.harness import command_typed, provenance, write_page, written_by
from torch import Tensor

from lightning_sq.commands.evaluation_images import choose_images, read_images
from lightning_sq.evaluation import evaluate
from lightning_sq.evaluation.suites import SUITE_VERSION
from lightning_sq.evaluation.tables import format_epsilon, percent
from lightning_sq.models import PixelClassifier, QuantizerConfig, build_model
from lightning_sq.ops.tensor_digest import add_tensors
from lightning_sq.paths import write_whole
from lightning_sq.progress import progress_bar
from lightning_sq.release import load
from lightning_sq.types import parse_epsilon

LEVELS = (2, 4, 8, 16, 32, 256)
SHARPNESS_OF_A_LEVEL = 12.5
"""Sharpness over the number of levels, as in configs/imagenet.yaml: the stairs of every quantizer are equally steep."""
EPSILONS = ("1/255", "2/255", "4/255")


def quantized(model: PixelClassifier, num_levels: int | None) -> PixelClassifier:
    """The same weights behind a quantizer; None leaves the model as it is."""
    if num_levels is None:
        return model
    quantizer = QuantizerConfig(num_levels, SHARPNESS_OF_A_LEVEL * num_levels)
    found = build_model(replace(model.config, quantizer=quantizer))
    missing, unexpected = found.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("quantize.") for name in missing)
    return found.eval()


def clean_top1(model: PixelClassifier, images: Tensor, labels: Tensor, batch_size: int) -> float:
    """Share of the images that are classified as labelled."""
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    with torch.inference_mode():
        return sum(int((model(x).argmax(1) == y).sum()) for x, y in parts) / len(labels)


def kept(file: Path, asked: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives, from `file` if it was made there for the same `asked`."""
    if file.exists() and (known := json.loads(file.read_text()))["asked"] == asked:
        return known["found"]
    found = make()
    write_whole(file, json.dumps({"asked": asked, "found": found}) + "\n")
    return found


def measure(model: PixelClassifier, images: Tensor, labels: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """Clean top-1 of all images, and the worst case over every n-th of them at each epsilon."""
    every = max(1, len(labels) // options.num_attacked)
    few = slice(0, every * options.num_attacked, every)
    found = evaluate(
        model,
        images[few],
        labels[few],
        epsilon=EPSILONS,
        attacks=options.attacks,
        batch_size=options.batch_size,
        checks=False,
    )
    return {
        "clean": clean_top1(model, images, labels, options.batch_size),
        "clean_of_attacked": found.clean_accuracy,
        "worst_case": {text: found.survived(parse_epsilon(text)).double().mean().item() for text in EPSILONS},
    }


def draw(content: dict[str, Any]) -> plt.Figure:
    """Left: clean top-1 over the levels. Right: the worst case over epsilon, a line for each number of levels."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    name = next(iter(content["models"]))
    colors = plt.get_cmap("viridis")
    for number, (model, rows) in enumerate(content["models"].items()):
        levels = [row for row in rows if row["levels"]]
        style = {"color": f"C{number}", "marker": "o"}
        left.plot([row["levels"] for row in levels], [100 * row["clean"] for row in levels], label=model, **style)
        plain = next(row for row in rows if not row["levels"])
        left.axhline(100 * plain["clean"], ls="--", lw=1, color=f"C{number}", label=f"{model}, plain")
    left.set(xscale="log", xlabel="levels a channel", ylabel="clean top-1, %", ylim=(0, 100))
    left.set_xticks(LEVELS, [str(level) for level in LEVELS])
    left.minorticks_off()
    left.legend(fontsize=8)
    for number, row in enumerate(content["models"][name]):
        points = [(0.0, row["clean_of_attacked"])]
        points += [(parse_epsilon(text) * 255, value) for text, value in row["worst_case"].items()]
        look = {"color": "black", "ls": "--"} if row["levels"] is None else {"color": colors(number / len(LEVELS))}
        above = len(LEVELS) - number  # what lies under another line shows at its sides
        look |= {"lw": 1 + 0.6 * above, "ms": 4 + 0.8 * above}
        label = "plain" if row["levels"] is None else f"{row['levels']} levels"
        right.plot([x for x, _ in points], [100 * y for _, y in points], marker="o", label=label, **look)
    right.set(xlabel="epsilon, 1/255", ylabel="accuracy under the worst case, %", ylim=(0, 100))
    right.set_title(f"{name}, {content['num_attacked']} images", fontsize=10)
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def markdown(content: dict[str, Any]) -> str:
    """The page, from the numbers alone."""
    lines = [
        "# What quantization costs a pretrained network, and what it does not buy",
        "",
        f"Written by {written_by(content, 'levels')}. Nothing is trained here: {', '.join(content['models'])} with a",
        f"soft-quantization layer in front, whose sharpness is {SHARPNESS_OF_A_LEVEL:g} times its number of levels.",
        f"Clean top-1 on {content['num_images']} photographs, in % like all numbers here, and the worst case over",
        f"{', '.join(content['attacks'])} on {content['num_attacked']} of them, on {content['device']}.",
        "",
        "| model | levels | clean | clean of the attacked | " + " | ".join(f"at {e}" for e in EPSILONS) + " |",
        "| --- | ---: | ---: | ---: |" + " ---: |" * len(EPSILONS),
    ]
    for name, rows in content["models"].items():
        for row in rows:
            numbers = [row["clean"], row["clean_of_attacked"], *row["worst_case"].values()]
            levels = "plain" if row["levels"] is None else str(row["levels"])
            lines.append(f"| {name} | {levels} | {' | '.join(percent(number) for number in numbers)} |")
    return "\n".join([*lines, "", "![levels, accuracy and the worst case](levels.png)", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with a class folder for each label")
    parser.add_argument("--model", action="append", required=True, metavar="NAME=MODEL")
    parser.add_argument("--runs", type=Path, default=Path("runs/levels"), help="where each model's numbers are kept")
    parser.add_argument("--output", type=Path, default=Path("results/levels"))
    parser.add_argument("--num-images", type=int, default=1000)
    parser.add_argument("--num-attacked", type=int, default=64)
    parser.add_argument("--attacks", default="pgd,pgd_margin,bpda,quantized_box")
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    files = choose_images(options.data, options.num_images, 0, allow_unreadable=False)
    models: dict[str, list[dict[str, Any]]] = {}
    wanted = [text.partition("=")[::2] for text in options.model]
    with progress_bar("quantizing and attacking", "models") as advance:
        for name, source in wanted:
            plain = load(source)
            images, labels = read_images(
                plain.config, files, batch_size=50, backend="torchvision", num_threads=2, device=torch.device("cpu")
            )
            weights = hashlib.sha256()
            add_tensors(weights, plain.state_dict())
            asked = {"model": source, "weights": weights.hexdigest(), "images": list(files.paths)}
            asked |= {"epsilons": list(EPSILONS), "sharpness": SHARPNESS_OF_A_LEVEL, "suite": SUITE_VERSION}
            asked |= {name: getattr(options, name) for name in ("num_attacked", "attacks", "batch_size")}
            for levels in (None, *LEVELS):
                row = kept(
                    options.runs / f"{name}_{levels or 'plain'}.json",
                    asked,
                    lambda: measure(quantized(plain, levels), images, labels, options),  # noqa: B023 - called at once
                )
                models.setdefault(name, []).append({"levels": levels} | row)
                advance(sum(map(len, models.values())), len(wanted) * (1 + len(LEVELS)), name)
    content = {
        "num_images": len(files),
        "num_attacked": min(options.num_attacked, len(files)),
        "attacks": options.attacks.split(","),
        "epsilons": [format_epsilon(parse_epsilon(text)) for text in EPSILONS],
        "command": command_typed(),
        **provenance(on="cpu"),
        "models": models,
    }
    write_page(options.output, "levels", content, markdown(content), draw(content))


if __name__ == "__main__":
    main()
