"""Pixels in [0, 1] in, logits out: quantize, normalise, timm backbone."""

from lightning_sq.models.build import ModelConfig, PixelClassifier, QuantizerConfig, build_model

__all__ = ["ModelConfig", "PixelClassifier", "QuantizerConfig", "build_model"]
