"""One model of an evaluation with the images as it wants them, and what is asked of the two beside the attacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lightning_sq.evaluation import Evaluation
    from lightning_sq.evaluation.examples import Examples
    from lightning_sq.models import PixelClassifier


@dataclass(frozen=True)
class Subject:
    """A model and its images.

    Args:
        name: In the report.
        source: Where it is from.
        model: On the device.
        images: (N, C, H, W) float32 in [0, 1], on the CPU.
        labels: (N,) int64, on the CPU.
        device: Of the model.
    """

    name: str
    source: str
    model: PixelClassifier
    images: Tensor
    labels: Tensor
    device: torch.device

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Images and labels, on the CPU."""
        return list(zip(self.images.split(size), self.labels.split(size), strict=True))

    def classified_right(self, batch_size: int) -> Tensor:
        """(N,) bool."""
        import torch

        from lightning_sq.attacks.checks import classify

        return torch.cat([classify(self.model, x.to(self.device)).cpu() == y for x, y in self.batches(batch_size)])

    def row(self, found: Evaluation, batch_size: int) -> dict[str, Any]:
        """The model's in results.json. Every process has to ask."""
        from lightning_sq.evaluation import results
        from lightning_sq.evaluation.processes import gather
        from lightning_sq.models.checkpoint_format import TrainedModel

        config, weights = self.model.config, self.model.state_dict()
        norms = [norm for part in gather(self._input_gradients(batch_size)) for norm in part]
        return results.model_row(
            self.name,
            self.source,
            config.to_dict(),
            found,
            input_gradient_l1=sum(norms) / len(self.labels),
            fingerprint=TrainedModel(config, weights).fingerprint(),
        )

    def _input_gradients(self, batch_size: int) -> list[float]:
        """The l1 norms of this process's share of the images."""
        from lightning_sq.metrics import input_gradient_l1
        from lightning_sq.ops.precision import full_precision
        from lightning_sq.process_group import rank, world_size

        own = self.batches(batch_size)[rank() :: world_size()]
        with full_precision():
            norms = [input_gradient_l1(self.model, x.to(self.device), y.to(self.device)) for x, y in own]
        return [norm for part in norms for norm in part.tolist()]

    def examples(self, found: Evaluation, chosen: list[int]) -> Examples:
        """What the report shows of the images `chosen`, clean and as the attacks left them."""
        import torch

        from lightning_sq.evaluation import examples

        adversarial = found.examples()
        return examples.show(
            self.model,
            self.images[chosen].to(self.device),
            torch.stack([adversarial.get(i, self.images[i]) for i in chosen]).to(self.device),
            self.model.quantizer,
            epsilon=found.budgets[-1],
            norm=found.norm,
            class_names=self.model.config.class_names,
        )
