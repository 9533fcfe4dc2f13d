"""The learner of `fastaug train` and `fastaug lr-find`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fastaug.augment.fastai_names import aug_transforms
from fastaug.cli.options import Source
from fastaug.cli.printing import say
from fastaug.cli.samples import split_samples
from fastaug.demo.weights import LITE0, lite0_weights
from fastaug.loading.loader import ImageLoader
from fastaug.machine import rank, usable_device, world
from fastaug.samples.samples import shortened
from fastaug.training.learner import Learner
from fastaug.training.loaders import outputs_for
from fastaug.training.models import classifier
from fastaug.training.transfer import batch_size_for


def make_learner(
    source: Source,
    valid_fraction: float,
    seed: int,
    batch_size: int | None,
    size: int,
    presize: int,
    model: str,
    weights: str,
    device: str | None,
    cache: str | None,
    read_timeout: float | None,
    settings: Mapping[str, Any],
) -> tuple[Learner, list[ImageLoader]]:
    """The learner, with `settings` of it, and its loaders, to train and to validate."""
    usable_device("train", device)  # before a model is downloaded
    parts = split_samples(source, valid_fraction, seed)
    classes, kind, outputs = parts[0].classes, parts[0].kind, outputs_for(parts[0])
    if kind == "class" and len(classes) < 2:
        folders = "Put each class into its own folder, or give --pattern"
        columns = "Name another column, or say --kind labels where there is one or none"
        raise ValueError(
            f"train: expected two classes or more in '{source.place}', got {', '.join(classes)} alone. "
            f"{columns if source.is_list else folders}."
        )
    if weights == "lite0" and model != LITE0:
        raise ValueError(f"train: --weights lite0 fit --model {LITE0}, got --model {model}.")
    torch.manual_seed(seed)
    given = lite0_weights() if weights == "lite0" else None if weights.lower() == "none" else weights
    network = classifier(model, outputs, given)
    augment = aug_transforms(size=size, min_scale=0.75, normalize=network)
    batch_size = batch_size or batch_size_for(len(parts[0]) // world())
    if not rank():
        counted = f"{len(parts[0]):,} images to train, in batches of {batch_size}, {len(parts[1]):,} to validate"
        what = {"class": "classes", "labels": "labels", "numbers": "numbers"}[kind]
        named = f": {shortened(classes)}" if classes else ""
        say(f"{counted}, {outputs:,} {what[:-1] if outputs == 1 else what}{named}")
    train_loader, valid_loader = (
        ImageLoader(part, batch_size, presize, augment, device, training, seed, cache=cache, read_timeout=read_timeout)
        for part, training in zip(parts, (True, False), strict=True)
    )
    learn = Learner(train_loader, valid_loader, network, device=device, **settings)
    return learn, [train_loader, valid_loader]
