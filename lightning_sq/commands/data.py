"""`lightning-sq data digits | mnist | cifar10 | check`."""

from __future__ import annotations

from argparse import Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from lightning_sq.commands.parser import Parser
from lightning_sq.errors import InputError


def main(arguments: list[str]) -> None:
    parser = Parser(
        "lightning-sq data", description="Make and look at data.", formatter_class=RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{digits,mnist,cifar10,check}", parser_class=Parser
    )
    digits = commands.add_parser("digits", help="write scikit-learn's 1,797 handwritten digits as a JPEG image folder")
    digits.add_argument("folder", nargs="?", type=Path, default=Path("data/digits"), help="default: data/digits")
    digits.add_argument("--overwrite", action="store_true", help="write anew a folder that this command wrote")
    digits.add_argument("--keep", action="store_true", help="be content with a folder that exists already")
    for name in ("mnist", "cifar10"):
        known = commands.add_parser(name, help=f"write {name.upper()} as an image folder of PNG files")
        known.add_argument("folder", nargs="?", type=Path, help=f"default: data/{name}, or data/{name}-tuning")
        known.add_argument("--from", dest="source", type=Path, help="where its files are; default: download them")
        known.add_argument("--tuning", action="store_true", help="val is the last training images; no test images")
        known.add_argument("--overwrite", action="store_true", help="write anew a folder that this command wrote")
        known.add_argument("--keep", action="store_true", help="be content with a folder that exists already")
    check = commands.add_parser(
        "check", help="decode every file once; exit status 2 if one is unreadable or a class empty"
    )
    check.add_argument("folder", type=Path, help="a folder with train/ and val/, or one with class folders")
    options = parser.parse_args(arguments)
    if options.command == "digits":
        _digits(options.folder, overwrite=options.overwrite, keep=options.keep)
    elif options.command == "check":
        _check(options.folder)
    else:
        _benchmark_set(options)


def _digits(folder: Path, *, overwrite: bool, keep: bool) -> None:
    from lightning_sq.data.digits import write_digits

    if keep and folder.is_dir():
        print(f"{folder} is there already")
        return
    print(f"{write_digits(folder, overwrite=overwrite):,} images written to {folder}")


def _benchmark_set(options: Namespace) -> None:
    from lightning_sq.data import benchmark_sets
    from lightning_sq.progress import progress_bar

    name = options.command
    folder = options.folder or Path("data") / f"{name}{'-tuning' * options.tuning}"
    if options.keep and folder.is_dir():
        print(f"{folder} is there already")
        return
    write = {"mnist": benchmark_sets.write_mnist, "cifar10": benchmark_sets.write_cifar10}[name]
    with progress_bar(f"writing {folder}", "images") as advance:
        count = write(
            folder, source=options.source, tuning=options.tuning, overwrite=options.overwrite, progress=advance
        )
    print(f"{count:,} images written to {folder}")


def _check(folder: Path) -> None:
    import numpy as np

    from lightning_sq.data.index import load_index
    from lightning_sq.data.listing import class_folders
    from lightning_sq.paths import cache_folder
    from lightning_sq.progress import progress_bar

    splits = [folder / name for name in ("train", "val") if (folder / name).is_dir()] or [folder]
    if len(splits) == 2 and (odd := set(class_folders(splits[0])) ^ set(class_folders(splits[1]))):
        print(f"classes in one split only: {', '.join(sorted(odd))}")
    bad, empty = [], []
    for split in splits:
        with progress_bar(f"checking {split.name}", "files") as advance:
            index = load_index(split, cache=cache_folder() / "indexes", progress=advance)
        counts = np.bincount(index.labels, minlength=len(index.class_names))
        few, many = counts.min(), counts.max()
        print(f"{split}: {len(index):,} images in {len(index.class_names)} classes, {few:,} to {many:,} a class")
        bad += [(split / item.path, item.reason) for item in index.unreadable]
        empty += [split / name for name in index.empty_classes]
    for path, reason in bad:
        print(f"unreadable: {path}: {reason}")
    for path in empty:
        print(f"class without a readable image: {path}")
    if bad or empty:
        counted = [(len(bad), "unreadable image"), (len(empty), "empty class folder")]
        found = " and ".join(f"{n} {what}{'s' * (n > 1)}" for n, what in counted if n)
        raise InputError(
            f"{found} in {folder}, named above. Mend or remove {'it' if len(bad + empty) == 1 else 'them'}."
        )
