"""nn.Module shells over `ops`: they hold hyper-parameters and buffers, and do no arithmetic."""

from lightning_sq.layers.noise import PixelNoise
from lightning_sq.layers.normalize import Normalize
from lightning_sq.layers.soft_quantization import SoftQuantization
from lightning_sq.layers.unit_clamp import UnitClamp

__all__ = ["Normalize", "PixelNoise", "SoftQuantization", "UnitClamp"]
