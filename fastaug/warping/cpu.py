"""The warp on CPU cores: Numba, one pass, a band of output rows at a time.

The formula is that of `reference.py`. An output row is worked on in blocks of 64 pixels. One loop finds where they look
and how wide they look there, a second one weighs the taps, a third one finds the taps in memory (the compiler turns all
three into vector instructions); then four pixels at a time are summed, in LLVM's vector types (`_make_pixel_sums`): a
row of up to 5 taps is one load of 16 bytes, one conversion and one multiply-add; then the same taps of the four pixels
are brought together, so that the sum along x and the colour matrix are computed for all four at once. Up to 8 × 8 taps
are summed so, wider footprints by plain loops. The first place of a block is computed in float64, the others by their
distance from it, in float32, which loses some hundred-thousandths of a pixel at most.

460 -> 224, uint8 -> float32, reads 635 KB and writes 602 KB per image. On AVX-512, each of 50,176 output pixels of 4 ×
4 taps costs 33 instructions for its sum (counted) and some 14 for its place, weights and address: 2.4 million. The sum
is bound by the two units that compute on vectors of 64 bytes: 71 of the instructions for four pixels are theirs, so 9
cycles a pixel, or 0.15 ms at 3 GHz; by itself it was measured at 3.3 ns a pixel. Of the profiler's samples in the
kernel 60 per cent are in the sums, 25 in places, weights and addresses, and 6 in fetching the image.

Tried and lost, the costliest first: plain loops over the taps; counting references to the arrays inside the loops
(hence `_nrt=False`); weights written one by one and read back as a vector; letting the taps wait for each new cache
line (hence `_fetch_rows`; to prefetch rows ahead gains nothing); Python's check for a division by zero, and indices of
which the compiler cannot tell that they are not negative: both keep loops scalar (hence `min(count, BLOCK)`); sums of
one pixel at a time. Multiply-adds of 16-bit integers, two rows at a time: LLVM takes the pairs apart again, and with
them held together by force they save 7 to 21 per cent of a sum of 4 taps by itself, before the cost of making the
integers, and depend on what LLVM recognises; without that force they were 9 per cent slower. To spread the taps to four
lanes each when they are loaded is better by a fifth of the sum on AVX2, and worse by a third on AVX-512.
benchmarks/README.md compares what is left with OpenCV.

Bands are handed to threads of our own: the kernel releases the GIL, and Numba's own threading layers end the process
when two threads enter them at once or when it forks. There are as many as torch has (`torch.set_num_threads`, or
OMP_NUM_THREADS, which torchrun sets to 1), so one setting limits both, and a DataLoader worker, where torch has one,
starts none; but at most 32, since they take turns at Python's lock: 64 images then take 5 ms longer at 112.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from torch import Tensor

from fastaug.memory import Memory
from fastaug.warping import filter as antialias
from fastaug.warping.compiled import (
    FASTMATH,
    F,
    broadcast,
    intrinsic,
    kept_njit,
    named,
    njit,
    row_loop,
    shuffle_lanes,
    wide_vectors,
)
from fastaug.warping.footprint import sampling_matrix
from fastaug.warping.warp import How, Images

_MODES = {"nearest": 0, "bilinear": 1, "antialias": 2}
_PADDINGS = {"reflection": 0, "border": 1, "zeros": 2}
_FARTHEST = 1e9  # places beyond it are cut to it, so that they remain integers
_NEAR = 1e6  # a row whose ends look at places within it, and see the plane, is worked on in blocks
_FAST = ("fast",)
_MOST_THREADS = 32
# Squares of the widest footprint of a block -> taps along each axis. The radius is then at most 2, 2.5, 3 and 4.
_WIDEST_4, _WIDEST_5 = antialias.FOOTPRINT_OF_RADIUS_2**2, 3.09**2
_WIDEST_6, _WIDEST_8 = antialias.FOOTPRINT_OF_RADIUS_3**2, 5.42**2
_PARTS = {2: (8,), 4: (16,), 5: (16,), 6: (16, 8), 8: (16, 16)}  # items of the vectors that hold a row of taps
_REACH = {2: 8, 4: 16, 5: 16, 6: 20, 8: 28}  # items that a row of taps reads: the second vector begins at the fifth tap
BLOCK = 64  # pixels of an output row that are worked on together; four at a time are summed
# What is known of a block, in lines of BLOCK float32. By axis, x first: the place's fraction, 1 / footprint, and eight
# weights from the first tap's on. Constant distances show the compiler that the lines do not overlap.
_FRACTION, _INVERSE, _WEIGHTS, _LINES = 0, 2 * BLOCK, 4 * BLOCK, 20 * BLOCK
_AXIS = 8 * BLOCK  # from the weights along x to those along y


def _make_pixel_sums(taps: int) -> Any:
    """(pixels, starts, begin, stride, lines, u, color, out, to) -> None: four pixels, of taps × taps pixels each.

    pixels: uint8 or float32, flat; starts: int64, from `begin` on the four indices of the first tap's red; stride: from
    one row of taps to the next. lines: see _LINES; u: the first of the four in their block. color: as `_warp_rows`.
    out: float32, flat; out[to : to + 12] is set. Reads `_REACH[taps]` items from the start of each row.
    """
    number, integer = ir.FloatType(), ir.IntType(64)
    four_times = [pixel for pixel in range(4) for _ in range(4)]

    @intrinsic
    def pixel_sums(typing_context, pixels, starts, begin, stride, lines, u, color, out, to):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            flat, places, table, matrix, target = (
                context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 1, 4, 6, 7)
            )
            item = context.get_data_type(pixels.dtype)

            def at(data: Any, index: Any, offset: int) -> Any:
                return builder.gep(data, [builder.add(index, ir.Constant(integer, offset))])

            def load(place: Any, kind: Any, count: int) -> Any:
                align = 1 if pixels.dtype == types.uint8 and kind == item else 4
                return builder.load(builder.bitcast(place, ir.VectorType(kind, count).as_pointer()), align=align)

            def add_product(total: Any, one: Any, other: Any) -> Any:
                product = builder.fmul(one, other, flags=_FAST)
                return product if total is None else builder.fadd(total, product, flags=_FAST)

            def sum_of_rows(pixel: int) -> list[Any]:
                """The rows of taps of one pixel, weighted: its taps, three channels each."""
                start, totals = builder.load(at(places, arguments[2], pixel)), [None] * len(_PARTS[taps])
                for i in range(taps):
                    weight = builder.load(at(table, arguments[5], _WEIGHTS + _AXIS + i * BLOCK + pixel))
                    for part, count in enumerate(_PARTS[taps]):
                        row = load(at(flat, start, 12 * part), item, count)
                        if pixels.dtype == types.uint8:
                            row = builder.uitofp(row, ir.VectorType(number, count))
                        totals[part] = add_product(totals[part], row, broadcast(builder, weight, count))
                    start = builder.add(start, arguments[3])
                return totals

            def columns(totals: Any) -> list[Any]:
                """Four pixels' taps -> one vector for each tap, which holds it for all four of them."""
                count, found = totals[0].type.count, []
                # Four lanes for each tap; of five taps, the last one's lie fourth in those of the others.
                lanes = [
                    [3 * j, 3 * j + 1, 3 * j + 2, 12 + j if taps == 5 and j < 3 else 3 * j] for j in range(count // 4)
                ]
                for j in range(0, count // 4, 2):
                    order = [pixel * count + lane for k in (j, j + 1) for pixel in (0, 1) for lane in lanes[k]]
                    low, high = (shuffle_lanes(builder, totals[k], order, totals[k + 1]) for k in (0, 2))
                    for k in (0, 8):
                        found.append(shuffle_lanes(builder, low, [*range(k, k + 8), *range(k + 16, k + 24)], high))
                if taps == 5:
                    red_green = shuffle_lanes(builder, found[0], range(32), found[1])
                    blue = shuffle_lanes(builder, found[2], range(32), found[2])
                    order = [4 * pixel + lane for pixel in range(4) for lane in (3, 19, 35, 35)]
                    found.append(shuffle_lanes(builder, red_green, order, blue))
                return found

            rows, total = [sum_of_rows(pixel) for pixel in range(4)], None
            taps_of_all = [column for part in zip(*rows, strict=True) for column in columns(part)][:taps]
            for j, column in enumerate(taps_of_all):
                weights = load(at(table, arguments[5], _WEIGHTS + j * BLOCK), number, 4)
                total = add_product(total, column, shuffle_lanes(builder, weights, four_times))
            red, green, blue, colored = (
                shuffle_lanes(
                    builder, load(builder.gep(matrix, [ir.Constant(integer, 4 * c)]), number, 4), [*range(4)] * 4
                )
                for c in range(4)
            )
            for c, column in enumerate((red, green, blue)):
                channel = shuffle_lanes(builder, total, [4 * pixel + c for pixel in four_times])
                colored = add_product(colored, channel, column)
            place = builder.bitcast(at(target, arguments[8], 0), ir.VectorType(number, 12).as_pointer())
            builder.store(shuffle_lanes(builder, colored, [k for k in range(16) if k % 4 < 3]), place, align=4)
            return context.get_dummy_value()

        whole = types.int64
        return types.void(pixels, starts, whole, whole, lines, whole, color, out, whole), generate

    return pixel_sums


@intrinsic
def _prefetch(typing_context, pixels, index):  # type: ignore[no-untyped-def]
    """Have a cache line fetched, without waiting for it."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        pointer, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, integer, integer, integer])
        fetch = builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
        place = builder.bitcast(builder.gep(data, [arguments[1]]), pointer)
        builder.call(fetch, [place, *(ir.Constant(integer, k) for k in (0, 3, 1))])  # to read, to keep, data
        return context.get_dummy_value()

    return types.void(pixels, types.int64), generate


_inlined = njit(nogil=True, _nrt=False, error_model="numpy", forceinline=True, fastmath=FASTMATH)


@njit(nogil=True, _nrt=False, error_model="numpy", forceinline=True)
def _divided(a, b):  # type: ignore[no-untyped-def]
    """A true division: with 1 / 1 approximated, places on a boundary between two pixels would leave it."""
    return a / b


@_inlined
def _look(inverse, u, v):  # type: ignore[no-untyped-def]
    """Where the middle of an output pixel looks: x, y, the third coordinate and its reciprocal."""
    w = inverse[2, 0] * (u + 0.5) + (inverse[2, 1] * (v + 0.5) + inverse[2, 2])
    reciprocal = _divided(1.0, max(w, 1e-25))
    x = (inverse[0, 0] * (u + 0.5) + (inverse[0, 1] * (v + 0.5) + inverse[0, 2])) * reciprocal
    y = (inverse[1, 0] * (u + 0.5) + (inverse[1, 1] * (v + 0.5) + inverse[1, 2])) * reciprocal
    return min(max(x, -_FARTHEST), _FARTHEST), min(max(y, -_FARTHEST), _FARTHEST), w, reciprocal


@row_loop
def _place(inverse, first, v, count, shift, cell, lines):  # type: ignore[no-untyped-def]
    """Where pixels of output row v look: place - shift = cell + fraction. Returns the largest footprint's square.

    The first place in float64, the others by their distance from it: it loses nothing there, and is half the work.
    """
    wide_vectors()
    x, y, _, r = _look(inverse, first, v)
    whole_x, whole_y = math.floor(x - shift), math.floor(y - shift)
    cell_x, cell_y, from_x, from_y = (
        np.int32(whole_x),
        np.int32(whole_y),
        F(x - shift - whole_x),
        F(y - shift - whole_y),
    )
    xu, xv = F((inverse[0, 0] - x * inverse[2, 0]) * r), F((inverse[0, 1] - x * inverse[2, 1]) * r)
    yu, yv = F((inverse[1, 0] - y * inverse[2, 0]) * r), F((inverse[1, 1] - y * inverse[2, 1]) * r)
    wu, wv = F(inverse[2, 0] * r), F(inverse[2, 1] * r)
    widest = np.int32(0)  # an integer: a loop that looks for the largest float is not vectorised
    for u in range(min(count, BLOCK)):
        reciprocal = _divided(F(1), F(1) + wu * F(u))
        dx, dy = xu * F(u) * reciprocal, yu * F(u) * reciprocal
        x_u, x_v, y_u, y_v = xu - dx * wu, xv - dx * wv, yu - dy * wu, yv - dy * wv
        square, most = reciprocal * reciprocal, F(antialias.MAX_FOOTPRINT**2)
        wide_x = min(max((x_u * x_u + x_v * x_v) * square, F(1)), most)
        wide_y = min(max((y_u * y_u + y_v * y_v) * square, F(1)), most)
        widest = max(widest, np.int32(max(wide_x, wide_y) * F(65536)))
        lines[_INVERSE + u], lines[_INVERSE + BLOCK + u] = F(1) / math.sqrt(wide_x), F(1) / math.sqrt(wide_y)
        floor_x, floor_y = math.floor(from_x + dx), math.floor(from_y + dy)
        lines[_FRACTION + u], lines[_FRACTION + BLOCK + u] = from_x + dx - F(floor_x), from_y + dy - F(floor_y)
        cell[u], cell[BLOCK + u] = cell_x + np.int32(floor_x), cell_y + np.int32(floor_y)
    return widest / 65536


@row_loop
def _fetch_rows(pixels, height, width, x0, y0, x1, y1, seen_top, seen_bottom):  # type: ignore[no-untyped-def]
    """Prefetch what an output row will read, but for the rows seen before; return which rows it reads.

    Left to the taps, each new cache line is waited for; in the order of memory, many are under way at once.
    """
    top, bottom = max(int(min(y0, y1)) - 1, 0), min(int(max(y0, y1)) + 3, height)
    left, right = max(int(min(x0, x1)) - 1, 0), min(int(max(x0, x1)) + 3, width)
    for y in range(top, bottom):
        start, end = (y * width + left) * 3, (y * width + right) * 3
        if seen_top <= y < seen_bottom:
            continue
        for k in range(start, end, 64 // pixels.itemsize):
            _prefetch(pixels, k)
    return top, bottom


@_inlined
def _radius(inverse):  # type: ignore[no-untyped-def]
    """The antialias filter's, from 1 / footprint."""
    footprint = F(1) / inverse
    growing = F(antialias.RADIUS_OFFSET) + F(antialias.RADIUS_SLOPE) * footprint
    return max(F(antialias.MIN_RADIUS), growing, F(antialias.RADIUS_PER_FOOTPRINT) * footprint)


@_inlined
def _coefficients(inverse):  # type: ignore[no-untyped-def]
    """a and b of the antialias filter, see `filter.py`, from 1 / footprint."""
    v = max(inverse, F(antialias.MIN_V))
    (a0, a1, a2), (b0, b1, b2) = antialias.A, antialias.B
    return F(a0) + v * (F(a2) * v + F(a1)), F(b0) + v * (F(b2) * v + F(b1))


@_inlined
def _weight(distance, a, b):  # type: ignore[no-untyped-def]
    """The antialias filter at a distance, in radii."""
    z = distance * distance
    q = max(F(1) - z, F(0))
    return q * q * (F(1) + z * (a + z * b))


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


def _make_sums(taps: int) -> Any:
    """(photo, block, mode, color, out, to, count) -> None: the sums of a block, to out[to:]."""
    pixel_sums, reach, size = _make_pixel_sums(taps), _REACH[taps], 3 * taps * taps + 16
    before = 1 if taps == 5 else taps // 2 - 1  # so many taps are before the cell; of five, one more for some

    @row_loop
    @named(taps)
    def weigh(axis, mode, count, cell, lines):  # type: ignore[no-untyped-def]
        """Fill the lines of weights along an axis, normalised."""
        wide_vectors()
        axis = axis & 1  # for the compiler: no index is negative
        for u in range(min(count, BLOCK)):
            fraction, to = lines[_FRACTION + axis * BLOCK + u], _WEIGHTS + axis * _AXIS + u
            if taps == 2:
                lines[to + BLOCK] = fraction if mode == 1 else F(0)
                lines[to] = F(1) - lines[to + BLOCK]
                continue
            inverse = lines[_INVERSE + axis * BLOCK + u]
            if taps == 5:  # one of six taps is out of reach: the last one, or the first
                moved = fraction < F(0.5)
                cell[axis * BLOCK + u] -= np.int32(moved)
                fraction += F(moved)
            a, b = _coefficients(inverse)
            if taps == 4:  # all radii are 2; most blocks are such, and as a loop over k this takes twice as long
                p = F(0.5) * fraction
                w0, w1 = _weight(F(0.5) + p, a, b), _weight(p, a, b)
                w2, w3 = _weight(F(0.5) - p, a, b), _weight(F(1) - p, a, b)
                scale = F(1) / (w0 + w1 + w2 + w3)
                lines[to], lines[to + BLOCK] = w0 * scale, w1 * scale
                lines[to + 2 * BLOCK], lines[to + 3 * BLOCK] = w2 * scale, w3 * scale
                continue
            per_radius, total = F(1) / _radius(inverse), F(0)
            for k in range(taps):
                total += _weight((fraction + F(before - k)) * per_radius, a, b)
            scale = F(1) / total
            for k in range(taps):
                lines[to + k * BLOCK] = _weight((fraction + F(before - k)) * per_radius, a, b) * scale

    @row_loop
    @named(taps)
    def locate(photo, cell, starts, count):  # type: ignore[no-untyped-def]
        """The index of each pixel's first tap; -1 where not all taps may be read in place."""
        wide_vectors()
        pixels, _, width, _ = photo
        stride = 3 * width
        last = pixels.shape[0] - (taps - 1) * stride - reach
        for u in range(BLOCK):
            left = cell[u] - np.int64(before)
            start = (cell[BLOCK + u] - np.int64(before)) * stride + left * 3
            inside = (left >= 0) & (left <= width - taps) & (start >= 0) & (start <= last) & (u < count)
            starts[u] = start if inside else np.int64(-1)

    @row_loop
    @named(taps)
    def padded_sums(photo, block, color, out, to, u, count):  # type: ignore[no-untyped-def]
        """As pixel_sums, for up to four pixels, also beyond the edges: their taps are copied to where they are not."""
        (pixels, height, width, padding), (cell, starts, lines, patch, columns, result) = photo, block
        for p in range(min(count, 4)):
            left, top = np.int64(cell[u + p]) - before, np.int64(cell[BLOCK + u + p]) - before
            for j in range(taps):
                columns[j] = _padded(left + j, width, padding)
            for i in range(taps):
                y = _padded(top + i, height, padding)
                for j in range(taps):
                    source, at = (y * width + columns[j]) * 3, p * size + (i * taps + j) * 3
                    for c in range(3):
                        patch[at + c] = pixels[source + c] if columns[j] >= 0 and y >= 0 else patch.dtype.type(0)
        for p in range(4):
            starts[BLOCK + p] = p * size
        pixel_sums(patch, starts, BLOCK, 3 * taps, lines, u, color, result, 0)
        for k in range(3 * min(count, 4)):
            out[to + k] = result[k]

    @row_loop
    @named(taps)
    def sums(photo, block, mode, color, out, to, count):  # type: ignore[no-untyped-def]
        (pixels, _, width, _), (cell, starts, lines, _, _, _) = photo, block
        for axis in range(2):
            weigh(axis, mode, count, cell, lines)
        locate(photo, cell, starts, count)
        for four in range((min(count, BLOCK) + 3) // 4):
            u = 4 * four
            if starts[u] | starts[u + 1] | starts[u + 2] | starts[u + 3] >= 0:
                pixel_sums(pixels, starts, u, 3 * width, lines, u, color, out, to + 3 * u)
            else:
                padded_sums(photo, block, color, out, to + 3 * u, u, count - u)

    return sums


_sums_2, _sums_4, _sums_5, _sums_6, _sums_8 = (_make_sums(taps) for taps in (2, 4, 5, 6, 8))


@row_loop
def _wide_sums(photo, block, color, out, to, count):  # type: ignore[no-untyped-def]
    """As the others with the antialias filter, for any number of taps: plain loops."""
    (pixels, height, width, padding), (cell, _, lines, _, _, _) = photo, block
    for u in range(count):
        inverse_x, inverse_y = lines[_INVERSE + u], lines[_INVERSE + BLOCK + u]
        radius_x, radius_y = _radius(inverse_x), _radius(inverse_y)
        (a_x, b_x), (a_y, b_y) = _coefficients(inverse_x), _coefficients(inverse_y)
        reach_x, reach_y = math.ceil(radius_x), math.ceil(radius_y)
        red = green = blue = total = F(0)
        for i in range(1 - reach_y, 1 + reach_y):
            y = _padded(cell[BLOCK + u] + i, height, padding)
            weight_y = _weight((F(i) - lines[_FRACTION + BLOCK + u]) / radius_y, a_y, b_y)
            for j in range(1 - reach_x, 1 + reach_x):
                x = _padded(cell[u] + j, width, padding)
                weight = weight_y * _weight((F(j) - lines[_FRACTION + u]) / radius_x, a_x, b_x)
                total += weight
                if x >= 0 and y >= 0:
                    source = (y * width + x) * 3
                    red += weight * F(pixels[source])
                    green += weight * F(pixels[source + 1])
                    blue += weight * F(pixels[source + 2])
        red, green, blue = red / total, green / total, blue / total
        for c in range(3):
            out[to + 3 * u + c] = color[c] * red + color[4 + c] * green + color[8 + c] * blue + color[12 + c]


# A kernel knows some of the sums: to compile all of them takes most of the time before an installation's first batch,
# and the validation's images, or a bilinear warp, do not need them.


@_inlined
def _block_2(photo, block, mode, color, out, to, count, widest):  # type: ignore[no-untyped-def]
    """Nearest and bilinear."""
    _sums_2(photo, block, mode, color, out, to, count)


@_inlined
def _block_5(photo, block, mode, color, out, to, count, widest):  # type: ignore[no-untyped-def]
    """The antialias filter, for images that are seen with up to 5 taps; with more, if there are, slowly."""
    if widest <= _WIDEST_4:
        _sums_4(photo, block, mode, color, out, to, count)
    elif widest <= _WIDEST_5:
        _sums_5(photo, block, mode, color, out, to, count)
    else:
        _wide_sums(photo, block, color, out, to, count)


@_inlined
def _block_8(photo, block, mode, color, out, to, count, widest):  # type: ignore[no-untyped-def]
    """The antialias filter, for all images."""
    if widest <= _WIDEST_4:
        _sums_4(photo, block, mode, color, out, to, count)
    elif widest <= _WIDEST_5:
        _sums_5(photo, block, mode, color, out, to, count)
    elif widest <= _WIDEST_6:
        _sums_6(photo, block, mode, color, out, to, count)
    elif widest <= _WIDEST_8:
        _sums_8(photo, block, mode, color, out, to, count)
    else:
        _wide_sums(photo, block, color, out, to, count)


def _make_rows(block_sums: Any) -> Any:
    """Some output rows of one image.

    Args:
        pixels: uint8 or float32 [H * W * 3].
        inverse: float64 [3, 3], finite, output pixels -> input pixels, third coordinate positive where visible.
        mode, padding: codes, see `_MODES` and `_PADDINGS`.
        color: float32 [16], the four columns of the color matrix, from pixel values as they are stored, 4 numbers each.
        out: float32 [rows * columns * 3]; first_row: the output's row that it begins with.
        block: see `_new_block`.
    """

    @row_loop
    @named(block_sums.__name__)
    def rows(pixels, height, width, inverse, mode, padding, color, out, columns, first_row, block):  # type: ignore[no-untyped-def]
        cell, _, lines, _, _, _ = block
        photo, shift = (pixels, height, width, padding), 0.0 if mode == 0 else 0.5
        top = bottom = zero = np.int64(0)  # by its type: a literal would have functions compiled a second time
        for row in range(out.shape[0] // (3 * columns)):
            v = first_row + row
            (x0, y0, w0, _), (x1, y1, w1, _) = _look(inverse, zero, v), _look(inverse, columns - 1, v)
            near = min(w0, w1) > 0 and max(abs(x0), abs(y0), abs(x1), abs(y1)) < _NEAR
            if near:
                top, bottom = _fetch_rows(pixels, height, width, x0, y0, x1, y1, top, bottom)
            step = BLOCK if near else 1
            for first in range(0, columns, step):
                count, to = min(step, columns - first), 3 * (row * columns + first)
                if not near and _look(inverse, first, v)[2] <= 0:
                    out[to], out[to + 1], out[to + 2] = color[12], color[13], color[14]
                    continue
                widest = _place(inverse, first, v, count, shift, cell, lines)
                block_sums(photo, block, mode, color, out, to, count, widest)

    return rows


_rows_2, _rows_5, _rows_8 = (_make_rows(block_sums) for block_sums in (_block_2, _block_5, _block_8))
# Written out, since Numba does not keep functions that are made by others.
_kernel = kept_njit()


@_kernel
def _warp_rows_2(pixels, height, width, inverse, mode, padding, color, out, columns, first_row, block):  # type: ignore[no-untyped-def]
    _rows_2(pixels, height, width, inverse, mode, padding, color, out, columns, first_row, block)


@_kernel
def _warp_rows_5(pixels, height, width, inverse, mode, padding, color, out, columns, first_row, block):  # type: ignore[no-untyped-def]
    _rows_5(pixels, height, width, inverse, mode, padding, color, out, columns, first_row, block)


@_kernel
def _warp_rows_8(pixels, height, width, inverse, mode, padding, color, out, columns, first_row, block):  # type: ignore[no-untyped-def]
    _rows_8(pixels, height, width, inverse, mode, padding, color, out, columns, first_row, block)


def _new_block(dtype: np.dtype) -> tuple[np.ndarray, ...]:
    """What is known of a block of pixels, for one thread: cell, starts, lines, patch, columns and result."""
    cell, starts, lines = np.zeros(2 * BLOCK + 3, np.int32), np.zeros(BLOCK + 4, np.int64), np.zeros(_LINES, F)
    return cell, starts, lines, np.zeros(4 * (3 * 8 * 8 + 16), dtype), np.zeros(8, np.int64), np.zeros(12, F)


def _kernels(inverses: np.ndarray, width: int, height: int, mode: int) -> list[Any]:
    """For each image the kernel with the fewest sums that does it fast. Each kernel of a mode is right for all images.

    inverses: [B, 3, 3], output pixels -> input pixels; width, height: of the output.
    """
    if mode < 2:
        return [_warp_rows_2] * len(inverses)
    u, v = np.array([0, width, 0, width]), np.array([0, 0, height, height])  # the corners: footprints are largest there
    (a, b, c), (d, e, f), (g, h, i) = inverses.transpose(1, 2, 0)[..., None]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        w = np.square(np.maximum(g * u + h * v + i, 0))
        slopes_x = (a * (h * v + i) - g * (b * v + c)) / w, (b * (g * u + i) - h * (a * u + c)) / w
        slopes_y = (d * (h * v + i) - g * (e * v + f)) / w, (e * (g * u + i) - h * (d * u + f)) / w
        widest = np.maximum(*(np.square(one) + np.square(other) for one, other in (slopes_x, slopes_y))).max(1)
    return [_warp_rows_5 if one <= _WIDEST_5 else _warp_rows_8 for one in widest]


def warp(images: Images, matrix: Tensor, size: tuple[int, int], *how: *How) -> Tensor:
    """See `fastaug.warping.warp`, which checks the arguments. Other float images are converted to float32 first."""
    out, work = _prepared(images, matrix, size, *how)
    run([piece for of_image in work for piece in of_image], warp_threads())
    return torch.from_numpy(out).to(how[3]).permute(0, 3, 1, 2)


def warp_together(calls: Sequence[tuple[Images, Tensor, tuple[int, int], How]]) -> list[Tensor]:
    """Several warps of as many images each: image by image, so that what they read of one is in a near cache."""
    prepared = [_prepared(images, matrix, size, *how) for images, matrix, size, how in calls]
    by_image = zip(*(work for _, work in prepared), strict=True)
    run([piece for of_image in by_image for work in of_image for piece in work], warp_threads())
    dtypes = [how[3] for *_, how in calls]
    outs = zip(prepared, dtypes, strict=True)
    return [torch.from_numpy(out).to(dtype).permute(0, 3, 1, 2) for (out, _), dtype in outs]


def _prepared(
    images: Images, matrix: Tensor, size: tuple[int, int], *how: *How
) -> tuple[np.ndarray, list[list[tuple[Any, ...]]]]:
    """The output, float32 [B, H, W, 3], filled only where nothing is seen, and the work that fills it, by image."""
    (height, width), (interpolation, padding, color, _) = size, how
    out = _new_output((len(images), height, width, 3))
    mode, pad = _MODES[interpolation], _PADDINGS[padding]
    colors = (torch.eye(3, 4).expand(len(images), 3, 4) if color is None else color).detach().float()
    as_bytes = len(images) > 0 and images[0].dtype == torch.uint8
    scaled = np.zeros((len(images), 4, 4), np.float32)  # from pixel values as they are stored; transposed
    scaled[:, :, :3] = colors.mT.numpy()
    scaled[:, :3] /= 255 if as_bytes else 1
    threads = warp_threads()
    bands = max(1, min(height, -(-2 * threads // max(1, len(images)))))  # at least two pieces of work for a thread
    rows = -(-height // bands)
    work: list[list[tuple[Any, ...]]] = []
    inverses = sampling_matrix(matrix.detach()).numpy()
    finite = np.isfinite(inverses).all((1, 2)).tolist()
    kernels = _kernels(inverses, width, height, mode)
    flat = out.reshape(len(images), height, -1)
    for i, image in enumerate(images):
        work.append([])
        if not finite[i]:
            out[i] = scaled[i, 3, :3]  # sees nothing: black before the colour matrix
            continue
        # flat; a copy only where it is another type or strided
        pixels = (image if as_bytes else image.detach().float()).contiguous().numpy().reshape(-1)
        arguments = pixels, image.shape[0], image.shape[1], inverses[i], mode, pad, scaled[i].reshape(-1)
        for first in range(0, height, rows):
            work[-1].append((kernels[i], *arguments, flat[i, first : first + rows].reshape(-1), width, first))
    return out, work


def _new_output(shape: tuple[int, ...]) -> np.ndarray:
    """float32, not filled; memory of an earlier result that nobody has any more."""
    return _memory(os.getpid()).take((*shape[:-1], 4 * shape[-1])).view(np.float32)


def warp_threads() -> int:
    """Torch's, as far as more are of use."""
    return min(torch.get_num_threads(), _MOST_THREADS)


def run(work: list[tuple[Any, ...]], threads: int) -> None:
    left = iter(work)  # each thread takes the next piece when it has done one: a task for each piece costs more

    def take() -> None:
        block = None
        for kernel, pixels, *arguments in left:
            block = block or _new_block(pixels.dtype)
            kernel(pixels, *arguments, block)

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
