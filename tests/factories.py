"""What several tests make: encoded images, files, loaders, models, processes."""

from __future__ import annotations

import errno
import io
import os
import struct
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor, nn

import fastaug as fa
from fastaug.loading.batch import BatchInfo
from fastaug.loading.decode import Decoder
from fastaug.loading.photo import Need, Photo, Resizing

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 240  # what is waited for comes much sooner, unless it never comes


def encode(image: Any, kind: str = "JPEG", **options: Any) -> bytes:
    """A Pillow image, or pixels uint8 [H, W, 3], as a file of Pillow's format `kind`."""
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(width: int = 120, height: int = 90, **options: Any) -> bytes:
    """A photograph of this size."""
    return encode(Image.fromarray(skimage.data.chelsea()).resize((width, height)), **options)


def segment(marker: int, content: bytes, length: int | None = None) -> bytes:
    """A part of a JPEG's header; `length` as it should be if it is None."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2 if length is None else length) + content


def difficult_files() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Files as they turn up among photos: those that can be decoded, and the others with the reason's beginning."""
    cat = Image.fromarray(skimage.data.chelsea()[100:164, 100:196])
    plain, profile = encode(cat), b"a colour profile" * 10_000  # in three parts

    def with_header(part: bytes, photo: bytes = plain) -> bytes:
        place = photo.index(b"\xff\xdb")  # of the quantisation tables
        return photo[:place] + part + photo[place:]

    good = {"a PNG with transparency": encode(cat.convert("RGBA"), "PNG")}
    for orientation in range(9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for name, image in (("wide", cat), ("high", cat.transpose(Image.Transpose.ROTATE_90))):
            good[f"{name}, orientation {orientation}"] = encode(image, exif=exif)
    # an EXIF directory that promises more entries than there are, and one whose value lies outside
    cut_off = b"Exif\0\0II*\0" + struct.pack("<IHHHII", 8, 9, 0x0112, 3, 1, 1)
    outside = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x010F, 2, 999, 5000, 0)
    good |= {
        "bytes between markers": with_header(b"hello"),
        "no marker": with_header(b"\xff\0\0\2"),
        "an Adobe marker that is a byte too short": with_header(segment(0xEE, b"Adobe\0d@\0\0\0\1", 13)),
        "CMYK": encode(cat.convert("CMYK"), quality=95),
        "CMYK with a large colour profile": encode(cat.convert("CMYK"), icc_profile=profile),
        "progressive with a large colour profile": encode(cat, icc_profile=profile, progressive=True),
        "gray": encode(cat.convert("L"), comment=b"no colours"),
        "16-bit quantisation": encode(cat, qtables=[[300] * 64] * 2),
        "EXIF cut off": with_header(segment(0xE1, cut_off)),
        "EXIF with a value outside": with_header(segment(0xE1, outside), encode(cat.convert("L"))),
        "fill bytes before a marker": with_header(b"\xff" * 5),
        "an Adobe marker": with_header(segment(0xEE, b"Adobe\0d@\0\0\0\1")),
        "two pictures": encode(cat, "MPO", save_all=True, append_images=[cat]),
    }
    header, data = "damaged or truncated image header", "damaged or truncated image data"
    large, progressive = jpeg(600, 400), encode(cat, progressive=True)
    bad = {
        f"{data}: overwritten": large[:9000] + b"\xff\xd9" * 200 + large[9400:],
        f"{data}: cut": progressive[: len(progressive) // 2],
        f"{data}: cut, with an end marker": large[:9000] + b"\xff\xd9",
        f"{header}: cut": plain[:100],
    }
    return good, bad


def decode(decoder: Decoder, files: Any, needs: list[Need | None] | None = None) -> tuple[list[Photo], list[Any]]:
    """The photos of those files that can be decoded, and (position, reason) of the others."""
    outcomes = decoder.decode(files, needs)
    assert len(outcomes) == len(files)
    bad = [(position, reason) for position, reason in enumerate(outcomes) if isinstance(reason, str)]
    return [photo for photo in outcomes if isinstance(photo, Photo)], bad


def pixels_of(photos: list[Photo]) -> list[Tensor]:
    return [photo.pixels for photo in photos]


def squares(top_left_xy: Any, side: Any, size: int) -> Resizing:
    """A square of each photo, resized to size × size."""
    corners, sides = np.asarray(top_left_xy, np.float64).reshape(-1, 2).tolist(), np.asarray(side, np.float64).tolist()
    boxes = [(x, y, extent, extent) for (x, y), extent in zip(corners, sides, strict=True)]
    return Resizing([*range(len(boxes))], boxes, [(size, size)] * len(boxes))


def presize(decoder: Decoder, photos: list[Photo], top_left_xy: Any, side: Any, size: int) -> Tensor:
    """uint8 [N, size, size, 3]: a square of each photo, resized."""
    return torch.stack(pixels_of(decoder.resize(photos, squares(top_left_xy, side, size))))


@contextmanager
def full_disk(folder: Path, room: int = 0, number: int = errno.ENOSPC) -> Iterator[None]:
    """Within, `folder` has room for so many bytes: what does not fit is written in part first, as by Linux."""
    left, plain = [room], os.pwrite

    def pwrite(file: int, content: Any, offset: int) -> int:
        if not Path(os.readlink(f"/proc/self/fd/{file}")).is_relative_to(folder):
            return plain(file, content, offset)
        if not left[0]:
            raise OSError(number, os.strerror(number))
        written = plain(file, content[: left[0]], offset)
        left[0] -= written
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        yield


def write_photos(folder: Path, photos: dict[str, np.ndarray]) -> Path:
    """By name, which may have a folder: pixels uint8 [H, W, 3]. Returns the folder."""
    for name, pixels in photos.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return folder


def write_tar(path: Path, content: dict[str, bytes], mode: str = "w", **options: object) -> Path:
    with tarfile.open(path, mode, **options) as tar:  # type: ignore[call-overload]
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def spoil(samples: fa.Samples, tmp_path: Path) -> tuple[fa.Samples, dict[str, str]]:
    """The samples with four bad files between them, and what each is called."""
    bad = {"text.jpg": b"not an image at all", "empty.jpg": b"", "cut.jpg": Path(samples.paths[0]).read_bytes()[:900]}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    names = [*bad, "missing.jpg"]
    paths = list(samples.paths)
    for position, name in zip((3, 17, 18, 40), names, strict=True):
        paths.insert(position, str(tmp_path / name))
    return fa.Samples(paths, [0] * len(paths), ["all"]), {name: str(tmp_path / name) for name in names}


def make_loader(samples: fa.Samples, **arguments: Any) -> fa.ImageLoader:
    defaults = {"batch_size": 7, "presize": 128, "device": "cpu", "return_info": True, "num_threads": 2}
    return fa.ImageLoader(samples, **{**defaults, **arguments})


def epoch(loader: fa.ImageLoader) -> tuple[Tensor, Tensor, BatchInfo]:
    """One epoch as a single batch."""
    xs, ys, infos = zip(*loader, strict=True)
    joined = BatchInfo(
        params=None,
        **{
            name: torch.cat([getattr(info, name) for info in infos])
            for name in ("indices", "sizes", "matrix", "presize", "extent")
        },
    )
    return torch.cat(xs), torch.cat(ys), joined


def by_sample(loader: fa.ImageLoader) -> dict[int, tuple[Tensor, Tensor]]:
    x, _, info = epoch(loader)
    return {int(i): (image, matrix) for i, image, matrix in zip(info.indices, x, info.matrix, strict=True)}


def tiny(dropout: float = 0.0) -> nn.Sequential:
    """Batch-norm, dropout and a linear head."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(dropout),
        nn.Linear(16, 3),
    )  # fmt: skip


class Batches:
    """A loader that shuffles as a pure function of the epoch, and knows its place, as an ImageLoader does."""

    def __init__(self, number: int = 6, batch_size: int = 4) -> None:
        g = torch.Generator().manual_seed(1)
        self.y = torch.randint(0, 3, (number * batch_size,), generator=g)
        self.x = torch.rand(len(self.y), 3, 8, 8, generator=g) + nn.functional.one_hot(self.y, 3)[..., None, None]
        self.number, self.batch_size = number, batch_size
        self.epoch, self.delivered, self.resuming = 0, 0, False

    def __len__(self) -> int:
        return self.number

    def set_epoch(self, epoch: int) -> None:
        if not self.resuming or epoch != self.epoch:
            self.epoch, self.delivered, self.resuming = epoch, 0, False

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "delivered": self.delivered}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.delivered, self.resuming = state["epoch"], state["delivered"], True

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.resuming = False
        order = torch.randperm(len(self.y), generator=torch.Generator().manual_seed(self.epoch))
        for rows in order.split(self.batch_size)[self.delivered :]:
            self.delivered += 1
            yield self.x[rows], self.y[rows]
        self.epoch, self.delivered = self.epoch + 1, 0


def learner(loader: Any = None, model: nn.Module | None = None, valid: Any = None, **arguments: Any) -> fa.Learner:
    return fa.Learner(loader or Batches(), valid, model or tiny(), **{"device": "cpu", **arguments})


def draws(n: int, frame: Any, size: tuple[int, int], seed: int = 0, **settings: Any) -> Tensor:
    """Matrices of strong default transforms, float64 [n, 3, 3]."""
    augment = fa.aug_transforms(**{"mult": 2, "size": size, "min_scale": 0.5, "max_zoom": 1.5, **settings})
    return augment.draw(n, frame, generator=torch.Generator().manual_seed(seed)).matrix.double()


OPERATORS = [
    fa.RandomHorizontalFlip(),
    fa.RandomVerticalFlip(),
    fa.RandomDihedral(),
    fa.RandomRotation(30),
    fa.RandomZoom((0.8, 1.5)),
    fa.RandomPerspective(0.3, p=1.0),
    fa.RandomResizedCrop((0.3, 1.0)),
    fa.ColorJitter(0.4, 0.4, 0.4, 0.1),
]


def wait_until(condition: Callable[[], bool]) -> None:
    """Look again and again, however busy the machine is."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"not so within {PATIENCE_S} s"
        time.sleep(0.005)


def run_command(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("environment", {})}, **options}
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, **options)


def run_python(code: str, *arguments: str) -> str:
    """What a program prints, in a process of its own that must end well."""
    done = run_command(sys.executable, "-c", textwrap.dedent(code), *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def torchrun(processes: int, *arguments: str, **options: Any) -> str:
    """As `torchrun arguments`, with one thread a process."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {"OMP_NUM_THREADS": "1", **options.pop("environment", {})}
    done = run_command(*command, *arguments, environment=environment, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
