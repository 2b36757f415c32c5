"""Counts and their nouns."""

from __future__ import annotations

import pytest

from lightning_sq.words import counted, first_of


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (2000, "test image", "2,000 test images"),
        (1, "class", "1 class"),
        (3, "class", "3 classes"),
        (2, "process", "2 processes"),
    ],
)
def test_a_noun_is_in_the_plural_unless_there_is_one_of_it(number, noun, words):
    assert counted(number, noun) == words


def test_a_number_that_need_not_be_whole_is_written_as_is_asked():
    written = [counted(number, "epoch", ".4g") for number in (0.5, 1.0, 10 / 3)]
    assert written == ["0.5 epochs", "1 epoch", "3.333 epochs"]


def test_of_many_names_the_first_are_given_and_that_there_are_more():
    assert first_of(["a", "b"]) == "a, b"
    assert first_of(["a", "b", "c"], 2) == "a, b, ..."
    assert first_of([]) == ""
