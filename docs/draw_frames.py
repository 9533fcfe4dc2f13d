"""Draws docs/images/frames.png: what each `resize_method` shows of a photo.

Run: python docs/draw_frames.py (in the project's folder). The photo is `chelsea` of scikit-image, by Stefan van der
Walt, CC0.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import fastaug as fa
from fastaug.demo.photos import open_photo
from fastaug.training import plots

SIZE = 224
PICTURE = Path(__file__).parent / "images" / "frames.png"


def frames(photo: str) -> dict[str, Tensor]:
    """By what they are called: float [3, SIZE, SIZE]."""

    def shown(method: str, padding: str = "reflection", presize: int = SIZE) -> Tensor:
        augment = fa.Augment([fa.CenterCrop(SIZE)], size=SIZE, padding=padding, normalize=None)
        settings = {"presize": presize, "resize_method": method, "augment": augment}
        ((x, _),) = fa.ImageLoader(fa.Samples([photo], None), device="cpu", training=False, **settings)
        return x[0]

    return {
        '"crop"': shown("crop"),
        '"squish"': shown("squish"),
        '"pad", "reflection"': shown("pad"),
        '"pad", "zeros"': shown("pad", "zeros"),
        '"torchvision", 256': shown("torchvision", presize=256),
    }


def draw() -> None:
    photo = open_photo("cat")
    with tempfile.TemporaryDirectory() as folder:
        photo.save(Path(folder, "photo.png"))
        made = frames(str(Path(folder, "photo.png")))
    whole = torch.from_numpy(np.array(photo))
    figure = plots.show_images([whole, *made.values()], ["the photo", *made], 1 + len(made), inches=1.6)
    plots.save_figure(figure, PICTURE)
    with Image.open(PICTURE) as picture:
        few = picture.convert("RGB").quantize(256, kmeans=4)  # a third of the bytes, and nobody sees it
    few.save(PICTURE, optimize=True)


if __name__ == "__main__":
    draw()
