"""The two pictures of a study's page, drawn from its numbers alone."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lightning_sq.reproduction.claims import by_length
from lightning_sq.reproduction.studies import STUDIES

TELLING = 0.01
"""What is proven is drawn from here on."""
MARKERS = {"-": "o", "--": "s", ":": "D"}
STYLES = [(color, line) for line in MARKERS for color in plt.get_cmap("tab10").colors[:7]]


def curves_figure(content: dict[str, Any]) -> Figure:
    """Worst case over the budget, a line a row, the mean over its seeds; a triangle is what is proven."""
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for (color, line), row in zip(STYLES, content["rows"].values(), strict=False):
        seeds = row["seeds"]
        points = [(0.0, _mean(seed["clean"] for seed in seeds))]
        for k, (epsilon, _) in enumerate(seeds[0]["over_epsilon"]):
            points.append((epsilon, _mean(seed["over_epsilon"][k][1] for seed in seeds)))
        axes.plot(*zip(*((x, 100 * y) for x, y in points), strict=True), line, color=color, marker="o", ms=4,
                  label=row["title"])  # fmt: skip
        proven = [seed["certified"] for seed in seeds if seed["certified"] is not None]
        if proven and _mean(proven) >= TELLING:
            axes.plot([points[-1][0]], [100 * _mean(proven)], "^", color=color, ms=8, mfc="white")
    axes.set(
        xlabel=r"perturbation budget $\epsilon$ (L$_\infty$, full pixel range = 1)",
        ylabel="accuracy under the worst case, %",
        ylim=(-2, 102),
        xlim=(0, None),
    )
    axes.set_title(f"{content['title']}, {content['num_images']} test images (triangle: proven, on all)", fontsize=10)
    axes.grid(alpha=0.3)
    return _finished(figure, axes)


def training_figure(content: dict[str, Any]) -> Figure:
    """Accuracy over the time of training: on the way, under a quick attack; and at the end of schedules of each length.

    On the way a line is a seed. A row that is trained by interval bounds has triangles, which are what is proven: a
    quick attack sees little there. The right half is left out where no row has shorter schedules.
    """
    study = STUDIES[content["study"]]
    both = any(row["shorter"] for row in content["rows"].values())
    figure, panels = plt.subplots(
        ncols=1 + both, figsize=(9 + 4.5 * both, 5), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for (color, line), (name, row) in zip(STYLES, content["rows"].items(), strict=False):
        by_proof = study.row(name).by_proof
        marker = {"marker": "^", "ms": 8, "mfc": "white"} if by_proof else {"marker": MARKERS[line], "ms": 4}
        for number, seed in enumerate(row["seeds"]):
            curve = [(point["seconds"], point["robust"]) for point in seed["curve"]]
            x, y = zip(*([(seed["seconds"], seed["certified"] or 0.0)] if by_proof else curve), strict=True)
            panels[0, 0].plot(x, [100 * value for value in y], line, color=color, lw=1.3, **marker,
                              label=None if number else row["title"])  # fmt: skip
        if row["shorter"]:
            x, y = zip(*by_length(study, name, row), strict=True)
            panels[0, 1].plot(x, [100 * value for value in y], line, color=color, lw=1.3, **marker)
    titles = (f"{content['title']}, on the way, under a quick attack", "at the end of schedules, by the worst case")
    for axes, title in zip(panels[0], titles, strict=False):
        axes.set(xscale="log", xlabel="seconds of training")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    panels[0, 0].set(ylabel="accuracy, % (triangle: proven)", ylim=(0, None))
    return _finished(figure, panels[0, 0])


def _finished(figure: Figure, axes: plt.Axes) -> Figure:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8, handlelength=3.5,
                  frameon=False)  # fmt: skip
    return figure


def _mean(values: Any) -> float:
    values = list(values)
    return sum(values) / len(values)
