"""`lightning-sq evaluate`: attack trained models on the same images, and write the report."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_sq.commands.evaluate_options import parse
from lightning_sq.commands.evaluation_images import choose_images, read_images
from lightning_sq.commands.evaluation_subject import Subject
from lightning_sq.commands.launch import launch
from lightning_sq.errors import InputError
from lightning_sq.run_files import ALL_VERDICTS, CSV_FILE, FIGURE_FILE, JSON_FILE, REPORT_FILE, VERDICT_FILES, VERDICTS
from lightning_sq.words import counted

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lightning_sq.evaluation import Evaluation
    from lightning_sq.evaluation.examples import Examples
    from lightning_sq.models import PixelClassifier

CURVE = (1 / 3, 2 / 3)
"""Further points of the curve, as parts of the largest --epsilon."""


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    options.transfer_from = _that_are_no_models(options.transfer_from, options.models)
    _check_output(options)
    device = launch(options.device, options.devices)
    from lightning_sq.evaluation.processes import barrier
    from lightning_sq.output_lock import lock_output
    from lightning_sq.process_group import rank
    from lightning_sq.slurm_job import note_job

    barrier()  # every process has looked at the folder before one changes it
    with ExitStack() as held:
        if rank() == 0:
            lock_output(options.output, held)
            _check_output(options)  # whoever held it may have written some
            note_job(options.output)
            if any(options.output.glob(ALL_VERDICTS)):
                print(f"Going on with the verdicts in {options.output / VERDICTS}.", flush=True)
        barrier()
        found, shown = _evaluate_all(options, device)
        if rank() == 0:
            _write(options.output, found, shown)


def _that_are_no_models(others: dict[str, str], models: dict[str, str]) -> dict[str, str]:
    """Those of `others`, name -> source, that are not a model of the command: these are tried on each other anyway.

    One model alone may have the name of another one. Raises: InputError if transfer_NAME could be either of two.
    """
    found = {name: source for name, source in others.items() if name not in models or not _same(source, models[name])}
    for name, source in found.items():
        if name in models and len(models) > 1:
            raise InputError(
                f"{name} is {models[name]} among the models, and {source} in --transfer-from. "
                f"Give one of them another name, such as --transfer-from other_{name}={source}."
            )
    return found


def _same(source: str, other: str) -> bool:
    one, two = Path(source), Path(other)
    return source == other or (one.exists() and two.exists() and one.samefile(two))


def _check_output(options: Namespace) -> None:
    """Raises: InputError if --output is a file, or holds results, or verdicts of other models, that are to stay.

    Verdicts beside the results are of an evaluation that broke off when it wrote its page, or while it replaced an
    older one: the same command ends it.
    """
    output, overwrite = options.output, options.overwrite
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file. Give a folder.")
    if (output / JSON_FILE).exists() and not overwrite and not any(output.glob(ALL_VERDICTS)):
        raise InputError(f"{output} already holds results. Add --overwrite to replace them, or give another --output.")
    others = {path.parent.name for path in output.glob(ALL_VERDICTS)} - options.models.keys()
    if others and not overwrite:
        raise InputError(
            f"{output / VERDICTS} holds verdicts of {min(others)}, which is none of these models. Add --overwrite to "
            "drop them, or give another --output."
        )


def _drop_verdicts(folders: Iterable[Path]) -> None:
    """Remove what stores wrote into `folders`, and those that are empty then."""
    for folder in folders:
        for path in folder.glob(f"{VERDICT_FILES}*"):  # and their journals
            path.unlink()
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _evaluate_all(options: Namespace, device: torch.device) -> tuple[dict[str, Any], dict[str, Examples]]:
    """(results, examples by model)."""
    from lightning_sq.evaluation import examples, results
    from lightning_sq.evaluation.identity import packages
    from lightning_sq.evaluation.processes import first_alone
    from lightning_sq.evaluation.suites import TRANSFER
    from lightning_sq.models.checkpoint_format import versions
    from lightning_sq.release import load

    began = time.perf_counter()
    models = {name: load(source).to(device) for name, source in options.models.items()}
    attackers = {name: load(source).to(device) for name, source in options.transfer_from.items()}
    _check_lenders(attackers, models)
    with first_alone():
        files = choose_images(options.data, options.num_images, options.seed, allow_unreadable=options.allow_unreadable)
    subjects = [
        Subject(name, options.models[name], model, *_read(model, files, options, device), device)
        for name, model in models.items()
    ]
    chosen = examples.choose([subject.classified_right(options.batch_size) for subject in subjects])
    found = {}
    for subject in subjects:
        others = {name: model for name, model in models.items() if name != subject.name} | attackers
        comparable = {name: other for name, other in others.items() if _same_input(other, subject.model)}
        found[subject.name] = _evaluate_one(subject, comparable, chosen, options)
        found[subject.name].skipped |= {
            f"{TRANSFER}{name}": "that model takes images of another size or other channels, or has other classes"
            for name in others.keys() - comparable.keys()
        }
    everything = results.assemble(
        [subject.row(found[subject.name], options.batch_size) for subject in subjects],
        next(iter(found.values())),
        data={
            "folder": str(files.folder),
            "num_images": len(files),
            "unreadable": len(files.unreadable),
            "files": list(files.paths),
        },
        attacks=_attacks(found, options),
        seed=options.seed,
        device=_in_words(device),
        versions=versions() | packages(),
        seconds=time.perf_counter() - began,
    )
    return everything, {subject.name: subject.examples(found[subject.name], chosen) for subject in subjects}


def _attacks(found: dict[str, Evaluation], options: Namespace) -> dict[str, Any]:
    """Those of the suite, and those by other models that were tried on any, as they stand in results.json."""
    from lightning_sq.evaluation.suites import TRANSFER, attacks_by_name

    tried = {name: entry for of_model in found.values() for name, entry in of_model.attacks.items()}
    transfers = [f"{TRANSFER}{other}" for other in options.models | options.transfer_from]
    suite = attacks_by_name(options.attacks, options.norm) | {name: tried[name] for name in transfers if name in tried}
    return {name: entry.to_dict() for name, entry in suite.items()}


def _in_words(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {counted(torch.get_num_threads(), 'thread')} a process"


def _same_input(one: PixelClassifier, other: PixelClassifier) -> bool:
    """Whether what fools one model can be shown to the other."""
    a, b = one.config, other.config
    names = ("image_size", "resize_size", "num_channels", "class_names")
    return all(getattr(a, name) == getattr(b, name) for name in names)


def _check_lenders(others: dict[str, PixelClassifier], models: dict[str, PixelClassifier]) -> None:
    """Raises: InputError for one whose adversarial images can be shown to none of the models."""
    for name, other in others.items():
        if not any(_same_input(other, model) for model in models.values()):
            raise InputError(
                f"{name} takes images of another size or other channels than the models, or has other classes. "
                "Leave it out of --transfer-from."
            )


def _read(model: PixelClassifier, files: Any, options: Namespace, device: torch.device) -> tuple[Tensor, Tensor]:
    return read_images(
        model.config,
        files,
        batch_size=options.batch_size,
        backend=options.backend,
        num_threads=options.num_threads,
        device=device,
    )


def _evaluate_one(
    subject: Subject, others: dict[str, PixelClassifier], chosen: list[int], options: Namespace
) -> Evaluation:
    """Goes on where it was. With --overwrite, verdicts of another evaluation are dropped first."""
    from lightning_sq.evaluation.processes import barrier
    from lightning_sq.evaluation.store import OtherVerdictsError
    from lightning_sq.process_group import rank

    store = options.output / VERDICTS / subject.name
    try:
        return _attack(subject, others, chosen, store, options)
    except OtherVerdictsError as error:
        if not options.overwrite:
            raise InputError(f"{error.problem}. Add --overwrite to drop them, or give another --output.") from error
        if rank() == 0:
            print(f"Dropped, because of --overwrite: {error.problem}.", flush=True)
    barrier()  # every process has read them
    if rank() == 0:
        _drop_verdicts([store])
    barrier()
    return _attack(subject, others, chosen, store, options)


def _attack(
    subject: Subject, others: dict[str, PixelClassifier], chosen: list[int], store: Path, options: Namespace
) -> Evaluation:
    from lightning_sq.evaluation import evaluate
    from lightning_sq.process_group import rank
    from lightning_sq.progress import progress_bar

    with progress_bar(f"attacking {subject.name}", "passes") as advance:
        return evaluate(
            subject.model,
            subject.images,
            subject.labels,
            epsilon=options.budgets,
            attacks=options.attacks,
            norm=options.norm,
            curve=[max(options.budgets) * part for part in CURVE],
            transfer_from=others,
            batch_size=options.batch_size,
            seed=options.seed,
            store=store,
            show=chosen,
            progress=advance if rank() == 0 else None,
        )


def _write(output: Path, found: dict[str, Any], shown: dict[str, Examples]) -> None:
    from rich.console import Console

    from lightning_sq.evaluation import examples, results, robustbench
    from lightning_sq.evaluation.report import write_report
    from lightning_sq.evaluation.tables import printed_table

    results.write_results(output, found)
    robustbench.write_model_infos(output, found)
    examples.save(output, shown)
    write_report(output)
    _drop_verdicts([*(output / VERDICTS).glob("*/"), output / VERDICTS])  # every verdict is in results.json now
    Console().print(printed_table(found))
    for model in found["models"]:
        print(model["verdict"])
    for name in (JSON_FILE, CSV_FILE, FIGURE_FILE, REPORT_FILE):
        print(output / name)
