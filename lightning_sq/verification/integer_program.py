"""A network of linear layers and ReLU as a mixed-integer program (Tjeng et al. 2019, arXiv 1711.07356).

Every value of the network over a box is a linear function of variables: where its input is in the box, one for each
level of a pixel, and two for each ReLU whose sign the box leaves open. Where many do, no solver comes to an end.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lightning_sq.errors import InputError
from lightning_sq.layers.normalize import Normalize
from lightning_sq.layers.unit_clamp import UnitClamp
from lightning_sq.ops.interval import Interval
from lightning_sq.verification.tracing import chain_of_modules, kind_of

AFFINE = (
    *(nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
    *(Normalize, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d),
)
"""Modules that are W x + b in eval mode; batch norm where it has running statistics."""
CLAMPS = (UnitClamp, nn.Hardtanh)
"""To [0, 1], which the second has to be told."""
ROUNDING = 1e-7
"""What a bound is allowed to be off by: without it, the very corner where a value is largest may not be feasible. Of a
value that stays below 1 it is this part, so that a layer in another unit is the same program."""


class TooLarge(Exception):
    """The program has more variables than it was allowed."""


@dataclass(frozen=True)
class Affine:
    """sum_v coefficients[v] x_v + constant, for variables x.

    Args:
        coefficients: (variables, *shape) float64; variables that came later have the coefficient 0.
        constant: (*shape) float64.
    """

    coefficients: Tensor
    constant: Tensor

    def __add__(self, other: Affine | Tensor) -> Affine:
        if isinstance(other, Tensor):
            return Affine(self.coefficients, self.constant + other)
        count = max(len(self.coefficients), len(other.coefficients))
        first, second = self.of_variables(count), other.of_variables(count)
        return Affine(first.coefficients + second.coefficients, self.constant + other.constant)

    def __sub__(self, other: Affine | Tensor) -> Affine:
        return self + (-other if isinstance(other, Tensor) else other * -torch.ones_like(other.constant))

    def __mul__(self, factor: Tensor) -> Affine:
        return Affine(self.coefficients * factor, self.constant * factor)

    def of_variables(self, count: int) -> Affine:
        """The same, with coefficients of so many variables, no fewer than now."""
        missing = count - len(self.coefficients)
        return Affine(pad(self.coefficients, [0, 0] * self.constant.dim() + [0, missing]), self.constant)

    def flat(self, places: Tensor | slice = slice(None)) -> Affine:
        """The values at some places of the flattened shape."""
        return Affine(self.coefficients.flatten(1)[:, places], self.constant.flatten()[places])

    def at(self, point: Tensor) -> Tensor:
        """The values (*shape) at a point (variables,), which knows all of its variables."""
        return torch.tensordot(point, self.of_variables(len(point)).coefficients, 1) + self.constant

    def with_values(self, places: Tensor, values: Affine) -> Affine:
        """The same, with these values (n,) at places (n,) of the flattened shape."""
        padded = self.of_variables(max(len(self.coefficients), len(values.coefficients)))
        coefficients, constant = padded.coefficients.flatten(1).clone(), padded.constant.flatten().clone()
        coefficients[:, places], constant[places] = values.coefficients, values.constant
        return Affine(coefficients.view(-1, *self.constant.shape), constant.view_as(self.constant))


class IntegerProgram:
    """Variables from 0 to their `upper`, some of them whole numbers, and what holds among them.

    Args:
        max_variables: More are refused.
    """

    def __init__(self, max_variables: int) -> None:
        self.max_variables = max_variables
        self.upper = torch.zeros(0, dtype=torch.float64, device="cpu")
        self.whole = torch.zeros(0, dtype=torch.bool, device="cpu")
        self.nowhere_above_0: list[Affine] = []

    def variables(self, upper: Tensor, *, whole: bool) -> Affine:
        """New ones, as many as `upper` (n,) has numbers: (n,). Raises: TooLarge."""
        before, count = len(self.upper), len(upper)
        if before + count > self.max_variables:
            raise TooLarge
        self.upper = torch.cat([self.upper, upper])
        self.whole = torch.cat([self.whole, self.whole.new_full((count,), whole)])
        each = torch.eye(count, dtype=torch.float64, device="cpu")
        return Affine(pad(each, [0, 0, before, 0]), torch.zeros_like(upper))

    def bounds(self, value: Affine) -> Interval:
        """What each variable can do on its own: nothing that holds among them is used."""
        reach = value.coefficients * self.upper[: len(value.coefficients)].view(-1, *[1] * value.constant.dim())
        return Interval(value.constant + reach.clamp(max=0).sum(0), value.constant + reach.clamp(min=0).sum(0))

    def relu(self, value: Affine) -> Affine:
        """max(0, p), with two variables where p = `value` may be of either sign: the result h, and a, 1 where p > 0.

        h >= p, h <= p - (1 - a) min p, h <= a max p, with p and h in units of the largest |p|: what a solver calls
        feasible is a matter of its own units.
        """
        lower, upper = self.bounds(value)
        size = torch.maximum(lower.abs(), upper.abs())
        positive, negative = lower >= -ROUNDING * size.clamp(max=1), upper <= ROUNDING * size.clamp(max=1)
        places = (~(positive | negative)).flatten().nonzero()[:, 0]
        unit = size.flatten()[places]
        p, least, largest = value.flat(places) * unit.reciprocal(), lower.flatten()[places], upper.flatten()[places]
        least, largest = least / unit - ROUNDING, largest / unit + ROUNDING
        h = self.variables(largest, whole=False)
        a = self.variables(torch.ones_like(largest), whole=True)
        self.nowhere_above_0 += [p - h, h - p + least - a * least, h - a * largest]
        return (value * positive.double()).with_values(places, h * unit)

    def unit_clamp(self, value: Affine) -> Affine:
        """max(0, p) - max(0, p - 1), with a variable of its own where that alone does not say that it is in [0, 1]."""
        cut = self.relu(value) - self.relu(value - torch.ones_like(value.constant))
        lower, upper = self.bounds(cut)
        places = ((lower < -ROUNDING) | (upper > 1 + ROUNDING)).flatten().nonzero()[:, 0]
        c = self.variables(lower.new_ones(len(places)), whole=False)
        self.nowhere_above_0 += [c - cut.flat(places), cut.flat(places) - c]
        return cut.with_values(places, c)


@torch.no_grad()
def integer_program(
    layers: list[nn.Module], box: Interval, *, num_levels: int | None, max_variables: int
) -> tuple[IntegerProgram, Affine, Affine]:
    """(the program, the network's input, its logits) over one box.

    Args:
        layers: What `in_double_precision` gives of the network.
        box: Of one input, (C, H, W).
        num_levels: The input takes the values k / (num_levels - 1) alone; None: all that the box has.
        max_variables: See `TooLarge`.
    Raises: TooLarge.
    """
    program = IntegerProgram(max_variables)
    value = inputs = _inputs(program, Interval(*(end.cpu().double() for end in box)), num_levels)
    for layer in layers:
        value = _through(program, layer, value)
    return program, inputs, value


def in_double_precision(network: nn.Module) -> list[nn.Module]:
    """Copies of the modules of `piecewise_linear_chain`, on the CPU and in eval mode."""
    return [copy.deepcopy(module).cpu().double().eval() for module in piecewise_linear_chain(network)]


def piecewise_linear_chain(network: nn.Module) -> list[nn.Module]:
    """The modules that an integer program can be made of: `AFFINE`, nn.ReLU and clamps to [0, 1].

    Raises: InputError if `network` is not a chain of such.
    """
    modules = chain_of_modules(network)
    for module in modules:
        kind = kind_of(module, (*AFFINE, nn.ReLU, *CLAMPS))
        without_statistics = kind in (nn.BatchNorm1d, nn.BatchNorm2d) and module.running_mean is None
        another_clamp = kind is nn.Hardtanh and (module.min_val, module.max_val) != (0.0, 1.0)
        if kind is None or without_statistics or another_clamp:
            raise InputError(
                f"There is no integer program for {type(module).__name__}. It takes a chain of convolutions, linear "
                "layers, batch norm by running statistics, average pooling, ReLU and clamps to [0, 1]."
            )
    return modules


def _inputs(program: IntegerProgram, box: Interval, num_levels: int | None) -> Affine:
    """The lower end and what is added to it: one variable in [0, 1] for each pixel with room, or one for each step to
    the next level, of which the second is not taken before the first.
    """
    lower, width = box.lower, (box.upper - box.lower).flatten()
    pixels = (width > ROUNDING * width.max()).nonzero()[:, 0]
    if num_levels is None:
        taken = [(pixels, program.variables(torch.ones_like(width[pixels]), whole=False), width[pixels])]
    else:
        taken, steps = [], (width * (num_levels - 1)).round().long()
        for step in range(int(steps.max()) if len(steps) else 0):
            pixels = (steps > step).nonzero()[:, 0]
            variables = program.variables(torch.ones_like(width[pixels]), whole=True)
            if taken:
                earlier, before, _ = taken[-1]
                program.nowhere_above_0.append(variables - before.flat(torch.isin(earlier, pixels)))
            taken.append((pixels, variables, torch.full_like(width[pixels], 1 / (num_levels - 1))))
    spread = lower.new_zeros(len(program.upper), lower.numel())
    for pixels, variables, lengths in taken:
        spread[: len(variables.coefficients), pixels] += variables.coefficients * lengths
    return Affine(spread.view(-1, *lower.shape), lower)


def _through(program: IntegerProgram, module: nn.Module, value: Affine) -> Affine:
    if isinstance(module, nn.ReLU):
        return program.relu(value)
    if isinstance(module, CLAMPS):
        return program.unit_clamp(value)
    bias = module(torch.zeros_like(value.constant)[None])
    return Affine(module(value.coefficients) - bias, module(value.constant[None])[0])
