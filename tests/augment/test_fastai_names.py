"""fastai's aug_transforms and ours: the same meaning, by fastai's own code; and what differs, by how much."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import fastaug as fa
from fastaug.augment import geometry
from fastaug.augment.augment import Operator
from tests.compare import assert_images_close, photo

# Warnings of the libraries about each other.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(fastai|fastcore|fasttransform|plum|torch)"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning"),
]
SIDE = 64


@pytest.fixture(scope="module")
def theirs() -> Any:
    from fastai.vision import augment

    return augment


def batch(n: int = 4) -> Tensor:
    return (photo("astronaut", SIDE, SIDE).permute(2, 0, 1) / 255).expand(n, -1, -1, -1).contiguous()


def applied(transform: Any, images: Tensor) -> Tensor:
    """What one of fastai's batch transforms makes of images."""
    from fastai.torch_core import TensorImage

    return torch.as_tensor(transform(TensorImage(images.clone()), split_idx=0)).as_subclass(Tensor)


def ours(op: Operator, images: Tensor, size: int = SIDE, **drawn: Tensor) -> Tensor:
    """What the operator makes of images with these parameters, by a bilinear warp as fastai's."""
    augment = fa.Augment([op], size, interpolation="bilinear", normalize=None)
    named = {key: torch.as_tensor(value) if key == "flipped" else torch.as_tensor(value).double()
             for key, value in drawn.items()}  # fmt: skip
    return augment.apply(images, augment.compose({type(op).__name__: named}, len(images), (SIDE, SIDE)))


DEGREES, ZOOM, X, Y = [10.0, -7.0, 45.0, 180.0], [1.1, 1.5, 0.8, 1.0], [0.2, 1.0, 0.5, 0.0], [0.7, 0.0, 0.5, 0.3]
TILT_X, TILT_Y = [0.2, -0.2, 0.0, 0.1], [0.0, 0.15, -0.2, 0.05]


def cases(theirs: Any, align_corners: bool) -> dict[str, tuple[Any, Operator, dict[str, Any]]]:
    """By name: fastai's transform and our operator, both with the same draws."""
    flat = {"align_corners": align_corners, "p": 1.0}

    def drawn(values: list[float]) -> Any:
        return lambda x: torch.tensor(values)

    return {
        "rotate": (
            theirs.Rotate(draw=drawn([-degrees for degrees in DEGREES]), **flat),  # clockwise there
            fa.RandomRotation(180), {"degrees": DEGREES},
        ),
        "zoom": (
            theirs.Zoom(draw=drawn(ZOOM), draw_x=drawn(X), draw_y=drawn(Y), **flat),
            fa.RandomZoom((0.5, 2)), {"zoom": ZOOM, "x": X, "y": Y},
        ),
        "warp": (
            theirs.Warp(draw_x=drawn(TILT_X), draw_y=drawn(TILT_Y), **flat),
            fa.RandomPerspective(0.2), {"tilt_x": TILT_X, "tilt_y": TILT_Y},
        ),
        "flip": (
            theirs.Flip(draw=drawn([1.0, 0, 1, 0]), **flat),
            fa.RandomHorizontalFlip(), {"flipped": [True, False, True, False]},
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["rotate", "zoom", "warp", "flip"])
def test_the_same_draw_gives_fastais_image(theirs: Any, name: str) -> None:
    """The direction, the unit and the centre of each argument; fastai with align_corners=False, which is our grid."""
    transform, op, drawn = cases(theirs, align_corners=False)[name]
    assert_images_close(ours(op, batch(), **drawn), applied(transform, batch()), 0.1)
    turned = {key: list(reversed(values)) for key, values in drawn.items()}
    with pytest.raises(AssertionError, match="apart"):
        assert_images_close(ours(op, batch(), **turned), applied(transform, batch()), 0.1)


@pytest.mark.parametrize(("name", "pixels"), [("rotate", 0.01), ("zoom", 0.2), ("warp", 0.2), ("flip", 0.01)])
def test_difference_align_corners(theirs: Any, name: str, pixels: float) -> None:
    """fastai's default, align_corners=True, reads below a pixel elsewhere. A ramp shows how far: it is its place."""
    transform, op, drawn = cases(theirs, align_corners=True)[name]
    ramp = (torch.arange(SIDE) / SIDE).expand(4, 3, SIDE, SIDE).contiguous()
    inner = slice(SIDE // 4, -SIDE // 4)  # without the padding, which folds the ramp
    apart = (ours(op, ramp, **drawn) - applied(transform, ramp))[:, :, inner, inner].abs().amax() * SIDE
    assert pixels / 4 < apart < pixels or (pixels < 0.02 and apart < pixels)


def test_the_dihedral_group_is_the_same_set(theirs: Any) -> None:
    images = batch(1)
    eight = [applied(theirs.Dihedral(p=1.0, draw=k, align_corners=False), images) for k in range(8)]
    op = fa.RandomDihedral(p=1.0)
    torch.manual_seed(0)
    seen = set()
    for _ in range(100):
        out = op(images)
        near = [k for k, image in enumerate(eight) if (out - image).abs().max() < 1e-3]
        assert len(near) == 1
        seen.update(near)
    assert seen == set(range(8))


def test_arguments_and_defaults_are_fastais(theirs: Any) -> None:
    """Every argument, in fastai's order; size, mode and align_corners have other defaults."""
    expected = inspect.signature(theirs.aug_transforms).parameters
    got = inspect.signature(fa.aug_transforms).parameters
    assert [name for name in got if name != "augment"] == list(expected)
    other = {name for name in expected if got[name].default != expected[name].default}
    assert other == {"size", "mode", "pad_mode", "align_corners", "xtra_tfms"}
    assert fa.aug_transforms().padding == str(expected["pad_mode"].default)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"mult": 2.0},
    {"flip_vert": True, "max_rotate": 30.0, "max_zoom": 1.5, "max_lighting": 0.4, "max_warp": 0.3},
    {"do_flip": False, "p_affine": 0.3, "p_lighting": 1.0, "min_zoom": 0.8},
    {"max_rotate": 0.0, "max_warp": 0.0},
    {"max_lighting": 0.0, "max_zoom": 1.0, "min_scale": 0.5},
]


def read(composed: list[Any]) -> dict[str, dict[str, Any]]:
    """fastai's transforms as it composed them, by our operators' names, with our names of their settings."""
    found: dict[str, dict[str, Any]] = {}
    for transform in composed:
        for f in getattr(transform, "aff_fs", ()):
            k, name = f.keywords, f.func.__name__
            if name == "flip_mat":
                found["RandomHorizontalFlip"] = {"p": k["p"]}
            elif name == "dihedral_mat":
                found["RandomDihedral"] = {"p": k["p"]}
            elif name == "rotate_mat":
                found["RandomRotation"] = {"p": k["p"], "degrees": (-k["max_deg"], k["max_deg"])}
            elif name == "zoom_mat":
                found["RandomZoom"] = {"p": k["p"], "scale": (k["min_zoom"], k["max_zoom"])}
        for f in getattr(transform, "coord_fs", ()):
            found["RandomPerspective"] = {"p": f.p, "magnitude": f.magnitude}
        for f in getattr(transform, "fs", ()):
            found.setdefault("lighting", {})[type(f).__name__] = (f.p, f.max_lighting)
        if type(transform).__name__ == "RandomResizedCropGPU":
            found["RandomResizedCrop"] = {"scale": (transform.min_scale, transform.max_scale)}
    return found


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_same_arguments_make_the_same_transforms(theirs: Any, settings: dict[str, Any]) -> None:
    expected = read(theirs.aug_transforms(**settings, size=32))
    got: dict[str, dict[str, Any]] = {}
    for op in fa.aug_transforms(**settings, size=32).ops:
        name = type(op).__name__
        if name == "ColorJitter":
            if op.brightness != (1, 1):
                got.setdefault("lighting", {})["_BrightnessLogit"] = (op.p, pytest.approx(op.brightness[1] - 1))
            else:
                got.setdefault("lighting", {})["_ContrastLogit"] = (op.p, pytest.approx(1 - op.contrast[0]))
        else:
            names = {"RandomRotation": ("p", "degrees"), "RandomZoom": ("p", "scale"),
                     "RandomPerspective": ("p", "magnitude"), "RandomResizedCrop": ("scale",)}  # fmt: skip
            got[name] = {key: pytest.approx(getattr(op, key)) for key in names.get(name, ("p",))}
    assert expected == got


def normalised(matrix: Tensor) -> Tensor:
    """Input pixels -> output pixels as fastai has it: output -> input, both from -1 to 1."""
    half = torch.full((len(matrix),), SIDE / 2, dtype=torch.float64)
    to_one = geometry.box_matrix(half, half, half, half, torch.ones_like(half), torch.ones_like(half))
    matrix = to_one @ torch.linalg.inv(matrix.double()) @ torch.linalg.inv(to_one)
    return matrix / matrix[:, 2:, 2:]


def test_draws_have_fastais_distribution(theirs: Any) -> None:
    """All affine operators together: each entry of the composed matrices, two samples of 4,000 (Kolmogorov-Smirnov)."""
    n, arguments = 4000, {"max_rotate": 40.0, "max_zoom": 1.5, "max_warp": 0.0, "max_lighting": 0.0, "size": SIDE}
    torch.manual_seed(3)
    (composed,) = theirs.aug_transforms(**arguments)
    images = torch.zeros(n, 3, 2, 2)
    composed.before_call(images, 0)
    expected = composed._get_affine_mat(images).round(decimals=6)
    got = normalised(fa.aug_transforms(**arguments).draw(n, (SIDE, SIDE)).matrix).round(decimals=6)
    less = normalised(fa.aug_transforms(**{**arguments, "max_rotate": 35.0}).draw(n, (SIDE, SIDE)).matrix)
    for row in range(2):
        for column in range(3):
            result = stats.ks_2samp(expected[:, row, column].numpy(), got[:, row, column].numpy())
            assert result.pvalue > 1e-3, f"entry {row}, {column}"
    assert stats.ks_2samp(expected[:, 0, 1].numpy(), less[:, 0, 1].numpy()).pvalue < 1e-3, "the test sees 35° for 40°"


def test_names_of_fastais_settings() -> None:
    extra = fa.RandomErasing(p=1.0)
    augment = fa.aug_transforms(mode="nearest", pad_mode="border", align_corners=False, batch=False, xtra_tfms=[extra])
    assert (augment.interpolation, augment.padding) == ("nearest", "border")
    assert augment.ops[-1] is extra
    assert fa.aug_transforms(interpolation="bilinear").interpolation == "bilinear"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"align_corners": True}, "expected align_corners=False, got True: a pixel is a square .* Leave it out"),
        (
            {"batch": True},
            "expected batch=False, got True: every image has its own draw. Leave it out; to give a batch",
        ),
        ({"mode": "bicubic"}, "expected mode to be 'bilinear', 'nearest' or None, got 'bicubic'"),
        ({"mode": "nearest", "interpolation": "nearest"}, "either mode or interpolation, got both"),
        ({"pad_mode": "zeros", "padding": "zeros"}, "either pad_mode or padding, got both"),
        ({"pad_mode": "wrap"}, "expected padding"),
    ],
)
def test_what_there_is_not_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fa.aug_transforms(size=8, **arguments)(torch.zeros(1, 3, 8, 8))


def test_one_draw_for_a_batch_as_the_message_says() -> None:
    augment = fa.aug_transforms(size=16)
    params = augment.draw(1, (SIDE, SIDE))[[0] * 4]
    out = augment.apply(batch(), params)
    assert all(torch.equal(out[0], image) for image in out)


def test_difference_one_crop_for_the_batch(theirs: Any) -> None:
    """fastai crops every image of a batch at the same place; here each has its own."""
    ramp = (torch.arange(SIDE) / SIDE).expand(8, 3, SIDE, SIDE).contiguous()
    crop = applied(theirs.RandomResizedCropGPU(32, min_scale=0.3, ratio=(1, 1)), ramp)
    assert all(torch.equal(crop[0], image) for image in crop)
    own = fa.RandomResizedCrop((0.3, 1.0), (1.0, 1.0), size=32)(ramp)
    assert len({round(image[0, 16, 16].item(), 6) for image in own}) == 8


@pytest.mark.parametrize(
    ("name", "strongest", "worst"), [("brightness", (0.8, 1.2), 50.9), ("contrast", (0.8, 1.25), 31.6)]
)
def test_difference_lighting(theirs: Any, name: str, strongest: tuple[float, float], worst: float) -> None:
    """Equal at mid-grey; linear here, on logits there: so far apart, of 255, at the strongest default draws."""
    ramp = torch.linspace(0.001, 0.999, 999).expand(2, 3, 1, 999).contiguous()
    factors = torch.tensor(strongest)
    if name == "brightness":
        transform = theirs.Brightness(p=1.0, draw=lambda x: factors / 2)
    else:
        transform = theirs.Contrast(p=1.0, draw=lambda x: factors)
    augment = fa.Augment([fa.ColorJitter(brightness=0.2)], (1, 999), "nearest", normalize=None)
    ones = {key: torch.ones_like(value) for key, value in augment.draw(2, (1, 999)).drawn["ColorJitter"].items()}
    drawn = {**ones, "hue": torch.zeros(2).double(), name: factors.double()}
    line = augment.apply(ramp, augment.compose({"ColorJitter": drawn}, 2, (1, 999)))
    apart = (line - applied(transform, ramp)).abs().amax((0, 1, 2)) * 255
    assert apart[499] < 0.1
    assert apart.max().item() == pytest.approx(worst, abs=0.2)


def test_no_difference_in_a_frame_that_is_not_square(theirs: Any) -> None:
    image = photo("astronaut", 40, 80).permute(2, 0, 1)[None] / 255
    turned = fa.Augment([fa.RandomRotation((30, 30))], (40, 80), "bilinear", "zeros", normalize=None)(image)
    there = applied(theirs.Rotate(p=1.0, draw=-30.0, align_corners=False, pad_mode="zeros"), image)
    assert_images_close(turned, there, 0.1)


def test_difference_padding(theirs: Any) -> None:
    """fastai's reflection, with align_corners=True, mirrors about the last pixel's centre; here about its edge."""
    image = torch.tensor([0.1, 0.2, 0.4, 0.8]).expand(1, 3, 4, 4).contiguous()
    moved = geometry.identity_matrix(1)
    moved[:, 0, 2] = 2
    assert fa.warp(image, moved, 4, "nearest", "reflection")[0, 0, 0].numpy() == pytest.approx([0.2, 0.1, 0.1, 0.2])
    grid = torch.nn.functional.affine_grid(torch.tensor([[[1.0, 0, -4 / 3], [0, 1, 0]]]), [1, 3, 4, 4], True)
    there = torch.nn.functional.grid_sample(image, grid, "nearest", "reflection", True)
    assert there[0, 0, 0].numpy() == pytest.approx([0.4, 0.2, 0.1, 0.2])
    assert np.isfinite(there.numpy()).all()
