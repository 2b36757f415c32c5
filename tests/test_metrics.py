from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_sq.metrics import input_gradient_l1, one_of_every


def test_input_gradient_of_a_linear_model_by_hand():
    # logits (w x, 0): CE for label 0 is log(1 + e^{-w x}), its gradient -w sigma(-w x)
    weight = torch.tensor([[1.0, -2.0, 3.0, 0.5]])
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.cat([weight, torch.zeros_like(weight)]))
    images = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(1, 1, 2, 2)
    z = (weight.flatten() * images.flatten()).sum()
    expected = torch.sigmoid(-z) * weight.abs().sum()
    with torch.inference_mode():
        measured = input_gradient_l1(model, images, torch.tensor([0]))
    assert measured.item() == pytest.approx(expected.item(), rel=1e-5)


def test_each_image_is_measured_by_itself():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images, labels = torch.rand(5, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    together = input_gradient_l1(model, images, labels)
    alone = torch.cat([input_gradient_l1(model, images[i : i + 1], labels[i : i + 1]) for i in range(5)])
    assert torch.allclose(together, alone, rtol=1e-4)


@pytest.mark.parametrize("every", [1, 2, 3, 39, 100, 195])
def test_the_chosen_ones_are_one_of_each_block_and_spread_over_processes_that_take_turns(every):
    blocks = 400
    indices = torch.arange(every * blocks)
    chosen = one_of_every(every, indices)
    assert (chosen.view(blocks, every).sum(1) == 1).all()
    for world_size in (2, 4, 7, 8):
        of_each = torch.bincount(indices[chosen] % world_size, minlength=world_size)
        assert of_each.min() > 0.5 * blocks / world_size
        assert of_each.max() < 1.5 * blocks / world_size
