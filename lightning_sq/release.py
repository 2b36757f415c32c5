"""Trained weights for others: `load` them in one line, `export` them from a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_sq.errors import InputError
from lightning_sq.models import ModelConfig, PixelClassifier, QuantizerConfig, backbone, build_model
from lightning_sq.models.checkpoint_format import TrainedModel, read_checkpoint
from lightning_sq.models.release_format import read_release, write_release

PRIVATE_KEYS = frozenset(
    {"root", "checkpoint_path", "output", "overwrite", "resume", "ckpt_path", "default_root_dir", "dirpath", "save_dir"}
)


def load(source: str | Path) -> PixelClassifier:
    """A trained model in eval mode: images (B, C, H, W) in [0, 1] in, logits (B, classes) out.

    Args:
        source: A release folder; a Lightning checkpoint that `lightning-sq fit` wrote; or an undefended ImageNet-1k
            model of timm, `timm:resnet50` (downloaded by timm) or `timm:resnet50@weights.safetensors`.
    Raises: InputError if it is missing, damaged, or something else. Nothing that the file contains is run.
    Example:
        >>> model = lightning_sq.load("runs/demo/release")        # doctest: +SKIP
        >>> model(images).argmax(1)                               # doctest: +SKIP
    """
    return read_trained(source).build()


def read_trained(source: str | Path) -> TrainedModel:
    """Weights and description of anything that `load` takes."""
    if str(source).startswith("timm:"):
        return _timm_model(str(source).removeprefix("timm:"))
    path = Path(source)
    if path.is_dir():
        return read_release(path)
    if not path.exists():
        raise InputError(
            f"There is no model at {path}. Give a release folder, a .ckpt of lightning-sq fit, or timm:NAME."
        )
    return read_checkpoint(path)


def _timm_model(text: str) -> TrainedModel:
    architecture, _, file = text.partition("@")
    mean, std = backbone.pretrained_normalization(architecture)
    image_size, resize_size = backbone.evaluation_sizes(architecture)
    names = backbone.imagenet_class_names(1000)
    config = ModelConfig(architecture, names, mean, std, image_size, resize_size)
    model = build_model(config)
    state = backbone.file_state(Path(file)) if file else backbone.pretrained_state(architecture)
    backbone.load_backbone(model.backbone, state, source=file or f"timm's {architecture}")
    return TrainedModel(config, model.state_dict())


def export(checkpoint: Path, folder: Path, *, overwrite: bool = False) -> None:
    """Write a release of the model in `checkpoint`.

    Raises: InputError if the checkpoint cannot be read or `folder` is in the way.
    """
    trained = read_checkpoint(checkpoint)
    trained.build()  # refuses weights that do not fit, before anything is written
    recipe = without_paths(trained.training["recipe"])
    trained = replace(trained, training=trained.training | {"recipe": recipe})
    write_release(folder, trained, model_card(trained), overwrite=overwrite)


def without_paths(recipe: Any) -> Any:
    """`recipe` without what says where things lie on the disk of whoever trained, and without how it was started."""
    if isinstance(recipe, dict):
        return {key: without_paths(value) for key, value in recipe.items() if key not in PRIVATE_KEYS}
    if isinstance(recipe, list):
        return [without_paths(value) for value in recipe]
    return Path(recipe).name if isinstance(recipe, str) and recipe.startswith(("/", "~", "./", "../")) else recipe


def _in_words(quantizer: QuantizerConfig) -> str:
    form = "hard" if quantizer.hard else f"sharpness {quantizer.sharpness:g}, {quantizer.staircase} staircase"
    given = "" if quantizer.thresholds is None else ", thresholds of its own (see config.json)"
    return f"{quantizer.num_levels} levels, {form}{given}"


def _duration(training: dict[str, Any]) -> str:
    epochs, steps = training.get("epochs"), training.get("steps")
    return f"{'?' if epochs is None else format(epochs, '.4g')} epochs, {'?' if steps is None else steps} steps"


def model_card(trained: TrainedModel) -> str:
    """README.md of a release, in the Hub's format; numbers stand only where a run measured them."""
    config, quantizer = trained.config, trained.config.quantizer
    front = "none" if quantizer is None else _in_words(quantizer)
    colour = "RGB" if config.num_channels == 3 else "grey"
    recipe = json.dumps(trained.training.get("recipe", {}), indent=2)
    return f"""---
library_name: lightning_sq
pipeline_tag: image-classification
tags: [adversarial-robustness, soft-quantization, timm]
---

# {config.architecture} with soft quantization: {front}

| | |
| --- | --- |
| architecture | timm `{config.architecture}`, {len(config.class_names)} classes |
| soft quantization | {front} |
| input | {colour} pixels in [0, 1], {config.image_size} x {config.image_size}; the caller normalises nothing |
| preprocessing | shorter side to {config.resize_size} (bilinear, antialiased), centre crop of {config.image_size} |
| trained | {_duration(trained.training)} |

## Use

```python
import lightning_sq

model = lightning_sq.load("PATH/TO/THIS/FOLDER")
logits = model(images)  # (B, {config.num_channels}, {config.image_size}, {config.image_size}) in [0, 1]
```

## Robustness

Not stated here. Measure it: `lightning-sq evaluate PATH/TO/THIS/FOLDER --data DATA --epsilon 8/255 --output
ROBUSTNESS`. A quantizer hides gradients, so an accuracy under plain PGD alone says nothing.

## Training recipe

```json
{recipe}
```
"""
