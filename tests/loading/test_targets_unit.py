"""Targets of each kind on their way to y: taken, or through the matrices of a batch."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import fastaug as fa
from fastaug.loading.orientation import turn_upright
from fastaug.loading.pillow import Unreadable, decode_mask
from fastaug.loading.targets import BatchTargets, TargetOptions, View, targets_of, to_device
from fastaug.memory import Memory
from fastaug.samples.targets import MaskFiles, Objects

PATHS = ["a.jpg", "b.jpg", "c.jpg"]
MIRROR = torch.tensor([[-1.0, 0, 20], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
EYE = torch.eye(3, dtype=torch.float64)


def view(
    *matrices: Tensor,
    size: tuple[int, int] = (10, 20),
    extent: tuple[float, ...] = (0, 0, 20, 10),
    padding: str = "reflection",
    erase: Tensor | None = None,
) -> View:
    extents = torch.tensor([extent], dtype=torch.float64).expand(len(matrices), 4)
    return View(torch.stack(matrices), extents, size, padding, erase)


def targets(given: Any, classes: list[str] | None = None, **options: Any) -> BatchTargets:
    count = len(PATHS) if given is None else len(given)
    return targets_of(fa.Samples(PATHS[:count], given, classes), TargetOptions(**options))


def made(of: BatchTargets, rows: list[int], *views: View, decoded: Any = (), sizes: Any = None) -> Any:
    return of.make(np.array(rows, np.int64), decoded, sizes or [(10, 20)] * len(rows), views)


def test_values_are_taken() -> None:
    views = view(EYE, EYE), view(EYE, MIRROR)
    for several in (views[:1], views):
        of_class = made(targets([0, -1, 1], ["x", "y"]), [2, 1], *several)
        assert of_class.dtype == torch.int64
        assert of_class.tolist() == [1, -1]
        labels = made(targets([["y", "x"], [], ["z"]], ["x", "y", "z"]), [0, 1], *several)
        assert labels.dtype == torch.float32
        assert labels.tolist() == [[1, 1, 0], [0, 0, 0]]
        numbers = made(targets([0.5, 2.0, 3.0]), [2, 0], *several)
        assert numbers.dtype == torch.float32
        assert numbers.tolist() == [3, 0.5]
        assert made(targets(np.array([[1.0, 2], [3, 4], [5, 6]])), [1], *several).tolist() == [[3, 4]]
        assert made(targets(None), [1, 2], *several) is None
    for one in (targets([0, 1, 1], ["x", "y"]), targets(None)):
        assert one.files is None
        assert one.check(0, (10, 20)) is None


def test_what_is_made_of_numbers_is_no_view_of_them() -> None:
    of = targets([0.5, 2.0, 3.0])
    made(of, [0, 1, 2], view(EYE)).zero_()
    assert made(of, [1], view(EYE)).tolist() == [2]


def test_numbers_that_nobody_may_write_to_are_copied() -> None:
    samples = fa.Samples(PATHS, [0.5, 2.0, 3.0])
    samples.targets.flags.writeable = False
    assert made(targets_of(samples, TargetOptions()), [1], view(EYE)).tolist() == [2]


NUMBERS = np.arange(200, dtype=np.uint8).reshape(10, 20)


def png(values: np.ndarray, **more: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", **more)
    return buffer.getvalue()


def test_masks_go_through_each_views_matrix() -> None:
    of = targets(MaskFiles(["a.png", "b.png"]), fill=255)
    assert of.files is not None
    assert list(of.files) == ["a.png", "b.png"]
    decoded = [of.decode(0, png(NUMBERS), (10, 20), 1), of.decode(1, png(NUMBERS + 1), (10, 20), 1)]
    y = made(of, [0, 1], view(EYE, MIRROR), decoded=decoded)
    assert y.dtype == torch.uint8
    assert torch.equal(y, torch.from_numpy(np.stack([NUMBERS, NUMBERS[:, ::-1] + 1])))
    first, second = made(of, [0, 1], view(EYE, EYE), view(MIRROR, EYE, size=(5, 20)), decoded=decoded)
    assert torch.equal(first, torch.from_numpy(np.stack([NUMBERS, NUMBERS + 1])))
    assert torch.equal(second, torch.from_numpy(np.stack([NUMBERS[:5, ::-1], NUMBERS[:5] + 1])))


NOBODY = View(torch.zeros(0, 3, 3).double(), torch.zeros(0, 4).double(), (10, 20), "zeros")


def test_a_batch_of_nobody() -> None:
    assert made(targets(MaskFiles(["a.png"])), [], NOBODY).shape == (0, 10, 20)
    assert made(targets(objects(), CLASSES), [], NOBODY) == []
    assert made(targets(objects(), CLASSES), [], NOBODY, NOBODY) == ([], [])
    assert made(targets([0], ["x"]), [], NOBODY).shape == (0,)
    assert made(targets([["x"]], ["x"]), [], NOBODY).shape == (0, 1)


@pytest.mark.parametrize("padding", ["reflection", "border", "zeros"])
def test_masks_beyond_what_the_picture_shows(padding: str) -> None:
    """The picture shows columns 4 to 15, and its output begins 4 columns before them."""
    decoded = [NUMBERS]
    seen = view(EYE, extent=(4, 0, 16, 10), padding=padding)
    filled = NUMBERS.copy()
    filled[:, :4] = filled[:, 16:] = 255
    expected = {
        "zeros": filled,
        "border": NUMBERS[:, [4] * 4 + [*range(4, 16)] + [15] * 4],
        "reflection": NUMBERS[:, [7, 6, 5, 4, *range(4, 16), 15, 14, 13, 12]],
    }
    files = MaskFiles(["a.png"])
    assert torch.equal(made(targets(files), [0], seen, decoded=decoded)[0], torch.from_numpy(filled))
    as_image = made(targets(files, padding="image"), [0], seen, decoded=decoded)[0]
    assert torch.equal(as_image, torch.from_numpy(expected[padding]))


def test_erased_rectangles_are_filled_in_masks_if_asked_for() -> None:
    erase = torch.tensor([[[2, 3, 5, 6], [0, 0, 0, 0]]])
    files, seen, erased = MaskFiles(["a.png"]), view(EYE, erase=erase), NUMBERS.copy()
    erased[3:6, 2:5] = 250
    assert (made(targets(files, erase=True, fill=250), [0], seen, decoded=[NUMBERS])[0].numpy() == erased).all()
    assert (made(targets(files), [0], seen, decoded=[NUMBERS])[0].numpy() == NUMBERS).all()
    assert (made(targets(files, erase=True), [0], view(EYE), decoded=[NUMBERS])[0].numpy() == NUMBERS).all()


@pytest.mark.parametrize(
    ("stored", "fill", "expected"),
    [
        (np.uint8, 255, torch.uint8),
        (np.uint8, -100, torch.int16),
        (np.uint8, 70_000, torch.int64),
        (np.uint8, 2**40, torch.int64),
        (np.uint16, 255, torch.int32),
        (np.uint16, -1, torch.int32),
    ],
)
def test_masks_are_of_a_type_that_holds_them_and_the_fill(stored: Any, fill: int, expected: torch.dtype) -> None:
    of, mask = targets(MaskFiles(["a.png"]), fill=fill), NUMBERS.astype(stored)
    mask[0, 0] = np.iinfo(stored).max
    y = made(of, [0], view(EYE, extent=(0, 0, 10, 10)), decoded=[of.decode(0, png(mask), (10, 20), 1)])
    assert y.dtype == expected
    assert (y[0, :, 10:] == fill).all()
    assert (y[0, :, :10].numpy() == mask[:, :10]).all()


def test_masks_of_several_types_in_a_batch() -> None:
    of = targets(MaskFiles(["a.png", "b.png"]))
    decoded = [
        of.decode(row, png(NUMBERS.astype(dtype)), (10, 20), 1) for row, dtype in enumerate((np.uint8, np.uint16))
    ]
    y = made(of, [0, 1], view(EYE, EYE), decoded=decoded)
    assert y.dtype == torch.int32
    assert (y.numpy() == NUMBERS).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_are_turned_as_their_photo(orientation: int) -> None:
    photo = turn_upright(np.repeat(NUMBERS[..., None], 3, 2), orientation, Memory())
    height, width, _ = photo.shape
    turned = targets(MaskFiles(["a.png"])).decode(0, png(NUMBERS), (height, width), orientation)
    assert turned.flags.c_contiguous
    assert (turned == photo[..., 0]).all()
    upright = targets(MaskFiles(["a.png"], upright=True)).decode(
        0, png(photo[..., 0].copy()), (height, width), orientation
    )
    assert (upright == photo[..., 0]).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "its mask a.png: empty file (0 bytes)"),
        (b"hello", "its mask a.png: not an image format that is read"),
        (png(NUMBERS)[:-30], "its mask a.png: damaged or truncated image data (PNG"),
        (png(NUMBERS[:9]), "its mask a.png: a mask of 20 × 9 pixels (width × height), expected 20 × 10"),
        (
            png(np.zeros((10, 20, 3), np.uint8)),
            "its mask a.png: expected a mask of one channel, whole numbers or a pal",
        ),
    ],
    ids=["empty", "text", "truncated", "another size", "colours"],
)
def test_a_bad_mask_is_named(content: bytes, reason: str) -> None:
    of = targets(MaskFiles(["a.png"]))
    with pytest.raises(Unreadable) as raised:
        of.decode(0, content, (10, 20), 1)
    assert str(raised.value).startswith(reason)


def test_a_mask_that_is_upright_already_is_told_from_one_that_is_not() -> None:
    of = targets(MaskFiles(["a.png"]))
    with pytest.raises(
        Unreadable, match=r"20 × 10 pixels .*, expected 10 × 20, before it is turned .* EXIF says \(6\)"
    ):
        of.decode(0, png(NUMBERS), (10, 20), 6)


def written(values: np.ndarray, bits: int, palette: bytes = b"") -> bytes:
    """A PNG of few bits a pixel, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    lines = ["".join(f"{value:0{bits}b}" for value in line) for line in values]
    rows = b"".join(b"\0" + int(line, 2).to_bytes(len(line) // 8, "big") for line in lines)
    header = struct.pack(">IIBBBBB", *values.shape[::-1], bits, 3 if palette else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *[(b"PLTE", palette)] * bool(palette), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_numbers_of_few_and_many_bits_are_as_they_are_stored(bits: int) -> None:
    values = np.arange(8 * 72).reshape(8, 72) * 997 % 2**bits
    got = decode_mask(written(values, bits), 1000)
    assert got.dtype == (np.uint16 if bits == 16 else np.uint8)
    assert (got == values).all()
    if bits <= 8:
        palette = np.random.default_rng(0).integers(0, 256, 3 * 2**bits, np.uint8).tobytes()
        assert (decode_mask(written(values, bits, palette), 1000) == values).all(), "indices, not colours"


@pytest.mark.parametrize("highest", [1, 20, 255, 1000, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_numbers_of_a_pgm_are_as_they_are_stored(highest: int, plain: bool) -> None:
    values = np.arange(70).reshape(7, 10) * 997 % (highest + 1)
    pixels = (
        " ".join(map(str, values.flat)).encode() if plain else values.astype(">u2" if highest > 255 else "u1").tobytes()
    )
    assert (decode_mask(b"P%d 10 7 %d\n" % (2 if plain else 5, highest) + pixels, 1000) == values).all()


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.int32])
def test_numbers_of_a_tiff_are_as_they_are_stored(dtype: Any, compression: str | None) -> None:
    values = (np.arange(70).reshape(7, 10) * 997 % 65535).astype(dtype)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", compression=compression)
    got = decode_mask(buffer.getvalue(), 1000)
    assert got.dtype == (np.uint8 if dtype == np.bool_ else dtype)
    assert (got == values).all()


def test_masks_that_are_not_read() -> None:
    orientation = Image.Exif()
    orientation[0x0112] = 6
    for image, more, reason in (
        (Image.new("LA", (9, 9)), {}, "one channel"),
        (Image.new("RGBA", (9, 9)), {}, "one channel, .* got PNG of Pillow's mode RGBA"),
        (Image.new("L", (9, 9)), {"format": "TIFF", "exif": orientation}, "TIFF mask with an orientation of its own"),
        (Image.new("F", (9, 9)), {"format": "TIFF"}, "one channel, whole numbers"),
        (Image.new("L", (40, 30)), {}, "40 × 30 pixels; more than max_pixels = 1,000 are not decoded"),
    ):  # fmt: skip
        buffer = io.BytesIO()
        image.save(buffer, **{"format": "PNG", **more})
        with pytest.raises(Unreadable, match=reason):
            decode_mask(buffer.getvalue(), 1000)


def objects(**more: Any) -> Objects:
    """Two photos of 20 × 10: two boxes, the left half and a pixel at the right; and none."""
    return Objects.gathered(2, [0, 0], [[0, 0, 10, 10], [18, 4, 19, 5]], [3, 1], **more)


CLASSES = ["w", "x", "y", "z"]


def test_boxes_come_with_what_is_kept() -> None:
    y = made(targets(objects(), CLASSES), [0, 1], view(EYE, EYE, size=(10, 15)))
    assert [sorted(one) for one in y] == [["boxes", "kept", "labels"]] * 2
    assert y[0]["boxes"].dtype == torch.float32
    assert y[0]["boxes"].tolist() == [[0, 0, 10, 10]]
    assert y[0]["labels"].tolist() == [3]
    assert y[0]["kept"].tolist() == [0]
    assert y[1]["boxes"].shape == (0, 4)
    assert y[1]["labels"].dtype == y[1]["kept"].dtype == torch.int64
    y, mirrored = made(targets(objects(), CLASSES), [0], view(EYE), view(MIRROR, size=(10, 15)))
    assert y[0]["kept"].tolist() == [0, 1]
    assert mirrored[0]["boxes"].tolist() == [[10, 0, 15, 10], [1, 4, 2, 5]]
    assert mirrored[0]["labels"].tolist() == [3, 1]


def test_boxes_beside_what_the_picture_shows_are_not_kept() -> None:
    seen = view(EYE, extent=(9.5, 0, 18, 10))
    assert made(targets(objects(), CLASSES, min_visible=0), [0], seen)[0]["boxes"].tolist() == [[9.5, 0, 10, 10]]
    assert made(targets(objects(), CLASSES), [0], seen)[0]["boxes"].shape == (0, 4), "a twentieth is seen"


def test_crowd_and_relative_places() -> None:
    shares = Objects.gathered(1, [0], [[0.5, 0, 1, 0.5]], [1], crowd=[True], relative=True)
    (y,) = made(targets(shares, CLASSES), [0], view(EYE), sizes=[(10, 20)])
    assert y["boxes"].tolist() == [[10, 0, 20, 5]]
    assert y["crowd"].dtype == torch.bool
    assert y["crowd"].tolist() == [True]


KEYPOINTS = [[[2, 3, 2], [8, 3, 1], [5, 9, 0]], [[18.5, 4.5, 2], [19.5, 4.5, 1], [12, 4, 2]]]


def test_keypoints_are_carried_hidden_and_swapped() -> None:
    of = targets(objects(keypoints=KEYPOINTS, pairs=[(0, 1)]), CLASSES)
    y, mirrored = made(of, [0, 1], view(EYE, EYE, size=(10, 19)), view(MIRROR, EYE))
    assert y[0]["keypoints"].tolist() == [[[2, 3, 2], [8, 3, 1], [0, 0, 0]], [[18.5, 4.5, 2], [0, 0, 0], [12, 4, 2]]]
    assert y[1]["keypoints"].shape == (0, 3, 3)
    left, right = mirrored[0]["keypoints"].tolist()
    assert left == [[12, 3, 1], [18, 3, 2], [0, 0, 0]]
    assert right == [[0.5, 4.5, 1], [1.5, 4.5, 2], [8, 4, 2]]
    (y,) = made(of, [0], view(EYE, extent=(0, 0, 7, 10)))
    assert y["kept"].tolist() == [0]
    assert y["keypoints"].tolist() == [[[2, 3, 2], [0, 0, 0], [0, 0, 0]]], "what the picture does not show"
    shares = np.array(KEYPOINTS) / [20, 10, 1]
    boxes = np.array([[0, 0, 0.5, 1], [0.9, 0.4, 0.95, 0.5]])
    relative = Objects.gathered(1, [0, 0], boxes, [3, 1], keypoints=shares, pairs=[(0, 1)], relative=True)
    (same,) = made(targets(relative, CLASSES), [0], view(MIRROR))
    torch.testing.assert_close(same["keypoints"], mirrored[0]["keypoints"])


def test_an_annotation_of_another_size_is_said() -> None:
    of = targets(objects(sizes=[[10, 20], [0, 0]]), CLASSES)
    assert of.check(0, (10, 20)) is None
    assert of.check(1, (7, 7)) is None, "unknown"
    said = of.check(0, (20, 10))
    assert said == "its annotation is of 20 × 10 pixels (width × height), the photo has 10 × 20 when it is upright"
    assert targets(objects(), CLASSES).check(0, (7, 7)) is None


def test_arrays_that_nobody_may_write_to(tmp_path: Path) -> None:
    given = objects(keypoints=KEYPOINTS, crowd=[False, True])
    for array in (given.boxes, given.labels, given.crowd, given.keypoints):
        array.flags.writeable = False
    (y,) = made(targets(given, CLASSES), [0], view(EYE))
    for part in y.values():
        part.zero_()
    assert given.boxes[0].tolist() == [0, 0, 10, 10]


def test_all_kinds_go_to_a_device() -> None:
    masks, box = torch.zeros(2, 3, 4, dtype=torch.uint8), {"labels": torch.tensor([1]), "crowd": torch.tensor([True])}
    there = to_device((masks, [box], None, torch.tensor([0.5])), torch.device("meta"))
    assert [type(one) for one in there] == [Tensor, list, type(None), Tensor]
    assert there[0].dtype == torch.int64
    assert there[0].device.type == there[1][0]["crowd"].device.type == there[3].device.type == "meta"
    assert there[1][0]["crowd"].dtype == torch.bool
    assert there[3].dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fill": 0.5}, TypeError, "expected a whole number as fill, got 0.5"),
        ({"fill": 2**63}, ValueError, "a fill that int64 holds"),
        ({"padding": "reflection"}, ValueError, "padding to be one of fill, image, got 'reflection'"),
        ({"min_visible": 1.5}, ValueError, r"min_visible in \[0, 1\], a share of the area, got 1.5"),
    ],
)
def test_options_say_what_was_expected(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TargetOptions(**options)
