"""What a few images tell of a model before anything is attacked: its parts, its classes, and which attacks apply."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_sq.attacks import TakenApart, take_apart
from lightning_sq.attacks.front_end import Quantized, Quantizer
from lightning_sq.attacks.interface import Model
from lightning_sq.errors import InputError
from lightning_sq.evaluation import inputs
from lightning_sq.evaluation.certify import has_bounds, has_program
from lightning_sq.evaluation.identity import THE_MODEL
from lightning_sq.evaluation.suites import SuiteEntry
from lightning_sq.ops.noise import noise_like
from lightning_sq.types import Norm


@dataclass(frozen=True)
class FirstLook:
    """What is known of a model.

    Args:
        images: (B, C, H, W) that were looked at.
        whole: Pixels to logits, a front end that was given included.
        sources: Other models, by name.
        apart: Its parts; the model alone behind nothing where no quantizer was found.
        said: The logits (B, classes) of the model, by the name `THE_MODEL`, and of the others.
        bounded: Whether interval bounds prove something of it in this norm.
    """

    images: Tensor
    whole: Model
    sources: dict[str, Model]
    apart: Quantized
    said: dict[str, Tensor]
    bounded: bool

    @property
    def num_classes(self) -> int:
        """Of the model, and of the others."""
        return self.said[THE_MODEL].shape[1]

    def said_of_noise(self) -> dict[str, Tensor]:
        """What the models say of a few images of noise, like `said`: two may say the same of all natural images."""
        noise = noise_like(self.images[:4])
        of_sources = inputs.logits_of_sources(self.sources, noise, self.num_classes)
        return {THE_MODEL: inputs.logits_of(self.whole, noise), **of_sources}

    def that_apply(self, entries: dict[str, SuiteEntry]) -> tuple[dict[str, SuiteEntry], dict[str, str]]:
        """(the attacks that can be run, why the others cannot). Raises: InputError if none can."""
        known = {
            "quantized": self.apart.quantizer is not None,
            "bounded": self.bounded,
            "programmable": self.bounded and has_program(self.apart),
            "num_classes": self.num_classes,
            "height": self.images.shape[2],
            "width": self.images.shape[3],
        }
        reasons = {name: entry.why_not(**known) for name, entry in entries.items()}
        skipped = {name: why for name, why in reasons.items() if why is not None}
        if len(skipped) == len(entries):
            raise InputError(f"No attack is left: {next(iter(skipped.values()))}. Add pgd to the attacks.")
        return {name: entry for name, entry in entries.items() if name not in skipped}, skipped


def look_at(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    quantizer: Quantizer | None,
    sources: dict[str, Model],
    norm: Norm,
) -> FirstLook:
    """Ask the model, and those that lend images, about a few images.

    Args:
        model: Pixels to logits; of a foreign one what is behind `quantizer`.
        images: (B, C, H, W) in [0, 1], on its device.
        labels: (N,) of all images.
        quantizer: Front end of a foreign model.
        sources: Other models, by name.
        norm: Of the ball.
    Raises: InputError for a model that gives no logits, for labels that are no classes of it, and for a source over
        other classes.
    """
    if quantizer is None:
        whole, logits = model, inputs.logits_of(model, images)  # first, so that a model that gives none is told why
        apart = take_apart(model, images) or TakenApart(None, model)
    else:
        whole = apart = take_apart(model, images, quantizer=quantizer)
        logits = inputs.logits_of(whole, images)
    inputs.check_labels(labels, logits.shape[1])
    of_sources = inputs.logits_of_sources(sources, images, logits.shape[1])
    bounded = norm == "linf" and has_bounds(apart, images)
    return FirstLook(images, whole, sources, apart, {THE_MODEL: logits, **of_sources}, bounded)
