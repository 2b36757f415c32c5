"""A model taken apart at its quantizer: what BPDA and the quantized-box attack stand on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_sq.errors import InputError, one_line
from lightning_sq.layers.soft_quantization import SoftQuantization
from lightning_sq.ops.noise import noise_like
from lightning_sq.ops.random_numbers import random_numbers_kept
from lightning_sq.verification.tracing import kind_of

Quantizer = Callable[[Tensor], Tensor]
"""Elementwise and non-decreasing: pixels to what a network is given in their place, in any unit."""
NUM_GREYS = 256
"""At so many grey values of each pixel a quantizer must not decrease, and at so many more."""
ROUNDING = 1e-6
"""By so much of its largest value a quantizer may decrease, or depend on other pixels."""
SAME_LOGITS = 1e-5
"""Relative to the largest: so far apart float32 may leave the logits of a model and of its parts."""


class Quantized(Protocol):
    """A model that shows its quantizer, if it has one, and what is behind it: a `PixelClassifier`, or `TakenApart`.

    `parts_of` tells one: `isinstance` does not see the parts that a module holds as modules, from Python 3.12 on.
    """

    @property
    def quantizer(self) -> Quantizer | None: ...

    @property
    def network(self) -> Callable[[Tensor], Tensor]: ...

    def with_quantizer(self, quantizer: Quantizer) -> Any: ...


class TakenApart(nn.Module):
    """network(quantizer(x)), in the mode that the network is in: the parts are others', and neither is put into one.

    Args:
        quantizer: Elementwise and non-decreasing: a `SoftQuantization`, or any function with these two properties.
            None where the network stands alone.
        network: From quantized pixels to logits.
    """

    def __init__(self, quantizer: Quantizer | None, network: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.network = network
        self.training = isinstance(network, nn.Module) and network.training

    def with_quantizer(self, quantizer: Quantizer) -> TakenApart:
        """The same network behind another quantizer."""
        return TakenApart(quantizer, self.network)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images if self.quantizer is None else self.quantizer(images))


def is_ours(quantizer: Quantizer | None) -> bool:
    """Whether it is a `SoftQuantization` that does what that does: no subclass with a forward method, and no hooks, of
    its own. Of it levels and thresholds are known; of any other quantizer only what it is seen to do.
    """
    return kind_of(quantizer, (SoftQuantization,)) is not None


def check_shown(model: Any) -> None:
    """Raises: InputError for a model that shows no parts, such as a function."""
    if not _shows_parts(model):
        raise InputError(
            f"The model is a {type(model).__name__} that shows no quantizer. "
            "Give lightning_sq.attacks.TakenApart(quantizer, network)."
        )


def parts_of(model: Any) -> tuple[Quantizer | None, Any]:
    """(its quantizer, the network behind it) of a model that shows both; (None, itself) of any other."""
    return (model.quantizer, model.network) if _shows_parts(model) else (None, model)


def _shows_parts(model: Any) -> bool:
    return all(hasattr(model, name) for name in ("quantizer", "network", "with_quantizer"))


def take_apart(model: Any, images: Tensor, *, quantizer: Quantizer | None = None) -> Quantized | None:
    """The quantizer of `model` and the network behind it, or None where there is no quantizer in front.

    Proofs rest on this. So parts count only if they give the model's logits, on `images` and on noise.

    Args:
        model: Pixels to logits. A `PixelClassifier` shows its parts; in any other nn.Module that holds one
            `SoftQuantization` the layer is looked for, and taken out if the model is nothing but it and what follows.
            A random one is to draw from torch's own random numbers, so that its parts can be made to draw the same.
        images: (B, C, H, W) in [0, 1], a few, on which that is checked.
        quantizer: For a foreign model: its own front end; `model` is then what is behind it.
    Raises: InputError if `quantizer` is not elementwise or decreases somewhere: the attacks on it would prove nothing.
    """
    if quantizer is not None:
        check_quantizer(quantizer, images)
        return TakenApart(quantizer, model)
    for look in (_shown_by, _found_inside):
        apart = look(model)
        if apart is None:
            continue
        # what a foreign model calls its quantizer may be anything, of any signature
        with nullcontext() if is_ours(apart.quantizer) else suppress(Exception):
            if _are_parts(apart, model, images):
                return apart
    return None


def check_quantizer(quantizer: Quantizer, images: Tensor) -> None:
    """Raises: InputError if a quantizer is seen not to be elementwise, or to decrease between some grey values."""
    if not _is_quantizer(quantizer, images):
        raise InputError(
            "The quantizer is not an elementwise, non-decreasing function of the pixels. "
            "Leave quantizer out and give the whole model, with what stands in front: it is attacked as a whole then."
        )


@torch.no_grad()
def _is_quantizer(quantizer: Quantizer, images: Tensor) -> bool:
    return _is_elementwise(quantizer, images) and _is_non_decreasing(quantizer, images)


def _is_elementwise(quantizer: Quantizer, images: Tensor) -> bool:
    """Whether an image put together from the pixels of two becomes what is put together from what the two become."""
    one, other = torch.cat([images, noise_like(images)]), torch.cat([noise_like(images, 1), _greys_like(images)])
    from_one = noise_like(one, 2) < 0.5
    mixed, first, second = quantizer(torch.where(from_one, one, other)), quantizer(one), quantizer(other)
    if not mixed.shape == first.shape == second.shape == one.shape:
        return False
    return bool(((mixed - torch.where(from_one, first, second)).abs() <= ROUNDING * mixed.abs().max()).all())


def _is_non_decreasing(quantizer: Quantizer, images: Tensor) -> bool:
    """At the 8-bit greys, and at others of each pixel's own, which lie at all distances from each other: a dip may be
    narrow, or the same between any two 8-bit greys.
    """
    like = images[:1].expand(NUM_GREYS, -1, -1, -1)
    alike = torch.linspace(0, 1, NUM_GREYS, device=images.device, dtype=torch.float32).view(-1, 1, 1, 1)
    of_each_pixel = noise_like(like).pow(3).cumsum(0)
    for greys in (alike.expand_as(like).contiguous(), of_each_pixel / of_each_pixel[-1:]):
        values = quantizer(greys)
        if (values.diff(dim=0) < -ROUNDING * values.abs().max()).any():
            return False
    return True


def _shown_by(model: Any) -> Quantized | None:
    if not (callable(getattr(model, "quantizer", None)) and callable(getattr(model, "network", None))):
        return None
    return TakenApart(model.quantizer, model.network)  # its network once, whose graph is kept: a model may make it anew


def _found_inside(model: Any) -> TakenApart | None:
    modules = model.named_modules() if isinstance(model, nn.Module) else ()
    names = [name for name, module in modules if isinstance(module, SoftQuantization)]
    if len(names) != 1 or not names[0]:
        return None
    network = _same_weights(model)
    network.set_submodule(names[0], nn.Identity())
    return TakenApart(model.get_submodule(names[0]), network)


def _same_weights(model: nn.Module) -> nn.Module:
    """New modules around the tensors of `model`. Raises: InputError if it cannot be copied."""
    plain = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers(), *plain)}
    try:
        return copy.deepcopy(model, shared)
    except (RuntimeError, TypeError) as error:  # of a list of tensors with a graph, of a lock
        raise InputError(
            f"The model has a quantizer inside, and cannot be copied to take it out ({one_line(error)}). "
            "Give the quantizer as quantizer=, and as the model what is behind it."
        ) from error


@torch.no_grad()
def _are_parts(apart: Quantized, model: Any, images: Tensor) -> bool:
    """Whether the quantizer is one, and the parts give the logits of `model` up to float32 rounding."""
    quantizer = apart.quantizer
    if not is_ours(quantizer) and not _is_quantizer(quantizer, images):
        return False
    for some in (images, noise_like(images)):
        whole = _with_the_same_draws(model, some)
        of_parts = _with_the_same_draws(lambda x: apart.network(quantizer(x)), some)
        if whole.shape != of_parts.shape:
            return False
        if not (whole - of_parts).abs().max() <= SAME_LOGITS * whole.abs().max():  # nor where one is no number
            return False
    return True


def _with_the_same_draws(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with random_numbers_kept(images.device, seed=0):
        return function(images)


def _greys_like(images: Tensor) -> Tensor:
    """Images of one grey value each, at random."""
    return noise_like(images[:, :1, :1, :1]).expand_as(images)
