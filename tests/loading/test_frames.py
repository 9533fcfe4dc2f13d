"""Frames that are not square: crop, squish and pad; torchvision's validation; pictures of one channel."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor
from torchvision.transforms import v2

import fastaug as fa
from fastaug.loading.cpu_decoder import CpuDecoder
from tests.compare import assert_images_close, assert_levels
from tests.factories import make_loader
from tests.loading.scenes import (
    FILL,
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
METHODS = ["crop", "squish", "pad"]
SIZES = [(100, 130), (150, 90), (110, 110)]  # of the photos
OPS = [fa.RandomHorizontalFlip(), fa.RandomRotation(10), fa.RandomResizedCrop((0.6, 1.0))]
ONE_LEVEL = 1 / 255


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    """Wide, high and square photographs."""
    folder, cat = tmp_path_factory.mktemp("photos"), skimage.data.chelsea()
    paths = []
    for i, (height, width) in enumerate(SIZES):
        cut = np.asarray(Image.fromarray(cat).crop((60, 20, 360, 290)).resize((width, height)))
        paths.append(str(write_photo(folder / f"{i}.png", cut)))
    return fa.Samples(paths, [0] * 3, ["cat"])


def pixels(path: str) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def frame(size: tuple[int, int], height: int, width: int, method: str) -> tuple[float, float, float, float]:
    """x, y, width, height of what becomes the presized picture of a photo, in its pixels, centred."""
    rows, columns = size
    if method == "squish":
        return 0.0, 0.0, float(width), float(height)
    fits = min if method == "crop" else max
    scale = fits(width / columns, height / rows)  # pixels of the photo per presized pixel
    w, h = columns * scale, rows * scale
    return (width - w) / 2, (height - h) / 2, w, h


def matrix_of(size: tuple[int, int], box: tuple[float, float, float, float]) -> Tensor:
    """The box -> the presized picture."""
    (rows, columns), (x, y, w, h) = size, box
    return torch.tensor([[columns / w, 0, -x * columns / w], [0, rows / h, -y * rows / h], [0, 0, 1]]).double()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(96, 48), (48, 96), (60, 60), (61, 47)])
def test_the_presize_by_hand(photos: fa.Samples, size: tuple[int, int], method: str) -> None:
    """Pillow's Lanczos of the box; what a pad adds is black, or repeats the photo."""
    loader = make_loader(photos, presize=size, resize_method=method, training=False)
    ((x, _, info),) = loader
    assert (x.dtype, tuple(x.shape)) == (torch.uint8, (3, *size, 3))
    for i, path in enumerate(photos.paths):
        height, width = SIZES[i]
        box = frame(size, height, width, method)
        expected = matrix_of(size, box)
        edges = torch.tensor([[0, size[1]], [0, size[0]], [1, 1]]).double()
        apart = torch.linalg.inv(info.presize[i].double()) @ edges - torch.linalg.inv(expected) @ edges
        whole_pixels = box[2] / size[1] if method == "pad" else 1.0  # of the presized picture or of the photo
        assert apart.abs().max() <= whole_pixels, "elsewhere, or of another scale"
        assert_same(info.matrix[i], info.presize[i])
        (x0, x1), (y0, y1) = (torch.linalg.inv(info.presize[i].double()) @ edges)[:2].tolist()
        if method != "pad":
            assert -1e-3 <= x0 < x1 <= width + 1e-3
            assert -1e-3 <= y0 < y1 <= height + 1e-3
            box = (max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))
            lanczos = Image.open(path).resize(size[::-1], Image.Resampling.LANCZOS, box)
            assert_levels(x[i], np.asarray(lanczos), worst=24, mean=0.6)


@pytest.mark.parametrize("padding", ["reflection", "border", "zeros"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("training", [True, False])
def test_direct_mode_is_one_warp_by_hand(photos: fa.Samples, method: str, padding: Any, training: bool) -> None:
    augment = fa.Augment(OPS, (80, 40), padding=padding, normalize=None)
    loader = make_loader(
        photos, presize=(96, 48), resize_method=method, mode="direct", augment=augment, training=training, batch_size=3
    )
    ((x, _, info),) = loader
    decoded = [torch.from_numpy(pixels(photos.paths[row])) for row in info.indices.tolist()]
    expected = fa.warp(decoded, info.matrix, (80, 40), padding=padding)
    assert_images_close(x, expected, 1)
    drawn = info.params.matrix.double() @ info.presize.double()
    assert (drawn - info.matrix.double()).abs().max() < 1e-3
    if not training:
        back = torch.linalg.inv(info.matrix.double())
        for i, row in enumerate(info.indices.tolist()):
            x0, y0, w, h = frame((96, 48), *SIZES[row], method)
            corners = back[i] @ torch.tensor([[0, 40.0], [0, 80], [1, 1]]).double()
            expected = torch.tensor([[x0, x0 + w], [y0, y0 + h]]).double()
            assert (corners[:2] - expected).abs().max() <= (w / 48 if method == "pad" else 1.0)


@pytest.mark.parametrize("padding", ["reflection", "border", "zeros"])
@pytest.mark.parametrize("method", METHODS)
def test_resize_mode_shows_the_same(photos: fa.Samples, method: str, padding: Any) -> None:
    """Two interpolations instead of one, of the same place."""
    augment = fa.Augment(OPS, (64, 32), padding=padding, normalize=None)
    arguments = {"presize": (128, 64), "resize_method": method, "augment": augment, "batch_size": 3, "training": True}
    ((x, _, info),), ((direct, _, other),) = (make_loader(photos, mode=mode, **arguments) for mode in MODES)
    assert_same(info.matrix, other.matrix)
    inside, _ = seen(info, extents(info, "resize", (128, 64)), (64, 32), slack_px=12.0)
    difference = (x - direct).abs().amax(1)
    assert inside.double().mean() > 0.3
    assert difference[inside].mean() * 255 < 4
    if method != "crop":  # both see the same of the photo, so they pad alike
        assert difference.mean() * 255 < 6


@pytest.mark.parametrize("mode", MODES)
def test_pad_is_a_letterbox(photos: fa.Samples, mode: Any) -> None:
    augment = fa.Augment([], 64, padding="zeros", normalize=None)
    loader = make_loader(photos, presize=64, resize_method="pad", mode=mode, augment=augment, training=False)
    ((x, _, info),) = loader
    for i, (height, width) in enumerate(SIZES):
        scale = 64 / max(height, width)
        assert info.matrix[i].diagonal()[:2].tolist() == pytest.approx([scale, scale], rel=0.02)
        bars = (x[i] == 0).all(0)
        rows, columns = (int((~bars).any(axis).sum()) for axis in (1, 0))
        assert abs(rows - height * scale) <= 3  # the filter reaches a little beyond the edge
        assert abs(columns - width * scale) <= 3
        kept = (~bars).nonzero()
        low, high = kept.amin(0), kept.amax(0)
        assert ((low + high - 63).abs() <= 2).all(), "in the middle"


def discs(folder: Path) -> fa.Samples:
    """A white disc on black in photos of several shapes, in the middle, small enough for each crop."""
    paths = []
    for i, (height, width) in enumerate([(300, 400), (400, 260), (320, 320)]):
        picture = Image.new("RGB", (width, height))
        x, y, r = width / 2, height / 2, 50
        ImageDraw.Draw(picture).ellipse((x - r, y - r, x + r, y + r), fill=(255, 255, 255))
        paths.append(str(write_photo(folder / f"{i}.png", np.asarray(picture))))
    return fa.Samples(paths, [0] * 3, ["disc"])


def roundness(image: Tensor) -> tuple[float, float]:
    """Of a bright disc on [3, h, w]: its width and height."""
    weights = image[0].double()
    rows, columns = weights.sum(1), weights.sum(0)
    spread = []
    for profile in (columns, rows):
        place = torch.arange(len(profile)).double()
        centre = (profile * place).sum() / profile.sum()
        spread.append(float(4 * ((profile * (place - centre) ** 2).sum() / profile.sum()).sqrt()))
    return spread[0], spread[1]


def assert_round(x: Tensor) -> None:
    for image in x:
        width, height = roundness(image)
        assert width > 8, "there is no disc"
        assert abs(width / height - 1) < 0.03, f"a disc of {width:.1f} × {height:.1f}"


def test_what_is_round() -> None:
    v, u = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    for squeeze, is_round in ((1.0, True), (1.06, False), (0.94, False)):
        disc = (((u - 30) * squeeze) ** 2 + (v - 33) ** 2 < 12**2).double().expand(1, 3, 64, 64)
        if is_round:
            assert_round(disc)
        else:
            with pytest.raises(AssertionError, match="a disc of"):
                assert_round(disc)
    with pytest.raises(AssertionError, match="no disc"):
        assert_round(torch.zeros(1, 3, 9, 9))


@pytest.mark.parametrize("method", ["crop", "pad"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("presize", "size"), [((300, 150), (256, 128)), ((150, 300), (128, 256)), ((96, 128), (72, 96))]
)
def test_circles_stay_round(
    tmp_path: Path, presize: tuple[int, int], size: tuple[int, int], mode: Any, method: str
) -> None:
    samples = discs(tmp_path)
    for ops in ([], [fa.RandomHorizontalFlip(), fa.RandomRotation(20), fa.RandomZoom((0.9, 1.1))]):
        augment = fa.Augment(ops, size, padding="border", normalize=None)
        arguments = {"presize": presize, "resize_method": method, "mode": mode, "augment": augment}
        ((x, _, _),) = make_loader(samples, **arguments, training=False)
        assert tuple(x.shape) == (3, 3, *size)
        assert_round(x)
        if method == "pad":  # the whole disc is seen, wherever
            ((x, _, _),) = make_loader(samples, **arguments, batch_size=3)
            assert_round(x)


def test_squish_squeezes_by_the_photos_shape(tmp_path: Path) -> None:
    samples = discs(tmp_path)
    augment = fa.Augment([], (128, 64), normalize=None)
    ((x, _, _),) = make_loader(samples, presize=(256, 128), resize_method="squish", augment=augment, training=False)
    for image, (height, width) in zip(x, [(300, 400), (400, 260), (320, 320)], strict=True):
        seen_width, seen_height = roundness(image)
        assert seen_width / seen_height == pytest.approx((64 / width) / (128 / height), rel=0.03)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", MODES)
def test_guarantees(tmp_path: Path, mode: Any, method: str) -> None:
    samples = write_mosaics(tmp_path, 12, [(50, 60), (60, 50)])
    arguments = {"presize": (40, 24), "resize_method": method, "mode": mode}
    assert_keeps_guarantees(lambda **more: make_targets(samples, (32, 16), **arguments, **more))


@pytest.mark.parametrize("method", ["squish", "pad"])
def test_nothing_is_cut_off_in_training(photos: fa.Samples, method: str) -> None:
    """So there is no place to be drawn: all of the photo is in the frame."""
    first, second = (
        make_loader(photos, presize=(60, 80), resize_method=method, training=training, batch_size=3)
        for training in (True, False)
    )
    by = [{item.row: item.matrix for item in items(loader)} for loader in (first, second)]
    if method == "squish":
        assert_same(*by)
    for matrices in by:
        for row, (height, width) in enumerate(SIZES):
            corners = torch.tensor([[0.0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
            x, y, _ = matrices[row] @ corners
            assert -1e-2 <= x.min() <= x.max() <= 80 + 1e-2
            assert -1e-2 <= y.min() <= y.max() <= 60 + 1e-2


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    return write_mosaics(tmp_path_factory.mktemp("patches"), 4, [(80, 140), (140, 80)])


@pytest.mark.parametrize(
    ("padding", "targets"), [("reflection", "fill"), ("reflection", "image"), ("border", "image"), ("zeros", "fill")]
)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", MODES)
def test_masks_in_frames(patches: fa.Samples, mode: Any, method: str, targets: Any, padding: Any) -> None:
    """The bars of a letterbox are beyond the photo, too."""
    ops = [fa.RandomHorizontalFlip(), fa.RandomRotation(30)]
    arguments = {"presize": (80, 56), "resize_method": method, "mode": mode, "padding": padding}
    for training in (True, False):
        loader = make_targets(
            patches, (60, 42), ops, training=training, targets=fa.TargetOptions(padding=targets), **arguments
        )
        ((x, y, info),) = loader
        edge = seen(info, extents(info, mode, (80, 56)), (60, 42), slack_px=0.05)
        assert_masks_agree(x, y, edge if targets == "fill" else None)
        if method == "pad" and targets == "fill":
            assert (y == FILL).double().mean() > 0.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", MODES)
def test_boxes_in_frames(tmp_path: Path, mode: Any, method: str) -> None:
    samples = write_things(tmp_path, 3)
    arguments = {"presize": (96, 64), "resize_method": method, "mode": mode}
    for training in (True, False):
        ((_, y, info),) = make_targets(samples, (60, 40), training=training, **arguments)
        extent = extents(info, mode, (96, 64))
        for i, row in enumerate(info.indices.tolist()):
            boxes = torch.as_tensor(samples.targets[row].boxes)
            assert_boxes_right(boxes, y[i], info.matrix[i], extent[i], (60, 40))


@pytest.mark.parametrize("cache", ["memory", "folder"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", MODES)
def test_frames_from_a_cache(photos: fa.Samples, tmp_path: Path, mode: Any, method: str, cache: str) -> None:
    """The first epoch has the pixels of every later one, and shows what a loader without a cache shows."""
    augment = fa.Augment([fa.RandomHorizontalFlip()], (64, 32), normalize=None)
    arguments = {"presize": (96, 48), "resize_method": method, "mode": mode, "augment": augment, "batch_size": 3}
    where = str(tmp_path / "cache") if cache == "folder" else cache
    loader = make_loader(photos, cache=where, **arguments)
    first = [plain(batch) for batch in loader]
    loader.set_epoch(0)
    assert_same([plain(batch) for batch in loader], first)
    assert loader.stats().cached == 3
    ((x, _, _),) = make_loader(photos, **arguments)
    assert (first[0][0] - x).abs().mean() * 255 < 3


@pytest.mark.parametrize("method", METHODS)
def test_the_presize_is_made_by_the_threads_that_decode(
    photos: fa.Samples, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Of photos from a cache too, whatever the frame."""
    loader = make_loader(
        photos, cache="memory", presize=40, resize_method=method, augment=fa.Augment(OPS, 32), batch_size=3
    )
    list(loader)
    made, resize = [], CpuDecoder.resize

    def noting(*arguments: Any) -> Any:
        made.append(threading.current_thread().name)
        return resize(*arguments)

    monkeypatch.setattr(CpuDecoder, "resize", noting)
    list(loader)
    assert made
    assert all(name.startswith("fastaug-decode") for name in made), made


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"presize": (0, 5)}, "presize"),
        ({"presize": (5,)}, "presize"),
        ({"presize": (5, 6, 7)}, "presize"),
        ({"presize": (5.5, 6)}, "presize"),
        ({"presize": "460"}, "presize"),
        ({"resize_method": "stretch"}, "resize_method"),
        ({"resize_method": None}, "resize_method"),
        ({"channels": 4}, "channels"),
        ({"channels": 2}, "channels"),
        ({"channels": "RGB"}, "channels"),
    ],
)
def test_refusals(photos: fa.Samples, arguments: dict[str, Any], match: str) -> None:
    with pytest.raises((ValueError, TypeError), match=match):
        make_loader(photos, **arguments)


@pytest.mark.parametrize(
    ("arguments", "augment", "match"),
    [
        ({"channels": 1}, fa.Augment([], 32), "one mean and one std"),
        ({"mode": "direct"}, None, "direct"),
        ({"views": [fa.Augment([], 32, normalize=None)] * 2, "augment": None}, None, "views"),
        ({}, fa.RandomRotation(10), "fa.Augment"),
    ],
)
def test_an_augment_that_does_not_fit_is_refused_later_too(
    photos: fa.Samples, arguments: dict[str, Any], augment: Any, match: str
) -> None:
    loader = make_loader(photos, **{"batch_size": 3, "augment": fa.Augment([], 32, normalize=None), **arguments})
    with pytest.raises((ValueError, TypeError), match=match):
        loader.augment = augment
    next(iter(loader))


@pytest.mark.parametrize("method", ["crop", "torchvision"])
def test_numbers_of_numpy(photos: fa.Samples, method: str) -> None:
    augment = fa.Augment([], 32, normalize=None)
    numbers = {"batch_size": np.int64(3), "presize": np.int64(40), "views": np.int64(2)}
    loader = make_loader(photos, augment=augment, resize_method=method, **numbers)
    assert (loader.presize, loader.views) == (40, 2)


def big_photos(folder: Path) -> list[str]:
    """Photographs that scikit-image ships, as JPEGs and PNGs."""
    paths = []
    for name in ("astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry", "retina"):
        image = Image.fromarray(getattr(skimage.data, name)())
        path = folder / f"{name}.{'png' if name == 'coffee' else 'jpg'}"
        image.save(path, **({} if name == "coffee" else {"quality": 92}))
        paths.append(str(path))
    return paths


def validation_differences(paths: list[str], resize: int = 256, crop: int = 224) -> list[float]:
    """Per photo, how far the loader's validation is from torchvision's on average, in [0, 1] units."""
    torchvision = v2.Compose([v2.Resize(resize), v2.CenterCrop(crop)])
    augment = fa.Augment([fa.CenterCrop(crop)], size=crop, normalize=None)
    samples = fa.Samples(paths, [0] * len(paths), ["all"])
    found = []
    for x, _, info in make_loader(
        samples, presize=resize, resize_method="torchvision", augment=augment, training=False, batch_size=16
    ):
        for image, row in zip(x, info.indices.tolist(), strict=True):
            picture = ImageOps.exif_transpose(Image.open(paths[row])).convert("RGB")
            expected = np.asarray(torchvision(picture)).astype(np.float32) / 255
            found.append(float((image.permute(1, 2, 0) - torch.from_numpy(expected)).abs().mean()))
    return found


def test_validation_as_torchvision_does_it(tmp_path: Path) -> None:
    """Resize(256) and CenterCrop(224), within 1 / 255 on average; also where half of the difference is odd."""
    paths = big_photos(tmp_path)
    for found in (validation_differences(paths), validation_differences(paths[:3], 230)):
        assert max(found) <= ONE_LEVEL, [round(255 * value, 2) for value in found]


def test_a_crop_a_pixel_off_is_noticed(tmp_path: Path) -> None:
    paths = big_photos(tmp_path)[:2]
    for path in paths:
        shifted = np.roll(pixels(path), 3, 1)
        Image.fromarray(shifted).save(path + ".png")
    right, wrong = (
        torch.stack(
            [v2.functional.to_image(v2.CenterCrop(224)(v2.Resize(256)(Image.open(p).convert("RGB")))) for p in some]
        )
        for some in (paths, [path + ".png" for path in paths])
    )
    assert (right.double() - wrong.double()).abs().mean() > 2


def test_center_crop_is_the_middle_and_draws_nothing(tmp_path: Path) -> None:
    mask = mosaic(64, 64)
    path = str(write_photo(tmp_path / "one.png", PALETTE[mask]))
    samples = fa.Samples([path], [0], ["one"])
    augment = fa.Augment([fa.CenterCrop(48)], size=48, normalize=None)
    expected = PALETTE[mask[8:56, 8:56]]
    for training in (True, False):
        ((x, _, _),) = make_loader(samples, presize=64, augment=augment, training=training, drop_last=False)
        assert_images_close(x[0].permute(1, 2, 0), torch.from_numpy(expected).double() / 255, 0.01)
    images = torch.from_numpy(PALETTE[mask])[None]
    assert_images_close(augment.eval()(images)[0].permute(1, 2, 0), torch.from_numpy(expected).double() / 255, 0.01)
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    augment.draw(1, (64, 64), generator=generator)
    assert torch.equal(generator.get_state(), before), "it has drawn something"


def test_center_crop_of_frames_that_are_not_square(tmp_path: Path) -> None:
    mask = mosaic(80, 64)
    samples = fa.Samples([str(write_photo(tmp_path / "one.png", PALETTE[mask]))], [0], ["one"])
    augment = fa.Augment([fa.CenterCrop((60, 30))], size=(60, 30), normalize=None)
    for mode in MODES:
        ((x, _, _),) = make_loader(samples, presize=(80, 64), augment=augment, training=False, mode=mode)
        assert_images_close(x[0].permute(1, 2, 0), torch.from_numpy(PALETTE[mask[10:70, 17:47]]).double() / 255, 0.01)


def test_random_operators_beside_a_center_crop_stay_out_of_validation(photos: fa.Samples) -> None:
    both = fa.Augment([fa.RandomRotation(30), fa.CenterCrop(40)], size=40, normalize=None)
    alone = fa.Augment([fa.CenterCrop(40)], size=40, normalize=None)
    found = [items(make_loader(photos, presize=64, augment=a, training=False)) for a in (both, alone)]
    assert_same([item.x for item in found[0]], [item.x for item in found[1]])


def grey(folder: Path) -> tuple[fa.Samples, list[np.ndarray]]:
    """A gray PNG and JPEG, colours, a palette, and one with transparency; and Pillow's idea of them in gray."""
    cat = Image.fromarray(skimage.data.chelsea()).resize((60, 60))
    pictures = {"gray.png": cat.convert("L"), "gray.jpg": cat.convert("L"), "colour.png": cat, "colour.jpg": cat,
                "palette.png": cat.convert("P"), "alpha.png": cat.convert("LA")}  # fmt: skip
    paths, expected = [], []
    for name, picture in pictures.items():
        path = folder / name
        picture.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
        paths.append(str(path))
        expected.append(np.array(Image.open(path).convert("RGB").convert("L")))
    return fa.Samples(paths, [0] * len(paths), ["cat"]), expected


@pytest.mark.parametrize("mode", MODES)
def test_one_channel(tmp_path: Path, mode: Any) -> None:
    samples, expected = grey(tmp_path)
    augment = fa.Augment([], 60, normalize=None)
    ((x, _, _),) = make_loader(samples, presize=60, augment=augment, training=False, channels=1, mode=mode)
    assert tuple(x.shape) == (6, 1, 60, 60)
    for image, right in zip(x, expected, strict=True):
        assert_images_close(image[0], torch.from_numpy(right).double() / 255, 2)
    ((three, _, _),) = make_loader(samples, presize=60, augment=augment, training=False, mode=mode)
    assert_images_close(three[:2, :1].expand(-1, 3, -1, -1), three[:2], 0.01)
    assert_images_close(x[:2], three[:2, :1], 1)


def test_one_channel_of_presized_pictures_and_through_draws(tmp_path: Path) -> None:
    samples, _ = grey(tmp_path)
    ((x, _, _),) = make_loader(samples, presize=50, training=False, channels=1)
    assert (x.dtype, tuple(x.shape)) == (torch.uint8, (6, 50, 50, 1))
    augment = fa.Augment(OPS, 32, normalize=None)
    one, three = (
        items(make_loader(samples, presize=50, augment=augment, channels=channels, drop_last=False))
        for channels in (1, 3)
    )
    for a, b in zip(one, three, strict=True):
        assert (a.row, a.x.shape) == (b.row, (1, 32, 32))
        assert_same(a.matrix, b.matrix)
        if a.row < 2:
            assert_images_close(a.x, b.x[:1], 1)
    keep = {"presize": 50, "augment": augment, "channels": 1, "batch_size": 2, "drop_last": False}
    loader = make_loader(samples, cache=str(tmp_path / "cache"), **keep)
    first = [plain(batch) for batch in loader]
    loader.set_epoch(0)
    assert_same([plain(batch) for batch in loader], first)


def test_one_channel_with_views_and_masks(tmp_path: Path) -> None:
    samples = write_mosaics(tmp_path, 3)
    ((x, y, _),) = make_targets(samples, channels=1, views=2)
    assert [tuple(view.shape) for view in x] == [(3, 1, 48, 48)] * 2
    assert [tuple(mask.shape) for mask in y] == [(3, 48, 48)] * 2
