"""The attacks by name, each with its parameters spelled out so that a report can print them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from lightning_sq.attacks import PGD, QuantizedBox, bpda
from lightning_sq.errors import InputError
from lightning_sq.layers.soft_quantization import Backward


@dataclass(frozen=True)
class Attack:
    """PGD on the model as it is (`backward` "exact"), through BPDA, or in the quantized box.

    Args:
        title: For people.
        space: "pixels", or "quantized box" (see `QuantizedBox`); a model without a quantizer is attacked in its pixels.
        backward: The derivative of the quantizer that PGD sees.
        surrogate_sharpness: For backward "surrogate".
        num_steps, num_restarts, criterion: See `PGD`.
    """

    title: str
    space: Literal["pixels", "quantized box"] = "pixels"
    backward: Backward = "exact"
    surrogate_sharpness: float | None = None
    num_steps: int = 40
    num_restarts: int = 1
    criterion: str = "cross_entropy"

    def __call__(
        self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, seeds: Sequence[int], epsilon: float
    ) -> Tensor:
        """Adversarial images within `epsilon`; see `PGD.__call__`."""
        quantized = getattr(model, "quantizer", None) is not None
        if self.space == "quantized box" and quantized:
            return QuantizedBox(epsilon, self.num_steps, self.criterion)(model, images, labels, seeds)
        if self.backward != "exact" and hasattr(model, "quantizer"):
            model = bpda(model, self.backward, self.surrogate_sharpness)
        pgd = PGD(epsilon, self.num_steps, num_restarts=self.num_restarts, criterion=self.criterion)
        return pgd(model, images, labels, seeds)

    def to_dict(self) -> dict[str, Any]:
        """Every parameter, as it stands in results.json."""
        whole = "the box" if self.space == "quantized box" else "epsilon"
        return {"attack": "PGD", "norm": "linf", "step_size": f"2.5 {whole} / num_steps", **asdict(self)}


ATTACKS = {
    "pgd": Attack("PGD-40"),
    "pgd_margin": Attack("PGD-40, margin loss", criterion="margin"),
    "bpda": Attack("PGD-40 through BPDA, identity", backward="identity"),
    "bpda_margin": Attack("PGD-40 through BPDA, identity, margin loss", backward="identity", criterion="margin"),
    "bpda_surrogate": Attack(
        "PGD-40 through BPDA, softer slope, margin loss",
        backward="surrogate",
        surrogate_sharpness=10.0,
        criterion="margin",
    ),
    "quantized_box": Attack("PGD-40 in the quantized box, margin loss", space="quantized box", criterion="margin"),
}

SUITES = {"quick": ("pgd", "bpda"), "standard": tuple(ATTACKS)}


def attacks_by_name(names: str | Sequence[str]) -> dict[str, Attack]:
    """The attacks of a suite, or those in a list (or a text with commas).

    Raises: InputError for a name that is neither.
    """
    if isinstance(names, str):
        names = SUITES.get(names) or [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in names if name not in ATTACKS]
    if unknown or not names:
        problem = f"There is no attack {unknown[0]!r}" if unknown else "No attack is named"
        raise InputError(f"{problem}. Choose a suite ({', '.join(SUITES)}) or attacks: {', '.join(ATTACKS)}.")
    return {name: ATTACKS[name] for name in names}
