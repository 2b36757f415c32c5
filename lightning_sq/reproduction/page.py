"""The page of a study: one JSON with every number, and the table, figures and verdicts that are made from it alone.

    schema_version   6
    study, title, epsilon, form ("full", "small" or "quick"), max_epochs, created, versions
    data             {train, val (images in each), whole (whether that is the data set as published)}
    attacks          of the worst case
    rows             {name: {title, network, options (of its recipe), learning_rate, tuning: [{
                       rate, accuracy (held-out training images; by_proof rows: proven), recipe}], seeds: [{
                       seed, recipe (its fingerprint), day, device (on which it was trained; in older entries that on
                       which it was attacked), num_threads, jobs (rows at a time), num_images (that were attacked),
                       command (when that was given which trained it; null if there were several, missing in entries
                       older than it),
                       epochs, seconds (of training), curve: [{seconds, clean, robust}] after each epoch,
                       timed_again (true where the clock is of another training than the net that was attacked, see
                       `by_clock_of`; missing elsewhere),
                       clean, papers_attacks (the smaller of PGD's and BPDA's), by_attack: {name: accuracy},
                       worst_case, certified (proven of all validation images; null without bounds),
                       certified_of_attacked (by interval bounds, of the images that were attacked; missing in
                       entries older than it),
                       proof: {bounds, proven, wrong, max_boxes, proven_by_boxes, wrong_by_boxes} (see
                       `proofs.Proof`; missing or null where branch and bound was not asked: then interval
                       bounds alone have proven it; the last two missing where no solver was asked),
                       over_epsilon: [[epsilon, worst case; below the last by the attacks on everyone alone]],
                       suite_version (see `suites.SUITE_VERSION`), transfers: [names of the nets whose adversarial
                       images were tried] (both missing in entries older than them), verdicts: {papers_attacks,
                       worst_case, certified_of_attacked: "1011..." (right or not, an image attacked each)} (missing
                       in entries older than them), flags, verdict}],
                       shorter: [the same of the first seed, by shorter schedules],
                       other_rates: [{rate, seeds, shorter}] (at learning rates that were not taken; most rows have
                       none)}}
    choice           [{title, changes, epochs, accuracy (quick attack, held-out training images), seconds,
                       recipe}]
    claims           [{claim, by_papers_attacks, by_strongest, verdict, holds}]

Accuracies are in [0, 1].
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_sq.evaluation.figures import save_png
from lightning_sq.evaluation.results import read_of_schema
from lightning_sq.evaluation.suites import SUITES, TRANSFER, attacks_by_name
from lightning_sq.evaluation.tables import percent
from lightning_sq.paths import whole_file, write_whole
from lightning_sq.reproduction import provenance
from lightning_sq.reproduction.figures import curves_figure, training_figure
from lightning_sq.reproduction.measured import PAPERS_ATTACKS, numbers_of_images, spread_of
from lightning_sq.reproduction.proofs import Proof
from lightning_sq.reproduction.runs import Run
from lightning_sq.reproduction.settings import USUAL
from lightning_sq.reproduction.studies import STUDIES, Study
from lightning_sq.reproduction.tables import choice_section, proofs_section, rates_section, rows_table
from lightning_sq.types import format_epsilon, parse_epsilon
from lightning_sq.words import counted

SCHEMA_VERSION = 6
JSON_FILE, PAGE_FILE, CURVES_FILE, TRAINING_FILE = "study.json", "README.md", "curves.png", "training.png"
_FORMS = {
    "quick": "The quick form: few images and short schedules, to see the order.",
    "small": "The small form: a network for CPUs in the place of the recipes'.",
    "full": "By the schedules of the recipes.",
}
_PARTIAL = "That is not the data set as published: compare the rows with each other, not with what others measured."


def seed_entry(run: Run, trained: dict[str, Any], results: dict[str, Any], proof: Proof | None) -> dict[str, Any]:
    """One seed of a row.

    Args:
        run: Which.
        trained: What its marker holds.
        results: Of its evaluation.
        proof: Of all validation images; None where the network has no bounds.
    """
    evaluated = results["models"][0]
    by_attack, tried = evaluated["curve"][-1]["attacks"], [row["attack"] for row in evaluated["attacks"]]
    papers = min((name for name in PAPERS_ATTACKS if name in by_attack), key=by_attack.__getitem__)
    return {
        "seed": run.seed,
        "recipe": trained["key"],
        "day": results["created"][:10],
        "num_images": results["data"]["num_images"],
        "device": results["device"],
        **_clock(trained),
        "clean": evaluated["clean_accuracy"],
        "papers_attacks": by_attack[papers],
        "by_attack": by_attack,
        "worst_case": evaluated["robust_accuracy"],
        "certified": None if proof is None else proof.proven,
        "certified_of_attacked": evaluated["certified_accuracy"],
        "proof": asdict(proof) if proof is not None and proof.max_boxes else None,
        "over_epsilon": [[point["epsilon"], point["worst_case"]] for point in evaluated["curve"]],
        "suite_version": results.get("suite_version", 1),
        "transfers": sorted(name.removeprefix(TRANSFER) for name in tried if name.startswith(TRANSFER)),
        "verdicts": _verdicts(evaluated["verdicts"], papers),
        "flags": evaluated["flags"],
        "verdict": evaluated["verdict"],
    }


def _clock(trained: dict[str, Any]) -> dict[str, Any]:
    """When, on what and in how many seconds it was trained."""
    curve = trained["curve"]
    beside = {key: trained[key] for key in ("device", "num_threads", "jobs", "epochs") if key in trained}
    return beside | {"command": trained.get("command"), "seconds": curve[-1]["seconds"], "curve": curve}


def is_alike(entry: dict[str, Any], trained: dict[str, Any]) -> bool:
    """Whether a training by the recipe of `entry` came out as that did: the same accuracies after every epoch."""

    def accuracies(curve: list[dict[str, float]]) -> list[tuple[float, float]]:
        return [(point["clean"], point["robust"]) for point in curve]

    return accuracies(entry["curve"]) == accuracies(trained["curve"])


def by_clock_of(entry: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    """An entry with the clock of another training: as it was where that came out otherwise, or is the entry's own.

    Args:
        entry: Of one seed.
        trained: What the marker of a training by the same recipe holds, or another entry.
    """
    if trained["curve"] == entry["curve"] or not is_alike(entry, trained):
        return entry
    return entry | _clock(trained) | {"timed_again": True}


def _verdicts(verdicts: dict[str, Any], papers: str) -> dict[str, str]:
    """Those at the largest budget, by the numbers that they add up to; what was wrong unattacked ("-") is wrong."""
    of_numbers = {
        "papers_attacks": verdicts["attacks"][papers],
        "worst_case": verdicts["worst_case"],
        "certified_of_attacked": verdicts["certified"],
    }
    return {key: [*known.values()][-1].replace("-", "0") for key, known in of_numbers.items() if known}


def write_page(folder: Path, content: dict[str, Any]) -> None:
    """study.json, README.md and the figures, each whole or not at all."""
    write_whole(folder / JSON_FILE, json.dumps(content, indent=1) + "\n")
    write_whole(folder / PAGE_FILE, markdown(content))
    for name, figure in ((CURVES_FILE, curves_figure(content)), (TRAINING_FILE, training_figure(content))):
        with whole_file(folder / name) as temporary:
            save_png(figure, temporary)


def read_study(folder: Path) -> dict[str, Any]:
    """What `write_page` wrote. Raises: InputError if it is missing, damaged or of another schema."""
    made_by = "lightning-sq reproduce"
    return read_of_schema(folder / JSON_FILE, SCHEMA_VERSION, made_by=made_by, again="Make it again.")


def is_smaller(content: dict[str, Any]) -> bool:
    """Whether a page, or its conditions, are of less than the schedules of the recipes on the whole data set."""
    return content["form"] != "full" or content.get("max_epochs") is not None or not content["data"]["whole"]


def markdown(content: dict[str, Any]) -> str:
    """The page."""
    lines = [*_head(content), *_claims_table(content["claims"]), *_rows_section(content)]
    lines += proofs_section(content["rows"])
    lines += rates_section(content["rows"], content["data"]["val"])
    if content["choice"]:
        lines += choice_section(content["choice"])
    lines += _left_out(STUDIES[content["study"]])
    return "\n".join([*lines, *_figures()])


def _head(content: dict[str, Any]) -> list[str]:
    """What was run, by which command, on what."""
    data, epochs = content["data"], content.get("max_epochs")
    epsilon = format_epsilon(parse_epsilon(content["epsilon"]))
    pressed = [f"Schedules of more than {counted(epochs, 'epoch')} are pressed into {epochs}."] if epochs else []
    return [
        f"# {content['title']}: the paper's claims, reproduced and judged",
        "",
        " ".join([_FORMS[content["form"]], *pressed, "Written by"]),
        f"{_commands(content)}",
        "(rows, seeds and learning rates may be chosen by more options, and added by `--add`); every number is in",
        f"[{JSON_FILE}]({JSON_FILE}). L-inf, epsilon {epsilon}; attacks on {provenance.images(content['rows'])}",
        f"({', '.join(content['attacks'])}), proofs on all {data['val']:,}.",
        provenance.errors(content["rows"]),
        *provenance.older(content["rows"]),
        *provenance.transfers(content["rows"]),
        provenance.machines(content["rows"]),
        f"{data['train']:,} training and {data['val']:,} test images; {provenance.networks(content['rows'])}.",
        *[_PARTIAL] * (not data["whole"]),
    ]


def _commands(content: dict[str, Any]) -> str:
    """Without the options that choose rows, seeds and learning rates: by --add a page may be of several commands."""
    form, epochs = content["form"], content.get("max_epochs")
    options = [] if form == "full" else [f"--{form}"]
    options += [] if epochs is None else [f"--max-epochs {epochs}"]
    usual = USUAL[form]["attacks"]
    attacks = {",".join(attacks_by_name(suite)): suite for suite in SUITES}
    asked = ",".join(content["attacks"])
    options += [] if attacks.get(asked) == usual else [f"--attacks {attacks.get(asked, asked)}"]
    words = " ".join(["lightning-sq reproduce", content["study"], *options])
    first, *others = numbers_of_images(content["rows"])
    return " and ".join([f"`{words} --num-images {first}`", *(f"`{words} --add --num-images {n}`" for n in others)])


def _claims_table(claims: list[dict[str, Any]]) -> list[str]:
    keys = ("claim", "by_papers_attacks", "by_strongest", "verdict")
    return [
        "",
        "## Claims",
        "",
        "| claim | by the paper's attacks | by the strongest attack | verdict |",
        "| --- | --- | --- | --- |",
        *(f"| {' | '.join(claim[key] for key in keys)} |" for claim in claims),
        "",
        "The paper claims such things of its own method alone; the other rows are held against the same.",
        "Seconds to an accuracy lie on the straight line between two schedules that were run: whole ones with the mean",
        "over their seeds, shorter ones with one seed. All are of one run, of one command, where nothing else is said.",
        "Published accuracies under attack are those of <https://github.com/fra31/auto-attack>, published proofs those",
        "of <https://sokcertifiedrobustness.github.io/leaderboard> (June 2024): of whole test sets, not these images.",
    ]


def _rows_section(content: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "## Rows",
        "",
        "Accuracy in %, mean and standard deviation over the seeds; the worst case is taken image by image over all",
        "attacks, and a row whose diagnostics fired is not to be called robust beyond what is proven of it: a better",
        "attack may find more. What is proven is of all test images, of which those attacked are harder for some rows",
        "and easier for others: so it can be above the worst case. Where rows were attacked on other numbers of",
        "images, the claims compare them on those that both have; this table does not.",
        provenance.tuning(content["rows"]),
        *provenance.clock(content["rows"]),
        "",
        *rows_table(content["rows"]),
    ]
    if content["not_run"]:
        lines += ["", f"Not run here: {'; '.join(content['not_run'])}."]
    return lines


def _figures() -> list[str]:
    return [
        "",
        f"![accuracy over the budget]({CURVES_FILE})",
        "",
        "Full marks: over all attacks. Hollow ones, at smaller budgets: over those that attack every image, so",
        "rather too high. Triangles: proven of all test images.",
        "",
        f"![accuracy over the time of training]({TRAINING_FILE})",
        "",
    ]


def _left_out(study: Study) -> list[str]:
    lines = []
    if study.left_out:
        lines += [
            "",
            "Tried besides, on other training images held out, by scripts that are not kept, and left out:",
            "",
        ]
        lines += [f"- {sentence}" for sentence in study.left_out]
    if study.looked_at:
        lines += ["", "Looked at on test images, and not taken:", "", *(f"- {one}" for one in study.looked_at)]
    return lines


def printed(content: dict[str, Any]) -> list[str]:
    """The verdicts, for the terminal."""
    marks = {True: "yes", False: "no", None: "not told"}
    return [f"{marks[claim['holds']]:>12}  {claim['claim']}: {claim['verdict']}" for claim in content["claims"]] + [
        f"{percent(spread_of(content['rows'], name, 'worst_case').mean):>12}  {row['title']}"
        for name, row in content["rows"].items()
    ]
