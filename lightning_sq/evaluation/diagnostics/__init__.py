"""What would be seen if the attacks were too weak for a model: each check is a row of the report, and may be a flag.

The indicators of attack failure are here as: unavailable gradients (`zero_gradients`), unstable predictions
(`small_steps_jump`), silent success and transfer failure (`successes_get_lost`), incomplete optimisation
(`more_steps_break_more`), unconstrained attack failure (`survives_everything`).

Sources: the flags of AutoAttack (flags_doc.md in github.com/fra31/auto-attack), the indicators of attack failure of
Pintor et al. 2022 (arXiv 2106.09947), the checklists of Athalye et al. 2018 (arXiv 1802.00420) and Carlini et al. 2019
(arXiv 1902.06705), and two of this project's own: the width of the quantized box, and proofs that an attack refutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lightning_sq.evaluation.diagnostics.answers import (
    not_float32,
    optimises_at_inference,
    outputs_are_probabilities,
    random_answers,
)
from lightning_sq.evaluation.diagnostics.attacks import (
    attacks_break_what_is_proven,
    black_box_beats_white_box,
    larger_ball_helps_the_model,
    more_steps_break_more,
    more_steps_help_the_model,
    plain_gradient_misses,
    survives_everything,
)
from lightning_sq.evaluation.diagnostics.gradients import (
    quantizer_widens_the_ball,
    small_steps_jump,
    successes_get_lost,
    zero_gradients,
)
from lightning_sq.evaluation.diagnostics.situation import Diagnostic, Situation

__all__ = ["Diagnostic", "Situation", "diagnose"]

CHECKS: tuple[Callable[[Situation], Diagnostic | None], ...] = (
    plain_gradient_misses,
    black_box_beats_white_box,
    more_steps_break_more,
    more_steps_help_the_model,
    survives_everything,
    larger_ball_helps_the_model,
    attacks_break_what_is_proven,
    zero_gradients,
    quantizer_widens_the_ball,
    small_steps_jump,
    successes_get_lost,
    random_answers,
    outputs_are_probabilities,
    optimises_at_inference,
    not_float32,
)


def diagnose(situation: Situation, begins: Callable[[str], None] = lambda note: None) -> list[Diagnostic]:
    """Every check that applies, by its function's name, in the order of the report; `begins` is told of each, in words,
    before it is made.
    """
    rows: list[Diagnostic] = []
    for number, check in enumerate(CHECKS, start=1):
        begins(f"check {number} of {len(CHECKS)}: {check.__name__.replace('_', ' ')}")
        found = check(situation)
        rows += [] if found is None else [replace(found, name=check.__name__)]
    return rows
