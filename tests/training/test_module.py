"""What the LightningModule sees to itself."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from lightning_sq.data.datamodule import ImageFolderData
from lightning_sq.errors import InputError
from lightning_sq.metrics_file import read_rows
from lightning_sq.models import ModelConfig, QuantizerConfig, build_model
from lightning_sq.objectives import Natural, NoisyNatural
from lightning_sq.training.build import build_module
from lightning_sq.training.module import ClassifierModule
from lightning_sq.training.optim import Optimization
from lightning_sq.types import Batch
from tests.callbacks import Spoil


def drawn_after_setup(rank: int, seed: int = 0, stage: str = "fit") -> tuple[torch.Tensor, torch.Tensor]:
    """What torch draws next, for dropout say, and the noise that the objective draws next."""
    config = ModelConfig("test_resnet", ("a", "b"), (0.0,) * 3, (1.0,) * 3, 32, 32, None)
    module = ClassifierModule(build_model(config), NoisyNatural("uniform", 0.5), Optimization(), seed)
    module._trainer = SimpleNamespace(global_rank=rank, datamodule=object.__new__(ImageFolderData))
    torch.manual_seed(seed)
    module.setup(stage)
    noise = module.objective.perturb(torch.full((1, 3, 32, 32), 0.5)) - 0.5
    return torch.rand(3 * 32 * 32), noise.flatten()


def test_each_rank_draws_dropout_of_its_own_and_the_first_what_it_draws_alone():
    torch.manual_seed(5)
    alone = torch.rand(3 * 32 * 32)
    draws = [drawn_after_setup(rank, seed=5)[0] for rank in range(3)]
    assert torch.equal(draws[0], alone)
    assert not torch.equal(draws[1], draws[0])
    assert not torch.equal(draws[1], draws[2])
    assert torch.equal(draws[1], drawn_after_setup(1, seed=5)[0])
    assert not torch.equal(draws[1], drawn_after_setup(1, seed=6)[0])
    assert torch.equal(drawn_after_setup(1, seed=5, stage="validate")[0], alone)


@pytest.mark.parametrize("rank", [1, 2])
def test_dropout_has_nothing_to_do_with_the_noise(rank):
    dropout, noise = drawn_after_setup(rank)
    together = torch.corrcoef(torch.stack([dropout, noise]))[0, 1]
    assert together.abs() < 0.1  # 3,072 numbers each: six standard deviations


def test_a_hard_quantizer_that_is_to_learn_its_thresholds_is_refused_before_it_trains_without_a_gradient():
    options = {"class_names": ("a", "b"), "image_size": 32, "resize_size": 32, "architecture": "test_resnet"}
    build_module(**options, quantizer=QuantizerConfig(learnable_thresholds=True))
    with pytest.raises(InputError, match=r"no gradient to learn by\. Leave out --model\.quantizer\.hard or"):
        build_module(**options, quantizer=QuantizerConfig(hard=True, learnable_thresholds=True))


class OwnData(LightningDataModule):
    def train_dataloader(self):
        return DataLoader([(torch.rand(3, 32, 32), 0)])


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"train_dataloaders": DataLoader([(torch.zeros(3, 32, 32), 0)])}, "a DataLoader"),
        ({"datamodule": OwnData()}, "OwnData"),
    ],
)
def test_what_is_no_data_module_of_ours_is_refused_with_what_to_give(given, name):
    config = ModelConfig("test_resnet", ("a", "b"), (0.0,) * 3, (1.0,) * 3, 32, 32, None)
    module = ClassifierModule(build_model(config), NoisyNatural("uniform", 0.5), Optimization())
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    with pytest.raises(InputError, match=f"give the Trainer datamodule=.* or a subclass of it, not {name}"):
        trainer.fit(module, **given)


def test_a_step_gives_the_gpu_all_its_work_before_it_waits_for_it():
    config = ModelConfig("test_resnet", ("a", "b"), (0.0,) * 3, (1.0,) * 3, 32, 32, None)
    module, done = ClassifierModule(build_model(config), Natural(), Optimization()), []
    module._trainer = SimpleNamespace(global_rank=0)
    module.log = lambda name, value, **options: done.append(name)
    module.run = SimpleNamespace(agree=lambda loss, rank: done.append(f"agree behind {module.train_top1.update_count}"))
    module.training_step(Batch(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]), torch.arange(2)))
    assert done == ["train/loss", "agree behind 1"]


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_of_a_step_that_is_refused_nothing_is_logged(few_digits, tmp_path):
    data = ImageFolderData(str(few_digits), "torchvision", 32, batch_size_per_device=32, num_threads=0)
    config = ModelConfig("test_resnet", data.class_names, (0.0,) * 3, (1.0,) * 3, 32, 32, None)
    module = ClassifierModule(build_model(config), Natural(), Optimization())
    options = {"enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    options |= {"use_distributed_sampler": False, "log_every_n_steps": 1, "callbacks": [Spoil(rank=0, step=2)]}
    trainer = Trainer(max_epochs=1, logger=CSVLogger(tmp_path, "", ""), **options)
    with pytest.raises(FloatingPointError):
        trainer.fit(module, datamodule=data)
    assert [math.isfinite(float(row["train/loss"])) for row in read_rows(tmp_path / "metrics.csv")] == [True, True]


def test_no_kernels_are_timed_for_the_few_images_of_a_batch_that_show_the_input_gradient(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)  # as by --trainer.benchmark true
    config = ModelConfig("test_resnet", ("a", "b"), (0.0,) * 3, (1.0,) * 3, 32, 32, None)
    module, seen = ClassifierModule(build_model(config), Natural(), Optimization()), []
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(index=lambda split: range(2)))
    module.log = lambda name, value, **options: None
    module.model.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.benchmark))
    module.validation_step(Batch(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]), torch.arange(2)))
    assert seen == [True, False]  # of the whole batch, and of those
    assert torch.backends.cudnn.benchmark


class Rates(Callback):
    """Notes the learning rate of each step."""

    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, *_):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_second_fit_of_the_same_module_has_the_whole_schedule_again(few_digits):
    data = ImageFolderData(str(few_digits), "torchvision", 32, batch_size_per_device=32, num_threads=0)
    config = ModelConfig("test_resnet", data.class_names, (0.0,) * 3, (1.0,) * 3, 32, 32, None)
    module = ClassifierModule(build_model(config), NoisyNatural("uniform", 0.1), Optimization(warmup_epochs=0.0))
    rates = []
    for _ in range(2):
        seen = Rates()
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
        options |= {"use_distributed_sampler": False, "limit_val_batches": 0, "callbacks": [seen]}
        Trainer(max_steps=2, **options).fit(module, datamodule=data)
        rates.append(seen.rates)
    assert rates == [pytest.approx([0.0125, 0.00625])] * 2


def test_a_validation_counts_what_its_names_say():
    config = ModelConfig("test_resnet", tuple("0123456789"), (0.0,) * 3, (1.0,) * 3, 32, 32, None)
    module = ClassifierModule(build_model(config), NoisyNatural("rademacher", 0.4), Optimization()).eval()
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(index=lambda split: range(64)))
    module.forward = lambda x: x.flatten(1)[:, :10]  # the first ten pixels are the logits
    torch.manual_seed(0)
    images, labels, indices = torch.rand(64, 3, 32, 32), torch.arange(64) // 20, torch.arange(64)  # uneven classes
    noisy = module.objective.perturb_repeatably(images, indices)
    assert noisy.min() == 0
    assert noisy.max() == 1
    assert (noisy - images).abs().max().item() == pytest.approx(0.4)
    images = 0.4 + 0.2 * images  # no two logits are alike behind the noise
    module._measure(images, labels, indices)
    noisy = module.objective.perturb_repeatably(images, indices)
    for name, pixels, k in (("clean_top1", images, 1), ("clean_top5", images, 5), ("noisy_top1", noisy, 1)):
        right = (module(pixels).topk(k).indices == labels[:, None]).any(1).float().mean().item()
        assert module.val_metrics[name].compute().item() == pytest.approx(right), name


def test_no_checkpoint_is_written_of_what_an_objective_has_learnt_to_be_no_number():
    config = ModelConfig("test_resnet", ("a", "b"), (0.0,) * 3, (1.0,) * 3, 32, 32, None)
    objective = Natural()
    objective.temperature = torch.nn.Parameter(torch.tensor(float("nan")))
    module = ClassifierModule(build_model(config), objective, Optimization())
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_idx=4))
    module._trainer = SimpleNamespace(world_size=1, global_rank=0, global_step=3, current_epoch=0, fit_loop=loop)
    with pytest.raises(FloatingPointError, match="The weights stopped being finite in epoch 1, at step 3, batch 5"):
        module.on_save_checkpoint({})
