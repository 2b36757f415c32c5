"""What does a training step cost under each objective?   python benchmarks/objectives.py [--architecture resnet18]

All objectives train the same network behind the same quantizer on one batch in memory, in turn; a ratio is against the
natural step. On a GPU in bf16 with channels_last.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from common.harness import Row, report, seconds_of
from common.steps import training_step

from lightning_sq import objectives as o
from lightning_sq.models import ModelConfig, QuantizerConfig, build_model

EPSILON = 4 / 255
SEARCH: dict[str, Any] = {
    "epsilon": EPSILON,
    "select": "hardest",
    "num_others": 9,
    "num_refined": 24,
    "halve_after": (5, 10, 18),
}
"""Of the recipes on MNIST."""


def candidates() -> dict[str, o.Objective]:
    """Name -> objective; free-4 is one of its four replays, so an image costs four of them."""
    return {
        "natural": o.Natural(),
        "noisy natural": o.NoisyNatural(epsilon=EPSILON),
        "noisy natural, hardest of 4": o.NoisyNatural(epsilon=EPSILON, num_draws=4, select="hardest"),
        "noisy natural, hardest of 5 to 34, refined": o.NoisyNatural(**SEARCH),
        "noisy natural, hardest of 5 to 34, refined, 32 flips": o.NoisyNatural(**SEARCH, num_flips=32),
        "FGSM-RS": o.FGSMRS(EPSILON),
        "free (one replay)": o.FreeAdversarial(EPSILON),
        "PGD-4 in the quantized box": o.BoxAdversarial(EPSILON),
        "PGD-7": o.Adversarial(EPSILON, num_steps=7),
        "PGD-40": o.Adversarial(EPSILON, num_steps=40),
        "gradient penalty, double backward": o.GradientPenalty(EPSILON),
        "gradient penalty, finite difference": o.GradientPenalty(EPSILON, method="finite_difference"),
        "interval bounds": o.IntervalBound(EPSILON, warmup_steps=0, ramp_steps=1),
    }


def stepper(objective: o.Objective, options: argparse.Namespace, device: torch.device) -> Callable[[], None]:
    """One training step of a fresh network, ready to be called."""
    names = tuple(str(i) for i in range(1000))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    size = options.image_size
    config = ModelConfig(options.architecture, names, mean, std, size, size, QuantizerConfig(16, 200.0))
    model = build_model(config).to(device, memory_format=torch.channels_last).train()
    objective.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    images = torch.rand(options.batch_size, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (options.batch_size,), device=device)

    step = training_step(objective, model, optimizer)
    return lambda: step(images, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    gpu = torch.cuda.is_available()
    parser.add_argument("--architecture", default="resnet50" if gpu else "resnet18")
    parser.add_argument("--image-size", type=int, default=224 if gpu else 64)
    parser.add_argument("--batch-size", type=int, default=256 if gpu else 16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    device = torch.device("cuda" if gpu else "cpu")
    times = seconds_of(
        {name: stepper(objective, options, device) for name, objective in candidates().items()},
        rounds=options.rounds,
        warmup=1,
    )
    natural = times["natural"]
    rows = [Row("natural step", options.batch_size / natural, "images/s", detail=times)]
    for name, seconds in times.items():
        if name != "natural":
            ratio = seconds / natural
            bounded = name == "noisy natural"
            rows.append(
                Row(f"{name} step against natural", ratio, "times", "<= 1.05" if bounded else "reported",
                    ratio <= 1.05 if bounded else None)
            )  # fmt: skip
    skipped = [] if gpu else ["the rows of a CUDA GPU (ResNet-50 at 224 px, bf16): there is none here"]
    report("objectives", rows, skipped=skipped, settings=vars(options) | {"epsilon": EPSILON})


if __name__ == "__main__":
    main()
