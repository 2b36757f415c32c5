"""Registers the released names with timm when timm is imported, and not before: `import lightning_sq` stays cheap."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from lightning_sq.errors import InputError


def register_with_timm() -> None:
    """Now if timm is there already, else as soon as somebody imports it."""
    if "timm" in sys.modules:
        _register()
    elif not any(isinstance(finder, _TimmWatcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TimmWatcher())


def _register() -> None:
    """What cannot be read or registered does not stop whoever only wanted timm."""
    from lightning_sq.hub.registry import entries

    try:
        found = entries()
    except InputError as error:
        warnings.warn(f"No released model is registered with timm: {error}", stacklevel=2)
        return
    for entry in found.values():
        from lightning_sq.hub.timm_names import register

        try:
            register(entry)
        except InputError as error:
            warnings.warn(f"A released model is not registered with timm: {error}", stacklevel=2)


class _TimmWatcher(MetaPathFinder):
    """Finds nothing itself: when timm is looked for it steps aside, and adds to what timm's loader does."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
