"""What `lightning-sq reproduce` makes of its options, and refuses before any work."""

from __future__ import annotations

from lightning_sq.commands import reproduce


def settings_of(*words: str):
    return reproduce._settings(reproduce._parser().parse_args(["mnist", *words]))


def test_a_row_that_is_named_twice_is_run_once_and_an_empty_name_is_none():
    assert settings_of("--rows", "pgd, natural,,pgd,").rows == ("pgd", "natural")
