"""The attacks by name, each with its parameters spelled out so that a report can print them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch import Tensor

from lightning_sq.attacks import (
    BPDA,
    FGSM,
    PGD,
    Attack,
    AutoAttackStage,
    BranchAndBound,
    Expectation,
    GreedyFlips,
    MixedInteger,
    Prover,
    QuantizedBox,
    Square,
    Transfer,
    take_apart,
)
from lightning_sq.attacks.autoattack import FEWEST_CLASSES
from lightning_sq.errors import InputError
from lightning_sq.evaluation.identity import parameters_of
from lightning_sq.evaluation.parameters import with_parameters
from lightning_sq.types import Norm

Family = Literal["plain", "adaptive", "black box"]
SUITE_VERSION = 2
"""Goes up with each change by which an attack or a check finds more in a model of this project: older numbers may then
be too good. What the next version is to take in:

- Random starts are the same for all attacks (mix crc32 of the name into the seeds); Square asks about proposals that
  change nothing, which most are in a two-level box; greedy flips try one flip that does not help again and again;
  `eot_pgd` stops where one mean of its draws is wrong.
- `plain_gradient_misses` looks at attacks on everyone only; `more_steps_break_more` asks about proven images too, and
  what it breaks does not count in the worst case; `black_box_beats_white_box` wants max(0.002, 1 / N) as its limit;
  `survives_everything` starts at random, which breaks images without a gradient; `zero_gradients` in L2 takes a pixel
  to move by 1/255, and not by the budget.
- With `reproduction/proofs.PROVER_VERSION`: branch and bound gives up at a first box whose bound has a gradient of 0
  (`UnitClamp`); `SAFETY` of the solver is absolute, whatever the size of the logits.
"""
SOLVER_PASSES = 2000
"""What a solver takes for an image, in passes of a small network, about."""


@dataclass(frozen=True)
class SuiteEntry:
    """An attack in a suite.

    Args:
        title: For people.
        attack: What is run.
        family: "plain" uses the gradient that the model shows, "adaptive" knows of its quantizer, its noise or its
            weights, "black box" uses no gradient.
        on_everyone: Attacks every image that is classified right, so that its own number can be told; another attack
            gets only those that nothing has broken yet.
        needs_quantizer: Makes sense only for a model with a quantizer in front.
        needs_bounds: Makes sense only for a network that interval bounds have rules for.
        needs_program: Makes sense only for a network that an integer program can be made of.
        fewest_classes: Of the model, if the attack needs more than it is known to.
    """

    title: str
    attack: Attack | Prover
    family: Family
    on_everyone: bool = False
    needs_quantizer: bool = False
    needs_bounds: bool = False
    needs_program: bool = False
    fewest_classes: int = 2

    def why_not(
        self, *, quantized: bool, bounded: bool, programmable: bool, num_classes: int, height: int, width: int
    ) -> str | None:
        """Why this attack cannot be run on a model and on images of this size, or None."""
        if self.needs_quantizer and not quantized:
            return "no quantizer was found in front of the model; evaluate takes a hidden one as quantizer="
        if self.needs_bounds and not bounded:
            return "interval bounds have no rule for a part of the network"
        if self.needs_program and not programmable:
            return "the network is no chain of layers that are linear or ReLU"
        if num_classes < (fewest := max(self.fewest_classes, *map(_fewest_classes, parts(self.attack)))):
            return f"it needs {fewest} classes, the model has {num_classes}"
        stages = [part for part in parts(self.attack) if isinstance(part, AutoAttackStage)]
        return next(filter(None, (stage.why_not(num_classes, height, width) for stage in stages)), None)

    @property
    def proves(self) -> bool:
        """Whether it can prove as well, and goes by no gradient alone."""
        return self.needs_bounds or self.needs_program

    @property
    def cost(self) -> int:
        """Passes of the model that an image costs, about: a gradient counts as three."""
        return passes(self.attack)

    def to_dict(self) -> dict[str, Any]:
        """Every parameter, as it stands in results.json."""
        return {
            "title": self.title,
            "family": self.family,
            "on_everyone": self.on_everyone,
            "parameters": parameters_of(self.attack),
        }


def parts(attack: Any) -> list[Any]:
    """An attack, the one that it runs, and so on."""
    return [] if attack is None else [attack, *parts(getattr(attack, "attack", None))]


def _fewest_classes(attack: Any) -> int:
    """But for a stage of AutoAttack, which says so itself."""
    by_dlr = isinstance(attack, PGD) and attack.criterion == "dlr" and not attack.targeted
    return FEWEST_CLASSES["apgd-dlr"] if by_dlr else 2


def passes(attack: Any) -> int:
    """Passes of the model for an image that is never broken; 1 for an attack that is not ours."""
    match attack:
        case PGD():
            return 3 * attack.num_steps * attack.num_restarts
        case GreedyFlips():
            return 3 * attack.num_rounds * attack.num_restarts
        case Square():
            return attack.num_queries
        case AutoAttackStage(stage="square"):
            return attack.num_queries * attack.num_restarts
        case AutoAttackStage():
            # nine targets; FAB looks once more at each step
            per_step = {"apgd-t": 27, "fab-t": 36}.get(attack.stage, 3)
            return per_step * attack.num_steps * attack.num_restarts * attack.num_draws
        case BranchAndBound():
            return 7 * attack.max_boxes
        case MixedInteger():
            return SOLVER_PASSES
        case Expectation():
            return attack.num_draws * passes(attack.attack)
    return passes(attack.attack) if hasattr(attack, "attack") else 1


def catalogue(norm: Norm = "linf") -> dict[str, SuiteEntry]:
    """Every attack in this norm, in the order in which they are run: cheap and telling ones first, FAB last."""
    pgd = PGD(norm=norm)
    margin = replace(pgd, criterion="margin")
    thorough = replace(margin, num_steps=100, num_restarts=2, schedule="cosine")
    targeted = replace(margin, targeted=True, num_restarts=9)
    tireless = replace(margin, stop_when_fooled=False)  # what one draw gets wrong, the next may get right

    def autoattack(stage: str, **options: Any) -> AutoAttackStage:
        return AutoAttackStage(stage, norm=norm, **options)

    def adaptive(title: str, attack: Attack, **options: Any) -> SuiteEntry:
        return SuiteEntry(title, attack, "adaptive", needs_quantizer=True, **options)

    entries = {
        "fgsm": SuiteEntry("FGSM", replace(FGSM, norm=norm), "plain", on_everyone=True),
        "pgd": SuiteEntry("PGD-40", pgd, "plain", on_everyone=True),
        "pgd_margin": SuiteEntry("PGD-40, margin loss", margin, "plain", on_everyone=True),
        "bpda": adaptive("PGD-40 through BPDA, identity", BPDA(pgd), on_everyone=True),
        "quantized_box": adaptive(
            "PGD-40 in the quantized box, margin loss", QuantizedBox(replace(margin, norm="linf")), on_everyone=True
        ),
        "pgd_thorough": SuiteEntry("PGD-100 x 2, margin loss", thorough, "plain"),
        "bpda_thorough": adaptive("PGD-100 x 2 through BPDA, identity, margin loss", BPDA(thorough)),
        **{
            f"bpda_surrogate_{a}": adaptive(
                f"PGD-40 through BPDA, slope of sharpness {a}, margin loss", BPDA(margin, "surrogate", float(a))
            )
            for a in (3, 10, 30)
        },
        "quantized_box_thorough": adaptive(
            "PGD-100 x 4 in the quantized box, margin loss",
            QuantizedBox(replace(thorough, norm="linf", num_restarts=4)),
        ),
        "quantized_box_flips": adaptive("greedy flips in the quantized box", QuantizedBox(GreedyFlips(num_restarts=2))),
        "quantized_box_targeted": adaptive(
            "PGD-40 towards 9 classes in the quantized box", QuantizedBox(replace(targeted, norm="linf"))
        ),
        "pgd_targeted": SuiteEntry("PGD-40 towards 9 classes", targeted, "plain"),
        "apgd_ce": SuiteEntry("AutoAttack: APGD-CE", autoattack("apgd-ce"), "plain"),
        "bpda_apgd_ce": adaptive("AutoAttack through BPDA: APGD-CE", BPDA(autoattack("apgd-ce"))),
        "apgd_t": SuiteEntry("AutoAttack: targeted APGD", autoattack("apgd-t"), "plain"),
        "bpda_apgd_t": adaptive("AutoAttack through BPDA: targeted APGD", BPDA(autoattack("apgd-t"))),
        "square": SuiteEntry("AutoAttack: Square, 5,000 queries", autoattack("square"), "black box"),
        "own_square": SuiteEntry("Square, 5,000 queries, squares of each image's own", Square(), "black box"),
        "quantized_box_square": SuiteEntry(
            "Square in the quantized box, 5,000 queries", QuantizedBox(Square()), "black box", needs_quantizer=True
        ),
        "fab_t": SuiteEntry("AutoAttack: targeted FAB", autoattack("fab-t"), "plain"),
        "branch_and_bound": SuiteEntry(
            "branch and bound: a proof or a mistake", BranchAndBound(), "adaptive", needs_bounds=True
        ),
        "mixed_integer": SuiteEntry(
            "mixed-integer programming: a proof or a mistake", MixedInteger(), "adaptive", needs_program=True
        ),
        "eot_pgd": SuiteEntry("PGD-40, expectation over 20 draws", Expectation(pgd), "adaptive", on_everyone=True),
        "eot_apgd_ce": SuiteEntry("AutoAttack rand: APGD-CE", autoattack("apgd-ce", num_draws=20), "adaptive"),
        "eot_apgd_dlr": SuiteEntry("AutoAttack rand: APGD-DLR", autoattack("apgd-dlr", num_draws=20), "adaptive"),
        "bpda_eot_pgd": adaptive(
            "PGD-40 through BPDA, identity, expectation over 20 draws, margin loss", BPDA(Expectation(tireless))
        ),
        "quantized_box_eot_pgd": adaptive(
            "PGD-40 in the quantized box, expectation over 20 draws, margin loss",
            QuantizedBox(Expectation(replace(tireless, norm="linf"))),
        ),
    }
    return {name: entry for name, entry in entries.items() if norm in norms_of(entry.attack)}


def norms_of(attack: Any) -> tuple[str, ...]:
    """Of the balls that an attack stays in; both of one that does not say."""
    if isinstance(attack, (QuantizedBox, GreedyFlips, Square, BranchAndBound, MixedInteger)):
        return ("linf",)
    norm = getattr(attack, "norm", None)
    return (norm,) if norm in get_args(Norm) else get_args(Norm)


AUTOATTACK = ("apgd_ce", "apgd_t", "square", "fab_t")
TRANSFER = "transfer_"
"""Begins the name of an attack whose images come from another model."""
PROVING = ("branch_and_bound", "mixed_integer")
SEARCHING = frozenset({"square", "own_square"})
"""Attacks without a gradient: where none was run, a gradient that leads nowhere would not have been noticed."""
RANDOM = ("eot_pgd", "eot_apgd_ce", "eot_apgd_dlr", "bpda_eot_pgd", "quantized_box_eot_pgd")
SUITES: dict[str, tuple[str, ...]] = {
    "quick": ("pgd", "pgd_margin", "bpda", "quantized_box"),
    "autoattack": AUTOATTACK,
    "rand": ("pgd", *RANDOM),
    "standard": tuple(name for name in catalogue() if name not in ("own_square", *PROVING, *RANDOM)),
}


def attacks_by_name(names: str | Sequence[str], norm: Norm = "linf") -> dict[str, SuiteEntry]:
    """The attacks of a suite, or those in a list (or a text with commas), in the order of the catalogue.

    One with other parameters is written `pgd:num_steps=200:num_restarts=5`, and comes behind the one that it is of.

    Raises: InputError for a name that is neither, for a parameter or its value that cannot be, and for a norm that is
        none.
    """
    if norm not in get_args(Norm):
        raise InputError(f"norm={norm!r} is not one of linf, l2.")
    entries = catalogue(norm)
    asked = [names] if isinstance(names, str) else list(names)
    asked = [part.strip() for text in asked for part in text.split(",") if part.strip()]
    wanted: list[str] = []
    for name in asked:
        wanted += [member for member in SUITES[name] if member in entries] if name in SUITES else [name]
    for name in [name for name in wanted if ":" in name and name.split(":")[0] in entries]:
        entries = _inserted(entries, name)
    unknown = [name for name in wanted if name not in entries]
    if unknown or not wanted:
        problem = f"There is no {norm} attack {unknown[0]!r}" if unknown else "No attack is named"
        raise InputError(f"{problem}. Choose a suite ({', '.join(SUITES)}) or attacks: {', '.join(entries)}.")
    return {name: entry for name, entry in entries.items() if name in wanted}


def _inserted(entries: dict[str, SuiteEntry], text: str) -> dict[str, SuiteEntry]:
    """`entries` with the one of `name:parameter=value:...` behind `name`."""
    name, *settings = text.split(":")
    title = f"{name} with {', '.join(settings)}"  # its own names the parameters that it had
    changed = replace(entries[name], title=title, attack=with_parameters(entries[name].attack, settings))
    found: dict[str, SuiteEntry] = {}
    for known, entry in entries.items():
        found[known] = entry
        if known == name:
            found[text] = changed
    return found


def transfer_entries(sources: dict[str, Any], images: Tensor, norm: Norm = "linf") -> dict[str, SuiteEntry]:
    """An attack for each other model, by its name: PGD with momentum on it, as far as it goes; through BPDA where it
    has a quantizer in front, whose own gradient may show nothing.

    Args:
        sources: Pixels to logits, in eval mode.
        images: (B, C, H, W) in [0, 1], a few; see `take_apart`.
        norm: Of the ball.
    """
    attack = PGD(criterion="margin", momentum=1.0, stop_when_fooled=False, norm=norm)
    entries = {}
    for name, source in sources.items():
        apart = take_apart(source, images)
        transfer = Transfer(source, attack) if apart is None else Transfer(apart, BPDA(attack))
        through = "" if apart is None else " through BPDA"
        entries[f"{TRANSFER}{name}"] = SuiteEntry(f"PGD-40{through} on {name}, transferred", transfer, "black box")
    return entries
