"""`fastaug predict`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastaug.cli.errors import refuse_to_overwrite
from fastaug.cli.options import Debug, Device, Json, Overwrite
from fastaug.cli.printing import as_json_text, importing_torch, print_json, say, say_row

if TYPE_CHECKING:
    from torch import Tensor

    from fastaug.training.inference import Predictor
    from fastaug.training.page import Page


def predict(
    model: Annotated[Path, typer.Argument(help="model.safetensors of a training.", show_default=False)],
    files: Annotated[
        list[Path], typer.Argument(help="Photos, or folders with photos at any depth.", show_default=False)
    ],
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    device: Device = None,
    page: Annotated[
        Path | None,
        typer.Option(
            help="Also write the photos into this HTML file, by class, the surest first.", show_default="none"
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what is on photos: a line each, with file, class and probability, between tabs.

    Of several labels each comes with its probability, the surest first; of numbers these alone. A file that cannot be
    read is a line on standard error, the others go on, and the exit code is 1.
    """
    refuse_to_overwrite("--page", [page] if page else [], overwrite)
    paths, left_out = _photos(files)
    for line in left_out:
        say(line, err=True)
    with importing_torch():
        from fastaug.training.inference import load_classifier
        from fastaug.training.page import Page

    predictor, bad, written = load_classifier(model, device), bool(left_out), 0
    pictures = Page(predictor) if page else None
    for path, found in _predictions(predictor, paths, batch_size, pictures):
        described: dict[str, Any] = {"file": path}
        if isinstance(found, str):
            bad = True
            described["error"] = found
            if pictures is not None:
                pictures.add_bad(path, found)
        else:
            described |= _as_json(predictor, found)
        if as_json:  # one array, an element a line, so that it can be read while it is written
            print_json(f"{',' if written else '['}{as_json_text(described)}")
            written += 1
        elif not isinstance(found, str):
            say_row(path, *_cells(predictor, found))
    if as_json:
        print_json("]")
    if pictures is not None and page is not None:
        pictures.write(page)
    raise typer.Exit(bad)


def _cells(predictor: Predictor, found: Tensor) -> list[str]:
    """What is said of a file, for a line."""
    said = predictor.describe(found)
    if predictor.says == "numbers":
        return [f"{number:.6g}" for _, number in said]
    return [cell for name, probability in said for cell in (name, f"{probability:.4f}")]


def _as_json(predictor: Predictor, found: Tensor) -> dict[str, Any]:
    said = predictor.describe(found)
    if predictor.says == "numbers":
        return {"numbers": dict(said) if predictor.classes else [number for _, number in said]}
    if predictor.says == "labels":
        seen = bool(predictor.seen(found[None]).any())
        return {"labels": [{"class": name, "probability": probability} for name, probability in said] if seen else []}
    ((name, probability),) = said
    return {"class": name, "probability": probability}


def _photos(files: list[Path]) -> tuple[list[str], list[str]]:
    """The paths, and what is to be said about what is left out of folders."""
    from fastaug.samples.folders import find_images

    paths, said = list[str](), list[str]()
    for file in files:
        if file.is_dir():
            images = find_images(file, "predict")
            paths += images.paths
            said += images.left_out.unread("predict")
        else:
            paths.append(str(file))
    return paths, said


def _predictions(
    predictor: Predictor, paths: list[str], batch_size: int, pictures: Page | None
) -> Iterator[tuple[str, Tensor | str]]:
    """(path, probabilities float32 [classes], or the reason why there are none) of each file, in their order."""
    loader, row = predictor.loader(paths, batch_size, return_info=True, max_bad_share=1), 0

    def bad_until(end: int) -> Iterator[tuple[str, str]]:
        if row < end:  # else a list of all would be made for each photo
            reasons = dict(loader.quarantined + loader.missed)
            yield from ((path, reasons[path]) for path in paths[row:end])

    with loader:
        for x, _, info in loader:
            probabilities = predictor.probabilities(predictor.activations(x).cpu())
            if pictures is not None:
                pictures.add([paths[index] for index in info.indices.tolist()], x, probabilities)
            for index, found in zip(info.indices.tolist(), probabilities, strict=True):
                yield from bad_until(index)
                yield paths[index], found
                row = index + 1
    yield from bad_until(len(paths))
