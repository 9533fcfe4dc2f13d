"""The one warp: any 3×3 matrix, any colour matrix, one interpolation; and the choice of who computes it."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

Images = Tensor | Sequence[Tensor]
How = tuple[str, str, Tensor | None, torch.dtype]  # interpolation, padding, color, dtype: see `warp`

Interpolation = Literal["antialias", "bilinear", "nearest"]
Padding = Literal["reflection", "border", "zeros"]
Backend = Literal["auto", "triton", "cpu", "reference"]


class Call(NamedTuple):
    """The arguments of `warp`."""

    images: Images
    matrix: Tensor
    size: int | tuple[int, int]
    interpolation: Interpolation = "antialias"
    padding: Padding = "reflection"
    color: Tensor | None = None
    dtype: torch.dtype = torch.float32
    backend: Backend = "auto"


INTERPOLATIONS, PADDINGS, BACKENDS = get_args(Interpolation), get_args(Padding), get_args(Backend)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
HAS_TRITON = importlib.util.find_spec("triton") is not None  # looked for, not imported: that takes a second


def warp(
    images: Images,
    matrix: Tensor,
    size: int | tuple[int, int],
    interpolation: Interpolation = "antialias",
    padding: Padding = "reflection",
    color: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    backend: Backend = "auto",
) -> Tensor:
    """Warp a batch through one matrix per image, interpolating once.

    Args:
        images: uint8 or float [B, H, W, 3] or [B, 3, H, W], or a list of [H, W, 3] or [3, H, W] of different sizes.
            RGB; uint8 counts as value / 255. Where both axes are 3, float is read as [B, 3, H, W] and uint8 as
            [B, H, W, 3].
        matrix: float [B, 3, 3], input pixels -> output pixels, corner-origin: (0, 0) is the corner of the first pixel.
        size: of the output, pixels or (height, width).
        interpolation: "antialias" averages over what an output pixel covers in the input and interpolates where it
            enlarges; "bilinear"; "nearest".
        padding: beyond the photo's edges: "reflection" about the edge, "border" repeats the edge pixel, "zeros" black.
        color: float [B, 3, 4] or None: (r, g, b, 1) in [0, 1] -> output channels, applied after the interpolation.
        dtype: of the output: torch.float32, float16 or bfloat16 (the reference also computes float64).
        backend: "auto", "triton" (NVIDIA GPUs), "cpu" or "reference" (any device; the specification).
    Returns:
        dtype [B, 3, height, width] in channels_last memory, on the images' device, in [0, 1] before `color` (the
        antialias filter has small negative lobes and may exceed it by a few levels at hard edges). Output pixels
        that see no point of the input plane (beyond the horizon of a perspective, not finite) are black before `color`.
    Raises:
        TypeError, ValueError: arguments that do not fit, a singular or not finite matrix. A matrix on a GPU is not
            looked at, since that would stall it: a singular one gives black images.
        RuntimeError: a backend that was asked for by name and cannot run here.
    Inside `torch.compile` and `torch.export` the warp is one node of the graph, `torch.ops.fastaug.warp`: the backend
    is chosen, and the matrix looked at, when the graph runs. Where gradients are needed, it runs outside the graph.
    """
    batch, (height, width), needs_grad = _checked(images, matrix, size, interpolation, padding, color, dtype, backend)
    if torch.compiler.is_compiling() and not needs_grad:
        tensors = [batch] if isinstance(batch, Tensor) else list(batch)
        traced: Tensor = _warp_op(tensors, matrix, height, width, interpolation, padding, color, dtype, backend)
        return traced
    run: Callable[..., Tensor] = torch.compiler.disable(_run) if torch.compiler.is_compiling() else _run
    how: How = interpolation, padding, color, dtype
    return run(batch, matrix, (height, width), *how, backend=backend, needs_grad=needs_grad)


def warp_together(calls: Sequence[Call]) -> list[Tensor]:
    """`warp` for several batches of as many images, such as views of the same photos.

    On a CPU it goes image by image: what one view has read of a photo is still in a near cache for the next.

    Args:
        calls: the arguments of each warp.
    """
    found = [(call, *_checked(*call)) for call in calls]
    on_cpu = all(
        call.backend in ("auto", "cpu") and len(batch) and len(batch) == len(found[0][1])
        and batch[0].dtype == torch.uint8
        and choose_backend(batch[0].device.type, needs_grad, call.dtype == torch.float64, HAS_TRITON)[0] == "cpu"
        for call, batch, _, needs_grad in found
    )  # fmt: skip
    if len(calls) < 2 or not on_cpu or torch.compiler.is_compiling():
        return [warp(*call) for call in calls]
    for call in calls:
        check_invertible("warp", call.matrix)
    module = importlib.import_module("fastaug.warping.cpu")
    outs: list[Tensor] = module.warp_together(
        [
            (batch, call.matrix, size, (call.interpolation, call.padding, call.color, call.dtype))
            for call, batch, size, _ in found
        ]
    )
    return outs


def _checked(
    images: Images, matrix: Tensor, size: int | tuple[int, int], interpolation: Interpolation, padding: Padding,
    color: Tensor | None, dtype: torch.dtype, backend: Backend,
) -> tuple[Images, tuple[int, int], bool]:  # fmt: skip
    """The images as [B, H, W, 3] or a list of [H, W, 3], (height, width) of the output, and whether gradients flow."""
    batch = as_batch("warp", images)
    count = batch.shape[0] if isinstance(batch, Tensor) else len(batch)  # len() would fix the batch size of an export
    out_size = output_size("warp", size)
    check_settings("warp", interpolation, padding, dtype, backend)
    check_matrices("warp", "matrix", matrix, (count, 3, 3))
    if color is not None:
        check_matrices("warp", "color", color, (count, 3, 4))
    tensors = [batch] if isinstance(batch, Tensor) else list(batch)
    needs_grad = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (*tensors, matrix, color) if tensor is not None
    )
    return batch, out_size, needs_grad


def _run(batch: Images, matrix: Tensor, size: tuple[int, int], *how: *How, backend: str, needs_grad: bool) -> Tensor:
    """What of `warp` depends on the machine and on the values of the matrix, and so has no place in a graph."""
    if matrix.device.type == "cpu" and len(batch):
        check_invertible("warp", matrix)
    first = batch if isinstance(batch, Tensor) else next(iter(batch), torch.empty(0, device=matrix.device))
    device, dtype = first.device.type, how[-1]
    double = torch.float64 in (dtype, first.dtype)
    name, _ = choose_backend(device, needs_grad, double, HAS_TRITON)
    if backend not in ("auto", name):
        _refuse_backend(backend, device, needs_grad, double)
        name = backend
    if not len(batch):
        return torch.empty(0, *size, 3, dtype=dtype, device=first.device).permute(0, 3, 1, 2)
    # Numba and Triton are imported when they are first needed.
    module = importlib.import_module(f"fastaug.warping.{'gpu' if name == 'triton' else name}")
    out: Tensor = module.warp(batch, matrix, size, *how)
    return out


@torch.library.custom_op("fastaug::warp", mutates_args=())
def _warp_op(
    images: Sequence[Tensor],
    matrix: Tensor,
    height: int,
    width: int,
    interpolation: str,
    padding: str,
    color: Tensor | None,
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    """`warp` as a node of a graph. images: one batch [B, H, W, 3], or images [H, W, 3]. Eager calls go past it."""
    batch = images[0] if len(images) == 1 and images[0].dim() == 4 else images
    how: How = interpolation, padding, color, dtype
    return _run(batch, matrix, (height, width), *how, backend=backend, needs_grad=False)


@_warp_op.register_fake
def _warp_fake(images: Sequence[Tensor], matrix: Tensor, height: int, width: int, *how: Any) -> Tensor:
    """What tracing needs to know of the result: shape, dtype, device and strides."""
    dtype, device = how[3], images[0].device if images else matrix.device
    return matrix.new_empty((matrix.shape[0], height, width, 3), dtype=dtype, device=device).permute(0, 3, 1, 2)


def choose_backend(device: str, needs_grad: bool, double: bool, triton: bool) -> tuple[str, str]:
    """What backend="auto" runs, and why. A pure function.

    Args:
        device: "cpu", "cuda", or another device type of torch, where the images are.
        needs_grad: whether gradients are to flow through the warp.
        double: whether the images or the output are float64.
        triton: whether Triton is installed and can run here.
    """
    if needs_grad:
        return "reference", "gradients are needed, and only the reference is differentiable"
    if double:
        return "reference", "float64 is asked for, and only the reference computes it"
    if device == "cpu":
        return "cpu", "the images are on the CPU"
    if device == "cuda" and triton:
        return "triton", "the images are on an NVIDIA GPU and Triton is installed"
    if device == "cuda":
        return "reference", "the images are on a GPU, but Triton is not installed (pip install triton)"
    return "reference", f"the images are on {device}, for which there is no kernel"


def _refuse_backend(backend: str, device: str, needs_grad: bool, double: bool) -> None:
    """Raise if a backend that was asked for by name cannot do what is asked of it."""
    needed = {"triton": "cuda", "cpu": "cpu"}.get(backend)
    if needed is None:
        return
    if backend == "triton" and not HAS_TRITON:
        raise RuntimeError("warp: backend 'triton' was asked for, and Triton is not installed: pip install triton")
    if device != needed and not (backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1"):
        raise RuntimeError(f"warp: backend {backend!r} needs images on {needed}, got them on {device}.")
    if needs_grad or double:
        what = "gradients" if needs_grad else "float64"
        raise RuntimeError(f"warp: backend {backend!r} does not do {what}. Use backend='reference'.")


def output_size(where: str, size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from pixels or (height, width)."""
    pair = size if isinstance(size, Sequence) else (size, size)
    if len(pair) != 2 or not all(isinstance(pixels, (Integral, torch.SymInt)) and pixels > 0 for pixels in pair):
        raise ValueError(f"{where}: expected a size above 0, in whole pixels or (height, width), got {size!r}.")
    height, width = (pixels if isinstance(pixels, torch.SymInt) else int(pixels) for pixels in pair)
    return height, width


def channels_first(images: Tensor) -> bool:
    """Whether a batch, or one image, is [(B,) 3, H, W] rather than [(B,) H, W, 3]."""
    return images.shape[-3] == 3 and (images.is_floating_point() or images.shape[-1] != 3)


def as_batch(where: str, images: Images) -> Images:
    """The same images as [B, H, W, 3] or a list of [H, W, 3], without a copy.

    Raises:
        TypeError, ValueError: what the warp cannot read.
    """
    if isinstance(images, Tensor):
        expected = "uint8 or float [B, H, W, 3] or [B, 3, H, W], or a list of [H, W, 3] or [3, H, W]"
        _check_dtype(where, images, expected)
        batch = images.permute(0, 2, 3, 1) if images.dim() == 4 and channels_first(images) else images
        if batch.dim() != 4 or batch.shape[3] != 3 or 0 in batch.shape[1:]:
            raise ValueError(f"{where}: expected {expected}, got {_shape(images, 4)}")
        return batch
    if not isinstance(images, Sequence) or isinstance(images, str):
        _check_dtype(where, images, "uint8 or float tensors")
    found = []
    for i, image in enumerate(images):
        _check_dtype(where, image, "uint8 or float [H, W, 3] or [3, H, W]", f" at position {i}")
        one = image.permute(1, 2, 0) if image.dim() == 3 and channels_first(image) else image
        if one.dim() != 3 or one.shape[2] != 3 or 0 in one.shape:
            raise ValueError(f"{where}: expected [H, W, 3] or [3, H, W], got {_shape(image, 3, f' at position {i}')}")
        if image.device != images[0].device or image.dtype != images[0].dtype:
            raise ValueError(
                f"{where}: expected {images[0].dtype} on {images[0].device} as the first image, got {image.dtype} on "
                f"{image.device} at position {i}."
            )
        found.append(one)
    return found


def _check_dtype(where: str, images: object, expected: str, place: str = "") -> None:
    if not isinstance(images, Tensor):
        kind = type(images)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        pixels = "images" if hasattr(images, "dtype") else "image.convert('RGB')"  # a numpy array, a Pillow image
        raise TypeError(
            f"{where}: expected {expected}, got {name}{place}."
            + f" Give torch.from_numpy(numpy.array({pixels}))." * hasattr(images, "__array_interface__")
        )
    if images.dtype == torch.uint8 or images.is_floating_point():
        return
    advice = {
        torch.uint16: "Convert with images.float() / 65535.",
        torch.bool: "Convert with images.float().",
    }.get(images.dtype, "Convert with .to(torch.uint8) if they are 0 to 255.")
    raise TypeError(f"{where}: expected {expected}, got {images.dtype}{place}. {advice}")


def _shape(images: Tensor, dims: int, place: str = "") -> str:
    """What images of a wrong shape are, and what to do about grey ones."""
    grey = [axis - dims for axis in (dims - 3, dims - 1) if images.dim() == dims and images.shape[axis] == 1]
    sizes = ["-1"] * dims
    for axis in grey[:1]:
        sizes[axis] = "3"
    advice = f" Grey images: give them three channels with .expand({', '.join(sizes)})." if grey else ""
    return f"{images.dtype} {list(images.shape)}{place}.{advice}"


def check_settings(where: str, interpolation: str, padding: str, dtype: torch.dtype, backend: str) -> None:
    """Raise unless the warp has all of these."""
    for name, value, allowed in (
        ("interpolation", interpolation, INTERPOLATIONS), ("padding", padding, PADDINGS),
        ("backend", backend, BACKENDS), ("dtype", dtype, DTYPES),
    ):  # fmt: skip
        if value not in allowed:
            raise ValueError(f"{where}: expected {name} to be one of {', '.join(map(str, allowed))}, got {value!r}.")


def check_matrices(where: str, name: str, value: Tensor, shape: tuple[int, ...], what: str = "images") -> None:
    """Raise unless there is a matrix of floats for each image."""
    if not isinstance(value, Tensor) or value.shape != shape or not value.is_floating_point():
        raise ValueError(
            f"{where}: expected a float {name} {list(shape)} for {shape[0]} {what}, got {kind_of(value)}. Draw the "
            "parameters for the same batch."
        )


def kind_of(value: object) -> str:
    """For errors: dtype and shape of a tensor, the type of everything else."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def check_invertible(where: str, matrix: Tensor) -> None:
    matrix = matrix.detach().double()
    size = torch.linalg.vector_norm(matrix, dim=1).prod(1)  # by columns: a window far away has one large column
    # As torch.linalg.det, which has torch's threads spin on the cores of the threads that load
    determinant = (matrix[:, 0] * torch.linalg.cross(matrix[:, 1], matrix[:, 2])).sum(1)
    usable = torch.isfinite(matrix).all((1, 2)) & (determinant.abs() > 1e-14 * size)
    if not usable.all():
        row = int((~usable).nonzero()[0])
        raise ValueError(
            f"{where}: expected invertible matrices, got {matrix[row].tolist()} for image {row}, which is singular or "
            "not finite."
        )
