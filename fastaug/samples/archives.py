"""What tar archives in WebDataset's layout hold: which members are images, and what each of them shows."""

from __future__ import annotations

import glob
import json
import math
import os
import posixpath
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, count, product
from typing import Any, NamedTuple

import numpy as np

from fastaug.files import whole_file
from fastaug.samples.folders import IMAGES_NOT_READ, NO_DATA, LeftOut
from fastaug.samples.sources import IMAGE_EXTENSIONS, Member, MemberPaths, Reader, content_of, members, narrow
from fastaug.samples.storage import is_the_storages, retried
from fastaug.text import cut, kind_of

MOST_ARCHIVES = 1_000_000  # that a pattern may name
MAX_LABEL_BYTES = 1 << 24  # of what lies beside an image

_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}", re.ASCII)
_HIDDEN = re.compile(r"(?:^|/)\.(?!/|\./)")
_NO_DATA = re.compile(rf"(?:^|/)({'|'.join(map(re.escape, sorted(NO_DATA)))})/", re.IGNORECASE)
_FOLDER = r"([^/]*)/+[^/]*\Z"  # that a member lies in


class Layout(NamedTuple):
    """Which members are images, and what tells their class; see `Samples.from_tar`."""

    target: str
    pattern: str | None
    image: str | None


def find_archives(archives: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """The files of a path, of a pattern ("train-*.tar", "train-{000..146}.tar"), or of a list of such.

    Raises:
        FileNotFoundError: nothing there. ValueError: an empty list, a range of too many, what is no file.
    """
    given = [archives] if isinstance(archives, str | os.PathLike) else list(archives)
    found: list[str] = []
    for name in (name for pattern in given for name in _without_ranges(os.fspath(pattern))):
        matching = [name] if os.path.exists(name) else sorted(glob.glob(name))
        if not matching:
            raise FileNotFoundError(
                f"from_tar: expected archives, got none for {cut(name, 1000)}. Check the path or pattern."
            )
        other = next((path for path in matching if not os.path.isfile(path)), None)
        if other is not None:
            raise ValueError(f"from_tar: expected archives, got {other!r}, which is no file. Name the files in it.")
        found += matching
    if not found:
        raise ValueError("from_tar: expected archives, got an empty list.")
    return found


def _without_ranges(pattern: str) -> Iterable[str]:
    """ "a{08..10}" -> a08, a09, a10."""
    texts = _RANGE.split(pattern)  # between them the first and last number of each range
    if len(texts) == 1 or os.path.exists(pattern):
        return [pattern]
    ranges = [range(int(first), int(last) + 1) for first, last in zip(texts[1::3], texts[2::3], strict=True)]
    number = math.prod(len(numbers) for numbers in ranges)
    if number > MOST_ARCHIVES:
        got = f"{number:,}" if number < 10**18 else "10^18 or more"
        raise ValueError(
            f"from_tar: expected a pattern of at most {MOST_ARCHIVES:,} archives, got {got} by {cut(pattern)}. Correct "
            "its numbers."
        )
    digits = [f"0{len(first)}" for first in texts[1::3]]
    return (
        "".join(chain(*zip(texts[::3], [*map(format, chosen, digits), ""], strict=True))) for chosen in product(*ranges)
    )


def index_archives(archives: list[str], layout: Layout, index: str | None) -> tuple[MemberPaths, list[str], LeftOut]:
    """The images of the archives, in order, what each shows, as it is written there, and what is left out.

    Args:
        index: a file to keep this in, and to read it from as long as archives and layout are the same.
    """
    found = [(archive, retried(partial(os.stat, archive))) for archive in archives]
    facts = [(archive, status.st_size, status.st_mtime_ns) for archive, status in found]
    signature = json.dumps([3, facts, layout])
    left_out = LeftOut(archives[0] + (f" … {archives[-1]}" if len(archives) > 1 else ""))
    kept = _read_index(index, signature, left_out) if index is not None else None
    if kept is not None:
        return *kept, left_out
    labels: list[str] = []

    def images() -> Iterator[Member]:
        with Reader() as reader:
            for archive in archives:
                for member, label in _labelled(archive, layout, reader, left_out):
                    labels.append(label)
                    yield member

    paths = MemberPaths.of(images())
    if index is not None:
        distinct = dict(zip(dict.fromkeys(labels), count(), strict=False))
        codes = np.array([distinct[label] for label in labels], np.int64)
        texts = json.dumps([paths.archives, [*distinct], left_out.kinds]).encode()
        columns = {"texts": np.frombuffer(texts, np.uint8), "codes": narrow(codes), **paths.columns()}
        with whole_file(index) as file:
            np.savez(file, signature=signature, crc32=_crc32(columns), **columns)  # type: ignore[arg-type]
    return paths, labels, left_out


def _crc32(columns: Mapping[str, np.ndarray]) -> int:
    """Of everything in an index: what was changed in it would be other pictures, or other classes of them."""
    crc = 0
    for column in columns.values():
        crc = zlib.crc32(np.ascontiguousarray(column).data, zlib.crc32(column.dtype.str.encode(), crc))
    return crc


def _labelled(archive: str, layout: Layout, reader: Reader, left_out: LeftOut) -> Iterator[tuple[Member, str]]:
    """The images of one archive, in its order, each with its label.

    A sample is what agrees up to the first dot. Where several images do, or no label does, each image has its own
    label, which agrees up to the last one: "22.00.jpg" and "22.00.cls".
    """
    extension, _, field = layout.target.partition(":")
    of_name = layout.pattern is not None or layout.target == "folder"
    images: list[tuple[str, str, Member]] = []  # what is before the first dot, and after it
    labels: dict[str, Member] = {}
    for member in members(archive):
        if _HIDDEN.search(member.name):
            continue
        no_data = _NO_DATA.search(member.name)
        if no_data:
            left_out.add(f"{no_data[1]}/", member.name)
            continue
        folder, name = posixpath.split(member.name)  # within an archive, on every system
        stem, _, ending = name.partition(".")
        ending = ending.lower()
        if f".{ending}".endswith(f".{layout.image}" if layout.image else IMAGE_EXTENSIONS):
            images.append((posixpath.join(folder, stem), ending, member))
        elif not of_name and f".{ending}".endswith(f".{extension}"):
            labels[posixpath.join(folder, name[: -len(extension) - 1])] = member
        elif of_name or f".{ending}".endswith(IMAGES_NOT_READ):
            left_out.add_file(name, member.name)
    whole = {key for key, ending, _ in images if ending == layout.image}
    images = [one for one in images if one[0] not in whole or one[1] == layout.image]
    number = Counter(key for key, _, _ in images)
    taken: dict[str, str] = {}
    for key, _, image in images:
        if of_name:
            found = re.search(layout.pattern or _FOLDER, image.name)
            label = found[1] if found and found[1] != "." else ""
        else:
            stem = key if number[key] == 1 and key in labels else _stem(image.name)
            if stem in taken or (number[key] > 1 and stem not in labels):
                sample = [other.name for own_key, _, other in images if own_key == key]
                raise _several_images(archive, taken.get(stem), image.name, sample, extension)
            taken[stem] = image.name
            label = _label_beside(image, labels.get(stem), field, reader)
        if not label:
            raise ValueError(
                f"from_tar: expected a class for every image, got none for {cut(image.name, 300)} in "
                f'{image.archive!r}. Say where it is with target="cls", "json:FIELD" or "folder", or with pattern=.'
            )
        yield image, label


def _several_images(archive: str, taken: str | None, image: str, sample: list[str], extension: str) -> ValueError:
    """taken: the image that has the label which this one would have; None: there is no label for each of the sample."""
    first, second = (taken, image) if taken else sample[:2]
    own = "" if taken else f", or write the class of each beside it, {cut(f'{_stem(second)}.{extension}', 300)}"
    ending = posixpath.basename(first).partition(".")[2]
    return ValueError(
        f"from_tar: expected one image per sample, got {cut(first, 300)} and {cut(second, 300)} in {archive!r}. Name "
        f"the ending of the one to load, image={cut(ending)}{own}."
    )


def _stem(name: str) -> str:
    """A member's name up to the last dot."""
    folder, name = posixpath.split(name)
    return posixpath.join(folder, posixpath.splitext(name)[0])


def _label_beside(image: Member, label: Member | None, field: str, reader: Reader) -> str:
    """The class in the member beside an image; "" where there is none."""
    if label is None:
        return ""
    try:
        if label.size > MAX_LABEL_BYTES:
            raise ValueError(f"{label.size:,} bytes, more than {MAX_LABEL_BYTES:,}")
        content = content_of(label.path, "from_tar", reader.read_bytes)
        if not content:
            return ""
        value: Any = content.decode().strip()
        if field:
            value = json.loads(value).get(field, "")
        if not isinstance(value, str | int):
            raise ValueError(kind_of(value))
    except (ValueError, AttributeError, RecursionError) as error:
        got = "something else" if isinstance(error, UnicodeDecodeError) else f"something else: {error}"
        raise ValueError(
            f"from_tar: expected {'JSON with ' + repr(field) if field else 'text'} beside {cut(image.name, 300)} in "
            f"{image.archive!r}, got {got}. Correct it, or name another target."
        ) from None
    return str(value)


def _read_index(index: str, signature: str, left_out: LeftOut) -> tuple[MemberPaths, list[str]] | None:
    """None where there is none, or one of other archives."""
    if not os.path.exists(index):
        return None
    try:
        with open(index, "rb") as file, np.load(file, allow_pickle=False) as kept:
            if str(kept["signature"]) != signature:
                return None
            columns = {name: kept[name] for name in ("texts", "codes", *MemberPaths.COLUMNS)}
            if int(kept["crc32"]) != _crc32(columns):
                raise ValueError("its checksum is another one")
        archives, labels, kinds = json.loads(columns["texts"].tobytes())
        left_out.kinds = {kind: (number, name) for kind, (number, name) in kinds.items()}
        paths = MemberPaths(archives, *(columns[name] for name in MemberPaths.COLUMNS))
        return paths, [labels[code] for code in columns["codes"].tolist()]
    except Exception as error:  # zipfile, zlib and numpy have many
        if isinstance(error, OSError) and is_the_storages(error):
            raise
        raise ValueError(
            f"from_tar: expected index={index!r} to be a file that from_tar wrote, or none yet, got something else "
            f"({type(error).__name__}). Name another file, or delete this one."
        ) from None


__all__ = ["Layout", "find_archives", "index_archives"]
