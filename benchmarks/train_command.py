"""What does `fastaug train FOLDER` reach by itself, and how long does it take?

    python -m benchmarks.train_command pets --pattern '(.+)_\\d+\\.jpg$'
    python -m benchmarks.train_command --tiny

The command as it is called from a shell, with nothing but the model, its weights and the seed: split (80/20 of each
class), batch size, rate and epochs are its own choice. In one process, so that what is imported and compiled once is in
no seed's time; everything else is, from the search for files to the last picture. Goals: on the 259 photos of 37 breeds
that were used, 86 % of the held-back ones in the mean of five seeds, in 50 s on two cores.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch

import fastaug as fa
from benchmarks import common
from benchmarks.interpolation import MODEL, labelled, percent, write_textures
from fastaug.cli.app import app
from fastaug.training.learner import Learner  # what the command imports
from fastaug.training.results import save_results

IMPORTED = (timm, Learner, save_results)
FIRST, GOAL_RIGHT, GOAL_SECONDS = 5, 86, 50


def train(folder: Path, options: list[str], out: Path) -> dict[str, Any]:
    """One call of the command: a row with what it printed as JSON, and the seconds that it took."""
    printed, before, start = io.StringIO(), resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    with contextlib.redirect_stdout(printed):
        status = app(["train", str(folder), *options, "--out", str(out), "--json"], standalone_mode=False)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    if status:
        raise RuntimeError(f"expected `fastaug train` to end well, got exit code {status}.")
    found = json.loads(printed.getvalue())
    return {
        "right": found["right"], "validated": found["validated"], "accuracy": found["accuracy"],
        "chosen": found["chosen"], "epochs": len(found["epochs"]), "seconds": seconds,
        "user_seconds": after.ru_utime - before.ru_utime, "system_seconds": after.ru_stime - before.ru_stime,
    }  # fmt: skip


def show(report: common.Report) -> None:
    """The table and the goals, which are about the first five seeds."""
    several = {f"the first {FIRST}": report.rows[:FIRST], f"all {len(report.rows)}": report.rows}
    report.table(
        f"{report.settings['images']} images, {report.rows[0]['validated']} held back, {MODEL}; lowest to highest",
        ["seeds", "% right", "seconds", "CPU seconds, user", "system", "epochs of the body"],
        [
            [
                name, percent([row["accuracy"] for row in rows]),
                *[_spread([row[key] for row in rows]) for key in ("seconds", "user_seconds", "system_seconds")],
                _spread([row["epochs"] - 1 for row in rows]),
            ]
            for name, rows in several.items()
        ],
    )  # fmt: skip
    first = report.rows[:FIRST]
    right = 100 * sum(row["right"] for row in first) / sum(row["validated"] for row in first)
    report.target(f"% right of those held back, the first {FIRST} seeds", right, GOAL_RIGHT)
    seconds = sum(row["seconds"] for row in first) / len(first)
    report.target("seconds, their mean", seconds, GOAL_SECONDS, at_least=False)


def _spread(values: list[float]) -> str:
    return f"{sum(values) / len(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="labelled photos; with --tiny: textures made for it")
    parser.add_argument("--pattern", help="label in the file name, a regular expression; default: folders are classes")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    tiny, first = arguments.tiny, arguments.seed
    if not (tiny or arguments.folder):
        parser.error("expected a folder of labelled photos, got none; without one there is only --tiny")
    options = ["--model", MODEL, "--weights", "none" if tiny else "lite0"]
    options += ["--pattern", arguments.pattern] if arguments.pattern else []
    options += ["--size", "32", "--presize", "40", "--epochs", "1"] if tiny else []
    settings = {
        "model": MODEL, "options": options, "seeds": [first + i for i in range(1 if tiny else arguments.seeds)],
        "folder": arguments.folder.name if arguments.folder else None, "timm": timm.__version__,
        "torch_threads": torch.get_num_threads(),
    }  # fmt: skip
    report = common.Report("train_command", settings)
    with tempfile.TemporaryDirectory() as temporary:
        folder, samples = arguments.folder, fa.Samples([], [], [])
        if folder is None:
            folder = Path(temporary, "textures")
            samples = write_textures(folder, first, each=3, grain_levels=6.0)
        else:
            samples = labelled(folder, arguments.pattern)
        report.settings["images"] = len(samples)
        for seed in settings["seeds"]:
            row = train(folder, [*options, "--seed", str(seed)], Path(temporary, f"seed-{seed}"))
            report.rows.append({"name": "fastaug train", "seed": seed, **row})
            print(report.rows[-1], flush=True)
        show(report)
        return report.finish(common.out_path(arguments))


if __name__ == "__main__":
    sys.exit(main())
