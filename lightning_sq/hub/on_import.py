"""Registers the released names with timm when timm is imported, and not before: `import lightning_sq` stays cheap."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from lightning_sq.errors import InputError, one_line


def register_with_timm() -> None:
    """Now if timm is there already, else as soon as somebody imports it."""
    if "timm" in sys.modules:
        _register()
    elif not any(isinstance(finder, _TimmWatcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TimmWatcher())


def _register() -> None:
    """What cannot be read or registered, for whatever reason, does not stop whoever only wanted timm."""
    try:
        from lightning_sq.hub.registry import entries

        found = entries()
    except Exception as error:
        warnings.warn(f"No released model is registered with timm: {_said(error)}", stacklevel=2)
        return
    for entry in found.values():
        try:
            from lightning_sq.hub.timm_names import register

            register(entry)
        except Exception as error:
            warnings.warn(f"A released model is not registered with timm: {_said(error)}", stacklevel=2)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else f"{one_line(error, named=True)}."


class _TimmWatcher(MetaPathFinder):
    """Finds nothing itself: lets the others find timm, and adds to what its loader does.

    Libraries look whether timm is there and do not import it, so the watcher goes away when timm has been executed.
    """

    def __init__(self) -> None:
        self._looking = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm" or getattr(self._looking, "now", False):
            return None
        self._looking.now = True
        try:
            spec = find_spec(fullname)
        finally:
            self._looking.now = False
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader, self)
        return spec


class _RegisteringLoader(Loader):
    """timm's own loader, which the module gets back before it is executed; the released names are registered then."""

    def __init__(self, loader: Loader, watcher: _TimmWatcher) -> None:
        self._loader, self._watcher = loader, watcher

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # whoever looks at a spec may ask a loader for files

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        with suppress(ValueError):  # it has gone already
            sys.meta_path.remove(self._watcher)
        _register()
