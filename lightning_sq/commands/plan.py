"""`lightning-sq plan`: how long a recipe takes on N nodes, what it learns with, and whether it fits the time."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_sq.children import refusal_of
from lightning_sq.commands.parser import Parser, check_at_least_one
from lightning_sq.errors import InputError, one_line
from lightning_sq.metrics_file import training_curve
from lightning_sq.recipe_layers import laid_over, read_layer

if TYPE_CHECKING:
    from lightning_sq.training.cluster.scaling import Work
    from lightning_sq.training.optim import Optimization

NODES = (1, 2, 4, 8, 16, 32, 64)
LARGEST_PUBLISHED_BATCH = 8192
"""Images a step up to which a rate that grows with them is known to work (Goyal et al. 2017, arXiv 1706.02677)."""
SHORT_RUN = 30
"""Batches of the run that measures the speed where it is not given."""


def main(arguments: list[str]) -> None:
    options = _parse(arguments)
    recipe = _read(options.config)
    _check(options, recipe)
    recipe = _with_defaults(recipe)
    if options.data is not None:
        recipe["data"]["root"] = str(options.data)
    speed = options.images_per_second or _measure(options.config, options.data)
    plan = _plan(options, recipe, speed)
    if options.json:
        print(json.dumps(plan, indent=2))
    else:
        _show(plan)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        "lightning-sq plan",
        description="Time, GPU hours, steps and learning rate of a recipe on N nodes.",
        examples=[
            "lightning-sq plan --config configs/imagenet.yaml --data /data/imagenet --nodes 4",
            "lightning-sq plan --config configs/imagenet.yaml --nodes 4 --images-per-second 1200 --num-images 1281167 "
            "--num-validation-images 50000 --time-limit 48:00:00",
        ],
    )
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        required=True,
        help="the recipe; a further one is laid over those before it, as by fit",
    )
    parser.add_argument("--data", type=Path, help="folder of the images; default: the recipe's")
    parser.add_argument("--nodes", type=int, default=1, help="the table shows 1 to 64 beside it")
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--images-per-second", type=float, help="of one GPU; measured by a short run if left out")
    parser.add_argument("--num-images", type=int, help="training images; counted in the data if left out")
    parser.add_argument("--num-validation-images", type=int, help="the same for validation")
    parser.add_argument("--time-limit", help='such as "48:00:00"')
    parser.add_argument("--bandwidth", type=float, default=12.5, help="between nodes, in GB/s (default 12.5)")
    parser.add_argument("--bandwidth-inside", type=float, default=100.0, help="inside a node, in GB/s (default 100)")
    parser.add_argument("--latency", type=float, default=30.0, help="of a small all-reduce, in microseconds (30)")
    parser.add_argument("--overlap", type=float, default=0.7, help="of the backward pass that hides it (default 0.7)")
    parser.add_argument("--json", action="store_true", help="print JSON in the place of the table")
    return parser.parse_args(arguments)


def _read(configs: list[Path]) -> dict[str, Any]:
    """The first with the others laid over it. Raises: InputError for what is no recipe."""
    recipe = reduce(laid_over, map(_content, configs))
    if not all(isinstance(recipe.get(name), dict) for name in ("model", "data", "trainer")):
        lacks = "it lacks" if len(configs) == 1 else "they lack"
        said = "is no recipe" if len(configs) == 1 else "are no recipe"
        raise InputError(f"--config {_said(configs)} {said}: {lacks} model, data or trainer. Give one of configs/.")
    return recipe


def _said(configs: list[Path]) -> str:
    return " and ".join(map(str, configs))


def _content(config: Path) -> dict[str, Any]:
    import yaml

    try:
        recipe = read_layer(config)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config {config} cannot be read ({type(error).__name__}). Give a recipe.") from None
    if not isinstance(recipe, dict):
        raise InputError(f"--config {config} is no recipe: it lacks model, data or trainer. Give one of configs/.")
    return recipe


def _with_defaults(recipe: dict[str, Any]) -> dict[str, Any]:
    """`recipe` with what `fit` takes where it says nothing."""
    from lightning.pytorch import Trainer

    from lightning_sq.data.datamodule import ImageFolderData
    from lightning_sq.training.build import build_module
    from lightning_sq.training.defaults import defaults_of

    made_of = {"model": build_module, "data": ImageFolderData.__init__, "trainer": Trainer.__init__}
    return recipe | {name: defaults_of(function) | recipe[name] for name, function in made_of.items()}


def _check(options: argparse.Namespace, recipe: dict[str, Any]) -> None:
    check_at_least_one(options, "nodes", "gpus_per_node", "num_images", "num_validation_images")
    for name in ("images_per_second", "bandwidth", "bandwidth_inside"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise InputError(f"--{name.replace('_', '-')} {value:g} is not above 0.")
    if not options.latency >= 0:
        raise InputError(f"--latency {options.latency:g} is not at least 0. 30 is usual.")
    if not 0 <= options.overlap <= 1:
        raise InputError(f"--overlap {options.overlap:g} is not in [0, 1]. 0.7 is usual.")
    said, epochs = _said(options.config), recipe["trainer"].get("max_epochs")
    if not isinstance(epochs, int) or epochs < 1:
        raise InputError(f"{said} says no trainer.max_epochs of at least 1, so its length is not known.")
    if options.images_per_second is None and "ProgressiveResizing" in str(recipe["trainer"].get("callbacks")):
        raise InputError(
            f"The images of {said} grow (ProgressiveResizing), and a short run would take the speed of the "
            "smallest for all. Give --images-per-second, of all epochs: their images over their seconds."
        )
    _check_validation(said, recipe["trainer"])


def _check_validation(config: str, trainer: dict[str, Any]) -> None:
    every, interval = trainer.get("check_val_every_n_epoch"), trainer.get("val_check_interval")
    if not isinstance(interval, int | float | None):
        raise InputError(
            f"{config} validates by the clock, trainer.val_check_interval={interval}, which a plan cannot count and "
            "several processes cannot follow. Set it to a number of batches or a share of an epoch."
        )
    for name, value in {"check_val_every_n_epoch": every, "val_check_interval": interval}.items():
        if value is not None and not value > 0:
            raise InputError(f"{config} says trainer.{name}={value}, which is not above 0. Leave it out for 1.")


def _count(recipe: dict[str, Any], split: str, given: int | None) -> int:
    from lightning_sq.data.index import count_images

    if given is not None:
        return given
    folder = _split(recipe, split)
    number = count_images(folder) if folder.is_dir() else 0
    if not number:
        option = "--num-images" if split == "train" else "--num-validation-images"
        raise InputError(f"There are no images in {folder}. Say how many there are by {option}.")
    return number


def _split(recipe: dict[str, Any], split: str) -> Path:
    return Path(recipe["data"]["root"]) / split


def _measure(configs: list[Path], data: Path | None) -> float:
    """Images a second of one process, by a short run of the recipe itself on `data`, or on its own."""
    print(f"measuring: {SHORT_RUN} batches of {_said(configs)}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        words = ["fit", *(word for config in configs for word in ("--config", str(config)))]
        words += ["--output", folder, "--trainer.max_epochs", "2"]
        words += ["--trainer.limit_train_batches", str(SHORT_RUN), "--trainer.limit_val_batches", "0"]
        words += ["--trainer.devices", "1", "--trainer.num_nodes", "1"]
        words += [] if data is None else ["--data.root", str(data)]
        if refusal := refusal_of(words):
            raise InputError(f"The short run: {refusal} Or give --images-per-second.")
        epochs = training_curve(Path(folder), {"train/images_per_second": "rate"})
    if not epochs:
        raise InputError("The short run logged no speed. Give --images-per-second.")
    return epochs[-1]["rate"]  # the second epoch's: the first one fills caches


def _work(options: argparse.Namespace, recipe: dict[str, Any]) -> tuple[Work, int]:
    """(the work, parameters of the model)."""
    import torch

    from lightning_sq.data.index import class_names_of
    from lightning_sq.models.backbone import create_backbone
    from lightning_sq.training.cluster.scaling import Work

    data, trainer = recipe["data"], recipe["trainer"]
    root = _split(recipe, "train")
    classes = len(class_names_of(root)) if root.is_dir() else 1000
    with torch.device("meta"):
        model = create_backbone(recipe["model"]["architecture"], classes, data["channels"])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    work = Work(
        num_images=_count(recipe, "train", options.num_images),
        num_validation_images=_count(recipe, "val", options.num_validation_images),
        epochs=trainer["max_epochs"],
        batch_size=data["batch_size_per_device"],
        accumulate=trainer["accumulate_grad_batches"],
        batch_repeats=data["batch_repeats"],
        limit_train_batches=trainer["limit_train_batches"],
        limit_val_batches=trainer["limit_val_batches"],
        max_steps=trainer["max_steps"],
        check_val_every_n_epoch=trainer["check_val_every_n_epoch"],
        val_check_interval=trainer["val_check_interval"],
        gradient_bytes=4 * parameters,
        validation_passes=2 if _adds_noise(recipe) else 1,
    )
    return work, parameters


def _adds_noise(recipe: dict[str, Any]) -> bool:
    """Whether a validation is made on noisy images too, which is the objective's to say."""
    from pydoc import locate

    given = recipe["model"].get("objective")
    path = str(given.get("class_path") if isinstance(given, dict) else given)
    return getattr(locate(path) or locate(f"lightning_sq.objectives.{path}"), "adds_noise", False)


def _optimization(config: str, recipe: dict[str, Any]) -> Optimization:
    """Raises: InputError for an option that there is not."""
    from lightning_sq.training.optim import Optimization

    try:
        return Optimization(**(recipe["model"]["optimization"] or {}))
    except TypeError as error:
        raise InputError(f"model.optimization of {config} cannot be read: {one_line(error)}. See configs/.") from None


def _plan(options: argparse.Namespace, recipe: dict[str, Any], speed: float) -> dict[str, Any]:
    from lightning_sq.training.cluster.scaling import Network, plan_row
    from lightning_sq.training.cluster.time_limit import parse_time_limit

    limit = parse_time_limit(options.time_limit or recipe.get("time_limit"))
    work, parameters = _work(options, recipe)
    optimization = _optimization(_said(options.config), recipe)
    gigabytes = 1e9
    network = Network(
        options.bandwidth * gigabytes, options.bandwidth_inside * gigabytes, options.latency * 1e-6, options.overlap
    )
    rows = []
    for nodes in sorted({*NODES, options.nodes}):
        row = plan_row(work, nodes=nodes, per_node=options.gpus_per_node, images_per_second=speed, network=network)
        row["learning_rate"] = optimization.learning_rate(row["global_batch_size"])
        row["warmup_steps"] = min(row["steps"], round(optimization.warmup_epochs * row["steps_per_epoch"]))
        row["fits"] = None if limit is None else row["hours"] * 3600 <= limit
        row["asked_for"] = nodes == options.nodes
        rows.append(row)
    moments = 2 if optimization.optimizer == "adamw" else 1
    averages = "WeightAveraging" in str(recipe["trainer"].get("callbacks"))  # then both weights are saved
    return {
        "config": _said(options.config),
        "images_per_second": speed,
        "time_limit_hours": None if limit is None else limit / 3600,
        "parameters": parameters,
        "checkpoint_bytes": 4 * parameters * (1 + moments + averages),
        "release_bytes": 4 * parameters,
        "network": vars(network),
        "work": vars(work),
        "rows": rows,
    }


def _show(plan: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    limit = plan["time_limit_hours"]
    speed = f"{plan['images_per_second']:,.0f} images/s a GPU"
    title = f"{plan['config']}, {speed}" + ("" if limit is None else f", limit {limit:g} h")
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for name in ("nodes", "GPUs", "batch", "steps", "rate", "warm-up", "images/s", "efficiency", "hours", "GPU h"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("" if limit is None else "fits")
    for row in plan["rows"]:
        rate = f"{row['learning_rate']:.4g}" + ("" if row["global_batch_size"] <= LARGEST_PUBLISHED_BATCH else "*")
        table.add_row(
            *(f"{row[name]:,}" for name in ("nodes", "processes", "global_batch_size", "steps")),
            *(rate, f"{row['warmup_steps']:,}", f"{row['images_per_second']:,.0f}"),
            *(f"{row['efficiency']:.0%}", f"{row['hours']:,.2f}", f"{row['gpu_hours']:,.1f}"),
            {None: "", True: "yes", False: "no"}[row["fits"]],
            style="bold" if row["asked_for"] else None,
        )
    Console().print(table)
    if plan["rows"][-1]["global_batch_size"] > LARGEST_PUBLISHED_BATCH:
        print(
            f"* Rates that grow with the batch are published up to {LARGEST_PUBLISHED_BATCH:,} images a step "
            "(arXiv 1706.02677). Set a lower --model.optimization.base_learning_rate."
        )
    sizes = (plan[name] / 1e6 for name in ("checkpoint_bytes", "release_bytes"))
    print(
        "{:.1f} M parameters; a checkpoint is about {:,.0f} MB, a release {:,.0f} MB.".format(
            plan["parameters"] / 1e6, *sizes
        )
    )
