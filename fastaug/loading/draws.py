"""What is decided about the samples of a batch before any of their files is looked at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fastaug.augment import geometry
from fastaug.augment.augment import Augment, Observe, Params
from fastaug.augment.operators import CenterCrop
from fastaug.augment.rng import SampleUniforms
from fastaug.loading.framing import FRAMINGS
from fastaug.loading.options import ResizeMethod
from fastaug.loading.photo import Size

_DRAWN_AT_ONCE = 256  # samples
_MOST_AHEAD = 4  # batches
_POSITION = "presize"  # the name of the draws of where a photo and its frame lie


@dataclass(frozen=True)
class Draws:
    """A pure function of (seed, epoch, row of the sample), and of the sizes that the batch is drawn for.

    Attributes:
        position: float64 [B, 2] in [0, 1], (x, y): where the presize's frame lies in its photo, or the photo in it.
        presize: (height, width) of the frame, pixels.
        params: what happens to the presized images; None without an augment.
        method: how photos come into the frame, see `framing`.
        kept: (height, width) of what a `CenterCrop` keeps of the frame, see `framing`.
    """

    position: Tensor
    presize: Size
    params: Params | None
    method: ResizeMethod = "crop"
    kept: Size | None = None
    _latest: list[tuple[Tensor, Tensor, Tensor]] = field(init=False, repr=False, compare=False, default_factory=list)

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, rows: Sequence[int]) -> Draws:
        """Those of some rows, which grow, without each operator's own parameters: this is called for each chunk."""
        index: slice | Tensor = torch.tensor(rows, dtype=torch.int64)
        if rows and len(rows) == rows[-1] + 1 - rows[0]:  # one after the other: views, no copies
            index = slice(rows[0], rows[-1] + 1)
        params = self.params
        if params is not None:
            params = Params(params.matrix[index], params.color[index], size=params.size)
        return replace(self, position=self.position[index], params=params)

    def part(self, rows: slice | list[int]) -> Draws:
        """The same of some rows."""
        params = None if self.params is None else self.params[rows]
        return replace(self, position=self.position[rows], params=params)

    @property
    def output(self) -> Size:
        """(height, width) of what is made of a photo: the augment may have been set to another size since."""
        if self.params is None:
            return self.presize
        assert self.params.size is not None, "every Augment notes it"
        return self.params.size

    def boxes(self, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """What of originals of these sizes, int64 [B, 2], is shown, and where in the frame: see `framing`."""
        return FRAMINGS[self.method](sizes, self.position, self.presize, self.kept)

    def presize_matrix(self, sizes: Tensor) -> Tensor:
        """Original pixels -> presized pixels, float64 [B, 3, 3]."""
        return self._matrices(sizes)[0]

    def matrix(self, sizes: Tensor) -> Tensor:
        """Original pixels -> output pixels, float64 [B, 3, 3]; without an augment the presized ones are the output."""
        return self._matrices(sizes)[1]

    def _matrices(self, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Both, which are asked for before the photos are decoded and after: made once for the same sizes."""
        for known, presize, whole in self._latest:
            if torch.equal(known, sizes):
                return presize, whole
        shown, placed = self.boxes(sizes)
        presize = geometry.box_matrix(*shown.unbind(1), *placed[:, 2:].unbind(1))
        presize[:, :2, 2] += placed[:, :2]
        whole = presize if self.params is None else self.params.matrix.double() @ presize
        self._latest[:] = [(sizes, presize, whole)]
        return presize, whole


class Ahead:
    """Draws for batches that follow each other, made for some of them at once: that takes hardly longer than for one.

    Several threads may ask, for each batch once.

    Args:
        draw: rows of the samples, and how often each came before -> what is decided about them, for each view.
        batches: (rows, how often each came before), int64 [B] each.
    """

    def __init__(
        self,
        draw: Callable[[np.ndarray, np.ndarray], Sequence[Draws]],
        batches: Sequence[tuple[np.ndarray, np.ndarray]],
    ) -> None:
        self._draw, self._batches = draw, batches
        largest = max(len(batches[0][0]), 1) if batches else 1
        self._at_once = min(max(_DRAWN_AT_ONCE // largest, 1), _MOST_AHEAD)
        self._made: dict[int, list[Draws]] = {}  # those that were not asked for yet, by number of the batch
        self._lock = threading.Lock()

    def __call__(self, number: int) -> list[Draws]:
        """Of a batch, one for each view."""
        with self._lock:
            if number not in self._made:
                group = self._batches[number : number + self._at_once]
                rows, copies = (np.concatenate(part) for part in zip(*group, strict=True))
                views, start = self._draw(rows, copies), 0
                images = len(views[0]) // max(len(rows), 1)  # of each sample
                for i, (own, _) in enumerate(group):
                    stop = start + images * len(own)
                    self._made[number + i] = [draws.part(slice(start, stop)) for draws in views]
                    start = stop
            return self._made.pop(number)


def draw(
    uniforms: SampleUniforms,
    augment: Augment | None,
    presize: int | Size,
    training: bool,
    observe: Observe | None,
    method: ResizeMethod = "crop",
) -> Draws:
    """Draw for a batch; without training everything is centred and nothing random."""
    frame = (presize, presize) if isinstance(presize, int) else presize
    if not training:
        position = torch.full((uniforms.batch, 2), 0.5, dtype=torch.float64)
        params = None if augment is None else augment.without_chance(uniforms.batch, frame, observe)
        crops = [op.size for op in ([] if augment is None else augment.ops) if isinstance(op, CenterCrop)]
        return Draws(position, frame, params, method, crops[0] if crops else None)
    ops = {} if augment is None else augment.named_ops()
    uniforms.make({_POSITION: 2, **{name: op.uniforms for name, op in ops.items() if op.uniforms}})
    position = uniforms(_POSITION, 2)
    if augment is None:
        return Draws(position, frame, None, method)
    return Draws(position, frame, augment.draw(uniforms.batch, frame, uniforms=uniforms, observe=observe), method)
