"""What the bytes of an image tell without decoding it: its size, of JPEG and PNG, and where a JPEG's data ends."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF: baseline, progressive, lossless …
_END, _SCAN = 0xD9, 0xDA
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
# What may follow a scan, beside the end: tables, comments, applications' data, another scan.
_BETWEEN_SCANS = {0xC4, 0xCC, *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE}
_EXIF, _ORIENTATION = b"Exif\0\0", 0x0112


class Header(NamedTuple):
    """Height and width in pixels as they are stored, and the EXIF orientation, 1 for upright."""

    height: int
    width: int
    orientation: int


def upright_size(content: bytes | memoryview) -> tuple[int, int] | None:
    """(height, width) of an image that is certainly stored upright; None of others, and where it is not known."""
    header = read_header(content)
    return (header.height, header.width) if header and header.orientation == 1 else None


def read_header(content: bytes | memoryview) -> Header | None:
    """None for everything else than JPEG and PNG, and where there is any doubt.

    Source: ITU-T T.81, annex B; Exif 2.32; the PNG specification, 2nd edition.
    """
    try:
        if content[:8] == _PNG:
            height, width = reversed(struct.unpack_from(">II", content, 16))
            return Header(height, width, 0)  # it may have an orientation too: not looked for
        return _read_jpeg(content) if content[:2] == _JPEG else None
    except (IndexError, struct.error):  # it ends too early
        return None


def scan_end(content: bytes | memoryview) -> int | None:
    """Where a decoder stops to read a JPEG's scans: at the end marker, or at one that does not belong there.

    None where there is no such marker, or no scan before it. In a whole file little or nothing follows the end marker;
    some cameras append a second picture or a film.
    """
    start = _find_scan(content)
    if start is None:
        return None
    data = np.frombuffer(content, np.uint8)
    marks = np.flatnonzero(data[start:-1] == 0xFF) + start
    kinds = data[marks + 1]
    real = (kinds != 0x00) & (kinds != 0xFF) & ((kinds & 0xF8) != 0xD0)  # not a stuffed byte, a filler, a restart
    place = start
    for mark, kind in zip(marks[real].tolist(), kinds[real].tolist(), strict=True):
        if mark < place:
            continue  # within the segment before
        if kind not in _BETWEEN_SCANS or mark + 4 > len(content):
            return int(mark)
        place = mark + 2 + struct.unpack_from(">H", content, mark + 2)[0]
    return None


def _segments(content: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """(marker, where it begins, its length) of the parts of a JPEG's header, the first scan's the last."""
    place, marker = 2, 0
    while marker != _SCAN and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker in _WITHOUT_LENGTH:
            place += 2
        else:
            (length,) = struct.unpack_from(">H", content, place + 2)
            if length < 2:
                return
            yield marker, place, length
            place += 2 + length


def _find_scan(content: bytes | memoryview) -> int | None:
    """Where the first scan's header begins."""
    try:
        return next((place for marker, place, _ in _segments(content) if marker == _SCAN), None)
    except (IndexError, struct.error):  # it ends too early
        return None


def _read_jpeg(content: bytes | memoryview) -> Header | None:
    orientation = 1
    for marker, place, length in _segments(content):
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", content, place + 5)
            return Header(height, width, orientation) if height and width else None
        if marker == _END:  # before any size
            return None
        if marker == 0xE1 and content[place + 4 : place + 10] == _EXIF:
            orientation = _orientation(content[place + 10 : place + 2 + length])
    return None


def _orientation(tiff: bytes | memoryview) -> int:
    """1 to 8; 1 where none is given, 0 where it cannot be told."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(tiff[:2]))
    if order is None:
        return 0
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            (tag,) = struct.unpack_from(order + "H", tiff, entry)
            if tag == _ORIENTATION:
                return int(struct.unpack_from(order + "H", tiff, entry + 8)[0])
    except struct.error:
        return 0
    return 1
