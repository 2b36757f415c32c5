"""A run that is killed twenty times at random moments ends with the weights of the run that was not, bit for bit."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import REPOSITORY
from tests.run_logs import assert_same_weights, logged_rows, step_of, weights

NUM_KILLS = 20
STEPS, EPOCHS = 15, 8  # 90 images in batches of 6
WORDS = [
    *("fit", "--config", str(REPOSITORY / "configs/digits.yaml"), "--model.architecture", "test_resnet"),
    *("--trainer.accelerator", "cpu", "--trainer.max_epochs", str(EPOCHS), "--data.batch_size_per_device", "6"),
    *("--data.backend", "memory", "--trainer.log_every_n_steps", "1", "--checkpoint_minutes", "0", "--resume"),
]


def run(words: list[str]) -> None:
    """In a process of its own, which has the imports already."""
    import sys

    from lightning_sq.__main__ import main

    sys.argv = ["lightning-sq"]
    sys.exit(main(words))


@pytest.fixture
def start(few_digits):
    """Starts a fit in a process that is forked from one that has only imported: a second in the place of ten."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning_sq.training.cli", "torch.utils.tensorboard"])

    def begin(output: Path) -> multiprocessing.Process:
        process = context.Process(target=run, args=([*WORDS, "--data.root", str(few_digits), "--output", str(output)],))
        process.start()
        return process

    return begin


def curve(output: Path) -> list[int]:
    """The steps of the loss in TensorBoard's files, as it shows them."""
    (folder,) = (output / "logs").glob("*/")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=True)
    events.Reload()
    return [event.step for event in events.Scalars("train/loss")]


def wait_for_another_second(output: Path) -> None:
    """TensorBoard reads its files in the order of their names: the second, then the process's number as a text."""
    seconds = [int(path.name.split(".")[3]) for path in output.glob("logs/*/events.out.tfevents.*")]
    while int(time.time()) <= max(seconds, default=0):
        time.sleep(0.01)


@pytest.mark.end_to_end
def test_a_run_that_is_killed_twenty_times_ends_as_if_it_had_not_been(start, tmp_path):
    whole, killed, draw = tmp_path / "whole", tmp_path / "killed", random.Random(0)
    process = start(whole)
    process.join(120)
    assert process.exitcode == 0
    last = -1
    for _ in range(NUM_KILLS):
        process = start(killed)
        goal = min(last + draw.randint(1, 3), STEPS * EPOCHS - 2)
        deadline = time.monotonic() + 120
        while step_of(killed) < goal and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.06))  # in a step, between two, or in the writing of a checkpoint
        process.kill()
        process.join()
        assert process.exitcode == -9, "it ended before it was killed"
        assert step_of(killed) >= goal > last, "it took no step before it was killed"
        last = step_of(killed)
        wait_for_another_second(killed)
    process = start(killed)
    process.join(120)
    assert process.exitcode == 0
    assert_same_weights(weights(killed), weights(whole))
    assert logged_rows(killed) == logged_rows(whole)
    assert curve(killed) == curve(whole) == list(range(STEPS * EPOCHS))
