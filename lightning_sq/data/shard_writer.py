"""Writing shards: each image shrunk once if wanted, each tar file whole or not at all, and none written twice."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_sq.cores import usable_cores
from lightning_sq.data.image_index import ImageIndex
from lightning_sq.data.inspection import GREY_MODES, digest_of
from lightning_sq.data.shards import (
    FORMAT_VERSION,
    INDEX,
    MANIFEST,
    ShardIndex,
    damaged_shards,
    is_sharded,
    load_shards,
    read_manifest,
    save_index,
)
from lightning_sq.errors import MENDABLE, InputError
from lightning_sq.paths import sha256, whole_file, write_whole
from lightning_sq.progress import progress_bar
from lightning_sq.types import Progress

PART = "part"
SUMS = "SHA256SUMS"
OURS = rf"\.lock|\..*\.tmp|shard-[0-9]{{6}}\.(tar|idx|{PART})|{re.escape(INDEX)}|{re.escape(MANIFEST)}|{SUMS}"
"""The names of what this writes, and of what keeps a second writer out."""


@dataclass(frozen=True)
class ShardSettings:
    """How images are stored.

    Args:
        short_side: Larger images are shrunk to this shorter side, in pixels, and all are stored as JPEG of `quality`
            (4:2:0, or grey), but for those that are not shrunk and whose file that would make no smaller; None keeps
            every file as it is.
        quality: libjpeg's, in [1, 95].
        images_per_shard: The last shard may have fewer.
    Raises: InputError for numbers that cannot be.
    """

    short_side: int | None = None
    quality: int = 90
    images_per_shard: int = 4096

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 1:
            raise InputError(f"--short-side {self.short_side} is not at least 1 pixel. Write 352.")
        if not 1 <= self.quality <= 95:
            raise InputError(f"--quality {self.quality} is not in [1, 95]. Write 90.")
        if self.images_per_shard < 1:
            raise InputError(f"--images-per-shard {self.images_per_shard} is not at least 1. Write 4096.")


def write_shards(index: ImageIndex, folder: Path, settings: ShardSettings, progress: Progress | None = None) -> int:
    """Write the images of `index` into `folder`, and go on where an earlier call was stopped.

    Whoever calls sees to it that nobody else writes there: the other's shards would be taken for this one's.

    Args:
        index: What to read; a position in it is a position in the shards' index.
        folder: Gets shard-NNNNNN.tar and .idx, index.npz, shards.json and SHA256SUMS.
        settings: How.
        progress: Called with (images written, images to write).
    Returns: the bytes of all shards.
    Raises: InputError if `folder` holds shards of other images or settings, or cannot be written.
    """
    plan = _fingerprint(index, settings)
    _check_folder(folder, plan)
    mixed = np.random.default_rng(0).permutation(len(index))  # so that a reader who streams sees all classes
    chunks = np.split(mixed, range(settings.images_per_shard, len(index), settings.images_per_shard))
    if (whole := _whole(folder, chunks, plan)) is not None:
        return whole
    parts, done = [], 0
    with ThreadPoolExecutor(usable_cores()) as pool:
        for number, positions in enumerate(chunks):
            part = _finished_part(folder, number)
            if part is None:
                step = None if progress is None else lambda k, done=done: progress(done + k, len(index))
                part = _write_shard(pool, index, positions, folder, number, settings, step) | {"plan": plan}
                write_whole(folder / _name(number, PART), json.dumps(part))
            parts.append(part)
            done += len(positions)
            if progress is not None:
                progress(done, len(index))
    _finish(index, chunks, folder, parts, {"plan": plan, **asdict(settings)})
    return sum(part["bytes"] for part in parts)


def _name(number: int, suffix: str) -> str:
    return f"shard-{number:06d}.{suffix}"


def _fingerprint(index: ImageIndex, settings: ShardSettings) -> str:
    seen = hashlib.sha256(json.dumps([FORMAT_VERSION, asdict(settings), index.class_names]).encode())
    for column in ("\0".join(index.paths).encode("utf-8", "surrogateescape"), index.labels, index.digests):
        seen.update(column)
    return seen.hexdigest()


def _check_folder(folder: Path, plan: str) -> None:
    """Raises: InputError if `folder` holds anything but shards of this plan."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.iterdir()):
            if not re.fullmatch(OURS, path.name):
                raise InputError(f"{folder} holds {path.name}, which this command did not write. Give another folder.")
            if path.name == MANIFEST or path.suffix == f".{PART}":
                found = json.loads(path.read_text())
                if not isinstance(found, dict) or found.get("plan") != plan:
                    raise InputError(
                        f"{folder} holds shards of other images, or made with other options. Give another folder."
                    )
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{folder} cannot be used ({error}). Give another folder.") from error


def _whole(folder: Path, chunks: list[np.ndarray], plan: str) -> int | None:
    """The bytes of all shards if they are there as they were written; else the way is cleared for making those that are
    not.
    """
    if not is_sharded(folder):
        return None
    with progress_bar(f"comparing {folder}", "shards") as advance:
        damaged = damaged_shards(folder, advance)
    beside = [folder / SUMS, *(folder / _name(number, "idx") for number in range(len(chunks)))]
    if not damaged and all(path.is_file() for path in beside) and _can_be_loaded(folder):
        return sum(shard["bytes"] for shard in read_manifest(folder)["shards"])
    _note_parts_again(folder, chunks, plan)
    for name in damaged:
        (folder / name).unlink(missing_ok=True)
    (folder / MANIFEST).unlink()
    return None


def _can_be_loaded(folder: Path) -> bool:
    try:
        load_shards(folder)
    except InputError:
        return False
    return True


def _note_parts_again(folder: Path, chunks: list[np.ndarray], plan: str) -> None:
    """What `_finish` put together, once more as what was written down of each shard, so that the whole ones are kept.

    Nothing where the index cannot be read: then all are made again.
    """
    try:
        with np.load(folder / INDEX, allow_pickle=False) as saved:
            rows = list(zip(*(saved[name].tolist() for name in ("places", "sizes", "digests")), strict=True))
        parts = [
            shard | {"rows": [[*rows[i][0][1:], *rows[i][1], *rows[i][2]] for i in positions], "plan": plan}
            for shard, positions in zip(read_manifest(folder)["shards"], chunks, strict=True)
        ]
    except Exception:  # a damaged zip raises whatever numpy, zipfile or zlib stumble over
        return
    for number, part in enumerate(parts):
        write_whole(folder / _name(number, PART), json.dumps(part))


def _finished_part(folder: Path, number: int) -> dict | None:
    """What was written down of a shard that is there already, whole."""
    path, tar, idx = (folder / _name(number, suffix) for suffix in (PART, "tar", "idx"))
    if not (path.is_file() and tar.is_file() and idx.is_file()):
        return None
    part = json.loads(path.read_text())
    return part if tar.stat().st_size == part["bytes"] else None


def _write_shard(
    pool: ThreadPoolExecutor,
    index: ImageIndex,
    positions: np.ndarray,
    folder: Path,
    number: int,
    settings: ShardSettings,
    progress: Callable[[int], None] | None,
) -> dict:
    rows, lines, path = [], [], folder / _name(number, "tar")
    stored = pool.map(lambda i: encode(index, i, settings), positions.tolist())
    with whole_file(path) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for k, (i, (encoded, suffix, size)) in enumerate(zip(positions.tolist(), stored, strict=True), start=1):
                image, label = f"{i:08d}.{suffix}", f"{i:08d}.cls"
                content = str(index.labels[i]).encode()
                places = _add(tar, image, encoded), _add(tar, label, content)
                lines.append(f"{suffix} {places[0]} {len(encoded)} {image} cls {places[1]} {len(content)} {label}")
                digest = np.frombuffer(digest_of(encoded), np.uint64)
                rows.append([places[0], len(encoded), *size, *digest.tolist()])
                if progress is not None:
                    progress(k)
        digest, size = sha256(temporary), temporary.stat().st_size
    write_whole(folder / _name(number, "idx"), "\n".join([f"v1.2 {len(lines)}", *lines]) + "\n")
    return {"name": path.name, "images": len(positions), "bytes": size, "sha256": digest, "rows": rows}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Append one file; gives the place of its first byte."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))
    return tar.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def encode(index: ImageIndex, i: int, settings: ShardSettings) -> tuple[bytes, str, tuple[int, int]]:
    """(bytes, suffix, (height, width)) of image `i` as it is stored.

    Raises: InputError if its file has changed or gone.
    """
    try:
        encoded = index.read(i).tobytes()
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        told = f"{index.where(i)} cannot be read any more ({error.strerror})"
        raise InputError(f"{told}. Put it back, and start again.") from error
    if digest_of(encoded) != index.digests[i].tobytes():
        raise InputError(
            f"{index.where(i)} is another file than when it was looked at. Mend it, or look again by "
            f"`lightning-sq data check {index.folder} --again`, and start again."
        )
    height, width = index.sizes[i].tolist()
    suffix = Path(index.paths[i]).suffix[1:].lower()
    if settings.short_side is None:
        return encoded, suffix, (height, width)
    with Image.open(io.BytesIO(encoded)) as file:
        picture = file.convert("L" if file.mode in GREY_MODES else "RGB")
    scale = settings.short_side / min(height, width)
    if scale < 1:
        smaller = max(1, round(width * scale)), max(1, round(height * scale))
        picture = picture.resize(smaller, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=settings.quality, subsampling="4:2:0", optimize=True)
    if scale >= 1 and stream.tell() >= len(encoded):
        return encoded, suffix, (height, width)
    return stream.getvalue(), "jpg", picture.size[::-1]


def _finish(index: ImageIndex, chunks: list[np.ndarray], folder: Path, parts: list[dict], said: dict) -> None:
    """Put the parts together, in the order of the index; `shards.json` comes last, for it says that all is there."""
    places, sizes = np.empty((len(index), 3), np.int64), np.empty((len(index), 2), np.int32)
    digests = np.empty((len(index), 2), np.uint64)
    for number, (positions, part) in enumerate(zip(chunks, parts, strict=True)):
        rows = part.pop("rows")
        places[positions, 0] = number
        places[positions, 1:] = [row[:2] for row in rows]
        sizes[positions] = [row[2:4] for row in rows]
        digests[positions] = np.array([row[4:] for row in rows], np.uint64)
        part.pop("plan")
    columns = {"labels": index.labels, "sizes": sizes, "digests": digests, "places": places}
    save_index(folder, ShardIndex(folder, index.class_names, index.paths, **columns))
    write_whole(folder / SUMS, "".join(f"{part['sha256']}  {part['name']}\n" for part in parts))
    manifest = {"format_version": FORMAT_VERSION, "images": len(index), **said, "class_names": index.class_names}
    write_whole(folder / MANIFEST, json.dumps(manifest | {"shards": parts}, indent=1) + "\n")
    killed = folder.glob(".shard-*.tmp")  # what a writer left that was killed
    for path in [*folder.glob(f"shard-*.{PART}"), *killed]:
        path.unlink(missing_ok=True)
