"""The bytes of a sample: of a file, or of a member of a tar archive that was indexed before.

A member's path says where it lies: `archive.tar//name@offset+size`. So it is read with one seek, in any order, by any
process, and is a string like any other path.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

_MEMBER = re.compile(r"(?P<archive>.+)//(?P<name>.+)@(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL)


class Member(NamedTuple):
    """One file in an archive: its name, where its content begins, and how long it is, in bytes."""

    archive: str
    name: str
    offset: int
    size: int

    @property
    def path(self) -> str:
        return f"{self.archive}//{self.name}@{self.offset}+{self.size}"


def read_bytes(path: str) -> bytes | str:
    """The content, or the reason why there is none."""
    member = _MEMBER.fullmatch(path)
    try:
        if member is None or os.path.exists(path):
            with open(path, "rb") as file:
                return file.read() or "the file is empty"
        size = int(member["size"])
        with open(member["archive"], "rb", buffering=0) as file:
            content = os.pread(file.fileno(), size, int(member["offset"]))
    except (OSError, ValueError) as error:
        return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    if len(content) < size:
        return f"the archive ends after {len(content):,} of {size:,} bytes"
    return content or "the file is empty"


def members(archive: str | os.PathLike[str]) -> Iterator[Member]:
    """The files of a tar archive, in its order. Only headers are read, the content is skipped.

    Raises:
        FileNotFoundError: no such archive. ValueError: not a tar archive, a compressed one, or one that is cut off.
    """
    name = os.fspath(archive)
    try:
        with tarfile.open(name, "r:") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or it would keep every header
                if info.isreg() and not info.issparse():
                    yield Member(name, info.name, info.offset_data, info.size)
    except tarfile.TarError as error:
        raise ValueError(
            f"from_tar: expected a whole tar archive that is not compressed, got {name!r}: {error}. "
            "Unpack a compressed one, and write one that is cut off again."
        ) from None


__all__ = ["Member", "members", "read_bytes"]
