"""How many images a second from JPEG files to normalised 224 batches?

    python -m benchmarks.decode_to_batch FOLDER --threads 2
    python -m benchmarks.decode_to_batch FOLDER --device cuda --threads 16
    python -m benchmarks.decode_to_batch --tiny          # photos that scikit-image ships, as JPEG

Checked first: benchmarks/loaders.py. Timed are whole passes over the files, from asking for the first batch to having
the last; the competitors take turns. Time to the first batch is that of a loader just made, in a process in which one
like it has run before.
"""

from __future__ import annotations

import itertools
import random
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks import common, loaders
from benchmarks.loaders import BARE, DALI_USUAL, DIRECT, FASTAI, RESIZE, Passes
from fastaug.demo import comparison


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

    def ratio(below: str | None, ours: str = DIRECT) -> float | None:
        return common.ratios(timed[below], timed[ours])["median"] if {below, ours} <= set(timed) else None

    if report.settings["name"]:
        return  # the goals are those of small photos
    report.target(f"{DIRECT} / fastai at its best number of workers, images/s", ratio(base), 12)
    report.target(f"{DIRECT} / {DALI_USUAL}, images/s", ratio(DALI_USUAL), 0.7)
    if BARE in timed and report.settings["device"] != "cpu":
        report.target(f"{RESIZE} / {BARE}, images/s", ratio(BARE, RESIZE), 0.95)


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="JPEG files; default: scikit-image's photos")
    parser.add_argument("--name", help="added to the suite's name: results of another folder, kept apart")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=512, help="images a pass; the files are repeated or cut")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--fastai-workers", type=int, nargs="+", help="numbers to choose the best from; default 0 to 2")
    arguments = parser.parse_args()
    batch, images, repeats = (16, 32, 1) if arguments.tiny else (arguments.batch, arguments.images, arguments.repeats)
    workers = arguments.fastai_workers or ((0,) if arguments.tiny else (0, 1, 2))
    images -= images % batch
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    random.seed(arguments.seed)  # most competitors draw from the global generators
    torch.manual_seed(arguments.seed)
    settings = {
        "batch": batch, "images": images, "threads": arguments.threads, "repeats": repeats, "seed": arguments.seed,
        "device": arguments.device, "name": arguments.name,
        "folder": arguments.folder.name if arguments.folder else "scikit-image",
    }  # fmt: skip
    report = common.Report("_".join(filter(None, ["decode_to_batch", arguments.name])), settings, arguments.device)
    with tempfile.TemporaryDirectory() as temporary:
        found = loaders.jpeg_files(arguments.folder, Path(temporary))
        job = loaders.Job(
            list(itertools.islice(itertools.cycle(found), images)), batch, arguments.threads, arguments.seed,
            arguments.device,
        )  # fmt: skip
        colors = loaders.mean_colors(found).repeat(-(-images // len(found)), 1)[:images]
        made = loaders.competitors(workers) | {BARE: loaders.bare_dali}
        ways, first = loaders.admitted(report, made, job, colors)
        ways = loaders.fastest(ways, FASTAI, images, report)
        if ways:
            measure(report, ways, first, images, repeats)
    return report.finish(common.out_path(arguments))


if __name__ == "__main__":
    sys.exit(main())
