"""What order, resume, quarantine and all that cost: the loader against a plain loop, and bare DALI, for the same work.

    python -m benchmarks.loader_overhead FOLDER --threads 2
    python -m benchmarks.loader_overhead --tiny          # photos that scikit-image ships, as JPEG

All decode, cut a square of the short side and resize it to 460 with Lanczos, uint8 out. The plain loop does what the
loader does with each file, with the same decoder, at the same scale, into memory that is used again as the loader's is:
threads that each read a file, decode it and resize it into its batch, for the files in their order and the middle
squares. What the loader takes beyond it is for order, random numbers, resume and quarantine. The pipeline is DALI's
own, with its reader, shuffle, random numbers and resize; it makes the same pictures within a level. Checked first: all
deliver the colours of the files. Then the time to the first batch, and the memory, with a thousand and with a million
listed samples.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
import tracemalloc
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastaug as fa
from benchmarks import common
from benchmarks.common import PRESIZE
from benchmarks.loaders import (
    Job,
    Passes,
    bare_dali,
    images_of_pass,
    jpeg_files,
    mean_colors,
    run_pass,
    wrong_square_colors,
)
from fastaug.demo import comparison
from fastaug.loading.decode import make_decoder
from fastaug.loading.header import likely_size
from fastaug.loading.loader import PREFETCH_BATCHES
from fastaug.loading.photo import Need, Photo, Resizing
from fastaug.memory import Memory

LOADER, BARE = "fastaug.ImageLoader", "bare DALI pipeline"
PLAIN = "a plain loop: the same decoding and resizing"
LISTED = (1_000, 1_000_000)
AHEAD = PREFETCH_BATCHES  # batches that the plain loop has or works at, beside the consumer's: as many as the loader


def loader(job: Job) -> Passes:
    rows = list(range(len(job.files)))
    samples = fa.Samples([str(file) for file in job.files], rows, [str(row) for row in rows])
    return partial(
        iter, fa.ImageLoader(samples, job.batch, PRESIZE, device="cpu", seed=job.seed, num_threads=job.threads)
    )


def plain_loop(job: Job) -> Passes:
    """Batches without a loader around them: a task of the threads for each file."""
    decoder, memory = make_decoder("jpeg", num_threads=job.threads), Memory()

    def load(file: Path, out: np.ndarray) -> None:
        content = file.read_bytes()
        size = likely_size(content)
        (found,) = decoder.decode([content], [None if size is None else middle_square(size)])
        if not isinstance(found, Photo):
            raise RuntimeError(f"{file}: {found}")
        square = found.part(middle_square(found.size).box)
        decoder.resize([found], Resizing([0], [square], [(PRESIZE, PRESIZE)]), [out])

    def one_pass() -> Iterator[Any]:
        pending: deque[Any] = deque()
        with ThreadPoolExecutor(job.threads) as pool:
            for begin in range(0, len(job.files), job.batch):
                batch = memory.take((job.batch, PRESIZE, PRESIZE, 3))
                calls = [
                    pool.submit(load, *each) for each in zip(job.files[begin : begin + job.batch], batch, strict=True)
                ]
                pending.append((calls, batch, torch.arange(begin, begin + job.batch)))
                del batch, calls
                if len(pending) > AHEAD:
                    yield finished(*pending.popleft())
            while pending:
                yield finished(*pending.popleft())

    def finished(calls: Sequence[Any], batch: np.ndarray, rows: Tensor) -> tuple[Tensor, Tensor]:
        for call in calls:
            call.result()
        return torch.from_numpy(batch), rows

    return one_pass


def middle_square(size: tuple[int, int]) -> Need:
    """What is needed of a photo; size: (height, width)."""
    side = min(size)
    return Need(size, side / PRESIZE, side / PRESIZE, ((size[1] - side) / 2, (size[0] - side) / 2, side, side))


def counted(cpu: list[float], passes: Passes, images: int) -> None:
    """A pass, whose CPU time is noted."""
    start = common.cpu_seconds()
    run_pass(passes, images)
    cpu.append(common.cpu_seconds() - start)


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
    each = (many["peak_bytes"] - few["peak_bytes"]) / (LISTED[1] - LISTED[0])  # both have the same batches in memory
    report.target("100 bytes / bytes per sample of a million", 100 / each, 1)


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="JPEG files; default: scikit-image's photos")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=1024, help="images a pass; the files are repeated or cut")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    batch, images, repeats = (8, 24, 2) if arguments.tiny else (arguments.batch, arguments.images, arguments.repeats)
    images = images_of_pass(parser, images, batch, arguments.tiny)
    settings = {"batch": batch, "images": images, "threads": arguments.threads, "repeats": repeats}
    folder = arguments.folder.name if arguments.folder else "scikit-image"
    report = common.Report("loader_overhead", settings | {"folder": folder, "seed": arguments.seed})
    with tempfile.TemporaryDirectory() as temporary:
        found = jpeg_files(arguments.folder, Path(temporary))
        files = list(itertools.islice(itertools.cycle(found), images))
        colors = mean_colors(found).repeat(-(-images // len(found)), 1)[:images]
        ways: dict[str, Passes] = {}
        for name, make in ((LOADER, loader), (PLAIN, plain_loop), (BARE, bare_dali)):
            with report.peer(name):
                passes = make(Job(files, batch, arguments.threads, arguments.seed))
                if report.admit(name, wrong_square_colors(list(passes()), colors), 1.0, "times what is allowed"):
                    ways[name] = passes
        cpu: dict[str, list[float]] = {name: [] for name in ways}  # seconds of a pass: less shaken by other work
        calls = {name: partial(counted, cpu[name], passes, images) for name, passes in ways.items()}
        # DALI's pipeline fills its queue between passes: a pass right before the timed one leaves it as it will be.
        before = {name: calls[name] if name == BARE else common.settle for name in calls}
        timed = comparison.take_turns(calls, repeats, before=before)
        lines = []
        for name, each in timed.items():
            speed = comparison.quartiles([images / seconds for seconds in each])
            plain, against = (common.ratios(timed[way], each) if way in timed else None for way in (PLAIN, BARE))
            work = comparison.quartiles([1e3 * seconds / images for seconds in cpu[name]])
            row = {"name": name, "images_per_s": speed, "cpu_ms_per_image": work, "times_bare": against}
            row["times_plain"] = plain
            report.rows.append({**row, "seconds": each})
            compared = [common.with_spread(times, 2) if times else "" for times in (plain, against)]
            lines.append([name, common.with_spread(speed, 0), common.with_spread(work, 2), *compared])
        report.table(
            f"{images} images a pass, {arguments.threads} threads, {repeats} passes; middle half in brackets",
            ["", "images/s", "CPU ms an image", "times the plain loop", f"times {BARE}"], lines,
        )  # fmt: skip
        share = common.ratios(timed[PLAIN], timed[LOADER])["median"] if {PLAIN, LOADER} <= set(timed) else None
        report.target(f"{LOADER} / a plain loop of the same decoding, images/s", share, 0.97)
        many_listed(report, found[0], batch, arguments.threads)
    return report.finish(common.out_path(arguments))


if __name__ == "__main__":
    sys.exit(main())
