"""`lightning-sq download`: a released model into the cache, from where it loads without a network."""

from __future__ import annotations

import os

from lightning_sq.commands.parser import Parser
from lightning_sq.errors import InputError


def main(arguments: list[str]) -> None:
    parser = Parser(
        "lightning-sq download",
        description="Bring a released model into the cache.",
        examples=["lightning-sq download --list", "lightning-sq download hf-hub:org/name"],
    )
    parser.add_argument("source", nargs="?", help="a released name, https://.../folder/, or hf-hub:org/name")
    parser.add_argument("--index", help="a list of releases, file or address, beside the package's own")
    parser.add_argument("--list", action="store_true", help="show what is released, and what is in the cache")
    options = parser.parse_args(arguments)

    from lightning_sq.hub.cache import cached
    from lightning_sq.hub.registry import INDEX_VARIABLE, entries
    from lightning_sq.hub.sources import fetch, nothing_to_download

    if options.index:
        os.environ[INDEX_VARIABLE] = options.index
    if options.list:
        released = entries()
        for entry in released.values():
            print(f"released  {entry.name}  {entry.url}")
        if not released:
            print("Nothing is released yet. --index names a list of other people's releases.")
        for one in cached():
            print(f"cached    {one.source}  {one.folder}")
        return
    if options.source is None:
        raise InputError("What is to be downloaded? Give a name, an address, or --list to see what there is.")
    folder = fetch(options.source)
    if folder is None:
        raise nothing_to_download(options.source)
    print(folder)
