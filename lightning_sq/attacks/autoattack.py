"""The stages of AutoAttack (Croce and Hein 2020, arXiv 2003.01690), by the authors' own code from `pyautoattack`.

The only file that imports it. Each stage is an attack like the others here, so the runner decides which images it gets
and in which order the stages come. What is mended on the way, because the package does it to whoever calls it: logits
come to it in float32; in L2 what is no number in a gradient is 0, as for `PGD`; gradients are on, whatever the caller's
mode; an nn.Module is in eval mode and its weights are frozen, and both are as before afterwards (FAB would fill their
`.grad`, as it does of the weights that a function uses); the global random numbers are as before; no tracer is
installed and no counter outlives a call, because its check for optimisation at inference is not used
(`evaluation.diagnostics` has one that leaves nothing behind); no more target classes are asked for than there are; what
it would only log comes out as a record of this module's logger. Its `.mean()` over a process's images and its own
verdicts are not used: the runner checks each image again and counts over all processes. APGD works on images that it
has not broken yet, and on no others, unless it averages over draws.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_sq.attacks.broken_left_out import CLEARLY, leave_broken_out
from lightning_sq.attacks.frozen import frozen
from lightning_sq.attacks.interface import called_by_anybody
from lightning_sq.errors import InputError
from lightning_sq.ops.default_dtype import default_dtype
from lightning_sq.ops.random_numbers import random_numbers_kept
from lightning_sq.types import NORM_ELSEWHERE, Norm

Stage = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"]
LOGGER = logging.getLogger(__name__)
FEWEST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}
"""The difference of logits ratio needs a third logit, its targeted form a fourth."""


@dataclass(frozen=True)
class AutoAttackStage:
    """One stage of AutoAttack with the parameters of its `standard` version.

    Args:
        stage: "apgd-ce", "apgd-dlr", "apgd-t", "fab-t" or "square".
        num_steps: Of APGD and FAB.
        num_restarts: Random starts.
        num_queries: Of Square, which moves one square at a time for the whole batch: its verdict on an image depends
            on the images beside it.
        num_draws: Forward passes a gradient of APGD (expectation over a random model): 20 in version `rand`.
        norm: "linf" or "l2".
    """

    stage: Stage
    num_steps: int = 100
    num_restarts: int = 1
    num_queries: int = 5000
    num_draws: int = 1
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        if self.stage not in get_args(Stage):
            raise InputError(f"stage={self.stage!r} is not one of {', '.join(get_args(Stage))}.")
        if self.norm not in NORM_ELSEWHERE:
            raise InputError(f"norm={self.norm!r} is not one of {', '.join(NORM_ELSEWHERE)}.")
        for name in ("num_steps", "num_restarts", "num_queries", "num_draws"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} of {self.stage} is not at least 1.")

    @property
    def unread(self) -> tuple[str, ...]:
        """Parameters that this stage has no use for."""
        match self.stage:
            case "square":
                return ("num_steps", "num_draws")
            case "fab-t":
                return ("num_queries", "num_draws")
        return ("num_queries",)

    def why_not(self, num_classes: int, height: int, width: int) -> str | None:
        """Why the package cannot run this stage on so many classes, or on images of this size; or None."""
        if num_classes < (fewest := FEWEST_CLASSES.get(self.stage, 2)):
            return f"it needs {fewest} classes, the model has {num_classes}"
        if self.stage == "square" and self.norm == "l2" and not _can_be_tiled(height, width):
            return f"AutoAttack's Square begins in L2 with tiles, which do not fit into {height} x {width} pixels"
        return None

    @called_by_anybody
    def __call__(
        self,
        model: Callable[[Tensor], Tensor],
        images: Tensor,
        labels: Tensor,
        seeds: Sequence[int],
        epsilon: float,
    ) -> Tensor:
        """Adversarial images, like `images`; see `PGD.__call__`. The first seed is that of the whole batch.

        Raises: InputError if pyautoattack is not installed, or for what `why_not` says.
        """
        finite = self.norm == "l2" or self.stage == "fab-t"
        with _as_the_package_expects(model, images.device, finite_gradients=finite) as float32_model:
            x, y = images.clone(memory_format=torch.contiguous_format), labels.clone()  # such as can be viewed
            with torch.no_grad():
                logits, again = float32_model(x), float32_model(x)
            is_steady = (logits - again).abs().amax() <= CLEARLY * logits.abs().amax()
            num_classes = logits.shape[1]
            if why := self.why_not(num_classes, *x.shape[2:]):
                raise InputError(f"{self.stage} cannot be run: {why}.")
            asked = float32_model if is_steady else _right_at_first(float32_model, y, num_classes)
            attack = self._attack(asked, epsilon, seeds[0], num_classes, images.device)
            if self.stage.startswith("apgd") and self.num_draws == 1 and is_steady:
                leave_broken_out(attack)  # of a random model what one draw gets wrong, the next may get right
            return attack.perturb(x, y).detach().clamp(0, 1)

    def _attack(self, model: Any, epsilon: float, seed: int, num_classes: int, device: torch.device) -> Any:
        package = load_package()
        common = {
            "norm": NORM_ELSEWHERE[self.norm],
            "eps": epsilon,
            "seed": seed % 2**63,
            "n_restarts": self.num_restarts,
            "device": device,
            "verbose": False,
        }
        targets = min(9, num_classes - 1)
        apgd = {"n_iter": self.num_steps, "eot_iter": self.num_draws, "rho": 0.75, "logger": LOGGER}
        match self.stage:
            case "apgd-t":
                return package["apgd-t"](model, n_target_classes=targets, **apgd, **common)
            case "fab-t":
                fab = {"n_iter": self.num_steps, "targeted": True, "n_target_classes": targets}
                return package["fab-t"](model, **fab, **common)
            case "square":
                return package["square"](model, n_queries=self.num_queries, p_init=0.8, resc_schedule=False, **common)
        return package["apgd"](model, loss=self.stage.removeprefix("apgd-"), **apgd, **common)


def _can_be_tiled(height: int, width: int) -> bool:
    """Whether the tiles that the package's L2 Square starts from lie inside the image, as it lays them.

    Their side is a fifth of the height, and they begin where five of them are centred in it, also along the width.
    """
    side = height // 5
    begin = (height - 5 * side) // 2
    return side == 1 or (side > 1 and all(begin + length // side * side <= length for length in (height, width)))


def load_package() -> dict[str, Any]:
    """The classes of pyautoattack. Raises: InputError if it is not installed."""
    try:
        from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
        from pyautoattack.fab_pt import FABAttack_PT
        from pyautoattack.square import SquareAttack
    except ImportError:
        raise InputError(
            "AutoAttack and Square need pyautoattack. Write: pip install 'pyautoattack>=0.2,<0.3', "
            "or choose --attacks quick."
        ) from None
    return {"apgd": APGDAttack, "apgd-t": APGDAttack_targeted, "fab-t": FABAttack_PT, "square": SquareAttack}


@contextmanager
def _as_the_package_expects(
    model: Callable[[Tensor], Tensor], device: torch.device, *, finite_gradients: bool
) -> Iterator[Callable[[Tensor], Tensor]]:
    of_the_caller = torch.get_default_dtype()

    def float32_model(x: Tensor) -> Tensor:
        x = _with_finite_gradient(x) if finite_gradients else x
        with torch.autocast(device.type, enabled=False), default_dtype(of_the_caller):
            logits = model(x).float().clone()  # Square writes into its logits
        if x.requires_grad:
            logits = logits + 0 * x.flatten(1).sum(1, keepdim=True)  # where the model gives no gradient it is 0
        return logits

    with (
        torch.enable_grad(),
        random_numbers_kept(device),
        frozen(model),
        default_dtype(torch.float32),  # of which the package's own numbers are
    ):
        yield float32_model


def _with_finite_gradient(x: Tensor) -> Tensor:
    """`x`, whose gradient is 0 where it is not finite: g / ||g||_2 would be no number anywhere, and FAB's distance to
    the boundary none. In L-inf APGD takes the sign, which is 0 of what is no number, and right of what is infinite.
    """
    x = x.view_as(x)
    if x.requires_grad:
        x.register_hook(lambda gradient: torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0))
    return x


def _right_at_first(model: Callable[[Tensor], Tensor], labels: Tensor, num_classes: int) -> Callable[[Tensor], Tensor]:
    """`model` with a first answer that is right: what is wrong then the package does not attack, and what one draw of a
    random model gets wrong, the next may get right.
    """
    first = [one_hot(labels, num_classes).float()]

    def answer(x: Tensor) -> Tensor:
        return first.pop() if first else model(x)

    return answer
