"""ImageLoader: files to batches. A background thread reads, decodes, presizes and draws; the consumer warps."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastaug import geometry
from fastaug.loading.decode import Decoded, Decoder
from fastaug.loading.order import batch_bounds, epoch_order, shard_order
from fastaug.rng import SampleUniforms
from fastaug.samples import Samples
from fastaug.transforms import Augment, Params

log = logging.getLogger("fastaug")

PREFETCH_BATCHES = 3  # batches that may wait for the consumer; resized to 460, 64 images are 41 MB
SHRINK_BEYOND = 4.0  # mode="direct": a photo of which an output pixel covers more pixels than this along an axis …
SHRINK_TO = 2.0  # … is first shrunk until it covers this many, so that the cost of the warp and the memory are bounded


class BadFileError(ValueError):
    """A file that could not be read or decoded, with on_error="raise"."""


@dataclass
class BatchInfo:
    """Where each image of a batch comes from and how it got here.

    Attributes:
        indices: int64 [B], rows of the samples.
        sizes: int64 [B, 2], (height, width) of the photos as decoded, EXIF-upright.
        matrix: float32 [B, 3, 3], decoded pixels -> output pixels, corner-origin.
        presize: float32 [B, 3, 3], decoded pixels -> presized pixels.
        params: what was drawn for the presized images; None without an augment.
    """

    indices: Tensor
    sizes: Tensor
    matrix: Tensor
    presize: Tensor
    params: Params | None


@dataclass
class _Batch:
    """What the background thread hands over."""

    indices: np.ndarray
    images: list[Tensor]  # presized, or with mode="direct" the photos
    targets: Tensor
    sizes: Tensor
    presize: Tensor  # float64 [B, 3, 3], decoded pixels -> presized pixels
    matrix: Tensor  # float64 [B, 3, 3], decoded pixels -> output pixels
    params: Params | None  # as drawn, for presized images
    applied: Params | None  # for images
    ready: torch.cuda.Event | None  # on a GPU: the decoder's stream has finished the images


class ImageLoader:
    """Batches of augmented images, decoded and presized by DALI and warped once.

    Args:
        samples: what to load.
        batch_size: images per batch.
        presize: side of the square that photos are resized to before the warp, pixels. Larger than the final size, to
            leave margin for rotation and crop.
        augment: an `Augment`, or None for the presized uint8 images themselves.
        device: "cuda" or "cpu"; None: "cuda" where there is one.
        training: True: the largest square at a random position, a new permutation each epoch, random draws, incomplete
            last batch dropped. False: file order, every sample once, the centred square, nothing random, whatever mode
            `augment` is in.
        seed: of everything random. Draws are a pure function of (seed, epoch, row of the sample, operator).
        mode: "resize": DALI resizes to `presize`, then one warp: two interpolations. "direct": the presize is
            multiplied into the matrix and the warp reads the decoded photo: one interpolation, the same draws. Photos
            that are more than SHRINK_BEYOND times too large are shrunk first, to SHRINK_TO times. In memory at once:
            4 × (num_threads + 1) photos at full size and PREFETCH_BATCHES + 2 batches of at most about
            (SHRINK_BEYOND × size)² pixels and their surroundings.
        shard: (rank, world); None: from torch.distributed where it is initialised, else (0, 1).
        drop_last: None: as `training`.
        on_error: "skip" yields the batch without the bad file and notes it in `quarantined`; "raise" raises
            BadFileError.
        return_info: yield (x, y, BatchInfo) instead of (x, y).
        num_threads: for DALI and for reading; None: the cores that this process may use.
    Yields:
        x on `device`: the augment's dtype [B, 3, size, size], or uint8 [B, presize, presize, 3] without one;
        y on `device`: int64 [B], the targets.
    Raises:
        ValueError: arguments that do not fit. RuntimeError: device="cuda" without a GPU.
    Iterating again starts the next epoch; `set_epoch` names one.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int = 64,
        presize: int = 460,
        augment: Augment | None = None,
        device: str | torch.device | None = None,
        training: bool = True,
        seed: int = 0,
        mode: str = "resize",
        shard: tuple[int, int] | None = None,
        drop_last: bool | None = None,
        on_error: str = "skip",
        return_info: bool = False,
        num_threads: int | None = None,
    ):
        if batch_size < 1 or presize < 1:
            raise ValueError(f"ImageLoader: expected batch_size and presize above 0, got {batch_size} and {presize}.")
        if mode not in ("resize", "direct"):
            raise ValueError(f"ImageLoader: expected mode to be 'resize' or 'direct', got {mode!r}.")
        if mode == "direct" and augment is None:
            raise ValueError(
                "ImageLoader: mode='direct' needs an augment: without one there is nothing but the photos."
            )
        if on_error not in ("skip", "raise"):
            raise ValueError(f"ImageLoader: expected on_error to be 'skip' or 'raise', got {on_error!r}.")
        self.samples, self.batch_size, self.presize, self.augment = samples, batch_size, presize, augment
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("ImageLoader: expected a GPU for device='cuda', found none. Use device='cpu'.")
        self.training, self.seed, self.mode, self.on_error = training, seed, mode, on_error
        self.shard = _shard(shard)
        self.drop_last = training if drop_last is None else drop_last
        self.return_info = return_info
        self.num_threads = num_threads or len(os.sched_getaffinity(0))
        self.quarantined: list[tuple[str, str]] = []
        self._targets = torch.tensor(samples.targets, dtype=torch.int64)
        self._epoch = 0  # of the next iteration
        self._delivered = 0  # batches of that epoch already delivered
        self._resuming = False  # whether the next iteration continues that epoch
        if training and len(self) == 0:
            raise ValueError(
                f"ImageLoader: expected at least one batch of {batch_size}, got {len(samples)} samples for "
                f"{self.shard[1]} rank(s). Lower batch_size or pass drop_last=False."
            )

    def __len__(self) -> int:
        """Batches per epoch."""
        rank, world = self.shard
        n = len(self.samples)
        mine = n // world if self.training else len(range(rank, n, world))
        return len(batch_bounds(mine, self.batch_size, self.drop_last))

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration this epoch, from its start, or from where a loaded state stands in it."""
        if not self._resuming or epoch != self._epoch:
            self._epoch, self._delivered, self._resuming = int(epoch), 0, False

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: batches delivered, not batches prefetched."""
        return {"epoch": self._epoch, "delivered": self._delivered, "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next iteration continue where `state_dict` was taken."""
        if state["seed"] != self.seed:
            raise ValueError(f"ImageLoader: expected a state of seed {self.seed}, got one of seed {state['seed']}.")
        self._epoch, self._delivered, self._resuming = int(state["epoch"]), int(state["delivered"]), True

    def __iter__(self) -> Iterator[Any]:
        if self._delivered and not self._resuming:  # an epoch that was left early is over
            self._epoch, self._delivered = self._epoch + 1, 0
        self._resuming = False
        epoch, first = self._epoch, self._delivered
        indices = self._epoch_indices(epoch)
        bounds = batch_bounds(len(indices), self.batch_size, self.drop_last)
        batches = _prefetch(self._batches(epoch, [indices[a:b] for a, b in bounds[first:]]), PREFETCH_BATCHES)
        try:
            for delivered, batch in enumerate(batches, first + 1):
                self._delivered = delivered
                if batch is not None:
                    yield self._finish(batch)
            self._epoch, self._delivered = epoch + 1, 0
        finally:
            batches.close()

    def _epoch_indices(self, epoch: int) -> np.ndarray:
        n = len(self.samples)
        order = epoch_order(n, self.seed, epoch) if self.training else np.arange(n)
        return shard_order(order, self.shard, equal=self.training)

    def _batches(self, epoch: int, batches: list[np.ndarray]) -> Generator[_Batch | None, None, None]:
        """The background thread's work: one _Batch for each array of indices, None where no file of it was good."""
        decoder = Decoder(self.device, self.num_threads)
        try:
            with ThreadPoolExecutor(self.num_threads, "fastaug-read") as readers:
                for indices in batches:
                    yield self._load(decoder, readers, epoch, indices)
        finally:
            decoder.close()

    def _load(self, decoder: Decoder, readers: ThreadPoolExecutor, epoch: int, indices: np.ndarray) -> _Batch | None:
        """Read, decode and presize one batch; in chunks, so that few photos are in memory at their full size."""
        uniforms = SampleUniforms(self.seed, epoch, indices)
        position = uniforms("presize", 2) if self.training else torch.full((len(indices), 2), 0.5)
        params = self._draw(uniforms)
        contents = list(readers.map(_read_file, [self.samples.paths[i] for i in indices]))
        images: list[Tensor] = []
        parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        with torch.cuda.stream(decoder.stream):  # of no effect on a CPU
            for first in range(0, len(indices), decoder.chunk_size):
                rows = np.arange(first, min(first + decoder.chunk_size, len(indices)))
                good, decoded = self._decode(decoder, indices, rows, contents)
                if not len(good):
                    continue
                sizes = torch.as_tensor(decoder.sizes(decoded))
                x0, y0, side = geometry.presize_box(sizes, position[good])
                target = torch.full_like(side, self.presize)
                presize = geometry.box_matrix(x0, y0, side, side, target, target)
                if self.mode == "direct":
                    assert params is not None, "checked when the loader was made"
                    whole = params.matrix[good].double() @ presize
                    chunk, shrunk = self._direct(decoder, decoded, sizes, whole)
                else:
                    chunk = list(decoder.presize(decoded, torch.stack([x0, y0], 1), side, self.presize))
                    shrunk = presize
                images += chunk
                parts.append((torch.from_numpy(good), sizes, presize, shrunk))
            if not images:
                return None
            kept_rows, sizes, presize, shrunk = (torch.cat(values) for values in zip(*parts, strict=True))
            kept = indices[kept_rows.numpy()]
            targets, ready = self._targets[kept], None
            if decoder.stream is not None:
                targets = targets.pin_memory().to(self.device, non_blocking=True)
                ready = decoder.stream.record_event()
        if params is None:
            return _Batch(kept, images, targets, sizes, presize, presize, None, None, ready)
        params = params[kept_rows]
        matrix = params.matrix.double() @ presize
        applied = replace(params, matrix=(matrix @ torch.linalg.inv(shrunk)).float())
        return _Batch(kept, images, targets, sizes, presize, matrix, params, applied, ready)

    def _draw(self, uniforms: SampleUniforms) -> Params | None:
        """What happens to the presized images: independent of their pixels and sizes, so it is drawn first."""
        if self.augment is None:
            return None
        frame = (self.presize, self.presize)
        if self.training:
            return self.augment.draw(uniforms.batch, frame, uniforms=uniforms)
        return self.augment.plain(uniforms.batch, frame)

    def _decode(
        self, decoder: Decoder, indices: np.ndarray, rows: np.ndarray, contents: list[bytes | str]
    ) -> tuple[np.ndarray, Decoded]:
        """Decode some rows of a batch; (rows that are good, their images). The bad ones go to quarantine."""
        bad = {int(row): content for row in rows if isinstance(content := contents[row], str)}
        readable = np.array([row for row in rows if int(row) not in bad], np.int64)
        decoded, undecodable = decoder.decode([contents[row] for row in readable])
        bad |= {int(readable[k]): reason for k, reason in undecodable}
        self._quarantine([(self.samples.paths[indices[row]], reason) for row, reason in sorted(bad.items())])
        return np.array([row for row in rows if int(row) not in bad], np.int64), decoded

    def _direct(self, decoder: Decoder, decoded: Decoded, sizes: Tensor, whole: Tensor) -> tuple[list[Tensor], Tensor]:
        """The photos themselves, those far larger than needed shrunk, and decoded pixels -> their pixels, [N, 3, 3].

        whole: float64 [N, 3, 3], decoded pixels -> output pixels.
        """
        images, shrunk = decoder.tensors(decoded), geometry.identity_matrix(len(sizes))
        height, width = self.augment.size  # type: ignore[union-attr]
        footprint = geometry.smallest_footprint(whole, width, height)
        large = (footprint > SHRINK_BEYOND).nonzero()[:, 0]
        if len(large):
            smaller = torch.ceil(sizes[large] * (SHRINK_TO / footprint[large])[:, None])
            resized = decoder.shrink([images[i] for i in large], smaller.numpy())
            for i, image in zip(large.tolist(), resized, strict=True):
                images[i] = image
            out_height, out_width = smaller.double().unbind(1)
            photo_height, photo_width = sizes[large].double().unbind(1)
            shrunk[large] = geometry.resize_matrix(photo_width, photo_height, out_width, out_height)
        return images, shrunk

    def _finish(self, batch: _Batch) -> Any:
        """The consumer's part: one warp, on the device's current stream."""
        if batch.ready is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(batch.ready)  # the stream waits, the host does not
            batch.targets.record_stream(stream)
        if self.augment is None or batch.applied is None:
            x = torch.stack(batch.images)
        else:
            x = self.augment.apply(batch.images, batch.applied)
        if not self.return_info:
            return x, batch.targets
        indices, matrix, presize = torch.from_numpy(batch.indices), batch.matrix.float(), batch.presize.float()
        return x, batch.targets, BatchInfo(indices, batch.sizes, matrix, presize, batch.params)

    def _quarantine(self, bad: list[tuple[str, str]]) -> None:
        for path, reason in bad:
            if self.on_error == "raise":
                raise BadFileError(f"ImageLoader: could not load {path}: {reason}. Remove it, or use on_error='skip'.")
            if (path, reason) not in self.quarantined:
                self.quarantined.append((path, reason))
                log.warning("skipping %s: %s", path, reason)


def _read_file(path: str) -> bytes | str:
    """The file's bytes, or the reason why there are none."""
    try:
        with open(path, "rb") as file:
            return file.read() or "the file is empty"
    except OSError as error:
        return error.strerror or type(error).__name__


def _shard(shard: tuple[int, int] | None) -> tuple[int, int]:
    if shard is None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if distributed else (0, 1)
    rank, world = shard
    if not 0 <= rank < world:
        raise ValueError(f"ImageLoader: expected shard=(rank, world) with 0 <= rank < world, got {shard}.")
    return rank, world


def _prefetch(items: Generator[Any, None, None], depth: int) -> Generator[Any, None, None]:
    """The same items, made in a background thread up to `depth` ahead. Closing it ends the thread."""
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind: str, item: Any) -> None:
        while not stopped.is_set():
            try:
                return waiting.put((kind, item), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    break
            else:
                put("end", None)
        except BaseException as error:  # handed to the consumer, who raises it
            put("error", error)
        finally:
            items.close()

    thread = threading.Thread(target=work, name="fastaug-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


__all__ = ["BadFileError", "BatchInfo", "ImageLoader"]
