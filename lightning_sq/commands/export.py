"""`lightning-sq export`: a checkpoint becomes a release folder."""

from __future__ import annotations

from pathlib import Path

from lightning_sq.commands.parser import Parser


def main(arguments: list[str]) -> None:
    parser = Parser("lightning-sq export", description="Turn a checkpoint into weights that lightning_sq.load opens.")
    parser.add_argument("checkpoint", type=Path, help="a .ckpt file that lightning-sq fit wrote")
    parser.add_argument("folder", type=Path, help="the release folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a release that is there")
    options = parser.parse_args(arguments)

    from lightning_sq.release import export

    export(options.checkpoint, options.folder, overwrite=options.overwrite)
    print(f"released to {options.folder}; lightning_sq.load({str(options.folder)!r}) opens it")
