"""Imports point one way, and each heavy library has one door."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "lightning_sq"

# what each part of the package may import of the others, besides `EVERYBODYS`
MAY_IMPORT = {
    "ops": set(),
    "layers": {"ops"},
    "verification": {"layers", "ops"},
    "models": {"layers", "ops"},
    "data": {"ops"},
    "objectives": {"attacks", "layers", "ops", "verification"},
    "metrics": {"ops"},
    "attacks": {"layers", "ops", "verification"},
    "evaluation": {"attacks", "layers", "ops", "verification"},
    "hub": {"layers", "models"},
    "release": {"hub", "models"},
    "releasing": {"evaluation", "layers", "models"},
    "training": {"attacks", "data", "metrics", "models", "objectives", "layers", "ops"},
    "reproduction": {"attacks", "data", "evaluation", "layers", "models", "ops", "release", "verification"},
    "commands": {
        *("attacks", "data", "evaluation", "hub", "metrics", "models", "ops", "release", "releasing", "reproduction"),
        "training",
    },
}
EVERYBODYS = {
    "children",
    "cores",
    "errors",
    "metrics_file",
    "misspelt",
    "output_lock",
    "paths",
    "process_group",
    "progress",
    "recipe_layers",
    "release_files",
    "run_files",
    "slurm_job",
    "stop_request",
    "types",
    "words",
}
DOORS = {
    "timm": {"models/backbone.py", "models/small_networks.py", "hub/timm_names.py"},
    "huggingface_hub": {"hub/huggingface.py"},
    "nvidia": {"data/dali.py"},
    "pyautoattack": {"attacks/autoattack.py"},
    "highspy": {"attacks/mixed_integer.py"},
}
WITHOUT_LIGHTNING = (
    "ops",
    "layers",
    "verification",
    "models",
    "objectives",
    "attacks",
    "evaluation",
    "hub",
    "release",
    "releasing",
    "metrics",
)


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def violations(root: Path) -> list[str]:
    """Imports below `root` that point the wrong way or use a second door."""
    wrong = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        part = relative.parts[0].removesuffix(".py")
        for module in sorted(imports(path)):
            top, *rest = module.split(".")
            if top in DOORS and str(relative) not in DOORS[top]:
                wrong.append(f"{relative} imports {module}")
            if top == "lightning" and part in WITHOUT_LIGHTNING:
                wrong.append(f"{relative} imports {module}")
            if top == "lightning_sq" and part in MAY_IMPORT and rest:
                other = rest[0]
                if other not in MAY_IMPORT[part] | EVERYBODYS | {part, "__version__"}:
                    wrong.append(f"{relative} imports {module}")
    return wrong


def test_imports_point_one_way():
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("ops/a.py", "from lightning_sq.layers import Normalize"),
        ("objectives/a.py", "import timm"),
        ("evaluation/a.py", "def f():\n    from lightning_sq.data import index"),
        ("release.py", "from lightning.pytorch import Trainer"),
        ("commands/a.py", "from nvidia.dali import fn"),
        ("verification/a.py", "import highspy"),
    ],
)
def test_the_walk_over_imports_can_fail(tmp_path, file, line):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(line)
    assert len(violations(tmp_path)) == 1


def test_every_library_that_the_package_imports_is_declared():
    values = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    groups = [values["project"]["dependencies"], *values["project"].get("optional-dependencies", {}).values()]
    declared = {re.match(r"[\w.-]+", line)[0].lower() for group in groups for line in group}
    used = {module.split(".")[0] for path in PACKAGE.rglob("*.py") for module in imports(path)}
    libraries = packages_distributions()
    for name in used - sys.stdlib_module_names - {"lightning_sq"}:
        assert declared & {owner.lower() for owner in libraries.get(name, [name])}, name


def test_every_part_of_the_package_has_its_rule():
    parts = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if not path.name.startswith("__")}
    assert parts == set(MAY_IMPORT) | EVERYBODYS
