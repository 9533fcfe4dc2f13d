"""What order, resume, quarantine and all that cost: the loader against the bare DALI pipeline for the same work.

    python -m benchmarks.loader_overhead FOLDER --threads 2
    python -m benchmarks.loader_overhead --tiny          # photos that scikit-image ships, as JPEG

Both decode, cut a square of the short side at a random place and resize it to 460 with Lanczos, uint8 out; the
pipeline with DALI's own reader, shuffle and random numbers, no interpretation of what comes out. Checked first: both
deliver the colours of the files. Then the time to the first batch, and the memory, with a thousand and with a million
listed samples.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastaug as fa
from benchmarks import common
from benchmarks.common import PRESIZE
from benchmarks.decode_to_batch import mean_colors, scikit_image_jpegs

LOADER, BARE = "fastaug.ImageLoader", "bare DALI pipeline"
BIAS_LEVELS = 12.0  # a square of the photo against the photo: the mean colour of a whole batch
LISTED = (1_000, 1_000_000)

Passes = Callable[[], Iterator[tuple[Tensor, Tensor]]]  # uint8 [B, 460, 460, 3], rows of the files


def loader(files: Sequence[Path], batch: int, threads: int, seed: int) -> Passes:
    rows = list(range(len(files)))
    samples = fa.Samples([str(file) for file in files], rows, [str(row) for row in rows])
    return partial(iter, fa.ImageLoader(samples, batch, PRESIZE, device="cpu", seed=seed, num_threads=threads))


def bare_pipeline(files: Sequence[Path], batch: int, threads: int, seed: int) -> Passes:
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

    @pipeline_def(batch_size=batch, num_threads=threads, device_id=None, seed=seed)
    def pipeline() -> Any:
        paths = [str(file) for file in files]
        encoded, row = fn.readers.file(files=paths, labels=list(range(len(paths))), random_shuffle=True, name="files")
        images = fn.decoders.image(encoded, device="cpu")
        shape = fn.cast(images.shape(), dtype=types.FLOAT)
        height, width = shape[0], shape[1]
        side = fn.reductions.min(fn.stack(height, width))
        y0 = fn.random.uniform(range=[0.0, 1.0]) * (height - side)
        x0 = fn.random.uniform(range=[0.0, 1.0]) * (width - side)
        out = fn.resize(
            images, size=[PRESIZE, PRESIZE], roi_start=fn.stack(y0, x0), roi_end=fn.stack(y0 + side, x0 + side),
            interp_type=types.INTERP_LANCZOS3, antialias=True,
        )  # fmt: skip
        return out, row

    iterator = DALIGenericIterator(
        [pipeline()], ["x", "y"], reader_name="files", last_batch_policy=LastBatchPolicy.DROP, auto_reset=True
    )

    def one_pass() -> Iterator[tuple[Tensor, Tensor]]:
        for (found,) in iterator:
            yield found["x"], found["y"][:, 0]

    return one_pass


def wrong_colors(batches: Sequence[tuple[Tensor, Tensor]], colors: Tensor) -> float:
    """How far the mean colours are from those of the files, as a share of what is allowed."""
    x, rows = (torch.cat(part) for part in zip(*batches, strict=True))
    if x.shape[1:] != (PRESIZE, PRESIZE, 3) or x.dtype != torch.uint8:
        return float("inf")
    apart = (x.double().mean((1, 2)) - colors[rows.long()]).mean(0).abs().max()
    order = torch.corrcoef(torch.stack([x.double().mean((1, 2, 3)), colors[rows.long()].mean(1)]))[0, 1]
    return max(float(apart) / BIAS_LEVELS, 0.0 if order > 0.8 else 2.0)


def run_pass(passes: Passes, images: int) -> None:
    seen = sum(len(x) for x, _ in passes())
    if seen != images:
        raise RuntimeError(f"expected {images} images in a pass, got {seen}")


def many_listed(report: common.Report, file: Path, batch: int, threads: int) -> None:
    """Seconds from making the loader to its first batch, and the memory that it takes meanwhile, per sample."""
    lines = []
    for listed in (LISTED[0], *LISTED):  # the first one loads what there is to load
        samples = fa.Samples([str(file)] * listed, [0] * listed, ["a"])
        tracemalloc.start()
        start = time.perf_counter()
        with fa.ImageLoader(samples, batch, PRESIZE, device="cpu", num_threads=threads) as made:
            next(iter(made))
            seconds = time.perf_counter() - start
        peak = tracemalloc.get_traced_memory()[1] + 8 * listed  # the targets are torch's
        tracemalloc.stop()
        lines.append([f"{listed:,}", f"{seconds:.2f}", f"{peak / 1e6:.0f}"])
        report.rows.append({"name": "listed", "samples": listed, "first_batch_s": seconds, "peak_bytes": peak})
    report.table(
        f"The first {batch} of many listed samples (traced, which slows it)",
        ["listed samples", "first batch, s", "peak memory, MB"], lines[1:],
    )  # fmt: skip
    few, many = report.rows[-2], report.rows[-1]
    report.target(
        "first batch of a million samples, seconds more than of a thousand, against 2 s allowed",
        2 / max(many["first_batch_s"] - few["first_batch_s"], 1e-3), 1,
    )  # fmt: skip
    report.target("100 bytes / bytes per sample of a million", 100 / (many["peak_bytes"] / LISTED[1]), 1)


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="JPEG files; default: scikit-image's photos")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=512, help="images a pass; the files are repeated or cut")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    batch, images, repeats = (8, 24, 2) if arguments.tiny else (arguments.batch, arguments.images, arguments.repeats)
    images -= images % batch
    settings = {"batch": batch, "images": images, "threads": arguments.threads, "repeats": repeats}
    folder = arguments.folder.name if arguments.folder else "scikit-image"
    report = common.Report("loader_overhead", settings | {"folder": folder, "seed": arguments.seed})
    with tempfile.TemporaryDirectory() as temporary:
        found = common.photo_files(arguments.folder) if arguments.folder else scikit_image_jpegs(Path(temporary))
        files = list(itertools.islice(itertools.cycle(found), images))
        colors = mean_colors(found).repeat(-(-images // len(found)), 1)[:images]
        ways: dict[str, Passes] = {}
        for name, make in ((LOADER, loader), (BARE, bare_pipeline)):
            with report.peer(name):
                passes = make(files, batch, arguments.threads, arguments.seed)
                if report.admit(name, wrong_colors(list(passes()), colors), 1.0, "times what is allowed"):
                    ways[name] = passes
        calls = {name: partial(run_pass, passes, images) for name, passes in ways.items()}
        # DALI's pipeline fills its queue between passes: a pass right before the timed one leaves it as it will be.
        before = {name: calls[name] if name == BARE else partial(time.sleep, 0.3) for name in calls}
        timed = common.take_turns(calls, repeats, before=before)
        lines = []
        for name, each in timed.items():
            speed = common.spread([images / seconds for seconds in each])
            against = common.ratios(timed[BARE], each) if BARE in timed else None
            report.rows.append({"name": name, "images_per_s": speed, "times_bare": against, "seconds": each})
            lines.append([name, common.with_spread(speed, 0), common.with_spread(against, 2) if against else ""])
        report.table(
            f"{images} images a pass, {arguments.threads} threads, {repeats} passes; middle half in brackets",
            ["", "images/s", f"times {BARE}"], lines,
        )  # fmt: skip
        share = common.ratios(timed[BARE], timed[LOADER])["median"] if {BARE, LOADER} <= set(timed) else None
        report.target(f"{LOADER} / {BARE}, images/s", share, 0.97)
        many_listed(report, found[0], batch, arguments.threads)
    return report.finish(common.out_path(arguments))


if __name__ == "__main__":
    sys.exit(main())
