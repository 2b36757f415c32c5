"""How fast is all of it on one CUDA GPU?   python benchmarks/gpu.py [--data FOLDER] [--imagenette DIR --weights FILE]

Needs no network and ends within --minutes; what there is no time or no library for is skipped by name. With no data it
measures ResNet-50's training from a batch in memory (bf16, channels_last; eager and compiled; natural, method, FGSM-RS,
free, PGD-7), the parts of a step, memory, the front end's bandwidth, a sweep of batch sizes, and what is predicted for
ImageNet: epochs in 48 hours, hours of the fine-tune.

    --data FOLDER             real JPEGs, FOLDER/<class>/*.JPEG: natural and method from files as well, by DALI, and not
                              compiled, as `lightning-sq fit` trains: by these rows alone ImageNet's speed and hours are
                              judged. Give photographs of original size: rows of smaller ones say so, and judge nothing.
                              Of some of them the pixels that DALI gives are held against PIL's
    --imagenette DIR          DIR/{train,val}/<class>/*.JPEG: ResNet-50 by `lightning-sq fit`, and, with --weights
                              resnet18.safetensors, imagenette's recipes at ImageNet's epochs and image size; its
                              train/ is --data as well, where that is not given
    --hw-decoder-load SHARE   of the images that DALI's hardware engine takes; not given, the rows from files try a few
    --sections NAME ...       only some, where the minutes of one run do not suffice for all. command_line (two minutes)
                              and imagenette (three trainings of minutes each) are to have a call of their own, as
                              --sections command_line --minutes 4: behind all the others there is no time left for them
    --smoke                   tiny, in seconds, on any machine: whether everything runs, and no number means anything

Where the package is not installed, put PYTHONPATH=. before it. The result is benchmarks/results/gpu-gpu-torch*.json, or
gpu_SECTIONS-gpu-torch*.json of some; with LIGHTNING_SQ_RESULTS=FOLDER before the command it lies there. It is written
anew with each row, so a run that is killed leaves what it found.

For a GPU that is lent for a quarter of an hour, ten minutes a call ($D: photographs of original size, $I: imagenette):

    export PYTHONPATH=. PYTHONUNBUFFERED=1 LIGHTNING_SQ_RESULTS=$OUT
    python benchmarks/gpu.py --data $D --sections eager files sizes --minutes 3
    LIGHTNING_SQ_TEST_DEVICE=cuda timeout 60 python -m tests.devices.everything objectives
    timeout 150 python benchmarks/data.py --data $D --sections decoder training memory --tune --rounds 2 --minutes 2
    timeout 200 python benchmarks/gpu.py --sections front_end compiled sweep --minutes 3

and in a second call, if three minutes and the machine's start are left:

    timeout 170 python benchmarks/gpu.py --imagenette $I --sections eager command_line --minutes 2.5
"""

from __future__ import annotations

import argparse
import gc
from pathlib import Path

import torch
from common.budget import Record, is_installed, watchdog
from common.harness import THREADS_HELP, Row, decoding_threads, usual_device
from front_end import front_end_rows
from gpu_parts.files import FromFiles, file_rows, processes
from gpu_parts.imagenette import command_line_rows, imagenette_rows
from gpu_parts.network import Network, compile_many
from gpu_parts.plan import SCHEDULE, Plan, plan_rows, resizing_row
from gpu_parts.training import FIRST_GUESS, MODES, Training

TRAINING = ("eager", "files", "front_end", "sizes", "compiled", "sweep")
"""In their order: what is judged first, and what Inductor compiles for minutes behind it."""
SECTIONS = (*TRAINING, "command_line", "imagenette")
SMOKE = {
    "architecture": "test_resnet",
    "imagenette_architecture": "test_resnet",
    "image_size": 32,
    "batch_size": 4,
    "largest_batch": 8,
    "smallest_batch": 4,
    "rounds": 1,
    "batches": 8,
    "threads": 1,
    "compile_seconds": 5.0,
    "backend": "aot_eager",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="from when the libraries are imported")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--imagenette", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--architecture", default="resnet50")
    parser.add_argument("--imagenette-architecture", default="resnet18")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--largest-batch", type=int, default=1024, help="of the sweep")
    parser.add_argument("--smallest-batch", type=int, default=64, help="of the sweep")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--batches", type=int, default=32, help="of an epoch from files, which are repeated to reach it"
    )
    parser.add_argument("--threads", type=int, default=decoding_threads(), help=THREADS_HELP)
    parser.add_argument("--hw-decoder-load", type=float, help="of the images; default: the best of a few for `files`")
    parser.add_argument("--compile-seconds", type=float, default=90.0, help="of a graph, until the first is measured")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--smoke", action="store_true")
    if parser.parse_args().smoke:
        parser.set_defaults(**SMOKE)
    options = parser.parse_args()
    if not options.smoke and not torch.cuda.is_available():
        parser.error("there is no CUDA GPU here. Add --smoke to see whether everything runs")
    if options.data is None and options.imagenette is not None:
        options.data = options.imagenette / "train"
        if "files" in options.sections:
            print("no --data: the rows from files take --imagenette's, and judge nothing if those are shrunk to 224 px")
    return options


def measure(record: Record, options: argparse.Namespace) -> None:
    """The sections in turn; each asks for its time, and one that fails does not take the others with it."""
    device = torch.device(usual_device())
    torch.backends.cudnn.benchmark = True
    compile_many()
    if device.type == "cpu":
        record.skip("peak memory, bf16, the mixed decoder", "there is no CUDA GPU here")
    if not is_installed("nvidia.dali"):
        with record.section("a look at shared memory"):
            options.threads = processes(record, options)
    rate, ratios, options.copy_bandwidth = None, {}, None
    training = [name for name in TRAINING if name in options.sections]
    if training == ["front_end"]:
        copy_bandwidth(record, options)
    elif training and record.allows(f"training ({', '.join(training)})", FIRST_GUESS):
        with record.section("training"):
            rate, ratios = train(record, options, Training(record, options, Network(options, device)))
    with record.section("letting go of the GPU's memory"):
        let_go()
    if "command_line" in options.sections:
        with record.section("method by lightning-sq fit"):
            command_line_rows(record, options, rate)
    if "imagenette" in options.sections:
        with record.section("imagenette at full length"):
            imagenette_rows(record, options, ratios)


def copy_bandwidth(record: Record, options: argparse.Namespace) -> None:
    """The front end by itself, in the section front_end. Sets `options.copy_bandwidth`."""
    with record.section("the front end's bandwidth"):
        if "front_end" in options.sections and record.allows("the front end's bandwidth", options.compile_seconds):
            options.copy_bandwidth = front_end(record, options)


def front_end(record: Record, options: argparse.Namespace) -> float:
    """Returns: bytes a second of a plain copy."""
    sizes = (options.batch_size, options.image_size, options.backend)
    rows = front_end_rows(options.rounds, usual_device(), options.architecture, *sizes)
    record.add(*rows)
    copied = rows[-1].detail["copy bytes a second"]
    record.add(Row("a plain copy on the device, bytes read and written", copied / 1e9, "GB/s"))
    return copied


def train(record: Record, options: argparse.Namespace, training: Training) -> tuple[float | None, dict[str, float]]:
    """Everything that trains the one network, and the plan.

    Returns: (images/s of the method's step, not compiled; name -> price of a step against natural's).
    """
    wanted = options.sections
    training.fit_batch()
    plan = Plan(training.batch_size, training.network.parameters)
    planned = "compiled" in wanted and "eager" not in wanted  # `fit` does not compile
    if "eager" in wanted:
        all_objectives(record, training, plan, compiled=False, planned=not planned)
    if "files" in wanted:
        with record.section("natural and method from JPEGs"):
            plan_by_files(record, plan, file_rows(record, options, training.network, training.batch_size))
    copy_bandwidth(record, options)
    if "eager" in wanted:
        training.against_a_copy(compiled=False)
    if "sizes" in wanted:
        with record.section("progressive resizing"):
            plan_by_sizes(record, plan, training, compiled=planned)
    if "compiled" in wanted:
        all_objectives(record, training, plan, compiled=True, planned=planned)
        training.against_a_copy(compiled=True)
    if "sweep" in wanted:
        compiled = "method" in training.rates[True] or not {"eager", "compiled"} & set(wanted)
        training.sweep(options.largest_batch, options.smallest_batch, compiled=compiled)
    rates = training.rates[planned]
    ratios = {name: rates["natural"] / rate for name, rate in rates.items() if "natural" in rates}
    return training.rates[False].get("method"), ratios


def all_objectives(record: Record, training: Training, plan: Plan, *, compiled: bool, planned: bool) -> None:
    """From memory, and what is predicted by that for ImageNet, where it is what is `planned` with."""
    with record.section(f"all objectives, {MODES[compiled]}"):
        training.all_objectives(compiled=compiled)
        if planned:
            record.add(*plan_rows(plan, training.rates[compiled], f"{MODES[compiled]}, from memory"))


def plan_by_files(record: Record, plan: Plan, files: FromFiles | None) -> None:
    """What is predicted by the rows from files."""
    if files is not None:
        source = f"eager, from {files.kind} by {files.decoder}"
        record.add(*plan_rows(plan, files.rates, source, judged=files.judged))


def plan_by_sizes(record: Record, plan: Plan, training: Training, *, compiled: bool) -> None:
    """The method at each image size of progressive resizing, and the hours that these give."""
    at = training.sizes([size for _, size in SCHEDULE], compiled=compiled)
    if len(at) == len(SCHEDULE):
        record.add(resizing_row(plan, at, f"{MODES[compiled]}, from memory"))
    else:
        record.skip("hours with progressive resizing", "not every image size was measured")


def let_go() -> None:
    """Of the GPU's memory: another process is to train there."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    options = parse()
    paths = ("data", "imagenette", "weights")  # on this machine, and of no use on another
    settings = vars(options) | {name: getattr(options, name) is not None for name in paths}
    name = "_".join(["gpu", *(options.sections if options.sections != SECTIONS else ())])
    record = Record("gpu_smoke" if options.smoke else name, options.minutes, settings, judged=not options.smoke)
    with watchdog(options.minutes):
        measure(record, options)
    record.report()


if __name__ == "__main__":
    main()
