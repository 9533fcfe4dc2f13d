"""`fastaug summary`."""

from __future__ import annotations

from typing import Annotated

import typer

from fastaug.cli.options import Beside, Debug, Device, Mode, Presize, Seed, Size, Source
from fastaug.cli.printing import importing_torch, say


def summary(
    source: Source,
    row: Annotated[int, typer.Option(min=0, help="Which photo, in the order of the paths.")] = 0,
    seed: Seed = 42,
    model: Beside = None,
    size: Size = 224,
    presize: Presize = 460,
    mode: Mode = "resize",
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Walk one photo through every step of training and print what comes of it; where a step fails, which and why.

    Exit code 1 if a step failed.
    """
    from fastaug.cli.samples import find_samples

    samples = find_samples(source)
    with importing_torch():
        from fastaug.augment.color import IMAGENET
        from fastaug.augment.fastai_names import aug_transforms
        from fastaug.loading.loader import ImageLoader
        from fastaug.training.learner import Learner
        from fastaug.training.loaders import outputs_for
        from fastaug.training.models import classifier

    network = classifier(model, outputs_for(samples), None) if model else None
    augment = aug_transforms(size=size, min_scale=0.75, normalize=IMAGENET if network is None else network)
    loader = ImageLoader(samples, 1, presize, augment, device, seed=seed, mode=mode)
    walk = (
        Learner(loader, None, network, device=device, progress=False).summary(row) if network else loader.summary(row)
    )
    for line in str(walk).split("\n"):
        say(line)
    if walk.failed:
        raise typer.Exit(1)
