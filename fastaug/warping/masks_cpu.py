"""Masks through a matrix on CPU cores: Numba, a band of output rows at a time, one read and one write a pixel.

The formula is that of `masks.reference`, in float64 and in the same order of operations, so that the results are equal.
The places of a block of an output row are found in one loop, which the compiler turns into vector instructions, and
read in another. 500 × 375 -> 224, uint8: reads at most 188 KB and writes 50 KB per mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastaug.warping.compiled import kept_njit, named, njit, wide_vectors
from fastaug.warping.cpu import BLOCK, run, warp_threads
from fastaug.warping.masks import MaskPadding, Masks

_PADDINGS = {"fill": 0, "border": 1, "reflection": 2}
# No reordering and no fused multiply-adds, since torch has none: places would differ in their last bit.
_inlined = njit(nogil=True, _nrt=False, error_model="numpy", forceinline=True)


@_inlined
def _clamped(cell, first, last):  # type: ignore[no-untyped-def]
    return np.int32(min(max(cell, first), last))


@_inlined
def _mirrored(place, low, high):  # type: ignore[no-untyped-def]
    """The pixel of a place along an axis, whose extent is low to high; perhaps one beyond them, by rounding."""
    span, period = high - low, 2 * (high - low)
    beyond = place - low
    beyond = beyond - np.floor(beyond / period) * period
    moved = np.floor(low + beyond) if beyond < span else np.ceil(low + (period - beyond)) - 1.0
    return np.floor(place) if (place >= low) & (place < high) else moved


def _make_find(padding: int) -> Any:
    """(inverse, first, v, count, bounds, cells) -> None: the column and the row of the mask that pixels of an output
    row read; column -1 for the fill.

    v: the row's middle. bounds: x0, y0, x1, y1 of the extent, then the first and the last pixel that is read, by axis.
    """

    @njit(nogil=True, _nrt=False, error_model="numpy")
    @named(padding)
    def find(inverse, first, v, count, bounds, cells):  # type: ignore[no-untyped-def]
        wide_vectors()
        x0, y0, x1, y1 = bounds[0], bounds[1], bounds[2], bounds[3]
        left, right, top, bottom = bounds[4], bounds[5], bounds[6], bounds[7]
        a, b, c = inverse[0, 0], inverse[0, 1] * v, inverse[0, 2]
        d, e, f = inverse[1, 0], inverse[1, 1] * v, inverse[1, 2]
        g, h, i = inverse[2, 0], inverse[2, 1] * v, inverse[2, 2]
        for k in range(min(count, BLOCK)):
            u = np.float64(np.int32(first + k)) + 0.5
            w = g * u + h + i
            reciprocal = 1.0 / w
            x, y = (a * u + b + c) * reciprocal, (d * u + e + f) * reciprocal
            seen = (w > 0) & (abs(x) < np.inf) & (abs(y) < np.inf)
            if padding == 0:
                seen &= (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
            x, y = x if seen else x0, y if seen else y0
            column, row = (_mirrored(x, x0, x1), _mirrored(y, y0, y1)) if padding == 2 else (np.floor(x), np.floor(y))
            cells[k] = _clamped(column, left, right) if seen else np.int32(-1)
            cells[BLOCK + k] = _clamped(row, top, bottom)

    return find


_find_filled, _find_nearest, _find_mirrored = (_make_find(padding) for padding in range(3))


@kept_njit(error_model="numpy")
def _warp_rows(mask, width, inverse, bounds, padding, fill, out, columns, first_row, block):  # type: ignore[no-untyped-def]
    """Some output rows of one mask.

    Args:
        mask: unsigned integers [H * W].
        inverse: float64 [3, 3], output pixels -> pixels of the mask.
        bounds: see `_make_find`; padding: a code, see `_PADDINGS`; fill: of the mask's dtype.
        out: [rows * columns] of the mask's dtype; first_row: the output's row that it begins with.
        block: memory, see `cpu._new_block`.
    """
    cells = block[0]
    for row in range(out.shape[0] // columns):
        v = np.float64(first_row + row) + 0.5
        for first in range(0, columns, BLOCK):
            count, to = min(BLOCK, columns - first), row * columns + first
            if padding == 0:
                _find_filled(inverse, first, v, count, bounds, cells)
            elif padding == 1:
                _find_nearest(inverse, first, v, count, bounds, cells)
            else:
                _find_mirrored(inverse, first, v, count, bounds, cells)
            for k in range(count):
                column = np.int64(cells[k])
                out[to + k] = fill if column < 0 else mask[np.int64(cells[BLOCK + k]) * width + column]


def warp_masks(
    masks: Masks,
    samplings: Tensor,
    size: tuple[int, int],
    fill: int,
    padding: MaskPadding,
    extent: Tensor,
    pixel: Tensor,
) -> Tensor:
    """See `masks.reference`."""
    height, width = size
    out = torch.empty(len(masks), height, width, dtype=masks[0].dtype)
    unsigned = np.dtype(f"u{out.element_size()}")  # bits are moved, not numbers
    flat = out.numpy().view(unsigned).reshape(len(masks), -1)
    code = torch.tensor(fill, dtype=out.dtype).numpy().view(unsigned)[()]
    inverses, extents, halves = samplings.numpy(), extent.numpy(), pixel.numpy() / 2
    shapes = np.array([mask.shape[::-1] for mask in masks])
    bounds = np.empty((len(masks), 8))
    bounds[:, :4] = extents
    for axis in range(2):
        low, high, last = extents[:, axis], extents[:, 2 + axis], shapes[:, axis] - 1.0
        half = np.minimum(halves[:, axis], (high - low) / 2)
        bounds[:, 4 + 2 * axis] = np.clip(np.floor(low + half), 0, last)
        bounds[:, 5 + 2 * axis] = np.clip(np.ceil(high - half) - 1, 0, last)
    threads = warp_threads()
    bands = max(1, min(height, -(-2 * threads // len(masks))))  # at least two pieces of work for a thread
    rows = -(-height // bands)
    work = []
    for i, mask in enumerate(masks):
        pixels = mask.contiguous().numpy().view(unsigned).reshape(-1)
        arguments = pixels, mask.shape[1], inverses[i], bounds[i], _PADDINGS[padding], code
        for first in range(0, height, rows):
            part = flat[i, first * width : (first + rows) * width]
            work.append((_warp_rows, *arguments, part, width, first))
    run(work, threads)
    return out
