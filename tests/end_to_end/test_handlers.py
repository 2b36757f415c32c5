"""Why Lightning's own signal handlers are switched off: of two processes, one slower, neither comes out of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, TensorDataset

from lightning_sq.run_files import STEP_FILE
from lightning_sq.stop_request import STOPPED
from tests.conftest import REPOSITORY
from tests.ports import port_that_stays_free
from tests.run_logs import step_of

WORDS = [
    *("fit", "--config", str(REPOSITORY / "configs/digits.yaml"), "--model.architecture", "test_resnet"),
    *("--data.backend", "memory", "--trainer.accelerator", "cpu", "--trainer.devices", "2"),
    *("--checkpoint_minutes", "600", "--hang_seconds", "600", "--trainer.callbacks+=tests.callbacks.Pause"),
    *("--trainer.callbacks.rank", "1", "--trainer.callbacks.seconds", "0.5"),
]
HELD_UP = 4.0
"""Seconds that the slower process works on behind the signal, while the other waits for its gradients."""
ASKED = "asked"
"""The file in a run's folder that says that the signal was sent."""


class OneSlower(LightningModule):
    """Takes steps of nothing, the third of which keeps the second process busy."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.layer = folder, torch.nn.Linear(1, 1)

    def training_step(self, batch):
        if self.global_step == 2:
            (self.folder / f"rank-{self.global_rank}").mkdir()
            (self.folder / f"rank-{self.global_rank}" / STEP_FILE).write_text("2")
            while self.global_rank and not (self.folder / ASKED).exists():
                time.sleep(0.05)
            time.sleep(HELD_UP * self.global_rank)
        return self.layer(batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def under_srun(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    rank_zero_only.rank = int(environment["SLURM_PROCID"])  # Lightning asks when it is imported, which was before


def train_with_lightnings_own_handlers(folder: Path, environment: dict[str, str]) -> None:
    under_srun(environment)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        plugins=SLURMEnvironment(),
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(OneSlower(folder), DataLoader(TensorDataset(torch.zeros(8, 1)), num_workers=0))


def train_with_ours(folder: Path, environment: dict[str, str], data: Path) -> None:
    under_srun(environment)
    from lightning_sq.__main__ import main

    sys.argv = ["lightning-sq"]
    sys.exit(main([*WORDS, "--data.root", str(data), "--output", str(folder)]))


@pytest.fixture
def two_processes():
    """Starts a function in two processes that find themselves under srun; what is left of them goes with the test."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning_sq.training.cli", "torch.utils.tensorboard"])
    started: list[ForkServerProcess] = []

    def start(function, *arguments: object) -> list[ForkServerProcess]:
        same = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port_that_stays_free())}
        same |= {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "run"}
        same |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
        same |= {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
        pair = []
        for rank in ("0", "1"):
            environment = same | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "OMP_NUM_THREADS": "1"}
            folder, *others = arguments
            pair.append(context.Process(target=function, args=(folder, environment, *others)))
            pair[-1].start()
        started.extend(pair)
        return pair

    yield start
    for process in started:
        process.kill()
        process.join()


def wait_for_step(pair: list[ForkServerProcess], output: Path, step: int) -> None:
    deadline = time.monotonic() + 180
    while step_of(output) < step:
        assert [process.exitcode for process in pair] == [None, None]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ask(pair: list[ForkServerProcess], number: signal.Signals) -> None:
    for process in pair:
        os.kill(process.pid, number)


@pytest.mark.end_to_end
def test_lightnings_handlers_leave_two_processes_waiting_for_each_other_and_ours_leave_together(
    two_processes, few_digits, tmp_path
):
    stuck = {}
    for number in (signal.SIGUSR1, signal.SIGTERM):
        folder = tmp_path / number.name
        folder.mkdir()
        stuck[number] = two_processes(train_with_lightnings_own_handlers, folder)
    for number, pair in stuck.items():
        for rank in (0, 1):
            wait_for_step(pair, tmp_path / number.name / f"rank-{rank}", 2)
    time.sleep(1)  # the first has come to the all-reduce, the second works on
    for number, pair in stuck.items():
        ask(pair, number)
        (tmp_path / number.name / ASKED).touch()
    asked = time.monotonic()

    for number in stuck:
        output = tmp_path / f"ours-{number.name}"
        pair = two_processes(train_with_ours, output, few_digits)
        wait_for_step(pair, output, 1)
        ask(pair, number)
        for process in pair:
            process.join(120)
        assert [process.exitcode for process in pair] == [STOPPED, 0]
        assert (output / "checkpoints/last.ckpt").is_file()

    time.sleep(max(0.0, asked + 2 * HELD_UP - time.monotonic()))  # what was to be waited for is long over
    for number, pair in stuck.items():
        assert [process.exitcode for process in pair] == [None, None], number.name
        assert not list((tmp_path / number.name).glob("*.ckpt"))
