"""results.json: the one source of every number in a report. Documented here, versioned by `schema_version`.

    schema_version   2
    created          UTC time, ISO 8601
    seconds          since the last start of the evaluation
    data             {folder, num_images, unreadable, files}: files in the order of every list of verdicts
    threat_model     {norm, budgets: [...], epsilons: [...]}: every attack at each budget, some at the other epsilons
    attacks          name -> {title, family, on_everyone, parameters}, in the order in which they ran
    suite_version    of the attacks and checks (`suites.SUITE_VERSION`; 1 where it is missing)
    seed, batch_size, num_processes, device, versions
    models           [{name, source, model (what it is made of), fingerprint (SHA-256 of that and the weights),
                       num_images,
                       clean_accuracy, robust_accuracy, certified_accuracy (null without a proof), input_gradient_l1,
                       verdict (a sentence), flags: [diagnostics that fired], diagnostics: [{name, title, fired,
                       measured, limit, why}],
                       curve: [{epsilon, complete, worst_case, certified, attacks: {name: accuracy of it alone}}],
                       attacks: [{attack, title, attacked, broken, accuracy, accuracy_after, seconds, notes}],
                       skipped: {attack: reason},
                       verdicts: {clean: "1011...", certified: {epsilon: ...}, worst_case: {epsilon: ...},
                                  attacks: {name: {epsilon: "10-1..."}}}}]

Accuracies are in [0, 1]; a number that is not finite, such as the gradient of a root at 0, is null. In a verdict 1 is
still classified as labelled, 0 is not, - was not attacked. Truth lies between the certified accuracy (up to float32
rounding) and the robust accuracy, the worst case over the attacks that were run.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_sq.errors import InputError
from lightning_sq.evaluation.found import Evaluation, share_of
from lightning_sq.evaluation.shape import RESULTS, first_missing
from lightning_sq.evaluation.suites import SEARCHING, SUITE_VERSION
from lightning_sq.paths import write_whole
from lightning_sq.run_files import CSV_FILE, JSON_FILE
from lightning_sq.types import format_epsilon
from lightning_sq.words import counted

SCHEMA_VERSION = 2
TELLING = 0.01
"""A difference between two accuracies above which a verdict mentions it, if it is more than one image."""
OLDER = "By an older and weaker set of attacks and checks, so that numbers may be too good"
"""What is said of results whose `suite_version` is not the present one."""
REFUTED = "attacks_break_what_is_proven"
"""The flag of a model whose proof is not to be believed."""


def model_row(
    name: str,
    source: str,
    description: dict[str, Any],
    found: Evaluation,
    *,
    input_gradient_l1: float,
    fingerprint: str,
) -> dict[str, Any]:
    """One entry of `models`."""
    row = {
        "name": name,
        "source": source,
        "model": description,
        "fingerprint": fingerprint,
        "num_images": len(found.correct),
        "clean_accuracy": found.clean_accuracy,
        "robust_accuracy": found.robust_accuracy,
        "certified_accuracy": found.certified_accuracy,
        "input_gradient_l1": input_gradient_l1,
        "flags": found.flags,
        "diagnostics": [asdict(diagnostic) for diagnostic in found.diagnostics or []],
        "curve": [_point(found, epsilon) for epsilon in found.epsilons],
        "attacks": [
            one | {"notes": list(found.outcomes[one["attack"]][found.budgets[-1]].notes)} for one in found.table
        ],
        "skipped": found.skipped,
        "verdicts": _verdicts(found),
    }
    searched = not SEARCHING.isdisjoint(found.attacks)
    return row | {"verdict": verdict(row, found.budgets[-1], thorough=searched)}


def _point(found: Evaluation, epsilon: float) -> dict[str, Any]:
    return {
        "epsilon": epsilon,
        "complete": epsilon in found.budgets,
        "worst_case": share_of(found.survived(epsilon)),
        "certified": None if found.certified is None else share_of(found.certified[epsilon]),
        "attacks": {name: found.accuracy(name, epsilon) for name in found.outcomes if found.attacks[name].on_everyone},
    }


def _verdicts(found: Evaluation) -> dict[str, Any]:
    return {
        "clean": _bits(found.correct),
        "certified": {f"{e:.9g}": _bits(flags) for e, flags in (found.certified or {}).items()},
        "worst_case": {f"{e:.9g}": _bits(found.survived(e)) for e in found.epsilons},
        "attacks": {
            name: {f"{e:.9g}": _bits(~outcome.broken, outcome.attacked) for e, outcome in outcomes.items()}
            for name, outcomes in found.outcomes.items()
        },
    }


def _bits(flags: Tensor, known: Tensor | None = None) -> str:
    bits = ["01"[flag] for flag in flags.int().tolist()]
    return "".join(bits if known is None else (b if k else "-" for b, k in zip(bits, known.tolist(), strict=True)))


def assemble(
    models: list[dict[str, Any]],
    found: Evaluation,
    *,
    data: dict[str, Any],
    attacks: dict[str, Any],
    seed: int,
    device: str,
    versions: dict[str, str],
    seconds: float,
) -> dict[str, Any]:
    """The whole of results.json; `found` is the evaluation of any of the models."""
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "data": data,
        "threat_model": {"norm": found.norm, "budgets": list(found.budgets), "epsilons": list(found.epsilons)},
        "attacks": attacks,
        "suite_version": SUITE_VERSION,
        "seed": seed,
        "batch_size": found.batch_size,
        "num_processes": found.num_processes,
        "device": device,
        "versions": versions,
        "models": models,
    }


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """results.json and results.csv, each whole or not at all.

    all_attacks of a row of the CSV: whether all were run at that budget, so that the worst case is that of all.
    """
    write_whole(folder / JSON_FILE, json.dumps(_finite(results), indent=1, allow_nan=False) + "\n")
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("model", "epsilon", "attack", "accuracy", "num_images", "all_attacks"))
    for model in results["models"]:
        writer.writerow((model["name"], 0, "clean", f"{model['clean_accuracy']:.6g}", model["num_images"], "yes"))
        for point in model["curve"]:
            values = {**point["attacks"], "worst_case": point["worst_case"]}
            values |= {} if point["certified"] is None else {"certified": point["certified"]}
            for attack, accuracy in values.items():
                row = (model["name"], f"{point['epsilon']:.6g}", attack, f"{accuracy:.6g}", model["num_images"])
                writer.writerow((*row, "yes" if point["complete"] else "no"))
    write_whole(folder / CSV_FILE, stream.getvalue())


def _finite(value: Any) -> Any:
    """What is made of lists and dicts, with None for numbers that are not finite: JSON has no others."""
    match value:
        case dict():
            return {key: _finite(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_finite(inner) for inner in value]
        case float() if not math.isfinite(value):
            return None
    return value


def read_of_schema(path: Path, schema: int, *, made_by: str, again: str) -> dict[str, Any]:
    """The JSON in `path`, which says by which schema it was written.

    Args:
        path: The file.
        schema: That is read.
        made_by: The command that makes the file.
        again: What to do about a file that is no good.
    Raises: InputError if it is missing, damaged, or of another schema.
    """
    if not path.is_file():
        raise InputError(f"There is no {path}. Make it with {made_by}.")
    try:
        content = json.loads(path.read_text())
        found = content["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}). {again}") from error
    if found != schema:
        raise InputError(f"{path} has schema {found}, this version reads {schema}. {again}")
    return content


def read_results(folder: Path) -> dict[str, Any]:
    """What `write_results` wrote.

    Raises: InputError if it is missing, damaged, or of another schema.
    """
    path = folder / JSON_FILE
    made_by = f"lightning-sq evaluate MODEL --data DIR --output {shlex.quote(str(folder))}"
    results = read_of_schema(path, SCHEMA_VERSION, made_by=made_by, again="Evaluate again.")
    missing = first_missing(RESULTS, results) or ("" if results["models"] else "models")
    if missing:
        raise InputError(f"{path} is damaged ({missing} is missing). Evaluate again.")
    return _finite(results)  # one of an earlier version may hold NaN


def verdict(model: dict[str, Any], epsilon: float, *, thorough: bool) -> str:
    """What was found about one model, in words: the first line of a report.

    Args:
        model: A row as `model_row` makes it.
        epsilon: The largest budget.
        thorough: Whether a search without a gradient was among the attacks.
    """
    worst, plain = model["robust_accuracy"], model["curve"][-1]["attacks"].get("pgd")
    sentence = f"{model['name']}: {100 * worst:.1f} % of the images withstood every attack at {format_epsilon(epsilon)}"
    if model["certified_accuracy"]:
        sentence += f", {100 * model['certified_accuracy']:.1f} % proven"
    if plain is not None and plain - worst > max(TELLING, 1 / model["num_images"]) + 1e-9:
        sentence += f"; plain PGD-40 would have said {100 * plain:.1f} %"
    sentence += "."
    believed = proven_share(model)
    if believed and abs(worst - believed) < 1e-9:
        return f"{sentence} Every image is proven or broken: that is the truth about them."
    if model["flags"]:
        beyond = "Beyond what is proven not" if believed else "Not"
        sentence += f" {beyond} to be called robust: {', '.join(flag.replace('_', ' ') for flag in model['flags'])}."
    if not thorough:
        sentence += f" An upper bound from {counted(len(model['attacks']), 'attack')}: --attacks standard looks harder."
    return sentence


def proven_share(model: dict[str, Any]) -> float:
    """Of the images of a row: what is proven at the largest budget, 0 if an attack refuted a proof."""
    return 0.0 if REFUTED in model["flags"] else model["certified_accuracy"] or 0.0


def is_older(results: dict[str, Any]) -> bool:
    """Whether it was made by attacks and checks that have been made stronger since."""
    return results.get("suite_version", 1) < SUITE_VERSION
