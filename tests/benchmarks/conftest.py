"""`benchmark` imports a script of benchmarks/ as it imports its own parts."""

from __future__ import annotations

import importlib
import sys

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """Import a benchmark by name, with its results below `tmp_path`."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    harness = importlib.import_module("common.harness")
    monkeypatch.setattr(harness, "RESULTS", tmp_path)

    def run(name, *options):
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, "argv", [name, *options])
        return module

    yield run
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(REPOSITORY / "benchmarks")):
            del sys.modules[name]
