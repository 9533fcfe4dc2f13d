"""The resize of the CPU against the filter's formula, Pillow and DALI."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fastaug.loading.decode import make_decoder
from fastaug.loading.photo import Resizing
from fastaug.loading.resize import resize
from tests.factories import decode, encode, pixels_of, squares


def stated(image: np.ndarray, box: tuple[float, float, float, float], rows: int, columns: int) -> np.ndarray:
    """The formula, in float64 and whole matrices: [rows, columns, 3], clipped but not rounded."""

    def matrix(start: float, extent: float, count: int, limit: int) -> np.ndarray:
        scale = extent / count
        wide = max(scale, 1.0)
        centers = start + (np.arange(count) + 0.5) * scale
        found = np.zeros((count, limit))
        margin = int(4 * wide) + 2
        for k in range(-margin, limit + margin):
            x = (k + 0.5 - centers) / wide
            found[:, min(max(k, 0), limit - 1)] += np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
        return found / found.sum(1, keepdims=True)

    x, y, width, height = box
    down, across = matrix(y, height, rows, image.shape[0]), matrix(x, width, columns, image.shape[1])
    return np.clip(np.einsum("vy,yxc,ux->vuc", down, image.astype(np.float64), across, optimize=True), 0, 255)


def levels(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference; half a level is rounding."""
    return float(np.abs(got.astype(np.float64) - expected).max())


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def resized(image: np.ndarray, box: tuple[float, float, float, float], rows: int, columns: int) -> np.ndarray:
    """Into the middle of other memory, which must stay as it is."""
    memory = np.full(rows * columns * 3 + 128, 77, np.uint8)
    out = memory[64:-64].reshape(rows, columns, 3)
    resize(image, box, out)
    assert (memory[:64] == 77).all()
    assert (memory[-64:] == 77).all()
    return out


@pytest.mark.parametrize(
    ("shape", "box", "size"),
    [
        ((375, 500), (60.25, 0.0, 375.0, 375.0), (460, 460)),  # enlarged a little
        ((30, 41), (3.5, 0.25, 29.5, 29.5), (224, 224)),  # 8 times
        ((300, 300), (0.0, 0.0, 300.0, 300.0), (300, 300)),  # a copy
        ((300, 300), (0.3, 0.0, 299.7, 299.7), (299, 301)),
        ((500, 700), (100.0, 20.0, 480.0, 480.0), (460, 460)),  # shrunk a little: 7 taps, 2 groups of 6
        ((900, 1200), (0.0, 0.0, 1200.0, 900.0), (300, 333)),
        ((800, 640), (0.0, 0.0, 640.0, 800.0), (20, 16)),  # 40 times
        ((64, 2000), (0.0, 0.0, 2000.0, 64.0), (128, 31)),  # enlarged one way, shrunk the other way
        ((1, 1), (0.0, 0.0, 1.0, 1.0), (9, 9)),
        ((1, 200), (0.0, 0.0, 200.0, 1.0), (50, 50)),
        ((200, 1), (0.0, 0.0, 1.0, 200.0), (50, 50)),
        ((2, 3), (0.0, 0.0, 3.0, 2.0), (40, 41)),
        ((5, 5), (1.0, 1.0, 3.0, 3.0), (7, 7)),
        ((4, 4), (0.0, 0.0, 4.0, 4.0), (1, 1)),
        ((50, 60), (58.0, 48.0, 2.0, 2.0), (33, 33)),  # in the corner
        ((50, 60), (0.0, 0.0, 2.0, 2.0), (33, 33)),
        ((50, 60), (20.0, 20.0, 0.01, 0.01), (5, 5)),  # hardly anything
    ],
)
def test_it_is_the_formula(shape, box, size):
    image = noise(*shape)
    assert levels(resized(image, box, *size), stated(image, box, *size)) <= 0.505


def test_random_boxes():
    random = np.random.default_rng(7)
    for seed in range(40):
        height, width = random.integers(1, 160, 2).tolist()
        image = noise(height, width, seed)
        box_width, box_height = random.uniform(0.05, 1, 2) * (width, height)
        box = (random.uniform(0, width - box_width), random.uniform(0, height - box_height), box_width, box_height)
        rows, columns = random.integers(1, 120, 2).tolist()
        assert levels(resized(image, box, rows, columns), stated(image, box, rows, columns)) <= 0.505, (seed, box)


@pytest.mark.parametrize(
    "wrong", ["off by a tenth of a pixel", "not antialiased", "channels swapped", "a row unwritten"]
)
def test_the_comparison_rejects_a_wrong_answer(wrong):
    image, box = noise(90, 120), (10.0, 5.0, 80.0, 80.0)
    got = resized(image, box, 60, 60)
    if wrong == "off by a tenth of a pixel":
        got = resized(image, (10.1, 5.0, 80.0, 80.0), 60, 60)
    elif wrong == "not antialiased":
        got = image[5:85:4, 10:90:4].repeat(3, 0).repeat(3, 1)
    elif wrong == "channels swapped":
        got = got[..., ::-1]
    else:
        got[-1] = 0
    assert levels(got, stated(image, box, 60, 60)) > 2


def test_it_is_pillows_lanczos_away_from_the_edge():
    image, box = noise(200, 260), (20.5, 10.25, 180.0, 170.0)
    for rows, columns in ((333, 90), (100, 400)):
        pillow = np.stack(
            [
                np.asarray(
                    Image.fromarray(image[..., c].astype(np.float32)).resize(
                        (columns, rows), Image.Resampling.LANCZOS, box=(20.5, 10.25, 200.5, 180.25)
                    )
                )
                for c in range(3)
            ],
            -1,
        )
        inside = (slice(rows // 8, -rows // 8), slice(columns // 8, -columns // 8))
        assert levels(resized(image, box, rows, columns)[inside], np.clip(pillow, 0, 255)[inside]) <= 0.51


@pytest.mark.parametrize("shape", [(375, 500), (1001, 750), (17, 9), (1, 1)])
def test_a_gpus_presize_is_the_same_within_a_level(shape):
    """DALI's resize, on a CPU: the code that a GPU runs."""
    pytest.importorskip("nvidia.dali")
    decoder = make_decoder("dali", num_threads=2)
    photos, _ = decode(decoder, [encode(noise(*shape), "PNG", compress_level=1)] * 3)
    side = np.float32([min(shape), min(shape) * 0.9, min(shape) * 0.5])
    corner = np.float32([[0, 0], [0.05, 0.0], [0.2, 0.3]]) * min(shape)
    square = squares(corner, side, 128)
    got, with_dali = (
        torch.stack(pixels_of(resize(photos, square))).numpy() for resize in (decoder.resize, decoder._resize_with_dali)
    )
    difference = np.abs(got.astype(int) - with_dali.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.05  # DALI looks its filter up in a table
    smaller = Resizing([0, 1, 2], [(0.0, 0.0, float(shape[1]), float(shape[0]))] * 3, [(3, 5), (30, 20), (100, 64)])
    with_dali = pixels_of(decoder._resize_with_dali(photos, smaller))
    for a, b in zip(pixels_of(decoder.resize(photos, smaller)), with_dali, strict=True):
        assert a.shape == b.shape
        assert np.abs(a.numpy().astype(int) - b.numpy().astype(int)).max() <= 1
    decoder.close()


def test_memory_that_it_cannot_use():
    image = noise(20, 20)
    with pytest.raises(ValueError, match="expected out as C-contiguous uint8"):
        resize(image, (0, 0, 20, 20), np.empty((10, 20, 3), np.uint8)[:, ::2])
    with pytest.raises(ValueError, match=r"expected image as .* got float32 \[20, 20, 3\]"):
        resize(image.astype(np.float32), (0, 0, 20, 20), np.empty((10, 10, 3), np.uint8))
