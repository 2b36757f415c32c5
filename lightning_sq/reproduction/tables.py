"""The tables of a study's page, in Markdown, from its numbers alone."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Any

from lightning_sq.evaluation.tables import percent
from lightning_sq.reproduction.measured import PAPERS_ATTACKS, Spread, on_shared_images, spread_of, standard_error
from lightning_sq.reproduction.trials import RATE_FACTORS, TRIAL_IMAGES, TRIAL_SHARE
from lightning_sq.words import counted

_OF_THE_RECIPE = {1 / 2: "half the recipe's", 1.0: "the recipe's", 2.0: "twice the recipe's"}
_SHARES = {1 / 2: "half", 1 / 3: "a third", 1 / 4: "a quarter"}


def rows_table(rows: dict[str, Any]) -> list[str]:
    """A line a row: accuracies with their spread over the seeds, flags, and the epochs and seconds of training."""
    return [
        "| row | seeds | images | clean | PGD-40 | BPDA | worst case | proven of all | flags | epochs | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: |",
        *[_line(rows, name) for name in rows],
    ]


def _line(rows: dict[str, Any], name: str) -> str:
    row = rows[name]
    seeds = row["seeds"]
    attacked = [seed["num_images"] for seed in seeds]
    images = " to ".join(f"{number:,}" for number in sorted({min(attacked), max(attacked)}))
    numbers = [spread_of(rows, name, "clean"), *(_of_attack(seeds, attack) for attack in PAPERS_ATTACKS)]
    numbers += [spread_of(rows, name, "worst_case"), spread_of(rows, name, "certified")]
    flags = sorted({flag.replace("_", " ") for seed in seeds for flag in seed["flags"]})
    cells = [row["title"], str(len(seeds)), images, *("–" if value is None else str(value) for value in numbers)]
    cells[6] = f"**{cells[6]}**"
    seconds = [seed["seconds"] for seed in seeds]
    spread = f" ± {stdev(seconds):.0f}" if len(seconds) > 1 else ""
    cells += [", ".join(flags) or "none", f"{seeds[0]['epochs']:g}", f"{fmean(seconds):.0f}{spread}"]
    return f"| {' | '.join(cells)} |"


def _of_attack(seeds: list[dict[str, Any]], attack: str) -> Spread | None:
    """What it alone leaves; None where it was not run."""
    values = [seed["by_attack"][attack] for seed in seeds if attack in seed["by_attack"]]
    return Spread.of(values) if values else None


def proofs_section(rows: dict[str, Any]) -> list[str]:
    """How near the truth is known: what is proven, and by what, against what is shown to be wrong."""
    known = {name: [seed["proof"] for seed in row["seeds"] if seed.get("proof")] for name, row in rows.items()}
    known = {name: proofs for name, proofs in known.items() if proofs}
    if not known:
        return []
    boxes = max(proof["max_boxes"] for proofs in known.values() for proof in proofs)
    lines = [
        "",
        "## Between proof and mistake",
        "",
        "Share of all validation images, in %: proven by interval bounds of the whole ball; proven by these or by",
        f"branch and bound, which cuts the ball between two levels of a pixel, into {boxes:,} boxes at most; and not",
        "shown to be misclassified anywhere in the ball by that search. Of what that leaves open a mixed-integer",
        "program is made, whose solver ends with a proof or a misclassified image, or runs out of time. Truth lies",
        "between the last two columns; where they agree it is known.",
        "",
        "| row | interval bounds | branch and bound | not wrong by it | integer program | not wrong by it |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, proofs in known.items():
        cells = [Spread.of([proof["bounds"] for proof in proofs])]
        cells += [Spread.of(ends) for ends in zip(*map(_ends_by_boxes, proofs), strict=True)]
        if all(proof.get("proven_by_boxes") is None for proof in proofs):
            cells += ["–", "–"]
        else:
            cells += [Spread.of([proof["proven"] for proof in proofs])]
            cells += [Spread.of([1 - proof["wrong"] for proof in proofs])]
        lines.append(f"| {' | '.join([rows[name]['title'], *map(str, cells)])} |")
    return lines


def _ends_by_boxes(proof: dict[str, Any]) -> tuple[float, float]:
    """(proven, not wrong) by branch and bound."""
    if proof.get("proven_by_boxes") is None:
        return proof["proven"], 1 - proof["wrong"]
    return proof["proven_by_boxes"], 1 - proof["wrong_by_boxes"]


def rates_section(rows: dict[str, Any], num_test: int) -> list[str]:
    """The same budget for every row: what each of its learning rates gave. `num_test` as in `on_shared_images`."""
    tuned = {name: row for name, row in rows.items() if row["tuning"]}
    if not tuned:
        return []
    lines = [
        "",
        "## Learning rates",
        "",
        f"Each was tried for {_SHARES[TRIAL_SHARE]} of the row's epochs, rounded up. Accuracy in % on training images "
        "that are held out:",
        "under a quick attack, or proven where the row is trained by bounds. A rate is that of 256 images a step.",
        "",
        f"| row | {' | '.join(_OF_THE_RECIPE[factor] for factor in RATE_FACTORS)} | taken |",
        f"| --- |{' ---: |' * (len(RATE_FACTORS) + 1)}",
    ]
    for row in tuned.values():
        cells = []
        for tried in sorted(row["tuning"], key=lambda tried: tried["rate"]):
            bold = "**" * (tried["rate"] == row["learning_rate"])
            cells.append(f"{bold}{percent(tried['accuracy'])}{bold}")
        lines.append(f"| {' | '.join([row['title'], *cells, format(row['learning_rate'], 'g')])} |")
    return lines + _at_the_edge(tuned) + _at_another_rate(rows, num_test)


def _at_the_edge(tuned: dict[str, Any]) -> list[str]:
    """Which rows took the largest or smallest rate that was tried, and so might do better beyond it."""
    edges = {name: [extreme(tried["rate"] for tried in row["tuning"]) for extreme in (min, max)]
             for name, row in tuned.items()}  # fmt: skip
    beyond = [row["title"] for name, row in tuned.items() if row["learning_rate"] in edges[name]]
    if not beyond:
        return []
    return ["", f"Taken at the edge of what was tried, so that another rate may do better still: {'; '.join(beyond)}."]


def _at_another_rate(rows: dict[str, Any], num_test: int) -> list[str]:
    """What whole and shorter schedules gave at rates that were not taken."""
    others = [(row, other) for row in rows.values() for other in row.get("other_rates", [])]
    if not others:
        return []
    lines = [
        "",
        "At another rate than the one taken, from a trial of more rates by the same commands and attacks, kept as",
        "it was measured: accuracy in % in the worst case, of the images attacked then, and what the whole schedule at",
        "the rate taken keeps of the same ones.",
        "",
        "| row | rate | epochs | seeds | images | worst case | at the rate taken | seconds of training |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row, other in others:
        for ends in ([end] for end in other["shorter"]):
            lines.append(_line_at_another_rate(row["title"], other["rate"], ends))
        taken = spread_of(on_shared_images({"taken": row, "other": row | other}, num_test), "taken", "worst_case")
        lines.append(_line_at_another_rate(row["title"], other["rate"], other["seeds"], str(taken)))
    return lines


def _line_at_another_rate(title: str, rate: float, ends: list[dict[str, Any]], taken: str = "–") -> str:
    worst = Spread.of([end["worst_case"] for end in ends])
    cells = [title, f"{rate:g}", f"{ends[0]['epochs']:g}", f"{len(ends)}", f"{ends[0]['num_images']:,}", f"{worst}"]
    cells += [taken, f"{fmean(end['seconds'] for end in ends):.0f}"]
    return f"| {' | '.join(cells)} |"


def choice_section(tried: list[dict[str, Any]]) -> list[str]:
    """The lines on what was tried of the method, the best in bold."""
    best, epochs = max(entry["accuracy"] for entry in tried), counted(tried[0]["epochs"], "epoch", "g")
    error = f"{100 * standard_error(best, TRIAL_IMAGES):.1f} points"
    return [
        "",
        "## What was tried of the method",
        "",
        "The recipe and single changes of it, one seed, on training images that are held out (never on test images):",
        f"accuracy under a quick attack after {epochs}. On some {TRIAL_IMAGES:,} images the standard error of the",
        f"best is {error}: what is nearer to each other than twice that is not told apart.",
        "Seconds are of several at a time, and of what else the machine did meanwhile.",
        "",
        "| the method | % | seconds of training |",
        "| --- | ---: | ---: |",
        *(
            f"| {entry['title']} | {'**' * (entry['accuracy'] == best)}{percent(entry['accuracy'])}"
            f"{'**' * (entry['accuracy'] == best)} | {entry['seconds']:.0f} |"
            for entry in tried
        ),
    ]
