"""Draws docs/images/matrices.png: a photo's frame through every step, and the matrix composed so far.

Run: python docs/draw_matrices.py (in the project's folder). The photo is `chelsea` of scikit-image, by Stefan van der
Walt, CC0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import fastaug as fa
from fastaug.augment import geometry
from fastaug.demo.photos import open_photo
from fastaug.loading.framing import crop
from fastaug.training import plots

PRESIZE, SIZE = 460, 224
PICTURE = Path(__file__).parent / "images" / "matrices.png"


def steps(height: int, width: int) -> list[tuple[str, Tensor, int]]:
    """What happens to a photo: name of the step, its matrix [1, 3, 3], side of the frame that it leaves."""

    def one(value: float) -> Tensor:
        return torch.tensor([value], dtype=torch.float64)

    side, out, middle = one(PRESIZE), one(SIZE), torch.tensor([[0.5, 0.5]])
    x0, y0, square, _ = crop(torch.tensor([[height, width]]), middle, (PRESIZE, PRESIZE))[0].unbind(1)
    corner, window = one(70), one(330)  # of the crop, in the frame of 460
    return [
        ("presize", geometry.box_matrix(x0, y0, square, square, side, side), PRESIZE),
        ("rotation 10°", geometry.rotation_matrix(one(10), side, side), PRESIZE),
        ("zoom 1.1", geometry.zoom_matrix(one(1.1), middle, side, side), PRESIZE),
        ("perspective 0.15", geometry.perspective_matrix(one(0.15), one(0.1), side, side), PRESIZE),
        ("crop 330 → 224", geometry.box_matrix(corner, corner, window, window, out, out), SIZE),
    ]


def outline(matrix: Tensor, width: int, height: int) -> Tensor:
    """The frame's corners on the photo, the first one again at the end: [5, 2], (x, y)."""
    corners = torch.tensor([[[0, 0], [width, 0], [width, height], [0, height], [0, 0]]], dtype=torch.float64)
    points, _ = fa.transform_points(corners, torch.linalg.inv(matrix), (1, 1))
    return points[0]


def draw() -> None:
    photo = torch.from_numpy(np.array(open_photo("cat")))
    height, width = photo.shape[:2]
    names, frames, outlines, matrices = ["decoded"], [photo], [outline(torch.eye(3)[None], width, height)], []
    matrix = geometry.identity_matrix(1)
    matrices.append(matrix)
    for name, step, side in steps(height, width):
        matrix = step @ matrix
        names.append(name)
        matrices.append(matrix)
        frames.append(fa.warp(photo[None], matrix, side, padding="zeros")[0])
        outlines.append(outline(matrix, side, side))
    columns = len(names)
    figure = plots.show_images([photo] * columns + frames, names + [""] * columns, columns, inches=1.6)
    for axes, points in zip(figure.axes[:columns], outlines, strict=True):
        axes.plot(*(points.T - 0.5), color=plots.ORANGE, linewidth=2, clip_on=False)
        axes.set(xlim=(-25, width + 25), ylim=(height + 65, -45))
    for axes, matrix in zip(figure.axes[columns:], matrices, strict=True):
        text = "\n".join("".join(f"{value:8.4f}" if row == 2 else f"{value:8.2f}" for value in line)
                         for row, line in enumerate(matrix[0].tolist()))  # fmt: skip
        axes.text(0.5, -0.06, text, family="monospace", fontsize=6.5, ha="center", va="top", transform=axes.transAxes)
    plots.save_figure(figure, PICTURE)
    with Image.open(PICTURE) as picture:
        few = picture.convert("RGB").quantize(256, kmeans=4)  # a third of the bytes, and nobody sees it
    few.save(PICTURE, optimize=True)


if __name__ == "__main__":
    draw()
