"""The GPU benchmark runs on a CPU: not how fast, but that it measures what it says and what it leaves out."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from tests.benchmarks.tiny_gpu import gpu_smoke, gpu_training

WAYS = ["natural", "method", "FGSM-RS", "free (one replay)", "PGD-7"]


def test_a_gpus_objectives_are_timed_taken_apart_and_planned_with(benchmark, tmp_path):
    rows, skipped = gpu_smoke(benchmark, tmp_path, "--sections", "eager", "files", "sizes", "sweep")
    for name in WAYS:
        assert rows[f"{name}, eager, from memory, test_resnet, batch 4 at 32 px"]["measured"] > 0
        shares = {question: row["measured"] for question, row in rows.items() if f"{name}, eager: " in question}
        parts = [share for question, share in shares.items() if question.endswith("share of the step")]
        assert len(parts) == (6 if name in ("FGSM-RS", "PGD-7") else 5)
        assert f"{name}, eager: copy to channels_last's share of the step" in shares
        assert sum(parts) == pytest.approx(100)
        assert (f"{name}, eager: step against natural's" in rows) == (name != "natural")
        predicted = "of ImageNet in 48 h on 64 GPUs (100 GB/s inside a node, 12.5 between nodes, assumed)"
        assert any(q.startswith(name) and ", predicted: " in q and q.endswith(predicted) for q in rows)
    whole = "method, eager, from memory, predicted: 15 epochs of ImageNet on 1 GPU"
    assert rows[whole]["to_reach"].startswith("<= 2; the paper")
    assert rows[whole]["detail"] == {}  # a step from memory is no speed of `fit`
    assert f"{whole}, 128 to 176 to 224 px" in rows
    sweep = [f"sweep: method, eager, from memory, batch {size}" for size in (8, 4)]
    assert [q for q in rows if q.startswith("sweep")] == sweep
    assert all(row["reached"] is None for row in rows.values())
    not_copied = "the front end's section, which times a copy, was not run to its end"
    assert f"method, eager: front end's bandwidth against a plain copy's: {not_copied}" in skipped
    assert "natural and method from JPEGs: no --data FOLDER with <class>/*.JPEG was given" in skipped


@pytest.mark.parametrize(
    ("words", "told"),
    [((), True), (("--data", "elsewhere"), False), (("--sections", "command_line"), False)],
    ids=["not given", "given", "not needed"],
)
def test_files_that_were_not_given_as_data_are_said_to_judge_nothing_at_the_start(benchmark, capsys, words, told):
    benchmark("gpu", "--smoke", "--imagenette", "somewhere", *words).parse()
    assert ("no --data: the rows from files take --imagenette's" in capsys.readouterr().out) == told


def test_what_is_judged_is_measured_before_what_is_compiled_for_minutes(benchmark, monkeypatch):
    gpu, told = benchmark("gpu"), []
    files = gpu.FromFiles("JPEGs", "DALI, mixed decoder", judged=True, rates={"method": 4000.0})
    record, options, _ = gpu_training(sections=gpu.SECTIONS, largest_batch=8, smallest_batch=4)
    judged = []

    class Training:
        batch_size, network, rates = 4, SimpleNamespace(parameters=1), {False: {"natural": 1.0}, True: {"natural": 1.0}}

        def fit_batch(self):
            pass

        def all_objectives(self, *, compiled):
            judged.append([row.question for row in record.rows if row.reached is not None])
            told.append("compiled" if compiled else "eager")

        def against_a_copy(self, *, compiled):
            told.append("against a copy")

        def sizes(self, sizes, *, compiled):
            assert not compiled
            told.append("sizes")
            return {}

        def sweep(self, *sizes, compiled):
            told.append("sweep")

    monkeypatch.setattr(gpu, "file_rows", lambda *_: told.append("files") or files)
    monkeypatch.setattr(gpu, "front_end", lambda *_: told.append("front_end") or 1.0)
    gpu.train(record, options, Training())
    assert [name for name in told if name in gpu.TRAINING] == list(gpu.TRAINING)
    assert told.index("files") < told.index("front_end") < told.index("compiled")
    hours = "method, eager, from JPEGs by DALI, mixed decoder, predicted: 15 epochs of ImageNet on 1 GPU"
    assert judged == [[], [hours]]


def test_a_front_end_that_fails_takes_no_other_section_with_it(benchmark, tmp_path, monkeypatch):
    module = benchmark("gpu")

    def fails(*arguments):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(module, "front_end", fails)
    rows, skipped = gpu_smoke(benchmark, tmp_path, "--sections", "front_end", "eager")
    assert "the front end's bandwidth: RuntimeError: no compiler" in skipped
    assert rows["method, eager: front end's bandwidth, noise and all"]["measured"] > 0
    assert "method, eager: front end's share of the step" in rows


def test_memory_that_is_not_let_go_takes_no_section_with_it(benchmark, tmp_path, monkeypatch):
    module = benchmark("gpu")

    def fails():
        raise RuntimeError("an error of the driver")

    monkeypatch.setattr(module, "let_go", fails)
    _, skipped = gpu_smoke(benchmark, tmp_path, "--sections", "command_line")
    assert "letting go of the GPU's memory: RuntimeError: an error of the driver" in skipped
    assert "method by lightning-sq fit, test_resnet: --imagenette was not given" in skipped


@pytest.mark.parametrize(("dali", "threads"), [(True, 16), (False, 5)])
def test_fewer_processes_decode_where_shared_memory_is_small(benchmark, tmp_path, monkeypatch, dali, threads):
    module, asked = benchmark("gpu"), []
    if not dali:
        monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2 * 10**9))
    monkeypatch.setattr(module, "command_line_rows", lambda record, options, rate: asked.append(options.threads))
    sizes = ("--threads", "16", "--batch-size", "256", "--image-size", "224")
    _, skipped = gpu_smoke(benchmark, tmp_path, "--sections", "command_line", *sizes)
    assert asked == [threads]
    why = "2,000 MB of /dev/shm are free, and each takes 2 batches of 154 MB"
    assert (f"11 of 16 processes that decode: {why}" in skipped) == (not dali)


def test_a_gpus_front_end_is_held_against_its_copy(benchmark, tmp_path):
    rows, _ = gpu_smoke(benchmark, tmp_path, "--sections", "front_end", "--backend", "eager")
    share = rows["front end's bandwidth, noise drawn by its generator, against a plain copy's"]
    copied = rows["a plain copy on the device, bytes read and written"]
    assert share["detail"]["copy bytes a second"] == pytest.approx(1e9 * copied["measured"])
    assert share["measured"] == pytest.approx(100 * share["detail"]["bytes a second"] / (1e9 * copied["measured"]))


def test_a_gpu_benchmark_without_time_skips_everything_by_name(benchmark, tmp_path):
    rows, skipped = gpu_smoke(benchmark, tmp_path, "--minutes", "0", "--imagenette", "i", "--weights", "w")
    assert not rows
    told = "\n".join(skipped)
    assert "training (eager, files, front_end, sizes, compiled, sweep): it would take about" in told
    assert "imagenette at full length (natural, method, FGSM-RS): it would take about" in told
