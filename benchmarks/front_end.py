"""What does everything before the network cost?   python benchmarks/front_end.py [--rounds 15]

The front end is noise -> clip -> quantize -> normalise -> cast -> channels_last from uint8 pixels, compiled. It is held
against the training step of the network that it feeds, and the quantizer of 256 levels against that of 2.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import timm
import torch
from harness import Row, report, seconds_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_sq.layers import Normalize, SoftQuantization
from lightning_sq.ops.noise import uniform_noise

FrontEnd = Callable[[Tensor], Tensor]
RELATIVE_SHARPNESS = 30.0
"""Sharpness times step: each stair is equally steep whatever the number of levels."""


def quantizer_rows(rounds: int, device: str) -> list[Row]:
    x = torch.rand(64, 3, 224, 224, device=device)

    def run(num_levels: int) -> Callable[[], Tensor]:
        layer = SoftQuantization(num_levels, RELATIVE_SHARPNESS * (num_levels - 1))
        quantize = torch.compile(layer, fullgraph=True)
        return lambda: quantize(x)

    def full_sum() -> Tensor:
        step = 1 / 255
        total = torch.zeros_like(x)
        for k in range(1, 256):
            total += torch.sigmoid(RELATIVE_SHARPNESS * 255 * (x - (k - 0.5) * step))
        return total * step

    candidates = {"2 levels": run(2), "256 levels": run(256)}
    times = seconds_of(candidates, rounds=rounds) | seconds_of({"full sum": full_sum}, rounds=1, warmup=0)
    ratio = times["256 levels"] / times["2 levels"]
    return [
        Row("quantizer, 256 levels against 2", ratio, "times", "<= 1.1", ratio <= 1.1, times),
        Row("the full sum of 256 levels against 2", times["full sum"] / times["2 levels"], "times"),
    ]


def front_ends(num_levels: int, epsilon: float, dtype: torch.dtype, device: str) -> dict[str, FrontEnd]:
    """uint8 NCHW pixels to the network's input, in one graph, with the noise drawn inside it or before it."""
    quantize = SoftQuantization(num_levels, RELATIVE_SHARPNESS * (num_levels - 1))
    normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).to(device)
    generator = torch.Generator(device).manual_seed(0)

    def rest(pixels: Tensor, noise: Tensor) -> Tensor:
        x = quantize((pixels.float() / 255 + noise).clamp(0, 1))
        return normalize(x).to(dtype).contiguous(memory_format=torch.channels_last)

    inside = torch.compile(lambda p: rest(p, (torch.rand(p.shape, device=p.device) * 2 - 1) * epsilon), fullgraph=True)
    after = torch.compile(rest, fullgraph=True)
    return {
        "noise drawn inside": inside,
        "noise drawn by its generator": lambda p: after(p, uniform_noise(p, epsilon=epsilon, generator=generator)),
    }


def train_step(architecture: str, x: Tensor, labels: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    model: nn.Module = timm.create_model(architecture).to(x.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def run() -> None:
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def front_end_rows(rounds: int, device: str) -> list[Row]:
    gpu = device == "cuda"
    batch, architecture, dtype = (256, "resnet50", torch.bfloat16) if gpu else (64, "resnet18", torch.float32)
    limit = 0.01 if gpu else 0.02
    pixels = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 1000, (batch,), device=device)
    ways = front_ends(16, 8 / 255, dtype, device)
    step = train_step(architecture, next(iter(ways.values()))(pixels), labels, dtype)
    times = seconds_of(
        {name: lambda run=run: run(pixels) for name, run in ways.items()} | {"train step": step}, rounds=rounds
    )
    rows = []
    fit = "noise drawn inside" if gpu else "noise drawn by its generator"  # a GPU's draws need no pass over memory
    for name in ways:
        share = times[name] / times["train step"]
        question = f"front end, {name}, against a {architecture} step, batch {batch} at 224 px, {str(dtype)[6:]}"
        bounded = name == fit
        to_reach = f"<= {100 * limit:g} %" if bounded else "reported"
        rows.append(Row(question, 100 * share, "%", to_reach, share <= limit if bounded else None))
    rows[0].detail = times
    moved = pixels.numel() * (1 + dtype.itemsize)
    source = torch.empty(2**28, dtype=torch.uint8, device=device)
    copied = seconds_of({"copy": source.clone}, rounds=rounds)["copy"]
    bandwidth, measured = 2 * source.numel() / copied, moved / times[fit]
    rows.append(
        Row(
            f"front end's bandwidth, {fit}, against a plain copy's",
            100 * measured / bandwidth,
            "%",
            ">= 60 % on a GPU",
            measured >= 0.6 * bandwidth if gpu else None,
            {"bytes that have to move": moved, "copy bytes a second": bandwidth},
        )
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = quantizer_rows(options.rounds, device) + front_end_rows(options.rounds, device)
    skipped = [] if device == "cuda" else ["the rows of a CUDA GPU (ResNet-50, bf16): there is none here"]
    report("front_end", rows, skipped=skipped, settings=vars(options) | {"relative_sharpness": RELATIVE_SHARPNESS})


if __name__ == "__main__":
    main()
