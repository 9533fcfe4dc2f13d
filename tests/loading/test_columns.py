"""Only the columns that are read are decoded: nothing may change by that."""

from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor

import fastaug as fa
from fastaug.augment import geometry
from fastaug.loading import decode as decoding
from fastaug.loading.decode import Decoder
from fastaug.loading.photo import Need
from fastaug.warping import reference
from fastaug.warping.footprint import part_read
from tests.compare import random_image
from tests.factories import decode, encode, make_loader, pixels_of

SIZE = (24, 32)


def columns(first: int, last: int) -> Need:
    """Of the photograph of `jpeg`."""
    return Need((300, 451), (first, 0, last, 300), 1.0)


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    return encode(Image.fromarray(skimage.data.chelsea()).convert(mode), **options)


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns are left out of small photos too, which would save no time."""
    monkeypatch.setattr(decoding, "MIN_PIXELS_LEFT_OUT", 1)


@pytest.fixture(scope="module")
def decoder() -> Any:
    decoder = Decoder("cpu", num_threads=1)
    yield decoder
    decoder.close()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}])
def test_some_columns_are_those_of_the_whole_image(decoder: Decoder, mode: str, options: dict[str, Any]) -> None:
    content = jpeg(mode, **options)
    (whole,) = decoder.decode([content])
    spans = [(0, 451), (0, 1), (450, 451), (7, 8), (15, 33), (16, 32), (101, 400)]
    parts = decoder.decode([content] * len(spans), [columns(*span) for span in spans])
    for part, (first, last) in zip(parts, spans, strict=True):
        assert torch.equal(part.pixels, whole.pixels[:, first:last])
        assert part.size == whole.size == (300, 451)
        assert part.matrix.tolist() == [[1, 0, -first], [0, 1, 0], [0, 0, 1]]


def test_of_small_photos_all_columns_are_decoded(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is beside them: what a photo's pixels are must not depend on its neighbours."""
    monkeypatch.setattr(decoding, "MIN_PIXELS_LEFT_OUT", 300 * 100)
    needs = [columns(0, 400), columns(30, 381), columns(60, 411), columns(30, 382)]
    photos = decoder.decode([jpeg()] * 4, needs)
    assert [photo.pixels.shape[1] for photo in photos] == [451, 351, 351, 451]
    assert [-photo.matrix[0, 2].item() for photo in photos] == [0, 30, 60, 0]


def test_beside_bad_and_other_files(decoder: Decoder) -> None:
    contents = [jpeg(), b"text", encode(skimage.data.chelsea(), "PNG"), jpeg()[:9000], jpeg()]
    photos, bad = decode(decoder, contents, [columns(3, 50), columns(0, 9), None, columns(1, 40), columns(10, 451)])
    assert [position for position, _ in bad] == [1, 3]
    assert [tuple(image.shape) for image in pixels_of(photos)] == [(300, 47, 3), (300, 451, 3), (300, 441, 3)]
    (whole,) = decoder.decode(contents[:1])
    assert torch.equal(photos[0].pixels, whole.pixels[:, 3:50]), "the other way gives the same pixels"


@pytest.mark.parametrize("size", [(300, 452), (301, 451), (3, 4)])
def test_a_header_that_promised_another_size(decoder: Decoder, size: tuple[int, int]) -> None:
    """Nobody knows then which columns these are."""
    need = Need(size, (size[1] - 3, 0, size[1], size[0]), 1.0)
    assert decoder.decode([jpeg()], [need]) == [
        f"its header says {size[1]} × {size[0]} pixels (width × height), which it does not have"
    ]


@pytest.mark.parametrize("need", [None, columns(0, 20)])
@pytest.mark.parametrize(
    ("damage", "options"),
    [
        (b"\xff\xd9" * 200, {}),
        (b"\xff\xd9" * 200, {"restart_marker_rows": 2}),
        (b"\xff\x57" + bytes(398), {}),
        (b"\xff\xd8" + bytes(398), {"subsampling": 0}),
    ],
)
def test_damage_beyond_the_columns_is_found(decoder: Decoder, need: Any, options: Any, damage: bytes) -> None:
    content = bytearray(jpeg(**options))
    content[len(content) // 2 : len(content) // 2 + 400] = damage  # the picture ends in the middle
    assert decoder.decode([bytes(content)], [need]) == ["damaged or truncated image data"]


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 2}, {"progressive": True}])
@pytest.mark.parametrize("appended", [b"", bytes(50), b"a film" * 999, jpeg()])
def test_what_follows_a_whole_picture_is_no_damage(decoder: Decoder, options: Any, appended: bytes) -> None:
    pixels = skimage.data.chelsea().copy()
    pixels[250:] = pixels[:, :30] = 255  # plain edges
    assert decode(decoder, [encode(pixels, **options) + appended] * 2)[1] == []


def moved(matrix: Tensor, first: int) -> Tensor:
    shift = torch.eye(3, dtype=torch.float64)
    shift[0, 2] = first
    return matrix.double() @ shift


@pytest.mark.parametrize("padding", ["reflection", "border", "zeros"])
@pytest.mark.parametrize("interpolation", ["antialias", "bilinear", "nearest"])
def test_the_warp_reads_no_other_columns(interpolation: str, padding: str) -> None:
    augment = fa.aug_transforms(size=SIZE, min_scale=0.3, max_warp=0.4, max_rotate=30, min_zoom=0.7)
    cut = 0
    for height, width in ((20, 90), (61, 64), (150, 30)):
        params = augment.draw(12, (50, 50), generator=torch.Generator().manual_seed(height))
        x0, y0, side = geometry.presize_box(torch.tensor([[height, width]] * 12), torch.rand(12, 2))
        fifty = torch.full_like(side, 50)
        matrix = params.matrix.double() @ geometry.box_matrix(x0, y0, side, side, fifty, fifty)
        columns = part_read(matrix, [(height, width)] * 12, SIZE)[:, [0, 2]]
        image = random_image(height, width)
        for one, (first, last) in zip(matrix, columns.tolist(), strict=True):
            assert 0 <= first < last <= width
            cut += first > 0 or last < width
            arguments = (SIZE, interpolation, padding, None, torch.float64)
            whole = reference.warp([image], one[None], *arguments)
            part = reference.warp([image[:, first:last].contiguous()], moved(one, first)[None], *arguments)
            apart = (part - whole).abs().amax(1)
            # a point on the very edge between two pixels may fall to either
            assert (apart > 1e-9).float().mean() <= (0.01 if interpolation == "nearest" else 0)
    assert cut > 12, "too few parts to prove anything"


def test_a_few_columns_less_would_be_seen() -> None:
    matrix = geometry.box_matrix(*(torch.tensor([v]).double() for v in (30.0, 5.0, 40.0, 20.0, 32.0, 24.0)))
    ((first, last),) = part_read(matrix, [(30, 100)], SIZE)[:, [0, 2]].tolist()
    assert 24 <= first < 30
    assert 70 < last <= 76
    image = random_image(30, 100)
    whole = reference.warp([image], matrix, SIZE, "antialias", "reflection", None, torch.float64)
    less = image[:, first + 5 : last].contiguous()
    part = reference.warp(
        [less], moved(matrix[0], first + 5)[None], SIZE, "antialias", "reflection", None, torch.float64
    )
    assert (part - whole).abs().max() > 1e-3


def test_all_columns_where_the_horizon_comes_near() -> None:
    tilted = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0.08, 0, 1]]])
    assert part_read(tilted, [(20, 90)], (20, 40))[:, [0, 2]].tolist() == [[0, 90]]
    assert part_read(torch.zeros(1, 3, 3), [(20, 90)], (20, 40))[:, [0, 2]].tolist() == [[0, 90]]
    far_outside = geometry.box_matrix(*(torch.tensor([v]).double() for v in (-900.0, 0.0, 40.0, 20.0, 32.0, 24.0)))
    assert part_read(far_outside, [(30, 100)], SIZE)[:, [0, 2]].tolist() == [[0, 100]]


@pytest.mark.parametrize("mode", ["resize", "direct"])
@pytest.mark.parametrize("training", [True, False])
def test_the_loader_delivers_the_same_images(
    samples: fa.Samples, monkeypatch: pytest.MonkeyPatch, mode: Any, training: bool
) -> None:
    seen: list[Need | None] = []
    decode = Decoder.decode

    def note(self: Decoder, encoded: Any, needs: Any) -> Any:
        seen.extend(needs)
        return decode(self, encoded, needs)

    monkeypatch.setattr(Decoder, "decode", note)
    augment = fa.aug_transforms(size=64, min_scale=0.5)
    parts = list(make_loader(samples, augment=augment, mode=mode, training=training))
    assert None not in seen, "every file is an upright JPEG"
    assert np.mean([need.part[0] > 0 for need in seen]) > 0.2
    monkeypatch.setattr("fastaug.loading.batch.upright_size", lambda content: None)
    seen.clear()
    whole = list(make_loader(samples, augment=augment, mode=mode, training=training))
    assert set(seen) == {None}
    for (x, y, info), (x_whole, y_whole, info_whole) in zip(parts, whole, strict=True):
        assert torch.equal(y, y_whole)
        assert torch.equal(info.sizes, info_whole.sizes)
        assert torch.equal(info.matrix, info_whole.matrix)
        # half a unit in the last place of 512 px, times the steepest slope, 1 / 0.225 a pixel
        torch.testing.assert_close(x, x_whole, rtol=0, atol=1.4e-4)
