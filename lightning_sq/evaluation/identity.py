"""By what kept verdicts are known again: the model, the images, and the attacks with whatever they depend on."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from lightning_sq import __version__
from lightning_sq.attacks.front_end import Quantizer
from lightning_sq.attacks.interface import Model
from lightning_sq.evaluation.description import (
    PLAIN,
    beside_weights,
    described,
    is_installed,
    made_of,
    weights_of,
)
from lightning_sq.evaluation.store import LOGITS, LOGITS_OF_NOISE

THE_MODEL = "the model"
"""Beside the names of those that lend images."""


def identity_of(
    model: Model,
    quantizer: Quantizer | None,
    images: Tensor,
    labels: Tensor,
    sources: dict[str, Model],
    logits: dict[str, Tensor],
    of_noise: dict[str, Tensor],
) -> dict[str, Any]:
    """What kept verdicts are about, and by which code.

    Args:
        quantizer: That the caller gave.
        sources: Other models, by name.
        logits: What each model says of a few images.
        of_noise: The same of as many images of noise.
    """
    models = {THE_MODEL: model, **sources}
    return {
        "lightning_sq": __version__,
        "torch": torch.__version__,
        "packages": packages(),
        "model": weights_of(model),
        "beside_weights": {name: beside_weights(one) for name, one in models.items()}
        | {"quantizer": None if quantizer is None else described(quantizer)},
        "made_of": {name: made_of(one) for name, one in models.items()},
        "images": hashlib.sha256(images.cpu().contiguous().numpy()).hexdigest(),
        "labels": hashlib.sha256(labels.cpu().contiguous().numpy()).hexdigest(),
        "transfer_from": {name: weights_of(other) for name, other in sources.items()},
        LOGITS: {name: few[:4].tolist() for name, few in logits.items()},
        LOGITS_OF_NOISE: {name: few.tolist() for name, few in of_noise.items()},
    }


def packages() -> dict[str, str]:
    """Of others' attacks and proofs, name -> version; what is not installed is left out."""
    found = {}
    for name in ("pyautoattack", "highspy"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def lenders_in(attack: Any) -> list[str]:
    """The models inside an attack, whose images it takes: `parameters_of` leaves them out, which names attacks for
    people. Those of `transfer_from` are known by their names.
    """
    if not is_dataclass(attack):
        return []
    values = {field.name: getattr(attack, field.name) for field in fields(attack)}
    own = [described(values.pop("source"))] if "source" in values else []
    return own + [lender for value in values.values() for lender in lenders_in(value)]


def parameters_of(attack: Any) -> dict[str, Any]:
    """Every parameter of an attack, as it stands in results.json; of one that is not ours a digest of its code and of
    all that it holds: two functions of one name are two attacks.
    """
    if is_dataclass(attack):
        values = {field.name: getattr(attack, field.name) for field in fields(attack) if field.name != "source"}
        own = {} if is_installed(type(attack).__module__) else {"code": described(type(attack))}
        return {"kind": type(attack).__name__} | own | {name: _parameter(value) for name, value in values.items()}
    return {"kind": getattr(attack, "__qualname__", type(attack).__name__), "described": described(attack)}


def _parameter(value: Any) -> Any:
    if isinstance(value, PLAIN):
        return value
    return parameters_of(value) if is_dataclass(value) or callable(value) else described(value)
