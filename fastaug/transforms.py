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
from fastaug.warp.fill import fill_rectangles

Drawn = dict[str, Tensor]
Frame = tuple[Tensor, Tensor]  # width, height: float64 [B] each


@dataclass
class Params:
    """What was drawn for a batch: enough to apply it again, to the same images or to their masks, boxes and points.

    Attributes:
        matrix: float32 [B, 3, 3], input pixels -> output pixels, corner-origin.
        color: float32 [B, 3, 4], (r, g, b, 1) in [0, 1] -> output channels, normalisation included.
        drawn: the operators' parameters by name, e.g. `drawn["RandomRotation"]["degrees"]`, [B] each.
        size: (height, width) of the output that they were drawn for; None: that of the Augment they are applied by.
        erase: int64 [B, K, 4] or None: x0, y0, x1, y1 of the rectangles to fill, whole output pixels, x1 and y1 not
            included; nothing where x0 = x1.
        erase_color: float32 [B, K, 3] or None: what they are filled with, as output channels.
    """

    matrix: Tensor
    color: Tensor
    drawn: dict[str, Drawn] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    erase: Tensor | None = None
    erase_color: Tensor | None = None

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, rows: slice | Tensor | list[int]) -> Params:
        """The parameters of some images."""
        drawn = {name: {key: value[rows] for key, value in values.items()} for name, values in self.drawn.items()}
        erase, erase_color = (None if part is None else part[rows] for part in (self.erase, self.erase_color))
        return Params(self.matrix[rows], self.color[rows], drawn, self.size, erase, erase_color)


class Operator(nn.Module):
    """One random operator: settings, and how many uniform numbers an image needs.

    Subclasses define `parameters_from`, and either `matrix` or `color`. Called on images, an operator works alone:
    the same size out as in (unless it is a crop with a size), float in [0, 1], nothing random after `.eval()`.
    So it can be a member of other libraries' pipelines, for images only: a mask or a box that passes such a pipeline
    too is not moved. `Augment.draw` gives the matrix that moves them, see `fastaug.warp_masks`.
    """

    uniforms: ClassVar[int]  # per image
    changes_color: ClassVar[bool] = False

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
        width, height = _sides(drawn, frame)
        width = torch.where(drawn["cropped"], width, frame_width)
        height = torch.where(drawn["cropped"], height, frame_height)
        out_height, out_width = (torch.full_like(frame_width, pixels) for pixels in self.size or size)
        x0, y0 = (frame_width - width) * drawn["x"], (frame_height - height) * drawn["y"]
        return geometry.box_matrix(x0, y0, width, height, out_width, out_height), (out_width, out_height)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, ratio={self.ratio}, size={self.size}, p={self.p}"


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
        brightness, contrast, saturation: (min, max) factor, or x for (max(0, 1 - x), 1 + x).
        hue: (min, max) in turns within [-0.5, 0.5], or x for (-x, x).
    Differs from: torchvision's by a fixed order and no clamping in between; `contrast_matrix` and `hue_matrix` say
        how these two differ.
    """

    uniforms = 5
    changes_color = True

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

    def extra_repr(self) -> str:
        return (
            f"brightness={self.brightness}, contrast={self.contrast}, saturation={self.saturation}, hue={self.hue}, "
            f"p={self.p}"
        )


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
        every pixel. Torchvision tries ten times for a rectangle that fits; this one is shrunk, aspect kept, until it
        does.
    """

    uniforms = 8

    def __init__(
        self,
        p: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        value: float | tuple[float, float, float] | str | None = None,
    ):
        super().__init__()
        self.p = _probability(self, p)
        self.scale = _range(self, "scale", scale, positive=True)
        if self.scale[1] > 1:
            raise ValueError(f"RandomErasing: expected a scale of at most 1, the whole output, got {scale}.")
        self.ratio = _range(self, "ratio", ratio, positive=True)
        self.value = _color(value)

    def parameters_from(self, u: Tensor) -> Drawn:
        low, high = self.ratio
        drawn = {
            "erased": u[:, 0] < self.p,
            "scale": _between(self.scale, u[:, 1]),
            "ratio": torch.exp(_between((math.log(low), math.log(high)), u[:, 2])),
            "x": u[:, 3],
            "y": u[:, 4],
        }
        return drawn | {"value": u[:, 5:8]} if self.value == "random" else drawn

    def rectangle(self, drawn: Drawn, size: tuple[int, int]) -> Tensor:
        """int64 [B, 4]: x0, y0, x1, y1 in an output of size (height, width); nothing erased: x0 = x1 and y0 = y1."""
        extent = torch.tensor([size[1], size[0]], dtype=torch.float64)
        sides = torch.stack(_sides(drawn, extent.expand(len(drawn["scale"]), 2).unbind(1)), 1)
        sides = sides.round().clamp(min=1) * drawn["erased"][:, None]
        position = torch.stack([drawn["x"], drawn["y"]], 1)
        corner = torch.floor(position * (extent - sides + 1)).minimum(extent - sides)
        return torch.cat([corner, corner + sides], 1).long()

    def fill_color(self, drawn: Drawn, batch: int) -> Tensor | None:
        """float64 [B, 3] in [0, 1], not yet normalised; None: 0 in the output."""
        if self.value is None:
            return None
        return drawn["value"] if self.value == "random" else torch.tensor(self.value).double().expand(batch, 3)

    def extra_repr(self) -> str:
        return f"p={self.p}, scale={self.scale}, ratio={self.ratio}, value={self.value!r}"


class Augment(nn.Module):
    """Any list of operators as one 3×3 and one 3×4 matrix per image, applied in one pass over the pixels.

    Args:
        ops: operators, in the order in which they happen.
        size: of the output, pixels or (height, width). What the operators leave is resized to it in the same pass. It
            may be set to another one at any time: what was drawn before keeps the size that it was drawn for.
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
        erasing = [isinstance(op, RandomErasing) for op in ops]
        if sorted(erasing) != erasing:
            raise ValueError(
                f"Augment: expected RandomErasing after all other operators, since it works on the output, got "
                f"{', '.join(type(op).__name__ for op in ops)}."
            )
        self.ops = nn.ModuleList(ops)
        self.size = size
        self.interpolation, self.padding, self.dtype, self.backend = interpolation, padding, dtype, backend
        self.normalize = None if normalize is None else _statistics(normalize)
        self.keep_inside = keep_inside

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the output."""
        return self._size

    @size.setter
    def size(self, size: int | tuple[int, int]) -> None:
        self._size = output_size("Augment", size)

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
        return self._params(geometry.identity_matrix(batch), frame, frame, colors.identity_color(batch), self.size)

    def compose(self, drawn: dict[str, Drawn], batch: int, size: tuple[int, int] | Tensor) -> Params:
        """One matrix and one colour matrix per image from the operators' parameters, by name as `draw` made them."""
        photo = frame = _frame(batch, size)
        out_size, named = self.size, self.named_ops()
        matrix, color = geometry.identity_matrix(batch), colors.identity_color(batch)
        for name, op in named.items():
            step, frame = op.matrix(drawn[name], frame, out_size)
            matrix = step @ matrix
            if op.changes_color:
                color = colors.compose_color(op.color(drawn[name], batch), color)
        params = self._params(matrix, photo, frame, color, out_size)
        params.drawn = drawn
        erasers = [(op, drawn[name]) for name, op in named.items() if isinstance(op, RandomErasing)]
        if erasers:
            params.erase = torch.stack([op.rectangle(chosen, out_size) for op, chosen in erasers], 1)
            params.erase_color = torch.stack([self._fill(op.fill_color(c, batch), batch) for op, c in erasers], 1)
        return params

    def _fill(self, value: Tensor | None, batch: int) -> Tensor:
        """A colour [B, 3] in [0, 1] as output channels; None: 0 there."""
        if value is None:
            return torch.zeros(batch, 3)
        if self.normalize is not None:
            matrix = colors.normalize_matrix(self.normalize, batch)
            value = (matrix[:, :, :3] @ value[:, :, None])[:, :, 0] + matrix[:, :, 3]
        return value.float()

    def _params(self, matrix: Tensor, photo: Frame, frame: Frame, color: Tensor, size: tuple[int, int]) -> Params:
        height, width = size
        out_width, out_height = torch.full_like(frame[0], width), torch.full_like(frame[0], height)
        matrix = geometry.resize_matrix(*frame, out_width, out_height) @ matrix
        if self.keep_inside:
            matrix = geometry.shrink_inside(matrix, *photo, width, height)
        if self.normalize is not None:
            color = colors.compose_color(colors.normalize_matrix(self.normalize, color.shape[0]), color)
        return Params(matrix.float(), color.float(), size=size)

    def apply(self, images: Images, params: Params | None = None) -> Tensor:  # type: ignore[override]
        """Apply what was drawn, in one pass; see `fastaug.warp` for shapes and errors.

        Given a function and no params, this is `nn.Module.apply`, which a model that contains an Augment needs.
        """
        if params is None:
            return super().apply(images)  # type: ignore[arg-type, return-value]
        size = params.size or self.size
        out = warp(
            images, params.matrix, size, self.interpolation, self.padding, params.color, self.dtype, self.backend
        )
        if params.erase is None or params.erase_color is None:
            return out
        return fill_rectangles(out, params.erase, params.erase_color)

    def forward(self, images: Images) -> Tensor:
        """Draw and apply. images: as for `fastaug.warp`, or one image, for which the result is [3, height, width]."""
        if isinstance(images, Tensor) and images.dim() == 3:
            return self.forward(images[None])[0]
        sizes = image_sizes(images)
        batch = sizes.shape[0]  # not len(): that would fix the batch size of an exported graph
        params = self.draw(batch, sizes) if self.training else self.plain(batch, sizes)
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
    xtra_tfms: Sequence[Operator] = (),
    size: int | tuple[int, int] = 224,
    mode: str | None = None,
    pad_mode: str | None = None,
    align_corners: bool = False,
    batch: bool = False,
    min_scale: float = 1.0,
    **augment: object,
) -> Augment:
    """fastai's `aug_transforms`, with its names, order and defaults, as one `Augment`.

    Args:
        mult: multiplies max_rotate, max_lighting and max_warp.
        do_flip, flip_vert: with probability 0.5 a left-right flip; with flip_vert one of the square's eight symmetries.
        max_rotate: degrees.
        min_zoom, max_zoom: magnification.
        max_lighting: brightness and contrast, each drawn by itself.
        max_warp: perspective.
        p_affine, p_lighting: probability of each geometric operator, and of brightness and contrast.
        xtra_tfms: more operators, after all others.
        size: of the output.
        mode, pad_mode: fastai's names of `interpolation` and `padding`; None: theirs or their defaults count.
        align_corners, batch: False, the only value that there is here; see Raises.
        min_scale: smallest area of the final random crop, as a share; 1 = no crop.
        augment: normalize, dtype, interpolation, padding, backend, keep_inside; see `Augment`.
    Raises:
        ValueError: align_corners=True, since pixels are squares with edges here; batch=True, since every image has its
            own draw; a mode that `fastaug.warp` does not have, such as "bicubic"; both names of one setting.
    Differs from: fastai by a crop per image instead of one per batch, one interpolation instead of two, and lighting
        that is linear in the pixel instead of in its logit; both agree at mid-grey, in value and slope.
    Source: fastai 2.8.12, fastai/vision/augment.py.
    """
    augment = _fastai_settings(augment, mode, pad_mode, align_corners, batch)
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
    return Augment([*ops, *xtra_tfms], size, **augment)  # type: ignore[arg-type]


def _fastai_settings(
    augment: dict[str, object], mode: str | None, pad_mode: str | None, align_corners: bool, batch: bool
) -> dict[str, object]:
    """The settings of Augment, with those in it that came under fastai's names."""
    if align_corners:
        raise ValueError(
            "aug_transforms: expected align_corners=False, got True: a pixel is a square here, and (0, 0) the image's "
            "corner. Leave it out; the difference is a fraction of a pixel."
        )
    if batch:
        raise ValueError(
            "aug_transforms: expected batch=False, got True: every image has its own draw. Leave it out; to give a "
            "batch one draw, draw for one image and repeat its rows: params = augment.draw(1, size)[[0] * n]."
        )
    if mode is not None and mode not in ("bilinear", "nearest"):
        raise ValueError(
            f"aug_transforms: expected mode to be 'bilinear', 'nearest' or None, got {mode!r}. For the sharpest result "
            "leave it out: interpolation='antialias'."
        )
    for theirs, ours, value in (("mode", "interpolation", mode), ("pad_mode", "padding", pad_mode)):
        if value is not None and ours in augment:
            raise ValueError(
                f"aug_transforms: expected either {theirs} or {ours}, got both. They are the same setting."
            )
    named = {"interpolation": mode, "padding": pad_mode}
    return {**augment, **{name: value for name, value in named.items() if value is not None}}


def image_sizes(images: Images) -> Tensor:
    """(height, width) of each image, int64 [B, 2], for anything that `fastaug.warp` takes."""
    if isinstance(images, Tensor):
        return torch.tensor(_frame_size(images)).expand(images.shape[0], 2)
    return torch.tensor([image.shape[:2] for image in images], dtype=torch.int64).reshape(-1, 2)


def _frame_size(images: Images) -> tuple[int, int]:
    """(height, width) of a batch or of one image."""
    if not isinstance(images, Tensor):
        raise ValueError(
            "operator: expected images of one size, got a list. Give the operator to fa.Augment with a size."
        )
    height, width = images.shape[-2:] if channels_first(images) else images.shape[-3:-1]
    return height, width


def _frame(batch: int, size: tuple[int, int] | Tensor) -> Frame:
    height, width = torch.as_tensor(size, dtype=torch.float64).expand(batch, 2).unbind(1)
    return width, height


def _between(limits: tuple[float, float], u: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * u


def _sides(drawn: Drawn, frame: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Width and height [B] of a box of the drawn area and aspect; one that does not fit the frame is shrunk."""
    frame_width, frame_height = frame
    area = drawn["scale"] * frame_width * frame_height
    width, height = torch.sqrt(area * drawn["ratio"]), torch.sqrt(area / drawn["ratio"])
    fit = torch.minimum(frame_width / width, frame_height / height).clamp(max=1.0)
    return width * fit, height * fit


def _color(value: float | tuple[float, float, float] | str | None) -> tuple[float, ...] | str | None:
    """RandomErasing's value, a number as three."""
    if value is None or value == "random":
        return value
    channels = (value,) * 3 if isinstance(value, (int, float)) else value
    if isinstance(channels, str) or len(channels) != 3 or not all(0 <= channel <= 1 for channel in channels):
        raise ValueError(
            "RandomErasing: expected value to be a number or (r, g, b) in [0, 1], 'random' or None, got "
            f"{value!r}. It is normalised like the photo."
        )
    return tuple(float(channel) for channel in channels)


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
