"""What does an image cost in a large data set, in small and large batches, on one core and on all, with two ranks?

    python -m benchmarks.scale FOLDER
    python -m benchmarks.scale --tiny

fastaug's loader alone, mode direct, on a CPU. The first batch bears what an epoch costs at its start, above all the
permutation of all samples: with many listed samples it is reported apart from the cost of an image. A first pass in
this process is checked (benchmarks/loaders.py). Then processes of their own are held to their cores, one for each rank,
and start each pass together; settings take turns.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import queue
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastaug as fa
from benchmarks import common, loaders
from benchmarks.common import PRESIZE
from benchmarks.loaders import DIRECT, Job
from fastaug.demo import comparison

LISTED = "listed samples"
BATCHES = 4  # at least, of a pass: with fewer, loading and warping do not overlap
WAIT_S = 300  # for another process; then the run has failed


@dataclass(frozen=True)
class Setting:
    """One way to run the loader.

    Attributes:
        listed: samples in the data set; the files are repeated.
        batches: of an epoch, to load in a pass of a rank.
        cores: of each rank.
    """

    listed: int
    batch: int
    batches: int
    cores: int
    ranks: int = 1

    @property
    def images(self) -> int:
        return self.batch * self.batches * self.ranks


def run_rank(
    files: Sequence[str], settings: Sequence[Setting], rank: int, passes: int, barrier: Any, results: Any
) -> None:
    """In a process of its own: puts the seconds to the first batch and of the pass, [setting][pass], into `results`."""
    cores = sorted(os.sched_getaffinity(0))[rank * settings[0].cores :][: settings[0].cores]
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    torch.set_grad_enabled(False)
    loaders_of = []
    for setting in settings:
        names = list(itertools.islice(itertools.cycle(files), setting.listed))
        loader = fa.ImageLoader(
            fa.Samples(names, [0] * len(names), ["a"]), setting.batch, PRESIZE, common.default_augment(), device="cpu",
            mode="direct", shard=(rank, setting.ranks), num_threads=len(cores), on_error="raise",
        )  # fmt: skip
        loaders_of.append(loader)
    told: list[list[tuple[float, float]]] = [[] for _ in settings]
    for turn in range(1 + passes):
        for seconds, setting, loader in zip(told, settings, loaders_of, strict=True):
            barrier.wait(WAIT_S)
            taken = timed_pass(loader, setting)
            if turn > 0:  # the first one compiles
                seconds.append(taken)
    results.put(told)


def timed_pass(loader: fa.ImageLoader, setting: Setting) -> tuple[float, float]:
    """Seconds to the first batch, and to the last one that the setting asks for."""
    start = time.perf_counter()
    batches = iter(loader)
    seen = len(next(batches)[0])
    first = time.perf_counter() - start
    seen += sum(len(x) for x, _ in itertools.islice(batches, setting.batches - 1))
    seconds = time.perf_counter() - start
    batches.close()
    if seen != setting.batch * setting.batches:
        raise RuntimeError(f"expected {setting.batches} batches of {setting.batch}, got {seen} images")
    return first, seconds


def run(files: Sequence[Path], settings: Sequence[Setting], passes: int) -> np.ndarray:
    """Seconds [setting, pass, (to the first batch, in all)] of the slowest rank; all with the same ranks and cores."""
    spawn, ranks = multiprocessing.get_context("spawn"), settings[0].ranks
    barrier, results = spawn.Barrier(ranks), spawn.Queue()
    names = [str(file) for file in files]
    processes = [
        spawn.Process(target=run_rank, args=(names, settings, rank, passes, barrier, results)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    try:
        return np.array([told_by(processes, results) for _ in processes]).max(0)
    finally:
        for process in processes:
            process.join(timeout=30)
            process.kill()


def told_by(processes: Sequence[Any], results: Any) -> Any:
    """What the next process has to tell; an error as soon as one of them has failed."""
    for _ in range(WAIT_S):
        with contextlib.suppress(queue.Empty):
            return results.get(timeout=1)
        if any(process.exitcode for process in processes):
            raise RuntimeError("a process of this benchmark has failed; its error is above")
    raise TimeoutError(f"no process of this benchmark has told anything for {WAIT_S} s")


def compare(
    report: common.Report, files: Sequence[Path], what: str, settings: dict[str, Setting], rounds: int, passes: int
) -> dict[str, list[float]]:
    """Cost of an image in each setting, in ms; the settings take turns."""
    cost: dict[str, list[float]] = {name: [] for name in settings}
    waited: dict[str, list[float]] = {name: [] for name in settings}
    kinds = sorted({(setting.ranks, setting.cores) for setting in settings.values()})
    for _, kind in itertools.product(range(rounds), kinds):
        alike = {name: s for name, s in settings.items() if (s.ranks, s.cores) == kind}
        for (name, setting), seconds in zip(alike.items(), run(files, list(alike.values()), passes), strict=True):
            waited[name] += seconds[:, 0].tolist()
            if what == LISTED:
                after, images = seconds[:, 1] - seconds[:, 0], setting.images - setting.batch * setting.ranks
            else:
                after, images = seconds[:, 1], setting.images
            cost[name] += (1e3 * after / images).tolist()
    base = next(iter(settings))
    lines = []
    for name, setting in settings.items():
        ms, first = comparison.quartiles(cost[name]), comparison.quartiles(waited[name])
        times = common.ratios(cost[name], cost[base])
        report.rows.append(
            {
                "what": what, "name": name, **vars(setting), "ms_per_image": ms, "times_first": times,
                "first_batch_s": first, "ms": cost[name],
            }
        )  # fmt: skip
        speed = f"{1e3 / ms['median']:,.0f}"
        lines.append([name, common.with_spread(ms, 2), speed, common.with_spread(times, 2), f"{first['median']:.2f}"])
    columns = [what, "ms an image", "images/s", f"times the time of {base}", "first batch, s"]
    title = f"By {what}, after the first batch" if what == LISTED else f"By {what}"
    report.table(f"{title}; middle half in brackets", columns, lines)
    return cost


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, … and `most` itself."""
    return sorted({*(2**k for k in range(most.bit_length())), most})


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="JPEG files; default: scikit-image's photos")
    parser.add_argument("--listed", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64, 256, 1024], help="batch sizes")
    parser.add_argument("--images", type=int, default=512, help="images a pass")
    parser.add_argument("--rounds", type=int, default=2, help="times that the processes are started")
    parser.add_argument("--passes", type=int, default=3, help="of each setting in a process")
    arguments = parser.parse_args()
    all_cores, images = len(os.sched_getaffinity(0)), arguments.images
    rounds, passes = arguments.rounds, arguments.passes
    groups = groups_of(arguments.listed, arguments.batches, powers_of_two(all_cores), (1, 2), images)
    if arguments.tiny:
        rounds, passes, groups = 1, 1, groups_of([100, 1000], [], [], [2], 16)
    folder = arguments.folder.name if arguments.folder else "scikit-image"
    report = common.Report(
        "scale", {"images": images, "rounds": rounds, "passes": passes, "seed": arguments.seed, "folder": folder}
    )
    with tempfile.TemporaryDirectory() as temporary:
        found = loaders.jpeg_files(arguments.folder, Path(temporary))
        job = Job(found * -(-32 // len(found)), 16, all_cores, arguments.seed)
        colors = loaders.mean_colors(found).repeat(-(-32 // len(found)), 1)
        made: dict[str, Callable[[Job], loaders.Passes]] = {DIRECT: partial(loaders.fastaug_loader, "direct")}
        ways, _ = loaders.admitted(report, made, job, colors)
        if ways:
            measure(report, found, groups, rounds, passes)
    return report.finish(common.out_path(arguments))


def measure(
    report: common.Report, files: Sequence[Path], groups: dict[str, dict[str, Setting]], rounds: int, passes: int
) -> None:
    cost = {
        what: compare(report, files, what, settings, rounds, passes) for what, settings in groups.items() if settings
    }
    few, *_, many = cost[LISTED]
    grown = common.ratios(cost[LISTED][many], cost[LISTED][few])["median"]
    report.target(f"ms an image of {many} listed samples / of {few}", grown, 1.1, at_least=False)


def groups_of(
    listed: Sequence[int], sizes: Sequence[int], cores: Sequence[int], ranks: Sequence[int], images: int
) -> dict[str, dict[str, Setting]]:
    """What is compared: question -> name of the setting -> setting. All cores of the machine, but for the cores'."""
    batch, every = min(64, images // 2), len(os.sched_getaffinity(0))
    passes, enough = images // batch, 2 * max(images, BATCHES * max(sizes, default=0))
    return {
        LISTED: {f"{n:,}": Setting(n, batch, min(images, *listed) // batch, every) for n in listed},
        "batch size": {f"{n:,}": Setting(enough, n, max(images // n, BATCHES), every) for n in sizes},
        "cores": {f"{n}": Setting(enough, batch, passes, n) for n in cores},
        "ranks": {
            f"{n} × {every // n} cores": Setting(enough, batch, passes // n, every // n, n)
            for n in ranks
            if every >= n
        },
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
