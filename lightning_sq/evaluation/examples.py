"""A few images kept beside the numbers: clean, noisy, quantized, adversarial."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from lightning_sq.attacks.pgd import BALLS
from lightning_sq.errors import InputError
from lightning_sq.evaluation.found import spread
from lightning_sq.paths import whole_file
from lightning_sq.run_files import EXAMPLES_FILE
from lightning_sq.types import PIXEL_BOUNDS, Norm

NUM_EXAMPLES = 6
ORDER = ("clean", "noisy", "clean, quantized", "adversarial", "perturbation", "adversarial, quantized")


def choose(correct: Sequence[Tensor]) -> list[int]:
    """Images that most models classify right, spread over the set; `correct` holds (N,) bool for each model."""
    right = torch.stack(list(correct)).sum(0)
    return spread(torch.nonzero(right == right.max())[:, 0], NUM_EXAMPLES).tolist()


@dataclass(frozen=True)
class Examples:
    """What the report shows of one model: for each column images (n, C, H, W) and a caption under each image."""

    columns: dict[str, Tensor]
    captions: dict[str, list[str]]


def show(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    adversarial: Tensor,
    quantize: Callable[[Tensor], Tensor] | None,
    *,
    epsilon: float,
    norm: Norm,
    class_names: Sequence[str],
) -> Examples:
    """Run a few images through the model's eyes.

    Args:
        model: Pixels to logits.
        images: Clean images (n, C, H, W) in [0, 1].
        adversarial: What an attack made of them, within `epsilon`.
        quantize: The model's quantizer, if it has one.
        epsilon: Radius of the ball, at a random point of which the noisy images are.
        norm: Of the ball. The perturbation is stretched so that black and white are -epsilon and epsilon, or in L2,
            where no pixel has a bound of its own, the largest change of the image.
        class_names: Of the logits.
    """
    noisy = BALLS[norm].random_start(images, epsilon, list(range(len(images))))
    columns = {"clean": images, "noisy": noisy, "adversarial": adversarial}
    with torch.no_grad():
        captions = {name: [class_names[i] for i in model(x).argmax(1).tolist()] for name, x in columns.items()}
    change = adversarial - images
    largest = change.abs().amax((1, 2, 3), keepdim=True) if norm == "l2" else torch.tensor(epsilon)
    columns["perturbation"] = (change / (2 * largest.clamp(min=1e-9)) + 0.5).clamp(*PIXEL_BOUNDS)
    if quantize is not None:
        columns |= {"clean, quantized": quantize(images), "adversarial, quantized": quantize(adversarial)}
    return Examples({name: columns[name] for name in ORDER if name in columns}, captions)


def save(folder: Path, models: dict[str, Examples]) -> None:
    """8-bit copies of the columns of every model, and their captions."""
    tensors = {
        f"{model}/{column}": (pixels * 255).round().to("cpu", torch.uint8).contiguous()
        for model, shown in models.items()
        for column, pixels in shown.columns.items()
    }
    captions = json.dumps({name: shown.captions for name, shown in models.items()})
    with whole_file(folder / EXAMPLES_FILE) as temporary:  # save_file would make it readable for its owner alone
        temporary.write_bytes(serialize(tensors, metadata={"captions": captions}))


def read(folder: Path) -> dict[str, Examples]:
    """What `save` wrote, model by model; images as uint8.

    Raises: InputError if it is missing or damaged.
    """
    path = folder / EXAMPLES_FILE
    try:
        with safe_open(path, framework="pt") as file:
            captions = json.loads(file.metadata()["captions"])
            keys = set(file.keys())
            return {
                model: Examples({c: file.get_tensor(f"{model}/{c}") for c in ORDER if f"{model}/{c}" in keys}, texts)
                for model, texts in captions.items()
            }
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} is missing or damaged ({type(error).__name__}). Evaluate again.") from error
