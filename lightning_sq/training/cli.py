"""`lightning-sq fit | validate | test`: LightningCLI with this project's module, data, folders and manners."""

from __future__ import annotations

import json
import math
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lightning_sq.children import end_with_first
from lightning_sq.data.datamodule import ImageFolderData
from lightning_sq.errors import InputError, one_line
from lightning_sq.output_lock import lock_output
from lightning_sq.paths import write_whole
from lightning_sq.process_group import started_by_others
from lightning_sq.run_files import CHECKPOINTS, CONFIG_FILE
from lightning_sq.slurm_job import check_gpus, note_job
from lightning_sq.training.build import build_module
from lightning_sq.training.callbacks import ProgressLines, Throughput, average_where_training_is
from lightning_sq.training.cluster.keep_time import KeepTime
from lightning_sq.training.cluster.last_words import LastWords, seconds_noted
from lightning_sq.training.cluster.leaving import LeaveWhenAsked, switch_off_own_handlers
from lightning_sq.training.cluster.preflight import Preflight
from lightning_sq.training.cluster.starting import check_started, cluster_environment
from lightning_sq.training.cluster.time_limit import TimePlan, parse_time_limit
from lightning_sq.training.cluster.watchdog import Watchdog, check_hang_seconds
from lightning_sq.training.parser import Parser, check_seed, quiet_lightning
from lightning_sq.training.prepare import prepare_data_once
from lightning_sq.training.result import result_line
from lightning_sq.training.resume.checkpointing import (
    WholeFileIO,
    checkpointing,
    measures_robustness,
    most_checkpoints,
)
from lightning_sq.training.resume.logs import LogsGoOn, make_loggers
from lightning_sq.training.resume.owed_validation import OwedValidation
from lightning_sq.training.resume.saved_state import OnMismatch, SavedRun, settings
from lightning_sq.training.resume.start import (
    LAST,
    check_output,
    choose_start,
    is_of_run,
    remove_half_written,
    remove_run,
    seconds_saved,
)
from lightning_sq.training.robust_accuracy import RobustAccuracy
from lightning_sq.training.run_state import RunState
from lightning_sq.training.trainer_options import check_fit, check_sync_batchnorm, check_trainer
from lightning_sq.training.waiting import WaitingForData

HOW_IT_WAS_STARTED = ("resume", "overwrite", "on_mismatch", "ckpt_path")
"""Options of one start, not of the run: not in its recipe."""
EXAMPLES = {
    "fit": "lightning-sq fit --config configs/imagenet.yaml --data.root DIR --output runs/imagenet",
    "validate": "lightning-sq validate --config runs/fit/config.yaml --ckpt_path runs/fit/checkpoints/last.ckpt",
    "test": "lightning-sq test --config runs/fit/config.yaml --ckpt_path runs/fit/checkpoints/last.ckpt",
}
"""What the help of each ends with."""


class CommandLine(LightningCLI):
    """Everything a run writes lies below `--output`: config.yaml, checkpoints/{last,best}.ckpt, logs/.

    `held` lets go of what is held for the run, when the command ends. `recipe` is the configuration without the options
    of one start, `saved` the checkpoint to start from, and `time_limit` is in seconds.
    """

    def __init__(self, *args: Any, held: ExitStack, **kwargs: Any) -> None:
        self.held = held
        self.recipe: dict[str, Any] = {}
        self.saved: SavedRun | None = None
        self.time_limit: float | None = None
        self._makes_loggers = False
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--output", type=str, default="runs/fit", help="Folder of the run.")
        parser.add_argument("--overwrite", action="store_true", help="Replace a run that is in --output already.")
        parser.add_argument("--resume", action="store_true", help="Go on from the last checkpoint in --output, if any.")
        parser.add_argument(
            "--on_mismatch",
            type=OnMismatch,
            default="error",
            help="If the checkpoint is of another batch size or number of processes: refuse, or start its epoch again.",
        )
        parser.add_argument(
            "--checkpoint_minutes",
            type=float,
            default=15.0,
            help="Save checkpoints/last.ckpt this often, besides each epoch.",
        )
        parser.add_argument(
            "--keep_last", type=int, default=2, help="How many of last.ckpt to keep; last-1.ckpt is the one before."
        )
        parser.add_argument(
            "--hang_seconds",
            type=float,
            default=40.0,
            help="End a run of several processes when one of them keeps the others waiting this long at a step; at the "
            "first of a start, and for the data of one, four minutes longer.",
        )
        parser.add_argument(
            "--time_limit",
            type=str | None,
            default=None,
            help='Such as "48:00:00": of all starts together. The schedule is shortened to reach its end by then.',
        )
        for name in ("class_names", "image_size", "resize_size", "channels"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        for name in ("data", "model"):
            parser.link_arguments("seed_everything", f"{name}.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        check_seed(self.config[self.config.subcommand].seed_everything)

    def before_instantiate_classes(self) -> None:
        """Refuse what cannot go on before anything is built, downloaded or written."""
        config = self.config[self.subcommand]
        fits, output = self.subcommand == "fit", Path(config.output)
        check_output(output)
        if not 0 <= config.checkpoint_minutes < math.inf:
            raise InputError(
                f"checkpoint_minutes={config.checkpoint_minutes:g} is not a finite number of at least 0. 15 is usual."
            )
        check_hang_seconds(config.hang_seconds)
        if config.trainer.accelerator in ("gpu", "cuda"):
            check_gpus()
        self.time_limit = parse_time_limit(config.time_limit)
        if config.keep_last < 1:
            raise InputError(f"keep_last={config.keep_last} is not at least 1. 2 is usual.")
        self._dump_config()
        self.recipe = {key: value for key, value in self.config_dump.items() if key not in HOW_IT_WAS_STARTED}
        start = Path(config.ckpt_path) if config.ckpt_path else None
        if fits and not config.trainer.fast_dev_run:
            if rank_zero_only.rank == 0:
                lock_output(output, self.held)
                remove_half_written(output)
            start = choose_start(output, start, resume=config.resume, overwrite=config.overwrite)
        self.saved = None if start is None else SavedRun.read(start, to_go_on=fits)
        if start is not None:  # it holds the weights: nothing is to be downloaded
            config.ckpt_path, config.model.pretrained, config.model.checkpoint_path = str(start), False, None
        elif not (fits or config.model.pretrained or config.model.checkpoint_path):
            raise InputError(
                f"{self.subcommand} has no weights to look at: a new model would guess. "
                "Give --ckpt_path FILE.ckpt, or --model.pretrained true for timm's own."
            )

    def _parse_ckpt_path(self) -> None:
        """Lightning would read hyper-parameters for the parser from the checkpoint; ours hold none."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init[self.subcommand]
        trainer = config["trainer"]
        output = Path(config["output"])
        trainer["default_root_dir"] = str(output)
        trainer["use_distributed_sampler"] = False  # the loaders know their rank themselves
        trainer["precision"] = trainer["precision"] or _default_precision(trainer["accelerator"])
        trainer["plugins"] = _with_ours(trainer["plugins"], config["keep_last"])
        callbacks: list[Callback] = list(trainer["callbacks"] or [])
        callbacks.sort(key=lambda one: not isinstance(one, RobustAccuracy))  # before an average takes its weights back
        if self.subcommand == "fit" and not trainer["fast_dev_run"]:
            callbacks += self._callbacks(output, robust=measures_robustness(callbacks))
            if not sys.stdout.isatty():  # a log file: lines instead of a bar
                trainer["enable_progress_bar"] = False
                callbacks.append(ProgressLines())
            elif trainer["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
                callbacks.append(TQDMProgressBar(refresh_rate=20))  # Lightning's waits for each step's loss on the GPU
        self._makes_loggers = trainer["logger"] in (None, True)
        if self._makes_loggers:
            trainer["logger"] = False  # `before_fit` makes ours, once it is certain that this run starts
        trainer["callbacks"] = callbacks
        try:
            made = super().instantiate_trainer(**trainer, **kwargs)
        except (MisconfigurationException, ValueError, TypeError) as error:  # all it is given is what was typed
            raise InputError(f"{one_line(error)}. Mend the --trainer option; --help lists them.") from error
        check_trainer(made)
        check_started(made)
        switch_off_own_handlers(made)
        average_where_training_is(made)
        made.fit_loop._iteration_based_training = lambda: False  # with max_steps a resumed epoch would count twice
        return made

    def _callbacks(self, output: Path, *, robust: bool) -> list[Callback]:
        """What every fit does beside training, in the order in which it is done."""
        config = self.config_init["fit"]
        return [
            Throughput(),
            WaitingForData(),
            *([] if config["trainer"]["logger"] is False else [LearningRateMonitor("step")]),  # it needs one
            Preflight(output, most_checkpoints(config["keep_last"], robust=robust), _in_words(self.saved)),
            LastWords(output),
            KeepTime(),
            OwedValidation(),
            LogsGoOn(output),  # behind the validation that is made up for: the end of the epoch is not logged yet
            Watchdog(config["hang_seconds"]),
            LeaveWhenAsked(output / CHECKPOINTS / f"{LAST}.ckpt"),
            *checkpointing(output, config["checkpoint_minutes"], robust=robust),
        ]

    def before_fit(self) -> None:
        config = self.config_init["fit"]
        self.before_validate()
        prepare_data_once(self.trainer, self.datamodule)
        self.trainer.datamodule = self.datamodule  # as `fit` does
        check_fit(self.trainer, has_time_limit=self.time_limit is not None)
        check_sync_batchnorm(self.trainer, self.model)
        run = self.model.run = RunState(self.recipe, TimePlan(self.time_limit))
        if self.saved is not None:
            self.saved.check_recipe(self.recipe)
            here = settings(self.trainer, self.datamodule, self.model.optimization)
            run.begins_epoch_again = self.saved.check_settings(here, config["on_mismatch"])
        if config["trainer"]["fast_dev_run"]:
            return
        output = Path(config["output"])
        goes_on = self.saved is not None and is_of_run(self.saved.path, output)
        if goes_on:
            run.seconds_before = max(seconds_noted(output), seconds_saved(output))
        else:
            remove_run(output)
        rank_zero_only(note_job)(output)  # not before: a job that died has still to refuse or replace an older run
        write_on_rank_zero(output / CONFIG_FILE, yaml.safe_dump(self.recipe, sort_keys=False))
        if self._makes_loggers:
            self.trainer.loggers = make_loggers(output, self.saved.logged if goes_on else None)

    def after_fit(self) -> None:
        io = self.trainer.strategy.checkpoint_io
        if isinstance(io, WholeFileIO) and io.failure:
            raise InputError(f"{io.failure} Make room, and add --resume.")
        config = self.config_init["fit"]
        if not config["trainer"]["fast_dev_run"]:
            rank_zero_info(result_line(self.trainer, Path(config["output"])))

    def before_validate(self) -> None:
        if self.saved is not None:
            self.saved.check_model(self.model.model)
            self.saved.check_objective(self.model.objective)

    before_test = before_validate

    def after_validate(self) -> None:
        self._write_metrics("validate")

    def after_test(self) -> None:
        self._write_metrics("test")

    def _write_metrics(self, name: str) -> None:
        metrics = {key: value.item() for key, value in sorted(self.trainer.callback_metrics.items())}
        write_on_rank_zero(
            Path(self.config_init[name]["output"]) / f"{name}.json", json.dumps(metrics, indent=2) + "\n"
        )


def _default_precision(accelerator: Any) -> str | None:
    """bfloat16 where a GPU computes in it; Lightning's own default elsewhere."""
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else None


def _in_words(saved: SavedRun | None) -> str:
    """Which checkpoint a process goes on from, for the others to compare."""
    return "none" if saved is None else f"{saved.path} of step {saved.logged['global_step']}"


def _with_ours(plugins: Any, keep_last: int) -> list[Any]:
    """`plugins`, and those of ours whose place none of them takes."""
    plugins = [] if plugins is None else list(plugins) if isinstance(plugins, list) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(WholeFileIO(keep_last))
    if not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
        plugins += cluster_environment()
    return plugins


write_on_rank_zero = rank_zero_only(write_whole)


def main(arguments: list[str]) -> None:
    """Run LightningCLI on `arguments`, which begin with fit, validate or test."""
    quiet_lightning(trains=arguments[0] == "fit")
    if started_by_others(os.environ) is None:
        end_with_first()
    sys.argv = [sys.argv[0], *arguments]  # DDP starts the other processes by the same command
    try:
        with ExitStack() as held:
            CommandLine(
                build_module,
                ImageFolderData,
                held=held,
                parser_class=Parser,
                seed_everything_default=0,
                save_config_callback=None,
                trainer_defaults={"num_sanity_val_steps": 0},
                auto_configure_optimizers=False,
                parser_kwargs={"prog": "lightning-sq"}
                | {name: {"epilog": f"example: {EXAMPLES[name]}"} for name in EXAMPLES},
            )
    except MisconfigurationException as error:  # Lightning's word for options that do not go together
        raise InputError(f"{one_line(error)}.") from error
