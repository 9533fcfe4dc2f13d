"""The warp on CPU cores: Numba, one pass, a band of output rows at a time.

The formula is that of `reference.py`: places in float64, all else in float32. For one output row after the other, the
first loop finds where its pixels look and how wide they look there (the compiler turns it into vector instructions),
the second sums the taps. Up to 8 × 8 taps the sum is written in LLVM's vector types (`_make_tap_sum`): the taps of
one row lie next to each other in memory with their three channels, so a row of 4 taps is one load of 16 bytes, one
conversion and one multiply-add. Wider footprints take plain loops.

460 -> 224, uint8 -> float32, reads 635 KB and writes 602 KB per image. Each of 50,176 output pixels costs about 30
vector instructions for its taps and 10 for its place and weights: 2 million, or 0.3 ms of a core that does 2 a cycle
at 3 GHz.

Tried and lost, the costliest first: plain loops over the taps; counting references to the arrays inside the loops
(hence `_nrt=False`); weights written one by one and read back as a vector; letting the taps wait for each new cache
line (hence `_fetch_rows`); Python's check for a division by zero, which keeps loops scalar. benchmarks/README.md
compares what is left with OpenCV.

Bands are handed to threads of our own: the kernel releases the GIL, and Numba's own threading layers end the process
when two threads enter them at once or when it forks. There are as many as torch has (`torch.set_num_threads`), so one
setting limits both, and a DataLoader worker, where torch has one, starts none.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from fastaug.memory import Memory
from fastaug.warping import filter as antialias
from fastaug.warping.compiled import FASTMATH, F, broadcast, njit, row_loop, shuffle_lanes
from fastaug.warping.footprint import sampling_matrix
from fastaug.warping.warp import How, Images

_MODES = {"nearest": 0, "bilinear": 1, "antialias": 2}
_PADDINGS = {"reflection": 0, "border": 1, "zeros": 2}
_FARTHEST = 1e9  # places beyond it are cut to it, so that they remain integers
_FAST = ("fast",)
_REACH = {2: 8, 4: 16, 5: 16, 6: 32, 8: 32}  # items that a row of taps reads: the power of two that holds 3 * taps


def _make_tap_sum(taps: int) -> Any:
    """(pixels, start, stride, weights, row_x, row_y, u) -> (red, green, blue), float32, from taps × taps pixels.

    pixels: uint8 or float32, flat; start: index of the first tap's red; stride: from one row of taps to the next.
    weights: float32 [2, 8, columns], see `_weigh_row`; row_x, row_y: those of the first tap; u: the column.
    Reads `_REACH[taps]` items from the start of each row, of which it uses the first 3 * taps.
    """
    lanes, number, integer = _REACH[taps], ir.FloatType(), ir.IntType(64)

    @intrinsic
    def tap_sum(typing_context, pixels, start, stride, weights, row_x, row_y, u):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            flat, table = (context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 3))
            columns = builder.extract_value(table.shape, 2)
            item = context.get_data_type(pixels.dtype)

            def weight(axis: int, k: int) -> Any:
                row = builder.add(arguments[4 + axis], ir.Constant(integer, 8 * axis + k))
                return builder.load(builder.gep(table.data, [builder.add(builder.mul(columns, row), arguments[6])]))

            first, total = arguments[1], None
            for i in range(taps):
                place = builder.gep(flat.data, [first])
                row = builder.load(builder.bitcast(place, ir.VectorType(item, lanes).as_pointer()), align=1)
                if pixels.dtype == types.uint8:
                    row = builder.uitofp(row, ir.VectorType(number, lanes))
                row = builder.fmul(row, broadcast(builder, weight(1, i), lanes), flags=_FAST)
                total = row if total is None else builder.fadd(total, row, flags=_FAST)
                first = builder.add(first, arguments[2])
            color = None
            for j in range(taps):
                part = shuffle_lanes(builder, total, [3 * j, 3 * j + 1, 3 * j + 2, 0])
                part = builder.fmul(part, broadcast(builder, weight(0, j), 4), flags=_FAST)
                color = part if color is None else builder.fadd(color, part, flags=_FAST)
            channels = [builder.extract_element(color, ir.Constant(ir.IntType(32), c)) for c in range(3)]
            return context.make_tuple(builder, signature.return_type, channels)

        return types.UniTuple(types.float32, 3)(pixels, *[types.int64] * 2, weights, *[types.int64] * 3), generate

    return tap_sum


@row_loop
def _place_row(inverse, v, shift, cell, fraction, footprint, visible):  # type: ignore[no-untyped-def]
    """Where the pixels of output row v look: place - shift = cell + fraction; footprints; who sees the plane."""
    x_v = inverse[0, 1] * (v + 0.5) + inverse[0, 2]
    y_v = inverse[1, 1] * (v + 0.5) + inverse[1, 2]
    denominator_v = inverse[2, 1] * (v + 0.5) + inverse[2, 2]
    xu, xv, yu, yv = F(inverse[0, 0]), F(inverse[0, 1]), F(inverse[1, 0]), F(inverse[1, 1])
    wu, wv = F(inverse[2, 0]), F(inverse[2, 1])
    for u in range(visible.shape[0]):
        denominator = inverse[2, 0] * (u + 0.5) + denominator_v
        visible[u] = denominator > 0
        reciprocal = 1.0 / max(denominator, 1e-30)
        x = min(max((inverse[0, 0] * (u + 0.5) + x_v) * reciprocal, -_FARTHEST), _FARTHEST)
        y = min(max((inverse[1, 0] * (u + 0.5) + y_v) * reciprocal, -_FARTHEST), _FARTHEST)
        r, x32, y32 = F(reciprocal), F(x), F(y)
        x_u, x_v32, y_u, y_v32 = (xu - x32 * wu) * r, (xv - x32 * wv) * r, (yu - y32 * wu) * r, (yv - y32 * wv) * r
        footprint[0, u] = min(max(math.sqrt(x_u * x_u + x_v32 * x_v32), F(1)), F(antialias.MAX_FOOTPRINT))
        footprint[1, u] = min(max(math.sqrt(y_u * y_u + y_v32 * y_v32), F(1)), F(antialias.MAX_FOOTPRINT))
        floor_x, floor_y = math.floor(x - shift), math.floor(y - shift)
        cell[0, u], fraction[0, u] = np.int32(floor_x), F(x - shift - floor_x)
        cell[1, u], fraction[1, u] = np.int32(floor_y), F(y - shift - floor_y)


@row_loop
def _fetch_rows(pixels, height, width, cell, seen_top, seen_bottom):  # type: ignore[no-untyped-def]
    """Touch what an output row will read, in the order of memory, but for the rows seen before; return what it reads.

    Left to the taps, each new cache line is waited for; touched in order, many are under way at once.
    """
    last = cell.shape[1] - 1
    top = max(min(cell[1, 0], cell[1, last]) - 1, 0)
    bottom = min(max(cell[1, 0], cell[1, last]) + 3, height)
    left = max(min(cell[0, 0], cell[0, last]) - 1, 0)
    right = min(max(cell[0, 0], cell[0, last]) + 3, width)
    total = F(0)
    for y in range(top, bottom):
        if seen_top <= y < seen_bottom:
            continue
        start = np.int64(y) * width
        for k in range((start + left) * 3, (start + right) * 3, 64):
            total += F(pixels[k])
    return top, bottom, total


_inlined = njit(nogil=True, _nrt=False, error_model="numpy", forceinline=True, fastmath=FASTMATH)


@_inlined
def _coefficients(footprint):  # type: ignore[no-untyped-def]
    """a and b of the antialias filter, see `filter.py`."""
    v = max(F(1) / footprint, F(antialias.MIN_V))
    (a0, a1, a2), (b0, b1, b2) = antialias.A, antialias.B
    return F(a0) + v * (F(a2) * v + F(a1)), F(b0) + v * (F(b2) * v + F(b1))


@_inlined
def _weight(distance, inverse, a, b):  # type: ignore[no-untyped-def]
    """The antialias filter at z = (distance / radius)²."""
    z = distance * distance * inverse
    q = max(F(1) - z, F(0))
    return q * q * (F(1) + z * (a + z * b))


@row_loop
def _filter_row(axis, footprint, filter_terms):  # type: ignore[no-untyped-def]
    """The antialias filter for each footprint of a row: radius, 1 / radius², a, b."""
    for u in range(footprint.shape[1]):
        growing = F(antialias.RADIUS_OFFSET) + F(antialias.RADIUS_SLOPE) * footprint[axis, u]
        radius = max(F(antialias.MIN_RADIUS), growing, F(antialias.RADIUS_PER_FOOTPRINT) * footprint[axis, u])
        filter_terms[axis, 0, u], filter_terms[axis, 1, u] = radius, F(1) / (radius * radius)
        filter_terms[axis, 2, u], filter_terms[axis, 3, u] = _coefficients(footprint[axis, u])


@row_loop
def _row_taps(footprint):  # type: ignore[no-untyped-def]
    """How many taps along an axis the widest filter of a row needs, up to 8. Counts, since those are vectorised."""
    over_2, over_3 = np.int32(0), np.int32(0)
    for axis in range(2):
        for u in range(footprint.shape[1]):
            over_2 += np.int32(footprint[axis, u] > F(antialias.FOOTPRINT_OF_RADIUS_2))
            over_3 += np.int32(footprint[axis, u] > F(antialias.FOOTPRINT_OF_RADIUS_3))
    return 8 if over_3 > 0 else 6 if over_2 > 0 else 4


@row_loop
def _weigh_row_4(axis, fraction, footprint, weights):  # type: ignore[no-untyped-def]
    """As `_weigh_row`, where all radii of the row are 2 and 1 / radius² is 0.25: in one loop: most rows are such."""
    for u in range(fraction.shape[1]):
        (a, b), p = _coefficients(footprint[axis, u]), fraction[axis, u]
        w0, w1 = _weight(F(1) + p, F(0.25), a, b), _weight(p, F(0.25), a, b)
        w2, w3 = _weight(F(1) - p, F(0.25), a, b), _weight(F(2) - p, F(0.25), a, b)
        scale = F(1) / (w0 + w1 + w2 + w3)
        weights[axis, 2, u], weights[axis, 3, u] = w0 * scale, w1 * scale
        weights[axis, 4, u], weights[axis, 5, u] = w2 * scale, w3 * scale


@row_loop
def _weigh_row(axis, mode, fraction, filter_terms, taps, weights, total):  # type: ignore[no-untyped-def]
    """Fill the middle `taps` rows of weights[axis], normalised: row 3 is the cell, row 4 the pixel after it."""
    columns = fraction.shape[1]
    if mode < 2:
        for u in range(columns):
            weight = fraction[axis, u] if mode == 1 else F(0)
            weights[axis, 3, u], weights[axis, 4, u] = F(1) - weight, weight
        return
    for u in range(columns):
        total[u] = 0
    for k in range(4 - taps // 2, 4 + taps // 2):
        before = F(3 - k)
        for u in range(columns):
            distance = before + fraction[axis, u]
            weight = _weight(distance, filter_terms[axis, 1, u], filter_terms[axis, 2, u], filter_terms[axis, 3, u])
            weights[axis, k, u] = weight
            total[u] += weight
    for u in range(columns):
        total[u] = F(1) / total[u]
    for k in range(4 - taps // 2, 4 + taps // 2):
        for u in range(columns):
            weights[axis, k, u] *= total[u]


@njit(nogil=True, _nrt=False, forceinline=True)
def _padded(index, size, padding):  # type: ignore[no-untyped-def]
    """The pixel that stands for an index beyond the edges; -1 for black."""
    if 0 <= index < size:
        return index
    if padding == 0:
        if -size <= index < 2 * size:  # once: without a division
            return -1 - index if index < 0 else 2 * size - 1 - index
        index %= 2 * size
        return index if index < size else 2 * size - 1 - index
    if padding == 1:
        return 0 if index < 0 else size - 1
    return -1


def _make_sum(taps: int) -> Any:
    """As tap_sum, beyond the edges too; the first tap is before_x and before_y pixels before the cell of column u."""
    tap_sum, reach = _make_tap_sum(taps), _REACH[taps]

    @njit(nogil=True, _nrt=False, forceinline=True)
    def padded_sum(photo, cell, weights, before_x, before_y, u):  # type: ignore[no-untyped-def]
        pixels, height, width, padding, patch, columns = photo
        left, top = np.int64(cell[0, u]) - before_x, np.int64(cell[1, u]) - before_y
        row_x, row_y, stride = 3 - before_x, 3 - before_y, 3 * width
        start = top * stride + left * 3
        inside = left >= 0 and top >= 0 and left + taps <= width and top + taps <= height
        if inside and start + (taps - 1) * stride + reach <= pixels.shape[0]:
            return tap_sum(pixels, start, stride, weights, row_x, row_y, u)
        for j in range(taps):
            columns[j] = _padded(left + j, width, padding)
        for i in range(taps):
            y = _padded(top + i, height, padding)
            for j in range(taps):
                source, to = y * stride + columns[j] * 3, (i * taps + j) * 3
                if columns[j] >= 0 and y >= 0:
                    patch[to], patch[to + 1], patch[to + 2] = pixels[source], pixels[source + 1], pixels[source + 2]
                else:
                    patch[to] = patch[to + 1] = patch[to + 2] = patch.dtype.type(0)
        return tap_sum(patch, 0, 3 * taps, weights, row_x, row_y, u)

    return padded_sum


_sum_2, _sum_4, _sum_5, _sum_6, _sum_8 = (_make_sum(taps) for taps in (2, 4, 5, 6, 8))


@row_loop
def _wide_sum(photo, cell, fraction, filter_terms, u):  # type: ignore[no-untyped-def]
    """As padded_sum with the antialias filter, for any number of taps: plain loops."""
    pixels, height, width, padding, _, _ = photo
    radius = math.ceil(max(filter_terms[0, 0, u], filter_terms[1, 0, u]))
    red = green = blue = total = F(0)
    for i in range(1 - radius, 1 + radius):
        y, distance = _padded(np.int64(cell[1, u]) + i, height, padding), F(i) - fraction[1, u]
        weight_y = _weight(distance, filter_terms[1, 1, u], filter_terms[1, 2, u], filter_terms[1, 3, u])
        for j in range(1 - radius, 1 + radius):
            x, distance = _padded(np.int64(cell[0, u]) + j, width, padding), F(j) - fraction[0, u]
            weight = weight_y * _weight(distance, filter_terms[0, 1, u], filter_terms[0, 2, u], filter_terms[0, 3, u])
            total += weight
            if x >= 0 and y >= 0:
                source = (y * width + x) * 3
                red += weight * F(pixels[source])
                green += weight * F(pixels[source + 1])
                blue += weight * F(pixels[source + 2])
    return red / total, green / total, blue / total


@row_loop
def _sum_row(photo, taps, cell, fraction, filter_terms, weights, visible, color, out):  # type: ignore[no-untyped-def]
    """The sums of one output row, through the colour matrix, to `out`; the rest as `_warp_rows` has it."""
    for u in range(out.shape[0]):
        red = green = blue = F(0)
        radius = F(2) if taps <= 4 else max(filter_terms[0, 0, u], filter_terms[1, 0, u])
        if not visible[u]:
            pass
        elif taps == 2:
            red, green, blue = _sum_2(photo, cell, weights, 0, 0, u)
        elif radius <= 2:
            red, green, blue = _sum_4(photo, cell, weights, 1, 1, u)
        elif radius <= 2.5:  # one of the six taps is out of reach, and 5 × 3 values fit where 6 × 3 do not
            x, y = np.int64(fraction[0, u] < 0.5), np.int64(fraction[1, u] < 0.5)
            red, green, blue = _sum_5(photo, cell, weights, 1 + x, 1 + y, u)
        elif radius <= 3:
            red, green, blue = _sum_6(photo, cell, weights, 2, 2, u)
        elif radius <= 4:
            red, green, blue = _sum_8(photo, cell, weights, 3, 3, u)
        else:
            red, green, blue = _wide_sum(photo, cell, fraction, filter_terms, u)
        for c in range(3):
            out[u, c] = color[c, 0] * red + color[c, 1] * green + color[c, 2] * blue + color[c, 3]


@njit(nogil=True, cache=True, fastmath=FASTMATH)
def _warp_rows(pixels, height, width, inverse, mode, padding, color, out, first_row):  # type: ignore[no-untyped-def]
    """Some output rows of one image.

    Args:
        pixels: uint8 or float32 [H * W * 3].
        inverse: float64 [3, 3], finite, output pixels -> input pixels, third coordinate positive where visible.
        mode, padding: codes, see `_MODES` and `_PADDINGS`.
        color: float32 [3, 4], from pixel values as they are stored.
        out: float32 [rows, w, 3]; first_row: the output's row that out[0] is.
    """
    columns = out.shape[1]
    # by axis, x first
    cell, fraction, footprint = np.empty((2, columns), np.int32), np.empty((2, columns), F), np.empty((2, columns), F)
    filter_terms, weights = np.zeros((2, 4, columns), F), np.zeros((2, 8, columns), F)
    visible, total = np.empty(columns, np.bool_), np.empty(columns, F)
    photo = pixels, height, width, padding, np.zeros(8 * 24 + 32, pixels.dtype), np.zeros(8, np.int64)
    shift, touched = 0.0 if mode == 0 else 0.5, F(0)
    top = bottom = 0
    for row in range(out.shape[0]):
        _place_row(inverse, first_row + row, shift, cell, fraction, footprint, visible)
        top, bottom, value = _fetch_rows(pixels, height, width, cell, top, bottom)
        touched += value
        taps = 2 if mode < 2 else _row_taps(footprint)
        for axis in range(2):
            if taps == 4:
                _weigh_row_4(axis, fraction, footprint, weights)
            else:
                if mode == 2:
                    _filter_row(axis, footprint, filter_terms)
                _weigh_row(axis, mode, fraction, filter_terms, taps, weights, total)
        _sum_row(photo, taps, cell, fraction, filter_terms, weights, visible, color, out[row])
    return touched  # so that the compiler does not leave the touching out


def warp(images: Images, matrix: Tensor, size: tuple[int, int], *how: *How) -> Tensor:
    """See `fastaug.warping.warp`, which checks the arguments. Other float images are converted to float32 first."""
    (height, width), (interpolation, padding, color, dtype) = size, how
    out = _new_output((len(images), height, width, 3))
    mode, pad = _MODES[interpolation], _PADDINGS[padding]
    colors = (torch.eye(3, 4).expand(len(images), 3, 4) if color is None else color).detach().float().numpy()
    threads = torch.get_num_threads()
    bands = max(1, min(height, -(-2 * threads // max(1, len(images)))))  # at least two pieces of work for a thread
    rows = -(-height // bands)
    work = []
    inverses = sampling_matrix(matrix.detach()).numpy()
    for image, inverse, unscaled, image_out in zip(images, inverses, colors, out, strict=True):
        # flat; a copy only where it is another type or strided
        pixels = (image if image.dtype == torch.uint8 else image.float()).detach().contiguous().view(-1).numpy()
        scaled = unscaled.copy()
        if pixels.dtype == np.uint8:
            scaled[:, :3] /= 255
        if not np.isfinite(inverse).all():
            image_out[:] = scaled[:, 3]  # sees nothing: black before the colour matrix
            continue
        for first in range(0, height, rows):
            band = image_out[first : first + rows]
            work.append((pixels, *image.shape[:2], inverse, mode, pad, scaled, band, first))
    _run(work, threads)
    return torch.from_numpy(out).to(dtype).permute(0, 3, 1, 2)


def _new_output(shape: tuple[int, ...]) -> np.ndarray:
    """float32, not filled; memory of an earlier result that nobody has any more."""
    return _memory(os.getpid()).take((*shape[:-1], 4 * shape[-1])).view(np.float32)


def _run(work: list[tuple[Any, ...]], threads: int) -> None:
    left = iter(work)  # each thread takes the next piece when it has done one: a task for each piece costs more

    def take() -> None:
        for arguments in left:
            _warp_rows(*arguments)

    if threads == 1 or len(work) < 2:
        return take()
    pool = _threads(os.getpid(), threads)
    for done in [pool.submit(take) for _ in range(min(threads, len(work)))]:
        done.result()


@lru_cache(maxsize=1)
def _memory(process: int) -> Memory:
    """Of a process: at the time of a fork a thread may hold its parent's lock."""
    return Memory()


@lru_cache(maxsize=1)
def _threads(process: int, count: int) -> ThreadPoolExecutor:
    """The pool of a process: a forked child has none of its parent's threads and needs its own."""
    return ThreadPoolExecutor(count, "fastaug-warp")
