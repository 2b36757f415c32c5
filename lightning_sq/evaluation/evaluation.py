"""`evaluate`: the worst case over many attacks, image by image, between a proof from below and doubts from above."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sq.attacks.front_end import Quantizer
from lightning_sq.attacks.frozen import frozen
from lightning_sq.attacks.interface import Model
from lightning_sq.evaluation import inputs
from lightning_sq.evaluation.certify import certify
from lightning_sq.evaluation.description import networks_in
from lightning_sq.evaluation.diagnostics import Situation, diagnose
from lightning_sq.evaluation.first_look import look_at
from lightning_sq.evaluation.found import Evaluation, share_of
from lightning_sq.evaluation.identity import identity_of, lenders_in
from lightning_sq.evaluation.processes import first_alone, gather
from lightning_sq.evaluation.runner import Progress, StageRunner
from lightning_sq.evaluation.store import OtherVerdictsError, VerdictStore
from lightning_sq.evaluation.suites import SUITE_VERSION, SuiteEntry, transfer_entries
from lightning_sq.ops.precision import full_precision
from lightning_sq.process_group import rank, world_size
from lightning_sq.types import Norm
from lightning_sq.words import counted


def evaluate(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float | str | Sequence[float | str],
    attacks: str | Sequence[str] | dict[str, SuiteEntry] = "standard",
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
        model: Pixels in [0, 1] to logits: any function. An nn.Module, and one that a function holds or reads, is in
            eval mode meanwhile, and its weights get no gradient.
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64.
        epsilon: One budget or several, such as 8/255, in units of the full pixel range. For "l2" the length of the
            whole change, the root of its squares summed over pixels and channels: 1.0 takes one pixel from 0 to 1.
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
    Returns: `robust_accuracy`, an upper bound, and `certified_accuracy`, a lower one (None where there is no proof),
        both in [0, 1] and at the largest budget; `flags`, the checks that fired, with any of which a model is not to be
        called robust beyond what is proven; `skipped`, which attacks were not run, and why; `table`, a row an attack;
        `survived(epsilon)`, a verdict an image at one of the budgets; `accuracy(attack, epsilon)`, of one attack by
        itself, if it attacked everyone.
    Raises: InputError for an epsilon or an attack that cannot be, for images that are not pixels in [0, 1], for
        labels that are no classes of the model, for a model that gives no logits (B, classes) that are numbers or
        writes into its images, for an attack that gives no images in its ball, and for a `store` of another evaluation.
    Example:
        >>> images = torch.tensor([[0.5, 0.6], [0.1, 0.9]]).view(2, 1, 1, 2)  # which of two pixels is the brighter one?
        >>> found = evaluate(nn.Flatten(), images, torch.tensor([1, 1]), epsilon=0.1, attacks="pgd")
        >>> found.clean_accuracy, found.robust_accuracy, found.certified_accuracy, found.skipped
        (1.0, 0.5, 0.5, {})
        >>> found.survived(0.1).tolist(), found.accuracy("pgd", 0.1)
        ([False, True], 0.5)
    """
    inputs.check_models(model, transfer_from)
    entries = inputs.attacks_in(attacks, norm)
    budgets, epsilons = inputs.epsilons_in(epsilon, curve, norm)
    images = inputs.images_in(images)
    labels = inputs.labels_in(labels, len(images)).to(images.device)
    inputs.check_size(batch_size)
    sources = transfer_from or {}
    models = (model, quantizer, *sources.values())
    inputs.check_weights(models)
    device = _device(model, images)
    settings = {"epsilons": epsilons, "budgets": budgets, "norm": norm, "batch_size": batch_size}
    with _held_still(models):
        few = images[:16].to(device).clone()  # what a caller's model does to it is no matter of the caller's images
        look = look_at(model, few, labels, quantizer=quantizer, sources=sources, norm=norm)
        chosen, skipped = look.that_apply(entries | transfer_entries(sources, few, norm))

        def identity() -> dict[str, Any]:
            of_models = identity_of(look.whole, quantizer, images, labels, sources, look.said, look.said_of_noise())
            of_attacks = {name: entry.to_dict() for name, entry in chosen.items()}
            lenders = {name: lent for name, entry in entries.items() if (lent := lenders_in(entry.attack))}
            said = {"seed": seed, "suite_version": SUITE_VERSION, "attacks": of_attacks, "lenders": lenders}
            return of_models | settings | said

        with _kept(store, identity) as verdicts:
            options = {"device": device, "norm": norm, "batch_size": batch_size, "seed": seed, "show": show}
            runner = StageRunner(look.whole, look.apart, images, labels, verdicts, **options)
            found = Evaluation(
                **settings,
                correct=runner.correct(),
                certified={e: certify(runner, look.apart, e) for e in epsilons} if look.bounded else None,
                attacks=chosen,
                skipped=skipped,
                outcomes={},
                num_processes=world_size(),
            )
            passes = _attack_all(runner, found, progress)
            if checks:
                found.diagnostics = diagnose(Situation(runner, look.apart, found), _announcing(found, passes, progress))
    return found


@contextmanager
def _held_still(models: Iterable[Any]) -> Iterator[None]:
    """All of them frozen, and the networks in those that are functions, and float32 in full; as before afterwards."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # a caller's: inside it there is no gradient
        stack.enter_context(torch.enable_grad())  # nor under a caller's no_grad
        stack.enter_context(frozen(*(network for model in models for network in networks_in(model))))
        stack.enter_context(full_precision())
        yield


@contextmanager
def _kept(store: str | Path | None, identity: Callable[[], dict[str, Any]]) -> Iterator[VerdictStore]:
    """The verdicts in a folder, or in memory; `identity` is asked only for a folder.

    Raises: OtherVerdictsError in every process if one of them finds other verdicts.
    """
    said, refused = {} if store is None else identity(), ""
    with ExitStack() as held:
        with first_alone():
            try:
                verdicts = VerdictStore(None if store is None else Path(store), said, rank())
                held.enter_context(closing(verdicts))
            except OtherVerdictsError as error:
                refused = error.problem
        # waits for all, too: no file is written to while another process reads it
        if reasons := [reason for reason in gather(refused) if reason]:
            raise OtherVerdictsError(reasons[0])
        yield verdicts


def _announcing(found: Evaluation, passes: int, progress: Progress | None) -> Callable[[str], None]:
    """Tells `progress` of a check that begins."""

    def begins(check: str) -> None:
        if progress is not None:
            progress(passes, passes, f"{100 * found.robust_accuracy:.1f} % unbroken, {check}")

    return begins


def _attack_all(runner: StageRunner, found: Evaluation, progress: Progress | None) -> int:
    """Every stage, into `found`; returns the passes of the model that they were, about.

    Once an attack breaks an image that is proven, no proof is believed: the stages begin anew without any. Those on
    everyone have their verdicts still, the others get more images than before.
    """
    done = _run_stages(runner, found, progress)
    if found.refuted.any():
        found.disbelieved, found.certified = found.certified, None
        found.outcomes.clear()
        done = _run_stages(runner, found, progress, done)
    return done


def _run_stages(runner: StageRunner, found: Evaluation, progress: Progress | None, done: int = 0) -> int:
    """All of them, or up to the first that refutes a proof.

    Args:
        done: Passes of the model before.
    Returns: the same afterwards, about.
    """
    stages = [
        (name, entry, value)
        for name, entry in found.attacks.items()
        for value in (found.epsilons if entry.on_everyone else found.budgets)
    ]

    def left_in(entry: SuiteEntry, value: float) -> Tensor:
        if entry.on_everyone:
            return found.correct
        alive = found.survived(value)
        return alive if found.certified is None else alive & ~found.certified[value]

    for number, (name, entry, value) in enumerate(stages, start=1):
        todo, robust = left_in(entry, value), share_of(found.survived(value))
        later = sum(other.cost * int(left_in(other, at).sum()) for _, other, at in stages[number:])
        left = int(todo.sum())
        note = f"{100 * robust:.1f} % unbroken at {value:.3g} so far"

        def advance(count: int, name: str = name, cost: int = entry.cost, later: int = later, note: str = note) -> None:
            nonlocal left, done
            count = min(count, left)
            left, done = left - count, done + count * cost
            if progress is not None:
                progress(done, done + left * cost + later, f"{name}: {counted(left, 'image')} left, {note}")

        outcome = runner.run(name, entry.attack, value, todo, advance)
        found.outcomes.setdefault(name, {})[value] = outcome
        for smaller in (e for e in found.certified or () if e <= value):
            found.certified[smaller] |= outcome.proven
        if found.certified is not None and found.refuted.any():
            break
    return done


def _device(model: Model, images: Tensor) -> torch.device:
    weight = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return images.device if weight is None else weight.device
