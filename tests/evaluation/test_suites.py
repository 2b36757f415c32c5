"""What each attack of the catalogue is made of."""

from __future__ import annotations

from dataclasses import MISSING, fields

import pytest

from lightning_sq.evaluation.suites import SUITE_VERSION, SUITES, catalogue, parts, transfer_entries
from lightning_sq.layers import SoftQuantization
from tests.evaluation.models import IMAGES, linear_model

VERSION = 2
"""A change below by which an attack finds more needs a higher one in `evaluation/suites` as well as here: by it pages
know which of their rows are older. The last two of `rand` came without one: no page has numbers by that suite.
"""

DEFAULTS = {
    "PGD": "num_steps=40 step_size=None schedule=constant momentum=0.0 num_restarts=1 criterion=cross_entropy "
    "targeted=False from_random_start=True stop_when_fooled=True norm=linf",
    "BPDA": "backward=identity surrogate_sharpness=None",
    "QuantizedBox": "",
    "GreedyFlips": "num_rounds=60 share=0.2 num_restarts=1",
    "AutoAttackStage": "num_steps=100 num_restarts=1 num_queries=5000 num_draws=1 norm=linf",
    "Square": "num_queries=5000 first_area=0.8",
    "BranchAndBound": "max_boxes=1000 boxes_at_a_time=256",
    "MixedInteger": "max_seconds=60.0 max_variables=5000",
    "Expectation": "num_draws=20",
}
"""What a parameter is that an attack below does not name."""

ATTACKS = {
    "fgsm": "plain on everyone: PGD num_steps=1 step_size=1.0 from_random_start=False",
    "pgd": "plain on everyone: PGD",
    "pgd_margin": "plain on everyone: PGD criterion=margin",
    "bpda": "adaptive on everyone: BPDA of PGD",
    "quantized_box": "adaptive on everyone: QuantizedBox of PGD criterion=margin",
    "pgd_thorough": "plain: PGD num_steps=100 schedule=cosine num_restarts=2 criterion=margin",
    "bpda_thorough": "adaptive: BPDA of PGD num_steps=100 schedule=cosine num_restarts=2 criterion=margin",
    "bpda_surrogate_3": "adaptive: BPDA backward=surrogate surrogate_sharpness=3.0 of PGD criterion=margin",
    "bpda_surrogate_10": "adaptive: BPDA backward=surrogate surrogate_sharpness=10.0 of PGD criterion=margin",
    "bpda_surrogate_30": "adaptive: BPDA backward=surrogate surrogate_sharpness=30.0 of PGD criterion=margin",
    "quantized_box_thorough": "adaptive: QuantizedBox of PGD num_steps=100 schedule=cosine num_restarts=4 "
    "criterion=margin",
    "quantized_box_flips": "adaptive: QuantizedBox of GreedyFlips num_restarts=2",
    "quantized_box_targeted": "adaptive: QuantizedBox of PGD num_restarts=9 criterion=margin targeted=True",
    "pgd_targeted": "plain: PGD num_restarts=9 criterion=margin targeted=True",
    "apgd_ce": "plain: AutoAttackStage stage=apgd-ce",
    "bpda_apgd_ce": "adaptive: BPDA of AutoAttackStage stage=apgd-ce",
    "apgd_t": "plain: AutoAttackStage stage=apgd-t",
    "bpda_apgd_t": "adaptive: BPDA of AutoAttackStage stage=apgd-t",
    "square": "black box: AutoAttackStage stage=square",
    "own_square": "black box: Square",
    "quantized_box_square": "black box: QuantizedBox of Square",
    "fab_t": "plain: AutoAttackStage stage=fab-t",
    "branch_and_bound": "adaptive: BranchAndBound",
    "mixed_integer": "adaptive: MixedInteger",
    "eot_pgd": "adaptive on everyone: Expectation of PGD",
    "eot_apgd_ce": "adaptive: AutoAttackStage stage=apgd-ce num_draws=20",
    "eot_apgd_dlr": "adaptive: AutoAttackStage stage=apgd-dlr num_draws=20",
    "bpda_eot_pgd": "adaptive: BPDA of Expectation of PGD criterion=margin stop_when_fooled=False",
    "quantized_box_eot_pgd": "adaptive: QuantizedBox of Expectation of PGD criterion=margin stop_when_fooled=False",
}
"""In L-inf and in the order in which they are run: the family, whether every image is attacked, and by what."""

L_INF_ALONE = {"own_square", "branch_and_bound", "mixed_integer", *(name for name in ATTACKS if "_box" in name)}
"""All others have the same parameters in L2."""


def made_of(attack) -> str:
    """Its class, its parameters that are no defaults, and the same of the attack that it runs."""
    values = {field.name: (getattr(attack, field.name), field.default) for field in fields(attack)}
    inner, _ = values.pop("attack", (None, None))
    values.pop("source", None)
    own = [f"{name}={value}" for name, (value, default) in values.items() if value != default]
    return " ".join([type(attack).__name__, *own]) + (f" of {made_of(inner)}" if inner else "")


def defaults(kind: type) -> str:
    return " ".join(f"{field.name}={field.default}" for field in fields(kind) if field.default is not MISSING)


def described(entry) -> str:
    return f"{entry.family}{' on everyone' if entry.on_everyone else ''}: {made_of(entry.attack)}"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_the_attacks_are_made_of_changes_on_purpose_alone_and_with_a_higher_version(norm):
    expected = ATTACKS
    if norm == "l2":
        expected = {name: f"{text} norm=l2" for name, text in ATTACKS.items() if name not in L_INF_ALONE}
    found = catalogue(norm)
    assert {name: described(entry) for name, entry in found.items()} == expected
    assert list(found) == list(expected)
    kinds = {type(part).__name__: type(part) for entry in found.values() for part in parts(entry.attack)}
    assert {name: defaults(kind) for name, kind in kinds.items()} == {name: DEFAULTS[name] for name in kinds}
    assert SUITE_VERSION == VERSION


def test_the_standard_suite_is_all_but_what_proves_what_is_for_noise_and_a_second_square():
    for_noise = {"eot_pgd", "eot_apgd_ce", "eot_apgd_dlr", "bpda_eot_pgd", "quantized_box_eot_pgd"}
    left_out = {"own_square", "branch_and_bound", "mixed_integer", *for_noise}
    assert list(SUITES["standard"]) == [name for name in ATTACKS if name not in left_out]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_transferred_was_made_with_momentum_and_through_a_quantizer(norm):
    sources = {"plain": linear_model(), "quantized": linear_model(SoftQuantization(4, 60.0))}
    pgd = "PGD momentum=1.0 criterion=margin stop_when_fooled=False" + (" norm=l2" if norm == "l2" else "")
    assert {name: described(entry) for name, entry in transfer_entries(sources, IMAGES[:8], norm).items()} == {
        "transfer_plain": f"black box: Transfer of {pgd}",
        "transfer_quantized": f"black box: Transfer of BPDA of {pgd}",
    }
