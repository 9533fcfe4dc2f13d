"""Photos with what they are and what the model says of them, right and wrong told apart."""

from __future__ import annotations

import torch
from torch import Tensor

from fastaug.loading.loader import ImageLoader
from fastaug.training import plots
from fastaug.training.engine import Engine
from fastaug.training.inference import NONE, most_probable, seen_labels
from fastaug.training.loaders import Loader, LoaderAdapter
from fastaug.training.losses import one_hot
from fastaug.training.prediction import loader_like, probabilities_of, threshold
from fastaug.training.preview import overlaid, target_name


def show_results(learn: Engine, n: int = 9, loader: Loader | None = None) -> plots.Figure:
    """n images of `loader`, default valid_loader, each below what the model says of it.

    What is right has a tick and a green frame, what is wrong a cross, a dashed red frame and a second line that says
    what it is; of numbers, and of what else cannot be told, both are given without a mark. Of several labels all have
    to be right. Classes of pixels are colours, and the share of right ones is given. The images are as the model
    gets them, but not normalised: of an ImageLoader a choice of all, the same each time, of another loader the first.

    Raises:
        ValueError: n < 1, no loader, no image that can be read.
    """
    if n < 1:
        raise ValueError(f"show_results: expected n of at least 1, got {n}.")
    loader = learn.or_valid(loader)
    if isinstance(loader, ImageLoader):
        rows = torch.randperm(len(loader.samples), generator=torch.Generator().manual_seed(0))[:n].sort().values
        settings = {
            "training": False,
            "on_error": "skip",
            "max_bad_share": 1.0,
            "batch_size": min(n, loader.batch_size),
        }
        loader = loader_like(loader, loader.samples.subset(rows.tolist()), **settings)
    adapter, images, titles = LoaderAdapter(loader), list[Tensor](), list[str]()
    right: list[bool | None] = []
    learn.model.eval()
    for x, y, _ in learn.batches(adapter.in_order()):
        with torch.no_grad():
            activations, y = learn.activate(learn.model, x, y)
        pictures = plots.denormalized(x.float(), adapter.normalize).cpu()
        images += overlaid(pictures, activations.argmax(1).cpu()) if activations.ndim == 4 else pictures
        for title, mark in _said(learn, activations.float().cpu(), y.cpu(), adapter.classes):
            titles.append(title)
            right.append(mark)
        if len(images) >= n:
            break
    return plots.show_images(images[:n], titles[:n], right=right[:n])


def _said(learn: Engine, activations: Tensor, y: Tensor, classes: list[str]) -> list[tuple[str, bool | None]]:
    """Of each image, the lines above it, and whether the model is right."""
    if activations.ndim == 4 and not y.is_floating_point():
        right, known = activations.argmax(1) == y, y != getattr(learn.loss_func, "ignore_index", -1)
        shares = (right & known).sum((1, 2)) / known.sum((1, 2)).clamp(min=1)
        return [(f"{share:.0%} right", None) for share in shares.tolist()]
    probabilities, outputs = probabilities_of(learn, activations), activations.shape[1:]
    if learn.activation == "none" or len(outputs) != 1:
        pairs = zip(probabilities.float(), y, strict=True)
        kind = "numbers" if learn.kind == "numbers" else None
        return [
            (f"{target_name(said, [], kind)}\nis {target_name(target, classes, kind)}", None) for said, target in pairs
        ]
    limit = threshold(learn)
    if learn.activation == "sigmoid" and y.ndim > 1 and (outputs[0] > 1 or learn.kind == "labels"):
        seen, several = seen_labels(probabilities, limit).long(), one_hot(y, outputs[0]).long()
        found, marks = [target_name(row, classes) for row in seen], (seen == several).all(1)
    else:
        y = y.argmax(1) if learn.activation == "softmax" and y.shape == activations.shape else y.flatten().long()
        index = most_probable(probabilities, limit)
        if outputs[0] == 1:
            probabilities = torch.cat([1 - probabilities, probabilities], 1)
        rows = zip(index, probabilities, strict=True)
        found, marks = [f"{target_name(i, classes)} {p[i]:.0%}" if i >= 0 else NONE for i, p in rows], index == y
    named = [target_name(target, classes) for target in y]
    return [_lines(*one) for one in zip(found, named, marks.tolist(), strict=True)]


def _lines(said: str, actual: str, right: bool) -> tuple[str, bool]:
    return (f"\N{CHECK MARK} {said}\n" if right else f"\N{BALLOT X} {said}\nis {actual}"), right
