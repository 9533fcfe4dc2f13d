"""`fastaug cache`."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastaug.cli.options import Debug, Json
from fastaug.cli.printing import in_bytes, print_figures
from fastaug.cli.progress import progress_bar

if TYPE_CHECKING:
    from fastaug.caching.upkeep import Survey


def cache(
    path: Annotated[Path, typer.Argument(help="What was given as --cache.", show_default=False)],
    clean: Annotated[
        bool, typer.Option("--clean", help="Leave out what is of no use any more, and give its bytes back.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Without the checksums, for which everything is read.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what is in a cache of photos: settings, size, stale and damaged photos; and clean it.

    A training may use it meanwhile. Cleaning needs as many free bytes as what is left takes.
    """
    from fastaug.caching.upkeep import Upkeep, caches_in
    from fastaug.samples.sources import stamps

    found: list[dict[str, Any]] = []
    lines: list[str] = []
    for folder in caches_in(path):
        upkeep = Upkeep(folder)
        with progress_bar(len(upkeep), "photos", speed=True) as done:
            survey = upkeep.survey(partial(stamps, strict=True), quick, done)
        lines += _lines(survey, quick)
        found.append(asdict(survey) | {"folder": str(folder), "cleaned": clean and survey.useless})
        if clean and survey.useless:
            with progress_bar(survey.slots, "photos", speed=True) as done:
                left = upkeep.clean(done)
            found[-1]["disk_bytes_left"] = left
            lines.append(f"  cleaned: {in_bytes(left)} on the disk now")
        elif clean:
            lines.append("  there is nothing to clean")
    print_figures(as_json, found, lines)


def _lines(survey: Survey, quick: bool) -> list[str]:
    told = {"cache_size": "short side", "decoder": "decoder", "scale": "scale", "filter": "filter"}
    settings = ", ".join(f"{word} {survey.settings.get(name)}" for name, word in told.items())
    lines = [
        f"{survey.folder}: {settings}",
        f"  {survey.slots:,} photos, {in_bytes(survey.slot_bytes)}; {in_bytes(survey.disk_bytes)} on the disk",
    ]
    useless = {
        "of files that have changed": survey.changed, "of files that are gone": survey.gone,
        "damaged": survey.damaged, "replaced by later ones": survey.replaced,
    }  # fmt: skip
    parts = [f"{count:,} {what}" for what, count in useless.items() if count]
    parts += [f"{in_bytes(survey.lost_bytes)} of nobody"] if survey.lost_bytes else []
    lines.append(f"  of no use: {', '.join(parts)}" if parts else "  nothing of no use")
    return lines if not quick else [*lines, "  checksums were not looked at"]
