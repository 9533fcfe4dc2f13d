"""fastaug: image files to augmented training batches, with one interpolation and one GPU kernel per batch."""

from fastaug.color import IMAGENET, INCEPTION
from fastaug.loading.loader import BadFileError, BatchInfo, ImageLoader
from fastaug.samples import Samples
from fastaug.training import Learner, classifier, slice_rates
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

__version__ = "0.1.0"

__all__ = [
    "IMAGENET",
    "INCEPTION",
    "Augment",
    "BadFileError",
    "BatchInfo",
    "ColorJitter",
    "ImageLoader",
    "Learner",
    "Params",
    "RandomDihedral",
    "RandomHorizontalFlip",
    "RandomPerspective",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "RandomZoom",
    "Samples",
    "aug_transforms",
    "classifier",
    "slice_rates",
    "warp",
]
