"""Is a small input gradient real robustness, or hidden?   python benchmarks/theory.py --output results/theory

To first order an attacker with budget epsilon raises the loss by epsilon * ||grad_x CE||_1. A small net is trained in
each way, and that prediction is held against what plain PGD and the strongest attack of this project reach. Where the
attack finds more than was predicted, either the loss bends (then plain PGD finds it too) or the quantizer hides the
gradient (then only attacks that undo the quantizer find it).
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib.pyplot as plt
import torch
from common.harness import provenance, write_page
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_sq.attacks import PGD, QuantizedBox, Square, with_bpda
from lightning_sq.data.backends import make_loader, read_all
from lightning_sq.data.crop import resize_and_center_crop
from lightning_sq.data.digits import write_digits
from lightning_sq.data.index import load_index
from lightning_sq.data.loader import Dataset
from lightning_sq.data.order import EpochOrder
from lightning_sq.layers import PixelNoise, SoftQuantization
from lightning_sq.metrics import input_gradient_l1
from lightning_sq.models import PixelClassifier
from lightning_sq.objectives import Adversarial, GradientPenalty, IntervalBound, Natural, NoisyNatural, Objective
from lightning_sq.progress import progress_bar

SIZE = 32
MARKERS = "osD^v<>PX*"
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
"""Of the rise of the loss."""
SHARPNESSES = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
HIDDEN = 0.9
"""Plain PGD finds less than this share of what the strongest attack finds: called hidden."""
NOTHING = 1e-6
"""A prediction of no more than this is none: behind a hard quantizer there is no gradient."""
CURVED = 1.5
"""The strongest attack finds more than this many times the first-order prediction: called curved."""


def read_digits() -> dict[str, tuple[Tensor, Tensor]]:
    """(images, labels) of both splits of the UCI digits."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "digits"
        write_digits(root, image_size=SIZE)
        sets = {}
        for split in ("train", "val"):
            index = load_index(root / split, cache=Path(folder))
            dataset = Dataset(index, resize_and_center_crop(SIZE, resize_size=SIZE), SIZE)
            loader = make_loader(dataset, EpochOrder(len(index), 120), backend="torchvision", num_threads=0)
            sets[split] = read_all(loader)
    return sets


def small_net(quantizer: SoftQuantization | None) -> PixelClassifier:
    """Two convolutions and two linear layers, the net of the attacks' trials."""
    convolutions = [nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()]
    backbone = nn.Sequential(*convolutions, nn.Linear(32 * (SIZE // 4) ** 2, 100), nn.ReLU(), nn.Linear(100, 10))
    parts = OrderedDict(quantize=quantizer) if quantizer is not None else OrderedDict()
    return PixelClassifier(OrderedDict(**parts, backbone=backbone))


def train(model: PixelClassifier, objective: Objective, data: tuple[Tensor, Tensor], epochs: int, seed: int) -> None:
    """Adam with a one-cycle learning rate; the same for every row."""
    images, labels = data
    order = EpochOrder(len(images), 64, shuffle=True, pad_by_repeating=True, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * order.num_batches)
    objective.seed(seed, 0)
    model.train()
    for epoch in range(epochs):
        for row in order.epoch(epoch):
            chosen = torch.from_numpy(row)
            loss, _ = objective(model, images[chosen], labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def attacked(model: PixelClassifier, images: Tensor, labels: Tensor, epsilon: float) -> dict[str, Tensor]:
    """What plain PGD and the strongest attack make of each image; the strongest is the worst of all that are tried.

    Plain PGD climbs cross-entropy and margin. Besides it every model is tried by PGD with momentum and steps that
    shrink, and without gradients by Square; one with a quantizer by BPDA with two derivatives and in the quantized box.

    Returns:
        images: (B, C, H, W), those of the largest loss. plain, strongest: (B,), the largest loss of either.
        robust: (B,), whether the class is right on the image and on everything that was tried.
    """
    seeds = list(range(len(images)))
    plain, others = [], [Square(num_queries=1000)(model, images, labels, seeds, epsilon)]
    for criterion in ("cross_entropy", "margin"):
        pgd = PGD(num_steps=40, criterion=criterion, stop_when_fooled=False)  # the largest loss is asked for
        plain.append(pgd(model, images, labels, seeds, epsilon))
        others.append(replace(pgd, momentum=0.75, schedule="cosine")(model, images, labels, seeds, epsilon))
        if model.quantizer is not None:
            through = with_bpda(model), with_bpda(model, "surrogate", 10.0)
            others += [pgd(each, images, labels, seeds, epsilon) for each in through]
            others.append(QuantizedBox(pgd)(model, images, labels, seeds, epsilon))
    tried = torch.stack(plain + others)
    with torch.no_grad():
        logits = torch.stack([model(x) for x in tried])
        losses = torch.stack([cross_entropy(each, labels, reduction="none") for each in logits])
        is_right = model(images).argmax(1) == labels
    return {
        "images": tried[losses.argmax(0), torch.arange(len(images))],
        "plain": losses[: len(plain)].amax(0),
        "strongest": losses.amax(0),
        "robust": is_right & (logits.argmax(2) == labels).all(0),
    }


def measure(model: PixelClassifier, images: Tensor, labels: Tensor, epsilon: float) -> dict[str, float]:
    """What the theory predicts and what attacks find, as means over the images."""
    noise = PixelNoise("uniform", epsilon)
    found = attacked(model, images, labels, epsilon)
    with torch.no_grad():
        logits = model(images)
        loss = cross_entropy(logits, labels, reduction="none")
    points = {"natural": images, "noisy": noise(images), "adversarial": found["images"]}
    gradient = {name: input_gradient_l1(model, x, labels).mean().item() for name, x in points.items()}
    return {
        "clean_accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "robust_accuracy": found["robust"].double().mean().item(),
        **{f"gradient_{name}": value for name, value in gradient.items()},
        "predicted_rise": epsilon * gradient["natural"],
        "rise_by_plain_pgd": (found["plain"] - loss).mean().item(),
        "rise_by_strongest": (found["strongest"] - loss).mean().item(),
    }


def mean_over_seeds(measured: list[dict[str, float]]) -> dict[str, Any]:
    """The mean of each number, the numbers of each seed, and in words what the means say."""
    row: dict[str, Any] = {key: fmean(one[key] for one in measured) for key in measured[0]}
    return row | {"seeds": measured, "in_words": in_words(row)}


def rows_to_train(epsilon: float, steps: int) -> dict[str, tuple[SoftQuantization | None, Objective]]:
    """Name -> (quantizer, objective)."""
    wide = 2 * epsilon
    rows: dict[str, tuple[SoftQuantization | None, Objective]] = {
        "natural": (None, Natural()),
        "noise only": (None, NoisyNatural(epsilon=wide)),
        "gradient penalty": (None, GradientPenalty(epsilon)),
        "PGD-10 training": (None, Adversarial(epsilon, ramp_steps=steps // 4)),
        "2 levels, hard, natural": (SoftQuantization(2, hard=True), Natural()),
    }
    for sharpness in SHARPNESSES:
        rows[f"2 levels, sharpness {sharpness:g}, noise"] = (SoftQuantization(2, sharpness), NoisyNatural(epsilon=wide))
    rows["2 levels, sharpness 80, natural"] = (SoftQuantization(2, 80.0), Natural())
    rows["2 levels, sharpness 80, hardest of 8 draws of a mixture"] = (
        SoftQuantization(2, 80.0),
        NoisyNatural("rademacher", epsilon, pattern="mixture", num_draws=8, select="hardest"),
    )
    bound = IntervalBound(epsilon, warmup_steps=steps // 10, ramp_steps=max(1, steps // 2))
    rows["2 levels, sharpness 80, interval bounds"] = (SoftQuantization(2, 80.0), bound)
    return rows


def in_words(row: dict[str, float]) -> str:
    """Which it is, by one rule for all rows."""
    plain, strongest = row["rise_by_plain_pgd"], row["rise_by_strongest"]
    if row["clean_accuracy"] < 0.5:
        return "did not learn at this budget: says nothing"
    predicted = row["predicted_rise"]
    times = strongest / predicted if predicted > NOTHING else float("inf")
    curve = f"the loss bends: the attack finds {times:.1f} times what the gradient at the image says"
    if predicted <= NOTHING:
        curve = "the gradient at the image says nothing"
    if plain < HIDDEN * strongest:
        return f"hidden: plain PGD finds {max(0.0, plain / strongest):.0%} of what the strongest attack finds; {curve}"
    return f"seen: plain PGD finds it; {curve}" if times > CURVED else "real: the gradient at the image says about all"


def draw(rows: dict[str, dict[str, Any]], epsilon: float) -> plt.Figure:
    """Left: prediction against truth, a point a model. Right: how the two part as the sharpness grows."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    learned = {name: row for name, row in rows.items() if row["clean_accuracy"] >= 0.5}
    colors = plt.get_cmap("tab20").colors
    for number, (name, row) in enumerate(learned.items()):
        ring = {"mec": "#d1242f", "mew": 2.0} if row["in_words"].startswith("hidden") else {}
        marker = MARKERS[number % len(MARKERS)]
        point = (row["predicted_rise"], row["rise_by_strongest"])
        left.plot(*point, marker, color=colors[number % len(colors)], ms=8, alpha=0.8, label=name, **ring)
    rises = [row["rise_by_strongest"] for row in learned.values()] or [1.0]
    first_order = torch.logspace(math.log10(min(rises) / 1.2), math.log10(max(rises) * 1.2), 50).tolist()
    left.plot(first_order, first_order, "k--", lw=0.8)
    left.set_xscale("symlog", linthresh=0.1)  # behind a hard quantizer nothing is predicted
    left.set(yscale="log", xlabel=r"predicted: $\epsilon\,\|\nabla_x CE\|_1$", ylabel="strongest attack")
    left.set_title("rise of the loss (dashed: first order is all; ringed in red: hidden from plain PGD)", fontsize=9)
    left.yaxis.set_minor_formatter("")
    lowest, highest = left.get_ylim()
    left.set_yticks([tick for tick in TICKS if lowest <= tick <= highest])
    left.yaxis.set_major_formatter("{x:g}")
    if learned:
        left.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
    sweep = [rows[f"2 levels, sharpness {a:g}, noise"] for a in SHARPNESSES]
    for key, style, label in (
        ("predicted_rise", {"ls": "--", "color": "#57606a"}, "predicted by the gradient at the image"),
        ("rise_by_plain_pgd", {"ls": "-.", "color": "#9a6700"}, "found by plain PGD"),
        ("rise_by_strongest", {"ls": "-", "color": "#d1242f"}, "found by the strongest attack"),
    ):
        right.plot(SHARPNESSES, [row[key] for row in sweep], marker="o", label=label, **style)
    right.set(
        xscale="log", ylim=(0, None), xlabel="sharpness of two levels, trained with noise", ylabel="rise of the loss"
    )
    accuracy = right.twinx()
    robust = [100 * row["robust_accuracy"] for row in sweep]
    accuracy.plot(SHARPNESSES, robust, "s:", color="#1f6feb", label=f"robust accuracy at {epsilon:g}, %")
    accuracy.set(ylabel="robust accuracy, %", ylim=(0, 100))
    lines = [*right.get_lines(), *accuracy.get_lines()]
    right.legend(lines, [line.get_label() for line in lines], fontsize=8, loc="upper right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def markdown(content: dict[str, Any]) -> str:
    """The page: table and words, from the numbers alone."""
    lines = [
        "# What the input gradient foretells of the loss under attack",
        "",
        "Written by `python benchmarks/theory.py`. A small net (two convolutions) on the UCI digits at 32 px,",
        f"each row trained for {content['settings']['epochs']} epochs, measured on {content['num_images']} validation",
        f"images at epsilon {content['settings']['epsilon']:g}, {_seeds(content)}, on {content['device']}.",
        "Gradient norms and rises of the loss are means over images and seeds; predicted is epsilon times the norm",
        "at the natural image. The strongest attack is the worst, image by image, of plain PGD, PGD with momentum and",
        "steps that shrink, and behind a quantizer BPDA by two derivatives and the quantized box, 40 steps each, by",
        "cross-entropy and by margin, and of Square by 1,000 queries; robust is what is right under all of them.",
        "",
        "| trained by | clean % | robust % | norm at natural | noisy | adversarial "
        "| predicted rise | plain PGD | strongest | in words |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, row in content["rows"].items():
        numbers = [_percent(row, "clean_accuracy"), _percent(row, "robust_accuracy")]
        keys = ("gradient_natural", "gradient_noisy", "gradient_adversarial")
        keys += ("predicted_rise", "rise_by_plain_pgd", "rise_by_strongest")
        numbers += [f"{row[key]:.3g}" for key in keys]
        lines.append(f"| {name} | {' | '.join(numbers)} | {row['in_words']} |")
    return "\n".join([*lines, "", "![prediction against truth](theory.png)", ""])


def _seeds(content: dict[str, Any]) -> str:
    number = content["settings"]["num_seeds"]
    return "one seed" if number == 1 else f"{number} seeds (accuracies with their standard deviation)"


def _percent(row: dict[str, Any], key: str) -> str:
    values = [100 * one[key] for one in row["seeds"]]
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/theory"))
    parser.add_argument("--epsilon", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--num-images", type=int, default=200)
    parser.add_argument("--num-seeds", type=int, default=3)
    options = parser.parse_args()
    sets = read_digits()
    chosen = torch.randperm(len(sets["val"][0]), generator=torch.Generator().manual_seed(0))
    images, labels = (part[chosen[: options.num_images]] for part in sets["val"])
    steps = options.epochs * -(-len(sets["train"][0]) // 64)
    measured: dict[str, list[dict[str, float]]] = {}
    with progress_bar("training and attacking", "models") as advance:
        for seed in range(options.num_seeds):
            todo = rows_to_train(options.epsilon, steps)
            for name, (quantizer, objective) in todo.items():
                torch.manual_seed(seed)
                model = small_net(quantizer)
                train(model, objective, sets["train"], options.epochs, seed)
                measured.setdefault(name, []).append(measure(model, images, labels, options.epsilon))
                advance(sum(map(len, measured.values())), options.num_seeds * len(todo), name)
    rows = {name: mean_over_seeds(seeds) for name, seeds in measured.items()}
    content = {
        "settings": {**vars(options), "output": str(options.output)},
        "num_images": len(images),
        **provenance(on="cpu"),
        "rows": rows,
    }
    write_page(options.output, "theory", content, markdown(content), draw(rows, options.epsilon))


if __name__ == "__main__":
    main()
