"""A server, a cache of its own for each test, and a small release."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lightning_sq
from lightning_sq.hub import download
from lightning_sq.hub.registry import INDEX_VARIABLE, RegistryEntry
from lightning_sq.models import ModelConfig, QuantizerConfig, build_model
from lightning_sq.models.checkpoint_format import TrainedModel
from lightning_sq.models.release_format import write_release
from lightning_sq.paths import sha256
from lightning_sq.releasing.golden import write_golden
from tests.hub.server import Server, serving

CONFIG = ModelConfig(
    "test_resnet", ("cat", "dog", "owl"), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), 32, 36, QuantizerConfig(4, 60.0)
)
NAME = "test_resnet.sq_pets"
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def server():
    with serving() as found:
        yield found


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    """No pauses between tries, and nothing in the cache."""
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setenv("LIGHTNING_SQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(INDEX_VARIABLE, raising=False)


@pytest.fixture(scope="session")
def release(tmp_path_factory) -> Path:
    """A release of an untrained network."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("release") / "pets"
    write_release(folder, TrainedModel(CONFIG, build_model(CONFIG).state_dict(), {"epochs": 3.0}), "# card\n")
    return folder


@pytest.fixture
def whole(release, tmp_path) -> Path:
    """The release with golden logits, as the command wants it."""
    model = lightning_sq.load(release)
    (tmp_path / "beside").mkdir()
    write_golden(tmp_path / "beside", model)
    trained = TrainedModel(model.config, model.state_dict())
    write_release(tmp_path / "whole", trained, "# card\n", beside=tmp_path / "beside")
    return tmp_path / "whole"


@pytest.fixture
def entry(server, release) -> RegistryEntry:
    """Its entry in a registry, and its files on the server."""
    put(server, release, "pets/")
    return RegistryEntry(NAME, f"{server.url}pets/", sha256(release / "SHA256SUMS"), 3, (3, 32, 32))


@pytest.fixture
def index(entry, tmp_path, monkeypatch) -> Path:
    """A list with that entry, which $LIGHTNING_SQ_INDEX names."""
    path = tmp_path / "index.toml"
    path.write_text(entry.as_toml())
    monkeypatch.setenv(INDEX_VARIABLE, str(path))
    return path


def put(server: Server, folder: Path, prefix: str) -> None:
    server.files |= {prefix + path.name: path.read_bytes() for path in folder.iterdir()}
