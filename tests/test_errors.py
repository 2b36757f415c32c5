"""What is shown to people as a sentence."""

from __future__ import annotations

import signal

import pytest

from lightning_sq.errors import LONGEST_LINE, InputError, input_error_in, one_line


@pytest.fixture
def _not_for_ever():
    def too_long(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_not_for_ever")
def test_an_error_that_was_raised_again_while_it_was_handled_is_looked_through_once():
    full, told = OSError(28, "No space left on device"), ValueError("you tried to log 1")
    told.__cause__, full.__context__ = full, told
    assert input_error_in(full) is None
    assert input_error_in(told) is None


def test_what_a_class_refuses_is_found_below_what_its_callers_made_of_it():
    refused, parsers, outer = InputError("epsilon=8 is not in [0, 1]."), ValueError("Parser"), RuntimeError("again")
    parsers.__cause__, outer.__context__ = refused, parsers
    assert input_error_in(outer) is refused
    assert input_error_in(ValueError()) is None


@pytest.mark.parametrize(
    ("said", "told", "named"),
    [
        ("No such  file.", "No such file", "OSError: No such file"),
        ("\n No such\n\tfile. \n\nTrace:\n  line 1", "No such file", "OSError: No such file"),
        (" \n", "OSError", "OSError"),
        ("x" * 1000, "x" * LONGEST_LINE, f"OSError: {'x' * LONGEST_LINE}"),
    ],
)
def test_an_error_of_a_library_goes_into_a_sentence(said, told, named):
    assert one_line(OSError(said)) == told
    assert one_line(OSError(said), named=True) == named
