"""`aug_transforms`: fastai's augmentations under fastai's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict, Unpack

import torch

from fastaug.augment.augment import Augment, Normalize, Operator
from fastaug.augment.operators import (
    ColorJitter,
    RandomDihedral,
    RandomHorizontalFlip,
    RandomPerspective,
    RandomResizedCrop,
    RandomRotation,
    RandomZoom,
)
from fastaug.warping.warp import Backend, Interpolation, Padding


class AugmentSettings(TypedDict, total=False):
    """What `aug_transforms` hands to `Augment` as it is."""

    interpolation: Interpolation
    padding: Padding
    normalize: Normalize | None
    dtype: torch.dtype
    backend: Backend
    keep_inside: bool


def aug_transforms(
    mult: float = 1.0,
    do_flip: bool = True,
    flip_vert: bool = False,
    max_rotate: float = 10.0,
    min_zoom: float = 1.0,
    max_zoom: float = 1.1,
    max_lighting: float = 0.2,
    max_warp: float = 0.2,
    p_affine: float = 0.75,
    p_lighting: float = 0.75,
    xtra_tfms: Sequence[Operator] = (),
    size: int | tuple[int, int] = 224,
    mode: Literal["bilinear", "nearest"] | None = None,
    pad_mode: Padding | None = None,
    align_corners: bool = False,
    batch: bool = False,
    min_scale: float = 1.0,
    **augment: Unpack[AugmentSettings],
) -> Augment:
    """fastai's `aug_transforms`, with its names, order and defaults, as one `Augment`.

    Args:
        mult: multiplies max_rotate, max_lighting and max_warp.
        do_flip, flip_vert: with probability 0.5 a left-right flip; with flip_vert one of the square's eight symmetries.
        max_rotate: degrees.
        min_zoom, max_zoom: magnification.
        max_lighting: brightness and contrast, each drawn by itself.
        max_warp: perspective.
        p_affine, p_lighting: probability of each geometric operator, and of brightness and contrast.
        xtra_tfms: more operators, after all others.
        size: of the output.
        mode, pad_mode: fastai's names of `interpolation` and `padding`; None: theirs or their defaults count.
        align_corners, batch: False, the only value that there is here; see Raises.
        min_scale: smallest area of the final random crop, as a share; 1 = no crop.
        augment: normalize, dtype, interpolation, padding, backend, keep_inside; see `Augment`.
    Raises:
        ValueError: align_corners=True, since pixels are squares with edges here; batch=True, since every image has its
            own draw; a mode that `fastaug.warp` does not have, such as "bicubic"; both names of one setting;
            max_lighting × mult of 1 or more.
    Differs from: fastai by a crop per image instead of one per batch, one interpolation instead of two, and lighting
        that is linear in the pixel instead of in its logit; both agree at mid-grey, in value and slope.
    Source: fastai 2.8.12, fastai/vision/augment.py.
    """
    _check_fastai_names(augment, mode, pad_mode, align_corners, batch)
    if mode is not None:
        augment["interpolation"] = mode
    if pad_mode is not None:
        augment["padding"] = pad_mode
    max_rotate, max_lighting, max_warp = max_rotate * mult, max_lighting * mult, max_warp * mult
    if not 0 <= max_lighting < 1:
        raise ValueError(
            f"aug_transforms: expected max_lighting times mult in [0, 1), got {max_lighting:g}. At 1 photos are black."
        )
    ops: list[Operator] = []
    if do_flip:
        ops.append(RandomDihedral(p=0.5) if flip_vert else RandomHorizontalFlip())
    if max_warp:
        ops.append(RandomPerspective(max_warp, p=p_affine))
    if max_rotate:
        ops.append(RandomRotation(max_rotate, p=p_affine))
    if min_zoom < 1 or max_zoom > 1:
        ops.append(RandomZoom((min_zoom, max_zoom), p=p_affine))
    if max_lighting:
        ops.append(ColorJitter(brightness=max_lighting, p=p_lighting))
        ops.append(ColorJitter(contrast=(1 - max_lighting, 1 / (1 - max_lighting)), p=p_lighting))
    if min_scale != 1:
        ops.append(RandomResizedCrop((min_scale, 1.0), (1.0, 1.0)))
    return Augment([*ops, *xtra_tfms], size, **augment)


def _check_fastai_names(
    augment: AugmentSettings, mode: str | None, pad_mode: str | None, align_corners: bool, batch: bool
) -> None:
    if align_corners:
        raise ValueError(
            "aug_transforms: expected align_corners=False, got True: a pixel is a square here, and (0, 0) the image's "
            "corner. Leave it out; the difference is a fraction of a pixel."
        )
    if batch:
        raise ValueError(
            "aug_transforms: expected batch=False, got True: every image has its own draw. Leave it out; to give a "
            "batch one draw, draw for one image and repeat its rows: params = augment.draw(1, size)[[0] * n]."
        )
    if mode is not None and mode not in ("bilinear", "nearest"):
        raise ValueError(
            f"aug_transforms: expected mode to be 'bilinear', 'nearest' or None, got {mode!r}. For the sharpest result "
            "leave it out: interpolation='antialias'."
        )
    for theirs, ours, value in (("mode", "interpolation", mode), ("pad_mode", "padding", pad_mode)):
        if value is not None and ours in augment:
            raise ValueError(
                f"aug_transforms: expected either {theirs} or {ours}, got both. They are the same setting."
            )
