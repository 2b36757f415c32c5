"""The quick attack after each validation: on the images that it says, as strong as it says, and no part of training."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_sq.errors import InputError
from lightning_sq.layers import SoftQuantization
from lightning_sq.metrics import one_of_every
from lightning_sq.models import PixelClassifier
from lightning_sq.training.robust_accuracy import RobustAccuracy
from lightning_sq.types import PADDING_INDEX, Batch

# Two pixels; class 1 where the first is the brighter. The margin of each image says which epsilon breaks it.
MARGINS = torch.tensor([0.05, 0.15, 0.25, 0.35])


def linear_model(quantizer=None):
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    parts = OrderedDict(quantize=quantizer) if quantizer is not None else OrderedDict()
    return PixelClassifier(OrderedDict(**parts, backbone=nn.Sequential(nn.Flatten(), layer)))


def images_of(margins):
    return torch.stack([0.5 + margins / 2, 0.5 - margins / 2], 1).view(-1, 1, 1, 2)


def measured(callback, model, batches, num_images, others=(0, 0)):
    logged = {}
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(index=lambda split: range(num_images), batch_size_per_device=2),
        strategy=SimpleNamespace(
            reduce=lambda counts, reduce_op: counts + torch.tensor(others) if reduce_op == "sum" else None
        ),
    )
    module = SimpleNamespace(
        model=model, device=torch.device("cpu"), log=lambda name, value, **options: logged.update({name: value.item()})
    )
    callback.on_validation_epoch_start(trainer, module)
    with torch.inference_mode():
        for number, batch in enumerate(batches):
            callback.on_validation_batch_end(trainer, module, None, batch, number)
        callback.on_validation_epoch_end(trainer, module)
    return logged


def batch_of(margins, indices):
    labels = torch.ones(len(margins), dtype=torch.int64)
    return Batch(images_of(margins), labels, torch.tensor(indices))


@pytest.mark.parametrize(("epsilon", "right"), [(0.01, 1.0), (0.05, 0.75), (0.1, 0.5), (0.15, 0.25), (0.2, 0.0)])
def test_it_finds_the_closed_form_of_a_linear_model(epsilon, right):
    callback = RobustAccuracy(epsilon, num_images=4)
    batches = [batch_of(MARGINS[:2], [0, 1]), batch_of(MARGINS[2:], [2, 3])]
    assert measured(callback, linear_model(), batches, 4) == {"val/robust_top1": right}


def test_a_hard_quantizer_hides_nothing_from_it():
    model = linear_model(SoftQuantization(2, hard=True))
    batches = [batch_of(MARGINS, [0, 1, 2, 3])]
    assert measured(RobustAccuracy(0.01, num_images=4), model, batches, 4) == {"val/robust_top1": 1.0}
    assert measured(RobustAccuracy(0.18, num_images=4), model, batches, 4) == {"val/robust_top1": 0.0}


def test_a_clean_mistake_is_no_robust_image_and_padding_is_none_at_all():
    batches = [batch_of(torch.tensor([-0.3, 0.3, 0.3]), [0, 1, PADDING_INDEX])]
    assert measured(RobustAccuracy(0.01, num_images=2), linear_model(), batches, 2) == {"val/robust_top1": 0.5}


def test_one_image_of_every_n_is_attacked_and_processes_are_counted_together():
    chosen = one_of_every(2, torch.arange(8))
    margins = torch.where(chosen, 0.05, 0.35)  # those that are attacked all break
    callback = RobustAccuracy(0.1, num_images=4)
    found = measured(callback, linear_model(), [batch_of(margins, list(range(8)))], 8, others=(3, 4))
    assert found == {"val/robust_top1": 3 / 8}


def test_no_kernels_are_timed_for_batches_that_shrink_as_images_break(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)  # as by --trainer.benchmark true
    model, seen = linear_model(), []
    model.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.benchmark))
    measured(RobustAccuracy(0.1, num_images=4), model, [batch_of(MARGINS, [0, 1, 2, 3])], 4)
    assert set(seen) == {False}
    assert torch.backends.cudnn.benchmark
    model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measured(RobustAccuracy(0.1, num_images=4), model, [batch_of(MARGINS, [0, 1, 2, 3])], 4)
    assert torch.backends.cudnn.benchmark


def test_bad_input_is_one_sentence():
    with pytest.raises(InputError, match="num_images=0 is not at least 1"):
        RobustAccuracy(num_images=0)
    with pytest.raises(InputError, match="epsilon"):
        RobustAccuracy("8 steps")
