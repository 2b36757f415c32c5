"""Packages whose parts are imported when they are used, and not all at once with the package.

torchmetrics imports every metric that it has, and with them scipy's signal processing and torchvision's networks:
part of every process's start, on a cluster by all ranks at once from one shared disk, for the sake of two metrics.
"""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("torchmetrics", "torchmetrics.functional")
COME_FIRST = {"torchmetrics": "torchmetrics.utilities"}
"""Parts that import each other in a circle, and the one that it has to be entered by."""


def import_late(packages: tuple[str, ...] = PACKAGES) -> None:
    """From now on, `packages` give each of their names by importing the one module that defines it.

    Every name that the package offers is still there. What is left out of its `__init__` is what it does to other
    libraries at its import (the blocks `if package_available(...)`). A package that is imported already, or that is not
    installed, is left as it is.
    """
    for name in packages:
        if name in sys.modules:
            continue
        spec = find_spec(name)
        if spec is None or spec.origin is None or spec.submodule_search_locations is None:
            continue
        sys.modules[name] = module = module_from_spec(spec)
        _run_without_parts(module, Path(spec.origin))
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, module)


def _run_without_parts(package: ModuleType, file: Path) -> None:
    """Run an `__init__.py` whose imports of the package's own parts wait until somebody asks for their names."""
    tree = ast.parse(file.read_text())
    later = [node for node in tree.body if _imports_part(node, package.__name__)]
    tree.body = [node for node in tree.body if node not in later and not isinstance(node, ast.If)]
    homes = {alias.asname or alias.name: (node.module, alias.name) for node in later for alias in node.names}

    def find(name: str) -> Any:
        """The package's `__getattr__` (PEP 562)."""
        if name not in homes:
            raise AttributeError(f"module {package.__name__!r} has no attribute {name!r}")
        if package.__name__ in COME_FIRST:
            import_module(COME_FIRST[package.__name__])
        module, original = homes[name]
        if module == package.__name__:
            return import_module(f"{module}.{original}")
        value = getattr(import_module(module), original)
        setattr(package, name, value)
        return value

    package.__getattr__ = find
    exec(compile(tree, file, "exec"), vars(package))


def _imports_part(node: ast.stmt, package: str) -> bool:
    library = package.partition(".")[0]
    return (
        isinstance(node, ast.ImportFrom)
        and f"{node.module}.".startswith(f"{library}.")
        and all(alias.name != "*" for alias in node.names)
    )
