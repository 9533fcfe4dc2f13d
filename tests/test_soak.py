"""A minute of the soak; and that it finds what is wrong."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fastaug.loading import loader as loading
from fastaug.loading import reading
from fastaug.loading.batch import Batch
from fastaug.loading.position import Position
from fastaug.loading.quarantine import Quarantine
from fastaug.loading.workers import Workers
from fastaug.samples import sources
from fastaug.samples.sources import Stamp
from tests import soak
from tests.factories import run_command
from tests.soaking import leftovers
from tests.soaking.cases import expected
from tests.soaking.counts import MOST_GROWTH_MB, WARM_UP, growth_mb, table
from tests.soaking.rehearsal import rehearse
from tests.soaking.runs import expect
from tests.soaking.scenarios import SCENARIOS, Case
from tests.soaking.working import do

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc, forks and mounts"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.mark.timeout(400)
def test_a_minute(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    options = ("--seconds", "45", "--seed", "1", "--jobs", "2", "--json", str(path))
    done = run_command(sys.executable, "-m", "tests.soak", *options)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    counts = json.loads(path.read_text())["counts"]
    assert set(counts) <= set(SCENARIOS)
    assert sum(of["cases"] for of in counts.values()) >= 2, "how many is a matter of what else the machine does"
    assert "nothing wrong" in done.stdout


Planted = Callable[[pytest.MonkeyPatch], None]


def patched(owner: Any, name: str, make: Callable[[Any], Any]) -> Planted:
    """`make` of what is there takes its place."""
    return lambda patch: patch.setattr(owner, name, make(getattr(owner, name)))


def of_several(change: Callable[[list[Any]], list[Any]]) -> Planted:
    """Other batches where several are made ahead, as a plain loader does not."""

    def changed(real: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def made(load: Any, items: Any, depth: int, workers: int, stop: Any) -> Iterator[Any]:
            found = list(real(load, items, depth, workers))  # all at once, before anybody may stop
            yield from change(found) if depth > 1 else found

        return made

    return patched(loading, "prefetch", changed)


def of_images(change: Callable[[Any, Any], None]) -> Planted:
    """Other images where a batch has several."""

    def changed(real: Callable[..., Any]) -> Callable[..., Any]:
        def warped(batch: Batch, *arguments: Any) -> Any:
            x, y = real(batch, *arguments)
            if len(batch) > 1:
                change(x, y)
            return x, y

        return warped

    return patched(loading, "warp_batch", changed)


def off_by_one(x: list[torch.Tensor], y: Any) -> None:
    """The last row of the last view's last image, by the least that there is."""
    pixels = x[-1][-1, -1, -1]
    pixels.copy_(torch.nextafter(pixels, pixels + 1) if pixels.is_floating_point() else pixels ^ 1)


def other_target(x: Any, y: Any) -> None:
    if isinstance(y, torch.Tensor):
        y[0] += 1


def leaking(leak: Callable[[], object]) -> Planted:
    def changed(real: Callable[[Workers], None]) -> Callable[[Workers], None]:
        def close(workers: Workers) -> None:
            real(workers)
            leak()

        return close

    return patched(Workers, "close", changed)


RELEASED = threading.Event()
LEFT: list[Any] = []


def leave_thread() -> None:
    LEFT.append(threading.Thread(target=RELEASED.wait, name="fastaug-read_0", daemon=True))
    LEFT[-1].start()


def leave_file() -> None:
    LEFT.append(open("/dev/null"))  # noqa: SIM115 (that is the fault)


def state_is_off(by: int) -> Planted:
    """By so many batches, once some were delivered."""

    def changed(real: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def state(position: Position, identity: Any) -> dict[str, Any]:
            return {**real(position, identity), "delivered": position.delivered + (by if position.delivered else 0)}

        return state

    return patched(Position, "state", changed)


def not_again(work: object, stopped: object, until: object, failed: Exception) -> None:
    raise failed


# A fault: the scenario that finds it, what is said of it, and how it is planted.
PLANTED: dict[str, tuple[str, str, Planted]] = {
    "a sample is lost": (
        "straight",
        "not at all",
        patched(loading, "shard_order", lambda real: lambda *order, **how: real(*order, **how)[:-1]),
    ),
    "a batch is lost": ("straight", "not come", of_several(lambda batches: batches[:-1])),
    "a batch comes twice": ("straight", "too often", of_several(lambda batches: [*batches[:1], *batches[:-1]])),
    "batches change places": ("straight", "first that differs", of_several(lambda batches: batches[::-1])),
    "a pixel is another": ("straight", "other pixels", of_images(off_by_one)),
    "a target is another": ("straight", "other target", of_images(other_target)),
    "a bad file is not named": (
        "straight",
        "quarantined",
        patched(Quarantine, "listed", lambda real: lambda q: real(q)[1:]),
    ),
    "a state is a batch ahead": ("resumed", "not come|epoch|at most", state_is_off(1)),
    "a state is a batch behind": ("resumed", "too often|epoch", state_is_off(-1)),
    "a changed file is served as it was": (
        "changed",
        "other pixels|quarantined|not come|too often",
        patched(reading, "stamps", lambda real: lambda paths: [Stamp(1, 1) for _ in paths]),
    ),
    "storage is not tried again": ("stumbling", "not come|missed", patched(sources, "retried", lambda real: not_again)),
    "a missed file is not named": (
        "stumbling",
        "missed",
        patched(Quarantine, "missed", lambda real: lambda q: real(q)[1:]),
    ),
    "a thread is left": ("straight", "thread fastaug-read", leaking(leave_thread)),
    "a descriptor is left": ("straight", "descriptor /dev/null", leaking(leave_file)),
}


def several(scenario: str, folder: Path) -> None:
    for number in range(5):
        do(scenario, Case(6, number, folder))


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a few cases, each of which finds nothing without it."""
    scenario, said, plant = PLANTED[name]
    monkeypatch.setattr(leftovers, "SETTLE_S", 0.1)
    plant(monkeypatch)
    try:
        with pytest.raises((AssertionError, ValueError), match=said):
            several(scenario, tmp_path / "case")
    finally:
        RELEASED.set()
        for left in LEFT:
            left.join() if isinstance(left, threading.Thread) else left.close()
        LEFT.clear()
        RELEASED.clear()


def test_an_error_that_was_expected_comes_and_says_so_in_a_line() -> None:
    with expected(ValueError, "too large"):
        raise ValueError("it is too large")
    for error in (None, ValueError("it is too small"), ValueError("it is\ntoo large")):
        with pytest.raises(AssertionError, match=r"expected|too large"), expected(ValueError, "too large"):
            raise_it(error)
    with pytest.raises(OSError, match="too large"), expected(ValueError, "too large"):
        raise OSError("too large")


def raise_it(error: Exception | None) -> None:
    if error is not None:
        raise error


IMAGES = {(row, 0): [[row, f"pixels {row}", f"target {row}", f"place {row}"]] for row in range(6)}
PLAN = [[(4, 0), (1, 0)], [(0, 0)], [(5, 0), (2, 0)]]


def came() -> list[list[list[Any]]]:
    return [[list(image) for key in batch for image in IMAGES[key]] for batch in PLAN]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda got: got.pop(), "not come: \\[2, 5\\]"),
        (lambda got: got[0].pop(), "not come: \\[1\\]"),
        (lambda got: got.append([]), "4 batches, 3 expected"),
        (lambda got: got[0].append(got[1][0]), "too often: \\[0\\]"),
        (lambda got: got[0].reverse(), "the first that differs is batch 0"),
        (lambda got: got.reverse(), "the first that differs is batch 0"),
        (lambda got: got[2][1].__setitem__(1, "x"), "batch 2, row 2: other pixels"),
        (lambda got: got[2][1].__setitem__(2, "x"), "batch 2, row 2: other target"),
        (lambda got: got[2][1].__setitem__(3, "x"), "batch 2, row 2: other place"),
    ],
)
def test_other_batches_are_rejected(spoil: Callable[[Any], object], said: str) -> None:
    expect(came(), PLAN, IMAGES)
    got = came()
    spoil(got)
    with pytest.raises((AssertionError, ValueError), match=said):
        expect(got, PLAN, IMAGES)


def test_files_and_processes_that_are_left_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = leftovers.Before()
    before.expect_nothing_more()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".b.tmp").touch()
    leftovers.expect_files(tmp_path, {"a/.b.tmp"})
    with pytest.raises(AssertionError, match=r"a/\.b\.tmp"):
        leftovers.expect_files(tmp_path, set())
    child = os.fork()
    if not child:
        os._exit(0)
    monkeypatch.setattr(leftovers, "SETTLE_S", 0.1)
    with pytest.raises(AssertionError, match=f"process {child}"):
        before.expect_nothing_more()
    os.waitpid(child, 0)
    before.expect_nothing_more()


def test_memory_that_grows_is_seen() -> None:
    warming, noise = [300.0 + 10 * i for i in range(WARM_UP)], [0.0, 5.0, -3.0, 1.0] * 100
    assert abs(growth_mb([*warming, *(500 + mb for mb in noise)])) < 2
    grown = growth_mb([*warming, *(500 + i * 0.2 + mb for i, mb in enumerate(noise))])
    assert grown == pytest.approx(80, abs=2)
    assert grown > MOST_GROWTH_MB
    assert growth_mb(warming) == 0.0


def test_cases_that_hang_or_end_the_process_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "LIMIT_S", 1)
    told: list[int] = []
    result = soak.soak(iter(range(5)), 1, [], 2, lambda number, wrong: told.append(number), rehearse)
    assert sorted(told) == [1, 2, 3]
    assert "it hangs" in result.wrong[1]
    assert "ended with 3" in result.wrong[2]
    assert result.wrong[3] == "it is wrong"
    assert result.counts["straight"] == Counter(cases=3, images=7)
    assert "7" in table(result.counts)
