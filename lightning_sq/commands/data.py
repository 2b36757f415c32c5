"""`lightning-sq data digits | mnist | cifar10 | check | shard`."""

from __future__ import annotations

from argparse import Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from lightning_sq.commands.parser import Parser
from lightning_sq.errors import InputError
from lightning_sq.words import counted


def main(arguments: list[str]) -> None:
    parser = Parser(
        "lightning-sq data", description="Make and look at data.", formatter_class=RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{digits,mnist,cifar10,check,shard}", parser_class=Parser
    )
    digits = commands.add_parser("digits", help="write the 1,797 UCI handwritten digits as a JPEG image folder")
    digits.add_argument("folder", nargs="?", type=Path, help="default: data/digits")
    digits.set_defaults(tuning=False)
    written = [digits]
    for name in ("mnist", "cifar10"):
        known = commands.add_parser(name, help=f"write {name.upper()} as an image folder of PNG files")
        known.add_argument("folder", nargs="?", type=Path, help=f"default: data/{name}, or data/{name}-tuning")
        known.add_argument("--from", dest="source", type=Path, help="where its files are; default: download them")
        known.add_argument("--tuning", action="store_true", help="val is the last training images; no test images")
        written.append(known)
    for known in written:
        known.add_argument("--overwrite", action="store_true", help="write anew a folder that this command wrote")
        known.add_argument("--keep", action="store_true", help="be content with a folder that exists already")
    check = commands.add_parser(
        "check",
        help="decode every file once; exit status 2 if one is unreadable, or a class empty or in one split only",
        examples=["lightning-sq data check data/digits"],
    )
    check.add_argument("folder", type=Path, help="a folder with train/ and val/, or one with class folders or shards")
    check.add_argument("--again", action="store_true", help="decode files too that are as they were by size and time")
    check.add_argument("--report", type=Path, metavar="FILE.json", help="default: beside the index, and printed")
    shard = commands.add_parser(
        "shard",
        help="copy an image folder into a few large tar files; goes on where it was stopped",
        examples=["lightning-sq data shard /data/imagenet /data/imagenet-shards --short-side 352"],
    )
    shard.add_argument("folder", type=Path, help="a folder with train/ and val/, or one with class folders")
    shard.add_argument("output", type=Path, help="gets train/ and val/ with shards")
    shard.add_argument("--short-side", type=int, metavar="PIXELS", help="shrink to it and store as JPEG, say 352")
    shard.add_argument("--quality", type=int, default=90, help="of that JPEG; default: 90")
    shard.add_argument("--images-per-shard", type=int, default=4096, help="default: 4096")
    shard.add_argument("--allow-unreadable", action="store_true", help="leave unreadable images out")
    options = parser.parse_args(arguments)
    if options.command == "check":
        from lightning_sq.commands.data_check import check_data

        check_data(options.folder, again=options.again, report=options.report)
    elif options.command == "shard":
        from lightning_sq.commands.data_shard import shard_data

        shard_data(options)
    else:
        _write(options)


def _write(options: Namespace) -> None:
    folder = options.folder or Path("data") / f"{options.command}{'-tuning' * options.tuning}"
    if options.keep and folder.is_dir():
        print(f"{folder} is there already")
        return
    try:
        count = _write_digits(folder, options) if options.command == "digits" else _write_benchmark_set(folder, options)
    except InputError:
        if not (options.keep and folder.is_dir()):
            raise
        print(f"{folder} is there by now: another process wrote it meanwhile")
        return
    print(f"{counted(count, 'image')} written to {folder}")


def _write_digits(folder: Path, options: Namespace) -> int:
    from lightning_sq.data.digits import write_digits

    return write_digits(folder, overwrite=options.overwrite)


def _write_benchmark_set(folder: Path, options: Namespace) -> int:
    from lightning_sq.data import benchmark_sets
    from lightning_sq.progress import progress_bar

    write = {"mnist": benchmark_sets.write_mnist, "cifar10": benchmark_sets.write_cifar10}[options.command]
    with progress_bar(f"writing {folder}", "images") as advance:
        return write(
            folder, source=options.source, tuning=options.tuning, overwrite=options.overwrite, progress=advance
        )
