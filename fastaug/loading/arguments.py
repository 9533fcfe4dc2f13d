"""What may be given to an ImageLoader: an error for everything else, before any file is looked at."""

from __future__ import annotations

import operator
import os
from typing import get_args

from torch.utils.data import Dataset

from fastaug.augment.augment import Augment, as_number
from fastaug.loading.options import DecoderName, ModeName, ScaleName
from fastaug.loading.quarantine import OnError
from fastaug.samples.samples import Samples
from fastaug.text import kind_of


def check_samples(samples: object) -> None:
    if isinstance(samples, Samples):
        return
    advice = "fa.Samples(paths, targets, classes), or one of its from_… functions."
    if isinstance(samples, str | os.PathLike):
        advice = f"fa.Samples.from_folder({os.fspath(samples)!r})."
    elif isinstance(samples, Dataset):
        advice = "fa.Samples.from_dataset(dataset), of one that has .samples and .classes."
    raise TypeError(f"ImageLoader: expected samples as fa.Samples, got {kind_of(samples)}. Make them: {advice}")


def check_augment(augment: object, schedule: object) -> None:
    if not (augment is None or isinstance(augment, Augment)):
        raise TypeError(
            f"ImageLoader: expected augment as a fa.Augment or None, got {type(augment).__name__}. Make one of "
            "operators: fa.Augment([…], size=224)."
        )
    if not (schedule is None or callable(schedule)):
        raise TypeError(f"ImageLoader: expected schedule as a function of the epoch, got {schedule!r}.")
    if schedule is not None and augment is None:
        raise ValueError("ImageLoader: schedule needs an augment, whose size it sets. Pass augment too.")


def check_choices(mode: str, on_error: str, decoder: str, scale: str) -> None:
    for name, choice, choices in (
        ("mode", mode, get_args(ModeName)), ("on_error", on_error, get_args(OnError)),
        ("decoder", decoder, get_args(DecoderName)), ("scale", scale, get_args(ScaleName)),
    ):  # fmt: skip
        if choice not in choices:
            allowed = " or ".join(map(repr, choices))
            raise ValueError(f"ImageLoader: expected {name} to be {allowed}, got {choice!r}.")


def check_share(name: str, share: float) -> None:
    if not 0 <= as_number(share) <= 1:
        raise ValueError(f"ImageLoader: expected {name} between 0 and 1, got {share}.")


def checked_shard(shard: tuple[int, int]) -> tuple[int, int]:
    try:
        rank, world = map(operator.index, shard)
    except (TypeError, ValueError):
        rank = world = -1
    if not 0 <= rank < world:
        raise ValueError(f"ImageLoader: expected shard=(rank, world) with 0 <= rank < world, got {shard}.")
    return rank, world


def whole(name: str, number: int, least: int | None = 1) -> int:
    """A whole number, of numpy's too."""
    try:
        whole = operator.index(number)
    except TypeError:
        what = " It is the side of a square, pixels." if name == "presize" else ""
        raise TypeError(f"ImageLoader: expected {name} as a whole number, got {number!r}.{what}") from None
    if least is not None and whole < least:
        raise ValueError(f"ImageLoader: expected {name} of at least {least}, got {whole}.")
    return whole


def check_cache(cache: object) -> None:
    if not (cache is None or (isinstance(cache, str | os.PathLike) and os.fspath(cache))):
        raise TypeError(
            f"ImageLoader: expected cache as 'memory', 'device', a folder's path or None, got {cache!r}. Name a folder "
            "that may be made."
        )


def of_a_cache(name: str, number: int | None, cache: object) -> int | None:
    """A whole number, if it is given; without a cache it may not be."""
    if number is not None and cache is None:
        raise ValueError(f"ImageLoader: {name} needs a cache, got cache=None. Give one, or leave {name} out.")
    return None if number is None else whole(name, number)
