"""How long ImageNet takes at the measured images/s, by the model of `lightning-sq plan`: for benchmarks/gpu.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from common.harness import Row
from gpu_parts.network import recipe

from lightning_sq.training.cluster.scaling import Network, Work, plan_row

NUM_IMAGES, NUM_VALIDATION_IMAGES = 1_281_167, 50_000  # ILSVRC 2012
PAPER = "the paper: two days (arXiv 1810.05665)"
FREE = "Free: two days on 4 P100 (arXiv 1904.12843)"
FAST = "Fast: 12 hours on four consumer GPUs (arXiv 2001.03994)"
REPLAYS, FREE_EPOCHS = 4, 23  # Free's m for ImageNet, and its authors' 90 epochs divided by it
GPUS_OF_A_NODE = 8
LIMIT = 48.0  # hours: the paper's two days
SCHEDULE = ((0, 128), (6, 176), (12, 224))
"""(first epoch, image size) of progressive resizing, as in configs/README.md."""


@dataclass(frozen=True)
class Plan:
    """ImageNet with the epochs of configs/imagenet.yaml.

    Args:
        batch_size: Of each process.
        parameters: Of the network.
    """

    batch_size: int
    parameters: int

    @property
    def work(self) -> Work:
        """All of the recipe, whose objective adds noise: it is validated on clean images and on noisy ones."""
        epochs = recipe("imagenet.yaml")["trainer"]["max_epochs"]
        size = {"gradient_bytes": 4 * self.parameters, "validation_passes": 2}
        return Work(NUM_IMAGES, NUM_VALIDATION_IMAGES, epochs, self.batch_size, **size)

    def hours(self, work: Work, rate: float, gpus: int = 1) -> float:
        """Of the whole of `work` at `rate` images/s a GPU, on nodes of up to eight."""
        per_node = min(GPUS_OF_A_NODE, gpus)
        row = plan_row(work, nodes=gpus // per_node, per_node=per_node, images_per_second=rate, network=Network())
        return row["hours"]

    def epochs_that_fit(self, work: Work, rate: float, gpus: int) -> int:
        """In `LIMIT` hours, each with its validation."""
        return int(LIMIT / self.hours(replace(work, epochs=1), rate, gpus))

    def resized_hours(self, rate_at: Callable[[int], float]) -> float:
        """Of the recipe on one GPU, with each range of epochs at its image size; validation keeps the last size."""
        firsts = [first for first, _ in SCHEDULE] + [self.work.epochs]
        training = replace(self.work, num_validation_images=0)
        hours = sum(
            self.hours(replace(training, epochs=end - first), rate_at(size))
            for (first, end), (_, size) in zip(pairwise(firsts), SCHEDULE, strict=True)
        )
        full = rate_at(SCHEDULE[-1][1])
        return hours + self.hours(self.work, full) - self.hours(training, full)


def plan_rows(plan: Plan, rates: dict[str, float], source: str, *, judged: bool = False) -> list[Row]:
    """Epochs in two days, and hours of a whole training, predicted from images/s of one GPU by name.

    Args:
        plan: What is to be done.
        rates: As measured.
        source: Says what of: "eager, from memory".
        judged: Whether the images/s are those of the step that `lightning-sq fit` takes, on images of ImageNet's size;
            else nothing is said to be reached, and no command given.
    """
    rows = []
    for name, rate in rates.items():
        free = name.startswith("free")
        replays, what = (REPLAYS, f"{name}, {REPLAYS} of them a batch") if free else (1, name)
        work = plan.work if name == "method" else replace(plan.work, validation_passes=1)
        work = replace(work, batch_repeats=replays, epochs=FREE_EPOCHS if free else work.epochs)
        what = f"{what}, {source}, predicted"
        for gpus in (1, 8, 64):
            question = f"{what}: epochs of ImageNet in {LIMIT:g} h on {gpus_in_words(gpus)}"
            rows.append(Row(question, plan.epochs_that_fit(work, rate, gpus), "epochs"))
        question = f"{what}: {work.epochs} epochs of ImageNet"
        if name == "method":
            hours = plan.hours(work, rate)
            reached, detail = (hours <= 2, {"plan": command(rate)}) if judged else (None, {})
            rows.append(Row(f"{question} on {gpus_in_words(1)}", hours, "h", f"<= 2; {PAPER}", reached, detail))
        else:
            anchor = FREE if free else {"FGSM-RS": FAST}.get(name, "reported")
            rows.append(Row(f"{question} on {gpus_in_words(4)}", plan.hours(work, rate, 4), "h", anchor))
    return rows


def gpus_in_words(gpus: int) -> str:
    """How many, and what is assumed of the way between them, which nobody has measured."""
    if gpus == 1:
        return "1 GPU"
    inside, between = (value / 1e9 for value in (Network().bandwidth_inside, Network().bandwidth))
    ways = f"{inside:g} GB/s inside a node" + (f", {between:g} between nodes" if gpus > GPUS_OF_A_NODE else "")
    return f"{gpus} GPUs ({ways}, assumed)"


def resizing_row(plan: Plan, rates: dict[int, float], source: str) -> Row:
    """The method's fine-tune with progressive resizing, from the images/s measured at each size; not judged by them."""
    hours = plan.resized_hours(rates.__getitem__)
    sizes = " to ".join(str(size) for _, size in SCHEDULE)
    question = f"method, {source}, predicted: {plan.work.epochs} epochs of ImageNet on 1 GPU, {sizes} px"
    return Row(question, hours, "h", f"<= 1 from files; {PAPER}", None, {"images/s by size": rates})


def command(rate: float) -> str:
    """What a person types for the whole table, whose first row is one GPU."""
    return (
        f"lightning-sq plan --config configs/imagenet.yaml --gpus-per-node 1 --images-per-second {rate:.0f} "
        f"--num-images {NUM_IMAGES} --num-validation-images {NUM_VALIDATION_IMAGES} --time-limit 48:00:00"
    )
