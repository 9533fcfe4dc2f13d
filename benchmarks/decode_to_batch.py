"""How many images a second from JPEG files to normalised 224 batches?

    python -m benchmarks.decode_to_batch FOLDER --threads 2
    python -m benchmarks.decode_to_batch FOLDER --name hires --batch 8 --images 128 --fastai-workers 0
    python -m benchmarks.decode_to_batch FOLDER --device cuda --threads 16
    python -m benchmarks.decode_to_batch --tiny          # photos that scikit-image ships, as JPEG

Checked first: benchmarks/loaders.py. Timed are whole passes over the files, from asking for the first batch to having
the last; the competitors take turns. Time to the first batch is that of a loader just made, in a process in which one
like it has run before. With `--name hires` (large photos) the memory is measured too, of batches of a photo of 22
megapixels, in a process for each loader.
"""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from benchmarks import common, loaders
from benchmarks.loaders import BARE, DALI_USUAL, DIRECT, FASTAI, PILLOW, RESIZE, Job, Passes
from fastaug.demo import comparison

HIRES = "hires"
# By name of the result: (ours, theirs, least ratio of images/s); None: small photos.
GOALS = {
    None: ((DIRECT, FASTAI, 12.0), (DIRECT, DALI_USUAL, 1.0), (RESIZE, DALI_USUAL, 0.75)),
    HIRES: ((DIRECT, PILLOW, 1.1), (RESIZE, PILLOW, 1.1), (DIRECT, DALI_USUAL, 1.5)),
}
LARGE_PX = 5760, 3840  # width × height of the photo of 22 megapixels
LARGE_BATCH, LARGE_BATCHES = 64, 4


def measure(report: common.Report, ways: dict[str, Passes], first: dict[str, float], images: int, repeats: int) -> None:
    used: dict[str, list[float]] = {name: [] for name in ways}

    def timed_pass(name: str) -> None:
        start = common.cpu_seconds()
        loaders.run_pass(ways[name], images)
        used[name].append(common.cpu_seconds() - start)

    calls: dict[str, Callable[[], object]] = {name: partial(timed_pass, name) for name in ways}
    # DALI's pipeline fills its queue between passes: a pass right before the timed one leaves it as it will be left.
    # The others start each pass with nothing, once DALI has come to rest.
    before = {
        name: partial(loaders.run_pass, ways[name], images) if name.startswith("DALI") else common.settle
        for name in ways
    }
    timed = comparison.take_turns(calls, repeats, before=before)
    base = next((name for name in timed if name.startswith(FASTAI)), None)
    lines = []
    for name, each in timed.items():
        speed = comparison.quartiles([images / seconds for seconds in each])
        cpu_ms = comparison.quartiles([1e3 * seconds / images for seconds in used[name]])
        row = {"name": name, "images_per_s": speed, "first_batch_s": first[name], "cpu_ms_per_image": cpu_ms}
        against = {
            key: common.ratios(timed[k], each) for key, k in (("fastai", base), ("dali", DALI_USUAL)) if k in timed
        }
        report.rows.append(row | {f"times_{key}": value for key, value in against.items()} | {"seconds": each})
        cells = [common.with_spread(against[key], 2) if key in against else "" for key in ("fastai", "dali")]
        lines.append(
            [name, common.with_spread(speed, 0), *cells, f"{cpu_ms['median']:.2f}", f"{first[name]:.2f}"]
        )  # fmt: skip
    report.table(
        f"{images} images a pass ({report.settings['folder']}), {report.settings['threads']} threads, {repeats} "
        "passes; middle half in brackets",
        ["", "images/s", f"times {base}", f"times {DALI_USUAL}", "CPU ms an image", "first batch, s"], lines,
    )  # fmt: skip

    found = {FASTAI: base} | {name: name for name in timed}
    on_cpu = report.settings["device"] == "cpu"
    goals = GOALS.get(report.settings["name"], ()) if on_cpu else ((RESIZE, BARE, 0.95),)
    for ours, theirs, goal in goals:
        measured = ours in timed and found.get(theirs) is not None
        ratio = common.ratios(timed[found[theirs]], timed[ours])["median"] if measured else None
        what = f"{FASTAI} at its best number of workers" if theirs == FASTAI else theirs
        report.target(f"{ours} / {what}, images/s", ratio, goal)


def peak_of_pass(name: str, large: Path, batch: int, batches: int, threads: int) -> int:
    """In a process of its own: bytes that a pass over a large photo takes beyond the idle process.

    Two photos have made it load and compile everything before.
    """
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    make = loaders.competitors(())[name]
    loaders.run_pass(make(Job([large] * 2, 2, threads, 0)), 2)
    passes = make(Job([large] * (batch * batches), batch, threads, 0))
    return common.peak_bytes(partial(loaders.run_pass, passes, batch * batches))


def memory(report: common.Report, files: Sequence[Path], folder: Path, batch: int, size: tuple[int, int]) -> None:
    """Peak memory of each loader with batches of a large photo, made of one of the files."""
    large = folder / "large.jpg"
    Image.fromarray(common.open_rgb(files[0])).resize(size, Image.Resampling.LANCZOS).save(large, quality=90)
    lines = []
    for name in (DIRECT, RESIZE, PILLOW):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            measured = (name, large, batch, LARGE_BATCHES, report.settings["threads"])
            peak = process.submit(peak_of_pass, *measured).result()
        report.rows.append({"name": name, "large_px": size, "large_batch": batch, "peak_bytes": peak})
        lines.append([name, f"{peak / 1e6:,.0f}"])
    megapixels = size[0] * size[1] / 1e6
    report.table(
        f"Peak memory beyond the idle process, a photo of {megapixels:.0f} megapixels, batch {batch}, "
        f"{report.settings['threads']} threads", ["", "MB"], lines,
    )  # fmt: skip


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="JPEG files; default: scikit-image's photos")
    parser.add_argument(
        "--name", help="added to the suite's name: results of another folder, kept apart; its goals: GOALS"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=512, help="images a pass; the files are repeated or cut")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--fastai-workers", type=int, nargs="+", help="numbers to choose the best from; default 0 to 2")
    arguments = parser.parse_args()
    batch, images, repeats = (16, 32, 1) if arguments.tiny else (arguments.batch, arguments.images, arguments.repeats)
    workers = arguments.fastai_workers or ((0,) if arguments.tiny else (0, 1, 2))
    images = loaders.images_of_pass(parser, images, batch, arguments.tiny)
    loaders.begin(arguments.threads, arguments.seed)
    settings = {
        "batch": batch, "images": images, "threads": arguments.threads, "repeats": repeats, "seed": arguments.seed,
        "device": arguments.device, "name": arguments.name,
        "folder": arguments.folder.name if arguments.folder else "scikit-image",
        "decoder": loaders.decoder_of(arguments.device),
    }  # fmt: skip
    report = common.Report("_".join(filter(None, ["decode_to_batch", arguments.name])), settings, arguments.device)
    with tempfile.TemporaryDirectory() as temporary:
        found = loaders.jpeg_files(arguments.folder, Path(temporary))
        job = Job(
            list(itertools.islice(itertools.cycle(found), images)), batch, arguments.threads, arguments.seed,
            arguments.device,
        )  # fmt: skip
        colors = loaders.mean_colors(found).repeat(-(-images // len(found)), 1)[:images]
        made = loaders.competitors(workers) | {BARE: loaders.bare_dali}
        ways, first = loaders.admitted(report, made, job, colors)
        ways = loaders.fastest(ways, FASTAI, images, report)
        if ways:
            measure(report, ways, first, images, repeats)
        if arguments.name == HIRES:
            small = LARGE_PX[0] // 8, LARGE_PX[1] // 8
            memory(report, found, Path(temporary), *((4, small) if arguments.tiny else (LARGE_BATCH, LARGE_PX)))
    return report.finish(common.out_path(arguments))


if __name__ == "__main__":
    sys.exit(main())
