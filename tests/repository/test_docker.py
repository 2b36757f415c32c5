"""What the image is made of, as far as that can be seen without building it."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
DOCKERFILE = (REPOSITORY / "docker/Dockerfile").read_text().replace("\\\n", " ")


def _needed(lines: list[str]) -> set[str]:
    """The names of what these requirements install here, with what that needs in its turn."""
    found: set[tuple[str, str]] = set()
    todo = [(Requirement(line), "") for line in lines]
    while todo:
        one, extra_of_parent = todo.pop()
        if one.marker is not None and not one.marker.evaluate({"extra": extra_of_parent}):
            continue
        for extra in ("", *one.extras):
            if (canonicalize_name(one.name), extra) in found:
                continue
            found.add((canonicalize_name(one.name), extra))
            try:
                todo += [(Requirement(line), extra) for line in requires(one.name) or ()]
            except PackageNotFoundError:  # not of this platform
                continue
    return {name for name, _ in found}


def test_the_image_has_all_extras_at_the_locked_versions_and_nothing_for_developers_alone():
    (install,) = re.findall(r"uv pip install .* -r pyproject\.toml", DOCKERFILE)
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(re.findall(r"--extra (\w+)", install)) == set(extras)
    assert "--constraint requirements.lock" in install
    assert "-r requirements.lock" not in DOCKERFILE
    needed = _needed([*PROJECT["project"]["dependencies"], *(line for lines in extras.values() for line in lines)])
    assert needed.isdisjoint({"pytest", "pytest-xdist", "hypothesis", "ruff", "hatchling", "editables"})
    locked = set(re.findall(r"^([a-z0-9-]+)==", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE))
    assert len(needed) > 50
    assert needed <= locked  # or uv would take whatever there is, without a hash


def test_the_package_itself_is_built_by_what_is_locked():
    (build,) = re.findall(r"uv pip install .* --no-deps \.", DOCKERFILE)
    assert "--build-constraint requirements.lock" in build


def test_no_example_leaves_its_container_behind():
    text = (REPOSITORY / "docker/README.md").read_text()
    assert len(re.findall(r"^ +docker run ", text, re.MULTILINE)) == len(re.findall(r"docker run --rm ", text)) == 3


def test_who_runs_an_example_owns_what_it_writes_and_may_enter_the_folder_with_the_recipes():
    text = (REPOSITORY / "docker/README.md").read_text().replace("\\\n", " ")
    examples = re.findall(r"^ +docker run .*", text, re.MULTILINE)
    assert len(examples) == 3
    assert all('--user "$(id -u):$(id -g)"' in line for line in examples)
    (folder,) = re.findall(r"^WORKDIR (/home/\S+)$", DOCKERFILE, re.MULTILINE)
    (made,) = re.findall(r"^RUN useradd --create-home .*", DOCKERFILE, re.MULTILINE)
    assert f"chmod 755 {folder} " in made


def test_a_base_image_may_have_a_user_with_the_number_of_the_images_own():
    (made,) = re.findall(r"^RUN useradd .*", DOCKERFILE, re.MULTILINE)
    assert "--non-unique --uid 1000 " in made  # Ubuntu's have one, of the name ubuntu
