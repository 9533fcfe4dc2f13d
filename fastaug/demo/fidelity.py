"""How much of a photo survives, against a truth: the same view of the scene that the photo was taken of.

The scene is a photograph of scikit-image; its box-downsampled copy plays the photo. The truth for a drawn transform is
the scene seen through it, averaged over the area of every output pixel: what a camera would have taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fastaug.augment import geometry
from fastaug.augment.augment import Params
from fastaug.augment.fastai_names import aug_transforms
from fastaug.demo.photos import open_photo
from fastaug.demo.stepwise import bilinear, step_by_step
from fastaug.loading.loader import ImageLoader
from fastaug.samples.samples import Samples
from fastaug.warping.warp import warp

SCENES = {"retina": 3, "hubble": 2, "motorcycle": 2, "tissue": 2}  # how many times smaller than the scene the photo is
TRUTH_SAMPLES = 8  # along each side of an output pixel


@dataclass(frozen=True)
class Views:
    """One photo under several drawn transforms: truth and both ways, float [draws, 3, size, size] in [0, 1]."""

    width: int  # of the photo, pixels
    height: int
    presized: Tensor  # uint8 [1, presize, presize, 3]
    params: Params
    truth: Tensor
    one_warp: Tensor
    stepwise: Tensor

    def psnr_db(self) -> dict[str, list[float]]:
        """Against the truth, one for each draw."""
        return {"one_warp": psnr_db(self.one_warp, self.truth), "step_by_step": psnr_db(self.stepwise, self.truth)}

    def detail(self, draw: int, x: int, y: int, side: int) -> dict[str, Tensor]:
        """The same square of side × side pixels four times; "source" is a plain resize of the region, not turned."""
        views = {"truth": self.truth, "one warp": self.one_warp, "step by step": self.stepwise}
        cut = {name: images[draw, :, y : y + side, x : x + side].clamp(0, 1) for name, images in views.items()}
        return {"source": self._source(draw, x + side / 2, y + side / 2, side), **cut}

    def busiest(self, draw: int, side: int) -> tuple[int, int]:
        """(x, y) of the square with the finest detail in the truth."""
        grey = self.truth[draw].mean(0)[None, None]
        detail = (grey - F.avg_pool2d(grey, 3, 1, 1, count_include_pad=False)).square()
        place = int(F.avg_pool2d(detail, side, 1)[0, 0].argmax())
        y, x = divmod(place, grey.shape[3] - side + 1)
        return x, y

    def _source(self, draw: int, x: float, y: float, side: int) -> Tensor:
        inverse = torch.linalg.inv(self.params.matrix[draw].double())
        corners = torch.tensor([[x, y, 1], [x + 1, y, 1], [x, y + 1, 1]], dtype=torch.float64) @ inverse.T
        place = corners[:, :2] / corners[:, 2:]
        area = torch.linalg.det(place[1:] - place[0]).abs().item()  # of an output pixel, in presized pixels
        covered = torch.full((1,), side * area**0.5, dtype=torch.float64)
        pixels = torch.full((1,), float(side), dtype=torch.float64)
        left, top = place[0, 0] - covered / 2, place[0, 1] - covered / 2
        view = warp(self.presized, geometry.box_matrix(left, top, covered, covered, pixels, pixels), side)
        return view[0].clamp(0, 1)


def make_views(name: str, draws: int, presize: int, size: int, seed: int, folder: Path) -> Views:
    """One of SCENES under `draws` random transforms; the photo is written into `folder` and loaded from there."""
    scene, factor = _scene(name), SCENES[name]
    photo = F.avg_pool2d(scene, factor)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    Image.fromarray((photo[0].permute(1, 2, 0) * 255).round().byte().numpy()).save(path)
    samples = Samples([path], [0], [name])
    loader = ImageLoader(samples, 1, presize, None, device="cpu", training=False, return_info=True, on_error="raise")
    presized, _, info = next(iter(loader))
    augment = aug_transforms(
        do_flip=False, max_lighting=0, p_affine=1, size=size, min_scale=0.75, normalize=None, keep_inside=True
    )
    params = augment.draw(draws, (presize, presize), generator=torch.Generator().manual_seed(seed))
    batch = presized.expand(draws, -1, -1, -1)
    truth = torch.cat(
        [_seen(scene, factor, matrix @ info.presize[0].double(), size) for matrix in params.matrix.double()]
    )
    return Views(
        photo.shape[3], photo.shape[2], presized, params, truth, augment.apply(batch, params),
        step_by_step(batch, augment, params),
    )  # fmt: skip


def psnr_db(a: Tensor, b: Tensor) -> list[float]:
    """Peak signal to noise of each image of two batches in [0, 1]; values outside are clipped as on a screen."""
    error = (a.double().clamp(0, 1) - b.double().clamp(0, 1)).square().mean((1, 2, 3))
    decibels: list[float] = (-10 * torch.log10(error)).tolist()
    return decibels


def _scene(name: str) -> Tensor:
    """float32 [1, 3, H, W], sides cut to whole pixels of the photo."""
    pixels = torch.from_numpy(np.array(open_photo(name))).permute(2, 0, 1)[None].float() / 255
    height, width = (side // SCENES[name] * SCENES[name] for side in pixels.shape[2:])
    return pixels[:, :, :height, :width]


def _seen(scene: Tensor, factor: int, photo_to_output: Tensor, size: int) -> Tensor:
    """The scene through a matrix of the photo, box-sampled: [1, 3, size, size]. Interpolated by Kornia, not by us."""
    shrink = torch.diag(torch.tensor([1 / factor, 1 / factor, 1.0], dtype=torch.float64))
    grow = torch.diag(torch.tensor([TRUTH_SAMPLES, TRUTH_SAMPLES, 1.0], dtype=torch.float64))
    fine = bilinear(scene, (grow @ photo_to_output @ shrink)[None], (size * TRUTH_SAMPLES, size * TRUTH_SAMPLES))
    return F.avg_pool2d(fine, TRUTH_SAMPLES)
