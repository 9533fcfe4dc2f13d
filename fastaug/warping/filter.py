"""The antialias filter: its numbers, from which every backend computes it, and the filter itself in torch.

For a footprint of s input pixels and a distance t, with
R = max(2, 0.95 + s/2, 0.7375 s), v = max(1/s, 1/4) and z = (t/R)²:

    (1 - z)² (1 + a z + b z²) inside R,    a = 4.2 - 16.3 v + 6.7 v²,    b = -3 + 6.8 v + 1.8 v²

At s = 1 it is 1 at 0 and 0 at every other pixel: an interpolation, close to Keys' cubic. It needs 4 × 4 pixels up to
s = 2.1 (460 -> 224 is 2.05), tends to the area that the output pixel covers, and from s = 4 on only grows in
proportion. The numbers are fitted to photographs, for the least error against the scene that was photographed.

Numba's cache does not see this file: after a change here, delete `__pycache__`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Weight = Callable[[Tensor], Tensor]

# Input pixels. A wider footprint (near a horizon, or a photo shrunk further) is cut to this: it aliases.
MAX_FOOTPRINT = 64.0
MIN_RADIUS = 2.0
RADIUS_OFFSET, RADIUS_SLOPE = 0.95, 0.5
RADIUS_PER_FOOTPRINT = 0.7375
MIN_V = 0.25
A = (4.2, -16.3, 6.7)  # of 1, v, v²
B = (-3.0, 6.8, 1.8)
# Up to these footprints the radius is at most 2, and at most 3, also where it is rounded.
FOOTPRINT_OF_RADIUS_2, FOOTPRINT_OF_RADIUS_3 = 2.1, 4.06


def antialias_weight(footprint: Tensor) -> tuple[float, Weight]:
    """The antialias filter along one axis: (largest radius in input pixels, weight as a function of the distance).

    Args:
        footprint: what the output pixel covers along this axis, from 1 (also where it enlarges) to MAX_FOOTPRINT
            input pixels.
    """
    radius = antialias_radius(footprint)
    v = (1 / footprint).clamp(min=MIN_V)
    a, b = A[0] + A[1] * v + A[2] * v**2, B[0] + B[1] * v + B[2] * v**2

    def weight(distance: Tensor) -> Tensor:
        z = (distance / radius) ** 2
        return (1 - z).clamp(min=0) ** 2 * (1 + a * z + b * z**2)

    return float(radius.max()), weight


def antialias_radius(footprint: Tensor) -> Tensor:
    """R of the filter, in input pixels."""
    growing = RADIUS_OFFSET + RADIUS_SLOPE * footprint
    return torch.maximum(growing, RADIUS_PER_FOOTPRINT * footprint).clamp(min=MIN_RADIUS)
