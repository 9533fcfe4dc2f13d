"""fastaug: image files to augmented training batches, with one interpolation and one GPU kernel per batch."""

import importlib
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
    from fastaug.inference import Predictor, load_classifier
    from fastaug.models import classifier
    from fastaug.training import BinaryCrossEntropy, Interpretation, KeepBest, Learner, slice_rates

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
    "Predictor",
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
    "load_classifier",
    "slice_rates",
    "transform_boxes",
    "transform_points",
    "warp",
    "warp_masks",
]


# Imported when they are first used: torchvision and torchmetrics take seconds.
_LATER = {"Predictor": "inference", "load_classifier": "inference", "classifier": "models"}
_LATER |= dict.fromkeys(("BinaryCrossEntropy", "Interpretation", "KeepBest", "Learner", "slice_rates"), "training")


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"fastaug.{_LATER[name]}"), name)
    raise AttributeError(f"module 'fastaug' has no attribute {name!r}")
