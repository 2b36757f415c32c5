"""Parameters of attacks as they are typed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_sq.attacks import BPDA, PGD, QuantizedBox
from lightning_sq.errors import InputError
from lightning_sq.evaluation.parameters import parameters
from lightning_sq.evaluation.suites import attacks_by_name, catalogue


def typed(text):
    return attacks_by_name(text)[text].attack


def test_a_parameter_is_that_of_the_attack_or_of_the_one_inside():
    assert typed("pgd:num_steps=200:criterion=dlr:step_size=0.1") == PGD(200, criterion="dlr", step_size=0.1)
    assert typed("pgd:step_size=None:momentum=1:from_random_start=False") == PGD(momentum=1.0, from_random_start=False)
    assert typed("quantized_box:num_restarts=3") == QuantizedBox(PGD(criterion="margin", num_restarts=3))
    assert typed("bpda:backward=surrogate:surrogate_sharpness=5:num_steps=7") == BPDA(PGD(7), "surrogate", 5.0)


def test_parameters_that_need_each_other_may_come_in_any_order():
    expected = replace(catalogue()["bpda"].attack, backward="surrogate", surrogate_sharpness=5.0)
    for words in ("backward=surrogate:surrogate_sharpness=5", "surrogate_sharpness=5:backward=surrogate"):
        assert typed(f"bpda:{words}") == expected
    exact = typed("bpda_surrogate_30:backward=exact:surrogate_sharpness=None:num_steps=3")
    assert (exact.backward, exact.surrogate_sharpness, exact.attack.num_steps) == ("exact", None, 3)


def test_it_runs_behind_the_attack_that_it_is_of_beside_it_or_alone():
    both = list(attacks_by_name("bpda,pgd:num_steps=3,pgd,pgd:num_steps=2:criterion=margin"))
    assert both == ["pgd", "pgd:num_steps=2:criterion=margin", "pgd:num_steps=3", "bpda"]
    (entry,) = attacks_by_name("pgd:num_steps=3").values()
    assert entry == replace(catalogue()["pgd"], title="pgd with num_steps=3", attack=PGD(3))
    assert entry.cost == 9
    assert entry.to_dict()["parameters"]["num_steps"] == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pgd:steps=3", "PGD has no parameter 'steps'. It has: num_steps, step_size"),
        ("bpda:surrogate_sharpness=5", "surrogate_sharpness=5.0 needs backward=surrogate, not identity"),
        ("bpda_surrogate_30:surrogate_sharpness=0", "sharpness=0.0 is not a finite number above 0"),
        ("pgd_targeted:criterion=dlr", "PGD has no parameter 'criterion'"),
        ("pgd:num_steps", "'num_steps' is no parameter of an attack. Write name=value"),
        ("pgd:num_steps=", "Write name=value"),
        ("pgd:num_steps=many", "num_steps='many' is no int."),
        ("pgd:num_steps=2.5", "num_steps='2.5' is no int."),
        ("pgd:num_steps=True", "num_steps='True' is no int."),
        ("pgd:momentum=far", "momentum='far' is no float."),
        ("pgd:step_size=2/255", "step_size is in radii of the ball: 0.1, not 2/255."),
        ("pgd:num_steps=0", "have to be at least 1"),
        ("pgd:criterion=loss", "criterion='loss' is not one of"),
        ("pgd:schedule=slow", "schedule='slow' is not one of constant, cosine."),
        ("pgd:norm=l2", "PGD has no parameter 'norm'"),
        ("bpda:backward=none", "backward='none' is not one of exact, identity, surrogate."),
        ("apgd_ce:stage=square", "has no parameter 'stage'"),
        ("pgdd:num_steps=3", "There is no linf attack 'pgdd:num_steps=3'"),
    ],
)
def test_bad_input_is_one_sentence(text, sentence):
    with pytest.raises(InputError) as error:
        attacks_by_name(text)
    assert sentence in str(error.value)


def test_every_attack_shows_what_can_be_typed_of_it():
    for name, entry in catalogue().items():
        known = parameters(entry.attack)
        assert known, name
        for key, value in known.items():
            if not isinstance(value, str | tuple):
                assert typed(f"{name}:{key}={value}") == entry.attack
