"""fastaug: image files to augmented training batches, with one interpolation and one GPU kernel per batch."""

from typing import TYPE_CHECKING, Any

from fastaug.color import IMAGENET, INCEPTION
from fastaug.loading.loader import BadFileError, BatchInfo, ImageLoader
from fastaug.samples import Samples
from fastaug.targets import inverse_matrix, transform_boxes, transform_points, warp_masks
from fastaug.transforms import (
    Augment,
    ColorJitter,
    Params,
    RandomDihedral,
    RandomErasing,
    RandomHorizontalFlip,
    RandomPerspective,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    RandomZoom,
    aug_transforms,
)
from fastaug.warp import warp

if TYPE_CHECKING:
    from fastaug.training import BinaryCrossEntropy, Interpretation, KeepBest, Learner, classifier, slice_rates

__version__ = "0.1.0"

__all__ = [
    "IMAGENET",
    "INCEPTION",
    "Augment",
    "BadFileError",
    "BatchInfo",
    "BinaryCrossEntropy",
    "ColorJitter",
    "ImageLoader",
    "Interpretation",
    "KeepBest",
    "Learner",
    "Params",
    "RandomDihedral",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomPerspective",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "RandomZoom",
    "Samples",
    "aug_transforms",
    "classifier",
    "inverse_matrix",
    "slice_rates",
    "transform_boxes",
    "transform_points",
    "warp",
    "warp_masks",
]


def __getattr__(name: str) -> Any:
    """The trainer is imported when it is first used: torchvision and torchmetrics take seconds."""
    if name in ("BinaryCrossEntropy", "Interpretation", "KeepBest", "Learner", "classifier", "slice_rates"):
        from fastaug import training

        return getattr(training, name)
    raise AttributeError(f"module 'fastaug' has no attribute {name!r}")
