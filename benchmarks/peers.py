"""Augmentation alone, done by others: presized photos and drawn parameters in, normalised batches out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks import common
from benchmarks.common import MEAN, PRESIZE, SIZE, STD
from fastaug.augment import geometry
from fastaug.augment.augment import Params
from fastaug.demo import stepwise


class Way(NamedTuple):
    """A competitor.

    Attributes:
        run: params -> float32 [B, 3, 224, 224].
        affine: it cannot tilt; it gets parameters without perspective.
        shared_crop: one crop for the batch.
        own_light: its brightness and contrast are others than ours; checked without them.
        reflects: whether it mirrors at the photo's edge; otherwise only what looks at the photo is checked.
    """

    run: Callable[[Params], Tensor]
    affine: bool = False
    shared_crop: bool = False
    own_light: bool = False
    reflects: bool = True


def opencv(images: Tensor, pool: ThreadPoolExecutor, perspective: bool, table: bool = True) -> Way:
    """Bilinear on uint8, then lighting and normalisation; an image per task.

    table: these two as a table of 256 floats per channel, the fastest way found; otherwise numpy's x * a + b.
    """
    photos = images.numpy()

    def run(params: Params) -> Tensor:
        out = np.empty((len(photos), SIZE, SIZE, 3), np.float32)
        matrices = geometry.to_integer_centred(params.matrix.double()).numpy()
        factor, offset = (part.numpy()[:, None] for part in stepwise.per_channel(params.color))
        tables = np.linspace(0, 1, 256, dtype=np.float32)[:, None] * factor + offset  # [B, 256, 3]

        def one(i: int) -> None:
            if perspective:
                warped = cv2.warpPerspective(photos[i], matrices[i], (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT)
            else:
                warped = cv2.warpAffine(photos[i], matrices[i, :2], (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT)
            if table:
                cv2.LUT(warped, tables[i][None], out[i])
            else:
                np.multiply(warped, factor[i] / np.float32(255), out=out[i])
                out[i] += offset[i]

        list(pool.map(one, range(len(photos))))
        return torch.from_numpy(out).permute(0, 3, 1, 2)

    return Way(run, affine=not perspective)


def _relight(x: Tensor, params: Params) -> Tensor:
    factor, offset = stepwise.per_channel(params.color)
    return torch.addcmul(offset[:, :, None, None], x, factor[:, :, None, None])


def kornia_steps(images: Tensor) -> Way:
    augment = common.default_augment()

    def run(params: Params) -> Tensor:
        x = images.permute(0, 3, 1, 2).float() / 255
        return _relight(common.kornia_step_by_step(x, augment, params), params)

    return Way(run)


def kornia_once(images: Tensor) -> Way:
    def run(params: Params) -> Tensor:
        x = images.permute(0, 3, 1, 2).float() / 255
        return _relight(common.kornia_warp(x, params.matrix, SIZE), params)

    return Way(run)


def torchvision_steps(images: Tensor, pool: ThreadPoolExecutor, antialias: bool = True) -> Way:
    """Functions of transforms.v2 on uint8, an image per task; black beyond the edge.

    antialias: where it resizes, its default; its warps have none.
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    photos, bilinear = images.permute(0, 3, 1, 2).contiguous(), InterpolationMode.BILINEAR
    corners = torch.tensor([[0.0, 0], [PRESIZE, 0], [PRESIZE, PRESIZE], [0, PRESIZE]], dtype=torch.float64)

    def one(params: Params, moved: Tensor, i: int) -> Tensor:
        x, drawn = photos[i], {n: {k: v[i].item() for k, v in d.items()} for n, d in params.drawn.items()}
        if drawn["RandomHorizontalFlip"]["flipped"]:
            x = tv.horizontal_flip(x)
        if any(drawn["RandomPerspective"].values()):
            x = tv.perspective(x, corners.tolist(), moved[i].tolist(), bilinear)
        if degrees := drawn["RandomRotation"]["degrees"]:
            x = tv.rotate(x, degrees, bilinear)
        if (zoom := drawn["RandomZoom"]["zoom"]) != 1:
            middle = [PRESIZE * drawn["RandomZoom"][axis] for axis in ("x", "y")]
            x = tv.affine(x, 0.0, [0, 0], zoom, [0.0], bilinear, center=middle)
        x0, y0, side = (int(value[i]) for value in common.crop_pixels(params))
        x = tv.resized_crop(x, y0, x0, side, side, [SIZE, SIZE], bilinear, antialias=antialias)
        if (factor := drawn.get("ColorJitter", {}).get("brightness", 1)) != 1:
            x = tv.adjust_brightness(x, factor)
        if (factor := drawn.get("ColorJitter-2", {}).get("contrast", 1)) != 1:
            x = tv.adjust_contrast(x, factor)
        return tv.normalize(tv.to_dtype(x, torch.float32, scale=True), list(MEAN), list(STD))

    def run(params: Params) -> Tensor:
        matrix = common.step_matrices(common.default_augment(), params)["RandomPerspective"]
        moved = torch.cat([corners, torch.ones(4, 1, dtype=torch.float64)], 1) @ matrix.mT
        return torch.stack(list(pool.map(partial(one, params, moved[..., :2] / moved[..., 2:]), range(len(photos)))))

    return Way(run, own_light=True, reflects=False)


def fastai_batch(images: Tensor) -> Way:
    """fastai's batch transforms, composed by fastai, with the drawn parameters instead of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it scripts functions for torch.jit when it is imported
        from fastai.data.transforms import IntToFloatTensor, Normalize
        from fastai.torch_core import TensorImage
        from fastai.vision import augment as fastai
        from fasttransform import Pipeline

    pixels = images.permute(0, 3, 1, 2).contiguous()

    class Crop(fastai.RandomResizedCropGPU):
        params: Any = None

        def before_call(self, b: Any, split_idx: Any) -> None:
            x0, y0, side = (int(value[0]) for value in common.crop_pixels(self.params))
            self.do, self.tl, self.cp_size = True, (y0, x0), (side, side)

    def transforms(params: Params) -> list[Any]:
        drawn = {n: {k: v.float() for k, v in d.items()} for n, d in params.drawn.items()}
        flipped, tilt, zoom = drawn["RandomHorizontalFlip"]["flipped"], drawn["RandomPerspective"], drawn["RandomZoom"]
        mirrored = 1 - 2 * flipped  # fastai tilts before it flips
        brightness, contrast = drawn["ColorJitter"]["brightness"], drawn["ColorJitter-2"]["contrast"]
        crop = Crop(SIZE, min_scale=0.75, ratio=(1, 1))
        crop.params = params
        return fastai.setup_aug_tfms(
            [
                fastai.Flip(p=1.0, draw=flipped),
                fastai.Warp(p=1.0, draw_x=mirrored * tilt["tilt_x"], draw_y=tilt["tilt_y"]),
                fastai.Rotate(p=1.0, draw=-drawn["RandomRotation"]["degrees"]),  # clockwise
                fastai.Zoom(p=1.0, draw=zoom["zoom"], draw_x=zoom["x"], draw_y=zoom["y"]),
                fastai.Brightness(p=1.0, draw=brightness / 2),
                fastai.Contrast(p=1.0, draw=contrast),
                crop,
            ]
        )

    def run(params: Params) -> Tensor:
        normalise = Normalize.from_stats(MEAN, STD, cuda=False)
        pipeline = Pipeline([IntToFloatTensor(), *transforms(params), normalise], split_idx=0)
        return pipeline(TensorImage(pixels)).as_subclass(Tensor)

    return Way(run, shared_crop=True, own_light=True)


def dali_warp(images: Tensor, threads: int) -> Way:
    """DALI's warp_affine in dynamic mode, on a CPU: bilinear, black beyond the edge; lighting and normalisation."""
    import nvidia.dali.experimental.dynamic as ndd
    from nvidia.dali.types import INTERP_LINEAR

    photos, context = list(images.numpy()), ndd.EvalContext(num_threads=threads)

    def per_image(values: np.ndarray) -> Any:
        return ndd.as_batch(list(np.ascontiguousarray(values, np.float32)))

    def run(params: Params) -> Tensor:
        factor, offset = (part.numpy()[:, None, None] for part in stepwise.per_channel(params.color))
        with ndd.Device("cpu"), context:
            x = ndd.warp_affine(
                ndd.as_batch(photos, layout="HWC"), per_image(params.matrix[:, :2].numpy()), size=[SIZE, SIZE],
                inverse_map=False, interp_type=INTERP_LINEAR, fill_value=0.0, dtype=ndd.float32,
            )  # fmt: skip
            out = ndd.as_tensor(x * per_image(factor / 255) + per_image(offset))
        return torch.from_dlpack(out).permute(0, 3, 1, 2)

    return Way(run, affine=True, reflects=False)
