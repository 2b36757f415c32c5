"""The list of released models: registry.toml of the package, and another one that $LIGHTNING_SQ_INDEX names.

An entry pins the SHA-256 of a release's SHA256SUMS, which in turn pins every file, so whoever trusts the list needs to
trust no server.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
import warnings
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from lightning_sq.errors import InputError, one_line
from lightning_sq.paths import cache_folder, expanded, whole_file

INDEX_VARIABLE = "LIGHTNING_SQ_INDEX"
OWN_INDEX = Path(__file__).with_name("registry.toml")
NAME = re.compile(r"\w+(\.[\w.-]+)?")
"""A name has no slash and no colon: those are folders and addresses."""
IS_ADDRESS = re.compile(r"https?://")
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RegistryEntry:
    """One released model.

    Args:
        name: ARCHITECTURE.TAG.
        url: The folder of its files; ends with a slash.
        sha256: Of its SHA256SUMS, in hexadecimal.
        num_classes: Logits.
        input_size: (channels, height, width) that it was trained for.
        resize_size: Length of the shorter side before the centre crop; None where the entry does not say.
    """

    name: str
    url: str
    sha256: str
    num_classes: int
    input_size: tuple[int, int, int]
    resize_size: int | None = None

    @property
    def architecture(self) -> str:
        """timm's name of it."""
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        """What timm calls the rest of it."""
        return self.name.partition(".")[2]

    def as_toml(self) -> str:
        """As it stands in a registry."""
        resize = "" if self.resize_size is None else f"resize_size = {self.resize_size}\n"
        return (
            f'["{self.name}"]\nurl = "{self.url}"\nsha256 = "{self.sha256}"\n'
            f"num_classes = {self.num_classes}\ninput_size = {list(self.input_size)}\n{resize}"
        )


def own_entries() -> dict[str, RegistryEntry]:
    """Those of the package."""
    return parse_index(OWN_INDEX.read_text(), source=str(OWN_INDEX), base="")


def entries() -> dict[str, RegistryEntry]:
    """Every released model by name; the user's index comes after the package's, and may replace its entries.

    One that lies at an address is kept in the cache. While the address cannot be reached the copy is taken, or nothing
    where there is none, with a warning: what is here loads without a network.

    Raises: InputError if $LIGHTNING_SQ_INDEX cannot be read.
    """
    named = os.environ.get(INDEX_VARIABLE)
    if not named:
        return own_entries()
    if IS_ADDRESS.match(named):
        return own_entries() | _entries_at(named)
    return own_entries() | parse_index(_text_of(named), source=named, base=named)


def _entries_at(address: str) -> dict[str, RegistryEntry]:
    from lightning_sq.hub.download import UnreachableError, check_address, read_small_file

    check_address(address, "a file")
    copy = cache_folder() / "lists" / f"{hashlib.sha256(os.fsencode(address)).hexdigest()}.toml"
    try:
        content = read_small_file(address)
    except UnreachableError as error:
        return _entries_of_copy(copy, address, error)
    found = parse_index(content.decode(errors="replace"), source=address, base=address)
    with suppress(OSError), whole_file(copy) as temporary:  # where nothing can be kept the list is as good
        temporary.write_bytes(content)
    return found


def _entries_of_copy(copy: Path, address: str, problem: InputError) -> dict[str, RegistryEntry]:
    try:
        content, seconds = copy.read_bytes(), copy.stat().st_mtime
    except OSError:
        warnings.warn(f"{problem} No copy of that list is in the cache: the package's own alone is used.", stacklevel=2)
        return {}
    when = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    warnings.warn(f"{problem} The copy of {when} in {copy} is used.", stacklevel=2)
    return parse_index(content.decode(errors="replace"), source=str(copy), base=address)


def _text_of(index: str) -> str:
    try:
        return expanded(index).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The list of releases {index} cannot be read ({type(error).__name__}). "
            f"Give --index, or set ${INDEX_VARIABLE} to, a file or an address."
        ) from error


def parse_index(text: str, *, source: str, base: str) -> dict[str, RegistryEntry]:
    """The entries of a registry; an address that is no whole one is taken from `base`.

    Raises: InputError for what is no such list, with the entry that is wrong.
    """
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{source} is no list of released models: {one_line(error)}.") from error
    return {name: _entry(name, values, source, base) for name, values in tables.items()}


def _entry(name: str, values: Any, source: str, base: str) -> RegistryEntry:
    try:
        url = urljoin(base, values["url"])
        entry = RegistryEntry(
            name,
            url if url.endswith("/") else f"{url}/",
            str(values["sha256"]).lower(),
            int(values["num_classes"]),
            tuple(int(value) for value in values["input_size"]),
            None if values.get("resize_size") is None else int(values["resize_size"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{source}: the entry {name!r} lacks or spoils a value ({one_line(error)}).") from error
    if not NAME.fullmatch(name) or not DIGEST.fullmatch(entry.sha256) or len(entry.input_size) != 3:
        raise InputError(
            f"{source}: the entry {name!r} needs a name like resnet50.sq_in1k, 64 digits of sha256, "
            "and an input_size of channels, height and width."
        )
    if not IS_ADDRESS.match(entry.url):
        raise InputError(f"{source}: the entry {name!r} has the url {entry.url!r}, which is not http or https.")
    return entry
