"""`fastaug show`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from fastaug.cli.errors import refuse_to_overwrite
from fastaug.cli.options import Debug, Device, Mode, Overwrite, Presize, Seed, Size, Source
from fastaug.cli.printing import importing_torch, say


def show(
    source: Source,
    images: Annotated[int, typer.Option(min=1, help="Photos.")] = 9,
    seed: Seed = 42,
    size: Size = 224,
    presize: Presize = 460,
    mode: Mode = "resize",
    device: Device = None,
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("show.png"),
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Look at a batch of training: each photo, and beside it what the model would get of it."""
    from fastaug.cli.samples import find_samples

    refuse_to_overwrite("--out", [out], overwrite)
    samples = find_samples(source)
    with importing_torch():
        from fastaug.augment.fastai_names import aug_transforms
        from fastaug.loading.loader import ImageLoader
        from fastaug.training import plots
        from fastaug.training.preview import target_name

    images = min(images, len(samples))
    augment = aug_transforms(size=size, min_scale=0.75, normalize=None)
    with ImageLoader(samples, images, presize, augment, device, seed=seed, mode=mode, return_info=True) as loader:
        x, y, info = next(iter(loader))
    some = samples.subset(info.indices.tolist())
    with ImageLoader(some, images, presize, None, device, training=False) as loader:
        plain, _ = next(iter(loader))
    pairs = [image for pair in zip(plain, x, strict=True) for image in pair]
    titles = [title for target in y for title in (target_name(target, samples.classes, samples.kind), "augmented")]
    columns = 2 * math.ceil(math.sqrt(images / 2))
    plots.save_figure(plots.show_images(pairs, titles, columns), out)
    say(f"{len(y)} photos of {samples}, picture: {out}")
