"""`lightning-sq evaluate`: attack trained models on the same images, and write the report."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_sq.commands.parser import Parser
from lightning_sq.errors import InputError
from lightning_sq.types import parse_epsilon

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lightning_sq.data.index import ImageIndex
    from lightning_sq.evaluation import Evaluation
    from lightning_sq.evaluation.examples import Examples
    from lightning_sq.models import PixelClassifier

CURVE = (0.25, 0.5, 0.75, 1.0)
"""The curve's points, as parts of --epsilon."""


def _parser() -> Parser:
    parser = Parser(
        "lightning-sq evaluate", description="Attack trained models on the same images, and write a report."
    )
    parser.add_argument(
        "models", nargs="+", metavar="[NAME=]MODEL", help="a .ckpt of fit, a release folder, or timm:NAME[@FILE]"
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with val/<class>/, or with class folders itself"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for results.json, results.csv, robustness.png, report.html"
    )
    parser.add_argument("--epsilon", default="8/255", help="largest L-inf budget, pixels in [0, 1]; default: 8/255")
    parser.add_argument(
        "--attacks", default="standard", help="quick, standard, or names with commas; default: standard"
    )
    parser.add_argument("--num-images", type=int, default=1000, help="images drawn from the folder; default: 1000")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--num-threads", type=int, default=2, help="threads that decode images; default: 2")
    parser.add_argument(
        "--backend", choices=("dali", "torchvision"), default="dali", help="what decodes; default: dali"
    )
    parser.add_argument("--device", help="default: cuda where there is a GPU, else cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace results that are in --output")
    return parser


def main(arguments: list[str]) -> None:
    options = _parser().parse_args(arguments)
    budget = parse_epsilon(options.epsilon, name="--epsilon")
    if min(options.num_images, options.batch_size, options.num_threads) < 1:
        raise InputError("--num-images, --batch-size and --num-threads have to be at least 1.")
    sources = dict(_name_and_source(text) for text in options.models)
    if len(sources) < len(options.models):
        raise InputError("Two models have the same name. Write NAME=MODEL for each.")
    if (options.output / "results.json").exists() and not options.overwrite:
        raise InputError(
            f"{options.output} already holds results. Add --overwrite to replace them, or give another --output."
        )
    found, shown = _evaluate_all(sources, budget, options)
    _write(options.output, found, shown)


def _name_and_source(text: str) -> tuple[str, str]:
    """`name=model`; a model without a name gets that of its run, its folder or its file."""
    name, separator, source = text.partition("=")
    if separator and name and "/" not in name:
        return name, source
    path = Path(text)
    return (path.parent.parent.name if path.parent.name == "checkpoints" else path.stem) or text, text


def _evaluate_all(
    sources: dict[str, str], budget: float, options: Namespace
) -> tuple[dict[str, Any], dict[str, Examples]]:
    """(results, examples by model)."""
    import torch

    from lightning_sq.evaluation import examples, results
    from lightning_sq.evaluation.suites import attacks_by_name
    from lightning_sq.models.checkpoint_format import versions
    from lightning_sq.release import load

    began = time.perf_counter()
    attacks = attacks_by_name(options.attacks)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    models = {name: load(source).to(device) for name, source in sources.items()}
    files = _choose_images(options.data, options.num_images, options.seed)
    pixels, found, rows = {}, {}, []
    for name, model in models.items():
        pixels[name], found[name], gradient = _evaluate_one(name, model, files, budget, options, device)
        rows.append(
            results.model_row(name, sources[name], model.config.to_dict(), found[name], input_gradient_l1=gradient)
        )
    chosen = examples.choose(list(found.values()))
    shown = {
        name: examples.show(
            model,
            pixels[name][chosen],
            found[name].adversarial[chosen].to(device),
            model.quantizer,
            epsilon=budget,
            class_names=model.config.class_names,
        )
        for name, model in models.items()
    }
    everything = results.assemble(
        rows,
        data={"folder": str(files.folder), "num_images": len(files), "files": list(files.paths)},
        epsilons=next(iter(found.values())).epsilons,
        attacks={name: attack.to_dict() for name, attack in attacks.items()},
        seed=options.seed,
        device=torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        versions=versions(),
        seconds=time.perf_counter() - began,
    )
    return everything, shown


def _choose_images(data: Path, num_images: int, seed: int) -> ImageIndex:
    """`num_images` of the validation folder drawn at random, in the index's order."""
    import numpy as np

    from lightning_sq.data.index import load_index
    from lightning_sq.paths import cache_folder
    from lightning_sq.progress import progress_bar

    folder = data / "val" if (data / "val").is_dir() else data
    with progress_bar(f"checking {folder.name}", "files") as advance:
        index = load_index(folder, cache=cache_folder() / "indexes", progress=advance)
    chosen = np.random.default_rng(seed).permutation(len(index))[:num_images]
    return index.take(np.sort(chosen))


def _evaluate_one(
    name: str, model: PixelClassifier, files: ImageIndex, budget: float, options: Namespace, device: torch.device
) -> tuple[Tensor, Evaluation, float]:
    """(images, what was found, mean l1 norm of the input gradient)."""
    from lightning_sq.evaluation import evaluate
    from lightning_sq.metrics import input_gradient_l1
    from lightning_sq.progress import progress_bar

    images, labels = _read_images(model, files, options, device)
    with progress_bar(f"attacking {name}", "") as advance:
        found = evaluate(
            model,
            images,
            labels,
            epsilon=[budget * part for part in CURVE],
            attacks=options.attacks,
            batch_size=options.batch_size,
            seed=options.seed,
            progress=advance,
        )
    parts = zip(images.split(options.batch_size), labels.split(options.batch_size), strict=True)
    gradient = sum(input_gradient_l1(model, x, y).sum().item() for x, y in parts) / len(labels)
    return images, found, gradient


def _read_images(
    model: PixelClassifier, files: ImageIndex, options: Namespace, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(images, labels): cut as the model wants them, labelled by the numbers of its logits."""
    import torch

    from lightning_sq.data.crop import resize_and_center_crop
    from lightning_sq.data.loader import Dataset, make_loader, read_all
    from lightning_sq.data.order import EpochOrder

    config = model.config
    unknown = sorted(set(files.class_names) - set(config.class_names))
    if unknown:
        raise InputError(
            f"The model knows no class {unknown[0]!r} of {files.folder}. Give data with the classes it was trained on."
        )
    rule = resize_and_center_crop(config.image_size, resize_size=config.resize_size)
    loader = make_loader(
        Dataset(files, rule, config.image_size),
        EpochOrder(len(files), options.batch_size),
        backend=options.backend,
        num_threads=options.num_threads,
        device_id=(device.index or 0) if device.type == "cuda" else None,
    )
    images, labels = read_all(loader)
    logit_numbers = torch.tensor([config.class_names.index(name) for name in files.class_names])
    return images.to(device), logit_numbers[labels].to(device)


def _write(output: Path, found: dict[str, Any], shown: dict[str, Examples]) -> None:
    from rich.console import Console

    from lightning_sq.evaluation import examples, results
    from lightning_sq.evaluation.report import FIGURE_FILE, REPORT_FILE, printed_table, write_report

    output.mkdir(parents=True, exist_ok=True)
    results.write_results(output, found)
    examples.save(output, shown)
    write_report(output)
    Console().print(printed_table(found))
    for model in found["models"]:
        print(results.verdict(model))
    for name in (results.JSON_FILE, results.CSV_FILE, FIGURE_FILE, REPORT_FILE):
        print(output / name)
