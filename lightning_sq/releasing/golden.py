"""Golden logits: what a release gave where it was made, so that it can be seen whether it gives the same elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lightning_sq.errors import InputError
from lightning_sq.models import ModelConfig, PixelClassifier
from lightning_sq.models.release_format import read_release
from lightning_sq.release_files import GOLDEN_FILE, RELEASE_FILES, check_file, read_sums

NUM_IMAGES = 8
TOLERANCE = 1e-4
"""Of the largest logit: what another processor, another number of threads or another version may round."""


@dataclass(frozen=True)
class Parity:
    """How near other logits are to the ones that are right.

    Args:
        num_images: That were compared.
        largest_difference: Of any logit.
        largest_logit: In absolute value.
        same_class: Share of images with the same largest logit, in [0, 1].
    """

    num_images: int
    largest_difference: float
    largest_logit: float
    same_class: float

    @property
    def holds(self) -> bool:
        """Whether the difference is one of rounding; NaN is none, nor is anything from a logit that is infinite."""
        return self.largest_difference <= TOLERANCE * self.largest_logit < math.inf


def compare(logits: Tensor, expected: Tensor) -> Parity:
    """Both (N, classes), float32."""
    if logits.shape != expected.shape or not len(expected):
        raise InputError(f"There are logits of the shape {tuple(logits.shape)} instead of {tuple(expected.shape)}.")
    return Parity(
        len(expected),
        (logits - expected).abs().max().item(),
        expected.abs().max().item(),
        (logits.argmax(1) == expected.argmax(1)).double().mean().item(),
    )


def golden_images(config: ModelConfig) -> Tensor:
    """(8, C, H, W) uint8, the same for ever: half of them noise, half of them slopes of light in many directions.

    8-bit values, because no threshold of evenly spaced levels lies on one.
    """
    shape = (config.num_channels, config.image_size, config.image_size)
    noise = torch.randint(0, 256, (NUM_IMAGES // 2, *shape), generator=torch.Generator().manual_seed(0))
    along = torch.linspace(0, 1, config.image_size)
    mixed = torch.linspace(0, 1, NUM_IMAGES // 2 * shape[0]).view(-1, shape[0], 1, 1)
    slopes = mixed * along[:, None] + (1 - mixed) * along.flip(0)
    return torch.cat([noise, (255 * slopes).round().long()]).to(torch.uint8)


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Of uint8 images, on the device of the model, in float32."""
    return model(images.float() / 255).float()


def check_finite(logits: Tensor) -> None:
    """Raises: InputError for logits that are no numbers."""
    if not logits.isfinite().all():
        raise InputError("The model gives logits that are infinite or NaN: its training has diverged. Train it again.")


def write_golden(folder: Path, model: PixelClassifier) -> None:
    """golden.safetensors in a release folder. Raises: InputError for a model that gives NaN."""
    images = golden_images(model.config)
    logits = logits_of(model, images)
    check_finite(logits)
    (folder / GOLDEN_FILE).write_bytes(save({"images": images, "logits": logits.contiguous()}))


def read_golden(folder: Path) -> tuple[Tensor, Tensor]:
    """(images, logits) in a release folder, which may raise anything: of a stranger's file."""
    golden = load_file(folder / GOLDEN_FILE)
    images, logits = golden["images"], golden["logits"]
    if (images.dtype, logits.dtype) != (torch.uint8, torch.float32):
        raise TypeError(f"{images.dtype} images and {logits.dtype} logits")
    return images, logits


def verify(folder: Path) -> Parity:
    """Load the release and compare its logits with the golden ones, and every file with its checksum.

    Raises: InputError if one of the files that are needed for this is missing, any is altered or was put there later,
        or the logits are others.
    """
    listed = read_sums(folder)
    for name in sorted({GOLDEN_FILE, *(name for name in {*listed, *RELEASE_FILES} if (folder / name).exists())}):
        check_file(folder, name, listed)
    model = read_release(folder).build()
    try:
        images, expected = read_golden(folder)
        found = logits_of(model, images)
    except Exception as error:  # the sums agree, so this was released broken
        raise InputError(f"{folder / GOLDEN_FILE} holds no images of this model ({type(error).__name__}).") from error
    parity = compare(found, expected)
    if not parity.holds:
        raise InputError(
            f"{folder} gives other logits than when it was made: they differ by up to {parity.largest_difference:.3g}. "
            "Report the versions of torch and timm here and in its config.json."
        )
    return parity
