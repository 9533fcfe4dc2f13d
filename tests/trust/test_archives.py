"""Archives made by hand: what they hold is read, or they are refused in one line."""

from __future__ import annotations

import os
import random
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

import fastaug as fa
from tests.factories import write_tar
from tests.trust.faults import (
    TAR_END,
    Storage,
    TooLong,
    base_256,
    one_line,
    padded,
    pax,
    small_loader,
    tar_header,
    tar_member,
    within,
    write_photo,
)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_photo(tmp_path_factory.mktemp("photo") / "a.jpg", 5, (40, 30)).read_bytes()


def archive(folder: Path, *parts: bytes, name: str = "t.tar") -> Path:
    path = folder / name
    path.write_bytes(b"".join(parts))
    return path


def found(path: Any, **arguments: Any) -> fa.Samples:
    with within(5), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is left out, and of classes at two places
        return fa.Samples.from_tar(path, **{"target": "folder", **arguments})


def refused(path: Any, **arguments: Any) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        found(path, **arguments)
    return one_line(caught.value)


def contents(samples: fa.Samples, **arguments: Any) -> list[bytes | str]:
    from fastaug.samples.sources import Reader

    with Reader() as reader, within(5):
        return [reader.read_bytes(path) for path in samples.paths]


def delivered(samples: fa.Samples, **arguments: Any) -> tuple[list[int], dict[str, str]]:
    """Rows, and reasons by name."""
    loader = small_loader(samples, training=False, max_bad_share=1.0, **arguments)
    rows = [int(row) for _, _, info in loader for row in info.indices]
    return rows, dict(loader.quarantined)


# Sizes


def test_sizes_in_base_256(tmp_path: Path, photo: bytes) -> None:
    path = archive(
        tmp_path, tar_member(b"a/1.jpg", photo, base_256(len(photo))), tar_member(b"a/2.jpg", photo), TAR_END
    )
    samples = found(path)
    assert contents(samples) == [photo, photo]
    assert delivered(samples) == ([0, 1], {})


def test_sizes_of_pax(tmp_path: Path, photo: bytes) -> None:
    """Which override the header's, that may say 0, or anything."""
    for number, own in enumerate((len(photo), 0, 7, base_256(3))):
        size = str(len(photo)).encode()
        head = pax({"size": size}) + tar_header(b"a/1.jpg", own) + padded(photo)
        path = archive(tmp_path, head, tar_member(b"a/2.jpg", photo), TAR_END, name=f"{number}.tar")
        samples = found(path)
        assert contents(samples) == [photo, photo], own
        assert delivered(samples) == ([0, 1], {})


@pytest.mark.parametrize(
    "size",
    [b"-1", b"-512", b"-100000", b"abc", b"", b"1e3", b" 12", b"0x10", b"1_000", "٣".encode(), b"9" * 30, b"9" * 5000,
     b"9223372036854775807", b"18446744073709551616"],
)  # fmt: skip
def test_sizes_of_pax_that_are_none(tmp_path: Path, photo: bytes, size: bytes) -> None:
    path = archive(tmp_path, tar_member(b"a/0.jpg", photo), pax({"size": size}), tar_member(b"a/1.jpg", photo), TAR_END)
    try:
        samples = found(path)
    except ValueError as failure:
        one_line(failure)
        return
    one, other = contents(samples)
    assert one == photo
    assert other == photo or (isinstance(other, str) and one_line(other)), "read as it is, or refused by name"


@pytest.mark.parametrize(
    "size",
    [
        base_256(-1),
        base_256(-512),
        base_256(-1024),
        base_256(-(1 << 40)),
        base_256((1 << 87) - 1),
        base_256(1 << 62),
        b"\xff" * 12,
        b"\x80" + b"\xff" * 11,
        b"-0000000001\0",
        b"-1",
        b"zzzzzzzzzzz\0",
        b"77777777777\0",
        b"\0" * 12,
        b" " * 12,
        b"0x100\0",
    ],
)
def test_sizes_in_headers_that_are_none(tmp_path: Path, photo: bytes, size: bytes) -> None:
    for number, kind in enumerate((b"0", b"L", b"x", b"g", b"K")):
        path = archive(
            tmp_path,
            tar_member(b"a/0.jpg", photo),
            tar_member(b"a/1.jpg", photo, size, kind),
            tar_member(b"a/2.jpg", photo),
            TAR_END,
            name=f"{number}.tar",
        )
        try:
            samples = found(path)
        except ValueError as failure:
            one_line(failure)
            continue
        assert all(one == photo or isinstance(one, str) for one in contents(samples))
        assert contents(samples)[0] == photo


def test_a_member_of_two_and_a_half_gigabytes(tmp_path: Path, photo: bytes, storage: Storage) -> None:
    """Sparse on the disk. It is bad by its size, and what comes after it is read at its place."""
    large = 2_500_000_000
    path = tmp_path / "t.tar"
    with open(path, "wb") as file:
        file.write(tar_member(b"a/0.jpg", photo) + tar_header(b"a/1.jpg", large))
        file.seek(-(-large // 512) * 512, os.SEEK_CUR)
        file.write(tar_member(b"a/2.jpg", photo) + TAR_END)
    samples = found(path)
    assert [Path(one.partition("//")[2].partition("@")[0]).name for one in samples.paths] == ["0.jpg", "1.jpg", "2.jpg"]
    storage.shortest = 1 << 24  # whoever reads it all the same takes no gigabytes

    def limited(operation: str) -> None:
        assert storage.largest_read < 1 << 30, "gigabytes are read"

    storage.faults[str(path)] = limited
    with within(10):
        rows, reasons = delivered(samples)
    assert rows == [0, 2]
    (reason,) = reasons.values()
    assert "2,500,000,000" in one_line(reason)


def test_reads_that_give_less_than_was_asked_for(tmp_path: Path, photo: bytes, storage: Storage) -> None:
    """As one call of the system may, and does beyond 2 GB."""
    path = archive(tmp_path, tar_member(b"a/0.jpg", photo), tar_member(b"a/1.jpg", photo), TAR_END)
    samples = found(path)
    for most in (1 << 20, 300, 100):
        storage.shortest = most
        storage.faults[str(path)] = lambda operation: None
        assert contents(samples) == [photo, photo]


def test_an_archive_that_is_cut_after_it_was_indexed(tmp_path: Path, photo: bytes) -> None:
    path = archive(tmp_path, *(tar_member(b"a/%d.jpg" % i, photo) for i in range(4)), TAR_END)
    samples = found(path)
    whole = path.read_bytes()
    for length in (0, 1, 511, 512, 600, len(whole) // 2, len(whole) - 1500 - len(padded(photo))):
        path.write_bytes(whole[:length])
        rows, reasons = delivered(samples)
        assert len(rows) + len(reasons) == 4
        assert reasons
        for reason in reasons.values():
            one_line(reason)


# Labels


def labelled(folder: Path, photo: bytes, label: bytes, ending: str = "json", name: str = "t.tar") -> Path:
    return write_tar(folder / name, {"1.jpg": photo, f"1.{ending}": label})


@pytest.mark.parametrize(
    "label",
    [
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b'{"label": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"label": ' + b"9" * 5000 + b"}",
        b'{"label": NaN}',
        b'{"label": null}',
        b'{"label": {"a": 1}}',
        b'{"label": ["SECRET"]}',
        b'{"label": 1.5}',
        b"[]",
        b"3",
        b"null",
        b'"x"',
        b"{",
        b"",
        b"\xff\xfe\x00",
        b"\x00",
        b"\xef\xbb\xbf{}",
        bytes(3000),
        b'{"label": "\\ud800"',
    ],
)
def test_labels_that_are_none(tmp_path: Path, photo: bytes, label: bytes) -> None:
    line = refused(labelled(tmp_path, photo, label), target="json:label")
    assert len(line) < 700
    assert "SECRET" not in line, "what is in a file is not printed"


@pytest.mark.parametrize("label", [b'{"label": "cat"}', b'{"x": [[[[1]]]], "label": "cat"}', b' {"label":"cat"}\n'])
def test_labels_that_are_some(tmp_path: Path, photo: bytes, label: bytes) -> None:
    assert found(labelled(tmp_path, photo, label), target="json:label").classes == ["cat"]


@pytest.mark.parametrize("label", [b"\xff\xfe", b"9" * 6000, b"-1", b"99999999999999999999", b"\x00\x01"])
def test_classes_that_are_none(tmp_path: Path, photo: bytes, label: bytes) -> None:
    """Numbers that are no index; a name may be anything that is text."""
    try:
        samples = found(labelled(tmp_path, photo, label, "cls"), target="cls")
    except ValueError as failure:
        one_line(failure, 700)
        return
    assert samples.classes
    assert len(samples.classes) < 1000


def test_a_label_of_gigabytes_is_not_read(tmp_path: Path, photo: bytes, storage: Storage) -> None:
    path = tmp_path / "t.tar"
    with open(path, "wb") as file:
        file.write(tar_member(b"1.jpg", photo) + tar_header(b"1.cls", 3_000_000_000))
        file.seek(-(-3_000_000_000 // 512) * 512, os.SEEK_CUR)
        file.write(TAR_END)
    storage.shortest = 1 << 22
    storage.faults[str(path)] = lambda operation: None
    line = refused(path, target="cls")
    assert "1.cls" in line or "1.jpg" in line
    assert storage.largest_read < 1 << 30


# Patterns


@pytest.mark.parametrize(
    "pattern",
    [
        "t-" + "{0..9}" * 12 + ".tar",
        "t-{0..999999999999}.tar",
        "t-{000000..999999}{000000..999999}.tar",
        "{1..2}" * 40,
        "t-{0..9223372036854775808}.tar",
        "{0..99999}/" * 5,
        "t-{" + "9" * 5000 + ".." + "9" * 5001 + "}.tar",
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_brace_patterns_that_explode(tmp_path: Path, photo: bytes, pattern: str, there: bool) -> None:
    """Refused at once, also where the first of the archives are there."""
    if there:
        for i in range(3):
            for name in (f"t-{i}.tar", "t-" + "0" * 11 + f"{i}.tar", "t-" + "0" * 12 + ".tar"):
                write_tar(tmp_path / name, {f"a/{i}.jpg": photo})
    begun = time.process_time()
    try:
        with within(1.5), pytest.raises((ValueError, FileNotFoundError)) as caught:
            fa.Samples.from_tar(str(tmp_path / pattern), target="folder")
    except TooLong:
        pytest.fail("it goes on and on")
    one_line(caught.value, 6000 if "9999" in pattern else 1200)
    assert time.process_time() - begun < 1


def test_brace_patterns_of_a_usual_size(tmp_path: Path, photo: bytes) -> None:
    for i in (8, 9, 10):
        write_tar(tmp_path / f"t-{i:03}.tar", {f"a/{i}.jpg": photo})
    assert len(found(str(tmp_path / "t-{008..010}.tar"))) == 3
    assert "t-011.tar" in refused(str(tmp_path / "t-{008..011}.tar"))
    assert len(found(str(tmp_path / "t-0{0..1}{0..9}.tar").replace("{0..1}{0..9}", "0{8..9}"))) == 2


# Concatenations, and what is cut


def test_concatenations(tmp_path: Path, photo: bytes) -> None:
    parts = [tar_member(b"a/%d.jpg" % i, photo) for i in range(3)]
    for number, zeros in enumerate((b"", TAR_END, bytes(9728))):
        path = archive(
            tmp_path, *(part + TAR_END + zeros for part in parts), name=f"{number}.tar"
        )  # fmt: skip
        samples = found(path)
        assert len(samples) == 3
        assert contents(samples) == [photo] * 3


def test_a_concatenation_without_the_ends_between(tmp_path: Path, photo: bytes) -> None:
    path = archive(tmp_path, tar_member(b"a/0.jpg", photo), tar_member(b"a/1.jpg", photo), TAR_END)
    assert contents(found(path)) == [photo] * 2


@pytest.mark.parametrize("rest", [b"\x1f\x8b\x08\0" + bytes(600), b"garbage" * 200, b"PK\3\4" + bytes(2000), b"\xff"])
def test_something_else_after_the_end(tmp_path: Path, photo: bytes, rest: bytes) -> None:
    path = archive(tmp_path, tar_member(b"a/0.jpg", photo), TAR_END, rest)
    assert "t.tar" in refused(path)


def test_cut_anywhere(tmp_path: Path, photo: bytes) -> None:
    """Refused; where only zeros of its end are missing, read."""
    whole = b"".join(tar_member(b"a/%d.jpg" % i, photo) for i in range(3)) + TAR_END
    for length in [*range(0, len(whole) - 1024, 331), len(whole) - 1025]:
        line = refused(archive(tmp_path, whole[:length]))
        assert "t.tar" in line
    for length in (len(whole) - 512, len(whole) - 1):
        try:
            assert len(found(archive(tmp_path, whole[:length]))) == 3
        except ValueError as failure:
            one_line(failure)


# Kinds of members, and names


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"S"])
def test_members_that_are_no_files(tmp_path: Path, photo: bytes, kind: bytes) -> None:
    """Links, devices, FIFOs, sparse files under an image's name."""
    odd = tar_header(b"a/1.jpg", 0, kind, b"/etc/passwd")
    line = refused(archive(tmp_path, tar_member(b"a/0.jpg", photo), odd, TAR_END))
    assert "a/1.jpg" in line


@pytest.mark.parametrize(
    "name",
    [b"a/x@0+5.jpg", b"a/x@5.jpg", b"a//x.jpg", b"./a/x.jpg", b"/a/x.jpg", "a/ü😀.jpg".encode(), b"a/\xe9.jpg",
     b"a/b\nc.jpg", b"a/\x1b[31m.jpg", b"a/@1+2.jpg", b"a/x.tar//y.jpg", b"../../a/x.jpg", b"a/ .jpg"],
)  # fmt: skip
def test_any_name_of_a_member_is_read(tmp_path: Path, photo: bytes, name: bytes) -> None:
    path = archive(tmp_path, tar_member(b"a/0.jpg", b"other"), tar_member(name, photo), TAR_END)
    samples = found(path)
    assert contents(samples)[-1] == photo


@pytest.mark.parametrize("name", ["x@1+2.tar", "a b.tar", "t.tar@5", "[x].tar", "{x}.tar", "t\udce9.tar", "t\n.tar"])
def test_any_name_of_an_archive_is_read(tmp_path: Path, photo: bytes, name: str) -> None:
    path = archive(tmp_path, tar_member(b"a/0.jpg", photo), TAR_END, name=name)
    assert contents(found(str(path))) == [photo]


def test_long_names(tmp_path: Path, photo: bytes) -> None:
    long = b"a/" + b"x" * 300 + b".jpg"
    gnu = tar_member(b"././@LongLink", long + b"\0", kind=b"L") + tar_member(long[:100], photo)
    path = archive(tmp_path, gnu, pax({"path": long[:-4] + b"y.jpg"}) + tar_member(b"short", photo), TAR_END)
    samples = found(path)
    assert contents(samples) == [photo, photo]
    assert len(samples.paths[0]) > 300


@pytest.mark.parametrize(
    "records",
    [b"9999999999 path=a\n", b"-5 path=a\n", b"0 path=a\n", b"1 \n", b"path=a\n", b"12 path=a/b\n" * 3, b"\xff" * 100,
     b"30 GNU.sparse.map=1,2,3,4,5,6\n", b"22 GNU.sparse.size=zz\n", b"20 hdrcharset=evil\n", b"11 mtime=x\n"],
)  # fmt: skip
def test_records_of_pax_that_are_none(tmp_path: Path, photo: bytes, records: bytes) -> None:
    path = archive(
        tmp_path,
        tar_member(b"a/0.jpg", photo),
        tar_member(b"x", records, kind=b"x"),
        tar_member(b"a/1.jpg", photo),
        TAR_END,
    )
    try:
        samples = found(path)
    except ValueError as failure:
        one_line(failure)
        return
    assert contents(samples)[0] == photo


def test_headers_without_end(tmp_path: Path, photo: bytes) -> None:
    """Thousands of headers of PAX before a member: no recursion without end."""
    for kind, content in ((b"x", b"11 mtime=1\n"), (b"L", b"a/1.jpg\0"), (b"g", b"11 mtime=1\n")):
        path = archive(tmp_path, tar_member(b"x", content, kind=kind) * 3000, tar_member(b"a/1.jpg", photo), TAR_END)
        try:
            samples = found(path)
        except ValueError as failure:
            one_line(failure)
            continue
        assert contents(samples) == [photo]


def test_a_thousand_changed_archives(tmp_path: Path, photo: bytes, any_random: random.Random) -> None:
    """Bytes of headers that are others, with a checksum that is right: read or refused, never anything else."""
    small = photo[:700]
    whole = b"".join(tar_member(b"a/%d.jpg" % i, small) for i in range(3)) + TAR_END
    starts = [i * (512 + len(padded(small))) for i in range(3)]
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        changed = bytearray(whole)
        start = any_random.choice(starts)
        for _ in range(any_random.choice((1, 1, 2, 8))):
            changed[start + any_random.choice((*range(124, 136), 156, *range(0, 512, 7)))] = any_random.randrange(256)
        changed[start + 148 : start + 156] = b" " * 8
        changed[start + 148 : start + 156] = b"%06o\0 " % sum(changed[start : start + 512])
        path = archive(tmp_path, bytes(changed))
        try:
            samples = found(path)
            for one in contents(samples):
                assert isinstance(one, bytes) or one_line(one)
            outcomes["read"] += 1
        except ValueError as failure:
            one_line(failure)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 40, outcomes


def test_broken_indices_are_one_line(tmp_path: Path, photo: bytes) -> None:
    path = archive(tmp_path, tar_member(b"a/0.jpg", photo), TAR_END)
    index = tmp_path / "t.npz"
    expected = found(path, index=index).paths
    whole = index.read_bytes()
    assert found(path, index=index).paths == expected
    for content in (b"", b"PK", whole[:200], whole[:-30], bytes(len(whole)), b"\x93NUMPY" + bytes(100)):
        index.write_bytes(content)
        assert "t.npz" in refused(path, index=index)


# The helpers


def test_headers_by_hand_are_those_of_tar(tmp_path: Path, photo: bytes) -> None:
    import tarfile

    path = archive(tmp_path, pax({"path": b"a/long"}) + tar_member(b"x", photo), tar_member(b"b", b"12"), TAR_END)
    with tarfile.open(path) as tar:
        assert [(info.name, info.size) for info in tar] == [("a/long", len(photo)), ("b", 2)]
    assert tarfile.nti(base_256(5)) == 5  # type: ignore[attr-defined]
    assert tarfile.nti(base_256(-512)) == -512  # type: ignore[attr-defined]
    with tarfile.open(archive(tmp_path, tar_member(b"x", b"1")[:-1] + b"\1")) as tar:
        assert tar.next() is not None
    broken = bytearray(tar_member(b"x", b"1"))
    broken[0] += 1
    with pytest.raises(tarfile.ReadError), tarfile.open(archive(tmp_path, bytes(broken))):
        pass
