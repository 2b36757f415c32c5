"""`lightning-sq upload`: a release onto the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from lightning_sq.commands.parser import Parser


def main(arguments: list[str]) -> None:
    parser = Parser(
        "lightning-sq upload",
        description="Put a release onto the Hugging Face Hub.",
        examples=["lightning-sq upload runs/demo/release org/name --dry-run"],
    )
    parser.add_argument("folder", type=Path, help="a release folder")
    parser.add_argument("repository", help="org/name; made if it is not there")
    parser.add_argument("--private", action="store_true", help="make it so that only you see it")
    parser.add_argument("--dry-run", action="store_true", help="check everything, and say what would be uploaded")
    options = parser.parse_args(arguments)

    from lightning_sq.hub.huggingface import upload
    from lightning_sq.hub.registry import RegistryEntry
    from lightning_sq.models.release_format import read_release
    from lightning_sq.paths import sha256
    from lightning_sq.release_files import SUMS_FILE
    from lightning_sq.releasing.golden import verify

    verify(options.folder)
    config = read_release(options.folder).config
    done = upload(options.folder, options.repository, private=options.private, dry_run=options.dry_run)
    for name, size in done.files:
        print(f"{size:>14,}  {name}")
    name = f"{config.family}.{options.repository.rpartition('/')[2]}"
    entry = RegistryEntry(
        name,
        done.address,
        sha256(options.folder / SUMS_FILE),
        len(config.class_names),
        (config.num_channels, config.image_size, config.image_size),
        config.resize_size,
    )
    print(f"for a list of released models:\n\n{entry.as_toml()}")
    if done.url is None:
        print(f"nothing was uploaded; without --dry-run these files go to {done.repository}")
    else:
        print(f"{done.url}; lightning_sq.load('hf-hub:{done.repository}') opens it")
