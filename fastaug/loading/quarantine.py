"""Bad files stay out: a file that was bad once is not tried again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from fastaug.loaded import ANY, TEXT, listed, shown, whole
from fastaug.samples.samples import Samples
from fastaug.text import printable

log = logging.getLogger("fastaug")

OnError = Literal["skip", "raise"]
# The share of bad files from which on there is something else wrong than files.
MAX_BAD_SHARE = 0.5


class BadFileError(ValueError):
    """A file that could not be read or decoded, with on_error="raise"."""


class Quarantine:
    """The files of some samples that were bad, in the order of delivery."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._reasons: dict[int, str] = {}  # by row of the samples

    def __contains__(self, row: int) -> bool:
        return row in self._reasons

    def listed(self) -> list[tuple[str, str]]:
        """(path, reason) of each."""
        return [(self._samples.paths[row], reason) for row, reason in self._reasons.items()]

    def __len__(self) -> int:
        return len(self._reasons)

    def add(self, bad: Mapping[int, str], on_error: OnError, max_share: float, files: int, known: int = 0) -> None:
        """Note what a batch met.

        Args:
            bad: row of the samples -> reason.
            on_error: with "raise" the first one is an error.
            max_share: of `files`; more bad ones are an error after all.
            known: how many there were before the epoch: ranks have other files in each, and meet all in the end.
        """
        for row, reason in bad.items():
            path, reason = printable(self._samples.paths[row]), printable(reason)
            if on_error == "raise":
                raise BadFileError(f"ImageLoader: could not load {path}: {reason}. Remove it, or use on_error='skip'.")
            if row not in self._reasons:
                self._reasons[row] = reason
                log.warning("skipping %s: %s", path, reason)
            if len(self) - known > max_share * files:
                raise BadFileError(
                    f"ImageLoader: expected at most {max_share:.0%} bad files, got {len(self) - known} of "
                    f"{files}, the last {path}: {reason}. If the storage is in order, clean the list with "
                    "`fastaug check`, or raise max_bad_share."
                )

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
