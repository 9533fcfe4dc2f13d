"""The edge of what the warp saw: no mask and no box knows anything of what is not in the picture."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fastaug as fa
from tests.loading.scenes import (
    FILL,
    PALETTE,
    assert_boxes_right,
    assert_masks_agree,
    extents,
    looks_at,
    make_targets,
    seen,
    shown,
    sure,
    write_mosaics,
    write_things,
)  # fmt: skip

PADDINGS = ["reflection", "border", "zeros"]
MODES = ["resize", "direct"]
TURNED = [fa.RandomRotation(45), fa.RandomPerspective(0.3, p=1.0), fa.RandomZoom((0.6, 1.2))]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    """Six photos that are wider or higher than the presize's square."""
    return write_mosaics(tmp_path_factory.mktemp("wide"), 6, [(80, 140), (140, 80), (90, 120)])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    """JPEGs of odd sizes in all orientations, large enough to be decoded at 1/2 and 1/4."""
    return write_mosaics(
        tmp_path_factory.mktemp("large"), 8, [(403, 301), (299, 402)], "jpg", "L", orientations=range(1, 9)
    )


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    return write_things(tmp_path_factory.mktemp("things"), 6, (80, 140))


@pytest.mark.parametrize(("padding", "epoch"), [("reflection", 0), ("border", 1), ("zeros", 2)])
@pytest.mark.parametrize("mode", MODES)
def test_filled_masks(wide: fa.Samples, mode: Any, padding: Any, epoch: int) -> None:
    loader = make_targets(wide, ops=TURNED, mode=mode, padding=padding, batch_size=6)
    loader.set_epoch(epoch)
    ((x, y, info),) = loader
    extent = extents(info, mode, 64)
    assert_masks_agree(x, y, seen(info, extent, (48, 48)))
    assert (y == FILL).any(), "no picture shows what lies beyond the edge: nothing is tested"
    if padding == "zeros":
        assert_masks_agree(x, y)


@pytest.mark.parametrize(("padding", "epoch"), [("reflection", 0), ("border", 1), ("zeros", 2)])
@pytest.mark.parametrize("mode", MODES)
def test_masks_padded_as_the_image(wide: fa.Samples, mode: Any, padding: Any, epoch: int) -> None:
    """Reflected or repeated where the picture is, filled where that is black: no pixel differs, wherever it looks."""
    options = fa.TargetOptions(padding="image")
    loader = make_targets(wide, ops=TURNED, mode=mode, padding=padding, batch_size=6, targets=options)
    loader.set_epoch(epoch)
    ((x, y, _),) = loader
    assert_masks_agree(x, y)
    assert (y == FILL).any() == (padding == "zeros")


@pytest.mark.parametrize("mode", MODES)
def test_without_an_edge_in_sight_every_pixel_has_a_class(wide: fa.Samples, mode: Any) -> None:
    ops = [fa.RandomHorizontalFlip(), fa.RandomResizedCrop((0.4, 0.8))]
    ((x, y, _),) = make_targets(wide, ops=ops, mode=mode, batch_size=6)
    assert_masks_agree(x, y)
    assert not (y == FILL).any()


@pytest.mark.parametrize("mode", MODES)
def test_far_beyond_the_edge(wide: fa.Samples, mode: Any) -> None:
    """Reflected several times over."""
    ops = [fa.RandomRotation(45), fa.RandomZoom((0.25, 0.3))]
    for padding in ("reflection", "border"):
        options = fa.TargetOptions(padding="image")
        loader = make_targets(wide, 96, ops, mode=mode, padding=padding, batch_size=6, targets=options)
        ((x, y, _),) = loader
        assert_masks_agree(x, y)


@pytest.mark.parametrize(
    ("padding", "targets"), [("reflection", "fill"), ("reflection", "image"), ("border", "image"), ("zeros", "fill")]
)
@pytest.mark.parametrize("mode", MODES)
def test_jpegs_decoded_at_a_smaller_scale(large: fa.Samples, mode: Any, targets: Any, padding: Any) -> None:
    options = fa.TargetOptions(padding=targets)
    loader = make_targets(large, ops=TURNED, mode=mode, padding=padding, batch_size=8, targets=options)
    ((x, y, info),) = loader
    edge = seen(info, extents(info, mode, 64), (48, 48), slack_px=8.0)
    assert_masks_agree(x, y, edge if targets == "fill" else None)


@pytest.mark.parametrize(("cache", "targets"), [("memory", "fill"), ("folder", "image")])
@pytest.mark.parametrize("mode", MODES)
def test_photos_from_a_cache(large: fa.Samples, tmp_path: Path, mode: Any, targets: Any, cache: str) -> None:
    """The first epoch, which fills it, and later ones; photos of which it keeps less than half."""
    where = str(tmp_path / "cache") if cache == "folder" else cache
    options = fa.TargetOptions(padding=targets)
    arguments = {"mode": mode, "batch_size": 8, "targets": options, "cache": where, "cache_size": 96}
    loader = make_targets(large, ops=TURNED, **arguments)
    for number in range(2):
        ((x, y, info),) = loader
        assert loader.stats().cached == 8 * number
        edge = seen(info, extents(info, mode, 64), (48, 48), slack_px=8.0)
        assert_masks_agree(x, y, edge if targets == "fill" else None)


@pytest.mark.parametrize("mode", MODES)
def test_the_extent_is_told(wide: fa.Samples, mode: Any) -> None:
    for training in (True, False):
        loader = make_targets(wide, ops=TURNED, mode=mode, batch_size=6, training=training)
        for _, _, info in loader:
            assert tuple(info.extent.shape) == (len(info.indices), 4)
            assert (info.extent.double() - extents(info, mode, 64)).abs().max() <= 1e-2


@pytest.mark.parametrize(("padding", "least"), [("reflection", 0.1), ("border", 0.5), ("zeros", 0.1), ("zeros", 0.0)])
@pytest.mark.parametrize("mode", MODES)
def test_boxes_of_which_something_is_in_the_picture(things: fa.Samples, mode: Any, padding: Any, least: float) -> None:
    options = fa.TargetOptions(min_visible=least)
    loader = make_targets(things, ops=TURNED, mode=mode, padding=padding, batch_size=6, targets=options)
    ((_, y, info),) = loader
    extent, left_out = extents(info, mode, 64), 0
    for i, row in enumerate(info.indices.tolist()):
        boxes = torch.as_tensor(things.targets[row].boxes)
        assert_boxes_right(boxes, y[i], info.matrix[i], extent[i], (48, 48), least)
        left_out += len(boxes) - len(y[i]["kept"])
    assert left_out >= 3, "everything is in the picture: nothing is tested"


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
def test_a_kept_box_has_its_object_in_the_picture(things: fa.Samples, mode: Any, padding: Any) -> None:
    """By the colours alone, without any matrix."""
    options = fa.TargetOptions(min_visible=0.0 if padding == "zeros" else 0.1)
    loader = make_targets(things, 64, TURNED, mode=mode, padding=padding, targets=options)
    kept = 0
    for _ in range(2):
        for x, y, _ in loader:
            for classes, target in zip(shown(x), y, strict=True):
                for label, box in zip(target["labels"].tolist(), target["boxes"].tolist(), strict=True):
                    x0, y0, x1, y1 = box
                    assert 0 <= x0 < x1 <= 64
                    assert 0 <= y0 < y1 <= 64
                    there = (classes == label).nonzero()
                    if padding == "zeros" and len(there):  # no second copy of it
                        low, high = there.amin(0).tolist(), there.amax(0).tolist()
                        assert y0 - 1 <= low[0] <= high[0] + 1 <= y1 + 1, "the object reaches beyond its box"
                        assert x0 - 1 <= low[1] <= high[1] + 1 <= x1 + 1, "the object reaches beyond its box"
                    if (x1 - x0) * (y1 - y0) >= 30 and min(x1 - x0, y1 - y0) >= 5:
                        inside = classes[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1]
                        here = inside != FILL if padding == "zeros" else inside == label  # only a corner, maybe
                        assert here.any(), f"nothing of {label} is in its box {box}"
                        kept += 1
                if padding == "zeros":  # with min_visible=0 nothing that is left out is to be seen
                    gone = set(range(len(PALETTE))) - set(target["labels"].tolist())
                    assert all(int(sure(classes).logical_and(classes == label).sum()) == 0 for label in gone)
    assert kept > 20


@pytest.mark.parametrize("mode", MODES)
def test_points_beyond_what_was_seen_are_not_visible(wide: fa.Samples, things: fa.Samples, mode: Any) -> None:
    """What the mask says at a point is filled there if, and only if, the point is not visible."""
    ((_, y, info),) = make_targets(wide, ops=TURNED, mode=mode, batch_size=6)
    place = looks_at(info, (48, 48)).flatten(1, 2)
    inside, outside = (part.flatten(1) for part in seen(info, info.extent, (48, 48)))
    points, visible = fa.transform_points(place.float(), info.matrix, 48, extent=info.extent)
    centre = torch.stack(torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="xy"), -1).flatten(0, 1) + 0.5
    assert (points - centre).abs().max() < 1e-2
    assert visible[inside].all()
    assert not visible[outside].any()
    assert torch.equal((y == FILL).flatten(1)[inside | outside], outside[inside | outside])
