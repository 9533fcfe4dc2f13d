"""One sample's way through every step, as text; where a step fails, which one and why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastaug.augment import geometry
from fastaug.augment.augment import Drawn, Operator
from fastaug.augment.rng import SampleUniforms
from fastaug.loading.decode import Decoder
from fastaug.loading.header import read_header
from fastaug.samples.sources import read_bytes

if TYPE_CHECKING:
    from fastaug.loading.loader import ImageLoader


class Summary:
    """What each step made of a sample; `print` it.

    Attributes:
        steps: (name, what came of it) of the steps that were done, in order.
        failed: the name of the step that failed, which is the last one that was tried; None: none did.
        reason: why it did. table: what is printed below.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []
        self.failed: str | None = None
        self.reason = self.table = ""

    def step(self, name: str, call: Callable[[], tuple[str, Any]]) -> Any:
        """Do a step, unless an earlier one failed: `call` returns what to write and what to return."""
        if self.failed is not None:
            return None
        try:
            text, result = call()
        except Exception as error:  # of any kind: to say which step raises what is the purpose here
            self.failed, self.reason = name, f"{type(error).__name__}: {error}"
            return None
        self.steps.append((name, text))
        return result

    def __str__(self) -> str:
        rows = self.steps if self.failed is None else [*self.steps, (self.failed, f"FAILED: {self.reason}")]
        width = max((len(name) for name, _ in rows), default=0) + 2
        lines = [f"{name:<{width}}{text}".replace("\n", "\n" + " " * width) for name, text in rows]
        return "\n".join([*lines, *(["", self.table] if self.table else [])])

    __repr__ = __str__


def summarize(loader: ImageLoader, row: int = 0) -> tuple[Summary, Any]:
    """The walk of a sample through a loader, and its batch (x, y), None where a step failed."""
    loader, walk = copy.copy(loader), Summary()
    loader._bad, loader.return_info = {}, False  # of the copy: a bad file is looked at again
    loader.augment = copy.deepcopy(loader.augment)  # a schedule sets its size
    loader._begin_epoch()
    samples, epoch = loader.samples, loader._epoch
    if not 0 <= row < len(samples):
        raise ValueError(f"summary: expected a row 0..{len(samples) - 1} of the samples, got {row}.")
    walk.steps.append(("sample", f"row {row} of {len(samples):,}, epoch {epoch}: {samples.paths[row]}"))
    content = walk.step("read", lambda: _read(loader.samples.paths[row]))
    size = walk.step("decode", lambda: _decode(loader, content))
    uniforms = SampleUniforms(loader.seed, epoch, [row])
    walk.step("presize", lambda: _presize(loader, uniforms, size))
    _operators(loader, walk, uniforms)
    batch = walk.step("matrix", lambda: _matrix(loader, row))
    result = walk.step("warp" if loader.augment else "output", lambda: _warp(loader, batch))
    target = samples.targets[row]
    walk.step("target", lambda: (f"{target}, {samples.classes[target]!r} of {len(samples.classes)} classes", None))
    return walk, result


def range_of(images: Tensor) -> str:
    """dtype, shape and range. Raises ValueError if a number is not finite."""
    text = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
    if not images.numel():
        return text
    low, high = float(images.min()), float(images.max())
    if not torch.isfinite(images.float()).all():
        raise ValueError(f"expected finite numbers, got {text}, {low:.4g} to {high:.4g}.")
    return f"{text}, {low:.4g} to {high:.4g}"


def _read(path: str) -> tuple[str, bytes]:

    content = read_bytes(path)
    if isinstance(content, str):
        raise OSError(f"{path}: {content}")
    return f"{len(content):,} bytes", content


def _decode(loader: ImageLoader, content: bytes) -> tuple[str, tuple[int, int]]:
    decoder = Decoder(loader.device, 1)
    try:
        decoded, bad = decoder.decode([content])
        if bad:
            raise ValueError(bad[0][1])
        (height, width) = map(int, decoder.sizes(decoded)[0])
    finally:
        decoder.close()
    header = read_header(content)
    turned = f", turned upright (EXIF orientation {header.orientation})" if header and header.orientation > 1 else ""
    return f"{width} × {height} pixels (width × height), RGB{turned}", (height, width)


def _presize(loader: ImageLoader, uniforms: SampleUniforms, size: tuple[int, int]) -> tuple[str, None]:
    position = uniforms("presize", 2) if loader.training else torch.full((1, 2), 0.5)
    x0, y0, side = (float(value) for value in geometry.presize_box(torch.tensor([size]), position))
    how = "part of the one warp" if loader.mode == "direct" else "resized with the Lanczos filter"
    return f"square of {side:g} at x {x0:.2f}, y {y0:.2f}, to {loader.presize}: {how}", None


def _operators(loader: ImageLoader, walk: Summary, uniforms: SampleUniforms) -> None:
    """A step for each operator, with what was drawn for it."""
    if loader.augment is None:
        return
    if not loader.training:
        walk.steps += [] if walk.failed else [("augment", "nothing random: the whole square, resized and normalised")]
        return
    side = torch.full((1,), float(loader.presize), dtype=torch.float64)
    frame = side, side
    for name, op in loader.augment.named_ops().items():
        found = walk.step(name, lambda op=op, name=name, frame=frame: _operator(op, name, uniforms, frame, loader))  # type: ignore[misc]
        frame = found or frame


def _operator(op: Operator, name: str, uniforms: SampleUniforms, frame: Any, loader: ImageLoader) -> tuple[str, Any]:
    assert loader.augment is not None, "checked by the caller"
    drawn = op.parameters_from(uniforms(name, op.uniforms))
    matrix, frame = op.matrix(drawn, frame, loader.augment.size)
    if matrix.shape != (1, 3, 3) or not torch.isfinite(matrix).all():
        raise ValueError(f"expected a finite matrix [1, 3, 3], got {list(matrix.shape)}: {matrix.tolist()}.")
    op.color(drawn, 1)
    return _drawn(drawn), frame


def _drawn(drawn: Drawn) -> str:
    values = {name: value[0].tolist() for name, value in drawn.items()}
    texts = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()]
    return ", ".join(texts) or "nothing to draw"


def _matrix(loader: ImageLoader, row: int) -> tuple[str, Any]:
    batch = loader._load_one(row)
    if batch.bad:
        raise ValueError(next(iter(batch.bad.values())))
    text = ["decoded pixels -> output pixels", *_numbers(batch.matrix)]
    if batch.params is not None:
        text += ["colours in [0, 1], and 1 -> output channels", *_numbers(batch.params.color)]
    return "\n".join(text), batch


def _numbers(matrix: Tensor) -> list[str]:
    return ["".join(f"{number:>11.4f}" for number in line) for line in matrix[0].tolist()]


def _warp(loader: ImageLoader, batch: Any) -> tuple[str, Any]:
    x, y = loader._finish(batch)
    augment = loader.augment
    if augment is None:
        return range_of(x), (x, y)
    return f"{augment.interpolation}, {augment.padding}, backend {augment.backend}: {range_of(x)}", (x, y)


__all__ = ["Summary", "range_of", "summarize"]
