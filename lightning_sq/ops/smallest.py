"""What is divided by, or drawn by, is at least this: so small that it changes nothing that is not 0."""

from __future__ import annotations

import torch

SMALLEST = 1e-12
"""Of lengths, differences of logits and widths of boxes."""

TINY = torch.finfo(torch.float32).tiny
"""The smallest float32 that is not subnormal."""
