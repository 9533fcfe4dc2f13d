"""What a loader must deliver: the plan of its batches, and each image by a plain loader, one at a time.

An image is noted as its row and three checksums, of pixels, target and place, so that what processes delivered can be
written down and compared bit for bit.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastaug as fa
from fastaug.loading.decode import has_dali
from fastaug.loading.order import batch_bounds, batch_count, copies_of, epoch_order, shard_order, weighted_order
from tests.soaking.datasets import DataSet

Image = list[Any]  # row of the samples, checksums of its pixels, its target, and where it comes from
Settings = dict[str, Any]  # of an ImageLoader
HOW = ("num_threads", "prefetch_batches", "shard", "batch_size", "drop_last", "cache", "cache_bytes")
PARTS = ("row", "pixels", "target", "place")


def draw_settings(rng: random.Random, data: DataSet, **given: Any) -> Settings:
    """What decides which images come and what they look like. `batch_size` is drawn by `draw_batch_size`."""
    size = rng.choice([8, 16, 24, (16, 24)])
    presize: int | tuple[int, int] = rng.choice([32, 40, 20])
    if isinstance(size, tuple):
        presize = (32, 48)
    mode = rng.choice(["resize", "direct"])
    augment: fa.Augment | None = rng.choice(
        [
            fa.aug_transforms(size=size, min_scale=0.75),
            fa.aug_transforms(size=size, mult=2, flip_vert=True, max_zoom=1.5, pad_mode="zeros"),
            fa.Augment([fa.RandomResizedCrop((0.3, 1.0)), fa.RandomHorizontalFlip(), fa.RandomErasing()], size),
            fa.Augment([fa.CenterCrop(20)], size, normalize=None),
            fa.aug_transforms(size=size, mode="nearest", keep_inside=True, max_rotate=45),
        ]
    )
    if mode == "resize" and rng.random() < 0.15:
        augment = None
    settings: Settings = {
        "mode": mode,
        "augment": augment,
        "presize": presize,
        "seed": rng.choice([0, rng.randrange(2**40)]),
        "training": rng.random() < 0.75,
        "repeats": rng.choice([1, 1, 1, 2, 3]),
        "views": rng.choice([1, 1, 1, 2, 3]),
        "scale": rng.choice(["auto", "exact"]),
        "resize_method": rng.choice(["crop", "crop", "squish", "pad"]),
        "channels": 1 if rng.random() < 0.1 and (augment is None or augment.normalize is None) else 3,
        "targets": fa.TargetOptions(fill=rng.choice([255, 0]), padding=rng.choice(["fill", "image"])),
        "device": "cpu",
        "return_info": True,
        "max_bad_share": 1.0,
    }
    if isinstance(settings["views"], int) and settings["views"] == 2 and augment is not None and rng.random() < 0.5:
        settings["views"], settings["augment"] = [augment, fa.aug_transforms(size=12)], None
        settings["channels"] = 3
    elif augment is not None and not given and rng.random() < 0.1:
        settings["schedule"] = growing
    which = rng.random()
    if which < 0.1:
        settings["weights"] = [rng.choice([0.0, 1.0, 2.5]) for _ in range(len(data) - 1)] + [1.0]
    elif which < 0.2 and data.samples.kind == "class":
        settings["balance"] = "classes"
    if rng.random() < 0.03 and has_dali() and not data.bad:  # it shows damaged JPEGs that libjpeg warns of
        settings["decoder"] = "dali"
    settings |= given
    return settings


def growing(epoch: int) -> tuple[int, int]:
    """Progressive resizing: the size and the presize of an epoch."""
    return 8 + 4 * (epoch % 3), 24 + 4 * (epoch % 3)


def draw_cache(rng: random.Random, settings: Settings, folder: Path, cache: str | None = None) -> Settings:
    """None, in memory, or in a folder; what fits into it."""
    cache = cache or rng.choice(["none", "none", "memory", "folder"])
    if cache == "none":
        return settings
    settings = {**settings, "cache": str(folder / "cache") if cache == "folder" else cache}
    settings["cache_size"] = rng.choice([20, 40])
    settings["cache_bytes"] = rng.choice([1 << 16, 1 << 26])
    return settings


def draw_batch_size(rng: random.Random, settings: Settings, count: int, world: int) -> Settings:
    """Of `count` samples; never more than a rank has where the last batch is dropped, which would be another size."""
    drop_last = rng.choice([None, None, True, False])
    photos = rng.choice([1, 2, 3, 4, 7, 12, rng.randint(1, count)])
    if drop_last or (settings["training"] and drop_last is None):
        photos = min(photos, count // world)
    return {**settings, "batch_size": photos * settings["repeats"], "drop_last": drop_last}


def draw_machinery(rng: random.Random) -> Settings:
    """What changes nothing."""
    return {"num_threads": rng.choice([1, 1, 2, 3]), "prefetch_batches": rng.choice([1, 2, 3, 8])}


def note(batch: Any) -> list[Image]:
    """Each image of a batch (x, y, info)."""
    x, y, info = batch
    views, infos = (x, info) if isinstance(x, tuple) else ((x,), (info,))
    targets = y if isinstance(y, tuple) else (y,)
    return [
        [
            row,
            _checksum([view[i] for view in views]),
            _checksum([None if target is None else target[i] for target in targets]),
            _checksum([getattr(one, name)[i] for one in infos for name in ("sizes", "matrix", "presize", "extent")]),
        ]
        for i, row in enumerate(infos[0].indices.tolist())
    ]


def _checksum(parts: Iterable[Tensor | dict[str, Tensor] | None]) -> str:
    found = hashlib.blake2b(digest_size=6)
    for part in parts:
        named = part if isinstance(part, dict) else {"": part}
        for name, tensor in named.items():
            found.update(name.encode())
            if tensor is not None:
                found.update(repr((tensor.dtype, [*tensor.shape])).encode())
                found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def order_of(loader: fa.ImageLoader, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of an epoch, of all ranks, and how often each came before in it."""
    count = len(loader.samples)
    if not loader.training:
        rows = np.arange(count)
    elif loader.weights is None:
        rows = epoch_order(count, loader.seed, epoch)
    else:
        rows = weighted_order(np.cumsum(loader.weights), loader.seed, epoch)
    return rows, copies_of(rows)


def planned(loader: fa.ImageLoader, epoch: int, left_out: Iterable[int] = ()) -> list[list[tuple[int, int]]]:
    """Of each batch that a loader yields, (row, copy) of its photos.

    left_out: rows that are not to be had.
    """
    missing, batches = set(left_out), []
    images = loader.repeats if loader.training else 1
    least = 2 if loader.training and loader.drop_last and loader.batch_size > 1 else 1
    for batch in parts(loader, epoch):
        good = [(row, copy) for row, copy in batch if row not in missing]
        good = good if len(good) * images >= least else []
        if good or loader.shard[1] > 1:
            batches.append(good)
    return batches


def parts(loader: fa.ImageLoader, epoch: int) -> list[list[tuple[int, int]]]:
    """Of each batch of a rank, (row, copy) of its photos, the bad ones too."""
    rows, copies = (
        shard_order(one, loader.shard, loader.training).tolist() for one in order_of(loader, epoch)
    )  # fmt: skip
    photos = loader.batch_size // (loader.repeats if loader.training else 1)
    count = batch_count(len(loader.samples), loader.shard[1], photos, loader.training, loader.drop_last)
    bounds = batch_bounds(len(rows), photos, count)
    return [list(zip(rows[a:b], copies[a:b], strict=True)) for a, b in bounds]


class Reference:
    """Each image of an epoch by a plain loader: one at a time, one thread, nothing kept."""

    def __init__(self, data: DataSet, settings: Settings, folder: Path) -> None:
        self._data, self._folder = data, folder
        self._settings = {name: value for name, value in settings.items() if name not in HOW}
        self._cached = "cache" in settings
        self._known: dict[int, dict[tuple[int, int], list[Image]]] = {}
        self._caches = itertools.count()

    def forget(self) -> None:
        """The files have changed."""
        self._known = {}

    def images(self, epoch: int) -> dict[tuple[int, int], list[Image]]:
        """By (row, copy) of the good ones."""
        if epoch not in self._known:
            self._known[epoch] = self._load(epoch)
        return self._known[epoch]

    def _load(self, epoch: int) -> dict[tuple[int, int], list[Image]]:
        how: Settings = {"num_threads": 1, "prefetch_batches": 1, "shard": (0, 1), "drop_last": False}
        if self._cached:  # the same pixels as from a cache, of one that has no room for any
            how |= {"cache": str(self._folder / f"plain-{next(self._caches)}"), "cache_bytes": 1}
        found: dict[tuple[int, int], list[Image]] = {}
        came = Counter[int]()
        repeats = self._settings["repeats"]
        with fa.ImageLoader(self._data.samples, **self._settings, **how, batch_size=repeats) as loader:
            loader.set_epoch(epoch)
            together = repeats if loader.training else 1
            for batch in loader:
                images = note(batch)
                for i in range(0, len(images), together):
                    row = images[i][0]
                    found[row, came[row]] = images[i : i + together]
                    came[row] += 1
            expected = Counter(order_of(loader, epoch)[0].tolist())
        for row in self._data.bad:
            expected.pop(row, None)
        assert came == expected, (
            f"a plain loader delivers {sorted((came - expected).elements())} too often, and "
            f"{sorted((expected - came).elements())} not at all or too seldom"
        )
        return found


def expect(
    got: Sequence[Sequence[Image]], plan: Sequence[Sequence[tuple[int, int]]],
    images: dict[tuple[int, int], list[Image]],
) -> None:  # fmt: skip
    """These batches are those of the plan, bit for bit."""
    rows = [[image[0] for image in batch] for batch in got]
    expected = [[image for key in batch for image in images[key]] for batch in plan]
    wanted = [[image[0] for image in batch] for batch in expected]
    assert rows == wanted, _different(rows, wanted)
    for number, (batch, other) in enumerate(zip(got, expected, strict=True)):
        for image, right in zip(batch, other, strict=True):
            wrong = [name for name, a, b in zip(PARTS, image, right, strict=True) if a != b]
            assert not wrong, f"batch {number}, row {right[0]}: other {' and '.join(wrong)}"


def _different(rows: list[list[int]], wanted: list[list[int]]) -> str:
    came, due = (Counter(row for batch in batches for row in batch) for batches in (rows, wanted))
    lost, more = sorted((due - came).elements()), sorted((came - due).elements())
    place = next((i for i, (a, b) in enumerate(zip(rows, wanted, strict=False)) if a != b), min(len(rows), len(wanted)))
    return (
        f"{len(rows)} batches, {len(wanted)} expected; not come: {lost}; too often: {more}; the "
        f"first that differs is batch {place}: {rows[place : place + 1]}, expected {wanted[place : place + 1]}"
    )


def expect_once(
    loaders: Sequence[fa.ImageLoader], got: Sequence[Sequence[Sequence[Image]]], epoch: int, left_out: set[int]
) -> None:
    """Over all ranks each good sample came once, but for what may be left out: of training n % world samples; of
    drop_last what is in no whole batch, and in training single images. Of draws with replacement nobody knows.
    """
    first = loaders[0]
    came = Counter(image[0] for batches in got for batch in batches for image in batch)
    assert not came.keys() & left_out, f"bad ones came: {sorted(came.keys() & left_out)}"
    if first.training and first.weights is not None:
        return
    images = first.repeats if first.training else 1
    assert set(came.values()) <= {images}, f"not {images} times: {[row for row, n in came.items() if n != images]}"
    lost = set(range(len(first.samples))) - left_out - set(came)
    allowed = len(first.samples) % len(loaders) if first.training else 0
    if first.drop_last:
        allowed = len(first.samples) - len(loaders) * len(first) * first.batch_size // images
    if first.drop_last and first.training:
        good = [{row for row, _ in batch} - left_out for loader in loaders for batch in parts(loader, epoch)]
        allowed += sum(len(batch) == 1 for batch in good)
    assert len(lost) <= allowed, f"{sorted(lost)} never came, of which {allowed} may be left out"


def bad_met(loader: fa.ImageLoader, epochs: Iterable[int], bad: Iterable[int]) -> list[int]:
    """The bad rows that a rank meets, in the order of delivery."""
    bad = set(bad)
    met = {row: None for epoch in epochs for batch in parts(loader, epoch) for row, _ in batch if row in bad}
    return list(met)


def expect_quarantined(loader: fa.ImageLoader, rows: Sequence[int]) -> None:
    """The list of bad files is of these rows, in this order, each with a reason in one line."""
    listed, paths = loader.quarantined, [loader.samples.paths[row] for row in rows]
    assert [path for path, _ in listed] == paths, f"quarantined {listed}, expected {paths}"
    assert all(reason and reason.isprintable() for _, reason in listed), listed


def expect_missed(loader: fa.ImageLoader, rows: set[int]) -> None:
    """What the storage did not give in the latest epoch are the files of these rows, each with a reason in one line."""
    paths = sorted(loader.samples.paths[row] for row in rows)
    assert sorted(path for path, _ in loader.missed) == paths, f"missed {loader.missed}, expected {paths}"
    assert all(reason and reason.isprintable() for _, reason in loader.missed), loader.missed


def bad_shares_of(loader: fa.ImageLoader, epoch: int, bad: set[int]) -> tuple[float, float]:
    """Of a rank's part of an epoch: of the samples of its batches, and of these and those that are in no batch."""
    batches = [row for batch in parts(loader, epoch) for row, _ in batch]
    whole = shard_order(order_of(loader, epoch)[0], loader.shard, loader.training).tolist()
    shares = [sum(row in bad for row in rows) / len(rows) if rows else 0.0 for rows in (batches, whole)]
    return min(shares), max(shares)


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """As it comes out of a file."""
    loaded: dict[str, Any] = json.loads(json.dumps(state))
    return loaded


def set_one_thread() -> None:
    """So that sums are the same everywhere, and nothing of OpenMP's is there when a process forks."""
    torch.set_num_threads(1)
