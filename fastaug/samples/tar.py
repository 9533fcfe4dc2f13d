"""Tar archives: which members they have and where these lie, by their headers alone.

Not Python's `tarfile`, which believes headers: on damaged ones it takes gigabytes for a name, calls itself for each
header that extends another, or raises whatever comes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

MAX_HEADER_BYTES = 1 << 20  # of a long name, and of the records of PAX
_MOST_NAME_BYTES = 1 << 14  # four times what a path on Linux has
_BLOCK = 512
_ZEROS_AT_ONCE = 1 << 20
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_OCTAL = re.compile(rb"[0-7]*")
_DECIMAL = re.compile(rb"[0-9]{1,20}")

# Kinds of headers
_FILES, _FOLDER, _SPARSE = b"\x0007", b"5", b"S"
_WITHOUT_CONTENT = b"123456"  # links, devices, folders, FIFOs, whatever size they say
_LONG_NAME, _RECORDS = b"L", b"xX"
_EXTENDING = _LONG_NAME + _RECORDS + b"gK"  # the header that follows

Read = Callable[[int, int], bytes]  # size, offset -> the bytes there, fewer at the end


class Member(NamedTuple):
    """One file in an archive: its name, where its content begins, and how long it is, in bytes."""

    archive: str
    name: str
    offset: int
    size: int

    @property
    def path(self) -> str:
        return f"{self.archive}//{self.name}@{self.offset}+{self.size}"


class _Entry(NamedTuple):
    """What is in an archive. plain: a file that lies there as it is. end: where the next header begins."""

    name: str
    plain: bool
    folder: bool
    offset: int
    size: int
    end: int


def entries(archive: str, read: Read, length: int) -> Iterator[tuple[Member, bool]]:
    """What is in a tar archive but for folders, and whether it is a file, not a link or a sparse one.

    Args:
        archive: its name. read: its bytes. length: how many it has.
    Raises:
        ValueError: not a tar archive, a compressed one, or one that is cut off or damaged.
    """
    expected = f"from_tar: expected a whole tar archive that is not compressed, got {archive!r}"
    start = read(8, 0)
    kind = next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), None)
    if kind:
        raise ValueError(
            f"{expected}, compressed with {kind}: nothing within it can be read by itself. Unpack it once; photos are "
            "hardly larger without it."
        )
    place: int | None = 0
    begin = place  # of the archive, of several one after the other, as `cat` leaves them
    while place is not None:
        try:
            entry = _entry_at(read, place)
        except ValueError as error:
            raise ValueError(f"{expected}: {error}. Copy it again.") from None
        if entry is None:
            if read(_BLOCK, place) != bytes(_BLOCK):
                if begin and place == begin:
                    raise ValueError(
                        f"{expected}, with something after its end at byte {place} that is no archive. Cut it off "
                        "there."
                    )
                raise ValueError(f"{expected}, with neither a header nor its end at byte {place}. Copy it again.")
            place = begin = _end_of_zeros(read, place)
            continue
        if entry.end > length:
            raise ValueError(
                f"{expected}, which ends after {length:,} bytes, within {entry.name[:200]!r}. Copy it again."
            )
        place = entry.end
        if not entry.folder:
            yield Member(archive, entry.name, entry.offset, entry.size), entry.plain


def is_member(read: Read, offset: int, size: int) -> bool:
    """Whether a member's content begins there: the archive may have been written anew since it was indexed."""
    header = offset - _BLOCK
    try:
        if header >= 0 and _number(read(12, header + 124)) == size:
            return True
    except ValueError:
        pass
    # Or its size is in records of PAX, which lie before its header
    first = max(header - 2 * _BLOCK - MAX_HEADER_BYTES, header % _BLOCK)
    before = read(max(offset - first, 0), first)

    def found(place: int) -> bool:
        try:
            entry = _entry_at(lambda size, start: before[start : start + size], place)
        except ValueError:
            return False
        return entry is not None and (entry.offset + first, entry.size) == (offset, size)

    places = range(len(before) - 3 * _BLOCK, -1, -_BLOCK)
    return any(before[place + 156 : place + 157] in _RECORDS and found(place) for place in places)


def _entry_at(read: Read, begin: int) -> _Entry | None:
    """What the headers from there on tell; None: there is no header.

    Raises:
        ValueError: they are damaged, or longer than anybody writes them.
    """
    place, name, records = begin, b"", dict[bytes, bytes]()
    while True:
        block = read(_BLOCK, place)
        if not _is_header(block):
            if place == begin:
                return None
            raise ValueError(f"no header at byte {place} after one that extends it")
        kind, size = block[156:157], _number(block[124:136])
        offset = place + _BLOCK
        if kind not in _EXTENDING:
            break
        if size > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {size:,} bytes at byte {place}, more than {MAX_HEADER_BYTES:,}")
        if kind == _LONG_NAME:
            name = read(size, offset)
        elif kind in _RECORDS:
            records |= _records(read(size, offset), place)
        place = offset + _padded(size)
    sparse = kind == _SPARSE or any(key.startswith(b"GNU.sparse.") for key in records)
    if b"size" in records:
        if not _DECIMAL.fullmatch(records[b"size"]):
            raise ValueError(f"a size that is no number before byte {place}")
        size = int(records[b"size"])
    more = kind == _SPARSE and block[482]  # blocks of a map come before the content
    while more:
        more, offset = read(_BLOCK, offset).ljust(_BLOCK, b"\0")[504], offset + _BLOCK
    if not name:
        name, prefix = _text(block[:100]), _text(block[345:500])
        name = prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name
    name = _text(records.get(b"GNU.sparse.name") or records.get(b"path") or name)
    if len(name) > _MOST_NAME_BYTES:
        raise ValueError(f"a name of {len(name):,} bytes before byte {place}, more than {_MOST_NAME_BYTES:,}")
    folder = kind == _FOLDER or (kind == b"\0" and name.endswith(b"/"))
    return _Entry(
        name.decode("utf-8", "surrogateescape"),
        kind in _FILES and not folder and not sparse,
        folder,
        offset,
        size,
        offset + (0 if kind in _WITHOUT_CONTENT or folder else _padded(size)),
    )


def _is_header(block: bytes) -> bool:
    """By its checksum, of unsigned or, as some programs have it, signed bytes."""
    if len(block) < _BLOCK or (not block[0] and not any(block)):
        return False
    counted = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(counted)
    try:
        said = _number(block[148:156])
    except ValueError:
        return False
    return said == unsigned or said == unsigned - 256 * sum(byte > 127 for byte in counted)


def _number(field: bytes) -> int:
    """Octal digits, or GNU's base 256, whose first byte has the highest bit."""
    if field[:1] >= b"\x80":
        if field[0] & 0x40:
            raise ValueError("a negative number in a header")
        return int.from_bytes(field) - (0x80 << 8 * (len(field) - 1))
    digits = _text(field).strip()
    if not _OCTAL.fullmatch(digits):
        raise ValueError("a number in a header that is none")
    return int(digits or b"0", 8)


def _records(content: bytes, place: int) -> dict[bytes, bytes]:
    """Of PAX, each `length key=value` and a line break."""
    found, start = dict[bytes, bytes](), 0
    while start < len(content) and content[start]:
        length = content[start : start + 20].partition(b" ")[0]
        end = start + int(length) if _DECIMAL.fullmatch(length) else 0
        key, equals, value = content[start + len(length) + 1 : end - 1].partition(b"=")
        if not key or not equals or not start < end <= len(content) or content[end - 1 : end] != b"\n":
            raise ValueError(f"a damaged header at byte {place}")
        found[key] = value
        start = end
    return found


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _end_of_zeros(read: Read, place: int) -> int | None:
    """The block in which there is something again; None: zeros up to the end."""
    while chunk := read(_ZEROS_AT_ONCE, place):
        rest = chunk.lstrip(b"\0")
        if rest:
            return (place + len(chunk) - len(rest)) // _BLOCK * _BLOCK
        place += len(chunk)
    return None


__all__ = ["MAX_HEADER_BYTES", "Member", "entries", "is_member"]
