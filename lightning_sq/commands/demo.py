"""`lightning-sq demo`: JPEG files to a robustness report on handwritten digits, by the commands a person would type."""

from __future__ import annotations

import shlex
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

from lightning_sq.children import run_command
from lightning_sq.commands.parser import Parser, check_at_least_one
from lightning_sq.errors import InputError
from lightning_sq.paths import write_whole
from lightning_sq.run_files import CSV_FILE, EXAMPLES_FILE, FIGURE_FILE, JSON_FILE, LAST_CHECKPOINT, REPORT_FILE
from lightning_sq.types import parse_epsilon

MODELS = {"natural": "digits_natural.yaml", "soft_quantization": "digits.yaml"}
METHOD = "soft_quantization"
MADE = (*MODELS, "release", JSON_FILE, CSV_FILE, EXAMPLES_FILE, FIGURE_FILE, REPORT_FILE)
"""What the steps write into --output."""
MARKER, MARKER_TEXT = "DEMO.txt", "Made by lightning-sq demo, which replaces it when it runs again.\n"


def main(arguments: list[str]) -> None:
    parser = Parser("lightning-sq demo", description="The whole pipeline on the UCI handwritten digits.")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="default: runs/demo")
    parser.add_argument("--data", type=Path, default=Path("data/digits"), help="made if missing; default: data/digits")
    parser.add_argument("--configs", type=Path, default=Path("configs"), help="default: configs, of the clone")
    parser.add_argument("--epsilon", default="0.1", help="largest L-inf budget; default: 0.1")
    parser.add_argument("--num-images", type=int, default=64, help="validation images to attack; default: 64")
    parser.add_argument("--max-epochs", type=int, help="default: as the configs say")
    options = parser.parse_args(arguments)
    _check(options)
    epochs = [] if options.max_epochs is None else ["--trainer.max_epochs", str(options.max_epochs)]
    output = options.output
    try:
        write_whole(output / MARKER, MARKER_TEXT)
    except OSError as error:
        raise InputError(f"--output {output} cannot be written ({error.strerror}). Give another one.") from error

    _run("data", "digits", options.data, "--keep")
    for name, config in MODELS.items():
        words = ["--config", options.configs / config, "--data.root", options.data, "--output", output / name]
        _run("fit", *words, "--overwrite", *_processes(), *epochs)
    trained = output / METHOD / LAST_CHECKPOINT
    _run(
        "evaluate",
        f"natural={output / 'natural' / LAST_CHECKPOINT}",
        f"{METHOD}={trained}",
        *("--data", options.data, "--epsilon", options.epsilon, "--attacks", "quick"),
        *("--num-images", options.num_images, "--output", output, "--overwrite"),
    )
    _run("export", trained, output / "release", "--results", output, "--overwrite")
    print(f"checkpoint to go on from: {trained}")
    print(f"released weights:         {output / 'release'}")
    print(f"open this in a browser:   {output / REPORT_FILE}")


def _check(options: Namespace) -> None:
    """Raises: InputError for whatever a step would refuse, before the first one has cost its minutes."""
    parse_epsilon(options.epsilon, name="--epsilon")
    check_at_least_one(options, "num_images", "max_epochs")
    for name in MODELS.values():
        if not (options.configs / name).is_file():
            raise InputError(
                f"There is no {options.configs / name}. Run the demo in a clone of the project, or give --configs."
            )
    if options.output.exists() and not options.output.is_dir():
        raise InputError(f"{options.output} is a file. Give another --output.")
    found = [options.output / name for name in MADE if (options.output / name).exists()]
    marker = options.output / MARKER
    if found and not (marker.is_file() and marker.read_bytes() == MARKER_TEXT.encode()):
        raise InputError(f"{found[0]} is there, and no {MARKER} says that the demo made it. Give another --output.")


def _processes() -> list[str]:
    """Two DDP processes where there is no GPU; one a GPU where there are some."""
    if find_spec("torch") is None:
        raise InputError("torch is not installed. Run make setup.")
    import torch

    return [] if torch.cuda.is_available() else ["--trainer.accelerator", "cpu", "--trainer.devices", "2"]


def _run(*arguments: object) -> None:
    """Show a command, run it, and stop with its exit status if it fails."""
    words = [str(word) for word in arguments]
    print(f"\n$ lightning-sq {shlex.join(words)}", flush=True)
    if status := run_command(words):
        raise SystemExit(status)
