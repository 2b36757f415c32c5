"""The layer leaves eager PyTorch: torch.compile, torch.export and ONNX give what it gives."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim

from lightning_sq import SoftQuantization

IMAGES, OTHERS = torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
OPSET = 20
EACH = [[0.1, 0.4], [0.3, 0.6], [0.2, 0.9]]

LAYERS = {
    "sigmoid, 2 levels": SoftQuantization(2, 60.0),
    "sigmoid, 16 levels": SoftQuantization(16, 200.0),
    "sigmoid, 256 levels": SoftQuantization(256, 100.0),
    "tanh, 2 levels": SoftQuantization(2, 60.0, staircase="tanh"),
    "tanh, 16 levels": SoftQuantization(16, 200.0, staircase="tanh"),
    "hard, 2 levels": SoftQuantization(2, hard=True),
    "hard, 16 levels": SoftQuantization(16, hard=True),
    "thresholds of each channel": SoftQuantization(3, 300.0, thresholds=EACH),
    "thresholds of each channel, tanh": SoftQuantization(3, 300.0, thresholds=EACH, staircase="tanh"),
    "thresholds of each channel, hard": SoftQuantization(3, thresholds=EACH, hard=True),
    "all learnt": SoftQuantization(4, staircase="tanh", learnable_thresholds=True, learnable_sharpness=True),
}
LAYERS |= {
    f"{name}, {backward}": LAYERS[name].with_backward(backward)
    for name in ("sigmoid, 16 levels", "hard, 16 levels", "thresholds of each channel, tanh")
    for backward in ("identity", "surrogate")
}
each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


def value_and_gradients(quantize, layer: SoftQuantization) -> list[torch.Tensor]:
    x = IMAGES.clone().requires_grad_()
    y = quantize(x)
    if not y.requires_grad:
        return [y]
    gradients = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()], allow_unused=True)
    return [y.detach(), *gradients]


@each_layer
def test_compiled_in_one_graph_it_has_the_same_values_and_gradients(layer):
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(value_and_gradients(compiled, layer), value_and_gradients(layer, layer), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "most_graphs"),
    [({}, 8), ({"staircase": "tanh"}, 2), ({"learnable_sharpness": True}, 1)],
    ids=["sigmoid", "tanh", "a parameter"],
)
def test_a_sharpness_that_moves_at_each_step_makes_few_graphs(settings, most_graphs):
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    layer = SoftQuantization(64, 5.0, **settings)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    with torch.no_grad():
        for step in range(40):
            layer.sharpness = 5.0 * 1.2**step
            torch.testing.assert_close(compiled(IMAGES), layer(IMAGES), rtol=0, atol=2e-6)
    assert len(graphs) <= most_graphs


@each_layer
def test_exported_it_has_the_same_values_for_another_batch(layer):
    program = torch.export.export(layer, (IMAGES,), dynamic_shapes={"x": {0: Dim.DYNAMIC}})
    images = torch.cat([IMAGES, OTHERS, OTHERS])
    torch.testing.assert_close(program.module()(images), layer(images), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@each_layer
def test_onnxruntime_has_the_same_values(layer, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    path = tmp_path / "quantizer.onnx"
    shapes = {"x": {0: Dim.DYNAMIC}}
    program = torch.onnx.export(
        layer, (IMAGES,), dynamo=True, opset_version=OPSET, dynamic_shapes=shapes, verbose=False
    )
    program.save(path)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = torch.cat([IMAGES, OTHERS, OTHERS])
    (values,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert program.model.opset_imports[""] == OPSET
    torch.testing.assert_close(torch.from_numpy(values), layer(images), rtol=0, atol=1e-6)
