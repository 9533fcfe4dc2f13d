"""What can be trained on: whatever yields batches and has a length. What else it may know or do is asked here alone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from fastaug.augment.augment import Augment


class Loader(Protocol):
    """Batches (images, targets, ...), and how many: an ImageLoader, torch's DataLoader, a list."""

    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class LoaderAdapter:
    """The trainer's questions to a loader, with an answer for one that does not know."""

    loader: Loader

    def _find(self, *names: str, default: Any = None) -> Any:
        """The attribute of the attribute … of the loader."""
        found: Any = self.loader
        for name in names:
            found = getattr(found, name, None)
        return default if found is None else found

    def set_epoch(self, epoch: int) -> None:
        self._find("set_epoch", default=lambda epoch: None)(epoch)

    @property
    def has_position(self) -> bool:
        return self._find("state_dict") is not None

    def position(self) -> dict[str, Any] | None:
        """Where it stands, for `go_to`; None: it does not know."""
        position: dict[str, Any] | None = self._find("state_dict", default=lambda: None)()
        return position

    def go_to(self, position: dict[str, Any] | None) -> None:
        if position is not None:
            self._find("load_state_dict", default=lambda position: None)(position)

    @property
    def generator(self) -> torch.Generator | None:
        """Torch's, if it draws from one of its own."""
        own = self._find("generator")
        return own if isinstance(own, torch.Generator) else None

    @property
    def augment(self) -> Augment | None:
        found: Augment | None = self._find("augment")
        return found

    @property
    def normalize(self) -> tuple[Sequence[float], Sequence[float]] | None:
        found: tuple[Sequence[float], Sequence[float]] | None = self._find("augment", "normalize")
        return found

    @property
    def classes(self) -> list[str]:
        return list(self._find("samples", "classes", default=()))

    @property
    def paths(self) -> Sequence[str]:
        found: Sequence[str] = self._find("samples", "paths", default=())
        return found

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class."""
        return dict(self._find("samples", "counts", default=dict)())

    def copy(self) -> Loader:
        """One whose epoch can be set while the loader itself stays where it is."""
        if self.augment is None:
            return copy.copy(self.loader)
        return self._copy_with("augment", copy.deepcopy(self.augment))  # a schedule sets its size

    def with_rows(self) -> Loader:
        """One that also yields, as an ImageLoader can, which rows of the samples the images are."""
        return self.loader if self._find("return_info") is None else self._copy_with("return_info", True)

    def _copy_with(self, name: str, value: object) -> Loader:
        copied = copy.copy(self.loader)
        setattr(copied, name, value)
        return copied


def rows_of(info: object) -> torch.Tensor | None:
    """The rows of the samples, from the third part of a batch of `with_rows`."""
    rows: torch.Tensor | None = getattr(info, "indices", None)
    return rows


def check_loader(name: str, loader: Loader) -> None:
    """That it has batches.

    Raises:
        TypeError: no length. ValueError: no batches.
    """
    if not hasattr(loader, "__len__"):
        raise TypeError(
            f"Learner: expected {name} to have a length, got {type(loader).__name__} without one. "
            "One cycle needs the number of batches: give a loader or a list."
        )
    if not len(loader):
        raise ValueError(
            f"Learner: expected {name} to have batches, got none. "
            "Give more images, a smaller batch_size or drop_last=False."
        )


def shared_classes(train_loader: Loader, valid_loader: Loader | None) -> list[str]:
    """The classes that both loaders' samples have, as far as they tell; warns of those with one image or none to train.

    Raises:
        ValueError: they differ.
    """
    few = [f"{name} ({count})" for name, count in LoaderAdapter(train_loader).counts.items() if count < 2]
    if few:
        warnings.warn(
            f"Learner: expected two images or more of each class to train, got fewer of {len(few)}: "
            f"{', '.join(few[:5] + ['…'] * (len(few) > 5))}. Add images or leave the classes out.",
            stacklevel=4,
        )
    known, other = (LoaderAdapter(loader or []).classes for loader in (train_loader, valid_loader))
    if known and other and known != other:
        raise ValueError(
            f"Learner: expected the same classes in both loaders, got {len(known)} ({', '.join(known[:3])}, …) and "
            f"{len(other)} ({', '.join(other[:3])}, …). A target would mean two things: split one Samples."
        )
    return known or other


__all__ = ["Loader", "LoaderAdapter", "check_loader", "rows_of", "shared_classes"]
