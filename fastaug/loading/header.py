"""What the bytes of an image tell without decoding it: its size, of JPEG and PNG, and the EXIF orientation of a JPEG.

Nobody need believe it: a decoder finds out what the picture is.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastaug.loading.orientation import upright_size

JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF: baseline, progressive, lossless …
_SEQUENTIAL_FRAMES = {0xC0, 0xC1, 0xC9}
_ORDINARY_FRAMES = {0xC0, 0xC1, 0xC2}  # with Huffman codes, baseline or progressive
_START = b"\xff\xd8"
_SCAN, _APP0, _APP1, _APP14 = 0xDA, 0xE0, 0xE1, 0xEE
_WITHOUT_LENGTH, _END = {*range(0xD0, 0xD8)}, 0xD9
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd8]", re.DOTALL)  # that has a length, or ends the picture
_TABLES = {0xC4, 0xCC, 0xDB, 0xDD}  # Huffman, arithmetic conditioning, quantisation, restart interval
_OTHERS = {0xDC, *range(0xE0, 0xF0), 0xFE}  # number of lines, applications' data, comments
_EXIF, _XMP, _ORIENTATION, _SHORT = b"Exif\0\0", b"http://ns.adobe.com/xap/", 0x0112, 3
_BYTES_OF_KIND = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_MARKER_IN_DATA = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"


class Header(NamedTuple):
    """Of a JPEG or a PNG.

    Attributes:
        height, width: in pixels, as stored.
        orientation: EXIF's, 1 for upright; 0: the header must be asked with more patience than this file has.
        channels: of a JPEG; 0 of a PNG.
        ordinary: a JPEG of 8 bits with 1 or 3 channels and Huffman codes, and without bytes that do not belong there:
            what every decoder reads alike.
        several_scans: a JPEG whose picture takes more than one, as progressive ones do.
        coarser_colour: how many times fewer colours than brightnesses libjpeg makes along an axis of it at a smaller
            scale. At 4:2:0 it makes as many, at 4:2:2 half.
    """

    height: int
    width: int
    orientation: int
    channels: int
    ordinary: bool
    several_scans: bool
    coarser_colour: int = 1


def as_bytes(content: Any, position: int) -> bytes:
    """The content of a file. Raises TypeError for something else."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, bytearray | memoryview):
        return bytes(content)
    if isinstance(content, np.ndarray) and content.dtype == np.uint8 and content.ndim == 1:
        return content.tobytes()
    got = f"{content.dtype} {list(content.shape)}" if isinstance(content, np.ndarray) else type(content).__name__
    raise TypeError(
        f"decode: expected the content of file {position} as bytes or a uint8 1-D array, got {got}. "
        "Read it first: np.fromfile(path, np.uint8)."
    )


def read_header(content: bytes) -> Header | None:
    """None for everything else than JPEG and PNG, and for headers that break off.

    Source: ITU-T T.81, annex B; Exif 2.32; the PNG specification, 2nd edition.
    """
    try:
        if content[:8] == _PNG:
            width, height = struct.unpack_from(">II", content, 16)
            return Header(height, width, 0, 0, False, False)
        return _read_jpeg(content) if content.startswith(JPEG) else None
    except (IndexError, struct.error):  # it ends too early
        return None


def likely_size(content: bytes) -> tuple[int, int] | None:
    """(height, width) of an image turned upright, unless its header is not as it seems; None: it does not tell."""
    header = read_header(content)
    return None if header is None else upright_size(header.height, header.width, header.orientation)


def without_metadata(content: bytes) -> bytes | None:
    """A JPEG with what decodes it, and nothing else in its header; None where that cannot be told.

    Metadata, bytes between segments and unknown versions are gone, whoever complains about them.
    """
    parts = [_START]
    try:
        for marker, start, end in _segments(content):
            if marker == _SCAN:
                return b"".join([*parts, content[start:]])
            if marker == _APP0 and content[start + 4 : start + 9] == b"JFIF\0":
                parts.append(_JFIF)
            elif marker == _APP14 and content[start + 4 : start + 9] == b"Adobe" and end - start >= 16:
                code = content[start + 15]  # of the colour transform: libjpeg takes an unknown one for YCbCr
                parts.append(content[start : start + 15] + bytes([code if code < 3 else 1]) + content[start + 16 : end])
            elif marker in _TABLES | _FRAMES:
                parts.append(content[start:end])
    except (IndexError, struct.error):
        pass
    return None


def scan_count(content: bytes) -> int:
    """Scans of a JPEG's picture; those of previews in its header, and of what follows it, are not its own."""
    scans, place = 0, len(_START)
    while (found := _MARKER.search(content, place)) is not None:
        marker, place = content[found.end() - 1], found.end()
        if marker == _END or place + 2 > len(content):
            break
        scans += marker == _SCAN
        place += int.from_bytes(content[place : place + 2], "big")
    return scans


def goes_on_to_its_end(content: bytes, header: Header) -> bool:
    """Whether a JPEG's data have no markers but those that belong there, up to the last one.

    Where they have others libjpeg stops with an error, and other decoders leave the rest gray.
    """
    between = {_SCAN, *_TABLES} if header.several_scans else set()
    place = next((end for marker, _, end in _segments(content) if marker == _SCAN), len(content))
    while (found := _MARKER_IN_DATA.search(content, place)) is not None:
        marker, place = content[found.end() - 1], found.end()
        if marker not in between:
            return marker == _END
        place += int.from_bytes(content[place : place + 2], "big")
    return False


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, where it begins, where it ends) of the parts of a JPEG's header, the first scan's the last.

    Bytes that do not belong there are passed over, as libjpeg does. It ends where libjpeg would not go on.
    """
    place, marker = 2, 0
    while marker != _SCAN:
        while content[place] != 0xFF or content[place + 1] in (0x00, 0xFF):
            place += 1
        marker = content[place + 1]
        if marker in _WITHOUT_LENGTH:
            end = place + 2
        elif marker in _TABLES | _FRAMES | _OTHERS or marker == _SCAN:
            end = place + 2 + struct.unpack_from(">H", content, place + 2)[0]
            if end < place + 4:
                return
        else:
            return
        yield marker, place, end
        place = end


def _read_jpeg(content: bytes) -> Header | None:
    exif, xmp, frame, samplings, last = [], False, None, b"\x11", 2
    ordinary = True
    for marker, start, end in _segments(content):
        ordinary &= start == last and marker not in _WITHOUT_LENGTH
        last = end
        if marker in _FRAMES:
            frame = marker, *struct.unpack_from(">BHHB", content, start + 4)
            samplings = content[start + 11 : end : 3]  # of each channel: along x in the upper 4 bits, along y
        elif marker == _APP1:
            if content[start + 4 : start + 10] == _EXIF:
                exif.append((start + 10, end))
            xmp |= content.startswith(_XMP, start + 4) and content.find(b"Orientation", start, end) >= 0
        elif marker == _SCAN and frame is not None:
            kind, bits, height, width, channels = frame
            if not height or not width:
                return None
            ordinary &= kind in _ORDINARY_FRAMES and bits == 8 and channels in (1, 3)
            orientation = 1 if not exif else _orientation(content[slice(*exif[0])]) if len(exif) == 1 else 0
            if xmp and orientation <= 1:  # it may be given in either place; where EXIF has none, XMP counts
                orientation = 0
            several_scans = kind not in _SEQUENTIAL_FRAMES or content[start + 4] < channels
            coarser = _coarser_colour(samplings)
            return Header(height, width, orientation, channels, ordinary, several_scans, coarser)
    return None


@lru_cache(maxsize=64)
def _coarser_colour(samplings: bytes) -> int:
    """libjpeg makes up for fewer colours only where they are as many times fewer along both axes."""
    last = samplings[-1]
    x, y = (max(sampling >> shift & 15 for sampling in samplings) // max(last >> shift & 15, 1) for shift in (4, 0))
    return 1 if x == y else max(x, y)


def _orientation(tiff: bytes) -> int:
    """1 to 8; 1 where none is given, 0 where there is any doubt."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 0
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind, count, place = struct.unpack_from(order + "HHII", tiff, entry)
            if tag == _ORIENTATION:
                (value,) = struct.unpack_from(order + "H", tiff, entry + 8)
                return int(value) if kind == _SHORT and count == 1 and 1 <= value <= 8 else 0
            size = count * _BYTES_OF_KIND.get(kind, 0)
            if size > 4 and place + size > len(tiff):  # some readers go no further
                return 0
    except struct.error:
        return 0
    return 1


__all__ = [
    "JPEG",
    "Header",
    "as_bytes",
    "goes_on_to_its_end",
    "likely_size",
    "read_header",
    "scan_count",
    "without_metadata",
]
