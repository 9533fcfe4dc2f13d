"""Every suite, with a small set of photos: a few minutes on two cores. README.md has the commands for longer runs.

    python -m benchmarks.run_all

A suite that fails does not stop the others, and the exit status is the worst. A GPU has its own call, gpu.sh.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence

from benchmarks import versions

SUITES = (
    "benchmarks.fidelity --draws 2 --magnitude-photos 1 --sheet benchmarks/results/fidelity.png",
    "benchmarks.filter_study --draws 1",
    "benchmarks.scale_study --draws 2 --repeats 2 --images 8",
    "benchmarks.cache_study --repeats 3 --epochs 2",
    "benchmarks.warp_cpu --batch 64 1 --repeats 5 --seconds 0.1",
    "benchmarks.growth --repeats 3",
    "benchmarks.decode_to_batch --batch 16 --images 128 --repeats 3 --fastai-workers 0",
    "benchmarks.loader_overhead --batch 32 --images 256 --repeats 3",
    "benchmarks.cached_epochs --batch 16 --images 128 --repeats 3",
    "benchmarks.views --batch 16 --images 128 --repeats 3",
    "benchmarks.ideal_loader --batch 16 --images 128 --repeats 3",
    "benchmarks.scale --images 128 --listed 1000 1000000 --batches 1 64 --rounds 1 --passes 2",
    "pytest benchmarks/test_functions.py --benchmark-enable --benchmark-columns median,iqr,rounds -k 'not peers' -q",
    "benchmarks.readme",
)


def run_all(commands: Sequence[Sequence[str]]) -> int:
    """Run Python with each of these arguments; the worst exit status, that of a signal being 128 and its number."""
    failed: dict[str, int] = {}
    for command in commands:
        status = subprocess.run([sys.executable, *command], cwd=versions.HERE.parent, check=False).returncode
        if status:
            failed[" ".join(command)] = status if status > 0 else 128 - status
    for command, status in failed.items():
        print(f"failed with status {status}: {command}", file=sys.stderr)
    return max(failed.values(), default=0)


if __name__ == "__main__":
    sys.exit(run_all([["-m", *shlex.split(suite)] for suite in SUITES]))
