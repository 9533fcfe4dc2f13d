"""Contents of files: small pictures of many formats, all different, and what is no picture."""

from __future__ import annotations

import functools
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import skimage.data
from PIL import Image

from tests.factories import difficult_files, encode

SIZES = [(40, 30), (30, 44), (33, 33), (64, 48), (48, 90), (120, 80), (17, 23), (200, 20)]  # (width, height), pixels
COUNT = 160
CLASSES = ["ant", "bee", "cow"]
# What a list may name instead of a regular file; a folder of images does not show all of them.
NO_FILES = ["missing", "directory", "FIFO", "socket", "3 GiB of nothing"]


class Picture(NamedTuple):
    """A file's ending and content, and (width, height) as it is stored."""

    ending: str
    content: bytes
    stored: tuple[int, int]


@functools.cache
def pictures() -> list[Picture]:
    """Good ones."""
    cat, cup = (Image.fromarray(of()) for of in (skimage.data.chelsea, skimage.data.coffee))
    turned = Image.Exif()
    turned[0x0112] = 6
    layouts: list[tuple[str, str, str, dict[str, Any]]] = [
        ("jpg", "JPEG", "RGB", {"quality": 85}),
        ("jpg", "JPEG", "RGB", {"quality": 70, "progressive": True}),
        ("jpeg", "JPEG", "L", {}),
        ("jpg", "JPEG", "RGB", {"exif": turned}),
        ("jpg", "JPEG", "CMYK", {"quality": 90}),
        ("png", "PNG", "RGB", {"compress_level": 1}),
        ("png", "PNG", "P", {}),
        ("png", "PNG", "RGBA", {"compress_level": 1}),
        ("webp", "WEBP", "RGB", {"quality": 80, "method": 0}),
        ("bmp", "BMP", "RGB", {}),
        ("tif", "TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("gif", "GIF", "P", {}),
        ("jpg", "JPEG", "RGB", {"subsampling": 0}),
    ]
    found = []
    for i in range(COUNT):
        source, (width, height) = (cat, cup)[i % 2], SIZES[i % len(SIZES)]
        if i % 40 == 0:
            width, height = 8 * width, 8 * height  # far too large: decoded at a scale
        left, top = i * 7 % (source.width - 150), i * 5 % (source.height - 150)
        cut = source.crop((left, top, left + 100 + i % 50, top + 100 + i % 30)).resize((width, height))
        ending, kind, mode, options = layouts[i % len(layouts)]
        found.append(Picture(ending, encode(cut.convert(mode), kind, **options), (width, height)))
    return found


@functools.cache
def damaged() -> dict[str, bytes]:
    """Contents of files that are bad, by what is wrong."""
    photo = encode(Image.fromarray(skimage.data.chelsea()).resize((90, 70)))
    graphic = encode(Image.fromarray(skimage.data.chelsea()).resize((40, 30)), "PNG")
    huge = bytearray(encode(Image.new("RGB", (8, 8)), "PNG"))  # a header that promises 60,000 × 60,000 pixels
    huge[16:24] = struct.pack(">II", 60_000, 60_000)
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    return {
        "empty": b"",
        "text": b"this is no picture",
        "cut": photo[: len(photo) // 2],
        "cut in the header": photo[:30],
        "a PNG, cut": graphic[: len(graphic) // 2],
        "zeros": bytes(3000),
        "a video": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(500),
        "a GIF's header": b"GIF89a" + bytes(100),
        "huge": bytes(huge),
        **difficult_files()[1],
    }


def mask(width: int, height: int, number: int) -> bytes:
    """A PNG whose values are 0, 1 and 2, in stripes."""
    y, x = np.mgrid[:height, :width]
    return encode(Image.fromarray(((x * 5 + y * 3 + number * 7) // 16 % 3).astype(np.uint8)), "PNG", compress_level=1)
