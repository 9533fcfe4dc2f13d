"""Operator and Augment: draw, compose, apply.

Drawing and applying are separate. An operator turns uniform numbers into named parameters (`parameters_from`), and
these into a 3×3 matrix (`matrix`) or a colour matrix (`color`); `Augment` multiplies the matrices of all its operators
and hands the product to the warp, which interpolates once.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from fastaug.augment import color as colors
from fastaug.augment import geometry
from fastaug.augment.rng import GeneratorUniforms, Uniforms
from fastaug.text import html_table
from fastaug.warping.fill import fill_rectangles
from fastaug.warping.warp import (
    Backend,
    Call,
    Images,
    Interpolation,
    Padding,
    as_batch,
    channels_first,
    check_settings,
    output_size,
    warp,
    warp_together,
)

Drawn = dict[str, Tensor]
Frame = tuple[Tensor, Tensor]  # width, height: float64 [B] each
FAR_ABOVE_ONE = 8.0  # no float image in [0, 1] units reaches it, normalised or made brighter; one of 0 to 255 does
Erasure = tuple[Tensor, Tensor | None]  # rectangle, colour: see Operator.erasure
Normalize = tuple[Sequence[float], Sequence[float]] | nn.Module  # mean and std, or the model that wants them


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
    """One random operator, and the base class of your own.

    A subclass says how many random numbers an image needs (`uniforms`), makes named parameters of them
    (`parameters_from`), and what these do: a `matrix`, a `color` or an `erasure`. It sees no pixels and draws nothing
    elsewhere, so both modes of the loader, every backend, masks, points and boxes have it as they have ours.

    Called on images, an operator works alone: the same size out as in (unless it has a `size`), float in [0, 1],
    nothing random after `.eval()`. So it can be a member of other libraries' pipelines, for images only: a mask or a
    box that passes such a pipeline too is not moved. `Augment.draw` gives the matrix that moves them, see
    `fastaug.warp_masks`.

    Args:
        p: probability, for `parameters_from` to heed.
    Attributes:
        uniforms: random numbers per image. An operator with 0 is not random: it is done after `.eval()` too.
        size: (height, width) of the output where the operator works alone; None: that of the images.
    Raises:
        ValueError: p outside [0, 1].
    """

    uniforms: ClassVar[int]
    size: tuple[int, int] | None = None

    def __init__(self, p: float = 1.0):
        super().__init__()
        self.p = as_number(p)
        if not 0 <= self.p <= 1:
            raise ValueError(f"{type(self).__name__}: expected a probability p in [0, 1], got {p}.")

    def parameters_from(self, u: Tensor) -> Drawn:
        """What is drawn for a batch.

        Args:
            u: float64 [B, uniforms], independent and uniform in [0, 1).
        Returns:
            Tensors [B] or [B, …] by name, from which `matrix`, `color` and `erasure` follow without further chance.
        """
        raise NotImplementedError

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        """Where the image's points go.

        Args:
            drawn: what `parameters_from` made.
            frame: (width, height) of the rectangle [0, width) × [0, height) to work in, float64 [B] each.
            size: (height, width) of the output.
        Returns:
            float [B, 3, 3], from points (x, y, 1) of the frame to those of the next one, corner-origin, third
            coordinate above 0 on all that is to be seen; and that next frame, which is the same but after a crop.
        """
        return geometry.identity_matrix(len(frame[0])), frame

    def color(self, drawn: Drawn, batch: int) -> Tensor | None:
        """Float [batch, 3, 4], from (r, g, b, 1) in [0, 1] to the new (r, g, b); None: as they are."""
        return None

    def erasure(self, drawn: Drawn, size: tuple[int, int]) -> Erasure | None:
        """A rectangle of the output to fill. What defines it comes after all operators that do not.

        Args:
            drawn: what `parameters_from` made.
            size: (height, width) of the output.
        Returns:
            int64 [B, 4], x0, y0, x1, y1 in whole pixels of the output, x1 and y1 not included, nothing where x0 = x1;
            and its colour, float [B, 3] in [0, 1], normalised like the image, or None for 0 in the output.
        """
        return None

    def forward(self, images: Images) -> Tensor:
        where, one = type(self).__name__, isinstance(images, Tensor) and images.dim() == 3
        as_batch(where, images[None] if one else images)  # type: ignore[call-overload]
        alone = Augment([self], self.size or _frame_size(images), normalize=None).train(self.training)
        return alone.transform(images, where)

    def extra_repr(self) -> str:
        """The arguments of `__init__` that are kept under their names."""
        kept = vars(self)
        return ", ".join(f"{name}={kept[name]!r}" for name in inspect.signature(type(self)).parameters if name in kept)


class Step(NamedTuple):
    """What one operator does to a batch; see `Operator` for its parts."""

    drawn: Drawn
    matrix: Tensor
    frame: Frame  # the next one
    color: Tensor | None
    erasure: Erasure | None


Observe = Callable[[str, Callable[[], Step]], Step]
Parameters = Callable[[str, Operator], Drawn]  # of an operator, by the name of its draws


class Augment(nn.Module):
    """Any list of operators as one 3×3 and one 3×4 matrix per image, applied in one pass over the pixels.

    Args:
        ops: operators, in the order in which they happen.
        size: of the output, pixels or (height, width). What the operators leave is resized to it in the same pass. It
            may be set to another one at any time: what was drawn before keeps the size that it was drawn for.
        interpolation: "antialias", "bilinear" or "nearest".
        padding: "reflection", "border" or "zeros", beyond the photo's edges.
        normalize: (mean, std) of three channels, or of one for all, in [0, 1] units; or a model, for what its
            pretrained weights want (see `fastaug.training.models.model_statistics`); or None.
        dtype: of the output: torch.float32, float16 or bfloat16.
        backend: "auto", or one by name, which then runs or raises.
        keep_inside: shrink each drawn window until no output pixel lies outside the photo.

    `.eval()`: the whole frame resized, and normalised, nothing random; operators that draw nothing, such as
    `CenterCrop`, are done.
    """

    def __init__(
        self,
        ops: Sequence[Operator],
        size: int | tuple[int, int],
        interpolation: Interpolation = "antialias",
        padding: Padding = "reflection",
        normalize: Normalize | None = colors.IMAGENET,
        dtype: torch.dtype = torch.float32,
        backend: Backend = "auto",
        keep_inside: bool = False,
    ):
        super().__init__()
        if isinstance(ops, Operator):
            raise TypeError(f"Augment: expected a list of operators, got {type(ops).__name__}. Put it into a list.")
        for op in ops:
            if not isinstance(op, Operator):
                raise TypeError(
                    f"Augment: expected operators such as fa.RandomRotation(10), got {type(op).__name__}. Operators of "
                    "other libraries resample by themselves; use them before or after Augment."
                )
        names, erasing = [type(op).__name__ for op in ops], [type(op).erasure is not Operator.erasure for op in ops]
        if sorted(erasing) != erasing:
            raise ValueError(
                f"Augment: expected {names[erasing.index(True)]} after all other operators, since it works on the "
                f"output, got {', '.join(names)}."
            )
        check_settings("Augment", interpolation, padding, dtype, backend)
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

    def with_size(self, size: int | tuple[int, int]) -> Self:
        """The same augmentation, operators shared, with another size of the output."""
        other = copy.copy(self)
        other.size = size
        return other

    def named_ops(self) -> dict[str, Operator]:
        """The operators by the name of their draws: the class, numbered where it comes more than once."""
        named: dict[str, Operator] = {}
        for op in cast("list[Operator]", list(self.ops)):
            name = type(op).__name__
            earlier = sum(type(other).__name__ == name for other in named.values())
            named[f"{name}-{earlier + 1}" if earlier else name] = op
        return named

    def draw(
        self,
        batch: int,
        size: tuple[int, int] | Tensor,
        generator: torch.Generator | None = None,
        uniforms: Uniforms | None = None,
        observe: Observe | None = None,
    ) -> Params:
        """Draw parameters for a batch, whatever mode the module is in; see `Params`.

        Args:
            batch: number of images.
            size: (height, width) of the input, or integer [batch, 2] where the images differ.
            generator: on the CPU; None: torch's global one.
            uniforms: another source of random numbers instead, such as `rng.SampleUniforms`.
            observe: called once for each operator, in order, with the name of its draws and a function that draws and
                returns its `Step`, or raises; it returns that step.
        Raises:
            ValueError: uniforms for another batch; an operator that returns shapes other than it should.
        """
        source = uniforms or GeneratorUniforms(batch, generator)
        if source.batch != batch:
            raise ValueError(f"draw: expected uniforms for {batch} images, got them for {source.batch}.")
        return self._compose(
            lambda name, op: op.parameters_from(source(name, op.uniforms)), _frame(batch, size), observe
        )

    def without_chance(self, batch: int, size: tuple[int, int] | Tensor, observe: Observe | None = None) -> Params:
        """Parameters with nothing random: the whole frame resized and normalised, after operators that draw nothing."""
        nothing = torch.empty(batch, 0, dtype=torch.float64)
        return self._compose(lambda name, op: op.parameters_from(nothing), _frame(batch, size), observe, chance=False)

    def compose(
        self, drawn: dict[str, Drawn], batch: int, size: tuple[int, int] | Tensor, observe: Observe | None = None
    ) -> Params:
        """One matrix and one colour matrix per image from the operators' parameters, by name as `draw` made them."""
        return self._compose(lambda name, op: drawn[name], _frame(batch, size), observe)

    def _compose(self, parameters: Parameters, photo: Frame, observe: Observe | None, chance: bool = True) -> Params:
        """chance: with the operators that draw."""
        frame, batch, out_size = photo, photo[0].shape[0], self.size
        matrix, color = geometry.identity_matrix(batch), colors.identity_color(batch)
        drawn, erasures = {}, []
        for name, op in self.named_ops().items():
            if op.uniforms and not chance:
                continue
            take = partial(_step, name, op, parameters, frame, batch, out_size)
            step = take() if observe is None else observe(name, take)
            drawn[name], frame = step.drawn, step.frame
            matrix = step.matrix @ matrix
            if step.color is not None:
                color = colors.compose_color(step.color, color)
            if step.erasure is not None:
                erasures.append(step.erasure)
        params = self._params(matrix, photo, frame, color, out_size)
        params.drawn = drawn
        if erasures:
            params.erase = torch.stack([rectangle for rectangle, _ in erasures], 1)
            params.erase_color = torch.stack([self._fill(value, batch) for _, value in erasures], 1)
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
        return _erased(warp(*self._call(images, params)), params)

    def _call(self, images: Images, params: Params) -> Call:
        how = self.interpolation, self.padding, params.color, self.dtype, self.backend
        return Call(images, params.matrix, params.size or self.size, *how)

    def forward(self, images: Images) -> Tensor:
        """Draw and apply. images: as for `fastaug.warp`, or one image, for which the result is [3, height, width].

        Raises:
            TypeError, ValueError: images that are none; on a CPU floats of 0 to 255, where colours are counted in
                [0, 1]: with a normalisation, or an operator of colour.
        """
        return self.transform(images, "Augment")

    def transform(self, images: Images, where: str) -> Tensor:
        """`forward`, under the name that its errors begin with."""
        if isinstance(images, Tensor) and images.dim() == 3:
            return self.transform(images[None], where)[0]
        as_batch(where, images)
        if self.normalize is not None or any(type(op).color is not Operator.color for op in self.named_ops().values()):
            _check_unit(where, images)
        sizes = image_sizes(images)
        batch = sizes.shape[0]  # not len(): that would fix the batch size of an exported graph
        params = self.draw(batch, sizes) if self.training else self.without_chance(batch, sizes)
        return self.apply(images, params)

    def extra_repr(self) -> str:
        names = [name for name in inspect.signature(Augment).parameters if name != "ops"]
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _repr_html_(self) -> str:
        """For notebooks: the operators, in order."""
        rows = [(name, op.extra_repr()) for name, op in self.named_ops().items()]
        return html_table(f"Augment({self.extra_repr()})", rows, ("operator", "settings"))


def apply_together(each: Sequence[tuple[Augment, Images, Params]]) -> list[Tensor]:
    """`Augment.apply` for several views of as many images, in less time than one after the other takes."""
    if len(each) < 2 or any(type(augment).apply is not Augment.apply for augment, _, _ in each):
        return [augment.apply(images, params) for augment, images, params in each]
    outs = warp_together([augment._call(images, params) for augment, images, params in each])
    return [_erased(out, params) for out, (_, _, params) in zip(outs, each, strict=True)]


def _erased(out: Tensor, params: Params) -> Tensor:
    if params.erase is None or params.erase_color is None:
        return out
    return fill_rectangles(out, params.erase, params.erase_color)


def _step(name: str, op: Operator, parameters: Parameters, frame: Frame, batch: int, size: tuple[int, int]) -> Step:
    drawn = parameters(name, op)
    matrix, frame = op.matrix(drawn, frame, size)
    color, erasure = op.color(drawn, batch), op.erasure(drawn, size)
    matrix = _shaped(name, "matrix", matrix, batch, 3, 3).double()
    if color is not None:
        color = _shaped(name, "color", color, batch, 3, 4).double()
    if erasure is not None:
        rectangle, value = erasure
        _shaped(name, "rectangle in erasure", rectangle, batch, 4)
        if value is not None:
            value = _shaped(name, "colour in erasure", value, batch, 3).double()
        erasure = rectangle.long(), value
    return Step(drawn, matrix, frame, color, erasure)


def _shaped(name: str, what: str, value: Tensor, *shape: int) -> Tensor:
    if value.shape != shape:
        raise ValueError(
            f"Augment: expected the {what} of {name} as {list(shape)}, got {list(value.shape)}. Return one for each "
            "image of the batch."
        )
    return value


def image_sizes(images: Images) -> Tensor:
    """(height, width) of each image, int64 [B, 2], for anything that `fastaug.warp` takes."""
    if isinstance(images, Tensor):
        return torch.tensor(_frame_size(images)).expand(images.shape[0], 2)
    return torch.tensor([_frame_size(image) for image in images], dtype=torch.int64).reshape(-1, 2)


def _frame_size(images: Images) -> tuple[int, int]:
    """(height, width) of a batch or of one image."""
    if not isinstance(images, Tensor):
        raise ValueError(
            "operator: expected images of one size, got a list. Give the operator to fa.Augment with a size."
        )
    height, width = images.shape[-2:] if channels_first(images) else images.shape[-3:-1]
    return height, width


def _check_unit(where: str, images: Images) -> None:
    """Raise where floats on a CPU are 0 to 255. Every 16th row and column is looked at; a GPU would have to wait."""
    if torch.compiler.is_compiling():
        return
    for part in [images] if isinstance(images, Tensor) else images:
        if part.is_floating_point() and part.device.type == "cpu" and part.numel():
            largest = float(part.detach()[..., ::16, ::16].amax())
            if largest > FAR_ABOVE_ONE:
                raise ValueError(
                    f"{where}: expected floats in [0, 1], got up to {largest:.0f}. Divide by 255, or give bytes: "
                    "images.to(torch.uint8)."
                )


def _frame(batch: int, size: tuple[int, int] | Tensor) -> Frame:
    size = size if isinstance(size, Tensor) else torch.tensor(output_size("draw", size))
    height, width = size.double().expand(batch, 2).unbind(1)
    return width, height


def _statistics(normalize: Normalize) -> colors.Statistics:
    normalize = colors.model_statistics(normalize) if isinstance(normalize, nn.Module) else normalize
    try:
        mean, std = ([as_number(value) for value in part] for part in normalize)
    except (TypeError, ValueError):  # not two, or not iterable
        mean, std = [], []
    if len(mean) == len(std) == 1:  # for grey images
        mean, std = mean * 3, std * 3
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, [*mean, *std])) or min(std) <= 0 or max(mean) > 1:
        hint = " Divide by 255." if len(mean) == 3 and max(mean) > 1 else ""
        raise ValueError(
            "normalize: expected (mean, std) with three values each, or one, in [0, 1] units and std above 0, got "
            f"{normalize}.{hint}"
        )
    return colors.Statistics(tuple(mean), tuple(std))  # type: ignore[arg-type]


def as_number(value: object) -> float:
    """A number of any library's as a float; nan for what is none."""
    try:
        return math.nan if isinstance(value, str) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # numpy and torch have their own for arrays
        return math.nan
