"""`lightning-sq fit | validate | test`: LightningCLI with this project's module, data, folders and manners."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lightning_sq.data.datamodule import ImageFolderData
from lightning_sq.errors import InputError, input_error_in
from lightning_sq.models.checkpoint_format import read_checkpoint
from lightning_sq.paths import write_whole
from lightning_sq.training.build import build_module
from lightning_sq.training.callbacks import ProgressLines, Throughput

CONFIG_FILE, CHECKPOINTS, LOGS = "config.yaml", "checkpoints", "logs"
LAST, BEST = "last", "best"


class Parser(LightningArgumentParser):
    """Says what is wrong in one sentence instead of a usage page."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise input_error_in(ex) or InputError(_first_sentence(message)) from None


def _first_sentence(message: str) -> str:
    """jsonargparse nests its reasons over many lines; the innermost one is what was wrong."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    return f"{' '.join(lines)[:400].rstrip('.')}. `lightning-sq fit --help` lists the options."


class CommandLine(LightningCLI):
    """Everything a run writes lies below `--output`: config.yaml, checkpoints/{last,best}.ckpt, logs/."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--output", type=str, default="runs/fit", help="Folder of the run.")
        parser.add_argument("--overwrite", action="store_true", help="Replace a run that is in --output already.")
        parser.add_argument("--resume", action="store_true", help="Go on from the last checkpoint in --output, if any.")
        parser.add_argument(
            "--checkpoint_minutes",
            type=float,
            default=15.0,
            help="Save checkpoints/last.ckpt this often, besides each epoch.",
        )
        for name in ("class_names", "image_size", "resize_size"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        for name in ("data", "model"):
            parser.link_arguments("seed_everything", f"{name}.seed")

    def before_instantiate_classes(self) -> None:
        """Refuse what cannot go on before anything is built, downloaded or written."""
        config = self.config[self.subcommand]
        if config.get("ckpt_path") and Path(config.ckpt_path).suffix:
            read_checkpoint(Path(config.ckpt_path))
        if self.subcommand == "fit" and not config.trainer.fast_dev_run:
            self._choose_start(config)

    def _choose_start(self, config: Namespace) -> None:
        output = Path(config.output)
        last = output / CHECKPOINTS / f"{LAST}.ckpt"
        if config.resume and last.is_file():
            read_checkpoint(last)
            config.ckpt_path = str(last)
            rank_zero_info(f"Going on from {last}")
        elif config.ckpt_path is None and not config.overwrite:
            refuse_other_run(output)

    def _parse_ckpt_path(self) -> None:
        """Lightning would read hyper-parameters for the parser from the checkpoint; ours hold none."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init[self.subcommand]
        trainer = config["trainer"]
        output = Path(config["output"])
        trainer["default_root_dir"] = str(output)
        trainer["use_distributed_sampler"] = False  # the loaders know their rank themselves
        if (
            trainer["precision"] is None
            and trainer["accelerator"] in ("auto", "gpu", "cuda")
            and torch.cuda.is_available()
        ):
            trainer["precision"] = "bf16-mixed"
        callbacks: list[Callback] = list(trainer["callbacks"] or [])
        if self.subcommand == "fit" and not trainer["fast_dev_run"]:
            callbacks += [
                Throughput(),
                LearningRateMonitor("step"),
                *_checkpointing(output, config["checkpoint_minutes"]),
            ]
            if not sys.stdout.isatty():  # a log file: lines instead of a bar
                trainer["enable_progress_bar"] = False
                callbacks.append(ProgressLines())
        self._makes_loggers = trainer["logger"] in (None, True)
        if self._makes_loggers:
            trainer["logger"] = False  # `before_fit` makes ours, once it is certain that this run starts
        trainer["callbacks"] = callbacks
        return super().instantiate_trainer(**trainer, **kwargs)

    def before_fit(self) -> None:
        config = self.config_init["fit"]
        self._dump_config()
        self.model.recipe = self.config_dump
        self.datamodule.prepare_data()
        if config["trainer"]["fast_dev_run"]:
            return
        output = Path(config["output"])
        if config["ckpt_path"] is None:
            remove_run(output)
        write_on_rank_zero(output / CONFIG_FILE, yaml.safe_dump(self.config_dump, sort_keys=False))
        if self._makes_loggers:
            csv = CSVLogger(output, LOGS)
            self.trainer.loggers = [csv, TensorBoardLogger(output, LOGS, version=csv.version)]

    def after_validate(self) -> None:
        self._write_metrics("validate")

    def after_test(self) -> None:
        self._write_metrics("test")

    def _write_metrics(self, name: str) -> None:
        metrics = {key: value.item() for key, value in sorted(self.trainer.callback_metrics.items())}
        write_on_rank_zero(
            Path(self.config_init[name]["output"]) / f"{name}.json", json.dumps(metrics, indent=2) + "\n"
        )


def _parts_of_run(output: Path) -> list[Path]:
    return [output / name for name in (CONFIG_FILE, CHECKPOINTS, LOGS) if (output / name).exists()]


@rank_zero_only
def refuse_other_run(output: Path) -> None:
    """Raises: InputError if a run is in `output` already."""
    if _parts_of_run(output):
        raise InputError(
            f"{output} already holds a run. "
            "Add --resume to go on with it, --overwrite to replace it, or give another --output."
        )


@rank_zero_only
def remove_run(output: Path) -> None:
    """Remove what a run wrote into `output`, and nothing else that is there."""
    for path in _parts_of_run(output):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


write_on_rank_zero = rank_zero_only(write_whole)


def _checkpointing(output: Path, minutes: float) -> list[ModelCheckpoint]:
    """`last` after each epoch and every few minutes, `best` by clean validation accuracy."""
    common = {"dirpath": output / CHECKPOINTS, "enable_version_counter": False, "auto_insert_metric_name": False}
    return [
        ModelCheckpoint(filename=BEST, monitor="val/clean_top1", mode="max", **common),
        ModelCheckpoint(filename=LAST, every_n_epochs=1, save_on_train_epoch_end=True, **common),
        ModelCheckpoint(filename=LAST, train_time_interval=timedelta(minutes=minutes), **common),
    ]


def quiet_lightning() -> None:
    """Keep advertisements and deprecations inside Lightning itself out of what people read."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    logger.addFilter(lambda record: "Tip: " not in record.getMessage())
    warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated")
    warnings.filterwarnings(
        "ignore", message=r"Checkpoint directory .* exists and is not empty"
    )  # so --resume wants it


def main(arguments: list[str]) -> None:
    """Run LightningCLI on `arguments`, which begin with fit, validate or test."""
    quiet_lightning()
    sys.argv = [sys.argv[0], *arguments]  # DDP starts the other processes by the same command
    CommandLine(
        build_module,
        ImageFolderData,
        parser_class=Parser,
        seed_everything_default=0,
        save_config_callback=None,
        trainer_defaults={"num_sanity_val_steps": 0},
        auto_configure_optimizers=False,
        parser_kwargs={"prog": "lightning-sq"},
    )
