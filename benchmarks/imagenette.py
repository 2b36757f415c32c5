"""What do smaller recipes of the kind of ImageNet's give on ten classes, and what is left of it under attack?

    python benchmarks/imagenette.py --data DIR [--weights resnet18.safetensors]

DIR/{train,val}/<class>/*.JPEG. Trains natural samples, the method and FGSM-RS by `lightning-sq fit`, attacks all of
them by one `lightning-sq evaluate`, and writes README.md, training.json, training.png and what the evaluation found to
--output. Stopped and started again with the same words it goes on where it was.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from common.harness import CONFIGS, command_typed, write_page, written_by

from lightning_sq.children import handing_on, run_command
from lightning_sq.cores import usable_cores
from lightning_sq.evaluation.results import OLDER, is_older, read_results
from lightning_sq.evaluation.tables import format_epsilon, markdown_table
from lightning_sq.metrics_file import training_curve
from lightning_sq.paths import sha256, write_whole
from lightning_sq.reproduction.runs import ONE_PROCESS
from lightning_sq.run_files import ALL_VERDICTS, JSON_FILE, LAST_CHECKPOINT

RECIPES = {"natural": "imagenette_natural", "method": "imagenette", "fgsm_rs": "imagenette_fgsm_rs"}
LOGGED = {
    "train/seconds": "seconds",
    "train/images_per_second": "images_per_second",
    "val/clean_top1": "clean",
    "val/input_gradient_l1": "input_gradient_l1",
}
TITLE = "# Smaller recipes of the kind of ImageNet's, on ten of its classes"
TITLE_BEFORE = "# The ImageNet recipes on ten classes"
"""Of a page that is kept, until it is measured anew."""
KEPT = (JSON_FILE, "results.csv", "robustness.png")


def trained(row: str, options: argparse.Namespace) -> Path:
    """The folder of a row's run, which has come to its end."""
    folder = options.runs / RECIPES[row]
    words = ["fit", "--config", str(CONFIGS / f"{RECIPES[row]}.yaml"), *ONE_PROCESS, "--data.root", str(options.data)]
    if options.weights is not None:
        words += ["--model.pretrained", "false", "--model.checkpoint_path", str(options.weights)]
    _command([*words, "--output", str(folder), "--resume"])
    return folder


def attacked(runs: dict[str, Path], options: argparse.Namespace) -> Path:
    """The folder of the evaluation of all rows."""
    folder = options.runs / "imagenette_evaluation"
    words = ["evaluate", *(f"{row}={run / LAST_CHECKPOINT}" for row, run in runs.items()), "--data", str(options.data)]
    words += ["--epsilon", options.epsilon, "--attacks", options.attacks, "--num-images", str(options.num_images)]
    known = folder / "words.txt"
    asked = "\n".join([" ".join(words), *(sha256(run / LAST_CHECKPOINT) for run in runs.values())])
    has_results = (folder / JSON_FILE).exists()
    if has_results and (not known.exists() or known.read_text() != asked):
        sys.exit(f"{folder} holds an evaluation of other nets or by other words. Remove it, or give another --runs.")
    if not has_results or any(folder.glob(ALL_VERDICTS)):  # one that broke off when it wrote its page is ended
        shared = [] if options.devices is None else ["--devices", str(options.devices)]  # changes no verdict
        write_whole(known, asked)
        _command([*words, *shared, "--output", str(folder)])
    return folder


def _command(words: list[str]) -> None:
    print("$ lightning-sq", *words, flush=True)
    if status := run_command(words):
        sys.exit(status)


def draw(content: dict[str, Any]) -> plt.Figure:
    """After each epoch, over the time of training: clean top-1, and the l1 norm of the input gradient."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for row, curve in content["rows"].items():
        seconds = [point["seconds"] for point in curve]
        left.plot(seconds, [100 * point["clean"] for point in curve], marker="o", ms=4, label=row)
        right.plot(seconds, [point["input_gradient_l1"] for point in curve], marker="o", ms=4, label=row)
    left.set(ylabel="clean top-1, %")
    right.set(ylabel="l1 norm of the input gradient", ylim=(0, None))
    for axes in (left, right):
        axes.set(xlabel="seconds of training")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    return figure


def markdown(content: dict[str, Any], results: dict[str, Any]) -> str:
    """The page, from the numbers alone."""
    model, budgets = results["models"][0]["model"], map(format_epsilon, results["threat_model"]["budgets"])
    lines = [
        TITLE if "command" in content else TITLE_BEFORE,
        "",
        f"Written by {written_by(content, 'imagenette')}:"
        " pretrained weights fine-tuned on natural samples, by the method",
        "(noisy natural samples behind soft quantization) and by FGSM-RS behind soft quantization, by the recipes in",
        f"[configs](../../configs/README.md): {model['architecture']} at {model['image_size']} px. Attacked within"
        f" {', '.join(budgets)}",
        f"on {results['data']['num_images']} validation images, on {results['device']};"
        f" a machine of {content['cores']} cores.",
        f"Attacks: {', '.join(results['attacks'])}.",
        *[f"{OLDER}."] * is_older(results),
        "Some validation images of Imagenette stem from ImageNet's training set, which the pretrained weights saw,",
        "so clean accuracies flatter.",
        "",
        "<!-- written by: lightning-sq report results/imagenette --markdown -->",
        markdown_table(results),
        "",
        "![accuracy under attack against epsilon](robustness.png)",
        "",
        *(f"- {model['verdict']}" for model in results["models"]),
        "",
        "## Training",
        "",
        "| row | recipe | epochs | seconds of training | images/s | clean top-1 of all validation images, % |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row, curve in content["rows"].items():
        last = curve[-1]
        recipe = f"[{RECIPES[row]}.yaml](../../configs/{RECIPES[row]}.yaml)"
        lines.append(
            f"| {row} | {recipe} | {len(curve)} | {last['seconds']:.0f} | {last['images_per_second']:.0f}"
            f" | {100 * last['clean']:.1f} |"
        )
    return "\n".join([*lines, "", "![clean accuracy and input gradient over the time of training](training.png)", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="of the network; default: those that timm downloads")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, default=Path("results/imagenette"))
    parser.add_argument("--epsilon", default="1/255,2/255,4/255")
    parser.add_argument("--attacks", default="standard")
    parser.add_argument("--num-images", type=int, default=200)
    parser.add_argument("--devices", type=int, help="processes that share the images under attack")
    options = parser.parse_args()
    with handing_on():
        runs = {row: trained(row, options) for row in RECIPES}
        evaluation = attacked(runs, options)
    results = read_results(evaluation)
    content = {
        "command": command_typed(),
        "cores": usable_cores(),
        "device": results["device"],
        "versions": results["versions"],
        "rows": {row: training_curve(run, LOGGED) for row, run in runs.items()},
    }
    options.output.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(evaluation / name, options.output / name)
    write_page(options.output, "training", content, markdown(content, results), draw(content))


if __name__ == "__main__":
    main()
