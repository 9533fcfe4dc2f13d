"""Image sizes and orientations from headers, against Pillow."""

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastaug.loading.header import Header, read_header
from tests.factories import difficult_files, encode, segment

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def blank(kind: str = "JPEG", mode: str = "RGB", **options: object) -> bytes:
    return encode(Image.new(mode, (31, 17)), kind, **options)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2}])
def test_jpeg(mode: str, options: dict[str, object]) -> None:
    assert read_header(blank(mode=mode, **options)) == Header(17, 31, 1)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
def test_png(mode: str) -> None:
    header = read_header(blank("PNG", mode=mode))
    assert header is not None
    assert (header.height, header.width) == (17, 31)
    assert header.orientation != 1, "not looked for, so not claimed"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a maker"  # another tag before it
    exif[0x0112] = orientation
    assert read_header(blank(exif=exif)) == Header(17, 31, orientation)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_of_either_byte_order(order: str) -> None:
    entries = [(0x0100, 3, 1, 999), (0x0112, 3, 1, 6)]
    tiff = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(entries))
    tiff += b"".join(struct.pack(order + "HHIHH", *entry, 0) for entry in entries)
    content = blank()
    content = content[:2] + segment(0xE1, b"Exif\0\0" + tiff) + content[2:]
    assert read_header(content) == Header(17, 31, 6)


def test_an_exif_block_that_cannot_be_read_is_not_called_upright() -> None:
    for damaged in (b"Exif\0\0", b"Exif\0\0XX*\0", b"Exif\0\0II*\0\xff\xff\xff\x00"):
        content = blank()
        content = content[:2] + segment(0xE1, damaged) + content[2:]
        header = read_header(content)
        assert header is not None
        assert header.orientation == 0


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "WEBP"])
def test_other_formats(kind: str) -> None:
    assert read_header(blank(kind)) is None


def test_every_way_to_cut_a_file_short() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for content, whole in ((blank(exif=exif), Header(17, 31, 6)), (blank("PNG"), Header(17, 31, 0))):
        found = [read_header(content[:length]) for length in range(len(content))]
        assert set(found) == {None, whole}


@given(st.binary(max_size=200))
def test_anything_at_all(content: bytes) -> None:
    read_header(b"\xff\xd8" + content)
    read_header(b"\xff\xd8\xff\xe1\x00\x40Exif\0\0II*\0" + content)
    read_header(content)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it finds the EXIF data of some odd
def test_difficult_files() -> None:
    good, bad = difficult_files()
    for name, content in good.items():
        header = read_header(content)
        assert header is not None, name
        with Image.open(io.BytesIO(content)) as picture:
            assert (header.width, header.height) == picture.size, name
            assert picture.format == "PNG" or header.orientation == picture.getexif().get(0x0112, 1), name
    assert {read_header(content) for name, content in bad.items() if "header" in name} <= {None, Header(64, 96, 1)}


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"other people's photos are not here: {SHARED}")
def test_real_photos() -> None:
    for path in sorted((SHARED / "photos").iterdir()) + sorted((SHARED / "hires").iterdir()):
        header = read_header(path.read_bytes())
        with Image.open(path) as photo:
            if photo.format == "JPEG" and header is not None:
                assert (header.width, header.height) == photo.size
                assert header.orientation in (0, photo.getexif().get(0x0112, 1))
