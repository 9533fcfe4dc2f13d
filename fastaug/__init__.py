"""fastaug: image files to augmented training batches, with one interpolation and one GPU kernel per batch."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastaug.augment.augment import Augment as Augment
    from fastaug.augment.augment import Operator as Operator
    from fastaug.augment.augment import Params as Params
    from fastaug.augment.color import IMAGENET as IMAGENET
    from fastaug.augment.color import INCEPTION as INCEPTION
    from fastaug.augment.fastai_names import aug_transforms as aug_transforms
    from fastaug.augment.operators import CenterCrop as CenterCrop
    from fastaug.augment.operators import ColorJitter as ColorJitter
    from fastaug.augment.operators import RandomDihedral as RandomDihedral
    from fastaug.augment.operators import RandomErasing as RandomErasing
    from fastaug.augment.operators import RandomHorizontalFlip as RandomHorizontalFlip
    from fastaug.augment.operators import RandomPerspective as RandomPerspective
    from fastaug.augment.operators import RandomResizedCrop as RandomResizedCrop
    from fastaug.augment.operators import RandomRotation as RandomRotation
    from fastaug.augment.operators import RandomVerticalFlip as RandomVerticalFlip
    from fastaug.augment.operators import RandomZoom as RandomZoom
    from fastaug.augment.targets import inverse_matrix as inverse_matrix
    from fastaug.augment.targets import swap_pairs as swap_pairs
    from fastaug.augment.targets import transform_boxes as transform_boxes
    from fastaug.augment.targets import transform_points as transform_points
    from fastaug.augment.targets import warp_masks as warp_masks
    from fastaug.loading.loader import BadFileError as BadFileError
    from fastaug.loading.loader import BatchInfo as BatchInfo
    from fastaug.loading.loader import ImageLoader as ImageLoader
    from fastaug.loading.loader import StorageError as StorageError
    from fastaug.loading.targets import TargetOptions as TargetOptions
    from fastaug.samples.samples import Samples as Samples
    from fastaug.training.callbacks import KeepBest as KeepBest
    from fastaug.training.inference import Predictor as Predictor
    from fastaug.training.inference import load_classifier as load_classifier
    from fastaug.training.interpretation import Interpretation as Interpretation
    from fastaug.training.learner import Learner as Learner
    from fastaug.training.losses import BinaryCrossEntropy as BinaryCrossEntropy
    from fastaug.training.models import classifier as classifier
    from fastaug.training.rates import slice_rates as slice_rates
    from fastaug.warping.warp import warp as warp

__version__ = "0.1.0"

# The public names and where they live. Each is imported when it is first used: torch alone takes a second.
_NAMES = {
    "augment.augment": ("Augment", "Operator", "Params"),
    "augment.color": ("IMAGENET", "INCEPTION"),
    "augment.fastai_names": ("aug_transforms",),
    "augment.operators": (
        *("CenterCrop", "ColorJitter", "RandomDihedral", "RandomErasing", "RandomHorizontalFlip", "RandomPerspective"),
        *("RandomResizedCrop", "RandomRotation", "RandomVerticalFlip", "RandomZoom"),
    ),
    "augment.targets": ("inverse_matrix", "swap_pairs", "transform_boxes", "transform_points", "warp_masks"),
    "loading.loader": ("BadFileError", "BatchInfo", "ImageLoader", "StorageError"),
    "loading.targets": ("TargetOptions",),
    "samples.samples": ("Samples",),
    "training.callbacks": ("KeepBest",),
    "training.inference": ("Predictor", "load_classifier"),
    "training.interpretation": ("Interpretation",),
    "training.learner": ("Learner",),
    "training.losses": ("BinaryCrossEntropy",),
    "training.models": ("classifier",),
    "training.rates": ("slice_rates",),
    "warping.warp": ("warp",),
}
_HOME = {name: f"fastaug.{module}" for module, names in _NAMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastaug' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    """For completion: the public names, without what this file imports for itself."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
