"""At which scale is a JPEG decoded fine enough? The study behind LEAST_FOOTPRINT and SCALES in `fastaug.loading.jpeg`.

    python -m benchmarks.scale_study --photos FOLDER     # photos of 8 megapixels and more
    python -m benchmarks.scale_study --tiny              # photos that scikit-image ships

fastaug's loader makes the same drawn views of the same photos, decoded at 1/2, 1/4 or 1/8 where that leaves
LEAST_FOOTPRINT pixels per pixel of what is made of them, for several values of it; *none* decodes every pixel.

- *Against full decoding*: PSNR of the batch's images to those of *none*, all pixels, of the images that were decoded
  smaller; the others are equal.
- *Against the scene*: the scene is the photo as it is, with every pixel decoded, and the truth the scene under the
  drawn transform, averaged over the area of each output pixel by `benchmarks.fidelity`. An output pixel covers several
  pixels of the photo along each axis, so nothing is enlarged. Scored are the pixels that look into the presized square,
  away from its edge.
- The sources are the photos themselves, and smaller ones made of them by area averages, whose short side is just enough
  for 1/2 in resize mode with LEAST_FOOTPRINT = 2, so that nothing is left to spare.
- Whether 1/8 pays: at half the output size, where it is taken, with it and without.

CPU time: of libjpeg-turbo alone, in the threads that decode, and of everything that the loader does; the settings take
turns.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor

import fastaug as fa
from benchmarks import common, fidelity
from benchmarks.common import PRESIZE, SIZE
from fastaug.demo import comparison
from fastaug.loading import jpeg

MODES = ("direct", "resize")
SHORT_SIDE = 1_850  # pixels: 4 × 460 and a little
QUALITY = 95  # of the smaller JPEGs
BATCH = 8
DECIBELS, MOST_LOSS_DB = 50.0, 0.2  # goals, at what is taken by default
EQUAL_DB = 150.0  # what differs by rounding of float32 only


@dataclass(frozen=True)
class Setting:
    """How far photos are decoded.

    Attributes:
        least: pixels per pixel of what is made of a photo; None: every pixel is decoded.
        scales: that may be taken.
        size, presize: of the batches, pixels.
    """

    least: float | None
    scales: tuple[int, ...] = jpeg.SCALES
    size: int = SIZE
    presize: int = PRESIZE


NONE = "none"
SETTINGS = {f"{least:g}": Setting(least) for least in (1, 1.5, 2, 3)}
SETTINGS |= {f"{jpeg.LEAST_FOOTPRINT:g}, 1/2 only": Setting(jpeg.LEAST_FOOTPRINT, (2,)), NONE: Setting(None)}
EIGHTHS = {
    "1/8, 1/4, 1/2": Setting(jpeg.LEAST_FOOTPRINT, (8, 4, 2), SIZE // 2, PRESIZE // 2),
    "1/4, 1/2": Setting(jpeg.LEAST_FOOTPRINT, (4, 2), SIZE // 2, PRESIZE // 2),
    NONE: Setting(None, (8, 4, 2), SIZE // 2, PRESIZE // 2),
}


@dataclass
class Decoded:
    """What libjpeg-turbo did: the scale of each photo, and the CPU seconds of all."""

    scales: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@contextmanager
def decoding(setting: Setting) -> Iterator[Decoded]:
    """Within: loaders decode so, and what they do is noted."""
    before, decode, found = (jpeg.LEAST_FOOTPRINT, jpeg.SCALES), jpeg.decode, Decoded()

    def watched(*arguments: Any) -> Any:
        start = time.thread_time()
        photo = decode(*arguments)
        found.seconds.append(time.thread_time() - start)
        found.scales.append(round(photo.size[0] / photo.pixels.shape[0]))
        return photo

    jpeg.LEAST_FOOTPRINT, jpeg.SCALES = setting.least or before[0], setting.scales
    jpeg.decode = watched
    try:
        yield found
    finally:
        (jpeg.LEAST_FOOTPRINT, jpeg.SCALES), jpeg.decode = before, decode


def loader(files: Sequence[Path], mode: str, setting: Setting, threads: int, seed: int) -> fa.ImageLoader:
    """The views of each file, in the same order and under the same draws whatever the mode and the setting."""
    samples = fa.Samples([str(file) for file in files], [0] * len(files), ["photo"])
    return fa.ImageLoader(
        samples, min(BATCH, len(files)), setting.presize,
        common.default_augment(size=setting.size, max_lighting=0, normalize=None), device="cpu", seed=seed, mode=mode,
        drop_last=False, on_error="raise", return_info=True, num_threads=threads,
        scale="exact" if setting.least is None else "auto",
    )  # fmt: skip


@dataclass(frozen=True)
class Views:
    """The images of a setting, one for each row of the samples.

    Attributes:
        images: float32 [N, 3, size, size] in 0..1.
        matrix: float32 [N, 3, 3], pixels of the photo -> output pixels.
        scored: bool [N, size, size], see above.
        scales: at which each was decoded.
    """

    images: Tensor
    matrix: Tensor
    scored: Tensor
    scales: list[int]


def make_views(files: Sequence[Path], mode: str, setting: Setting, seed: int) -> Views:
    """One batch after the other and by one thread, so that the scales come in the order of the images."""
    one_by_one = loader(files, mode, setting, 1, seed)
    one_by_one.prefetch_batches = 1
    parts: list[tuple[Tensor, ...]] = []
    with decoding(setting) as found:
        for x, _, info in one_by_one:
            scored = common.inside_photo(
                info.params.matrix, setting.presize, setting.presize, setting.size, fidelity.MARGIN * setting.presize
            )
            parts.append((info.indices, x, info.matrix, scored))
    indices, images, matrix, scored = (torch.cat(part) for part in zip(*parts, strict=True))
    order = indices.argsort()
    scales = np.array(found.scales)[order.numpy()].tolist()
    return Views(images[order], matrix[order], scored[order], scales)


def mean_squares(images: Tensor, truth: Tensor, scored: Tensor | None = None) -> Tensor:
    """Of the difference, float64 [N]; images and truth: [N, 3, H, W]; scored: bool [N, H, W], which pixels count."""
    squares = (images.double() - truth.double()).square().mean(1)
    weight = torch.ones_like(squares) if scored is None else scored.double()
    return (squares * weight).sum((1, 2)) / weight.sum((1, 2))


def decibels(squares: Tensor) -> Tensor:
    return (-10 * torch.log10(squares)).clamp(max=EQUAL_DB)


def truths(files: Sequence[Path], scenes: dict[Path, tuple[Path, float]], views: Views, samples: int) -> Tensor:
    """Each file's scene under its transform: float32 [N, 3, size, size]; scenes: file -> its scene, times as large."""
    opened: tuple[Path | None, Any] = (None, None)
    found = []
    for file, matrix in zip(files, views.matrix.double(), strict=True):
        path, factor = scenes[file]
        if opened[0] != path:
            opened = path, common.open_rgb(path)
        size = views.images.shape[-1]
        found.append(fidelity.truth(opened[1], factor, matrix, samples, size).float())
    return torch.cat(found)


def smaller_jpeg(path: Path, short: int, folder: Path) -> tuple[Path, float]:
    """A JPEG of a photo whose short side is `short`, by area averages, and how many times larger the photo is."""
    photo = common.open_rgb(path)
    factor = min(photo.shape[:2]) / short
    # A cut of the long side, so that both sides are smaller by the same factor; the corner at (0, 0) stays.
    sizes = [round(side / factor) if side > min(photo.shape[:2]) else short for side in photo.shape[:2]]
    height, width = (min(round(size * factor), side) for size, side in zip(sizes, photo.shape[:2], strict=True))
    made = cv2.resize(photo[:height, :width], (sizes[1], sizes[0]), interpolation=cv2.INTER_AREA)
    file = folder / f"{path.stem}.jpg"
    Image.fromarray(made).save(file, quality=QUALITY)
    return file, factor


def score(
    report: common.Report, settings: dict[str, Setting], sources: Sequence[Path],
    scenes: dict[Path, tuple[Path, float]], draws: int, samples: int,
) -> None:  # fmt: skip
    """Rows for each view; `sources` are JPEG files, of each of which `draws` views are made."""
    files = [file for file in sources for _ in range(draws)]
    seed, truth = report.settings["seed"], None
    size = settings[NONE].size
    sampling = {file: simplejpeg.decode_jpeg_header(file.read_bytes())[3] for file in sources}
    for mode in MODES:
        full = make_views(files, mode, settings[NONE], seed)
        truth = truths(files, scenes, full, samples) if truth is None else truth  # the same draws in both modes
        off = comparison.difference_levels(full.images, truth.double(), mask=full.scored)
        pixel = comparison.difference_levels(truth.roll(1, 3), truth, mask=full.scored)
        if not report.admit(f"mode {mode}, {size} px", off / pixel, fidelity.SAME_WITHIN, "pixels off the truth"):
            continue
        best = decibels(mean_squares(full.images, truth, full.scored))
        for name, setting in settings.items():
            views = full if name == NONE else make_views(files, mode, setting, seed)
            to_full = mean_squares(views.images, full.images)
            to_scene = decibels(mean_squares(views.images, truth, views.scored))
            for i, file in enumerate(files):
                report.rows.append(
                    {
                        "name": name, "mode": mode, "size": size, "photo": scenes[file][0].stem,
                        "short": SHORT_SIDE if scenes[file][0] != file else None, "sampling": sampling[file],
                        "scale": views.scales[i], "to_full_mse": float(to_full[i]), "scene_db": float(to_scene[i]),
                        "loss_db": float(best[i] - to_scene[i]),
                    }
                )  # fmt: skip


Rows = Sequence[dict[str, Any]]


def views_at(report: common.Report, size: int) -> Rows:
    """The rows of single views."""
    return [row for row in report.rows if "scale" in row and row["size"] == size]


def of_photos(rows: Rows) -> dict[str, float]:
    """dB against full decoding of each photo's images that were decoded smaller, by their mean squared difference."""
    squares: dict[str, list[float]] = {}
    for row in rows:
        if row["scale"] > 1:
            squares.setdefault(f"{row['photo']} {row['short'] or ''}", []).append(row["to_full_mse"])
    return {name: float(decibels(torch.tensor(found).mean())) for name, found in squares.items()}


def table(report: common.Report, settings: dict[str, Setting], what: str, cpu: dict[tuple[str, str], Any]) -> None:
    """What was found for some settings, of all photos and views."""
    size = settings[NONE].size
    lines = []
    for mode in MODES:
        for name in settings:
            rows = [row for row in views_at(report, size) if (row["mode"], row["name"]) == (mode, name)]
            if not rows:
                continue
            photos, scales = of_photos(rows), [row["scale"] for row in rows]
            shares = " · ".join(f"{100 * scales.count(scale) / len(scales):.0f}" for scale in (1, 2, 4, 8))
            loss = np.array([row["loss_db"] for row in rows])
            found = [f"{min(photos.values()):.1f}", f"{np.mean(list(photos.values())):.1f}"] if photos else ["", ""]
            scene = float(np.mean([row["scene_db"] for row in rows]))
            times = [common.with_spread(spread) for spread in cpu.get((mode, name), ())]
            lines.append(
                [f"{mode}, {name}", shares, *found, f"{scene:.2f}", f"{loss.mean():+.3f}", f"{loss.max():+.2f}", *times]
            )
    views = len({(row["photo"], row["short"]) for row in views_at(report, size)})
    report.table(
        f"{what}, {size} px; {views} sources × {report.settings['draws']} views; CPU: photos as they are, middle half "
        "in brackets",
        [
            "mode, setting", "% at 1 · 1/2 · 1/4 · 1/8", "dB to full decoding, worst photo", "mean of photos",
            "dB to the scene", "lost, mean", "lost, worst view", "CPU ms decoding", "CPU ms in all",
        ],
        lines,
    )  # fmt: skip


def by_sampling(report: common.Report) -> None:
    """The same for the default, by how the photos store colour and by scale."""
    lines = []
    found = [row for row in views_at(report, SIZE) if row["name"] == f"{jpeg.LEAST_FOOTPRINT:g}" and row["scale"] > 1]
    for key in sorted({(row["mode"], row["sampling"], row["scale"]) for row in found}):
        rows = [row for row in found if (row["mode"], row["sampling"], row["scale"]) == key]
        photos, loss = list(of_photos(rows).values()), [row["loss_db"] for row in rows]
        mode, sampling, scale = key
        lines.append(
            [
                f"{mode}, {':'.join(sampling)}, 1/{scale}", str(len(rows)), f"{min(photos):.1f}",
                f"{np.mean(photos):.1f}", f"{np.mean(loss):+.3f}", f"{max(loss):+.2f}",
            ]
        )  # fmt: skip
    report.table(
        f"By chroma sampling, LEAST_FOOTPRINT = {jpeg.LEAST_FOOTPRINT:g}, {SIZE} px",
        ["mode, sampling, scale", "views", "dB to full decoding, worst photo", "mean of photos", "lost, mean",
         "lost, worst view"], lines,
    )  # fmt: skip


def timings(
    report: common.Report, settings: dict[str, Setting], files: Sequence[Path], threads: int, repeats: int
) -> dict[tuple[str, str], tuple[dict[str, float], dict[str, float]]]:
    """(mode, setting) -> spread of CPU ms an image: of decoding, and of the loader; in alternating turns."""
    seed = report.settings["seed"]
    loaders = {(m, name): loader(files, m, setting, threads, seed) for m in MODES for name, setting in settings.items()}
    used: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in loaders}

    def one_pass(key: tuple[str, str]) -> None:
        start = common.cpu_seconds()
        with decoding(settings[key[1]]) as found:
            loaders[key].set_epoch(len(used[key]))  # each round has draws of its own, the same for all
            seen = sum(len(x) for x, _, _ in loaders[key])
        if seen != len(files):
            raise RuntimeError(f"expected {len(files)} images in a pass, got {seen}")
        used[key].append((1e3 * sum(found.seconds) / seen, 1e3 * (common.cpu_seconds() - start) / seen))

    calls: dict[Any, Callable[[], object]] = {key: partial(one_pass, key) for key in loaders}
    comparison.take_turns(calls, repeats)
    spreads = {}
    for (mode, name), each in used.items():
        decoded, in_all = (list(part) for part in zip(*each[1:], strict=True))  # the first one was to warm up
        spreads[mode, name] = comparison.quartiles(decoded), comparison.quartiles(in_all)
        report.rows.append(
            {
                "name": name, "mode": mode, "size": settings[name].size, "decode_cpu_ms": decoded, "cpu_ms": in_all,
                "cpu_ms_per_image": spreads[mode, name][1],
            }
        )  # fmt: skip
    return spreads


def targets(report: common.Report) -> None:
    for mode in MODES:
        name = f"{jpeg.LEAST_FOOTPRINT:g}"
        rows = [row for row in views_at(report, SIZE) if (row["mode"], row["name"]) == (mode, name)]
        photos = of_photos(rows)
        worst = min(photos.values()) if photos else None
        what = f"mode {mode}, LEAST_FOOTPRINT = {jpeg.LEAST_FOOTPRINT:g}"
        report.target(f"{what}: dB to full decoding, worst photo", worst, DECIBELS)
        loss = float(np.mean([row["loss_db"] for row in rows])) if rows else None
        report.target(f"{what}: dB lost against the scene, mean", loss, MOST_LOSS_DB, at_least=False)


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--photos", type=Path, help="folder of large JPEG photos; default: scikit-image's")
    parser.add_argument("--draws", type=int, default=8, help="views of each source")
    parser.add_argument("--images", type=int, default=32, help="images a timed pass")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    draws, images, repeats, samples = arguments.draws, arguments.images, arguments.repeats, fidelity.TRUTH_SAMPLES
    if arguments.tiny:
        draws, images, repeats, samples = 2, 4, 1, 4
    files = (
        common.photo_files(arguments.photos) if arguments.photos else common.scikit_image_photos(fidelity.SCIKIT_IMAGE)
    )
    files = [file for file in files if file.suffix.lower() != ".png"]
    settings = {"draws": draws, "images": images, "repeats": repeats, "seed": arguments.seed, "truth_samples": samples}
    settings |= {"short_side": SHORT_SIDE, "quality": QUALITY, "threads": arguments.threads}
    report = common.Report("scale_study", settings | {"photos": [file.stem for file in files]})
    with tempfile.TemporaryDirectory() as temporary:
        scenes = {file: (file, 1.0) for file in files}
        for file in files:
            if min(common.open_rgb(file).shape[:2]) > SHORT_SIDE:
                made, factor = smaller_jpeg(file, SHORT_SIDE, Path(temporary))
                scenes[made] = file, factor
        timed = (list(files) * -(-images // len(files)))[:images]
        for what, group, sources in (
            ("By LEAST_FOOTPRINT", SETTINGS, list(scenes)),
            (f"By the scales that there are, LEAST_FOOTPRINT = {jpeg.LEAST_FOOTPRINT:g}", EIGHTHS, files),
        ):
            score(report, group, sources, scenes, draws, samples)
            table(report, group, what, timings(report, group, timed, arguments.threads, repeats))
    by_sampling(report)
    targets(report)
    return report.finish(common.out_path(arguments))


if __name__ == "__main__":
    sys.exit(main())
