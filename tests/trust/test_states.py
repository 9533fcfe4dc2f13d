"""A state belongs to its files: their paths count, relative to where they all lie, and the data set may move."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastaug as fa
from tests.factories import write_tar
from tests.trust.faults import one_line, rows_of, small_loader, small_photos, write_photo

NAMES = ["cat/1.jpg", "cat/2.jpg", "cat/3.jpg", "dog/1.jpg", "dog/2.jpg", "dog/x/3.jpg"]
TARGETS = [0, 0, 0, 1, 1, 1]


def of(root: str | Path, names: list[str] | None = None, targets: Any = None) -> fa.Samples:
    names = NAMES if names is None else names
    paths = [os.path.join(root, name) for name in names]
    return fa.Samples(paths, TARGETS[: len(names)] if targets is None else targets, ["cat", "dog"])


def state_of(samples: fa.Samples, **arguments: Any) -> dict[str, Any]:
    return json.loads(json.dumps(small_loader(samples, batch_size=2, **arguments).state_dict()))


def load(samples: fa.Samples, state: dict[str, Any]) -> fa.ImageLoader:
    loader = small_loader(samples, batch_size=2)
    loader.load_state_dict(state)
    return loader


def exchanged(names: list[str], **by: str) -> list[str]:
    """With other names at some rows."""
    return [by.get(f"row{row}", name) for row, name in enumerate(names)]


OTHERS: dict[str, list[str]] = {
    "one is renamed": exchanged(NAMES, row1="cat/2b.jpg"),
    "the first is renamed": exchanged(NAMES, row0="cat/0.jpg"),
    "the last is renamed": exchanged(NAMES, row5="dog/x/4.jpg"),
    "another ending": exchanged(NAMES, row2="cat/3.jpeg"),
    "another case": exchanged(NAMES, row2="cat/3.JPG"),
    "two have changed places": exchanged(NAMES, row0="cat/2.jpg", row1="cat/1.jpg"),
    "the same name in another folder": exchanged(NAMES, row5="dog/3.jpg"),
    "another folder": [name.replace("dog", "wolf") for name in NAMES],
    "a letter has moved over a border": exchanged(NAMES, row3="dog/1.jp", row4="gdog/2.jpg"),
    "all others": [f"cat/{i}.jpg" for i in range(10, 16)],
    "turned": NAMES[::-1],
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("done", [0, 1])
def test_other_files_with_equal_targets_are_refused(tmp_path: Path, other: str, done: int) -> None:
    for name in NAMES:
        write_photo(tmp_path / name)
    loader = small_loader(of(tmp_path), batch_size=2)
    iteration = iter(loader)
    for _ in range(done):
        next(iteration)
    state = json.loads(json.dumps(loader.state_dict()))
    iteration.close()
    for root in (tmp_path, "/elsewhere"):
        with pytest.raises(ValueError, match=r"files|names|paths") as caught:
            load(of(root, OTHERS[other], TARGETS), state)
        one_line(caught.value)
    load(of(tmp_path), state)


@pytest.mark.parametrize("root", ["/data/set", "relative/set", ".", "/", "/data/s\udce9t\n", "../up", "/data/set/"])
def test_a_data_set_may_move(root: str) -> None:
    """Any root against any other."""
    state = state_of(of(root))
    for other in ("/mnt/other/deeper/set", "x", root):
        assert load(of(other), state).state_dict() == {**state}


def test_moved_files_go_on_with_the_same_batches(tmp_path: Path) -> None:
    samples = small_photos(tmp_path / "a", 12)
    loader = small_loader(samples, batch_size=2)
    expected = rows_of(loader)
    loader.set_epoch(0)
    iteration = iter(loader)
    for _ in range(2):
        next(iteration)
    state = loader.state_dict()
    iteration.close()
    shutil.move(tmp_path / "a", tmp_path / "b" / "c")
    moved = fa.Samples(
        [str(tmp_path / "b" / "c" / Path(path).name) for path in samples.paths], samples.targets, ["a", "b"]
    )
    assert rows_of(load(moved, state)) == expected[4:]


def test_moved_files_keep_their_quarantine(tmp_path: Path) -> None:
    samples = small_photos(tmp_path / "a", 12, bad=3)
    loader = small_loader(samples, batch_size=2)
    rows_of(loader)
    state = json.loads(json.dumps(loader.state_dict()))
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = fa.Samples([path.replace("/a/", "/b/") for path in samples.paths], samples.targets, samples.classes)
    resumed = load(moved, state)
    assert [(path.replace("/b/", "/a/"), reason) for path, reason in resumed.quarantined] == loader.quarantined
    assert all("/b/" in path for path, _ in resumed.quarantined), "under the names that they have now"
    assert len(rows_of(resumed)) in (8, 9), "but for a batch of one"


def test_archives_may_move_and_others_are_refused(tmp_path: Path) -> None:
    content = write_photo(tmp_path / "x.jpg").read_bytes()

    def archive(folder: str, name: str, names: list[str]) -> fa.Samples:
        (tmp_path / folder).mkdir(exist_ok=True)
        members = {f"{one}.jpg": content for one in names} | {f"{one}.cls": b"0" for one in names}
        return fa.Samples.from_tar(write_tar(tmp_path / folder / name, members))

    names = ["a", "b", "c", "d"]
    state = state_of(archive("one", "t.tar", names))
    load(archive("two", "t.tar", names), state)
    for name, other in (("t.tar", ["a", "b", "c", "e"]), ("t.tar", ["b", "a", "c", "d"])):
        with pytest.raises(ValueError, match=r"files|names|paths"):
            load(archive("three", name, other), state)


def test_a_file_becomes_a_member_of_an_archive(tmp_path: Path) -> None:
    """Other files: where the bytes come from is another thing, and the rows are in another order perhaps."""
    for name in ("a", "b"):
        write_photo(tmp_path / f"{name}.jpg")
    state = state_of(fa.Samples([f"{tmp_path}/{name}.jpg" for name in ("a", "b")], [0, 0], ["0"]))
    write_tar(tmp_path / "t.tar", {f"{one}.{kind}": b"0" for one in ("a", "b") for kind in ("jpg", "cls")})
    with pytest.raises(ValueError, match="state"):
        load(fa.Samples.from_tar(tmp_path / "t.tar"), state)


def test_one_file(tmp_path: Path) -> None:
    state = state_of(of("/a", ["1.jpg", "1.jpg"]))
    load(of("/b", ["1.jpg", "1.jpg"]), state)
    with pytest.raises(ValueError, match=r"files|names|paths"):
        load(of("/a", ["2.jpg", "2.jpg"]), state)


def test_names_that_are_not_utf8_and_names_that_only_look_alike() -> None:
    names = ["a\udce9.jpg", "b\n.jpg", "c", "e\u0301.jpg", "😀.jpg", "\udcff"]
    state = state_of(of("/x", names))
    load(of("/y", names), state)
    for row, other in ((0, "a\udce8.jpg"), (3, "\xe9.jpg"), (1, "b\r.jpg"), (5, "\udcfe"), (0, "aé.jpg")):
        with pytest.raises(ValueError, match=r"files|names|paths"):
            load(of("/y", [other if i == row else name for i, name in enumerate(names)]), state)


def test_a_checkpoint_of_other_files_is_refused_by_the_learner(tmp_path: Path) -> None:
    from tests.trust import children

    settings: dict[str, Any] = {"batch_size": 2, "augment": children.AUGMENT, "return_info": False}
    learn = children.a_learner(small_loader(small_photos(tmp_path / "a", 8), **settings))
    learn.fit(1, 1e-3)
    learn.save(tmp_path / "run.pth")
    moved = children.a_learner(small_loader(small_photos(tmp_path / "moved", 8), **settings))
    moved.load(tmp_path / "run.pth")
    other = small_photos(tmp_path / "b", 8)
    os.rename(other.paths[3], tmp_path / "b" / "other.jpg")
    other = fa.Samples(
        [*other.paths[:3], str(tmp_path / "b" / "other.jpg"), *other.paths[4:]], other.targets, ["a", "b"]
    )
    refused = children.a_learner(small_loader(other, **settings))
    with pytest.raises(ValueError, match=r"files|names|paths") as caught:
        refused.load(tmp_path / "run.pth")
    one_line(caught.value)


def seconds(work: Callable[[], Any]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def test_cheap_for_many() -> None:
    """200,000 names, a fifth of a million, and each later state for nothing."""
    paths = [f"/data/train/class{i % 997}/photo_{i:08}.jpg" for i in range(200_000)]
    samples = fa.Samples(paths, [i % 997 for i in range(200_000)], map(str, range(997)))
    loader = small_loader(samples)
    first = seconds(loader.state_dict)
    assert first < 0.6, "3 s for a million on a busy machine; it is said to take 0.2"
    assert min(seconds(loader.state_dict) for _ in range(5)) < 0.2
    size = len(json.dumps(loader.state_dict()))
    assert size < 2000, "a state holds no names"
