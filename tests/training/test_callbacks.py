"""The callbacks and manners around training, each alone."""

from __future__ import annotations

import logging
import warnings
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from lightning_sq.training.callbacks import ProgressLines, Throughput, average_where_training_is
from lightning_sq.training.cluster.time_limit import TimePlan
from lightning_sq.training.parser import quiet_lightning
from lightning_sq.training.resume.checkpointing import TimedCheckpoint, WholeFileIO
from lightning_sq.training.run_state import RunState
from lightning_sq.types import Batch


def test_a_timed_checkpoint_waits_for_the_optimizer_step(monkeypatch):
    reached = []
    monkeypatch.setattr(ModelCheckpoint, "on_train_batch_end", lambda *arguments: reached.append(arguments[-1]))
    callback = TimedCheckpoint(train_time_interval=timedelta(0))
    trainer = SimpleNamespace(accumulate_grad_batches=4, num_training_batches=6)
    for batch_idx in range(6):
        callback.on_train_batch_end(trainer, SimpleNamespace(run=RunState(save_is_due=True)), None, None, batch_idx)
    assert reached == [3, 5]


@pytest.mark.parametrize("is_first", [True, False])
def test_the_first_processs_clock_alone_says_when_a_timed_checkpoint_is_due(is_first, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    callback = TimedCheckpoint(train_time_interval=timedelta(minutes=15))
    trainer, module, due = SimpleNamespace(is_global_zero=is_first), SimpleNamespace(run=RunState()), []
    callback.on_train_start(trainer, module)
    for batch_idx in range(20):
        clock.now += 100.0
        callback.on_train_batch_start(trainer, module, None, batch_idx)
        if module.run.save_is_due:
            due.append(clock.now)
            callback._last_time_checked = clock.now  # as Lightning does when it saves
    assert due == ([900.0, 1800.0] if is_first else [])


def test_nobody_is_asked_for_the_time_behind_a_step_at_which_no_save_is_due(monkeypatch):
    reached = []
    monkeypatch.setattr(ModelCheckpoint, "on_train_batch_end", lambda *arguments: reached.append(arguments[-1]))
    trainer = SimpleNamespace(accumulate_grad_batches=1, num_training_batches=6)
    callback = TimedCheckpoint(train_time_interval=timedelta(minutes=15))
    for batch_idx in range(6):
        module = SimpleNamespace(run=RunState(save_is_due=batch_idx == 2))
        callback.on_train_batch_end(trainer, module, None, None, batch_idx)
    assert reached == [2]


def test_a_checkpoint_that_cannot_be_written_whole_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.ckpt"
    io = WholeFileIO()
    io.save_checkpoint({"epoch": 1}, path)
    assert [name.name for name in path.parent.iterdir()] == ["last.ckpt"]

    def full_disk(content, stream):
        stream.write(b"half of")
        raise OSError("no space left on device")

    monkeypatch.setattr("torch.save", full_disk)
    io.save_checkpoint({"epoch": 2, "global_step": 7}, path)
    assert io.failure == f"{path} was not written at step 7: no space left on device."
    assert torch.load(path, weights_only=True) == {"epoch": 1}


def test_an_average_of_weights_is_where_the_training_is_unless_it_is_told_to_be_elsewhere():
    there = torch.device("meta")
    ours, told = EMAWeightAveraging(decay=0.9), EMAWeightAveraging("cpu", decay=0.9)
    trainer = SimpleNamespace(callbacks=[ours, Throughput(), told], strategy=SimpleNamespace(root_device=there))
    average_where_training_is(trainer)
    module = LightningModule()
    module.layer = torch.nn.Linear(1, 1)  # on the CPU still, as Lightning's hook finds it
    for callback in (ours, told):
        callback.setup(SimpleNamespace(), module, "fit")
    assert [next(one._average_model.parameters()).device.type for one in (ours, told)] == ["meta", "cpu"]


@pytest.mark.parametrize("use_buffers", [True, False])
def test_a_moving_average_of_all_weights_at_once_is_lightnings_of_one_after_the_other(use_buffers, monkeypatch):
    torch.manual_seed(0)
    module = LightningModule()
    module.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))  # with a count, an integer
    ours, theirs = (EMAWeightAveraging(use_buffers=use_buffers, decay=0.9) for _ in range(2))
    trainer = SimpleNamespace(callbacks=[ours], strategy=SimpleNamespace(root_device=torch.device("cpu")))
    average_where_training_is(trainer)
    for callback in (ours, theirs):
        callback.setup(trainer, module, "fit")
    fused, foreach_lerp = [], torch._foreach_lerp_
    monkeypatch.setattr(torch, "_foreach_lerp_", lambda *given: fused.append(len(given[0])) or foreach_lerp(*given))
    for _ in range(20):
        module.layers(torch.randn(2, 3, 8, 8))
        for parameter in module.parameters():
            parameter.data.add_(0.01 * torch.randn_like(parameter))
        for callback in (ours, theirs):
            callback._average_model.update_parameters(module)
    assert fused == 19 * [6 if use_buffers else 4]  # the first is a copy
    checkpoints = [{"state_dict": module.state_dict()} for _ in range(2)]
    for callback, checkpoint in zip((ours, theirs), checkpoints, strict=True):
        callback.on_save_checkpoint(trainer, module, checkpoint)
    torch.testing.assert_close(*checkpoints, rtol=0, atol=1e-6)
    assert checkpoints[0]["state_dict"]["layers.1.num_batches_tracked"] > 0


def test_speed_counts_from_the_start_of_training_when_a_run_goes_on_inside_an_epoch(monkeypatch):
    clock, logged = iter([1000.0, 1002.0]), {}
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    callback, trainer = Throughput(), SimpleNamespace(world_size=2)
    module = SimpleNamespace(log=lambda name, value, **options: logged.update({name: value}))
    callback.on_train_start(trainer, module)  # and no on_train_epoch_start
    callback.on_train_batch_end(trainer, module, None, SimpleNamespace(labels=torch.zeros(8)), 3)
    callback.on_train_epoch_end(trainer, module)
    assert logged == {"train/images_per_second": pytest.approx(2 * 8 / 2.0), "train/seconds": 2.0}


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")  # Lightning's own
def test_the_speed_of_an_epoch_is_its_images_by_its_seconds_however_slow_its_first_step(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("lightning_sq.training.callbacks.time", SimpleNamespace(perf_counter=lambda: clock.now))

    class Batches:
        def __iter__(self):
            return iter([Batch(torch.zeros(4, 3, 8, 8), torch.zeros(4), torch.arange(4))] * 10)

    class Slow(LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def training_step(self, batch, batch_idx):
            clock.now += 1.0 if batch_idx else 11.0
            return self.weight * 1.0

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters())

    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[Throughput()],
        log_every_n_steps=1,
        **quiet,
    )
    trainer.fit(Slow(), Batches())
    assert trainer.callback_metrics["train/images_per_second"].item() == pytest.approx(4 * 10 / 20.0)


def test_an_epoch_without_a_step_has_no_speed():
    logged = {}
    module = SimpleNamespace(log=lambda name, value, **options: logged.update({name: value}))
    Throughput().on_train_epoch_end(None, module)
    assert logged == {"train/seconds": 0.0}


def test_the_seconds_of_a_run_are_those_of_all_its_starts_without_validation(monkeypatch):
    clock, logged = iter([0.0, 3.0, 100.0, 101.0]), {}
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    trainer, batch = SimpleNamespace(world_size=1), SimpleNamespace(labels=torch.zeros(8))
    module = SimpleNamespace(log=lambda name, value, **options: logged.update({name: value}))
    first = Throughput()
    first.on_train_start(trainer, module)
    first.on_train_batch_end(trainer, module, None, batch, 0)
    first.on_validation_end(trainer, module)  # at 100
    first.on_train_batch_end(trainer, module, None, batch, 1)
    first.on_train_epoch_end(trainer, module)
    assert logged["train/seconds"] == 4.0
    second = Throughput()
    second.load_state_dict(first.state_dict())
    second.on_train_epoch_end(trainer, module)
    assert logged["train/seconds"] == 4.0


@pytest.mark.parametrize(
    ("limit", "position", "left"),
    [
        (None, 20.0, "0:02:40"),  # 80 steps of 2 s
        (1000.0, 20.0, "0:02:40"),
        (200.0, 20.0, "0:02:19"),  # 199 s are the plan's, 60 of earlier starts and of this one are over
        (50.0, 20.0, "0:00:00"),
        (None, 60.0, "0:01:20"),  # it has skipped steps, in an earlier start with less time
    ],
)
def test_the_time_left_is_that_of_the_rest_of_the_schedule_and_never_more_than_the_limit_leaves(
    limit, position, left, monkeypatch, caplog
):
    clock = SimpleNamespace(monotonic=iter([1000.0, 1020.0]).__next__)
    monkeypatch.setattr("lightning_sq.training.callbacks.time", clock)
    trainer = SimpleNamespace(
        global_step=10, current_epoch=0, max_epochs=2, num_training_batches=50, callback_metrics={"train/loss": 0.5}
    )
    module = SimpleNamespace(run=SimpleNamespace(plan=TimePlan(limit, 100, 50, position=position), elapsed=60.0))
    callback = ProgressLines(every_seconds=20.0)
    callback.on_train_start(trainer, module)
    trainer.global_step = 20
    with caplog.at_level("INFO"):
        callback.on_train_batch_end(trainer, module, None, None, 19)
    assert caplog.messages == [f"epoch 1/2, batch 20/50, loss 0.500, 0:00:20 so far, {left} left"]


def test_what_nobody_can_mend_is_not_said_and_the_filters_do_not_pile_up():
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        quiet_lightning()
        num_filters = len(logger.filters)
        quiet_lightning()
        assert len(logger.filters) == num_filters
        for text in (
            "The `srun` command is available on your system but is not used. HINT: ...",
            "The dirpath has changed from 'a' to 'b', therefore ...",
        ):
            warnings.warn(text, PossibleUserWarning, stacklevel=1)
        assert caught == []
        warnings.warn("something else", PossibleUserWarning, stacklevel=1)
        assert len(caught) == 1
