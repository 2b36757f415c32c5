"""A released model for other runtimes: ONNX and torch.export, each compared with the model that it was made from."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram, export, load, save
from torch.fx import GraphModule

from lightning_sq.errors import InputError
from lightning_sq.models import PixelClassifier
from lightning_sq.release_files import ONNX_FILE, TORCH_EXPORT_FILE
from lightning_sq.releasing.golden import Parity, compare, golden_images, logits_of, read_golden

OPSET = 20
TRACE = "stack_trace"
"""From which lines of which files a node came: of the disk of whoever exported, and nobody else's business."""


def write_onnx(folder: Path, model: PixelClassifier) -> dict[str, Any]:
    """model.onnx: `images` (B, C, H, W) float32 in [0, 1] to `logits`, for any B.

    Returns: opset, runtime, and the parity on the golden images.
    Raises: InputError if a package is missing, the model cannot be exported, or its logits are others.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401 - torch.onnx needs it, and says so late
    except ImportError as error:
        raise InputError(f"--onnx needs {error.name}. Install it: pip install 'lightning-sq[onnx]'.") from error
    path, images = folder / ONNX_FILE, golden_images(model.config)
    program = _in_a_sentence("ONNX", _to_onnx, model, images)
    for graph in (program.model.graph, *program.model.functions.values()):
        for node in graph:
            node.metadata_props.pop(f"pkg.torch.onnx.{TRACE}", None)
    program.save(path)
    details = {"opset": OPSET, "runtime": f"onnxruntime {version('onnxruntime')}"}
    return details | _parity(ONNX_FILE, _logits_of_onnx(path, images), model, images)


def verify_onnx(folder: Path) -> Parity | None:
    """How near model.onnx comes to the golden logits here, in onnxruntime; None if one of the two is not here.

    Raises: InputError if it cannot be run, or its logits are others.
    """
    path = folder / ONNX_FILE
    if not path.is_file() or find_spec("onnxruntime") is None:
        return None
    images, expected = read_golden(folder)
    try:
        logits = _logits_of_onnx(path, images)
    except Exception as error:  # of a stranger's file, or of a runtime that is too old for it
        raise InputError(
            f"onnxruntime {version('onnxruntime')} cannot run {path} ({type(error).__name__}). Install the version "
            "that its config.json names."
        ) from error
    parity = compare(logits, expected)
    if not parity.holds:
        raise InputError(
            f"{path} gives other logits than the model when it was released: they differ by up to "
            f"{parity.largest_difference:.3g}. Report the version of onnxruntime here and in its config.json."
        )
    return parity


def _logits_of_onnx(path: Path, images: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": (images.float() / 255).numpy()})
    return torch.from_numpy(logits)


def _to_onnx(model: PixelClassifier, images: Tensor) -> torch.onnx.ONNXProgram:
    return torch.onnx.export(
        model,
        (images[:2].float() / 255,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: Dim("batch")},),
        verbose=False,
    )


def write_torch_export(folder: Path, model: PixelClassifier) -> dict[str, Any]:
    """model.pt2, for `torch.export.load(path).module()`: the same function, for any number of images.

    Returns and raises: as `write_onnx`.
    """
    path, images = folder / TORCH_EXPORT_FILE, golden_images(model.config)
    program = _in_a_sentence("torch.export", _to_program, model, images)
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop(TRACE, None)
    save(program, path)
    logits = logits_of(load(path).module(), images)
    return {"runtime": f"torch {torch.__version__}"} | _parity(TORCH_EXPORT_FILE, logits, model, images)


def _to_program(model: PixelClassifier, images: Tensor) -> ExportedProgram:
    return export(model, (images[:2].float() / 255,), dynamic_shapes=({0: Dim("batch")},))


def _in_a_sentence(what: str, make: Any, model: PixelClassifier, images: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn of their own insides
        try:
            return make(model, images)
        except Exception as error:  # of whatever an architecture does that an exporter cannot follow
            raise InputError(
                f"{model.config.architecture} cannot be written for {what} ({type(error).__name__}). "
                "Leave the option out."
            ) from error


def _parity(name: str, logits: Tensor, model: PixelClassifier, images: Tensor) -> dict[str, Any]:
    parity = compare(logits, logits_of(model, images))
    if not parity.holds:
        raise InputError(
            f"{name} gives other logits than the model: they differ by up to {parity.largest_difference:.3g}. "
            "Leave the option out, and report it."
        )
    return {"parity": asdict(parity)}
