"""`evaluate`: the worst case over many attacks, image by image, between a proof from below and doubts from above."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sq import __version__
from lightning_sq.attacks import TakenApart, take_apart
from lightning_sq.attacks.front_end import Quantizer
from lightning_sq.attacks.frozen import frozen
from lightning_sq.attacks.rows import Model
from lightning_sq.errors import InputError
from lightning_sq.evaluation import inputs
from lightning_sq.evaluation.certify import certify, has_bounds, has_program
from lightning_sq.evaluation.diagnostics import Situation, diagnose
from lightning_sq.evaluation.found import Evaluation, share_of
from lightning_sq.evaluation.precision import full_precision
from lightning_sq.evaluation.processes import barrier, first_alone, rank, world_size
from lightning_sq.evaluation.runner import Progress, StageRunner
from lightning_sq.evaluation.store import LOGITS, VerdictStore
from lightning_sq.evaluation.suites import SUITE_VERSION, Entry, transfer_entries
from lightning_sq.ops.tensor_digest import add_tensors
from lightning_sq.types import Norm


def evaluate(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float | str | Sequence[float | str],
    attacks: str | Sequence[str] | dict[str, Entry] = "standard",
    norm: Norm = "linf",
    curve: Sequence[float] = (),
    quantizer: Quantizer | None = None,
    transfer_from: dict[str, Model] | None = None,
    batch_size: int = 128,
    seed: int = 0,
    store: str | Path | None = None,
    show: Sequence[int] = (),
    checks: bool = True,
    progress: Progress | None = None,
) -> Evaluation:
    """Attack `model` on `images` with each of `attacks`; report the worst case, image by image.

    Clean mistakes are never attacked. Attacks on everyone run on all other images at every epsilon, so that their own
    number can be told; the rest get only the images that nothing has broken and nothing has proven yet. Every
    adversarial image is checked for ball, box and misclassification in a fresh float32 pass before it counts. In a
    process group (torchrun, srun, Lightning) the batches are shared out; every process gets the whole result.

    Args:
        model: Pixels in [0, 1] to logits: any function. An nn.Module is put into eval mode meanwhile.
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64.
        epsilon: One budget or several, such as 8/255.
        attacks: A suite ("quick", "standard", "autoattack", "rand"), names from `suites.catalogue`, or entries of your
            own by name.
        norm: "linf" or "l2".
        curve: Further epsilons, at which only the attacks on everyone are run.
        quantizer: For a foreign model: its elementwise, non-decreasing front end; `model` is then what is behind it.
            Our own layer is found by itself.
        transfer_from: Other models over the same classes, by name, whose adversarial images are tried.
        batch_size: Images at a time, at most.
        seed: Of everything random; each image has its own.
        store: A folder where verdicts are kept; called again with it, the evaluation goes on where it was.
        show: Numbers of images whose adversarial version is to be kept; see `Evaluation.examples`.
        checks: Whether to make the diagnostics. Without them nothing has examined these upper bounds, and `flags`
            refuses to answer: for a long series of models that are alike.
        progress: Called with (model passes done, passes in all as far as can be told, note).
    Raises: InputError for an epsilon or an attack that cannot be, for images that are not pixels in [0, 1], for
        labels that are no classes of the model, for a model that gives no logits (B, classes) that are numbers or
        writes into its images, and for a `store` of another evaluation.
    """
    entries = inputs.attacks_in(attacks, norm)
    budgets = tuple(sorted(inputs.budgets_in(epsilon, norm)))
    if not budgets:
        raise InputError("epsilon is empty. Give a budget, such as 8/255.")
    epsilons = tuple(sorted({*budgets, *inputs.budgets_in(curve, norm)}))
    images = inputs.images_in(images)
    labels = inputs.labels_in(labels, len(images))
    inputs.check_size(batch_size)
    sources = transfer_from or {}
    device = _device(model, images)
    with ExitStack() as stack:
        for module in (model, quantizer, *sources.values()):
            stack.enter_context(frozen(module))
        stack.enter_context(full_precision())
        few = images[:16].to(device).clone()  # what a caller's model does to it is no matter of the caller's images
        entries |= transfer_entries(sources, few, norm)
        apart = take_apart(model, few, quantizer=quantizer) or TakenApart(None, model)
        whole = apart if quantizer is not None else model
        logits = inputs.logits_of(whole, few)
        inputs.check_labels(labels, logits.shape[1])
        of_sources = inputs.logits_of_sources(sources, few, logits.shape[1])
        bounded = norm == "linf" and has_bounds(apart, few)
        known = {
            "quantized": apart.quantizer is not None,
            "bounded": bounded,
            "programmable": bounded and has_program(apart),
            "num_classes": logits.shape[1],
        }
        possible = {name: entry.why_not(**known) for name, entry in entries.items()}
        chosen = {name: entries[name] for name, why in possible.items() if why is None}
        if not chosen:
            raise InputError(f"No attack is left: {next(iter(possible.values()))}. Add pgd to the attacks.")
        identity = _identity(whole, images, labels, sources, {"the model": logits, **of_sources}) | {
            "epsilons": epsilons,
            "budgets": budgets,
            "norm": norm,
            "attacks": {name: entry.to_dict() for name, entry in chosen.items()},
            "batch_size": batch_size,
            "seed": seed,
        }
        with first_alone():
            verdicts = VerdictStore(None if store is None else Path(store), identity, rank())
        barrier()  # no file is written to while another process reads it
        stack.callback(verdicts.close)
        runner = StageRunner(
            whole,
            apart,
            images,
            labels,
            verdicts,
            device=device,
            norm=norm,
            batch_size=batch_size,
            seed=seed,
            show=show,
        )
        found = Evaluation(
            epsilons=epsilons,
            budgets=budgets,
            norm=norm,
            correct=runner.correct(),
            certified={e: certify(runner, apart, e) for e in epsilons} if bounded else None,
            attacks=chosen,
            skipped={name: why for name, why in possible.items() if why is not None},
            outcomes={},
            batch_size=batch_size,
            num_processes=world_size(),
        )
        passes = _attack_all(runner, found, progress)

        def begins(check: str) -> None:
            if progress is not None:
                progress(passes, passes, f"{100 * found.robust_accuracy:.1f} % robust, {check}")

        found.diagnostics = diagnose(Situation(runner, apart, found), begins) if checks else None
    return found


def _attack_all(runner: StageRunner, found: Evaluation, progress: Progress | None) -> int:
    """Every stage, into `found`; returns the passes of the model that they were, about."""
    stages = [
        (name, entry, value)
        for name, entry in found.attacks.items()
        for value in (found.epsilons if entry.on_everyone else found.budgets)
    ]
    done = 0

    def left_in(entry: Entry, value: float) -> Tensor:
        if entry.on_everyone:
            return found.correct
        alive = found.survived(value)
        return alive if found.certified is None else alive & ~found.certified[value]

    for number, (name, entry, value) in enumerate(stages, start=1):
        todo, robust = left_in(entry, value), share_of(found.survived(value))
        later = sum(other.cost * int(left_in(other, at).sum()) for _, other, at in stages[number:])
        left = int(todo.sum())
        note = f"{100 * robust:.1f} % robust at {value:.3g} so far"

        def advance(count: int, name: str = name, cost: int = entry.cost, later: int = later, note: str = note) -> None:
            nonlocal left, done
            count = min(count, left)
            left, done = left - count, done + count * cost
            if progress is not None:
                progress(done, done + left * cost + later, f"{name}: {left} images left, {note}")

        outcome = runner.run(name, entry.attack, value, todo, advance)
        found.outcomes.setdefault(name, {})[value] = outcome
        for smaller in (e for e in found.certified or () if e <= value):
            found.certified[smaller] |= outcome.proven
    return done


def _device(model: Model, images: Tensor) -> torch.device:
    weight = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return images.device if weight is None else weight.device


def _identity(
    model: Model, images: Tensor, labels: Tensor, sources: dict[str, Model], logits: dict[str, Tensor]
) -> dict[str, Any]:
    """What a kept verdict is about, and by which code; `logits` are what each model says of a few images."""
    return {
        "lightning_sq": __version__,
        "suite_version": SUITE_VERSION,
        "torch": torch.__version__,
        "model": _digest(model),
        "images": hashlib.sha256(images.cpu().numpy().tobytes()).hexdigest(),
        "labels": hashlib.sha256(labels.cpu().numpy().tobytes()).hexdigest(),
        "transfer_from": {name: _digest(other) for name, other in sources.items()},
        LOGITS: {name: few[:4].tolist() for name, few in logits.items()},
    }


def _digest(model: Model) -> str:
    """Of the weights, if the model has some."""
    digest = hashlib.sha256()
    if isinstance(model, nn.Module):
        add_tensors(digest, model.state_dict())
    return digest.hexdigest()
