"""What a training is at one moment, beside its model: random states; and what its file has to hold."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from fastaug.loaded import ANY, FINITE, NOTHING, NUMBER, TEXT, Kind, check, listed, named, shown, whole

_TENSOR = Kind("a tensor", lambda value: isinstance(value, Tensor))
_FILE = {
    "model": named(ANY),
    "buffers": named(_TENSOR),
    "optimizer": named(ANY),
    "scaler": named(NUMBER),
    "random": listed(named(ANY)),
    "epoch": whole(),
    "history": named(ANY),
    "seen": listed(whole()),
    "fit": whole(-1),
    "epochs": whole(),
    "done": whole(),
    "scheduler": named(ANY) | NOTHING,
    "loader": ANY,
}
_LATER = {"weights": listed(NUMBER), "still": listed(TEXT), "chosen": named(ANY)}  # not in files of earlier versions
_HISTORY = {
    "epochs": listed(named(NUMBER)),
    "losses": listed(NUMBER),
    "lrs": listed(listed(NUMBER)),
    "moms": listed(NUMBER),
}
_OF_SCHEDULES = ("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum")  # settings of the optimizer
_RANDOM = {"torch": _TENSOR, "cuda": listed(_TENSOR), "python": ANY, "numpy": ANY, "loader": _TENSOR | NOTHING}
_CHOSEN = {"base_lr": NUMBER, "frozen_epochs": whole()}
_CHOSEN_LATER = {"cycles": listed(whole(1)), "best": listed(named(NUMBER, int) | named(_TENSOR), 2)}


def check_file(state: Any) -> None:
    """That it holds what `Learner.save` writes, as far as that does not depend on the learner.

    Raises:
        ValueError: in one line.
    """
    if not isinstance(state, Mapping) or not {"model", "optimizer", "scaler", "seen", "random", "fit"} <= {*state}:
        raise ValueError(
            "load: expected a file that Learner.save wrote, got another. A bare state dict goes into "
            "classifier(weights=path)."
        )
    check("load", state, _FILE, _LATER)
    check("load", state["history"], _HISTORY, {"ends": listed(whole())}, "history.")
    for one in state["random"] or [None]:
        check("load", one, _RANDOM, None, "random.")
    if state.get("chosen"):
        check("load", state["chosen"], _CHOSEN, _CHOSEN_LATER, "chosen.")
    if state["done"] > state["epochs"]:
        raise ValueError(f"load: expected done of at most {state['epochs']} epochs, got {state['done']}.")


def alike(found: Any, own: Any) -> bool:
    """Whether a value of a file may stand in the place of this one: of its type, lists of its length, all of its names,
    finite where it is a number, the same where it is text."""
    if isinstance(own, Mapping):
        same = isinstance(found, Mapping) and found.keys() >= own.keys()
        return same and all(alike(found[name], own[name]) for name in own)
    if isinstance(own, list | tuple):
        same = isinstance(found, list | tuple) and len(found) == len(own)
        return same and all(map(alike, found, own))
    if own is None or isinstance(own, bool):
        return found is None or isinstance(found, bool)
    if isinstance(own, int | float):
        return FINITE.fits(found) or (isinstance(found, Tensor) and found.numel() == 1)
    return found == own if isinstance(own, str) else not isinstance(found, str)


def check_optimizer(saved: Mapping[str, Any], opt: Optimizer) -> None:
    """That what the file has for each parameter fits it.

    Raises:
        ValueError: in one line.
    """
    torchs = type(opt).__module__.startswith("torch.optim")  # others keep what they like, beside a few numbers
    for group, own in zip(saved["param_groups"], opt.state_dict()["param_groups"], strict=True):
        names = [name for name in own if name in group and (torchs or isinstance(own[name], int | float | tuple))]
        if wrong := [name for name in names if not alike(group[name], own[name])]:
            got, wanted = shown(group[wrong[0]]), shown(own[wrong[0]])
            raise ValueError(f"load: expected optimizer.{wrong[0]} such as {wanted}, got {got}.")
        check("load", group, {}, dict.fromkeys(_OF_SCHEDULES, NUMBER), "optimizer.")
    if torchs:
        check("load", saved, {"state": named(named(ANY), int)}, None, "optimizer.")
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    parameters = dict(zip(numbers, (p for group in opt.param_groups for p in group["params"]), strict=True))
    if not {number for number in saved["state"] if isinstance(number, int)} <= {*parameters}:
        raise ValueError("load: expected optimizer.state of parameters that there are, got one of another.")
    if not torchs:
        return
    on = {number: tuple(map(bool, group.values())) for group in saved["param_groups"] for number in group["params"]}
    # What is kept of matrices and of others: the same in groups of the same settings, as far as these are on or off.
    kinds: dict[tuple[Any, bool], set[tuple[str, type]]] = {}
    for number, values in saved["state"].items():
        shape = parameters[number].shape
        kept = {(name, type(value)) for name, value in values.items()}
        if kept != kinds.setdefault((on[number], len(shape) > 1), kept):
            raise ValueError("load: expected the same of each parameter in optimizer.state, got others.")
        for name, value in values.items():
            if not (_fits(value.shape, shape) if isinstance(value, Tensor) else NUMBER.fits(value) or value is None):
                got = f"one of {list(value.shape)}" if isinstance(value, Tensor) else shown(value)
                raise ValueError(f"load: expected optimizer.state.{name} for a parameter of {list(shape)}, got {got}.")


def _fits(shape: torch.Size, wanted: torch.Size) -> bool:
    """Whether it is that of a parameter, or of what is kept for its rows or columns, or of a number."""
    return not shape or (len(shape) == len(wanted) and all(a in (1, b) for a, b in zip(shape, wanted, strict=True)))


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
