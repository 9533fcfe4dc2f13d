"""What a batch is made of: none of its files, one photo for several images, a photo that was replaced."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastaug as fa
from fastaug.loading.photo import Need

AUGMENT = fa.aug_transforms(size=(16, 24), normalize=None)
ROTATED = 6  # EXIF: to be turned by a quarter


def loader(samples: fa.Samples, **settings: Any) -> fa.ImageLoader:
    defaults: dict[str, Any] = {"batch_size": 4, "presize": 32, "device": "cpu", "num_threads": 2, "max_bad_share": 1}
    return fa.ImageLoader(samples, **{**defaults, **settings})


@pytest.mark.parametrize(
    ("settings", "shapes", "dtype"),
    [
        ({"augment": AUGMENT}, [(0, 3, 16, 24)], torch.float32),
        ({"augment": AUGMENT, "mode": "direct"}, [(0, 3, 16, 24)], torch.float32),
        ({"augment": AUGMENT, "channels": 1}, [(0, 1, 16, 24)], torch.float32),
        ({"presize": (20, 10)}, [(0, 20, 10, 3)], torch.uint8),
        ({"channels": 1, "resize_method": "pad"}, [(0, 32, 32, 1)], torch.uint8),
        ({"augment": AUGMENT, "repeats": 2}, [(0, 3, 16, 24)], torch.float32),
        ({"views": [AUGMENT, AUGMENT.with_size(8)]}, [(0, 3, 16, 24), (0, 3, 8, 8)], torch.float32),
    ],
)
def test_a_batch_without_images_has_the_shape_of_one(
    settings: dict[str, Any], shapes: list[tuple[int, ...]], dtype: torch.dtype, tmp_path: Path
) -> None:
    """Ranks that take turns get it when all of their files are bad."""
    samples = fa.Samples([str(tmp_path / f"{i}.jpg") for i in range(8)], [0] * 8, ["a"])
    for x, y in loader(samples, shard=(0, 2), **settings):
        found = x if isinstance(x, tuple) else (x,)
        assert [tuple(one.shape) for one in found] == shapes
        assert all(one.dtype == dtype for one in found)
        assert y.shape == (0,)


def photo_and_mask(folder: Path, orientation: int) -> None:
    """Stored as 30 × 20; the mask's classes are the photo's quarters."""
    quarters = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((10, 15), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    (folder / "photos").mkdir(exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    Image.fromarray(quarters).convert("RGB").save(folder / "photos" / "a.png", exif=exif)
    Image.fromarray(quarters).save(folder / "masks" / "a.png")


@pytest.mark.parametrize("cache", [None, "folder"])
def test_a_mask_is_turned_as_its_photo_is_now(cache: str | None, tmp_path: Path) -> None:
    photo_and_mask(tmp_path, 1)
    samples = fa.Samples.from_folders(tmp_path / "photos", tmp_path / "masks")
    augment = fa.Augment([], (30, 20), normalize=None, interpolation="nearest")
    settings: dict[str, Any] = {"augment": augment, "training": False, "mode": "direct", "resize_method": "squish"}
    settings |= {"presize": (30, 20), "cache": None if cache is None else str(tmp_path / cache)}
    one = loader(samples, **settings)
    for orientation in (1, ROTATED, ROTATED, 3, 3):  # replaced between two epochs, and served once more
        photo_and_mask(tmp_path, orientation)
        os.utime(tmp_path / "photos" / "a.png", ns=(orientation, orientation))
        x, mask = next(iter(one))
        assert torch.equal((x[:, 0] * 255).round().long(), mask)
        assert len(set(mask[0, [0, -1]][:, [0, -1]].flatten().tolist())) == 4
    again = loader(samples, **settings)  # which knows no orientation, and finds the photo in the cache
    x, mask = next(iter(again))
    assert torch.equal((x[:, 0] * 255).round().long(), mask)
    if cache:
        assert again.stats().cached == 1


def test_what_several_images_need_of_a_photo() -> None:
    one, other = Need((10, 20), 2.0, 3.0, (1, 2, 3, 4)), Need((10, 20), 1.5, 4.0, (2, 0, 8, 3))
    assert Need.of_all([one, other]) == Need((10, 20), 1.5, 3.0, (1, 0, 9, 6))
    assert Need.of_all([one]) is one
    assert Need.of_all([one, None]) is None
    assert Need.of_all([]) is None


def test_the_same_pixels_are_moved_once(tmp_path: Path) -> None:
    """Views in direct mode are of one tensor; where it is, is asked for each of them."""
    photo_and_mask(tmp_path, 1)
    samples = fa.Samples([str(tmp_path / "photos" / "a.png")], [0], ["a"])
    with loader(samples, augment=AUGMENT, mode="direct", views=3, batch_size=1) as views:
        seen: list[Any] = []
        warped = views._warped
        views._warped = lambda batch: seen.append(batch) or warped(batch)  # type: ignore[method-assign, func-returns-value]
        next(iter(views))
    assert len({id(view.images[0]) for view in seen[0].views}) == 1
