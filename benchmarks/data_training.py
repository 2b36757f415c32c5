"""Whether the loader feeds a training step, for benchmarks/data.py: end to end against one batch in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator

import timm
import torch
from data_loaders import DaliLoader, dataset_of, order_of
from harness import Row, synchronize
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_sq.data.image_index import ImageIndex
from lightning_sq.types import Batch


def training_rows(index: ImageIndex, architecture: str, batch_size: int, threads: int) -> list[Row]:
    """The share of the step's own speed that training from files reaches, and what would be needed where it is low."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = 0 if device.type == "cuda" else None
    order = order_of(len(index), batch_size, train=True)
    loader = DaliLoader(dataset_of(index, train=True), order, num_threads=threads, device_id=gpu)
    step = _stepper(architecture, device)
    first = next(iter(loader))
    step(first.images, first.labels.to(device))  # warms up
    rates = {"memory": [], "files": [], "loader": []}
    for epoch in range(3):  # in turn, so that a slow minute slows all of them
        loader.set_epoch(epoch)
        rates["memory"].append(_rate(iter([first] * len(order.epoch(0))), step, device))
        rates["files"].append(_rate(iter(loader), step, device))
        loader.set_epoch(epoch + 3)
        rates["loader"].append(_rate(iter(loader), None, device))
    memory, files, alone = (max(values) for values in rates.values())
    share = files / memory
    detail = {"images/s from memory": memory, "images/s from files": files, "images/s of the loader alone": alone}
    if share < 0.95:
        detail["reason"] = (
            f"the loader alone gives {alone:.0f} images/s on {threads} threads and the step takes {memory:.0f}: "
            f"{threads * memory / alone:.0f} threads would feed it, or shards of smaller images"
            if alone < memory
            else "the loader alone is fast enough: decoding and the step contend for the same processor"
        )
        print(detail["reason"])
    question = f"{architecture} trained from files against one batch in memory, batch {batch_size}"
    return [Row(question, share, "times", ">= 0.95 on a GPU", share >= 0.95 if gpu is not None else None, detail)]


def _stepper(architecture: str, device: torch.device):
    model = timm.create_model(architecture).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(images: Tensor, labels: Tensor) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(images.contiguous(memory_format=torch.channels_last))
            loss = cross_entropy(logits, labels % logits.shape[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _rate(batches: Iterator[Batch], step, device: torch.device) -> float:
    synchronize()
    began, count = time.perf_counter(), 0
    for batch in batches:
        if step is not None:
            step(batch.images, batch.labels.to(device, non_blocking=True))
        count += len(batch.labels)
    synchronize()
    return count / (time.perf_counter() - began)
