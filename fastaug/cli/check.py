"""`fastaug check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastaug.cli.errors import refuse_to_overwrite
from fastaug.cli.options import Debug, Json, Overwrite, ReadTimeout, Source
from fastaug.cli.printing import print_figures
from fastaug.cli.progress import progress_bar


def check(
    source: Source,
    num_threads: Annotated[int | None, typer.Option(min=1, show_default="the cores there are")] = None,
    clean: Annotated[
        Path | None, typer.Option(help="Write the good files and their classes into this .csv.", show_default="none")
    ] = None,
    read_timeout: ReadTimeout = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the files that cannot be read or decoded, before a training does; exit code 1 if there are any.

    Files that the storage did not give are named apart: they may be good, and --clean keeps them.
    """
    from fastaug.cli.samples import find_samples
    from fastaug.loading.check import bad_files
    from fastaug.samples.storage import bad_and_missed

    if clean is not None:
        refuse_to_overwrite("--clean", [clean], overwrite)
    samples = find_samples(source, every=clean is None)
    with progress_bar(len(samples), "files") as done:
        found = bad_files(samples, num_threads, done, read_timeout)
    bad, missed = bad_and_missed(found)
    listed, others = (
        [{"path": samples.paths[row], "reason": reason} for row, reason in some.items()] for some in (bad, missed)
    )
    lines = [f"{one['path']}: {one['reason']}" for one in listed]
    lines += [f"missed: {one['path']}: {one['reason']}" for one in others]
    lines.append(f"{len(bad):,} of {len(samples):,} files are bad" + (f"; the others: {clean}" if clean else ""))
    if missed:
        lines.append(f"{len(missed):,} could not be looked at, because of the storage: check them again")
    print_figures(as_json, {"files": len(samples), "bad": listed, **({"missed": others} if others else {})}, lines)
    if clean is not None:  # after the list, which took long: the disk may be full
        samples.subset([row for row in range(len(samples)) if row not in bad]).to_csv(clean, label_sep=source.label_sep)
    raise typer.Exit(bool(found))
