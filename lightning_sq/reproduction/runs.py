"""Training and attacking the rows, each by the command that a person would type, several side by side."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_sq.children import last_words, run_command
from lightning_sq.errors import InputError
from lightning_sq.evaluation.suites import SUITE_VERSION
from lightning_sq.metrics_file import training_curve
from lightning_sq.paths import write_whole
from lightning_sq.reproduction.recipes import Recipe
from lightning_sq.reproduction.studies import Row
from lightning_sq.run_files import CHECKPOINTS, LAST_CHECKPOINT

TRAINED, EVALUATED, EVALUATION, LOG = "trained.json", "evaluated.json", "evaluation", "log.txt"
BEGUN = "begun.json"
"""By which settings a training was begun that has not come to its end: other ones do not go on with it."""
CURVE = {"train/seconds": "seconds", "val/clean_top1": "clean", "val/robust_top1": "robust"}
"""What the curve of a study's run is made of, from the columns of its log; robust is that of a quick attack."""
LOOK_SECONDS = 5.0
"""Between two looks at the steps that are under way."""
ONE_PROCESS = ("--trainer.devices", "1", "--trainer.num_nodes", "1")
"""Of a training that others are compared with: on every GPU of a machine its batch and its rate would be larger."""


@dataclass(frozen=True)
class Run:
    """One row with one seed.

    Args:
        row: The row.
        seed: Of its training.
        recipe: Of its training.
        folder: Of the run.
        is_shorter: Whether by a shorter schedule than the row's own.
    """

    row: Row
    seed: int
    recipe: Recipe
    folder: Path
    is_shorter: bool = False

    @property
    def checkpoint(self) -> Path:
        """Of the last epoch."""
        return self.folder / LAST_CHECKPOINT

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.row.name}, {self.folder.name}"


@dataclass(frozen=True)
class Step:
    """A command that is run unless its marker says that it was.

    Args:
        title: For people.
        words: Behind `lightning-sq`.
        marker: Written when the command has ended well; JSON.
        key: What the marker has to say for the step to be done.
        estimate: Seconds.
        log: Takes the command's output.
        result: What the marker is to hold besides the key, asked when the command has ended.
        version: Of what it does; what was done by an earlier one counts, and is done again.
        num_images: That it takes, if it says so in its result; what was done of fewer counts, and is done again.
        images: The fingerprint of the data; empty where they are not there.
        started: What its command leaves on the way, and goes on from; None where it does not.
        void: The marker of what was done with an earlier outcome of this step.
    """

    title: str
    words: list[str]
    marker: Path
    key: str
    estimate: float
    log: Path
    result: Callable[[], dict[str, Any]]
    version: int = 1
    num_images: int = 0
    images: str = ""
    started: Path | None = None
    void: Path | None = None

    @property
    def begun(self) -> Path:
        """Says by which settings what has been started was begun."""
        return self.marker.with_name(BEGUN)

    def is_left(self) -> bool:
        """Whether it is to be run. Raises: as `is_done`."""
        if not self.is_done():
            return True
        done = json.loads(self.marker.read_text())
        return done.get("version", 1) < self.version or done.get("num_images", 0) < self.num_images

    def is_done(self) -> bool:
        """Whether it was run. Raises: InputError if the marker is of another recipe, other settings or other images."""
        marker = self.marker
        if not marker.exists():
            if self.started is None or not (self.started.exists() and self.begun.exists()):
                return False
            marker = self.begun
        known = json.loads(marker.read_text())
        if self.images and known.get("images", self.images) != self.images:
            raise InputError(
                f"{self.marker.parent} holds {self.title} with other images than the data has now. Put those back, "
                "remove that folder, add --overwrite to do it again, or give another --runs."
            )
        if known["key"] != self.key:
            raise InputError(
                f"{self.marker.parent} holds {self.title} by other settings (its recipe or options have changed). "
                "Give the options of then, remove that folder, add --overwrite to do it again, or give another --runs."
            )
        return marker == self.marker


def training_step(run: Run, data: Path, images: str, estimate: float) -> Step:
    """`lightning-sq fit`, gone on with where it was stopped.

    Args:
        run: Which.
        data: Image folder.
        images: Its fingerprint.
        estimate: Seconds.
    """
    words = ["fit", *run.recipe.options(), *ONE_PROCESS, "--data.root", str(data)]
    words += ["--output", str(run.folder), "--resume"]
    return Step(
        f"training {run.title}",
        words,
        run.folder / TRAINED,
        run.recipe.fingerprint(),
        estimate,
        run.folder / LOG,
        lambda: {"curve": training_curve(run.folder, CURVE), "epochs": run.recipe.num_epochs, "device": _device()},
        images=images,
        started=run.checkpoint,
        void=run.folder / EVALUATED,
    )


def _device() -> str:
    """On what `lightning-sq fit` trains here: no recipe names another."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def evaluation_step(
    run: Run, options: Sequence[str], num_images: int, images: str, sources: Sequence[str], estimate: float
) -> Step:
    """`lightning-sq evaluate` of the last checkpoint, gone on with where it was stopped.

    Results that are there are replaced, once the new ones are whole, and verdicts of another evaluation dropped: about
    other weights or images, or by attacks that have been made stronger since.

    Args:
        run: Which.
        options: Of the evaluation; with others it is another one.
        num_images: That are attacked.
        images: The fingerprint of the data.
        sources: NAME=MODEL of the models whose adversarial images are tried too.
        estimate: Seconds.
    """
    words = ["evaluate", f"{run.row.name}={run.checkpoint}", *options, "--num-images", str(num_images)]
    words += ["--output", str(run.folder / EVALUATION), "--overwrite"]
    words += [word for source in sources for word in ("--transfer-from", source)]
    return Step(
        f"attacking {run.title}",
        words,
        run.folder / EVALUATED,
        " ".join([run.recipe.fingerprint(), *options]),
        estimate,
        run.folder / LOG,
        lambda: {"num_images": num_images},
        version=SUITE_VERSION,
        num_images=num_images,
        images=images,
    )


def trained_at_hand(run: Run) -> dict[str, Any] | None:
    """What the marker of its training holds; None without one, or if the recipe has changed since."""
    marker = run.folder / TRAINED
    trained = json.loads(marker.read_text()) if marker.exists() else None
    return trained if trained and trained["key"] == run.recipe.fingerprint() else None


def forget(run: Run) -> None:
    """The run counts as not begun: its checkpoints are removed, and the rest is replaced by those who wrote it."""
    shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)  # first: what is stopped here is done, or begins anew
    for name in (EVALUATED, TRAINED):  # in this order: accuracies never outlive what they are of
        (run.folder / name).unlink(missing_ok=True)


def run_all(
    steps: Sequence[Step], *, jobs: int, advance: Callable[[int, int, str], None], num_threads: int, began: str
) -> None:
    """Run the steps that are left, `jobs` at a time, the longest first.

    Args:
        steps: In any order; none needs another.
        jobs: Commands side by side.
        advance: Called with (seconds of estimated work done, in all, what is under way, or ended last).
        num_threads: CPU threads of each command.
        began: When it was asked for, by which is known what was done in one go.
    Raises: InputError if one fails, when those that run beside it have ended.
    """
    todo = sorted((step for step in steps if step.is_left()), key=lambda step: -step.estimate)
    total, done = round(sum(step.estimate for step in todo)), 0.0
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_run, step, num_threads, jobs, began): step for step in todo}
        left, starts, note = set(futures), {}, ""
        try:
            while left:
                ended, left = wait(left, LOOK_SECONDS, FIRST_COMPLETED)
                for future in ended:
                    future.result()
                    done += futures[future].estimate
                    note = futures[future].title
                now, running = time.monotonic(), [future for future in futures if future.running()]
                note = "; ".join(under_way(futures[future]) for future in running) or note
                parts = (min(now - starts.setdefault(one, now), 0.99 * futures[one].estimate) for one in running)
                advance(round(done + sum(parts)), total, note)
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def under_way(step: Step) -> str:
    """Its title, and what its command has last said of how far it is."""
    lines = step.log.read_text().rpartition("$ lightning-sq ")[2].splitlines() if step.log.exists() else []
    said = next((line for line in reversed(lines) if " so far" in line), None)
    return step.title if said is None else f"{step.title}: {said}"


def _run(step: Step, num_threads: int, jobs: int, began: str) -> None:
    step.log.parent.mkdir(parents=True, exist_ok=True)
    in_one_go = step.started is None or not step.started.exists()
    of_images = {"images": step.images} if step.images else {}
    if step.started is not None and in_one_go:
        write_whole(step.begun, json.dumps({"key": step.key} | of_images, indent=1) + "\n")
    if step.void is not None:
        step.void.unlink(missing_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(num_threads), "PYTHONUNBUFFERED": "1"}
    start = time.perf_counter()
    with step.log.open("a") as log:
        log.write(f"$ lightning-sq {' '.join(step.words)}\n")
        log.flush()
        status = run_command(step.words, stdout=log, stderr=log, env=environment)
    if status:
        raise InputError(f"{step.title} failed: {last_words(step.log.read_text())} (see {step.log})")
    seconds = time.perf_counter() - start
    content = {"key": step.key, "version": step.version, "seconds_in_all": seconds}
    content |= {"num_threads": num_threads, "jobs": jobs, "command": began if in_one_go else None}
    write_whole(step.marker, json.dumps(content | of_images | step.result(), indent=1) + "\n")
