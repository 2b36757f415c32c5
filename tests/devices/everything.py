"""Every objective, every attack and a whole training on a device that is not the CPU.

`python -m tests.devices.everything objectives`, `attacks`, `places`, `plan`, `training FOLDER`, or `refusals`: on an
emulated device, or on a real one with LIGHTNING_SQ_TEST_DEVICE=cuda before it. There, what needs a library that is not
installed is skipped by name.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

REAL = os.environ.get("LIGHTNING_SQ_TEST_DEVICE")
if REAL:
    NAME, Device = REAL, nullcontext
else:
    from tests.devices.emulated import NAME, install
    from tests.devices.emulated import Emulated as Device

    install()  # before the package takes torch.Generator

import torch  # noqa: E402
from PIL import Image  # noqa: E402

from lightning_sq import objectives  # noqa: E402
from lightning_sq.attacks import AutoAttackStage, MixedInteger  # noqa: E402
from lightning_sq.errors import InputError  # noqa: E402
from lightning_sq.evaluation import evaluate  # noqa: E402
from lightning_sq.evaluation.suites import SuiteEntry, catalogue, parts  # noqa: E402
from lightning_sq.models import ModelConfig, QuantizerConfig, build_model  # noqa: E402

SOFT = QuantizerConfig(2, 30.0)
HARD = QuantizerConfig(3, 30.0, hard=True, thresholds=[0.33, 0.67])
FEW = {"num_steps": 3, "num_queries": 20, "num_restarts": 2, "num_draws": 2, "max_boxes": 6, "seconds": 2.0}
NOISES = [("uniform", "pixel"), ("rademacher", "mixture"), ("gaussian", "smooth")]
SEARCH = {
    "num_draws": 1,
    "num_others": 2,
    "num_refined": 8,
    "num_flips": 2,
    "halve_after": (2, 4, 6),
    "pattern": "mixture",
}
OBJECTIVES = [
    objectives.Natural(),
    *(objectives.NoisyNatural(epsilon=0.3, noise=noise, pattern=pattern) for noise, pattern in NOISES),
    objectives.NoisyNatural(epsilon=0.3, noise="rademacher", select="hardest", **SEARCH),
    objectives.GradientPenalty(),
    objectives.Adversarial(num_steps=2),
    objectives.BoxAdversarial(num_steps=2),
    objectives.FGSMRS(),
    objectives.FreeAdversarial(),
    objectives.IntervalBound(warmup_steps=0, ramp_steps=1),
]
LIBRARIES = {AutoAttackStage: "pyautoattack", MixedInteger: "highspy"}
FOR_TRAINING = ("lightning", "torchmetrics", "jsonargparse", "docstring_parser", "typeshed_client")


def lacks(what: str, *libraries: str) -> bool:
    """Whether a machine with a real device has not all of them, which is said; elsewhere they have to be there."""
    missing = [name for name in libraries if REAL and find_spec(name) is None]
    if missing:
        print(f"skipped: {what}: not installed: {', '.join(missing)}")
    return bool(missing)


def attacks_here(entries: dict[str, SuiteEntry]) -> dict[str, SuiteEntry]:
    """With few steps each, those whose libraries are here."""
    here = {}
    for name, entry in entries.items():
        if not lacks(name, *(LIBRARIES[type(part)] for part in parts(entry.attack) if type(part) in LIBRARIES)):
            here[name] = replace(entry, attack=quick(entry.attack))
    return here


def model(architecture: str, quantizer: QuantizerConfig | None) -> torch.nn.Module:
    torch.manual_seed(0)
    config = ModelConfig(architecture, tuple("0123456789"), (0.0,), (1.0,), 28, 28, quantizer)
    return build_model(config).to(NAME)


def pixels(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def train_by_each_objective() -> None:
    assert {type(one).__name__ for one in OBJECTIVES} | {"Objective"} == set(objectives.__all__)
    for objective in OBJECTIVES:
        for architecture, quantizer in (("box_cnn", HARD), ("small_cnn", SOFT)):
            classifier, objective = model(architecture, quantizer).train(), objective.to(NAME).train()
            objective.seed(0, 0)
            optimizer = torch.optim.AdamW(classifier.parameters(), 1e-3)
            images, labels = pixels(16).to(NAME), torch.arange(16).remainder(10).to(NAME)
            for _ in range(2):
                loss, logits = objective(classifier, images, labels)
                loss.backward()
                optimizer.step()
            assert loss.isfinite()
            assert loss.device.type == logits.device.type == NAME
            train_as_a_gpu_is(classifier, objective, images, labels)


def train_as_a_gpu_is(
    classifier: torch.nn.Module, objective: objectives.Objective, images: torch.Tensor, labels: torch.Tensor
) -> None:
    """A step in bf16 and channels_last, as recipes train on a GPU."""
    classifier.to(memory_format=torch.channels_last).zero_grad()
    images = images.to(memory_format=torch.channels_last)
    with torch.autocast(NAME, torch.bfloat16, cache_enabled=False):
        loss, logits = objective(classifier, images, labels)
    loss.backward()
    assert loss.isfinite()
    assert logits.device.type == NAME
    assert logits.dtype == torch.bfloat16
    gradients = [weight.grad for weight in classifier.parameters() if weight.requires_grad]
    assert gradients
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def quick(attack: Any) -> Any:
    """The same with few steps."""
    if not is_dataclass(attack):
        return attack
    values = {field.name: getattr(attack, field.name) for field in fields(attack)}
    fewer = {name: min(FEW[name], value) for name, value in values.items() if name in FEW and value}
    return replace(attack, **fewer, **{name: quick(v) for name, v in values.items() if is_dataclass(v)})


def attack_by_each() -> None:
    for norm, epsilon, classifiers in (
        ("linf", 0.3, [model("box_cnn", HARD), model("small_cnn", None)]),
        ("l2", 2.0, [model("small_cnn", SOFT)]),
    ):
        entries = attacks_here(catalogue(norm))
        ran = set()
        for classifier in classifiers:
            images = pixels(6)
            labels = classifier.eval()(images.to(NAME)).argmax(1).cpu()
            for name, entry in entries.items():
                options = {"attacks": {name: entry}, "norm": norm, "checks": name in ("pgd", "bpda")}
                try:
                    found = evaluate(classifier, images, labels, epsilon=epsilon, **options)
                except InputError as error:
                    if "No attack is left" in str(error):  # it is not for this model
                        continue
                    raise
                assert name in found.outcomes
                ran.add(name)
        assert ran == entries.keys(), entries.keys() - ran


def evaluate_wherever_things_are() -> None:
    classifier = model("box_cnn", HARD).eval()
    here = pixels(12), classifier(pixels(12).to(NAME)).argmax(1).cpu()
    there = tuple(part.to(NAME) for part in here)
    names = ("pgd", "quantized_box", "own_square", "branch_and_bound", "mixed_integer", "apgd_ce")
    attacks = attacks_here({name: catalogue()[name] for name in names})
    options = {"epsilon": 0.1, "attacks": attacks}
    expected = evaluate(classifier, *here, **options)
    for images, labels in ((there[0], here[1]), (here[0], there[1])):
        assert evaluate(classifier, images, labels, checks=False, **options).verdicts.equal(expected.verdicts)
    torch.set_default_device(NAME)
    found = evaluate(classifier, *there, **options)
    torch.set_default_device("cpu")
    assert found.verdicts.equal(expected.verdicts)
    assert found.attacks.keys() == attacks.keys()


def train_stop_and_go_on(folder: Path) -> None:
    if lacks("training", *FOR_TRAINING):
        return
    from lightning_sq.training.cli import main as command_line

    for number in range(24):
        file = folder / "data" / ("val" if number % 3 == 0 else "train") / str(number % 2) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((32, 32), 40 + number).convert("RGB").save(file)
    recipe = Path(__file__).parents[2] / "configs" / "digits_hardest.yaml"
    words = ["fit", "--config", str(recipe), "--data.root", str(folder / "data"), "--output", str(folder / "run")]
    words += ["--data.backend", "memory", "--data.batch_size_per_device", "4"]
    words += ["--trainer.accelerator", NAME, "--trainer.devices", "1"]
    words += ["--trainer.strategy", "lightning.pytorch.strategies.SingleDeviceStrategy"]
    words += ["--trainer.strategy.device", f"{NAME}:0"]
    for epochs in (1, 2):
        command_line([*words, "--trainer.max_epochs", str(epochs), *["--resume"] * (epochs > 1)])


def refusals() -> None:
    """What would go wrong on a GPU goes wrong here."""
    here, other = pixels(2), pixels(2).to(NAME)
    mistakes = [
        lambda: here + other,
        lambda: torch.cat([other, here]),
        lambda: torch.randn(3, device=NAME, generator=torch.Generator()),
        lambda: torch.randn(3, generator=torch.Generator(NAME)),
        other.numpy,
    ]
    for number, mistake in enumerate(mistakes):
        try:
            mistake()
        except (RuntimeError, TypeError):  # the latter of numpy(), on a GPU
            continue
        raise AssertionError(f"mistake {number} was not refused")
    assert other[torch.tensor([1])].device.type == NAME
    assert (other + 1).cpu().equal(here + 1)
    assert (other.sum() + torch.tensor(1.0)).device.type == NAME


def plan_a_study() -> None:
    """A few steps of rows are timed before anything is trained, by objectives that change over their steps too."""
    from lightning_sq.reproduction.plan import seconds_per_image
    from lightning_sq.reproduction.recipes import recipe_of
    from lightning_sq.reproduction.studies import MNIST

    for name in ("method", "free", "interval_bound"):
        row = MNIST.row(name)
        few = {"data.batch_size_per_device": 4}
        recipe = recipe_of(MNIST, row, configs=Path(__file__).parents[2] / "configs", seed=0, changes=few)
        assert all(seconds > 0 for seconds in seconds_per_image(recipe, 4, NAME)), name


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True  # verdicts are held against each other
    does = {
        "objectives": train_by_each_objective,
        "attacks": attack_by_each,
        "places": evaluate_wherever_things_are,
        "plan": plan_a_study,
        "training": lambda: train_stop_and_go_on(Path(sys.argv[2])),
        "refusals": refusals,
    }
    with Device():
        does[sys.argv[1]]()
