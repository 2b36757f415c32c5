"""The quantized-box attack: behind an elementwise monotone quantizer the ball is a box, and there nothing is hidden.

Q is elementwise and does not decrease, so it maps the eps-ball around x exactly onto the box from Q(clip(x - eps)) to
Q(clip(x + eps)). The attack looks for the worst point of that box for the network behind the quantizer, whose gradient
no staircase can mask, and maps it back to pixels by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_sq.attacks.autoattack import AutoAttackStage
from lightning_sq.attacks.front_end import Quantized, Quantizer, TakenApart, check_shown, is_ours
from lightning_sq.attacks.interface import Attack, called_by_anybody
from lightning_sq.attacks.levels import levels_of_each_channel, nearest_level, to_reachable
from lightning_sq.errors import InputError
from lightning_sq.layers.soft_quantization import SoftQuantization
from lightning_sq.ops.interval import quantized_box
from lightning_sq.ops.smallest import SMALLEST
from lightning_sq.types import PIXEL_BOUNDS

BISECTIONS = 30
"""Halvings of an interval of at most 1: float32 resolves no more."""


@dataclass(frozen=True)
class QuantizedBox:
    """Another attack, over t in [0, 1]^n with the network's input Q_low + t (Q_high - Q_low), in a ball of radius 1.

    Args:
        attack: An L-inf attack on pixels in [0, 1] that knows `attacks.interface`: `PGD`, `GreedyFlips`, `Square`.
    """

    attack: Attack

    def __post_init__(self) -> None:
        if isinstance(self.attack, AutoAttackStage):
            raise InputError("AutoAttack's stages know no boxes of their own for each image. Give PGD, or Square.")
        if getattr(self.attack, "norm", "linf") != "linf":
            raise InputError("The box is an L-inf ball, and the attack in it one in L2. Give one with norm='linf'.")

    @called_by_anybody
    def __call__(
        self, model: Quantized, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float
    ) -> Tensor:
        """Adversarial images within epsilon, like `images`: (B, C, H, W) in [0, 1].

        Args:
            model: Shows its `quantizer` and the `network` behind it, as `PixelClassifier` does.
            images: (B, C, H, W) in [0, 1].
            labels: (B,) int64.
            seeds: One for each image.
            epsilon: Radius of the ball in pixels.
        Raises: InputError for a model that shows no quantizer.
        """
        check_shown(model)
        model = _without_rounding(model, images)
        quantizer = model.quantizer
        with torch.no_grad():
            inside = InsideBox.around(model, images, epsilon)
            from_below = (quantizer(images) - inside.lower) / inside.width.clamp(min=SMALLEST)
            start = torch.where(inside.width > 0, from_below, 0.0).clamp(0, 1)
        worst = self.attack(inside, start, labels, seeds, 1.0)
        with torch.no_grad():
            return preimage(quantizer, inside.values(worst), images, epsilon)


@dataclass(frozen=True)
class InsideBox:
    """t in [0, 1]^n to the logits of what stands there in each image's box.

    Args:
        lower: Q_low, (B, C, H, W).
        width: Q_high - Q_low, alike.
        reachable: Values to values that the quantizer takes.
        network: What is behind the quantizer.
    """

    lower: Tensor
    width: Tensor
    reachable: Quantizer
    network: Callable[[Tensor], Tensor]

    @classmethod
    def around(cls, model: Quantized, images: Tensor, epsilon: float | Tensor) -> InsideBox:
        """The box of the ball of radius epsilon around each image (B, C, H, W) in [0, 1]."""
        lower, upper = quantized_box(images, epsilon, model.quantizer)
        return cls(lower, upper - lower, nearest_reachable(model.quantizer, images), model.network)

    def values(self, t: Tensor) -> Tensor:
        """Quantized pixels (B, C, H, W)."""
        return self.reachable(self.lower + t * self.width)

    def __call__(self, t: Tensor) -> Tensor:
        return self.network(self.values(t))

    def for_rows(self, rows: Tensor) -> InsideBox:
        """The boxes of some of the images; see `attacks.interface`."""
        return replace(self, lower=self.lower[rows], width=self.width[rows])


def nearest_reachable(quantizer: Quantizer, images: Tensor) -> Quantizer:
    """Values in the box to values that the quantizer takes, straight through: a hard one takes only its levels."""
    if is_ours(quantizer):
        if not quantizer.hard:
            return torch.nn.Identity()
        return SoftQuantization(quantizer.num_levels, hard=True, backward="identity")  # wherever its thresholds are
    return to_reachable(quantizer, images) or torch.nn.Identity()


def _without_rounding(model: Quantized, images: Tensor) -> Quantized:
    """A hard quantizer that is not ours takes its levels exactly: else the bisection in `preimage` would miss them."""
    quantizer = model.quantizer
    levels = None if is_ours(quantizer) else levels_of_each_channel(quantizer, images)
    return model if levels is None else TakenApart(lambda x: nearest_level(levels, quantizer(x)), model.network)


def preimage(quantizer: Callable[[Tensor], Tensor], values: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """The pixels nearest to `images` that the quantizer takes to `values`, or just past them, within epsilon.

    Args:
        quantizer: Elementwise, non-decreasing.
        values: In [Q(clip(x - eps)), Q(clip(x + eps))], like `images`.
        images: (B, C, H, W) in [0, 1].
        epsilon: Radius of the ball.
    """
    here = quantizer(images)
    rises = values >= here
    ends = torch.where(rises, images + epsilon, images - epsilon).clamp(*PIXEL_BOUNDS)
    near, far = images, ends  # the quantizer reaches the value at `far`, perhaps before
    for _ in range(BISECTIONS):
        middle = (near + far) / 2
        found = quantizer(middle)
        reached = torch.where(rises, found >= values, found <= values)
        near, far = torch.where(reached, near, middle), torch.where(reached, middle, far)
    return torch.where(values == here, images, far)
