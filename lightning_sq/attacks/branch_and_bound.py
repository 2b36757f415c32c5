"""Branch and bound: the box behind the quantizer is cut until every part is proven, or one holds a mistake.

Interval bounds of a part are tighter than those of the whole. Behind a hard quantizer the ball is a finite set of
images, so that cutting ends with the truth instead of a bound on it; how soon is a matter of the network.

Source: Wang et al. 2018 (arXiv 1804.10829), who halve the input whose gradient times width is largest; here a cut goes
between two levels of a pixel, and the pixel is one that helps both halves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sq.attacks.front_end import Quantizer, is_ours, parts_of
from lightning_sq.attacks.interface import Settled, called_by_anybody
from lightning_sq.attacks.quantized_box import preimage
from lightning_sq.errors import InputError
from lightning_sq.ops.interval import Interval, quantized_box
from lightning_sq.ops.precision import full_precision
from lightning_sq.verification.interval_network import margin_bound

FAR = 2.0
"""An image is given up if a bound is so many times what the cuts that are left take away from it, to first order."""
BETTER_HALF = 0.1
"""How much what a cut takes away from the better half counts, beside what it takes from the worse one."""


@dataclass(frozen=True)
class BranchAndBound:
    """Proves that no image of the L-inf ball is misclassified, or finds one that is, or gives up.

    A box is proven if the interval bounds of all z_j - z_y are below 0. In any other the corner to which the largest of
    them grows is tried on the model; then the box is cut in two.

    Args:
        max_boxes: Of one image. Each costs about seven passes of the model.
        boxes_at_a_time: Of all images.
    """

    max_boxes: int = 1000
    boxes_at_a_time: int = 256

    def __post_init__(self) -> None:
        if self.max_boxes < 1 or self.boxes_at_a_time < 1:
            raise InputError(
                f"max_boxes={self.max_boxes} and boxes_at_a_time={self.boxes_at_a_time} have to be at least 1."
            )

    @called_by_anybody
    @full_precision()
    @torch.no_grad()
    def __call__(self, model: Any, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float) -> Settled:
        """See `PGD.__call__`; nothing is random. Raises: InputError for a network without interval bounds.

        Args:
            model: In eval mode: an nn.Module without a quantizer, or what `take_apart` gives.
        """
        quantizer, network = parts_of(model)
        box = quantized_box(images, epsilon, quantizer)
        used = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        found, broken, given_up = images.clone(), used > 0, used > 0
        waiting = [_Boxes(box.lower, box.upper, torch.arange(len(images), device=images.device))]
        while waiting:
            boxes = _last(waiting, self.boxes_at_a_time)
            boxes = boxes.where(~(broken | given_up)[boxes.owners])
            used += boxes.owners.bincount(minlength=len(used))
            boxes, bounds, gains = _not_proven(network, boxes, labels)
            if not len(boxes):
                continue
            corners = torch.where(gains[:, 0] > gains[:, 1], boxes.upper, boxes.lower)
            wrong = network(corners).argmax(1) != labels[boxes.owners]
            at, pixels = boxes.owners[wrong], corners[wrong]
            if quantizer is not None:
                pixels = preimage(quantizer, pixels, images[at], epsilon)
            truly = model(pixels).argmax(1) != labels[at] if len(at) else at.bool()
            found[at[truly]], broken[at[truly]] = pixels[truly], True
            hopeless = ~bounds.isfinite() | (bounds >= FAR * self._reach(gains))
            given_up[boxes.owners[hopeless | (used[boxes.owners] >= self.max_boxes)]] = True
            undecided = ~(broken | given_up)[boxes.owners]
            waiting += _halves(boxes.where(undecided), gains[undecided], quantizer)
        return Settled(found, ~(broken | given_up))

    def _reach(self, gains: Tensor) -> Tensor:
        """(N,): what as many cuts of a box take away as there are boxes for, to first order."""
        best = gains.amax(1).flatten(1)
        depth = max(1, int(math.log2(self.max_boxes)))
        return best.topk(min(depth, best.shape[1])).values.sum(1)


@dataclass
class _Boxes:
    """Parts of boxes behind the quantizer: `lower` and `upper` (N, C, H, W), of the images `owners` (N,)."""

    lower: Tensor
    upper: Tensor
    owners: Tensor

    def __len__(self) -> int:
        return len(self.owners)

    def where(self, rows: Tensor | slice) -> _Boxes:
        """Some of them."""
        return _Boxes(self.lower[rows], self.upper[rows], self.owners[rows])


def _last(waiting: list[_Boxes], count: int) -> _Boxes:
    """Takes so many from the end, which are the smallest: few boxes wait at a time."""
    taken: list[_Boxes] = []
    while waiting and count > 0:
        boxes = waiting.pop()
        if len(boxes) > count:
            waiting.append(boxes.where(slice(None, -count)))
            boxes = boxes.where(slice(-count, None))
        taken.append(boxes)
        count -= len(boxes)
    return _Boxes(*(torch.cat([getattr(one, part.name) for one in taken]) for part in fields(_Boxes)))


def _not_proven(network: nn.Module, boxes: _Boxes, labels: Tensor) -> tuple[_Boxes, Tensor, Tensor]:
    """Those whose bound is not below 0; the bounds (N,), the largest over j of that of z_j - z_y; and (N, 2, C, H, W)
    what they lose, to first order, where a pixel's upper end comes down to its lower one, and where its lower goes up.

    A bound beyond float32, as of a deep network, is infinite or not a number; a loss that is either counts as 0.
    """
    if not len(boxes):
        return boxes, boxes.lower.flatten(), boxes.lower[:, None]
    with torch.enable_grad():
        ends = Interval(*(end.detach().requires_grad_() for end in (boxes.lower, boxes.upper)))
        bounds = margin_bound(network, ends, labels[boxes.owners])
        of_lower, of_upper = torch.autograd.grad(bounds.sum(), ends)
    width, rows = boxes.upper - boxes.lower, ~(bounds < 0)
    gains = torch.stack([of_upper * width, -of_lower * width], 1).nan_to_num(0.0, 0.0, 0.0)
    return boxes.where(rows), bounds.detach()[rows], gains[rows]


def _halves(boxes: _Boxes, gains: Tensor, quantizer: Quantizer | None) -> list[_Boxes]:
    """Each box cut in two at the pixel that takes away most; no list entry without boxes."""
    if not len(boxes):
        return []
    rows = torch.arange(len(boxes), device=boxes.owners.device)
    pixels = (gains.amin(1) + BETTER_HALF * gains.amax(1)).flatten(1).argmax(1)
    lower, upper = boxes.lower.flatten(1).clone(), boxes.upper.flatten(1).clone()
    below, above = _cut(lower[rows, pixels], upper[rows, pixels], quantizer)
    lower[rows, pixels], upper[rows, pixels] = above, below
    return [
        _Boxes(boxes.lower, upper.view_as(boxes.upper), boxes.owners),
        _Boxes(lower.view_as(boxes.lower), boxes.upper, boxes.owners),
    ]


def _cut(lower: Tensor, upper: Tensor, quantizer: Quantizer | None) -> tuple[Tensor, Tensor]:
    """Where the lower half ends and the upper one begins: between two levels, if the quantizer takes only levels."""
    middle = (lower + upper) / 2
    if not (is_ours(quantizer) and quantizer.hard):
        return middle, middle
    num_steps = quantizer.num_levels - 1
    level = torch.floor(middle * num_steps + 1e-3)  # of 0 and 1 in steps of 1/2 it is 1, whatever rounding did
    return level / num_steps, (level + 1) / num_steps
