"""What an attack gives that can prove as well."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Settled(NamedTuple):
    """What an attack found that can prove as well.

    Args:
        images: Adversarial ones where it found some, else as they were: (B, C, H, W) in [0, 1].
        proven: (B,) bool: there are none within epsilon, up to float32 rounding.
    """

    images: Tensor
    proven: Tensor
