"""Counter-based uniform numbers: a pure function of (seed, epoch, sample, name of the operator).

Nothing is advanced and nothing is shared, so a sample gets the same numbers whatever the batch size, the order, the
number of workers or the point at which a run was resumed. The generator is Philox4x32-10 (Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", SC 2011), vectorised over the samples in numpy.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW32 = np.uint64(0xFFFFFFFF)
_SHIFT32 = np.uint64(32)
_BLOCK_BITS = np.uint64(12)  # of the last word of the counter: four numbers each; the rest are for copies


def philox4x32(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Ten rounds of Philox4x32.

    Args:
        counter: uint64 [..., 4], each below 2**32.
        key: two words below 2**32.
    Returns:
        uint64 [..., 4], each a uniform word below 2**32.
    """
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(10):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> _SHIFT32) ^ c1 ^ np.uint64(k0),
            product1 & _LOW32,
            (product0 >> _SHIFT32) ^ c3 ^ np.uint64(k1),
            product0 & _LOW32,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)


def sample_uniforms(
    seed: int, epoch: int, indices: np.ndarray, name: str, count: int, copies: np.ndarray | int = 0
) -> np.ndarray:
    """Uniform numbers in [0, 1) for each sample.

    Args:
        seed: any integer; its lowest 64 bits count.
        epoch: 0 or more.
        indices: integer [N], rows of the data set, below 2**32.
        name: what the numbers are for, e.g. "RandomRotation"; different names give independent numbers.
        count: numbers per sample, at most 2**14.
        copies: integer [N], how often the sample came before in this epoch; its lowest 20 bits count.
    Returns:
        float64 [N, count], multiples of 2**-32.
    """
    return _uniforms_of_all(seed, epoch, indices, copies, {name: count})[name]


def _uniforms_of_all(
    seed: int, epoch: int, indices: np.ndarray, copies: np.ndarray | int, counts: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """`sample_uniforms` for several names, each with its count: in one pass, which takes hardly longer than for one."""
    blocks = max((count + 3) // 4 for count in counts.values())
    copied = (np.asarray(copies, np.uint64) << _BLOCK_BITS) & _LOW32
    counter = np.empty((len(counts), len(indices), blocks, 4), np.uint64)
    counter[..., 0] = np.asarray(indices, np.uint64)[:, None]
    counter[..., 1] = epoch & 0xFFFFFFFF
    counter[..., 2] = np.array([zlib.crc32(name.encode()) for name in counts], np.uint64)[:, None, None]
    counter[..., 3] = copied[..., None] | np.arange(blocks, dtype=np.uint64)
    words = philox4x32(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    numbers = words.reshape(len(counts), len(indices), blocks * 4) * 2.0**-32
    return {name: numbers[i, :, :count] for i, (name, count) in enumerate(counts.items())}


class Uniforms(Protocol):
    """Where operators take their random numbers from: `source(name, count)` is float64 [batch, count] in [0, 1)."""

    batch: int

    def __call__(self, name: str, count: int) -> Tensor: ...


class SampleUniforms:
    """Numbers that belong to samples: a pure function of (seed, epoch, index, name), of the copy and of the view.

    Args:
        copies: how often each sample came before in this epoch, see `sample_uniforms`.
        view: of several of each sample; the first one has the numbers that there are without views.
    """

    def __init__(
        self,
        seed: int,
        epoch: int,
        indices: np.ndarray | Tensor | list[int],
        copies: np.ndarray | int = 0,
        view: int = 0,
    ):
        self.seed, self.epoch, self.copies = seed, epoch, copies
        self.indices = np.asarray(indices, np.int64)
        self.batch = len(self.indices)
        self._view = f"@{view}" if view else ""
        self._made: dict[str, np.ndarray] = {}

    def make(self, counts: Mapping[str, int]) -> None:
        """Make the numbers that are going to be asked for, by name, at once: that is quicker."""
        counts = {name + self._view: count for name, count in counts.items()}
        self._made = _uniforms_of_all(self.seed, self.epoch, self.indices, self.copies, counts)

    def __call__(self, name: str, count: int) -> Tensor:
        name += self._view
        made = self._made.get(name)
        if made is None or made.shape[1] != count:
            made = sample_uniforms(self.seed, self.epoch, self.indices, name, count, self.copies)
        return torch.from_numpy(made)


class GeneratorUniforms:
    """Numbers from a `torch.Generator` on the CPU (None: torch's global one), in the order of the calls."""

    def __init__(self, batch: int, generator: torch.Generator | None = None):
        if generator is not None and generator.device.type != "cpu":
            raise ValueError(
                f"draw: expected a generator on the CPU, got one on {generator.device}. Parameters are drawn on the "
                "CPU and copied to the GPU in one piece; use torch.Generator()."
            )
        self.batch, self.generator = batch, generator

    def __call__(self, name: str, count: int) -> Tensor:
        return torch.rand(self.batch, count, dtype=torch.float64, generator=self.generator)
