"""The line that a fit ends with."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lightning_sq.commands.evaluate_options import parse
from lightning_sq.objectives import Adversarial, Natural
from lightning_sq.training.result import result_line
from lightning_sq.training.robust_accuracy import RobustAccuracy

RUN = Path("runs/my run")
CHECKPOINT = "runs/my run/checkpoints/last.ckpt"


def line(metrics=(), callbacks=(), objective=None) -> str:
    trainer = SimpleNamespace(
        callback_metrics={f"val/{name}": torch.tensor(value) for name, value in metrics},
        callbacks=list(callbacks),
        datamodule=SimpleNamespace(root=Path("data/some digits")),
        lightning_module=SimpleNamespace(objective=objective or Natural()),
    )
    return result_line(trainer, RUN)


def test_it_has_the_accuracies_of_the_last_validation_as_far_as_they_were_measured():
    metrics = [("clean_top1", 0.91234), ("loss", 1.0)]
    assert line().startswith(f"{CHECKPOINT}. To attack it: lightning-sq evaluate ")
    assert line(metrics).startswith(f"{CHECKPOINT}, last validated: clean top-1 0.912. To attack it: ")
    found = line([*metrics, ("robust_top1", 0.5)])
    assert found.startswith(f"{CHECKPOINT}, last validated: clean top-1 0.912, robust top-1 0.500. To attack")


@pytest.mark.parametrize(
    ("callbacks", "objective", "epsilon"),
    [
        ((), Natural(), "8/255"),
        ((), Adversarial(epsilon="4/255"), "4/255"),
        ((), Adversarial(epsilon=0.2), "0.2"),
        ((RobustAccuracy(epsilon=0.1),), Adversarial(epsilon="4/255"), "0.1"),
    ],
)
def test_its_command_is_one_that_can_be_typed(callbacks, objective, epsilon):
    words = shlex.split(line((), callbacks, objective).partition("To attack it: ")[2])
    assert words[:2] == ["lightning-sq", "evaluate"]
    options = parse(words[2:])
    assert list(options.models.values()) == [str(RUN / "checkpoints/last.ckpt")]
    assert (str(options.data), options.epsilon) == ("data/some digits", epsilon)
    assert options.output == RUN / "robustness"
