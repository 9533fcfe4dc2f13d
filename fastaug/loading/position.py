"""Where a loader stands in its epochs, and what its state holds."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastaug.loaded import NUMBER, TEXT, TRUTH, check, shown, whole
from fastaug.loading.order import batch_count
from fastaug.samples.sources import MemberPaths
from fastaug.samples.sources import names_crc32 as text_crc32

_PLAIN = NUMBER | TRUTH | TEXT
# What must be the same for a state to be used at all; the rest of a loader's identity only in the middle of an epoch.
ALWAYS = ("seed", "samples", "targets_crc32", "names_crc32")
# What states of earlier versions lack, and what it was then; None: not known, and looked at without.
LATER = {"names_crc32": None, "weights_crc32": 0, "repeats": 1}


@dataclass
class Position:
    """Epoch of the next iteration, and how many of its batches were delivered already.

    Attributes:
        resuming: whether the next iteration continues that epoch, as after `resume`.
        named: whether `set_epoch` asked for that epoch, even if nothing of it is left.
    """

    epoch: int = 0
    delivered: int = 0
    resuming: bool = False
    named: bool = False

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration this epoch, from its start, or from where a loaded state stands in it."""
        if not self.resuming or epoch != self.epoch:
            self.epoch, self.delivered, self.resuming = int(epoch), 0, False
        self.named = True

    def begin(self, batches: int) -> None:
        """Decide which epoch of so many batches this iteration is."""
        # Over is an epoch that was left early, and one of which a loaded state has all batches: those who count them do
        # not ask for the end, so their state is from before it.
        over = not self.named and 0 < batches <= self.delivered if self.resuming else self.delivered > 0
        if over:
            self.end(self.epoch)
        self.resuming = self.named = False

    def end(self, epoch: int) -> None:
        """Go on with the epoch after this one."""
        self.epoch, self.delivered = epoch + 1, 0

    def state(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """In plain numbers: batches delivered, not batches prefetched."""
        return {"epoch": self.epoch, "delivered": self.delivered, **identity}

    def resume(self, epoch: int, delivered: int) -> None:
        """Continue there, as `check_state` has it of a state."""
        self.epoch, self.delivered = epoch, delivered
        self.resuming, self.named = True, False


def check_state(state: Any, identity: Mapping[str, Any], batches: int) -> tuple[int, int]:
    """Where a loader continues that gets this state: the epoch, and how many of its batches were delivered.

    Args:
        batches: of an epoch of that loader.
    Raises:
        ValueError: a state of other samples, another seed, or, in the middle of an epoch, of other batches; no state.
    """
    needed = {"epoch", "delivered", "quarantined", *identity} - {*LATER}
    if not isinstance(state, Mapping) or not needed <= set(state):
        got = shown(state) if not isinstance(state, Mapping) else f"one without {', '.join(sorted(needed - {*state}))}"
        raise ValueError(f"ImageLoader: expected a state that state_dict() returned, got {got}. Give the loader's own.")
    plain = {name: _PLAIN for name in identity if name in state}
    check("ImageLoader", state, {"epoch": whole(), "delivered": whole(), **plain}, None, "a state with ")
    over = state["delivered"] == _batches(state) > 0  # of other batches than those that come now
    for name in identity if state["delivered"] and not over else ALWAYS:
        if (name not in state and LATER[name] is None) or state.get(name, LATER.get(name)) == identity[name]:
            continue
        if name == "names_crc32":
            raise ValueError(
                "ImageLoader: expected a state of these files in this order, got one of others: their names below "
                "the folder that holds them all differ. Make the loader of the same files, wherever they lie."
            )
        raise ValueError(
            f"ImageLoader: expected a state of {name} {identity[name]}, got one of {shown(state.get(name))}. Make the "
            f"loader as it was then{'' if name in ALWAYS else ', or go on from the start of an epoch'}."
        )
    if over:
        return state["epoch"], batches
    if state["delivered"] > batches:
        raise ValueError(
            f"ImageLoader: expected a state with at most {batches} batches delivered, got {state['delivered']}. Give "
            "the loader's own."
        )
    return state["epoch"], state["delivered"]


def _batches(state: Mapping[str, Any]) -> int:
    """Of an epoch of the loader whose state this is; 0: it does not say."""
    samples, ranks, batch_size, repeats = (
        state.get(name, LATER.get(name)) for name in ("samples", "ranks", "batch_size", "repeats")
    )
    training, drop_last = bool(state["training"]), bool(state["drop_last"])
    photos = 0
    if all(isinstance(number, int) and number > 0 for number in (samples, ranks, batch_size, repeats)):
        photos = batch_size // (repeats if training else 1)
    return batch_count(samples, ranks, photos, training, drop_last) if photos else 0


def names_crc32(paths: Sequence[str]) -> int:
    """A checksum of the files' names in their order, below the folder that holds them all: they may move together.

    Of members of archives, the archives' and their own; where in the archive they lie does not count.
    """
    if not isinstance(paths, MemberPaths):
        return text_crc32(paths)
    columns = paths.columns()
    used, first, number = np.unique(columns["archive"], return_index=True, return_inverse=True)
    order = np.argsort(first)  # archives in the order in which they are met
    crc = text_crc32([paths.archives[i] for i in used[order]])
    for column in (np.argsort(order)[number], columns["ends"]):
        crc = zlib.crc32(column.astype("<i8").data, crc)
    return zlib.crc32(columns["names"].data, crc)
