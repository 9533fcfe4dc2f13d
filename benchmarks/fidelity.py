"""How much of a scene survives? Every path gets the same drawn transforms, and is compared with the scene itself.

    python -m benchmarks.fidelity                    # photos that scikit-image ships
    python -m benchmarks.fidelity --photos FOLDER    # photos at least twice the short sides; better 8 megapixels

A large photo is the *scene*; its box-downsampled copy is the *photo* that the paths read. The truth for a drawn
transform is the scene under it, averaged over the area of each output pixel: what a camera would have taken. Scored
are the output pixels that look into the presized square, away from its edge: there every path has real pixels.
"""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor

import fastaug as fa
from benchmarks import common, peers
from benchmarks.common import PRESIZE, SIZE
from fastaug.augment.augment import Params
from fastaug.demo import comparison
from fastaug.loading.decode import Decoder, make_decoder
from fastaug.loading.draws import Draws
from fastaug.loading.modes import Resize

SCIKIT_IMAGE = ("retina.jpg", "hubble_deep_field.jpg")
SHORT_SIDES = (375, 500)
TRUTH_SAMPLES = 16  # along each side of an output pixel
MARGIN = 0.025  # of the square's side: what is nearer to its edge is not scored
SAME_WITHIN = 0.4  # block means against the truth, in those of the truth one pixel off
STEPWISE, FASTAI = "step by step (Kornia, bilinear)", "fastai's recipe"
TWO_WARPS = "warp at 460, crop to 224 (Kornia, bilinear)"
TORCHVISION = "step by step (torchvision v2)"
TORCHVISION_PLAIN = "step by step (torchvision v2, no antialias)"
DALI = "presize Lanczos + DALI warp_affine"  # it cannot tilt: by magnitude only
RESIZE, DIRECT = "fastaug, mode resize", "fastaug, mode direct"
MAGNITUDES: dict[str, tuple[float, ...]] = {
    "rotation": (0, 5, 10, 20, 30, 45),
    "zoom": (1, 1.25, 1.5, 2, 3),
    "shrink": (1, 1.5, 2, 3, 4, 6, 8, 10),
}
MAGNITUDE_SHORT = 500  # pixels, for rotation and zoom


@dataclass(frozen=True)
class View:
    """One photo under one drawn transform."""

    name: str
    short: int
    photo: Tensor  # uint8 [H, W, 3]
    square: tuple[int, int]  # x0, y0 of the presize square, whose side is `short`
    params: Params  # of one image, presized pixels -> output pixels
    presize: Tensor  # float64 [1, 3, 3], photo -> presized pixels
    lanczos: Tensor  # uint8 [1, 460, 460, 3], presized by fastaug's Decoder
    triangle: Tensor  # the same by Pillow's BILINEAR, as in fastai
    truth: Tensor  # float64 [1, 3, 224, 224], 0..1
    scored: Tensor  # bool [1, 224, 224]

    @property
    def whole(self) -> Tensor:
        """float64 [1, 3, 3], photo -> output pixels."""
        return self.params.matrix.double() @ self.presize


def make_views(
    files: Sequence[Path], shorts: Sequence[int], draws: int, seed: int, samples: int = TRUTH_SAMPLES
) -> Iterator[View]:
    """Every file that is large enough, at every short side, under `draws` transforms each."""
    augment, decoder = common.default_augment(max_lighting=0, normalize=None), make_decoder("jpeg", scale="exact")
    for path in files:
        scene = common.open_rgb(path)
        for short in shorts:
            factor = min(scene.shape[:2]) // short
            if factor < 2:
                continue
            seed += 1
            params = common.draw_whole_crops(augment, draws, seed)
            position = torch.rand(draws, 2, generator=torch.Generator().manual_seed(seed))
            yield from views_of(scene, path.stem, short, factor, params, position, decoder, samples)
    decoder.close()


def magnitude_views(files: Sequence[Path], kind: str, value: float, samples: int) -> Iterator[View]:
    """The files that are large enough under one transform alone: the middle of the photo, rotated, zoomed or shrunk."""
    short = round(SIZE * value) if kind == "shrink" else MAGNITUDE_SHORT
    params = fixed_params(**({} if kind == "shrink" else {kind: value}))
    decoder = make_decoder("jpeg", scale="exact")
    for path in files:
        scene = common.open_rgb(path)
        # A photo that is shrunk enough is its own scene: the truth averages over many of its pixels.
        if (factor := min(scene.shape[:2]) // short) >= (1 if kind == "shrink" and value >= 4 else 2):
            yield from views_of(scene, path.stem, short, factor, params, torch.full((1, 2), 0.5), decoder, samples)
    decoder.close()


def fixed_params(rotation: float = 0.0, zoom: float = 1.0) -> Params:
    """Of one presized image, the whole of it: rotated by degrees and enlarged about its middle."""
    augment = common.default_augment(max_lighting=0, normalize=None)
    drawn = augment.draw(1, (PRESIZE, PRESIZE)).drawn
    values = {
        "RandomHorizontalFlip": {"flipped": 0.0},
        "RandomPerspective": {"tilt_x": 0.0, "tilt_y": 0.0},
        "RandomRotation": {"degrees": rotation},
        "RandomZoom": {"zoom": zoom, "x": 0.5, "y": 0.5},
        "RandomResizedCrop": {"scale": 1.0, "x": 0.5, "y": 0.5},
    }
    for name, given in values.items():
        drawn[name].update({key: torch.full_like(drawn[name][key], value) for key, value in given.items()})
    return augment.compose(drawn, 1, (PRESIZE, PRESIZE))


def views_of(
    scene: np.ndarray, name: str, short: int, factor: int, params: Params, position: Tensor, decoder: Decoder,
    samples: int,
) -> Iterator[View]:  # fmt: skip
    """A photo of the scene, `factor` times smaller, under each of the transforms; position: of its square, [B, 2]."""
    scene_cut, photo = _photograph(scene, short, factor)
    draws = len(params)
    sizes = torch.tensor(photo.shape[:2]).expand(draws, 2)
    squares = Draws(position, (PRESIZE, PRESIZE), None)
    (x0, y0, _, _), presize = squares.boxes(sizes)[0].unbind(1), squares.presize_matrix(sizes)
    photos = decoder.decode([_png(photo)] * draws)
    needs = Resize().needs(squares, [photo.shape[:2]] * draws)
    presized = decoder.resize(photos, Resize().resizing(photos, needs, squares))
    lanczos = torch.stack([one.pixels for one in presized])
    whole = params.matrix.double() @ presize
    scored = common.inside_photo(params.matrix, PRESIZE, PRESIZE, margin=MARGIN * PRESIZE)
    for i in range(draws):
        corner = int(x0[i]), int(y0[i])
        yield View(
            name, short, torch.from_numpy(photo), corner, params[i : i + 1], presize[i : i + 1],
            lanczos[i : i + 1], _triangle(photo, corner, short), truth(scene_cut, factor, whole[i], samples),
            scored[i : i + 1],
        )  # fmt: skip


def _photograph(scene: np.ndarray, short: int, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """The scene, cut to whole pixels of the photo, and the photo: means over factor × factor pixels."""
    height, width = (short if side == min(scene.shape[:2]) else side // factor for side in scene.shape[:2])
    top, left = (scene.shape[0] - height * factor) // 2, (scene.shape[1] - width * factor) // 2
    cut = np.ascontiguousarray(scene[top : top + height * factor, left : left + width * factor])
    photo = cut.reshape(height, factor, width, factor, 3).mean((1, 3), dtype=np.float64)
    return cut, np.rint(photo).astype(np.uint8)


def truth(scene: np.ndarray, factor: float, whole: Tensor, samples: int, size: int = SIZE) -> Tensor:
    """The scene through a matrix of the photo, averaged over each output pixel; sampled by OpenCV, not by us.

    Args:
        scene: uint8 [H, W, 3], `factor` times as large as the photo.
        whole: float64 [3, 3], photo -> output pixels.
        samples: along each side of an output pixel.
        size: of the output, a multiple of 16.
    Returns:
        float64 [1, 3, size, size] in 0..1.
    """
    inverse, columns = torch.linalg.inv(whole), torch.arange(size * samples, dtype=torch.float64)
    bands = []
    for first in range(0, size, 16):  # few rows at a time, for the memory
        rows = torch.arange(first * samples, (first + 16) * samples, dtype=torch.float64)
        v, u = torch.meshgrid((rows + 0.5) / samples, (columns + 0.5) / samples, indexing="ij")
        x, y, w = (row[0] * u + row[1] * v + row[2] for row in inverse)
        places = ((axis / w * factor - 0.5).float().numpy() for axis in (x, y))
        fine = cv2.remap(scene, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        bands.append(fine.reshape(16, samples, size, samples, 3).mean((1, 3), dtype=np.float64))
    return torch.from_numpy(np.concatenate(bands)).permute(2, 0, 1)[None] / 255


def _triangle(photo: np.ndarray, corner: tuple[int, int], short: int) -> Tensor:
    x0, y0 = corner
    square = Image.fromarray(photo[y0 : y0 + short, x0 : x0 + short])
    return torch.from_numpy(np.array(square.resize((PRESIZE, PRESIZE), Image.Resampling.BILINEAR)))[None]


def _png(photo: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "PNG", compress_level=1)
    return file.getvalue()


Path_ = Callable[[View], Tensor]


def _floats(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


def step_by_step(view: View) -> Tensor:
    """Presized by a triangle, then one bilinear interpolation for each operator that acts."""
    augment = common.default_augment(max_lighting=0, normalize=None)
    return common.kornia_step_by_step(_floats(view.triangle), augment, view.params)


def fastai_recipe(view: View) -> Tensor:
    """Presized by a triangle, one warp at 460, crop and a second interpolation to 224: through fastai's own sampling.

    With `align_corners=False`: fastai's default moves the picture by up to half a pixel, which is not what is scored.
    """
    tensor_image, apply_perspective = _fastai()
    *before, _ = common.step_matrices(common.default_augment(max_lighting=0), view.params).values()
    matrix = torch.eye(3, dtype=torch.float64)
    for step in before:
        matrix = step[0] @ matrix
    unit = torch.tensor([[PRESIZE / 2, 0, PRESIZE / 2], [0, PRESIZE / 2, PRESIZE / 2], [0, 0, 1]], dtype=torch.float64)
    back = torch.linalg.inv(unit) @ torch.linalg.inv(matrix) @ unit
    coefficients = (back / back[2, 2]).flatten()[:8].float().reshape(1, 8, 1)
    image = tensor_image(_floats(view.triangle))
    warped = image.affine_coord(coord_tfm=lambda places: apply_perspective(places, coefficients), align_corners=False)
    x0, y0, side = (int(value) for value in common.crop_pixels(view.params))
    cropped = warped[..., y0 : y0 + side, x0 : x0 + side]
    return torch.as_tensor(cropped.affine_coord(sz=(SIZE, SIZE), align_corners=False)).as_subclass(Tensor)


def two_warps(view: View) -> Tensor:
    """fastai's recipe without the shrinking by area averages that its sampling does first where a crop is over 448."""
    *before, crop = common.step_matrices(common.default_augment(max_lighting=0), view.params).values()
    matrix = torch.eye(3, dtype=torch.float64)[None]
    for step in before:
        matrix = step @ matrix
    return common.kornia_warp(common.kornia_warp(_floats(view.triangle), matrix, PRESIZE), crop, SIZE)


def torchvision_steps(antialias: bool) -> Path_:
    """Its functions on uint8, one after the other; the presize with or without antialias, too."""

    def run(view: View) -> Tensor:
        x0, y0 = view.square
        square = view.photo[y0 : y0 + view.short, x0 : x0 + view.short].permute(2, 0, 1)
        presized = torchvision_functional().resize(square, [PRESIZE, PRESIZE], antialias=antialias)
        way = peers.torchvision_steps(presized.permute(1, 2, 0)[None], _pool(), antialias)
        return common.denormalised(way.run(view.params))

    return run


def torchvision_functional() -> Any:
    from torchvision.transforms.v2 import functional

    return functional


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


def dali(view: View) -> Tensor:
    """Its warp, which has no antialias, from the same presized photo as ours."""
    return peers.dali_warp(view.lanczos, 1).run(view.params)


@cache
def _fastai() -> tuple[Any, Any]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it scripts functions for torch.jit when it is imported
        from fastai.torch_core import TensorImage
        from fastai.vision.augment import apply_perspective
    return TensorImage, apply_perspective


def resized(interpolation: str, source: str) -> Path_:
    return lambda view: fa.warp(getattr(view, source), view.params.matrix, SIZE, interpolation)


def direct(interpolation: str) -> Path_:
    return lambda view: fa.warp([view.photo], view.whole, SIZE, interpolation)


def paths(report: common.Report) -> dict[str, Path_]:
    """Competitors by name, those that are installed."""
    found = {STEPWISE: step_by_step}
    with report.peer(FASTAI):
        _fastai()
        found[FASTAI] = fastai_recipe
    return found | {
        TORCHVISION_PLAIN: torchvision_steps(False),
        TORCHVISION: torchvision_steps(True),
        TWO_WARPS: two_warps,
        "presize triangle + one bilinear warp": resized("bilinear", "triangle"),
        "presize Lanczos + one bilinear warp": resized("bilinear", "lanczos"),
        RESIZE: resized("antialias", "lanczos"),
        "direct, bilinear": direct("bilinear"),
        DIRECT: direct("antialias"),
    }


def psnr_db(output: Tensor, view: View) -> float:
    error = (output.double() - view.truth)[view.scored[:, None].expand_as(view.truth)]
    return float(-10 * torch.log10(error.square().mean()))


def similarity(output: Tensor, view: View) -> float:
    """Structural similarity, by scikit-image with the settings of Wang et al. 2004; mean over what is scored."""
    images = [image[0].permute(1, 2, 0).double().clamp(0, 1).numpy() for image in (output, view.truth)]
    _, everywhere = structural_similarity(
        *images, channel_axis=-1, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        full=True,
    )  # fmt: skip
    return float(everywhere.mean(-1)[view.scored[0].numpy()].mean())


def kept_detail(output: Tensor, view: View) -> float:
    """Energy of the Laplacian, as a share of the truth's; above 1: detail that is not in the scene."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64).expand(3, 1, 3, 3)
    inner = (-F.max_pool2d(-view.scored[:, None].double(), 3, 1)).expand(-1, 3, -1, -1) > 0
    energy = [F.conv2d(image.double(), kernel, groups=3)[inner].square().sum() for image in (output, view.truth)]
    return float(energy[0] / energy[1])


def invented(view: View) -> dict[str, float]:
    """Share of output pixels that look beyond the pixels there are: the presized square's, or the photo's."""
    height, width = view.photo.shape[:2]
    square = common.inside_photo(view.params.matrix, PRESIZE, PRESIZE)
    photo = common.inside_photo(view.whole, width, height)
    return {"square": 1 - float(square.double().mean()), "photo": 1 - float(photo.double().mean())}


def check(report: common.Report, ways: dict[str, Path_], view: View) -> dict[str, Path_]:
    """Those that show what the truth shows; and our warp as its specification has it."""
    admitted = {}
    pixel = comparison.difference_levels(view.truth.roll(1, 3), view.truth, mask=view.scored)
    for name, way in ways.items():
        off = comparison.difference_levels(way(view), view.truth, mask=view.scored) / pixel
        if report.admit(name, off, SAME_WITHIN, "pixels off the truth"):
            admitted[name] = way
    got = fa.warp(view.lanczos, view.params.matrix, SIZE)
    expected = fa.warp(view.lanczos, view.params.matrix, SIZE, backend="reference")
    report.admit("fastaug.warp", float((got - expected).abs().max() * 255), 0.1, "levels from the specification")
    return admitted


def score(ways: dict[str, Path_], views: Sequence[View]) -> list[dict[str, Any]]:
    rows = []
    for view in views:
        beyond = invented(view)
        for name, way in ways.items():
            output = way(view)
            rows.append(
                {
                    "path": name, "photo": view.name, "short": view.short, "psnr_db": psnr_db(output, view),
                    "ssim": similarity(output, view), "detail": kept_detail(output, view),
                    "invented": beyond["photo" if "direct" in name else "square"],
                }
            )  # fmt: skip
    return rows


def advantages(rows: Sequence[dict[str, Any]], name: str, over: str) -> tuple[np.ndarray, dict[str, float]]:
    """dB of one path over another: for every draw, and the mean of each photo."""
    ours, theirs = ([row for row in rows if row["path"] == path] for path in (name, over))
    gained = np.array([a["psnr_db"] - b["psnr_db"] for a, b in zip(ours, theirs, strict=True)])
    photos = {row["photo"] for row in ours}
    of_photo = {
        p: float(np.mean([g for g, row in zip(gained, ours, strict=True) if row["photo"] == p])) for p in photos
    }
    return gained, of_photo


def summarise(report: common.Report, rows: list[dict[str, Any]], names: Sequence[str]) -> None:
    report.rows += rows
    lines = []
    for name in names:
        mine = [row for row in rows if row["path"] == name]
        columns = {key: np.array([row[key] for row in mine]) for key in ("psnr_db", "ssim", "detail", "invented")}
        over = [advantages(rows, name, other)[0].mean() if other in names else None for other in (FASTAI, STEPWISE)]
        worst = advantages(rows, name, STEPWISE)[0].min() if STEPWISE in names else None
        q1, q3 = np.percentile(columns["psnr_db"], [25, 75])
        lines.append(
            [
                name, f"{columns['psnr_db'].mean():.1f} ({q1:.1f} to {q3:.1f})",
                *("" if value is None else f"{value:+.1f}" for value in (*over, worst)),
                f"{columns['ssim'].mean():.4f}", f"{columns['detail'].mean():.2f}",
                f"{100 * columns['invented'].mean():.1f} %",
            ]
        )  # fmt: skip
    report.table(
        f"{len({row['photo'] for row in rows})} photos, {len(rows) // len(names)} views, fastai's default transforms",
        ["path", "PSNR, dB (middle half)", "over fastai", "over step by step", "worst view over step by step",
         "SSIM", "fine detail kept", "invented pixels"], lines,
    )  # fmt: skip
    shorts = sorted({row["short"] for row in rows})
    report.table(
        "PSNR by short side of the photo, dB",
        ["path", *(f"{short} px" for short in shorts)],
        [
            [
                name,
                *(
                    f"{np.mean([r['psnr_db'] for r in rows if (r['path'], r['short']) == (name, s)]):.1f}"
                    for s in shorts
                ),
            ]
            for name in names
        ],
    )
    for name, goal in ((RESIZE, 4.5), (DIRECT, 7.0)):
        measured = name in names and FASTAI in names
        value = float(advantages(rows, name, FASTAI)[0].mean()) if measured else None
        report.target(f"{name}: dB over fastai's recipe", value, goal)
        least = min(advantages(rows, name, STEPWISE)[1].values()) if {name, STEPWISE} <= set(names) else None
        report.target(f"{name}: least dB over step by step, of any photo", least, 0.0)


def by_magnitude(report: common.Report, ways: dict[str, Path_], files: Sequence[Path], samples: int) -> None:
    """PSNR under one transform alone, by how strong it is."""
    for kind, values in MAGNITUDES.items():
        mean: dict[str, list[str]] = {name: [] for name in ways}
        for value in values:
            rows = score(ways, list(magnitude_views(files, kind, value, samples)))
            for row in rows:
                report.rows.append({"magnitude": kind, "value": value} | row)
            for name in ways:
                found = [row["psnr_db"] for row in rows if row["path"] == name]
                mean[name].append(f"{np.mean(found):.1f}" if found else "")
        unit = {"rotation": "°", "zoom": " ×", "shrink": " ×"}[kind]
        report.table(
            f"PSNR by {kind} alone, dB", ["path", *(f"{value:g}{unit}" for value in values)],
            [[name, *cells] for name, cells in mean.items()],
        )  # fmt: skip


def write_sheet(path: Path, ways: dict[str, Path_], views: Sequence[View], side: int = 44) -> None:
    """Enlarged details, a row per view: truth and paths, the square with the finest detail."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [name for name in (STEPWISE, TORCHVISION, FASTAI, RESIZE, DIRECT) if name in ways]
    figure, axes = plt.subplots(
        len(views), len(shown) + 1, figsize=(2.4 * (len(shown) + 1), 2.65 * len(views)), squeeze=False
    )
    for row, view in zip(axes, views, strict=True):
        grey = view.truth.mean(1, keepdim=True)
        detail = (grey - F.avg_pool2d(grey, 3, 1, 1, count_include_pad=False)).square() * view.scored[:, None]
        y, x = divmod(int(F.avg_pool2d(detail, side, 1).argmax()), SIZE - side + 1)
        images = {"truth: the scene": view.truth} | {name: ways[name](view) for name in shown}
        for axis, (name, image) in zip(row, images.items(), strict=True):
            cut = image[0, :, y : y + side, x : x + side].clamp(0, 1).permute(1, 2, 0).double().numpy()
            axis.imshow(cut, interpolation="nearest")
            decibels = "" if image is view.truth else f"\n{psnr_db(image, view):.1f} dB"
            axis.set_title(f"{name}{decibels}", fontsize=7)
            axis.set_axis_off()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--photos", type=Path, help="folder of large photos; default: scikit-image's")
    parser.add_argument("--short-sides", type=int, nargs="+", default=SHORT_SIDES)
    parser.add_argument("--draws", type=int, default=4, help="transforms for each photo and short side")
    parser.add_argument("--magnitude-photos", type=int, default=4, help="how many photos are looked at by magnitude")
    parser.add_argument("--sheet", type=Path, help="PNG of enlarged details of scikit-image's photos")
    arguments = parser.parse_args()
    draws, shorts, samples = arguments.draws, tuple(arguments.short_sides), TRUTH_SAMPLES
    if arguments.tiny:
        draws, shorts, samples = 1, (375,), 8
    files = common.photo_files(arguments.photos) if arguments.photos else common.scikit_image_photos(SCIKIT_IMAGE)
    views = list(make_views(files, shorts, draws, arguments.seed, samples))
    if not views:
        parser.error(f"expected photos at least twice as large as {min(shorts)} pixels, found none")
    settings = {"short_sides": shorts, "draws": draws, "seed": arguments.seed, "truth_samples": samples}
    report = common.Report("fidelity", settings | {"photos": sorted({view.name for view in views})})
    ways = check(report, paths(report), views[0])
    if ways:
        summarise(report, score(ways, views), list(ways))
        with report.peer(DALI):
            view = next(magnitude_views(files[:1], "rotation", 10, samples))
            ways = check(report, ways | {DALI: dali}, view)
            by_magnitude(report, ways, files[: arguments.magnitude_photos], samples)
    if arguments.sheet and ways:
        mine = make_views(common.scikit_image_photos(SCIKIT_IMAGE), (375,), 2, arguments.seed, samples)
        write_sheet(arguments.sheet, ways, list(itertools.islice(mine, 1 if arguments.tiny else 3)))
    return report.finish(common.out_path(arguments))


if __name__ == "__main__":
    sys.exit(main())
