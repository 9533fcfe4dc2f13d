"""Damaged files by the thousand, and what a decoder owes for each of them.

    python -m tests.mutations first last

looks at the files of these numbers and prints what is wrong as JSON: in a process of its own, since a decoder that is
wrong may end it.
"""

from __future__ import annotations

import faulthandler
import functools
import io
import json
import struct
import sys
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from PIL import Image, ImageOps

from fastaug.loading.cpu_decoder import CpuDecoder
from fastaug.loading.header import likely_size
from fastaug.loading.photo import Need, Photo
from tests.factories import encode

MOST_MB, MOST_S = 1000, 10  # more memory, and time, that one file may cost
_NUMBERS = (0, 1, 2, 255, 256, 9_000, 60_000, 65_535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


@functools.cache
def originals() -> list[bytes]:
    """Small pictures in seven formats, several layouts of each."""
    cat = Image.fromarray(skimage.data.chelsea()[100:148, 100:171])
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a maker", 6
    frames: dict[str, Any] = {"save_all": True, "append_images": [cat.rotate(90), cat.rotate(180)]}
    layouts: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "JPEG": [
            ("RGB", {"quality": 90}), ("RGB", {"subsampling": 0, "exif": exif}), ("RGB", {"progressive": True}),
            ("RGB", {"restart_marker_blocks": 2}), ("L", {"optimize": True}), ("CMYK", {}),
        ],
        "PNG": [("RGB", {"exif": exif}), ("P", {"transparency": 3}), ("LA", {}), ("I;16", {}), ("RGB", frames)],
        "WEBP": [("RGB", {"exif": exif}), ("RGBA", {"lossless": True}), ("RGB", frames)],
        "GIF": [("P", {}), ("L", frames), ("P", {"transparency": 7, "interlace": 0})],
        "TIFF": [
            ("RGB", {"exif": exif}), ("L", {"compression": "tiff_lzw"}), ("1", {"compression": "group4"}),
            ("RGB", {"compression": "jpeg"}), ("P", {"compression": "tiff_deflate"}), ("I;16", {}), ("CMYK", {}),
        ],
        "BMP": [("RGB", {}), ("P", {}), ("1", {}), ("RGBA", {})],
        "AVIF": [("RGB", {"speed": 10, "exif": exif}), ("RGBA", {"speed": 10}), ("L", {"speed": 10})],
    }  # fmt: skip
    gray = Image.fromarray(np.asarray(cat.convert("L")).astype(np.uint16) * 257)
    return [
        encode(gray if mode == "I;16" else cat.convert(mode), kind, **options)
        for kind, variants in layouts.items()
        for mode, options in variants
    ]


def mutated(number: int) -> bytes:
    """The file of that number: one of the originals, damaged in one to three ways."""
    random = np.random.default_rng(number)
    files = originals()
    content = bytearray(files[number % len(files)])
    for _ in range(int(random.choice([1, 1, 1, 2, 3]))):
        _damage(content, random)
    if content.startswith(b"\x89PNG") and random.random() < 0.7:
        _mend_checksums(content)
    return bytes(content)


def _damage(content: bytearray, random: np.random.Generator) -> None:
    kind = random.choice(["bits", "cut", "cut with an end", "block", "number", "number", "insert", "remove", "repeat"])
    place = int(random.integers(len(content) + 1))
    if random.random() < 0.5:
        place = min(place, int(random.integers(200)))  # as often in the header
    length = int(random.integers(1, 65))
    if kind == "bits":
        for _ in range(int(random.integers(1, 9))):
            bit = int(random.integers(8 * max(len(content), 1)))
            if content:
                content[bit // 8] ^= 1 << bit % 8
    elif kind == "cut":
        del content[place:]
    elif kind == "cut with an end":
        content[place:] = b"\xff\xd9"
    elif kind == "block":
        content[place : place + length] = random.bytes(length)
    elif kind == "number":
        form = str(random.choice(["<H", ">H", "<I", ">I"]))
        number = int(random.choice(_NUMBERS)) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF)
        content[place : place + struct.calcsize(form)] = struct.pack(form, number)
    elif kind == "insert":
        some = b"\xff" + random.bytes(1) if random.random() < 0.3 else random.bytes(length)
        content[place:place] = some
    elif kind == "remove":
        del content[place : place + length]
    else:
        content[place:place] = content[place : place + length]


def _mend_checksums(png: bytearray) -> None:
    """So that damage is not found by them."""
    place = 8
    while place + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, place)
        if place + 12 + length > len(png):
            return
        struct.pack_into(">I", png, place + 8 + length, zlib.crc32(png[place + 4 : place + 8 + length]))
        place += 12 + length


def as_pillow(content: bytes) -> np.ndarray | str:
    """What Pillow shows, or its reason for showing nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                try:
                    shown = ImageOps.exif_transpose(image)
                except Exception:  # of EXIF data that cannot be read; the picture can
                    shown = image
                if shown.mode.startswith("I;16"):
                    gray = np.asarray(shown).astype(np.uint32)
                    return np.repeat(((gray * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, 2)
                shown.info.pop("transparency", None)
                return np.asarray(shown.convert("RGB"))
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def fault(outcome: Photo | str, scaled: Photo | str, content: bytes) -> str | None:
    """What is wrong with a decoder's answers, at full size and at the scale that it chose for a thumbnail."""
    expected = as_pillow(content)
    if isinstance(outcome, str):
        if not isinstance(scaled, str):
            return f"refused ({outcome}), but delivered at a smaller scale"
        said = content[:2] == b"\xff\xd8" or outcome.startswith("damaged or truncated image data (TIFF: ")
        allowed = isinstance(expected, str) or said or "32 bits" in outcome  # said: by the codec, of data that it reads
        return None if allowed else f"refused: {outcome}, but Pillow delivers it"
    if isinstance(expected, str):
        return f"delivered, but Pillow says: {expected}"
    if outcome.pixels.shape != expected.shape or not np.array_equal(outcome.pixels.numpy(), expected):
        return f"{list(outcome.pixels.shape)} other pixels than Pillow's {list(expected.shape)}"
    if isinstance(scaled, str):
        return f"refused at a smaller scale: {scaled}"
    return None if scaled.size == outcome.size else f"size {scaled.size} at a smaller scale, {outcome.size} else"


def peak_mb(reset: bool = False) -> float:
    """Of this process's resident memory since the last reset. Linux only."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main(first: int, last: int) -> dict[str, Any]:
    """Look at some files. Returns what was seen."""
    warnings.simplefilter("ignore")
    decoder = CpuDecoder(1)
    decoder.decode(originals())
    wrong: dict[int, str] = {}
    delivered, most_mb, most_s = 0, 0.0, 0.0
    for number in range(first, last):
        faulthandler.dump_traceback_later(6 * MOST_S, exit=True)
        content = mutated(number)
        size = likely_size(content)
        need = None if size is None else Need(size, 2.0 * 2 ** (1 + number % 3), 99.0, (0.0, 0.0, 1.0, 1.0))
        print(number, file=sys.stderr, flush=True)
        before, start = peak_mb(reset=True), time.perf_counter()
        (outcome,) = decoder.decode([content])
        (scaled,) = decoder.decode([content], [need])
        grown, seconds = peak_mb() - before, time.perf_counter() - start
        delivered += isinstance(outcome, Photo)
        most_mb, most_s = max(most_mb, grown), max(most_s, seconds)
        found = fault(outcome, scaled, content)
        if grown > MOST_MB or seconds > MOST_S:
            found = f"{grown:.0f} MB, {seconds:.1f} s"
        if found:
            wrong[number] = found
    return {"files": last - first, "delivered": delivered, "wrong": wrong, "most_mb": most_mb, "most_s": most_s}


if __name__ == "__main__":
    faulthandler.enable()
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
