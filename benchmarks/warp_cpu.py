"""How long does augmentation take on a CPU? 460 -> 224, uint8 -> normalised float32, fastai's default transforms.

    python -m benchmarks.warp_cpu --threads 2

Everybody gets the same presized photos and the same drawn parameters; drawing is not timed. Before it is timed, every
competitor must show what the specification of fastaug's warp shows. They take turns.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

import fastaug as fa
from benchmarks import common
from benchmarks.common import MEAN, PRESIZE, SIZE, STD
from fastaug import geometry
from fastaug.transforms import Params

PHOTOS = (
    "astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png",
    "retina.jpg", "rocket.jpg",
)  # fmt: skip
SAME_WITHIN_LEVELS = 1.0  # block means, of 255; photos one pixel apart differ by about 2
CHECKED = 4  # images of each answer
OURS, OURS_BILINEAR = "fastaug, antialias", "fastaug, bilinear"
WARP_AFFINE, WARP_AFFINE_NUMPY = "OpenCV warpAffine + table", "OpenCV warpAffine + numpy"
KORNIA_STEPS = "Kornia step by step"


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


def ours(images: Tensor, interpolation: str) -> Way:
    return Way(partial(common.default_augment(interpolation=interpolation).apply, images))


def opencv(images: Tensor, pool: ThreadPoolExecutor, perspective: bool, table: bool = True) -> Way:
    """Bilinear on uint8, then lighting and normalisation; an image per task.

    table: these two as a table of 256 floats per channel, the fastest way found; otherwise numpy's x * a + b.
    """
    photos = images.numpy()

    def run(params: Params) -> Tensor:
        out = np.empty((len(photos), SIZE, SIZE, 3), np.float32)
        matrices = geometry.to_integer_centred(params.matrix.double()).numpy()
        factor, offset = (part.numpy()[:, None] for part in common.light(params))
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
    factor, offset = common.light(params)
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


def torchvision_steps(images: Tensor, pool: ThreadPoolExecutor) -> Way:
    """Functions of transforms.v2 on uint8, an image per task; antialias where it resizes, black beyond the edge."""
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
            side = round(PRESIZE / zoom)
            top, left = (round((PRESIZE - side) * drawn["RandomZoom"][axis]) for axis in ("y", "x"))
            x = tv.resized_crop(x, top, left, side, side, [PRESIZE, PRESIZE], bilinear, antialias=True)
        x0, y0, side = (int(value[i]) for value in common.crop_pixels(params))
        x = tv.resized_crop(x, y0, x0, side, side, [SIZE, SIZE], bilinear, antialias=True)
        if (factor := drawn["ColorJitter"]["brightness"]) != 1:
            x = tv.adjust_brightness(x, factor)
        if (factor := drawn["ColorJitter-2"]["contrast"]) != 1:
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


def competitors(report: common.Report, images: Tensor, pool: ThreadPoolExecutor) -> dict[str, Way]:
    found = {
        OURS: ours(images, "antialias"),
        OURS_BILINEAR: ours(images, "bilinear"),
        WARP_AFFINE: opencv(images, pool, perspective=False),
        WARP_AFFINE_NUMPY: opencv(images, pool, perspective=False, table=False),
        "OpenCV warpPerspective + table": opencv(images, pool, perspective=True),
        "Kornia warp_perspective + normalise": kornia_once(images),
        KORNIA_STEPS: kornia_steps(images),
    }
    for name, make in (("torchvision v2 step by step", partial(torchvision_steps, images, pool)),
                       ("fastai batch transforms", partial(fastai_batch, images))):  # fmt: skip
        with report.peer(name):
            found[name] = make()
    return found


def params_for(way: Way, batch: int, seed: int, light: bool) -> Params:
    augment = common.default_augment() if light else common.default_augment(max_lighting=1e-9)
    change = {"RandomPerspective": torch.tensor(0.0)} if way.affine else {}
    return common.draw_whole_crops(augment, batch, seed, way.shared_crop, **change)


def difference(way: Way, images: Tensor, seed: int) -> float:
    """Levels between what a competitor shows and what the specification shows, on the first images."""
    params = params_for(way, len(images), seed, light=not way.own_light)
    got = common.denormalised(way.run(params)[:CHECKED])
    first = params[:CHECKED]
    mask = None if way.reflects else common.inside_photo(first.matrix, PRESIZE, PRESIZE, margin=8)
    return common.block_difference_levels(got, common.denormalised(specified(images[:CHECKED], first)), mask)


_specified: dict[bytes, Tensor] = {}  # the reference is slow, and many ask for the same


def specified(images: Tensor, params: Params) -> Tensor:
    """What the reference computes; bilinear, which shows the same in less time."""
    key = params.matrix.numpy().tobytes() + params.color.numpy().tobytes()
    if key not in _specified:
        _specified[key] = _reference(images, params)
    return _specified[key]


def _reference(images: Tensor, params: Params) -> Tensor:
    return fa.warp(images, params.matrix, SIZE, "bilinear", color=params.color, backend="reference")


def measure(report: common.Report, ways: dict[str, Way], batch: int, seed: int, repeats: int, seconds: float) -> None:
    calls = {name: partial(way.run, params_for(way, batch, seed, light=True)) for name, way in ways.items()}
    timed = common.take_turns(calls, repeats, seconds)
    lines = []
    for name, each in timed.items():
        ms = common.spread([1e3 * value / batch for value in each])
        times = common.ratios(each, timed[OURS]) if OURS in timed else common.spread([float("nan")])
        report.rows.append(
            {
                "name": name,
                "ms_per_image": ms,
                "images_per_s": 1e3 / ms["median"],
                "times_fastaug": times,
                "seconds": each,
            }
        )
        lines.append([name, common.with_spread(ms, 2), f"{1e3 / ms['median']:,.0f}", common.with_spread(times, 2)])
    report.table(
        f"460 → 224, batch {batch}, {torch.get_num_threads()} threads, {repeats} rounds; middle half in brackets",
        ["", "ms an image", "images/s", f"times the time of {OURS}"], lines,
    )  # fmt: skip

    def ratio(above: str, below: str) -> float | None:
        return common.ratios(timed[above], timed[below])["median"] if {above, below} <= set(timed) else None

    for name in (WARP_AFFINE, WARP_AFFINE_NUMPY):
        report.target(f"fastaug antialias / {name}, time", ratio(OURS, name), 1.5, at_least=False)
    report.target("Kornia step by step / fastaug antialias, time", ratio(KORNIA_STEPS, OURS), 12)


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--photos", type=Path, help="folder of photos; default: scikit-image's")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="least length of a turn")
    arguments = parser.parse_args()
    batch, repeats, seconds = (8, 2, 0.0) if arguments.tiny else (arguments.batch, arguments.repeats, arguments.seconds)
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    cv2.setNumThreads(1)  # the pool's threads take an image each
    files = common.photo_files(arguments.photos) if arguments.photos else common.scikit_image_photos(PHOTOS)
    images = common.presized_batch(files, batch)
    settings = {"batch": batch, "repeats": repeats, "least_seconds": seconds, "seed": arguments.seed}
    report = common.Report("warp_cpu", settings)
    with ThreadPoolExecutor(arguments.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        ways = competitors(report, images, pool)
        admitted = {
            name: way
            for name, way in ways.items()
            if report.admit(name, difference(way, images, arguments.seed), SAME_WITHIN_LEVELS, "levels")
        }
        torch.set_num_threads(arguments.threads)  # the pool's 1 is not for this thread
        if admitted:
            measure(report, admitted, batch, arguments.seed, repeats, seconds)
    return report.finish(common.out_path(arguments))


if __name__ == "__main__":
    sys.exit(main())
