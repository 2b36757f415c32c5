"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torchvision.transforms.functional import to_pil_image

import lightning_sq
from lightning_sq.models import ModelConfig, QuantizerConfig, build_model
from lightning_sq.models.checkpoint_format import TrainedModel
from lightning_sq.models.release_format import write_release
from tests.conftest import REPOSITORY

SNIPPETS = re.findall(r"^```python\n(.*?)^```$", (REPOSITORY / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def demo(tmp_path, monkeypatch) -> Path:
    """A folder in which `make demo` might have been run."""
    config = ModelConfig("test_resnet", tuple("0123456789"), (0.5,) * 3, (0.25,) * 3, 32, 32, QuantizerConfig(2, 60.0))
    torch.manual_seed(0)
    write_release(tmp_path / "runs/demo/release", TrainedModel(config, build_model(config).state_dict()), "# card\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_python_snippet_of_the_readme_runs_after_the_one_before(demo):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    files = [demo / f"{number}.png" for number in range(2)]
    for image, file in zip(images, files, strict=True):
        to_pil_image(image).save(file)
    space = {"images": images, "files": files, "labels": lightning_sq.load("runs/demo/release")(images).argmax(1)}
    for number, snippet in enumerate(SNIPPETS):
        exec(compile(snippet, f"README.md, snippet {number + 1}", "exec"), space)
    assert len(SNIPPETS) == 4
    assert space["logits"].shape == (2, 10)
    assert torch.allclose(space["images"], images, atol=1 / 255)  # of the size that it takes: nothing is cut off
    assert space["other"](images).shape == (2, 7)
    assert [tuple(one.shape[:2]) for one in space["maps"]] == [(2, 32), (2, 32), (2, 48), (2, 192), (2, 96)]
    assert not hasattr(space["plain"], "config")
    assert space["found"].clean_accuracy == 1.0
    assert 0.0 <= space["found"].robust_accuracy <= 1.0
