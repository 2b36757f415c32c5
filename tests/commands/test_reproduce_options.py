"""What `lightning-sq reproduce` makes of its options, and refuses before any work."""

from __future__ import annotations

from lightning_sq.commands import reproduce


def settings_of(*words: str):
    return reproduce._settings(reproduce._parser().parse_args(["mnist", *words]))


def test_a_row_that_is_named_twice_is_run_once_and_an_empty_name_is_none():
    assert settings_of("--rows", "pgd, natural,,pgd,").rows == ("pgd", "natural")


def test_as_many_rows_run_side_by_side_as_there_are_cores_for_this_process(monkeypatch):
    monkeypatch.setattr(reproduce, "usable_cores", lambda: 6)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert [(s.jobs, s.num_threads) for s in (settings_of(), settings_of("--jobs", "2"))] == [(6, 1), (2, 3)]
