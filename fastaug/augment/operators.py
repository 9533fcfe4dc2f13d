"""The Random* operators: settings, and what they make of uniform numbers. No pixels here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastaug.augment import color as colors
from fastaug.augment import geometry
from fastaug.augment.augment import Drawn, Erasure, Frame, Operator, as_number
from fastaug.warping.warp import output_size


class RandomHorizontalFlip(Operator):
    """Mirror left and right with probability p."""

    uniforms = 1

    def __init__(self, p: float = 0.5):
        super().__init__(p)

    def parameters_from(self, u: Tensor) -> Drawn:
        return {"flipped": u[:, 0] < self.p}

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        return geometry.flip_matrix(drawn["flipped"], torch.zeros_like(drawn["flipped"]), *frame), frame


class RandomVerticalFlip(RandomHorizontalFlip):
    """Mirror top and bottom with probability p."""

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        return geometry.flip_matrix(torch.zeros_like(drawn["flipped"]), drawn["flipped"], *frame), frame


class RandomDihedral(Operator):
    """With probability p, one of the eight symmetries of the square, each equally likely (the identity is one).

    A frame that is not square is stretched back into its shape by the four symmetries that transpose it.
    """

    uniforms = 2

    def parameters_from(self, u: Tensor) -> Drawn:
        return {"symmetry": torch.where(u[:, 0] < self.p, torch.floor(u[:, 1] * 8), 0.0).long()}

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        symmetry = drawn["symmetry"]
        flip = geometry.flip_matrix((symmetry & 1).bool(), (symmetry & 2).bool(), *frame)
        return flip @ geometry.transpose_matrix((symmetry & 4).bool(), *frame), frame


class RandomRotation(Operator):
    """Turn about the centre by a random angle, with probability p.

    Args:
        degrees: (min, max), or max for (-max, max); positive is counter-clockwise, as in torchvision.
    """

    uniforms = 2

    def __init__(self, degrees: float | tuple[float, float], p: float = 1.0):
        super().__init__(p)
        self.degrees = _range(self, "degrees", degrees, around=0.0)

    def parameters_from(self, u: Tensor) -> Drawn:
        return {"degrees": torch.where(u[:, 0] < self.p, _between(self.degrees, u[:, 1]), 0.0)}

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        return geometry.rotation_matrix(drawn["degrees"], *frame), frame


class RandomZoom(Operator):
    """Enlarge a window at a random place to the whole frame, with probability p, as fastai's `Zoom`.

    Args:
        scale: (min, max) magnification; 1.1 shows 1 / 1.1 of the width and of the height.
    """

    uniforms = 4

    def __init__(self, scale: tuple[float, float] = (1.0, 1.1), p: float = 1.0):
        super().__init__(p)
        self.scale = _range(self, "scale", scale, positive=True)

    def parameters_from(self, u: Tensor) -> Drawn:
        zoom = torch.where(u[:, 0] < self.p, _between(self.scale, u[:, 1]), 1.0)
        return {"zoom": zoom, "x": u[:, 2], "y": u[:, 3]}

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        position = torch.stack([drawn["x"], drawn["y"]], 1)
        return geometry.zoom_matrix(drawn["zoom"], position, *frame), frame


class RandomPerspective(Operator):
    """Tilt about the vertical and the horizontal axis, each drawn by itself with probability p, as fastai's `Warp`.

    Args:
        magnitude: largest tilt, in half frames, below 1: with 0.2 an edge is at most 1.2 and at least 0.8 as long.
    Differs from: torchvision's RandomPerspective, which moves the four corners independently, inwards only.
    """

    uniforms = 4

    def __init__(self, magnitude: float = 0.2, p: float = 0.5):
        super().__init__(p)
        self.magnitude = as_number(magnitude)
        if not 0 <= self.magnitude < 1:
            raise ValueError(f"RandomPerspective: expected a magnitude in [0, 1), got {magnitude}.")

    def parameters_from(self, u: Tensor) -> Drawn:
        tilt = torch.where(u[:, :2] < self.p, _between((-self.magnitude, self.magnitude), u[:, 2:]), 0.0)
        return {"tilt_x": tilt[:, 0], "tilt_y": tilt[:, 1]}

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        return geometry.perspective_matrix(drawn["tilt_x"], drawn["tilt_y"], *frame), frame


class RandomResizedCrop(Operator):
    """Crop a box of random area and aspect at a random place, and resize it, with probability p.

    Args:
        scale: (min, max) area of the crop, as a share of the frame's, drawn uniformly.
        ratio: (min, max) width / height of the crop, drawn log-uniformly.
        size: of the output, pixels or (height, width). None: the size of the Augment it is in; alone, the input's.

    Where a frame cannot hold all of these boxes, the area is drawn from the areas that it can hold, and the aspect from
    those that it can hold at this area. If it holds none, the crop is the largest box of the aspect in `ratio` that is
    nearest to the frame's: only then is it smaller than the least area.

    Differs from: torchvision's, which draws both anew until they fit, ten times, and then crops the centre. So large
        crops are rarer there: with its defaults and a square frame 15 % have more than 3/4 of the area, here 27 %.
    """

    uniforms = 5

    def __init__(
        self,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        size: int | tuple[int, int] | None = None,
        p: float = 1.0,
    ):
        super().__init__(p)
        self.scale, self.ratio = _share(self, scale, "frame"), _range(self, "ratio", ratio, positive=True)
        self.size = None if size is None else output_size("RandomResizedCrop", size)

    def parameters_from(self, u: Tensor) -> Drawn:
        return {"cropped": u[:, 0] < self.p, **_box(self.scale, self.ratio, u[:, 1:5])}

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        frame_width, frame_height = frame
        sides = zip(_sides(drawn, self.scale, self.ratio, frame), frame, strict=True)
        width, height = (torch.where(drawn["cropped"], side, whole) for side, whole in sides)
        out_height, out_width = (torch.full_like(frame_width, pixels) for pixels in self.size or size)
        x0, y0 = (frame_width - width) * drawn["x"], (frame_height - height) * drawn["y"]
        return geometry.box_matrix(x0, y0, width, height, out_width, out_height), (out_width, out_height)


class CenterCrop(Operator):
    """The box of this size in the middle of the frame. It draws nothing, and so is done in validation too.

    Args:
        size: pixels of the frame, or (height, width). A frame that is smaller has padding around it.

    torchvision's validation, Resize(256) and CenterCrop(224), within 1/255 on average:
    `ImageLoader(valid, presize=256, resize_method="torchvision", augment=augment, training=False)` with
    `augment = Augment([CenterCrop(224)], size=224)`.
    """

    uniforms = 0

    def __init__(self, size: int | tuple[int, int]):
        super().__init__()
        self.size = output_size("CenterCrop", size)

    def parameters_from(self, u: Tensor) -> Drawn:
        return {}

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        height, width = (torch.full_like(frame[0], side) for side in self.size or size)
        # Whole pixels, as torchvision's: nothing is interpolated for it
        x0, y0 = ((whole - side).div(2).round() for whole, side in zip(frame, (width, height), strict=True))
        return geometry.box_matrix(x0, y0, width, height, width, height), (width, height)


# ColorJitter's parts in their order: the value that changes nothing, and the matrix.
_LIGHTING = {
    "brightness": (1.0, colors.brightness_matrix),
    "contrast": (1.0, colors.contrast_matrix),
    "saturation": (1.0, colors.saturation_matrix),
    "hue": (0.0, colors.hue_matrix),
}


class ColorJitter(Operator):
    """Change brightness, contrast, saturation and hue, in this order, with probability p.

    Args:
        brightness, contrast, saturation: (min, max) factor, at least 0, or x for (max(0, 1 - x), 1 + x).
        hue: (min, max) in turns within [-0.5, 0.5], or x for (-x, x).
    Differs from: torchvision's by a fixed order and no clamping in between; `contrast_matrix` and `hue_matrix` say
        how these two differ.
    """

    uniforms = 5

    def __init__(
        self,
        brightness: float | tuple[float, float] = 0.0,
        contrast: float | tuple[float, float] = 0.0,
        saturation: float | tuple[float, float] = 0.0,
        hue: float | tuple[float, float] = 0.0,
        p: float = 1.0,
    ):
        super().__init__(p)
        self.brightness = _range(self, "brightness", brightness, around=1.0)
        self.contrast = _range(self, "contrast", contrast, around=1.0)
        self.saturation = _range(self, "saturation", saturation, around=1.0)
        self.hue = _range(self, "hue", hue, around=0.0)
        if not -0.5 <= self.hue[0] <= self.hue[1] <= 0.5:
            raise ValueError(f"ColorJitter: expected a hue within [-0.5, 0.5] turns, got {hue}.")

    def parameters_from(self, u: Tensor) -> Drawn:
        changed = u[:, 0] < self.p
        drawn = {}
        for i, (name, (nothing, _)) in enumerate(_LIGHTING.items(), 1):
            limits = getattr(self, name)
            if limits != (nothing, nothing):  # the matrix of what is never changed would take time for nothing
                drawn[name] = torch.where(changed, _between(limits, u[:, i]), nothing)
        return drawn

    def color(self, drawn: Drawn, batch: int) -> Tensor:
        matrix = colors.identity_color(batch)
        for name, (_, build) in _LIGHTING.items():
            if name in drawn:
                matrix = colors.compose_color(build(drawn[name]), matrix)
        return matrix


class RandomErasing(Operator):
    """Fill a rectangle of random area and aspect at a random place of the output, with probability p.

    It works on the output, so it comes after all other operators; masks, boxes and points are left as they are. On a
    CPU only the rectangle's pixels are written a second time.

    Args:
        p: probability.
        scale: (min, max) area of the rectangle, as a share of the output's.
        ratio: (min, max) width / height of the rectangle, drawn log-uniformly.
        value: the colour, a number or (r, g, b) in [0, 1], normalised like the photo; "random": a colour drawn for each
            image; None: 0 in the output, which after a normalisation is its mean colour.
    Differs from: torchvision's, whose value is in output units (0 there is None here) and whose "random" is noise in
        every pixel. Torchvision tries ten times for a rectangle that fits; here area and aspect are drawn from those
        that do, as in `RandomResizedCrop`.
    """

    uniforms = 8

    def __init__(
        self,
        p: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        value: float | tuple[float, float, float] | str | None = None,
    ):
        super().__init__(p)
        self.scale, self.ratio = _share(self, scale, "output"), _range(self, "ratio", ratio, positive=True)
        self.value = _color(value)

    def parameters_from(self, u: Tensor) -> Drawn:
        drawn = {"erased": u[:, 0] < self.p, **_box(self.scale, self.ratio, u[:, 1:5])}
        return drawn | {"value": u[:, 5:8]} if self.value == "random" else drawn

    def erasure(self, drawn: Drawn, size: tuple[int, int]) -> Erasure:
        batch, extent = len(drawn["scale"]), torch.tensor([size[1], size[0]], dtype=torch.float64)
        sides = torch.stack(_sides(drawn, self.scale, self.ratio, extent.expand(batch, 2).unbind(1)), 1)
        sides = sides.round().clamp(min=1) * drawn["erased"][:, None]
        position = torch.stack([drawn["x"], drawn["y"]], 1)
        corner = torch.floor(position * (extent - sides + 1)).minimum(extent - sides)
        rectangle = torch.cat([corner, corner + sides], 1).long()
        if self.value is None or self.value == "random":
            return rectangle, drawn.get("value")
        return rectangle, torch.tensor(self.value).expand(batch, 3)


def _between(limits: tuple[float, float], u: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * u


def _box(scale: tuple[float, float], ratio: tuple[float, float], u: Tensor) -> Drawn:
    """A box of random area, aspect and place, from u [B, 4]."""
    low, high = ratio
    aspect = torch.exp(_between((math.log(low), math.log(high)), u[:, 1]))
    return {"scale": _between(scale, u[:, 0]), "ratio": aspect, "x": u[:, 2], "y": u[:, 3]}


def _sides(
    drawn: Drawn, scale: tuple[float, float], ratio: tuple[float, float], frame: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Width and height [B] of a box of the drawn area and aspect, each moved into the part of its range that fits.

    A box with the share s of a frame's area fits where its aspect is at most 1 / s times the frame's, or s times.
    """
    frame_width, frame_height = frame
    (low, high), whole = map(math.log, ratio), torch.log(frame_width / frame_height)
    apart = torch.maximum(low - whole, whole - high).clamp(min=0)  # of the frame's aspect from the range
    area = _moved(drawn["scale"], scale, torch.zeros_like(apart), torch.exp(-apart))
    given, reach = torch.log(drawn["ratio"]), -torch.log(area)
    moved = _moved(given, (low, high), whole - reach, whole + reach)
    aspect = torch.where(moved == given, drawn["ratio"], torch.exp(moved))
    area = area * frame_width * frame_height
    width, height = torch.sqrt(area * aspect), torch.sqrt(area / aspect)
    fit = torch.minimum(frame_width / width, frame_height / height).clamp(max=1.0)  # rounding; a frame that holds none
    return width * fit, height * fit


def _moved(value: Tensor, limits: tuple[float, float], least: Tensor, most: Tensor) -> Tensor:
    """A value between the limits, at the same place between those of them that lie within [least, most].

    As it was where they all do. Where none does, the limit that is nearest.
    """
    low, high = limits
    start, stop = least.clamp(low, high), most.clamp(low, high)
    place = (value - low) / (high - low) if high > low else torch.zeros_like(value)
    return torch.where((start == low) & (stop == high), value, start + place * (stop - start))


def _color(value: Any) -> tuple[float, ...] | str | None:
    """RandomErasing's value, a number as three."""
    if value is None or (isinstance(value, str) and value == "random"):
        return value
    alone = as_number(value)
    try:
        channels = (alone,) * 3 if alone == alone else tuple(map(as_number, value))
    except TypeError:
        channels = ()
    if len(channels) != 3 or not all(0 <= channel <= 1 for channel in channels):
        raise ValueError(
            "RandomErasing: expected value to be a number or (r, g, b) in [0, 1], 'random' or None, got "
            f"{value!r}. It is normalised like the photo."
        )
    return channels


def _range(
    op: Operator, name: str, value: Any, around: float | None = None, positive: bool = False
) -> tuple[float, float]:
    """(low, high) from a pair, or from one number as torchvision reads it: around ± value, factors not below 0."""
    alone, factor = as_number(value), around == 1
    if around is not None and alone >= 0:
        low, high = max(0.0, around - alone) if factor else around - alone, around + alone
    else:
        try:
            low, high = map(as_number, value)
        except (TypeError, ValueError):  # not iterable, or not two
            low = high = math.nan
    in_order = low <= high and math.isfinite(low) and math.isfinite(high)
    if not in_order or (positive and low <= 0) or (factor and low < 0):
        kind = " and above 0" if positive else " and not below 0: factors, of which 1 changes nothing" if factor else ""
        one = "" if around is None else f", or x of at least 0 for {around:g} ± x"
        raise ValueError(f"{type(op).__name__}: expected {name} as (min, max) with min <= max{kind}{one}, got {value}.")
    return low, high


def _share(op: Operator, scale: tuple[float, float], whole: str) -> tuple[float, float]:
    """(min, max) area as a share of the whole."""
    low, high = _range(op, "scale", scale, positive=True)
    if high > 1:
        raise ValueError(f"{type(op).__name__}: expected a scale of at most 1, the whole {whole}, got {scale}.")
    return low, high
