"""How long a run on a million files takes to its first batch, for benchmarks/data.py."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np

from lightning_sq.data.datamodule import ImageFolderData
from lightning_sq.data.image_index import ImageIndex
from lightning_sq.data.index_file import Columns, index_path, save_columns
from lightning_sq.data.listing import class_folders, list_files

CLASSES = 1000


def seconds_to_first_batch(samples: ImageIndex, count: int, room: Path, threads: int) -> dict[str, float]:
    """Seconds from the start of a run, its libraries imported, to its index and on to its first training batch; and
    those of a processor in both, which count where the machine has other things to do.

    Args:
        samples: Real images; `count` names are linked to them, over 1,000 class folders.
        count: Files in train/; val/ gets one a class.
        room: An empty folder for all of it, the index too.
        threads: DALI's.
    """
    os.environ["LIGHTNING_SQ_CACHE"] = str(room / "cache")
    root = room / "many"
    for split, files in (("train", count), ("val", CLASSES)):
        _link(samples, root / split, files)
        _write_index(samples, root / split)
    began, busy = time.perf_counter(), time.process_time()
    data = ImageFolderData(root=str(root), image_size=224, batch_size_per_device=64, num_threads=threads)
    data.prepare_data()
    indexed = time.perf_counter()
    next(iter(data.loader("train")))
    ended = time.perf_counter()
    busy = time.process_time() - busy
    return {"index": indexed - began, "first batch": ended - indexed, "of a processor": busy}


def _link(samples: ImageIndex, folder: Path, count: int) -> None:
    """Hard links `<class>/<k>_<sample>.JPEG`: as many names as wanted, and no more bytes than the samples'."""
    seeds = []
    (folder.parent / "seeds").mkdir(parents=True, exist_ok=True)
    for i in range(len(samples)):
        seeds.append(folder.parent / "seeds" / f"{i}.JPEG")
        if not seeds[-1].exists():
            shutil.copy(samples.folder / samples.paths[i], seeds[-1])
    for label in range(CLASSES):
        (folder / f"n{label:08d}").mkdir(parents=True)
    for k in range(count):
        i = k % len(seeds)
        os.link(seeds[i], folder / f"n{k % CLASSES:08d}" / f"n{k % CLASSES:08d}_{k}_{i}.JPEG")


def _write_index(samples: ImageIndex, folder: Path) -> None:
    """The index that a look at every file would give; looking takes an hour, and is done once."""
    files, _ = list_files(folder, class_folders(folder))
    which = np.array([int(path.rsplit("_", 1)[1].removesuffix(".JPEG")) for path in files.paths])
    sizes = samples.sizes[which]
    known = {"heights": sizes[:, 0], "widths": sizes[:, 1], "digests": samples.digests[which]}
    save_columns(index_path(folder), Columns(**vars(files) | known))
