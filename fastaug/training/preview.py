"""A look before training: a batch as pictures; a sample's way to its loss, and the layers of the model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from fastaug.loading.loader import ImageLoader
from fastaug.loading.summary import Summary, range_of
from fastaug.text import printable
from fastaug.training import plots
from fastaug.training.checkpoint import random_state, set_random_state
from fastaug.training.engine import Engine
from fastaug.training.inference import NONE
from fastaug.training.loaders import UNKNOWN_PIXEL, LoaderAdapter
from fastaug.training.losses import name_of
from fastaug.training.models import layer_table


def peek(learn: Engine, images: int) -> tuple[Tensor, Tensor]:
    """The first images of the next epoch and their targets; loader and random states stay where they are."""
    own = LoaderAdapter(learn.train_loader).generator
    state, batches = random_state(own), learn.training_batches()
    found: list[tuple[Tensor, Tensor]] = []
    try:
        for x, y, _ in islice(batches, len(learn.train_loader)):
            found.append((x, y))
            if sum(len(y) for _, y in found) >= images:
                break
    finally:
        batches.close()
        set_random_state(state, own)
    return torch.cat([x for x, _ in found])[:images], torch.cat([y for _, y in found])[:images]


def show_batch(learn: Engine, n: int = 9) -> plots.Figure:
    """n images of the next training epoch as the model gets them, but not normalised, with what their targets say.

    These are classes, labels or numbers; masks are laid over the images, a colour for each class. Of fewer images all
    are shown. Without an augment that tells the normalisation, they are shown as they are, cut to [0, 1].
    """
    (x, y), loader = peek(learn, n), LoaderAdapter(learn.train_loader)
    images = plots.denormalized(x.float(), loader.normalize)
    if y.ndim == 3 and not y.is_floating_point():
        return plots.show_images(overlaid(images.cpu(), y.cpu(), loader.unknown_pixel))
    return plots.show_images(images, [target_name(target, loader.classes, learn.kind) for target in y])


def overlaid(images: Tensor, masks: Tensor, unknown: int = UNKNOWN_PIXEL) -> list[Tensor]:
    """Images [B, 3, H, W] in [0, 1] with masks, integer [B, H, W], a colour for each class; what is unknown, and 0,
    mostly the background, have none."""
    hue = (masks * 0.618034) % 1  # the golden section: neighbours differ
    colors = torch.stack([((hue * 6 + shift) % 6 - 3).abs().sub(1).clamp(0, 1) for shift in (0, 4, 2)], 1)
    there = ((masks != 0) & (masks != unknown))[:, None]
    return list(torch.where(there, images.lerp(colors.to(images.dtype), 0.5), images))


def target_name(target: Tensor, classes: Sequence[str], kind: str | None = None) -> str:
    """The names of the classes of an image, as far as they are known; or its numbers.

    kind: of the samples; None: not known, and a row of zeros and ones is taken for labels.
    """
    if kind != "numbers" and target.ndim == 1 and bool(((target == 0) | (target == 1)).all()):
        seen = target.nonzero()[:, 0].tolist()
    elif target.is_floating_point():
        return ", ".join(map(number_text, target.flatten().tolist()))
    else:
        seen = [number for number in target.flatten().tolist() if number >= 0]
    return ", ".join(printable(classes[i]) if i < len(classes) else str(i) for i in seen) or NONE


def number_text(number: float) -> str:
    """Four digits, without an exponent where the number is not tiny: 0.1235, 37.2, 12,346."""
    return f"{number:,.0f}" if 1e4 <= abs(number) < 1e15 else f"{number:.4g}"


def summary(learn: Engine, row: int = 0) -> Summary:
    """Walk one sample through every step to its loss, and list the layers that have parameters: `print` it.

    The steps are those of `ImageLoader.summary`, then model (in eval mode) and loss; where one fails, it says which and
    why. Of another kind of loader the first image of the next epoch is taken. The table says of each layer its kind,
    the number of its parameters, its group, and whether it trains.

    Args:
        row: of the samples of train_loader.
    """
    loader = learn.train_loader
    batch: Any  # None where a step failed: then no other is done
    if isinstance(loader, ImageLoader):
        walk, batch = loader.walk(row)
    else:
        walk = Summary()
        batch = walk.step("batch", lambda: _first(learn))
    learn.model.eval()
    found = walk.step("model", lambda: _activations(learn, *batch))
    walk.step("loss", lambda: _loss(learn, *found))
    walk.table = layer_table(learn.model, learn.groups)
    return walk


def _first(learn: Engine) -> tuple[str, Any]:
    x, y = peek(learn, 1)
    return f"{range_of(x)}; target {y[0].tolist()}", (x, y)


@torch.no_grad()
def _activations(learn: Engine, x: Tensor, y: Tensor) -> tuple[str, Any]:
    activations, y = learn.activate(learn.model, x, y)
    if activations.ndim != (4 if y.ndim == 3 else 2) or len(activations) != len(x):
        raise ValueError(f"expected activations [{len(x)}, classes], got {list(activations.shape)}.")
    return f"{type(learn.model).__name__}: {range_of(activations)}", (activations, y)


def _loss(learn: Engine, activations: Tensor, y: Tensor) -> tuple[str, None]:
    loss, _ = learn.loss_of(activations, y)
    if loss.ndim or not torch.isfinite(loss):
        raise ValueError(f"expected one finite number for the batch, got {loss.tolist()}.")
    return f"{name_of(learn.loss_func)}, the {'sum' if learn.summed else 'mean'} over a batch: {float(loss):.4f}", None
