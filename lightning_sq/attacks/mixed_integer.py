"""Mixed-integer programming: the whole truth about an image, where the solver comes to an end.

Source: Tjeng et al. 2019 (arXiv 1711.07356). Behind a hard quantizer most pixels of a digit cannot change their level,
so that few variables are left; a network trained for interval bounds leaves few signs of its ReLUs open. Then seconds
are enough. The solver is HiGHS, by its authors; this is the only file that imports it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_sq.attacks.front_end import is_ours, parts_of
from lightning_sq.attacks.interface import Settled, called_by_anybody
from lightning_sq.attacks.quantized_box import nearest_reachable, preimage
from lightning_sq.errors import InputError
from lightning_sq.ops.interval import Interval, quantized_box
from lightning_sq.ops.linf_ball import project
from lightning_sq.ops.precision import full_precision
from lightning_sq.verification.integer_program import (
    Affine,
    IntegerProgram,
    TooLarge,
    in_double_precision,
    integer_program,
)

SAFETY = 1e-4
"""A mistake is ruled out where no z_j - z_y comes so near to 0: the solver's rounding is far below."""
OPTIONS = {"output_flag": False, "threads": 1, "mip_max_improving_sols": 1, "presolve": "off"}
"""Of the solver. No presolve, which lost solutions in one release: a proof is to rest on as little as can be."""


@dataclass(frozen=True)
class MixedInteger:
    """Proves that no image of the L-inf ball is misclassified, or finds one that is, or gives up.

    For each class j that interval bounds leave open, an image with z_j - z_y >= -`SAFETY` is asked for; what comes is
    tried on the model, and where none can be the class is ruled out.

    Args:
        max_seconds: For one image.
        max_variables: More, and an image is given up at once.
    """

    max_seconds: float = 60.0
    max_variables: int = 5000

    def __post_init__(self) -> None:
        if not self.max_seconds > 0 or self.max_variables < 1:
            raise InputError(
                f"max_seconds={self.max_seconds} and max_variables={self.max_variables} have to be above 0."
            )

    @called_by_anybody
    @full_precision()
    @torch.no_grad()
    def __call__(self, model: Any, images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float) -> Settled:
        """See `PGD.__call__`; nothing is random, but how far it comes is a matter of the machine.

        Args:
            model: In eval mode: an nn.Module without a quantizer, or what `take_apart` gives.
        Raises: InputError for a network that is no chain of layers that are linear or ReLU, or without the solver.
        """
        quantizer, network = parts_of(model)
        hard = is_ours(quantizer) and quantizer.hard
        size = {"num_levels": quantizer.num_levels if hard else None, "max_variables": self.max_variables}
        layers, boxes = in_double_precision(network), quantized_box(images, epsilon, quantizer)
        found, proven = images.clone(), model(images).argmax(1) == labels
        for i in proven.nonzero()[:, 0].tolist():
            try:
                program = integer_program(layers, Interval(boxes.lower[i], boxes.upper[i]), **size)
            except TooLarge:
                proven[i] = False
                continue
            proven[i], inputs = self._settle(*program, int(labels[i]))
            if inputs is not None:
                pixels, image = inputs.to(images)[None], images[i : i + 1]
                if quantizer is None:
                    pixels = project(pixels, image, epsilon)
                else:
                    pixels = preimage(quantizer, nearest_reachable(quantizer, image)(pixels), image, epsilon)
                if model(pixels).argmax(1) != labels[i]:
                    found[i] = pixels[0]
        return Settled(found, proven)

    def _settle(
        self, program: IntegerProgram, inputs: Affine, logits: Affine, label: int
    ) -> tuple[bool, Tensor | None]:
        """(whether all other classes are ruled out, an input of the network where one may not be)."""
        ends = time.monotonic() + self.max_seconds
        margins = logits - logits.flat(torch.full((logits.constant.numel(),), label, device="cpu"))
        largest = program.bounds(margins).upper
        largest[label] = float("-inf")
        for j in largest.argsort(descending=True).tolist():
            if largest[j] < -SAFETY:
                break
            shortfall = margins.flat(slice(j, j + 1)) * _one_number(-1.0) - _one_number(SAFETY)
            try:
                point = _point_nowhere_above_0(program, shortfall, ends - time.monotonic())
            except _NotKnown:
                return False, None
            if point is not None:
                return False, inputs.at(point)
        return True, None


def _one_number(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float32, device="cpu")


PROVES_TOO_MUCH = ("1.16.0",)
"""Versions of highspy that call some programs infeasible that are not."""


class _NotKnown(Exception):
    """The solver came to no end."""


def _point_nowhere_above_0(program: IntegerProgram, value: Affine, seconds: float) -> Tensor | None:
    """Variables (V,) for which `value` (1,) is at most 0, as small as it soon gets; None if there are none.

    Raises: _NotKnown; InputError without the solver, or with one that is wrong.
    """
    try:
        import highspy
    except ImportError:
        raise InputError("mixed_integer needs the solver HiGHS: pip install 'lightning-sq[attacks]'.") from None
    if (found := version("highspy")) in PROVES_TOO_MUCH:
        raise InputError(
            f"highspy {found} finds no solution where there is one, and so proves what is not true. Install another "
            "version: pip install 'lightning-sq[attacks]'."
        )
    count = len(program.upper)
    value = value.of_variables(count)
    rows = [row.of_variables(count) for row in (*program.nowhere_above_0, value)]
    matrix = torch.cat([row.coefficients for row in rows], 1).T.numpy()
    row_numbers, columns = matrix.nonzero()
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = count, len(matrix)
    model.col_cost_ = value.coefficients[:, 0].numpy()
    model.col_lower_, model.col_upper_ = np.zeros(count), program.upper.numpy()
    model.row_lower_ = np.full(len(matrix), -highspy.kHighsInf)
    model.row_upper_ = -torch.cat([row.constant for row in rows]).numpy()
    kinds = highspy.HighsVarType
    model.integrality_ = [kinds.kInteger if whole else kinds.kContinuous for whole in program.whole.tolist()]
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = np.searchsorted(row_numbers, np.arange(len(matrix) + 1)).astype(np.int32)
    model.a_matrix_.index_ = columns.astype(np.int32)
    model.a_matrix_.value_ = matrix[row_numbers, columns]
    solver = highspy.Highs()
    for name, option in (OPTIONS | {"time_limit": max(seconds, 0.0)}).items():
        solver.setOptionValue(name, option)
    solver.passModel(model)
    solver.run()
    if solver.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
        return None
    solution = solver.getSolution()
    if not solution.value_valid:
        raise _NotKnown
    point = torch.tensor(solution.col_value, dtype=torch.float64, device="cpu")
    return torch.where(program.whole, point.round(), point)
