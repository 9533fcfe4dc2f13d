"""Bytes of files and of members of tar archives; samples in WebDataset's layout."""

from __future__ import annotations

import io
import json
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

import fastaug as fa
from fastaug.sources import members, read_bytes
from tests.loading.common import by_sample, make


def picture(i: int, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(skimage.data.chelsea()[i : i + 90, 2 * i : 2 * i + 120]).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, content: dict[str, bytes], mode: str = "w", **options: object) -> Path:
    with tarfile.open(path, mode, **options) as tar:  # type: ignore[call-overload]
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


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
    plain, from_tar = (by_sample(make(samples, augment=augment, drop_last=False)) for samples in (files, packed))
    assert plain.keys() == from_tar.keys() == set(range(23))
    for row, (image, matrix) in plain.items():
        assert torch.equal(image, from_tar[row][0])
        assert torch.equal(matrix, from_tar[row][1])


def test_resume_and_ranks_from_archives(shards: list[Path]) -> None:
    samples = fa.Samples.from_tar(shards)
    whole = [info.indices.tolist() for _, _, info in make(samples, batch_size=4)]
    loader = make(samples, batch_size=4)
    iteration = iter(loader)
    begun = [next(iteration)[2].indices.tolist() for _ in range(2)]
    again = make(samples, batch_size=4)
    again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    loader.close()
    assert begun + [info.indices.tolist() for _, _, info in again] == whole
    ranks = [make(samples, batch_size=4, training=False, shard=(rank, 2)) for rank in (0, 1)]
    assert sorted(int(i) for one in ranks for _, _, info in one for i in info.indices) == list(range(23))


def test_where_the_class_is(shards: list[Path], tmp_path: Path) -> None:
    assert fa.Samples.from_tar(shards[0], "json:label").classes == ["cat", "dog"]
    assert fa.Samples.from_tar(shards[0], classes=["even", "odd"])[1][1] == 1
    nested = write_tar(tmp_path / "nested.tar", {"x/cat/1.PNG": picture(1, "PNG"), "x/dog/1.jpg": picture(2)})
    samples = fa.Samples.from_tar(nested, "folder")
    assert (samples.classes, samples.targets) == (["cat", "dog"], [0, 1])
    (x, *_), *_ = make(samples, batch_size=2, training=False)
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
    loader = make(samples, training=False)
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
    assert np.unique(samples.targets).tolist() == [0]
