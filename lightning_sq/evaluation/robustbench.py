"""A row in the form of RobustBench's model_info (https://github.com/RobustBench/robustbench), one file a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning_sq.evaluation.suites import AUTOATTACK
from lightning_sq.evaluation.tables import largest_budget
from lightning_sq.paths import write_whole
from lightning_sq.types import NORM_ELSEWHERE

FOLDER = "robustbench"


def model_info(results: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """What RobustBench lists of a model; accuracies in %, as text, as there.

    `autoattack_acc` is the share left by the four stages of AutoAttack and by what ran before them; null unless all
    four ran. `external` is the worst case over everything, `unreliable` says whether a diagnostic fired.
    """
    folder = Path(results["data"]["folder"])
    left = [row["accuracy_after"] for row in model["attacks"] if row["attack"] in AUTOATTACK]
    return {
        "name": model["name"],
        "dataset": (folder.parent.name if folder.name == "val" else folder.name) or str(folder),
        "num_images": model["num_images"],
        "norm": NORM_ELSEWHERE[results["threat_model"]["norm"]],
        "eps": largest_budget(results),
        "architecture": model["model"].get("architecture"),
        "number_forward_passes": 1,
        "additional_data": None,
        "clean_acc": f"{100 * model['clean_accuracy']:.2f}",
        "autoattack_acc": f"{100 * left[-1]:.2f}" if len(left) == len(AUTOATTACK) else None,
        "external": f"{100 * model['robust_accuracy']:.2f}",
        "unreliable": bool(model["flags"]),
        "footnote": model["verdict"],
    }


def write_model_infos(folder: Path, results: dict[str, Any]) -> None:
    """robustbench/NAME.json for each model, and for no other that was evaluated there before."""
    rows = {f"{model['name'].replace('/', '_')}.json": model_info(results, model) for model in results["models"]}
    for name, row in rows.items():
        write_whole(folder / FOLDER / name, json.dumps(row, indent=2) + "\n")
    for other in (folder / FOLDER).glob("*.json"):
        if other.name not in rows:
            other.unlink()
