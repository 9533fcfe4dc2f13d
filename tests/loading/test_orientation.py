"""The eight orientations: pixels against Pillow, the matrix against the upright original."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fastaug.loading.cpu_decoder import CpuDecoder
from fastaug.loading.orientation import steps_upright, turn_upright, upright_matrix, upright_size
from fastaug.loading.photo import Need, Photo
from fastaug.memory import Memory
from tests.factories import encode

TURNS = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
SIZES = [(64, 96), (65, 97), (71, 90), (63, 103), (33, 34)]


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    turn, image = TURNS[orientation], Image.fromarray(pixels)
    return np.asarray(image if turn is None else image.transpose(turn))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_turned_as_pillow_turns_them(orientation: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 3), np.uint8)
    expected = turned(pixels, orientation)
    assert upright_size(5, 8, orientation) == expected.shape[:2]
    copy = turn_upright(pixels, orientation, Memory())
    assert np.array_equal(copy, expected)
    assert copy.flags.c_contiguous
    assert np.shares_memory(copy, pixels) == (orientation == 1)
    exchanged, reversed_axes = steps_upright(orientation)
    assert np.array_equal(np.flip(pixels.swapaxes(0, 1) if exchanged else pixels, reversed_axes), expected)


def gradient(height: int, width: int) -> np.ndarray:
    """The middle of each upright pixel as its colour: red is 2 · x + 20, green 2 · y + 20."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([2 * x + 20, 2 * y + 20, np.full_like(x, 128)], -1).round().astype(np.uint8)


def farthest(photo: Photo, matrix: np.ndarray) -> float:
    """How far, in pixels of the original, what decoded pixels show lies from where a matrix says they lie.

    Where a block of the inverse cosine transform has no pixels of the original any more, colours are not smooth: a
    block's width is left out at each edge.
    """
    height, width, _ = photo.pixels.shape
    scale = matrix[0, 0]
    edge = int(np.ceil(8 * scale))
    rows, columns = (np.arange(edge, n - edge) + 0.5 for n in (height, width))
    shown = (photo.pixels.numpy()[edge : height - edge, edge : width - edge, :2].astype(float) - 20) / 2
    x = (columns - matrix[0, 2]) / matrix[0, 0]
    y = (rows - matrix[1, 2]) / matrix[1, 1]
    means = np.abs(np.median(shown[..., 0], 0) - x), np.abs(np.median(shown[..., 1], 1) - y)
    return float(max(means[0].max(), means[1].max()))


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_matrix_says_where_decoded_pixels_lie(orientation: int, scale: int) -> None:
    decoder, inverse = CpuDecoder(1), {6: 8, 8: 6}.get(orientation, orientation)
    for size in SIZES:
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encode(turned(gradient(*size), inverse), quality=100, subsampling=0, exif=exif)
        (photo,) = decoder.decode([content], [Need(size, 2.0 * scale, 2.0 * scale, (0, 0, 1, 1))])
        assert isinstance(photo, Photo)
        assert photo.size == size
        assert tuple(photo.pixels.shape[:2]) == tuple(-(-n // scale) for n in size)
        matrix = upright_matrix(size, orientation, scale)
        assert np.array_equal(photo.matrix, matrix)
        if min(photo.pixels.shape[:2]) > 2 * np.ceil(8 / scale):
            tolerance = 0.75 + 0.02 * scale  # a colour is a whole number, and the transform rounds
            assert farthest(photo, matrix) <= tolerance
            for axis in (0, 1):
                off = matrix.copy()
                off[axis, 2] += 2 / scale
                assert farthest(photo, off) > tolerance, "two pixels of the original would be seen"


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_original_lies_within_what_was_decoded(orientation: int, scale: int) -> None:
    for height, width in SIZES:
        matrix = upright_matrix((height, width), orientation, scale)
        corners = matrix[:2, :2] @ np.array([[0, width], [0, height]]) + matrix[:2, 2:]
        columns, rows = -(-width // scale), -(-height // scale)
        assert (corners >= 0).all()
        assert (corners[0] <= columns).all()
        assert (corners[1] <= rows).all()
        # stored upright or not, it begins at the corner that the file begins at
        begins = turned(np.pad(np.full((1, 1, 3), 9, np.uint8), ((0, 1), (0, 1), (0, 0))), orientation)[..., 0]
        (row,), (column,) = np.nonzero(begins)
        assert corners[:, 0][0] == 0 if column == 0 else corners[0, 1] == columns
        assert corners[1, 0] == 0 if row == 0 else corners[1, 1] == rows


def test_a_matrix_that_forgets_where_the_file_begins_is_rejected() -> None:
    """Of a mirrored photo whose width the scale does not divide, the pixels lie up to 7/8 of a pixel further right."""
    exif = Image.Exif()
    exif[0x0112] = 2
    size = (65, 97)
    content = encode(turned(gradient(*size), 2), quality=100, subsampling=0, exif=exif)
    (photo,) = CpuDecoder(1).decode([content], [Need(size, 16.0, 16.0, (0, 0, 1, 1))])
    assert isinstance(photo, Photo)
    assert farthest(photo, upright_matrix(size, 2, 8)) < 1
    assert farthest(photo, upright_matrix(size, 1, 8)) > 6
