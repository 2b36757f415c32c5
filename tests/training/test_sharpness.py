from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from lightning_sq.errors import InputError
from lightning_sq.layers import SoftQuantization
from lightning_sq.models import PixelClassifier
from lightning_sq.training.cluster.time_limit import TimePlan
from lightning_sq.training.run_state import RunState
from lightning_sq.training.sharpness import SharpnessSchedule

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice and deprecations
BATCHES = DataLoader(torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)), batch_size=2)
EPOCHS = 3


class Module(LightningModule):
    """As much of a `ClassifierModule` as the callback looks at; writes down what each step is trained with."""

    def __init__(self, quantizer: SoftQuantization | None) -> None:
        super().__init__()
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
        parts = OrderedDict(quantize=quantizer, backbone=backbone) if quantizer else OrderedDict(backbone=backbone)
        self.model = PixelClassifier(parts)
        self.run = RunState(plan=TimePlan(None, EPOCHS * len(BATCHES), len(BATCHES)))
        self.seen: list[float] = []

    def training_step(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(self.model.quantizer.sharpness)
        return self.model(images).square().sum()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.run.plan.take(self.run.possible_steps)

    def on_save_checkpoint(self, checkpoint) -> None:
        checkpoint["plan"] = self.run.state_dict()

    def on_load_checkpoint(self, checkpoint) -> None:
        self.run.load_state_dict(checkpoint["plan"], step=checkpoint["global_step"], epochs_trained=None)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


def fit(module: Module, schedule: SharpnessSchedule, *, epochs: int = EPOCHS, resume=None, **options) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(
        max_epochs=epochs, callbacks=[schedule], enable_checkpointing=False, log_every_n_steps=1, **quiet, **options
    )
    trainer.fit(module, BATCHES, ckpt_path=resume)
    return trainer


def test_sharpness_by_hand():
    schedule = SharpnessSchedule(10.0, 1000.0)
    assert [schedule.at(step, num_steps=5) for step in range(7)] == pytest.approx(
        [10, 10 * 10**0.5, 100, 100 * 10**0.5, 1000, 1000, 1000]
    )
    assert SharpnessSchedule(10.0, 1000.0).at(0, num_steps=1) == 10
    assert SharpnessSchedule(1000.0, 10.0).at(2, num_steps=5) == pytest.approx(100)


def test_each_step_is_trained_at_its_sharpness_and_the_last_at_the_end():
    module = Module(SoftQuantization(4, 7.0))
    trainer = fit(module, SharpnessSchedule(10.0, 640.0))
    assert module.seen == pytest.approx([10 * 64 ** (step / 11) for step in range(12)])
    assert module.model.quantizer.sharpness == pytest.approx(640)
    assert trainer.callback_metrics["train/sharpness"].item() == pytest.approx(640)


def test_what_is_logged_at_each_step_is_never_brought_to_a_gpu_which_would_be_waited_for():
    module = Module(SoftQuantization(4, 7.0)).to("meta")
    module.run.plan.position, logged = 11.0, {}
    module.log = lambda name, value, **options: logged.update({name: value})
    trainer = SimpleNamespace(lightning_module=module)
    SharpnessSchedule(10.0, 640.0).on_train_batch_start(trainer, module, None, 0)
    assert logged["train/sharpness"].device.type == "cpu"
    assert logged["train/sharpness"].item() == pytest.approx(640)


def test_it_may_end_before_the_run():
    module = Module(SoftQuantization(4, 7.0))
    fit(module, SharpnessSchedule(10.0, 80.0, epochs=1))
    assert module.seen == pytest.approx([10, 20, 40, 80] + 8 * [80])


def test_steps_that_gather_batches_count_once():
    module = Module(SoftQuantization(4, 7.0))
    fit(module, SharpnessSchedule(10.0, 80.0, epochs=2), accumulate_grad_batches=2)
    assert module.seen == pytest.approx([10, 10, 20, 20, 40, 40, 80, 80] + 4 * [80])


def test_a_run_that_resumes_sees_the_sharpness_that_would_have_come(tmp_path):
    whole, first, second = (Module(SoftQuantization(4, 7.0)) for _ in range(3))
    fit(whole, SharpnessSchedule(10.0, 640.0))
    fit(first, SharpnessSchedule(10.0, 640.0), epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    fit(second, SharpnessSchedule(10.0, 640.0), resume=tmp_path / "last.ckpt")
    assert first.seen + second.seen == whole.seen


@pytest.mark.parametrize(
    ("quantizer", "message"),
    [
        (None, "this one has none"),
        (SoftQuantization(hard=True), "is hard"),
        (SoftQuantization(learnable_sharpness=True), "learns its sharpness"),
    ],
)
def test_a_model_that_has_no_sharpness_to_set_is_refused(quantizer, message):
    with pytest.raises(InputError, match=message):
        fit(Module(quantizer), SharpnessSchedule(10.0, 20.0))


@pytest.mark.parametrize(
    ("values", "message"), [((0, 10), "sharpness=0"), ((10, -1), "sharpness=-1"), ((1, 2, 0), "epochs=0")]
)
def test_values_that_cannot_be_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        SharpnessSchedule(*values)
