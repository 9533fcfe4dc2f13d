"""JPEG files through libjpeg-turbo (simplejpeg), at the scale that is needed; what it refuses, through Pillow.

Pixels of a whole photo equal Pillow's bit for bit. At 1/2, 1/4 and 1/8 the inverse cosine transform makes fewer pixels
of each block; all of the entropy data is read at every scale, so damage is found.
"""

from __future__ import annotations

import re

import numpy as np
import simplejpeg
import torch

from fastaug.loading import pillow
from fastaug.loading.header import Header, read_header, scan_count, without_metadata
from fastaug.loading.orientation import turn_upright, upright_matrix, upright_size
from fastaug.loading.photo import Need, Photo
from fastaug.loading.pillow import Unreadable
from fastaug.memory import Memory

# A photo is decoded at the smallest scale that leaves so many pixels per pixel of what is made of it
# (benchmarks/scale_study.py).
LEAST_FOOTPRINT = 2.0
SCALES = (8, 4, 2)
# Each scan is a pass over all of the picture, and takes 14 bytes at least: 5,000 of them took 100 s. Encoders make ten.
MOST_SCANS = 100

# libjpeg's warnings that touch pixels, jerror.h; all others do not.
_DAMAGE = re.compile(
    r"premature end|bad Huffman code|arithmetic|found marker .* instead of RST|progress", re.IGNORECASE
)
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]+)")
_SCAN, _RESTARTS = b"\xff\xda", range(0xD0, 0xD8)
_READ_AHEAD_BYTES = 8  # of which libjpeg tells at a later restart marker than the one that they precede
_MOST_MENDED = 8  # places with bytes that do not belong there, of which each costs some decoding to find


def decode(content: bytes, need: Need | None, memory: Memory, max_pixels: int) -> Photo:
    """A photo of the whole picture, upright; smaller where `need` allows.

    Raises:
        Unreadable: damaged, truncated, more pixels than `max_pixels` or more scans than MOST_SCANS.
    """
    header = read_header(content)
    if header is None:
        return _as_pillow(content, memory, max_pixels)
    pillow.check_size(header.height, header.width, max_pixels)
    check_scans(content, header)
    orientation = orientation_of(content, header)
    size = upright_size(header.height, header.width, orientation)
    scale = _scale(need, header) if need is not None and need.size == size else 1
    try:
        pixels = _decode(content, header, scale, memory)
    except ValueError as error:
        found = _decode_with_patience(content, header, scale, memory, str(error))
        if found is None:
            return _as_pillow(content, memory, max_pixels)
        pixels = found
    if header.channels == 4:  # CMYK and YCCK: looked at for damage only
        return _as_pillow(content, memory, max_pixels)
    pixels = turn_upright(pixels, orientation, memory)
    return Photo(torch.from_numpy(pixels), upright_matrix(size, orientation, scale), size)


def orientation_of(content: bytes, header: Header | None = None) -> int:
    """EXIF's, 1 to 8, of a file of any format."""
    header = header or read_header(content)
    return (header.orientation if header else 0) or pillow.orientation(content)


def check_scans(content: bytes, header: Header) -> None:
    """Raises Unreadable."""
    if header.several_scans and content.count(_SCAN) > MOST_SCANS and (scans := scan_count(content)) > MOST_SCANS:
        raise Unreadable(f"a JPEG of {scans:,} scans; more than {MOST_SCANS} are not decoded")


def _scale(need: Need, header: Header) -> int:
    """The largest at which brightness is fine enough for what is made of the photo, and colour for the output."""
    footprint = min(need.footprint, need.output_footprint / header.coarser_colour)
    return next((scale for scale in SCALES if footprint >= LEAST_FOOTPRINT * scale), 1)


def _as_pillow(content: bytes, memory: Memory, max_pixels: int) -> Photo:
    return Photo.whole(torch.from_numpy(pillow.decode(content, memory, max_pixels)))


def _decode(content: bytes, header: Header, scale: int, memory: Memory) -> np.ndarray:
    """Raises ValueError with libjpeg's words, for its warnings too."""
    height, width = -(-header.height // scale), -(-header.width // scale)
    out = memory.take((height, width, 3))
    least = (height, width) if scale > 1 else (0, 0)
    pixels: np.ndarray = simplejpeg.decode_jpeg(content, min_height=least[0], min_width=least[1], buffer=out)
    if pixels.shape != out.shape:
        raise ValueError(f"expected {list(out.shape)}, got {list(pixels.shape)}")
    return out


def _decode_with_patience(
    content: bytes, header: Header, scale: int, memory: Memory, message: str
) -> np.ndarray | None:
    """After a refusal: without what may stand in a header; then without bytes that do not belong into the data.

    libjpeg names its first warning only: a harmless one hides others, so what it is about is taken away.

    Returns:
        The pixels; None: only Pillow can tell.
    """
    bare = mended = without_metadata(content)
    for _ in range(_MOST_MENDED):
        if _DAMAGE.search(message):
            raise Unreadable(f"damaged or truncated image data (JPEG: {message})")
        if bare is None or mended is None or not _show_the_same(mended, bare):
            return None
        try:
            return _decode(mended, header, scale, memory)
        except ValueError as error:
            message = str(error)
        mended = _without_extraneous(mended, message)
    return None


def _show_the_same(mended: bytes, bare: bytes) -> bool:
    """Whether the right bytes were taken out."""
    if mended is bare:
        return True
    try:
        one, other = (simplejpeg.decode_jpeg(content, strict=False) for content in (mended, bare))
    except ValueError:  # more than a warning, further on: Pillow meets it too
        return False
    return np.array_equal(one, other)


def _without_extraneous(content: bytes, message: str) -> bytes | None:
    """The same without the first bytes of its data that do not belong there; None: they are not what is wrong.

    Which marker they precede: the first of that kind where the data, cut off before it, ends with as many such bytes.
    (Cut off behind it, the data would end in the middle of a segment, which is another error.)
    """
    named = _EXTRANEOUS.search(message)
    if named is None:
        return None
    count, marker = int(named[1]), bytes([0xFF, int(named[2], 16)])
    if marker[1] in _RESTARTS and count <= _READ_AHEAD_BYTES:
        return None
    told = {message, message.replace(named[0], f"{count} extraneous bytes before marker 0xd9")}
    places = [found.start() for found in re.finditer(re.escape(marker), content)]
    first, last = 0, len(places) - 1
    while first < last:
        middle = (first + last) // 2
        if _warning(content[: places[middle]] + b"\xff\xd9") in told:
            last = middle
        else:
            first = middle + 1
    if not places or places[first] < count or _warning(content[: places[first]] + b"\xff\xd9") not in told:
        return None
    return content[: places[first] - count] + content[places[first] :]


def _warning(content: bytes) -> str:
    try:
        simplejpeg.decode_jpeg(content)
    except ValueError as error:
        return str(error)
    return ""


def encode(pixels: np.ndarray, quality: int = 80) -> bytes:
    """uint8 [h, w, 3] as a JPEG."""
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, colorspace="RGB"))


__all__ = ["LEAST_FOOTPRINT", "MOST_SCANS", "check_scans", "decode", "encode", "orientation_of"]
