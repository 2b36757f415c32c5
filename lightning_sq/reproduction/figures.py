"""The two pictures of a study's page, drawn from its numbers alone."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lightning_sq.evaluation.figures import NORMS
from lightning_sq.evaluation.tables import format_epsilon
from lightning_sq.reproduction.measured import by_length, numbers_of_images, on_shared_images
from lightning_sq.reproduction.studies import STUDIES, Study
from lightning_sq.words import counted

TELLING = 0.01
"""Smallest share whose proof is drawn."""
STRONG, LIGHT = plt.get_cmap("tab10").colors, (*plt.get_cmap("tab20").colors[1::2], "gold", "lightgrey")
NATURAL, ATTACKED = "-", "--"
MARKERS = {NATURAL: "o", ATTACKED: "s"}
PANELS = {False: "natural samples alone", True: "input gradients in training"}
LINES = "solid, round: natural samples alone; dashed, square: input gradients in training; triangle: proven"
TICKS = (0, 50, 70, 80, 85, 90, 92, 94, 96, 98, 99)
NEAR_ALL = 90.0
"""Percent: where a line comes above it, the axis is logarithmic in the error."""


def curves_figure(content: dict[str, Any]) -> Figure:
    """Worst case over the budget, a line a row, the mean over its seeds; a triangle is what is proven of all images.

    Hollow marks are over the attacks on everyone alone: at budgets below the largest no others are run. A bar at the
    largest is the standard deviation over the seeds.
    Rows whose training takes input gradients have a panel of their own.
    """
    study, rows = STUDIES[content["study"]], content["rows"]
    styles = _styles(study, rows)
    both = {study.row(name).uses_input_gradients for name in rows}
    figure, panels = plt.subplots(
        ncols=len(both), figsize=(1 + 6 * len(both), 7), layout="constrained", sharey=True, squeeze=False
    )
    panel = dict(zip(sorted(both), panels[0], strict=True))
    for name, style in styles.items():
        row, seeds, axes = rows[name], rows[name]["seeds"], panel[study.row(name).uses_input_gradients]
        points = [(0.0, fmean(seed["clean"] for seed in seeds))]
        for k, (epsilon, _) in enumerate(seeds[0]["over_epsilon"]):
            points.append((epsilon, fmean(seed["over_epsilon"][k][1] for seed in seeds)))
        x, y = zip(*((epsilon, 100 * accuracy) for epsilon, accuracy in points), strict=True)
        axes.plot(x, y, label=row["title"], **style)
        axes.plot(x[1:-1], y[1:-1], style["marker"], color=style["color"], ms=style["ms"], mfc="white", zorder=3)
        if len(seeds) > 1:
            spread = 100 * stdev(seed["over_epsilon"][-1][1] for seed in seeds)
            axes.errorbar(x[-1], y[-1], spread, fmt="none", ecolor=style["color"], elinewidth=1)
        proven = [seed["certified"] for seed in seeds if seed["certified"] is not None]
        if proven and fmean(proven) >= TELLING:
            axes.plot([points[-1][0]], [100 * fmean(proven)], "^", color=style["color"], ms=8, mfc="white")
    budgets = sorted({epsilon for row in rows.values() for epsilon, _ in row["seeds"][0]["over_epsilon"]})
    for gradients, axes in panel.items():
        axes.set_xticks([0.0, *budgets], ["0", *map(format_epsilon, budgets)])
        axes.set(xlabel=rf"perturbation budget $\epsilon$ ({NORMS['linf']})", xlim=(0, None))
        axes.set_title(f"{content['title']}, {_images(rows)}, {PANELS[gradients]}", fontsize=10)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=8, handlelength=3.5,
                    frameon=False)  # fmt: skip
    panels[0, 0].set(ylabel="accuracy under the worst case, %")
    figure.supxlabel("hollow: over some of the attacks alone; bar: standard deviation over the seeds; "
                     "triangle: proven of all test images", fontsize=9)  # fmt: skip
    _scaled(list(panels[0]))
    return figure


def training_figure(content: dict[str, Any]) -> Figure:
    """Accuracy over the time of training: on the way, under a quick attack; and at the end of schedules of each length.

    On the way a line is the first seed. A row that is trained by interval bounds has triangles, which are what is
    proven: a quick attack sees little there. The right half, on the images that all of its rows were attacked on, is
    left out where no row has shorter schedules.
    """
    study, rows = STUDIES[content["study"]], content["rows"]
    timed = {name: row for name, row in rows.items() if row["shorter"]}
    both = bool(timed)
    timed = on_shared_images(timed, content["data"]["val"]) if both else {}
    figure, panels = plt.subplots(
        ncols=1 + both, figsize=(10 + 4.5 * both, 5.5), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for name, style in _styles(study, rows).items():
        row, seed, by_proof = rows[name], rows[name]["seeds"][0], study.row(name).by_proof
        style |= {"marker": "^", "ms": 8, "mfc": "white"} if by_proof else {}
        curve = [(point["seconds"], point["robust"]) for point in seed["curve"]]
        x, y = zip(*([(seed["seconds"], seed["certified"] or 0.0)] if by_proof else curve), strict=True)
        panels[0, 0].plot(x, [100 * value for value in y], label=row["title"], **style)
        if name in timed and (points := by_length(study, name, timed[name])):
            x, y = zip(*points, strict=True)
            panels[0, 1].plot(x, [100 * value for value in y], **style)
    titles = [f"{content['title']}, on the way, under a quick attack"]
    titles += [f"at the end of schedules, by the worst case of {_images(timed)}"] if both else []
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set(xscale="log", xlabel="seconds of training")
        axes.set_title(title, fontsize=10)
    panels[0, 0].set(ylabel="accuracy, %")
    _scaled(list(panels[0]))
    figure.supxlabel(LINES, fontsize=9)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right center", fontsize=8, handlelength=3.5,
                  frameon=False)  # fmt: skip
    return figure


def _images(rows: dict[str, Any]) -> str:
    """On how many the rows were attacked: "200 to 1,000 test images"."""
    *fewer, most = numbers_of_images(rows)
    return (f"{fewer[0]:,} to " if fewer else "") + counted(most, "test image")


def _styles(study: Study, rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """How each row is drawn, the most robust first, as the legend lists them; the method stands out.

    The rows on which a claim rests have strong colours, each its own; two of the others, one with input gradients and
    one without, may share a light one.
    """
    claimed, strong = {*study.timed, *study.methods, *study.proven_rows}, iter(STRONG)
    light = {line: iter(LIGHT) for line in (NATURAL, ATTACKED)}
    styles = {}
    for name in rows:
        line = ATTACKED if study.row(name).uses_input_gradients else NATURAL
        if name == study.method:
            color, width = "black", 3.0
        else:
            color, width = next(strong if name in claimed else light[line]), 1.6
        styles[name] = {"ls": line, "color": color, "lw": width, "marker": MARKERS[line], "ms": 4}

    def robustness(name: str) -> float:
        key = "certified" if study.row(name).by_proof else "worst_case"
        return fmean(seed[key] or 0.0 for seed in rows[name]["seeds"])

    return {name: styles[name] for name in sorted(rows, key=robustness, reverse=True)}


def _scaled(panels: list[plt.Axes]) -> None:
    """Where lines come near 100 %, on a logarithmic scale of the error, which tells them apart."""
    highest = max(axes.dataLim.y1 for axes in panels)
    stretched = (lambda percent: -np.log(102.0 - np.minimum(percent, 101.0)), lambda place: 102.0 - np.exp(-place))
    for axes in panels:
        if highest > NEAR_ALL:
            axes.set_yscale("function", functions=stretched)
            top = (highest + 100) / 2
            axes.set_yticks([tick for tick in TICKS if tick <= top])
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_ylim(-5, top)
        else:
            axes.set_ylim(-2, highest + 2)
        axes.grid(alpha=0.3)
    if highest > NEAR_ALL:
        panels[0].set_ylabel(f"{panels[0].get_ylabel()} (log scale of the error)")
