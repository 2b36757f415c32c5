"""What is trained and judged: the rows of each data set, their seeds, and what the literature says of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


def quick_form(
    *, epochs: int = 1, batches: int = 468, ramp: int | None = None, warmup: float | None = None, **more: Any
) -> dict[str, Any]:
    """What the quick form changes of a recipe.

    Args:
        epochs: Length of training.
        batches: Most batches of an epoch.
        ramp: Batches in which the objective's epsilon grows; it has to end within the training.
        warmup: Epochs in which the learning rate grows, as well.
        more: Further arguments of the objective.
    """
    changes: dict[str, Any] = {"trainer.max_epochs": epochs, "trainer.limit_train_batches": batches}
    if warmup is not None:
        changes["model.optimization.warmup_epochs"] = warmup
    given = more if ramp is None else more | {"ramp_steps": ramp}
    return changes | {f"model.objective.init_args.{name}": value for name, value in given.items()}


@dataclass(frozen=True)
class Row:
    """One way to train, a line of the page.

    Args:
        name: Of its recipe, `configs/<study>/<name>.yaml` laid over `configs/<study>.yaml`.
        title: For people.
        num_seeds: Trained with seeds 0, 1, ... in the full form; more than one where a claim rests on it.
        quick: What the quick form changes of the recipe: values by their option's name without dashes.
        in_quick: Whether the quick form has it; the chosen rows are run in both.
        uses_input_gradients: Whether its training takes gradients with respect to the images, as an attack does.
        by_proof: Trained by interval bounds, so that what is proven tells how good it is, and a quick attack little.
        published: Robust accuracy that the literature gives for this way to train, and where; None if none is known.
        why_not: What is known of a difference of its seeds to `published`, behind their verdict.
    """

    name: str
    title: str
    num_seeds: int = 1
    quick: dict[str, Any] = field(default_factory=quick_form)
    in_quick: bool = True
    uses_input_gradients: bool = False
    by_proof: bool = False
    published: tuple[float, str] | None = None
    why_not: str = ""


@dataclass(frozen=True)
class Variant:
    """One change of the method's recipe that is tried on held-out training images.

    Args:
        title: For people.
        changes: Values by their option's name without dashes.
    """

    title: str
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A data set with its threat model and its rows.

    Args:
        name: Of its base recipe, its data folder and its results folder.
        title: For people.
        epsilon: Radius of the L-inf ball, as it is typed.
        num_images: (training, test) images of the data set as it was published.
        rows: In the order of the page.
        variants: What is tried of the method before its recipe is fixed.
        left_out: What was tried of it and of the bounds besides, and is no option of this project, a sentence each.
        looked_at: The same of what was judged on test images.
        times_faster: Than PGD training, to the same accuracy, as the paper says; None if it says nothing of that.
        method: The row that is the paper's method, with what this project has found of the noise.
        plain_method: The same with one draw of independent noise, which is all that the paper's abstract says of it.
        larger_methods: The method with larger networks, up to that of the published PGD-trained model.
        natural: The undefended control.
        adversarial: The row of PGD adversarial training, which the paper says is not needed.
        certified_row: The row that is trained by interval bounds behind the quantizer.
        proven_rows: It and others like it, all of which are held against published proofs.
        published_proofs: Certified accuracies that the literature gives, and whose: of interval bounds, and the highest
            without further training data (https://sokcertifiedrobustness.github.io/leaderboard, June 2024).
        timed_against_pgd: Rows that are to reach the accuracy of PGD training sooner than it does.
    """

    name: str
    title: str
    epsilon: str
    num_images: tuple[int, int]
    rows: tuple[Row, ...]
    variants: tuple[Variant, ...]
    left_out: tuple[str, ...] = ()
    looked_at: tuple[str, ...] = ()
    times_faster: float | None = None
    method: str = "method"
    plain_method: str = "independent_noise"
    larger_methods: tuple[str, ...] = ()
    natural: str = "natural"
    adversarial: str = "pgd"
    certified_row: str = "interval_bound"
    proven_rows: tuple[str, ...] = ("interval_bound",)
    published_proofs: tuple[tuple[float, str], ...] = ()
    timed_against_pgd: tuple[str, ...] = ("method", "interval_bound", "fgsm_rs")

    @property
    def methods(self) -> tuple[str, ...]:
        """The rows that are held against the published PGD-trained model."""
        return (self.method, *self.larger_methods)

    @property
    def timed(self) -> tuple[str, ...]:
        """The rows whose accuracy is held against the time of their training."""
        return (*self.timed_against_pgd, self.adversarial)

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


def _rows(*more: Row, **changes: dict[str, Any]) -> tuple[Row, ...]:
    """The rows of every study, with what is another in this one, by the name of the row, and `more` of its own.

    Three seeds of those on which a claim rests.
    """
    rows = (
        Row("natural", "natural samples"),
        Row("hard_threshold", "natural samples + hard threshold"),
        Row("noise_only", "noise only"),
        Row("quantizer_only", "soft quantization only"),
        Row("independent_noise", "soft quantization + independent noise", num_seeds=3),
        Row("method", "soft quantization + noisy natural samples", num_seeds=3),
        Row("gradient_penalty", "gradient penalty", uses_input_gradients=True),
        Row("interval_bound", "quantizer + interval bounds", num_seeds=3, by_proof=True),
        Row("interval_bound_unquantized", "interval bounds alone", by_proof=True),
        Row("fgsm_rs", "FGSM-RS", num_seeds=3, uses_input_gradients=True),
        Row("free", "free, 8 replays", uses_input_gradients=True),
        Row("pgd", "PGD", num_seeds=3, uses_input_gradients=True),
        Row("quantizer_fgsm_rs", "soft quantization + FGSM-RS", uses_input_gradients=True),
    )
    return (*(replace(row, **changes.get(row.name, {})) for row in rows), *more)


_OBJECTIVE = "model.objective.init_args"


def _variants(
    *,
    levels: tuple[int, ...],
    sharpnesses: tuple[float, ...],
    epsilons: tuple[str, ...],
    searches: tuple[tuple[int, int, int, tuple[int, ...]], ...],
) -> tuple[Variant, ...]:
    """Each noise kind, pattern and size, each way to choose among draws, and what is given.

    Args:
        levels: Of the quantizer.
        sharpnesses: Of the quantizer.
        epsilons: Sizes of the noise, as they are typed.
        searches: (draws, towards others, refined, halve_after) of the hardest; those of the recipe are left out.
    """
    objective, quantizer = _OBJECTIVE, "model.quantizer"
    tried: list[tuple[str, dict[str, Any]]] = []
    tried += [(f"{kind} noise", {f"{objective}.noise": kind}) for kind in ("uniform", "gaussian")]
    tried += [(f"pattern {name}", {f"{objective}.pattern": name}) for name in ("pixel", "image", "blocks", "smooth")]
    tried += [(f"noise of size {size}", {f"{objective}.epsilon": size}) for size in epsilons]
    mean = {f"{objective}.select": "mean"}
    tried += [("one draw", mean | _draws(1))]
    tried += [(f"hardest of {n} draws", _draws(n)) for n in (4, 8, 16)]
    for n, others, refined, halve_after in searches:
        title = f"hardest of {n} draws, {others} towards others, {refined} refined"
        title += f", the harder half alone after {' and '.join(map(str, halve_after))}" if halve_after else ""
        tried.append((title, _draws(n, others, refined, halve_after)))
    tried += [(f"{count} levels", {f"{quantizer}.num_levels": count}) for count in levels]
    tried += [(f"sharpness {value:g}", {f"{quantizer}.sharpness": value}) for value in sharpnesses]
    return tuple(Variant(title, changes) for title, changes in tried)


def _draws(
    num_draws: int, num_others: int = 0, num_refined: int = 0, halve_after: tuple[int, ...] = ()
) -> dict[str, Any]:
    chosen = {"num_draws": num_draws, "num_others": num_others, "num_refined": num_refined}
    return {f"{_OBJECTIVE}.{name}": value for name, value in chosen.items()} | {
        f"{_OBJECTIVE}.halve_after": list(halve_after)
    }


MADRY = (0.885, "the Madry model under AutoAttack")
BOUNDS = "interval bounds, arXiv 1810.12715"
_IN_ITS_BOX = ("quantizer_pgd", "quantizer_pgd_2", "quantizer_pgd_1")
_LONG_AND_ATTACKED: dict[str, Any] = {"in_quick": False, "uses_input_gradients": True}

MNIST = Study(
    name="mnist",
    title="MNIST",
    epsilon="0.3",
    num_images=(60_000, 10_000),
    times_faster=24.0,
    larger_methods=("method_wide", "method_madry"),
    proven_rows=("interval_bound", "interval_bound_wide"),
    timed_against_pgd=("method", "method_short", *_IN_ITS_BOX, "interval_bound", "fgsm_rs"),
    published_proofs=((0.9195, BOUNDS), (0.9402, "linear bounds and ramps, arXiv 2104.00447")),
    rows=_rows(
        Row("method_short", "the method, longer search and two epochs", num_seeds=3, in_quick=False),
        Row("method_wide", "the method, wider net and longer search", num_seeds=3, in_quick=False),
        Row("method_madry", "the method, Madry's network", num_seeds=3, in_quick=False),
        Row("pgd_madry", "PGD-40, Madry's network and steps", published=MADRY, **_LONG_AND_ATTACKED),
        Row("method_resnet18", "the method, ResNet-18", in_quick=False),
        Row("quantizer_pgd", "soft quantization + PGD-4 in its box", num_seeds=3, **_LONG_AND_ATTACKED),
        Row("quantizer_pgd_2", "soft quantization + PGD-2 in its box", num_seeds=3, **_LONG_AND_ATTACKED),
        Row("quantizer_pgd_1", "soft quantization + one step in its box", num_seeds=3, **_LONG_AND_ATTACKED),
        Row(
            "interval_bound_wide",
            "quantizer + interval bounds, twice as wide",
            num_seeds=3,
            in_quick=False,
            by_proof=True,
        ),
        interval_bound={"quick": quick_form(epochs=3, ramp=300, warmup=0.5)},
        interval_bound_unquantized={"quick": quick_form(epochs=3, ramp=300, warmup=0.5)},
        fgsm_rs={
            "quick": quick_form(epochs=4, warmup=1.0),
            "published": (0.829, "AutoAttack's page of results"),
            "why_not": "three seeds of the authors' own training script, run on a CPU, fell as short of the model that "
            "they publish as our better seeds do",
        },
        free={"quick": quick_form(batches=1872, ramp=900, warmup=0.1)},
        pgd={"quick": quick_form(ramp=150, warmup=0.1), "title": "PGD-40", "published": MADRY},
        quantizer_fgsm_rs={"quick": quick_form(epochs=2, warmup=0.5)},
    ),
    variants=(
        *_variants(
            levels=(3, 4),
            sharpnesses=(10.0, 30.0, 300.0),
            epsilons=("0.3", "0.35", "0.45"),
            searches=((10, 0, 24, (5, 10, 18)), (1, 33, 0, (5, 10, 18)), (1, 9, 8, (5, 10)), (1, 9, 8, ())),
        ),
        Variant("32 flips of a patch besides", {f"{_OBJECTIVE}.num_flips": 32}),
        Variant(
            "32 flips of a patch besides, noise of size 0.35",
            {f"{_OBJECTIVE}.num_flips": 32, f"{_OBJECTIVE}.epsilon": "0.35"},
        ),
    ),
    left_out=(
        "Evolution strategies over the noise of an image, many small rounds instead of one refinement: no better for "
        "as many passes.",
        "A memory of the hardest draw of each digit, taken up again in the next epoch: no better.",
        "Half of each batch the digits that were hardest before: no better.",
        "Three levels with thresholds at a third and two thirds, which interval bounds like: far worse.",
        "A small network that learns from the losses of the draws where noise hurts: a little better on a wider net, "
        "and no more with three times the epochs.",
        "A network that predicts the input gradient from forward passes: its draws were no harder than random ones.",
        "Draws towards the nearest digits of other classes, of the batch or of 3,000, instead of any of the batch: no "
        "better. Blocks of two draws put together: no better than as many draws towards others.",
        "The direction that a class has in common as a start for that of a digit: worse.",
        "Two steps on what one search found, or a short search in the first half of the training: less robust for the "
        "same time. Training on the harder half of a batch alone: less robust.",
        "Interval bounds over a tenth of the pixels around the hardest draw: a little more robust, and less accurate.",
        "Of the bounds: one more threshold, activations that are cut off above, a loss that gives hopeless images up, "
        "an average of the weights or of shifted images: no better, or worse. Turned and stretched digits: worse in "
        "few epochs.",
        "Of the bounds, judged by the solver to the last digit: over smaller boxes (two thirds of the budget, or five "
        "sixths) they prove less and leave nets about half a point more robust, which is as much as seeds differ. Over "
        "smaller boxes around a noisy copy, each pixel by itself or all alike, or around a step of the input gradient: "
        "no better than these.",
    ),
    looked_at=(
        "The net of the row that is twice as wide, over boxes of two thirds of the budget, for as many epochs, one "
        "seed: half a point less robust than over whole ones.",
    ),
)

_BOUNDS_OF_CIFAR10 = {
    "quick": quick_form(epochs=4, ramp=700, warmup=0.5, kappa=0.5, warmup_steps=0)
    | {"model.architecture": "small_cnn_cifar"}
}

CIFAR10 = Study(
    name="cifar10",
    title="CIFAR-10",
    epsilon="8/255",
    num_images=(50_000, 10_000),
    published_proofs=((0.3204, BOUNDS), (0.4039, "SortNet, arXiv 2210.01787")),
    rows=_rows(
        method={"quick": quick_form(epochs=3)},
        interval_bound=_BOUNDS_OF_CIFAR10,
        interval_bound_unquantized=_BOUNDS_OF_CIFAR10,
        fgsm_rs={"quick": quick_form(epochs=3), "published": (0.432, "AutoAttack, PreActResNet-18")},
        pgd={"title": "PGD-10", "quick": quick_form(epochs=2)},
        quantizer_fgsm_rs={"quick": quick_form(epochs=3)},
    ),
    variants=_variants(
        levels=(2, 4, 16, 32),
        sharpnesses=(15.0, 30.0, 120.0),
        epsilons=("6/255", "12/255", "16/255"),
        searches=((1, 9, 24, (5, 10, 18)), (1, 9, 8, ())),
    ),
)

STUDIES = {study.name: study for study in (MNIST, CIFAR10)}
