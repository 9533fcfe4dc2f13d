"""Masks, points and boxes: in step with the image, against outsiders, there and back."""

import copy
import itertools
from pathlib import Path
from typing import Any

import cv2
import kornia
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

import fastaug as fa
from fastaug.augment.augment import Operator
from fastaug.augment.targets import swap_pairs
from tests.compare import random_image

OPERATORS = [
    fa.RandomHorizontalFlip(1.0),
    fa.RandomVerticalFlip(1.0),
    fa.RandomDihedral(),
    fa.RandomRotation(30),
    fa.RandomZoom((0.8, 1.5)),
    fa.RandomPerspective(0.3, p=1.0),
    fa.RandomResizedCrop((0.5, 1.0)),
    fa.ColorJitter(0.2, 0.2),
]
IDS = [type(op).__name__ for op in OPERATORS]
ALL = [*OPERATORS[:1], *OPERATORS[3:]]
TILTED = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [-0.05, 0, 1]]])  # the horizon is at x = 20


def draws(ops: list[Operator], n: int, frame: Any, size: tuple[int, int], seed: int = 0) -> fa.Params:
    return fa.Augment(ops, size).draw(n, frame, generator=torch.Generator().manual_seed(seed))


def marker(height: int, width: int, x: int, y: int, side: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image [H, W, 3], mask [H, W], box [1, 4] and centre [1, 2] of a white square on black, its corner at (x, y)."""
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[y : y + side, x : x + side] = 7
    box = torch.tensor([[x, y, x + side, y + side]], dtype=torch.float32)
    return (mask[..., None].expand(-1, -1, 3) > 0).to(torch.uint8) * 255, mask, box, (box[:, :2] + box[:, 2:]) / 2


def found(image: Tensor) -> tuple[Tensor, Tensor]:
    """Of a bright marker on an image [3, H, W] in [0, 1]: its box [4] to the pixel, and its centre of gravity [2]."""
    bright = image[0] > 0.5
    rows, columns = bright.any(1).nonzero()[:, 0], bright.any(0).nonzero()[:, 0]
    box = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return box.float(), bright.nonzero().float().mean(0).flip(0) + 0.5


def assert_in_step(image: Tensor, mask: Tensor, box: Tensor, point: Tensor) -> None:
    """A marker lies on the image [3, H, W] where the mask [H, W], the box [4] and the point [2] say."""
    assert ((image[0] > 0.5) != (mask == 7)).double().mean() < 0.01, "the mask is elsewhere"
    at, centre = found(image)
    assert (at - box).abs().max() <= 1.0, f"the box is elsewhere: {box.tolist()}, the marker at {at.tolist()}"
    assert (centre - point).norm() <= 1.0, f"the point is elsewhere: {point.tolist()}, the marker {centre.tolist()}"


@pytest.mark.parametrize("ops", [*[[op] for op in OPERATORS], ALL], ids=[*IDS, "all"])
@pytest.mark.parametrize(("height", "width", "size"), [(61, 83, (64, 70)), (83, 61, (120, 120)), (90, 90, (61, 83))])
def test_a_marker_is_found_where_the_targets_say(
    ops: list[Operator], height: int, width: int, size: tuple[int, int]
) -> None:
    n, seen = 8, 0
    image, mask, box, point = marker(height, width, width // 2 - 2, height // 2 - 8)
    params = draws(ops, n, (height, width), size)
    images = fa.warp(image.expand(n, -1, -1, -1), params.matrix, size, padding="zeros")
    masks = fa.warp_masks(mask.expand(n, -1, -1), params.matrix, size, fill=0)
    points, visible = fa.transform_points(point.expand(n, 1, 2), params.matrix, size)
    boxes, kept = fa.transform_boxes(box.expand(n, 1, 4), params.matrix, size, min_visible=1.0)
    for i in range(n):
        if len(kept[i]) and fa.transform_points(boxes[i].view(1, 2, 2), torch.eye(3)[None], size)[1].all():
            assert visible[i].all()
            assert_in_step(images[i], masks[i], boxes[i][0], points[i, 0])
            seen += 1
    assert seen >= n // 2, "too few markers left on the output to say anything"


@pytest.mark.parametrize("which", ["mask", "box", "point"])
def test_out_of_step_is_noticed(which: str) -> None:
    image, mask, box, point = marker(40, 40, 11, 17)
    targets = {"mask": mask.roll(2, 1) if which == "mask" else mask, "box": box[0], "point": point[0]}
    if which != "mask":
        targets[which] = targets[which] + 1.5
    assert_in_step(image.permute(2, 0, 1) / 255, mask, box[0], point[0])
    with pytest.raises(AssertionError, match=f"the {which} is elsewhere"):
        assert_in_step(image.permute(2, 0, 1) / 255, **targets)


@pytest.mark.parametrize("ops", [*[[op] for op in OPERATORS], ALL], ids=[*IDS, "all"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 13), (61, 83)])
@pytest.mark.parametrize("size", [(1, 1), (33, 17)])
def test_masks_are_the_nearest_warp_of_the_image(
    ops: list[Operator], height: int, width: int, size: tuple[int, int]
) -> None:
    images = torch.stack([random_image(height, width, seed) for seed in range(3)])
    matrix = draws(ops, 3, (height, width), size).matrix
    got = fa.warp_masks(images[..., 0], matrix, size, fill=0)
    expected = fa.warp(images, matrix, size, "nearest", padding="zeros")
    assert torch.equal(got, (expected[:, 0] * 255).round().to(torch.uint8))


def test_masks_of_different_sizes_and_several_images_with_one_draw() -> None:
    sizes = torch.tensor([[30, 40], [50, 35]])
    images = [random_image(h, w, i) for i, (h, w) in enumerate(sizes.tolist())]
    matrix = draws(ALL, 2, sizes, (24, 24)).matrix
    got = fa.warp_masks([image[..., 1] for image in images], matrix, 24, fill=0)
    left, right = (
        fa.warp(pair, matrix, 24, "nearest", "zeros")[:, 1] * 255 for pair in (images, [255 - i for i in images])
    )
    inside = fa.warp_masks([torch.ones(h, w, dtype=torch.bool) for h, w in sizes.tolist()], matrix, 24, fill=False)
    assert torch.equal(got, left.round().to(torch.uint8))
    assert torch.equal((left + right).round() == 255, inside)


@pytest.mark.parametrize(
    ("dtype", "values", "fill"),
    [
        (torch.bool, [0, 1], 1),
        (torch.uint8, [0, 254], 255),
        (torch.int8, [-128, 126], 127),
        (torch.int16, [-32768, 32766], 32767),
        (torch.int32, [-(2**31), 2**24 + 1], -1),
        (torch.int64, [-(2**63), 2**53 + 1], 2**63 - 1),
    ],
)
def test_mask_dtypes_keep_every_bit(dtype: torch.dtype, values: list[int], fill: int) -> None:
    masks = torch.tensor(values).to(dtype).repeat(2, 5, 2)
    before = masks.clone()
    shifted = torch.tensor([[[1.0, 0, 2], [0, 1, -1], [0, 0, 1]]]).expand(2, 3, 3)
    got = fa.warp_masks(masks, shifted, (5, 4), fill=fill)
    assert got.dtype == dtype
    assert torch.equal(got[:, :4, 2:], masks[:, 1:, :2])
    assert (got[:, :, :2] == fill).all()
    assert (got[:, 4:] == fill).all()
    assert torch.equal(masks, before), "the input was written to"


@pytest.mark.parametrize("as_list", [False, True])
def test_a_mask_of_three_rows_is_not_taken_for_channels(as_list: bool) -> None:
    mask = torch.arange(15, dtype=torch.uint8).view(1, 3, 5)
    got = fa.warp_masks([mask[0]] if as_list else mask, torch.eye(3)[None], (3, 5))
    assert torch.equal(got, mask)


def test_mask_fill_is_beside_the_photo_and_beyond_the_horizon() -> None:
    got = fa.warp_masks(torch.zeros(1, 10, 18, dtype=torch.int64), TILTED, (10, 200), fill=9)
    u = torch.arange(200) + 0.5
    x = u / (1 + 0.05 * u)  # the inverse of TILTED along the first axis
    assert torch.equal(got[0, 0] == 9, x >= 18)


def test_mask_layouts_and_empty_batches() -> None:
    strided = torch.randint(0, 5, (12, 3, 10)).permute(1, 2, 0)
    matrix = draws(ALL, 3, (10, 12), (8, 8)).matrix
    assert torch.equal(fa.warp_masks(strided, matrix, 8), fa.warp_masks(strided.contiguous(), matrix, 8))
    assert fa.warp_masks(strided[:0], matrix[:0], (8, 9)).shape == (0, 8, 9)
    assert fa.warp_masks([], matrix[:0], 8).shape == (0, 8, 8)
    tv = tv_tensors.Mask(strided)
    assert torch.equal(fa.warp_masks(tv, matrix, 8), fa.warp_masks(strided, matrix, 8))


def test_points_are_opencvs_and_kornias() -> None:
    n = 6
    points = torch.rand(n, 20, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([120.0, 90.0])
    matrix = draws(ALL, n, (90, 120), (50, 60)).matrix
    got, _ = fa.transform_points(points, matrix, (50, 60))
    torch.testing.assert_close(got, kornia.geometry.transform_points(matrix, points), atol=1e-3, rtol=0)
    for ours, source, one in zip(got, points, matrix, strict=True):
        expected = cv2.perspectiveTransform(source[None].double().numpy(), one.double().numpy())[0]
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)


def test_visible_is_on_the_output_and_before_the_horizon() -> None:
    points = torch.tensor([[[0.0, 0], [9.9, 4.9], [10, 1], [1, 5], [-0.1, 1], [torch.nan, 1]]])
    moved, visible = fa.transform_points(points, torch.eye(3)[None], (5, 10))
    assert visible[0].tolist() == [True, True, False, False, False, False]
    torch.testing.assert_close(moved[:, :5], points[:, :5])
    assert moved[0, 5].isnan().all()
    moved, visible = fa.transform_points(torch.tensor([[[10.0, 1], [20, 1], [40, 1]]]), TILTED, 64)
    assert visible[0].tolist() == [True, False, False]
    assert moved[0, 0].tolist() == [20, 2]
    assert moved[0, 1:].isnan().all(), "a point behind the horizon has no place"


def test_points_empty_and_half_precision_and_a_size_for_each_image() -> None:
    assert fa.transform_points(torch.zeros(0, 3, 2), torch.zeros(0, 3, 3), 8)[1].shape == (0, 3)
    assert fa.transform_points(torch.zeros(2, 0, 2), torch.zeros(2, 3, 3), 8)[0].shape == (2, 0, 2)
    points = torch.full((2, 1, 2), 6.0, dtype=torch.float16)
    moved, visible = fa.transform_points(points, torch.eye(3).expand(2, 3, 3), torch.tensor([[8, 7], [7, 5]]))
    assert moved.dtype == torch.float16
    assert visible[:, 0].tolist() == [True, False]


@pytest.mark.parametrize("name", ["flip", "resize", "crop"])
def test_boxes_are_torchvisions_on_affine_cases(name: str) -> None:
    height, width = 60, 80
    corners = torch.rand(30, 2, 2, generator=torch.Generator().manual_seed(1)).sort(1).values
    boxes = (corners * torch.tensor([width, height])).flatten(1)
    theirs = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
    op: Operator
    if name == "flip":
        op, expected, size = fa.RandomHorizontalFlip(1.0), v2.functional.horizontal_flip(theirs), (height, width)
    elif name == "resize":
        op, expected, size = fa.RandomRotation(0), v2.functional.resize(theirs, [30, 20]), (30, 20)
    else:
        op, size = fa.RandomResizedCrop((0.3, 0.3), (1.0, 1.0)), (40, 40)
        window = torch.linalg.inv(draws([op], 1, (height, width), size).matrix[0].double())
        side, x, y = (window[0, 0] * 40).item(), window[0, 2].item(), window[1, 2].item()
        moved = (boxes - torch.tensor([x, y, x, y])) * 40 / side
        expected = v2.functional.clamp_bounding_boxes(tv_tensors.BoundingBoxes(moved, format="XYXY", canvas_size=size))
    matrix = draws([op], 1, (height, width), size).matrix
    (got,), (kept,) = fa.transform_boxes([boxes], matrix, size, min_visible=0.0)
    expected = v2.functional.clamp_bounding_boxes(expected).as_subclass(Tensor)
    area = (expected[:, 2:] - expected[:, :2]).prod(1)
    assert len(kept) >= 5
    torch.testing.assert_close(got, expected[kept], atol=1e-2, rtol=0)
    assert (area[[i for i in range(30) if i not in kept.tolist()]] < 1e-3).all()


def test_rotated_boxes_are_what_opencv_cuts_of_torchvisions_corners() -> None:
    """torchvision itself cuts the box around the corners, which may hold nothing of what is turned."""
    height, width = 60, 80
    sides = torch.rand(2, 200, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([width, height])
    boxes = torch.cat([sides[0], sides[0] + sides[1] / 4], 1)
    quadrangles = tv_tensors.KeyPoints(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2), canvas_size=(height, width))
    matrix = draws([fa.RandomRotation((40, 40))], 1, (height, width), (height, width)).matrix
    (got,), (kept,) = fa.transform_boxes([boxes], matrix, (height, width), min_visible=0.0)
    frame = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    expected, theirs = [], v2.functional.rotate(quadrangles, 40).as_subclass(Tensor)
    for row, quadrangle in enumerate(theirs.numpy()):
        area, polygon = cv2.intersectConvexConvex(quadrangle, frame)
        if area > 0:
            expected.append((row, [*polygon.min((0, 1)), *polygon.max((0, 1))]))
    assert kept.tolist() == [row for row, _ in expected]
    assert 100 < len(kept) < 180
    torch.testing.assert_close(got, torch.tensor(np.array([box for _, box in expected])), atol=1e-2, rtol=0)


def test_min_visible_is_a_share_of_the_transformed_box() -> None:
    moved = torch.tensor([[[2.0, 0, -10], [0, 2, 0], [0, 0, 1]]])
    boxes = torch.tensor([[0.0, 0, 10, 5], [0, 0, 5, 5], [4, 0, 9, 5], [3, 2, 3, 4]])  # 1/2, 0, 4/5 of it; no area
    for least, expected in ((0.0, [0, 2]), (0.1, [0, 2]), (0.5, [0, 2]), (0.51, [2]), (0.81, [])):
        (got,), (kept,) = fa.transform_boxes([boxes], moved, (10, 10), min_visible=least)
        assert kept.tolist() == expected
        assert got.shape == (len(expected), 4)
    assert fa.transform_boxes([boxes], moved, 10)[0][0].tolist() == [[0, 0, 10, 10], [0, 0, 8, 10]]


def test_lists_of_different_lengths_and_none_at_all() -> None:
    boxes = [torch.rand(n, 4).sort(1).values[:, [0, 1, 2, 3]] * 20 for n in (3, 0, 5)]
    matrix = draws(ALL, 3, (30, 30), (24, 24)).matrix
    got, kept = fa.transform_boxes(boxes, matrix, 24, min_visible=0.0)
    for i in range(3):
        (alone,), (rows,) = fa.transform_boxes(boxes[i : i + 1], matrix[i : i + 1], 24, min_visible=0.0)
        assert torch.equal(alone, got[i])
        assert torch.equal(rows, kept[i])
    assert got[1].shape == (0, 4)
    assert kept[1].dtype == torch.int64
    assert fa.transform_boxes([], torch.zeros(0, 3, 3), 24) == ([], [])
    assert [len(k) for k in fa.transform_boxes(torch.zeros(2, 0, 4), matrix[:2], 24)[1]] == [0, 0]


def test_a_box_behind_the_horizon_is_cut_at_it() -> None:
    boxes = torch.tensor([[2.0, 1, 10, 3], [10, 1, 30, 3], [25, 1, 30, 3], [-30, 1, 30, 3]])
    (got,), (kept,) = fa.transform_boxes([boxes], TILTED, (64, 64), min_visible=0.0)
    assert kept.tolist() == [0, 1, 3]
    torch.testing.assert_close(got[0], torch.tensor([2 / 0.9, 1 / 0.9, 20, 6]))
    # Without the cut: x from -60 to 20. Lines y = c are seen as y = c (1 + x / 20).
    torch.testing.assert_close(got[1], torch.tensor([20, 2, 64, 12.6]))
    torch.testing.assert_close(got[2], torch.tensor([0, 1, 64, 12.6]))
    assert fa.transform_boxes([boxes], TILTED, 64)[1][0].tolist() == [0], "the others reach to infinity"


matrices = st.builds(
    lambda degrees, tilt, zoom, seed: draws(
        [fa.RandomRotation((degrees, degrees)), fa.RandomPerspective(tilt, p=1.0), fa.RandomZoom((zoom, zoom))],
        1, (70, 90), (50, 40), seed,
    ).matrix,
    st.floats(-180, 180), st.floats(0, 0.5), st.floats(0.5, 2), st.integers(0, 1000),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(matrices, st.lists(st.floats(0, 1), min_size=4, max_size=4), st.floats(0, 1))
def test_box_properties(matrix: Tensor, corners: list[float], min_visible: float) -> None:
    """Boxes lie on the output, and hold every visible point of the input's box."""
    x, y = sorted(corners[:2]), sorted(corners[2:])
    box = torch.tensor([[x[0] * 90, y[0] * 70, x[1] * 90, y[1] * 70]])
    (got,), (kept,) = fa.transform_boxes([box], matrix, (50, 40), min_visible)
    assert kept.tolist() in ([], [0])
    share = torch.tensor(list(itertools.product((0, 0.3, 1), (0, 0.5, 1))))
    inner = box[:, :2] + share * (box[:, 2:] - box[:, :2])
    points, visible = fa.transform_points(inner[None], matrix, (50, 40))
    if len(kept):
        assert (got >= 0).all()
        assert (got[:, 2:] <= torch.tensor([40, 50])).all()
        assert (points[visible] >= got[0, :2] - 1e-3).all()
        assert (points[visible] <= got[0, 2:] + 1e-3).all()
    elif min_visible == 0 and (box[:, 2:] - box[:, :2]).prod() > 1:
        assert not visible.any()


def sampled(box: Tensor, matrix: Tensor, size: tuple[int, int], extent: Tensor) -> tuple[float, Tensor]:
    """Area and bounding box [4] of what is shown of a box, by looking back from 8 × 8 points in each output pixel."""
    v, u = ((torch.arange(8 * side) + 0.5).double() / 8 for side in size)
    at = torch.stack(torch.broadcast_tensors(u, v[:, None]), -1).view(1, -1, 2)
    x_y, _ = fa.transform_points(at, fa.inverse_matrix(matrix.double()), (1, 1))
    shown = at[0, ((x_y >= box[:2]) & (x_y < box[2:]) & (x_y >= extent[:2]) & (x_y < extent[2:])).all(-1)[0]]
    bounds = torch.cat([shown.amin(0), shown.amax(0)]) if len(shown) else torch.full((4,), torch.nan)
    return len(shown) / 64, bounds


rectangles = st.builds(
    lambda x, y, width, height: torch.tensor([x, y, x + width, y + height]),
    st.floats(-10, 80), st.floats(-10, 60), st.floats(0.5, 60), st.floats(0.5, 60),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(matrices, rectangles, rectangles)
def test_boxes_are_what_sampling_finds_and_are_kept_by_its_share(matrix: Tensor, box: Tensor, extent: Tensor) -> None:
    area, bounds = sampled(box, matrix, (50, 40), extent)
    corners = box[[0, 1, 2, 1, 2, 3, 0, 3]].view(1, 4, 2).double()
    quadrangle, _ = fa.transform_points(corners, matrix.double(), (50, 40))

    def kept(least: float) -> Tensor:
        (got,), _ = fa.transform_boxes([box[None]], matrix, (50, 40), min(max(least, 0.0), 1.0), extent[None])
        return got

    if area:
        (got,) = kept(0)
        assert (got[:2] <= bounds[:2] + 1e-3).all()
        assert (got[2:] >= bounds[2:] - 1e-3).all()
    if quadrangle.isfinite().all() and (whole := cv2.contourArea(quadrangle[0].float().numpy())) > 1:
        if not area:  # a strip between the points may be as long as what the output has of the box
            seen = quadrangle[0].minimum(torch.tensor([40, 50])).clamp(min=0)
            bounds = torch.cat([seen.amin(0), seen.amax(0)])
        share, error = area / whole, 0.25 * (sum(bounds[2:] - bounds[:2]).item() + 1) / whole
        assert len(kept(share - error)) == 1 or share <= error, f"{share} of it is shown"
        assert len(kept(share + error)) == 0 or share + error >= 1, f"{share} of it is shown"


def test_boxes_in_a_perspective_are_what_opencv_cuts() -> None:
    frame = np.array([[0, 0], [40, 0], [40, 50], [0, 50]], np.float32)
    found = 0
    for seed in range(4):
        matrix = draws(ALL, 1, (70, 90), (50, 40), seed).matrix
        at = torch.rand(2, 40, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([90.0, 70])
        boxes, extent = torch.cat([at[0], at[0] + at[1] / 3], 1), torch.tensor([[20.5, 10, 70, 60.25]])
        (got,), (kept,) = fa.transform_boxes([boxes], matrix, (50, 40), 0.0, extent)
        expected = []
        for row, (x0, y0, x1, y1) in enumerate(boxes.clamp(extent[0, [0, 1, 0, 1]], extent[0, [2, 3, 2, 3]]).tolist()):
            corners = np.array([[[x0, y0], [x1, y0], [x1, y1], [x0, y1]]])
            quadrangle = cv2.perspectiveTransform(corners, matrix[0].double().numpy()).astype(np.float32)
            area, polygon = cv2.intersectConvexConvex(quadrangle, frame) if x0 < x1 and y0 < y1 else (0.0, None)
            if area > 1e-3:
                expected.append((row, [*polygon.min((0, 1)), *polygon.max((0, 1))]))
        assert kept.tolist() == [row for row, _ in expected]
        torch.testing.assert_close(got, torch.tensor(np.array([box for _, box in expected])), atol=2e-3, rtol=0)
        found += len(expected)
    assert 20 < found < 140


def test_a_box_that_only_touches_the_picture_is_not_kept() -> None:
    """By an edge or a corner of the output or of the extent; turned, where roundings make an edge of it."""
    touching = torch.tensor(
        [[-5.0, 0, 0, 10], [10, 0, 15, 10], [-5, -5, 0, 0], [0, 10, 10, 15], [3, 4, 3, 9], [3, 4, 9, 4]]
    )
    assert fa.transform_boxes([touching], EYE, 10, 0.0)[1][0].tolist() == []
    extent = torch.tensor([[0.0, 0, 10, 10]])
    for degrees in range(5, 360, 10):
        matrix = draws([fa.RandomRotation((degrees, degrees))], 1, (10, 10), (20, 20)).matrix.double()
        assert fa.transform_boxes([touching], matrix, 20, 0.0, extent)[1][0].tolist() == []
    slight = torch.tensor([[-5.0, 0, 0.01, 10]])
    assert fa.transform_boxes([slight], EYE, 10, 0.0)[0][0].tolist() == [[0, 0, torch.tensor(0.01).item(), 10]]
    thin, moved = torch.tensor([[0.0, 0, 0.001, 10]]), torch.tensor([[[1.0, 0, 9], [0, 1, 0], [0, 0, 1]]])
    assert fa.transform_boxes([thin], moved, 10, 0.0)[1][0].tolist() == [0]
    assert fa.transform_boxes([thin.half()], moved, 10, 0.0)[1][0].tolist() == [], "9 to 9.001 is no width there"


def test_boxes_and_points_know_what_the_picture_shows() -> None:
    extent = torch.tensor([[2.5, 0, 6, 8]])
    boxes = torch.tensor([[0.0, 2, 2.5, 4], [0, 2, 5, 4], [3, 2, 5, 4], [5, 2, 25, 4], [6, 2, 9, 4]])
    (got,), (kept,) = fa.transform_boxes([boxes], EYE, 10, 0.05, extent)
    assert kept.tolist() == [1, 2, 3]
    assert got.tolist() == [[2.5, 2, 5, 4], [3, 2, 5, 4], [5, 2, 6, 4]]
    assert fa.transform_boxes([boxes], EYE, 10, 0.1, extent)[1][0].tolist() == [1, 2], "a twentieth of one is seen"
    assert fa.transform_boxes([boxes], EYE, 10, 0.5, extent)[1][0].tolist() == [1, 2], "half of one is seen"
    points = torch.tensor([[[2.4, 1], [2.5, 1], [5.9, 1], [6, 1], [3, 8], [3, 0]]])
    moved, visible = fa.transform_points(points, EYE, 10, extent)
    assert visible[0].tolist() == [False, True, True, False, False, True]
    assert torch.equal(moved, points), "the others have places too"


def test_pairs_are_exchanged_by_a_mirror_only() -> None:
    keypoints, mirror, upside_down = torch.arange(24.0).view(2, 4, 3), torch.eye(3), torch.eye(3)
    mirror[0] = torch.tensor([-1.0, 0, 90])
    upside_down[1] = torch.tensor([0, -1.0, 70])
    turned = draws([fa.RandomRotation((30, 30)), fa.RandomPerspective(0.3, p=1.0)], 1, (70, 90), (70, 90)).matrix[0]
    swapped = keypoints[:, [1, 0, 2, 3]]
    for matrix, expected in (
        (mirror, swapped), (upside_down, swapped), (turned @ mirror, swapped),
        (torch.eye(3), keypoints), (turned, keypoints), (mirror @ upside_down, keypoints),
    ):  # fmt: skip
        assert torch.equal(swap_pairs(keypoints, matrix, [(0, 1)]), expected)
    assert torch.equal(swap_pairs(keypoints, mirror, [(3, 0), (1, 2)]), keypoints.flip(1))
    assert swap_pairs(keypoints, mirror, []) is keypoints
    each = swap_pairs(keypoints, torch.stack([mirror, turned]), [(0, 1)])
    assert torch.equal(each, torch.stack([swapped[0], keypoints[1]]))
    assert swap_pairs(keypoints[:0], mirror, [(0, 1)]).shape == (0, 4, 3)


def wrong_pixels(image: Tensor, mask: Tensor) -> int:
    """Of masks [B, H, W] of classes 1, 2 and 3, which images [B, 3, H, W] show in red, green and blue; black is 255.

    Counted where all of a pixel's neighbours show one class, since an image is not sharp.
    """
    shown = torch.where(image.sum(1) < 0.5, 255, image.argmax(1) + 1)
    windows = shown.unfold(1, 3, 1).unfold(2, 3, 1).flatten(3)
    sure = (windows == windows[..., :1]).all(-1)
    inner = mask[:, 1:-1, 1:-1]
    return int(((inner != shown[:, 1:-1, 1:-1]) & (inner != 255) & sure).sum())


def test_the_count_of_wrong_pixels_sees_one() -> None:
    mask = torch.ones(1, 9, 9, dtype=torch.int64)
    mask[:, :, 5:] = 2
    image = torch.nn.functional.one_hot(mask - 1, 3).permute(0, 3, 1, 2).float()
    assert wrong_pixels(image, mask) == 0
    mask[0, 4, 2] = 3
    assert wrong_pixels(image, mask) == 1
    mask[0, 4, 2], image[0, :, :4, :4] = 255, 0
    assert wrong_pixels(image, mask) == 4, "black is no class"


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> tuple[fa.Samples, Tensor]:
    """A wide photo whose colour is the class, and its mask."""
    mask = ((np.arange(300) // 15) % 3 + 1).astype(np.uint8)[None].repeat(150, 0)
    path = tmp_path_factory.mktemp("stripes") / "0.png"
    Image.fromarray(np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)[mask]).save(path)
    return fa.Samples([str(path)] * 32, [0] * 32, ["a"]), torch.from_numpy(mask)


def seen_by_hand(info: fa.BatchInfo, mode: str, presize: int) -> tuple[Tensor, Tensor]:
    """What the warp saw of each photo, [B, 4], and the size of its pixels, [B, 2]."""
    extent = torch.cat([torch.zeros_like(info.sizes), info.sizes.flip(1)], 1).double()
    if mode == "resize":
        square = torch.tensor([[[0.0, 0], [presize, presize]]], dtype=torch.float64).expand(len(extent), 2, 2)
        extent = fa.transform_points(square, fa.inverse_matrix(info.presize.double()), (1, 1))[0].flatten(1)
    pixel = (extent[:, 2:] - extent[:, :2]) / presize if mode == "resize" else torch.ones(len(extent), 2).double()
    return extent, pixel


@pytest.mark.parametrize("mode", ["resize", "direct"])
@pytest.mark.parametrize("padding", ["reflection", "border", "zeros"])
def test_masks_show_what_the_picture_shows(stripes: tuple[fa.Samples, Tensor], mode: Any, padding: Any) -> None:
    samples, mask = stripes
    augment = fa.aug_transforms(size=64, max_lighting=0, normalize=None, interpolation="nearest", padding=padding)
    with fa.ImageLoader(
        samples, 32, presize=128, augment=augment, mode=mode, return_info=True, device="cpu", num_threads=1
    ) as loader:
        x, _, info = next(iter(loader))
    extent, pixel = seen_by_hand(info, mode, 128)
    masks = [mask] * 32
    filled = fa.warp_masks(masks, info.matrix, 64, 255, "fill", extent, pixel)
    assert wrong_pixels(x, filled) == 0
    assert (filled == 255).any()
    if padding != "zeros":
        alike = fa.warp_masks(masks, info.matrix, 64, 255, padding, extent, pixel)
        assert wrong_pixels(x, alike) == 0
        assert (alike != 255).all()
    if mode == "resize":
        assert wrong_pixels(x, fa.warp_masks(masks, info.matrix, 64)) > 100, "the photo beside the presize's square"


def test_no_box_is_kept_of_which_the_picture_shows_nothing(stripes: tuple[fa.Samples, Tensor]) -> None:
    """Boxes beside the presize's square, turned to where the output would show them."""
    augment = fa.Augment([fa.RandomRotation((45, 45))], size=64, padding="zeros", normalize=None)
    with fa.ImageLoader(
        stripes[0], 32, presize=128, augment=augment, return_info=True, device="cpu", num_threads=1
    ) as loader:
        _, _, info = next(iter(loader))
    extent, _ = seen_by_hand(info, "resize", 128)
    right = torch.stack([extent[:, 2], torch.zeros(32), extent[:, 2], torch.zeros(32)], 1).float()
    boxes = (right + torch.tensor([1.0, 65, 15, 85]))[:, None]
    assert sum(map(len, fa.transform_boxes(boxes, info.matrix, 64, 0.9)[1])) > 16
    assert sum(map(len, fa.transform_boxes(boxes, info.matrix, 64, 0.0, extent)[1])) == 0
    across = boxes - torch.tensor([8.0, 0, 8, 0])
    _, kept = fa.transform_boxes(across, info.matrix, 64, 0.1, extent)
    assert sum(map(len, kept)) == 32, "half of each is in the square"


@settings(max_examples=60, deadline=None)
@given(matrices, st.floats(0, 1), st.floats(0, 1))
def test_there_and_back(matrix: Tensor, x: float, y: float) -> None:
    points = torch.tensor([[[x * 90, y * 70]]])
    moved, _ = fa.transform_points(points, matrix, (50, 40))
    if moved.isfinite().all() and moved.abs().max() < 500:
        back, visible = fa.transform_points(moved, fa.inverse_matrix(matrix), (71, 91))
        torch.testing.assert_close(back, points, atol=0.02, rtol=0)
        assert visible.all() or points.min() < 0.02


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_predictions_go_back_to_the_photo(tmp_path: Path, mode: str) -> None:
    """The marker is looked for in the model's input, and carried back with info.matrix to where it was painted."""
    sizes, boxes = [(90, 120), (140, 100)], []
    for i, (height, width) in enumerate(sizes):
        image, _, box, _ = marker(height, width, width // 2 - 8, height // 2 - 5, side=20)
        Image.fromarray(image.numpy()).save(tmp_path / f"{i}.png")
        boxes.append(box[0])
    samples = fa.Samples([str(tmp_path / f"{i}.png") for i in range(2)], [0, 1], ["a", "b"])
    augment = fa.Augment([fa.RandomRotation((90, 90)), fa.RandomPerspective(0.1)], 96, padding="zeros", normalize=None)
    loader = fa.ImageLoader(
        samples, 2, presize=128, augment=augment, device="cpu", mode=mode, return_info=True, num_threads=1
    )
    ((x, y, info),) = loader
    back = fa.inverse_matrix(info.matrix)
    predicted, centres = (torch.stack(parts) for parts in zip(*[found(image) for image in x], strict=True))
    got, kept = fa.transform_boxes(predicted[:, None], back, info.sizes)
    points, visible = fa.transform_points(centres[:, None], back, info.sizes)
    for i, label in enumerate(y.tolist()):
        mask = (x[i : i + 1, 0] > 0.5).to(torch.uint8)
        height, width = info.sizes[i].tolist()
        on_photo = fa.warp_masks(mask, back[i : i + 1], (height, width), fill=0)[0]
        expected = boxes[label]
        assert kept[i].tolist() == [0]
        assert visible[i].all()
        assert (got[i][0] - expected).abs().max() < 4  # an upright box of a slightly tilted one, whole pixels
        assert (points[i, 0] - (expected[:2] + expected[2:]) / 2).norm() < 1
        painted = torch.zeros(height, width, dtype=torch.bool)
        painted[int(expected[1]) : int(expected[3]), int(expected[0]) : int(expected[2])] = True
        union = ((on_photo > 0) | painted).sum()
        assert ((on_photo > 0) & painted).sum() / union > 0.85


def test_the_inverse_is_float64s() -> None:
    matrix = draws(ALL, 4, (3000, 4000), (224, 224)).matrix
    inverse = fa.inverse_matrix(matrix)
    assert inverse.dtype == torch.float32
    assert torch.equal(inverse, torch.linalg.inv(matrix.double()).float())
    assert fa.inverse_matrix(matrix[0]).shape == (3, 3)


EYE = torch.eye(3)[None]
MASK = torch.zeros(1, 4, 5, dtype=torch.uint8)
BOX = torch.tensor([[[1.0, 1, 2, 2]]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fa.warp_masks(MASK.float(), EYE, 4), TypeError, "warp_masks: expected bool or integer masks, got tor"),
        (lambda: fa.warp_masks([MASK[0].numpy()], EYE, 4), TypeError, "got ndarray"),
        (lambda: fa.warp_masks(MASK[None], EYE, 4), ValueError, r"got torch.uint8 \[1, 1, 4, 5\]. Remove a channel"),
        (lambda: fa.warp_masks(MASK[0], EYE, 4), ValueError, r"expected masks \[B, H, W\].*got torch.uint8 \[4, 5\]"),
        (lambda: fa.warp_masks(MASK[:, :0], EYE, 4), ValueError, r"\[1, 0, 5\]"),
        (lambda: fa.warp_masks([MASK[0], MASK[0].long()], EYE, 4), ValueError, "of one dtype, got torch.int64"),
        (lambda: fa.warp_masks(MASK, EYE.repeat(2, 1, 1), 4), ValueError, r"matrix \[1, 3, 3\] for 1 masks, got .*\[2"),
        (lambda: fa.warp_masks(MASK, torch.zeros(1, 3, 3), 4), ValueError, "expected invertible matrices"),
        (
            lambda: fa.warp_masks(MASK, EYE, 4, padding="zeros"),
            ValueError,
            "one of fill, reflection, border, got 'zeros'",
        ),
        (
            lambda: fa.warp_masks(MASK, EYE, 4, extent=BOX[0, 0]),
            ValueError,
            r"a float extent \[1, 4\].* got torch.float",
        ),
        (
            lambda: fa.warp_masks(MASK, EYE, 4, pixel=BOX[0]),
            ValueError,
            r"a float pixel \[1, 2\].* got torch.float32 \[1, 4",
        ),
        (
            lambda: fa.transform_points(BOX[..., :2], EYE, 4, BOX[0].flip(1)),
            ValueError,
            r"x0 < x1 and y0 < y1, got \[2.0, 2.0, 1.0, 1.0\] for image 0. To \(x, y, width, height\)",
        ),
        (
            lambda: fa.transform_boxes(BOX, EYE, 4, extent=BOX[0].long()),
            ValueError,
            r"extent \[1, 4\].* got torch.int64",
        ),
        (lambda: swap_pairs(BOX, EYE[0], [(0, 1)]), ValueError, r"pairs of key points 0..0, each in one pair, got"),
        (
            lambda: swap_pairs(EYE, EYE[0], [(0, 1), (1, 2)]),
            ValueError,
            r"each in one pair, got \[\(0, 1\), \(1, 2\)\]",
        ),
        (lambda: fa.warp_masks(MASK, EYE, 0), ValueError, "warp_masks: expected a size above 0"),
        (
            lambda: fa.warp_masks(MASK, EYE, 4, fill=256),
            ValueError,
            "a fill between 0 and 255 for torch.uint8, got 256",
        ),
        (lambda: fa.warp_masks(MASK.bool(), EYE, 4), ValueError, "a fill between 0 and 1 for torch.bool, got 255"),
        (
            lambda: fa.transform_points(BOX[..., :2].long(), EYE, 4),
            TypeError,
            r"got torch.int64 .* Convert with .float",
        ),
        (lambda: fa.transform_points(BOX, EYE, 4), ValueError, r"expected points \[B, N, 2\], .* got \[1, 1, 4\]"),
        (lambda: fa.transform_points(BOX[..., :2], EYE.long(), 4), ValueError, "expected a float matrix"),
        (lambda: fa.transform_points(BOX[..., :2], EYE, 0.5), ValueError, "expected a size above 0"),
        (lambda: fa.transform_points(BOX[..., :2], EYE, torch.ones(2, 2).long()), ValueError, r"integers \[1, 2\]"),
        (lambda: fa.transform_boxes(BOX[0], EYE, 4), ValueError, r"expected boxes \[N, 4\], got \[4\] for image 0"),
        (lambda: fa.transform_boxes([torch.tensor([])], EYE, 4), ValueError, r"For none: torch.zeros\(0, 4\)"),
        (lambda: fa.transform_boxes(BOX.long(), EYE, 4), TypeError, "expected float boxes, got torch.int64"),
        (lambda: fa.transform_boxes(BOX, EYE.repeat(2, 1, 1), 4), ValueError, r"matrix \[1, 3, 3\] for 1 images, got"),
        (lambda: fa.transform_boxes(BOX, EYE, 4, min_visible=10), ValueError, r"min_visible in \[0, 1\]"),
        (
            lambda: fa.transform_boxes([torch.tensor([[0.0, 0, 1, 1], [10, 10, 5, 20]])], EYE, 4),
            ValueError,
            r"got \[10.0, 10.0, 5.0, 20.0\] in row 1 of image 0. To boxes \(x, y, width, height\)",
        ),
        (lambda: fa.warp_masks(Image.new("L", (5, 4)), EYE, 4), TypeError, "got Image"),
        (lambda: fa.warp_masks(MASK, EYE.numpy(), 4), ValueError, "expected a float matrix .* got ndarray"),
        (lambda: fa.inverse_matrix(EYE.numpy()), TypeError, "inverse_matrix: expected a float matrix .* got ndarray"),
        (lambda: fa.inverse_matrix(EYE.long()), TypeError, "inverse_matrix: expected a float matrix"),
        (lambda: fa.inverse_matrix(torch.zeros(3, 3)), torch.linalg.LinAlgError, "singular"),
    ],
)
def test_errors_say_what_was_expected(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_params_slice_and_copy_with_their_size() -> None:
    params = draws([*ALL, fa.RandomErasing(p=1.0)], 4, (30, 30), (24, 20))
    part = copy.deepcopy(params)[[1, 3]]
    assert part.size == (24, 20)
    assert torch.equal(part.erase, params.erase[[1, 3]])
    assert torch.equal(part.erase_color, params.erase_color[[1, 3]])
