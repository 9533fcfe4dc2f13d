"""What a training is at one moment, beside its model: random states."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_state(own: torch.Generator | None = None) -> dict[str, Any]:
    """Every generator's state: torch's on all devices, Python's, NumPy's global one, and the loader's own if any."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (somebody's augmentation may draw from it)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "loader": own.get_state() if own is not None else None,
    }


def set_random_state(state: dict[str, Any], own: torch.Generator | None = None) -> None:
    """Go back to where `random_state` was called."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]][: torch.cuda.device_count()])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    if state["loader"] is not None:
        if own is None:
            raise ValueError(
                "load: expected a loader with a generator, as there was when it was saved, got one without."
            )
        own.set_state(state["loader"].cpu())
