"""How far long work is, on a terminal and in a log."""

from __future__ import annotations

import re

import pytest

from lightning_sq import progress
from lightning_sq.progress import progress_bar


@pytest.fixture(params=["terminal", "log"])
def stream(request, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1" if request.param == "terminal" else "0")
    return request.param


def test_a_name_in_brackets_is_shown_as_it_is(stream, capsys):
    with progress_bar("checking data[bold]/train", "files") as advance:
        advance(1, 1, "x[red].jpg")
    text = capsys.readouterr().err
    assert "data[bold]/train" in text
    assert "x[red].jpg" in text
    assert ("\x1b" in text) == (stream == "terminal")


def test_nothing_to_do_is_nothing_to_see(stream, capsys):
    with progress_bar("reading", "files"):
        pass
    assert capsys.readouterr().err == ""


def test_a_log_has_a_line_now_and_then_and_one_at_the_end(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 40.0, 50.0, 90.0, 100.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress_bar("reading", "files") as advance:
        for done in (250, 1000, 1250, 2250, 2500):
            advance(done, 2500, f"file {done}")
    assert capsys.readouterr().err.splitlines() == [
        "reading: 1,000/2,500 files, 0:00:40 so far, 0:01:00 left, file 1000",
        "reading: 2,250/2,500 files, 0:01:30 so far, 0:00:10 left, file 2250",
        "reading: 2,500/2,500 files, 0:01:40 so far, 0:00:00 left, file 2500",
    ]


def test_what_an_earlier_start_has_done_does_not_make_the_rest_seem_short(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 41.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress_bar("attacking", "passes") as advance:
        advance(900, 1000)  # kept
        advance(940, 1000)
    assert capsys.readouterr().err == "attacking: 940/1,000 passes, 0:00:41 so far, 0:01:00 left\n"


def test_work_that_breaks_off_says_where_it_was(capsys):
    def work():
        with progress_bar("reading", "files") as advance:
            advance(0, 4)
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert re.fullmatch(r"reading: 0/4 files, 0:00:0\d so far\n", capsys.readouterr().err)
