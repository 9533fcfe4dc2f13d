"""Decode and resize with NVIDIA DALI, for a GPU. Only this file and `dali.py`, its calls, know DALI.

DALI is driven in *dynamic mode* (imperative: encoded bytes in, a batch of tensors out), so that order, shards and
random parameters stay plain Python elsewhere. The calls are the same on a CPU and on a GPU; only `device` differs. On a
CPU nobody needs it, but it is the code that a GPU runs, and the tests can run there.

What matters about DALI 2.4, and was measured on a CPU:

- It gets ordinary JPEGs without their metadata: in other files, and in damaged EXIF blocks, its codecs end the process,
  take gigabytes, or see another picture than Pillow. Those are decoded on the CPU.
- One undecodable file is an exception for its whole batch, whose files are then decoded alone.
- Above 4 × (threads + 1) files DALI reads the headers in parallel, and a header that it cannot read then ends the
  process (SIGABRT or SIGSEGV) instead of raising. Hence `chunk_size`.
- Pixels of damaged data that libjpeg only warns about are delivered, and some that it stops at: hence files whose data
  have markers that do not belong there are decoded on the CPU too.
- A photo's pixels share DALI's memory, which lives as long as the torch tensor does.

What was read in DALI's source, but not run on a GPU: decoding, stream order and lifetime with device="cuda".

- DALI works on `stream`. A tensor handed to torch makes the caller's current stream wait for it
  (`__dlpack__(stream=...)`, an event, no host synchronisation).
- torch may drop a tensor while kernels still read it: DALI then keeps the memory until the device has finished the work
  queued so far (`DLTensorGraveyard`), so no `record_stream` is needed.
"""

from __future__ import annotations

import functools
import gc
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch

from fastaug.loading import pillow
from fastaug.loading.cpu_decoder import CpuDecoder, check_boxes
from fastaug.loading.header import as_bytes, goes_on_to_its_end, read_header, without_metadata
from fastaug.loading.jpeg import check_scans
from fastaug.loading.options import INSTALL_DALI, MAX_PIXELS
from fastaug.loading.orientation import steps_upright
from fastaug.loading.photo import Need, Photo, Resizing

# nvimgcodecStatus_t (nvimgcodec.h, 0.9): codes that speak about a file. Others speak about memory or the device.
_A_FILES_STATUS = {2, 3, 4, 8, 9, 13, 14, 17, 18, 19}
_MOST_FILES = 64  # of a chunk: each is a photo at full size, however many threads there are
_STATUS = re.compile(r"nvImageCodec failure: '#(\d+)'")
_A_FILES_ERROR = re.compile(r"Failed to decode sample #|Invalid sample_type|std::bad_alloc")


class DaliDecoder:
    """A Decoder that works on a GPU, or like one on a CPU. One call at a time runs.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        num_threads: CPU threads of DALI, also for device="cuda"; None: one pool shared by all such decoders, with as
            many threads as the process may use cores, or `DALI_NUM_THREADS`.
        max_pixels: larger images are refused.
    Raises:
        ImportError: DALI is not installed.
        RuntimeError: a GPU was asked for and there is none.
        ValueError: another device, or `num_threads` below 1.
    Source: nvidia-dali-cuda130 2.4.0, `nvidia.dali.experimental.dynamic`. Not run on a GPU yet.
    """

    threads = 1

    def __init__(
        self, device: torch.device | str, num_threads: int | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.device = torch.device(device)
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"DaliDecoder: expected num_threads of at least 1 or None, got {num_threads}.")
        if self.device.type not in ("cpu", "cuda"):
            raise ValueError(f"DaliDecoder: expected device 'cpu' or 'cuda', got '{self.device}'.")
        self._dali, self.max_pixels = _import_dali(), max_pixels
        self._cpu = CpuDecoder(1, "exact", max_pixels)
        self._lock = threading.RLock()  # the garbage collector may close it while this thread decodes
        self.stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            if not torch.cuda.is_available():
                raise RuntimeError(
                    f"DaliDecoder: device '{self.device}' asked for, torch finds no GPU. Use device='cpu'."
                )
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
        self.chunk_size = min(4 * (int(self._context.num_threads) + 1), _MOST_FILES)  # see above

    def decode(
        self, encoded: Sequence[bytes | np.ndarray], needs: Sequence[Need | None] | None = None
    ) -> list[Photo | str]:
        """See Decoder: whole photos, whatever is needed. Equal to Pillow's on a CPU, within a few levels on a GPU."""
        contents = [as_bytes(content, position) for position, content in enumerate(encoded)]
        files = {row: file for row, content in enumerate(contents) if (file := self._file(content)) is not None}
        outcomes: dict[int, Photo | str] = {}
        with self._running():
            for first in range(0, len(files), self.chunk_size):
                rows = list(files)[first : first + self.chunk_size]
                for row, image in zip(rows, self._decode_each([files[row][0] for row in rows]), strict=True):
                    if image is not None:
                        outcomes[row] = Photo.whole(_turned(self._to_torch(image), files[row][1]))
        others = [row for row in range(len(contents)) if row not in outcomes]
        for row, outcome in zip(others, self._cpu.decode([contents[row] for row in others]), strict=True):
            outcomes[row] = self._moved(outcome) if isinstance(outcome, Photo) else outcome
        return [outcomes[row] for row in range(len(contents))]

    def resize(
        self, photos: Sequence[Photo], resizing: Resizing, out: Sequence[np.ndarray] | None = None
    ) -> list[Photo]:
        """See Decoder."""
        if self.stream is None:
            return self._cpu.resize(photos, resizing, out)
        check_boxes(photos, resizing)
        return self._resize_with_dali(photos, resizing) if resizing else list(photos)

    def _resize_with_dali(self, photos: Sequence[Photo], resizing: Resizing) -> list[Photo]:
        images, sizes = [photos[row].pixels for row in resizing.rows], resizing.sizes
        boxes = np.array(resizing.boxes)
        start = np.ascontiguousarray(boxes[:, 1::-1], np.float32)
        region = start, np.ascontiguousarray(boxes[:, 1::-1] + boxes[:, :1:-1], np.float32)
        with self._running():
            resized = self._dali.resize(images, np.asarray(sizes, np.float32), region, self._dali_device, resizing.kind)
            if len(set(sizes)) == 1:  # one tensor is handed over, not one for each image
                return resizing.apply(photos, list(self._to_torch(self._dali.ndd.as_tensor(resized))))
            return resizing.apply(photos, [self._to_torch(image) for image in self._dali.images_of(resized)])

    def close(self) -> None:
        """See Decoder."""
        with self._lock:
            self._context = None

    @property
    def _dali_device(self) -> str:
        return "cpu" if self.stream is None else "gpu"

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Within: this decoder's threads, stream and device (DALI keeps them per thread), errors where they happen."""
        with self._lock:
            if self._context is None:
                raise RuntimeError("DaliDecoder: it was closed. Make a new one.")
            with self._context, self._dali.ndd.EvalMode.sync_cpu:
                yield

    def _file(self, content: bytes) -> tuple[np.ndarray, int] | None:
        """What DALI is given, and its orientation; None: it is decoded on the CPU."""
        header = read_header(content)
        if header is None or not header.ordinary or header.height * header.width > self.max_pixels:
            return None
        try:
            check_scans(content, header)
            orientation = header.orientation or pillow.orientation(content)
        except pillow.Unreadable:
            return None
        bare = without_metadata(content)
        if bare is None or not goes_on_to_its_end(bare, header):
            return None
        return np.frombuffer(bytearray(bare), np.uint8), orientation  # it copies what is not writable

    def _decode_each(self, files: list[np.ndarray]) -> list[Any]:
        """The image of each file; None where it cannot be decoded, which others then try."""
        try:
            return self._decode_batch(files)
        except (RuntimeError, MemoryError) as error:
            _raise_unless_a_files(error)
            if len(files) == 1:
                return [None]
        return [image for file in files for image in self._decode_each([file])]

    def _decode_batch(self, files: list[np.ndarray]) -> list[Any]:
        images: list[Any] = self._dali.decode(files, self._dali_device)
        return images

    def _moved(self, photo: Photo) -> Photo:
        return Photo(photo.pixels.to(self.device), photo.matrix, photo.size)

    def _to_torch(self, tensor: Any) -> torch.Tensor:
        if self.stream is None:
            return torch.from_numpy(np.asarray(tensor))
        # The stream is handed over by hand: DALI 2.4 and torch disagree about the arguments of `__dlpack__`.
        # 1 is DLPack's word for the legacy default stream, whose handle is 0.
        stream = torch.cuda.current_stream(self.device).cuda_stream or 1
        return torch.utils.dlpack.from_dlpack(tensor.__dlpack__(stream, None))


def _turned(pixels: torch.Tensor, orientation: int) -> torch.Tensor:
    """Upright, on its device."""
    exchanged, mirrored = steps_upright(orientation)
    if exchanged:
        pixels = pixels.transpose(0, 1)
    return pixels.flip(mirrored).contiguous() if mirrored or exchanged else pixels


def _raise_unless_a_files(error: Exception) -> None:
    """Out of memory and failures of the device are nobody's fault."""
    status = _STATUS.search(str(error))
    if not (int(status[1]) in _A_FILES_STATUS if status else _A_FILES_ERROR.search(str(error))):
        raise error


def _import_dali() -> ModuleType:
    try:
        from fastaug.loading import dali  # late: it takes seconds, and most do without it
    except ImportError as error:
        raise ImportError(f"DaliDecoder: DALI's import failed ({error}). Install it: {INSTALL_DALI}") from error
    _protect_forked_children()
    return dali


@functools.cache
def _protect_forked_children() -> None:
    """Keep the garbage collector of forked children away from what they inherit.

    DALI's thread pools join their threads when they are freed. A child has none of these threads: a DataLoader's worker
    that collected its parent's garbage would wait for ever.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
        os.register_at_fork(after_in_child=gc.freeze)


__all__ = ["DaliDecoder"]
