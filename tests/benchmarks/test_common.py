"""What the benchmarks share: a budget of minutes, where results are kept, and what counts as a rate."""

from __future__ import annotations

import importlib
import json
from types import SimpleNamespace

import pytest
import torch

from lightning_sq.data.dali import BATCHES_AHEAD, PREFETCH, DaliLoader
from lightning_sq.errors import InputError
from lightning_sq.types import Batch


def test_a_section_that_fails_is_skipped_by_its_error_and_leaves_what_there_is(benchmark, tmp_path):
    now = [0.0]
    budget = importlib.import_module("common.budget")
    record = budget.Record("tiny", 1, {}, clock=lambda: now[0])
    with record.section("one"):
        record.add(budget.Row("a question", 1.0, "s"))
        raise RuntimeError("no compiler\n\nat all")
    assert record.allows("two", 60)
    now[0] = 1.0
    assert not record.allows("three", 60)
    (file,) = tmp_path.glob("tiny-*.json")
    content = json.loads(file.read_text())
    assert [row["question"] for row in content["rows"]] == ["a question"]
    assert content["skipped"] == [
        "one: RuntimeError: no compiler",
        "three: it would take about 60 s and 59 s are left; give more --minutes",
    ]


def test_a_run_that_is_killed_inside_a_section_leaves_what_it_had_measured(benchmark, tmp_path):
    budget = importlib.import_module("common.budget")
    record = budget.Record("tiny", 1, {})
    with record.section("long"):
        record.skip("two", "no reason")
        record.add(budget.Row("a question", 1.0, "s"))
        (file,) = tmp_path.glob("tiny-*.json")
        content = json.loads(file.read_text())
    assert [row["question"] for row in content["rows"]] == ["a question"]
    assert content["skipped"] == ["two: no reason"]


def test_the_environment_says_where_results_are_kept(benchmark, tmp_path, monkeypatch):
    harness = importlib.import_module("common.harness")
    monkeypatch.setenv("LIGHTNING_SQ_RESULTS", str(tmp_path / "elsewhere"))
    importlib.reload(harness)
    assert harness.keep("tiny", [], skipped=[], settings={}).parent == tmp_path / "elsewhere"
    assert (harness.CONFIGS / "imagenet.yaml").exists()


def test_the_rate_of_a_loader_is_that_of_a_pipeline_that_is_filled(benchmark, monkeypatch):
    steps = importlib.import_module("common.steps")
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(steps, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def batches(count):
        for number in range(count):
            clock.now += 1.0 if number else 50.0
            yield Batch(torch.zeros(4, 3, 8, 8), torch.zeros(4), torch.arange(4))

    assert steps.rate(batches(11), None, torch.device("cpu")) == pytest.approx(4.0)
    with pytest.raises(InputError, match=r"An epoch of 1 batches has no speed: .* Give 2 or more"):
        steps.rate(batches(1), None, torch.device("cpu"))


def test_the_rate_of_processes_that_make_a_batch_each_is_that_of_whole_rounds(benchmark, monkeypatch):
    steps = importlib.import_module("common.steps")
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(steps, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    class Workers(list):
        num_workers = 4

        def __iter__(self):
            for number, batch in enumerate(super().__iter__()):
                clock.now += 0.0 if number % self.num_workers else 8.0  # all four are ready at once
                yield batch

    batch = Batch(torch.zeros(6, 3, 8, 8), torch.zeros(6), torch.arange(6))
    for rounds in (2, 5):
        assert steps.rate(Workers([batch] * 4 * rounds), None, torch.device("cpu")) == pytest.approx(4 * 6 / 8)
    with pytest.raises(InputError, match=r"An epoch of 7 batches has no speed: .* Give 8 or more"):
        steps.rate(Workers([batch] * 7), None, torch.device("cpu"))


def test_what_dali_has_decoded_before_the_clock_begins_is_no_speed(benchmark, monkeypatch):
    steps = importlib.import_module("common.steps")
    clock, held = SimpleNamespace(now=0.0), BATCHES_AHEAD + PREFETCH
    monkeypatch.setattr(steps, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    class AllAtOnce(DaliLoader):
        def __init__(self, count):
            self.count = count

        def __iter__(self):
            for number in range(self.count):
                clock.now += 50.0 if number == 0 else float(number >= held)
                yield Batch(torch.zeros(4, 3, 8, 8), torch.zeros(4), torch.arange(4))

    assert steps.rate(AllAtOnce(3 * held), None, torch.device("cpu")) == pytest.approx(4.0)
    with pytest.raises(InputError, match=rf"Give {2 * held} or more"):
        steps.rate(AllAtOnce(2 * held - 1), None, torch.device("cpu"))
