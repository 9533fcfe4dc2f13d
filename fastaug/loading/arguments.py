"""What may be given to an ImageLoader: an error for everything else, before any file is looked at."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Sequence
from typing import get_args

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from fastaug.augment.augment import Augment, as_number
from fastaug.loading.options import DecoderName, ModeName, ResizeMethod, ScaleName
from fastaug.loading.quarantine import OnError
from fastaug.loading.targets import TargetOptions
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


def check_augment(augment: object, schedule: object, mode: str, listed: bool) -> None:
    """listed: whether it is one of several, given as views."""
    if not (augment is None or isinstance(augment, Augment)):
        raise TypeError(
            f"ImageLoader: expected augment as a fa.Augment or None, got {type(augment).__name__}. Make one of "
            "operators: fa.Augment([…], size=224)."
        )
    if not (schedule is None or callable(schedule)):
        raise TypeError(f"ImageLoader: expected schedule as a function of the epoch, got {schedule!r}.")
    if mode == "direct" and augment is None:
        raise ValueError("ImageLoader: mode='direct' needs an augment: without one there is nothing but the photos.")
    if listed and augment is None:
        raise ValueError("ImageLoader: expected an augment as the first of the views, got None. Make a loader without.")
    if schedule is not None and augment is None:
        raise ValueError("ImageLoader: schedule needs an augment, whose size it sets. Pass augment too.")


def several_augments(views: object, augment: object, schedule: object) -> list[Augment]:
    """One for each view."""
    found = list(views) if isinstance(views, Sequence) else []
    if not found or not all(isinstance(one, Augment) for one in found):
        raise TypeError(
            "ImageLoader: expected views as their number or a list of fa.Augments, one for each, got "
            f"{[type(one).__name__ for one in found] if found else repr(views)}."
        )
    if augment is not None or schedule is not None:
        name = "augment" if augment is not None else "schedule"
        raise ValueError(
            f"ImageLoader: expected no {name} beside views, of which each is an Augment with a size. Leave {name} out, "
            "or give the number of views."
        )
    return found


def check_channels(channels: int, augments: Sequence[Augment | None]) -> None:
    if channels not in (1, 3) or isinstance(channels, bool):
        raise ValueError(
            f"ImageLoader: expected channels of 3, RGB, or 1, grey, got {channels!r}. Files are decoded to RGB, a "
            "fourth channel is left out: read others with another library, and warp them with fa.warp, three at a time."
        )
    if channels == 3:
        return
    for augment in augments:
        normalize = None if augment is None else augment.normalize
        if normalize is not None and any(len(set(part)) > 1 for part in normalize):
            mean, std = (sum(part) / 3 for part in normalize)
            raise ValueError(
                "ImageLoader: expected one mean and one std for channels=1, got a normalize of three, "
                f"{tuple(map(tuple, normalize))}. Give the Augment normalize=(({mean:.3f},), ({std:.3f},)), or None."
            )


def sample_weights(
    weights: Sequence[float] | np.ndarray | Tensor | None, balance: str | None, samples: Samples
) -> np.ndarray | None:
    """float64 [N], by which samples are drawn; None: each comes once."""
    if balance is not None and (balance != "classes" or weights is not None or samples.kind != "class"):
        what = "no weights beside it" if weights is not None else f"a class for each sample, got {samples.kind!r}"
        what = what if balance == "classes" else f"'classes' or None, got {balance!r}"
        raise ValueError(f"ImageLoader: expected of balance: {what}. Give one weight for each sample as weights.")
    if balance is not None:
        _, number, counts = np.unique(np.asarray(samples.targets), return_inverse=True, return_counts=True)
        return np.asarray(1 / counts[number], np.float64)
    if weights is None:
        return None
    try:
        given = weights.detach().cpu().double() if isinstance(weights, Tensor) else weights
        found = np.asarray(given)
        found = found.astype(np.float64) if found.dtype.kind in "biuf" else np.empty((0, 0))
    except (TypeError, ValueError, RuntimeError):  # of numpy, and of torch for complex numbers
        found = np.empty((0, 0))
    if found.shape == (len(samples),):
        wrong = np.flatnonzero(~(np.isfinite(found) & (found >= 0)))
        got = f"{found[wrong[0]]} in row {wrong[0]}" if len(wrong) else "only 0"
        if not len(wrong) and found.any():
            return np.asarray(found / found.max())  # their sum is finite
    else:
        got = f"{list(found.shape)}" if found.ndim == 1 else kind_of(weights)
    raise ValueError(
        f"ImageLoader: expected weights of 0 or more, one for each of {len(samples)} samples, and not all 0, got "
        f"{got}. To leave a sample out give it 0."
    )


def check_choices(mode: str, on_error: str, decoder: str, scale: str, resize_method: str) -> None:
    for name, choice, choices in (
        ("mode", mode, get_args(ModeName)), ("on_error", on_error, get_args(OnError)),
        ("decoder", decoder, get_args(DecoderName)), ("scale", scale, get_args(ScaleName)),
        ("resize_method", resize_method, get_args(ResizeMethod)),
    ):  # fmt: skip
        if choice not in choices:
            allowed = " or ".join(map(repr, choices))
            raise ValueError(f"ImageLoader: expected {name} to be {allowed}, got {choice!r}.")


def check_targets(targets: object) -> None:
    if not (targets is None or isinstance(targets, TargetOptions)):
        raise TypeError(
            f"ImageLoader: expected targets as fa.TargetOptions, got {kind_of(targets)}. Masks, boxes and all others "
            "are the samples'; this says what becomes of them: fa.TargetOptions(fill=255)."
        )


def check_share(name: str, share: float) -> None:
    if not 0 <= as_number(share) <= 1:
        raise ValueError(f"ImageLoader: expected {name} between 0 and 1, got {share}.")


def checked_timeout(seconds: float | None) -> float | None:
    if seconds is not None and (isinstance(seconds, bool) or not 0 < as_number(seconds) < math.inf):
        raise ValueError(f"ImageLoader: expected read_timeout in seconds, more than 0, or None, got {seconds!r}.")
    return seconds


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
        raise TypeError(f"ImageLoader: expected {name} as a whole number, got {number!r}.") from None
    if least is not None and whole < least:
        raise ValueError(f"ImageLoader: expected {name} of at least {least}, got {whole}.")
    return whole


def checked_presize(presize: int | tuple[int, int], method: str) -> int | tuple[int, int]:
    """The side of a square, or (height, width), pixels."""
    if method == "torchvision" and isinstance(presize, Sequence):
        raise ValueError(
            f"ImageLoader: expected presize as one number with resize_method='torchvision', got {presize!r}: "
            "torchvision's Resize of (height, width) is resize_method='squish'."
        )
    given = presize if isinstance(presize, Sequence) else (presize, presize)
    try:
        height, width = map(operator.index, given)
    except (TypeError, ValueError):  # not whole, or not two
        raise TypeError(
            "ImageLoader: expected presize as a whole number, the side of a square, or as (height, width), pixels, got "
            f"{presize!r}."
        ) from None
    found = whole("presize", height), whole("presize", width)
    return found if isinstance(presize, Sequence) else height


def sides(presize: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width)."""
    return (presize, presize) if isinstance(presize, int) else presize


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
