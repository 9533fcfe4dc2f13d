"""`fastaug check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastaug.cli.errors import refuse_to_overwrite
from fastaug.cli.options import Debug, Json, Overwrite, Source
from fastaug.cli.printing import print_figures
from fastaug.cli.progress import progress_bar


def check(
    source: Source,
    num_threads: Annotated[int | None, typer.Option(min=1, show_default="the cores there are")] = None,
    clean: Annotated[
        Path | None, typer.Option(help="Write the good files and their classes into this .csv.", show_default="none")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the files that cannot be read or decoded, before a training does; exit code 1 if there are any."""
    from fastaug.cli.samples import find_samples
    from fastaug.loading.check import bad_files

    if clean is not None:
        refuse_to_overwrite("--clean", [clean], overwrite)
    samples = find_samples(source, every=clean is None)
    with progress_bar(len(samples), "files") as done:
        bad = bad_files(samples, num_threads, done)
    listed = [{"path": samples.paths[row], "reason": reason} for row, reason in bad.items()]
    lines = [f"{one['path']}: {one['reason']}" for one in listed]
    lines.append(f"{len(bad):,} of {len(samples):,} files are bad" + (f"; the others: {clean}" if clean else ""))
    print_figures(as_json, {"files": len(samples), "bad": listed}, lines)
    if clean is not None:  # after the list, which took long: the disk may be full
        samples.subset([row for row in range(len(samples)) if row not in bad]).to_csv(clean, label_sep=source.label_sep)
    raise typer.Exit(bool(bad))
