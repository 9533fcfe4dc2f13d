"""Where a loader stands in its epochs, and what its state holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What must be the same for a state to be used at all; the rest of a loader's identity only in the middle of an epoch.
ALWAYS = ("seed", "samples", "targets_crc32")


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
        over = not self.named and self.delivered >= batches if self.resuming else self.delivered > 0
        if over:
            self.end(self.epoch)
        self.resuming = self.named = False

    def end(self, epoch: int) -> None:
        """Go on with the epoch after this one."""
        self.epoch, self.delivered = epoch + 1, 0

    def state(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """In plain numbers: batches delivered, not batches prefetched."""
        return {"epoch": self.epoch, "delivered": self.delivered, **identity}

    def resume(self, state: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        """Continue where `state` was taken.

        Raises:
            ValueError: a state of other samples, another seed, or, in the middle of an epoch, of other batches.
        """
        for name in identity if state["delivered"] else ALWAYS:
            if state[name] != identity[name]:
                raise ValueError(
                    f"ImageLoader: expected a state of {name} {identity[name]}, got one of {state[name]}. Make the "
                    f"loader as it was then{'' if name in ALWAYS else ', or go on from the start of an epoch'}."
                )
        self.epoch, self.delivered = int(state["epoch"]), int(state["delivered"])
        self.resuming, self.named = True, False
