"""What may be asked of a loader and a decoder, and their limits."""

from __future__ import annotations

from typing import Literal

DecoderName = Literal["auto", "jpeg", "dali"]
ScaleName = Literal["auto", "exact"]
ModeName = Literal["resize", "direct"]
FilterName = Literal["lanczos", "bilinear"]
ResizeMethod = Literal["crop", "squish", "pad", "torchvision"]
# Larger images are refused: one of 60,000 × 60,000 pixels fits into a small file and takes 11 GB. As Pillow's limit.
MAX_PIXELS = 178_956_970
INSTALL_DALI = "pip install 'fastaug[dali]' (CUDA 13) or 'fastaug[dali-cuda12]'"
