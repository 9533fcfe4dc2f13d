"""Archives have the same guarantees as files: the same batches, bit for bit, come of both."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fastaug as fa
from tests.compare import assert_same_batches
from tests.factories import by_sample, make_loader, run_python, write_tar

AUGMENT = fa.aug_transforms(size=32, min_scale=0.75)


def archived(
    samples: fa.Samples, folder: Path, shards: int = 3, spoil: Callable[[int, bytes], bytes] | None = None
) -> fa.Samples:
    """The samples, in the same order, as shards in WebDataset's layout."""
    bounds = [len(samples) * k // shards for k in range(shards + 1)]
    for shard, rows in enumerate(map(range, bounds, bounds[1:])):
        files: dict[str, bytes] = {}
        for row in rows:
            content = Path(samples.paths[row]).read_bytes()
            files[f"{row:03}.jpg"] = spoil(row, content) if spoil else content
            files[f"{row:03}.cls"] = b"%d" % samples.targets[row]
        write_tar(folder / f"shard-{shard}.tar", files)
    return fa.Samples.from_tar(folder / "shard-*.tar", classes=samples.classes)


@pytest.mark.parametrize("mode", ["resize", "direct"])
@pytest.mark.parametrize("arguments", [{}, {"shard": (1, 3), "drop_last": False}, {"training": False}])
def test_the_same_batches_as_of_files(
    samples: fa.Samples, tmp_path: Path, mode: str, arguments: dict[str, Any]
) -> None:
    arguments = {"augment": AUGMENT, "mode": mode, "seed": 5, **arguments}
    files, tar = make_loader(samples, **arguments), make_loader(archived(samples, tmp_path), **arguments)
    expected = list(files) + list(files)
    assert len(expected) == 2 * len(files) > 0
    assert_same_batches(list(tar) + list(tar), expected)


def test_resume_copy_and_another_number_of_threads(samples: fa.Samples, tmp_path: Path) -> None:
    found = archived(samples, tmp_path)
    expected = list(make_loader(samples, augment=AUGMENT))
    interrupted = make_loader(found, augment=AUGMENT)
    batches = iter(interrupted)
    assert_same_batches([next(batches) for _ in range(3)], expected[:3])
    state = json.loads(json.dumps(interrupted.state_dict()))
    for resumed in (make_loader(found, augment=AUGMENT, num_threads=1), pickle.loads(pickle.dumps(interrupted))):
        resumed.load_state_dict(state)
        assert_same_batches(list(resumed), expected[3:])
    interrupted.close()


def test_a_state_belongs_to_its_members(samples: fa.Samples, tmp_path: Path) -> None:
    """By their names and those of their archives, which may move, and be packed anew."""
    (tmp_path / "a").mkdir()
    found = archived(samples, tmp_path / "a")
    state = {**make_loader(found).state_dict(), "delivered": 3}
    (tmp_path / "a").rename(tmp_path / "b")
    moved = fa.Samples.from_tar(tmp_path / "b" / "shard-*.tar", classes=samples.classes)
    make_loader(moved).load_state_dict(state)
    content = {"before.txt": b"x"}
    for path in moved.paths[:16]:
        name = path.split("//")[1].split("@")[0]
        content |= {name: b"another", name.replace("jpg", "cls"): b"%d" % moved.targets[int(name[:3])]}
    write_tar(tmp_path / "b" / "shard-0.tar", content)
    anew = fa.Samples.from_tar(tmp_path / "b" / "shard-*.tar", classes=samples.classes)
    assert list(anew.paths) != list(moved.paths)
    make_loader(anew).load_state_dict(state)
    (tmp_path / "b" / "shard-1.tar").rename(tmp_path / "b" / "shard-3.tar")
    archives = [tmp_path / "b" / f"shard-{i}.tar" for i in (0, 3, 2)]
    with pytest.raises(ValueError, match="expected a state of these files in this order, got one of others"):
        make_loader(fa.Samples.from_tar(archives, classes=samples.classes)).load_state_dict(state)


def test_bad_members_are_skipped_by_name_and_remembered(samples: fa.Samples, tmp_path: Path) -> None:
    wrong = {3: b"", 4: b"no picture", 20: b"\xff\xd8\xff\xe0"}
    found = archived(
        samples, tmp_path, spoil=lambda row, content: content[:700] if row == 30 else wrong.get(row, content)
    )
    loader = make_loader(found, augment=AUGMENT, drop_last=False)
    expected = by_sample(make_loader(samples, augment=AUGMENT, drop_last=False))
    got = by_sample(loader)
    assert sorted(got) == [row for row in range(50) if row not in (3, 4, 20, 30)]
    assert all(torch.equal(got[row][0], expected[row][0]) for row in got)
    named = {os.path.basename(path).split("@")[0]: reason for path, reason in loader.quarantined}
    assert sorted(named) == ["003.jpg", "004.jpg", "020.jpg", "030.jpg"]
    assert named["003.jpg"] == "the file is empty"
    resumed = make_loader(found, augment=AUGMENT, drop_last=False, on_error="raise")
    resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert resumed.quarantined == loader.quarantined
    assert len(by_sample(resumed)) == 46


def test_an_archive_that_vanishes_costs_its_samples_only(samples: fa.Samples, tmp_path: Path) -> None:
    found = archived(samples, tmp_path)
    (tmp_path / "shard-1.tar").unlink()
    loader = make_loader(found, training=False)
    assert sorted(by_sample(loader)) == [*range(16), *range(33, 50)]
    assert {reason for _, reason in loader.quarantined} == {"No such file or directory"}


def test_descriptors_are_given_back(samples: fa.Samples, tmp_path: Path) -> None:
    found = archived(samples, tmp_path)
    list(make_loader(found))
    before = sorted(os.listdir("/proc/self/fd"))
    loader = make_loader(found)
    batches = iter(loader)
    next(batches)
    assert any("shard-" in os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
    loader.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_million_members_take_little_memory_altogether(samples: fa.Samples, tmp_path: Path) -> None:
    """Samples, loader and the permutation of the first batch: everything that grows with their number."""
    archive = archived(samples, tmp_path, shards=1)
    code = """
        import sys, time, tracemalloc, numpy as np, fastaug as fa
        from fastaug.samples.sources import MemberPaths
        archive, place = sys.argv[1], sys.argv[2].split("@")[1].split("+")
        def load(n):
            columns = np.zeros((3, n), np.int64) + [[0], [int(place[0])], [int(place[1])]]
            columns[:, -1] = 0, 2**31, 2**20  # as large as in a real archive
            names = np.frombuffer(b"n01440764_1234567.JPEG" * n, np.uint8)
            paths = MemberPaths([archive], *columns, 22 * np.arange(1, n + 1), names)
            of_paths = sum(column.nbytes for column in paths.columns().values())
            del columns, names
            if n > 1000:
                tracemalloc.start()
            samples = fa.Samples(paths, [0] * n, ["a"])
            start = time.process_time()  # of this process's threads alone
            loader = fa.ImageLoader(samples, 64, 64, device="cpu", return_info=True)
            x, y, info = next(iter(loader))
            assert len(x) == 64
            seconds, traced = time.process_time() - start, tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return seconds, of_paths + traced
        own = load(1000)[0]
        seconds, memory = load(1_000_000)
        print(seconds - own, memory / 1e6)
    """
    place = archive.paths[0].split("//")
    seconds, bytes_per_sample = map(float, run_python(code, place[0], place[1]).split())
    assert seconds < 2
    assert 60 < bytes_per_sample + 8 < 100, "8: the targets, which torch holds"
