"""A few images kept beside the numbers: clean, noisy, quantized, adversarial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_sq.errors import InputError
from lightning_sq.evaluation.runner import Evaluation
from lightning_sq.ops.noise import draw_for_each, uniform_noise
from lightning_sq.types import PIXEL_BOUNDS

FILE = "examples.safetensors"
NUM_EXAMPLES = 6


def choose(evaluations: list[Evaluation]) -> list[int]:
    """Images that most models classify right, spread over the set."""
    right = torch.stack([e.correct for e in evaluations]).sum(0)
    best = torch.nonzero(right == right.max())[:, 0]
    spread = torch.linspace(0, len(best) - 1, min(NUM_EXAMPLES, len(best))).round().long()
    return best[spread].tolist()


def columns(
    images: Tensor, adversarial: Tensor, quantize: Callable[[Tensor], Tensor] | None, *, epsilon: float
) -> dict[str, Tensor]:
    """What the report shows of one model, column by column, each (n, C, H, W) in [0, 1].

    Args:
        images: Clean images (n, C, H, W).
        adversarial: What an attack made of them, within `epsilon`.
        quantize: The model's quantizer, if it has one.
        epsilon: Size of the noise shown; the perturbation is stretched so that +-epsilon is black and white.
    """
    noise = draw_for_each(images, range(len(images)), lambda x, g: uniform_noise(x, epsilon=epsilon, generator=g))
    shown = {"clean": images, "noisy": (images + noise).clamp(*PIXEL_BOUNDS)}
    if quantize is not None:
        shown["quantized"] = quantize(images)
    shown["adversarial"] = adversarial
    shown["perturbation"] = ((adversarial - images) / (2 * max(epsilon, 1e-9)) + 0.5).clamp(*PIXEL_BOUNDS)
    if quantize is not None:
        shown["adversarial, quantized"] = quantize(adversarial)
    return shown


def save(folder: Path, models: dict[str, dict[str, Tensor]]) -> None:
    """8-bit copies of the columns of every model."""
    tensors = {
        f"{model}/{column}": (pixels * 255).round().to(torch.uint8).contiguous()
        for model, shown in models.items()
        for column, pixels in shown.items()
    }
    save_file(tensors, folder / FILE)


def read(folder: Path) -> dict[str, dict[str, Tensor]]:
    """What `save` wrote: model -> column -> (n, C, H, W) uint8."""
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"There is no {path}. Evaluate again.")
    models: dict[str, dict[str, Tensor]] = {}
    for key, pixels in load_file(path).items():
        model, column = key.split("/", 1)
        models.setdefault(model, {})[column] = pixels
    return models
