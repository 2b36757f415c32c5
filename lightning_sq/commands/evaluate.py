"""`lightning-sq evaluate`: attack trained models on the same images, and write the report."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_sq.commands.evaluate_options import parse
from lightning_sq.commands.evaluation_images import choose_images, read_images
from lightning_sq.commands.launch import launch
from lightning_sq.errors import InputError
from lightning_sq.run_files import ALL_VERDICTS, CSV_FILE, FIGURE_FILE, JSON_FILE, REPORT_FILE, VERDICTS

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
    _check_room(options.output, overwrite=options.overwrite)
    device = launch(options.device, options.devices)
    from lightning_sq.evaluation.processes import barrier, rank
    from lightning_sq.training.cluster.lock import lock_output

    barrier()  # every process has looked at the folder before one changes it
    with ExitStack() as held:
        if rank() == 0:
            lock_output(options.output, held)
            _check_room(options.output, overwrite=options.overwrite)  # who held it before may have written results
            queued_again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"  # then the verdicts are this job's own
            _make_room(options.output, overwrite=options.overwrite and not queued_again)
        barrier()
        found, shown = _evaluate_all(options.models, options.transfer_from, options, device)
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


def _check_room(output: Path, *, overwrite: bool) -> None:
    """Raises: InputError if `output` is a file, or holds results that are not to be replaced."""
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file. Give a folder.")
    if (output / JSON_FILE).exists() and not overwrite:
        raise InputError(f"{output} already holds results. Add --overwrite to replace them, or give another --output.")


def _make_room(output: Path, *, overwrite: bool) -> None:
    if overwrite:
        _drop_verdicts(output)
    elif any(output.glob(ALL_VERDICTS)):
        print(f"Going on with the verdicts in {output / VERDICTS}.", flush=True)


def _drop_verdicts(output: Path) -> None:
    """Remove what a store wrote, and the folders that are empty then."""
    for path in output.glob(f"{ALL_VERDICTS}*"):  # and its journal
        path.unlink()
    verdicts = output / VERDICTS
    for folder in (*verdicts.glob("*/"), verdicts):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _evaluate_all(
    sources: dict[str, str], others: dict[str, str], options: Namespace, device: torch.device
) -> tuple[dict[str, Any], dict[str, Examples]]:
    """(results, examples by model)."""
    import torch

    from lightning_sq.evaluation import examples, results
    from lightning_sq.evaluation.processes import first_alone, gather
    from lightning_sq.evaluation.suites import TRANSFER, attacks_by_name
    from lightning_sq.models.checkpoint_format import TrainedModel, versions
    from lightning_sq.release import load

    began = time.perf_counter()
    models = {name: load(source).to(device) for name, source in sources.items()}
    attackers = {name: load(source).to(device) for name, source in others.items()}
    _check_lenders(attackers, models)
    with first_alone():
        files = choose_images(options.data, options.num_images, options.seed, allow_unreadable=options.allow_unreadable)
    pixels = {name: _read(model, files, options, device) for name, model in models.items()}
    right = {name: _classified_right(model, *pixels[name], options, device) for name, model in models.items()}
    chosen = examples.choose(list(right.values()))
    found, rows, shown = {}, [], {}
    for name, model in models.items():
        images, labels = pixels[name]
        lent = {other: m for other, m in models.items() if other != name} | attackers
        comparable = {other: m for other, m in lent.items() if _same_input(m, model)}
        found[name] = _evaluate_one(name, model, images, labels, comparable, chosen, options)
        gradients = _input_gradients(model, images, labels, options, device)
        gradient = sum(sum(part) for part in gather(gradients)) / len(labels)
        row = results.model_row(
            name,
            sources[name],
            model.config.to_dict(),
            found[name],
            input_gradient_l1=gradient,
            fingerprint=TrainedModel(model.config, model.state_dict()).fingerprint(),
        )
        rows.append(row)
        adversarial = found[name].examples()
        shown[name] = examples.show(
            model,
            images[chosen].to(device),
            torch.stack([adversarial.get(i, images[i]) for i in chosen]).to(device),
            model.quantizer,
            epsilon=found[name].budgets[-1],
            class_names=model.config.class_names,
        )
    tried = {name: entry for of_model in found.values() for name, entry in of_model.attacks.items()}
    transfers = [f"{TRANSFER}{other}" for other in sources | others]
    suite = attacks_by_name(options.attacks, options.norm) | {name: tried[name] for name in transfers if name in tried}
    everything = results.assemble(
        rows,
        next(iter(found.values())),
        data={
            "folder": str(files.folder),
            "num_images": len(files),
            "unreadable": len(files.unreadable),
            "files": list(files.paths),
        },
        attacks={name: entry.to_dict() for name, entry in suite.items()},
        seed=options.seed,
        device=_in_words(device),
        versions=versions(),
        seconds=time.perf_counter() - began,
    )
    return everything, shown


def _in_words(device: torch.device) -> str:
    import torch

    threads = torch.get_num_threads()
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {threads} thread{'s' * (threads > 1)} a process"
    )


def _same_input(one: PixelClassifier, other: PixelClassifier) -> bool:
    """Whether what fools one model can be shown to the other."""
    a, b = one.config, other.config
    return (a.image_size, a.resize_size, a.class_names) == (b.image_size, b.resize_size, b.class_names)


def _check_lenders(others: dict[str, PixelClassifier], models: dict[str, PixelClassifier]) -> None:
    """Raises: InputError for one whose adversarial images can be shown to none of the models."""
    for name, other in others.items():
        if not any(_same_input(other, model) for model in models.values()):
            raise InputError(
                f"{name} takes images of another size than the models, or has other classes. "
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


def _classified_right(
    model: PixelClassifier, images: Tensor, labels: Tensor, options: Namespace, device: torch.device
) -> Tensor:
    import torch

    from lightning_sq.attacks.checks import classify

    parts = zip(images.split(options.batch_size), labels.split(options.batch_size), strict=True)
    return torch.cat([classify(model, x.to(device)).cpu() == y for x, y in parts])


def _input_gradients(
    model: PixelClassifier, images: Tensor, labels: Tensor, options: Namespace, device: torch.device
) -> list[float]:
    """The l1 norms of this process's share of the images."""
    from lightning_sq.evaluation.precision import full_precision
    from lightning_sq.evaluation.processes import rank, world_size
    from lightning_sq.metrics import input_gradient_l1

    parts = list(zip(images.split(options.batch_size), labels.split(options.batch_size), strict=True))
    with full_precision():
        own = parts[rank() :: world_size()]
        return [value for x, y in own for value in input_gradient_l1(model, x.to(device), y.to(device)).tolist()]


def _evaluate_one(
    name: str,
    model: PixelClassifier,
    images: Tensor,
    labels: Tensor,
    others: dict[str, PixelClassifier],
    chosen: list[int],
    options: Namespace,
) -> Evaluation:
    from lightning_sq.evaluation import evaluate
    from lightning_sq.evaluation.processes import rank
    from lightning_sq.progress import progress_bar

    with progress_bar(f"attacking {name}", "passes") as advance:
        return evaluate(
            model,
            images,
            labels,
            epsilon=options.budgets,
            attacks=options.attacks,
            norm=options.norm,
            curve=[max(options.budgets) * part for part in CURVE],
            transfer_from=others,
            batch_size=options.batch_size,
            seed=options.seed,
            store=options.output / VERDICTS / name,
            show=chosen,
            progress=advance if rank() == 0 else None,
        )


def _write(output: Path, found: dict[str, Any], shown: dict[str, Examples]) -> None:
    from rich.console import Console

    from lightning_sq.evaluation import examples, results, robustbench
    from lightning_sq.evaluation.report import printed_table, write_report

    results.write_results(output, found)
    robustbench.write_model_infos(output, found)
    examples.save(output, shown)
    write_report(output)
    _drop_verdicts(output)  # every verdict is in results.json now
    Console().print(printed_table(found))
    for model in found["models"]:
        print(model["verdict"])
    for name in (JSON_FILE, CSV_FILE, FIGURE_FILE, REPORT_FILE):
        print(output / name)
