"""The pictures of a report, drawn from results.json and the kept examples."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lightning_sq.evaluation.examples import Examples
from lightning_sq.types import format_epsilon
from lightning_sq.words import counted

COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#9a6700", "#57606a")
LINES = ("--", ":", "-.", (0, (5, 1)), (0, (1, 1)))
NORMS = {"linf": r"L$_\infty$, full pixel range = 1", "l2": r"L$_2$"}


def robustness_figure(results: dict[str, Any]) -> Figure:
    """Accuracy against epsilon: a colour a model, a thin line an attack on everyone, the worst case bold.

    A filled circle is the worst case over every attack, an empty one that over the attacks on everyone; below, the
    share that is proven, if anything is.
    """
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    for color, model in zip(COLORS * len(results["models"]), results["models"], strict=False):
        name, clean = model["name"], model["clean_accuracy"]
        points = [{"epsilon": 0.0, "complete": True, "worst_case": clean, "certified": clean}, *model["curve"]]
        for line, attack in zip(LINES * len(results["attacks"]), model["curve"][-1]["attacks"], strict=False):
            curve = [(0.0, clean), *((point["epsilon"], point["attacks"][attack]) for point in model["curve"])]
            axes.plot(*_percent(curve), ls=line, lw=1.2, color=color, alpha=0.75, label=_plain(f"{name}, {attack}"))
        worst = [(point["epsilon"], point["worst_case"]) for point in points]
        axes.plot(*_percent(worst), "-", lw=2.8, color=color, label=_plain(f"{name}, worst case"))
        for complete in (True, False):
            some = [pair for pair, point in zip(worst, points, strict=True) if point["complete"] == complete]
            axes.plot(*_percent(some), "o", ms=7, color=color, mfc=color if complete else "white")
        proven = [(p["epsilon"], p["certified"]) for p in points if p["certified"] is not None]
        if any(share for epsilon, share in proven if epsilon):
            axes.plot(*_percent(proven), "^-", lw=1, ms=5, color=color, alpha=0.6, label=_plain(f"{name}, proven"))
    measured = results["models"][0]["curve"]
    few = sum(point["complete"] for point in measured) == 1  # else the labels would lie on each other
    labels = [format_epsilon(point["epsilon"]) if few or point["complete"] else "" for point in measured]
    axes.set_xticks([0.0, *(point["epsilon"] for point in measured)], ["0", *labels])
    if not all(point["complete"] for point in measured):
        figure.supxlabel("hollow: over those attacks alone that every image gets", fontsize=8)
    axes.set(
        xlabel=rf"perturbation budget $\epsilon$ ({NORMS[results['threat_model']['norm']]})",
        ylabel="accuracy, %",
        ylim=(-2, 102),
        xlim=(0, None),
    )
    data = results["data"]
    axes.set_title(f"{counted(data['num_images'], 'image')} of {data['folder']}", parse_math=False)
    axes.grid(alpha=0.3)
    legend = axes.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def descent_figure(results: dict[str, Any]) -> Figure:
    """What is left after each attack, in the order in which they ran; dotted, what is proven."""
    names = ["clean", *results["attacks"]]
    figure, axes = plt.subplots(figsize=(max(6.0, 0.36 * len(names) + 3), 4.4), layout="constrained")
    for color, model in zip(COLORS * len(results["models"]), results["models"], strict=False):
        after = {row["attack"]: row["accuracy_after"] for row in model["attacks"]}
        steps, left = [], model["clean_accuracy"]
        for name in names:
            left = after.get(name, left)
            steps.append((float(names.index(name)), left))
        axes.step(*_percent(steps), where="mid", color=color, lw=2, label=_plain(model["name"]))
        axes.plot(*_percent(steps), "o", ms=4, color=color)
        if model["certified_accuracy"] is not None:
            axes.axhline(100 * model["certified_accuracy"], color=color, lw=1, ls=":", alpha=0.8)
    axes.set(ylabel="accuracy left, %", ylim=(-2, 102))
    axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=60, ha="right", fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    for text in axes.legend(fontsize=8, frameon=False).get_texts():
        text.set_parse_math(False)
    return figure


def _plain(label: str) -> str:
    return f" {label}" if label.startswith("_") else label  # matplotlib leaves labels with an underscore out


def _percent(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [100 * y for _, y in pairs]


def examples_figure(title: str, shown: Examples) -> Figure:
    """A grid: one row an image, one column what was done to it, under it what the model takes it for."""
    columns = shown.columns
    count = len(next(iter(columns.values())))
    figure, grid = plt.subplots(
        count, len(columns), figsize=(1.6 * len(columns), 1.75 * count + 0.6), squeeze=False, layout="constrained"
    )
    for k, (name, pixels) in enumerate(columns.items()):
        grid[0][k].set_title(name, fontsize=9)
        texts = shown.captions.get(name, [""] * count)
        for row, image, text, clean in zip(grid, pixels, texts, shown.captions["clean"], strict=True):
            row[k].imshow(image.expand(3, -1, -1).permute(1, 2, 0).numpy(), interpolation="nearest")  # grey, too
            row[k].set(xticks=[], yticks=[], xlabel=f"seen as {text[:16]}" if text else "")
            row[k].xaxis.label.set(parse_math=False, fontsize=8, color="black" if text == clean else "#d1242f")
            row[k].spines[:].set_visible(False)
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def save_png(figure: Figure, target: Path | io.BytesIO) -> None:
    """Write a figure and let it go."""
    figure.savefig(target, dpi=130, format="png")
    plt.close(figure)
