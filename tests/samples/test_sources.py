"""Bytes of files and of members of tar archives; samples in WebDataset's layout."""

from __future__ import annotations

import bz2
import errno
import gzip
import json
import lzma
import os
import pickle
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch

import fastaug as fa
from fastaug.samples.archives import find_archives
from fastaug.samples.sources import MemberPaths, Reader, members, read_bytes
from tests.factories import by_sample, encode, make_loader, write_tar


def picture(i: int, kind: str = "JPEG") -> bytes:
    return encode(skimage.data.chelsea()[i : i + 90, 2 * i : 2 * i + 120], kind)


def layout(i: int) -> dict[str, bytes]:
    label = json.dumps({"label": "cat" if i % 2 else "dog", "id": i}).encode()
    return {f"{i:04}.jpg": picture(i), f"{i:04}.cls": str(i % 2).encode(), f"{i:04}.json": label}


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Three archives of ten, ten and three images."""
    bounds = ((0, 10), (10, 20), (20, 23))
    return [
        write_tar(tmp_path / f"train-{k}.tar", {name: data for i in range(a, b) for name, data in layout(i).items()})
        for k, (a, b) in enumerate(bounds)
    ]


def test_members_are_read_where_they_lie(tmp_path: Path) -> None:
    content = {"a/b.c.txt": b"first", "long/" + "n" * 150 + ".jpg": picture(3), "@1+2": b"odd", "empty": b""}
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        names = dict(content) if form != tarfile.USTAR_FORMAT else {k: v for k, v in content.items() if len(k) < 99}
        archive = write_tar(tmp_path / f"{form}.tar", names, format=form)
        found = list(members(archive))
        assert [member.name for member in found] == list(names)
        for member in found:
            expected = names[member.name] or "the file is empty"
            assert read_bytes(member.path) == expected


def test_a_file_whose_name_looks_like_a_member(tmp_path: Path) -> None:
    path = tmp_path / "x.tar" / "a@0+5"
    path.parent.mkdir()
    path.write_bytes(b"a plain file")
    assert read_bytes(f"{path.parent}//{path.name}") == b"a plain file"


def test_the_same_samples_from_archives_and_from_files(shards: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for i in range(23):
        (folder / f"{i:04}.jpg").write_bytes(picture(i))
    files = fa.Samples(sorted(map(str, folder.iterdir())), [i % 2 for i in range(23)], ["0", "1"])
    packed = fa.Samples.from_tar(str(tmp_path / "train-*.tar"))
    assert (packed.targets, packed.classes) == (files.targets, files.classes)
    augment = fa.aug_transforms(size=32, min_scale=0.75)
    plain, from_tar = (by_sample(make_loader(samples, augment=augment, drop_last=False)) for samples in (files, packed))
    assert plain.keys() == from_tar.keys() == set(range(23))
    for row, (image, matrix) in plain.items():
        assert torch.equal(image, from_tar[row][0])
        assert torch.equal(matrix, from_tar[row][1])


def test_resume_and_ranks_from_archives(shards: list[Path]) -> None:
    samples = fa.Samples.from_tar(shards)
    whole = [info.indices.tolist() for _, _, info in make_loader(samples, batch_size=4)]
    loader = make_loader(samples, batch_size=4)
    iteration = iter(loader)
    begun = [next(iteration)[2].indices.tolist() for _ in range(2)]
    again = make_loader(samples, batch_size=4)
    again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    loader.close()
    assert begun + [info.indices.tolist() for _, _, info in again] == whole
    ranks = [make_loader(samples, batch_size=4, training=False, shard=(rank, 2)) for rank in (0, 1)]
    assert sorted(int(i) for one in ranks for _, _, info in one for i in info.indices) == list(range(23))


def test_where_the_class_is(shards: list[Path], tmp_path: Path) -> None:
    assert fa.Samples.from_tar(shards[0], "json:label").classes == ["cat", "dog"]
    assert fa.Samples.from_tar(shards[0], classes=["even", "odd"])[1][1] == 1
    nested = write_tar(tmp_path / "nested.tar", {"x/cat/1.PNG": picture(1, "PNG"), "x/dog/1.jpg": picture(2)})
    samples = fa.Samples.from_tar(nested, "folder")
    assert (samples.classes, samples.targets) == (["cat", "dog"], [0, 1])
    (x, *_), *_ = make_loader(samples, batch_size=2, training=False)
    assert len(x) == 2
    with pytest.raises(ValueError, match=r"class for every image, got none for 'x/cat/1.PNG' in .*nested.tar"):
        fa.Samples.from_tar(nested)
    with pytest.raises(ValueError, match="expected indices into classes, got 'dog'"):
        fa.Samples.from_tar(shards[0], "json:label", classes=["a"])
    with pytest.raises(ValueError, match=r"expected JSON with 'label' beside '0.jpg'"):
        fa.Samples.from_tar(write_tar(tmp_path / "j.tar", {"0.jpg": picture(0), "0.json": b"{"}), "json:label")
    with pytest.raises(ValueError, match=r"one image per sample, got '0.jpg' and '0.png'"):
        fa.Samples.from_tar(write_tar(tmp_path / "two.tar", {"0.jpg": picture(0), "0.png": picture(0)}))
    with pytest.raises(ValueError, match=r"expected images in .*, got none"):
        fa.Samples.from_tar(write_tar(tmp_path / "none.tar", {"0.txt": b"text"}))
    with pytest.raises(FileNotFoundError, match="got none for"):
        fa.Samples.from_tar(str(tmp_path / "valid-*.tar"))


def test_damaged_archives_are_named(shards: list[Path], tmp_path: Path) -> None:
    packed = tmp_path / "packed.tar.gz"
    write_tar(packed, layout(0), "w:gz")
    cut = tmp_path / "cut.tar"
    cut.write_bytes(shards[0].read_bytes()[:20_000])
    text = tmp_path / "text.tar"
    text.write_text("no archive at all " * 99)
    for archive in (packed, cut, text):
        with pytest.raises(ValueError, match=f"whole tar archive that is not compressed, got '{archive}'"):
            fa.Samples.from_tar(archive)
    with pytest.raises(FileNotFoundError):
        fa.Samples.from_tar(tmp_path / "missing.tar")


def test_an_archive_that_was_cut_or_removed_later(shards: list[Path]) -> None:
    samples = fa.Samples.from_tar(shards)
    shards[2].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:20_000])
    loader = make_loader(samples, training=False)
    good = sum(len(y) for _, y, _ in loader)
    assert 10 < good < 20
    assert good + len(loader.quarantined) == 23
    reasons = {reason for _, reason in loader.quarantined}
    assert "No such file or directory" in reasons
    assert any(reason.startswith("the archive ends after ") for reason in reasons)
    assert samples.paths[22] in dict(loader.quarantined)


def test_csv_there_and_back(shards: list[Path], tmp_path: Path) -> None:
    samples = fa.Samples.from_tar(shards, "json:label")
    samples.to_csv(tmp_path / "list.csv")
    again = fa.Samples.from_csv(tmp_path / "list.csv")
    assert (again.paths, again.targets, again.classes) == (samples.paths, samples.targets, samples.classes)


def test_the_index_takes_little_memory(tmp_path: Path) -> None:
    """Of what is kept: the path, a reference to it, and a target; file content is not read."""
    content = {f"{i:07}.{kind}": b"7" * (1 + 4000 * (kind == "jpg")) for i in range(2_000) for kind in ("jpg", "cls")}
    archive = write_tar(tmp_path / "a.tar", content)
    tracemalloc.start()
    samples = fa.Samples.from_tar(archive)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    path = 49 + len(samples.paths[0])
    assert len(samples) == 2_000
    assert kept / 2_000 < path + 30
    assert most / 2_000 < 2_000
    assert np.unique(samples.targets).tolist() == [7]


# Against archives that cannot be trusted


def contents(samples: fa.Samples) -> list[bytes | str]:
    return [read_bytes(path) for path in samples.paths]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Three samples; sizes on both sides of a block's."""
    return write_tar(
        tmp_path / "shard.tar",
        {
            f"a/{i}.{ending}": content
            for i, size in enumerate((511, 512, 513))
            for ending, content in (
                ("jpg", bytes([65 + i]) * size),
                ("cls", b"%d\n" % (2 * i)),
                ("txt", b"dog cat".split()[i % 2]),
            )
        },
    )


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, lambda c: b"\x28\xb5\x2f\xfd" + c])
def test_a_compressed_archive_is_refused(shard: Path, compress: Callable[[bytes], bytes]) -> None:
    shard.write_bytes(compress(shard.read_bytes()))
    with pytest.raises(ValueError, match=r"not compressed, got .*shard\.tar', compressed with \w+: nothing within"):
        fa.Samples.from_tar(shard)


# Within the first header, at its end, in a member, at a member's end, and at the borders of a later header.
@pytest.mark.parametrize("length", [0, 100, 512, 700, 1024, 1300, 1536, 2048, 2560])
def test_a_truncated_archive_is_refused_wherever_it_ends(shard: Path, length: int) -> None:
    shard.write_bytes(shard.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"expected a whole tar archive .* got .*shard\.tar.* Copy it again"):
        list(members(shard))


def test_a_damaged_header_is_no_end(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[1024:1030] = b"xxxxxx"  # the second member's name, which makes its checksum wrong
    shard.write_bytes(content)
    with pytest.raises(ValueError, match="with neither a header nor its end at byte 1024"):
        list(members(shard))


def test_a_link_to_an_image_is_not_left_out_in_silence(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        for name, kind in (("folder.jpg", tarfile.DIRTYPE), ("b.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            tar.addfile(info)
    with pytest.raises(ValueError, match=r"got 'b\.jpg', a link or a sparse file"):
        fa.Samples.from_tar(tmp_path / "link.tar")


def test_a_place_before_which_no_header_fits(shard: Path) -> None:
    assert "no member of 3 bytes at byte 3" in str(read_bytes(f"{shard}//a.jpg@3+3"))


def test_an_archive_that_was_written_anew_after_it_was_indexed(shard: Path) -> None:
    samples, whole = fa.Samples.from_tar(shard), shard.read_bytes()
    assert contents(samples) == [b"A" * 511, b"B" * 512, b"C" * 513]
    where = int(samples.paths[1].split("@")[1].split("+")[0])
    for change, reason in (
        (whole[: where - 512] + b"x" * 512 + whole[where:], "no member of 512 bytes"),  # text where the header was
        (whole[512:] + bytes(512), "no member of 512 bytes"),  # another member is there
        (whole[: where + 5], "the archive ends after 5 of 512 bytes"),
        (whole[: where - 5], "the archive ends after 0 of 512 bytes"),
    ):
        shard.write_bytes(change)
        got = contents(samples)[1]
        assert isinstance(got, str)
        assert reason in got


def test_reasons(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name, reason in (
        ("empty", "the file is empty"),
        ("", "a folder (directory), not a file"),
        ("x\0y", "embedded null byte"),
    ):
        assert read_bytes(os.path.join(tmp_path, name)) == reason
    assert read_bytes(f"{tmp_path}/none.tar//a.jpg@512+3") == "No such file or directory"


# What belongs together, and what tells the class


def test_order_of_members_does_not_matter(tmp_path: Path) -> None:
    files = {"b.cls": b"1", "a.jpg": b"a", "b.jpg": b"b", ".hidden.jpg": b"", "note.txt": b"", "a.cls": b"0"}
    samples = fa.Samples.from_tar(write_tar(tmp_path / "x.tar", files))
    assert (contents(samples), samples.targets) == ([b"a", b"b"], [0, 1])


def test_numbers_are_the_targets_also_where_a_class_has_no_image(shard: Path) -> None:
    samples = fa.Samples.from_tar(shard)
    assert samples.targets == [0, 2, 4]
    assert samples.classes == ["0", "1", "2", "3", "4"]
    assert fa.Samples.from_tar(shard, classes=list("vwxyz")).targets == [0, 2, 4]
    with pytest.raises(ValueError, match="expected indices into classes, got '4'"):
        fa.Samples.from_tar(shard, classes=list("vwxy"))


def test_names_patterns_and_several_images(shard: Path, tmp_path: Path) -> None:
    assert fa.Samples.from_tar(shard, "txt").targets == [1, 0, 1]
    assert fa.Samples.from_tar(shard, "txt", classes=["dog", "cow", "cat"]).targets == [0, 2, 0]
    assert fa.Samples.from_tar(shard, pattern=r"(\d)\.jpg$").targets == [0, 1, 2]
    assert fa.Samples.from_tar(shard, "folder").classes == ["a"]
    two = write_tar(tmp_path / "two.tar", {"x.jpg": b"x", "x.seg.png": b"mask", "x.cls": b"0"})
    assert contents(fa.Samples.from_tar(two, image="jpg")) == [b"x"]
    assert contents(fa.Samples.from_tar(two, image=".seg.png")) == [b"mask"]
    assert len(fa.Samples.from_tar(two, pattern="(x)")) == 2, "where nothing beside it tells the class, each is one"


@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        ({"x.jpg": b"", "x.cls": b" "}, {}, "expected a class for every image, got none for 'x.jpg'"),
        ({"x.jpg": b"", "x.cls": b"\xff\xfe"}, {}, "expected text beside 'x.jpg'"),
        ({"x.jpg": b"", "x.cls": b"99999999999"}, {}, "expected indices of classes below 1,000,000"),
        ({"x.jpg": b"", "x.json": b"[1]"}, {"target": "json:label"}, "expected JSON with 'label'"),
        ({"x.jpg": b"", "x.json": b'{"label": [1]}'}, {"target": "json:label"}, "got something else: list\\."),
        ({"x.jpg": b""}, {"target": "folder"}, "expected a class for every image"),
        ({"./x.jpg": b""}, {"target": "folder"}, "expected a class for every image"),
        ({"x.jpg": b""}, {"pattern": r"(\d)"}, "expected a class for every image"),
        ({"x.jpg": b""}, {"pattern": r"\d"}, "a pattern with a group"),
        ({"x.jpg": b""}, {"pattern": r"("}, "a regular expression"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, files: dict[str, bytes], arguments: dict[str, Any], message: str
) -> None:
    archive = write_tar(tmp_path / "x.tar", files)
    with pytest.raises(ValueError, match=message):
        fa.Samples.from_tar(archive, **arguments)


def test_archives_by_pattern_range_and_list(tmp_path: Path) -> None:
    for i in range(12):
        write_tar(tmp_path / f"s-{i:02}.tar", {"x.jpg": b"%d" % i, "x.cls": b"%d" % i})
    assert fa.Samples.from_tar(tmp_path / "s-*.tar").targets == list(range(12))
    assert fa.Samples.from_tar(f"{tmp_path}/s-{{08..11}}.tar").targets == [8, 9, 10, 11]
    assert contents(fa.Samples.from_tar([tmp_path / "s-07.tar", tmp_path / "s-02.tar"])) == [b"7", b"2"]
    assert len(find_archives(f"{tmp_path}/s-{{0..1}}{{0..1}}.tar")) == 4
    for nothing in (tmp_path / "none-*.tar", f"{tmp_path}/s-{{10..12}}.tar", [tmp_path / "no.tar"]):
        with pytest.raises(FileNotFoundError, match="expected archives, got none for"):
            fa.Samples.from_tar(nothing)
    with pytest.raises(ValueError, match="got an empty list"):
        fa.Samples.from_tar([])


# Open archives


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_open_archives_are_bounded_and_closed(tmp_path: Path) -> None:
    archives = [write_tar(tmp_path / f"{i}.tar", {"a/x.jpg": b"%d" % i}) for i in range(20)]
    paths = fa.Samples.from_tar(archives, "folder").paths
    before = descriptors()
    with Reader(most_open=3) as reader:
        got = [reader.read_bytes(path) for path in [*paths, *paths]]
        assert descriptors() == before + 3
    assert got == [b"%d" % i for i in range(20)] * 2
    assert descriptors() == before
    assert reader.read_bytes(paths[0]) == b"0", "closed: still right, but nothing is kept"
    assert descriptors() == before


def test_many_threads_read_the_right_bytes(tmp_path: Path) -> None:
    archives = [write_tar(tmp_path / f"{i}.tar", {"a/x.jpg": bytes([i]) * 9999}) for i in range(8)]
    paths = fa.Samples.from_tar(archives, "folder").paths
    wrong = []
    with Reader(most_open=2) as reader:

        def work(start: int) -> None:
            for k in range(200):
                i = (start + k) % 8
                if reader.read_bytes(paths[i]) != bytes([i]) * 9999:
                    wrong.append(i)

        threads = [threading.Thread(target=work, args=(start,)) for start in range(6)]
        before = descriptors()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert descriptors() <= before + 2
    assert wrong == []


# The paths in memory


def test_paths_behave_as_a_list(shard: Path) -> None:
    samples = fa.Samples.from_tar(shard)
    paths, as_list = samples.paths, list(samples.paths)
    assert isinstance(paths, MemberPaths)
    assert paths == as_list
    assert as_list == paths
    assert paths != as_list[::-1]
    assert paths != as_list[:2]
    assert paths[-1] == as_list[-1]
    assert paths[1:] == as_list[1:]
    assert paths[::-1] == as_list[::-1]
    assert paths + paths == as_list * 2
    with pytest.raises(IndexError):
        paths[3]
    assert pickle.loads(pickle.dumps(samples)) == samples
    assert samples.subset([2, 0, 2]) == fa.Samples([as_list[2], as_list[0], as_list[2]], [4, 0, 4], samples.classes)
    train, valid = samples.split(by=lambda path: "/1.jpg" in path)
    assert (valid.paths, train.paths) == ([as_list[1]], [as_list[0], as_list[2]])


def test_memory_of_many_members() -> None:
    """At most 15 bytes and the name, also of a subset; and 8 for the target, whose int is shared."""
    n = 100_000
    names = np.frombuffer(b"".join(b"n%07d.jpg" % i for i in range(n)), np.uint8)
    rows = np.arange(n)
    tracemalloc.start()
    paths = MemberPaths(["a.tar", "b.tar"], rows % 2, 30_000 * rows, rows % 99_999, 12 * (rows + 1), names)
    samples = fa.Samples(paths, [7] * n, map(str, range(8)))
    assert tracemalloc.get_traced_memory()[0] / n < 15 + 8, "and 12 of the names, made before"
    taken = samples.subset(range(0, n, 2))
    assert tracemalloc.get_traced_memory()[0] / n < 23 + (15 + 12 + 8) / 2
    tracemalloc.stop()
    assert taken.paths[-1] == f"a.tar//n{n - 2:07}.jpg@{30_000 * (n - 2)}+{(n - 2) % 99_999}"


# The index


def test_the_index_is_read_instead_of_the_archives(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index.npz"
    made = fa.Samples.from_tar(shard, index=index)
    assert made == fa.Samples.from_tar(shard)
    with monkeypatch.context() as patched:
        patched.setattr("fastaug.samples.archives.members", None)
        assert fa.Samples.from_tar(shard, index=index) == made
    assert fa.Samples.from_tar(shard, "txt", index=index).classes == ["cat", "dog"], "another layout, another index"
    time.sleep(0.01)
    write_tar(shard, {"new.jpg": b"new", "new.cls": b"5"})
    assert contents(fa.Samples.from_tar(shard, index=index)) == [b"new"], "an archive that changed is indexed again"
    assert sorted(os.listdir(tmp_path)) == ["index.npz", "shard.tar"], "nothing unfinished is left"


def test_no_other_file_is_written_over(shard: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"precious")
    with pytest.raises(ValueError, match="to be a file that from_tar wrote, or none yet"):
        fa.Samples.from_tar(shard, index=photo)
    assert photo.read_bytes() == b"precious"


def test_an_index_that_the_storage_does_not_give_is_not_blamed(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index.npz"
    fa.Samples.from_tar(shard, index=index)

    def load(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error", str(index))

    monkeypatch.setattr(np, "load", load)
    with pytest.raises(OSError, match="Input/output error"):
        fa.Samples.from_tar(shard, index=index)


def test_indexing_reads_headers_only(tmp_path: Path) -> None:
    """A sparse archive of 20 GB: reading it all would take minutes."""
    archive, info = tmp_path / "x.tar", tarfile.TarInfo("a/x.jpg")
    info.size = 10 * 2**30
    with open(archive, "wb") as file:
        for i in range(2):
            file.seek(i * (512 + info.size))
            file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2 * (512 + info.size) + 1024)
    start = time.process_time()
    samples = fa.Samples.from_tar(archive, "folder")
    assert time.process_time() - start < 2
    assert samples.paths[1] == f"{archive}//a/x.jpg@{1024 + info.size}+{info.size}"


# Archives as other programs write them


def raw_tar(path: Path, names: list[str], content: bytes = b"x") -> Path:
    """Member names exactly as they are given."""
    with open(path, "wb") as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.write(info.tobuf(tarfile.GNU_FORMAT) + content.ljust(512, b"\0"))
        file.write(bytes(1024))
    return path


def test_absolute_names_and_double_slashes(tmp_path: Path) -> None:
    names = ["/data/a/1.jpg", "train//b/2.jpg", "//c/3.jpg", "./d//4.jpg", "e/f@1+2//5.jpg"]
    raw_tar(tmp_path / "a.tar", names)
    for archive in (tmp_path / "a.tar", f"{tmp_path}//a.tar", f"{tmp_path}///./a.tar"):
        samples = fa.Samples.from_tar(archive, "folder")
        assert contents(samples) == [b"x"] * 5
        assert samples.classes == ["a", "b", "c", "d", "f@1+2"]
        samples.to_csv(tmp_path / "list.csv")
        assert contents(fa.Samples.from_csv(tmp_path / "list.csv")) == [b"x"] * 5


def test_a_path_within_a_folder_that_looks_like_an_archive_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw_tar(tmp_path / "a.tar", ["cat/1.jpg"])
    assert (
        contents(fa.Samples.from_tar("a.tar", "folder")) == contents(fa.Samples.from_tar("./a.tar", "folder")) == [b"x"]
    )


@pytest.mark.parametrize("padding", [0, 512, 9 * 1024, 3 << 20])
def test_archives_one_after_the_other_in_one_file(tmp_path: Path, padding: int) -> None:
    first = write_tar(tmp_path / "1.tar", {"cat/1.jpg": b"1", "cat/" + "n" * 150 + ".jpg": b"2"})
    second = write_tar(tmp_path / "2.tar", {"dog/" + "m" * 150 + ".jpg": b"3"}, format=tarfile.PAX_FORMAT)
    both = tmp_path / "both.tar"
    both.write_bytes(first.read_bytes() + bytes(padding) + second.read_bytes() + first.read_bytes())
    samples = fa.Samples.from_tar(both, "folder")
    assert contents(samples) == [b"1", b"2", b"3", b"1", b"2"]
    assert samples.targets == [0, 0, 1, 0, 0]


def test_what_follows_the_end_of_an_archive_is_not_left_out_in_silence(shard: Path) -> None:
    whole = shard.read_bytes()
    shard.write_bytes(whole + b"something else".ljust(1024, b"."))
    with pytest.raises(
        ValueError, match=rf"shard\.tar', with something .* end at byte {len(whole)} that is no archive"
    ):
        list(members(shard))
    shard.write_bytes(whole + bytes(100))
    assert len(list(members(shard))) == 9, "zeros, whatever their number"


def test_dots_in_names(tmp_path: Path) -> None:
    """A sample is what agrees up to the first dot, as WebDataset has it; unless its images have labels of their own."""
    files = {
        "22.00.jpg": b"a",
        "22.00.cls": b"0",
        "22.01.jpg": b"b",
        "22.01.cls": b"1",
        "x/v1.2/3.jpg": b"c",
        "x/v1.2/3.cls": b"1",
    }
    archive = write_tar(tmp_path / "a.tar", files)
    for image in (None, "jpg", ".JPG"):
        samples = fa.Samples.from_tar(archive, image=image)
        assert (contents(samples), samples.targets) == ([b"a", b"b", b"c"], [0, 1, 1])
    assert contents(fa.Samples.from_tar(archive, "folder", image="jpg", pattern="(.)")) == [b"a", b"b", b"c"]
    views = write_tar(
        tmp_path / "v.tar", {"1.left.jpg": b"l", "1.right.jpg": b"r", "1.cls": b"0", "1.left.json": b"{}"}
    )
    with pytest.raises(
        ValueError, match=r"got '1\.left\.jpg' and '1\.right\.jpg' .* image='left\.jpg'.*'1\.right\.cls'"
    ):
        fa.Samples.from_tar(views)
    assert contents(fa.Samples.from_tar(views, image="left.jpg")) == [b"l"]
    mixed = write_tar(
        tmp_path / "m.tar", {"1.jpg": b"1", "1.seg.jpg": b"s", "2.5.jpg": b"2", "1.cls": b"0", "2.5.cls": b"1"}
    )
    assert contents(fa.Samples.from_tar(mixed, image="jpg")) == [b"1", b"2"]


# What is left out of archives


def test_thumbnails_in_archives_are_no_classes(tmp_path: Path) -> None:
    files = {
        "cat/1.jpg": b"x",
        "cat/@eaDir/1.jpg/T.jpg": b"x",
        "__MACOSX/cat/1.jpg": b"x",
        ".git/1.jpg": b"",
        "cat/._1.jpg": b"",
    }
    with pytest.warns(
        UserWarning, match=r"left out in .*a\.tar': 1 @eaDir/ \('cat/@eaDir/1\.jpg/T\.jpg'\), 1 __MACOSX/"
    ):
        assert fa.Samples.from_tar(write_tar(tmp_path / "a.tar", files), "folder").classes == ["cat"]


def test_images_that_are_not_read_are_counted_in_archives(tmp_path: Path) -> None:
    files = {
        "a/1.jpg": b"x",
        "a/1.cls": b"0",
        "a/1.txt": b"",
        "a/2.heic": b"x",
        "a/2.cls": b"1",
        "a/3.HEIC": b"",
        "a/4.nef": b"",
    }
    archive = write_tar(tmp_path / "a.tar", files)
    for index in (None, tmp_path / "i.npz", tmp_path / "i.npz"):
        with pytest.warns(UserWarning, match=r"2 \.heic \('a/2\.heic'\), 1 \.nef \('a/4\.nef'\)\. Convert"):
            assert len(fa.Samples.from_tar(archive, index=index)) == 1


def test_a_split_within_an_archive_is_not_mixed_in_silence(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar", {"train/cat/1.jpg": b"1", "val/cat/1.jpg": b"2"})
    with pytest.warns(UserWarning, match=r"split into 'train', 'val' .*by=lambda path: '/val/' in path"):
        samples = fa.Samples.from_tar(archive, "folder")
    assert contents(samples.split(by=lambda path: "/val/" in path)[1]) == [b"2"]
    several = write_tar(tmp_path / "b.tar", {"red/left/1.jpg": b"1", "blue/left/1.jpg": b"2"})
    with pytest.warns(UserWarning, match=r"'blue/left' and 'red/left' together are the class 'left'.*pattern="):
        fa.Samples.from_tar(several, "folder")
    assert fa.Samples.from_tar(several, pattern=r"([^/]*)/").classes == ["blue", "red"]


def test_a_member_that_is_listed_twice_stays_on_one_side(shard: Path) -> None:
    samples = fa.Samples.from_tar([shard, shard])
    train, valid = samples.split(0.34)
    assert (len(train), len(valid)) == (4, 2)
    assert not set(train.paths) & set(valid.paths)
