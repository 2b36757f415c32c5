"""`lightning-sq SUBCOMMAND`: finds the subcommand's function, and imports nothing heavy before it is known."""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from lightning_sq.errors import ERROR, MENDABLE, HostError, ProcessLostError, input_error_in

COMMANDS = {
    "fit": ("lightning_sq.training.cli", "train a model by a recipe in configs/"),
    "validate": ("lightning_sq.training.cli", "clean and noisy accuracy of a checkpoint"),
    "test": ("lightning_sq.training.cli", "the same as validate, into test.json"),
    "plan": ("lightning_sq.commands.plan", "how long a recipe takes on N nodes, and whether it fits the time"),
    "data": (
        "lightning_sq.commands.data",
        "digits, mnist, cifar10: write a real data set; check: look at every file; shard: copy into tar files",
    ),
    "evaluate": ("lightning_sq.commands.evaluate", "attack trained models and write a robustness report"),
    "export": ("lightning_sq.commands.export", "turn a checkpoint into weights that others can load"),
    "verify": ("lightning_sq.commands.verify", "whether a release gives the logits that it gave when it was made"),
    "download": ("lightning_sq.commands.download", "bring a released model into the cache"),
    "upload": ("lightning_sq.commands.upload", "put a release onto the Hugging Face Hub"),
    "report": ("lightning_sq.commands.report", "draw the report of an evaluation again"),
    "reproduce": ("lightning_sq.commands.reproduce", "the paper's claims on MNIST and CIFAR-10, trained and judged"),
    "demo": ("lightning_sq.commands.demo", "all of it on handwritten digits, in a few minutes"),
}

TRAINING_COMMANDS = frozenset({"fit", "validate", "test"})


def usage() -> str:
    """The page that `lightning-sq --help` prints."""
    lines = [f"  {name:10}{description}" for name, (_, description) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: lightning-sq SUBCOMMAND [options]",
            "",
            "Soft-quantization networks trained on noisy natural samples, and robustness numbers that can be believed.",
            "",
            *lines,
            "",
            "lightning-sq SUBCOMMAND --help lists its options.",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand.

    Returns: the exit status; 2 for what the person who typed it can mend, 1 for a training that diverged, for a disk
    that failed, for a host without its GPUs and for another process that has gone. A fit that was asked to stop by a
    signal, and has saved where it was, exits with 75.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(import_module("lightning_sq").__version__)
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        print(f"{ERROR}there is no subcommand {name!r}. Choose from: {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    from lightning_sq.children import handing_on
    from lightning_sq.stop_request import listening

    try:
        with listening() if name == "fit" else handing_on():  # from here on, the seconds of the imports included
            run = import_module(COMMANDS[name][0]).main
            run(arguments if name in TRAINING_COMMANDS else arguments[1:])
    except KeyboardInterrupt:
        print("lightning-sq: interrupted", file=sys.stderr)
        return 130
    except (FloatingPointError, HostError, ProcessLostError) as error:
        print(f"{ERROR}{error}", file=sys.stderr)
        return 1
    except Exception as error:
        sentence: object = input_error_in(error)
        if sentence is None and isinstance(error, OSError) and error.filename is not None:
            told = f"{error.filename}: {error.strerror}."
            if error.errno not in MENDABLE:
                print(f"{ERROR}{told} The disk or the network failed: start again when it is back.", file=sys.stderr)
                return 1
            if error.errno != errno.ENOENT:  # where a file is missing that no person has named, a traceback says more
                sentence = f"{told} Give another path, or mend what is there, its owner or its rights."
        if sentence is None:
            raise
        print(f"{ERROR}{sentence}", file=sys.stderr)
        _note_refusal()
        return 2
    return 0


def _note_refusal() -> None:
    """Leave the file $LIGHTNING_SQ_REFUSED, if a batch script has named one, where the first rank refuses at the start.

    The others wait for it until they are killed, and srun shows the status of that instead. What another rank alone
    refuses may be its node's fault; and once all have met, each sees that one has gone and ends by itself.
    """
    first = os.environ.get("SLURM_PROCID", "0") == "0"
    if "LIGHTNING_SQ_REFUSED" in os.environ and first and not _has_met_others():
        with suppress(OSError):
            Path(os.environ["LIGHTNING_SQ_REFUSED"]).touch()


def command() -> NoReturn:
    """`main` as a process of its own: srun is to see its exit status, and ends all others once one has failed."""
    for stream in (sys.stdout, sys.stderr):  # a file's name may be no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        if not _no_reader():
            raise
        status = 128 + signal.SIGPIPE
    except BaseException as error:
        if _has_met_others():
            status = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
            _end_alone(status, None if isinstance(error, SystemExit) else error)
        raise
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if status and _has_met_others():
        _end_alone(status)
    sys.exit(status)


def _has_met_others() -> bool:
    """Whether this process is in a process group."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _end_alone(status: int, error: BaseException | None = None) -> NoReturn:
    """End at once, with `error` shown: the others may wait for this process, and are to see that it has gone.

    At the exit of Python, Lightning has a group of GPUs destroyed, for which NCCL waits for the others.
    """
    if error is not None:
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _no_reader() -> bool:
    """Whether whoever read standard output has gone, as `| head` does; then nothing more is written to it."""
    state = select.poll()
    state.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(event & select.POLLERR for _, event in state.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


if __name__ == "__main__":
    command()
