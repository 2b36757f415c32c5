"""Checks that ask whether a stronger attack would have found more, or one found more than there can be."""

from __future__ import annotations

from itertools import pairwise

import torch

from lightning_sq.evaluation.diagnostics.situation import (
    FEW,
    MANY,
    Diagnostic,
    FromOtherStarts,
    Situation,
    row,
)
from lightning_sq.evaluation.found import share_of


def plain_gradient_misses(s: Situation) -> Diagnostic | None:
    """Adaptive attacks against those that follow the gradient shown. One image is no evidence."""
    of_family = {
        family: [name for name, entry in s.found.attacks.items() if entry.family == family and entry.on_everyone]
        for family in ("plain", "adaptive")
    }
    if not all(of_family.values()):
        return None
    left = s.found.survived(s.budget, of_family["plain"])
    also = torch.stack([s.found.outcomes[name][s.budget].broken for name in of_family["adaptive"]]).any(0)
    return row(
        "share of images that plain PGD leaves and an adaptive attack breaks",
        share_of(left & also),
        max(0.01, 1 / len(left)),
        "The gradient that the model shows leads attacks astray: whoever uses plain PGD reports too much.",
    )


def black_box_beats_white_box(s: Situation) -> Diagnostic | None:
    """Square and transfer against everything that uses a gradient, if attacks of both kinds were run.

    What they broke before an attack with a gradient had its turn is shown to that one too: FAB comes after Square.
    """
    entries = s.found.attacks
    black = [name for name, entry in entries.items() if entry.family == "black box"]
    white = [name for name, entry in entries.items() if name not in black and not entry.proves]
    if not (black and white):
        return None
    only = s.found.survived(s.budget, white) & ~s.found.survived(s.budget, black)
    for name in white:
        unseen = only & ~s.found.outcomes[name][s.budget].attacked
        if unseen.any():
            only &= ~s.broken(f"{name} of what was broken without a gradient", entries[name].attack, s.budget, unseen)
    return row(
        "share of images that only attacks without a gradient break",
        share_of(only),
        0.002,
        "A search without a gradient should not find more: the gradients used are misleading.",
    )


def more_steps_break_more(s: Situation) -> Diagnostic:
    """Another, longer attack on what is left: it should find next to nothing."""
    alive = s.some(s.found.survived(), MANY)
    longer = FromOtherStarts(s.behind(s.pgd(num_steps=100, schedule="cosine", criterion="margin")))
    return row(
        "share of the surviving images that another 100 steps from another start break",
        share_of(s.broken("more steps from another start", longer, s.budget, alive), alive),
        0.02,
        "The attacks have not converged: the robust accuracy is lower than what is printed.",
    )


def more_steps_help_the_model(s: Situation) -> Diagnostic:
    """PGD with 10 steps against PGD with 40: more steps must not leave more images."""
    some = s.some(s.found.correct, MANY)
    short, long = (s.broken(f"pgd {n}", s.pgd(num_steps=n), s.budget, some) for n in (10, 40))
    return row(
        "share of images that PGD breaks in 10 steps and not in 40, net",
        share_of(short, some) - share_of(long, some),
        0.02,
        "More steps should never help the defender: the gradient does not point where the loss grows.",
    )


def survives_everything(s: Situation) -> Diagnostic:
    """With the whole pixel range as budget, nothing may be left."""
    some = s.some(s.found.correct, FEW)
    radius = 1.0 if s.found.norm == "linf" else s.runner.images[0].numel() ** 0.5
    plain = s.broken("unbounded pgd", s.pgd(criterion="margin"), radius, some)
    behind = s.broken("unbounded", s.behind(s.pgd(criterion="margin")), radius, some & ~plain)
    return row(
        "accuracy where every pixel may be anything",
        1 - share_of(plain | behind, some) if some.any() else 0.0,
        0.05,
        "No image of the label is left unchanged, so a working attack must succeed: this one is broken or blind.",
    )


def larger_ball_helps_the_model(s: Situation) -> Diagnostic | None:
    """The curve over epsilon, each point attacked on its own, must fall."""
    back = [
        (smaller[1].broken & ~larger[1].broken).sum().item()
        for name, outcomes in s.found.outcomes.items()
        if s.found.attacks[name].on_everyone
        for smaller, larger in pairwise(sorted(outcomes.items()))
    ]
    if not back:
        return None
    return row(
        "share of images that an attack breaks in a smaller ball and not in a larger one",
        max(back) / len(s.found.correct),
        0.02,
        "The larger ball holds the smaller one: an attack that loses an image there is not optimising.",
    )


def attacks_break_what_is_proven(s: Situation) -> Diagnostic | None:
    """Both cannot be. Only attacks on everyone are shown what is proven, until one of them breaks it."""
    if s.found.certified is None and s.found.disbelieved is None:
        return None
    return row(
        "share of images that are proven and yet broken, in a ball of the same size",
        share_of(s.found.refuted),
        0.0,
        "The proof is wrong: its bounds are of another function than the model, or nearer to 0 than float32 rounds. So "
        "no proof of this model counts, and every image was attacked.",
    )
