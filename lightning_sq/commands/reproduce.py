"""`lightning-sq reproduce mnist | cifar10`: train every row, attack it, and hold the paper's claims against it."""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_sq.commands.parser import Parser
from lightning_sq.errors import InputError

if TYPE_CHECKING:
    from lightning_sq.reproduction.runs import Run
    from lightning_sq.reproduction.studies import Study

START_SECONDS = 25.0
"""What a command costs before it works, about: imports, and decoding the images."""
QUICK = {"num_images": 100, "attacks": "quick"}
FULL = {"num_images": 1000, "attacks": "standard"}


def _parser() -> Parser:
    parser = Parser(
        "lightning-sq reproduce",
        description="Train every row of a study, attack each by the same worst case, and write one page. Says first "
        "how long it will take; stopped and started again, it goes on where it was.",
    )
    parser.add_argument("study", choices=("mnist", "cifar10"))
    parser.add_argument("--quick", action="store_true", help="few images, short schedules, one seed: minutes")
    parser.add_argument("--data-dir", type=Path, help="where the data set's own files are; default: download them")
    parser.add_argument("--data", type=Path, help="image folder, made if missing; default: data/STUDY")
    parser.add_argument("--runs", type=Path, help="folder of the runs; default: runs/reproduce/STUDY or STUDY-quick")
    parser.add_argument("--output", type=Path, help="folder of the page; default: results/STUDY, quick: as --runs")
    parser.add_argument("--configs", type=Path, default=Path("configs"), help="default: configs, of the clone")
    parser.add_argument("--rows", help="with commas; default: all")
    parser.add_argument("--num-seeds", type=int, help="at most so many of each row; default: as the study says")
    parser.add_argument("--num-images", type=int, help="test images to attack; default: 1000, quick: 100")
    parser.add_argument("--attacks", help="as of evaluate; default: standard, quick: quick")
    parser.add_argument("--max-epochs", type=int, help="of every row at most; default: as the recipes say")
    parser.add_argument("--jobs", type=int, help="rows at a time; default: a CPU core each, or one on a GPU")
    parser.add_argument("--num-threads", type=int, help="CPU threads of each row; default: the cores over --jobs")
    parser.add_argument("--plan", action="store_true", help="say how long it will take, and stop")
    parser.add_argument("--page", action="store_true", help="write the page anew from what has been run, and stop")
    parser.add_argument("--overwrite", action="store_true", help="do the chosen rows again")
    return parser


def main(arguments: list[str]) -> None:
    options = _parser().parse_args(arguments)
    for name in ("num_seeds", "num_images", "max_epochs", "jobs", "num_threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value} is not at least 1.")
    from lightning_sq.reproduction.studies import STUDIES

    study = STUDIES[options.study]
    _fill_in(options, study)
    runs = _runs(study, options)
    if options.page:
        _write_page(study, runs, options)
        return
    _make_data(study, options)
    estimates = _estimate(runs, options)
    if options.plan:
        return
    if options.overwrite:
        for run in runs:
            shutil.rmtree(run.folder, ignore_errors=True)
    _train_and_attack(study, runs, estimates, options)
    _write_page(study, runs, options)


def _fill_in(options: Namespace, study: Study) -> None:
    """The defaults that hang on the form, and what they imply. Raises: InputError for rows that there are not."""
    form = QUICK if options.quick else FULL
    options.num_images = options.num_images or form["num_images"]
    options.attacks = options.attacks or form["attacks"]
    options.data = options.data or Path("data") / study.name
    options.runs = options.runs or Path("runs/reproduce") / f"{study.name}{'-quick' * options.quick}"
    options.output = options.output or (options.runs if options.quick else Path("results") / study.name)
    known = [row.name for row in study.rows]
    options.rows = known if options.rows is None else [name.strip() for name in options.rows.split(",")]
    if unknown := [name for name in options.rows if name not in known]:
        raise InputError(f"{study.name} has no row {unknown[0]!r}. Choose from: {', '.join(known)}.")
    import torch

    cores = os.cpu_count() or 1
    options.jobs = options.jobs or (1 if torch.cuda.is_available() else cores)
    options.num_threads = options.num_threads or max(1, cores // options.jobs)


def _runs(study: Study, options: Namespace) -> list[Run]:
    from lightning_sq.reproduction.recipes import recipe_of
    from lightning_sq.reproduction.runs import Run

    runs = []
    for row in (study.row(name) for name in options.rows):
        num_seeds = 1 if options.quick else row.num_seeds
        for seed in range(min(num_seeds, options.num_seeds or num_seeds)):
            changes: dict[str, Any] = {}
            recipe = recipe_of(study, row, configs=options.configs, seed=seed, changes={})
            epochs = [recipe.values()["trainer"]["max_epochs"]]
            epochs += [row.quick_epochs] if options.quick else []
            epochs += [options.max_epochs] if options.max_epochs else []
            if min(epochs) < epochs[0]:
                changes["trainer.max_epochs"] = min(epochs)
            if options.quick:
                changes["trainer.limit_train_batches"] = row.quick_batches
            recipe = recipe_of(study, row, configs=options.configs, seed=seed, changes=changes)
            runs.append(Run(row, seed, recipe, options.runs / row.name / f"seed{seed}"))
    return runs


def _make_data(study: Study, options: Namespace) -> None:
    from lightning_sq.commands.data import main as data

    source = [] if options.data_dir is None else ["--from", str(options.data_dir)]
    data([study.name, str(options.data), "--keep", *source])


def _estimate(runs: list[Run], options: Namespace) -> dict[str, tuple[float, float]]:
    """Row -> seconds of (training, attacking) one seed, from a few steps that are timed now; prints the plan."""
    import torch

    from lightning_sq.data.index import load_index
    from lightning_sq.evaluation.suites import attacks_by_name
    from lightning_sq.paths import cache_folder
    from lightning_sq.progress import progress_bar
    from lightning_sq.reproduction.recipes import seconds_per_image

    with progress_bar(f"checking {options.data}", "files") as advance:
        num_images = len(load_index(options.data / "train", cache=cache_folder() / "indexes", progress=advance))
    passes = sum(entry.cost for entry in attacks_by_name(options.attacks).values())
    torch.set_num_threads(options.num_threads)
    found = {}
    first = {run.row.name: run for run in reversed(runs)}
    with progress_bar("timing a few steps of each row", "rows") as advance:
        for done, (name, run) in enumerate(reversed(first.items()), start=1):
            step, forward = seconds_per_image(run.recipe)
            values = run.recipe.values()
            seen = num_images * values["data"].get("batch_repeats", 1)
            limit = values["trainer"].get("limit_train_batches")
            seen = seen if limit is None else min(seen, limit * values["data"]["batch_size_per_device"])
            training = values["trainer"]["max_epochs"] * seen * step
            found[name] = START_SECONDS + training, START_SECONDS + options.num_images * passes * forward
            advance(done, len(first))
    total = 0.0
    print(f"{'row':22}{'seeds':>6}{'epochs':>8}{'training':>12}{'attacks':>12}   a seed, about")
    for name in dict.fromkeys(run.row.name for run in runs):
        own = [run for run in runs if run.row.name == name]
        epochs = own[0].recipe.values()["trainer"]["max_epochs"]
        training, attacking = found[name]
        total += len(own) * (training + attacking)
        print(f"{name:22}{len(own):6}{epochs:8}{_time(training):>12}{_time(attacking):>12}")
    longest = max(sum(times) for times in found.values())
    print(f"in all at most {_time(max(total / options.jobs, longest))}, {options.jobs} rows at a time", flush=True)
    return found


def _time(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _train_and_attack(
    study: Study, runs: list[Run], estimates: dict[str, tuple[float, float]], options: Namespace
) -> None:
    from lightning_sq.progress import progress_bar
    from lightning_sq.reproduction.runs import evaluation_step, run_all, training_step

    training = [training_step(run, options.data, estimates[run.row.name][0]) for run in runs]
    sources = _sources(study, runs, options)
    attacking = [
        evaluation_step(
            run,
            _attack(study, options),
            [f"{name}={file}" for name, file in sources.items() if file != run.checkpoint],
            estimates[run.row.name][1],
        )
        for run in runs
    ]
    for what, steps in (("training", training), ("attacking", attacking)):
        with progress_bar(what, "seconds of work") as advance:
            run_all(steps, jobs=options.jobs, advance=advance, num_threads=options.num_threads)


def _attack(study: Study, options: Namespace) -> list[str]:
    """Options of evaluate."""
    words = ["--data", str(options.data), "--epsilon", study.epsilon, "--attacks", options.attacks]
    return [*words, "--num-images", str(options.num_images), "--backend", "torchvision", "--num-threads", "1"]


def _sources(study: Study, runs: list[Run], options: Namespace) -> dict[str, Path]:
    """The undefended net and the PGD-trained one, whose adversarial images are tried on the others, if they are there.

    They are of seed 0, trained by this command or an earlier one.
    """
    from lightning_sq.reproduction.runs import CHECKPOINT, TRAINED

    folders = {name: options.runs / name / "seed0" for name in (study.natural, study.adversarial)}
    chosen = {run.folder for run in runs}
    there = {name: folder for name, folder in folders.items() if folder in chosen or (folder / TRAINED).exists()}
    return {name: folder / CHECKPOINT for name, folder in there.items()}


def _write_page(study: Study, runs: list[Run], options: Namespace) -> None:
    """From the runs that have been trained and attacked. Raises: InputError if there is none."""
    import json
    from datetime import UTC, datetime

    from lightning_sq.evaluation.results import read_results
    from lightning_sq.models.checkpoint_format import versions
    from lightning_sq.reproduction import claims, page
    from lightning_sq.reproduction.proofs import proven_share
    from lightning_sq.reproduction.runs import EVALUATED, EVALUATION, TRAINED

    ended = [run for run in runs if (run.folder / EVALUATED).exists() and (run.folder / TRAINED).exists()]
    if not ended:
        raise InputError(f"{options.runs} holds no row that was trained and attacked. Leave --page out.")
    rows: dict[str, Any] = {}
    results: dict[str, Any] = {}
    for run in ended:
        trained = json.loads((run.folder / TRAINED).read_text())
        results = read_results(run.folder / EVALUATION)
        entry = page.seed_entry(run.seed, trained, results["models"][0], proven_share(run, options.data, study.epsilon))
        row = rows.setdefault(run.row.name, {"title": run.row.title, "options": run.recipe.options(), "seeds": []})
        row["seeds"].append(entry)
    content = {
        "schema_version": page.SCHEMA_VERSION,
        "study": study.name,
        "title": study.title,
        "epsilon": study.epsilon,
        "form": "quick" if options.quick else "full",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": results["device"],
        "num_threads": options.num_threads,
        "jobs": options.jobs,
        "versions": versions(),
        "attacks": [name for name in results["attacks"] if not name.startswith("transfer_")],
        "num_images": results["data"]["num_images"],
        "rows": rows,
        "not_run": [row.title for row in study.rows if row.name not in rows],
        "claims": claims.judge(study, rows),
    }
    page.write_page(options.output, content)
    for line in page.printed(content):
        print(line)
    print(options.output / page.PAGE_FILE)
