"""Resize on CPU cores: a box of an image to any size, antialiased where it shrinks; Lanczos, or bilinear.

The same pictures as DALI's `resize` with INTERP_LANCZOS3 and a region of interest, which a GPU uses, within one level
of 255; several times faster than that one is on a CPU (benchmarks/README.md).

Along an axis, output pixel u of n looks at the place c = start + (u + 1/2) · extent / n of the image, and sums the
pixels k with the weights L((k + 1/2 - c) / max(1, extent / n)), L(x) = sinc(x) · sinc(x / 3) for |x| < 3, normalised;
bilinear: L(x) = 1 - |x| for |x| < 1.
Beyond the image its edge goes on; outside the box, but inside the image, its pixels are read. Nothing is rounded or
clipped between the two axes.

One output row after the other: the rows it needs are summed to one line of floats, which stays in the nearest cache,
then each pixel is summed from that line. Enlarging 375 rows of 500 pixels to 460 x 460 takes 6 taps along each axis:
460 · 6 · 1,125 and 460 · 460 · 6 · 3 multiply-adds, 7 million, or 0.1 to 0.3 ms of a core that does 8 or 16 a cycle at
3 GHz. The first half comes near that; the second has 3 numbers to multiply at a time where 8 would fit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastaug.loading.options import FilterName
from fastaug.warping.compiled import F, broadcast, kept_njit, row_loop

LOBES: dict[FilterName, int] = {"lanczos": 3, "bilinear": 1}  # of a filter, to each side
_GROUP = 6  # taps that are summed at a time along a row; a filter that enlarges has so many


def resize(
    image: np.ndarray, box: tuple[float, float, float, float], out: np.ndarray, kind: FilterName = "lanczos"
) -> None:
    """Resize a box of an image.

    Args:
        image: uint8 [H, W, 3], C-contiguous.
        box: x, y, width, height in pixels, corner-origin; the box lies inside the image.
        out: uint8 [h, w, 3], C-contiguous; overwritten.
        kind: of filter.
    Raises:
        ValueError: memory that is not as stated.
    Source: DALI 2.4, `nvidia.dali.fn.resize`, CPU backend (looked at from outside); Duchon 1979 for the filter.
    """
    for name, array in (("image", image), ("out", out)):
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.flags.c_contiguous:
            raise ValueError(
                f"resize: expected {name} as C-contiguous uint8 [height, width, 3], got {array.dtype} "
                f"{list(array.shape)} with strides {array.strides}. Use np.ascontiguousarray."
            )
    height, width, _ = image.shape
    rows, columns, _ = out.shape
    x, y, extent_x, extent_y = map(float, box)
    if (extent_x, extent_y) == (columns, rows) and x.is_integer() and y.is_integer():  # the filter is 1 there, 0 beside
        left, top = int(x), int(y)
        out[:] = image[top : top + rows, left : left + columns]
        return
    lobes = LOBES[kind]
    ideal_x, ideal_y = _ideal(extent_x, columns, lobes), _ideal(extent_y, rows, lobes)
    taps_x, taps_y = min(len(ideal_x), width), min(len(ideal_y), height)
    groups = -(-taps_x // _GROUP)
    first_x, weights_x = np.empty(columns, np.int64), np.empty((columns, groups * _GROUP), F)
    first_y, weights_y = np.empty(rows, np.int64), np.empty((rows, taps_y), F)
    _weigh(x, extent_x, width, lobes, first_x, weights_x, ideal_x)
    _weigh(y, extent_y, height, lobes, first_y, weights_y, ideal_y)
    left, right = int(first_x[0]), int(first_x[-1]) + taps_x
    span = 3 * (right - left)
    line = np.zeros(span + 3 * _GROUP + 1, F)  # groups may reach over its end, with weights of 0
    _resize(
        image.reshape(-1)[3 * left :], 3 * width, 3 * (first_x - left), weights_x.reshape(-1), groups,
        first_y, weights_y, span, line, np.empty(3 * columns + 1, F), out.reshape(-1),
    )  # fmt: skip


def _make_group_sum(add: bool) -> Any:
    """(line, start, weights, first, out, to) -> None: set out[to : to + 4] to the sum of _GROUP taps, or add it.

    The last of the four is rubbish, to be overwritten by the next pixel: hence columns are set in their order. A tap is
    one load of 4 floats, of which 3 are a pixel: a plain loop would load and multiply one at a time.
    """
    integer, four = ir.IntType(64), ir.VectorType(ir.FloatType(), 4)

    @intrinsic
    def group_sum(typing_context, line, start, weights, first, out, to):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            source, table, target = (
                context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2, 4)
            )
            place = builder.bitcast(builder.gep(target, [arguments[5]]), four.as_pointer())
            total = builder.load(place, align=4) if add else None
            for k in range(_GROUP):
                tap = builder.gep(source, [builder.add(arguments[1], ir.Constant(integer, 3 * k))])
                pixel = builder.load(builder.bitcast(tap, four.as_pointer()), align=4)
                weight = builder.load(builder.gep(table, [builder.add(arguments[3], ir.Constant(integer, k))]))
                part = builder.fmul(pixel, broadcast(builder, weight, 4), flags=("fast",))
                total = part if total is None else builder.fadd(total, part, flags=("fast",))
            builder.store(total, place, align=4)
            return context.get_dummy_value()

        return types.void(line, types.int64, weights, types.int64, out, types.int64), generate

    return group_sum


_set_group, _add_group = _make_group_sum(add=False), _make_group_sum(add=True)


def _ideal(extent: float, count: int, lobes: int) -> np.ndarray:
    """Room for the weights of the pixels that an output pixel sums along an axis, those beyond the image included."""
    return np.empty(math.ceil(2 * lobes * max(extent / count, 1.0)))


# Memory comes from Python: to compile what allocates it takes as long as one of the loops does.
_kernel = kept_njit(error_model="numpy")


@_kernel
def _weigh(start, extent, limit, lobes, first, weights, ideal):  # type: ignore[no-untyped-def]
    """The filter of each output pixel along an axis.

    Args:
        lobes: of the filter: 1 is bilinear.
        first: int64 [n], filled with the first pixel that each sums.
        weights: float32 [n, taps or more], filled; 0 beyond the taps.
        ideal: float64 [taps], overwritten.
    """
    count, columns = weights.shape
    scale = extent / count
    wide = max(scale, 1.0)
    reach = lobes * wide
    taps = ideal.shape[0]
    kept = min(taps, limit)
    for u in range(count):
        center = start + (u + 0.5) * scale
        leftmost = math.floor(center - reach + 0.5)
        total = 0.0
        for k in range(taps):
            x = math.pi * (leftmost + k + 0.5 - center) / wide
            if lobes == 1:
                ideal[k] = max(1.0 - abs(x) / math.pi, 0.0)
            elif abs(x) < 1e-6:
                ideal[k] = 1.0
            elif abs(x) < math.pi * lobes:
                ideal[k] = lobes * math.sin(x) * math.sin(x / lobes) / (x * x)
            else:
                ideal[k] = 0.0
            total += ideal[k]
        first[u] = max(min(leftmost, limit - kept), 0)
        for k in range(columns):
            weights[u, k] = 0
        for k in range(taps):  # what lies beyond the image is its edge
            pixel = max(min(leftmost + k, limit - 1), 0)
            weights[u, pixel - first[u]] += F(ideal[k] / total)


@row_loop
def _fill_zero(line):  # type: ignore[no-untyped-def]
    for i in range(line.shape[0]):
        line[i] = 0


@row_loop
def _add_1(a, weight, line):  # type: ignore[no-untyped-def]
    for i in range(line.shape[0]):
        line[i] += weight * F(a[i])


@row_loop
def _add_3(a, b, c, weights, line):  # type: ignore[no-untyped-def]
    wa, wb, wc = weights[0], weights[1], weights[2]
    for i in range(line.shape[0]):
        line[i] += wa * F(a[i]) + wb * F(b[i]) + wc * F(c[i])


@row_loop
def _set_6(a, b, c, d, e, f, weights, line):  # type: ignore[no-untyped-def]
    wa, wb, wc, wd, we, wf = weights[0], weights[1], weights[2], weights[3], weights[4], weights[5]
    for i in range(line.shape[0]):
        line[i] = (
            wa * F(a[i]) + wb * F(b[i]) + wc * F(c[i]) + wd * F(d[i]) + we * F(e[i]) + wf * F(f[i])
        )  # fmt: skip


@row_loop
def _round(values, out):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        out[i] = np.uint8(np.int32(min(max(values[i] + F(0.5), F(0)), F(255))))


@row_loop
def _sum_columns(line, first, weights, groups, out):  # type: ignore[no-untyped-def]
    """out[3u : 3u + 3] = the sum of the taps of column u."""
    for u in range(first.shape[0]):
        at = u * groups * _GROUP
        _set_group(line, first[u], weights, at, out, 3 * u)
        for group in range(1, groups):
            k = group * _GROUP
            _add_group(line, first[u] + 3 * k, weights, at + k, out, 3 * u)


@row_loop
def _sum_rows(pixels, start, stride, weights, line):  # type: ignore[no-untyped-def]
    """line = the sum of the rows of pixels from start on, one for each weight."""
    n, taps = line.shape[0], weights.shape[0]
    k = 0
    if taps >= 6:
        rows = (
            pixels[start : start + n], pixels[start + stride : start + stride + n],
            pixels[start + 2 * stride : start + 2 * stride + n], pixels[start + 3 * stride : start + 3 * stride + n],
            pixels[start + 4 * stride : start + 4 * stride + n], pixels[start + 5 * stride : start + 5 * stride + n],
        )  # fmt: skip
        _set_6(rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], weights, line)
        k = 6
    else:
        _fill_zero(line)
    while k + 3 <= taps:
        a = start + k * stride
        b, c = a + stride, a + 2 * stride
        _add_3(pixels[a : a + n], pixels[b : b + n], pixels[c : c + n], weights[k : k + 3], line)
        k += 3
    while k < taps:
        a = start + k * stride
        _add_1(pixels[a : a + n], weights[k], line)
        k += 1


@_kernel
def _resize(  # type: ignore[no-untyped-def]
    pixels, stride, first_x, weights_x, groups, first_y, weights_y, span, line, sums, out
):
    """The rows of the output.

    Args:
        pixels: uint8, flat, from the first column on that is read; stride: from one of its rows to the next.
        first_x: int64 [columns], the first item of a row that each column sums; weights_x: float32, flat, for each
            column groups · _GROUP. first_y: int64 [rows]; weights_y: float32 [rows, taps].
        span: items of a row that are read. line: float32, 0 beyond the span. sums: float32 [3 · columns + 1].
        out: uint8, flat.
    """
    count = 3 * first_x.shape[0]
    for v in range(first_y.shape[0]):
        _sum_rows(pixels, first_y[v] * stride, stride, weights_y[v], line[:span])
        _sum_columns(line, first_x, weights_x, groups, sums)
        _round(sums[:count], out[count * v : count * (v + 1)])
