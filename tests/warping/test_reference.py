"""The specification against outsiders: OpenCV, SciPy, Pillow, torchvision, Kornia."""

import cv2
import kornia
import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as tv

import fastaug as fa
from fastaug.augment import geometry
from fastaug.warping import reference
from fastaug.warping.footprint import sampling_matrix
from tests.compare import assert_images_close, photo, random_image
from tests.factories import draws

OPENCV_PADDING = {
    "reflection": cv2.BORDER_REFLECT,
    "border": cv2.BORDER_REPLICATE,
    "zeros": cv2.BORDER_CONSTANT,
}


def exact(images: Tensor, matrix: Tensor, size: int | tuple[int, int], *args: str) -> Tensor:
    return fa.warp(images, matrix, size, *args, dtype=torch.float64, backend="reference").permute(0, 2, 3, 1)


@pytest.mark.parametrize("padding", OPENCV_PADDING)
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_bilinear_is_opencvs_warp_perspective(padding: str, name: str) -> None:
    image = photo(name, 201, 230)
    matrices = draws(8, (201, 230), (64, 91))
    ours = exact(image.expand(8, -1, -1, -1), matrices, (64, 91), "bilinear", padding)
    for got, matrix in zip(ours, geometry.to_integer_centred(matrices), strict=True):
        expected = cv2.warpPerspective(
            image.numpy().astype(np.float32) / 255, matrix.numpy(), (91, 64),
            flags=cv2.INTER_LINEAR, borderMode=OPENCV_PADDING[padding],
        )  # fmt: skip
        assert_images_close(got, expected, 0.2)


def test_a_half_pixel_shift_would_be_seen() -> None:
    """The comparison with OpenCV fails if the half-pixel conversion is left out."""
    image, matrix = photo("astronaut", 201, 230), draws(1, (201, 230), (64, 91))
    expected = cv2.warpPerspective(
        image.numpy().astype(np.float32) / 255, matrix[0].numpy(), (91, 64),
        flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    with pytest.raises(AssertionError, match="apart"):
        assert_images_close(exact(image[None], matrix, (64, 91), "bilinear")[0], expected, 0.2)


@pytest.mark.parametrize(("padding", "mode"), [("reflection", "reflect"), ("border", "nearest")])
def test_bilinear_is_scipys_map_coordinates_far_outside_too(padding: str, mode: str) -> None:
    """To double precision, and mirrored many times: the photo is 9 x 7 and the output shows 90 x 70 of it."""
    image = random_image(7, 9)
    matrix = torch.tensor([[[0.4, 0.11, 9.0], [-0.07, 0.45, 11.0], [1e-4, 2e-4, 1.0]]], dtype=torch.float64)
    ours = exact(image[None], matrix, (32, 36), "bilinear", padding)[0]
    v, u = np.mgrid[0:32, 0:36] + 0.5
    points = np.linalg.inv(matrix[0].numpy()) @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1)
    x, y = points[:2] / points[2] - 0.5
    for channel in range(3):
        source = image[..., channel].numpy() / 255
        expected = scipy.ndimage.map_coordinates(source, [y, x], order=1, mode=mode).reshape(32, 36)
        assert_images_close(ours[..., channel], expected, 1e-6)


def test_bilinear_is_kornias_warp_perspective() -> None:
    image, matrices = photo("coffee", 90, 120).double() / 255, draws(4, (90, 120), (50, 60))
    images = image.permute(2, 0, 1).expand(4, -1, -1, -1)
    ours = exact(images, matrices, (50, 60), "bilinear", "zeros").permute(0, 3, 1, 2)
    theirs = kornia.geometry.transform.warp_perspective(
        images, geometry.to_integer_centred(matrices), (50, 60), "bilinear", "zeros", align_corners=True
    )
    assert_images_close(ours, theirs, 1e-3)


def test_nearest_is_pillows_and_opencvs() -> None:
    image = photo("chelsea", 61, 83)
    matrix = geometry.resize_matrix(*(torch.tensor([v], dtype=torch.float64) for v in (83, 61, 40, 97)))
    got = exact(image[None], matrix, (97, 40), "nearest")[0]
    expected = np.asarray(Image.fromarray(image.numpy()).resize((40, 97), Image.Resampling.NEAREST)) / 255
    assert_images_close(got, expected, 1e-9)


def test_flips_and_quarter_turns_move_pixels_and_change_none() -> None:
    image = random_image(31, 31).expand(8, -1, -1, -1)
    symmetries = torch.arange(8)
    matrix = fa.Augment([fa.RandomDihedral()], 31).compose({"RandomDihedral": {"symmetry": symmetries}}, 8, (31, 31))
    for interpolation in ("nearest", "bilinear", "antialias"):
        out = exact(image, matrix.matrix, 31, interpolation)
        distinct = {tuple((o * 255).round().flatten().tolist()) for o in out}
        assert len(distinct) == 8
        for got in out:
            candidates = [torch.rot90(flipped, k) for flipped in (image[0], image[0].flip(1)) for k in range(4)]
            assert any((got * 255 - candidate).abs().max() < 0.01 for candidate in candidates)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "antialias"])
@pytest.mark.parametrize("padding", ["reflection", "border", "zeros"])
def test_identity_is_the_photo(interpolation: str, padding: str) -> None:
    image = random_image(7, 13)
    got = exact(image[None], torch.eye(3)[None], (7, 13), interpolation, padding)[0]
    assert_images_close(got, image / 255, 0.01)


@pytest.mark.parametrize("interpolation", ["bilinear", "antialias"])
def test_reflection_mirrors_about_the_edge(interpolation: str) -> None:
    """A window far outside shows the photo mirrored, edge pixel doubled: SciPy's 'reflect', NumPy's 'symmetric'."""
    image = random_image(5, 6)
    matrix = torch.eye(3, dtype=torch.float64)[None].clone()
    matrix[0, :2, 2] = torch.tensor([14.0, 13.0])
    got = exact(image[None], matrix, (30, 32), interpolation)[0]
    expected = np.pad(image.numpy(), ((13, 12), (14, 12), (0, 0)), "symmetric") / 255
    assert_images_close(got, expected, 0.01)


def test_zeros_are_black_and_border_repeats() -> None:
    image = random_image(4, 5)
    matrix = torch.eye(3, dtype=torch.float64)[None].clone()
    matrix[0, :2, 2] = 3
    for padding, mode in (("zeros", "constant"), ("border", "edge")):
        got = exact(image[None], matrix, 10, "bilinear", padding)[0]
        expected = np.pad(image.numpy(), ((3, 3), (3, 2), (0, 0)), mode) / 255
        assert_images_close(got, expected, 1e-9)


def test_color_matrix_is_applied_after_the_interpolation() -> None:
    image, matrix = photo("astronaut", 40, 40), draws(1, (40, 40), (20, 20))
    color = torch.randn(1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = exact(image[None], matrix, 20)
    got = fa.warp(image[None], matrix, 20, color=color, dtype=torch.float64).permute(0, 2, 3, 1)
    expected = plain @ color[0, :, :3].T + color[0, :, 3]
    assert_images_close(got, expected, 1e-6)


def test_ragged_list_is_the_batch_image_by_image() -> None:
    images = [random_image(1, 1), random_image(7, 13), photo("chelsea", 100, 60)]
    sizes = torch.tensor([image.shape[:2] for image in images])
    matrices = fa.aug_transforms(size=24, min_scale=0.5).draw(3, sizes).matrix
    together = exact(images, matrices, 24)
    for i, image in enumerate(images):
        assert torch.equal(exact(image[None], matrices[i : i + 1], 24)[0], together[i])


def test_layouts_and_dtypes_agree() -> None:
    image, matrix = random_image(30, 40)[None], draws(1, (30, 40), (20, 20))
    expected = exact(image, matrix, 20)
    for other in (
        image.double() / 255,
        (image.double() / 255).permute(0, 3, 1, 2),
        (image.double() / 255).permute(0, 3, 1, 2).contiguous(),
        image.permute(0, 3, 1, 2),
        image.expand(2, -1, -1, -1)[::2],
        [image[0]],
    ):
        assert_images_close(exact(other, matrix, 20), expected, 1e-9)


def test_beyond_the_horizon_and_singular_are_black() -> None:
    image = torch.full((1, 20, 20, 3), 255, dtype=torch.uint8)
    tilted = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0.08, 0, 1]]])
    got = exact(image, tilted, (20, 40))[0]
    horizon = 12  # output x = 1 / 0.08 = 12.5 is where the input's infinity lies
    assert got[:, : horizon - 1].min() > 0.99
    assert got[:, horizon + 1 :].max() == 0
    other_side = exact(image, -tilted, (20, 40))[0]
    assert other_side[:, : horizon - 1].max() == 0, "w < 0 is behind the camera"
    assert other_side[:, horizon + 1 :].min() > 0.99
    inverse = sampling_matrix(torch.zeros(1, 3, 3))[0]
    assert reference._warp_one(image[0], inverse, (5, 5), "antialias", "reflection").abs().max() == 0


def test_a_crop_at_the_end_of_a_panorama_is_seen_though_the_centre_is_beyond_the_horizon() -> None:
    image = torch.full((1, 100, 600, 3), 255, dtype=torch.uint8)
    crop = geometry.box_matrix(*(torch.tensor([v]).double() for v in (500.0, 0.0, 100.0, 100.0, 460.0, 460.0)))
    side = torch.tensor([460.0], dtype=torch.float64)
    tilt = torch.tensor([0.25], dtype=torch.float64)
    matrix = geometry.perspective_matrix(tilt, torch.zeros_like(tilt), side, side) @ crop
    assert (matrix[0, 2] @ torch.tensor([300.0, 50.0, 1.0], dtype=torch.float64)) < 0, "the photo's centre"
    assert exact(image, matrix, (460, 460)).min() > 0.99


def test_gradients_reach_images_matrix_and_color() -> None:
    images = torch.rand(1, 5, 6, 3, dtype=torch.float64, requires_grad=True)
    matrix = (torch.eye(3, dtype=torch.float64) * 0.7 + 0.01).unsqueeze(0).requires_grad_()
    color = torch.rand(1, 3, 4, dtype=torch.float64, requires_grad=True)

    def function(images: Tensor, matrix: Tensor, color: Tensor) -> Tensor:
        return reference.warp(images, matrix, (3, 4), "bilinear", "reflection", color, torch.float64)

    assert torch.autograd.gradcheck(function, (images, matrix, color))


def test_torchvisions_rotation_agrees_inside() -> None:
    image = photo("astronaut", 101, 101)
    matrix = geometry.rotation_matrix(*(torch.tensor([v], dtype=torch.float64) for v in (25, 101, 101)))
    ours = exact(image[None], matrix, 101, "bilinear")[0]
    theirs = tv.rotate(image.permute(2, 0, 1).float() / 255, 25, tv.InterpolationMode.BILINEAR).permute(1, 2, 0)
    assert_images_close(ours[25:75, 25:75], theirs[25:75, 25:75], 0.05)


@pytest.mark.parametrize("batch", [0, 1])
def test_empty_and_single_batches(batch: int) -> None:
    images = torch.zeros(batch, 5, 5, 3, dtype=torch.uint8)
    assert exact(images, torch.eye(3).expand(batch, 3, 3), 4).shape == (batch, 4, 4, 3)
    assert fa.warp([], torch.zeros(0, 3, 3), 4).shape == (0, 3, 4, 4)


def stated_filter(distance: np.ndarray, s: float) -> np.ndarray:
    """The formula of `filter.py`'s docstring, written down a second time."""
    radius, v = max(2, 0.95 + s / 2, 0.7375 * s), max(1 / s, 1 / 4)
    z = (distance / radius) ** 2
    a, b = 4.2 - 16.3 * v + 6.7 * v**2, -3 + 6.8 * v + 1.8 * v**2
    return np.where(z < 1, (1 - z) ** 2 * (1 + a * z + b * z**2), 0)


def resize_weights(size: int, out: int) -> np.ndarray:
    """A resize along one axis as a dense matrix [out, size], with reflection folded in: nothing shared with ours."""
    scale = size / out
    index = np.arange(-3 * size, 4 * size)
    weights = stated_filter(index + 0.5 - (np.arange(out)[:, None] + 0.5) * scale, max(1.0, scale))
    weights /= weights.sum(1, keepdims=True)
    folded = np.zeros((out, size))
    mirrored = np.pad(np.arange(size), 3 * size, "symmetric")
    np.add.at(folded.T, mirrored, weights.T)
    return folded


@pytest.mark.parametrize("out", [(7, 90), (20, 30), (23, 41), (60, 80), (100, 95), (1, 2)])
def test_antialias_resize_is_the_stated_formula(out: tuple[int, int]) -> None:
    image = random_image(60, 80)
    sizes = (torch.tensor([v], dtype=torch.float64) for v in (80, 60, out[1], out[0]))
    got = exact(image[None], geometry.resize_matrix(*sizes), out)[0]
    rows, columns = resize_weights(60, out[0]), resize_weights(80, out[1])
    expected = np.einsum("ui,ijc,vj->uvc", rows, image.numpy() / 255, columns)
    assert_images_close(got, expected, 1e-6)


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_antialias_resize_is_near_the_mean_of_the_pixels_it_covers(factor: int) -> None:
    """OpenCV's INTER_AREA at whole factors is what a camera with larger pixels would have seen."""
    image = photo("astronaut")[:480, :480]
    out = 480 // factor
    sizes = (torch.tensor([v], dtype=torch.float64) for v in (480, 480, out, out))
    got = exact(image[None], geometry.resize_matrix(*sizes), out)[0].numpy() * 255
    expected = cv2.resize(image.numpy().astype(np.float32), (out, out), interpolation=cv2.INTER_AREA)
    bilinear = (
        exact(
            image[None],
            geometry.resize_matrix(*(torch.tensor([v]).double() for v in (480, 480, out, out))),
            out,
            "bilinear",
        )[0].numpy()
        * 255
    )
    error, aliased = np.sqrt(np.mean((got - expected) ** 2)), np.sqrt(np.mean((bilinear - expected) ** 2))
    assert error < 2
    if factor > 2:  # at 2, bilinear is the mean of the four pixels itself
        assert error < aliased / 4


def test_enlarging_is_an_interpolation() -> None:
    """Where an output pixel's centre is an input pixel's, it has its value: at odd factors, every so many pixels."""
    image = random_image(9, 11)
    for interpolation in ("bilinear", "antialias"):
        sizes = (torch.tensor([v], dtype=torch.float64) for v in (11, 9, 33, 27))
        got = exact(image[None], geometry.resize_matrix(*sizes), (27, 33), interpolation)[0]
        assert_images_close(got[1::3, 1::3], image / 255, 0.01)


def test_bilinear_enlarging_is_pillows() -> None:
    image = photo("coffee", 40, 50)
    sizes = (torch.tensor([v], dtype=torch.float64) for v in (50, 40, 130, 97))
    got = exact(image[None], geometry.resize_matrix(*sizes), (97, 130), "bilinear", "border")[0]
    expected = np.stack(
        [
            np.asarray(
                Image.fromarray(image[..., c].numpy().astype(np.float32)).resize((130, 97), Image.Resampling.BILINEAR)
            )
            for c in range(3)
        ],
        -1,
    )
    assert_images_close(got, expected / 255, 0.01)
