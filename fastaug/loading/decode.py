"""Encoded images to photos, photos to smaller ones: what a decoder is, and which one is taken."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch

from fastaug.loading.options import INSTALL_DALI, MAX_PIXELS, DecoderName, ScaleName
from fastaug.loading.photo import Need, Photo, Resizing
from fastaug.machine import thread_count

_MOST_DALI_THREADS = 16


class Decoder(Protocol):
    """Several threads may call it.

    Attributes:
        device: of every result.
        stream: on a GPU the stream that it works on, None on a CPU. To take results in one thread and use them in
            another, call under `torch.cuda.stream(decoder.stream)` and let the user's stream wait for an event.
        threads: how many may call it at a time to some use.
        chunk_size: files that are best handed over at once, if there are enough for all threads.
        max_pixels: larger images are refused.
    """

    device: torch.device
    stream: torch.cuda.Stream | None
    threads: int
    chunk_size: int
    max_pixels: int

    def decode(
        self, encoded: Sequence[bytes | np.ndarray], needs: Sequence[Need | None] | None = None
    ) -> list[Photo | str]:
        """Decode to RGB uint8, turned upright.

        Args:
            encoded: N files, each the whole content: bytes, or a uint8 1-D numpy array.
            needs: what is wanted of each; None: all pixels there are.
        Returns:
            A Photo, or the reason why there is none, for each file. On a GPU pixels are ready for the calling thread's
            current stream.
        Raises:
            TypeError: something else than encoded bytes.
            RuntimeError: a failure that is not a file's (memory, device), or the decoder is closed.
        """
        ...

    def resize(
        self, photos: Sequence[Photo], resizing: Resizing, out: Sequence[np.ndarray] | None = None
    ) -> list[Photo]:
        """Resize a box of some photos with the Lanczos filter, or a bilinear one, in one interpolation.

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
        ...

    def close(self) -> None:
        """Let go of the threads and the memory. What was handed out stays valid."""
        ...


class Choice(NamedTuple):
    """Which decoder, and why."""

    name: Literal["jpeg", "dali"]
    reason: str
    advice: str | None = None  # what to install for a better one


def choose_decoder(name: DecoderName, device: torch.device, has_dali: bool) -> Choice:
    """A pure function of what was asked for and what there is.

    Raises:
        ValueError: no such decoder. ImportError: DALI was asked for by name and is not installed.
    """
    if name not in ("auto", "jpeg", "dali"):
        raise ValueError(f"decoder: expected 'auto', 'jpeg' or 'dali', got {name!r}.")
    if name == "dali" and not has_dali:
        raise ImportError(f"decoder='dali': DALI is not installed. Install it: {INSTALL_DALI}; or take decoder='jpeg'.")
    if name != "auto":
        return Choice(name, "asked for by name")
    if device.type != "cuda":
        return Choice("jpeg", f"libjpeg-turbo is the fastest on a CPU, and the device is '{device.type}'")
    if has_dali:
        return Choice("dali", "it decodes on the GPU")
    return Choice(
        "jpeg", "DALI, which decodes on the GPU, is not installed",
        f"photos are decoded on the CPU and copied to '{device}', which is slow. To decode there: {INSTALL_DALI}",
    )  # fmt: skip


def has_dali() -> bool:
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


def default_threads(name: Literal["jpeg", "dali"]) -> int:
    """Of a decoder. DALI has 4 whole photos for each in memory, and a GPU does most of its work."""
    return thread_count() if name == "jpeg" else min(thread_count(), _MOST_DALI_THREADS)


def make_decoder(
    name: Literal["jpeg", "dali"],
    device: torch.device | str = "cpu",
    num_threads: int | None = None,
    scale: ScaleName = "auto",
    max_pixels: int = MAX_PIXELS,
) -> Decoder:
    """The decoder of a Choice; "jpeg" works on the CPU, whatever the device."""
    if name == "dali":
        from fastaug.loading.dali_decoder import DaliDecoder  # late: it takes seconds

        return DaliDecoder(device, num_threads, max_pixels)
    from fastaug.loading.cpu_decoder import CpuDecoder  # late: Numba takes a moment

    return CpuDecoder(num_threads, scale, max_pixels)


__all__ = ["Choice", "Decoder", "choose_decoder", "default_threads", "has_dali", "make_decoder"]
