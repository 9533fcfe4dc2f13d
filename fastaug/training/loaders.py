"""What can be trained on: whatever yields batches and has a length. What else it may know or do is asked here alone."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler

from fastaug.augment.augment import Augment
from fastaug.augment.color import Statistics, model_statistics
from fastaug.loading.loader import ImageLoader
from fastaug.samples.samples import Samples
from fastaug.text import kind_of, printable

UNKNOWN_PIXEL = 255  # in masks: outside of the photo, and what nobody has labelled
SAME_STATISTICS = 5e-3  # mean and std that are closer are the same: the model sees no difference


class Loader(Protocol):
    """Batches (images, targets, ...), and how many: an ImageLoader, torch's DataLoader, a list."""

    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...


class LoaderAdapter:
    """The trainer's questions to a loader, with an answer for one that does not know."""

    def __init__(self, loader: Loader) -> None:
        source = loader.dataset if isinstance(loader, DataLoader) else loader  # of one around an ImageLoader
        self.loader, self._samples = loader, getattr(source, "samples", None)
        own = getattr(loader, "generator", None)
        self.generator = own if isinstance(own, torch.Generator) else None  # torch's, if it draws from one of its own
        self.augment: Augment | None = getattr(loader, "augment", None)
        self.normalize: tuple[Sequence[float], Sequence[float]] | None = getattr(self.augment, "normalize", None)
        self.classes = list(getattr(self._samples, "classes", ()))
        self.paths: Sequence[str] = getattr(self._samples, "paths", ())
        self.targets: Any = getattr(self._samples, "targets", ())
        self.kind: str | None = getattr(self._samples, "kind", None)  # what the targets are; None: it does not know
        self.views: Any = getattr(source, "views", 1)

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class."""
        return getattr(self._samples, "counts", dict[str, int])()

    @property
    def none_of_these(self) -> bool:
        """Whether some samples, of one class each, are of none: -1."""
        return self.kind == "class" and min(self.targets, default=0) < 0

    @property
    def unknown_pixel(self) -> int:
        """What masks have outside of the photo; 255 where that is a class of theirs, or not known."""
        fill: int = getattr(getattr(self.loader, "targets", None), "fill", UNKNOWN_PIXEL)
        return UNKNOWN_PIXEL if 0 <= fill < max(len(self.classes), 1) else fill

    def set_epoch(self, epoch: int) -> None:
        getattr(self.loader, "set_epoch", lambda epoch: None)(epoch)

    def follow(self, epoch: int) -> None:
        """As `set_epoch`, of a loader for validation: only where its sizes go by a schedule of the epochs."""
        if getattr(self.loader, "schedule", None) is not None:
            self.set_epoch(epoch)

    def position(self) -> dict[str, Any] | None:
        """Where it stands, for `go_to`; None: it does not know."""
        return getattr(self.loader, "state_dict", lambda: None)()

    def go_to(self, position: dict[str, Any] | None) -> None:
        if position is not None:
            getattr(self.loader, "load_state_dict", lambda position: None)(position)

    def copied(self, drop_last: bool | None = None) -> LoaderAdapter:
        """Of a copy of the loader, whose batches also tell the rows of the samples, where it can.

        drop_last: of an ImageLoader; None: as it is.
        """
        loader = copy.copy(self.loader)
        if isinstance(loader, ImageLoader):
            loader.return_info = True
            loader.drop_last = loader.drop_last if drop_last is None else drop_last
        return LoaderAdapter(loader)

    def in_order(self, rows: bool = False) -> Loader:
        """The loader as predictions and validation need it: every sample once, in its order, nothing random.

        An ImageLoader that trains or drops its last batch is replaced by a copy that does not. Any other loader is
        taken as it comes; of one of torch's that is known to come otherwise, a warning says so.

        Args:
            rows: the batches also tell which rows of the samples they are, where the loader can; their order matters.
        """
        loader = self.loader
        if isinstance(loader, DataLoader) and isinstance(loader.dataset, ImageLoader):
            loader = loader.dataset
        if isinstance(loader, ImageLoader):
            if rows or loader.training or loader.drop_last:
                loader = copy.copy(loader)
                loader.training, loader.drop_last, loader.return_info = False, False, rows
                loader.load_state_dict({**loader.state_dict(), "delivered": 0})  # whole, also where it was to go on
        elif isinstance(loader, DataLoader) and not isinstance(loader.dataset, torch.utils.data.IterableDataset):
            problems = ["leaves out an incomplete last batch (drop_last=True)"] if loader.drop_last else []
            if rows and not isinstance(loader.sampler, SequentialSampler):
                problems.append(f"has an order of its own ({type(loader.sampler).__name__})")
            if problems:
                warnings.warn(
                    "Learner: expected a DataLoader that gives every sample once, in its order, got one that "
                    f"{' and '.join(problems)}: so will be what is said of its images. Give one with shuffle=False and "
                    "drop_last=False.",
                    stacklevel=4,
                )
        return loader


def checked_classes(train_loader: Loader, valid_loader: Loader | None) -> list[str]:
    """The classes that the loaders' samples have, as far as they tell; warns of those with one image or none to train.

    Raises:
        TypeError: no loader, or one without a length. ValueError: one without batches, or two of different classes.
    """
    for name, loader in (("train_loader", train_loader), ("valid_loader", valid_loader)):
        if loader is not None or name == "train_loader":
            _check_loader(name, loader)
        if loader is not None and not hasattr(loader, "__len__"):
            raise TypeError(
                f"Learner: expected {name} to have a length, got {type(loader).__name__} without one. "
                "One cycle needs the number of batches: give a loader or a list."
            )
        if loader is not None and not len(loader):
            raise ValueError(
                f"Learner: expected {name} to have batches, got none. "
                "Give more images, a smaller batch_size or drop_last=False."
            )
    few = [f"{name} ({count})" for name, count in LoaderAdapter(train_loader).counts.items() if count < 2]
    if few:
        warnings.warn(
            f"Learner: expected two images or more of each class to train, got fewer of {len(few)}: "
            f"{printable(', '.join(few[:5] + ['…'] * (len(few) > 5)))}. Add images or leave the classes out.",
            stacklevel=3,
        )
    if isinstance(valid_loader, ImageLoader) and valid_loader.training:
        warnings.warn(
            "Learner: expected a valid_loader with training=False, got one that shuffles, augments and leaves images "
            "out. Validation takes every image once, plain; give training=False to say so.",
            stacklevel=3,
        )
    known, other = (LoaderAdapter(loader or []).classes for loader in (train_loader, valid_loader))
    if known and other and known != other:
        raise ValueError(
            f"Learner: expected the same classes in both loaders, got {len(known)} ({printable(', '.join(known[:3]))}, "
            f"…) and {len(other)} ({printable(', '.join(other[:3]))}, …). A target would mean two things: split one "
            "Samples."
        )
    return known or other


def checked_kind(train_loader: Loader, valid_loader: Loader | None) -> str | None:
    """What the samples of the loaders have for targets, as of `Samples.kind`; None: they do not tell.

    Raises:
        ValueError: no targets, or such as a batch has no tensor of; several views; two kinds; one class or none of it.
    """
    kinds = list[str]()
    for name, loader in (("train_loader", train_loader), ("valid_loader", valid_loader)):
        adapter = LoaderAdapter(loader if loader is not None else [])
        if adapter.views != 1:
            raise ValueError(
                f"Learner: expected {name} to give one view of each image, got views={adapter.views!r}. Train on "
                "several in a loop of your own, and give the Learner a loader with views=1."
            )
        if adapter.kind in _NO_TENSOR:
            got, advice = _NO_TENSOR[adapter.kind]
            raise ValueError(f"Learner: expected {name} to have a target for each image, got {got}. {advice}")
        if adapter.none_of_these and len(adapter.classes) == 1:
            raise ValueError(
                f"Learner: expected two classes or more where some images are of none (-1), got {adapter.classes[0]!r} "
                "alone. Give labels: a list for each image, empty where there is none; from_csv reads kind='labels'."
            )
        kinds += [adapter.kind] if adapter.kind is not None else []
    if len(set(kinds)) > 1:
        raise ValueError(
            f"Learner: expected the same kind of targets in both loaders, got {kinds[0]!r} to train and {kinds[1]!r} "
            "to validate. Split one Samples."
        )
    return kinds[0] if kinds else None


_NO_TENSOR = {
    "none": (
        "samples without targets",
        "Give some: fa.Samples(paths, targets, classes). Views without labels are trained in a loop of your own.",
    ),
    "objects": ("boxes", "Train a model for these in a loop of your own: for x, y in loader."),
}


def outputs_for(samples: Samples) -> int:
    """How many outputs a model of these samples has: one for each class, label or number."""
    if samples.kind == "numbers":
        return int(np.prod(np.shape(samples.targets)[1:]))
    return len(samples.classes)


def _check_loader(name: str, loader: object) -> None:
    """Raise for what is often given instead of a loader."""
    got, advice = kind_of(loader), "Give a fa.ImageLoader, a DataLoader or a list of batches."
    if isinstance(loader, str | os.PathLike):
        advice = "Load it: samples = fa.Samples.from_folder(path), fa.ImageLoader(samples, …)."
    elif isinstance(loader, Samples):
        advice = "Load them: fa.ImageLoader(samples, …)."
    elif isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        advice = "It has images, not batches: DataLoader(dataset, batch_size=64)."
    elif isinstance(loader, nn.Module):
        got, advice = f"{got}, a model", "The order is Learner(train_loader, valid_loader, model)."
    elif hasattr(loader, "__iter__"):
        return
    raise TypeError(f"Learner: expected {name} to be a loader of batches, got {got}. {advice}")


def check_statistics(model: nn.Module, loaders: Mapping[str, Loader | None]) -> None:
    """Warn of loaders that normalise by other statistics than those which the model's pretrained weights want."""
    if not _is_pretrained(model):
        return
    wanted = model_statistics(model)
    if len(wanted.mean) != 3:
        return
    others: dict[Statistics, list[str]] = {}
    for name, loader in loaders.items():
        augment = LoaderAdapter(loader or []).augment
        if isinstance(augment, Augment):
            found = augment.normalize or Statistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
            if (torch.tensor(found) - torch.tensor(wanted)).abs().max() > SAME_STATISTICS:
                others.setdefault(found, []).append(name)
    for found, names in others.items():
        warnings.warn(
            f"Learner: expected {' and '.join(names)} to normalise as the model's weights want it, mean {wanted.mean} "
            f"and std {wanted.std}, got mean {found.mean} and std {found.std}. Give the augment normalize=model.",
            stacklevel=3,
        )


def _is_pretrained(model: nn.Module) -> bool:
    """Whether it says how to normalise and has learned something: biases of norms are zero before."""
    if not getattr(model, "pretrained_cfg", None) or getattr(model, "built_as", {}).get("pretrained") is False:
        return False
    norms = [module for module in model.modules() if isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm))]
    biases = [bias for norm in norms if (bias := getattr(norm, "bias", None)) is not None]
    return any(bool(bias.any()) for bias in biases if not bias.is_meta)
