"""Bad files stay out: a file that was bad once is not tried again. What the storage did not give is no bad file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from fastaug.loaded import ANY, TEXT, listed, shown, whole
from fastaug.samples.samples import Samples
from fastaug.samples.storage import StorageReason
from fastaug.text import printable

log = logging.getLogger("fastaug")

OnError = Literal["skip", "raise"]
# The share of bad files from which on there is something else wrong than files.
MAX_BAD_SHARE = 0.5
_SEE_TO_IT = "See to the disk, the network or the memory, and go on from the last state"


class BadFileError(ValueError):
    """A file that could not be read or decoded, with on_error="raise"; or too many of them."""


class StorageError(BadFileError):
    """The same where the files are not to blame but the disk, the network or the machine."""


class Quarantine:
    """The files of some samples that were bad, in the order of delivery; and those that the latest epoch has missed."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._reasons: dict[int, str] = {}  # by row of the samples
        self._missed: dict[int, str] = {}  # those of the latest epoch that the storage did not give

    def __contains__(self, row: int) -> bool:
        return row in self._reasons

    def listed(self) -> list[tuple[str, str]]:
        """(path, reason) of each."""
        return [(self._samples.paths[row], reason) for row, reason in self._reasons.items()]

    def missed(self) -> list[tuple[str, str]]:
        """(path, reason) of those that the storage did not give in the latest epoch."""
        return [(self._samples.paths[row], reason) for row, reason in self._missed.items()]

    def __len__(self) -> int:
        return len(self._reasons)

    def begin(self) -> None:
        """Another epoch: nothing is missed yet."""
        self._missed = {}

    def add(self, row: int, reason: str) -> None:
        """Note a bad file, or one that is missed. Each is logged once."""
        if row in self._reasons or row in self._missed:
            return
        path = printable(self._samples.paths[row])
        if isinstance(reason, StorageReason):
            self._missed[row] = printable(reason)
            log.warning("%s is missed in this epoch and tried again in the next: %s", path, self._missed[row])
        else:
            self._reasons[row] = printable(reason)
            log.warning("skipping %s: %s", path, self._reasons[row])

    def count(self, rows: np.ndarray) -> int:
        """How many of these are bad."""
        return int(np.isin(rows, list(self._reasons)).sum()) if self._reasons else 0

    def named(self, row: int, reason: str | None = None) -> str:
        """Path and reason, for people; None: the one that is noted."""
        reason = reason or self._reasons.get(row) or self._missed[row]
        return f"{printable(self._samples.paths[row])}: {printable(reason)}"

    def state(self) -> list[list[Any]]:
        """[row, path, reason] of each."""
        return [[row, self._samples.paths[row], reason] for row, reason in self._reasons.items()]

    def restore(self, state: Any, moved: bool = False) -> None:
        """Those of a state too, unless another file is in that row now.

        moved: the files are known to be the same, whatever their paths are.
        Raises:
            ValueError: no such state.
        """
        row = whole(0, len(self._samples) - 1)
        for entry in state if isinstance(state, list | tuple) else [state]:
            kinds = (row, TEXT, TEXT)
            if not (listed(ANY, 3).fits(entry) and all(k.fits(value) for k, value in zip(kinds, entry, strict=True))):
                got = f"[{', '.join(map(shown, entry[:3]))}]" if isinstance(entry, list | tuple) else shown(entry)
                raise ValueError(
                    f"ImageLoader: expected a state with quarantined as lists [{row.what}, path, reason], got {got}."
                )
        self._reasons |= {row: reason for row, path, reason in state if moved or self._samples.paths[row] == path}


class Tally:
    """How much of a rank's part of an epoch was not to be had, as far as it was delivered: who found it does not count.

    Args:
        part: rows of the samples, in the order of the epoch.
        done: of those, how many were delivered before a resumed epoch.
        on_error: with "raise" the first one is an error.
        max_share: of the part; more are an error after all.
    """

    def __init__(
        self, quarantine: Quarantine, part: np.ndarray, done: int, on_error: OnError, max_share: float
    ) -> None:
        self._quarantine, self._on_error = quarantine, on_error
        self._files, self._max_share = len(part), max_share
        self._bad, self._missed = quarantine.count(part[:done]), 0

    def add(self, rows: np.ndarray, bad: Mapping[int, str]) -> None:
        """Note what a batch met.

        Args:
            rows: of the samples, also those that were known to be bad.
            bad: row -> reason, of those that were not.
        Raises:
            BadFileError, StorageError: see `on_error` and `max_share`.
        """
        for row, reason in bad.items():
            if self._on_error == "raise":  # and not noted: in another epoch it is an error again
                self._raise_for(row, reason)
            self._quarantine.add(row, reason)
        if not bad and not len(self._quarantine):
            return
        for row in rows.tolist():
            if row in self._quarantine:
                self._bad += 1
            elif row in bad:
                self._missed += 1
            else:
                continue
            if self._bad + self._missed > self._max_share * self._files:
                self._raise_for_all(row)

    def _raise_for(self, row: int, reason: str) -> None:
        what = f"ImageLoader: could not load {self._quarantine.named(row, reason)}"
        if isinstance(reason, StorageReason):
            raise StorageError(f"{what}, which is not the file's fault. {_SEE_TO_IT}, or use on_error='skip'.")
        raise BadFileError(f"{what}. Remove it, or use on_error='skip'.")

    def _raise_for_all(self, row: int) -> None:
        most, found = f"ImageLoader: expected at most {self._max_share:.0%}", self._bad + self._missed
        got, last = f"got {found} of {self._files}", f"the last {self._quarantine.named(row)}"
        if self._bad <= self._max_share * self._files:
            raise StorageError(
                f"{most} files that cannot be loaded, {got}, {self._missed} of them because of the storage, {last}. "
                f"{_SEE_TO_IT}, or raise max_bad_share."
            )
        raise BadFileError(
            f"{most} bad files, {got}, {last}. If the storage is in order, clean the list with `fastaug check`, or "
            "raise max_bad_share."
        )


__all__ = ["MAX_BAD_SHARE", "BadFileError", "OnError", "Quarantine", "StorageError", "Tally"]
