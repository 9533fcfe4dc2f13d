"""Files that would end a run, take gigabytes or be delivered wrong: in processes of their own, through the loader."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from fastaug.loading.cpu_decoder import CpuDecoder
from fastaug.loading.photo import Photo
from tests import mutations
from tests.factories import PATIENCE_S, ROOT, encode, run_python, segment
from tests.mutations import MOST_MB, MOST_S, as_pillow, fault, mutated, originals

# Files that say this where Pillow quotes them; what it looks like may be said.
SECRET = b"SECRET\x1b[31m"
QUOTED = {
    "not an image format that is read": SECRET,
    "not an image format that is read; it looks like HTML or XML": b"<!DOCTYPE html>" + SECRET,
    "not an image format that is read; it looks like a PDF": b"%PDF-1.7" + SECRET,
    "damaged or truncated image header (PPM: ValueError)": b"P6\n" + SECRET + b" 12 255\n",
    "damaged or truncated image header (PPM: invalid literal": b"P6\nSECRET 12 255\n",
    "damaged or truncated image header (PPM: could not convert": b"Pf\n1 1\nSECRET\n",
    "damaged or truncated image data (PPM: invalid literal": b"P3\n1 1 255\nSEC 1 1\n",
    "damaged or truncated image data (PPM: ValueError)": b"P3\n1 1 255\n" + SECRET,
    "damaged or truncated image header (PNG: broken PNG file (chunk …)": b"\x89PNG\r\n\x1a\n\0\0\0\1'\"\\\xff",
}
SHARED = Path(__file__).parents[2].parent / "shared"
REAL = {
    path.relative_to(SHARED / "faults").as_posix(): path
    for folder in ("hostile", *(f"loading/{n}-*" for n in ("01", "02", "03", "04", "08", "16", "17", "18", "20")))
    for path in sorted(SHARED.glob(f"faults/{folder}/*"))
    if path.suffix not in (".md", ".py")
}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the most memory that was taken is read from /proc")


def with_app1(*contents: bytes, photo: bytes | None = None) -> bytes:
    photo = photo or encode(skimage.data.chelsea()[:90, :120])
    return photo[:2] + b"".join(segment(0xE1, content) for content in contents) + photo[2:]


def exif(orientation: int) -> bytes:
    return b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def chunk(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    return struct.pack(">I", size) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + b"".join(chunks) + chunk(b"IEND", b"")


@pytest.mark.parametrize("reason", QUOTED)
def test_reasons_tell_nothing_of_what_is_in_a_file(reason: str) -> None:
    (got,) = CpuDecoder(1).decode([QUOTED[reason]])
    assert isinstance(got, str)
    assert got.startswith(reason)
    assert not re.search(r"SEC|b'|\\x|xff", got)


def tiff_of_a_tile(side: int) -> bytes:
    entries = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1),
               (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 140), (325, 4, 1, 20)]  # fmt: skip
    content = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    content += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return content.ljust(140, b"\0") + zlib.compress(bytes(1000))


def hostile() -> dict[str, bytes]:
    cat = Image.fromarray(skimage.data.chelsea()[:90, :120])
    wide, high = encode(cat), encode(cat.transpose(Image.Transpose.ROTATE_90))
    webp, bmp = encode(cat, "WEBP", exif=exif(6)), bytearray(encode(cat, "BMP"))
    struct.pack_into("<i", bmp, 22, 0)
    large_png = png(17_000, 17_000, chunk(b"IDAT", zlib.compress(bytes(51_001)) * 9))
    icon = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(large_png), 22) + large_png
    jp2 = bytearray(encode(cat, "JPEG2000"))
    struct.pack_into(">II", jp2, jp2.index(b"\xff\x51") + 6, 60_000, 60_000)
    gif = bytearray(encode(cat, "GIF"))
    struct.pack_into("<HH", gif, gif.index(b"\x2c", 13 + 3 * 256) + 5, 65_535, 65_535)
    files = {
        "two EXIF segments, 1 then 6, wide": with_app1(exif(1), exif(6), photo=wide),
        "two EXIF segments, 1 then 6, high": with_app1(exif(1), exif(6), photo=high),
        "two EXIF segments, 6 then 1": with_app1(exif(6), exif(1)),
        "two EXIF segments, 6 then none": with_app1(exif(6), b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
        "an APP1 that is longer than the file": wide[:2] + segment(0xE1, exif(6), 60_000) + wide[2:],
        "an APP1 that is too short": wide[:2] + segment(0xE1, exif(6), 9) + wide[2:],
        "an APP1 of no length": wide[:2] + segment(0xE1, exif(6), 0) + wide[2:],
        "1 × 30,000": encode(np.tile(np.arange(30_000, dtype=np.uint8)[:, None, None], (1, 1, 3))),
        "30,000 × 1": encode(np.tile(np.arange(30_000, dtype=np.uint8)[None, :, None], (1, 1, 3))),
        "60,000 × 60,000 told": wide.replace(struct.pack(">HH", 90, 120), struct.pack(">HH", 60_000, 60_000), 1),
        "12,000 × 12,000 told": wide.replace(struct.pack(">HH", 90, 120), struct.pack(">HH", 12_000, 12_000), 1),
        "a WebP chunk of 4 GB": webp.replace(b"EXIF" + webp[webp.index(b"EXIF") + 4 :][:4], b"EXIF\xfe\xff\xff\xff"),
        "a WebP chunk of 1 GB": webp.replace(b"EXIF" + webp[webp.index(b"EXIF") + 4 :][:4], b"EXIF\0\xca\x9a\x3b"),
        "a BMP without rows": bytes(bmp),
        "a TIFF with a tile of 60,000 × 60,000": tiff_of_a_tile(60_000),
        "a PNG whose eXIf lies": png(8, 8, chunk(b"eXIf", exif(6)[6:], 2**31 - 1)),
        "a PNG of 17,000 × 17,000": large_png,
        "an icon with a PNG of 17,000 × 17,000": icon,
        "a JPEG 2000 of 60,000 × 60,000 told": bytes(jp2),
        "a GIF whose picture is larger than its screen": bytes(gif),
        "a TGA of 60,000 × 60,000": bytes([0, 0, 2, *[0] * 9])
        + struct.pack("<HHBB", 60_000, 60_000, 24, 0)
        + bytes(99),
        "a PGM of 10^9 × 10^9": b"P5 1000000000 1000000000 255\n" + bytes(100),
    }
    files |= {f"EXIF of {n} bytes": with_app1((b"Exif\0\0" + bytes(9))[:n]) for n in range(2, 8)}
    places = np.linspace(0.05, 0.97, 30)
    large = encode(skimage.data.chelsea(), quality=90)
    return files | {f"cut at {p:.0%} with an end": large[: int(p * len(large))] + b"\xff\xd9" for p in places}


RUN = """
    import json, sys, time, warnings
    from pathlib import Path
    import skimage.data
    import fastaug as fa
    from tests.factories import encode, make_loader
    from tests.mutations import peak_mb

    warnings.simplefilter("ignore")
    folder, *files = map(Path, sys.argv[1:])
    good = [folder / f"good {i}.jpg" for i in range(7)]
    for i, path in enumerate(good):
        path.write_bytes(encode(skimage.data.chelsea()[i:, 3 * i :]))
    augment = fa.aug_transforms(size=48)

    def run(mode, *more):
        paths = [str(path) for path in (*good[:3], *more, *good[3:])]
        loader = make_loader(
            fa.Samples(paths, [0] * len(paths), ["a"]), augment=augment, mode=mode, presize=64, training=False,
            max_bad_share=1.0,
        )
        rows = [int(i) for _, _, info in loader for i in info.indices]
        assert {paths[row] for row in rows} >= {str(path) for path in good}, "a neighbour is lost"
        bad = dict(loader.quarantined)
        assert len(rows) + len(bad) == len(paths)
        return bad.get(str(more[0])) if more else None

    found = {}
    for mode in ("resize", "direct"):
        run(mode)
    for path in files:
        before, start = peak_mb(reset=True), time.perf_counter()
        reasons = [run(mode, path) for mode in ("resize", "direct")]
        found[str(path)] = reasons, peak_mb() - before, time.perf_counter() - start
    print(json.dumps(found))
"""


def check(files: dict[str, Path], tmp_path: Path) -> dict[str, str]:
    """All are delivered as Pillow shows them or named, cheaply. Returns the reasons."""
    found = json.loads(run_python(RUN, str(tmp_path), *map(str, files.values())))
    reasons = {}
    for name, path in files.items():
        (resized, direct), grown_mb, seconds = found[str(path)]
        assert resized == direct, name
        assert grown_mb < MOST_MB, name
        assert seconds < 2 * MOST_S, name
        content = path.read_bytes()
        (outcome,) = CpuDecoder(1).decode([content])
        assert (outcome if isinstance(outcome, str) else None) == resized, name
        if "planar16" not in name:  # which Pillow 13 reads wrong
            assert fault(outcome, outcome, content) is None, name
        if resized is not None:
            assert "\n" not in resized
            assert len(resized) > 10
            reasons[name] = resized
    return reasons


@LINUX
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
def test_hostile_files_end_no_run(tmp_path: Path) -> None:
    files = {}
    for i, (name, content) in enumerate(hostile().items()):
        files[name] = tmp_path / f"{i}.bin"
        files[name].write_bytes(content)
    reasons = check(files, tmp_path)
    good = ("two EXIF", "1 × 30", "30,000", "EXIF of", "an APP1 that is too short")
    assert {name for name in files if name not in reasons} >= {name for name in files if name.startswith(good)}
    assert {name for name in files if name.startswith("cut at")} <= reasons.keys()
    assert "more than max_pixels" in reasons["60,000 × 60,000 told"]
    assert "more than max_pixels" in reasons["a PNG of 17,000 × 17,000"]
    assert "premature end" in reasons["12,000 × 12,000 told"]


@LINUX
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
@pytest.mark.skipif(not REAL, reason=f"other people's files are not here: {SHARED / 'faults'}")
def test_hostile_files_of_others_end_no_run(tmp_path: Path) -> None:
    reasons = check(REAL, tmp_path)
    assert {Path(name).name for name in reasons} >= {"height0.bmp", "cut_5pc_plus_EOI.jpg", "random_block.jpg"}
    delivered = {Path(name).name for name in REAL} - {Path(name).name for name in reasons}
    assert delivered >= {
        "tall_1x30000.jpg",
        "exif_len_2.jpg",
        "one_bit.tif",
        "issue_121.jpg",
        "xmp.jpg",
        "planar16.tif",
    }


def overwritten(photos: list[bytes], number: int) -> bytes:
    """A photo with one block of 512 random bytes, anywhere in it."""
    random = np.random.default_rng(number)
    content = bytearray(photos[number % len(photos)])
    place = int(random.integers(len(content) - 512))
    content[place : place + 512] = random.bytes(512)
    return bytes(content)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
def test_of_a_thousand_photos_with_a_random_block_none_is_delivered_that_pillow_refuses() -> None:
    images = [Image.fromarray(getattr(skimage.data, name)()) for name in ("chelsea", "astronaut", "coffee", "rocket")]
    layouts: list[dict[str, Any]] = [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}]
    photos = [encode(image.resize((200, 150)), quality=95, **options) for image in images for options in layouts]
    photos += [path.read_bytes() for path in sorted(SHARED.glob("data/pets/*_1*"))[:8]]
    decoder = CpuDecoder(1)
    delivered = refused_by_pillow = 0
    for number in range(1000):
        content = overwritten(photos, number)
        (outcome,) = decoder.decode([content])
        expected = as_pillow(content)
        refused_by_pillow += isinstance(expected, str)
        if isinstance(outcome, Photo):
            delivered += 1
            assert np.array_equal(outcome.pixels, expected), number
    assert refused_by_pillow > 20
    assert delivered < 300, "the others are what libjpeg does not even warn of"


FILES, PROCESSES = 3000, 2


@LINUX
def test_thousands_of_mutated_files() -> None:
    """No crash, no hang, little memory; delivered is what Pillow shows, and refused more often are only JPEGs and TIFFs
    of whose data the codec says that it is damaged."""
    bounds = np.linspace(0, FILES, PROCESSES + 1).astype(int).tolist()

    def look(first: int, last: int) -> dict[str, Any]:
        command = [sys.executable, "-m", "tests.mutations", str(first), str(last)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE_S, cwd=ROOT)
        assert done.returncode == 0, f"it ended, the last number is the file's: {done.stderr[-2000:]}"
        return json.loads(done.stdout)

    with ThreadPoolExecutor(PROCESSES) as pool:
        found = list(pool.map(look, bounds[:-1], bounds[1:]))
    assert {number: wrong for part in found for number, wrong in part["wrong"].items()} == {}
    assert sum(part["files"] for part in found) == FILES
    assert FILES / 10 < sum(part["delivered"] for part in found) < FILES / 2
    assert max(part["most_mb"] for part in found) < MOST_MB


def test_mutated_files_are_of_seven_formats_and_always_the_same() -> None:
    decoder = CpuDecoder(1)
    assert all(isinstance(outcome, Photo) for outcome in decoder.decode(originals()))
    kinds = {content[:4] for content in originals()}
    assert len({kind for kind in kinds if kind[:2] != b"BM" and kind[:3] != b"\xff\xd8\xff"}) >= 5
    assert mutated(5) == mutated(5)
    assert len({mutated(number) for number in range(300)}) > 290


def test_what_is_wrong_is_found() -> None:
    """The comparison of mutated files rejects other pixels, other sizes, and both ways of being wrong about a file."""
    png, jpeg = encode(skimage.data.chelsea()[:9, :9], "PNG"), encode(skimage.data.chelsea()[:9, :9])
    (good,) = CpuDecoder(1).decode([png])
    assert isinstance(good, Photo)
    other = Photo(good.pixels.flip(-1), good.matrix, good.size)
    moved = Photo(good.pixels, good.matrix, (9, 10))
    assert fault(good, good, png) is None
    assert "other pixels" in str(fault(other, other, png))
    assert "Pillow delivers" in str(fault("no", "no", png))
    assert "Pillow says" in str(fault(good, good, png[:40]))
    assert "smaller scale" in str(fault("no", good, png))
    assert "smaller scale" in str(fault(good, "no", png))
    assert "smaller scale" in str(fault(good, moved, png))
    assert fault("no", "no", jpeg) is None, "libjpeg's warnings are enough"
    assert "Pillow delivers" in str(fault("no", "no", encode(skimage.data.chelsea()[:9, :9], "TIFF")))
    assert mutations.MOST_MB <= 1000
