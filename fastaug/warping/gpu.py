"""The warp on an NVIDIA GPU: a batch of any images in one Triton kernel launch and at most one small copy.

The formula is that of `fastaug.warping.reference`, in float32. So that this is enough for a photo of any size, every
program works relative to one of its own output pixels, whose place on the input it computes in float64:

    x(u, v) - x(u0, v0) = ((xu - x0 wu) (u - u0) + (xv - x0 wv) (v - v0)) / w(u, v)

where (xu, xv, ·), (yu, yv, ·), (wu, wv, ·) are the rows of the inverse matrix, w its third coordinate, x0 = x(u0, v0).

Per uint8 image 460 -> 224 in half precision: 634,800 bytes in, 301,056 out. At 4.3 TB/s, the copy bandwidth of an H200,
the floor is 0.22 µs an image, 4.6 million images/s. Instructions per output pixel, counted in the machine code for
sm_90: 207 for "bilinear", about 660 for "antialias" with 4 x 4 pixels; a Hopper GPU that issued one every cycle would
do 2.8 and 0.9 million images/s. So it is issue slots that both run out of first, not memory.

Not measured yet: any of this on a GPU (benchmarks/warp_gpu.py); other tiles; three separate stores per pixel, in place
of one that is interleaved through shared memory; whole words in place of single bytes where no pixel is mirrored (6 and
16 loads per output pixel, in place of 12 and 48).
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"
# (Triton's decorator is untyped, and what a kernel's arguments are is up to its compiler)

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastaug.warping import filter as antialias
from fastaug.warping.warp import How, Images

MAX_FOOTPRINT, MIN_RADIUS = tl.constexpr(antialias.MAX_FOOTPRINT), tl.constexpr(antialias.MIN_RADIUS)
RADIUS_OFFSET, RADIUS_SLOPE = tl.constexpr(antialias.RADIUS_OFFSET), tl.constexpr(antialias.RADIUS_SLOPE)
RADIUS_PER_FOOTPRINT, MIN_V = tl.constexpr(antialias.RADIUS_PER_FOOTPRINT), tl.constexpr(antialias.MIN_V)
A0, A1, A2 = (tl.constexpr(number) for number in antialias.A)
B0, B1, B2 = (tl.constexpr(number) for number in antialias.B)
FAR = tl.constexpr(2.0**22)  # input pixels; up to twice this, float32 counts half pixels exactly

_ONE_VARIANT: dict[str, Any] = {  # whatever the sizes and alignments, a kernel is compiled once
    "do_not_specialize": ["table_stride", "matrix_stride", "color_stride", "out_height", "out_width", "strips"],
    "do_not_specialize_on_alignment": ["out_ptr", "pixel_ptr", "table_ptr", "matrix_ptr", "color_ptr"],
}


class _How(NamedTuple):  # constants while a kernel is compiled
    interpolation: str
    padding: str


@triton.jit(**_ONE_VARIANT)
def _warp_kernel(
    out_ptr,  # [B, out_height, out_width, 3], contiguous
    pixel_ptr,  # only its type counts: the pixels are at the addresses in the table
    table_ptr,  # int64 [B, 3]: address, height, width
    matrix_ptr,  # [B, 9], input pixels -> output pixels
    color_ptr,  # [B, 12]
    table_stride,
    matrix_stride,
    color_stride,
    out_height,
    out_width,
    strips,  # programs per image
    INTERPOLATION: tl.constexpr,
    PADDING: tl.constexpr,
    HAS_COLOR: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    STEPS: tl.constexpr,
):
    """One program computes a strip: STEPS tiles of TILE_H x TILE_W output pixels, from left to right."""
    PIXELS: tl.constexpr = TILE_H * TILE_W
    SPAN: tl.constexpr = TILE_W * STEPS
    image = (tl.program_id(0) // strips).to(tl.int64)
    strip = tl.program_id(0) % strips
    strips_across = (out_width + SPAN - 1) // SPAN
    top = strip // strips_across * TILE_H
    left = strip % strips_across * SPAN

    table_ptr += image * table_stride
    base = tl.load(table_ptr).to(pixel_ptr.dtype)
    height = tl.load(table_ptr + 1)
    width = tl.load(table_ptr + 2)

    # The inverse, up to a factor, since only quotients of its rows are used; w > 0 is the visible side of the horizon.
    matrix_ptr += image * matrix_stride
    a0, a1, a2 = _load(matrix_ptr, 3, tl.float64)
    b0, b1, b2 = _load(matrix_ptr + 3, 3, tl.float64)
    c0, c1, c2 = _load(matrix_ptr + 6, 3, tl.float64)
    xu, xv, x1 = b1 * c2 - b2 * c1, c1 * a2 - c2 * a1, a1 * b2 - a2 * b1
    yu, yv, y1 = b2 * c0 - b0 * c2, c2 * a0 - c0 * a2, a2 * b0 - a0 * b2
    wu, wv, w1 = b0 * c1 - b1 * c0, c0 * a1 - c1 * a0, a0 * b1 - a1 * b0
    determinant = a0 * xu + a1 * yu + a2 * wu
    usable = (determinant != 0) & (tl.abs(determinant) < float("inf"))
    largest = tl.abs(wu) * out_width + tl.abs(wv) * out_height + tl.abs(w1)
    factor = tl.where(determinant > 0, 1 / largest, -1 / largest)
    factor = tl.where(usable, factor, 0.0)  # w = 0 everywhere: nothing is visible
    xu, xv, x1 = xu * factor, xv * factor, x1 * factor
    yu, yv, y1 = yu * factor, yv * factor, y1 * factor
    wu, wv, w1 = wu * factor, wv * factor, w1 * factor

    # float32 is enough from here on: everything is relative to the strip's corner that is farthest from the horizon.
    corner_u = left + tl.where(wu > 0, SPAN - 1, 0)
    corner_v = top + tl.where(wv > 0, TILE_H - 1, 0)
    x1 += xu * (corner_u + 0.5) + xv * (corner_v + 0.5)
    y1 += yu * (corner_u + 0.5) + yv * (corner_v + 0.5)
    w1 += wu * (corner_u + 0.5) + wv * (corner_v + 0.5)
    xu, xv, x1, cell_x, start_x = _relative(xu, xv, x1, wu, wv, w1, width, PADDING)
    yu, yv, y1, cell_y, start_y = _relative(yu, yv, y1, wu, wv, w1, height, PADDING)
    wu, wv, w1 = wu.to(tl.float32), wv.to(tl.float32), w1.to(tl.float32)
    photo = base, (3 * width).to(tl.int32)
    period_x, period_y = (2 * width).to(tl.float32), (2 * height).to(tl.float32)
    axis_x = start_x, cell_x, period_x, 1 / period_x
    axis_y = start_y, cell_y, period_y, 1 / period_y
    how: tl.constexpr = _How(INTERPOLATION, PADDING)

    pixel = tl.arange(0, PIXELS)
    row = top + pixel // TILE_W
    v = (row - corner_v).to(tl.float32)
    out_ptr += image * out_height * out_width * 3
    if HAS_COLOR:
        color_ptr += image * color_stride
        to_red = _load(color_ptr, 4, tl.float32)
        to_green = _load(color_ptr + 4, 4, tl.float32)
        to_blue = _load(color_ptr + 8, 4, tl.float32)
    for step in range(tl.minimum(STEPS, (out_width - left + TILE_W - 1) // TILE_W)):
        column = left + step * TILE_W + pixel % TILE_W
        u = (column - corner_u).to(tl.float32)
        w = w1 + wu * u + wv * v
        inside = (row < out_height) & (column < out_width)
        visible = (w > 0) & inside
        inverse_w = 1 / w
        x = (x1 + xu * u + xv * v) * inverse_w
        y = (y1 + yu * u + yv * v) * inverse_w
        radius_x, along_x = _window(x, (xu - x * wu) * inverse_w, (xv - x * wv) * inverse_w, visible, axis_x, how)
        radius_y, along_y = _window(y, (yu - y * wu) * inverse_w, (yv - y * wv) * inverse_w, visible, axis_y, how)
        if INTERPOLATION == "nearest":
            red, green, blue = _weighted_mean(photo, along_x, along_y, 1, 1, how, True)
        elif INTERPOLATION == "bilinear":
            red, green, blue = _weighted_mean(photo, along_x, along_y, 2, 2, how, True)
        else:
            widest_x, widest_y = tl.reduce((radius_x, radius_y), 0, _larger)
            if (widest_x <= 2) & (widest_y <= 2):
                red, green, blue = _weighted_mean(photo, along_x, along_y, 4, 4, how, True)
            else:
                count_x = tl.ceil(2 * widest_x).to(tl.int32)
                count_y = tl.ceil(2 * widest_y).to(tl.int32)
                red, green, blue = _weighted_mean(photo, along_x, along_y, count_x, count_y, how, False)
        red, green, blue = tl.where(visible, red, 0.0), tl.where(visible, green, 0.0), tl.where(visible, blue, 0.0)
        if HAS_COLOR:
            red, green, blue = (
                to_red[0] * red + to_red[1] * green + to_red[2] * blue + to_red[3],
                to_green[0] * red + to_green[1] * green + to_green[2] * blue + to_green[3],
                to_blue[0] * red + to_blue[1] * green + to_blue[2] * blue + to_blue[3],
            )
        # Interleaved before the store, so that neighbouring threads write neighbouring values.
        values = tl.reshape(tl.join(tl.join(red, blue), tl.join(green, green)), (PIXELS, 4))
        channel = tl.arange(0, 4)[None, :]
        out_pointers = out_ptr + ((row * out_width + column) * 3)[:, None] + channel
        tl.store(out_pointers, values.to(out_ptr.dtype.element_ty), inside[:, None] & (channel < 3))


@triton.jit
def _load(pointer, COUNT: tl.constexpr, dtype: tl.constexpr):
    """COUNT scalars that follow each other."""
    values = ()
    for i in tl.static_range(COUNT):
        values += (tl.load(pointer + i).to(dtype),)
    return values


@triton.jit
def _relative(nu, nv, n1, wu, wv, w1, size, PADDING: tl.constexpr):
    """How far the place (n1 + nu u + nv v) / (w1 + wu u + wv v) is from that at u = v = 0, a quotient with the same w.

    Returns:
        nu, nv, n1 of that quotient; the whole and the fractional part of the place at u = v = 0. All float32.
    """
    LIMIT: tl.constexpr = 2.0**40 if PADDING == "reflection" else FAR
    place = tl.minimum(tl.maximum(tl.where(w1 > 0, n1 / w1, 0.0), -LIMIT), LIMIT)
    nu, nv, n1 = nu - place * wu, nv - place * wv, n1 - place * w1
    if PADDING == "reflection":
        place -= tl.floor(place / (2 * size)) * (2 * size)  # whole periods: the pixel number must be exact in float32
    cell = tl.floor(place)
    return nu.to(tl.float32), nv.to(tl.float32), n1.to(tl.float32), cell.to(tl.float32), (place - cell).to(tl.float32)


@triton.jit
def _window(place, along_u, along_v, visible, axis, how):
    """What an output pixel sees along one axis: the radius in input pixels, and what `_tap` needs.

    place: relative to the start of the axis; along_u, along_v: how it changes from one output pixel to the next.
    """
    start, cell, period, inverse_period = axis
    if how.interpolation == "antialias":  # see `filter.py`
        footprint = tl.sqrt(along_u * along_u + along_v * along_v)
        footprint = tl.where(visible, tl.minimum(tl.maximum(footprint, 1.0), MAX_FOOTPRINT), 1.0)
        v = tl.maximum(1 / footprint, MIN_V)
        radius = tl.maximum(footprint * RADIUS_SLOPE + RADIUS_OFFSET, footprint * RADIUS_PER_FOOTPRINT)
        radius, a, b = tl.maximum(radius, MIN_RADIUS), v * (v * A2 + A1) + A0, v * (v * B2 + B1) + B0
    else:
        radius, a, b = 1.0, 0.0, 0.0
    place = tl.minimum(tl.maximum(place + start, -FAR), FAR)  # finite from here on, so that every index is one
    before = tl.floor(place) - 1 if how.interpolation == "nearest" else tl.floor(place - (radius + 0.5))
    distance = before - place + 1.5
    first = before + (cell + 1)
    if how.padding == "reflection":
        first -= tl.floor((first + 0.5) * inverse_period) * period
    return radius, (first, period, inverse_period, distance, 1 / radius, a, b)


@triton.jit
def _larger(a, b, c, d):
    return tl.maximum(a, c), tl.maximum(b, d)


@triton.jit
def _weighted_mean(photo, along_x, along_y, count_x, count_y, how, UNROLLED: tl.constexpr):
    """The weighted mean of count_y x count_x pixels: red, green and blue, uint8 already divided by 255."""
    zero = tl.full(along_x[0].shape, 0, tl.float32)
    sums = zero, zero, zero, zero, zero
    for i in (tl.static_range if UNROLLED else tl.range)(count_y):
        sums = _add_row(sums, i, photo, along_x, along_y, count_x, how, UNROLLED)
    red, green, blue, total_x, total_y = sums
    if how.interpolation == "antialias":
        scale = 1 / (total_x * total_y)
        red, green, blue = red * scale, green * scale, blue * scale
    if photo[0].dtype.element_ty == tl.uint8:
        red, green, blue = red * (1 / 255), green * (1 / 255), blue * (1 / 255)
    return red, green, blue


@triton.jit
def _add_row(sums, i, photo, along_x, along_y, count_x, how, UNROLLED: tl.constexpr):
    """Add the i-th row of pixels to (red, green, blue, total_x, total_y)."""
    weight, index, inside = _tap(i, along_y, how, UNROLLED)
    pointer = photo[0] + index.to(tl.int64) * photo[1]
    zero = tl.full(along_x[0].shape, 0, tl.float32)
    row = zero, zero, zero, zero
    for j in (tl.static_range if UNROLLED else tl.range)(count_x):
        row = _add_pixel(row, j, pointer, inside, along_x, how, UNROLLED)
    return sums[0] + weight * row[0], sums[1] + weight * row[1], sums[2] + weight * row[2], row[3], sums[4] + weight


@triton.jit
def _add_pixel(row, j, pointer, inside, along_x, how, UNROLLED: tl.constexpr):
    """Add the j-th pixel of a row to (red, green, blue, total)."""
    weight, index, inside_x = _tap(j, along_x, how, UNROLLED)
    pointer += index * 3
    mask, other = (inside & inside_x, 0) if how.padding == "zeros" else (None, None)
    red = row[0] + weight * tl.load(pointer, mask, other).to(tl.float32)
    green = row[1] + weight * tl.load(pointer + 1, mask, other).to(tl.float32)
    blue = row[2] + weight * tl.load(pointer + 2, mask, other).to(tl.float32)
    return red, green, blue, row[3] + weight


@triton.jit
def _tap(k, along, how, UNROLLED: tl.constexpr):
    """The k-th pixel along one axis: its weight, its index (never outside the photo), whether it was inside."""
    first, period, inverse_period, distance, inverse_radius, a, b = along
    if how.interpolation == "nearest":
        weight = 1.0
    elif how.interpolation == "bilinear":
        weight = 1 - tl.abs(distance + k)
    else:
        z = (distance + k) * inverse_radius
        z = z * z
        weight = tl.maximum(1 - z, 0.0)
        weight = weight * weight * (1 + z * (a + b * z))
    centre = first + (k + 0.5)
    last = 0.5 * period - 0.5
    inside = (centre > 0) & (centre <= last)
    if how.padding == "reflection":
        if not UNROLLED:  # many pixels may be mirrored more than once; the first few after `first` are not
            centre -= tl.floor(centre * inverse_period) * period
        centre = tl.minimum(tl.abs(tl.minimum(centre, period - centre)), last)
    else:
        centre = tl.minimum(tl.maximum(centre, 0.5), last)
    return weight, centre.to(tl.int32), inside


class Tile(NamedTuple):
    """What one program computes: `steps` tiles side by side, of height x width output pixels each."""

    height: int
    width: int
    steps: int
    warps: int


TILES = {  # two pixels per thread, or one where a pixel needs many registers
    "nearest": Tile(16, 16, 14, 4),
    "bilinear": Tile(16, 16, 14, 4),
    "antialias": Tile(8, 16, 14, 4),
}


def warp(images: Images, matrix: Tensor, size: tuple[int, int], *how: *How) -> Tensor:
    """See `fastaug.warping.warp`, which checks the arguments. Not differentiable; nothing waits for the GPU.

    Images whose rows or pixels are not contiguous are copied first, which is one more kernel for a batch. matrix and
    color may be on the CPU or on the GPU.

    Raises:
        TypeError: float64 images or output.
    """
    (height, width), (interpolation, padding, color, dtype) = size, how
    device = images[0].device if len(images) else matrix.device
    out = torch.empty(len(images), height, width, 3, dtype=dtype, device=device)
    if not len(images):
        return out.permute(0, 3, 1, 2)
    if torch.float64 in (dtype, images[0].dtype):
        raise TypeError('warp: the triton backend computes in float32, got float64. Use backend="reference".')
    if isinstance(images, Tensor):
        images = images if images[0].is_contiguous() else images.contiguous()
    else:
        images = [image.contiguous() for image in images]
    table = _table(images)
    colors = table[:, :0] if color is None else color.detach().flatten(1)
    table, matrix, colors = _on_device(device, table, matrix.detach().flatten(1), colors)
    tile = TILES[interpolation]
    strips = triton.cdiv(height, tile.height) * triton.cdiv(width, tile.width * tile.steps)
    with torch.cuda.device_of(out):
        _warp_kernel[(len(images) * strips,)](
            out, images[0], table, matrix, colors, table.stride(0), matrix.stride(0), colors.stride(0),
            height, width, strips, interpolation, padding, color is not None, tile.height, tile.width, tile.steps,
            num_warps=tile.warps, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip
    return out.permute(0, 3, 1, 2)


def _table(images: Images) -> Tensor:
    """Where the images are: int64 [B, 3], (address, height, width)."""
    if not isinstance(images, Tensor):
        return torch.tensor([(image.data_ptr(), *image.shape[:2]) for image in images])
    table = torch.tensor([(images.data_ptr(), *images.shape[1:3])]).repeat(len(images), 1)
    table[:, 0] += torch.arange(len(images)) * (images.stride(0) * images.element_size())
    return table


def _on_device(device: torch.device, *parts: Tensor) -> list[Tensor]:
    """Small [B, n] tensors on the device, rows contiguous. What lies on the CPU goes there in one pinned copy."""
    host = [part.double().view(torch.int64) if part.is_floating_point() else part for part in parts if not part.is_cuda]
    widths = [part.shape[1] for part in host]
    packed = torch.empty(len(host[0]), sum(widths), dtype=torch.int64, pin_memory=device.type == "cuda")
    torch.cat(host, 1, out=packed)
    copied = iter(packed.to(device, non_blocking=True).split(widths, 1))
    return [
        part.to(device).contiguous()
        if part.is_cuda
        else next(copied).view(torch.float64 if part.is_floating_point() else torch.int64)
        for part in parts
    ]
