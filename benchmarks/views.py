"""What do several views of a photo cost: against one decode and as many warps, and against decoding for each?

    python -m benchmarks.views FOLDER --threads 2
    python -m benchmarks.views --tiny          # photos that scikit-image ships, as JPEG

DINO's ten views, two of 224 and eight of 96, direct from the decoded photo: crop of 32 to 100 %, or 5 to 32 %, flip,
brightness, contrast, saturation, hue, normalise. The yardstick is what cannot be saved: every file is decoded once, at
the scale that the loader takes, and then each view is warped, all with the same threads; reading, drawing and order are
the loader's own. Repeated augmentation likewise: four images of 224 of each photo, against one decode and four warps.

Checked first: every view of the loader's is, image by image, the warp of the yardstick's photo with the same draws.

Beside it: as many loaders as views, each of which decodes; and torchvision, one decode of each file by worker
processes and the same ten crops, flips and normalisations of its result, without colour.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastaug as fa
from benchmarks import common, loaders
from benchmarks.common import PRESIZE, SIZE
from fastaug.augment.rng import SampleUniforms
from fastaug.demo import comparison
from fastaug.loading.decode import make_decoder
from fastaug.loading.draws import Draws, draw
from fastaug.loading.header import likely_size
from fastaug.loading.modes import Direct
from fastaug.loading.photo import Need, Photo, places_of

SMALL = 96
GLOBAL, LOCAL = 2, 8  # views
COPIES = 4
MOST = 1.15  # times one decode and the warps
VIEWS = f"fastaug, {GLOBAL + LOCAL} views"
PARTS = f"one decode, {GLOBAL + LOCAL} warps"
EACH = f"fastaug, {GLOBAL + LOCAL} loaders"
TORCHVISION = "torchvision, one decode, ten crops"
REPEATS, REPEAT_PARTS = f"fastaug, repeats={COPIES}", f"one decode, {COPIES} warps"
GOALS = ((VIEWS, PARTS), (REPEATS, REPEAT_PARTS))
DIFFERENCE = 1e-5  # of normalised values: the same warp of the same pixels


def augments() -> list[fa.Augment]:
    jitter = fa.ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8)
    large = fa.Augment([fa.RandomResizedCrop((0.32, 1.0)), fa.RandomHorizontalFlip(), jitter], SIZE)
    small = fa.Augment([fa.RandomResizedCrop((0.05, 0.32)), fa.RandomHorizontalFlip(), jitter], SMALL)
    return [large] * GLOBAL + [small] * LOCAL


def loader(job: loaders.Job, **settings: Any) -> fa.ImageLoader:
    rows = list(range(len(job.files)))
    samples = fa.Samples([str(file) for file in job.files], rows, [str(row) for row in rows])
    return fa.ImageLoader(
        samples, job.batch, PRESIZE, device="cpu", seed=job.seed, mode="direct", num_threads=job.threads,
        on_error="raise", return_info=True, **settings,
    )  # fmt: skip


class Parts:
    """One decode and the warps, one after the other, with all threads each.

    Args:
        views: an Augment for each view. copies: images of each photo, for each view.
    """

    def __init__(self, job: loaders.Job, views: Sequence[fa.Augment], copies: int = 1) -> None:
        self.job, self.views, self.copies = job, views, copies
        self._decoder = make_decoder("jpeg", num_threads=job.threads)
        self._contents = [file.read_bytes() for file in job.files]
        self._pool = ThreadPoolExecutor(job.threads)

    def drawn(self, rows: np.ndarray, epoch: int) -> list[Draws]:
        """As the loader draws them."""
        copies = np.tile(np.arange(self.copies), len(rows))
        rows = np.repeat(rows, self.copies)
        uniforms = [SampleUniforms(self.job.seed, epoch, rows, copies, view) for view in range(len(self.views))]
        return [
            draw(each, augment, PRESIZE, training=True, observe=None)
            for each, augment in zip(uniforms, self.views, strict=True)
        ]

    def decoded(self, rows: np.ndarray, views: Sequence[Draws]) -> list[Photo]:
        """At the scale that is fine enough for all that is made of each, and smaller where that is far too large."""
        contents = [self._contents[row] for row in rows]
        sizes = [size for content in contents for size in [likely_size(content)] * self.copies if size is not None]
        each = [Direct().needs(draws, sizes) for draws in views]
        needs = [
            Need.of_all([of[i * self.copies + k] for of in each for k in range(self.copies)]) for i in range(len(rows))
        ]
        found = self._pool.map(
            lambda one: self._decoder.decode([one[0]], [one[1]])[0], zip(contents, needs, strict=True)
        )
        photos = [photo for photo in found if isinstance(photo, Photo)]
        certain = [need for need in needs if need is not None]  # the files are whole
        return self._decoder.resize(photos, Direct().shared(photos, certain, views[0]))

    def warped(self, photos: Sequence[Photo], views: Sequence[Draws]) -> list[Tensor]:
        photos = [photo for photo in photos for _ in range(self.copies)]
        sizes = torch.tensor([photo.size for photo in photos])
        back = torch.from_numpy(places_of(photos)[0])
        pixels, made = [photo.pixels for photo in photos], []
        for draws, augment in zip(views, self.views, strict=True):
            assert draws.params is not None
            matrix = (draws.matrix(sizes) @ back).float()
            made.append(fa.warp(pixels, matrix, augment.size, color=draws.params.color))
        return made

    def __call__(self, batches: Sequence[np.ndarray], drawn: Sequence[list[Draws]]) -> None:
        """A pass over batches whose draws are there already."""
        for rows, views in zip(batches, drawn, strict=True):
            self.warped(self.decoded(rows, views), views)


def wrong(made: fa.ImageLoader, parts: Parts) -> float:
    """The largest difference between the loader's first batch and the yardstick's."""
    x, _, info = next(iter(made))
    x, info = (x, info[0]) if isinstance(x, tuple) else ((x,), info)
    rows = info.indices.numpy()[:: parts.copies]
    views = parts.drawn(rows, 0)
    expected = parts.warped(parts.decoded(rows, views), views)
    return max(float((one - other).abs().max()) for one, other in zip(x, expected, strict=True))


class Crops(torch.utils.data.Dataset[list[Tensor]]):
    """torchvision's: a file is decoded once, ten crops of it are resized, flipped and normalised."""

    def __init__(self, files: Sequence[Path], _: int = 0) -> None:
        from torchvision.transforms import v2

        end = [v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*fa.IMAGENET)]
        large, small = (
            v2.Compose([v2.RandomResizedCrop(size, scale, antialias=True), *end])
            for size, scale in ((SIZE, (0.32, 1.0)), (SMALL, (0.05, 0.32)))
        )
        self.files, self.crops = files, [large] * GLOBAL + [small] * LOCAL

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> list[Tensor]:
        from torchvision.io import ImageReadMode, decode_image

        image = decode_image(str(self.files[row]), ImageReadMode.RGB)
        return [crop(image) for crop in self.crops]


def torchvision_pass(job: loaders.Job) -> Callable[[], None]:
    batches = torch.utils.data.DataLoader(
        Crops(job.files), job.batch, shuffle=True, num_workers=job.threads, persistent_workers=True, drop_last=True
    )
    return lambda: consume(iter(batches))


def consume(batches: Iterator[Any]) -> None:
    for _ in batches:
        pass


def ways(report: common.Report, job: loaders.Job) -> dict[str, Callable[[], None]]:
    """What is measured, name -> a pass; those whose answer was wrong are left out."""
    views, large = augments(), augments()[0]
    found: dict[str, Callable[[], None]] = {}
    for name, yardstick, parts, settings in (
        (VIEWS, PARTS, Parts(job, views), {"views": views}),
        (REPEATS, REPEAT_PARTS, Parts(job, [large], COPIES), {"augment": large, "repeats": COPIES}),
    ):
        if not report.admit(name, wrong(loader(job, **settings), parts), DIFFERENCE, "of a normalised value"):
            continue
        made = loader(job, **settings)
        photos = job.batch // parts.copies
        rows = np.arange(len(job.files) // photos * photos).reshape(-1, photos)
        found[name] = lambda made=made: consume(iter(made))  # type: ignore[misc]
        found[yardstick] = partial(parts, list(rows), [parts.drawn(some, 0) for some in rows])
    each = [loader(job, augment=augment) for augment in views]
    found[EACH] = lambda: consume(itertools.chain.from_iterable(map(iter, each)))
    with report.peer(TORCHVISION):
        found[TORCHVISION] = torchvision_pass(job)
    return found


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="JPEG files; default: scikit-image's photos")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=384, help="photos a pass; the files are repeated or cut")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    batch, images, repeats = (8, 16, 1) if arguments.tiny else (arguments.batch, arguments.images, arguments.repeats)
    images = loaders.images_of_pass(parser, images, batch, arguments.tiny)
    loaders.begin(arguments.threads, arguments.seed)
    settings = {"batch": batch, "images": images, "threads": arguments.threads, "repeats": repeats}
    folder = arguments.folder.name if arguments.folder else "scikit-image"
    report = common.Report("views", settings | {"folder": folder, "seed": arguments.seed})
    with tempfile.TemporaryDirectory() as temporary:
        files = loaders.jpeg_files(arguments.folder, Path(temporary))
        job = loaders.Job(
            list(itertools.islice(itertools.cycle(files), images)), batch, arguments.threads, arguments.seed
        )
        calls = ways(report, job)
        timed = comparison.take_turns(calls, repeats, before=dict.fromkeys(calls, common.settle))
    lines = []
    for name, seconds in timed.items():
        speed = comparison.quartiles([images / each for each in seconds])
        yardstick = next(
            (theirs for ours, theirs in GOALS if ours == name), PARTS if name in (EACH, TORCHVISION) else ""
        )
        times = common.ratios(seconds, timed[yardstick]) if yardstick in timed else None
        report.rows.append({"name": name, "photos_per_s": speed, "times_parts": times, "seconds": seconds})
        lines.append([name, common.with_spread(speed, 0), common.with_spread(times, 2) if times else ""])
    report.table(
        f"{images} photos a pass ({folder}), {arguments.threads} threads, {repeats} passes; middle half in brackets",
        ["", "photos/s", "times one decode and the warps"], lines,
    )  # fmt: skip
    for ours, theirs in GOALS:
        both = ours in timed and theirs in timed
        cost = common.ratios(timed[ours], timed[theirs])["median"] if both else None
        report.target(f"{ours} / {theirs}, time", cost, MOST, at_least=False)
    return report.finish(common.out_path(arguments))


if __name__ == "__main__":
    sys.exit(main())
