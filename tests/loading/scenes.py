"""Scenes where a colour is a class, so that a picture and its targets can be compared; and the comparisons.

`mosaic` is a picture of large patches, each of one class in that class's colour. Where the picture that a loader
delivers shows a pure colour, and shows it all around, there is no doubt about what its mask must say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import max_pool2d

import fastaug as fa
from tests.compare import differences
from tests.factories import make_loader

# Corners of the cube of colours: no mixture of some of them is near another one. Black is nobody's.
PALETTE = np.array(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255], [255, 255, 255]], np.uint8
)
NAMES = ["red", "green", "blue", "yellow", "pink", "cyan", "white"]
FILL = 255  # what a mask says where nothing is seen; the picture is black there, with padding="zeros" or erased
UNSURE = -1
NEAR = 0.12  # of a colour, in [0, 1], along each channel
LEAST_SURE = 0.25  # of the pixels: with fewer, a comparison says nothing
_STORE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


def mosaic(height: int, width: int, seed: int = 0, patches: int = 7) -> np.ndarray:
    """Classes uint8 [height, width]: patches around random places."""
    random = np.random.default_rng(seed)
    places = random.uniform(0.05, 0.95, (patches, 2)) * (height, width)
    classes = random.permutation(patches) % len(PALETTE)
    row, column = np.mgrid[:height, :width] + 0.5
    nearest = ((row[..., None] - places[:, 0]) ** 2 + (column[..., None] - places[:, 1]) ** 2).argmin(2)
    return classes[nearest].astype(np.uint8)


def stored(picture: Image.Image, orientation: int) -> Image.Image:
    """As a camera stores a picture that its EXIF orientation turns upright."""
    return picture.transpose(_STORE[orientation]) if orientation in _STORE else picture


def write_photo(path: Path, pixels: np.ndarray, orientation: int = 1) -> Path:
    """uint8 [H, W, 3], upright, as a PNG, or as a JPEG that loses little."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {} if orientation == 1 else {"exif": exif}
    if path.suffix == ".jpg":
        options |= {"quality": 95, "subsampling": 0}
    path.parent.mkdir(parents=True, exist_ok=True)
    stored(Image.fromarray(pixels), orientation).save(path, **options)
    return path


def write_mask(path: Path, mask: np.ndarray, mode: str = "L", orientation: int = 1) -> Path:
    """Integers [H, W], upright, as a PNG of Pillow's mode. "P": the palette's colours say nothing of the indices."""
    if mode == "I;16":
        picture = Image.fromarray(mask.astype(np.uint16))
    elif mode == "1":
        picture = Image.fromarray(mask.astype(bool))
    else:
        picture = Image.fromarray(mask.astype(np.uint8))
        if mode == "P":
            picture.putpalette([(37 * i + 11) % 256 for i in range(768)])
    path.parent.mkdir(parents=True, exist_ok=True)
    stored(picture, orientation).save(path)
    return path


def write_mosaics(
    folder: Path,
    count: int = 6,
    sizes: Sequence[tuple[int, int]] = ((90, 120), (120, 90), (100, 100)),
    ending: str = "png",
    mode: str = "P",
    orientations: Sequence[int] = (1,),
    **arguments: Any,
) -> fa.Samples:
    """Photos and masks of mosaics in two folders; (height, width) upright and the orientation by turns."""
    for i in range(count):
        mask, orientation = mosaic(*sizes[i % len(sizes)], seed=i), orientations[i % len(orientations)]
        write_photo(folder / "images" / f"{i:02}.{ending}", PALETTE[mask], orientation)
        write_mask(folder / "masks" / f"{i:02}.png", mask, mode, orientation)
    return fa.Samples.from_folders(folder / "images", folder / "masks", **{"classes": NAMES, **arguments})


def shown(x: Tensor) -> Tensor:
    """The class of each pixel of [..., 3, h, w] in [0, 1], or of uint8 [..., h, w, 3]: int64 [..., h, w].

    FILL where it is black, UNSURE where it is no pure colour.
    """
    pixels = x.double() / 255 if x.dtype == torch.uint8 else x.movedim(-3, -1).double()
    colors = torch.from_numpy(np.concatenate([PALETTE, np.zeros((1, 3), np.uint8)])).double() / 255
    apart, nearest = (pixels[..., None, :] - colors).abs().amax(-1).min(-1)
    nearest[nearest == len(PALETTE)] = FILL
    return nearest.masked_fill_(apart > NEAR, UNSURE)


def sure(classes: Tensor) -> Tensor:
    """Where [..., h, w] a pixel and all eight around it are of one class: away from borders."""
    flat = classes.reshape(-1, 1, *classes.shape[-2:]).double()
    same = max_pool2d(flat, 3, 1, 1) == -max_pool2d(-flat, 3, 1, 1)
    return same.view(classes.shape) & (classes != UNSURE)


def assert_masks_agree(x: Tensor, masks: Tensor, seen: tuple[Tensor, Tensor] | None = None) -> None:
    """No pixel of a mask says something else than its picture, away from borders.

    Args:
        x: [B, 3, h, w] in [0, 1], or uint8 [B, h, w, 3].
        masks: integers [B, h, w].
        seen: bool [B, h, w] twice: the pixels that look at the photo, and those that look beyond it, where the mask
            must be FILL whatever the picture shows. None: nothing is filled but what is black.
    """
    classes = shown(x)
    assert masks.shape == classes.shape, f"expected masks {list(classes.shape)}, got {list(masks.shape)}"
    certain = sure(classes)
    assert certain.double().mean() >= LEAST_SURE, "too little of the pictures is of a pure colour to say anything"
    if seen is None:
        wrong = certain & (masks != classes)
    else:
        inside, outside = seen
        wrong = (certain & inside & (masks != classes)) | (outside & (masks != FILL))
        wrong |= certain & (masks != FILL) & (masks != classes)
    count = int(wrong.sum())
    assert not count, f"{count} wrong mask pixels of {wrong.numel()}, in images {wrong.any(-1).any(-1).nonzero()}"


def extents(info: Any, mode: str, presize: int | tuple[int, int]) -> Tensor:
    """x0, y0, x1, y1 [B, 4] of what the warp saw of each original: all of it, or what of it is in the presized one."""
    height, width = info.sizes.double().unbind(1)
    zero = torch.zeros_like(width)
    photo = torch.stack([zero, zero, width, height], 1)
    if mode == "direct":
        return photo
    rows, columns = (presize, presize) if isinstance(presize, int) else presize
    back = torch.linalg.inv(info.presize.double())
    low, high = (back @ torch.tensor([x, y, 1.0]).double() for x, y in ((0, 0), (columns, rows)))
    return torch.cat([torch.maximum(low[:, :2], photo[:, :2]), torch.minimum(high[:, :2], photo[:, 2:])], 1)


def looks_at(info: Any, size: tuple[int, int]) -> Tensor:
    """Where each output pixel's centre looks, (x, y) in pixels of the upright original: float64 [B, h, w, 2]."""
    v, u = (torch.arange(count).double() + 0.5 for count in size)
    centres = torch.stack([u.expand(*size), v[:, None].expand(*size), torch.ones(size).double()], -1)
    places = torch.einsum("bij,hwj->bhwi", torch.linalg.inv(info.matrix.double()), centres)
    return places[..., :2] / places[..., 2:]


def seen(info: Any, extent: Tensor, size: tuple[int, int], slack_px: float = 0.02) -> tuple[Tensor, Tensor]:
    """For `assert_masks_agree`: who looks into the extent, who beyond it. Neither: within slack_px of its edge."""
    place, box = looks_at(info, size), extent.double()[:, None, None]
    depth = torch.cat([place - box[..., :2], box[..., 2:] - place], -1).amin(-1)  # in it: to the nearest edge
    return depth > slack_px, depth < -slack_px


def assert_looked_up(masks: Tensor, originals: Sequence[np.ndarray], info: Any, extent: Tensor) -> None:
    """Masks [B, h, w] are those of the upright photos, [H, W] each, read where each output pixel looks; FILL beyond.

    Also at the borders of classes; but for the few that look at the very border of two pixels.
    """
    place = looks_at(info, (masks.shape[1], masks.shape[2]))
    inside, outside = seen(info, extent, (masks.shape[1], masks.shape[2]))
    clear = ((place - place.round()).abs() > 5e-3).all(-1)
    assert (clear & (inside | outside)).double().mean() > 0.9
    for i, original in enumerate(originals):
        mask = torch.tensor(np.array(original)).long()
        column, row = place[i].floor().long().unbind(-1)
        read = mask[row.clamp(0, mask.shape[0] - 1), column.clamp(0, mask.shape[1] - 1)]
        wrong = (clear[i] & inside[i] & (masks[i] != read)) | (outside[i] & (masks[i] != FILL))
        assert not wrong.any(), f"{int(wrong.sum())} wrong mask pixels in image {i}"


class Item(NamedTuple):
    """One sample as delivered."""

    row: int
    x: Any
    y: Any
    matrix: Any


def pick(batch: Any, i: int) -> Any:
    """Of image i: of a tensor, of a list of one thing an image, of a tuple of these (views)."""
    if isinstance(batch, tuple):
        return tuple(pick(view, i) for view in batch)
    return None if batch is None else batch[i]


def items(batches: Iterable[Any]) -> list[Item]:
    """The samples of batches (x, y, info), one after the other."""
    found = []
    for x, y, info in batches:
        views = info if isinstance(info, tuple) else (info,)
        matrix = tuple(view.matrix for view in info) if isinstance(info, tuple) else info.matrix
        for i, row in enumerate(views[0].indices.tolist()):
            found.append(Item(row, pick(x, i), pick(y, i), pick(matrix, i)))
    return found


def by_row(batches: Iterable[Any]) -> dict[int, Item]:
    return {item.row: item for item in items(batches)}


def plain(batch: Any) -> Any:
    """What `differences` compares of a batch."""
    x, y, info = batch
    views = info if isinstance(info, tuple) else (info,)
    return x, y, [(view.indices, view.sizes, view.matrix, view.presize) for view in views]


def assert_same(got: Any, expected: Any, what: str = "") -> None:
    """Bit for bit, in any nest of lists, tuples, dicts and tensors."""
    found = differences(got, expected)
    assert not found, f"{what} differs at {found[:5]}"


def assert_keeps_guarantees(make: Callable[..., Any], other_batch: int = 3) -> None:
    """What every loader promises, whatever it delivers; make(**arguments) makes it, of 12 or more positions an epoch.

    A sample's numbers do not depend on batches, threads or ranks; ranks share an epoch; a run goes on bit for bit.
    """
    whole = items(make(batch_size=4, drop_last=False))
    other = items(make(batch_size=other_batch, drop_last=False, num_threads=1, prefetch_batches=1))
    assert_same(other, whole, "an epoch in other batches")
    ranks = [items(make(batch_size=4, drop_last=False, shard=(rank, 2))) for rank in (0, 1)]
    assert abs(len(ranks[0]) - len(ranks[1])) <= 1, "ranks of different lengths"
    left = list(whole)
    for item in (item for rank in ranks for item in rank):
        place = next((i for i, its in enumerate(left) if not differences(item, its)), None)
        assert place is not None, f"a rank has row {item.row} as nobody has it alone, or once too often"
        del left[place]
    assert len(left) <= len(whole) % 2, f"the ranks leave out {[item.row for item in left]}"
    once = make(batch_size=4)
    expected = [plain(batch) for batch in (*once, *once)]
    assert differences(expected[: len(once)], expected[len(once) :]), "two epochs are the same"
    interrupted = make(batch_size=4)
    batches = iter(interrupted)
    for done in (1, 2):
        next(batches)
        state = json.loads(json.dumps(interrupted.state_dict()))
        resumed = make(batch_size=4, num_threads=1, prefetch_batches=1)
        resumed.load_state_dict(state)
        assert_same([plain(batch) for batch in (*resumed, *resumed)], expected[done:], "what was resumed")
    batches.close()


def write_coco(
    folder: Path,
    photos: dict[str, np.ndarray],
    objects: Sequence[dict[str, Any]],
    categories: Sequence[dict[str, Any]] | None = None,
) -> tuple[Path, Path]:
    """Photos by name, and COCO's annotations of them. Returns (json, root).

    Args:
        objects: an annotation each; "file" instead of an image's id, and what is missing is made up.
        categories: None: NAMES, numbered from 1.
    """
    numbers = {name: 10 + i for i, name in enumerate(photos)}
    for name, pixels in photos.items():
        write_photo(folder / "photos" / name, pixels)
    images = [
        {"id": numbers[name], "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]}
        for name, pixels in photos.items()
    ]
    annotations = []
    for i, given in enumerate(objects):
        area = float(np.prod(given["bbox"][2:]))
        base = {"id": 100 + i, "iscrowd": 0, "area": area, "image_id": numbers[given["file"]]}
        annotations.append({**base, **{key: value for key, value in given.items() if key != "file"}})
    categories = categories or [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": list(categories)}))
    return path, folder / "photos"


def write_things(folder: Path, count: int = 6, size: tuple[int, int] = (96, 120), **arguments: Any) -> fa.Samples:
    """Photos of rectangles on black, by COCO: each has one of every class, in its colour, none on another.

    The label's index, the row of the object and the colour in PALETTE are one number.
    """
    (height, width), photos, objects = size, {}, []
    for i in range(count):
        random = np.random.default_rng(i)
        pixels, name = np.zeros((height, width, 3), np.uint8), f"{i:02}.png"
        places = random.permutation(12)[: len(PALETTE)]  # of a grid of 3 × 4
        for label, place in enumerate(places):
            cell_h, cell_w = height // 3, width // 4
            h, w = random.integers(12, cell_h - 1), random.integers(12, cell_w - 1)
            y = place // 4 * cell_h + random.integers(cell_h - h)
            x = place % 4 * cell_w + random.integers(cell_w - w)
            pixels[y : y + h, x : x + w] = PALETTE[label]
            objects.append({"file": name, "bbox": [int(x), int(y), int(w), int(h)], "category_id": label + 1})
        photos[name] = pixels
    path, root = write_coco(folder, photos, objects)
    return fa.Samples.from_coco(path, root, **arguments)


FINE = 6  # samples along each side of an output pixel


def sampled(matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Where FINE × FINE samples in each output pixel look in the original: float64 [h FINE, w FINE, 2]."""
    finer = torch.diag(torch.tensor([FINE, FINE, 1])).double() @ matrix.double()
    return looks_at(SimpleNamespace(matrix=finer[None]), (size[0] * FINE, size[1] * FINE))[0]


def visible_part(box: Tensor, matrix: Tensor, extent: Tensor, place: Tensor) -> tuple[float, Tensor | None]:
    """Of a box [4] of the original: the share of it that is in the picture, and the bounds [4] of that, by sampling.

    matrix: original -> output; extent [4]: what of the original is seen; place: `sampled`.
    """
    low, high = torch.maximum(box[:2], extent[:2]), torch.minimum(box[2:], extent[2:])
    there = ((place >= low) & (place < high)).all(-1)
    corners = matrix.double() @ torch.stack([box[[0, 2, 2, 0]], box[[1, 1, 3, 3]], torch.ones(4)]).double()
    px, py = corners[:2] / corners[2]
    whole = 0.5 * (px * py.roll(-1) - py * px.roll(-1)).sum().abs().item()
    if not there.any():
        return 0.0, None
    rows, columns = there.any(1).nonzero()[:, 0], there.any(0).nonzero()[:, 0]
    bounds = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / FINE
    return there.sum().item() / FINE**2 / whole, bounds


def assert_boxes_right(
    boxes: Tensor, target: dict[str, Tensor], matrix: Tensor, extent: Tensor, size: tuple[int, int], least: float = 0.1
) -> None:
    """A photo's boxes [N, 4] as delivered: kept are those of which `least` is in the picture, around that part."""
    kept, place = target["kept"].tolist(), sampled(matrix, size)
    assert len(target["boxes"]) == len(kept) == len(target["labels"]), "boxes, labels and kept do not belong together"
    assert kept == sorted(set(kept)), f"kept rows in another order, or twice: {kept}"
    for row, box in enumerate(boxes):
        share, bounds = visible_part(box, matrix, extent, place)
        if row not in kept:
            assert share < least + 0.03, f"box {row} is left out, and {share:.0%} of it is in the picture"
            continue
        assert bounds is not None, f"box {row} is kept, and nothing of it is in the picture"
        assert share > least - 0.03, f"box {row} is kept, and only {share:.0%} of it is in the picture"
        got = target["boxes"][kept.index(row)]
        assert (got - bounds).abs().max() <= 0.5, f"box {row}: expected about {bounds.tolist()}, got {got.tolist()}"


def make_targets(samples: fa.Samples, size: Any = 48, ops: Sequence[Any] | None = None, **arguments: Any) -> Any:
    """A loader of little pictures in [0, 1], strongly moved, of PNGs as they are."""
    if ops is None:
        ops = [fa.RandomHorizontalFlip(), fa.RandomRotation(45), fa.RandomZoom((0.7, 1.3)), fa.RandomPerspective(0.2)]
    how = {name: arguments.pop(name) for name in ("padding", "interpolation") if name in arguments}
    augment = fa.Augment(ops, size, normalize=None, **how)
    return make_loader(samples, **{"batch_size": 4, "presize": 64, "augment": augment, "drop_last": False, **arguments})
