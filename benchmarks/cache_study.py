"""What should a cache keep? The study behind raw pixels, and behind how fine JPEGs are decoded for it.

    python -m benchmarks.cache_study FOLDER --hires FOLDER
    python -m benchmarks.cache_study --tiny              # photos that scikit-image ships

- *Codecs* (`pip install zstandard lz4`): photos as a cache keeps them, with a short side of at most 460, are encoded,
  and decoded into a buffer that was used before, as far as the library can. Lossless answers equal the pixels bit for
  bit, before they are timed; of JPEG the PSNR is told. *Up* subtracts from each row the one above; the inverse is a
  Numba loop, which is faster than NumPy's. Beside them: decoding the photo's own JPEG at the scale that the cache asks
  for, and the warp alone of the kept pixels.
- *Fidelity* (`_COARSER` in `fastaug.loading.cache`, `_ROUNDING_PX` in `fastaug.loading.modes`): PSNR of batches to
  those of the same draws that direct mode makes of photos with every pixel decoded, without a cache. The first epoch
  fills the cache, all of the later ones come from it. Scored are output pixels away from the edge, of photos that are
  made smaller by far.

CPU time of one thread; the ways take turns.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numba
import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor

import fastaug as fa
from benchmarks import cached_epochs, common, fidelity, loaders
from benchmarks.cached_epochs import Kept, kept_photos
from benchmarks.common import PRESIZE, SIZE
from benchmarks.scale_study import EQUAL_DB, decibels
from fastaug.demo import comparison
from fastaug.loading import cache, jpeg, modes
from fastaug.loading.cpu_decoder import CpuDecoder

BATCH = 8  # of the loader
AT_LEAST = 64  # photos in a timed pass; a batch of the warp
QUALITY = 98
MARGIN = 24  # output pixels at each edge that are not scored
LARGE = 600  # pixels of the short side, above which photos are looked at for fidelity

RAW, ZSTD, LZ4, JPEG = "raw, copied", "up, zstd 1", "up, lz4", f"JPEG, quality {QUALITY}, 4:4:4"
OWN, WARP = "the photo's own JPEG", "the warp alone"


@dataclass(frozen=True)
class Codec:
    """A way of keeping pixels.

    Attributes:
        encode: uint8 [h, w, 3] -> what is kept.
        decode: that, and a buffer uint8 [h, w, 3] -> the pixels, in the buffer or in memory of their own.
    """

    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes, np.ndarray], np.ndarray]
    lossless: bool = True


def up(pixels: np.ndarray) -> np.ndarray:
    """Each row without the one above, modulo 256."""
    left = pixels.copy()
    left[1:] -= pixels[:-1]
    return left


@numba.njit(cache=True)
def undo_up(rows: np.ndarray) -> None:
    """In place; uint8 [h, n]."""
    for i in range(1, rows.shape[0]):
        for j in range(rows.shape[1]):
            rows[i, j] = np.uint8(rows[i, j] + rows[i - 1, j])


def raw() -> Codec:
    def decode(kept: bytes, out: np.ndarray) -> np.ndarray:
        out[:] = np.frombuffer(kept, np.uint8).reshape(out.shape)
        return out

    return Codec(np.ndarray.tobytes, decode)


def up_zstd() -> Codec:
    import zstandard

    compressor, decompressor = zstandard.ZstdCompressor(level=1), zstandard.ZstdDecompressor()

    def decode(kept: bytes, out: np.ndarray) -> np.ndarray:
        decompressor.stream_reader(kept).readinto(out.data.cast("B"))
        undo_up(out.reshape(len(out), -1))
        return out

    return Codec(lambda pixels: compressor.compress(up(pixels)), decode)


def up_lz4() -> Codec:
    import lz4.block

    def decode(kept: bytes, out: np.ndarray) -> np.ndarray:
        pixels = np.frombuffer(lz4.block.decompress(kept, return_bytearray=True), np.uint8).reshape(out.shape)
        undo_up(pixels.reshape(len(pixels), -1))
        return pixels

    return Codec(lambda pixels: lz4.block.compress(up(pixels).data.cast("B")), decode)


def lossy() -> Codec:
    return Codec(
        lambda pixels: simplejpeg.encode_jpeg(pixels, QUALITY, "RGB", "444"),
        lambda kept, out: simplejpeg.decode_jpeg(kept, "RGB", buffer=out),
        lossless=False,
    )


CODECS = {RAW: raw, ZSTD: up_zstd, LZ4: up_lz4, JPEG: lossy}


@dataclass(frozen=True)
class Encoded:
    """Photos under a codec.

    Attributes:
        kept: of each.
        mse: mean squared difference of each, pixels in 0..1.
        wrong: lossless: the largest difference in levels; else by how much they show something else, in levels.
    """

    codec: Codec
    kept: list[bytes]
    mse: Tensor
    wrong: float


def encode(codec: Codec, photos: Sequence[np.ndarray]) -> Encoded:
    """What is kept of the photos, and what they are afterwards."""
    kept = [codec.encode(pixels) for pixels in photos]
    mse, wrong = [], 0.0
    for one, pixels in zip(kept, photos, strict=True):
        answer = codec.decode(one, np.zeros_like(pixels))
        levels = (answer.astype(np.float64) - pixels) if answer.shape == pixels.shape else np.full(1, np.inf)
        mse.append(float(np.square(levels / 255).mean()))
        shown, expected = (torch.from_numpy(x).permute(2, 0, 1)[None] / 255 for x in (answer, pixels))
        off = float(np.abs(levels).max()) if codec.lossless else comparison.difference_levels(shown, expected)
        wrong = max(wrong, off)
    return Encoded(codec, kept, torch.tensor(mse), wrong)


def admitted(report: common.Report, photos: Sequence[np.ndarray]) -> dict[str, Encoded]:
    """The codecs that are there and right."""
    found = {}
    for name, make in CODECS.items():
        with report.peer(name):
            encoded = encode(make(), photos)
            allowed = 0.0 if encoded.codec.lossless else comparison.SAME_WITHIN_LEVELS
            if report.admit(name, encoded.wrong, allowed, "levels"):
                found[name] = encoded
    return found


def warps(kept: Kept, seed: int) -> Callable[[], None]:
    """Of all photos, with what is drawn made beforehand."""
    batches = [kept.drawn(rows, seed, 0) for rows in torch.arange(len(kept.pixels)).split(AT_LEAST)]

    def one_pass() -> None:
        for images, matrix, color in batches:
            fa.warp(images, matrix, SIZE, color=color)

    return one_pass


def own_jpegs(files: Sequence[Path], kept: Kept) -> Callable[[], None]:
    """Of all photos, decoded as to be kept; files: in turn."""
    contents = [file.read_bytes() for file in files]
    needs = [cache.needed((height, width), PRESIZE) for height, width in kept.sizes.tolist()]
    decoder = CpuDecoder(1)

    def one_pass() -> None:
        for row, need in enumerate(needs):
            (photo,) = decoder.decode([contents[row % len(contents)]], [need])
            if isinstance(photo, str):
                raise RuntimeError(f"{files[row % len(files)].name}: expected pixels, got: {photo}")

    return one_pass


def cpu_times(ways: dict[tuple[str, str], Callable[[], object]], repeats: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of a pass, of all threads of this process; in turns, after one to warm up."""
    used: dict[tuple[str, str], list[float]] = {key: [] for key in ways}

    def timed(key: tuple[str, str]) -> None:
        start = time.process_time()
        ways[key]()
        used[key].append(time.process_time() - start)

    comparison.take_turns({key: partial(timed, key) for key in ways}, repeats)
    return {key: seconds[1:] for key, seconds in used.items()}


def codecs(report: common.Report, name: str, files: Sequence[Path], repeats: int) -> None:
    """Rows and table of the codecs, for the photos of a folder."""
    count = len(files) * -(-AT_LEAST // len(files))
    kept = kept_photos(files, count)
    photos = [pixels.numpy() for pixels in kept.pixels]
    buffer = np.zeros(max(pixels.size for pixels in photos), np.uint8)

    def encode_all(codec: Codec) -> None:
        for pixels in photos:
            codec.encode(pixels)

    def decode_all(encoded: Encoded) -> None:
        for one, pixels in zip(encoded.kept, photos, strict=True):
            encoded.codec.decode(one, buffer[: pixels.size].reshape(pixels.shape))

    right = admitted(report, photos)
    ways: dict[tuple[str, str], Callable[[], object]] = {
        (OWN, "decode"): own_jpegs(files, kept),
        (WARP, "decode"): warps(kept, report.settings["seed"]),
    }
    ways |= {(each, "decode"): partial(decode_all, encoded) for each, encoded in right.items()}
    ways |= {(each, "encode"): partial(encode_all, encoded.codec) for each, encoded in right.items()}
    used = cpu_times(ways, repeats)
    total = sum(pixels.nbytes for pixels in photos)
    sizes = {each: sum(map(len, encoded.kept)) / total for each, encoded in right.items()}
    sizes[OWN] = sum(file.stat().st_size for file in files) * (count // len(files)) / total
    lines = []
    for each in [*right, OWN, WARP]:
        times = {step: [1e3 * one / count for one in used.get((each, step), [])] for step in ("decode", "encode")}
        row = {
            "folder": name, "name": each, "of_raw": sizes.get(each), "decode_cpu_ms": times["decode"],
            "encode_cpu_ms": times["encode"],
            **{key: common.ratios(used[each, "decode"], used[base, "decode"]) for key, base in BASES.items()},
        }  # fmt: skip
        psnr = ""
        if each in right and not right[each].codec.lossless:
            of_photos = decibels(right[each].mse)
            row["psnr_db"] = of_photos.tolist()
            psnr = f"{of_photos.mean():.1f} / {of_photos.min():.1f}"
        report.rows.append(row)
        shown = [common.with_spread(comparison.quartiles(ms), 2) if ms else "" for ms in times.values()]
        lines.append(
            [
                each, f"{sizes[each]:.3f}" if each in sizes else "", shown[0],
                *(common.with_spread(row[key], 2) for key in BASES), psnr or ("equal" if each in right else ""),
                shown[1],
            ]
        )  # fmt: skip
    report.table(
        f"Codecs, {name}: {len(files)} photos of {total / count / 1e3:,.0f} kB as they are kept, {repeats} passes; "
        "middle half in brackets",
        [
            "", "bytes / raw", "decoding, CPU ms a photo", "times the photo's own JPEG", "times the warp alone",
            "PSNR, dB, mean / worst", "encoding, CPU ms a photo",
        ], lines,
    )  # fmt: skip


BASES = {"times_own": OWN, "times_warp": WARP}


@dataclass(frozen=True)
class Setting:
    """How batches are made.

    Attributes:
        least: pixels to which a JPEG is decoded for one that a cache keeps; None: there is no cache.
        whole_pixels: a presize that is pixels of the photo but for a rounding is cut out.
        scale: of the loader.
    """

    least: float | None = None
    whole_pixels: bool = True
    scale: str = "auto"


AS_IT_IS = jpeg.LEAST_FOOTPRINT / cache._COARSER
UNCACHED = "no cache"
SETTINGS = {UNCACHED: Setting()} | {f"cache, decoded to {least:g}": Setting(least) for least in (2, AS_IT_IS, 1.25)}
INTERPOLATED = f"cache, decoded to {AS_IT_IS:g}, never cut out"
SETTINGS[INTERPOLATED] = Setting(AS_IT_IS, whole_pixels=False)
TRUTH = Setting(scale="exact")


@contextmanager
def keeping(setting: Setting) -> Iterator[None]:
    """Within: caches and modes work so."""
    before = cache._COARSER, modes._ROUNDING_PX
    if setting.least is not None:
        cache._COARSER = jpeg.LEAST_FOOTPRINT / setting.least
    if not setting.whole_pixels:
        modes._ROUNDING_PX = -1
    try:
        yield
    finally:
        cache._COARSER, modes._ROUNDING_PX = before


def views(files: Sequence[Path], mode: str, setting: Setting, epochs: int, seed: int) -> Tensor:
    """Of each file in each epoch: float32 [epochs × N, 3, size, size] in 0..1, without the margin."""
    samples = fa.Samples([str(file) for file in files], [0] * len(files), ["photo"])
    parts = []
    with keeping(setting), tempfile.TemporaryDirectory() as folder:  # a process shares a cache of the same settings
        made = fa.ImageLoader(
            samples, min(BATCH, len(files)), PRESIZE, common.default_augment(normalize=None), device="cpu", seed=seed,
            mode=mode, drop_last=False, on_error="raise", return_info=True, num_threads=1, scale=setting.scale,
            cache=None if setting.least is None else folder, cache_size=None if setting.least is None else PRESIZE,
        )  # fmt: skip
        for epoch in range(epochs):
            of_cache = setting.least is not None and epoch > 0
            batches = [(info.indices, x) for x, _, info in cached_epochs.epoch_of(made, of_cache)]
            indices, images = (torch.cat(part) for part in zip(*batches, strict=True))
            parts.append(images[indices.argsort()])
    return torch.cat(parts)[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def large(files: Sequence[Path]) -> list[Path]:
    found = []
    for file in files:
        with Image.open(file) as photo:
            if min(photo.size) > LARGE:
                found.append(file)
    return found


def fidelities(report: common.Report, name: str, files: Sequence[Path], epochs: int) -> None:
    """Rows and table of the settings, for large photos of a folder."""
    seed, lines = report.settings["seed"], []
    truth = views(files, "direct", TRUTH, epochs, seed)
    for setting_name, setting in SETTINGS.items():
        line = [setting_name]
        for mode in ("direct", "resize"):
            if mode == "direct" and not setting.whole_pixels:  # which has no presize to cut out
                line += ["", "", ""]
                continue
            images = views(files, mode, setting, epochs, seed)
            off = comparison.difference_levels(images, truth)
            if not report.admit(f"{name}, {setting_name}, {mode}", off, comparison.SAME_WITHIN_LEVELS, "levels"):
                line += ["refused", "", ""]
                continue
            db = decibels((images.double() - truth).square().mean((1, 2, 3)))
            report.rows.append({"folder": name, "name": setting_name, "mode": mode, "psnr_db": db.tolist()})
            differ = db[db < EQUAL_DB]
            shown = [f"{differ.mean():.2f}", f"{differ.min():.2f}"] if len(differ) else ["equal", "equal"]
            line += [*shown, str(len(differ))]
        lines.append(line)
    report.table(
        f"Fidelity, {name}: {len(files)} photos with a short side above {LARGE} × {epochs} epochs; dB to all pixels, "
        "direct, no cache, of the views that differ",
        ["", "direct, mean", "worst", "views", "resize, mean", "worst", "views"], lines,
    )  # fmt: skip


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="JPEG files; default: scikit-image's photos")
    parser.add_argument("--hires", type=Path, help="large JPEG files; default: scikit-image's largest")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    repeats, epochs = (1, 2) if arguments.tiny else (arguments.repeats, arguments.epochs)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    settings = {"repeats": repeats, "epochs": epochs, "seed": arguments.seed, "margin": MARGIN}
    report = common.Report("cache_study", settings)
    with tempfile.TemporaryDirectory() as temporary:
        found = {"photos": loaders.jpeg_files(arguments.folder, Path(temporary))}
        found["hires"] = (
            common.photo_files(arguments.hires)
            if arguments.hires
            else common.scikit_image_photos(fidelity.SCIKIT_IMAGE)
        )
        found = {name: [file for file in files if file.suffix.lower() != ".png"] for name, files in found.items()}
        report.settings |= {name: len(files) for name, files in found.items()}
        for name, files in found.items():
            codecs(report, name, files, repeats)
        for name, files in found.items():
            if chosen := large(files):
                fidelities(report, name, chosen, epochs)
    return report.finish(common.out_path(arguments))


if __name__ == "__main__":
    sys.exit(main())
