"""Which filter keeps most of a scene, and at what price? The study behind `fastaug.warping.filter`.

    python -m benchmarks.filter_study --photos FOLDER

Every candidate is one weight function along the columns and one along the rows, as wide as the footprint s of an
output pixel there, in input pixels; below 1 (enlarging) s counts as 1. The scenes, transforms and scores are those of
`benchmarks.fidelity`. Price: pixels read along an axis (the square of it in all), and operations for one weight.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

import fastaug as fa
from benchmarks import common, fidelity
from benchmarks.common import SIZE
from fastaug.warping import reference
from fastaug.warping.filter import antialias_weight
from fastaug.warping.footprint import sampling_matrix

FOOTPRINTS = (1.3, 1.6, 2.0, 2.9)


class Filter(NamedTuple):
    """radius(s) in input pixels, weight(|distance|, s), and operations for one weight (a sine or root counts as 10)."""

    radius: Callable[[Tensor], Tensor]
    weight: Callable[[Tensor, Tensor], Tensor]
    operations: int


def scaled(kernel: Callable[[Tensor], Tensor], reach: float, share: float, operations: int) -> Filter:
    """A textbook kernel, stretched by share × s, but never narrower than it is as an interpolation."""

    def width(s: Tensor) -> Tensor:
        return (share * s).clamp(min=1)

    return Filter(lambda s: reach * width(s), lambda d, s: kernel(d / width(s)), operations)


def box_convolved(integral: Callable[[Tensor], Tensor], reach: float, operations: int) -> Filter:
    """The mean of an interpolation over a box of width sqrt(s² - 1): area sampling of a reconstructed picture."""

    def half(s: Tensor) -> Tensor:
        return (s * s - 1).clamp(min=1e-4).sqrt() / 2

    return Filter(
        lambda s: reach + half(s),
        lambda d, s: (integral(d + half(s)) - integral(d - half(s))) / (2 * half(s)),
        operations,
    )


def triangle(x: Tensor) -> Tensor:
    return (1 - x).clamp(min=0)


def raised_cosine(x: Tensor) -> Tensor:
    return (1 + torch.cos(math.pi * x.clamp(max=1))) / 2


def lanczos(lobes: int) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.where(x < lobes, torch.sinc(x) * torch.sinc(x / lobes), 0)


def cubic(b: float, c: float) -> Callable[[Tensor], Tensor]:
    """Mitchell and Netravali's family: (0, 1/2) is Keys, (1/3, 1/3) Mitchell."""

    def kernel(x: Tensor) -> Tensor:
        near = ((12 - 9 * b - 6 * c) * x + (-18 + 12 * b + 6 * c)) * x * x + 6 - 2 * b
        far = (((-b - 6 * c) * x + 6 * b + 30 * c) * x + (-12 * b - 48 * c)) * x + 8 * b + 24 * c
        return torch.where(x < 1, near, torch.where(x < 2, far, 0)) / 6

    return kernel


def keys_integral(x: Tensor) -> Tensor:
    """From 0 to x of Keys' cubic."""
    a = x.abs().clamp(max=2)
    near = ((0.375 * a - 5 / 6) * a * a + 1) * a
    b = a.clamp(min=1)
    far = 13 / 24 + (((-0.125 * b + 5 / 6) * b - 2) * b + 2) * b - 17 / 24
    return torch.sign(x) * torch.where(a < 1, near, far)


def linear_integral(x: Tensor) -> Tensor:
    a = x.abs().clamp(max=1)
    return torch.sign(x) * (a - a * a / 2)


def ours_radius(s: Tensor) -> Tensor:
    """The largest of any s; the weight ends by itself where its own radius does."""
    return torch.full_like(s, antialias_weight(s)[0])


FILTERS = {
    "bilinear": Filter(torch.ones_like, lambda d, s: triangle(d), 2),
    "triangle × 0.7": scaled(triangle, 1, 0.7, 3),
    "triangle × 0.8": scaled(triangle, 1, 0.8, 3),
    "raised cosine × 0.9": scaled(raised_cosine, 1, 0.9, 13),
    "area overlap": Filter(lambda s: (s + 1) / 2, lambda d, s: ((s + 1) / 2 - d).clamp(0, 1), 3),
    "box ∗ linear": box_convolved(linear_integral, 1, 16),
    "Mitchell × 0.75": scaled(cubic(1 / 3, 1 / 3), 2, 0.75, 9),
    "Keys × 0.85": scaled(cubic(0, 1 / 2), 2, 0.85, 9),
    "Keys × 1": scaled(cubic(0, 1 / 2), 2, 1.0, 9),
    "Lanczos2 × 0.85": scaled(lanczos(2), 2, 0.85, 26),
    "Lanczos3 × 0.9": scaled(lanczos(3), 3, 0.9, 26),
    "Lanczos3 × 1": scaled(lanczos(3), 3, 1.0, 26),
    "box ∗ Keys": box_convolved(keys_integral, 2, 26),
    "fastaug": Filter(ours_radius, lambda d, s: antialias_weight(s)[1](d), 9),
}


def filtered_warp(image: Tensor, matrix: Tensor, chosen: Filter) -> Tensor:
    """One image, uint8 [H, W, 3], through a candidate: float [1, 3, 224, 224] in 0..1, reflected at the edges."""
    inverse = sampling_matrix(matrix)[0]
    x, y, *footprints = reference._sample_points(inverse, (SIZE, SIZE))
    axes = []
    for place, footprint, size in ((x, footprints[0], image.shape[1]), (y, footprints[1], image.shape[0])):
        s = footprint.clamp(min=1).flatten()[:, None]
        radius, place = chosen.radius(s), place.flatten()[:, None]
        taps = torch.floor(place - 0.5 - radius.max()).long() + 1 + torch.arange(int(2 * radius.max()) + 2)
        distance = (taps + 0.5 - place).abs()
        weight = torch.where(distance < radius, chosen.weight(distance, s), 0)
        axes.append((reference._reflect(taps, size), (weight / weight.sum(1, keepdim=True)).float()))
    out = torch.zeros(SIZE * SIZE, 3)
    _sum_taps(image.numpy(), *(part.numpy() for axis in axes for part in axis), out.numpy())
    return out.reshape(1, SIZE, SIZE, 3).permute(0, 3, 1, 2) / 255


@njit
def _sum_taps(image, columns, weight_x, rows, weight_y, out):  # type: ignore[no-untyped-def]
    """out[n] = sum over i and j of weight_y[n, i] weight_x[n, j] image[rows[n, i], columns[n, j]]."""
    for n in range(len(out)):
        for i in range(rows.shape[1]):
            for j in range(columns.shape[1]):
                for c in range(3):
                    out[n, c] += weight_y[n, i] * weight_x[n, j] * image[rows[n, i], columns[n, j], c]


def both_modes(chosen: Filter) -> dict[str, fidelity.Path_]:
    return {
        "direct": lambda view: filtered_warp(view.photo, view.whole, chosen),
        "resize": lambda view: filtered_warp(view.lanczos[0], view.params.matrix, chosen),
    }


def taps_per_axis(chosen: Filter, s: float) -> int:
    """The most pixels that any position of the point needs."""
    return math.ceil(2 * float(chosen.radius(torch.tensor(s))) - 1e-4)


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--photos", type=Path, help="folder of large photos; default: scikit-image's")
    parser.add_argument("--draws", type=int, default=2, help="transforms for each photo and short side")
    arguments = parser.parse_args()
    draws, shorts = (1, (375,)) if arguments.tiny else (arguments.draws, fidelity.SHORT_SIDES)
    files = (
        common.photo_files(arguments.photos) if arguments.photos else common.scikit_image_photos(fidelity.SCIKIT_IMAGE)
    )
    views = list(fidelity.make_views(files[:1] if arguments.tiny else files, shorts, draws, arguments.seed))
    settings = {
        "short_sides": shorts,
        "draws": draws,
        "seed": arguments.seed,
        "photos": sorted({v.name for v in views}),
    }
    report = common.Report("filter_study", settings)
    view = views[0]
    specified = fa.warp([view.photo], view.whole, SIZE, backend="reference")
    off = float((filtered_warp(view.photo, view.whole, FILTERS["fastaug"]) - specified).abs().max() * 255)
    if report.admit("filtered_warp", off, 0.1, "levels from the specification"):
        baseline = fidelity.TWO_WARPS
        rows = fidelity.score({baseline: fidelity.two_warps}, views)
        lines = []
        for name, chosen in FILTERS.items():
            scores = fidelity.score(both_modes(chosen), views)
            rows += [{**row, "path": f"{name}, {row['path']}"} for row in scores]
            gained = [fidelity.advantages(rows, f"{name}, {mode}", baseline)[0].mean() for mode in ("direct", "resize")]
            detail = np.mean([row["detail"] for row in scores if row["path"] == "direct"])
            taps = " · ".join(str(taps_per_axis(chosen, s)) for s in FOOTPRINTS)
            lines.append([name, *(f"{value:+.1f}" for value in gained), f"{detail:.2f}", taps, str(chosen.operations)])
        report.rows = rows
        report.table(
            f"dB over fastai's two interpolations (warp at 460, crop to 224), {len(views)} views",
            ["filter", "direct", "resize", "detail, direct", f"taps at s = {' · '.join(map(str, FOOTPRINTS))}",
             "operations for a weight"], lines,
        )  # fmt: skip
    return report.finish(common.out_path(arguments))


if __name__ == "__main__":
    sys.exit(main())
