"""Which samples come how often: repeats, weights, balance, groups; exact, in shards, and after a resume."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import simplejpeg
import torch

import fastaug as fa
from tests.factories import encode, jpeg, make_loader
from tests.loading.scenes import (
    PALETTE,
    Item,
    assert_keeps_guarantees,
    assert_masks_agree,
    assert_same,
    items,
    make_targets,
    mosaic,
    write_mosaics,
    write_photo,
)  # fmt: skip

AUGMENT = fa.Augment(
    [fa.RandomHorizontalFlip(), fa.RandomRotation(30), fa.RandomResizedCrop((0.5, 1.0))], 16, normalize=None
)
LEAST_P = 1e-3  # of a chi-square test with a fixed seed


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    """Twelve little photos, ten of the first class."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [str(write_photo(folder / f"{i:02}.png", PALETTE[mosaic(20, 26, i)])) for i in range(12)]
    return fa.Samples(paths, [0] * 9 + [1] * 2 + [2], ["a", "b", "c"])


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    """240 rows: 180, 50, 10 and none of four classes, of one tiny photo, which costs next to nothing."""
    path = str(write_photo(tmp_path_factory.mktemp("one") / "one.png", np.zeros((4, 4, 3), np.uint8)))
    return fa.Samples([path] * 240, [0] * 180 + [1] * 50 + [2] * 10, ["a", "b", "c", "d"])


def make(samples: fa.Samples, **arguments: Any) -> fa.ImageLoader:
    return make_loader(samples, **{"batch_size": 4, "presize": 20, "augment": AUGMENT, "drop_last": False, **arguments})


def rows_of(samples: fa.Samples, epochs: int = 1, first: int = 0, **arguments: Any) -> list[int]:
    """The rows of some epochs, without pictures worth the name."""
    loader = make_loader(samples, **{"batch_size": 60, "presize": 4, "drop_last": False, **arguments})
    loader.set_epoch(first)
    return [int(row) for _ in range(epochs) for _, _, info in loader for row in info.indices]


def assert_frequencies(rows: list[int], weights: Any) -> None:
    """Drawn with these weights, as a chi-square test sees it."""
    weights, counts = np.asarray(weights, float), np.bincount(rows, minlength=len(weights))
    assert not counts[weights == 0].any(), "a sample of weight 0 was drawn"
    expected = weights[weights > 0] / weights.sum() * len(rows)
    p = scipy.stats.chisquare(counts[weights > 0], expected).pvalue
    assert p > LEAST_P, f"other frequencies than the weights': p = {p:.1e}"
    assert p < 1 - 1e-9, "more even than chance"


def test_frequencies_reject_a_wrong_answer() -> None:
    random, weights = np.random.default_rng(0), np.array([1, 2, 3, 0, 4])
    right = random.choice(5, 2000, p=weights / 10).tolist()
    assert_frequencies(right, weights)
    even, other = random.choice(5, 2000).tolist(), random.choice(5, 2000, p=[0.13, 0.2, 0.27, 0, 0.4]).tolist()
    for wrong in (even, other, [*right, 3], [0, 1, 1, 2, 2, 2, 4, 4, 4, 4] * 200):
        with pytest.raises(AssertionError):
            assert_frequencies(wrong, weights)


def test_weights_are_the_frequencies(many: fa.Samples) -> None:
    weights = np.random.default_rng(1).choice([0, 0.5, 1, 4], 240)
    rows = rows_of(many, 8, weights=weights)
    assert len(rows) == 8 * 240
    assert_frequencies(rows, weights)


@pytest.mark.parametrize("as_what", [list, np.asarray, torch.tensor, lambda weights: np.asarray(weights, np.float32)])
def test_weights_as_anything(photos: fa.Samples, as_what: Any) -> None:
    weights = [1.0, 2, 0, 4, 1, 1, 0, 0.5, 1, 1, 1, 3]
    assert rows_of(photos, weights=as_what(weights)) == rows_of(photos, weights=weights)


def test_only_the_proportions_of_weights_count(photos: fa.Samples) -> None:
    weights = [1.0, 2, 0, 4, 1, 1, 0, 0.5, 1, 1, 1, 3]
    assert rows_of(photos, weights=[256 * weight for weight in weights]) == rows_of(photos, weights=weights)


def test_equal_weights_are_drawn_with_replacement(many: fa.Samples) -> None:
    counts = Counter(rows_of(many, weights=[1] * 240))
    assert 0.55 < len(counts) / 240 < 0.71, "1 - 1 / e of the samples come"


def test_weights_of_any_size(photos: fa.Samples) -> None:
    expected = rows_of(photos, weights=[1] * 12)
    assert len(set(expected)) > 3
    for factor in (1e308, 1e-300):
        assert rows_of(photos, weights=[factor] * 12) == expected


def test_one_weight_above_zero(photos: fa.Samples) -> None:
    assert rows_of(photos, weights=[0] * 7 + [1e-300] + [0] * 4) == [7] * 12


def test_balance_gives_every_class_the_same_share(many: fa.Samples) -> None:
    rows = rows_of(many, 8, balance="classes")
    assert len(rows) == 8 * 240
    assert_frequencies([many.targets[row] for row in rows], [1, 1, 1, 0])
    assert_frequencies(rows, np.array([1 / 180, 1 / 50, 1 / 10])[many.targets])


def test_draws_are_a_pure_function_of_seed_and_epoch(many: fa.Samples) -> None:
    weights = np.arange(240)
    there = rows_of(many, weights=weights, seed=3, first=5)
    assert rows_of(many, weights=weights, seed=3, first=5, batch_size=7, num_threads=1) == there
    later = rows_of(many, 2, weights=weights, seed=3, first=4)
    assert later[240:] == there
    assert later[:240] != there
    assert rows_of(many, weights=weights, seed=4, first=5) != there


def test_epochs_and_seeds_are_independent(many: fa.Samples) -> None:
    """What comes first in one epoch says nothing about the next one."""
    epochs = np.array([rows_of(many, weights=[1] * 240, first=e, seed=s) for s in (0, 1) for e in range(4)])
    assert np.abs(np.corrcoef(epochs)[np.triu_indices(8, 1)]).max() < 0.25
    assert np.abs(np.corrcoef(epochs, np.arange(240))[-1, :-1]).max() < 0.25, "in the order of the rows"


@pytest.mark.parametrize("sampling", [{"weights": [1.0, 2, 0, 4, 1, 1, 0, 0.5, 1, 1, 1, 3]}, {"balance": "classes"}])
@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_guarantees(photos: fa.Samples, mode: Any, sampling: dict[str, Any]) -> None:
    assert_keeps_guarantees(lambda **arguments: make(photos, mode=mode, **sampling, **arguments))


@pytest.mark.parametrize("world", [2, 3, 5])
def test_shards_share_the_positions_of_an_epoch(many: fa.Samples, world: int) -> None:
    weights = np.arange(240)
    whole = rows_of(many, weights=weights)
    ranks = [rows_of(many, weights=weights, shard=(rank, world)) for rank in range(world)]
    assert {len(rank) for rank in ranks} == {240 // world}
    assert Counter(row for rank in ranks for row in rank) == Counter(whole)
    assert [list(rows) for rows in zip(*ranks, strict=True)] == np.reshape(whole, (-1, world)).tolist()


def occurrences(found: list[Item]) -> dict[int, list[Item]]:
    by: dict[int, list[Item]] = {}
    for item in found:
        by.setdefault(item.row, []).append(item)
    return by


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_occurrences_of_a_sample_differ(photos: fa.Samples, mode: Any) -> None:
    """The first is as it is without weights."""
    usual = {item.row: item for item in items(make(photos, mode=mode))}
    by = occurrences(items(make(photos, mode=mode, weights=[1, 1, 8] + [1] * 9)))
    assert len(by[2]) >= 3
    for row, its in by.items():
        assert_same((its[0].x, its[0].matrix), (usual[row].x, usual[row].matrix), "the first occurrence")
        assert len({item.matrix.numpy().tobytes() for item in its}) == len(its), "two occurrences with the same draw"
        assert len({item.x.numpy().tobytes() for item in its}) == len(its)


def test_without_training_every_sample_comes_once(photos: fa.Samples) -> None:
    for sampling in ({"weights": [1, 0] * 6}, {"balance": "classes"}, {"repeats": 2}):
        loader = make(photos, training=False, **sampling)
        assert [item.row for item in items(loader)] == list(range(12))
        assert len(loader) == 3


def test_length_with_weights(photos: fa.Samples) -> None:
    assert len(make(photos, weights=range(12), batch_size=5)) == 3
    assert len(make(photos, weights=range(12), batch_size=5, drop_last=True)) == 2


def test_a_bad_file_that_is_drawn_several_times(photos: fa.Samples, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"text")
    paths = [*photos.paths[:3], str(tmp_path / "bad.png"), *photos.paths[4:]]
    spoiled, weights = fa.Samples(paths, photos.targets, photos.classes), [1, 1, 1, 6, *[1] * 8]
    loader = make(spoiled, weights=weights)
    expected = [item for item in items(make(photos, weights=weights)) if item.row != 3]
    assert_same(items(loader), expected)
    assert [Path(path).name for path, _ in loader.quarantined] == ["bad.png"]


@pytest.mark.parametrize("sampling", [{}, {"weights": [1.0] * 100}], ids=["order", "weights"])
def test_a_rank_that_has_met_every_bad_file_goes_on(tmp_path: Path, sampling: dict[str, Any]) -> None:
    """A fifth of the files are bad: of an epoch of this rank as well, but in the end it has met the others' too."""
    paths = [tmp_path / f"{i:02}.png" for i in range(100)]
    for i, path in enumerate(paths):
        path.write_bytes(b"text" if i % 5 == 0 else encode(np.zeros((20, 20, 3), np.uint8), "PNG"))
    samples = fa.Samples([str(path) for path in paths], [0] * 100, ["all"])
    loader = make(samples, shard=(0, 4), batch_size=5, presize=20, **sampling)
    for _ in range(40):
        list(loader)
    assert len(loader.quarantined) == 20


def test_weights_with_masks_and_views(tmp_path: Path) -> None:
    samples = write_mosaics(tmp_path)
    ops = [fa.RandomHorizontalFlip(), fa.RandomResizedCrop((0.4, 0.8))]
    for x, y, _ in make_targets(samples, weights=[3, 1, 1, 1, 0, 1], views=2, ops=ops):
        for view in (0, 1):
            assert_masks_agree(x[view], y[view])


@pytest.mark.parametrize(
    "weights",
    [
        [1] * 11, [1] * 13, [], [0] * 12, [-1] + [1] * 11, [float("nan")] + [1] * 11, [float("inf")] + [1] * 11,
        [[1]] * 12, ["a"] * 12, "classes", 1.0, np.ones(12, complex),
    ],
)  # fmt: skip
def test_bad_weights_are_refused(photos: fa.Samples, weights: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="weights"):
        make(photos, weights=weights)


def test_bad_balance_is_refused(photos: fa.Samples, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match="balance"):
        make(photos, balance="class")
    with pytest.raises(ValueError, match="balance"):
        make(photos, balance="classes", weights=[1] * 12)
    for other in (write_mosaics(tmp_path), fa.Samples(photos.paths, None), fa.Samples(photos.paths, [0.5] * 12)):
        with pytest.raises(ValueError, match="balance"):
            make(other, balance="classes")


def test_a_state_of_other_weights_is_refused_in_the_middle_of_an_epoch(photos: fa.Samples) -> None:
    loader = make(photos, weights=[1] * 12)
    batches = iter(loader)
    next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    for other in ({}, {"weights": [2] + [1] * 11}, {"balance": "classes"}, {"weights": [1] * 12, "repeats": 2}):
        with pytest.raises(ValueError, match="state"):
            make(photos, **other).load_state_dict(state)
    batches.close()


@pytest.mark.parametrize("mode", ["resize", "direct"])
@pytest.mark.parametrize("repeats", [2, 3])
def test_each_sample_comes_several_times_next_to_each_other(photos: fa.Samples, mode: Any, repeats: int) -> None:
    loader = make(photos, mode=mode, repeats=repeats, batch_size=6)
    assert len(loader) == 12 * repeats // 6
    found, usual = items(loader), items(make(photos, mode=mode))
    rows = [item.row for item in found]
    assert rows == [row for row in [item.row for item in usual] for _ in range(repeats)]
    first = {item.row: item for item in usual}
    for row, its in occurrences(found).items():
        assert_same(its[0], first[row], "the first of them")
        assert len({item.x.numpy().tobytes() for item in its}) == repeats, "two with the same draw"


def test_repeats_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(6):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(100 + i, 80))
    samples = fa.Samples(sorted(map(str, tmp_path.iterdir())), [0] * 6, ["all"])
    decoded = []
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: decoded.append(1) or decode(*a, **k))
    for mode in ("resize", "direct"):
        decoded.clear()
        loader = make(samples, repeats=3, batch_size=6, mode=mode)
        assert len(items(loader)) == 18
        assert len(decoded) == 6
        assert (loader.stats().decoded, loader.stats().stages["read"][0]) == (6, 6)


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_guarantees_of_repeats(photos: fa.Samples, mode: Any) -> None:
    assert_keeps_guarantees(lambda **arguments: make(photos, mode=mode, repeats=2, **arguments), 6)


def test_repeats_with_masks(tmp_path: Path) -> None:
    samples = write_mosaics(tmp_path)
    ops = [fa.RandomHorizontalFlip(), fa.RandomResizedCrop((0.4, 0.8))]
    found = []
    for x, y, info in make_targets(samples, repeats=2, ops=ops):
        assert_masks_agree(x, y)
        found += info.indices.tolist()
    assert Counter(found) == dict.fromkeys(range(6), 2)


def test_repeats_of_a_bad_file(photos: fa.Samples, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"text")
    paths = [*photos.paths[:3], str(tmp_path / "bad.png"), *photos.paths[4:]]
    loader = make(fa.Samples(paths, photos.targets, photos.classes), repeats=2)
    assert_same(items(loader), [item for item in items(make(photos, repeats=2)) if item.row != 3])
    assert [Path(path).name for path, _ in loader.quarantined] == ["bad.png"]


@pytest.mark.parametrize(("repeats", "error"), [(0, ValueError), (-2, ValueError), (1.5, TypeError), ("2", TypeError)])
def test_bad_repeats_are_refused(photos: fa.Samples, repeats: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="repeats"):
        make(photos, repeats=repeats)


def patients(n: int = 60) -> tuple[fa.Samples, list[str]]:
    groups = [f"p{i * i % 17}" for i in range(n)]
    return fa.Samples(
        [f"/data/{group}/{i:03}.jpg" for i, group in enumerate(groups)], [i % 2 for i in range(n)], ["a", "b"]
    ), groups


def sides(parts: tuple[fa.Samples, fa.Samples], group_of: dict[str, Any]) -> list[set[Any]]:
    return [{group_of[path] for path in part.paths} for part in parts]


@pytest.mark.parametrize("how", ["list", "array", "callable"])
def test_a_group_is_in_one_part_only(how: str) -> None:
    samples, groups = patients()
    given = {"list": groups, "array": np.array(groups), "callable": lambda path: Path(path).parent.name}[how]
    group_of, seen = dict(zip(samples.paths, groups, strict=True)), []
    for seed in range(5):
        parts = samples.split(0.3, seed=seed, groups=given)
        train, valid = sides(parts, group_of)
        assert not train & valid
        assert train | valid == set(groups)
        assert sorted(parts[0].paths + parts[1].paths) == sorted(samples.paths)
        assert 0.1 < len(parts[1]) / 60 < 0.5
        again = samples.split(0.3, seed=seed, groups=given)
        assert [part.paths for part in again] == [part.paths for part in parts]
        seen.append(frozenset(valid))
    assert len(set(seen)) > 1, "the seed changes nothing"


def test_groups_with_a_file_in_several_rows() -> None:
    paths = [f"{i % 5}.jpg" for i in range(20)]
    samples = fa.Samples(paths, [i % 5 for i in range(20)], list("abcde"))
    train, valid = samples.split(0.4, groups=[i % 5 // 2 for i in range(20)])
    assert not set(train.paths) & set(valid.paths)
    with pytest.raises(ValueError, match=r"\.jpg"):
        samples.split(0.4, groups=[i % 4 for i in range(20)])


@pytest.mark.parametrize("how", ["tensors", "callable", "dict"])
def test_groups_that_are_told_apart_by_identity(how: str) -> None:
    """Each would be a group of its own: they are taken for what they say, or refused."""
    samples, groups = patients()
    numbers = [int(group[1:]) for group in groups]
    group_of = dict(zip(samples.paths, numbers, strict=True))
    given = {
        "tensors": [torch.tensor(number) for number in numbers],
        "callable": lambda path: torch.tensor(group_of[path]),
        "dict": group_of,
    }[how]
    try:
        parts = samples.split(0.3, groups=given)
    except (TypeError, ValueError):
        return
    train, valid = sides(parts, group_of)
    assert not train & valid, "a patient is in both parts"


def test_bad_groups_are_refused() -> None:
    samples, groups = patients()
    with pytest.raises(ValueError, match="group for each of the 60 samples, got 59"):
        samples.split(0.3, groups=groups[:-1])
    with pytest.raises(ValueError):
        samples.split(0.3, groups=["all"] * 60)
    with pytest.raises(ValueError, match="groups"):
        samples.split(0.3, groups=groups, by=lambda path: "p1" in path)


def test_a_split_that_finds_a_file_on_both_sides_says_so(tmp_path: Path) -> None:
    """A list with every file twice, split by what only the row knows."""
    lines = [f"{i % 8}.jpg,{i % 2}" for i in range(16)]
    (tmp_path / "list.csv").write_text("file,label\n" + "\n".join(lines) + "\n")
    samples = fa.Samples.from_csv(tmp_path / "list.csv")
    train, valid = samples.split(0.25)
    assert not set(train.paths) & set(valid.paths)
    calls = iter(range(16))
    with pytest.warns(UserWarning, match=r"8 of 8 .*0\.jpg"):
        samples.split(by=lambda path: next(calls) < 8)


def test_folders_with_the_same_file_on_both_sides_say_so(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        for name in ("a", "b"):
            write_photo(tmp_path / part / name / f"{part}.png", PALETTE[mosaic(8, 8)])
    fa.Samples.from_split_folders(tmp_path)
    os.symlink(tmp_path / "train" / "a" / "train.png", tmp_path / "valid" / "a" / "link.png")
    with pytest.warns(UserWarning, match=r"train\.png|link\.png"):
        fa.Samples.from_split_folders(tmp_path)


def test_masks_and_groups(tmp_path: Path) -> None:
    samples = write_mosaics(tmp_path)
    parts = samples.split(0.34, groups=[0, 0, 1, 1, 2, 2])
    for part in parts:
        assert [Path(path).stem for path in part.paths] == [Path(path).stem for path in part.targets]
    assert {len(part) % 2 for part in parts} == {0}
