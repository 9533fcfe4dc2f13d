"""Images as Pillow reads them: every format but JPEG on a CPU, and the JPEGs that libjpeg-turbo's own face refuses."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image

from fastaug.loading import libtiff
from fastaug.loading.orientation import turn_upright
from fastaug.memory import Memory, can_be_had

# In the order in which they are tried. Not among them: what runs other programs (EPS), what holds no pixels (WMF), and
# what nobody trains on. HEIF is there if the package pillow-heif has registered it.
_PLUGINS = {
    "JPEG": "Jpeg", "PNG": "Png", "WEBP": "WebP", "GIF": "Gif", "BMP": "Bmp", "TIFF": "Tiff", "AVIF": "Avif",
    "JPEG2000": "Jpeg2K", "PPM": "Ppm", "ICO": "Ico", "QOI": "Qoi", "SGI": "Sgi", "PCX": "Pcx", "HEIF": "",
    "TGA": "Tga",
}  # fmt: skip
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_OTHERS = {  # what a file begins with -> what it is
    b"%PDF": "a PDF", b"<": "HTML or XML", b"PK": "a ZIP archive", b"\x1f\x8b": "gzip", b"{": "JSON",
    b"\0\0\0\0": "zeros", b"version https://git-lfs": "a pointer of Git LFS",
}  # fmt: skip
_QUOTED = re.compile(r"""(?<!\w)b?(['"])(?:\\.|(?!\1).)*(?:\1|$)""")  # not the apostrophe of "doesn't"
_ORIENTATION, _BITS, _PLANES = 0x0112, 258, 284  # tags of TIFF
_BANDS = ("R", "G", "B", "A", "C", "M", "Y", "K")
_MODES_16_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_METADATA_BYTES = 1 << 26  # with less something else is wrong than that a file asks for too much
_STRIP_PIXELS = 1 << 22  # converted at a time: Pillow takes ten bytes and more for each meanwhile
_MODES_WITHOUT_A_RANGE = ("I", "F")
_LOSSY = ("JPEG", "MPO")  # of formats that have one channel
_MASK_MODES = ("1", "L", "P", "I", *_MODES_16_BITS)


class Unreadable(ValueError):
    """A file that is not decoded; its text says why, in one line."""


def decode(content: bytes, memory: Memory, max_pixels: int) -> np.ndarray:
    """uint8 [H, W, 3]: RGB, turned upright, the first picture of several, without alpha.

    Raises:
        Unreadable: damaged or truncated, no format that is read, or more pixels than `max_pixels`.
    Differs from: Pillow's `convert("RGB")` where that would cut off: 16 bits of gray are scaled to 8, and whole numbers
        of 32 bits and floats are refused, since nobody knows their range. TIFFs with planes of 16 bits are right.
    """
    image = _open(content)
    width, height = image.size
    check_size(height, width, max_pixels)
    if image.mode in _MODES_WITHOUT_A_RANGE and not _has_16_bits(image):
        raise Unreadable(f"pixels of 32 bits (Pillow's mode {image.mode}), whose range is not known; convert them")
    with _loaded(image):
        orientation = _orientation_of(image)
        pixels = _rgb(image, memory)
    del image  # its memory, before more is taken
    return turn_upright(pixels, orientation, memory)


def decode_mask(content: bytes, max_pixels: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """The numbers of a mask as they are stored, not turned: uint8, uint16 or int32 [H, W].

    Of a palette the indices, not the colours; of 1, 2 and 4 bits and of a PGM what the file says, which Pillow spreads
    over 0..255.

    Args:
        size: (height, width) that it must have.
    Raises:
        Unreadable: damaged or truncated, several channels, floats, a JPEG, another size, or more pixels than
            `max_pixels`.
    """
    image = _open(content)
    width, height = image.size
    if size is not None and (height, width) != size:
        raise Unreadable(f"a mask of {width} × {height} pixels (width × height), expected {size[1]} × {size[0]}")
    check_size(height, width, max_pixels)
    if image.mode not in _MASK_MODES:
        raise Unreadable(
            f"expected a mask of one channel, whole numbers or a palette, got {image.format} of Pillow's mode "
            f"{image.mode}"
        )
    if image.format in _LOSSY:
        raise Unreadable(f"a mask in a {image.format}, which changes the numbers that are saved; save masks as PNG")
    spread = _spread_of(image)
    if image.format == "TIFF" and _orientation_of(image) != 1:  # Pillow would follow it, and only of this format
        raise Unreadable("a TIFF mask with an orientation of its own; save it upright, without")
    with _loaded(image):
        numbers = np.array(image)
    if numbers.dtype.kind == "b":
        return numbers.astype(np.uint8)
    if spread is not None:
        stored, shown = spread
        numbers = (numbers.astype(np.int64) * stored + shown // 2) // shown
        return numbers.astype(np.uint16 if stored > 255 else np.uint8)
    return numbers.astype(numbers.dtype.newbyteorder("="), copy=False)


def size_of(content: bytes) -> tuple[int, int]:
    """(height, width) as stored. Raises Unreadable."""
    width, height = _open(content).size
    return height, width


def orientation(content: bytes) -> int:
    """EXIF's orientation, 1 to 8, from wherever Pillow's `exif_transpose` takes it: EXIF, XMP …"""
    return _orientation_of(_open(content))


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Raises Unreadable."""
    if min(height, width) < 1:
        raise Unreadable(f"{width} × {height} pixels (width × height)")
    if height * width > max_pixels:
        raise Unreadable(
            f"{width:,} × {height:,} pixels; more than max_pixels = {max_pixels:,} are not decoded"
        )  # fmt: skip


def _open(content: bytes) -> Any:
    """As `Image.open`, which has one limit of its own for all the process, and does not say what is wrong."""
    if not content:
        raise Unreadable("empty file (0 bytes)")
    reasons = []
    for name, plugin in _PLUGINS.items():
        if plugin and name not in Image.OPEN:
            import_module(f"PIL.{plugin}ImagePlugin")
        factory, accepts = Image.OPEN.get(name, (None, None))
        if factory is None or (accepts is not None and accepts(content[:16]) is not True):
            continue
        try:
            return factory(io.BytesIO(content), "")
        except Exception as error:  # of any kind: damaged headers raise what comes
            if accepts is not None:
                reasons.append(f"damaged or truncated image header ({name}: {_line(error)})")
    if reasons:
        raise Unreadable(reasons[0])
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC_BRANDS:
        raise Unreadable(
            "a HEIC file: pip install pillow-heif, and call pillow_heif.register_heif_opener() before loading"
        )
    looks = next((f"; it looks like {kind}" for start, kind in _OTHERS.items() if content.startswith(start)), "")
    raise Unreadable(f"not an image format that is read{looks}")


@contextmanager
def _loaded(image: Any) -> Iterator[None]:
    """Loads an image; what goes wrong then, and with what is done with it, is Unreadable."""
    said: list[str] = []
    try:
        _mend_planes(image)
        with libtiff.errors() as said:
            image.load()
        if said:  # as of a fax with a bad code, of which the rest is shown as if it were right
            raise Unreadable(f"damaged or truncated image data ({image.format}: {said[0][:120]})")
        yield
    except (Unreadable, MemoryError):  # of which it is not known yet whose fault it is
        raise
    except Exception as error:  # of any kind: damaged files raise what comes
        reason = said[0][:120] if said else _line(error)
        raise Unreadable(f"damaged or truncated image data ({image.format}: {reason})") from error


def _spread_of(image: Any) -> tuple[int, int] | None:
    """Of gray that Pillow spreads when it loads: the largest number as stored, and what it becomes."""
    arguments = image.tile[0].args if image.tile else ""
    raw, *others = (arguments,) if isinstance(arguments, str) else arguments
    if image.format == "PPM" and others and isinstance(others[0], int):
        return others[0], 65535 if image.mode == "I" else 255
    return {"L;2": (3, 255), "L;4": (15, 255)}.get(raw)


def _rgb(image: Any, memory: Memory) -> np.ndarray:
    image.info.pop("transparency", None)  # alpha is dropped, and nobody need be warned
    width, height = image.size
    out = memory.take((height, width, 3))
    rows = max(_STRIP_PIXELS // width, 1)
    for top in range(0, height, rows):
        strip = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
        if _has_16_bits(image):
            gray = np.asarray(strip).astype(np.uint32)
            out[top : top + rows] = ((gray * 255 + 32767) // 65535)[..., None]
        else:
            out[top : top + rows] = np.asarray(strip.convert("RGB"))
    return out


def _mend_planes(image: Any) -> None:
    """Of a TIFF: Pillow 13 reads planes of 16 bits that are not compressed as if they had 8."""
    if image.format == "TIFF" and image.tag_v2.get(_PLANES) == 2 and 16 in image.tag_v2.get(_BITS, ()):
        order = "L" if image.tag_v2.prefix == b"II" else "B"
        image.tile = [
            tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:])) if tile.args[0] in _BANDS else tile
            for tile in image.tile
        ]


def _has_16_bits(image: Any) -> bool:
    """Of gray. Pillow scales those of a PGM to 0..65535, and keeps them in 32."""
    return image.mode in _MODES_16_BITS or (image.mode == "I" and image.format == "PPM")


def _orientation_of(image: Any) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Warning as error:  # a filter of the user's: he shall not get pictures that lie on their side
        raise Unreadable(f"a warning that Python's filters make an error: {_line(error)}") from error
    except MemoryError:
        if not can_be_had(_METADATA_BYTES):  # or it is the machine that is short of memory
            raise
        return 1
    except Exception:  # of any kind: what cannot be read turns nothing
        return 1
    return found if found in range(1, 9) else 1


def _line(error: Exception) -> str:
    """What Pillow says, without what it quotes of the file."""
    said = "" if isinstance(error, UnicodeError) else _QUOTED.sub("…", str(error)).strip(" …")
    return (said.splitlines() or [type(error).__name__])[0][:120]


__all__ = ["Unreadable", "check_size", "decode", "decode_mask", "orientation"]
