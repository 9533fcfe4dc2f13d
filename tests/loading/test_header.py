"""What headers tell, against Pillow."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastaug.loading.cpu_decoder import CpuDecoder
from fastaug.loading.header import Header, goes_on_to_its_end, likely_size, read_header, scan_count, without_metadata
from fastaug.loading.photo import Photo
from tests.factories import difficult_files, encode, segment

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
CHANNELS = {"RGB": 3, "L": 1, "CMYK": 4}
XMP = b"http://ns.adobe.com/xap/1.0/\0"


def blank(kind: str = "JPEG", mode: str = "RGB", **options: object) -> bytes:
    return encode(Image.new(mode, (31, 17)), kind, **options)


def jpeg_with(*segments: bytes) -> bytes:
    content = blank()
    return content[:2] + b"".join(segments) + content[2:]


def app1(content: bytes) -> bytes:
    return segment(0xE1, content)


def exif_block(*entries: tuple[int, int, int, int], order: str = "<") -> bytes:
    """(tag, type, count, value or place) each; values are SHORTs where the type is 3."""
    tiff = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(entries))
    forms = (order + ("HHIHxx" if kind == 3 else "HHII") for _, kind, _, _ in entries)
    return b"Exif\0\0" + tiff + b"".join(struct.pack(f, *entry) for f, entry in zip(forms, entries, strict=True))


def pillows_orientation(content: bytes) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content)) as image:
                found = image.getexif().get(0x0112, 1)
        except Exception:
            return 1
    return found if found in range(1, 9) else 1


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2}])
def test_jpeg(mode: str, options: dict[str, object]) -> None:
    content = blank(mode=mode, **options)
    assert read_header(content) == Header(17, 31, 1, CHANNELS[mode], mode != "CMYK", "progressive" in options)
    assert likely_size(content) == (17, 31)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
def test_png(mode: str) -> None:
    header = read_header(blank("PNG", mode=mode))
    assert header is not None
    assert (header.height, header.width) == (17, 31)
    assert header.orientation == 0, "not looked for, so not claimed"
    assert not header.ordinary


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a maker"  # another tag before it
    exif[0x0112] = orientation
    content = blank(exif=exif)
    assert read_header(content) == Header(17, 31, orientation, 3, True, False)
    assert likely_size(content) == ((17, 31) if orientation < 5 else (31, 17))


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_of_either_byte_order(order: str) -> None:
    content = jpeg_with(app1(exif_block((0x0100, 3, 1, 999), (0x0112, 3, 1, 6), order=order)))
    assert read_header(content) == Header(17, 31, 6, 3, True, False)


@pytest.mark.parametrize(
    "segments",
    [
        [b"Exif\0\0"],
        [b"Exif\0\0XX*\0"],
        [b"Exif\0\0II*\0\xff\xff\xff\x00"],
        [exif_block((0x0112, 3, 1, 1)), exif_block((0x0112, 3, 1, 6))],
        [exif_block((0x0112, 3, 2, 6))],
        [exif_block((0x0112, 4, 1, 6))],
        [exif_block((0x0112, 3, 1, 9))],
        [exif_block((0x010F, 2, 50, 40), (0x0112, 3, 1, 6))],  # Pillow goes no further than a value that breaks off
        [XMP + b'<x tiff:Orientation="6"/>'],
        [exif_block((0x0112, 3, 1, 1)), XMP + b'<x tiff:Orientation="6"/>'],
    ],
)
def test_where_there_is_any_doubt_nothing_is_claimed(segments: list[bytes]) -> None:
    header = read_header(jpeg_with(*map(app1, segments)))
    assert header is not None
    assert header.orientation == 0


BLOCKS = [exif_block((0x010F, 2, 6, 38), (0x0112, 3, 1, 6), (0x0128, 3, 1, 2)) + b"\0\0\0\0maker\0",
          exif_block((0x0112, 3, 1, 8), order=">"), XMP + b'<x tiff:Orientation="3"/>']  # fmt: skip


def damaged(block: bytes, random: np.random.Generator) -> bytes:
    content = bytearray(block)
    for _ in range(int(random.integers(4))):
        place = int(random.integers(len(content)))
        number = struct.pack("<H", int(random.choice([0, 1, 2, 3, 4, 6, 8, 12, 0x0112, 0x010F, 255, 65535])))
        part = content[place : place + 12]
        content[place : place + int(random.integers(13))] = (number, number[:1], part + part, b"")[random.integers(4)]
    return bytes(content)


def test_what_is_claimed_is_what_pillow_finds() -> None:
    """Of one to three blocks of EXIF and XMP, damaged at random."""
    random = np.random.default_rng(0)
    claimed = 0
    for _ in range(2000):
        chosen = [BLOCKS[random.choice(3, p=[0.6, 0.3, 0.1])] for _ in range(random.choice([1, 1, 1, 2, 3]))]
        content = jpeg_with(*(app1(damaged(block, random)) for block in chosen))
        header = read_header(content)
        assert header is not None
        assert (header.height, header.width) == (17, 31)
        if header.orientation:
            claimed += 1
            assert header.orientation == pillows_orientation(content)
    assert claimed > 500


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "WEBP"])
def test_other_formats(kind: str) -> None:
    assert read_header(blank(kind)) is None
    assert likely_size(blank(kind)) is None


def test_every_way_to_cut_a_file_short() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = Header(17, 31, 6, 3, True, False), Header(17, 31, 0, 0, False, False)
    for content, header in zip((blank(exif=exif), blank("PNG")), whole, strict=True):
        found = [read_header(content[:length]) for length in range(len(content))]
        assert set(found) == {None, header}
        assert all(likely_size(content[:length]) in (None, (31, 17), (17, 31)) for length in range(len(content)))
    content = blank(exif=exif)
    assert {without_metadata(content[:length]) is None for length in range(len(content))} == {True, False}


@given(st.binary(max_size=200))
def test_anything_at_all(content: bytes) -> None:
    for start in (b"", b"\xff\xd8", b"\xff\xd8\xff\xe1\x00\x40Exif\0\0II*\0", b"\x89PNG\r\n\x1a\n"):
        read_header(start + content)
        likely_size(start + content)
        without_metadata(start + content)


@given(st.integers(0, 700), st.binary(min_size=1, max_size=4))
def test_damage_in_a_header(place: int, damage: bytes) -> None:
    content = bytearray(blank(exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0"))
    content[place : place + len(damage)] = damage
    read_header(bytes(content))
    without_metadata(bytes(content))


@pytest.mark.parametrize(("options", "scans"), [({}, 1), ({"progressive": True}, 10)])
def test_scans_are_counted_but_not_those_of_a_preview(options: dict[str, object], scans: int) -> None:
    content = blank(**options)
    preview = app1(b"Exif\0\0" + blank(progressive=True))
    assert scan_count(content) == scans
    assert scan_count(content[:2] + preview + content[2:] + blank(progressive=True)) == scans
    assert scan_count(content[:-2]) == scans
    assert {scan_count(content[:length]) for length in range(len(content))} <= set(range(scans + 1))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_data_that_go_on_to_their_end(options: dict[str, object]) -> None:
    content = blank(**options)
    header = read_header(content)
    assert header is not None
    assert goes_on_to_its_end(content, header)
    assert goes_on_to_its_end(content + b"\xff\xc0 and whatever follows", header)
    first = content.index(b"\xff\xda") + 14
    assert not any(goes_on_to_its_end(content[:length], header) for length in range(first, len(content)))
    for marker in (b"\xff\xc0", b"\xff\xd8", b"\xff\xe1\0\2", b"\xff\x01"):
        assert not goes_on_to_its_end(content[:-3] + marker + content[-3:], header)


def test_extraneous_bytes_are_passed_over_but_not_ordinary() -> None:
    header = read_header(jpeg_with(app1(exif_block((0x0112, 3, 1, 6))), b"hello\xff\0", b"\xff\xff"))
    assert header == Header(17, 31, 6, 3, False, False)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it finds the EXIF data of some odd
def test_without_metadata_there_are_the_same_pixels() -> None:
    good, _ = difficult_files()
    decoder, compared = CpuDecoder(1), 0
    for name, content in good.items():
        bare = without_metadata(content)
        if not content.startswith(b"\xff\xd8"):
            assert bare is None
            continue
        assert bare is not None, name
        assert len(bare) <= len(content) + 18, "a JFIF segment at most"
        header = read_header(bare)
        assert header is not None
        assert header.orientation == 1
        if header.channels == 4 or "orientation" in name:
            continue  # of CMYK an Adobe marker says how it is stored; others are not upright any more
        got, expected = decoder.decode([bare, content])
        assert isinstance(got, Photo)
        assert isinstance(expected, Photo)
        assert np.array_equal(got.pixels, expected.pixels), name
        compared += 1
    assert compared >= 7


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it finds the EXIF data of some odd
def test_difficult_files() -> None:
    good, bad = difficult_files()
    for name, content in good.items():
        header = read_header(content)
        assert header is not None, name
        with Image.open(io.BytesIO(content)) as picture:
            assert (header.width, header.height) == picture.size, name
            assert header.orientation in (0, picture.getexif().get(0x0112, 1)), name
    assert all(
        read_header(content) in (None, Header(64, 96, 1, 3, False, False))
        for n, content in bad.items()
        if "header" in n
    )


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"other people's photos are not here: {SHARED}")
def test_real_photos() -> None:
    for path in sorted((SHARED / "photos").iterdir()) + sorted((SHARED / "hires").iterdir()):
        header = read_header(path.read_bytes())
        with Image.open(path) as photo:
            if photo.format == "JPEG" and header is not None:
                assert (header.width, header.height) == photo.size
                assert header.orientation in (0, photo.getexif().get(0x0112, 1))
                assert header.channels == len(photo.getbands())
