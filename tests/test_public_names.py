"""What `import fastaug as fa` offers, and what it costs."""

import fastaug as fa
from tests.factories import run_python

# A name that is added, renamed or removed here is a change for everybody who uses the package: say so in CHANGELOG.md.
NAMES = [
    *("IMAGENET", "INCEPTION", "Augment", "BadFileError", "BatchInfo", "ColorJitter", "ImageLoader", "Learner"),
    *("Params", "RandomDihedral", "RandomHorizontalFlip", "RandomPerspective", "RandomResizedCrop", "RandomRotation"),
    *("RandomVerticalFlip", "RandomZoom", "Samples", "aug_transforms", "classifier", "slice_rates", "warp"),
    *("RandomErasing", "inverse_matrix", "transform_boxes", "transform_points", "warp_masks"),
    *("CenterCrop", "StorageError", "TargetOptions", "swap_pairs"),
    *("BinaryCrossEntropy", "Interpretation", "KeepBest", "Operator", "Predictor", "load_classifier"),
]


def test_public_names() -> None:
    assert sorted(fa.__all__) == sorted(NAMES)
    assert all(hasattr(fa, name) for name in NAMES)


def test_optional_and_heavy_packages_are_imported_when_needed() -> None:
    program = (
        "import sys, fastaug; fastaug.aug_transforms, fastaug.ImageLoader, fastaug.Samples; "
        "print([n for n in ('nvidia.dali', 'numba', 'timm', 'torchmetrics') if n in sys.modules])"
    )
    assert run_python(program).strip() == "[]"


def test_the_warp_is_a_function_and_its_room_has_another_name() -> None:
    """In a fresh process, whatever is imported first."""
    program = "import fastaug.warping.cpu as c, fastaug as fa; print(c.__name__, callable(fa.warp), fa.warp.__module__)"
    assert run_python(program).split() == ["fastaug.warping.cpu", "True", "fastaug.warping.warp"]


def test_importing_the_package_imports_nothing_else() -> None:
    program = "import sys, fastaug; print([n for n in ('torch', 'numpy', 'kornia') if n in sys.modules], dir(fastaug))"
    printed = run_python(program)
    assert printed.startswith("[] ")
    assert all(f"'{name}'" in printed for name in NAMES)
