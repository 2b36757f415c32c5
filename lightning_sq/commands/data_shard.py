"""`lightning-sq data shard`: an image folder copied into shards, split by split."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from lightning_sq.data.index import look_through_readable
from lightning_sq.data.shard_writer import ShardSettings, write_shards
from lightning_sq.data.shards import is_sharded
from lightning_sq.errors import InputError
from lightning_sq.progress import progress_bar


def splits_of(folder: Path) -> list[Path]:
    """train/ and val/ below `folder`, as far as they are there; else `folder` itself."""
    return [folder / name for name in ("train", "val") if (folder / name).is_dir()] or [folder]


def shard_data(options: Namespace) -> None:
    """Raises: InputError for options that cannot be, unreadable images, or an output that holds something else."""
    settings = ShardSettings(options.short_side, options.quality, options.images_per_shard)
    splits = splits_of(options.folder)
    if any(is_sharded(split) for split in splits):
        raise InputError(f"{options.folder} holds shards already. Give the image folder that they were made from.")
    indexes = [(split, look_through_readable(split, allow_unreadable=options.allow_unreadable)) for split in splits]
    for split, index in indexes:
        target = options.output if split == options.folder else options.output / split.name
        before = sum((split / path).stat().st_size for path in index.paths)
        with progress_bar(f"writing {target}", "images") as advance:
            after = write_shards(index, target, settings, advance)
        print(f"{target}: {len(index):,} images, {before / 1e6:,.0f} MB as files, {after / 1e6:,.0f} MB as shards")
    print(f"lightning-sq data check {options.output} compares them with their SHA-256 and decodes every image")
