"""What an evaluation says about the very weights of a release, and whether that is enough to call them robust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_sq.errors import InputError
from lightning_sq.evaluation.results import is_older, proven_share, read_results
from lightning_sq.evaluation.suites import SEARCHING
from lightning_sq.models.checkpoint_format import TrainedModel
from lightning_sq.run_files import JSON_FILE

HOMES = (Path("/home"), Path("/Users"))


def evidence_for(trained: TrainedModel, folder: Path) -> dict[str, Any]:
    """The results.json in `folder` with no other model in it, and without what lies where on the disk.

    Raises: InputError if it cannot be read, or is of other weights.
    """
    results = read_results(folder)
    rows = [row for row in results["models"] if row.get("fingerprint") == trained.fingerprint()]
    if not rows:
        known = [row["name"] for row in results["models"] if "fingerprint" in row]
        why = "is of other weights" if known else "does not say which weights it is of: an older lightning-sq wrote it"
        raise InputError(
            f"{folder / JSON_FILE} {why}. Evaluate this checkpoint: lightning-sq evaluate CHECKPOINT --data DIR."
        )
    data = results["data"] | {"folder": _public_name(Path(results["data"]["folder"]))}
    row = rows[0] | {"source": Path(rows[0]["source"]).name}
    return results | {"data": data, "models": [row]}


def _public_name(folder: Path) -> str:
    """The end of a folder's name, without a user's, and in letters that every file can hold."""
    inner = [part for part in folder.parts if part not in (folder.anchor, "..")]
    shown = inner[-1:] if folder.parent.parent in HOMES else inner[-2:]
    return "/".join(shown).encode(errors="backslashreplace").decode() or "a folder"


def why_not_robust(results: dict[str, Any] | None) -> str | None:
    """Why the worst case in `results` is not to be believed, as the end of a sentence; None if it may be.

    Args:
        results: What `evidence_for` gave; None if there was no evaluation.
    """
    if results is None:
        return "it has not been evaluated"
    if is_older(results):
        return "its evaluation is by an older and weaker set of attacks and checks"
    row = results["models"][0]
    if row["flags"]:
        return f"checks of its evaluation fired ({', '.join(flag.replace('_', ' ') for flag in row['flags'])})"
    if SEARCHING.isdisjoint(attack["attack"] for attack in row["attacks"]):
        return "the search without a gradient of --attacks standard (square) was not run"
    if _is_guessing(row["robust_accuracy"], row):
        return "its worst case is no better than guessing"
    return None


def proven_robust(results: dict[str, Any] | None) -> float:
    """Share of the images in `results` on which a proof calls the model robust, whatever attacks did; 0 for a guess."""
    if results is None:
        return 0.0
    row = results["models"][0]
    proven = proven_share(row)
    return 0.0 if _is_guessing(proven, row) else proven


def _is_guessing(accuracy: float, row: dict[str, Any]) -> bool:
    return accuracy * len(row["model"]["class_names"]) <= 1
