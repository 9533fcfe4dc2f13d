"""What is decided about the samples of a batch before any of their files is looked at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastaug.augment import geometry
from fastaug.augment.augment import Augment, Observe, Params
from fastaug.augment.rng import SampleUniforms
from fastaug.loading.photo import Size

_DRAWN_AT_ONCE = 256  # samples
_MOST_AHEAD = 4  # batches
_POSITION = "presize"  # the name of the draws of where its square lies


@dataclass(frozen=True)
class Draws:
    """A pure function of (seed, epoch, row of the sample), and of the sizes that the batch is drawn for.

    Attributes:
        position: float64 [B, 2] in [0, 1], (x, y): where the presize's square lies in its photo.
        presize: side of the presized images, pixels.
        params: what happens to the presized images; None without an augment.
    """

    position: Tensor
    presize: int
    params: Params | None

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
        return Draws(self.position[index], self.presize, params)

    def part(self, rows: slice | list[int]) -> Draws:
        """The same of some rows."""
        return Draws(self.position[rows], self.presize, None if self.params is None else self.params[rows])

    @property
    def output(self) -> Size:
        """(height, width) of what is made of a photo: the augment may have been set to another size since."""
        if self.params is None:
            return self.presize, self.presize
        assert self.params.size is not None, "every Augment notes it"
        return self.params.size

    def square(self, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x0, y0 and side, float64 [B] each, of the presize's square in originals of these sizes, int64 [B, 2]."""
        return geometry.presize_box(sizes, self.position)

    def presize_matrix(self, sizes: Tensor) -> Tensor:
        """Original pixels -> presized pixels, float64 [B, 3, 3]."""
        x0, y0, side = self.square(sizes)
        target = torch.full_like(side, self.presize)
        return geometry.box_matrix(x0, y0, side, side, target, target)

    def matrix(self, sizes: Tensor) -> Tensor:
        """Original pixels -> output pixels, float64 [B, 3, 3]; without an augment the presized ones are the output."""
        presize = self.presize_matrix(sizes)
        return presize if self.params is None else self.params.matrix.double() @ presize


class Ahead:
    """Draws for batches that follow each other, made for some of them at once: that takes hardly longer than for one.

    Several threads may ask, for each batch once.

    Args:
        draw: rows of the samples -> what is decided about them.
        batches: rows of the samples.
    """

    def __init__(self, draw: Callable[[np.ndarray], Draws], batches: Sequence[np.ndarray]) -> None:
        self._draw, self._batches = draw, batches
        self._at_once = min(max(_DRAWN_AT_ONCE // max(len(batches[0]), 1), 1), _MOST_AHEAD) if batches else 1
        self._made: dict[int, Draws] = {}  # those that were not asked for yet, by number of the batch
        self._lock = threading.Lock()

    def __call__(self, number: int) -> Draws:
        """Of a batch."""
        with self._lock:
            if number not in self._made:
                group = self._batches[number : number + self._at_once]
                draws, start = self._draw(np.concatenate(group)), 0
                for i, rows in enumerate(group):
                    self._made[number + i] = draws.part(slice(start, start + len(rows)))
                    start += len(rows)
            return self._made.pop(number)


def draw(
    uniforms: SampleUniforms, augment: Augment | None, presize: int, training: bool, observe: Observe | None
) -> Draws:
    """Draw for a batch; without training everything is centred and nothing random."""
    frame = presize, presize
    if not training:
        position = torch.full((uniforms.batch, 2), 0.5, dtype=torch.float64)
        return Draws(position, presize, None if augment is None else augment.without_chance(uniforms.batch, frame))
    ops = {} if augment is None else augment.named_ops()
    uniforms.make({_POSITION: 2, **{name: op.uniforms for name, op in ops.items()}})
    position = uniforms(_POSITION, 2)
    if augment is None:
        return Draws(position, presize, None)
    return Draws(position, presize, augment.draw(uniforms.batch, frame, uniforms=uniforms, observe=observe))
