"""Targets of every kind on their way to `y`: taken, or read and warped by their photo's own matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fastaug.augment.targets import swap_pairs, transform_boxes, transform_points, warp_masks
from fastaug.loading.orientation import steps_upright, upright_size
from fastaug.loading.photo import Size
from fastaug.loading.pillow import Unreadable, decode_mask
from fastaug.samples.samples import Samples
from fastaug.samples.targets import MaskFiles, Objects
from fastaug.text import printable
from fastaug.warping.masks import MaskPadding

TargetPadding = Literal["fill", "image"]
_AS_THE_IMAGE: dict[str, MaskPadding] = {"reflection": "reflection", "border": "border", "zeros": "fill"}
_OF_TORCH = {
    "uint16": np.int32,
    "uint32": np.int64,
    "uint64": np.int64,
}  # types that hold the same, and that torch computes with


@dataclass(frozen=True)
class TargetOptions:
    """What becomes of targets that have a place on their photo: masks, boxes and points.

    Args:
        fill: of masks: the value of pixels that show nothing of the photo. Losses leave it out by their `ignore_index`.
        padding: of masks, beyond what the picture shows of the photo: "fill", or "image", which reflects or repeats as
            the picture does (where that is black: the fill).
        erase: whether the rectangles of `RandomErasing` are filled in masks too.
        min_visible: of boxes: one is dropped when the picture shows less than this share of its transformed area.
    Raises:
        ValueError, TypeError: what is none of these.
    """

    fill: int = 255
    padding: TargetPadding = "fill"
    erase: bool = False
    min_visible: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.erase, bool):
            raise TypeError(f"TargetOptions: expected erase as True or False, got {self.erase!r}.")
        if not isinstance(self.fill, Integral) or isinstance(self.fill, bool):
            raise TypeError(
                f"TargetOptions: expected a whole number as fill, got {self.fill!r}. Pass one, such as 255."
            )
        if not -(2**63) <= self.fill < 2**63:
            raise ValueError(f"TargetOptions: expected a fill that int64 holds, got {self.fill}. Pass a smaller one.")
        if self.padding not in get_args(TargetPadding):
            raise ValueError(
                f"TargetOptions: expected padding to be one of {', '.join(get_args(TargetPadding))}, got "
                f"{self.padding!r}. Reflection and border are the Augment's own, followed by 'image'."
            )
        if not 0 <= self.min_visible <= 1:
            raise ValueError(
                f"TargetOptions: expected min_visible in [0, 1], a share of the area, got {self.min_visible}."
            )


@dataclass(frozen=True)
class View:
    """How one view of each photo of a batch came to its output.

    Attributes:
        matrix: float64 [B, 3, 3], pixels of the upright original -> output pixels.
        extent: float64 [B, 4], (x0, y0, x1, y1): the part of the original that the warp saw.
        size: (height, width) of the output.
        padding: of the picture, as `fastaug.warp` has it.
        erase: int64 [B, K, 4] or None, see `Params.erase`.
        pixel: float64 [B, 2], (width, height) in the original's pixels of what the warp read: of presized pixels, or
            those of a decoder's smaller scale. None: 1.
    """

    matrix: Tensor
    extent: Tensor
    size: Size
    padding: str
    erase: Tensor | None = None
    pixel: Tensor | None = None


class BatchTargets:
    """What the loader asks of targets of any kind; this is the kind without.

    Attributes:
        files: one for each of the samples, that has to be read beside the photo; None where there are none.
    """

    files: Sequence[str] | None = None

    def decode(self, row: int, content: bytes, size: Size, orientation: int) -> Any:
        """What is made of a sample's file, of a photo of this size when it is upright, and EXIF's orientation.

        Raises:
            Unreadable: damaged, or it does not fit its photo.
        """
        raise AssertionError("there are no files")

    def check(self, row: int, size: Size) -> str | None:
        """Why a sample's target does not fit a photo of this upright size, if it does not."""
        return None

    def make(self, rows: np.ndarray, decoded: Sequence[Any], sizes: Sequence[Size], views: Sequence[View]) -> Any:
        """y of a batch, on the CPU.

        Args:
            rows: of the samples, int64 [B].
            decoded: what `decode` has made of each; empty where there are no files.
            sizes: of the upright photos.
            views: of each photo.
        Returns:
            A tensor; None without targets; a list of dicts for objects. Of masks and objects, with several views, a
            tuple of one for each.
        """
        return None


class _Values(BatchTargets):
    """A class, int64 [N], or numbers, float32 [N] or [N, K]."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def make(self, rows: np.ndarray, decoded: Sequence[Any], sizes: Sequence[Size], views: Sequence[View]) -> Tensor:
        return self.values[rows]


class _Labels(BatchTargets):
    """float32 [B, C], 1 for each label that a photo has."""

    def __init__(self, labels: list[tuple[int, ...]], classes: int) -> None:
        self.labels, self.classes = labels, classes

    def make(self, rows: np.ndarray, decoded: Sequence[Any], sizes: Sequence[Size], views: Sequence[View]) -> Tensor:
        y = np.zeros((len(rows), self.classes), np.float32)
        for i, row in enumerate(rows.tolist()):
            y[i, self.labels[row]] = 1
        return torch.from_numpy(y)


class _Masks(BatchTargets):
    """Integers [B, height, width], of the smallest type that holds the masks and the fill."""

    def __init__(self, files: MaskFiles, options: TargetOptions) -> None:
        self.files: MaskFiles = files
        self.options = options

    def decode(self, row: int, content: bytes, size: Size, orientation: int) -> np.ndarray:
        orientation = 1 if self.files.upright else orientation
        height, width = upright_size(*size, orientation)  # back to how it is stored, which is the same exchange
        try:
            stored = decode_mask(content, height * width, (height, width))
        except Unreadable as error:
            turned = "" if orientation == 1 else f", before it is turned as its photo's EXIF says ({orientation})"
            raise Unreadable(f"its mask {printable(self.files[row])}: {error}{turned}") from None
        exchanged, reversed_axes = steps_upright(orientation)
        mask = np.flip(stored.T if exchanged else stored, tuple(reversed_axes))
        dtype = np.result_type(mask.dtype, np.min_scalar_type(self.options.fill))
        return np.ascontiguousarray(mask, _OF_TORCH.get(dtype.name, dtype))

    def make(self, rows: np.ndarray, decoded: Sequence[Any], sizes: Sequence[Size], views: Sequence[View]) -> Any:
        dtype = np.result_type(*(mask.dtype for mask in decoded)) if decoded else np.int64
        masks = [torch.from_numpy(mask.astype(dtype, copy=False)) for mask in decoded]
        return _each_view(views, lambda view: self._warp(masks, view))

    def _warp(self, masks: list[Tensor], view: View) -> Tensor:
        padding = _AS_THE_IMAGE[view.padding] if self.options.padding == "image" else "fill"
        warped = warp_masks(masks, view.matrix, view.size, self.options.fill, padding, view.extent, view.pixel)
        if self.options.erase and view.erase is not None:
            for mask, rectangles in zip(warped.numpy(), view.erase.tolist(), strict=True):
                for x0, y0, x1, y1 in rectangles:
                    mask[y0:y1, x0:x1] = self.options.fill
        return warped


class _Objects(BatchTargets):
    """A dict for each photo, as torchvision's detection models take them.

    boxes: float32 [K, 4], (x0, y0, x1, y1) in output pixels. labels: int64 [K]. kept: int64 [K], which of the photo's
    objects they are. Where the samples have them: crowd, bool [K]; keypoints, float32 [K, P, 3], (x, y, visibility),
    all 0 where one is not labelled or not in the picture.
    """

    def __init__(self, objects: Objects, options: TargetOptions) -> None:
        self.objects, self.options = objects, options
        self.first = objects.first.tolist()
        self.boxes, self.labels = _shared(objects.boxes), _shared(objects.labels)
        self.crowd, self.keypoints = _shared(objects.crowd), _shared(objects.keypoints)

    def check(self, row: int, size: Size) -> str | None:
        said = self.objects[row].size
        if said is None or said == size:
            return None
        (height, width), (said_height, said_width) = size, said
        return (
            f"its annotation is of {said_width} × {said_height} pixels (width × height), the photo has {width} × "
            f"{height} when it is upright"
        )

    def make(self, rows: np.ndarray, decoded: Sequence[Any], sizes: Sequence[Size], views: Sequence[View]) -> Any:
        scales = [(float(width), float(height)) if self.objects.relative else (1.0, 1.0) for height, width in sizes]
        scale = torch.tensor(scales).reshape(-1, 2)
        return _each_view(views, lambda view: self._through(rows.tolist(), scale, view))

    def _through(self, rows: list[int], scale: Tensor, view: View) -> list[dict[str, Tensor]]:
        own = [slice(self.first[row], self.first[row + 1]) for row in rows]
        boxes = [self.boxes[part] * of.repeat(2) for part, of in zip(own, scale, strict=True)]
        boxes, kept = transform_boxes(boxes, view.matrix, view.size, self.options.min_visible, view.extent)
        found = []
        for part, some, which in zip(own, boxes, kept, strict=True):
            found.append({"boxes": some, "labels": self.labels[part][which], "kept": which})
            if self.crowd is not None:
                found[-1]["crowd"] = self.crowd[part][which]
        if self.keypoints is not None and found:
            chosen = [self.keypoints[part][which] for part, which in zip(own, kept, strict=True)]
            for one, keypoints in zip(found, self._keypoints(chosen, scale, view), strict=True):
                one["keypoints"] = keypoints
        return found

    def _keypoints(self, keypoints: list[Tensor], scale: Tensor, view: View) -> Sequence[Tensor]:
        counts = [len(some) for some in keypoints]
        photo = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        points, visibility = torch.cat(keypoints).split([2, 1], 2)
        matrix = view.matrix[photo]
        moved, shown = transform_points(points * scale[photo][:, None], matrix, view.size, view.extent[photo])
        there = shown[..., None] & (visibility > 0)
        result = torch.where(there, torch.cat([moved, visibility], 2), 0.0)
        split: Sequence[Tensor] = swap_pairs(result, matrix, self.objects.pairs).split(counts)
        return split


def targets_of(samples: Samples, options: TargetOptions) -> BatchTargets:
    """What is different about the samples' kind of targets."""
    targets = samples.targets
    kinds: dict[str, Callable[[], BatchTargets]] = {
        "class": lambda: _Values(torch.tensor(targets, dtype=torch.int64)),
        "labels": lambda: _Labels(targets, len(samples.classes)),
        "numbers": lambda: _Values(_shared(targets)),
        "none": BatchTargets,
        "mask": lambda: _Masks(targets, options),
        "objects": lambda: _Objects(targets, options),
    }
    return kinds[samples.kind]()


def to_device(y: Any, device: torch.device) -> Any:
    """y there, tensors that are pinned without waiting for them; integers, such as masks, as int64."""

    def move(tensor: Tensor) -> Tensor:
        there = tensor.to(device, non_blocking=device.type == "cuda")
        return there if tensor.is_floating_point() or tensor.dtype == torch.bool else there.long()

    return _of_all(y, move)


def pin(y: Any) -> Any:
    """y in memory that a GPU reads by itself."""
    return _of_all(y, lambda tensor: tensor.pin_memory())


def _of_all(y: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with each of its tensors changed."""
    if isinstance(y, dict):
        return {name: change(value) for name, value in y.items()}
    if isinstance(y, list | tuple):
        return type(y)(_of_all(one, change) for one in y)
    return None if y is None else change(y)


def _each_view(views: Sequence[View], make: Callable[[View], Any]) -> Any:
    return make(views[0]) if len(views) == 1 else tuple(make(view) for view in views)


def _shared(array: np.ndarray | None) -> Any:
    """As a tensor, without a copy unless nobody may write to it, of which torch warns."""
    return None if array is None else torch.from_numpy(np.require(array, requirements="W"))


__all__ = ["BatchTargets", "TargetOptions", "View", "pin", "targets_of", "to_device"]
