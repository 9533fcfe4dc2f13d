"""`fastaug prepare`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fastaug.cli.options import CacheBytes, Debug, Device, Json, Source
from fastaug.cli.printing import importing_torch, in_bytes, print_figures, say
from fastaug.cli.progress import progress_bar

_NAMED = 3  # bad files


def prepare(
    source: Source,
    cache: Annotated[Path, typer.Option(help="The folder of the cache; it is made.", show_default=False)],
    cache_size: Annotated[
        int, typer.Option(min=1, help="Short side of what is kept, pixels: the --presize of the training.")
    ] = 460,
    cache_bytes: CacheBytes = None,
    num_threads: Annotated[int | None, typer.Option(min=1, show_default="the cores there are")] = None,
    device: Device = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Decode every photo once and keep it in a cache, for trainings with the same --cache.

    It can be stopped with Ctrl-C, and gone on with by the same command, by several at a time too. A training fills its
    cache by itself; this is for filling it beforehand. Of a folder with train/ and val/ both are kept.
    """
    from fastaug.cli.samples import find_samples

    samples = find_samples(source, every=True)
    with importing_torch():
        from fastaug.loading.prepare import prepare as fill

    start = time.perf_counter()
    try:
        with progress_bar(len(samples), "images", speed=True) as done:
            came = fill(samples, cache, cache_size, cache_bytes, device, num_threads, done=done)
    except KeyboardInterrupt:
        say(f"stopped; what is finished stays in '{cache}'. The same command goes on from there.", err=True)
        raise
    speed = came.made / (time.perf_counter() - start)
    listed = [{"path": samples.paths[row], "reason": reason} for row, reason in came.bad.items()]
    lines = [f"bad: {one['path']}: {one['reason']}" for one in listed[:_NAMED]]
    if len(listed) > _NAMED:
        lines.append(f"bad: {len(listed) - _NAMED:,} more; `fastaug check` lists them all")
    missed = [{"path": samples.paths[row], "reason": reason} for row, reason in came.missed.items()]
    if missed:
        first = f"{missed[0]['path']}: {missed[0]['reason']}"
        lines.append(f"{len(missed):,} files could not be read because of the storage, the first {first}. Do it again")
    lines.append(f"{came.made:,} photos made, {came.there:,} were there, {len(listed):,} files are bad")
    if came.without_room:
        lines.append(f"{came.without_room:,} did not fit and are decoded each time; more --cache-bytes keep them too")
    lines.append(f"{came.folder}: {in_bytes(came.bytes)}" + (f", {speed:,.0f} images/s" if came.made else ""))
    figures = {"folder": came.folder, "made": came.made, "there": came.there, "without_room": came.without_room}
    figures |= {"bad": listed, **({"missed": missed} if missed else {})}
    print_figures(as_json, {**figures, "bytes": came.bytes, "images_per_s": speed}, lines)
