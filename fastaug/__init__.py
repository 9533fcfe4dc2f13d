"""fastaug: image files to augmented training batches, with one interpolation and one GPU kernel per batch."""

from fastaug.color import IMAGENET, INCEPTION
from fastaug.transforms import (
    Augment,
    ColorJitter,
    Params,
    RandomDihedral,
    RandomHorizontalFlip,
    RandomPerspective,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    RandomZoom,
    aug_transforms,
)
from fastaug.warp import warp

__all__ = [
    "IMAGENET",
    "INCEPTION",
    "Augment",
    "ColorJitter",
    "Params",
    "RandomDihedral",
    "RandomHorizontalFlip",
    "RandomPerspective",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "RandomZoom",
    "aug_transforms",
    "warp",
]
