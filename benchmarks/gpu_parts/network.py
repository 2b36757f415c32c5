"""The network that benchmarks/gpu.py trains: one backbone for all objectives, each behind its recipe's front end."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
import yaml
from common.harness import CONFIGS
from common.steps import Step, training_step
from torch import Tensor, nn

from lightning_sq import objectives
from lightning_sq.layers import Normalize, SoftQuantization
from lightning_sq.models import QuantizerConfig
from lightning_sq.models.backbone import create_backbone, pretrained_normalization
from lightning_sq.training.optim import Optimization, make_optimizer

CLASSES = 1000
SMALL_RATE = 1e-4
"""In the place of a recipe's: so many steps on one batch of random labels would end in numbers that are not finite."""


class Way(NamedTuple):
    """An objective with the quantizer that stands before the network, if any."""

    objective: objectives.Objective
    quantizer: QuantizerConfig | None


def recipe(name: str) -> dict[str, Any]:
    """A file of configs/ as plain values."""
    return yaml.safe_load((CONFIGS / name).read_text())


def ways() -> dict[str, Way]:
    """Name -> what is minimised, from the ImageNet recipes; free-m is one of its m replays: an image costs m of them.

    Free and PGD-7 have no recipe there: they take budget, smoothing and quantizer of FGSM-RS.
    """
    found = {"natural": "imagenet_natural.yaml", "method": "imagenet.yaml", "FGSM-RS": "imagenet_fgsm_rs.yaml"}
    made = {name: _way(recipe(file)["model"]) for name, file in found.items()}
    quantizer = made["FGSM-RS"].quantizer
    options = recipe(found["FGSM-RS"])["model"]["objective"]["init_args"]
    made["free (one replay)"] = Way(objectives.FreeAdversarial(**options), quantizer)
    made["PGD-7"] = Way(objectives.Adversarial(num_steps=7, **options), quantizer)
    return made


def _way(model: dict[str, Any]) -> Way:
    kind = getattr(objectives, model["objective"]["class_path"].rpartition(".")[2])
    quantizer = QuantizerConfig(**model["quantizer"]) if model.get("quantizer") else None
    return Way(kind(**model["objective"].get("init_args", {})), quantizer)


class Network:
    """A backbone with its optimizer, and for each way the step that trains it, as it is or compiled.

    Compiled are the front end and the backbone, each in one graph: the tensor between them has to be written anyhow,
    and so each can be timed.

    Args:
        options: `architecture` and `backend`, torch.compile's.
        device: Where it is trained.
    """

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.device, self.backend = device, options.backend
        self._batch: tuple[Tensor, Tensor] | None = None
        self.ways = ways()
        backbone = create_backbone(options.architecture, CLASSES)
        self.parameters = sum(parameter.numel() for parameter in backbone.parameters())
        self.backbone = backbone.to(device, memory_format=torch.channels_last).train()
        optimization = Optimization(**recipe("imagenet.yaml")["model"]["optimization"])
        optimization = replace(optimization, base_learning_rate=SMALL_RATE)
        self.optimizer = make_optimizer(self.backbone, optimization, global_batch_size=256)
        normalize = Normalize(*pretrained_normalization(options.architecture, 3)).to(device)
        self._models = {way.quantizer: _behind(way.quantizer, normalize, self.backbone) for way in self.ways.values()}
        self._compiled = {quantizer: self._compile(model) for quantizer, model in self._models.items()}
        for way in self.ways.values():
            way.objective.to(device).train().seed(0, 0)

    def model(self, name: str, *, compiled: bool) -> nn.Sequential:
        """`front_end` and `backbone` of one way; the weights are the same for all."""
        return (self._compiled if compiled else self._models)[self.ways[name].quantizer]

    def _compile(self, model: nn.Sequential) -> nn.Sequential:
        options = {"fullgraph": True, "dynamic": False, "backend": self.backend}
        return nn.Sequential(
            OrderedDict((name, torch.compile(part, **options)) for name, part in model.named_children())
        )

    def graph_of(self, name: str) -> str:
        """Which of the backbone's graphs a way needs besides that of plain training; those of one kind share it."""
        objective = self.ways[name].objective
        if isinstance(objective, objectives.Adversarial):
            return "the gradient of the images, and no running statistics"
        return "the gradient of the images" if isinstance(objective, objectives.FreeAdversarial) else "plain"

    def objective(self, name: str, *, compiled: bool) -> objectives.Objective:
        """Of one way; where the network is compiled, its attack leaves the weights' gradients out."""
        objective = self.ways[name].objective
        attacks = compiled and isinstance(objective, objectives.Adversarial)
        return _with_fixed_weights(objective, self.backbone) if attacks else objective

    def step(self, name: str, *, compiled: bool) -> Step:
        """Trains by one way."""
        objective, model = self.objective(name, compiled=compiled), self.model(name, compiled=compiled)
        return training_step(objective, model, self.optimizer)

    def batch(self, batch_size: int, size: int) -> tuple[Tensor, Tensor]:
        """Random (images, labels) as a loader gives them; one for all ways, so that memory's peak is with one alone."""
        if self._batch is None or self._batch[0].shape != (batch_size, 3, size, size):
            self._batch = None  # before another is made
            images = torch.rand(batch_size, 3, size, size, device=self.device)
            self._batch = images, torch.randint(0, CLASSES, (batch_size,), device=self.device)
        return self._batch

    def trains(self, name: str, batch_size: int, size: int, *, compiled: bool) -> Callable[[], None]:
        """The step of one way on one batch in memory."""
        step, (images, labels) = self.step(name, compiled=compiled), self.batch(batch_size, size)
        return lambda: step(images, labels)


def _with_fixed_weights(objective: objectives.Adversarial, backbone: nn.Module) -> objectives.Adversarial:
    """The same objective, whose attack asks for no gradient of the weights.

    Of an eager pass autograd computes what is asked for, here the images' gradient. The backward pass of a compiled one
    is written when it is compiled, and computes the gradients of all that require one: half as much again.
    """
    fixed = copy(objective)  # buffers and random streams are shared

    def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        backbone.requires_grad_(False)
        try:
            return objective.attack(model, images, labels)
        finally:
            backbone.requires_grad_(True)

    fixed.attack = attack
    return fixed


def _behind(quantizer: QuantizerConfig | None, normalize: nn.Module, backbone: nn.Module) -> nn.Sequential:
    parts = [] if quantizer is None else [SoftQuantization(**asdict(quantizer))]
    return nn.Sequential(OrderedDict(front_end=nn.Sequential(*parts, normalize), backbone=backbone))


def compile_many() -> None:
    """Forget the graphs, and allow one for each objective and size; one too many is an error, not a slow step."""
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True
