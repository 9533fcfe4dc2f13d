"""How long does augmentation take on a CPU? 460 -> 224, uint8 -> normalised float32, fastai's default transforms.

    python -m benchmarks.warp_cpu --threads 2

Everybody gets the same presized photos and the same drawn parameters; drawing is not timed. Before it is timed, every
competitor must show what the specification of fastaug's warp shows. They take turns.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import torch
from torch import Tensor

import fastaug as fa
from benchmarks import common, peers
from benchmarks.common import PRESIZE, SIZE
from benchmarks.peers import Way
from fastaug.augment.augment import Params
from fastaug.demo import comparison

PHOTOS = (
    "astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png",
    "retina.jpg", "rocket.jpg",
)  # fmt: skip
SAME_WITHIN_LEVELS = 1.0  # block means, of 255; photos one pixel apart differ by about 2
CHECKED = 4  # images of each answer
OURS, OURS_BILINEAR = "fastaug, antialias", "fastaug, bilinear"
WARP_AFFINE, WARP_AFFINE_NUMPY = "OpenCV warpAffine + table", "OpenCV warpAffine + numpy"
KORNIA_STEPS = "Kornia step by step"


def ours(images: Tensor, interpolation: str) -> Way:
    return Way(partial(common.default_augment(interpolation=interpolation).apply, images))


def competitors(report: common.Report, images: Tensor, pool: ThreadPoolExecutor) -> dict[str, Way]:
    found = {
        OURS: ours(images, "antialias"),
        OURS_BILINEAR: ours(images, "bilinear"),
        WARP_AFFINE: peers.opencv(images, pool, perspective=False),
        WARP_AFFINE_NUMPY: peers.opencv(images, pool, perspective=False, table=False),
        "OpenCV warpPerspective + table": peers.opencv(images, pool, perspective=True),
        "Kornia warp_perspective + normalise": peers.kornia_once(images),
        KORNIA_STEPS: peers.kornia_steps(images),
    }
    others = {
        "torchvision v2 step by step": partial(peers.torchvision_steps, images, pool),
        "fastai batch transforms": partial(peers.fastai_batch, images),
        "DALI warp_affine": partial(peers.dali_warp, images, torch.get_num_threads()),
    }
    for name, make in others.items():
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
    return comparison.difference_levels(got, common.denormalised(specified(images[:CHECKED], first)), mask=mask)


_specified: dict[bytes, Tensor] = {}  # the reference is slow, and many ask for the same


def specified(images: Tensor, params: Params) -> Tensor:
    """What the reference computes; bilinear, which shows the same in less time."""
    key = params.matrix.numpy().tobytes() + params.color.numpy().tobytes()
    if key not in _specified:
        _specified[key] = _reference(images, params)
    return _specified[key]


def _reference(images: Tensor, params: Params) -> Tensor:
    return fa.warp(images, params.matrix, SIZE, "bilinear", color=params.color, backend="reference")


def timed_rows(
    report: common.Report, ways: dict[str, Way], batch: int, seed: int, repeats: int, seconds: float
) -> dict[str, list[float]]:
    """Seconds a batch of each way, which are also noted as rows."""
    calls = {name: partial(way.run, params_for(way, batch, seed, light=True)) for name, way in ways.items()}
    timed = comparison.take_turns(calls, repeats, seconds)
    for name, each in timed.items():
        ms = comparison.quartiles([1e3 * value / batch for value in each])
        times = common.ratios(each, timed[OURS]) if OURS in timed else comparison.quartiles([float("nan")])
        report.rows.append(
            {
                "name": name, "batch": batch, "ms_per_image": ms, "images_per_s": 1e3 / ms["median"],
                "times_fastaug": times, "peak_bytes": common.peak_bytes(calls[name]), "seconds": each,
            }
        )  # fmt: skip
    return timed


def show_batch(report: common.Report, timed: dict[str, list[float]], batch: int, repeats: int) -> None:
    """The table and the goals of the batch size that is looked at closely."""
    lines = [
        [
            row["name"], common.with_spread(row["ms_per_image"], 2), f"{row['images_per_s']:,.0f}",
            common.with_spread(row["times_fastaug"], 2), f"{row['peak_bytes'] / 1e6:,.0f}",
        ]
        for row in report.rows if row["batch"] == batch
    ]  # fmt: skip
    report.table(
        f"460 → 224, batch {batch}, {torch.get_num_threads()} threads, {repeats} rounds; middle half in brackets",
        ["", "ms an image", "images/s", f"times the time of {OURS}", "peak memory, MB"], lines,
    )  # fmt: skip

    def ratio(above: str, below: str) -> float | None:
        return common.ratios(timed[above], timed[below])["median"] if {above, below} <= set(timed) else None

    for name in (WARP_AFFINE, WARP_AFFINE_NUMPY):
        report.target(f"fastaug antialias / {name}, time", ratio(OURS, name), 1.5, at_least=False)
    report.target("Kornia step by step / fastaug antialias, time", ratio(KORNIA_STEPS, OURS), 12)


def show_batches(report: common.Report, batches: Sequence[int]) -> None:
    """Milliseconds an image, and as a multiple of ours, by batch size."""
    found = {(row["name"], row["batch"]): row for row in report.rows}

    def cell(name: str, batch: int) -> str:
        row = found.get((name, batch))
        return f"{row['ms_per_image']['median']:.2f} (× {row['times_fastaug']['median']:.1f})" if row else ""

    names = list(dict.fromkeys(name for name, _ in found))
    report.table(
        f"ms an image by batch size; in brackets times the time of {OURS}",
        ["", *(f"{batch}" for batch in batches)],
        [[name, *(cell(name, batch) for batch in batches)] for name in names],
    )


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--photos", type=Path, help="folder of photos; default: scikit-image's")
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[64, 1, 8, 256], help="the first one is looked at closely"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--repeats", type=int, default=15, help="rounds of the first batch size; a third for the others"
    )
    parser.add_argument("--seconds", type=float, default=0.3, help="least length of a turn")
    arguments = parser.parse_args()
    batches, repeats, seconds = arguments.batch, arguments.repeats, arguments.seconds
    if arguments.tiny:
        batches, repeats, seconds = [8, 2], 2, 0.0
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    cv2.setNumThreads(1)  # the pool's threads take an image each
    files = common.photo_files(arguments.photos) if arguments.photos else common.scikit_image_photos(PHOTOS)
    settings = {"batch": batches, "repeats": repeats, "least_seconds": seconds, "seed": arguments.seed}
    report = common.Report("warp_cpu", settings)
    with ThreadPoolExecutor(arguments.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for batch in batches:
            images, first = common.presized_batch(files, batch), batch == batches[0]
            ways = {
                name: way
                for name, way in competitors(report, images, pool).items()
                if report.admit(name, difference(way, images, arguments.seed), SAME_WITHIN_LEVELS, "levels")
            }
            torch.set_num_threads(arguments.threads)  # the pool's 1 is not for this thread
            rounds, least = (repeats, seconds) if first else (-(-repeats // 3), seconds / 3)
            timed = timed_rows(report, ways, batch, arguments.seed, rounds, least)
            if first:
                show_batch(report, timed, batch, repeats)
        show_batches(report, sorted(batches))
    return report.finish(common.out_path(arguments))


if __name__ == "__main__":
    sys.exit(main())
