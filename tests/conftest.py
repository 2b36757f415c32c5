"""Shared fixtures. Nothing here, and no test, reaches outside a temporary folder or the network."""

from __future__ import annotations

import logging
import signal
import tempfile
from pathlib import Path

import lightning.pytorch  # noqa: F401 (before any test captures standard error: its log handler keeps that stream)
import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

from lightning_sq.data.digits import write_digits
from lightning_sq.stop_request import SIGNALS

REPOSITORY = Path(__file__).parent.parent
NUM_TRAIN, NUM_VAL = 9, 4  # images a class that the small data set keeps

logging.getLogger("lightning.pytorch").propagate = True  # or Lightning 2.6.0 shows its lines to people and not to tests

settings.register_profile("same", settings.get_profile("ci"))  # the same examples each time, however long they take
settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    folder = tempfile.TemporaryDirectory()  # before any fixture: Hypothesis writes as soon as tests are collected
    config.add_cleanup(folder.cleanup)
    set_hypothesis_home_dir(folder.name)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNING_SQ_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("COLUMNS", "200")
        yield


@pytest.fixture(autouse=True)
def _signals():
    """A run that was asked to stop ignores them to the end of its process, which here is not over."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """The demo's data, whole."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    write_digits(folder)
    return folder


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory) -> Path:
    """90 training and 40 validation images."""
    folder = tmp_path_factory.mktemp("data") / "few"
    write_digits(folder)
    for split, keep in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        for label in (folder / split).iterdir():
            for path in sorted(label.iterdir())[keep:]:
                path.unlink()
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests stay in one process, so what waits longest comes first, and the other process does the rest."""
    items.sort(key=lambda item: ("slurm" not in item.path.parts, "end_to_end" not in item.path.parts))
