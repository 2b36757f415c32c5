from __future__ import annotations

import pytest
import torch

from lightning_sq.errors import InputError
from lightning_sq.types import PADDING_INDEX, Batch, parse_epsilon


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), (0.3, 0.3), ("0.3", 0.3), (0, 0.0), (" 1 / 4", 0.25), (1, 1.0)]
)
def test_epsilon_is_a_number_or_a_fraction(text, value):
    assert parse_epsilon(text) == pytest.approx(value)


@pytest.mark.parametrize("bad", [8, "8", -0.1, "-1/255", "eight", "1/0", "nan", "inf", ""])
def test_an_epsilon_that_cannot_be_is_refused_with_an_example(bad):
    with pytest.raises(InputError, match="/255"):
        parse_epsilon(bad)


def test_an_epsilon_over_one_gets_the_hint_that_was_meant():
    with pytest.raises(InputError, match=r"Write 8/255"):
        parse_epsilon(8)


def test_padding_is_not_valid():
    batch = Batch(torch.zeros(3, 3, 2, 2), torch.zeros(3), torch.tensor([4, PADDING_INDEX, 0]))
    assert batch.valid.tolist() == [True, False, True]
