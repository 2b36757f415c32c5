"""The GPU benchmark's steps: compiled into whole graphs, on one batch in memory, timed part by part."""

from __future__ import annotations

import importlib

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from tests.benchmarks.tiny_gpu import gpu_training


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at it
def test_a_gpus_steps_are_compiled_each_into_whole_graphs(benchmark, monkeypatch):
    module = importlib.import_module("gpu_parts.network")
    all_ways = module.ways()
    monkeypatch.setattr(module, "ways", lambda: {name: all_ways[name] for name in ("natural", "FGSM-RS")})
    module.compile_many()
    record, options, network = gpu_training(backend="eager")
    importlib.import_module("gpu_parts.training").Training(record, options, network).all_objectives(compiled=True)
    rows = {row.question: row.measured for row in record.rows}
    assert rows["FGSM-RS, compiled: step against natural's"] > 0
    assert rows["natural, compiled, from memory, test_resnet, batch 4 at 32 px"] > 0
    assert not record.skipped
    made = {name: network.graph_of(name) for name in network.ways}
    assert made["natural"] != made["FGSM-RS"]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at it
@pytest.mark.parametrize(
    ("name", "graphs"),
    [
        ("natural", [True]),
        ("method", [True]),
        ("FGSM-RS", [False, True]),
        ("free (one replay)", [True]),  # one pass gives the gradients of weights and images
        ("PGD-7", [False, True]),  # its seven steps share a graph
    ],
)
def test_a_compiled_attack_computes_no_gradient_of_the_weights(benchmark, name, graphs):
    asked = []

    def backward(graph, inputs):
        asked.append([node.args[-1][1] for node in graph.graph.nodes if "convolution_backward" in str(node.target)])
        return make_boxed_func(graph.forward)

    def forward(graph, inputs):
        return make_boxed_func(graph.forward)

    importlib.import_module("gpu_parts.network").compile_many()
    _, _, network = gpu_training(backend=aot_autograd(fw_compiler=forward, bw_compiler=backward))
    network.trains(name, 2, 32, compiled=True)()
    assert sorted(map(any, filter(None, asked))) == graphs  # of each backward pass with convolutions
    assert all(weight.requires_grad and weight.grad is not None for weight in network.backbone.parameters())


def test_all_ways_are_timed_on_one_batch_that_is_let_go_before_another_is_made(benchmark):
    _, _, network = gpu_training()
    images, labels = network.batch(4, 32)
    assert network.batch(4, 32)[0] is images
    assert network.batch(4, 32)[1] is labels
    assert network.batch(2, 32)[0].shape == (2, 3, 32, 32)
    assert network.batch(4, 32)[0] is not images


def test_a_gpu_that_has_no_memory_for_a_batch_halves_it_and_says_so(benchmark, monkeypatch):
    record, options, network = gpu_training()
    trains = network.trains

    def out_of_memory(name, batch_size, size, *, compiled):
        if batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return trains(name, batch_size, size, compiled=compiled)

    monkeypatch.setattr(network, "trains", out_of_memory)
    training = importlib.import_module("gpu_parts.training").Training(record, options, network)
    training.fit_batch()
    training.sweep(4, 2, compiled=False)
    assert training.batch_size == 2
    assert [row.question for row in record.rows] == ["sweep: method, eager, from memory, batch 2"]
    assert record.skipped == [
        "batch 4: out of memory: halved to 2",
        "method, eager, from memory, batch 4: out of memory: halved to 2",
    ]


def test_parts_are_timed_by_the_gpus_own_events(benchmark, monkeypatch):
    class Event:
        milliseconds = 0.0

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            Event.milliseconds += 5
            self.at = Event.milliseconds

        def elapsed_time(self, end):
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = importlib.import_module("gpu_parts.step_parts").Stopwatch(gpu=True)
    for part in ("front end", "backward"):
        clock.note(part)
    assert clock.seconds() == pytest.approx({"front end": 0.005, "backward": 0.005})
