"""The releases that were downloaded: one folder each, named by the checksum of its SHA256SUMS.

    releases/<sha256>/            the files, each checked
    releases/<sha256>.<key>.json  that they came from one name or address, and when last; a key each
    releases/.<sha256>.part/      what a download has so far; the next one goes on with it
    releases/.<sha256>.lock       held by the process that downloads; the others wait

A folder gets its name when everything in it is there, so two processes can share the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urldefrag

from lightning_sq.errors import InputError
from lightning_sq.hub.download import UnreachableError, check_address, download, read_small_file
from lightning_sq.hub.registry import DIGEST, RegistryEntry
from lightning_sq.output_lock import one_at_a_time
from lightning_sq.paths import cache_folder, errors_named, write_whole
from lightning_sq.progress import progress_bar
from lightning_sq.release_files import (
    DOWNLOADED,
    LONGEST_SUMS,
    NEEDED,
    SUMS_FILE,
    check_needed,
    parse_sums,
    read_sums,
)


@dataclass(frozen=True)
class Cached:
    """A release that is here.

    Args:
        source: The name or address that it was downloaded by.
        folder: Its files.
        when: UTC time at which it was last had from there, ISO 8601.
    """

    source: str
    folder: Path
    when: str


def releases_folder() -> Path:
    """Where downloaded releases are kept."""
    return cache_folder() / "releases"


def cached() -> list[Cached]:
    """Every release that is here and whole, the latest first; once for each name or address that it came from."""
    found = []
    for path in releases_folder().glob("*.json"):
        try:
            note = json.loads(path.read_text())
            folder = path.with_name(path.name.partition(".")[0])
            one = Cached(str(note["source"]), folder, str(note["when"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half a note of a full disk; the release behind it is found by its checksum
        if one.folder.is_dir():
            found.append(one)
    return sorted(found, key=lambda one: one.when, reverse=True)


def what_is_cached() -> str:
    """For the end of a message."""
    names = [f"{one.source} in {one.folder}" for one in cached()]
    return f"In the cache: {'; '.join(names)}." if names else f"Nothing is in the cache ({releases_folder()})."


def fetch_entry(entry: RegistryEntry) -> Path:
    """The folder of a released model; no network is needed if it is in the cache.

    Raises: InputError if it cannot be had, with what is in the cache if nothing answers.
    """
    return _fetch(entry.url, entry.sha256, entry.name, None)


def fetch_address(address: str) -> Path:
    """The folder of the release at an address, `https://.../folder/`, or `...#sha256=DIGEST` of its SHA256SUMS.

    Without a digest SHA256SUMS is asked for each time; if nothing answers, the copy in the cache is taken. Over plain
    http that is warned of.

    Raises: InputError as `fetch_entry` does.
    """
    url, fragment = urldefrag(address)
    url = url if url.endswith("/") else f"{url}/"
    if fragment:
        algorithm, _, digest = fragment.partition("=")
        if algorithm != "sha256" or not DIGEST.fullmatch(digest.lower()):
            raise InputError(f"{address}: behind # stands sha256= and the 64 digits of the release's {SUMS_FILE}.")
        return _fetch(
            url, digest.lower(), f"{url}#{fragment.lower()}", None
        )  # which tells nothing of the address alone
    check_address(url, f"write behind the address #sha256= and the digest of its {SUMS_FILE}")
    try:
        sums = read_small_file(url + SUMS_FILE, LONGEST_SUMS)
    except UnreachableError as error:
        known = next((one for one in cached() if one.source == url), None)
        if known is None:
            raise UnreachableError(f"{error} {what_is_cached()}") from error
        warnings.warn(f"{error} The copy of {known.when.partition('.')[0]} in {known.folder} is used.", stacklevel=2)
        return known.folder
    return _fetch(url, hashlib.sha256(sums).hexdigest(), url, sums)


def _fetch(url: str, digest: str, source: str, sums: bytes | None) -> Path:
    folder = releases_folder() / digest
    if not _is_sound(folder):
        _bring(url, digest, folder, sums)
    _note(source, folder)  # also of what was here: it is what an address gives now
    return folder


def _bring(url: str, digest: str, folder: Path, sums: bytes | None) -> None:
    try:
        with errors_named(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(folder.with_name(f".{digest}.lock"), what="downloads this release"):
                if not _is_sound(folder):  # nobody has downloaded it while this process waited
                    if folder.exists():
                        shutil.rmtree(folder)
                    _download_release(url, digest, folder, sums)
    except UnreachableError as error:
        raise UnreachableError(f"{error} {what_is_cached()}") from error
    except OSError as error:
        raise InputError(
            f"{folder.parent} cannot be written ({error}). Make room, or set LIGHTNING_SQ_CACHE to another folder."
        ) from error


def _note(source: str, folder: Path) -> None:
    """That `folder` came from there now; where that cannot be kept, the release is as good."""
    key = hashlib.sha256(os.fsencode(source)).hexdigest()[:16]
    note = {"source": source, "when": datetime.now(UTC).isoformat()}
    with suppress(OSError):
        write_whole(folder.with_name(f"{folder.name}.{key}.json"), json.dumps(note) + "\n")


def _is_sound(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        check_needed(folder, read_sums(folder))
    except (InputError, OSError):  # an error of the disk, or another process that removes what was spoilt
        return False
    return True


def _download_release(url: str, digest: str, folder: Path, sums: bytes | None) -> None:
    sums = read_small_file(url + SUMS_FILE, LONGEST_SUMS) if sums is None else sums
    if hashlib.sha256(sums).hexdigest() != digest:
        raise InputError(f"{url}{SUMS_FILE} is not the one that was released: its checksum is another. Do not use it.")
    listed = parse_sums(sums.decode(errors="replace"), source=url + SUMS_FILE)
    if not listed.keys() >= set(NEEDED):
        raise InputError(
            f"{url}{SUMS_FILE} is no list of a release's checksums ({_beginning(sums)}). "
            "Give the address of the folder that a release lies in."
        )
    part = folder.with_name(f".{digest}.part")
    part.mkdir(exist_ok=True)
    for name in (name for name in DOWNLOADED if name in listed):
        if not (part / name).exists():
            with progress_bar(name, "kB") as advance:
                download(
                    url + quote(name),
                    part / name,
                    listed[name],
                    lambda done, total, advance=advance: advance(-(-done // 1000), -(-total // 1000)),
                )
    (part / SUMS_FILE).write_bytes(sums)
    part.rename(folder)


def _beginning(content: bytes) -> str:
    text = " ".join(content[:200].decode(errors="replace").split())
    return f"it begins with {text[:40]!r}" if text else "it is empty"
