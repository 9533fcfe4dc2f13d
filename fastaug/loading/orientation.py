"""The eight orientations of EXIF: how a picture is turned upright."""

from __future__ import annotations

import numpy as np

from fastaug.memory import Memory

IDENTITY = np.eye(3)
_EXCHANGED, _MIRRORED, _UPSIDE_DOWN = {5, 6, 7, 8}, {2, 3, 6, 7}, {3, 4, 7, 8}


def upright_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """(height, width) of a stored picture, turned upright."""
    return (width, height) if orientation in _EXCHANGED else (height, width)


def steps_upright(orientation: int) -> tuple[bool, list[int]]:
    """Whether the axes of a stored picture are exchanged, and which of [rows, columns] are then reversed."""
    return orientation in _EXCHANGED, [*[0] * (orientation in _UPSIDE_DOWN), *[1] * (orientation in _MIRRORED)]


def turn_upright(pixels: np.ndarray, orientation: int, memory: Memory) -> np.ndarray:
    """uint8 [H, W, 3], C-contiguous: a copy in that memory, or the pixels themselves where they are upright.

    Args:
        orientation: 1 to 8, as EXIF 2.32 has them; others are upright.
    """
    exchanged, reversed_axes = steps_upright(orientation)
    if not exchanged and not reversed_axes:
        return pixels
    picture = pixels.view("V3")[..., 0]  # a pixel an item: copies are twice as fast so
    turned = np.flip(picture.T if exchanged else picture, tuple(reversed_axes))
    out = memory.take((*turned.shape, 3))
    out.view("V3")[..., 0] = turned
    return out


def upright_matrix(size: tuple[int, int], orientation: int, scale: int) -> np.ndarray:
    """Pixels of an upright original -> pixels of what was decoded of it at 1 / scale and turned upright afterwards.

    A decoder rounds sides up, so the edge that was the far one when the picture was stored lies within its last pixel;
    turned, that is the near edge.

    Args:
        size: (height, width) of the upright original.
    """
    if scale == 1:
        return IDENTITY
    height, width = size
    x = -(-width // scale) - width / scale if orientation in _MIRRORED else 0.0
    y = -(-height // scale) - height / scale if orientation in _UPSIDE_DOWN else 0.0
    return np.array([[1 / scale, 0, x], [0, 1 / scale, y], [0, 0, 1]])


__all__ = ["IDENTITY", "steps_upright", "turn_upright", "upright_matrix", "upright_size"]
