"""A soak: random loaders and what may befall them, for as long as one likes.

    python -m tests.soak --seconds 600 --seed 1 --jobs 2
    python -m tests.soak --seed 1 --case 37

Data sets, loaders, kills, bad files, storage that fails, full disks, changed files, resumed states, forks and trainings
are drawn. Each case is a function of the seed and its number, and can be done again by them; where a process is when it
is killed is up to the machine. Looked at is that every good sample comes exactly once, with the pixels that a plain
loader gives, that bad files are named, and that nothing is left behind. The exit code is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from tests.soaking.counts import MOST_GROWTH_MB, growth_mb, table
from tests.soaking.disks import unmount_all

LIMIT_S = 150  # of a case, which takes a second; one that takes longer hangs

_CONTEXT = multiprocessing.get_context("spawn")  # the first process imports nothing that is heavy


def work(pipe: Connection, seed: int, only: list[str], folder: Path) -> None:
    """A process: do the cases whose numbers it is told, and answer each with a `Done`."""
    from tests.soaking.working import Worker

    worker = Worker(seed, only, folder)
    pipe.send("ready")
    while (number := pipe.recv()) is not None:
        pipe.send(worker.do(number, LIMIT_S - 20))


@dataclass
class Process:
    """One that does one case after the other.

    Attributes:
        number: of the case that it is at; None: it has nothing more to do.
        resident: MB in memory after each.
    """

    does: Callable[..., None]
    arguments: tuple[int, list[str], Path]
    number: int | None = None
    resident: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pipe, there = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=self.does, args=(there, *self.arguments))
        self.process.start()
        there.close()
        self.ready = False

    def begin(self, number: int | None) -> None:
        """None: there is nothing more to do."""
        try:
            self.ready = self.ready or self.pipe.recv() == "ready"
        except EOFError:
            raise SystemExit("soak: a process did not begin; why is above") from None
        self.number, self.since = number, time.monotonic()
        self.pipe.send(number)

    def hangs(self) -> bool:
        return time.monotonic() - self.since > LIMIT_S

    def end(self) -> None:
        if self.number is None:
            self.process.join(20)
        self.process.kill()
        self.process.join()
        self.pipe.close()


@dataclass
class Result:
    """Of a run.

    Attributes:
        counts: of each scenario, what was done.
        wrong: by number of the case.
        grown_mb: of each process.
    """

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    wrong: dict[int, str] = field(default_factory=dict)
    grown_mb: list[float] = field(default_factory=list)


def soak(
    numbers: Iterator[int],
    seed: int,
    only: list[str],
    jobs: int,
    report: Callable[[int, str], None],
    does: Callable[..., None] = work,
) -> Result:
    """Do the cases of these numbers, several at a time.

    Args:
        only: names of scenarios; cases of others are passed over. None of them: all.
        report: told at once what is wrong with a case.
        does: what a process does.
    """
    result, folder = Result(), Path(tempfile.mkdtemp(prefix="soak-"))
    arguments = seed, only, folder

    def say_wrong(process: Process, what: str) -> None:
        assert process.number is not None
        result.wrong[process.number] = what
        report(process.number, what)

    running = [Process(does, arguments) for _ in range(jobs)]
    try:
        for process in running:
            process.begin(next(numbers, None))
        while busy := [process for process in running if process.number is not None]:
            ready = wait([process.pipe for process in busy], timeout=1)
            for process in busy:
                if process.pipe in ready:
                    try:
                        done = process.pipe.recv()
                    except EOFError:
                        process.process.join(20)
                        say_wrong(process, f"the process ended with {process.process.exitcode}")
                    else:
                        if done.kind is not None:
                            result.counts[done.kind] += done.counts + Counter(cases=1)
                            process.resident.append(done.resident_mb)
                        if done.wrong:
                            say_wrong(process, done.wrong)
                        process.begin(next(numbers, None))
                        continue
                elif process.hangs():
                    say_wrong(process, f"it hangs: nothing for {LIMIT_S} s; where its threads are is above")
                else:
                    continue
                process.end()
                result.grown_mb.append(growth_mb(process.resident))
                running[running.index(process)] = another = Process(does, arguments)
                another.begin(next(numbers, None))
    finally:
        for process in running:
            process.end()
            result.grown_mb.append(growth_mb(process.resident))
        unmount_all(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Random loaders, and what befalls them.")
    parser.add_argument("--seconds", type=float, default=60, help="no case is begun later")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this scenario; several times")
    parser.add_argument("--case", type=int, help="this case alone")
    parser.add_argument("--json", type=Path, help="file for the counts")
    options = parser.parse_args(arguments)
    start = time.monotonic()

    def numbers() -> Iterator[int]:
        number = 0
        while time.monotonic() - start < options.seconds:
            yield number
            number += 1

    def report(number: int, wrong: str) -> None:
        again = f"python -m tests.soak --seed {options.seed} --case {number}"
        print(f"WRONG: case {number}: {wrong.rstrip()}\nagain: {again}\n", flush=True)

    chosen = numbers() if options.case is None else iter([options.case])
    result = soak(chosen, options.seed, options.only, options.jobs, report)
    seconds, grown_mb = time.monotonic() - start, max(result.grown_mb, default=0.0)
    print(table(result.counts))
    print(
        f"seed {options.seed}, {seconds:.0f} s, {options.jobs} at a time; a process grew by {grown_mb:.1f} MB at most"
    )
    if grown_mb > MOST_GROWTH_MB:
        result.wrong[-1] = f"a process grew by {grown_mb:.1f} MB, expected at most {MOST_GROWTH_MB}"
        print(f"WRONG: {result.wrong[-1]}")
    print(f"{len(result.wrong)} wrong" if result.wrong else "nothing wrong")
    if options.json is not None:
        found = {
            "seed": options.seed,
            "seconds": round(seconds, 1),
            "jobs": options.jobs,
            "counts": {kind: dict(counts) for kind, counts in sorted(result.counts.items())},
            "wrong": result.wrong,
            "grown_mb": result.grown_mb,
        }
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return bool(result.wrong)


if __name__ == "__main__":
    sys.exit(main())
