"""Several views of each photo: one read, one decode, a draw and a warp each."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import simplejpeg
import torch
from torch import Tensor

import fastaug as fa
from tests.factories import jpeg, make_loader
from tests.loading.scenes import (
    PALETTE,
    assert_boxes_right,
    assert_keeps_guarantees,
    assert_masks_agree,
    assert_same,
    extents,
    items,
    make_targets,
    mosaic,
    plain,
    seen,
    write_mosaics,
    write_photo,
    write_things,
)  # fmt: skip

MODES = ["resize", "direct"]
OPS = [fa.RandomHorizontalFlip(), fa.RandomRotation(30), fa.RandomResizedCrop((0.5, 1.0)), fa.ColorJitter(0.3, 0.3)]
GLOBAL = fa.Augment(OPS, 32, normalize=None)
LOCAL = fa.Augment([fa.RandomResizedCrop((0.1, 0.3)), fa.RandomVerticalFlip()], 16, normalize=None)
_OPENED: Counter[str] = Counter()
_LISTENS = [False]


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _LISTENS[0]:
        _OPENED[str(arguments[0])] += 1


@contextmanager
def opened() -> Iterator[Counter[str]]:
    """How many times each file is opened, by whatever means Python has."""
    if not _LISTENS[1:]:
        sys.addaudithook(_listen)  # it cannot be taken away again
        _LISTENS.append(True)
    _OPENED.clear()
    _LISTENS[0] = True
    try:
        yield _OPENED
    finally:
        _LISTENS[0] = False


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    """Twelve photos, all different, as they are."""
    folder = tmp_path_factory.mktemp("photos")
    sizes = [(50, 70), (70, 50), (56, 56)]
    paths = [str(write_photo(folder / f"{i:02}.png", PALETTE[mosaic(*sizes[i % 3], i)])) for i in range(12)]
    return fa.Samples(paths, [i % 3 for i in range(12)], ["a", "b", "c"])


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    folder = tmp_path_factory.mktemp("jpegs")
    for i in range(6):
        (folder / f"{i}.jpg").write_bytes(jpeg(200 + 10 * i, 150))
    return fa.Samples(sorted(map(str, folder.iterdir())), [0] * 6, ["all"])


def make(samples: fa.Samples, **arguments: Any) -> fa.ImageLoader:
    return make_loader(samples, **{"batch_size": 4, "presize": 40, "augment": GLOBAL, "drop_last": False, **arguments})


def lists(*augments: fa.Augment) -> dict[str, Any]:
    return {"views": list(augments), "augment": None}


def views_of(loader: fa.ImageLoader) -> list[list[Any]]:
    """For each view: (row, x, matrix) of every sample, in the order of delivery."""
    found = items(loader)
    return [[(item.row, item.x[v], item.matrix[v]) for item in found] for v in range(len(found[0].x))]


@pytest.mark.parametrize("mode", MODES)
def test_x_is_a_tuple_of_views(photos: fa.Samples, mode: Any) -> None:
    for x, y, info in make(photos, views=3, mode=mode):
        assert isinstance(x, tuple)
        assert [tuple(view.shape) for view in x] == [(4, 3, 32, 32)] * 3
        assert isinstance(info, tuple)
        assert len(info) == 3
        assert y.tolist() == [photos.targets[row] for row in info[0].indices.tolist()]
        assert all(torch.equal(view.indices, info[0].indices) for view in info)
    for batch in make(photos, views=2, mode=mode, return_info=False):
        x, y = batch
        assert isinstance(x, tuple)
        assert len(y) == 4


@pytest.mark.parametrize("mode", MODES)
def test_a_list_of_augments_makes_views_of_its_sizes(photos: fa.Samples, mode: Any) -> None:
    loader = make(photos, mode=mode, **lists(GLOBAL, GLOBAL, LOCAL, LOCAL))
    for x, _, info in loader:
        assert [tuple(view.shape[2:]) for view in x] == [(32, 32), (32, 32), (16, 16), (16, 16)]
        assert not torch.equal(x[0], x[1])
        assert not torch.equal(x[2], x[3])
        area = [torch.linalg.det(torch.linalg.inv(view.matrix.double())).abs()[:, None] for view in info]
        share = [(area[v] * x[v].shape[2] ** 2 / info[v].sizes.double().amin(1, True) ** 2) for v in (0, 2)]
        assert (share[0] > 0.4).all()
        assert (share[1] < 0.4).all()
    (x, _, _), *_ = make(photos, mode=mode, **lists(GLOBAL))
    assert isinstance(x, tuple), "a list of one view is a list of views"
    assert len(x) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_view_does_not_depend_on_how_many_there_are(photos: fa.Samples, mode: Any) -> None:
    two, five = (views_of(make(photos, views=n, mode=mode)) for n in (2, 5))
    assert_same(five[:2], two)
    listed = views_of(make(photos, mode=mode, **lists(GLOBAL, GLOBAL, LOCAL)))
    assert_same(listed[:2], two, "a list of the same Augment")
    fewer = views_of(make(photos, mode=mode, **lists(LOCAL, GLOBAL)))
    assert_same(fewer[1], two[1], "a view beside another one")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("training", [True, False])
def test_view_0_is_the_loader_without_views(photos: fa.Samples, mode: Any, training: bool) -> None:
    """In resize mode but for the rounding of the frame, which is cut out of the whole photo, resized once."""
    alone = [(item.row, item.x, item.matrix) for item in items(make(photos, mode=mode, training=training))]
    for views in ({"views": 2}, {"views": 3}, lists(GLOBAL, LOCAL), lists(GLOBAL)):
        first = views_of(make(photos, mode=mode, training=training, **views))[0]
        if mode == "direct":
            assert_same(first, alone, f"view 0 of {views}")
        for (row, x, matrix), (other_row, other_x, other_matrix) in zip(first, alone, strict=True):
            assert row == other_row
            assert torch.equal(matrix, other_matrix)
            assert (x - other_x).abs().mean() * 255 < 4


def test_view_0_of_jpegs_that_could_be_decoded_smaller(jpegs: fa.Samples) -> None:
    """A finer view needs them larger; that must hardly be seen in the others."""
    small = fa.Augment([fa.RandomResizedCrop((0.8, 1.0))], 16, normalize=None)
    fine = fa.Augment([fa.RandomResizedCrop((0.1, 0.2))], 64, normalize=None)
    for mode in MODES:
        alone = items(make(jpegs, mode=mode, augment=small))
        together = views_of(make(jpegs, mode=mode, **lists(small, fine)))[0]
        for item, (row, x, matrix) in zip(alone, together, strict=True):
            assert row == item.row
            assert torch.equal(matrix, item.matrix)
            assert (x - item.x).abs().mean() * 255 < 3
        one_size = items(make(jpegs, mode=mode, augment=small, scale="exact"))
        exact = views_of(make(jpegs, mode=mode, scale="exact", **lists(small, small)))[0]
        if mode == "direct":
            assert_same(exact, [(item.row, item.x, item.matrix) for item in one_size])


def test_view_0_of_photos_that_are_shrunk(tmp_path: Path) -> None:
    """They are far too large for one view and not for another, and made smaller once: the place is the same, pixels
    nearly."""
    paths = []
    for i in range(6):
        paths.append(str(write_photo(tmp_path / f"{i}.png", PALETTE[mosaic(200 + 8 * i, 210, i)])))
    samples = fa.Samples(paths, [0] * 6, ["all"])
    coarse = fa.Augment([fa.RandomResizedCrop((0.5, 1.0))], 40, normalize=None)
    fine = fa.Augment([fa.RandomResizedCrop((0.05, 0.1))], 40, normalize=None)
    arguments = {"mode": "direct", "presize": 48}
    alone = [(item.row, item.x, item.matrix) for item in items(make(samples, augment=coarse, **arguments))]
    for views in ({"augment": coarse, "views": 3}, lists(coarse, fine)):
        found = views_of(make(samples, **arguments, **views))[0]
        for (own_row, own_x, own_matrix), (row, x, matrix) in zip(found, alone, strict=True):
            assert own_row == row
            assert torch.equal(own_matrix, matrix)
            assert (own_x - x).abs().mean() * 255 < 2


def test_a_strip_is_not_resized_as_a_whole(tmp_path: Path) -> None:
    """As high as the presize it would be 100 frames long, of which each view shows one."""
    path = write_photo(tmp_path / "strip.png", PALETTE[mosaic(11, 1100)])
    samples = fa.Samples([str(path)], [0], ["all"])
    alone = [(item.row, item.x, item.matrix) for item in items(make(samples, batch_size=1))]
    assert_same(views_of(make(samples, batch_size=1, views=3))[0], alone)


def angles(views: list[list[Any]]) -> Tensor:
    """How far each view of each sample is turned, [V, N]."""
    return torch.tensor([[float(torch.atan2(matrix[1, 0], matrix[0, 0])) for _, _, matrix in view] for view in views])


def test_views_are_drawn_independently(tmp_path: Path) -> None:
    path = str(write_photo(tmp_path / "one.png", PALETTE[mosaic(9, 16)]))
    samples = fa.Samples([path] * 400, [0] * 400, ["all"])
    augment = fa.Augment([fa.RandomRotation(30)], 4, normalize=None)
    views = views_of(make(samples, views=4, augment=augment, presize=8, batch_size=100))
    turned = angles(views).numpy()
    assert np.abs(turned).max() <= np.radians(30) + 1e-5
    for view in turned:
        assert scipy.stats.kstest(np.degrees(view) / 60 + 0.5, "uniform").pvalue > 1e-3
    apart = np.corrcoef(turned)[np.triu_indices(4, 1)]
    assert np.abs(apart).max() < 0.2, "draws of two views follow each other"
    middle = torch.tensor([2.0, 2, 1]).double()
    squares = np.array([[float(torch.linalg.inv(m.double())[0] @ middle) for _, _, m in view] for view in views])
    squares = squares.round()
    assert len(np.unique(squares[0])) > 3, "the presize's square of a wide photo moves"
    assert np.abs(np.corrcoef(squares)[np.triu_indices(4, 1)]).max() < 0.2, "views share the presize's square"


@pytest.mark.parametrize("mode", MODES)
def test_guarantees(photos: fa.Samples, mode: Any) -> None:
    assert_keeps_guarantees(lambda **arguments: make(photos, mode=mode, views=2, **arguments))
    assert_keeps_guarantees(lambda **arguments: make(photos, mode=mode, **lists(GLOBAL, LOCAL), **arguments))


def test_without_training_nothing_is_random(photos: fa.Samples) -> None:
    loader = make(photos, views=2, training=False)
    first, second = items(loader), items(loader)
    assert_same(first, second)
    assert [item.row for item in first] == list(range(12))
    assert all(torch.equal(*item.x) for item in first)


@pytest.mark.parametrize("views", [{"views": 2}, lists(GLOBAL, LOCAL, LOCAL)], ids=["int", "list"])
@pytest.mark.parametrize("mode", MODES)
def test_one_read_and_one_decode(jpegs: fa.Samples, monkeypatch: pytest.MonkeyPatch, mode: Any, views: Any) -> None:
    decoded = []
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: decoded.append(1) or decode(*a, **k))
    loader = make(jpegs, mode=mode, **views)
    with opened() as files:
        list(loader)
    assert {path: files[path] for path in jpegs.paths} == dict.fromkeys(jpegs.paths, 1)
    assert len(decoded) == len(jpegs)
    stats = loader.stats()
    assert (stats.decoded, stats.stages["read"][0]) == (6, 6)


def test_masks_are_read_once_too(tmp_path: Path) -> None:
    samples = write_mosaics(tmp_path)
    loader = make_targets(samples, views=2)
    with opened() as files:
        list(loader)
    assert {files[path] for path in (*samples.paths, *samples.targets)} == {1}


@pytest.mark.parametrize("cache", ["memory", "folder"])
@pytest.mark.parametrize("mode", MODES)
def test_views_from_a_cache(photos: fa.Samples, tmp_path: Path, mode: Any, cache: str) -> None:
    where = str(tmp_path / "cache") if cache == "folder" else cache
    loader = make(photos, mode=mode, views=2, cache=where, cache_size=48)
    first = [plain(batch) for batch in loader]
    with opened() as files:
        list(loader)
    assert not any(path in files for path in photos.paths)
    loader.set_epoch(0)
    assert_same([plain(batch) for batch in loader], first)


@pytest.mark.parametrize("padding", ["fill", "image"])
@pytest.mark.parametrize("mode", MODES)
def test_each_view_has_its_mask(tmp_path: Path, mode: Any, padding: Any) -> None:
    samples = write_mosaics(tmp_path)
    other = fa.Augment([fa.RandomVerticalFlip(), fa.RandomRotation(45)], (40, 56), normalize=None)
    wide = fa.Augment([fa.RandomRotation(45), fa.RandomZoom((0.7, 1.0))], 48, padding="border", normalize=None)
    options = fa.TargetOptions(padding=padding)
    loader = make_targets(samples, mode=mode, batch_size=6, targets=options, views=[wide, other, wide], augment=None)
    ((x, y, info),) = loader
    assert isinstance(y, tuple)
    assert len(y) == 3
    for view in range(3):
        extent, by_hand = info[view].extent.double(), extents(info[view], mode, 64)
        # in resize mode frames are cut out of the resized photo at whole pixels, of 2.2 of the photo's at most
        assert (extent - by_hand).abs().max() <= (1.2 if mode == "resize" else 1e-2)
        edge = seen(info[view], extent, tuple(x[view].shape[2:]))
        assert_masks_agree(x[view], y[view], edge if padding == "fill" else None)
    assert not torch.equal(y[0], y[2])


def test_each_view_has_its_boxes(tmp_path: Path) -> None:
    samples = write_things(tmp_path)
    ((_, y, info),) = make_targets(samples, views=2, batch_size=6)
    assert isinstance(y, tuple)
    for view in (0, 1):
        for i, row in enumerate(info[view].indices.tolist()):
            boxes, target = torch.as_tensor(samples.targets[row].boxes), y[view][i]
            assert_boxes_right(boxes, target, info[view].matrix[i], info[view].extent[i], (48, 48))


def test_the_walk_of_a_sample_is_its_first_view(tmp_path: Path) -> None:
    loader = make_targets(write_mosaics(tmp_path), views=2, training=False)
    _, batch = loader.walk(1)
    assert batch is not None
    x, y, _ = next(iter(loader))
    assert_same(batch, (x[0][1:2], y[0][1:2]))


@pytest.mark.parametrize("kind", ["labels", "numbers", "none"])
def test_targets_without_a_place_come_once(photos: fa.Samples, kind: str) -> None:
    targets = {"labels": [[i % 2, 2] for i in range(12)], "numbers": [i / 2 for i in range(12)], "none": None}[kind]
    samples = fa.Samples(photos.paths, targets, ["a", "b", "c"] if kind == "labels" else None)
    alone = items(make(samples))
    assert_same([item.y for item in items(make(samples, views=2))], [item.y for item in alone])


def test_a_bad_photo_is_left_out_of_every_view(photos: fa.Samples, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"text")
    samples = fa.Samples(
        [*photos.paths[:3], str(tmp_path / "bad.png"), *photos.paths[4:]], photos.targets, ["a", "b", "c"]
    )
    loader = make(samples, views=2)
    expected = [item for item in items(make(photos, views=2)) if item.row != 3]
    assert_same(items(loader), expected)
    assert [Path(path).name for path, _ in loader.quarantined] == ["bad.png"]


@pytest.mark.parametrize(
    ("views", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), ([], TypeError), ("2", TypeError), ([1, 2], TypeError)],
)
def test_refusals(photos: fa.Samples, views: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="views"):
        make(photos, views=views)
