"""English that every part of the package prints alike."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: float, noun: str, form: str = ",") -> str:
    """`number` and as many of `noun` as that is: 1 image, 2,000 images, 3 classes.

    Args:
        number: How many.
        noun: For one of them.
        form: How the number is written, as in a format string.
    """
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:{form}} {noun}{ending}"


def first_of(names: Sequence[str], count: int = 5) -> str:
    """The first `count` of them, and whether there are more: a, b, ..."""
    return ", ".join(names[:count]) + ", ..." * (len(names) > count)
