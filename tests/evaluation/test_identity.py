"""What is kept is known again in the next process, and only for the same model under the same attacks."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from functools import partial, wraps

import numpy as np
import pytest
import torch
from torch import nn

import lightning_sq
from lightning_sq.attacks import BPDA, PGD, Expectation, Transfer
from lightning_sq.errors import InputError
from lightning_sq.evaluation import SuiteEntry
from lightning_sq.evaluation.description import described, made_of
from lightning_sq.evaluation.identity import parameters_of
from lightning_sq.evaluation.suites import catalogue
from lightning_sq.layers import SoftQuantization
from tests.conftest import REPOSITORY
from tests.evaluation.models import IMAGES, linear_model


def closed_over(value):
    def attack(model, images, labels, seeds, epsilon):
        return (images, value)[0]

    return attack


def by_default(value):
    def attack(model, images, labels, seeds, epsilon, by=value):
        return images

    return attack


def by_keyword(value):
    def attack(model, images, labels, seeds, epsilon, *, by=value):
        return images

    return attack


class Holds:
    """An attack with an attribute; beside it, what is another thing in every process."""

    def __init__(self, value) -> None:
        self.value, self.lock, self.log = value, threading.Lock(), logging.getLogger("a test's")
        self.itself = self

    def __call__(self, model, images, labels, seeds, epsilon):
        return images

    def attack(self, model, images, labels, seeds, epsilon):
        return images


class Slotted:
    """Without a dictionary of attributes."""

    __slots__ = ("value",)

    def __init__(self, value) -> None:
        self.value = value

    def __call__(self, model, images, labels, seeds, epsilon):
        return images


def around_another(value):
    @wraps(Holds.attack)
    def attack(*arguments):
        return closed_over(value)(*arguments)

    return attack


MAKE = {
    "closure": closed_over,
    "default": by_default,
    "keyword default": by_keyword,
    "attribute": Holds,
    "slot": Slotted,
    "method": lambda value: Holds(value).attack,
    "partial": lambda value: partial(closed_over(0), epsilon=value),
    "partial of a closure": lambda value: partial(closed_over(value), epsilon=0.1),
    "decorated": around_another,
    "inside BPDA": lambda value: BPDA(closed_over(value)),
    "inside an expectation of another": lambda value: Expectation(Holds(value), 2),
}
PAIRS = {
    "numbers": (1, 2),
    "tensors": (torch.zeros(3), torch.ones(3)),
    "tensors of one size": (torch.zeros(4), torch.zeros(2, 2)),
    "arrays": (np.zeros(3), np.ones(3)),
    "attacks": (PGD(3), PGD(4)),
    "functions": (len, sorted),
    "objects": (Holds(1), Holds(2)),
    "networks": (nn.Linear(2, 2), nn.Linear(2, 2)),
    "quantizers": (SoftQuantization(2, 30.0), SoftQuantization(2, 30.001)),
    "sets": ({"a", "b"}, {"a", "c"}),
    "classes": (nn.Linear, nn.Conv2d),
    "nothing and something": (None, ()),
}


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("pair", PAIRS)
def test_what_an_attack_depends_on_is_part_of_it(make, pair):
    one, other = (json.dumps(parameters_of(MAKE[make](value))) for value in PAIRS[pair])
    assert one != other
    assert json.dumps(parameters_of(MAKE[make](PAIRS[pair][0]))) == one


def test_two_functions_of_one_name_are_two_attacks_and_a_line_further_down_it_is_the_same():
    text = "def attack(model, images, labels, seeds, epsilon):\n    return images{}\n"
    found = []
    for source in (text.format(""), "\n\n" + text.format(""), text.format(" * 1.0")):
        names = {}
        exec(source, names)
        found.append(parameters_of(names["attack"]))
    assert found[0] == found[1] != found[2]


def test_the_attacks_of_the_catalogue_say_their_parameters_and_nothing_else():
    """Whoever has verdicts of them goes on with these."""
    assert parameters_of(catalogue()["bpda_surrogate_3"].attack) == {
        "kind": "BPDA",
        "attack": {
            "kind": "PGD",
            "step_size": None,
            "num_steps": 40,
            "schedule": "constant",
            "momentum": 0.0,
            "num_restarts": 1,
            "criterion": "margin",
            "targeted": False,
            "from_random_start": True,
            "stop_when_fooled": True,
            "norm": "linf",
        },
        "backward": "surrogate",
        "surrogate_sharpness": 3.0,
    }


WORDS = """
import json
from tests.evaluation.test_identity import MAKE, MODELS, described, made_of, parameters_of
values = {"a": {"x", "y", "z"}, "b": object(), "c": lambda value: value in {"p", "q", "r"}, "d": {len, sorted}}
said = [[name, parameters_of(make(values))] for name, make in MAKE.items()] + [described(values)]
print(json.dumps(said + [[name, [made_of(model) for model in make()]] for name, make in MODELS.items()]))
"""


def test_another_process_says_the_same():
    """In which sets have another order, and objects another address."""
    said = [
        subprocess.run(
            [sys.executable, "-c", WORDS],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=REPOSITORY,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] != b""
    assert b"0x" not in said[0]


def test_what_holds_itself_can_be_described():
    around: list = [1]
    around.append(around)
    other: list = [2]
    other.append(other)
    assert described(around) == described(around) != described(other)


def kept(model, tmp_path, images=IMAGES, **options):
    given = {"epsilon": 0.02, "attacks": "fgsm", "checks": False, "store": tmp_path} | options
    return lightning_sq.evaluate(model, images, torch.zeros(40).long(), **given)


@pytest.mark.parametrize("wrap", [BPDA, Expectation])
def test_a_function_inside_our_attacks_is_kept(wrap, tmp_path):
    model = linear_model(SoftQuantization(4, 60.0))
    for _ in range(2):
        kept(model, tmp_path, attacks={"mine": SuiteEntry("mine", wrap(closed_over(1)), "plain")})
    with pytest.raises(InputError, match=r"another evaluation \(attacks differs"):
        kept(model, tmp_path, attacks={"mine": SuiteEntry("mine", wrap(closed_over(2)), "plain")})


def test_a_model_that_lends_its_images_inside_an_attack_is_kept(tmp_path):
    model, lenders = linear_model(), [linear_model(), linear_model()]
    lenders[1].backbone[1].weight.data.neg_()

    def lent_by(lender):
        attack = Expectation(Transfer(lender, PGD(2)), 2)
        return {"lent": SuiteEntry("of another net", attack, "black box")}

    for _ in range(2):
        kept(model, tmp_path, attacks=lent_by(lenders[0]))
    with pytest.raises(InputError, match=r"another evaluation \(lenders differs"):
        kept(model, tmp_path, attacks=lent_by(lenders[1]))


class WithBuffer(nn.Module):
    """Of which nothing is in a state_dict."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(shift), persistent=False)

    def forward(self, x):
        return (x + 0 * self.shift).flatten(1)[:, :2]


ALIKE = {
    "sharpness": (SoftQuantization(4, 60.0), SoftQuantization(4, 60.0001)),
    "derivative": (SoftQuantization(4, hard=True), SoftQuantization(4, hard=True, backward="identity")),
    "buffer": (WithBuffer(0.0), WithBuffer(1.0)),
}


@pytest.mark.parametrize("name", ALIKE)
def test_a_model_with_the_same_weights_and_logits_is_another_one(name, tmp_path):
    one, other = (part if name == "buffer" else linear_model(part) for part in ALIKE[name])
    for _ in range(2):
        kept(one, tmp_path)
    with pytest.raises(InputError, match=r"another evaluation \(beside_weights differs"):
        kept(other, tmp_path)


def three_levels(x):
    return (2 * x).round() / 2


def straight_through(x):
    return x + (three_levels(x) - x).detach()


class ThreeLevels(nn.Module):
    def __init__(self, through: bool) -> None:
        super().__init__()
        self.through = through

    def forward(self, x):
        return straight_through(x) if self.through else three_levels(x)


def module_with(forward):
    """A module without a parameter, of a class of the same name as every other one."""
    return type("Three", (nn.Module,), {"forward": forward})()


QUANTIZERS = {
    "functions": (three_levels, straight_through),
    "attributes of a module": (ThreeLevels(False), ThreeLevels(True)),
    "modules": (module_with(lambda _, x: three_levels(x)), module_with(lambda _, x: straight_through(x))),
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_another_quantizer_of_the_callers_is_another_evaluation(name, tmp_path):
    one, other = QUANTIZERS[name]
    for _ in range(2):
        kept(linear_model(), tmp_path, quantizer=one)
    with pytest.raises(InputError, match=r"another evaluation \(beside_weights.* differ"):
        kept(linear_model(), tmp_path, quantizer=other)


BINARY = IMAGES.round()
"""On which a hard quantizer does nothing."""
NET = linear_model().backbone


class Around(nn.Module):
    """A network behind whatever it holds."""

    def __init__(self, *front) -> None:
        super().__init__()
        self.net, self.front = NET, front

    def forward(self, x):
        for one in self.front:
            x = one(x)
        return self.net(x)


class Clamps(nn.Module):
    def __init__(self, *ends) -> None:
        super().__init__()
        self.net, self.ends = NET, ends

    def forward(self, x):
        return self.net(x.clamp(*self.ends))


def in_a_notebook(*lines, **names):
    """`model` as these lines define it, as a cell that is run again does."""
    exec("\n".join(lines), names := {"nn": nn, "torch": torch, "NET": NET, "__name__": "__main__"} | names)
    return names["model"]


def class_with(line):
    text = f"class M(nn.Module):\n def __init__(self):\n  super().__init__()\n  self.net = NET\n {line}\nmodel = M()"
    return in_a_notebook(*text.split("\n"))


def hooked(hook=None):
    model = linear_model()
    if hook is not None:
        model.register_forward_pre_hook(hook)
    return model


def traced(front):
    return torch.jit.trace(nn.Sequential(front, NET), IMAGES[:2], check_trace=False)


def rounds(x):
    return x.round()


MODELS = {
    "functions": lambda: (lambda x: NET(x.round()), lambda x: NET(x)),
    "a function and what it calls": lambda: tuple(
        in_a_notebook(f"def front(x): return {text}", "def model(x): return NET(front(x))")
        for text in ("x.round()", "x")
    ),
    "a number that a function reads": lambda: tuple(
        in_a_notebook(f"LEVELS = {n}", "def model(x): return NET((x * LEVELS).round() / LEVELS)") for n in (1, 2)
    ),
    "a network that a function reads": lambda: tuple(
        in_a_notebook("def model(x): return NET(front(x))", front=front)
        for front in (SoftQuantization(2, hard=True), nn.Identity())
    ),
    "a class that is run again": lambda: tuple(
        class_with(f"def forward(self, x): return self.net({text})") for text in ("x.round()", "x")
    ),
    "another method of a class": lambda: tuple(
        class_with(f"def forward(self, x): return self.net(self.front(x))\n def front(self, x): return {text}")
        for text in ("x.round()", "x")
    ),
    "a class and what is above it": lambda: tuple(
        in_a_notebook(
            f"class Above(nn.Module):\n def front(self, x): return {text}",
            "class Below(Above):\n def forward(self, x): return NET(self.front(x))\nmodel = Below()",
        )
        for text in ("x.round()", "x")
    ),
    "a function that a module holds": lambda: (Around(rounds), Around(lambda x: x)),
    "one of torch's": lambda: (Around(torch.round), Around(torch.relu)),
    "modules in a tuple": lambda: (Around(SoftQuantization(2, hard=True)), Around(nn.Identity())),
    "numbers in a tuple": lambda: (Clamps(0, 1), Clamps(0.0, 1.5)),
    "tensors in a tuple": lambda: (
        Clamps(torch.zeros(1), torch.ones(1)),
        Clamps(torch.zeros(1), torch.full((1,), 1.5)),
    ),
    "parts of torch": lambda: (nn.Sequential(nn.Identity(), NET), nn.Sequential(nn.Tanh(), NET)),
    "hooks": lambda: (hooked(), hooked(lambda module, args: (args[0].round(),))),
    "TorchScript": lambda: (traced(SoftQuantization(2, hard=True)), traced(nn.ReLU())),
}
"""Pairs with the same weights and the same plain attributes."""


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
@pytest.mark.parametrize("name", MODELS)
def test_another_model_with_the_same_weights_is_another_one_by_its_code_and_by_what_it_holds(name):
    (one, other), (again, _) = MODELS[name](), MODELS[name]()
    assert made_of(one) == made_of(again) != made_of(other)


@pytest.mark.parametrize("name", ["functions", "a class that is run again", "a function that a module holds"])
def test_verdicts_of_one_are_not_given_to_another_that_says_the_same_of_the_images(name, tmp_path):
    (one, other), (again, _) = MODELS[name](), MODELS[name]()
    assert torch.allclose(one(BINARY), other(BINARY))
    for model in (one, again):
        kept(model, tmp_path, images=BINARY)
    with pytest.raises(InputError, match=r"another evaluation \(made_of differs"):
        kept(other, tmp_path, images=BINARY)


class Hides:
    """A function in C, say: nothing of it can be looked at."""

    def __init__(self, function) -> None:
        self.function = function

    def __call__(self, x):
        return self.function(x)

    def __reduce__(self):
        return "Hides"


def test_a_function_of_which_nothing_can_be_seen_is_told_by_what_it_says_of_noise(tmp_path):
    kept(Hides(lambda x: NET(x.round())), tmp_path, images=BINARY)
    kept(Hides(lambda x: NET(x.round()) * (1 + 1e-6)), tmp_path, images=BINARY)  # as another GPU rounds
    with pytest.raises(InputError, match=r"another evaluation \(logits_of_noise differs"):
        kept(Hides(NET), tmp_path, images=BINARY)
