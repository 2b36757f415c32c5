"""Whether DALI decodes the images that PIL does, for data.py and gpu.py: validation images of both, pixel by pixel."""

from __future__ import annotations

from common.harness import Row
from data_parts.cuts import SIZE, dataset_of, order_of
from torch import Tensor

from lightning_sq.data.backends import Backend, make_loader, read_all
from lightning_sq.data.image_index import ImageIndex

MOST_APART, WORST_APART = 2, 5
"""/255, on average and in the worst image: a wrong colour space is tens apart, a crop 3 pixels off above 6."""


def validation_images(
    index: ImageIndex,
    backend: Backend,
    *,
    batch_size: int,
    threads: int,
    size: int = SIZE,
    device_id: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(images (N, 3, size, size) in [0, 1] on the CPU, labels): all of `index`, in its order."""
    order = order_of(len(index), batch_size, train=False)
    dataset = dataset_of(index, train=False, size=size)
    return read_all(make_loader(dataset, order, backend=backend, num_threads=threads, device_id=device_id))


def pixels_row(question: str, index: ImageIndex, images: Tensor, others: Tensor) -> Row:
    """How far two readings of `index` are apart on average, and in the image in which they are furthest."""
    apart = 255 * (images - others).abs().mean(dim=(1, 2, 3))
    mean, worst = apart.mean().item(), int(apart.argmax())
    most = apart[worst].item()
    detail = {"images": len(index), "worst image": index.paths[worst], "apart in it, of 255": most}
    reached = mean <= MOST_APART and most <= WORST_APART
    return Row(question, mean, "/255", f"<= {MOST_APART}, and <= {WORST_APART} in each image", reached, detail)
