"""results.json: the one source of every number in a report. Documented here, versioned by `schema_version`.

    schema_version   1
    created          UTC time, ISO 8601
    seconds          of the whole evaluation
    data             {folder, num_images, files}: files in the order of every list of verdicts
    threat_model     {norm: "linf", epsilons: [...]}, in units of the full pixel range
    attacks          name -> every parameter
    seed, device, versions
    models           [{name, source, model (what it is made of), num_images, clean_accuracy, input_gradient_l1,
                       curve: [{epsilon, worst_case, attacks: {name: accuracy}}], seconds: {attack: s},
                       verdicts: {clean: "1011...", attack: ["1011..." for each epsilon]}}]

Accuracies are in [0, 1]; in a verdict 1 is still classified as labelled. The worst case is over the attacks that were
run: an upper bound of the robust accuracy.
"""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_sq.errors import InputError
from lightning_sq.evaluation.runner import Evaluation
from lightning_sq.paths import write_whole

SCHEMA_VERSION = 1
JSON_FILE, CSV_FILE = "results.json", "results.csv"


def model_row(
    name: str, source: str, description: dict[str, Any], evaluation: Evaluation, *, input_gradient_l1: float
) -> dict[str, Any]:
    """One entry of `models`."""
    worst = evaluation.worst_case
    return {
        "name": name,
        "source": source,
        "model": description,
        "num_images": len(evaluation.correct),
        "clean_accuracy": evaluation.clean_accuracy,
        "input_gradient_l1": input_gradient_l1,
        "curve": [
            {
                "epsilon": epsilon,
                "worst_case": evaluation.accuracy(worst, i),
                "attacks": {attack: evaluation.accuracy(rows, i) for attack, rows in evaluation.survived.items()},
            }
            for i, epsilon in enumerate(evaluation.epsilons)
        ],
        "seconds": evaluation.seconds,
        "verdicts": {
            "clean": _bits(evaluation.correct),
            **{attack: [_bits(row) for row in rows] for attack, rows in evaluation.survived.items()},
        },
    }


def _bits(flags: Tensor) -> str:
    return "".join("01"[flag] for flag in flags.int().tolist())


def assemble(
    models: list[dict[str, Any]],
    *,
    data: dict[str, Any],
    epsilons: tuple[float, ...],
    attacks: dict[str, Any],
    seed: int,
    device: str,
    versions: dict[str, str],
    seconds: float,
) -> dict[str, Any]:
    """The whole of results.json."""
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "data": data,
        "threat_model": {"norm": "linf", "epsilons": list(epsilons)},
        "attacks": attacks,
        "seed": seed,
        "device": device,
        "versions": versions,
        "models": models,
    }


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """results.json and results.csv, each whole or not at all."""
    write_whole(folder / JSON_FILE, json.dumps(results, indent=1) + "\n")
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("model", "epsilon", "attack", "accuracy", "num_images"))
    for model in results["models"]:
        writer.writerow((model["name"], 0, "clean", f"{model['clean_accuracy']:.6g}", model["num_images"]))
        for point in model["curve"]:
            for attack, accuracy in {**point["attacks"], "worst_case": point["worst_case"]}.items():
                writer.writerow(
                    (model["name"], f"{point['epsilon']:.6g}", attack, f"{accuracy:.6g}", model["num_images"])
                )
    write_whole(folder / CSV_FILE, stream.getvalue())


def read_results(folder: Path) -> dict[str, Any]:
    """What `write_results` wrote.

    Raises: InputError if it is missing, damaged, or of another schema.
    """
    path = folder / JSON_FILE
    if not path.is_file():
        raise InputError(f"There is no {path}. Make it with lightning-sq evaluate MODEL --data DIR --output {folder}.")
    try:
        results = json.loads(path.read_text())
        schema = results["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}). Evaluate again.") from error
    if schema != SCHEMA_VERSION:
        raise InputError(f"{path} has schema {schema}, this version reads {SCHEMA_VERSION}. Evaluate again.")
    return results


def table_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a model at the largest epsilon: what both the printed table and the report show."""
    return [
        {
            "name": model["name"],
            "clean": model["clean_accuracy"],
            "attacks": model["curve"][-1]["attacks"],
            "worst_case": model["curve"][-1]["worst_case"],
            "input_gradient_l1": model["input_gradient_l1"],
        }
        for model in results["models"]
    ]


def markdown_table(results: dict[str, Any]) -> str:
    """The same table for a README."""
    epsilon = format_epsilon(results["threat_model"]["epsilons"][-1])
    attacks = list(results["attacks"])
    lines = [
        f"| accuracy in %, {results['data']['num_images']} images, attacks at {epsilon} | clean | "
        + " | ".join(attacks)
        + " | worst case | l1 norm of the input gradient |",
        "| --- |" + " ---: |" * (len(attacks) + 3),
    ]
    for row in table_rows(results):
        numbers = [f"{100 * x:.1f}" for x in (row["clean"], *row["attacks"].values())]
        worst, gradient = f"**{100 * row['worst_case']:.1f}**", f"{row['input_gradient_l1']:.3g}"
        lines.append(f"| {row['name']} | " + " | ".join([*numbers, worst, gradient]) + " |")
    return "\n".join(lines)


def verdict(model: dict[str, Any]) -> str:
    """What was found about one model, in one sentence."""
    point = model["curve"][-1]
    worst = point["worst_case"]
    sentence = f"{model['name']}: at most {worst:.1%} robust at {format_epsilon(point['epsilon'])}"
    plain = point["attacks"].get("pgd")
    if plain is not None and plain - worst >= 0.01:
        return f"{sentence}; plain PGD alone would have said {plain:.1%}, the quantizer hides the gradient from it."
    return f"{sentence} ({model['clean_accuracy']:.1%} on clean images)."


def format_epsilon(epsilon: float) -> str:
    """0.3 where two decimals say it all, 8/255 where it is a whole number of 8-bit steps, else three digits."""
    if abs(epsilon - round(epsilon, 2)) < 1e-9:
        return f"{epsilon:g}"
    steps = epsilon * 255
    return f"{round(steps)}/255" if abs(steps - round(steps)) < 1e-6 else f"{epsilon:.3g}"
