"""What is asked of everything that is refused on the command line."""

from __future__ import annotations


def assert_one_sentence(found: tuple[int, str], *parts: str) -> None:
    status, text = found
    errors = [line for line in text.splitlines() if "error" in line]
    assert status == 2
    assert "Traceback" not in text
    assert len(errors) == 1, text
    assert errors[0].startswith("lightning-sq: error: ")
    assert errors[0].endswith(".")
    for part in parts:
        assert part in errors[0]
