from __future__ import annotations

from lightning_sq.progress import progress_bar


def test_a_name_in_brackets_is_shown_as_it_is(capsys):
    with progress_bar("checking data[bold]/train", "files") as advance:
        advance(1, 1, "x[red].jpg")
    text = capsys.readouterr().err
    assert "data[bold]/train" in text
    assert "x[red].jpg" in text
