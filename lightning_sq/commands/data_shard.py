"""`lightning-sq data shard`: an image folder copied into shards, split by split."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lightning_sq.data.index import look_through_readable
from lightning_sq.data.index_file import index_path, load_columns
from lightning_sq.data.listing import splits_of
from lightning_sq.data.shard_writer import ShardSettings, write_shards
from lightning_sq.data.shards import is_sharded
from lightning_sq.errors import InputError
from lightning_sq.output_lock import lock_output
from lightning_sq.progress import progress_bar
from lightning_sq.words import counted


def shard_data(options: Namespace) -> None:
    """Raises: InputError for options that cannot be, unreadable images, or an output that holds something else."""
    settings = ShardSettings(options.short_side, options.quality, options.images_per_shard)
    splits = splits_of(options.folder)
    if any(is_sharded(split) for split in splits):
        raise InputError(f"{options.folder} holds shards already. Give the image folder that they were made from.")
    indexes = [(split, look_through_readable(split, allow_unreadable=options.allow_unreadable)) for split in splits]
    for split, index in indexes:
        target = options.output if split == options.folder else options.output / split.name
        files = load_columns(index_path(split))  # empty where nothing can be kept
        before = f"{files.bytes[files.heights > 0].sum() / 1e6:,.0f} MB as files, " if len(files) else ""
        with _alone_in(target), progress_bar(f"writing {target}", "images") as advance:
            after = write_shards(index, target, settings, advance)
        images = counted(len(index), "image")
        print(f"{target}: {images}, {before}{after / 1e6:,.0f} MB as shards")
    print(f"lightning-sq data check {options.output} compares them with their SHA-256 and decodes every image")


@contextmanager
def _alone_in(target: Path) -> Iterator[None]:
    """Two writers at once would take each other's shards for their own, and what is half written for a killed one's."""
    with ExitStack() as held:
        try:
            lock_output(target, held)
        except OSError as error:
            raise InputError(f"{target} cannot be used ({error}). Give another folder.") from error
        yield
