"""What a loader with a cache delivers, computed without loader and cache; and comparison with it."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor

import fastaug as fa
from fastaug.augment.rng import SampleUniforms
from fastaug.loading.decode import make_decoder
from fastaug.loading.draws import draw
from fastaug.loading.modes import MODES
from fastaug.loading.photo import Photo
from fastaug.loading.resize import resize
from fastaug.samples.sources import read_bytes
from tests.factories import make_loader

AUGMENT = fa.aug_transforms(size=24, min_scale=0.75)
CACHE_SIZE = 64


def make_cached(samples: fa.Samples, cache: Any, **arguments: Any) -> fa.ImageLoader:
    """With every sample in each epoch, and no scale of JPEG, so that pixels are those of `kept`."""
    defaults = {"batch_size": 5, "presize": 48, "augment": AUGMENT, "drop_last": False, "scale": "exact"}
    if cache is not None:
        defaults |= {"cache": cache, "cache_size": CACHE_SIZE}
    return make_loader(samples, **{**defaults, **arguments})


@functools.lru_cache(1000)
def kept(content: bytes, cache_size: int | None) -> Photo:
    """What a cache keeps of a file: the whole photo, upright, its short side at most `cache_size`."""
    (photo,) = make_decoder("jpeg", scale="exact").decode([content])
    assert isinstance(photo, Photo), photo
    (height, width), short = photo.size, min(photo.size)
    if cache_size is None or short <= cache_size:
        return photo
    out = np.empty((round(height * cache_size / short), round(width * cache_size / short), 3), np.uint8)
    resize(np.ascontiguousarray(photo.pixels.numpy()), (0, 0, width, height), out)
    return Photo(torch.from_numpy(out), np.diag([out.shape[1] / width, out.shape[0] / height, 1.0]), photo.size)


def photos_by_hand(samples: fa.Samples, rows: list[int], cache_size: int | None) -> list[Photo]:
    """What is kept of the files of some rows, as they are now."""
    contents = [read_bytes(samples.paths[row]) for row in rows]
    assert all(isinstance(content, bytes) for content in contents), contents
    return [kept(content, cache_size) for content in contents if isinstance(content, bytes)]


def images_by_hand(loader: fa.ImageLoader, rows: list[int], epoch: int, cache_size: int | None) -> Tensor:
    """x of these rows. cache_size: None without a cache."""
    draws = draw(SampleUniforms(loader.seed, epoch, rows), loader.augment, loader.presize, loader.training, None)
    decoder, mode = make_decoder("jpeg"), MODES[loader.mode]()
    photos = photos_by_hand(loader.samples, rows, cache_size)
    sizes = [photo.size for photo in photos]
    photos = decoder.resize(photos, mode.resizing(photos, mode.needs(draws, sizes), draws))
    if draws.params is None or loader.augment is None:
        return torch.stack([photo.pixels for photo in photos])
    back = torch.linalg.inv(torch.from_numpy(np.array([photo.matrix for photo in photos])))
    matrix, augment = (draws.matrix(torch.tensor(sizes)) @ back).float(), loader.augment
    how = augment.size, augment.interpolation, augment.padding, draws.params.color
    return fa.warp([photo.pixels for photo in photos], matrix, *how)


def assert_right(
    loader: fa.ImageLoader, epoch: int, cache_size: int | None = CACHE_SIZE, batches: Iterable[Any] | None = None
) -> list[int]:
    """The loader's next batches are, bit for bit, those of this epoch by hand. Returns the rows that came.

    batches: those to look at; None: all of the epoch, which the loader is set to.
    """
    if batches is None:
        loader.set_epoch(epoch)
        batches = loader
    seen: list[int] = []
    for x, y, info in batches:
        rows = info.indices.tolist()
        expected = images_by_hand(loader, rows, epoch, cache_size)
        assert (x.shape, x.dtype) == (expected.shape, expected.dtype)
        wrong = [
            loader.samples.paths[row] for row, a, b in zip(rows, x, expected, strict=True) if not torch.equal(a, b)
        ]
        assert not wrong, f"wrong pixels in epoch {epoch}: {wrong}"
        assert y.tolist() == [loader.samples.targets[row] for row in rows], "other targets"
        sizes = [list(photo.size) for photo in photos_by_hand(loader.samples, rows, None)]
        assert info.sizes.tolist() == sizes, "other sizes of the originals"
        seen += rows
    assert len(set(seen)) == len(seen), "a sample came twice"
    return seen


def served(loader: fa.ImageLoader) -> tuple[int, int]:
    """Images of the latest epoch: (from the cache, decoded)."""
    stats = loader.stats()
    return stats.cached, stats.decoded


def write_crowd(folder: Path, count: int = 12) -> fa.Samples:
    """Small photographs, all different, wide, high, and smaller than CACHE_SIZE."""
    picture = Image.fromarray(skimage.data.chelsea())
    for i in range(count):
        width, height = ((120, 90), (70, 100), (50, 40))[i % 3]
        cut = picture.crop((i * 5, i, i * 5 + 120, i + 100)).resize((width, height))
        cut.save(folder / f"{i:03}.jpg", quality=85)
    paths = sorted(str(path) for path in folder.glob("*.jpg"))
    return fa.Samples(paths, [i % 3 for i in range(count)], ["a", "b", "c"])


def slots(folder: Path, samples: fa.Samples, cache_size: int = CACHE_SIZE) -> list[int]:
    """The rows whose pixels, as the files are now, lie in a folder's `pixels`; a row for each time that they do."""
    with open(folder / "pixels", "rb") as file:
        content = file.read(os.stat(folder / "pixels").st_blocks * 512 + (1 << 16))  # the rest was never written
    found, places = [], []
    for row in range(len(samples)):
        (photo,) = photos_by_hand(samples, [row], cache_size)
        pixels, at = photo.pixels.numpy().tobytes(), -1
        while (at := content.find(pixels, at + 1)) >= 0:
            found.append(row)
            places.append((at, len(pixels)))
    places.sort()
    assert all(a + length <= b for (a, length), (b, _) in pairwise(places)), "slots that overlap"
    return found
