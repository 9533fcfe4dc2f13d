"""Headers of tar archives that cannot be trusted: what they say is read as it is, or refused in one line."""

from __future__ import annotations

import io
import random
import re
import tarfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastaug as fa
from fastaug.files import read_at
from fastaug.samples import tar
from fastaug.samples.archives import find_archives
from fastaug.samples.sources import read_bytes
from fastaug.samples.tar import MAX_HEADER_BYTES, Member
from tests.factories import write_tar

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
NAMES = (
    "1.jpg", "a/1.cls", "/abs/1.txt", "../1.jpg", "ü//é\udce9.jpg", "n" * 120 + "/x@1+2.jpg", "new\nline\x1b.jpg",
    "l" * 90 + "/" + "k" * 90 + ".jpg",
)  # fmt: skip
KINDS = (b"0", b"0", b"0", b"0", b"0", b"\0", b"7", b"5", b"1", b"2", b"6", b"Z")


def header(name: str = "a/1.jpg", size: int = 1, kind: bytes = b"0", **fields: bytes) -> bytes:
    """One block. fields: raw bytes of it by the place that they begin at, `at_124=…`."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11)
    for place, value in fields.items():
        start = int(place.removeprefix("at_"))
        block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header("pax", len(records), kind) + padded(records)


def record(key: str, value: str) -> bytes:
    text = f" {key}={value}\n".encode("utf-8", "surrogateescape")
    length = next(n for n in range(len(text), len(text) + 9) if n == len(text) + len(str(n)))
    return str(length).encode() + text


def entries(archive: Path) -> Iterator[tuple[Member, bool]]:
    with open(archive, "rb") as file:
        yield from tar.entries(str(archive), partial(read_at, file.fileno()), archive.stat().st_size)


def written(path: Path, *blocks: bytes) -> Path:
    path.write_bytes(b"".join(blocks) + bytes(1024))
    return path


def some_archive(rng: random.Random) -> bytes:
    """A few members of every kind, as `tarfile` writes them in one of its formats."""
    made, form = io.BytesIO(), rng.choice(FORMATS)
    with tarfile.open(fileobj=made, mode="w", format=form) as file:
        for i in range(rng.randrange(1, 6)):
            info = tarfile.TarInfo(rng.choice(NAMES[:2] if form == tarfile.USTAR_FORMAT else NAMES))
            info.type = rng.choice(KINDS)
            if info.type in b"126":
                info.linkname = "t" * rng.choice([3, 150] if form != tarfile.USTAR_FORMAT else [3])
            elif info.type != b"5":
                info.size = rng.choice([0, 1, 511, 512, 513, 2000])
            if form == tarfile.PAX_FORMAT and rng.random() < 0.3:
                info.pax_headers = {"SCHILY.xattr.user.x": "v" * rng.randrange(2000)}
            file.addfile(info, io.BytesIO(bytes([65 + i]) * info.size))
    return made.getvalue()


def test_the_same_members_as_tarfile_finds(tmp_path: Path) -> None:
    rng, archive = random.Random(0), tmp_path / "a.tar"
    found = 0
    for _ in range(150):
        archive.write_bytes(some_archive(rng))
        with tarfile.open(archive, "r:", encoding="utf-8", errors="surrogateescape") as file:
            expected = [(one.name, one.offset_data, one.size, one.isreg()) for one in file if not one.isdir()]
        assert [(one.name, one.offset, one.size, plain) for one, plain in entries(archive)] == expected
        found += len(expected)
    assert found > 300


def test_hundreds_of_damaged_headers(tmp_path: Path) -> None:
    """Most with a checksum that is right again: all of it is read, or refused in one line, at once and in little."""
    rng, archive = random.Random(1), tmp_path / "a.tar"
    numbers = [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"7" * 11 + b"\0", b"-0000000001\0", b"0o000000012\0", b" " * 12,
               bytes(12), b"\x80" + bytes(8) + b"\xff" * 3]  # fmt: skip
    refused: list[ValueError] = []
    read = 0
    tracemalloc.start()
    start = time.process_time()
    for _ in range(600):
        content = bytearray(some_archive(rng))
        for _ in range(rng.choice([1, 1, 3])):
            block = rng.randrange(len(content) // 512) * 512
            place, kind = block + rng.randrange(512), rng.randrange(5)
            if kind == 0:
                content[place] = rng.randrange(256)
            elif kind == 1:
                content[block + 124 : block + 136] = rng.choice(numbers)
            elif kind == 2:
                content[block + 156] = rng.choice(b"xgLKSXNDVM05\0")
            elif kind == 3:
                content[block:block] = content[block : block + 512]
            else:
                content[place : block + 512] = rng.randbytes(block + 512 - place)
            content[block + 148 : block + 156] = b" " * 8
            content[block + 148 : block + 156] = b"%06o\0 " % sum(content[block : block + 512])
        archive.write_bytes(content)
        try:
            for member, plain in entries(archive):
                got = read_bytes(member.path) if plain and member.name.strip("/.") else b""
                assert got == "the file is empty" if not member.size and plain and got else isinstance(got, bytes)
            read += 1
        except ValueError as error:
            refused.append(error)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()
    assert time.process_time() - start < 20
    assert min(len(refused), read) > 100
    for error in refused:
        assert type(error) is ValueError
        assert re.fullmatch("from_tar: expected a whole tar archive .{,700}", str(error))


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        ([header(size=0, at_124=b"\xff" * 12)], "a negative number in a header"),
        ([header(size=0, at_124=b"\xff" * 10 + b"\xfe\0")], "a negative number in a header"),
        ([header(at_124=b"-0000000001\0")], "a number in a header that is none"),
        ([header(size=2**80)], "which ends after 1,536 bytes, within 'a/1.jpg'"),
        ([header("x", 3 << 30, b"x")], "a header of 3,221,225,472 bytes at byte 0, more than 1,048,576"),
        ([header("x", 3 << 30, b"L")], "a header of 3,221,225,472 bytes at byte 0, more than 1,048,576"),
        ([header("x", 3 << 30, b"K")], "a header of 3,221,225,472 bytes at byte 0, more than 1,048,576"),
        ([header("x", 2**80, b"g")], "a header of 1,208,925,819,614,629,174,706,176 bytes at byte 0"),
        (
            [header("x", 20_000, b"L"), padded(b"x" * 20_000), header()],
            "a name of 20,000 bytes before byte 20992, more",
        ),
        ([pax(record("path", "x" * 20_000)), header()], "a name of 20,000 bytes before byte 20992, more than 16,384"),
        ([pax(b""), header("1.jpg", 0)[:156], b"7" * 356], "no header at byte 512 after one that extends it"),
        ([pax(record("size", "-5")), header()], "a size that is no number before byte 1024"),
        ([pax(record("size", "9" * 5000)), header()], "a size that is no number"),
        ([pax(record("size", "1e3")), header()], "a size that is no number"),
        ([pax(b"5 a=b\n"), header()], "a damaged header at byte 0"),
        ([pax(b"-6 a=b\n"), header()], "a damaged header at byte 0"),
        ([pax(b"9999999999999999999 a=b\n"), header()], "a damaged header at byte 0"),
        ([pax(b"0 a=b\n"), header()], "a damaged header at byte 0"),
        ([pax(b"7 a b \n"), header()], "a damaged header at byte 0"),
    ],
)
def test_what_no_header_says(blocks: list[bytes], reason: str, tmp_path: Path) -> None:
    archive = written(tmp_path / "a.tar", *blocks)
    with pytest.raises(ValueError, match=r"from_tar: expected a whole tar archive .*a\.tar'[:,] " + re.escape(reason)):
        list(entries(archive))


@pytest.mark.parametrize("field", [b"0" * 11 + b"\0", b"00000000777\0", b"\x80" + b"\0" * 10 + b"\7"])
@pytest.mark.parametrize("more", [b"", record("comment", "c" * 3000)])
def test_a_size_in_the_records_of_pax(field: bytes, more: bytes, tmp_path: Path) -> None:
    """It is the size, whatever the header itself says, and an archive that was written anew is noticed all the same."""
    first = pax(record("size", "600") + more) + header("cat/1.jpg", 0, at_124=field)
    blocks = [first, padded(b"A" * 600), header("cat/2.jpg", 3), padded(b"two")]
    archive = written(tmp_path / "a.tar", *blocks)
    paths = fa.Samples.from_tar(archive, "folder").paths
    assert list(map(read_bytes, paths)) == [b"A" * 600, b"two"]
    for anew in (
        [pax(record("size", "700") + more), *blocks[0:], bytes(2048)],
        [pax(record("size", "700") + more) + first[-512:], padded(b"A" * 700)],
        [header("cat/1.jpg", 4000), b"B" * 4096],
    ):
        written(archive, *anew)
        reason = f"the archive has no member of 600 bytes at byte {len(first)}: it was changed after it was indexed"
        assert read_bytes(paths[0]) == reason


def test_base_256_and_names_of_pax(tmp_path: Path) -> None:
    archive = written(
        tmp_path / "a.tar",
        pax(record("comment", "for all"), b"g"),
        header("dog/1.jpg", 3, at_124=b"\x80" + (3).to_bytes(11)),
        padded(b"one"),
        pax(record("path", "cat/é\udce9.jpg") + bytes(600)),
        header("short.jpg", 3),
        padded(b"two"),
    )
    samples = fa.Samples.from_tar(archive, "folder")
    assert (samples.classes, samples.targets) == (["cat", "dog"], [1, 0])
    assert list(map(read_bytes, samples.paths)) == [b"one", b"two"]
    assert "//cat/é\udce9.jpg@" in samples.paths[1]


@pytest.mark.parametrize(
    "sparse",
    [
        pax(record("GNU.sparse.major", "1") + record("GNU.sparse.name", "a/s.jpg")) + header("GNUSparseFile.0/s", 512),
        header("a/s.jpg", 512, b"S", at_482=b"\1") + b"\0" * 504 + b"\1" + b"\0" * 7 + bytes(512),
    ],
)
def test_sparse_files(sparse: bytes, tmp_path: Path) -> None:
    """Passed over, with the map before the content, but for images."""
    blocks = [b"c" * 512, header("a/1.jpg", 3), padded(b"one")]
    text = written(tmp_path / "text.tar", sparse.replace(b"a/s.jpg", b"a/s.txt"), *blocks)
    if b"GNU.sparse" not in sparse:  # the checksum
        text = written(tmp_path / "text.tar", header("a/s.txt", 512, b"S", at_482=b"\1"), sparse[512:], *blocks)
    assert list(map(read_bytes, fa.Samples.from_tar(text, "folder").paths)) == [b"one"]
    with pytest.raises(ValueError, match=r"got 'a/s\.jpg', a link or a sparse file"):
        fa.Samples.from_tar(written(tmp_path / "a.tar", sparse, *blocks), "folder")


def test_thousands_of_headers_before_one(tmp_path: Path) -> None:
    chain = [pax(record("path", f"{i}.jpg")) for i in range(3_000)]
    archive = written(tmp_path / "a.tar", *chain, header("0.jpg", 3), padded(b"one"))
    ((member, plain),) = entries(archive)
    assert (member.name, plain, read_bytes(member.path)) == ("2999.jpg", True, b"one")


def test_an_extended_header_takes_no_more_memory_than_it_may(tmp_path: Path) -> None:
    """3 GB of zeros that say they are a name: in a file with holes they cost nothing, so they are refused unread."""
    archive = tmp_path / "a.tar"
    with open(archive, "wb") as file:
        file.write(header("x", 3 << 30, b"L"))
        file.truncate(4 << 30)
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"more than {MAX_HEADER_BYTES:,}"):
        list(entries(archive))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_members_of_gigabytes_are_passed_over(tmp_path: Path) -> None:
    """A film and a label of 2.5 GB each, as holes: the film is nobody's, the label is refused unread."""
    archive, big = tmp_path / "a.tar", 5 << 29
    with open(archive, "wb") as file:
        for name, size in (("a/film.mp4", big), ("a/1.jpg", 3), ("a/1.cls", big)):
            file.write(header(name, size))
            file.seek(-(-size // 512) * 512, 1)
        file.truncate(file.tell() + 1024)
    assert [member.size for member, _ in entries(archive)] == [big, 3, big]
    with pytest.raises(ValueError, match=r"text beside 'a/1\.jpg' .* got something else: 2,684,354,560 bytes, more"):
        fa.Samples.from_tar(archive)


def test_one_call_need_not_give_all_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux gives 2 GB of a file at most."""
    (tmp_path / "a").write_bytes(bytes(range(256)))
    monkeypatch.setattr("fastaug.files._AT_ONCE", 100)
    with open(tmp_path / "a", "rb") as file:
        assert read_at(file.fileno(), 250, 3) == bytes(range(3, 253))
        assert read_at(file.fileno(), 1000, 3) == bytes(range(3, 256))
        assert read_at(file.fileno(), 0, 3) == b""


# Labels beside images


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[" * 100_000, "something else: maximum recursion depth exceeded"),
        (b'{"label": ' + b"[" * 900 + b"]" * 900 + b"}", "got something else: list\\."),
        (b'{"label": ' + b"9" * 5000 + b"}", "something else: Exceeds the limit"),
        (b'{"label": ' + b"9" * 4000 + b"}", "expected indices of classes below 1,000,000, got '999"),
        (b'{"label": [' + b'"x",' * 5000 + b'"x"]}', "got something else: list\\."),
        (b'{"label": 1e999}', "got something else: float\\."),
        (b'{"label": {"SECRET": 1}}', "got something else: dict\\."),
    ],
)
def test_json_that_is_deep_or_huge(text: bytes, reason: str, tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar", {"1.jpg": b"x", "1.json": text})
    with pytest.raises(ValueError, match=f"^from_tar: .*{reason}") as error:
        fa.Samples.from_tar(archive, "json:label")
    assert len(str(error.value)) < 500


def test_a_label_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_tar(tmp_path / "a.tar", {"1.jpg": b"x", "1.cls": b"0"})
    monkeypatch.setattr("fastaug.samples.sources.Reader.read_bytes", lambda *_: "Input/output error")
    with pytest.raises(OSError, match=r"from_tar: could not read '.*a\.tar//1\.cls@1536\+1': Input/output error\. See"):
        fa.Samples.from_tar(archive)


def test_a_number_that_is_too_long_is_no_index_of_a_class(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar", {"1.jpg": b"x", "1.cls": b"9" * 5000})
    for classes in (None, ["a"]):
        with pytest.raises(ValueError, match=r"expected indices .*, got '9{50,}…") as error:
            fa.Samples.from_tar(archive, classes=classes)
        assert len(str(error.value)) < 500


# Patterns


@pytest.mark.parametrize(
    ("pattern", "number"),
    [
        ("{0..999999999}.tar", "1,000,000,000"),
        ("{0..9999}/{0..9999}.tar", "100,000,000"),
        ("{0..999999999999999999}" * 3, r"10\^18 or more"),
        ("{0..9}" * 5000, r"10\^18 or more"),
    ],
)
def test_a_pattern_of_too_many_is_refused_by_its_number(pattern: str, number: str) -> None:
    with pytest.raises(ValueError, match=f"a pattern of at most 1,000,000 archives, got {number} by ") as error:
        find_archives(pattern)
    assert len(str(error.value)) < 300


def test_patterns_within_patterns_are_names(tmp_path: Path) -> None:
    for pattern in ("{{0..9}..999999999}.tar", "{0..9999999999999999999}.tar", "{3..1}.tar"):
        with pytest.raises((FileNotFoundError, ValueError), match="expected archives, got"):
            find_archives(str(tmp_path / pattern))


def test_what_is_no_file_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tar").mkdir()
    with pytest.raises(ValueError, match=r"expected archives, got '.*a\.tar', which is no file"):
        find_archives(tmp_path / "*.tar")


# The index


def index_of(archive: Path, index: Path) -> dict[str, Any]:
    fa.Samples.from_tar(archive, "folder", index=index)
    with np.load(index) as kept:
        return dict(kept)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "a.tar", {f"{'cat' if i % 2 else 'dog'}/{i}.jpg": b"%d" % i for i in range(6)})


def changed(column: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda kept: {**kept, column: change(kept[column])}


@pytest.mark.parametrize(
    "change",
    [
        changed("offset", lambda offset: offset[::-1]),
        changed("offset", lambda offset: offset.astype(np.int64) - 2**40),
        changed("size", lambda size: size + 1),
        changed("archive", lambda archive: archive + 7),
        changed("ends", lambda ends: ends[::-1]),
        changed("ends", lambda ends: ends[:-1]),
        changed("codes", lambda codes: codes.astype(np.int64) - 1),
        changed("codes", lambda codes: codes + 100),
        changed("codes", lambda codes: codes.astype(np.float32)),
        changed("names", lambda names: names[:4]),
        changed("texts", lambda texts: texts[:9]),
        changed("crc32", lambda crc32: crc32 ^ 1),
        lambda kept: {name: kept[name] for name in kept if name != "size"},
    ],
)
def test_an_index_with_other_numbers_is_refused(
    change: Callable[[dict[str, Any]], dict[str, Any]], archive: Path, tmp_path: Path
) -> None:
    """They would be other pictures, other classes, or errors long after."""
    index = tmp_path / "index.npz"
    kept = index_of(archive, index)
    np.savez(index, **kept)
    assert fa.Samples.from_tar(archive, "folder", index=index) == fa.Samples.from_tar(archive, "folder")
    np.savez(index, **change(kept))
    with pytest.raises(ValueError, match="to be a file that from_tar wrote, or none yet, got something else"):
        fa.Samples.from_tar(archive, "folder", index=index)


def test_damaged_indices_are_refused_or_say_the_same(archive: Path, tmp_path: Path) -> None:
    index, rng = tmp_path / "index.npz", random.Random(2)
    index_of(archive, index)
    expected, whole = fa.Samples.from_tar(archive, "folder"), index.read_bytes()
    refused: list[str] = []
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 8])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        index.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
        try:
            assert fa.Samples.from_tar(archive, "folder", index=index) == expected
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 200
    assert not any("\n" in error for error in refused)


def test_labels_of_an_index_come_back_as_they_were(tmp_path: Path) -> None:
    """One long one does not make all of them long, and zeros at their ends stay."""
    names = {"a": b"x" * 10_000, "b": b"cat\0", "c": b"cat"}
    content = {f"{name}.{kind}": text for name, text in names.items() for kind in ("jpg", "txt")}
    archive, index = write_tar(tmp_path / "a.tar", content), tmp_path / "index.npz"
    made = fa.Samples.from_tar(archive, "txt", index=index)
    assert made == fa.Samples.from_tar(archive, "txt", index=index)
    assert made.classes == ["cat", "cat\0", "x" * 10_000]
    assert index.stat().st_size < 20_000
