"""The Random* operators, Augment and aug_transforms: settings and draw(). No pixels here.

Drawing and applying are separate. An operator turns uniform numbers into named parameters (`parameters`), and these
into a 3×3 matrix (`matrix`) or a colour matrix (`color`); `Augment` multiplies the matrices of all its operators and
hands the product to the warp, which interpolates once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from fastaug import color as colors
from fastaug import geometry
from fastaug.rng import GeneratorUniforms, Uniforms
from fastaug.warp import Images, channels_first, output_size, warp

Drawn = dict[str, Tensor]
Frame = tuple[Tensor, Tensor]  # width, height: float64 [B] each


@dataclass
class Params:
    """What was drawn for a batch: enough to apply it again, to the same images or to their masks, boxes and points.

    Attributes:
        matrix: float32 [B, 3, 3], input pixels -> output pixels, corner-origin.
        color: float32 [B, 3, 4], (r, g, b, 1) in [0, 1] -> output channels, normalisation included.
        drawn: the operators' parameters by name, e.g. drawn["RandomRotation"]["degrees"], [B] each.
    """

    matrix: Tensor
    color: Tensor
    drawn: dict[str, Drawn] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, rows: slice | Tensor | list[int]) -> Params:
        """The parameters of some images."""
        drawn = {name: {key: value[rows] for key, value in values.items()} for name, values in self.drawn.items()}
        return Params(self.matrix[rows], self.color[rows], drawn)


class Operator(nn.Module):
    """One random operator: settings, and how many uniform numbers an image needs.

    Subclasses define `parameters`, and either `matrix` or `color`. Called on images, an operator works alone:
    the same size out as in (unless it is a crop with a size), float in [0, 1], nothing random after `.eval()`.
    """

    uniforms: ClassVar[int]  # per image

    def parameters_from(self, u: Tensor) -> Drawn:
        """Named parameters [B] from uniform numbers u, float64 [B, self.uniforms] in [0, 1)."""
        raise NotImplementedError

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        """The matrix [B, 3, 3] of the drawn parameters and the frame it leads to; size is Augment's (height, width)."""
        return geometry.identity_matrix(len(frame[0])), frame

    def color(self, drawn: Drawn, batch: int) -> Tensor:
        """The colour matrix [B, 3, 4] of the drawn parameters."""
        return colors.identity_color(batch)

    def forward(self, images: Images) -> Tensor:
        size = getattr(self, "size", None) or _frame_size(images)
        return Augment([self], size, normalize=None).train(self.training)(images)


class RandomHorizontalFlip(Operator):
    """Mirror left and right with probability p."""

    uniforms = 1

    def __init__(self, p: float = 0.5):
        super().__init__()
        self.p = _probability(self, p)

    def parameters_from(self, u: Tensor) -> Drawn:
        return {"flipped": u[:, 0] < self.p}

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        flipped = drawn["flipped"]
        return geometry.flip_matrix(flipped, torch.zeros_like(flipped), *frame), frame

    def extra_repr(self) -> str:
        return f"p={self.p}"


class RandomVerticalFlip(RandomHorizontalFlip):
    """Mirror top and bottom with probability p."""

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        flipped = drawn["flipped"]
        return geometry.flip_matrix(torch.zeros_like(flipped), flipped, *frame), frame


class RandomDihedral(Operator):
    """With probability p, one of the eight symmetries of the square, each equally likely (the identity is one).

    A frame that is not square is stretched back into its shape by the four symmetries that transpose it.
    """

    uniforms = 2

    def __init__(self, p: float = 1.0):
        super().__init__()
        self.p = _probability(self, p)

    def parameters_from(self, u: Tensor) -> Drawn:
        return {"symmetry": torch.where(u[:, 0] < self.p, torch.floor(u[:, 1] * 8), 0.0).long()}

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        symmetry = drawn["symmetry"]
        flip = geometry.flip_matrix((symmetry & 1).bool(), (symmetry & 2).bool(), *frame)
        return flip @ geometry.transpose_matrix((symmetry & 4).bool(), *frame), frame

    def extra_repr(self) -> str:
        return f"p={self.p}"


class RandomRotation(Operator):
    """Turn about the centre by a random angle, with probability p.

    Args:
        degrees: (min, max), or max for (-max, max); positive is counter-clockwise, as in torchvision.
    """

    uniforms = 2

    def __init__(self, degrees: float | tuple[float, float], p: float = 1.0):
        super().__init__()
        self.degrees = _range(self, "degrees", degrees, around=0.0)
        self.p = _probability(self, p)

    def parameters_from(self, u: Tensor) -> Drawn:
        return {"degrees": torch.where(u[:, 0] < self.p, _between(self.degrees, u[:, 1]), 0.0)}

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        return geometry.rotation_matrix(drawn["degrees"], *frame), frame

    def extra_repr(self) -> str:
        return f"degrees={self.degrees}, p={self.p}"


class RandomZoom(Operator):
    """Enlarge a window at a random place to the whole frame, with probability p, as fastai's `Zoom`.

    Args:
        scale: (min, max) magnification; 1.1 shows 1 / 1.1 of the width and of the height.
    """

    uniforms = 4

    def __init__(self, scale: tuple[float, float] = (1.0, 1.1), p: float = 1.0):
        super().__init__()
        self.scale = _range(self, "scale", scale, positive=True)
        self.p = _probability(self, p)

    def parameters_from(self, u: Tensor) -> Drawn:
        zoom = torch.where(u[:, 0] < self.p, _between(self.scale, u[:, 1]), 1.0)
        return {"zoom": zoom, "x": u[:, 2], "y": u[:, 3]}

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        position = torch.stack([drawn["x"], drawn["y"]], 1)
        return geometry.zoom_matrix(drawn["zoom"], position, *frame), frame

    def extra_repr(self) -> str:
        return f"scale={self.scale}, p={self.p}"


class RandomPerspective(Operator):
    """Tilt about the vertical and the horizontal axis, each drawn by itself with probability p, as fastai's `Warp`.

    Args:
        magnitude: largest tilt, in half frames, below 1: with 0.2 an edge is at most 1.2 and at least 0.8 as long.
    Differs from: torchvision's RandomPerspective, which moves the four corners independently, inwards only.
    """

    uniforms = 4

    def __init__(self, magnitude: float = 0.2, p: float = 0.5):
        super().__init__()
        if not 0 <= magnitude < 1:
            raise ValueError(f"RandomPerspective: expected a magnitude in [0, 1), got {magnitude}.")
        self.magnitude = float(magnitude)
        self.p = _probability(self, p)

    def parameters_from(self, u: Tensor) -> Drawn:
        tilt = _between((-self.magnitude, self.magnitude), u[:, 2:])
        tilt = torch.where(u[:, :2] < self.p, tilt, 0.0)
        return {"tilt_x": tilt[:, 0], "tilt_y": tilt[:, 1]}

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        return geometry.perspective_matrix(drawn["tilt_x"], drawn["tilt_y"], *frame), frame

    def extra_repr(self) -> str:
        return f"magnitude={self.magnitude}, p={self.p}"


class RandomResizedCrop(Operator):
    """Crop a box of random area and aspect at a random place, and resize it, with probability p.

    Args:
        scale: (min, max) area of the crop, as a share of the frame's.
        ratio: (min, max) width / height of the crop, drawn log-uniformly.
        size: of the output, pixels or (height, width). None: the size of the Augment it is in; alone, the input's.
    Differs from: torchvision's, which tries ten times and then crops the centre: a box that does not fit is shrunk,
        aspect kept, until it fits.
    """

    uniforms = 5

    def __init__(
        self,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        size: int | tuple[int, int] | None = None,
        p: float = 1.0,
    ):
        super().__init__()
        self.scale = _range(self, "scale", scale, positive=True)
        if self.scale[1] > 1:
            raise ValueError(f"RandomResizedCrop: expected a scale of at most 1, the whole frame, got {scale}.")
        self.ratio = _range(self, "ratio", ratio, positive=True)
        self.size = None if size is None else output_size("RandomResizedCrop", size)
        self.p = _probability(self, p)

    def parameters_from(self, u: Tensor) -> Drawn:
        low, high = self.ratio
        return {
            "cropped": u[:, 0] < self.p,
            "scale": _between(self.scale, u[:, 1]),
            "ratio": torch.exp(_between((math.log(low), math.log(high)), u[:, 2])),
            "x": u[:, 3],
            "y": u[:, 4],
        }

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        frame_width, frame_height = frame
        area = drawn["scale"] * frame_width * frame_height
        width, height = torch.sqrt(area * drawn["ratio"]), torch.sqrt(area / drawn["ratio"])
        fit = torch.minimum(frame_width / width, frame_height / height).clamp(max=1.0)
        width = torch.where(drawn["cropped"], width * fit, frame_width)
        height = torch.where(drawn["cropped"], height * fit, frame_height)
        out_height, out_width = (torch.full_like(frame_width, pixels) for pixels in self.size or size)
        x0, y0 = (frame_width - width) * drawn["x"], (frame_height - height) * drawn["y"]
        return geometry.box_matrix(x0, y0, width, height, out_width, out_height), (out_width, out_height)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, ratio={self.ratio}, size={self.size}, p={self.p}"


class ColorJitter(Operator):
    """Change brightness, contrast, saturation and hue, in this order, with probability p.

    Args:
        brightness, contrast, saturation: (min, max) factor, or x for (max(0, 1 - x), 1 + x).
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
        super().__init__()
        self.brightness = _range(self, "brightness", brightness, around=1.0)
        self.contrast = _range(self, "contrast", contrast, around=1.0)
        self.saturation = _range(self, "saturation", saturation, around=1.0)
        self.hue = _range(self, "hue", hue, around=0.0)
        if not -0.5 <= self.hue[0] <= self.hue[1] <= 0.5:
            raise ValueError(f"ColorJitter: expected a hue within [-0.5, 0.5] turns, got {hue}.")
        self.p = _probability(self, p)

    def parameters_from(self, u: Tensor) -> Drawn:
        changed = u[:, 0] < self.p
        limits = {n: getattr(self, n) for n in ("brightness", "contrast", "saturation", "hue")}
        return {
            name: torch.where(changed, _between(limit, u[:, i]), 0.0 if name == "hue" else 1.0)
            for i, (name, limit) in enumerate(limits.items(), 1)
        }

    def color(self, drawn: Drawn, batch: int) -> Tensor:
        matrix = colors.brightness_matrix(drawn["brightness"])
        matrix = colors.compose_color(colors.contrast_matrix(drawn["contrast"]), matrix)
        matrix = colors.compose_color(colors.saturation_matrix(drawn["saturation"]), matrix)
        return colors.compose_color(colors.hue_matrix(drawn["hue"]), matrix)

    def extra_repr(self) -> str:
        return (
            f"brightness={self.brightness}, contrast={self.contrast}, saturation={self.saturation}, hue={self.hue}, "
            f"p={self.p}"
        )


class Augment(nn.Module):
    """Any list of operators as one 3×3 and one 3×4 matrix per image, applied in one pass over the pixels.

    Args:
        ops: operators, in the order in which they happen.
        size: of the output, pixels or (height, width). What the operators leave is resized to it in the same pass.
        interpolation: "antialias", "bilinear" or "nearest".
        padding: "reflection", "border" or "zeros", beyond the photo's edges.
        normalize: (mean, std) in [0, 1] units, or None.
        dtype: of the output: torch.float32, float16 or bfloat16.
        backend: "auto", or one by name, which then runs or raises.
        keep_inside: shrink each drawn window until no output pixel lies outside the photo.

    `.eval()`: the whole frame resized, and normalised, nothing random.
    """

    def __init__(
        self,
        ops: Sequence[Operator],
        size: int | tuple[int, int],
        interpolation: str = "antialias",
        padding: str = "reflection",
        normalize: tuple[Sequence[float], Sequence[float]] | None = colors.IMAGENET,
        dtype: torch.dtype = torch.float32,
        backend: str = "auto",
        keep_inside: bool = False,
    ):
        super().__init__()
        for op in ops:
            if not isinstance(op, Operator):
                raise TypeError(
                    f"Augment: expected operators such as fa.RandomRotation(10), got {type(op).__name__}. Operators of "
                    "other libraries resample by themselves; use them before or after Augment."
                )
        self.ops = nn.ModuleList(ops)
        self.size = output_size("Augment", size)
        self.interpolation, self.padding, self.dtype, self.backend = interpolation, padding, dtype, backend
        self.normalize = None if normalize is None else _statistics(normalize)
        self.keep_inside = keep_inside

    def named_ops(self) -> dict[str, Operator]:
        """The operators by the name of their draws: the class, numbered where it comes more than once."""
        named: dict[str, Operator] = {}
        for op in cast("list[Operator]", list(self.ops)):
            name = type(op).__name__
            earlier = sum(type(other) is type(op) for other in named.values())
            named[f"{name}-{earlier + 1}" if earlier else name] = op
        return named

    def draw(
        self,
        batch: int,
        size: tuple[int, int] | Tensor,
        generator: torch.Generator | None = None,
        uniforms: Uniforms | None = None,
    ) -> Params:
        """Draw parameters for a batch, whatever mode the module is in; see `Params`.

        Args:
            batch: number of images.
            size: (height, width) of the input, or integer [batch, 2] where the images differ.
            generator: on the CPU; None: torch's global one.
            uniforms: another source of random numbers instead, such as `rng.SampleUniforms`.
        """
        source = uniforms or GeneratorUniforms(batch, generator)
        if source.batch != batch:
            raise ValueError(f"draw: expected uniforms for {batch} images, got them for {source.batch}.")
        drawn = {name: op.parameters_from(source(name, op.uniforms)) for name, op in self.named_ops().items()}
        return self.compose(drawn, batch, size)

    def plain(self, batch: int, size: tuple[int, int] | Tensor) -> Params:
        """Parameters with nothing random: the whole frame resized, and normalised."""
        frame = _frame(batch, size)
        return self._params(geometry.identity_matrix(batch), frame, frame, colors.identity_color(batch), {})

    def compose(self, drawn: dict[str, Drawn], batch: int, size: tuple[int, int] | Tensor) -> Params:
        """One matrix and one colour matrix per image from the operators' parameters, by name as `draw` made them."""
        photo = frame = _frame(batch, size)
        matrix, color = geometry.identity_matrix(batch), colors.identity_color(batch)
        for name, op in self.named_ops().items():
            step, frame = op.matrix(drawn[name], frame, self.size)
            matrix = step @ matrix
            color = colors.compose_color(op.color(drawn[name], batch), color)
        return self._params(matrix, photo, frame, color, drawn)

    def _params(self, matrix: Tensor, photo: Frame, frame: Frame, color: Tensor, drawn: dict[str, Drawn]) -> Params:
        height, width = self.size
        out_width, out_height = torch.full_like(frame[0], width), torch.full_like(frame[0], height)
        matrix = geometry.resize_matrix(*frame, out_width, out_height) @ matrix
        if self.keep_inside:
            matrix = geometry.shrink_inside(matrix, *photo, width, height)
        if self.normalize is not None:
            color = colors.compose_color(colors.normalize_matrix(self.normalize, len(color)), color)
        return Params(matrix.float(), color.float(), drawn)

    def apply(self, images: Images, params: Params | None = None) -> Tensor:  # type: ignore[override]
        """Apply what was drawn, in one pass; see `fastaug.warp` for shapes and errors.

        Given a function and no params, this is `nn.Module.apply`, which a model that contains an Augment needs.
        """
        if params is None:
            return super().apply(images)  # type: ignore[arg-type, return-value]
        return warp(
            images, params.matrix, self.size, self.interpolation, self.padding, params.color, self.dtype, self.backend
        )

    def forward(self, images: Images) -> Tensor:
        """Draw and apply. images: as for `fastaug.warp`, or one image, for which the result is [3, height, width]."""
        if isinstance(images, Tensor) and images.dim() == 3:
            return self.forward(images[None])[0]
        sizes = image_sizes(images)
        params = self.draw(len(sizes), sizes) if self.training else self.plain(len(sizes), sizes)
        return self.apply(images, params)

    def extra_repr(self) -> str:
        return (
            f"size={self.size}, interpolation={self.interpolation!r}, padding={self.padding!r}, "
            f"normalize={self.normalize}, dtype={self.dtype}, backend={self.backend!r}, keep_inside={self.keep_inside}"
        )


def aug_transforms(
    mult: float = 1.0,
    do_flip: bool = True,
    flip_vert: bool = False,
    max_rotate: float = 10.0,
    min_zoom: float = 1.0,
    max_zoom: float = 1.1,
    max_lighting: float = 0.2,
    max_warp: float = 0.2,
    p_affine: float = 0.75,
    p_lighting: float = 0.75,
    size: int | tuple[int, int] = 224,
    min_scale: float = 1.0,
    **augment: object,
) -> Augment:
    """fastai's `aug_transforms`, with its names and defaults, as one `Augment`.

    Args:
        mult: multiplies max_rotate, max_lighting and max_warp.
        do_flip, flip_vert: with probability 0.5 a left-right flip; with flip_vert one of the square's eight symmetries.
        max_rotate: degrees.
        min_zoom, max_zoom: magnification.
        max_lighting: brightness and contrast, each drawn by itself.
        max_warp: perspective.
        p_affine, p_lighting: probability of each geometric operator, and of brightness and contrast.
        size: of the output.
        min_scale: smallest area of the final random crop, as a share; 1 = no crop.
        augment: normalize, dtype, interpolation, padding, backend, keep_inside; see `Augment`.
    Differs from: fastai by a crop per image instead of one per batch, one interpolation instead of two, and lighting
        that is linear in the pixel instead of in its logit; both agree at mid-grey, in value and slope.
    Source: fastai 2.8.12, fastai/vision/augment.py.
    """
    max_rotate, max_lighting, max_warp = max_rotate * mult, max_lighting * mult, max_warp * mult
    ops: list[Operator] = []
    if do_flip:
        ops.append(RandomDihedral(p=0.5) if flip_vert else RandomHorizontalFlip())
    if max_warp:
        ops.append(RandomPerspective(max_warp, p=p_affine))
    if max_rotate:
        ops.append(RandomRotation(max_rotate, p=p_affine))
    if min_zoom < 1 or max_zoom > 1:
        ops.append(RandomZoom((min_zoom, max_zoom), p=p_affine))
    if max_lighting:
        ops.append(ColorJitter(brightness=max_lighting, p=p_lighting))
        ops.append(ColorJitter(contrast=(1 - max_lighting, 1 / (1 - max_lighting)), p=p_lighting))
    if min_scale != 1:
        ops.append(RandomResizedCrop((min_scale, 1.0), (1.0, 1.0)))
    return Augment(ops, size, **augment)  # type: ignore[arg-type]


def image_sizes(images: Images) -> Tensor:
    """(height, width) of each image, int64 [B, 2], for anything that `fastaug.warp` takes."""
    if isinstance(images, Tensor):
        return torch.tensor(_frame_size(images)).expand(len(images), 2)
    return torch.tensor([image.shape[:2] for image in images], dtype=torch.int64).reshape(-1, 2)


def _frame_size(images: Images) -> tuple[int, int]:
    """(height, width) of a batch or of one image."""
    if not isinstance(images, Tensor):
        raise ValueError(
            "operator: expected images of one size, got a list. Give the operator to fa.Augment with a size."
        )
    height, width = images.shape[-2:] if channels_first(images) else images.shape[-3:-1]
    return int(height), int(width)


def _frame(batch: int, size: tuple[int, int] | Tensor) -> Frame:
    height, width = torch.as_tensor(size, dtype=torch.float64).expand(batch, 2).unbind(1)
    return width, height


def _between(limits: tuple[float, float], u: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * u


def _probability(op: Operator, p: float) -> float:
    if not 0 <= p <= 1:
        raise ValueError(f"{type(op).__name__}: expected a probability p in [0, 1], got {p}.")
    return float(p)


def _range(
    op: Operator, name: str, value: float | tuple[float, float], around: float | None = None, positive: bool = False
) -> tuple[float, float]:
    """(low, high) from a pair, or from one number as torchvision reads it: around ± value, factors not below 0."""
    if isinstance(value, (int, float)):
        if around is None or value < 0:
            raise ValueError(f"{type(op).__name__}: expected {name} as (min, max), got {value}.")
        value = (max(0.0, around - value) if around else 0.0 - value, around + value)
    low, high = float(value[0]), float(value[1])
    if not (low <= high and math.isfinite(low) and math.isfinite(high)) or (positive and low <= 0):
        raise ValueError(
            f"{type(op).__name__}: expected {name} as (min, max) with min <= max{' and above 0' if positive else ''}, "
            f"got {value}."
        )
    return low, high


def _statistics(normalize: tuple[Sequence[float], Sequence[float]]) -> colors.Statistics:
    mean, std = normalize
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(
            f"normalize: expected (mean, std) with three values each in [0, 1] units and std above 0, got {normalize}."
        )
    return colors.Statistics(tuple(map(float, mean)), tuple(map(float, std)))  # type: ignore[arg-type]
