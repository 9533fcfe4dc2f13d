"""Decode image files with NVIDIA DALI, and resize photos. Only this file and `dali.py`, its calls, know DALI.

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
- A photo's pixels share DALI's memory, which lives as long as the torch tensor does.

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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch

from fastaug.loading.header import read_header, scan_end
from fastaug.loading.photo import Need, Photo, Resizing, Size

# How far a box may reach over the edge of its photo: rounding, not geometry.
EDGE_TOLERANCE_PX = 0.01

# Pixels beside the columns that are wanted, from which on it saves time to leave them out: DALI's way of doing that
# costs something for every photo, as much as decoding about these.
MIN_PIXELS_LEFT_OUT = 250_000

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


class Decoder:
    """Encoded images to photos, photos to smaller ones: on a GPU by its JPEG decoder and DALI's resize, or on a CPU.

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
        self, encoded: Sequence[bytes | np.ndarray], needs: Sequence[Need | None] | None = None
    ) -> list[Photo | str]:
        """Decode to RGB uint8, turned upright by the EXIF orientation.

        Reads JPEG, PNG, BMP, TIFF, WebP and PNM; JPEG 2000 is refused, because a damaged one would end the process.
        Grayscale is repeated, CMYK converted, 16 bits scaled to 8, alpha dropped, the first page of several is read.
        A truncated file is an error, never half an image, and so is a JPEG whose data breaks off in its middle (on the
        CPU). Other bytes inside the data of a JPEG make another picture, and nobody can tell. A bad file has the files
        near it decoded again; without bad files nothing is decoded twice. DALI's codecs print their own lines about a
        bad file to stderr.

        Args:
            encoded: N files, each the whole content: bytes, or a uint8 1-D numpy array (not copied).
            needs: what is wanted of each, of files that are stored upright; None: all of it. On a CPU the other columns
                are left out where that saves time. Every row is decoded, so that damage anywhere is found, and the
                pixels are the same.
        Returns:
            A Photo, or the reason why there is none, for each file; pixels are views of DALI's memory, not copied. On a
            GPU they are ready for the calling thread's current stream.
        Raises:
            TypeError: something else than encoded bytes.
            RuntimeError: a failure that is not a file's (memory, device), or the decoder is closed.
        """
        files = [_even_chunks(_file_array(content, position)) for position, content in enumerate(encoded)]
        wanted = list(needs) if needs is not None and self.stream is None else [None] * len(files)
        cut_out = [need is not None and _saves_time(need) for need in wanted]
        outcomes: dict[int, Photo | str] = {}
        with self._running():
            for cut in (False, True):  # in calls of their own: it costs all photos of a call something
                alike = [position for position in range(len(files)) if cut_out[position] == cut]
                for first in range(0, len(alike), self.chunk_size):
                    chunk = alike[first : first + self.chunk_size]
                    columns = np.array([need.part[::2] for row in chunk if (need := wanted[row])], np.int64)
                    images = self._decode_good([files[row] for row in chunk], columns if cut else None)
                    for position, image in zip(chunk, images, strict=True):
                        bad = isinstance(image, str)
                        outcomes[position] = image if bad else _photo(self._to_torch(image), wanted[position], cut)
        return [outcomes[position] for position in range(len(files))]

    def resize(
        self, photos: Sequence[Photo], resizing: Resizing, out: Sequence[np.ndarray] | None = None
    ) -> list[Photo]:
        """Resize a box of some photos with the Lanczos filter, in one interpolation.

        Args:
            photos: of this decoder.
            resizing: which of them, which box of each, and to which size.
            out: on a CPU, memory for the new pixels: arrays uint8 [height, width, 3], C-contiguous.
        Returns:
            All photos, those that were not resized as they were. On a GPU the pixels are ready for the calling thread's
            current stream.
        Raises:
            ValueError: a box that is empty, not finite or not inside its photo.
        Differs from: Pillow's `resize(box=..., resample=LANCZOS)` by 0.2 levels on average, and by up to 39 beside hard
            black and white edges, where Pillow clips its intermediate image to 0..255 and this does not. A CPU and a
            GPU differ by a level at most.
        """
        images = [photos[row].pixels for row in resizing.rows]
        boxes = _checked_boxes(resizing, images)
        if not images:
            return list(photos)
        if self.stream is not None:
            return resizing.apply(photos, self._resize_with_dali(images, boxes, resizing.sizes))
        if out is None:
            out = [np.empty((height, width, 3), np.uint8) for height, width in resizing.sizes]
        with self._running():
            self._resize_each(images, boxes, out)
        return resizing.apply(photos, [torch.from_numpy(pixels) for pixels in out])

    def _resize_each(self, images: Sequence[torch.Tensor], boxes: np.ndarray, out: Sequence[np.ndarray]) -> None:
        pixels = (np.ascontiguousarray(image.numpy()) for image in images)
        work = [pixels, map(tuple, boxes.tolist()), out]
        if self._resizers is None:
            for arguments in zip(*work, strict=True):
                self._resize(*arguments)
        else:
            list(self._resizers.map(self._resize, *work))

    def _resize_with_dali(
        self, images: Sequence[torch.Tensor], boxes: np.ndarray, sizes: Sequence[Size]
    ) -> list[torch.Tensor]:
        start = np.ascontiguousarray(boxes[:, 1::-1], np.float32)
        region = start, np.ascontiguousarray(boxes[:, 1::-1] + boxes[:, :1:-1], np.float32)
        with self._running():
            resized = self._dali.resize(list(images), np.asarray(sizes, np.float32), region, self._dali_device)
            if len(set(sizes)) == 1:  # one tensor is handed over, not one for each image
                return list(self._to_torch(self._dali.ndd.as_tensor(resized)))
            return [self._to_torch(image) for image in self._dali.images_of(resized)]

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
        return 4 * (int(self._context.num_threads) + 1)

    def _decode_batch(self, files: list[np.ndarray], columns: np.ndarray | None = None) -> list[Any]:
        images: list[Any] = self._dali.decode(files, columns, self._dali_device)
        return images

    def _decode_good(self, files: list[np.ndarray], columns: np.ndarray | None = None) -> list[Any]:
        """The image of each file, or the reason why there is none."""
        outcomes = self._decode_columns(files, columns)
        if self.stream is not None:
            return outcomes
        return [
            "damaged or truncated image data" if not isinstance(image, str) and self._breaks_off(file, image) else image
            for file, image in zip(files, outcomes, strict=True)
        ]

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

    def _decode_columns(self, files: list[np.ndarray], columns: np.ndarray | None) -> list[Any]:
        if columns is None:
            return self._decode_whole(files)
        # libjpeg-turbo upsamples a single column in another way than many
        if (columns[:, 1] - columns[:, 0] > 1).all() and not any(map(self._refusal, files)):
            try:
                return self._decode_batch(files, columns)
            except (RuntimeError, MemoryError):
                pass  # which file it is comes out below, by another way to the same pixels
        parts = zip(self._decode_whole(files), columns.tolist(), strict=True)
        return [image if isinstance(image, str) else image[:, first:last] for image, (first, last) in parts]

    def _decode_whole(self, files: list[np.ndarray]) -> list[Any]:
        outcomes: dict[int, Any] = {i: reason for i, file in enumerate(files) if (reason := self._refusal(file))}
        named_before = False
        while good := [position for position in range(len(files)) if position not in outcomes]:
            try:
                outcomes |= zip(good, self._decode_batch([files[position] for position in good]), strict=True)
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
                outcomes |= found
        return [outcomes[position] for position in range(len(files))]

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
        return torch.utils.dlpack.from_dlpack(tensor.__dlpack__(stream, None))


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


def _checked_boxes(resizing: Resizing, images: Sequence[torch.Tensor]) -> np.ndarray:
    """x, y, width, height of each box, float64 [N, 4]."""
    boxes, sizes = resizing.boxes.numpy(), resizing.sizes
    if boxes.shape != (len(images), 4) or len(sizes) != len(images):
        raise ValueError(
            f"resize: expected boxes [{len(images)}, 4] and {len(images)} sizes for {len(images)} photos, got "
            f"{list(boxes.shape)} and {len(sizes)}. Leave out the files that could not be decoded."
        )
    if empty := [size for size in sizes if min(size) < 1]:
        raise ValueError(f"resize: expected sizes of at least 1 pixel, got {empty[0]}.")
    limits = np.array([(image.shape[1], image.shape[0]) for image in images]).reshape(-1, 2) + EDGE_TOLERANCE_PX
    start, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    inside = (start >= -EDGE_TOLERANCE_PX).all(1) & (end <= limits).all(1) & (end > start).all(1)
    if not inside.all():
        i = int(np.argmin(inside))
        raise ValueError(
            f"resize: expected box {i} inside its photo of {images[i].shape[1]} × {images[i].shape[0]} pixels (width × "
            f"height), got x, y, width, height = {boxes[i].tolist()}. Clip it to the photo."
        )
    return boxes


def _saves_time(need: Need) -> bool:
    """Whether its columns are cut out: a matter of the photo alone, whatever its neighbours are."""
    height, width = need.size
    return height * (width - need.part[2] + need.part[0]) >= MIN_PIXELS_LEFT_OUT


def _photo(pixels: torch.Tensor, need: Need | None, cut: bool) -> Photo | str:
    """cut: whether these are the columns that are needed, not all."""
    if need is None:
        return Photo.whole(pixels)
    first, last = need.part[::2] if cut else (0, need.size[1])
    if pixels.shape[:2] != (need.size[0], last - first):
        return f"its header says {need.size[1]} × {need.size[0]} pixels (width × height), which it does not have"
    return Photo.columns(pixels, first, need.size) if cut else Photo.whole(pixels)
