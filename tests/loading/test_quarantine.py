"""Bad files, as they are said, and how many of them there may be."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastaug.loading.loader import ImageLoader
from fastaug.loading.quarantine import BadFileError, Quarantine, StorageError, Tally
from fastaug.samples.samples import Samples
from fastaug.samples.storage import StorageReason
from tests.factories import encode, make_loader


def test_names_reach_no_log_and_no_error_raw(caplog: pytest.LogCaptureFixture) -> None:
    samples = Samples(["a\n\x1b[31m.jpg", "th\udce9.jpg"], [0, 0], ["x"])
    kept = Quarantine(samples)
    with caplog.at_level(logging.WARNING, "fastaug"):
        kept.add(0, "damaged\r\x07")
    assert caplog.messages == [r"skipping a\n\x1b[31m.jpg: damaged\r\x07"]
    assert kept.listed()[0][0] == samples.paths[0], "who goes on with it gets the path as it is"
    with pytest.raises(BadFileError, match=r"could not load th\\udce9\.jpg: damaged"):
        Tally(kept, np.arange(2), 0, "raise", 0.5).add(np.array([1]), {1: "damaged"})


# How much of an epoch may be bad


@pytest.fixture
def spotted(tmp_path: Path) -> Callable[[int, int], Samples]:
    """n samples of which the first k are bad files; all are two files."""
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(encode(Image.new("RGB", (8, 8)), "PNG"))
    bad.write_bytes(b"no picture")
    return lambda n, k: Samples([str(bad)] * k + [str(good)] * (n - k), [0] * n, ["a"])


def tiny(samples: Samples, **settings: Any) -> ImageLoader:
    return make_loader(samples, **{"batch_size": 5, "presize": 8, "num_threads": 1, "drop_last": False, **settings})


def count(loader: ImageLoader) -> int:
    return sum(len(info.indices) for *_, info in loader)


def failing(loader: ImageLoader) -> int:
    """How many images come before it is an error."""
    images: list[int] = []
    with pytest.raises(BadFileError):
        images.extend(len(info.indices) for *_, info in loader)
    return sum(images)


def test_ranks_that_meet_all_bad_files_in_the_end(spotted: Callable[[int, int], Samples]) -> None:
    """Each epoch by itself: a rank's list becomes longer than its share is large."""
    samples, met = spotted(112, 8), 0
    for rank in range(8):
        loader = tiny(samples, shard=(rank, 8), max_bad_share=0.5, batch_size=14)
        for _ in range(20):
            count(loader)
        met = max(met, len(loader.quarantined))
    assert met > 0.5 * 14


def test_too_many_bad_ones_are_an_error_in_each_epoch_at_the_same_place(spotted: Callable[[int, int], Samples]) -> None:
    """Known or not: it is the files that count, not who has found them when."""
    loader, fresh = tiny(spotted(40, 24)), tiny(spotted(40, 24))
    for epoch in (0, 1, 1, 2):
        loader.set_epoch(epoch)
        fresh = tiny(spotted(40, 24))
        fresh.set_epoch(epoch)
        assert failing(loader) == failing(fresh) > 0
    resumed = tiny(spotted(40, 24))
    resumed.load_state_dict(json.loads(json.dumps({**loader.state_dict(), "delivered": 0})))
    assert failing(resumed) > 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bad", [20, 21])
def test_what_was_met_before_a_resume_counts(spotted: Callable[[int, int], Samples], training: bool, bad: int) -> None:
    samples = spotted(40, bad).subset(range(39, -1, -1))
    loader = tiny(samples, training=training)
    expected = failing(loader) if bad > 20 else count(loader)
    for done in (1, 3):
        loader = tiny(samples, training=training)
        begun = [len(info.indices) for *_, info in itertools.islice(loader, done)]
        resumed = tiny(samples, training=training)
        resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        rest = failing(resumed) if bad > 20 else count(resumed)
        assert sum(begun) + rest == expected


def test_draws_with_weights_count_as_often_as_they_come(spotted: Callable[[int, int], Samples]) -> None:
    samples = spotted(40, 2)
    assert count(tiny(samples)) == 38
    failing(tiny(samples, weights=[40.0, 40.0, *[1.0] * 38]))
    seldom = tiny(spotted(40, 30), weights=[0.01] * 30 + [1.0] * 10)
    assert count(seldom) > 30


def test_copies_count_as_one_photo(spotted: Callable[[int, int], Samples]) -> None:
    assert count(tiny(spotted(40, 20), repeats=5)) == 100
    failing(tiny(spotted(40, 21), repeats=5))


def test_parts_of_ranks(spotted: Callable[[int, int], Samples]) -> None:
    """Of validation: in file order, the first rank has one more. An empty part has nothing that is bad."""
    samples = spotted(3, 1)
    failing(tiny(samples.subset([0]), training=False, shard=(0, 4)))
    assert count(tiny(samples.subset([0]), training=False, shard=(3, 4))) == 0
    state = tiny(samples, shard=(0, 1)).state_dict()
    for rank in range(2):  # resharded
        loader = tiny(samples, training=False, shard=(rank, 2))
        loader.load_state_dict({**state, "training": False})
        assert count(loader) == 1


def test_what_is_missed_counts_too_but_is_not_kept() -> None:
    kept = Quarantine(Samples([f"{i}.jpg" for i in range(10)], [0] * 10, ["a"]))
    rows = np.arange(10)
    tally = Tally(kept, rows, 0, "skip", 0.3)
    tally.add(rows[:5], {0: "damaged", 1: StorageReason("Input/output error"), 2: StorageReason("Stale file handle")})
    assert [path for path, _ in kept.missed()] == ["1.jpg", "2.jpg"]
    with pytest.raises(
        StorageError, match=r"at most 30% .*, got 4 of 10, 2 of them because of the storage, the last 7"
    ):
        tally.add(rows[5:], {7: "damaged"})
    assert [path for path, _ in kept.listed()] == ["0.jpg", "7.jpg"]
    kept.begin()
    again = Tally(kept, rows, 5, "skip", 0.3)
    again.add(rows[5:], {})
    assert kept.missed() == []
    assert len(kept.state()) == 2


def test_a_batch_that_is_an_error_is_not_delivered(spotted: Callable[[int, int], Samples]) -> None:
    """A state from then goes on with it: to the same error, or, where the storage has come back, to the batch."""
    samples = spotted(40, 21).subset(range(39, -1, -1))
    loader = tiny(samples, training=False)
    assert failing(loader) > 0
    again = tiny(samples, training=False)
    again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert failing(again) == 0
    again = tiny(samples, training=False, max_bad_share=0.6)
    again.load_state_dict(loader.state_dict())
    assert count(again) == 0
    assert again.state_dict()["epoch"] == 1


def test_with_raise_a_bad_file_is_an_error_in_each_epoch(spotted: Callable[[int, int], Samples]) -> None:
    """And not passed over in silence in the next one, or by who goes on from a state."""
    loader = tiny(spotted(20, 1), training=False, on_error="raise")
    for _ in range(2):
        with pytest.raises(BadFileError, match="could not load"):
            list(loader)
    assert loader.quarantined == []
    again = tiny(loader.samples, training=False, on_error="raise")
    again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    with pytest.raises(BadFileError, match="could not load"):
        list(again)
