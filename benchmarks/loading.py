"""How long does `lightning_sq.load` take for a release that is on disk, after the imports?

    python benchmarks/loading.py

To be reached: a ResNet-50 in less than 2 s. Beside it stands what timm and torch alone take for the same weights, with
no check of what is in the file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
import torch
from common.harness import Row, report, seconds_of
from safetensors.torch import load_file, save_file

import lightning_sq
from lightning_sq.models import ModelConfig, QuantizerConfig, build_model
from lightning_sq.models.checkpoint_format import TrainedModel
from lightning_sq.models.release_format import write_release

TO_REACH = 2.0


def candidates(architecture: str, folder: Path) -> dict[str, object]:
    """A release and the plain weights of the same network, written to `folder`; what reads each."""
    names = tuple(f"class {number}" for number in range(1000))
    config = ModelConfig(
        architecture, names, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224, 256, QuantizerConfig(16)
    )
    torch.manual_seed(0)
    model = build_model(config)
    write_release(folder / "release", TrainedModel(config, model.state_dict()), "# of a benchmark\n")
    save_file(model.backbone.state_dict(), folder / "plain.safetensors")

    def plain() -> None:
        timm.create_model(architecture).load_state_dict(load_file(folder / "plain.safetensors"))

    return {"lightning_sq.load": lambda: lightning_sq.load(folder / "release"), "timm and torch": plain}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="resnet50")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        seconds = seconds_of(candidates(options.architecture, Path(temporary)), rounds=options.rounds)
    ours, theirs = seconds.values()
    rows = [
        Row(f"lightning_sq.load of a {options.architecture}", ours, "s", f"< {TO_REACH:g} s", ours < TO_REACH),
        Row("timm and torch, unchecked", theirs, "s"),
    ]
    report("loading", rows, skipped=[], settings=vars(options), on="cpu")


if __name__ == "__main__":
    main()
