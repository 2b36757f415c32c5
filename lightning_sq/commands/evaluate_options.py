"""What is typed behind `lightning-sq evaluate`, checked before anything heavy is imported or written."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace
from pathlib import Path
from typing import Any, NoReturn, get_args

from lightning_sq.commands.parser import Parser, check_at_least_one
from lightning_sq.errors import InputError
from lightning_sq.run_files import CHECKPOINTS
from lightning_sq.types import Norm, parse_epsilon

FILE_ENDINGS = (".ckpt", ".safetensors", ".pth", ".pt", ".bin", ".tar")
"""They are no part of a model's name. What else stands behind a dot is: of a folder, a revision or a tag."""


def parse(arguments: list[str]) -> Namespace:
    """The options, with `budgets` as numbers, and `models` and `transfer_from` as name -> source.

    Raises: InputError for counts, budgets, names or attacks that cannot be.
    """
    options = _parser().parse_args(arguments)
    options.budgets = [_parse_budget(text, options.norm) for text in options.epsilon.split(",")]
    check_at_least_one(options, "num_images", "batch_size", "num_threads", "devices")
    if options.seed < 0:
        raise InputError(f"--seed={options.seed} has to be 0 or more.")
    options.models, options.transfer_from = map(named_models, (options.models, options.transfer_from))
    from lightning_sq.evaluation.suites import attacks_by_name

    attacks_by_name(options.attacks, options.norm)
    return options


def _parser() -> Parser:
    parser = Parser(
        "lightning-sq evaluate",
        description="Attack trained models on the same images, and write a report. Killed and started again with the "
        "same words, it goes on where it was.",
        examples=[
            "lightning-sq evaluate runs/demo/release --data data/digits --epsilon 0.1 --num-images 64 "
            "--output runs/demo-standard",
            "lightning-sq evaluate mine=timm:resnet50@weights.safetensors --data /data/imagenet --epsilon 4/255 "
            "--output runs/mine-robustness",
        ],
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]MODEL",
        help="what lightning_sq.load takes: a .ckpt of fit, a release, its address, hf-hub:org/name, timm:NAME[@FILE]",
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with val/<class>/, or with class folders itself"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for results.json, results.csv, robustness.png, report.html"
    )
    parser.add_argument(
        "--epsilon", default="8/255", help="budget or budgets with commas, pixels in [0, 1]; default: 8/255"
    )
    parser.add_argument("--norm", choices=get_args(Norm), default="linf", help="of the budget; default: linf")
    parser.add_argument(
        "--attacks",
        default="standard",
        help="quick, standard, autoattack, rand (for models with noise at inference), or names, with parameters as in "
        "pgd:num_steps=200:num_restarts=5 (--list-attacks shows them; step_size is in radii of the ball); "
        "default: standard",
    )
    parser.add_argument(
        "--transfer-from",
        action="append",
        default=[],
        metavar="[NAME=]MODEL",
        help="another model whose adversarial images are tried; the models of the command are anyway",
    )
    parser.add_argument("--num-images", type=int, default=1000, help="images drawn from the folder; default: 1000")
    parser.add_argument("--allow-unreadable", action="store_true", help="leave files out that cannot be read")
    parser.add_argument("--batch-size", type=int, default=128, help="images at a time; default: 128")
    parser.add_argument("--num-threads", type=int, default=2, help="threads that decode images; default: 2")
    parser.add_argument(
        "--backend", choices=("dali", "torchvision"), default="dali", help="what decodes; default: dali"
    )
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is a GPU")
    parser.add_argument("--devices", type=int, default=1, help="processes; default: 1, or as torchrun or srun say")
    parser.add_argument("--list-attacks", action=_ListAttacks, nargs=0, help="print the attacks by name, and stop")
    parser.add_argument("--seed", type=int, default=0, help="of the images drawn and of all that is random; default: 0")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace results that are in --output, and verdicts there that are not of this evaluation",
    )
    return parser


class _ListAttacks(Action):
    """Prints the suites and the catalogue."""

    def __call__(self, parser: ArgumentParser, *_: Any) -> NoReturn:
        from lightning_sq.evaluation.parameters import parameters
        from lightning_sq.evaluation.suites import SUITES, catalogue

        for name, entry in catalogue().items():
            suites = [suite for suite, members in SUITES.items() if name in members]
            print(f"{name:24}{entry.title:70} {', '.join(suites)}")
            print(" " * 24 + " ".join(f"{key}={value}" for key, value in parameters(entry.attack).items()))
        print("step_size is in radii of the ball: 1 is epsilon, None is 2.5 / num_steps.")
        parser.exit()


def _parse_budget(text: str, norm: str) -> float:
    return parse_epsilon(text, name="--epsilon", norm=norm)


def named_models(texts: list[str]) -> dict[str, str]:
    """What each model is read from, by its name. Raises: InputError for two of one name, and for what is no name."""
    named = dict(_name_and_source(text) for text in texts)
    if len(named) < len(texts):
        raise InputError("Two models have the same name. Write NAME=MODEL for each.")
    for name, source in named.items():
        if not name.strip("."):  # a folder is named after it
            raise InputError(f"{name!r} is no name for a model. Write NAME={source}.")
    return named


def _name_and_source(text: str) -> tuple[str, str]:
    """`name=model`; a model without a name gets that of its run, its folder or its file, else what was typed of it."""
    name, separator, source = text.partition("=")
    if separator and name and "/" not in name:
        return name, source
    path = Path(text.partition("#sha256=")[0])
    own = path.stem if path.suffix in FILE_ENDINGS else path.name
    return (path.parent.parent.name if path.parent.name == CHECKPOINTS else own) or text, text
