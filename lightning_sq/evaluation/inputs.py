"""What `evaluate` is given: made into what it works on, or refused in one sentence before anything is attacked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_sq.attacks.autoattack import AutoAttackStage, load_package
from lightning_sq.errors import InputError
from lightning_sq.evaluation.suites import SuiteEntry, attacks_by_name, norms_of, parts
from lightning_sq.ops.pixels import check_pixels
from lightning_sq.ops.random_numbers import random_numbers_kept
from lightning_sq.types import PIXEL_BOUNDS, Norm, parse_epsilon
from lightning_sq.words import counted


def epsilons_in(
    epsilon: float | str | Sequence[float | str], curve: Sequence[float], norm: Norm
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(the budgets, the budgets and further points of the curve), ascending. A point that equals a budget up to
    rounding is left out.

    Raises: InputError for no budget.
    """
    budgets = _numbers_in(epsilon, norm)
    if not budgets:
        raise InputError("epsilon is empty. Give a budget, such as 8/255.")
    further = {point for point in _numbers_in(curve, norm) if not any(math.isclose(point, one) for one in budgets)}
    return tuple(sorted(budgets)), tuple(sorted(budgets | further))


def _numbers_in(given: float | str | Sequence[float | str], norm: Norm) -> set[float]:
    if hasattr(given, "tolist"):  # of torch and of NumPy
        given = given.tolist()
    values = [given] if isinstance(given, (str, Real)) or given is None else list(given)
    return {parse_epsilon(value, norm=norm) for value in values}


def drawn(num_images: int, count: int, seed: int) -> np.ndarray:
    """(n,) ascending numbers of `count` of the images, drawn at random, or all if there are no more. Of one seed, those
    that a smaller `count` draws are among them.
    """
    return np.sort(np.random.default_rng(seed).permutation(num_images)[:count])


def images_in(images: Tensor) -> Tensor:
    """Float32 pixels without a graph; a copy where rounding left some a little outside [0, 1].

    Raises: InputError if they are not (N, C, H, W) numbers in [0, 1], or there are none.
    """
    if not isinstance(images, Tensor):
        raise InputError(f"The images are a {type(images).__name__}. Give a tensor (N, C, H, W) of pixels in [0, 1].")
    check_pixels(images, "the images to evaluate on")
    if images.ndim != 4 or len(images) == 0:
        raise InputError(f"The images have the shape {tuple(images.shape)}. Give (N, C, H, W), at least one image.")
    images = images.detach().float().contiguous()  # pyautoattack takes views
    low, high = (value.item() for value in images.aminmax())
    return images if PIXEL_BOUNDS[0] <= low and high <= PIXEL_BOUNDS[1] else images.clamp(*PIXEL_BOUNDS)


def labels_in(labels: Tensor, num_images: int) -> Tensor:
    """(N,) int64. Raises: InputError if they are not one whole number for each image."""
    if not isinstance(labels, Tensor):
        raise InputError(f"The labels are a {type(labels).__name__}. Give a tensor of class numbers, (N,) int64.")
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(
            f"The labels are {labels.dtype} of the shape {tuple(labels.shape)}. Give class numbers, (N,) int64; "
            "of one-hot rows their argmax(1)."
        )
    if len(labels) != num_images:
        raise InputError(
            f"There are {counted(num_images, 'image')} and {counted(len(labels), 'label')}. Give one label for each "
            "image."
        )
    return labels.long()


def attacks_in(attacks: str | Sequence[str] | dict[str, SuiteEntry], norm: Norm) -> dict[str, SuiteEntry]:
    """By name.

    Raises: InputError for none, for what is no entry, for one of another norm, and where a package is not installed.
    """
    if not isinstance(attacks, dict):
        names = list(attacks) if isinstance(attacks, Iterable) and not isinstance(attacks, str) else [attacks]
        if other := next((name for name in names if not isinstance(name, str)), None):
            kind = type(other).__name__
            raise InputError(
                f"attacks holds a {kind}, which has no name. Give it one: attacks={{'mine': "
                f"lightning_sq.evaluation.SuiteEntry('its title', {kind}(...), 'plain')}}."
            )
        found = attacks_by_name(names, norm)
    else:
        found = dict(attacks)
        if not found:
            raise InputError("No attack is given. Name a suite, such as attacks='quick'.")
        for name, entry in found.items():
            if not isinstance(entry, SuiteEntry):
                raise InputError(
                    f"The attack {name!r} is a {type(entry).__name__}. Wrap it: "
                    "lightning_sq.evaluation.SuiteEntry('its title', attack, 'plain')."
                )
    for name, entry in found.items():
        if any(norm not in norms_of(part) for part in parts(entry.attack)):
            raise InputError(f"The attack {name!r} does not stay in the {norm} ball. Give one of norm={norm!r}.")
    if any(isinstance(part, AutoAttackStage) for entry in found.values() for part in parts(entry.attack)):
        load_package()
    return found


def check_models(model: Any, transfer_from: Any) -> None:
    """Raises: InputError for what is no function, and for other models that have no names."""
    if not (transfer_from is None or isinstance(transfer_from, dict)):
        kind = type(transfer_from).__name__
        raise InputError(f"transfer_from is a {kind}. Give models by name: transfer_from={{'other': model}}.")
    for what, one in {
        "The model": model,
        **{f"transfer_from {k!r}": m for k, m in (transfer_from or {}).items()},
    }.items():
        if not callable(one):
            named = "lightning_sq.load(...)" if isinstance(one, (str, Path)) else "a function from pixels to logits"
            raise InputError(f"{what} is a {type(one).__name__}, and no model. Give {named}.")


def check_size(batch_size: int) -> None:
    """Raises: InputError if it is not a whole number of at least 1."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size={batch_size} is not a whole number of at least 1. 128 is usual.")


def check_weights(models: Iterable[Any]) -> None:
    """Raises: InputError for a model through whose weights no gradient can go, because of where they were made."""
    modules = [model for model in models if isinstance(model, nn.Module)]
    if any(weight.is_inference() for module in modules for weight in module.parameters()):
        raise InputError(
            "The model was made inside torch.inference_mode, and no gradient goes through it. Make it outside."
        )


@torch.no_grad()
def logits_of(model: Callable[[Tensor], Tensor], images: Tensor, who: str = "the model") -> Tensor:
    """(B, classes) of a few images.

    Raises: InputError if `model` gives something else, takes no float32, or writes into the images it is given.
    """
    given = images.clone()
    try:
        with random_numbers_kept(images.device, 0):  # so that a random model says the same when it is started again
            logits = model(given)
    except RuntimeError as error:
        weights = model.parameters() if isinstance(model, nn.Module) else ()
        if others := sorted({str(w.dtype) for w in weights if w.is_floating_point()} - {str(torch.float32)}):
            raise InputError(
                f"{who[0].upper()}{who[1:]} has weights in {others[0]} and takes no float32 images, in which an "
                "adversarial image is judged. Write model.float(), or wrap it in a function that converts."
            ) from error
        raise
    if not torch.equal(given, images):
        raise InputError(f"{who[0].upper()}{who[1:]} writes into its images. Write (x - mean), and not x.sub_(mean).")
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        what = f"the shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise InputError(
            f"{who[0].upper()}{who[1:]} gives {what} for {counted(len(images), 'image')}. Wrap it in a function that "
            "gives logits, (B, classes)."
        )
    return logits


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Raises: InputError for one that is no class, and for a model with one logit, which knows no other class."""
    if num_classes == 1:
        raise InputError(
            "The model gives one logit z, and an attack needs one for each class. Wrap it in a function that gives "
            "torch.cat([-z, z], 1), over the labels 0 and 1."
        )
    low, high = (value.item() for value in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise InputError(
            f"The labels go from {low} to {high}, and the model has {num_classes} classes: give labels from 0 to "
            f"{num_classes - 1}."
        )


def logits_of_sources(
    sources: dict[str, Callable[[Tensor], Tensor]], images: Tensor, num_classes: int
) -> dict[str, Tensor]:
    """What each says of the images. Raises: InputError for one that has not the same number of classes."""
    found = {name: logits_of(source, images, f"transfer_from {name!r}") for name, source in sources.items()}
    for name, logits in found.items():
        if logits.shape[1] != num_classes:
            raise InputError(
                f"transfer_from {name!r} has {logits.shape[1]} classes, and the model {num_classes}. Leave it out, or "
                "give one over the same classes."
            )
    return found
