"""What `import fastaug as fa` offers, and what it costs."""

import subprocess
import sys

import fastaug as fa

# A name that is added, renamed or removed here is a change for everybody who uses the package: say so in CHANGELOG.md.
NAMES = [
    *("IMAGENET", "INCEPTION", "Augment", "BadFileError", "BatchInfo", "ColorJitter", "ImageLoader", "Learner"),
    *("Params", "RandomDihedral", "RandomHorizontalFlip", "RandomPerspective", "RandomResizedCrop", "RandomRotation"),
    *("RandomVerticalFlip", "RandomZoom", "Samples", "aug_transforms", "classifier", "slice_rates", "warp"),
    *("RandomErasing", "inverse_matrix", "transform_boxes", "transform_points", "warp_masks"),
    *("BinaryCrossEntropy", "Interpretation", "KeepBest", "Operator", "Predictor", "load_classifier"),
]


def test_public_names() -> None:
    assert sorted(fa.__all__) == sorted(NAMES)
    assert all(hasattr(fa, name) for name in NAMES)


def test_optional_and_heavy_packages_are_imported_when_needed() -> None:
    program = (
        "import sys, fastaug; print([n for n in ('nvidia.dali', 'numba', 'timm', 'torchmetrics') if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
