"""Fine-tunes trained backbones on another image folder, side by side, and attacks what came out.

    python examples/transfer.py robust=runs/demo/release natural=runs/demo/natural/checkpoints/last.ckpt --data DIR

A backbone is anything that `lightning_sq.load` takes. DIR holds `train/<class>/` and `val/<class>/`; without --data the
images are the UCI handwritten digits. Each model keeps its own front end (quantizer, normalisation) and its own
image size, gets a new head, and is trained on natural images with the same options. The table says what is left of the
backbone's robustness: the worst case over `--attacks`, an upper bound that a stronger attack can only lower.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import lightning_sq
from lightning_sq.commands.evaluate_options import named_models
from lightning_sq.commands.parser import check_at_least_one
from lightning_sq.data.digits import write_digits
from lightning_sq.errors import InputError
from lightning_sq.evaluation import attacks_by_name
from lightning_sq.models import PixelClassifier
from lightning_sq.models.checkpoint_format import versions
from lightning_sq.paths import nearest_existing, write_whole
from lightning_sq.progress import progress_bar
from lightning_sq.types import parse_epsilon
from lightning_sq.words import counted

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read(folder: Path, model: PixelClassifier, known: list[str] | None = None) -> tuple[Tensor, Tensor, list[str]]:
    """(images (N, C, H, W) uint8 as `model` wants them, labels (N,), class names).

    The names are those of the folders, or `known` ones, of which it may lack some. Raises: InputError for another one.
    """
    config = model.config
    steps = [v2.Resize(config.resize_size), v2.CenterCrop(config.image_size), v2.PILToTensor()]
    steps += [v2.Grayscale()] if config.num_channels == 1 else [v2.RGB()]
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}. Give --data a folder with train/<class>/ and val/<class>/.")
    try:
        dataset, images, labels = ImageFolder(folder, v2.Compose(steps)), [], []
    except FileNotFoundError as error:  # a class without images, or no class at all
        raise InputError(f"{folder}: {error} Put images there, or remove the empty folder.") from error
    with progress_bar(f"reading {folder.name}", "images") as advance:
        for number, (image, label) in enumerate(dataset, start=1):
            images.append(image)
            labels.append(label)
            advance(number, len(dataset))
    known = known or dataset.classes
    if strangers := [name for name in dataset.classes if name not in known]:
        raise InputError(f"{folder} has the class {strangers[0]!r}, which the training images have not. Remove it.")
    return torch.stack(images), torch.tensor([known.index(dataset.classes[label]) for label in labels]), known


def train(model: PixelClassifier, images: Tensor, labels: Tensor, options: argparse.Namespace, name: str) -> None:
    """Cross-entropy on natural images; of the head alone, or of everything behind the quantizer."""
    learnt = model.backbone.get_classifier() if options.train == "head" else model.backbone
    learnable = [weight for weight in learnt.parameters() if weight.requires_grad]  # some layers are fixed by design
    model.requires_grad_(False)
    for weight in learnable:
        weight.requires_grad_(True)
    model.train(options.train == "all")
    num_batches = -(-len(images) // options.batch_size)
    num_steps = options.epochs * num_batches
    optimizer = torch.optim.AdamW(learnable, lr=options.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    generator, step = torch.Generator().manual_seed(options.seed), 0
    with progress_bar(f"training {name}", "steps") as advance:
        for _ in range(options.epochs):
            # of nearly the same size: batch norm that trains refuses a last one of a single image
            for chosen in torch.randperm(len(images), generator=generator).tensor_split(num_batches):
                pixels = images[chosen].to(DEVICE).float() / 255
                loss = cross_entropy(model(pixels), labels[chosen].to(DEVICE))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                step += 1
                advance(step, num_steps, f"loss {loss.item():.3f}")
    model.eval()


@torch.no_grad()
def accuracy(model: PixelClassifier, images: Tensor, labels: Tensor, batch_size: int) -> float:
    """In [0, 1]."""
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return sum((model(x.to(DEVICE).float() / 255).argmax(1).cpu() == y).sum().item() for x, y in parts) / len(labels)


def transfer(name: str, source: str, folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """One row of the table."""
    torch.manual_seed(options.seed)
    began_from = lightning_sq.load(source)
    images, labels, classes = read(folder / "train", began_from)
    model = lightning_sq.load(source, num_classes=len(classes)).to(DEVICE)
    train(model, images, labels, options, name)
    images, labels, _ = read(folder / "val", began_from, classes)
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(options.seed))[: options.num_images]
    with progress_bar(f"attacking {name}", "passes") as advance:
        found = lightning_sq.evaluate(
            model,
            images[chosen].float() / 255,
            labels[chosen],
            epsilon=options.epsilon,
            attacks=options.attacks,
            batch_size=options.batch_size,
            seed=options.seed,
            progress=advance,
        )
    return {
        "name": name,
        "architecture": model.config.architecture,
        "clean_accuracy": accuracy(model, images, labels, options.batch_size),
        "num_images": len(images),
        "clean_accuracy_of_attacked": found.clean_accuracy,
        "robust_accuracy": found.robust_accuracy,
        "num_attacked": len(chosen),
        "attacks": list(found.attacks),
        "flags": found.flags,
    }


def table(rows: list[dict[str, object]], epsilon: str) -> str:
    """In Markdown."""
    lines = [
        f"| backbone | clean, in % of {counted(rows[0]['num_images'], 'image')} | worst case at {epsilon}, in % of "
        f"{counted(rows[0]['num_attacked'], 'image')} | flags |",
        "| --- | ---: | ---: | --- |",
    ]
    for row in rows:
        flags = ", ".join(flag.replace("_", " ") for flag in row["flags"]) or "none"
        lines.append(
            f"| {row['name']} | {100 * row['clean_accuracy']:.1f} | {100 * row['robust_accuracy']:.1f} | {flags} |"
        )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL", help="backbones to compare")
    parser.add_argument("--data", type=Path, help="folder with train/<class>/ and val/<class>/; default: digits")
    parser.add_argument("--train", choices=("all", "head"), default="all", help="what is trained; default: all")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epsilon", default="8/255", help="L-inf budget of the attacks; default: 8/255")
    parser.add_argument("--attacks", default="quick", help="as of lightning-sq evaluate; default: quick")
    parser.add_argument("--num-images", type=int, default=200, help="validation images to attack; default: 200")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, help="folder for transfer.json and README.md; by default none is written"
    )
    return parser.parse_args()


def check(options: argparse.Namespace) -> dict[str, str]:
    """What each backbone is read from, by its name.

    Raises: InputError for numbers that cannot be, for two backbones of one name, and for an output that is a file.
    """
    check_at_least_one(options, "epochs", "batch_size", "num_images")
    if not 0 < options.learning_rate < float("inf"):
        raise InputError(f"--learning-rate {options.learning_rate:g} is not above 0. 0.001 is usual.")
    if options.output is not None and nearest_existing(options.output).is_file():
        raise InputError(f"--output {options.output} lies at or below a file. Give a folder.")
    return named_models(options.models)


def main() -> None:
    options = parse()
    parse_epsilon(options.epsilon)  # refused now, and not behind the training
    attacks_by_name(options.attacks)
    named = check(options)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)  # before hours of work
    with TemporaryDirectory() as temporary:
        folder = options.data
        if folder is None:
            folder = Path(temporary) / "digits"
            write_digits(folder)
        rows = [transfer(name, source, folder, options) for name, source in named.items()]
    print(table(rows, options.epsilon))
    if options.output is not None:
        write(options, rows)


def write(options: argparse.Namespace, rows: list[dict[str, object]]) -> None:
    """transfer.json, and README.md with the table."""
    kept = ("train", "epochs", "learning_rate", "batch_size", "seed", "epsilon")
    settings = {key: getattr(options, key) for key in kept}
    settings["data"] = "the UCI digits" if options.data is None else options.data.name
    content = {"settings": settings, "device": str(DEVICE), "versions": versions(), "rows": rows}
    write_whole(options.output / "transfer.json", json.dumps(content, indent=1) + "\n")
    write_whole(options.output / "README.md", page(settings, rows))


def page(settings: dict[str, object], rows: list[dict[str, object]]) -> str:
    """README.md, of what transfer.json holds."""
    said = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items())
    return f"""# What transfers of a backbone's robustness

Written by `examples/transfer.py`; every number is in [transfer.json](transfer.json), one run each ({said}). Trained on
natural images alone, so robustness can only come from the backbone and its front end. {attacks_of(rows)}

{table(rows, settings["epsilon"])}
"""


def attacks_of(rows: list[dict[str, object]]) -> str:
    """What was run on every backbone, and what on some alone: a net without a quantizer has no attacks through it."""
    common = [name for name in rows[0]["attacks"] if all(name in row["attacks"] for row in rows)]
    sentences = [f"Attacks: {', '.join(common)}."]
    further: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        further.setdefault(tuple(name for name in row["attacks"] if name not in common), []).append(row["name"])
    sentences += [f"On {', '.join(names)} also: {', '.join(more)}." for more, names in further.items() if more]
    return " ".join(sentences)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"transfer.py: error: {error}")
