"""What too many bad files are: of one epoch's part of one rank, whoever found them when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastaug as fa
from tests.loading.children import Child
from tests.trust import children
from tests.trust.faults import one_line, rows_of, small_loader, small_photos


@pytest.fixture
def seven_percent(tmp_path: Path) -> fa.Samples:
    return small_photos(tmp_path, 200, bad=14)


def good_rows(samples: fa.Samples) -> set[int]:
    return {row for row, path in enumerate(samples.paths) if Path(path).stat().st_size > 20}


def states(loader: fa.ImageLoader, batches: int) -> dict[str, Any]:
    """After so many batches of an epoch that is left there."""
    iteration = iter(loader)
    for _ in range(batches):
        next(iteration)
    state = json.loads(json.dumps(loader.state_dict()))
    iteration.close()
    return state


def epochs_until_it_raises(loader: fa.ImageLoader, epochs: int) -> int:
    for epoch in range(epochs):
        try:
            rows_of(loader)
        except fa.BadFileError:
            return epoch
    return epochs


def batches_until_it_raises(loader: fa.ImageLoader) -> int | None:
    """None: the epoch has its end."""
    number = 0
    try:
        for _ in loader:
            number += 1
    except fa.BadFileError:
        return number
    return None


def test_seven_percent_on_eight_ranks_train_for_twenty_epochs(seven_percent: fa.Samples) -> None:
    for rank in range(8):
        loader = small_loader(seven_percent, shard=(rank, 8), batch_size=25, max_bad_share=0.3, num_threads=1)
        assert epochs_until_it_raises(loader, 20) == 20
        assert len(loader.quarantined) > 0.3 * 25, "more over its lifetime than it may meet in an epoch"


def test_all_good_samples_come_each_epoch_beside_the_bad_ones(seven_percent: fa.Samples) -> None:
    loaders = [small_loader(seven_percent, shard=(rank, 4), batch_size=10, training=True) for rank in range(4)]
    for _ in range(2):
        found = [row for loader in loaders for row in rows_of(loader)]
        assert len(found) == len(set(found))
        assert set(found) == good_rows(seven_percent)


@pytest.mark.parametrize("training", [True, False])
def test_known_bad_files_count_in_each_epoch(tmp_path: Path, training: bool) -> None:
    """As many as there are: an epoch is not in order because somebody has seen before that it is not."""
    loader = small_loader(small_photos(tmp_path, 40, bad=24), training=training, batch_size=4)
    for epoch in range(4):
        loader.set_epoch(epoch)
        with pytest.raises(fa.BadFileError, match="bad"):
            rows_of(loader)


@pytest.mark.parametrize("training", [True, False])
def test_fewer_than_the_share_never_end_an_epoch(tmp_path: Path, training: bool) -> None:
    loader = small_loader(small_photos(tmp_path, 40, bad=20), training=training, batch_size=4)
    assert epochs_until_it_raises(loader, 4) == 4
    assert len(loader.quarantined) == 20, "half is not more than half"


def test_it_is_said_as_soon_as_it_is_certain(tmp_path: Path) -> None:
    """In file order all bad ones come first: the 21st of 40 is in the sixth batch of four."""
    loader = small_loader(small_photos(tmp_path, 40, bad=30, every=1), training=False, batch_size=4, shard=(0, 1))
    with pytest.raises(fa.BadFileError) as caught:
        rows_of(loader)
    one_line(caught.value)
    assert 21 <= len(loader.quarantined) <= 24
    few = small_loader(small_photos(tmp_path / "few", 40, bad=30, every=1), training=False, max_bad_share=0.1)
    with pytest.raises(fa.BadFileError, match="10"):
        rows_of(few)
    assert len(few.quarantined) <= 8, "the first batch tells"


def test_the_share_is_of_the_ranks_part_of_the_epoch(tmp_path: Path) -> None:
    """Ten of forty, all in the first half of the files: of rank 0's validation, or not."""
    samples = small_photos(tmp_path, 40, bad=10, every=1)
    outcomes = [
        batches_until_it_raises(small_loader(samples, shard=(rank, 4), training=False, max_bad_share=0.26))
        for rank in range(4)
    ]
    rows = [rows_of(small_loader(samples, shard=(rank, 4), training=False, max_bad_share=1.0)) for rank in range(4)]
    bad = [10 - len(part) for part in rows]
    assert sum(bad) == 10
    assert [outcome is not None for outcome in outcomes] == [count > 2.6 for count in bad]
    assert min(bad) <= 2 < max(bad), "both occur"


@pytest.mark.parametrize("bad", [12, 24, 28])
@pytest.mark.parametrize("training", [True, False])
def test_a_resumed_epoch_ends_where_the_whole_one_does(tmp_path: Path, bad: int, training: bool) -> None:
    """What was met before the interruption counts, and nothing twice."""
    samples = small_photos(tmp_path, 40, bad=bad)
    settings: dict[str, Any] = {"batch_size": 4, "training": training, "shard": (0, 2), "drop_last": False}
    whole = batches_until_it_raises(small_loader(samples, **settings))
    assert (whole is None) == (bad == 12)
    for done in range(1, min(whole or 4, 4) + 1):
        interrupted = small_loader(samples, **settings)
        try:
            state = states(interrupted, done)
        except fa.BadFileError:
            break
        resumed = small_loader(samples, **settings)
        resumed.load_state_dict(state)
        rest = batches_until_it_raises(resumed)
        assert (None if rest is None else rest + done) == whole, f"interrupted after {done} batches"


@pytest.mark.parametrize("ranks", [2, 8])
def test_after_resharding(seven_percent: fa.Samples, ranks: int) -> None:
    """Eight ranks know of 14 bad files, more than half of what each of them has: no reason to stop."""
    alone = small_loader(seven_percent, batch_size=20)
    rows_of(alone)
    state = json.loads(json.dumps(alone.state_dict()))
    assert len(alone.quarantined) == 14
    found: list[int] = []
    for rank in range(ranks):
        loader = small_loader(seven_percent, shard=(rank, ranks), batch_size=25, max_bad_share=0.3)
        loader.load_state_dict(state)
        found += rows_of(loader)
        assert loader.quarantined == alone.quarantined, "and none is lost"
        assert epochs_until_it_raises(loader, 5) == 5
    assert sorted(found) == sorted(good_rows(seven_percent))


def test_after_resharding_too_many_are_too_many(tmp_path: Path) -> None:
    samples = small_photos(tmp_path, 80, bad=60)
    alone = small_loader(samples, max_bad_share=1.0)
    rows_of(alone)
    state = alone.state_dict()
    for rank in range(4):
        loader = small_loader(samples, shard=(rank, 4), batch_size=5)
        loader.load_state_dict(state)
        with pytest.raises(fa.BadFileError):
            rows_of(loader)


def test_resumed_each_epoch_as_a_preempted_job_is(seven_percent: fa.Samples) -> None:
    """Twenty epochs, each in a new process, in the middle of which it is ended."""
    state = None
    for epoch in range(20):
        loader = small_loader(seven_percent, shard=(3, 8), batch_size=5, max_bad_share=0.4, num_threads=1)
        if state is not None:
            loader.load_state_dict(state)
            rows_of(loader)
        loader.set_epoch(epoch)
        state = states(loader, 1 + epoch % 4)
    assert len(state["quarantined"]) > 0.4 * 25


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[dict[str, Any]], Path]]:
    """What two ranks that trained together say, and their folder."""
    folder = tmp_path_factory.mktemp("ranks")
    store = folder / "store"
    ranks = [Child(children.train_as_rank, str(folder), rank, str(store)) for rank in range(2)]
    try:
        yield [rank.end() for rank in ranks], folder
    finally:
        for rank in ranks:
            if rank.process.is_alive():
                rank.kill()


@pytest.mark.parametrize("case", ["empty", "all bad", "half bad"])
def test_a_rank_without_validation_images_does_not_end_the_run(two_ranks: Any, case: str) -> None:
    found, _ = two_ranks
    one, other = (rank[case] for rank in found)
    assert one["failed"] is other["failed"] is None
    assert one["epochs"] == other["epochs"] == 2
    assert one["rows"] == other["rows"], "and all ranks have the same figures"
    assert one["parts"] != other["parts"], "the one had images and the other none, or fewer"


def test_the_quarantine_of_all_ranks_is_in_the_checkpoint(two_ranks: Any) -> None:
    found, folder = two_ranks
    own = [set(rank["quarantine"]["own"]) for rank in found]
    assert own[0] - own[1], "the first rank has met what the second has not"
    assert own[1] - own[0], "and the other way round"
    for rank in found:
        assert set(rank["quarantine"]["loaded"]) == own[0] | own[1]
    learn = children.a_learner(children.of_quarantine(folder))
    learn.load(folder / "quarantine.pth")
    assert {Path(path).name for path, _ in learn.train_loader.quarantined} == own[0] | own[1], "also on one rank"
