"""What a run that is left alone for days relies on: resume, ranks, bad files, determinism, resources."""

import gc
import itertools
import json
import logging
import os
import pickle
import signal
import sys
import textwrap
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor

import fastaug as fa
from fastaug.loading.loader import BadFileError
from fastaug.loading.workers import prefetch
from fastaug.samples.sources import Member, MemberPaths, names_crc32
from fastaug.samples.targets import MaskFiles
from tests.compare import assert_same_batches
from tests.factories import (
    PATIENCE_S,
    by_sample,
    encode,
    epoch,
    jpeg,
    make_loader,
    run_command,
    run_python,
    spoil,
    torchrun,
    wait_until,
)  # fmt: skip

AUGMENT = fa.aug_transforms(size=32, min_scale=0.75)


@pytest.fixture
def crowd(tmp_path: Path) -> fa.Samples:
    """41 small photographs, all different."""
    image = Image.fromarray(skimage.data.chelsea())
    for i in range(41):
        image.crop((i * 5, i, i * 5 + 120, i + 90)).save(tmp_path / f"{i:02}.jpg", quality=85)
    return fa.Samples(sorted(str(path) for path in tmp_path.glob("*.jpg")), [i % 3 for i in range(41)], ["a", "b", "c"])


def delivered(loader: fa.ImageLoader) -> list[int]:
    return [int(i) for _, _, info in loader for i in info.indices]


@pytest.mark.parametrize("mode", ["resize", "direct"])
@pytest.mark.parametrize("done", [0, 1, 4, 5])
def test_goes_on_bit_for_bit_through_json(crowd: fa.Samples, mode: str, done: int) -> None:
    arguments = {"augment": AUGMENT, "mode": mode, "batch_size": 8}
    whole = make_loader(crowd, **arguments)
    whole.set_epoch(2)
    expected = list(whole) + list(whole)
    interrupted = make_loader(crowd, **arguments)
    interrupted.set_epoch(2)
    batches = iter(interrupted)
    for _ in range(done):
        next(batches)
    if 0 < done < 5:
        wait_until(lambda: interrupted.stats().stages["draw"][0] > 8 * done)  # at least one is prefetched by now
    state = json.loads(json.dumps(interrupted.state_dict()))
    for named in (False, True)[: 1 + (done < 5)]:
        resumed = make_loader(crowd, **arguments, prefetch_batches=1, num_threads=1)
        resumed.load_state_dict(state)
        if named:
            resumed.set_epoch(2)  # as a training loop does at the start of each epoch: the loader is in it already
        rest = list(resumed) + ([] if done == 5 else list(resumed))  # of an epoch that was over there is nothing left
        assert_same_batches(rest, expected[done:])


KILLED = """
    import json, os, signal, sys, torch, fastaug as fa
    from tests.factories import make_loader
    state_file, out, *paths = sys.argv[1:]
    samples = fa.Samples(paths, [i % 3 for i in range(41)], ["a", "b", "c"])
    loader = make_loader(samples, batch_size=4, augment=fa.aug_transforms(size=32, min_scale=0.75), seed=3)
    got = []
    for x, y, info in loader:
        got.append((x, y))
        torch.save(got, out)
        if len(got) == 3:
            json.dump(loader.state_dict(), open(state_file, "w"))
        if len(got) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_sigkill_from_a_state_saved_earlier(crowd: fa.Samples, tmp_path: Path) -> None:
    arguments = {"batch_size": 4, "augment": AUGMENT, "seed": 3}
    whole = make_loader(crowd, **arguments)
    expected = list(whole) + list(whole)
    state, out = tmp_path / "state.json", tmp_path / "killed.pt"
    killed = run_command(sys.executable, "-c", textwrap.dedent(KILLED), str(state), str(out), *crowd.paths)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(torch.load(out)) == 5, "two more than the state knows of"
    resumed = make_loader(crowd, **arguments)
    resumed.load_state_dict(json.loads(state.read_text()))
    assert_same_batches([*torch.load(out)[:3], *resumed, *resumed], expected)


def test_on_another_number_of_ranks_at_the_start_of_an_epoch(crowd: fa.Samples) -> None:
    loader = make_loader(crowd, augment=AUGMENT)
    list(loader)
    state = loader.state_dict()
    expected = by_sample(loader)
    got: dict[int, tuple[Tensor, Tensor]] = {}
    for rank in range(2):
        shard = make_loader(crowd, augment=AUGMENT, shard=(rank, 2), batch_size=5)
        shard.load_state_dict(state)
        got |= by_sample(shard)
    assert len(got) == 40, "two ranks of four batches of five"
    assert all(torch.equal(got[i][0], expected[i][0]) for i in got.keys() & expected.keys())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 6}, "expected a state of batch_size 6, got one of 7"),
        ({"shard": (0, 2)}, "expected a state of ranks 2, got one of 1"),
        ({"training": False}, "expected a state of training False, got one of True"),
        ({"drop_last": False}, "expected a state of drop_last False, got one of True"),
        ({"seed": 9}, "expected a state of seed 9, got one of 0"),
    ],
)
def test_a_state_of_other_batches_is_refused(crowd: fa.Samples, change: dict[str, Any], message: str) -> None:
    loader = make_loader(crowd)
    next(iter(loader))
    with pytest.raises(ValueError, match=message):
        make_loader(crowd, **change).load_state_dict(loader.state_dict())


def test_a_state_of_other_samples_is_refused(crowd: fa.Samples) -> None:
    state = make_loader(crowd).state_dict()
    with pytest.raises(ValueError, match="expected a state of samples 40, got one of 41"):
        make_loader(crowd.subset(range(40))).load_state_dict(state)
    with pytest.raises(ValueError, match="expected a state of targets_crc32"):
        make_loader(crowd.subset(reversed(range(41)))).load_state_dict(state)


def renamed(samples: fa.Samples, rename: Callable[[str], str]) -> fa.Samples:
    return fa.Samples([rename(path) for path in samples.paths], samples.targets, samples.classes)


@pytest.mark.parametrize("done", [0, 2])
@pytest.mark.parametrize(
    "other",
    [
        lambda samples: renamed(samples, lambda path: path.replace("07.jpg", "7.jpg")),
        lambda samples: renamed(samples, lambda path: path.replace("07.jpg", "sub/07.jpg")),
        # other rows of equal classes
        lambda samples: samples.subset([3, 1, 2, 0, *range(4, 41)]),
    ],
    ids=["renamed", "in another folder", "in another order"],
)
def test_a_state_of_other_files_is_refused(crowd: fa.Samples, other: Callable[[fa.Samples], Any], done: int) -> None:
    loader, changed = make_loader(crowd), other(crowd)
    assert changed.targets == crowd.targets
    list(itertools.islice(loader, done))
    with pytest.raises(ValueError, match="expected a state of these files in this order, got one of others"):
        make_loader(changed).load_state_dict(json.loads(json.dumps(loader.state_dict())))


def test_a_data_set_may_move(crowd: fa.Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a whole, to another folder or to another way to write it."""
    nested = renamed(crowd, lambda path: path.replace("07.jpg", "sub/07.jpg"))
    loader = make_loader(nested)
    state = {**loader.state_dict(), "delivered": 3}
    folder = os.path.dirname(crowd.paths[0])
    for there in ("/elsewhere", "photos", ".", "", "/", folder + "/deeper"):
        moved = renamed(nested, lambda path, there=there: os.path.join(there, os.path.relpath(path, folder)))
        make_loader(moved).load_state_dict(state)
    monkeypatch.setattr(os, "sep", "\\")
    make_loader(renamed(nested, lambda path: path.replace("/", "\\"))).load_state_dict(state)


def test_a_state_belongs_to_its_masks(crowd: fa.Samples) -> None:
    """Which may move too, apart from their photos."""

    def masked(*names: str) -> fa.Samples:
        return fa.Samples(crowd.paths, MaskFiles([*names, *(f"{path}.png" for path in crowd.paths[len(names) :])]))

    state = make_loader(masked()).state_dict()
    moved = MaskFiles([f"/masks/{os.path.basename(path)}.png" for path in crowd.paths])
    make_loader(fa.Samples(crowd.paths, moved)).load_state_dict(state)
    for other in (masked(f"{crowd.paths[0]}.PNG"), masked(f"{crowd.paths[1]}.png", f"{crowd.paths[0]}.png")):
        with pytest.raises(ValueError, match="expected a state of targets_crc32"):
            make_loader(other).load_state_dict(state)


def test_names_of_a_million_files_are_cheap() -> None:
    """About as much as to make the list of their paths."""
    start = time.process_time()
    paths = [f"/data/train/class_{i % 100:03}/image_{i:07}.jpg" for i in range(300_000)]
    listed = time.process_time()
    names_crc32(paths)
    assert time.process_time() - listed < 3 * (listed - start)


def test_after_the_last_batch_other_batches_may_come(crowd: fa.Samples) -> None:
    """That is an epoch's end, also for a loop that has not asked for more: by the state's batches, not by those now."""
    first = make_loader(crowd, batch_size=4)
    epochs = [*zip(range(len(first)), first, strict=False)]
    state = first.state_dict()
    assert (state["delivered"], len(epochs)) == (len(first), len(first))
    for settings in ({"batch_size": 6}, {"batch_size": 2}, {"batch_size": 6, "shard": (1, 2)}):
        straight, resumed = make_loader(crowd, **settings), make_loader(crowd, **settings)
        straight.set_epoch(1)
        resumed.load_state_dict(state)
        assert_same_batches(list(resumed), list(straight))
        resumed.load_state_dict(state)
        resumed.set_epoch(0)
        assert list(resumed) == [], "nothing of it is left"
    in_the_middle = {**state, "delivered": len(first) - 1}
    with pytest.raises(ValueError, match="expected a state of batch_size 6, got one of 4"):
        make_loader(crowd, batch_size=6).load_state_dict(in_the_middle)
    for broken in ({"batch_size": 0}, {"ranks": "2"}, {"repeats": -1}):
        with pytest.raises(ValueError, match="expected a state"):
            make_loader(crowd, batch_size=6).load_state_dict({**state, **broken})


def test_epochs_without_batches_are_counted_too(crowd: fa.Samples) -> None:
    """Validation of fewer images than a batch, of which incomplete ones are left out: no epoch is passed over."""
    settings = {"training": False, "drop_last": True, "batch_size": len(crowd) + 1}
    first, resumed = make_loader(crowd, **settings), make_loader(crowd, **settings)
    assert list(first) == []
    resumed.load_state_dict(first.state_dict())
    for loader in (first, resumed):
        assert list(loader) == []
        assert loader.state_dict()["epoch"] == 2


def test_a_data_set_that_has_moved_keeps_its_bad_files(crowd: fa.Samples) -> None:
    bad = [[7, crowd.paths[7], "cut"]]
    state = {**make_loader(crowd).state_dict(), "quarantined": bad}
    moved = renamed(crowd, lambda path: os.path.join("/elsewhere", os.path.basename(path)))
    loader = make_loader(moved)
    loader.load_state_dict(state)
    assert loader.quarantined == [(moved.paths[7], "cut")]
    del state["names_crc32"]  # of an earlier version, which did not look at names: only the same path is the same file
    loader = make_loader(moved)
    loader.load_state_dict(state)
    assert loader.quarantined == []
    loader = make_loader(crowd)
    loader.load_state_dict(state)
    assert loader.quarantined == [(crowd.paths[7], "cut")]


def test_a_state_of_an_earlier_version_is_looked_at_as_it_was_then(crowd: fa.Samples) -> None:
    loader = make_loader(crowd)
    next(iter(loader))
    state = loader.state_dict()
    del state["names_crc32"]
    make_loader(crowd).load_state_dict(state)
    make_loader(renamed(crowd, lambda path: path + "x")).load_state_dict(state)
    with pytest.raises(ValueError, match="expected a state of targets_crc32"):
        make_loader(crowd.subset(reversed(range(41)))).load_state_dict(state)


@pytest.mark.parametrize("state", [{}, {"epoch": 3}, [], "state.json", None])
def test_what_is_no_state_is_refused(crowd: fa.Samples, state: Any) -> None:
    with pytest.raises(ValueError, match=r"ImageLoader: expected a state that state_dict\(\) returned, got "):
        make_loader(crowd).load_state_dict(state)


def members(archives: dict[str, list[str]], order: list[int] | None = None) -> fa.Samples:
    """Samples in archives that need not be there, by the archive's path; in this order."""
    found = [Member(a, name, 512 * i, 9) for a, names in archives.items() for i, name in enumerate(names, 1)]
    paths = MemberPaths.of(found)
    samples = fa.Samples(paths, [0] * len(paths), ["a"])
    return samples if order is None else samples.subset(order)


def test_members_of_archives_are_files() -> None:
    four = {"/data/1.tar": ["a/1.jpg", "2.jpg"], "/data/2.tar": ["3.jpg", "4.jpg"]}
    state = make_loader(members(four), batch_size=2).state_dict()
    same = (
        members({path.replace("/data", "x/y"): names for path, names in four.items()}),
        members({**dict(reversed(four.items())), "/data/3.tar": ["5.jpg"]}, [2, 3, 0, 1]),
    )
    for moved in same:
        make_loader(moved, batch_size=2).load_state_dict(state)
    others = (
        members({"/data/1.tar": ["a/1.jpg", "2.jpg"], "/data/9.tar": ["3.jpg", "4.jpg"]}),
        members({"/data/1.tar": ["a/1.jp", "g2.jpg"], "/data/2.tar": ["3.jpg", "4.jpg"]}),
        members({"/data/1.tar": ["a/1.jpg", "2.jpg", "3.jpg"], "/data/2.tar": ["4.jpg"]}),
        members(four, [1, 0, 2, 3]),
    )
    for other in others:
        with pytest.raises(ValueError, match="expected a state of these files"):
            make_loader(other, batch_size=2).load_state_dict(state)


def test_a_million_samples_take_little_memory(crowd: fa.Samples) -> None:
    """The lists of paths and targets are the caller's; what the loader adds is measured in a process of its own."""
    code = """
        import sys, time, tracemalloc, fastaug as fa
        n = 1_000_000
        samples = fa.Samples([sys.argv[1]] * n, [0] * n, ["a"])
        list(fa.ImageLoader(samples.subset(range(16)), 8, 64, device="cpu"))  # DALI's own start-up
        start = time.process_time()  # of this process's threads alone
        loader = fa.ImageLoader(samples, 8, 64, device="cpu", return_info=True)
        x, y, info = next(iter(loader))
        seconds = time.process_time() - start
        tracemalloc.start()
        loader = fa.ImageLoader(samples, 8, 64, device="cpu", return_info=True)
        x, y, info = next(iter(loader))
        print(len(loader), tracemalloc.get_traced_memory()[1] / n, seconds)
    """
    batches, bytes_per_sample, seconds = run_python(code, crowd.paths[0]).split()
    assert int(batches) == 125_000
    assert float(seconds) < 2, "from making the loader to the first batch"
    assert float(bytes_per_sample) + 8 < 100, "8: the targets, which torch holds"


@pytest.mark.parametrize(("n", "world", "batch_size"), [(41, 2, 5), (40, 3, 8), (41, 3, 41), (2, 3, 4), (41, 1, 5)])
@pytest.mark.parametrize("training", [True, False])
def test_ranks_have_as_many_batches_and_share_nothing(
    crowd: fa.Samples, n: int, world: int, batch_size: int, training: bool
) -> None:
    if training and n < world:
        pytest.skip("refused when the loader is made")
    some, batches, seen = crowd.subset(range(n)), set(), []
    batch_size = min(batch_size, n // world) if training else batch_size  # else it would be made so, with a warning
    for rank in range(world):
        loader = make_loader(some, shard=(rank, world), batch_size=batch_size, training=training)
        got = list(loader)
        batches.add(len(got))
        assert len(got) == len(loader)
        seen += [int(i) for _, _, info in got for i in info.indices]
        assert all(x.shape[1:] == (128, 128, 3) for x, _, _ in got)
    assert len(batches) == 1
    assert len(set(seen)) == len(seen)
    assert len(seen) == (n // world // batch_size * batch_size * world if training else n)


TORCHRUN = """
    import sys, torch, torch.distributed as dist, fastaug as fa
    dist.init_process_group("gloo")
    folder, out = sys.argv[1:]
    samples = fa.Samples.from_folder(folder)
    result = {}
    for training in (True, False):
        loader = fa.ImageLoader(samples, 4, 64, fa.aug_transforms(size=32), device="cpu", training=training,
                                return_info=True)
        rows = []
        for x, y, info in loader:
            dist.all_reduce(torch.ones(1))  # would wait for ever if the ranks had different numbers of batches
            rows += info.indices.tolist()
        result[training] = (loader.shard, len(loader), rows)
    everybody = [None] * dist.get_world_size()
    dist.all_gather_object(everybody, result)
    if dist.get_rank() == 0:
        torch.save(everybody, out)
    dist.destroy_process_group()
"""


@pytest.mark.parametrize("world", [2, 3])
def test_torchrun(crowd: fa.Samples, tmp_path: Path, world: int) -> None:
    script, out = tmp_path / "script.py", tmp_path / "out.pt"
    script.write_text(textwrap.dedent(TORCHRUN))
    torchrun(world, str(script), os.path.dirname(crowd.paths[0]), str(out))
    ranks = torch.load(out)
    for training in (True, False):
        shards, lengths, rows = zip(*(rank[training] for rank in ranks), strict=True)
        assert shards == tuple((rank, world) for rank in range(world))
        assert len(set(lengths)) == 1
        together = [row for part in rows for row in part]
        assert len(set(together)) == len(together)
        assert sorted(together) == list(range(41)) if not training else len(together) == 41 // world // 4 * 4 * world


def garbled(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + b"\xff\xd9" + bytes(range(256)) + content[middle + 200 :]


def huge_png() -> bytes:
    """A header that promises 60,000 × 60,000 pixels."""
    content = bytearray(encode(Image.new("RGB", (8, 8)), "PNG"))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


BAD: dict[str, Callable[[], bytes] | str] = {
    "missing": "No such file",
    "directory": "directory",
    "empty": lambda: b"",
    "text": lambda: b"this is no picture",
    "truncated": lambda: jpeg()[:2000],
    "cut-in-the-header": lambda: jpeg()[:30],
    "garbled": lambda: garbled(jpeg()),
    "video": lambda: b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(5000),
    "zeros": lambda: bytes(3000),
    "gif": lambda: b"GIF89a" + bytes(100),
    "huge": huge_png,
    "jpeg2000": lambda: b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100),
}
ODD_BUT_GOOD: dict[str, Callable[[], bytes]] = {
    "one-pixel": lambda: jpeg(1, 1),
    "wide": lambda: jpeg(60_000, 3),
    "tall": lambda: jpeg(2, 9_000),
    "progressive": lambda: jpeg(progressive=True),
}


@pytest.fixture
def mixed(crowd: fa.Samples, tmp_path: Path) -> fa.Samples:
    """Good and bad files by turns; targets: 1 for good, 0 for bad."""
    paths = [(path, 1) for path in crowd.paths]
    for i, (name, content) in enumerate({**BAD, **ODD_BUT_GOOD}.items()):
        path = tmp_path / f"{name}.bin"
        if name == "directory":
            path.mkdir()
        elif callable(content):
            path.write_bytes(content())
        paths.insert(3 * i + 1, (str(path), int(name in ODD_BUT_GOOD)))
    return fa.Samples([path for path, _ in paths], [good for _, good in paths], ["bad", "good"])


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_every_good_sample_once_and_every_bad_one_by_name(
    mixed: fa.Samples, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    loader = make_loader(mixed, augment=AUGMENT, mode=mode, drop_last=False)
    with caplog.at_level(logging.WARNING, "fastaug"):
        for _ in range(2):
            rows = delivered(loader)
            assert sorted(rows) == [row for row, good in enumerate(mixed.targets) if good]
    named = [Path(path).stem for path, _ in loader.quarantined]
    assert sorted(named) == sorted(BAD)
    assert all("\n" not in reason and len(reason) > 10 for _, reason in loader.quarantined)
    reasons = {Path(path).stem: reason for path, reason in loader.quarantined}
    assert "No such file" in reasons["missing"]
    assert "irectory" in reasons["directory"]
    assert "empty" in reasons["empty"]
    assert "truncated" in reasons["truncated"]
    assert "not an image" in reasons["text"]
    assert "60,000 × 60,000 pixels" in reasons["huge"]
    assert len(caplog.records) == len(BAD), "logged once, not once an epoch"
    alone = by_sample(make_loader(fa.Samples(mixed.paths, mixed.targets, mixed.classes), augment=AUGMENT, mode=mode,
                           drop_last=False, batch_size=1))  # fmt: skip
    loader.set_epoch(0)
    together = by_sample(loader)
    assert all(torch.equal(together[i][0], alone[i][0]) for i in alone), "a bad neighbour changed a good sample"


def test_files_without_permission(crowd: fa.Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for open, since the superuser may read everything."""
    opened = os.open

    def refusing(file: Any, *arguments: Any, **options: Any) -> Any:
        if file == crowd.paths[2]:
            raise PermissionError(13, "Permission denied", file)
        return opened(file, *arguments, **options)

    monkeypatch.setattr(os, "open", refusing)
    loader = make_loader(crowd, training=False)
    assert delivered(loader) == [0, 1, *range(3, 41)]
    assert loader.quarantined == [(crowd.paths[2], "Permission denied")]


def test_quarantine_is_remembered_by_the_state_and_not_tried_again(mixed: fa.Samples) -> None:
    loader = make_loader(mixed, drop_last=False)
    list(loader)
    resumed = make_loader(mixed, drop_last=False, on_error="raise")  # raises if one of them were tried
    resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert resumed.quarantined == loader.quarantined
    assert len(delivered(resumed)) == sum(mixed.targets)


def test_too_many_bad_files_are_an_error(crowd: fa.Samples, tmp_path: Path) -> None:
    spoiled, _ = spoil(crowd, tmp_path)
    list(make_loader(spoiled, max_bad_share=4 / 45))
    with pytest.raises(BadFileError, match=r"expected at most 7% bad files, got 4 of 45, the last .*\. If the storage"):
        list(make_loader(spoiled, max_bad_share=0.07, drop_last=False))


def test_raise_names_the_file_after_the_batches_before_it(crowd: fa.Samples, tmp_path: Path) -> None:
    spoiled, _ = spoil(crowd, tmp_path)
    batches = iter(make_loader(spoiled, training=False, on_error="raise", batch_size=17))
    with pytest.raises(BadFileError, match=r"text\.jpg: not an image"):
        next(batches)
    assert loading_threads() == []


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_no_batch_of_one_is_left_by_bad_files(crowd: fa.Samples, tmp_path: Path, world: int, mode: str) -> None:
    """Where incomplete batches are dropped, since a batch-norm fails on one image. Ranks keep step, states go on."""
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    samples = fa.Samples([*crowd.paths[:16], *[str(tmp_path / "text.jpg")] * 8], [0] * 24, ["a"])
    settings: dict[str, Any] = {"batch_size": 3, "augment": AUGMENT, "mode": mode, "max_bad_share": 1.0}
    dropped = 0
    for rank in range(world):
        loader = make_loader(samples, shard=(rank, world), **settings)
        all_of_it = make_loader(samples, shard=(rank, world), **settings, drop_last=False)
        for _ in range(2):  # the second time the bad ones are known
            left, got = [info.indices.tolist() for *_, info in all_of_it], list(loader)
            expected = [rows if len(rows) > 1 else [] for rows in left]
            dropped += sum(len(rows) == 1 for rows in left)
            assert [info.indices.tolist() for *_, info in got] == [rows for rows in expected if rows or world > 1]
            assert all(len(x) == len(y) == len(info.matrix) for x, y, info in got)
        first = next(iter(loader))
        resumed = make_loader(samples, shard=(rank, world), **settings)
        resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        loader.set_epoch(2)
        assert_same_batches([first, *resumed], list(loader))
    assert dropped > 1
    alone = make_loader(samples, batch_size=1, augment=AUGMENT, mode=mode)
    assert sorted(delivered(alone)) == list(range(16)), "who asks for one image gets it"


def test_thousands_of_bad_files_leave_nothing_behind(tmp_path: Path) -> None:
    """And the decoder goes on working. Memory in a process of its own."""
    (tmp_path / "cut.jpg").write_bytes(jpeg()[:2000])
    (tmp_path / "good.jpg").write_bytes(jpeg())
    code = """
        import os, sys, fastaug.loading.decode as d
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        cut, good = (open(os.path.join(sys.argv[1], name), "rb").read() for name in ("cut.jpg", "good.jpg"))
        decoder = d.make_decoder("jpeg", num_threads=2)
        def many(n):
            for _ in range(n // 10):
                outcomes = decoder.decode([good, *[cut] * 10, good])
                assert [isinstance(outcome, str) for outcome in outcomes] == [False, *[True] * 10, False]
        many(1000)
        before = resident()
        many(4000)
        print((resident() - before) / before)
    """
    assert float(run_python(code, str(tmp_path)).split()[-1]) < 0.01


def test_an_epoch_of_mostly_bad_files(crowd: fa.Samples, tmp_path: Path) -> None:
    """Every good one is delivered, and the next epoch tries no bad one and does nothing for it."""
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    n, good = 4000, list(range(0, 4000, 100))
    paths = [crowd.paths[i // 100] if i % 100 == 0 else str(tmp_path / "text.jpg") for i in range(n)]
    loader = make_loader(fa.Samples(paths, [0] * n, ["a"]), batch_size=32, drop_last=False, max_bad_share=1.0)
    assert sorted(delivered(loader)) == good
    assert len(loader.quarantined) == n - len(good)
    again = make_loader(loader.samples, batch_size=32, drop_last=False, on_error="raise", max_bad_share=1.0)
    again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert sorted(delivered(again)) == good
    stages = again.stats().stages
    assert {stages[name][0] for name in ("draw", "read", "decode")} == {len(good)}, "no work for the bad ones"


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_same_pixels_whatever_the_machinery(crowd: fa.Samples, mode: str) -> None:
    arguments = {"augment": AUGMENT, "mode": mode, "drop_last": False, "seed": 2**40 + 1}
    expected = by_sample(make_loader(crowd, **arguments))
    assert len(expected) == 41
    for change in (
        {"batch_size": 1},
        {"batch_size": 41, "num_threads": 1},
        {"num_threads": 5},
        {"prefetch_batches": 1},
        {"prefetch_batches": 9, "batch_size": 3},
    ):
        got = by_sample(make_loader(crowd, **{**arguments, **change}))
        assert all(torch.equal(got[i][k], expected[i][k]) for i in expected for k in (0, 1)), change
    for rank in range(3):
        got = by_sample(make_loader(crowd, **arguments, shard=(rank, 3)))
        assert all(torch.equal(got[i][k], expected[i][k]) for i in got for k in (0, 1)), f"rank {rank}"


def loading_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("fastaug-load", "fastaug-read", "fastaug-decode"))]


def all_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_threads_are_bounded_and_given_back(crowd: fa.Samples) -> None:
    with make_loader(crowd, augment=AUGMENT) as loader:  # what torch and DALI start once
        list(loader)
    before = all_threads()
    with make_loader(crowd, augment=AUGMENT, num_threads=3) as loader:
        batches = iter(loader)
        next(batches)
        assert 0 < len(loading_threads()) <= 3 + 3 + 2
        assert all_threads() - before <= 3 + 3 + 2 + 2 * 3, "and those of DALI and of its codecs"
    assert loading_threads() == []
    wait_until(lambda: all_threads() <= before)  # ended ones count a moment longer, also those of another test
    assert list(batches) == [], "closed"
    assert len(list(loader)) == len(loader), "and may be used again"


@pytest.mark.parametrize("leave", ["break", "exception", "dropped", "closed from outside"])
def test_leaving_in_the_middle_gives_everything_back(crowd: fa.Samples, leave: str) -> None:
    loader = make_loader(crowd, augment=AUGMENT, prefetch_batches=5)
    if leave == "exception":

        def interrupted(loader: fa.ImageLoader) -> None:
            for _ in loader:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted(loader)
    else:
        batches: Iterator[Any] | None = iter(loader)
        next(batches)  # type: ignore[arg-type]
        if leave == "closed from outside":
            loader.close()
        batches = None
    seen = weakref.ref(loader)
    del loader
    gc.collect()
    assert seen() is None, "something still holds the loader"
    assert loading_threads() == []


def test_ctrl_c_in_the_middle(crowd: fa.Samples) -> None:
    code = """
        import signal, sys, threading, time, fastaug as fa
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        from fastaug.samples.sources import Reader
        loader = fa.ImageLoader(fa.Samples.from_folder(sys.argv[1]), 4, 64, fa.aug_transforms(size=32), device="cpu")
        main, read, go = threading.main_thread().ident, Reader.read_bytes, threading.Event()
        def held(reader, path):
            go.wait()
            return read(reader, path)
        def interrupt():  # once the main thread waits for a batch that does not come: not by chance in an import
            while sys._current_frames()[main].f_code is not threading.Condition.wait.__code__:
                time.sleep(0.001)
            signal.pthread_kill(main, signal.SIGINT)
            go.set()
        seen = 0
        try:
            for _ in loader:
                seen += 1
                if seen == 2:  # DALI and Numba are imported, the threads are there
                    Reader.read_bytes = held
                    threading.Thread(target=interrupt).start()
        except KeyboardInterrupt:
            print("interrupted", 2 <= seen < 10)
        left = [t.name for t in threading.enumerate() if t.name.startswith(("fastaug-l", "fastaug-r", "fastaug-d"))]
        print("left", left, len(list(loader)))
    """
    assert run_python(code, os.path.dirname(crowd.paths[0])).split("\n")[:2] == ["interrupted True", "left [] 10"]


def test_a_script_that_ends_in_the_middle_ends(crowd: fa.Samples) -> None:
    code = """
        import sys, fastaug as fa
        loader = fa.ImageLoader(fa.Samples.from_folder(sys.argv[1]), 4, 64, device="cpu")
        batches = iter(loader)
        next(batches)
        print("end")
    """
    assert run_python(code, os.path.dirname(crowd.paths[0])).strip() == "end"


def test_two_loaders_by_turns_and_one_twice(crowd: fa.Samples) -> None:
    expected = list(make_loader(crowd, augment=AUGMENT))
    a, b = make_loader(crowd, augment=AUGMENT), make_loader(crowd, augment=AUGMENT, num_threads=1)
    pairs = list(zip(a, b, strict=True))
    assert_same_batches([pair[0] for pair in pairs], expected)
    assert_same_batches([pair[1] for pair in pairs], expected)


def test_a_thousand_batches_do_not_grow(crowd: fa.Samples) -> None:
    """By more than 8 kB each."""
    code = """
        import os, sys, fastaug as fa
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        samples = fa.Samples.from_folder(sys.argv[1])
        loaders = [fa.ImageLoader(samples, 4, 64, fa.aug_transforms(size=32), device="cpu", mode=mode)
                   for mode in ("resize", "direct")]
        def batches(n):
            for loader in loaders:
                seen = 0
                while seen < n:
                    for _ in loader:
                        seen += 1
        batches(200)
        before = resident()
        batches(500)
        print((resident() - before) / before)
    """
    assert float(run_python(code, os.path.dirname(crowd.paths[0]))) < 0.01


def test_a_loader_can_be_copied_and_pickled(crowd: fa.Samples) -> None:
    loader = make_loader(crowd, augment=AUGMENT)
    batches = iter(loader)
    next(batches)
    for copy in (deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        copy.set_epoch(0)
        assert_same_batches(list(copy), list(make_loader(crowd, augment=AUGMENT)))


def test_prefetch_is_bounded_in_order_and_hands_errors_over() -> None:
    ended = [threading.Event() for _ in range(100)]
    taken = itertools.count()

    def load(item: int) -> int:
        if item == 7:
            raise ValueError("seven")
        if item % 3 == 1:
            assert ended[item + 1].wait(PATIENCE_S)  # the later one ends first
        ended[item].set()
        return item * 10

    results = prefetch(load, (item for item in range(100) if next(taken) >= 0), depth=4, workers=3)
    assert next(results) == 0
    assert next(taken) == 5, "four beside the one that was delivered"
    assert [next(results) for _ in range(6)] == [10, 20, 30, 40, 50, 60]
    with pytest.raises(ValueError, match="seven"):
        next(results)
    assert list(results) == []
    assert list(prefetch(load, [], depth=2, workers=1)) == []


def test_stats_say_what_is_the_limit(crowd: fa.Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = make_loader(crowd, augment=AUGMENT, mode="direct")
    assert "Not known yet" in loader.stats().limit
    ticks, models_s = itertools.count(), 0.0
    with monkeypatch.context() as patched:  # a clock that goes on by a moment for each look, and while the model works
        patched.setattr(time, "perf_counter", lambda: models_s + 1e-6 * next(ticks))
        for _ in loader:
            models_s += 0.15
        stats = loader.stats()
    assert stats.images == 35
    assert stats.limit.startswith("The model is the limit")
    assert stats.model_s == pytest.approx(4 * 0.15, rel=0.01)
    assert stats.loader_share < 0.1
    assert set(stats.images_per_s) == {"read", "decode", "draw", "warp"}
    assert all(speed > 0 for speed in stats.images_per_s.values())
    slow = make_loader(crowd, presize=1200)
    list(slow)
    stats = slow.stats()
    assert stats.limit.startswith("The loader is the limit")
    assert "presizing" in stats.limit
    assert stats.loader_share > 0.9
    assert "images/s" in str(stats)
    assert stats.first_batch_s > 0


def test_stats_count_each_image_once_per_stage(crowd: fa.Samples) -> None:
    loader = make_loader(crowd, augment=AUGMENT)
    epoch(loader)
    stages = loader.stats().stages
    assert {name: images for name, (images, _) in stages.items()} == dict.fromkeys(
        ("read", "decode", "presize", "draw", "warp"), 35
    )
    assert np.isfinite([seconds for _, seconds in stages.values()]).all()


def test_one_batch_says_nothing_about_the_limit(crowd: fa.Samples) -> None:
    loader = make_loader(crowd, augment=AUGMENT, batch_size=41)
    assert len(list(loader)) == 1
    assert loader.stats().limit == "Not known yet: fewer than two batches were delivered."
    assert loader.stats().model_s == 0
