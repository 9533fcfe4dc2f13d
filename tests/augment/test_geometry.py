import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import functional as tv

from fastaug.augment import geometry
from fastaug.warping.warp import warp
from tests.compare import assert_images_close, photo


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def place(matrix: Tensor, x: float, y: float) -> list[float]:
    point = matrix[0] @ f64(x, y, 1)
    return (point[:2] / point[2]).tolist()


def test_rotation_is_counter_clockwise_like_opencv_and_torchvision() -> None:
    matrix = geometry.rotation_matrix(f64(30), f64(640), f64(480))
    expected = cv2.getRotationMatrix2D((320, 240), 30, 1.0)
    np.testing.assert_allclose(matrix[0, :2].numpy(), expected, atol=1e-9)
    image = photo("astronaut", 101, 101)
    turned = warp(image[None], geometry.rotation_matrix(f64(90), f64(101), f64(101)), 101, "nearest")
    expected = tv.rotate(image.permute(2, 0, 1), 90)
    assert_images_close(turned[0], expected / 255, 1e-4)


def test_perspective_moves_the_corners_as_stated() -> None:
    matrix = geometry.perspective_matrix(f64(0.2), f64(0.0), f64(100), f64(50))
    corners = {(0, 0): (0, -5), (0, 50): (0, 55), (100, 0): (100, 5), (100, 50): (100, 45)}
    for (x, y), expected in corners.items():
        np.testing.assert_allclose(place(matrix, x, y), expected, atol=1e-9)
    source, target = (np.array(points, np.float32) for points in (list(corners), list(corners.values())))
    np.testing.assert_allclose(matrix[0].numpy(), cv2.getPerspectiveTransform(source, target), atol=1e-5)


def test_perspective_of_nothing_is_nothing() -> None:
    matrix = geometry.perspective_matrix(f64(0), f64(0), f64(460), f64(460))
    torch.testing.assert_close(matrix, geometry.identity_matrix(1))


def test_zoom_shows_the_window_it_names() -> None:
    matrix = geometry.zoom_matrix(f64(2), torch.tensor([[1.0, 0.0]]), f64(100), f64(60))
    assert place(matrix, 50, 0) == [0, 0]
    assert place(matrix, 100, 30) == [100, 60]


def test_flips_and_transpose() -> None:
    yes, no, width, height = torch.tensor([True]), torch.tensor([False]), f64(100), f64(60)
    assert place(geometry.flip_matrix(yes, no, width, height), 0, 0) == [100, 0]
    assert place(geometry.flip_matrix(no, yes, width, height), 0, 0) == [0, 60]
    assert place(geometry.transpose_matrix(yes, width, height), 100, 0) == [0, 60]
    for flip in (geometry.flip_matrix(yes, yes, width, height), geometry.transpose_matrix(yes, width, height)):
        torch.testing.assert_close(flip @ flip, geometry.identity_matrix(1))


@settings(max_examples=200, deadline=None)
@given(
    degrees=st.floats(-180, 180),
    tilt=st.tuples(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4)),
    zoom=st.floats(0.5, 3),
    position=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    aspect=st.floats(0.3, 3),
)
def test_shrink_inside_leaves_no_corner_outside(
    degrees: float, tilt: tuple[float, float], zoom: float, position: tuple[float, float], aspect: float
) -> None:
    width, height = f64(300 * aspect), f64(300)
    matrix = geometry.perspective_matrix(f64(tilt[0]), f64(tilt[1]), width, height)
    matrix = geometry.rotation_matrix(f64(degrees), width, height) @ matrix
    matrix = geometry.zoom_matrix(f64(zoom), torch.tensor([position]), width, height) @ matrix
    matrix = geometry.resize_matrix(width, height, f64(224), f64(200)) @ matrix
    inside = geometry.shrink_inside(matrix, width, height, 224, 200)
    corners = f64(0, 0, 1, 224, 0, 1, 0, 200, 1, 224, 200, 1).reshape(4, 3)
    seen = corners @ torch.linalg.inv(inside)[0].T
    seen = seen[:, :2] / seen[:, 2:]
    limits = torch.cat([width, height])
    assert (seen >= -1e-6).all()
    assert (seen <= limits + 1e-6).all()
    before = corners @ torch.linalg.inv(matrix)[0].T
    if (before[:, 2] > 0).all():
        before = before[:, :2] / before[:, 2:]
        if ((before >= 0) & (before <= limits)).all():
            torch.testing.assert_close(inside / inside[0, 2, 2], matrix / matrix[0, 2, 2])
        else:  # the window was not shrunk further than it had to be: it touches an edge
            assert torch.minimum(seen, limits - seen).min() < 1e-3


def test_integer_centred_conversion_there_and_back() -> None:
    matrix = geometry.rotation_matrix(f64(10), f64(50), f64(50))
    torch.testing.assert_close(geometry.from_integer_centred(geometry.to_integer_centred(matrix)), matrix)
    doubled = geometry.resize_matrix(f64(10), f64(10), f64(20), f64(20))
    expected = f64(2, 0, 0.5, 0, 2, 0.5, 0, 0, 1).reshape(1, 3, 3)  # pixel centre 0 -> 0.5, between pixels 0 and 1
    torch.testing.assert_close(geometry.to_integer_centred(doubled), expected)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_every_matrix_is_batched(batch: int) -> None:
    size, zero = torch.full((batch,), 100.0, dtype=torch.float64), torch.zeros(batch, dtype=torch.float64)
    position, no = torch.zeros(batch, 2), torch.zeros(batch, dtype=torch.bool)
    for matrix in (
        geometry.rotation_matrix(zero, size, size),
        geometry.perspective_matrix(zero, zero, size, size),
        geometry.zoom_matrix(size, position, size, size),
        geometry.flip_matrix(no, no, size, size),
        geometry.transpose_matrix(no, size, size),
        geometry.resize_matrix(size, size, size, size),
        geometry.shrink_inside(geometry.identity_matrix(batch), size, size, 100, 100),
    ):
        assert matrix.shape == (batch, 3, 3)
        assert matrix.dtype == torch.float64
