"""`fastaug check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fastaug.cli.options import Debug, Folder, Pattern
from fastaug.cli.printing import print_figures


def check(
    folder: Folder,
    pattern: Pattern = None,
    num_threads: Annotated[int | None, typer.Option(min=1, show_default="the cores there are")] = None,
    clean: Annotated[
        Path | None, typer.Option(help="Write the good files and their classes into this .csv.", show_default="none")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the bad files as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Find the files that cannot be read or decoded, before a training does; exit code 1 if there are any."""
    from fastaug.cli.samples import find_samples
    from fastaug.loading.check import bad_files

    samples = find_samples(folder, pattern)
    bar = (BarColumn(), MofNCompleteColumn(), TextColumn("files"), TimeRemainingColumn())
    with Progress(*bar, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(samples))
        bad = bad_files(samples, num_threads, lambda count: progress.advance(task, count))
    if clean is not None:
        samples.subset([row for row in range(len(samples)) if row not in bad]).to_csv(clean)
    listed = [{"path": samples.paths[row], "reason": reason} for row, reason in bad.items()]
    lines = [f"{one['path']}: {one['reason']}" for one in listed]
    lines.append(f"{len(bad):,} of {len(samples):,} files are bad" + (f"; the others: {clean}" if clean else ""))
    print_figures(as_json, {"files": len(samples), "bad": listed}, lines)
    raise typer.Exit(bool(bad))
