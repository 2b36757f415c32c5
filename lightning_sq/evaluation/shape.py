"""What a results.json has to hold before anybody reads it: somebody may have cut or written it by hand."""

from __future__ import annotations

from typing import Any

Shape = dict[str, Any] | list[Any] | None
"""Of a JSON value: keys with the shapes of what they hold, a list of one shape for all its items, or None for any."""

_MODEL_NUMBERS = "num_images clean_accuracy robust_accuracy certified_accuracy input_gradient_l1"
RESULTS: Shape = {
    **dict.fromkeys(("attacks", "seed", "device", "versions", "seconds")),
    "data": dict.fromkeys(("folder", "num_images", "unreadable", "files")),
    "threat_model": dict.fromkeys(("norm", "budgets", "epsilons")),
    "models": [
        {
            **dict.fromkeys(("name", "source", "model", "flags", "skipped", "verdicts", "verdict")),
            **dict.fromkeys(_MODEL_NUMBERS.split()),
            "curve": [dict.fromkeys(("epsilon", "complete", "worst_case", "certified", "attacks"))],
            "attacks": [dict.fromkeys(("attack", "attacked", "broken", "accuracy_after"))],
            "diagnostics": [dict.fromkeys(("title", "fired", "measured", "limit"))],
        }
    ],
}


def first_missing(shape: Shape, found: Any, *, where: str = "") -> str | None:
    """The place of the first value that is not there or of another kind, such as "models.curve.epsilon".

    Args:
        shape: What should be there.
        found: What is there.
        where: Its place, for people; "" is the whole.
    Returns: None if nothing is missing.
    """
    if isinstance(shape, dict):
        if not isinstance(found, dict):
            return where or "everything"
        inner = ((key, f"{where}.{key}".removeprefix(".")) for key in shape)
        places = (first_missing(shape[key], found[key], where=at) if key in found else at for key, at in inner)
    elif isinstance(shape, list):
        if not isinstance(found, list):
            return where
        places = (first_missing(shape[0], item, where=where) for item in found)
    else:
        return None
    return next((place for place in places if place), None)
