from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lightning_sq.data.dali import DaliLoader
from lightning_sq.data.datamodule import ImageFolderData
from lightning_sq.errors import InputError
from lightning_sq.models import ModelConfig, build_model
from lightning_sq.training.resizing import ProgressiveResizing


def data_of(folder, backend: str = "dali") -> ImageFolderData:
    threads = 1 if backend == "dali" else 0
    return ImageFolderData(str(folder), backend, image_size=32, batch_size_per_device=16, num_threads=threads)


def epoch_of(loader, epoch: int) -> torch.Tensor:
    loader.set_epoch(epoch)
    return torch.cat([batch.images for batch in loader])


@pytest.mark.parametrize("backend", ["dali", "torchvision"])
def test_each_epoch_has_its_size_in_one_loader_and_the_pixels_of_a_loader_of_that_size(few_digits, backend):
    data = data_of(few_digits, backend)
    data.resize_progressively([(0, 16), (2, 24), (3, 32)])
    loader = data.loader("train")
    for epoch, size in ((0, 16), (1, 16), (2, 24), (3, 32), (9, 32), (1, 16)):
        fixed = data_of(few_digits, backend)
        fixed.image_size = size
        assert torch.equal(epoch_of(loader, epoch), epoch_of(fixed.loader("train"), epoch))
    assert next(iter(data.loader("val"))).images.shape[-1] == 32


def test_a_pipeline_that_finishes_its_images_as_on_a_gpu_takes_the_sizes_too(few_digits, monkeypatch):
    data = data_of(few_digits)
    data.resize_progressively([(0, 16), (1, 24)])
    behind = data.loader("train")
    expected = [epoch_of(behind, epoch) for epoch in (0, 1)]
    monkeypatch.setattr(DaliLoader, "_finishes", True)
    within = data.loader("train")
    for epoch in (0, 1):
        images = epoch_of(within, epoch)
        assert images.shape == expected[epoch].shape
        assert (images - expected[epoch]).abs().mean() <= 0.3 / 255


def test_a_position_inside_an_epoch_of_another_size_is_put_back(few_digits):
    data = data_of(few_digits)
    data.resize_progressively([(0, 16), (1, 24)])
    first, second = data.loader("train"), data.loader("train")
    expected = epoch_of(first, 1)[32:]
    iterator = iter(first)
    next(iterator), next(iterator)
    second.load_state_dict(first.state_dict())
    assert torch.equal(epoch_of(second, 1), expected)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        *((sizes, "do not rise from 0") for sizes in ([], [(1, 16)], [(0, 16), (0, 24)], [(0, 16), (3, 24), (2, 32)])),
        ([(0, 0)], "image_size=0"),
    ],
)
def test_a_list_that_cannot_be_is_refused(few_digits, sizes, message):
    data = data_of(few_digits)
    with pytest.raises(InputError, match=message):
        data.resize_progressively(sizes)


def test_images_in_memory_are_not_resized(few_digits):
    data = ImageFolderData(str(few_digits), "memory", 32)
    with pytest.raises(InputError, match="takes images as they are"):
        data.resize_progressively([(0, 16)])


def test_pairs_are_wanted():
    with pytest.raises(InputError, match=r"Write \[\[0, 128\], \[6, 224\]\]"):
        ProgressiveResizing([[0, 128, 3]])


def test_a_size_that_the_model_does_not_take_is_refused_before_training(few_digits):
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    model = build_model(ModelConfig("vit_tiny_patch16_224", ("a", "b"), mean, std, 224, 224, None))
    trainer, module = SimpleNamespace(datamodule=data_of(few_digits)), SimpleNamespace(model=model)
    with pytest.raises(InputError, match="vit_tiny_patch16_224 takes no images of 128 x 128 pixels"):
        ProgressiveResizing([[0, 128], [3, 224]]).setup(trainer, module, "fit")
    ProgressiveResizing([[0, 224]]).setup(trainer, module, "fit")
