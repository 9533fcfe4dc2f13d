"""The bad files of a data set, found before a training finds them: every file is read and decoded as the loader does.

That happens in another process. A damaged file may end a process inside a codec; here it is then named, and the search
goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from itertools import islice
from typing import IO, cast

from fastaug.machine import thread_count
from fastaug.samples.samples import Samples
from fastaug.samples.storage import StorageReason

ENDS_THE_PROCESS = "decoding it ends the process"


def bad_files(
    samples: Samples,
    num_threads: int | None = None,
    done: Callable[[int], None] = lambda count: None,
    read_timeout: float | None = None,
) -> dict[int, str]:
    """row of the samples -> reason, for each file that the loader cannot deliver, in the order of the rows.

    A StorageReason says that the file may be good: the storage did not give it.

    Args:
        samples: what to look at.
        num_threads: None: the cores that this process may use, at most 64.
        done: called with how many more files have been looked at, for a progress bar.
        read_timeout: as of the ImageLoader.
    Raises:
        RuntimeError: the other process cannot even begin.
    """
    threads, timeout = num_threads or thread_count(), [] if read_timeout is None else [read_timeout]
    found: dict[int, str] = {}
    left = list(range(len(samples)))
    while left:
        left, at_once = _run(samples.paths, left, [threads, *timeout], found, done)
        suspects, left = left[:at_once], left[at_once:]
        while suspects:  # alone, so that it is known which one was being decoded when the process ended
            suspects, _ = _run(samples.paths, suspects, [1, *timeout], found, done)
            if suspects:
                found[suspects.pop(0)] = ENDS_THE_PROCESS
                done(1)
    return dict(sorted(found.items()))


def _run(
    paths: Sequence[str],
    rows: list[int],
    settings: list[float],
    found: dict[int, str],
    done: Callable[[int], None],
) -> tuple[list[int], int]:
    """Look at some rows in another process.

    Returns:
        The rows that it did not finish, in order, and how many of the first of them it may have begun.
    """
    left = dict.fromkeys(rows)
    command = [sys.executable, "-m", "fastaug.loading.check", *map(str, settings)]
    with tempfile.TemporaryFile("w+", errors="replace") as errors, tempfile.TemporaryFile("w+") as todo:
        todo.writelines(json.dumps([row, paths[row]]) + "\n" for row in rows)
        todo.seek(0)
        with subprocess.Popen(command, stdin=todo, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            stdout = cast("IO[str]", process.stdout)
            try:
                at_once = stdout.readline()
                for line in stdout:
                    row, reason, missed = json.loads(line)
                    left.pop(row)
                    if reason is not None:
                        found[row] = StorageReason(reason) if missed else reason
                    done(1)
            finally:
                process.kill()
        if not at_once:
            errors.seek(0)
            raise RuntimeError(f"check: expected a process that decodes, got: {errors.read()[-2000:].strip()}")
    return list(left), int(at_once)


def _work(threads: int, read_timeout: float | None, output: IO[str]) -> None:
    """The other process: rows and paths come in, a line with row, reason and whether it is the storage's goes out for
    each."""
    from fastaug.loading.decode import make_decoder
    from fastaug.loading.quarantine import StorageError
    from fastaug.loading.workers import Workers

    lock = threading.Lock()

    def look(file: tuple[int, str]) -> None:
        row, path = file
        try:
            (content,) = workers.read([path])
        except StorageError as error:  # nothing is read any more: of the others it is said too
            content = StorageReason(error)
        outcome = content if isinstance(content, str) else decoder.decode([content])[0]
        reason = outcome if isinstance(outcome, str) else None
        with lock:
            print(json.dumps([row, reason, isinstance(reason, StorageReason)]), file=output, flush=True)

    decoder = make_decoder("jpeg", num_threads=threads)
    print(decoder.threads, file=output, flush=True)
    files = map(json.loads, sys.stdin)
    with Workers(decoder, threads, read_timeout) as workers:
        while group := list(islice(files, 64 * threads)):
            workers.decode(look, group)


if __name__ == "__main__":
    # Whatever else is printed, by a codec too, goes to stderr.
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _work(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else None, results)

__all__ = ["bad_files"]
