"""How near does each attack come to the truth, where it is known?

    python benchmarks/truth.py --data data/mnist/val --model bounds=runs/mnist_interval_bound/checkpoints/last.ckpt

Interval bounds, branch and bound and mixed-integer programming settle every image of a model that was trained by
interval bounds: either it is proven, or an image is there that is misclassified. The images of the second kind are then
given to each attack of `evaluate` by itself, and what it does not find is what it would call robust and is not. Writes
truth.json, README.md and truth.png to --output; stopped and started again with the same words it goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from common.harness import command_typed, provenance, write_page, written_by
from torch import Tensor

from lightning_sq.commands.evaluation_images import choose_images, read_images
from lightning_sq.evaluation import evaluate
from lightning_sq.evaluation.suites import PROVING, attacks_by_name
from lightning_sq.evaluation.tables import format_epsilon, percent
from lightning_sq.models import PixelClassifier
from lightning_sq.progress import progress_bar
from lightning_sq.release import load
from lightning_sq.types import parse_epsilon

TITLES = {"all": "**all of them**"}


def measure(
    model: PixelClassifier, images: Tensor, labels: Tensor, options: argparse.Namespace, runs: Path
) -> dict[str, Any]:
    """The truth about these images, and how many of those that can be broken each attack breaks."""
    epsilon = parse_epsilon(options.epsilon)
    with progress_bar(f"settling {runs.name}", "passes of the model") as advance:
        settled = evaluate(
            model, images, labels, epsilon=epsilon, attacks=",".join(PROVING), batch_size=32,
            store=runs / "settled", checks=False, progress=advance,
        )  # fmt: skip
    assert settled.certified is not None
    proven, wrong = settled.certified[epsilon], ~settled.survived()
    breakable = settled.correct & wrong
    attacks = {name: replace(entry, on_everyone=True) for name, entry in attacks_by_name(options.attacks).items()}
    broken = dict.fromkeys([*attacks, "all"], 0)
    if breakable.any():
        with progress_bar(f"attacking {runs.name}", "passes of the model") as advance:
            attacked = evaluate(
                model, images[breakable], labels[breakable], epsilon=epsilon, attacks=attacks,
                store=runs / "attacked", checks=False, progress=advance,
            )  # fmt: skip
        broken = {name: int((~attacked.survived(attacks=[name])).sum()) for name in attacked.outcomes}
        broken["all"] = int((~attacked.verdicts).sum())
    return {
        "num_images": len(images),
        "clean": int(settled.correct.sum()),
        "proven": int(proven.sum()),
        "not_known": int((~proven & ~wrong).sum()),
        "breakable": int(breakable.sum()),
        "broken": broken,
    }


def found(row: dict[str, Any], attack: str) -> float:
    """Share of the breakable images."""
    return row["broken"][attack] / row["breakable"] if row["breakable"] else 0.0


def attacks_of(content: dict[str, Any]) -> list[str]:
    """In the order of the suite, those that any of the models had."""
    return [name for name in content["titles"] if any(name in row["broken"] for row in content["models"].values())]


def markdown(content: dict[str, Any]) -> str:
    """The page, from the numbers alone."""
    models = content["models"]
    lines = [
        "# How near each attack comes to the truth",
        "",
        f"Written by {written_by(content, 'truth')}."
        " Of (nearly) each image of these models the truth is known: interval",
        "bounds, branch and bound or mixed-integer programming have proven it, or have found an image in the L-inf",
        f"ball of {content['epsilon']} that is misclassified. Those of the second kind were given to every attack by",
        f"itself, on {content['device']}. A hard quantizer has no gradient of its own, which is why plain attacks see",
        "so little of what is there.",
        "",
        "| model | images | right as they are | truly robust | not known |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, row in models.items():
        shares = (percent(row[key] / row["num_images"]) for key in ("clean", "proven", "not_known"))
        lines.append(f"| {name} | {row['num_images']:,} | {' | '.join(shares)} |")
    lines += [
        "",
        "Found, in % of the images that can be broken; what is missing to 100 an attack would call robust. Behind it",
        "the robust accuracy that the attack alone would report.",
        "",
        f"| attack | {' | '.join(f'{name} | reported' for name in models)} |",
        f"| --- |{' ---: |' * 2 * len(models)}",
    ]
    for attack in attacks_of(content):
        cells = []
        for row in models.values():
            reported = (row["clean"] - row["broken"].get(attack, 0)) / row["num_images"]
            cells += [percent(found(row, attack)), percent(reported)] if attack in row["broken"] else ["–", "–"]
        lines.append(f"| {content['titles'][attack]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "![what each attack finds](truth.png)", ""])


def draw(content: dict[str, Any]) -> plt.Figure:
    """A bar for each attack and model: the share that it finds."""
    names, models = attacks_of(content)[::-1], content["models"]
    figure, axes = plt.subplots(figsize=(9, 0.3 * len(names) + 1.6), layout="constrained")
    height = 0.8 / len(models)
    for number, (title, row) in enumerate(models.items()):
        places = [i + height * (len(models) / 2 - number - 0.5) for i in range(len(names))]
        shares = [100 * found(row, name) if name in row["broken"] else 0.0 for name in names]
        axes.barh(places, shares, height, label=f"{title}, {row['breakable']} images")
        for place, name in zip(places, names, strict=True):
            if name not in row["broken"]:
                axes.text(0.5, place, "not for this model", va="center", fontsize=5, color="grey")
    axes.axvline(100, color="k", lw=0.8)
    axes.set(
        yticks=range(len(names)),
        xlim=(0, 102),
        xlabel=f"found, % of the images that can be broken within {content['epsilon']}",
    )
    axes.set_yticklabels([content["titles"][name].strip("*") for name in names], fontsize=8)
    axes.margins(y=0.01)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", fontsize=8, ncols=2)
    axes.grid(axis="x", alpha=0.3)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with a class folder for each label")
    parser.add_argument("--model", action="append", required=True, metavar="NAME=MODEL")
    parser.add_argument("--epsilon", default="0.3")
    parser.add_argument("--num-images", type=int, default=10_000)
    parser.add_argument("--attacks", default="standard")
    parser.add_argument("--runs", type=Path, default=Path("runs/truth"), help="where verdicts are kept")
    parser.add_argument("--output", type=Path, default=Path("results/truth"))
    options = parser.parse_args()
    files = choose_images(options.data, options.num_images, 0, allow_unreadable=False)
    models = {}
    for name, _, source in (text.partition("=") for text in options.model):
        model = load(source)
        images, labels = read_images(
            model.config, files, batch_size=50, backend="torchvision", num_threads=2, device=torch.device("cpu")
        )
        weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
        runs = options.runs / f"{name} {hashlib.sha256(weights).hexdigest()[:8]}"
        models[name] = measure(model, images, labels, options, runs)
    titles = {name: entry.title for name, entry in attacks_by_name(options.attacks).items()} | TITLES
    epsilon = format_epsilon(parse_epsilon(options.epsilon))
    content = {
        "command": command_typed(),
        "epsilon": epsilon,
        **provenance(on="cpu"),
        "titles": titles,
        "models": models,
    }
    write_page(options.output, "truth", content, markdown(content), draw(content))


if __name__ == "__main__":
    main()
