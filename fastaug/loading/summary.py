"""One sample's way through every step, as text; where a step fails, which one and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastaug.augment.augment import Augment, Drawn, Step
from fastaug.loading.batch import Batch
from fastaug.loading.draws import Draws
from fastaug.loading.framing import FILTERS
from fastaug.loading.header import read_header
from fastaug.loading.modes import Mode
from fastaug.loading.photo import Photo
from fastaug.loading.stats import Observer
from fastaug.samples.samples import Samples
from fastaug.samples.storage import StorageReason
from fastaug.text import printable


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
            self.fail(name, error)
            return None
        self.steps.append((name, text))
        return result

    def fail(self, name: str, error: Exception) -> None:
        self.failed, self.reason = name, f"{type(error).__name__}: {error}"

    def __str__(self) -> str:
        rows = self.steps if self.failed is None else [*self.steps, (self.failed, f"FAILED: {self.reason}")]
        width = max((len(name) for name, _ in rows), default=0) + 2
        lines = [f"{name:<{width}}{text}".replace("\n", "\n" + " " * width) for name, text in rows]
        return "\n".join([*lines, *(["", self.table] if self.table else [])])

    __repr__ = __str__


class Walk:
    """An Observer of a batch of one sample: what each step made of it, and which one failed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.found: dict[str, Any] = {}  # by step
        self.operators: dict[str, str] = {}  # what each drew
        self.failed: str | None = None

    @contextmanager
    def stage(self, name: str, images: int) -> Iterator[Callable[[Any], None]]:
        with self._step(name):
            yield lambda result: self._note(name, result)

    def operator(self, name: str, take: Callable[[], Step]) -> Step:
        with self._step(name):
            step = take()
            if not torch.isfinite(step.matrix).all():
                raise ValueError(f"expected a finite matrix [1, 3, 3], got {step.matrix.tolist()}.")
        self.operators[name] = _drawn(step.drawn)
        return step

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.failed = self.failed or name  # the innermost one
            raise

    def _note(self, name: str, result: Any) -> None:
        if name == "read" and isinstance(result[0], str):
            raise OSError(f"{printable(self.path)}: {result[0]}")
        if name == "decode" and isinstance(result[0], str):
            raise ValueError(result[0])
        self.found[name] = result


def summarize(
    samples: Samples,
    row: int,
    epoch: int,
    mode: Mode,
    augment: Augment | None,
    make: Callable[[Observer], Batch],
    warp: Callable[[Batch], tuple[list[Tensor], Any]],
) -> tuple[Summary, tuple[Any, Any] | None]:
    """The walk of a sample through a loader's own steps, and its batch (x, y), None where a step failed.

    Args:
        samples, row, epoch: of which sample, and of which epoch's draws.
        mode, augment: of the loader.
        make: makes the sample's batch, and tells the observer.
        warp: makes x of each view and y of it.
    """
    if not 0 <= row < len(samples):
        raise ValueError(f"summary: expected a row 0..{len(samples) - 1} of the samples, got {row}.")
    path = samples.paths[row]
    walk, summary = Walk(path), Summary()
    summary.steps.append(("sample", f"row {row} of {len(samples):,}, epoch {epoch}: {printable(path)}"))
    try:
        batch = make(walk)
    except Exception as error:  # of any kind: to say which step raises what is the purpose here
        if walk.failed is None:
            raise
        summary.steps += _told(walk, mode, augment)
        summary.fail(walk.failed, error)
        return summary, None
    summary.steps += _told(walk, mode, augment)
    if batch.bad:  # its photo is not, or `make` had raised
        reason = batch.bad[row]
        summary.fail("target", OSError(reason) if isinstance(reason, StorageReason) else ValueError(reason))
        return summary, None
    summary.step("matrix", lambda: (_matrices(batch), None))
    result = summary.step("warp" if augment else "output", lambda: _warped(warp(batch), augment))
    summary.step("target", lambda: (_target(samples, row), None))
    return summary, result


def range_of(images: Tensor) -> str:
    """dtype, shape and range. Raises ValueError if a number is not finite."""
    text = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
    if not images.numel():
        return text
    low, high = float(images.min()), float(images.max())
    if not torch.isfinite(images.float()).all():
        raise ValueError(f"expected finite numbers, got {text}, {low:.4g} to {high:.4g}.")
    return f"{text}, {low:.4g} to {high:.4g}"


def _told(walk: Walk, mode: Mode, augment: Augment | None) -> list[tuple[str, str]]:
    """What the observer heard, in the order in which it happens to a photo, up to the step that failed."""
    steps: list[tuple[str, str]] = []
    if walk.found.get("cache"):
        kept: Photo = walk.found["cache"][0]
        steps.append(("cache", _kept(kept)))
        steps.append(("presize", _presize(kept, walk.found["draw"], mode)))
    elif "read" in walk.found:
        steps.append(("read", f"{len(walk.found['read'][0]):,} bytes"))
    if "decode" in walk.found:
        photo: Photo = walk.found["decode"][0]
        steps.append(("decode", _decoded(photo, walk.found["read"][0])))
        if "keep" in walk.found:
            steps.append(("keep", _kept(walk.found["keep"][0])))
        steps.append(("presize", _presize(photo, walk.found["draw"], mode)))
    if walk.failed in ("read", "decode", "presize"):  # before the operators, though these are drawn first
        return steps
    if augment is not None and walk.failed is None and not walk.operators:
        steps.append(("augment", "nothing random: the whole frame, resized and normalised"))
    return [*steps, *walk.operators.items()]


def _decoded(photo: Photo, content: bytes) -> str:
    header, (height, width) = read_header(content), photo.size
    turned = f", turned upright (EXIF orientation {header.orientation})" if header and header.orientation > 1 else ""
    scale = photo.matrix[0, 0]
    smaller = f", decoded at {scale:g} of that" if scale < 1 else ""
    return f"{width} × {height} pixels (width × height), RGB{turned}{smaller}"


def _kept(photo: Photo) -> str:
    (height, width), (kept_height, kept_width, _) = photo.size, photo.pixels.shape
    return f"{kept_width} × {kept_height} of {width} × {height} pixels (width × height) are what the cache keeps"


def _presize(photo: Photo, draws: Draws, mode: Mode) -> str:
    shown, placed = (boxes[0].tolist() for boxes in draws[[0]].boxes(torch.tensor([photo.size])))
    box, (height, width) = "{2:g} × {3:g} at x {0:.2f}, y {1:.2f}", draws.presize
    kind = FILTERS.get(draws.method, "lanczos").capitalize()
    there = "" if placed == [0, 0, width, height] else f", there {box.format(*placed)}"
    return f"{box.format(*shown)}, to {width} × {height} (width × height){there}: {mode.presize_is.format(kind)}"


def _drawn(drawn: Drawn) -> str:
    values = {name: value[0].tolist() for name, value in drawn.items()}
    texts = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()]
    return ", ".join(texts) or "nothing to draw"


def _target(samples: Samples, row: int) -> str:
    kind, (_, target), classes = samples.kind, samples[row], samples.classes
    if kind == "class":
        return f"{target}, {classes[target]!r} of {len(classes)} classes" if target >= 0 else f"{target}, no class"
    if kind == "labels":
        return ", ".join(repr(classes[label]) for label in target) or f"none of {len(classes)} classes"
    if kind == "objects":
        names = ", ".join(repr(classes[label]) for label in target.labels.tolist())
        return f"{len(target.labels)} objects" + (f": {names}" if names else "")
    return printable(str(target))


def _matrices(batch: Batch) -> str:
    info = batch.views[0].info
    text = ["decoded pixels -> output pixels", *_numbers(info.matrix)]
    if info.params is not None:
        text += ["colours in [0, 1], and 1 -> output channels", *_numbers(info.params.color)]
    return "\n".join(text)


def _numbers(matrix: Tensor) -> list[str]:
    return ["".join(f"{number:>11.4f}" for number in line) for line in matrix[0].tolist()]


def _warped(result: tuple[list[Tensor], Any], augment: Augment | None) -> tuple[str, tuple[Any, Any]]:
    """Of the first view."""
    (x, *others), y = result
    text = range_of(x)
    if augment is not None:
        text = f"{augment.interpolation}, {augment.padding}, backend {augment.backend}: {text}"
    return text + (f", and {len(others)} more views" if others else ""), (x, y)


__all__ = ["Summary", "range_of", "summarize"]
