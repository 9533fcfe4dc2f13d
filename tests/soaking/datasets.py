"""Data sets, drawn and written: folders, lists, archives; classes, labels, numbers, masks, boxes; some files bad."""

from __future__ import annotations

import csv
import os
import random
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastaug as fa
from fastaug.samples.sources import MEMBER
from fastaug.samples.targets import Objects
from tests.factories import write_tar
from tests.soaking.pictures import CLASSES, NO_FILES, Picture, damaged, mask, pictures

LAYOUTS = ["folder", "folder", "list", "list", "archives", "archives", "labels", "numbers", "nothing", "masks", "boxes"]


@dataclass
class DataSet:
    """Samples in files of their own.

    Attributes:
        layout: one of LAYOUTS.
        bad: rows of the samples that cannot be loaded.
        spare: pictures that none of the files shows.
    """

    samples: fa.Samples
    layout: str
    bad: set[int]
    spare: list[Picture]
    folder: Path

    def __len__(self) -> int:
        return len(self.samples)

    def file(self, row: int) -> str:
        """Of a row: its own, or its archive."""
        path = self.samples.paths[row]
        member = MEMBER.fullmatch(path)
        return path if member is None else member["archive"]

    def rows_of(self, file: str) -> set[int]:
        return {row for row in range(len(self)) if self.file(row) == file}


def draw_data(
    rng: random.Random, folder: Path, layout: str | None = None, most: int = 60, bad_share: float = 0.15
) -> DataSet:
    """A data set in a folder, which is made.

    Args:
        layout: None: any.
        most: images.
        bad_share: of them, at most.
    """
    layout = layout or rng.choice(LAYOUTS)
    count = rng.randint(8, most)
    order = rng.sample(pictures(), len(pictures()))
    chosen, spare = order[:count], order[count:]
    number_bad = rng.choice([0, rng.randint(0, int(count * bad_share))])
    bad = dict.fromkeys(rng.sample(range(count), number_bad), "")
    special = layout in ("list", "labels", "numbers", "nothing", "boxes")
    for i in bad:
        bad[i] = rng.choice([*damaged(), *(NO_FILES * special)])
    folder.mkdir(parents=True)
    made = _WRITE.get(layout, _write_list)(rng, folder, layout, chosen, bad)
    names = {row: Path(made.paths[row].partition("@")[0]).name for row in range(len(made))}
    rows = {row for row, name in names.items() if int(name[:3]) in bad}
    assert len(made) == count, f"{len(made)} of {count} samples in {layout}"
    assert len(rows) == len(bad)
    return DataSet(made, layout, rows, spare, folder)


def _content(picture: Picture, kind: str | None) -> bytes:
    return picture.content if kind is None else damaged()[kind]


def _put(path: Path, picture: Picture, kind: str | None) -> None:
    if kind == "directory":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "3 GiB of nothing":
        path.touch()
        os.truncate(path, 3 << 30)
    elif kind != "missing":
        path.write_bytes(_content(picture, kind))


def _write_folder(
    rng: random.Random, folder: Path, layout: str, chosen: list[Picture], bad: dict[int, str]
) -> fa.Samples:
    for name in CLASSES:
        (folder / name).mkdir()
    for i, picture in enumerate(chosen):
        name = CLASSES[i] if i < len(CLASSES) else rng.choice(CLASSES)
        _put(folder / name / f"{i:03}.{picture.ending}", picture, bad.get(i))
    return fa.Samples.from_folder(folder)


def _write_list(
    rng: random.Random, folder: Path, layout: str, chosen: list[Picture], bad: dict[int, str]
) -> fa.Samples:
    """A CSV, or for what does not go into one the samples themselves."""
    paths = [folder / f"{i:03}.{picture.ending}" for i, picture in enumerate(chosen)]
    for i, (path, picture) in enumerate(zip(paths, chosen, strict=True)):
        _put(path, picture, bad.get(i))
    count = len(chosen)
    if layout == "nothing":
        return fa.Samples(paths, None)
    if layout == "numbers":
        return fa.Samples(paths, np.array([[rng.gauss(0, 1), i] for i in range(count)], np.float32))
    if layout == "boxes":
        photo, corners, labels = [], [], []
        for i in range(count):
            for _ in range(rng.randint(0, 3)):
                x, y = rng.uniform(0, 0.7), rng.uniform(0, 0.7)
                corners.append((x, y, x + rng.uniform(0.05, 0.3), y + rng.uniform(0.05, 0.3)))
                photo.append(i)
                labels.append(rng.randrange(len(CLASSES)))
        objects = Objects.gathered(count, photo, corners, labels, relative=True)
        return fa.Samples(paths, objects, CLASSES)
    rows = []
    for i, path in enumerate(paths):
        several = rng.sample(CLASSES, rng.randint(0, 3)) if i >= len(CLASSES) else [CLASSES[i]]
        rows.append((path.name, "|".join(several) if layout == "labels" else rng.choice(CLASSES)))
    with open(folder / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *rows])
    options: dict[str, Any] = {"label_sep": "|"} if layout == "labels" else {}
    return fa.Samples.from_csv(folder / "list.csv", folder, sep=",", **options)


def _write_archives(
    rng: random.Random, folder: Path, layout: str, chosen: list[Picture], bad: dict[int, str]
) -> fa.Samples:
    number = rng.randint(1, 3)
    contents: list[dict[str, bytes]] = [{} for _ in range(number)]
    for i, picture in enumerate(chosen):
        content = contents[i * number // len(chosen)]
        content[f"{i:03}.{picture.ending}"] = _content(picture, bad.get(i))
        content[f"{i:03}.cls"] = str(rng.randrange(len(CLASSES))).encode()
    for i, content in enumerate(contents):
        write_tar(folder / f"part-{i}.tar", content)
    return fa.Samples.from_tar(os.fspath(folder / "part-*.tar"), classes=CLASSES)


def _write_masks(
    rng: random.Random, folder: Path, layout: str, chosen: list[Picture], bad: dict[int, str]
) -> fa.Samples:
    """Of a bad sample the photo is bad, or its mask: damaged, or of another size."""
    photos, masks = folder / "photos", folder / "masks"
    photos.mkdir()
    masks.mkdir()
    for i, picture in enumerate(chosen):
        whose = rng.choice(["photo", "mask", "size"]) if i in bad else None
        _put(photos / f"{i:03}.{picture.ending}", picture, bad[i] if whose == "photo" else None)
        width, height = picture.stored
        content = mask(width + (whose == "size"), height, i)
        if whose == "mask":
            content = rng.choice([content[: len(content) // 2], b"", b"no mask"])
        (masks / f"{i:03}.png").write_bytes(content)
    return fa.Samples.from_folders(photos, masks, CLASSES)


_WRITE: dict[str, Callable[..., fa.Samples]] = {
    "folder": _write_folder,
    "archives": _write_archives,
    "masks": _write_masks,
}
