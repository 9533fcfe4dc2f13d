"""Masks from the loader: read as they are, turned with their photo, one with its picture; bad ones by name."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastaug as fa
from fastaug.loading import targets
from fastaug.loading.loader import BadFileError
from tests.factories import make_loader
from tests.loading.scenes import (
    FILL,
    NAMES,
    PALETTE,
    assert_keeps_guarantees,
    assert_looked_up,
    assert_masks_agree,
    assert_same,
    by_row,
    extents,
    items,
    make_targets,
    mosaic,
    plain,
    seen,
    shown,
    sure,
    write_mask,
    write_mosaics,
    write_photo,
)  # fmt: skip

IDENTITY = fa.Augment([], 48, normalize=None)


def whole(samples: fa.Samples, **arguments: Any) -> fa.ImageLoader:
    """In file order, each pixel as it is in the file, of photos of 48 × 48."""
    return make_loader(samples, **{"presize": 48, "augment": IDENTITY, "training": False, **arguments})


def assert_in_step(loader: fa.ImageLoader) -> int:
    """Every mask of an epoch agrees with its picture. Returns how many."""
    count = 0
    for x, y, info in loader:
        size = tuple(x.shape[2:])
        extent = extents(info, loader.mode, loader.presize)
        assert y.dtype == torch.int64
        assert_masks_agree(x, y, seen(info, extent, size))
        count += len(y)
    return count


@pytest.mark.parametrize("mode", ["resize", "direct"])
@pytest.mark.parametrize(
    ("kind", "values"),
    [("P", [0, 1, 7, 200, 255]), ("L", [0, 3, 128, 254]), ("I;16", [0, 255, 256, 1000, 65535]), ("1", [0, 1])],
)
def test_mask_files_are_read_as_they_are(tmp_path: Path, kind: str, values: list[int], mode: Any) -> None:
    patches = [np.array(values)[mosaic(48, 48, seed) % len(values)] for seed in (0, 1)]
    for i, mask in enumerate(patches):
        write_photo(tmp_path / "images" / f"{i}.png", PALETTE[mosaic(48, 48, i)])
        write_mask(tmp_path / "masks" / f"{i}.png", mask, kind)
    samples = fa.Samples.from_folders(tmp_path / "images", tmp_path / "masks")
    ((_, y, _),) = whole(samples, mode=mode)
    assert y.dtype == torch.int64
    assert y.tolist() == [mask.tolist() for mask in patches]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palettes_of_few_bits_and_transparent_colours(tmp_path: Path, bits: int) -> None:
    mask = mosaic(48, 48) % 2**bits
    write_photo(tmp_path / "images" / "0.png", PALETTE[mosaic(48, 48)])
    (tmp_path / "masks").mkdir()
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette([255 - i % 256 for i in range(768)])
    picture.save(tmp_path / "masks" / "0.png", bits=bits, transparency=1)
    ((_, y, _),) = whole(fa.Samples.from_folders(tmp_path / "images", tmp_path / "masks"))
    assert torch.equal(y[0], torch.from_numpy(mask).long())


def test_the_samples_say_what_they_are(tmp_path: Path) -> None:
    samples = write_mosaics(tmp_path, 3)
    assert samples.kind == "mask"
    assert samples.classes == NAMES
    assert len(samples) == len(samples.targets) == 3
    assert [Path(path).name for path in samples.targets] == ["00.png", "01.png", "02.png"]
    train, valid = samples.split(0.34, seed=1)
    assert (train.kind, valid.kind) == ("mask", "mask")
    for part in (train, valid):
        assert [Path(path).stem for path in part.targets] == [Path(path).stem for path in part.paths]
        assert assert_in_step(make_targets(part, batch_size=2)) == len(part)


def test_pairs_by_name_whatever_the_ending_and_folder(tmp_path: Path) -> None:
    for name in ("a/one", "b/one", "b/two.5"):
        mask = mosaic(48, 48, seed=len(name) + ord(name[0]))
        write_photo(tmp_path / "images" / f"{name}.jpg", PALETTE[mask])
        write_mask(tmp_path / "masks" / f"{name}.png", mask)
    samples = fa.Samples.from_folders(tmp_path / "images", tmp_path / "masks")
    assert len(samples) == 3
    ((x, y, _),) = whole(samples)
    assert_masks_agree(x, y)


def test_images_and_masks_without_each_other_are_named(tmp_path: Path) -> None:
    write_mosaics(tmp_path, 3)
    (tmp_path / "masks" / "01.png").rename(tmp_path / "masks" / "lonely.png")
    with pytest.raises(ValueError, match="01") as error:
        fa.Samples.from_folders(tmp_path / "images", tmp_path / "masks")
    assert "lonely" in str(error.value)
    write_mask(tmp_path / "masks" / "01.png", mosaic(9, 9))
    with pytest.raises(ValueError, match="lonely"):
        fa.Samples.from_folders(tmp_path / "images", tmp_path / "masks")


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_masks_are_turned_with_their_photos_exif(tmp_path: Path, mode: Any, ending: str) -> None:
    samples = write_mosaics(tmp_path, 8, [(90, 120)], ending, orientations=range(1, 9))
    loader = make_targets(samples, mode=mode, batch_size=8)
    assert assert_in_step(loader) + assert_in_step(loader) == 16
    assert assert_in_step(make_targets(samples, mode=mode, batch_size=8, training=False)) == 8


def test_masks_that_are_upright_already(tmp_path: Path) -> None:
    for i in range(1, 9):
        mask = mosaic(60, 80, seed=i)
        write_photo(tmp_path / "images" / f"{i}.png", PALETTE[mask], orientation=i)
        write_mask(tmp_path / "masks" / f"{i}.png", mask)
    samples = fa.Samples.from_folders(tmp_path / "images", tmp_path / "masks", upright=True)
    assert assert_in_step(make_targets(samples, batch_size=8)) == 8
    turned = fa.Samples.from_folders(tmp_path / "images", tmp_path / "masks")
    loader = make_targets(turned, batch_size=8)
    assert sorted(by_row(loader)) == [0, 1, 2, 3], "those whose photo lies on its side have another size"
    assert len(loader.quarantined) == 4


@pytest.mark.parametrize("mode", ["resize", "direct"])
@pytest.mark.parametrize("training", [True, False])
def test_picture_and_mask_are_one_through_strong_transforms(tmp_path: Path, mode: Any, training: bool) -> None:
    samples = write_mosaics(tmp_path)
    loader = make_targets(samples, mode=mode, training=training)
    assert assert_in_step(loader) + assert_in_step(loader) == 12


@pytest.mark.parametrize("mode", ["resize", "direct"])
@pytest.mark.parametrize("padding", ["reflection", "zeros"])
def test_masks_are_read_where_their_pictures_look(tmp_path: Path, mode: Any, padding: Any) -> None:
    samples = write_mosaics(tmp_path, mode="I;16")
    for training in (True, False):
        ((_, y, info),) = make_targets(samples, mode=mode, padding=padding, training=training, batch_size=6)
        originals = [np.asarray(Image.open(samples.targets[row])) for row in info.indices.tolist()]
        assert_looked_up(y, originals, info, extents(info, mode, 64))


def test_presized_pictures_without_an_augment(tmp_path: Path) -> None:
    samples = write_mosaics(tmp_path)
    for training in (True, False):
        for x, y, _ in make_loader(samples, presize=50, training=training, drop_last=False):
            assert (x.dtype, tuple(y.shape[1:])) == (torch.uint8, (50, 50))
            assert_masks_agree(x, y)


@pytest.mark.parametrize("padding", ["fill", "image"])
def test_own_fill(tmp_path: Path, padding: Any) -> None:
    samples = write_mosaics(tmp_path)
    ops = [fa.RandomZoom((0.4, 0.5))]
    arguments = {"ops": ops, "padding": "zeros", "presize": 90}
    ((x, usual, info),) = make_targets(samples, **arguments, batch_size=6)
    assert_masks_agree(x, usual, seen(info, extents(info, "resize", 90), (48, 48)))
    assert (usual == FILL).double().mean() > 0.5
    options = fa.TargetOptions(fill=9, padding=padding)
    ((_, own, _),) = make_targets(samples, **arguments, batch_size=6, targets=options)
    assert_same(own, usual.where(usual != FILL, 9))


@pytest.mark.parametrize("padding", ["fill", "image"])
@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_erasing_in_masks_as_the_user_says(tmp_path: Path, mode: Any, padding: Any) -> None:
    samples = write_mosaics(tmp_path)
    ops = [fa.RandomRotation(20), fa.RandomErasing(p=0.6, scale=(0.1, 0.3), value=0.0), fa.RandomErasing(p=0.5)]
    arguments = {"ops": ops, "mode": mode, "batch_size": 6, "padding": "reflection"}
    ((x, erased, info),) = make_targets(samples, **arguments, targets=fa.TargetOptions(erase=True, padding=padding))
    ((same_x, kept, _),) = make_targets(samples, **arguments, targets=fa.TargetOptions(padding=padding))
    assert torch.equal(x, same_x)
    black = (x == 0).all(1)  # exactly; no scene has it
    assert 2 <= black.any(-1).any(-1).sum() <= 5
    rectangles = torch.zeros_like(black)
    for image, boxes in zip(rectangles, info.params.erase.tolist(), strict=True):
        for x0, y0, x1, y1 in boxes:
            image[y0:y1, x0:x1] = True
    assert torch.equal(black, rectangles)
    assert_same(erased, kept.masked_fill(black, FILL))
    assert (kept[black] != FILL).double().mean() > 0.6, "without erase=True masks keep what was there"
    clear = sure(shown(x)) & ~black & (erased != FILL)
    assert torch.equal(erased[clear], shown(x)[clear])


def test_targets_that_are_no_options_are_refused(tmp_path: Path) -> None:
    samples = write_mosaics(tmp_path, 2)
    for wrong in ({"fill": 0}, "image", 255):
        with pytest.raises(TypeError, match="targets"):
            make_targets(samples, targets=wrong, batch_size=2)


def spoil(folder: Path, what: str) -> None:
    """Make the mask 02.png bad."""
    path = folder / "masks" / "02.png"
    if what == "text":
        path.write_bytes(b"not an image at all")
    elif what == "cut":
        path.write_bytes(path.read_bytes()[:-60])
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "missing":
        path.unlink()
    elif what == "another size":
        write_mask(path, mosaic(101, 100))
    elif what == "colours":
        Image.fromarray(PALETTE[mosaic(100, 100)]).save(path)


BAD = ["text", "cut", "empty", "missing", "another size", "colours"]


@pytest.mark.parametrize("what", BAD)
def test_a_bad_mask_quarantines_its_sample_by_name(tmp_path: Path, what: str) -> None:
    mode: Any = "direct" if what in ("text", "colours") else "resize"
    samples = write_mosaics(tmp_path)
    expected = by_row(make_targets(samples, mode=mode))
    spoil(tmp_path, what)
    loader = make_targets(samples, mode=mode)
    got = by_row(loader)
    assert sorted(got) == [0, 1, 3, 4, 5]
    assert_same(got, {row: item for row, item in expected.items() if row != 2}, "the other samples")
    ((path, reason),) = loader.quarantined
    assert Path(path).name == "02.png"
    assert str(Path("masks") / "02.png") in path + reason, f"the mask is not named: {path}: {reason}"
    again = make_targets(samples, mode=mode)
    again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert again.quarantined == loader.quarantined
    assert 2 not in by_row(again)


@pytest.mark.parametrize("what", ["text", "another size"])
def test_a_bad_mask_as_an_error(tmp_path: Path, what: str) -> None:
    samples = write_mosaics(tmp_path)
    spoil(tmp_path, what)
    with pytest.raises(BadFileError, match=r"02\.png"):
        list(make_targets(samples, on_error="raise"))


@pytest.mark.parametrize("cache", ["memory", "folder"])
def test_a_bad_mask_with_a_cache(tmp_path: Path, cache: str) -> None:
    samples = write_mosaics(tmp_path)
    spoil(tmp_path, "another size")
    loader = make_targets(samples, cache=str(tmp_path / "cache") if cache == "folder" else cache)
    for _ in range(2):
        assert sorted(by_row(loader)) == [0, 1, 3, 4, 5]
    assert len(loader.quarantined) == 1


def test_a_bad_mask_is_the_step_that_the_summary_names(tmp_path: Path) -> None:
    samples = write_mosaics(tmp_path)
    Path(samples.targets[3]).write_bytes(b"text")
    loader = make_targets(samples)
    walk, batch = loader.walk(3)
    assert batch is None
    assert walk.failed == "target"
    assert "not an image format" in walk.reason
    assert "decode" in dict(walk.steps)


def test_reading_and_decoding_masks_is_in_the_stats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = targets.decode_mask

    def slow(*arguments: Any) -> Any:
        time.sleep(0.05)
        return decode(*arguments)

    monkeypatch.setattr(targets, "decode_mask", slow)
    loader = make_targets(write_mosaics(tmp_path), num_threads=1, batch_size=6)
    list(loader)
    images, seconds = loader.stats().stages["decode"]
    assert images == 6
    assert seconds > 6 * 0.05


def test_a_bad_photo_with_a_good_mask(tmp_path: Path) -> None:
    samples = write_mosaics(tmp_path)
    (tmp_path / "images" / "02.png").write_bytes(b"text")
    loader = make_targets(samples)
    assert sorted(by_row(loader)) == [0, 1, 3, 4, 5]
    ((path, _),) = loader.quarantined
    assert Path(path).parts[-2:] == ("images", "02.png")


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_guarantees(tmp_path: Path, mode: Any) -> None:
    samples = write_mosaics(tmp_path, 12, [(50, 60), (60, 50)])
    assert_keeps_guarantees(lambda **arguments: make_targets(samples, 24, presize=32, mode=mode, **arguments))


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_pictures_are_those_of_a_loader_of_classes(tmp_path: Path, mode: Any) -> None:
    """The same draws, the same order: a mask changes nothing of its picture."""
    samples = write_mosaics(tmp_path)
    classes = fa.Samples(list(samples.paths), [0] * len(samples), ["all"])
    with_masks, without = (items(make_targets(one, mode=mode, seed=5)) for one in (samples, classes))
    assert_same([(item.row, item.x, item.matrix) for item in with_masks], [(i.row, i.x, i.matrix) for i in without])


def test_a_state_of_other_masks_is_refused(tmp_path: Path) -> None:
    samples = write_mosaics(tmp_path / "one")
    loader = make_targets(samples)
    next(iter(loader))
    state = loader.state_dict()
    classes = fa.Samples(list(samples.paths), [0] * len(samples), ["all"])
    with pytest.raises(ValueError, match="state"):
        make_targets(classes).load_state_dict(state)


@pytest.mark.parametrize("cache", ["memory", "folder"])
@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_a_cache_changes_no_mask(tmp_path: Path, mode: Any, cache: str) -> None:
    samples = write_mosaics(tmp_path)
    kept = str(tmp_path / "cache") if cache == "folder" else cache
    cached, usual = (make_targets(samples, mode=mode, cache=where, batch_size=6) for where in (kept, None))
    for number in range(3):
        for loader in (cached, usual):
            loader.set_epoch(number)
        ((x, y, info),), ((_, expected, _),) = cached, usual
        assert_masks_agree(x, y, seen(info, extents(info, mode, 64), (48, 48), slack_px=1.0))
        if mode == "direct":
            assert_same(y, expected)
    assert cached.stats().cached == 6
    cached.set_epoch(1)
    usual.set_epoch(1)
    again = make_targets(samples, mode=mode, cache=kept, batch_size=6)
    again.set_epoch(1)
    assert_same([plain(batch) for batch in again], [plain(batch) for batch in cached], "the first epoch of a cache")
