"""Damaged TIFFs: what libtiff says is the reason, and nothing is printed."""

from __future__ import annotations

import io

import pytest
import skimage.data
from PIL import Image

from fastaug.loading import libtiff, pillow
from fastaug.memory import Memory
from tests.factories import encode

pytestmark = pytest.mark.skipif(libtiff._install() is None, reason="libtiff's handler cannot be set here")

CAT = Image.fromarray(skimage.data.chelsea()[100:164, 100:196])


def overwritten(image: Image.Image, compression: str) -> bytes:
    content = bytearray(encode(image, "TIFF", compression=compression))
    content[300:360] = b"\xff" * 60
    return bytes(content)


@pytest.mark.parametrize(
    ("image", "compression", "reason"),
    [
        (CAT, "tiff_lzw", "TIFF: Using code not yet in table"),
        (CAT, "tiff_deflate", "TIFF: ZIPDecode: Decoding error at scanline 0"),
        (CAT.convert("1"), "group4", "TIFF: Fax4Decode: Bad code word at line "),  # which Pillow delivers
    ],
)
def test_damage_is_the_reason(
    image: Image.Image, compression: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    content = overwritten(image, compression)
    with pytest.raises(pillow.Unreadable) as error:
        pillow.decode(content, Memory(), 1 << 20)
    assert str(error.value).startswith(f"damaged or truncated image data ({reason}")
    assert capfd.readouterr().err == ""
    good = encode(image, "TIFF", compression=compression)
    assert pillow.decode(good, Memory(), 1 << 20).shape == (64, 96, 3)


def test_files_of_others_are_told_of_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="decoder error"):
        Image.open(io.BytesIO(overwritten(CAT, "tiff_lzw"))).load()
    assert "Using code not yet in table." in capfd.readouterr().err
