"""What is trained and judged: the rows of each data set, their seeds, and what the literature says of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One way to train, a line of the page.

    Args:
        name: Of its recipe, `configs/<study>/<name>.yaml` laid over `configs/<study>.yaml`.
        title: For people.
        num_seeds: Trained with seeds 0, 1, ... in the full form; more than one where a claim rests on it.
        quick_epochs: In the quick form,
        quick_batches: of so many batches.
        published: Robust accuracy that the literature gives for this way to train, and where; None if none is known.
    """

    name: str
    title: str
    num_seeds: int = 1
    quick_epochs: int = 1
    quick_batches: int = 468
    published: tuple[float, str] | None = None


@dataclass(frozen=True)
class Study:
    """A data set with its threat model and its rows.

    Args:
        name: Of its base recipe, its data folder and its results folder.
        title: For people.
        epsilon: Radius of the L-inf ball, as it is typed.
        rows: In the order of the page.
        method: The row that is the paper's method.
        natural: The undefended control.
        adversarial: The row of PGD adversarial training, which the paper says is not needed.
        certified: The row that is trained by interval bounds.
        fast: The row of FGSM-RS.
    """

    name: str
    title: str
    epsilon: str
    rows: tuple[Row, ...]
    method: str = "method"
    natural: str = "natural"
    adversarial: str = "pgd"
    certified: str = "interval_bound"
    fast: str = "fgsm_rs"

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


METHOD = "soft quantization + noisy natural samples"

MNIST = Study(
    name="mnist",
    title="MNIST",
    epsilon="0.3",
    rows=(
        Row("natural", "natural samples"),
        Row("hard_threshold", "natural samples + hard threshold"),
        Row("noise_only", "noise only"),
        Row("quantizer_only", "soft quantization only"),
        Row("independent_noise", "soft quantization + independent noise"),
        Row("method", METHOD, num_seeds=3, quick_epochs=2),
        Row("gradient_penalty", "gradient penalty"),
        Row("interval_bound", "quantizer + interval bounds", num_seeds=3, quick_epochs=6),
        Row("fgsm_rs", "FGSM-RS", num_seeds=3, quick_epochs=3, published=(0.829, "AutoAttack's page of results")),
        Row("free", "free, 8 replays"),
        Row("pgd", "PGD-40", num_seeds=3, published=(0.885, "the Madry model under AutoAttack")),
        Row("quantizer_fgsm_rs", "soft quantization + FGSM-RS", quick_epochs=3),
    ),
)

CIFAR10 = Study(
    name="cifar10",
    title="CIFAR-10",
    epsilon="8/255",
    rows=(
        Row("natural", "natural samples"),
        Row("hard_threshold", "natural samples + hard threshold"),
        Row("noise_only", "noise only"),
        Row("quantizer_only", "soft quantization only"),
        Row("independent_noise", "soft quantization + independent noise"),
        Row("method", METHOD, num_seeds=3),
        Row("gradient_penalty", "gradient penalty"),
        Row("interval_bound", "quantizer + interval bounds"),
        Row("fgsm_rs", "FGSM-RS", num_seeds=3, published=(0.432, "AutoAttack, PreActResNet-18")),
        Row("free", "free, 8 replays"),
        Row("pgd", "PGD-10", num_seeds=3),
        Row("quantizer_fgsm_rs", "soft quantization + FGSM-RS"),
    ),
)

STUDIES = {study.name: study for study in (MNIST, CIFAR10)}
