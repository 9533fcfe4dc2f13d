"""The demo's photographs: those that scikit-image ships in its wheel, and a labelled set cut from them."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
from PIL import Image

from fastaug.samples.samples import Samples

# class name -> file in skimage/data. Drawings, charts and photos too small to cut are left out.
PHOTOS = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "hubble": "hubble_deep_field.jpg",
    "moon": "moon.png",
    "motorcycle": "motorcycle_left.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
    "tissue": "ihc.png",
}
TRAIN_SHARE = 0.6  # of each photo's width, from the left; validation crops come from the rest
CROP_AREA = (0.15, 0.6)  # of the region that a crop comes from
CROP_RATIO = (2 / 3, 3 / 2)  # width / height
JPEG_QUALITY = 92


def open_photo(name: str) -> Image.Image:
    """The photo of a class, RGB.

    Raises:
        ImportError: no scikit-image, or one without this photo.
    """
    package = importlib.util.find_spec("skimage")
    folders = (package and package.submodule_search_locations) or []
    files = [path for folder in folders if (path := Path(folder, "data", PHOTOS[name])).is_file()]
    if not files:
        raise ImportError(
            f"demo: expected scikit-image with {PHOTOS[name]}, found none. Run: pip install 'fastaug[demo]'"
        )
    with Image.open(files[0]) as photo:
        return photo.convert("RGB")


def cut_photos(folder: Path, train_per_class: int, valid_per_class: int, seed: int) -> tuple[Samples, Samples]:
    """Write crops of every photo as folder/class/{train,valid}-00.jpg, of many sizes and shapes.

    Training crops come from the left part of each photo, validation crops from the right part: they share no pixel.

    Returns:
        The samples for training and for validation.
    """
    rng = np.random.default_rng(seed)
    paths: dict[str, list[Path]] = {"train": [], "valid": []}
    for name in PHOTOS:
        photo = open_photo(name)
        (folder / name).mkdir(parents=True, exist_ok=True)
        cut = round(TRAIN_SHARE * photo.width)
        regions = {"train": (0, cut, train_per_class), "valid": (cut, photo.width, valid_per_class)}
        for part, (left, right, count) in regions.items():
            for i in range(count):
                path = folder / name / f"{part}-{i:02d}.jpg"
                photo.crop(_random_box(rng, left, right, photo.height)).save(path, quality=JPEG_QUALITY)
                paths[part].append(path)
    row = {name: i for i, name in enumerate(PHOTOS)}
    train, valid = (Samples(some, [row[path.parent.name] for path in some], PHOTOS) for some in paths.values())
    return train, valid


def _random_box(rng: np.random.Generator, left: int, right: int, height: int) -> tuple[int, int, int, int]:
    """A box (left, top, right, bottom) within [left, right) × [0, height), of random area, shape and place."""
    area = rng.uniform(*CROP_AREA) * (right - left) * height
    ratio = math.exp(rng.uniform(*np.log(CROP_RATIO)))
    box_width = min(round(math.sqrt(area * ratio)), right - left)
    box_height = min(round(math.sqrt(area / ratio)), height)
    x, y = int(rng.integers(left, right - box_width + 1)), int(rng.integers(0, height - box_height + 1))
    return x, y, x + box_width, y + box_height
