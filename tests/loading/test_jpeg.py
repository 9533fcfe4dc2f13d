"""JPEGs at 1/2, 1/4 and 1/8: which scale is taken, what is delivered then, and that damage is found all the same."""

from __future__ import annotations

import re
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

import fastaug as fa
from fastaug.loading import fetch, jpeg
from fastaug.loading.cpu_decoder import CpuDecoder
from fastaug.loading.header import read_header
from fastaug.loading.jpeg import MOST_SCANS
from fastaug.loading.photo import Need, Photo
from tests.compare import photo
from tests.factories import by_sample, encode, make_loader
from tests.mutations import as_pillow

SIZE = (300, 451)


def need(footprint: float, size: tuple[int, int] = SIZE) -> Need:
    return Need(size, footprint, footprint, (0.0, 0.0, 1.0, 1.0))


def content(**options: Any) -> bytes:
    return encode(photo("chelsea"), quality=92, **options)


def scale_of(outcome: Photo | str) -> float:
    assert isinstance(outcome, Photo)
    return float(1 / outcome.matrix[0, 0])


@pytest.mark.parametrize(
    ("footprint", "scale"),
    [(0.1, 1), (1, 1), (3.99, 1), (4, 2), (7.99, 2), (8, 4), (15.99, 4), (16, 8), (1e9, 8), (float("inf"), 8),
     (float("nan"), 1)],
)  # fmt: skip
def test_the_smallest_scale_that_leaves_twice_what_is_needed(footprint: float, scale: int) -> None:
    decoder = CpuDecoder(1)
    for file in (content(), content(progressive=True), encode(photo("chelsea").numpy()[..., 0])):
        (outcome,) = decoder.decode([file], [need(footprint)])
        assert scale_of(outcome) == scale
        assert isinstance(outcome, Photo)
        assert outcome.size == SIZE
        assert tuple(outcome.pixels.shape) == (-(-300 // scale), -(-451 // scale), 3)


@pytest.mark.parametrize(("sampling", "scale"), [("444", 4), ("420", 4), ("422", 2), ("440", 2), ("411", 1)])
def test_colours_that_libjpeg_makes_fewer_of_are_fine_enough_for_the_output(sampling: str, scale: int) -> None:
    """Of a presized photo the output has fewer pixels, so more may be left out."""
    file = simplejpeg.encode_jpeg(photo("chelsea").numpy(), colorsubsampling=sampling)
    (direct,) = CpuDecoder(1).decode([file], [need(8)])
    assert scale_of(direct) == scale
    (presized,) = CpuDecoder(1).decode([file], [Need(SIZE, 8, 32, (0.0, 0.0, 1.0, 1.0))])
    assert scale_of(presized) == 4


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("sampling", ["444", "420", "422", "440", "411"])
def test_of_which_photos_libjpeg_makes_fewer_colours_than_pixels(sampling: str, scale: int) -> None:
    """Stripes of two colours of one brightness, each a pixel wide in what is decoded: they are gone, or all there."""
    stripe = np.arange(128) // scale % 2
    columns = np.where(stripe[None, :, None] == 0, [200, 80, 80], [80, 130, 80]).repeat(128, 0).astype(np.uint8)
    coarser = []
    for pixels in (columns, np.ascontiguousarray(columns.transpose(1, 0, 2))):
        file = simplejpeg.encode_jpeg(pixels, quality=100, colorsubsampling=sampling)
        header = read_header(file)
        assert header is not None
        (outcome,) = CpuDecoder(1).decode([file], [Need((128, 128), 2.0 * scale, 99.0, (0.0, 0.0, 1.0, 1.0))])
        assert scale_of(outcome) == scale
        assert isinstance(outcome, Photo)
        red_or_green = outcome.pixels[..., 0].int() - outcome.pixels[..., 1].int()
        coarser.append(bool(red_or_green.max() - red_or_green.min() < 10))
    assert any(coarser) == (header.coarser_colour > 1)
    assert not all(coarser)


def test_whole_where_the_need_is_another_sizes_or_none_is_told() -> None:
    decoder, files = CpuDecoder(1), [content()] * 3
    found = decoder.decode(files, [None, need(100, (451, 300)), need(100, (301, 451))])
    assert [scale_of(outcome) for outcome in found] == [1, 1, 1]
    assert scale_of(decoder.decode(files[:1])[0]) == 1


def test_exact_is_every_pixel_bit_for_bit() -> None:
    for options in ({}, {"progressive": True}, {"subsampling": 0}):
        file = content(**options)
        (outcome,) = CpuDecoder(1, "exact").decode([file], [need(100)])
        assert isinstance(outcome, Photo)
        assert np.array_equal(outcome.pixels, as_pillow(file))
        assert np.array_equal(outcome.matrix, np.eye(3))


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_pixels_are_means_of_the_whole_photos(scale: int) -> None:
    file = content(subsampling=0)
    (outcome,) = CpuDecoder(1).decode([file], [need(2.0 * scale)])
    assert isinstance(outcome, Photo)
    rows, columns = SIZE[0] // scale, SIZE[1] // scale
    whole = np.asarray(as_pillow(file))[: rows * scale, : columns * scale].astype(float)
    means = whole.reshape(rows, scale, columns, scale, 3).mean((1, 3))
    got = outcome.pixels.numpy()[:rows, :columns].astype(float)
    assert np.abs(got - means).mean() < 1.5
    assert np.abs(got[:, 1:] - means[:, :-1]).mean() > 3, "a pixel further right is seen"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    """Photographs of 512 to 1411 pixels, of odd sizes and every orientation."""
    root = tmp_path_factory.mktemp("large")
    for i, name in enumerate(["astronaut", "coffee", "rocket", "retina", "chelsea", "coffee", "astronaut", "rocket"]):
        exif = Image.Exif()
        exif[0x0112] = i + 1
        pixels = photo(name).numpy()
        image = Image.fromarray(pixels[: len(pixels) - i, i:])
        image.save(root / f"{i}.jpg", quality=92, exif=exif)
    paths = sorted(map(str, root.iterdir()))
    return fa.Samples(paths, [0] * len(paths), ["a"])


def decibels(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float(-10 * torch.log10(((got - expected) ** 2).mean()))


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_batches_are_those_of_whole_photos(photos: fa.Samples, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    chosen = jpeg._scale
    monkeypatch.setattr(jpeg, "_scale", lambda *given: seen.append(chosen(*given)) or seen[-1])
    augment = fa.aug_transforms(size=48, min_scale=0.35, normalize=None)
    arguments = {"augment": augment, "mode": mode, "presize": 64, "drop_last": False}
    exact = by_sample(make_loader(photos, **arguments, scale="exact"))
    assert seen == []
    scaled = by_sample(make_loader(photos, **arguments))
    assert len({2, 4, 8} & set(seen)) >= 2
    assert scaled.keys() == exact.keys()
    assert all(torch.equal(scaled[i][1], exact[i][1]) for i in exact)
    pairs = [(scaled[i][0], exact[i][0]) for i in exact]
    assert decibels(torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])) >= 50
    assert decibels(pairs[0][0].roll(1, -1), pairs[0][1]) < 30, "a pixel further right is seen"


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_damage_in_the_last_rows_is_found_at_every_scale(scale: int, options: dict[str, Any]) -> None:
    file, decoder = content(**options), CpuDecoder(1)
    for damaged in (file[:-40], file[:-40] + b"\xff\xd9", file[:-100] + b"\xff\xc4" + file[-98:]):
        (outcome,) = decoder.decode([damaged], [need(2.0 * scale)])
        assert isinstance(outcome, str)
        assert outcome.startswith("damaged or truncated image data (JPEG: ")


@pytest.mark.parametrize("scale", [1, 8])
def test_bytes_that_do_not_belong_there_are_no_damage(scale: int) -> None:
    """They touch no pixel: before the end, between the scans, in the header, several at a time, also with more."""
    decoder = CpuDecoder(1)
    for options in ({}, {"progressive": True}):
        file = content(**options)
        tables = file.index(b"\xff\xdb")
        files = [file[:-2] + b"\0\0hello" + file[-2:], file[:tables] + b"hello" + file[tables:]]
        scans = [place for place in range(len(file) - 1) if file[place : place + 2] == b"\xff\xda"]
        if len(scans) > 4:
            files.append(file[: scans[2]] + b"\1\2\3" + file[scans[2] : scans[4]] + b"\4\5" + file[scans[4] :])
        files.append(files[-1][:tables] + b"\0" * 9 + files[-1][tables:-2] + b"\7" * 7 + file[-2:] + b"behind the end")
        expected = decoder.decode([file], [need(2.0 * scale)])[0]
        assert isinstance(expected, Photo)
        for other, outcome in zip(files, decoder.decode(files, [need(2.0 * scale)] * len(files)), strict=True):
            assert isinstance(outcome, Photo), outcome
            assert np.array_equal(as_pillow(other), as_pillow(file))
            assert np.array_equal(outcome.pixels, expected.pixels)
            cut = other[: len(other) // 2] + b"\xff\xd9"
            assert isinstance(decoder.decode([cut], [need(2.0 * scale)])[0], str), "they hide no damage"


@pytest.mark.parametrize("junk", [b"\1", b"\0\0\0\0\0", b"\7" * 9, b"\7" * 40])
@pytest.mark.parametrize("markers", [[0], [5], [0, 1, 2], range(40)])
def test_bytes_before_restart_markers(junk: bytes, markers: Any) -> None:
    """Of a few bytes libjpeg tells at a later marker, and then of several places' together."""
    file = content(restart_marker_blocks=4)
    places = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", file)]
    ends = [0, *(places[i] for i in markers), len(file)]
    other = junk.join(file[a:b] for a, b in pairwise(ends))
    (outcome,) = CpuDecoder(1).decode([other])
    assert isinstance(outcome, Photo), outcome
    assert np.array_equal(outcome.pixels, as_pillow(file))
    if len(junk) > 8:
        assert isinstance(CpuDecoder(1).decode([other[: len(other) // 2] + b"\xff\xd9"])[0], str) or len(markers) > 8


def test_an_end_that_comes_early_wherever_the_gray_begins() -> None:
    for options in ({}, {"progressive": True}, {"subsampling": 0, "optimize": True}):
        file = content(**options)
        start = file.index(b"\xff\xda")
        between = {found.start() for found in re.finditer(rb"\xff[\xc4\xda]", file)}  # scans: the rest is not missed
        for place in set(np.linspace(start + 20, len(file) - 12, 30).astype(int).tolist()) - between:
            (outcome,) = CpuDecoder(1).decode([file[:place].rstrip(b"\xff") + b"\xff\xd9"])
            assert isinstance(outcome, str), place


def lying(height: int, width: int) -> bytes:
    """A frame header that tells other numbers than the data have."""
    file = content()
    frame = file.index(b"\xff\xc0")
    return file[: frame + 5] + struct.pack(">HH", height, width) + file[frame + 9 :]


def test_a_header_that_lies() -> None:
    decoder = CpuDecoder(1)
    for size in ((600, 451), (300, 902), (9000, 9000)):
        for footprint in (1.0, 20.0):
            assert isinstance(decoder.decode([lying(*size)], [need(footprint, size)])[0], str), size
    (less,) = decoder.decode([lying(160, 451)])  # its data go on, which libjpeg does not mind
    expected = as_pillow(lying(160, 451))
    assert isinstance(less, str) if isinstance(expected, str) else np.array_equal(less.pixels, expected)


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_a_size_that_the_header_seemed_to_tell_is_not_believed(
    photos: fa.Samples, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"augment": fa.aug_transforms(size=48), "mode": mode, "presize": 64, "drop_last": False}
    expected = by_sample(make_loader(photos, **arguments, scale="exact"))
    monkeypatch.setattr(fetch, "likely_size", lambda content: (77, 5000))
    got = by_sample(make_loader(photos, **arguments))
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[i][k], expected[i][k]) for i in got for k in (0, 1))


def test_a_png_on_its_side_has_the_matrix_of_its_upright_size(tmp_path: Path) -> None:
    """Its header is read, its orientation is not."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = photo("chelsea").numpy()
    (tmp_path / "a.png").write_bytes(encode(np.rot90(pixels), "PNG", exif=exif))
    (tmp_path / "b.png").write_bytes(encode(pixels, "PNG"))
    for mode in ("resize", "direct"):
        loader = make_loader(
            fa.Samples([str(tmp_path / "a.png"), str(tmp_path / "b.png")], [0, 0], ["a"]), mode=mode,
            augment=fa.aug_transforms(size=32), training=False,
        )  # fmt: skip
        (x, _, info), *_ = loader
        assert info.sizes.tolist() == [[300, 451]] * 2
        assert torch.equal(x[0], x[1])


def scans(count: int, height: int, width: int) -> bytes:
    """Of a progressive JPEG, each with nothing in it."""
    file = content(progressive=True)
    frame, first = file.index(b"\xff\xc2"), file.index(b"\xff\xda")
    scan = b"\xff\xda\0\x08\1\1\0\0\0\1" + bytes(4)
    start = file[: frame + 5] + struct.pack(">HH", height, width) + file[frame + 9 : first]
    return start + scan * count + b"\xff\xd9"


def test_thousands_of_scans_are_refused_by_name() -> None:
    """Each is a pass over all of the picture."""
    (reason,) = CpuDecoder(1).decode([scans(5000, 9000, 9000)])
    assert reason == f"a JPEG of 5,000 scans; more than {MOST_SCANS} are not decoded"
    (reason,) = CpuDecoder(1).decode([scans(MOST_SCANS, 60, 80)])
    assert isinstance(reason, str)
    assert "scans" not in reason
    behind = content(progressive=True) + scans(5000, 9000, 9000)
    assert isinstance(CpuDecoder(1).decode([behind])[0], Photo)


def test_an_error_behind_extraneous_bytes_is_the_files() -> None:
    """Two photos are compared while libjpeg's warnings are switched off; its errors are not."""
    good = content()
    assert jpeg._show_the_same(good + b"more", good)
    assert not jpeg._show_the_same(good, good[:200])
