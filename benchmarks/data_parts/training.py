"""Whether the loader feeds a training step, for data.py and gpu.py: end to end against one batch in memory."""

from __future__ import annotations

import timm
import torch
from common.harness import Row, usual_device
from common.steps import Step, rate, training_step
from data_parts.cuts import SIZE, dataset_of, order_of
from torch import Tensor

from lightning_sq.data.backends import make_loader
from lightning_sq.data.image_index import ImageIndex
from lightning_sq.data.loader import Loader
from lightning_sq.objectives import Natural

HW_DECODER_LOAD = 0.65
"""Of the images that go to the hardware engine: DALI's own share. `data/dali` says it too, but only where DALI is."""


def training_rows(
    index: ImageIndex, architecture: str, batch_size: int, threads: int, hw_decoder_load: float
) -> list[Row]:
    """The share of the step's own speed that training from files reaches, and what would be needed where it is low."""
    device = torch.device(usual_device())
    loader = training_loader(index, SIZE, batch_size, threads, device, hw_decoder_load=hw_decoder_load)
    model = timm.create_model(architecture).to(device, memory_format=torch.channels_last).train()
    train = training_step(Natural(), model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))

    def step(images: Tensor, labels: Tensor) -> None:
        train(images, labels % model.num_classes)

    rates = end_to_end(loader, step, device, rounds=3)
    share, detail = held_against_memory(rates, threads, hw_decoder_load if device.type == "cuda" else None)
    question = f"{architecture} trained from files against one batch in memory, batch {batch_size}"
    reached = share >= 0.95 if device.type == "cuda" else None
    return [Row(question, share, "times", ">= 0.95 on a GPU", reached, detail)]


def training_loader(
    index: ImageIndex,
    size: int,
    batch_size: int,
    threads: int,
    device: torch.device,
    *,
    hw_decoder_load: float,
    backend: str = "dali",
) -> Loader:
    """Random crops of `size` pixels in full batches; DALI decodes on the GPU where `device` is one, and there
    `hw_decoder_load` is the hardware engine's share.
    """
    order = order_of(len(index), batch_size, train=True)
    gpu = 0 if device.type == "cuda" else None
    dataset = dataset_of(index, train=True, size=size)
    where = {"num_threads": threads, "device_id": gpu, "hw_decoder_load": hw_decoder_load}
    return make_loader(dataset, order, backend=backend, **where)


def end_to_end(loader: Loader, step: Step, device: torch.device, *, rounds: int) -> dict[str, float]:
    """The best images/s of the step from memory and from files, and of the loader alone."""
    first = next(iter(loader))
    first = first._replace(images=first.images.to(device), labels=first.labels.to(device))
    step(first.images, first.labels)  # warms up
    rates = {"memory": [], "files": [], "loader": []}
    for epoch in range(rounds):  # in turn, so that a slow minute slows all of them
        loader.set_epoch(epoch)
        rates["memory"].append(rate([first] * len(loader), step, device))
        rates["files"].append(rate(loader, step, device))
        loader.set_epoch(epoch + rounds)
        rates["loader"].append(rate(loader, None, device))
    return {name: max(values) for name, values in rates.items()}


def held_against_memory(
    rates: dict[str, float], threads: int, hw_decoder_load: float | None
) -> tuple[float, dict[str, float | str]]:
    """(files against memory, the rates with the reason where that is low).

    `hw_decoder_load` is the hardware engine's share, None where nothing is decoded on a GPU.
    """
    memory, files, alone = rates["memory"], rates["files"], rates["loader"]
    share = files / memory
    detail = {"images/s from memory": memory, "images/s from files": files, "images/s of the loader alone": alone}
    if hw_decoder_load is not None:
        detail["--data.hw_decoder_load"] = hw_decoder_load
    if share < 0.95:
        detail["reason"] = (
            f"the loader alone gives {alone:.0f} images/s on {threads} threads and the step takes {memory:.0f}: "
            f"{what_would_feed(memory / alone, threads, hw_decoder_load)}"
            if alone < memory
            else "the loader alone is fast enough: decoding and the step contend for the same processor"
        )
        print(detail["reason"])
    return share, detail


def what_would_feed(times: float, threads: int, hw_decoder_load: float | None) -> str:
    """What makes a loader so many times as fast. On a GPU threads are not all: the rest is the hardware engine's."""
    enough = f"{threads * times:.0f} threads"
    if hw_decoder_load is None:
        return f"{enough} would feed it, or shards of smaller images"
    tune = "which python benchmarks/data.py --tune looks for"
    return f"another share than --data.hw_decoder_load {hw_decoder_load:g} may, {tune}, {enough}, or smaller images"
