"""The GPU benchmark on a CPU, for the tests of this folder; after `benchmark`."""

from __future__ import annotations

import argparse
import importlib
import json

import torch


def gpu_smoke(benchmark, folder, *options):
    """(question -> row, reasons) of `benchmarks/gpu.py --smoke`."""
    benchmark("gpu", "--smoke", *options).main()
    (file,) = folder.glob("gpu_smoke-*.json")
    content = json.loads(file.read_text())
    return {row["question"]: row for row in content["rows"]}, content["skipped"]


def gpu_training(backend="aot_eager", **options):
    """(record, options, network) of a tiny GPU benchmark; after `benchmark`."""
    sizes = {"architecture": "test_resnet", "image_size": 32, "batch_size": 4, "rounds": 1, "backend": backend}
    options = {"hw_decoder_load": None} | options
    options = argparse.Namespace(**sizes, compile_seconds=5.0, copy_bandwidth=None, **options)
    record = importlib.import_module("common.budget").Record("tiny", 5, {})
    return record, options, importlib.import_module("gpu_parts.network").Network(options, torch.device("cpu"))
