"""The eight orientations of EXIF: how a picture is turned upright."""

from __future__ import annotations

import numpy as np

from fastaug.loading.memory import Memory

_EXCHANGED, _MIRRORED, _UPSIDE_DOWN = {5, 6, 7, 8}, {2, 3, 6, 7}, {3, 4, 7, 8}


def upright_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """(height, width) of a stored picture, turned upright."""
    return (width, height) if orientation in _EXCHANGED else (height, width)


def steps_upright(orientation: int) -> tuple[bool, list[int]]:
    """Whether the axes of a stored picture are exchanged, and which of [rows, columns] are then reversed."""
    return orientation in _EXCHANGED, [*[0] * (orientation in _UPSIDE_DOWN), *[1] * (orientation in _MIRRORED)]


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A view [H, W], a pixel an item, of pixels [h, w, 3], C-contiguous: turned upright.

    Args:
        orientation: 1 to 8, as EXIF 2.32 has them; others are upright.
    """
    picture = pixels.view("V3")[..., 0]  # copies are twice as fast so
    exchanged, reversed_axes = steps_upright(orientation)
    turned: np.ndarray = np.flip(picture.T if exchanged else picture, tuple(reversed_axes))
    return turned


def turn_upright(pixels: np.ndarray, orientation: int, memory: Memory) -> np.ndarray:
    """uint8 [H, W, 3], C-contiguous: a copy in that memory, or the pixels themselves where they are upright."""
    if orientation <= 1:
        return pixels
    turned = upright(pixels, orientation)
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
    height, width = size
    x = -(-width // scale) - width / scale if orientation in _MIRRORED else 0.0
    y = -(-height // scale) - height / scale if orientation in _UPSIDE_DOWN else 0.0
    return np.array([[1 / scale, 0, x], [0, 1 / scale, y], [0, 0, 1]])


__all__ = ["steps_upright", "turn_upright", "upright", "upright_matrix", "upright_size"]
