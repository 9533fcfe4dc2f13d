"""What the tests of the loader share."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastaug as fa
from fastaug.loading.loader import BatchInfo

# Sizes as in a folder of photos: landscape, portrait, square, small, large.
SIZES = [(300, 400), (400, 300), (333, 333), (120, 90), (256, 512), (700, 500), (60, 200)]
NAMES = ["astronaut", "chelsea", "coffee", "rocket", "retina"]


def make(samples: fa.Samples, **arguments: Any) -> fa.ImageLoader:
    defaults = {"batch_size": 7, "presize": 128, "device": "cpu", "return_info": True, "num_threads": 2}
    return fa.ImageLoader(samples, **{**defaults, **arguments})


def epoch(loader: fa.ImageLoader) -> tuple[Tensor, Tensor, BatchInfo]:
    """One epoch as a single batch."""
    xs, ys, infos = zip(*loader, strict=True)
    joined = BatchInfo(
        *(torch.cat([getattr(info, name) for info in infos]) for name in ("indices", "sizes", "matrix", "presize")),
        params=None,
    )
    return torch.cat(xs), torch.cat(ys), joined


def by_sample(loader: fa.ImageLoader) -> dict[int, tuple[Tensor, Tensor]]:
    x, _, info = epoch(loader)
    return {int(i): (image, matrix) for i, image, matrix in zip(info.indices, x, info.matrix, strict=True)}


def spoil(samples: fa.Samples, tmp_path: Path) -> tuple[fa.Samples, dict[str, str]]:
    """The samples with four bad files between them, and what each is called."""
    bad = {"text.jpg": b"not an image at all", "empty.jpg": b"", "cut.jpg": Path(samples.paths[0]).read_bytes()[:900]}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    names = [*bad, "missing.jpg"]
    paths = list(samples.paths)
    for position, name in zip((3, 17, 18, 40), names, strict=True):
        paths.insert(position, str(tmp_path / name))
    return fa.Samples(paths, [0] * len(paths), ["all"]), {name: str(tmp_path / name) for name in names}
