"""A trained model becomes a release folder, which a fresh process has loaded before it gets its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning_sq.children import refusal_of
from lightning_sq.errors import InputError
from lightning_sq.models.checkpoint_format import TrainedModel, read_checkpoint
from lightning_sq.models.release_format import check_replaceable, write_release
from lightning_sq.paths import errors_named
from lightning_sq.release_files import ONNX_FILE, RESULTS_FILE, TORCH_EXPORT_FILE
from lightning_sq.releasing.card import model_card
from lightning_sq.releasing.evidence import evidence_for
from lightning_sq.releasing.golden import write_golden
from lightning_sq.releasing.programs import write_onnx, write_torch_export

PRIVATE_KEYS = frozenset(
    {"root", "checkpoint_path", "output", "overwrite", "resume", "ckpt_path", "default_root_dir", "dirpath", "save_dir"}
)


def verify_in_a_fresh_process(folder: Path) -> None:
    """Raises: InputError if a new process cannot load `folder`, or finds other logits than the golden ones."""
    if refusal := refusal_of(["verify", str(folder)]):
        raise InputError(f"No release was written, since a new process cannot load it: {refusal}")


def export(checkpoint: Path, folder: Path, *, overwrite: bool = False, **options: Any) -> dict[str, Any] | None:
    """Write a release of the model in `checkpoint`; of its averaged weights if the run kept an average.

    Args:
        checkpoint: A .ckpt of `lightning-sq fit`.
        folder: Where the release is to be.
        overwrite: Replace a release that is there.
        options: Of `release`.
    Returns: the evaluation as it is released, None without one.
    Raises: InputError if the checkpoint cannot be read, and as `release` does.
    """
    check_replaceable(folder, overwrite=overwrite)
    return release(read_checkpoint(checkpoint), folder, overwrite=overwrite, **options)


def release(
    trained: TrainedModel,
    folder: Path,
    *,
    overwrite: bool = False,
    results: Path | None = None,
    onnx: bool = False,
    torch_export: bool = False,
    license_name: str | None = None,
    check: Callable[[Path], object] = verify_in_a_fresh_process,
) -> dict[str, Any] | None:
    """Write a release of `trained`.

    Args:
        trained: The model.
        folder: Where the release is to be.
        overwrite: Replace a release that is there.
        results: Folder of a `lightning-sq evaluate` of the same weights; without one the card claims nothing.
        onnx: Also write model.onnx.
        torch_export: Also write model.pt2.
        license_name: For the card, an identifier of the Hub's such as apache-2.0.
        check: Looks at the finished folder, and raises an InputError if it is not to be released.
    Returns: the evaluation as it is released, None without one.
    Raises: InputError if `results` are of other weights, the model gives NaN or cannot be exported, or `folder` is in
        the way.
    """
    model = trained.build()  # refuses weights that do not fit, before anything is written
    trained = without_private_parts(trained)
    evidence = None if results is None else evidence_for(trained, results)

    folder.parent.mkdir(parents=True, exist_ok=True)
    room = TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.")  # which has room for the release as well
    with errors_named(folder), room as temporary:
        beside = Path(temporary)
        write_golden(beside, model)
        if evidence is not None:
            (beside / RESULTS_FILE).write_text(json.dumps(evidence, indent=1) + "\n")
        programs = {ONNX_FILE: write_onnx(beside, model)} if onnx else {}
        programs |= {TORCH_EXPORT_FILE: write_torch_export(beside, model)} if torch_export else {}
        card = model_card(trained, evidence, programs, license_name)
        more = {"programs": programs} if programs else {}
        write_release(folder, trained, card, overwrite=overwrite, beside=beside, more=more, check=check)
    return evidence


def without_private_parts(trained: TrainedModel) -> TrainedModel:
    """`trained` with a recipe that says nothing of whose disk it was."""
    recipe = without_paths(trained.training.get("recipe") or {})
    return replace(trained, training=trained.training | {"recipe": recipe})


def without_paths(recipe: Any) -> Any:
    """`recipe` without what says where things lie on the disk of whoever trained, and without how it was started."""
    if isinstance(recipe, dict):
        return {key: without_paths(value) for key, value in recipe.items() if key not in PRIVATE_KEYS}
    if isinstance(recipe, list):
        return [without_paths(value) for value in recipe]
    return Path(recipe).name if isinstance(recipe, str) and recipe.startswith(("/", "~", "./", "../")) else recipe
