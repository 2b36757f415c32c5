"""Releases on the Hugging Face Hub, by its own library, whose cache and login they use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_sq.errors import InputError, one_line
from lightning_sq.release_files import DOWNLOADED, RELEASE_FILES, SUMS_FILE, check_file, check_needed, read_sums

PREFIX = "hf-hub:"
INSTALL = "Install it: pip install 'lightning-sq[hub]'."


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(f"huggingface_hub is not installed. {INSTALL}") from error
    return huggingface_hub


def fetch_repository(source: str) -> Path:
    """The folder of `hf-hub:org/name`, or `hf-hub:org/name@revision`; offline from the library's cache.

    SHA256SUMS comes first: of a repository that is no release nothing else is fetched. What is in the cache and was
    spoilt is fetched again, which the library would not do.

    Raises: InputError if it cannot be had, or is no release.
    """
    repository, _, revision = source.removeprefix(PREFIX).partition("@")
    folder = _snapshot(source, repository, revision or None, [SUMS_FILE])
    listed = read_sums(folder)
    commit = folder.name  # what is pushed in between does not come beside the checksums of before
    names = [name for name in DOWNLOADED if name in listed]
    folder = _snapshot(source, repository, commit, names)
    try:
        check_needed(folder, listed)
    except InputError:
        folder = _snapshot(source, repository, commit, names, anew=True)
        check_needed(folder, listed)
    return folder


def _snapshot(source: str, repository: str, revision: str | None, names: list[str], *, anew: bool = False) -> Path:
    wanted = {"revision": revision, "allow_patterns": names, "force_download": anew}
    library = _library()
    try:
        return Path(library.snapshot_download(repository, **wanted))
    except Exception as error:  # of the library, of HTTP, of a name that is none
        raise InputError(
            f"{source} cannot be had from the Hugging Face Hub ({one_line(error, named=True)}). "
            "Check the name, the network, and `hf auth login` for what is not public."
        ) from error


@dataclass(frozen=True)
class Upload:
    """What `lightning-sq upload` would do, or has done.

    Args:
        repository: org/name.
        files: (name, bytes) of each file, in order.
        url: Of the commit; None for a dry run.
        address: Of the folder with the files, for a registry.
    """

    repository: str
    files: list[tuple[str, int]]
    url: str | None
    address: str


def upload(folder: Path, repository: str, *, private: bool = False, dry_run: bool = False) -> Upload:
    """Put a release onto the Hub, in a repository that is made if it is not there.

    Every file is held against SHA256SUMS first. A dry run reaches no network.

    Raises: InputError if the folder is no whole release, the name is none, the Hub refuses, or what was to be `private`
        is a repository that everybody sees.
    """
    library = _library()
    try:
        library.utils.validate_repo_id(repository)
        if repository.count("/") != 1:
            raise ValueError("an organisation or user, a slash and a name are needed")
    except ValueError as error:
        raise InputError(f"{repository!r} is no name on the Hub ({one_line(error)}). Write org/name.") from error
    listed = read_sums(folder)
    names = [name for name in RELEASE_FILES if name in listed]
    for name in names:
        check_file(folder, name, listed)
    names.append(SUMS_FILE)
    files = [(name, (folder / name).stat().st_size) for name in names]
    root = f"{library.constants.ENDPOINT}/{repository}/resolve"
    if dry_run:
        return Upload(repository, files, None, f"{root}/main/")
    commit = _commit(library.HfApi, folder, repository, names, private)
    return Upload(repository, files, str(commit.commit_url), f"{root}/{commit.oid}/")


def _commit(api_class: Any, folder: Path, repository: str, names: list[str], private: bool) -> Any:
    """The Hub's description of the commit. Where the repository is there already, it stays as public as it is."""
    try:
        api = api_class()
        api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.repo_info(repository).private:
            raise InputError(
                f"{repository} is on the Hub already, where everybody sees it, so nothing was uploaded. Make it "
                "private in its settings there, give another name, or leave out --private."
            )
        return api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=names,
            delete_patterns=[name for name in RELEASE_FILES if name not in names],  # of an earlier release
            commit_message="Release of lightning_sq",
        )
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"The Hub did not take {repository} ({one_line(error, named=True)}). "
            "Log in with `hf auth login` as someone who may write there."
        ) from error
