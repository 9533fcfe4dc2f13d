"""Decode image files with NVIDIA DALI and presize them. Only this file and `dali.py`, its calls, know DALI.

DALI is driven in *dynamic mode* (imperative: encoded bytes in, a batch of tensors out), so that order, shards and
random parameters stay plain Python elsewhere. The calls are the same on a CPU and on a GPU; only `device` differs.

What matters about DALI 2.4, and was measured on a CPU:

- Decoded pixels equal Pillow's bit for bit (8-bit JPEG, PNG, BMP, TIFF, WebP, PNM; CMYK JPEG within 1 level).
- One undecodable file is an exception for its whole batch, which is then decoded again without that file.
  Above 4 × (threads + 1) files DALI reads the headers in parallel, and a header that it cannot read then ends the
  process (SIGABRT or SIGSEGV) instead of raising. Hence the batches of at most `chunk_size` files.
- `resize` with a region of interest uses corner-origin pixel coordinates, reads the filter's support beyond the
  region and does what Pillow's `resize(box=...)` does, but keeps floats between its two passes, where Pillow clips to
  0..255. Against Pillow on float channels Lanczos3 is within 7 levels, 0.004 on average (125 photos). On a CPU it took
  most of the time of a batch, so `resize.py` makes the same pictures there.
- An output tensor shares DALI's memory, which lives as long as the torch tensor does.

What was read in DALI's source, but not run on a GPU: decoding, stream order and lifetime with device="cuda".

- DALI works on `Decoder.stream`. A tensor handed to torch makes the caller's current stream wait for it
  (`__dlpack__(stream=...)`, an event, no host synchronisation).
- torch may drop a tensor while kernels still read it: DALI then keeps the memory until the device has finished the work
  queued so far (`DLTensorGraveyard`), so no `record_stream` is needed.
"""

import functools
import gc
import os
import re
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

from fastaug.loading.header import read_header, scan_end

# How far a presize square may reach over the edge of its image: rounding, not geometry.
EDGE_TOLERANCE_PX = 0.01

# Larger images are refused: one of 60,000 × 60,000 pixels fits into a small file and takes 11 GB. As Pillow's limit.
MAX_PIXELS = 2 * 89_478_485

_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# Bytes that decode to something, with or without restart markers; a picture that is complete does not need them.
_MORE_DATA = b"".join(bytes(range(1, 250)) + bytes((0xFF, 0xD0 + k)) for k in range(8)) + bytes(range(1, 250))
# JPEG 2000, as a file and as a bare code stream. A damaged one ends the process (SIGSEGV inside DALI 2.4's codec).
_JPEG_2000 = (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")
# nvimgcodecStatus_t (nvimgcodec.h, 0.9): codes that speak about the file. Others speak about memory or the device.
_DAMAGED_HEADER = {2, 3, 13, 17, 19}
_UNKNOWN_FORMAT = {4, 9, 14, 18}
_STATUS = re.compile(r"nvImageCodec failure: '#(\d+)'")
_DAMAGED_SAMPLE = re.compile(r"Failed to decode sample #(\d+)")


class DecodeError(ValueError):
    """A file that cannot be decoded.

    Args:
        position: index of the file in the batch handed to `Decoder.decode`.
        reason: one line, without a stack trace.
        name: what the user calls the file, usually its path.
    """

    def __init__(self, position: int, reason: str, name: str | None = None) -> None:
        super().__init__(f"decode: {name or f'file {position} of the batch'}: {reason}")
        self.position = position
        self.reason = reason


@dataclass(frozen=True)
class Decoded:
    """The decoded images of a batch, in the order of their files, in DALI's memory. Made and read by a `Decoder`."""

    _sizes: np.ndarray  # int64 [N, 2]
    _images: list[Any]  # see dali.decode

    def __len__(self) -> int:
        return len(self._sizes)


class Decoder:
    """Decode and presize encoded images, on a GPU (its JPEG decoder, and DALI's resize) or on the CPU.

    One Decoder may be called from several threads, one call at a time runs. Several Decoders run side by side.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        num_threads: CPU threads of this decoder, also for device="cuda". None: one pool shared by all such decoders,
            with as many threads as the process may use cores, or `DALI_NUM_THREADS`.
    Attributes:
        device: torch.device of every result.
        stream: torch.cuda.Stream on which DALI works, None on the CPU. To take results in one thread and use them in
            another, call under `torch.cuda.stream(decoder.stream)` and let the user's stream wait for an event.
    Raises:
        ImportError: DALI is not installed.
        RuntimeError: a GPU was asked for and there is none.
        ValueError: another device, or `num_threads` below 1.
    Differs from: Pillow in what it reads: no GIF, no AVIF, no JPEG with bytes before its header. See `decode`.
    Source: nvidia-dali-cuda130 2.4.0, `nvidia.dali.experimental.dynamic`. Not run on a GPU yet.
    """

    def __init__(self, device: torch.device | str, num_threads: int | None = None) -> None:
        self.device = torch.device(device)
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"Decoder: expected num_threads of at least 1 or None, got {num_threads}.")
        if self.device.type not in ("cpu", "cuda"):
            raise ValueError(f"Decoder: expected device 'cpu' or 'cuda', got '{self.device}'.")
        self._dali = _import_dali()
        self._lock = threading.Lock()
        self.stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            if not torch.cuda.is_available():
                raise RuntimeError(f"Decoder: device '{self.device}' asked for, torch finds no GPU. Use device='cpu'.")
            self.device = torch.device(
                "cuda", torch.cuda.current_device() if self.device.index is None else self.device.index
            )
            self.stream = torch.cuda.Stream(self.device)
            self._context: Any = self._dali.ndd.EvalContext(
                num_threads=num_threads, device_id=self.device.index, cuda_stream=self.stream
            )
        else:
            with self._dali.ndd.Device("cpu"):  # or the context takes the first GPU, where there is one
                self._context = self._dali.ndd.EvalContext(num_threads=num_threads)
        from fastaug.loading.resize import resize  # late, as DALI: Numba takes a moment

        self._resize, threads = resize, self._context.num_threads
        self._resizers = ThreadPoolExecutor(threads, "fastaug-resize") if self.stream is None and threads > 1 else None

    def decode(
        self, encoded: Sequence[bytes | np.ndarray], columns: np.ndarray | None = None
    ) -> tuple[Decoded, list[tuple[int, str]]]:
        """Decode to RGB uint8, turned upright by the EXIF orientation.

        Reads JPEG, PNG, BMP, TIFF, WebP and PNM; JPEG 2000 is refused, because a damaged one would end the process.
        Grayscale is repeated, CMYK converted, 16 bits scaled to 8, alpha dropped, the first page of several is read.
        A truncated file is an error, never half an image, and so is a JPEG whose data breaks off in its middle (on the
        CPU). Other bytes inside the data of a JPEG make another picture, and nobody can tell. A bad file has the files
        near it decoded again; without bad files nothing is decoded twice. DALI's codecs print their own lines about a
        bad file to stderr.

        Args:
            encoded: N files, each the whole content: bytes, or a uint8 1-D numpy array (not copied).
            columns: int64 [N, 2], the first column wanted of each image and one past the last, (0, 0) for all of
                them; None: all of all. Only for images that are stored upright. Every row is decoded, so that damage
                anywhere is found, and the pixels are the same.
        Returns:
            The good images in order, and (position in `encoded`, reason) for each file that cannot be decoded.
        Raises:
            TypeError: something else than encoded bytes.
            RuntimeError: a failure that is not a file's (memory, device), or the decoder is closed.
        """
        files = [_even_chunks(_file_array(content, position)) for position, content in enumerate(encoded)]
        images: list[Any] = []
        bad: list[tuple[int, str]] = []
        with self._running():
            for first in range(0, len(files), self.chunk_size):
                chunk = slice(first, first + self.chunk_size)
                good, reasons = self._decode_good(files[chunk], None if columns is None else columns[chunk])
                images += good
                bad += [(first + position, reason) for position, reason in sorted(reasons.items())]
            sizes = np.array([self._dali.shape(image)[:2] for image in images], np.int64).reshape(-1, 2)
        return Decoded(sizes, images), bad

    def sizes(self, decoded: Decoded) -> np.ndarray:
        """int64 [N, 2], (height, width) in pixels as decoded, EXIF-upright; known on the host, nothing is awaited."""
        return decoded._sizes.copy()

    def presize(self, decoded: Decoded, top_left_xy: Any, side: Any, size: int) -> torch.Tensor:
        """Crop one square from each image and resize it to size × size, in one interpolation.

        Args:
            decoded: N images of this decoder.
            top_left_xy: float [N, 2], (x, y) of the square's corner in pixels, corner-origin; on the host.
            side: float [N], the square's side in pixels; the square lies inside the image. On the host.
            size: side of the result in pixels.
        Returns:
            uint8 [N, size, size, 3], RGB, on `device`; on a GPU, ready for the calling thread's current stream.
        Raises:
            ValueError: shapes that do not fit, or a square that is empty, not finite or not inside its image.
        Differs from: Pillow's `resize(box=..., resample=LANCZOS)` by 0.2 levels on average, and by up to 39 beside hard
            black and white edges, where Pillow clips its intermediate image to 0..255 and this does not. A CPU and a
            GPU differ by a level at most.
        """
        start_xy, side_px = _checked_squares(top_left_xy, side, decoded._sizes, size)
        if self.stream is not None and len(decoded):
            return self._presize_with_dali(decoded, start_xy, side_px, size)
        out = torch.empty((len(decoded), size, size, 3), dtype=torch.uint8, device=self.device)
        self._resize_squares(decoded, start_xy, side_px, out)
        return out

    def presize_into(self, decoded: Decoded, top_left_xy: Any, side: Any, out: Sequence[torch.Tensor]) -> None:
        """As `presize` on a CPU, into memory of the caller: N tensors uint8 [size, size, 3], C-contiguous."""
        size = len(out[0]) if out else 1
        self._resize_squares(decoded, *_checked_squares(top_left_xy, side, decoded._sizes, size), out)

    def _resize_squares(
        self, decoded: Decoded, start_xy: np.ndarray, side_px: np.ndarray, out: Iterable[torch.Tensor]
    ) -> None:
        boxes = [(x, y, edge, edge) for (x, y), edge in zip(start_xy.tolist(), side_px.tolist(), strict=True)]
        with self._running():
            self._resize_each(decoded._images, boxes, out)

    def _presize_with_dali(
        self, decoded: Decoded, start_xy: np.ndarray, side_px: np.ndarray, size: int
    ) -> torch.Tensor:
        start_yx = np.ascontiguousarray(start_xy[:, ::-1])
        box = start_yx, start_yx + side_px[:, None]
        with self._running():
            resized = self._dali.resize(decoded._images, [size, size], box, self._dali_device)
            return self._to_torch(self._dali.ndd.as_tensor(resized))

    def shrink(self, images: Sequence[torch.Tensor], sizes: np.ndarray) -> list[torch.Tensor]:
        """Resize whole images, with the presize's filter.

        Args:
            images: N tensors uint8 [H, W, 3] on `device`.
            sizes: integer [N, 2], (height, width) of each result.
        Returns:
            N tensors uint8 [height, width, 3] on `device`; on a GPU ready for the calling thread's current stream.
        """
        if self.stream is not None and len(images):
            return self._shrink_with_dali(images, sizes)
        out = [torch.from_numpy(np.empty((height, width, 3), np.uint8)) for height, width in sizes.tolist()]
        boxes = [(0.0, 0.0, float(image.shape[1]), float(image.shape[0])) for image in images]
        with self._running():
            self._resize_each([image.numpy() for image in images], boxes, out)
        return out

    def _shrink_with_dali(self, images: Sequence[torch.Tensor], sizes: np.ndarray) -> list[torch.Tensor]:
        with self._running():
            resized = self._dali.resize(list(images), np.asarray(sizes, np.float32), None, self._dali_device)
            return [self._to_torch(image) for image in self._dali.images_of(resized)]

    def _resize_each(
        self, images: list[np.ndarray], boxes: list[tuple[float, float, float, float]], out: Iterable[torch.Tensor]
    ) -> None:
        work = [map(np.ascontiguousarray, images), boxes, (part.numpy() for part in out)]
        if self._resizers is None:
            for arguments in zip(*work, strict=True):
                self._resize(*arguments)
        else:
            list(self._resizers.map(self._resize, *work))

    def tensors(self, decoded: Decoded) -> list[torch.Tensor]:
        """The decoded images as they are: N tensors uint8 [H, W, 3] on `device`, views of DALI's memory, not copied.

        Writing into one changes the decoded image. On a GPU they are ready for the calling thread's current stream.
        """
        with self._running():
            return [self._to_torch(image) for image in decoded._images]

    def close(self) -> None:
        """Let go of the threads and the memory. What was handed out stays valid."""
        with self._lock:
            self._context = None
            if self._resizers is not None:
                self._resizers.shutdown()

    @property
    def _dali_device(self) -> str:
        return "gpu" if self.device.type == "cuda" else "cpu"

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Within: this decoder's threads, stream and device (DALI keeps them per thread), errors where they happen."""
        with self._lock:
            if self._context is None:
                raise RuntimeError("Decoder: it was closed. Make a new one.")
            with self._context, self._dali.ndd.EvalMode.sync_cpu:
                yield

    @property
    def chunk_size(self) -> int:
        """Files that DALI decodes at once: up to here it reads their headers in the calling thread, see above."""
        return 4 * (self._context.num_threads + 1)

    def _decode_batch(self, files: list[np.ndarray], columns: np.ndarray | None = None) -> list[Any]:
        return self._dali.decode(files, columns, self._dali_device)

    def _decode_good(
        self, files: list[np.ndarray], columns: np.ndarray | None = None
    ) -> tuple[list[Any], dict[int, str]]:
        """The files that can be decoded, and position -> reason of those that cannot."""
        images, bad = self._decode_columns(files, columns)
        if self.stream is not None:
            return images, bad
        kept = []
        for position, image in zip([i for i in range(len(files)) if i not in bad], images, strict=True):
            if self._breaks_off(files[position], image):
                bad[position] = "damaged or truncated image data"
            else:
                kept.append(image)
        return kept, bad

    def _breaks_off(self, file: np.ndarray, image: Any) -> bool:
        """Whether the data of a JPEG ends before its picture does, which libjpeg fills up with one colour.

        Looked into only where an edge of the picture has one colour and bytes follow what was read. The answer is
        whether more data would have changed the picture.
        """
        if file[:2].tobytes() != _JPEG or not _has_plain_edge(image):
            return False
        end = scan_end(file.data)
        if end is None or not file[end + 2 :].any():
            return False
        start = file[:end].tobytes()
        shorter, longer = (np.frombuffer(start + more + _JPEG_END, np.uint8) for more in (b"", _MORE_DATA))
        try:
            as_it_is, changed = self._decode_batch([shorter, longer])
        except (RuntimeError, MemoryError):
            return True
        return not np.array_equal(as_it_is, changed)

    def _decode_columns(self, files: list[np.ndarray], columns: np.ndarray | None) -> tuple[list[Any], dict[int, str]]:
        # libjpeg-turbo upsamples a single column in another way than many
        several = columns is not None and (columns[:, 1] - columns[:, 0] > 1).all()
        if columns is not None and several and not any(map(self._refusal, files)):
            try:
                return self._decode_batch(files, columns), {}
            except (RuntimeError, MemoryError):
                pass  # which file it is comes out below, by another way to the same pixels
        whole, bad = self._decode_whole(files)
        if columns is None:
            return whole, bad
        wanted = [pair for position, pair in enumerate(columns.tolist()) if position not in bad]
        return [image[:, a:b] if b else image for image, (a, b) in zip(whole, wanted, strict=True)], bad

    def _decode_whole(self, files: list[np.ndarray]) -> tuple[list[Any], dict[int, str]]:
        bad = {position: reason for position, file in enumerate(files) if (reason := self._refusal(file))}
        named_before = False
        while good := [position for position in range(len(files)) if position not in bad]:
            try:
                return self._decode_batch([files[position] for position in good]), bad
            except (RuntimeError, MemoryError) as error:
                named = _DAMAGED_SAMPLE.search(str(error))
                if named and not named_before:
                    named_before = True
                    position = good[int(named[1])]
                    found = {position: self._reason_or_raise(error, files[position])}
                else:
                    self._reason_or_raise(error, files[good[0]])
                    found = self._bad_alone(files, good)
                if not found:
                    raise
                bad |= found
        return [], bad

    def _refusal(self, file: np.ndarray) -> str | None:
        """Why a file must not even be tried."""
        start = file[:8].tobytes()
        if start.startswith(_JPEG_2000):
            return "JPEG 2000 is not read, because damaged files of it end the process; convert it to PNG"
        header = read_header(file.data)
        if header is None and not start.startswith(_JPEG):
            height, width = self._peek(file)
        else:
            height, width, _ = header or (0, 0, 0)
        if height * width > MAX_PIXELS:
            return f"{width:,} × {height:,} pixels; more than {MAX_PIXELS / 1e6:.0f} million are not decoded"
        return None

    def _peek(self, file: np.ndarray) -> tuple[int, int]:
        """(height, width), (0, 0) where DALI cannot tell."""
        try:
            height, width, _ = self._dali.image_shape(file)
            return height, width
        except (RuntimeError, MemoryError):
            return 0, 0

    def _bad_alone(self, files: list[np.ndarray], positions: list[int]) -> dict[int, str]:
        bad = {}
        for position in positions:
            try:
                self._decode_batch([files[position]])
            except (RuntimeError, MemoryError) as error:
                bad[position] = self._reason_or_raise(error, files[position])
        return bad

    @staticmethod
    def _reason_or_raise(error: Exception, file: np.ndarray) -> str:
        reason = _reason(error, file)
        if reason is None:
            raise error
        return reason

    def _to_torch(self, tensor: Any) -> torch.Tensor:
        if self.stream is None:
            return torch.from_numpy(np.asarray(tensor))
        # The stream is handed over by hand: DALI 2.4 and torch disagree about the arguments of `__dlpack__`.
        # 1 is DLPack's word for the legacy default stream, whose handle is 0.
        stream = torch.cuda.current_stream(self.device).cuda_stream or 1
        return torch.from_dlpack(tensor.__dlpack__(stream, None))


def _import_dali() -> ModuleType:
    from fastaug.loading import dali  # late: it takes seconds, and a user of the operators may do without DALI

    _protect_forked_children()
    return dali


@functools.cache
def _protect_forked_children() -> None:
    """Keep the garbage collector of forked children away from what they inherit.

    DALI's thread pools join their threads when they are freed. A child has none of these threads: a DataLoader's worker
    that collected its parent's garbage would wait for ever.
    """
    os.register_at_fork(after_in_child=gc.freeze)


def _has_plain_edge(pixels: np.ndarray) -> bool:
    """Whether the first or the last row or column of [H, W, 3] has one colour."""
    height, width, _ = pixels.shape
    (a, b), (c, d) = (
        list(map(bytes, row)) for row in pixels[:: max(height - 1, 1), :: max(width - 1, 1)][[0, -1]][:, [0, -1]]
    )
    edges = ((a == b, pixels[0]), (c == d, pixels[-1]), (a == c, pixels[:, 0]), (b == d, pixels[:, -1]))
    return any(same and bool((edge == edge[:1]).all()) for same, edge in edges)


def _file_array(content: Any, position: int) -> np.ndarray:
    if isinstance(content, bytes | bytearray | memoryview):
        file = np.frombuffer(content, np.uint8)
        return file if file.flags.writeable else file.copy()  # DALI copies it too, but in Python and one by one
    if isinstance(content, np.ndarray) and content.dtype == np.uint8 and content.ndim == 1:
        return np.ascontiguousarray(content)
    got = f"{content.dtype} array {content.shape}" if isinstance(content, np.ndarray) else type(content).__name__
    raise TypeError(
        f"decode: expected the content of file {position} as bytes or a uint8 1-D array, got {got}. "
        "Read it first: np.fromfile(path, np.uint8)."
    )


def _even_chunks(file: np.ndarray) -> np.ndarray:
    """A WebP file with the byte that pads an odd chunk counted to the chunk: nvImageCodec 0.9 does not skip it."""
    if file[8:16].tobytes() != b"WEBPVP8X":
        return file
    mended = bytearray(file.tobytes())
    place = 12
    while place + 8 < len(mended):
        (size,) = struct.unpack_from("<I", mended, place + 4)
        if size % 2 and place + 8 + size + 1 < len(mended):
            struct.pack_into("<I", mended, place + 4, size + 1)
        place += 8 + size + size % 2
    return np.frombuffer(mended, np.uint8)


def _reason(error: Exception, file: np.ndarray) -> str | None:
    """One line about why a file cannot be decoded; None if the error is not a file's fault."""
    message, status = str(error), _STATUS.search(str(error))
    if status and int(status[1]) not in _DAMAGED_HEADER | _UNKNOWN_FORMAT:
        return None
    if file.size == 0:
        return "empty file (0 bytes)"
    if status and int(status[1]) in _UNKNOWN_FORMAT:
        return f"not an image format that DALI reads; the file starts with {file[:8].tobytes()!r}"
    if status or "Invalid sample_type" in message:
        return "damaged or truncated image header"
    if _DAMAGED_SAMPLE.search(message):
        return "damaged or truncated image data"
    if "std::bad_alloc" in message:  # host memory: a damaged header asks for an absurd size
        return "the header asks for more memory than there is"
    return None


def _checked_squares(top_left_xy: Any, side: Any, sizes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of the corners and the sides of the squares, as float32."""
    start_xy, side_px = np.asarray(top_left_xy, np.float32), np.asarray(side, np.float32)
    n = len(sizes)
    if start_xy.shape != (n, 2) or side_px.shape != (n,):
        raise ValueError(
            f"presize: expected top_left_xy [{n}, 2] and side [{n}] for {n} images, got {list(start_xy.shape)} and "
            f"{list(side_px.shape)}. Leave out the files that could not be decoded."
        )
    if size < 1:
        raise ValueError(f"presize: expected a size of at least 1 pixel, got {size}.")
    end_xy, limit_xy = start_xy + side_px[:, None], sizes[:, ::-1] + EDGE_TOLERANCE_PX
    inside = (start_xy >= -EDGE_TOLERANCE_PX).all(1) & (end_xy <= limit_xy).all(1) & (end_xy > start_xy).all(1)
    if not inside.all():
        i = int(np.argmin(inside))
        raise ValueError(
            f"presize: expected square {i} inside its image of {sizes[i, 1]} × {sizes[i, 0]} pixels (width × height), "
            f"got x, y = {start_xy[i].tolist()} and side {side_px[i]}. Clip it to the image."
        )
    return start_xy, side_px
