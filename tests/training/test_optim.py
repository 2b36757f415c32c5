from __future__ import annotations

from collections import OrderedDict

import pytest
import timm
import torch
from torch import nn

from lightning_sq.errors import InputError
from lightning_sq.layers import SoftQuantization
from lightning_sq.models import PixelClassifier
from lightning_sq.training.optim import Optimization, make_optimizer, make_schedule, warmup_decay


def test_learning_rate_by_hand():
    rates = [warmup_decay(step, warmup_steps=3, total_steps=7) for step in range(8)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4:] == pytest.approx([0.8535534, 0.5, 0.1464466, 0.0])


def test_a_linear_decay_by_hand():
    rates = [warmup_decay(step, warmup_steps=1, total_steps=5, decay="linear") for step in range(7)]
    assert rates == pytest.approx([0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0])


def test_the_schedule_ends_at_zero_and_stays_there():
    optimizer = make_optimizer(nn.Linear(2, 2), Optimization(base_learning_rate=0.5), global_batch_size=512)
    schedule = make_schedule(optimizer, warmup_steps=0, total_steps=4)
    rates = []
    for _ in range(6):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(1.0)
    assert rates[4:] == pytest.approx([0.0, 0.0])


def test_norms_and_biases_do_not_decay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    decayed, free = make_optimizer(model, Optimization(weight_decay=0.1), global_batch_size=256).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3, 3, 3)]
    assert [tuple(p.shape) for p in free["params"]] == [(4,), (4,), (4,)]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_tokens_and_embeddings_of_places_do_not_decay():
    model = timm.create_model("test_vit", num_classes=2)
    decayed, free = make_optimizer(model, Optimization(), global_batch_size=256).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {"pos_embed", "cls_token"} <= {names[id(parameter)] for parameter in free["params"]}
    assert {names[id(parameter)] for parameter in decayed["params"]} >= {"patch_embed.proj.weight", "head.weight"}
    assert len(names) == len(decayed["params"]) + len(free["params"])


def test_values_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="base_learning_rate=0"):
        Optimization(base_learning_rate=0.0)
    with pytest.raises(InputError, match="warmup_epochs=-1"):
        Optimization(warmup_epochs=-1)
    with pytest.raises(InputError, match=r"momentum=1\.0 is not below 1"):
        Optimization(momentum=1.0, optimizer="adamw")
    with pytest.raises(InputError, match="no optimizer 'adam' here"):
        Optimization(optimizer="adam")
    with pytest.raises(InputError, match="decay='step' is not one of cosine, linear"):
        Optimization(decay="step")


def test_adamw_takes_the_step_of_its_paper_and_decays_weights_alone():
    model = nn.Linear(2, 1)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    optimization = Optimization(base_learning_rate=0.02, momentum=0.8, weight_decay=0.5, optimizer="adamw")
    optimizer = make_optimizer(model, optimization, global_batch_size=128)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["betas"] for group in optimizer.param_groups] == [(0.8, 0.999)] * 2
    model(torch.tensor([[3.0, -4.0]])).backward()
    optimizer.step()
    rate = 0.01  # for 128 of 256 images; the first step of Adam is the gradient's sign
    expected = weight * (1 - rate * 0.5) - rate * torch.tensor([[1.0, -1.0]])
    assert torch.allclose(model.weight, expected, atol=1e-6)
    assert torch.allclose(model.bias, bias - rate, atol=1e-6)


def test_sgd_is_what_is_used_when_nothing_else_is_asked_for():
    assert isinstance(make_optimizer(nn.Linear(2, 2), Optimization(), global_batch_size=256), torch.optim.SGD)


def test_what_a_quantizer_learns_does_not_decay_however_many_dimensions_it_has():
    options = {"learnable_thresholds": True, "learnable_sharpness": True}
    quantizer = SoftQuantization(3, thresholds=[[0.3, 0.6]] * 3, **options)
    model = PixelClassifier(OrderedDict(quantize=quantizer, backbone=nn.Linear(2, 2, bias=False)))
    decayed, free = make_optimizer(model, Optimization(), global_batch_size=256).param_groups
    assert [id(p) for p in decayed["params"]] == [id(model.backbone.weight)]
    assert {id(p) for p in free["params"]} == {id(p) for p in quantizer.parameters()}
    assert any(p.ndim > 1 for p in free["params"])
    assert decayed["nesterov"]


class Temperature(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.log = nn.Parameter(torch.zeros(1, 1))
        self.fixed = nn.Parameter(torch.zeros(1), requires_grad=False)


def test_what_an_objective_learns_is_trained_without_decay_and_what_it_shares_with_the_model_once():
    model = nn.Linear(2, 2)
    objective = Temperature(model)
    optimizer = make_optimizer(model, Optimization(), global_batch_size=256, objective=objective)
    decayed, free = (group["params"] for group in optimizer.param_groups)
    assert [id(p) for p in decayed] == [id(model.weight)]
    assert [id(p) for p in free] == [id(model.bias), id(objective.log)]
