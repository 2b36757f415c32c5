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

COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#9a6700", "#57606a")
LINES = ("--", ":", "-.", (0, (5, 1)), (0, (1, 1)))


def robustness_figure(results: dict[str, Any]) -> Figure:
    """Accuracy against epsilon: a colour a model, a thin line an attack, the worst case bold."""
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    for color, model in zip(COLORS * len(results["models"]), results["models"], strict=False):
        epsilons = [0.0, *(point["epsilon"] for point in model["curve"])]
        clean = model["clean_accuracy"]
        for line, attack in zip(LINES * len(results["attacks"]), results["attacks"], strict=False):
            curve = [clean, *(point["attacks"][attack] for point in model["curve"])]
            axes.plot(
                epsilons, _percent(curve), ls=line, lw=1.2, color=color, alpha=0.75, label=f"{model['name']}, {attack}"
            )
        worst = [clean, *(point["worst_case"] for point in model["curve"])]
        axes.plot(epsilons, _percent(worst), "o-", lw=2.8, color=color, label=f"{model['name']}, worst case")
    axes.set(
        xlabel=r"perturbation budget $\epsilon$ (L$_\infty$, full pixel range = 1)",
        ylabel="accuracy, %",
        ylim=(-2, 102),
        xlim=(0, None),
        title=f"{results['data']['num_images']} images of {results['data']['folder']}",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def _percent(values: list[float]) -> list[float]:
    return [100 * value for value in values]


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
            row[k].imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
            row[k].set(xticks=[], yticks=[], xlabel=f"seen as {text[:16]}" if text else "")
            row[k].xaxis.label.set(parse_math=False, fontsize=8, color="black" if text == clean else "#d1242f")
            row[k].spines[:].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return figure


def save_png(figure: Figure, target: Path | io.BytesIO) -> None:
    """Write a figure and let it go."""
    figure.savefig(target, dpi=130, format="png")
    plt.close(figure)
