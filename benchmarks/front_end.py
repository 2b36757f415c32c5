"""What does everything before the network cost?   python benchmarks/front_end.py [--rounds 15]

The front end is noise -> clip -> quantize -> normalise -> cast -> channels_last from uint8 pixels, compiled. It is held
against the training step of the network that it feeds, and the quantizer of 256 levels against that of 2.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import timm
import torch
from common.harness import Row, report, seconds_of, usual_device
from common.steps import training_step
from torch import Tensor

from lightning_sq.layers import Normalize, SoftQuantization
from lightning_sq.objectives import Natural
from lightning_sq.ops.noise import uniform_noise

FrontEnd = Callable[[Tensor], Tensor]
RELATIVE_SHARPNESS = 30.0
"""Sharpness times step: each stair is equally steep whatever the number of levels."""
GPU_TIMES = 50
"""Calls of a quantizer that a GPU gets in a row: one of them may take less time than its launch."""


def quantizer_rows(rounds: int, device: str) -> list[Row]:
    """256 levels against 2, and against their full sum; on a GPU over eight batches at once, `GPU_TIMES` in a row."""
    times, many = (GPU_TIMES, 8) if device == "cuda" else (1, 1)
    x = torch.rand(many * 64, 3, 224, 224, device=device)

    def run(num_levels: int) -> Callable[[], Tensor]:
        layer = SoftQuantization(num_levels, RELATIVE_SHARPNESS * (num_levels - 1))
        quantize = torch.compile(layer, fullgraph=True)
        return in_a_row(lambda: quantize(x), times)

    def full_sum() -> Tensor:
        step = 1 / 255
        total = torch.zeros_like(x)
        for k in range(1, 256):
            total += torch.sigmoid(RELATIVE_SHARPNESS * 255 * (x - (k - 0.5) * step))
        return total * step

    candidates = {"2 levels": run(2), "256 levels": run(256)}
    seconds = {name: value / times for name, value in seconds_of(candidates, rounds=rounds).items()}
    seconds |= seconds_of({"full sum": full_sum}, rounds=1, warmup=1)
    ratio = seconds["256 levels"] / seconds["2 levels"]
    return [
        Row("quantizer, 256 levels against 2", ratio, "times", "<= 1.1", ratio <= 1.1, seconds),
        Row("the full sum of 256 levels, not compiled, against 2", seconds["full sum"] / seconds["2 levels"], "times"),
    ]


def front_ends(
    num_levels: int, epsilon: float, dtype: torch.dtype, device: str, backend: str = "inductor"
) -> dict[str, FrontEnd]:
    """uint8 NCHW pixels to the network's input, in one graph, with the noise drawn inside it or before it."""
    quantize = SoftQuantization(num_levels, RELATIVE_SHARPNESS * (num_levels - 1))
    normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).to(device)
    generator = torch.Generator(device).manual_seed(0)

    def rest(pixels: Tensor, noise: Tensor) -> Tensor:
        x = quantize((pixels.float() / 255 + noise).clamp(0, 1))
        return normalize(x).to(dtype).contiguous(memory_format=torch.channels_last)

    def drawing(pixels: Tensor) -> Tensor:
        return rest(pixels, (torch.rand(pixels.shape, device=pixels.device) * 2 - 1) * epsilon)

    how = {"fullgraph": True, "dynamic": False, "backend": backend}
    inside = torch.compile(drawing, **how)
    after = torch.compile(rest, **how)
    return {
        "noise drawn inside": inside,
        "noise drawn by its generator": lambda p: after(p, uniform_noise(p, epsilon=epsilon, generator=generator)),
    }


def train_step(architecture: str, x: Tensor, labels: Tensor) -> Callable[[], None]:
    model = timm.create_model(architecture).to(x.device, memory_format=torch.channels_last)
    step = training_step(Natural(), model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))
    return lambda: step(x, labels)


def in_a_row(run: Callable[[], object], times: int) -> Callable[[], None]:
    """`run` so often with nobody waiting between: a GPU then never waits for Python, which takes longer than a copy."""

    def runs() -> None:
        for _ in range(times):
            run()

    return runs


def copy_bandwidth(device: str, rounds: int) -> float:
    """Bytes a second that a plain copy reads and writes, between memory that has been written to before."""
    num_bytes = 2**28
    source, target = (torch.ones(num_bytes, dtype=torch.uint8, device=device) for _ in range(2))
    times = 10 if device == "cuda" else 1
    copies = in_a_row(lambda: target.copy_(source), times)
    return 2 * num_bytes * times / seconds_of({"copy": copies}, rounds=rounds)["copy"]


def front_end_rows(
    rounds: int, device: str, architecture: str, batch: int, size: int = 224, backend: str = "inductor"
) -> list[Row]:
    """The front end against the training step that it feeds, and its bandwidth against a plain copy's."""
    gpu = device == "cuda"
    dtype, limit = (torch.bfloat16, 0.01) if gpu else (torch.float32, 0.02)
    pixels = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 1000, (batch,), device=device)
    ways = front_ends(16, 8 / 255, dtype, device, backend)
    step = train_step(architecture, next(iter(ways.values()))(pixels), labels)
    times = seconds_of(
        {name: lambda run=run: run(pixels) for name, run in ways.items()} | {"train step": step}, rounds=rounds
    )
    rows = []
    fit = "noise drawn inside" if gpu else "noise drawn by its generator"  # a GPU's draws need no pass over memory
    for name in ways:
        share = times[name] / times["train step"]
        question = f"front end, {name}, against a {architecture} step, batch {batch} at {size} px, {str(dtype)[6:]}"
        bounded = name == fit
        to_reach = f"<= {100 * limit:g} %" if bounded else "reported"
        rows.append(Row(question, 100 * share, "%", to_reach, share <= limit if bounded else None))
    rows[0].detail = times
    return [*rows, bandwidth_row(fit, ways[fit], pixels, dtype, rounds)]


def bandwidth_row(name: str, run: FrontEnd, pixels: Tensor, dtype: torch.dtype, rounds: int) -> Row:
    """Bytes a second of a front end against a plain copy's; on a GPU over eight batches at once, ten in a row."""
    gpu = pixels.is_cuda
    times, many = (10, pixels.repeat(8, 1, 1, 1)) if gpu else (1, pixels)
    moved = many.numel() * (1 + dtype.itemsize)
    measured = moved * times / seconds_of({name: in_a_row(lambda: run(many), times)}, rounds=rounds)[name]
    bandwidth = copy_bandwidth(pixels.device.type, rounds)
    return Row(
        f"front end's bandwidth, {name}, against a plain copy's",
        100 * measured / bandwidth,
        "%",
        ">= 60 % on a GPU",
        measured >= 0.6 * bandwidth if gpu else None,
        {"bytes that have to move": moved, "bytes a second": measured, "copy bytes a second": bandwidth},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    device = usual_device()
    architecture, batch = ("resnet50", 256) if device == "cuda" else ("resnet18", 64)
    rows = quantizer_rows(options.rounds, device)
    rows += front_end_rows(options.rounds, device, architecture, batch)
    skipped = [] if device == "cuda" else ["the rows of a CUDA GPU (ResNet-50, bf16): there is none here"]
    report("front_end", rows, skipped=skipped, settings=vars(options) | {"relative_sharpness": RELATIVE_SHARPNESS})


if __name__ == "__main__":
    main()
