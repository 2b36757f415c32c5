"""What Lightning's Trainer offers and a run cannot have."""

from __future__ import annotations

import pytest
from lightning.pytorch import Trainer

from lightning_sq.errors import InputError
from lightning_sq.models import ModelConfig, build_model
from lightning_sq.objectives import IntervalBound, Natural, Objective
from lightning_sq.training.module import ClassifierModule
from lightning_sq.training.optim import Optimization
from lightning_sq.training.trainer_options import check_sync_batchnorm


def module(architecture: str, objective: Objective) -> ClassifierModule:
    config = ModelConfig(architecture, ("a", "b"), (0.0,) * 3, (1.0,) * 3, 32, 32, None)
    return ClassifierModule(build_model(config), objective, Optimization())


def trainer(devices: int = 2, *, sync: bool = True) -> Trainer:
    strategy = "auto" if devices == 1 else "ddp"
    return Trainer(accelerator="cpu", devices=devices, strategy=strategy, sync_batchnorm=sync, logger=False)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
@pytest.mark.parametrize(
    ("architecture", "objective", "sentence"),
    [
        ("efficientnet_b0", Natural(), "of every BatchNormAct2d of efficientnet_b0, and leaves out the activation"),
        ("test_resnet", IntervalBound(0.1), "no part in the bounds of IntervalBound"),
    ],
)
def test_norms_over_all_processes_are_refused_where_another_function_would_be_trained(
    architecture, objective, sentence
):
    with pytest.raises(InputError, match=f"^--trainer.sync_batchnorm .*{sentence}.*Leave it out"):
        check_sync_batchnorm(trainer(), module(architecture, objective))
    check_sync_batchnorm(trainer(sync=False), module(architecture, objective))
    check_sync_batchnorm(trainer(devices=1), module(architecture, objective))  # where nothing is changed
    check_sync_batchnorm(trainer(), module("test_resnet", Natural()))
