"""`lightning-sq data check`: every file decoded once, and everything odd about the data by name."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning_sq.cores import usable_cores
from lightning_sq.data.image_index import ImageIndex, UnreadableImage
from lightning_sq.data.in_parts import map_in_parts
from lightning_sq.data.index import class_names_of, look_through
from lightning_sq.data.index_file import index_path
from lightning_sq.data.inspection import MAX_PIXELS, inspect_bytes
from lightning_sq.data.listing import IMAGE_SUFFIXES, passed_over, splits_of
from lightning_sq.data.shards import ShardIndex, damaged_shards
from lightning_sq.errors import InputError
from lightning_sq.paths import write_whole
from lightning_sq.progress import progress_bar
from lightning_sq.words import counted, first_of

NAMED = 3
"""Files that the terminal names of each kind; the report names all."""


def check_data(folder: Path, *, again: bool = False, report: Path | None = None) -> None:
    """Look at every file, keep the index that training reads, print what is odd, and write a report.

    Args:
        folder: With train/ and val/, or one split; image files or shards.
        again: Decode files too that are as they were by size and time.
        report: A JSON file; by default beside the index.
    Raises: InputError if an image is unreadable, a class empty or in one split only, or a shard damaged, after all of
        it has been printed.
    """
    splits = splits_of(folder)
    report = report or index_path(folder).with_suffix(".report.json")
    if report.is_dir():
        raise InputError(f"--report {report} is a folder. Give a file, such as {report / 'report.json'}.")
    odd = set(class_names_of(splits[0])) ^ set(class_names_of(splits[1])) if len(splits) == 2 else set()
    if odd:
        print(f"classes in one split only: {', '.join(sorted(odd))}")
    wrong = {"unreadable image": 0, "empty class folder": 0, "damaged shard": 0, "one-split class": len(odd)}
    found, indexes = {}, []
    for split in splits:
        index = look_through(split, again=again)
        damaged = _damaged(split) if isinstance(index, ShardIndex) else []
        others = [] if isinstance(index, ShardIndex) else passed_over(split, index.class_names)
        unreadable = [*index.unreadable, *_unreadable_in_shards(index)]
        found[split.name] = _describe(index, unreadable, damaged) | {"passed_over": others}
        _print_split(index, unreadable, damaged)
        _print_kind(f"passed over, in no class or none of {', '.join(IMAGE_SUFFIXES)}", others)
        indexes.append(index)
        for what, some in zip(wrong, (unreadable, index.empty_classes, damaged), strict=False):
            wrong[what] += len(some)
    doubles = _in_both(*indexes) if len(indexes) == 2 else []
    _print_kind("the same file in train and val", [f"{a} = {b}" for a, b in doubles])
    content = {"folder": str(folder.resolve()), "largest_image_in_pixels": MAX_PIXELS, "splits": found}
    write_whole(report, json.dumps(content | {"in_train_and_val": doubles}, indent=1) + "\n")
    print(f"report: {report}")
    if any(wrong.values()):
        named = " and ".join(counted(n, what) for what, n in wrong.items() if n)
        it = "it" if sum(wrong.values()) == 1 else "them"
        raise InputError(f"{named} in {folder}, named above. Mend or remove {it}.")


def _describe(index: ImageIndex, unreadable: list[UnreadableImage], damaged: list[str]) -> dict[str, Any]:
    return {
        "images": len(index),
        "classes": index.class_counts,
        "odd": {kind: list(paths) for kind, paths in index.kinds.items()},
        "unreadable": [item._asdict() for item in unreadable],
        "damaged_shards": damaged,
    }


def _print_split(index: ImageIndex, unreadable: list[UnreadableImage], damaged: list[str]) -> None:
    counts, split = index.class_counts.values(), index.folder
    images, classes = counted(len(index), "image"), counted(len(index.class_names), "class")
    print(f"{split}: {images} in {classes}, {min(counts):,} to {max(counts):,} a class")
    for kind, paths in index.kinds.items():
        _print_kind(kind, paths)
    for item in unreadable:
        print(f"unreadable: {split / item.path}: {item.reason}")
    for name in index.empty_classes:
        print(f"class without a readable image: {split / name}")
    for name in damaged:
        print(f"damaged shard: {split / name}: its SHA-256 is another one than when it was written")


def _print_kind(kind: str, names: tuple[str, ...] | list[str]) -> None:
    if names:
        print(f"  {kind}: {len(names):,} ({first_of(names, NAMED)})")


def _in_both(train: ImageIndex, val: ImageIndex) -> list[tuple[str, str]]:
    """(path in train, path in val) of files that are the same byte for byte."""
    there = {digest.tobytes(): path for digest, path in zip(train.digests, train.paths, strict=True)}
    pairs = ((there.get(digest.tobytes()), path) for digest, path in zip(val.digests, val.paths, strict=True))
    return [(a, b) for a, b in pairs if a is not None]


def _damaged(split: Path) -> list[str]:
    with progress_bar(f"comparing {split.name}", "shards") as advance:
        return damaged_shards(split, advance)


def _unreadable_in_shards(index: ImageIndex) -> Iterator[UnreadableImage]:
    """The images of shards that cannot be decoded; a folder's files have been looked at for its index."""
    if not isinstance(index, ShardIndex):
        return
    with (
        progress_bar(f"checking {index.folder.name}", "images") as advance,
        warnings.catch_warnings(),
        ThreadPoolExecutor(usable_cores()) as pool,
    ):
        warnings.simplefilter("ignore")
        looks = map_in_parts(pool, lambda i: inspect_bytes(index.read(i).tobytes(), ".jpg"), range(len(index)))
        for i, look in enumerate(looks):
            if look.reason:
                yield UnreadableImage(f"{index.shards[index.places[i, 0]]} ({index.paths[i]})", look.reason)
            advance(i + 1, len(index))
