"""ImageLoader: files to batches. Background threads read, decode, presize and draw; the consumer warps."""

from __future__ import annotations

import gc
import logging
import math
import os
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from fastaug.augment import geometry
from fastaug.augment.augment import Augment, Params
from fastaug.augment.rng import SampleUniforms
from fastaug.loading.background import DecoderPool, prefetch
from fastaug.loading.decode import Decoded, Decoder
from fastaug.loading.header import read_header
from fastaug.loading.order import batch_bounds, batch_count, epoch_order, shard_order
from fastaug.loading.stats import Clock, LoaderStats
from fastaug.loading.summary import Summary, summarize
from fastaug.samples.samples import Samples
from fastaug.samples.sources import Reader
from fastaug.warping.footprint import part_read, smallest_footprint

log = logging.getLogger("fastaug")

# Batches that are loaded or being loaded, beside the one that the consumer has; 64 images of 460 × 460 are 41 MB.
PREFETCH_BATCHES = 3
# Batches that are being loaded at a time: while one is decoded, the next one is drawn and read.
LOAD_THREADS = 2
SHRINK_BEYOND = 4.0  # mode="direct": a photo of which an output pixel covers more pixels than this along an axis …
SHRINK_TO = 2.0  # … is first shrunk until it covers this many, so that the cost of the warp and the memory are bounded
# The share of bad files from which on there is something else wrong than files.
MAX_BAD_SHARE = 0.5


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
class _Chunk:
    """Some photos of a batch, decoded together; without the bad ones."""

    rows: list[int]  # of the batch
    bad: dict[int, str]  # row of the batch -> reason
    sizes: list[tuple[int, int]]  # (height, width) of the photos
    columns: list[tuple[int, int]]  # of the photos that are in the images
    images: list[Tensor]  # presized; with mode="direct" as decoded, or shrunk
    ready: torch.cuda.Event | None  # on a GPU: the decoder's stream has finished the images


@dataclass
class _Batch:
    """What the background threads hand over: B images, without the bad ones."""

    indices: np.ndarray
    targets: Tensor  # pinned where the device is a GPU
    bad: dict[int, str]  # row of the samples -> reason
    images: Sequence[Tensor] | Tensor
    sizes: Tensor
    presize: Tensor  # float64 [B, 3, 3], decoded pixels -> presized pixels
    matrix: Tensor  # float64 [B, 3, 3], decoded pixels -> output pixels
    params: Params | None  # as drawn, for presized images
    applied: Params | None  # for images
    ready: list[torch.cuda.Event]


@dataclass
class _Plan:
    """What is known about a batch before it is decoded, by its rows."""

    contents: list[bytes | str]  # of the files, or the reason why there is none
    position: Tensor  # [B, 2], where the square of the presize lies
    params: Params | None  # for presized images
    presize: int  # the side that they were drawn for: it may be set to another one meanwhile
    sizes: list[tuple[int, int] | None]  # (height, width), as far as known
    columns: np.ndarray | None  # int64 [B, 2]: to be decoded; (0, 0) where sizes is None
    room: Tensor | None  # mode="resize" on a CPU: uint8 [B, presize, presize, 3], where the presized photos go

    def presize_matrix(self, sizes: Tensor, rows: list[int]) -> Tensor:
        """Decoded pixels -> presized pixels of some rows, whose photos have these sizes, float64 [N, 3, 3]."""
        x0, y0, side = geometry.presize_box(sizes, self.position[rows])
        target = torch.full_like(side, self.presize)
        return geometry.box_matrix(x0, y0, side, side, target, target)


@dataclass
class _Sources:
    """What the threads of one iteration share."""

    decoders: DecoderPool
    readers: ThreadPoolExecutor
    files: Reader
    clock: Clock
    epoch: int
    stopped: threading.Event


class ImageLoader(IterableDataset[Any]):
    """Batches of augmented images, decoded by DALI, presized and warped once.

    Args:
        samples: what to load.
        batch_size: images per batch.
        presize: side of the square that photos are resized to before the warp, pixels. Larger than the final size, to
            leave margin for rotation and crop. It may be set to another one at any time; batches that are on their way
            keep theirs.
        augment: an `Augment`, or None for the presized uint8 images themselves.
        device: "cuda" or "cpu"; None: "cuda" where there is one.
        training: True: the largest square at a random position, a new permutation each epoch, random draws, incomplete
            last batch dropped. False: file order, every sample once, the centred square, nothing random, whatever mode
            `augment` is in.
        seed: of everything random. Draws are a pure function of (seed, epoch, row of the sample, operator).
        mode: "resize": photos are resized to `presize`, then one warp: two interpolations. "direct": the presize is
            multiplied into the matrix and the warp reads the decoded photo: one interpolation, the same draws. Photos
            that are more than SHRINK_BEYOND times too large are shrunk first, to SHRINK_TO times.
        shard: (rank, world); None: from torch.distributed where it is initialised, else (0, 1). Ranks share no sample
            and have the same number of batches. Training: the last n % world samples of an epoch's order are left out
            of that epoch. Otherwise every sample is in exactly one rank, whose last batch may be shorter, or empty.
        drop_last: None: as `training`.
        on_error: "skip" yields the batch without the bad file and notes it in `quarantined`; "raise" raises
            BadFileError.
        return_info: yield (x, y, BatchInfo) instead of (x, y).
        num_threads: for DALI and for reading; None: the cores that this process may use.
        prefetch_batches: batches loaded or being loaded, beside the one that the consumer has. Changes no pixel.
        max_bad_share: of this rank's samples; with more bad files than that BadFileError is raised after all.
        schedule: for progressive resizing, a function of the epoch that returns (size, presize); each epoch starts with
            setting `augment.size` and `presize` to them. A resumed run has the right ones by itself.
    Yields:
        x on `device`: the augment's dtype [B, 3, size, size], or uint8 [B, presize, presize, 3] without one;
        y on `device`: int64 [B], the targets. A batch of bad files only is left out, but with several ranks it is
        yielded, empty: ranks that take turns with each other would otherwise wait for ever.
    Raises:
        ValueError: arguments that do not fit. RuntimeError: device="cuda" without a GPU.
    Attributes:
        quarantined: [(path, reason)] of the bad files met so far, in the order of delivery. They are not tried again by
            this loader, nor by one that its `state_dict` is loaded into.

    Iterating again starts the next epoch; `set_epoch` names one.

    It is an IterableDataset of whole batches: what insists on a DataLoader gets `DataLoader(loader, batch_size=None)`,
    without workers, since the loader has threads of its own.

    While it is iterated there are num_threads threads of DALI, as many of its codecs, as many that read and on a CPU as
    many that resize, up to DECODERS that drive DALI, and LOAD_THREADS; in memory are at most prefetch_batches batches,
    and 4 × (num_threads + DECODERS) photos at full size. With mode="direct" a batch is its photos, those far too large
    shrunk to about (SHRINK_BEYOND × size)² pixels and their surroundings. On a GPU only the targets are pinned, 8 bytes
    each, besides what DALI pins for its decoder. Leaving the loop, `close`, the end of a `with` block, an exception or
    Ctrl-C give all of it back.
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
        prefetch_batches: int = PREFETCH_BATCHES,
        max_bad_share: float = MAX_BAD_SHARE,
        schedule: Callable[[int], tuple[int | tuple[int, int], int]] | None = None,
    ):
        for name, number in (("batch_size", batch_size), ("presize", presize), ("prefetch_batches", prefetch_batches)):
            if number < 1:
                raise ValueError(f"ImageLoader: expected {name} of at least 1, got {number}.")
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"ImageLoader: expected num_threads of at least 1, or None, got {num_threads}.")
        if not 0 <= max_bad_share <= 1:
            raise ValueError(f"ImageLoader: expected max_bad_share between 0 and 1, got {max_bad_share}.")
        if mode not in ("resize", "direct"):
            raise ValueError(f"ImageLoader: expected mode to be 'resize' or 'direct', got {mode!r}.")
        if mode == "direct" and augment is None:
            raise ValueError(
                "ImageLoader: mode='direct' needs an augment: without one there is nothing but the photos."
            )
        if schedule is not None and augment is None:
            raise ValueError("ImageLoader: schedule needs an augment, whose size it sets. Pass augment too.")
        if on_error not in ("skip", "raise"):
            raise ValueError(f"ImageLoader: expected on_error to be 'skip' or 'raise', got {on_error!r}.")
        self.samples, self.batch_size, self.presize, self.augment = samples, batch_size, presize, augment
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("ImageLoader: expected a GPU for device='cuda', found none. Use device='cpu'.")
        self.training, self.seed, self.mode, self.on_error = training, seed, mode, on_error
        self.shard = _shard(shard)
        self.drop_last = training if drop_last is None else drop_last
        self.return_info, self.prefetch_batches, self.max_bad_share = return_info, prefetch_batches, max_bad_share
        self.schedule = schedule
        self.num_threads = num_threads or len(os.sched_getaffinity(0))
        self._targets = torch.tensor(samples.targets, dtype=torch.int64)
        self._bad: dict[int, str] = {}  # row of the samples -> reason
        self._epoch = 0  # of the next iteration
        self._delivered = 0  # batches of that epoch already delivered
        self._resuming = False  # whether the next iteration continues that epoch
        self._named = False  # whether set_epoch asked for that epoch, even if nothing of it is left
        self._clock = Clock()
        self._iterations: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()
        if training and len(self) == 0:
            raise ValueError(
                f"ImageLoader: expected at least one batch of {batch_size}, got {len(samples)} samples for "
                f"{self.shard[1]} rank(s). Lower batch_size or pass drop_last=False."
            )

    @property
    def quarantined(self) -> list[tuple[str, str]]:
        return [(self.samples.paths[row], reason) for row, reason in self._bad.items()]

    def __len__(self) -> int:
        """Batches per epoch, the same for every rank."""
        return batch_count(len(self.samples), self.shard[1], self.batch_size, self.training, self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration this epoch, from its start, or from where a loaded state stands in it."""
        if not self._resuming or epoch != self._epoch:
            self._epoch, self._delivered, self._resuming = int(epoch), 0, False
        self._named = True

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, in plain numbers, strings and lists: batches delivered, not batches prefetched."""
        return {
            "epoch": self._epoch,
            "delivered": self._delivered,
            **self._identity(),
            "quarantined": [[row, self.samples.paths[row], reason] for row, reason in self._bad.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next iteration continue, bit for bit, where `state_dict` was taken.

        After the last batch of an epoch that is the next epoch, unless `set_epoch` names the one that is over: then
        nothing is left of it.
        A state from the start of an epoch may be loaded with another batch size or another number of ranks, and a state
        of one rank by all of them.

        Raises:
            ValueError: a state of other samples, another seed, or, in the middle of an epoch, of other batches.
        """
        identity = self._identity()
        always = ("seed", "samples", "targets_crc32")
        for name in identity if state["delivered"] else always:
            if state[name] != identity[name]:
                raise ValueError(
                    f"ImageLoader: expected a state of {name} {identity[name]}, got one of {state[name]}. Make the "
                    f"loader as it was then{'' if name in always else ', or go on from the start of an epoch'}."
                )
        for row, path, reason in state["quarantined"]:
            if self.samples.paths[row] == path:  # it may have been replaced by another one
                self._bad[row] = reason
        self._epoch, self._delivered, self._resuming = int(state["epoch"]), int(state["delivered"]), True
        self._named = False

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a state to be continued in the middle of an epoch."""
        return {
            "seed": self.seed,
            "samples": len(self.samples),
            "targets_crc32": zlib.crc32(self._targets.numpy().tobytes()),
            "training": self.training,
            "batch_size": self.batch_size,
            "ranks": self.shard[1],
            "drop_last": self.drop_last,
        }

    def stats(self) -> LoaderStats:
        """Where the time of the latest epoch went; `print` it. Its `limit` says whether the model or the loader is."""
        return self._clock.stats()

    def summary(self, row: int = 0) -> Summary:
        """Walk one sample through every step of the next epoch: `print` it.

        It says path, bytes, decoded size, the crop of the presize, what each operator drew, the matrices, the output's
        shape and range, and the target; where a step fails, which one and why (`.failed`, `.reason`). The loader stays
        where it is.

        Args:
            row: of the samples.
        Raises:
            ValueError: no such row.
        """
        return summarize(self, row)[0]

    def _load_one(self, row: int) -> _Batch:
        """A batch of one sample, as the next epoch has it."""
        decoders, readers = DecoderPool(self.device, 1), ThreadPoolExecutor(1, "fastaug-read")
        stages = dict.fromkeys(("read", "draw", "decode", "presize"), 1)
        sources = _Sources(decoders, readers, Reader(), Clock(stages), self._epoch, threading.Event())
        try:
            return self._load(sources, np.array([row], np.int64))
        finally:
            readers.shutdown()
            sources.files.close()
            decoders.close()

    def close(self) -> None:
        """End every iteration: the threads, and what was prefetched. Iterating again is possible."""
        for iteration in list(self._iterations):
            iteration.close()
        # DALI's results refer to each other in circles, which keep its threads until the garbage collector comes by
        gc.collect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: without what belongs to a running iteration."""
        return {**self.__dict__, "_clock": None, "_iterations": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _clock=Clock(), _iterations=weakref.WeakSet())

    def __iter__(self) -> Generator[Any, None, None]:
        worker = get_worker_info()
        if worker is not None:
            raise RuntimeError(
                f"ImageLoader: expected to be iterated in the process that trains, got a DataLoader with "
                f"{worker.num_workers} worker(s), each of which would load everything. Use DataLoader(loader, "
                "batch_size=None, num_workers=0), or the loader itself."
            )
        iteration = self._iterate()
        self._iterations.add(iteration)
        return iteration

    def _iterate(self) -> Generator[Any, None, None]:
        self._begin_epoch()
        epoch, first = self._epoch, self._delivered
        indices = self._epoch_indices(epoch)
        bounds = batch_bounds(len(indices), self.batch_size, len(self))[first:]
        decoders = DecoderPool(self.device, self.num_threads)
        readers = ThreadPoolExecutor(self.num_threads, "fastaug-read")
        loading = dict.fromkeys(("read", "draw"), LOAD_THREADS)
        self._clock = clock = Clock({**loading, **dict.fromkeys(("decode", "presize"), decoders.count)})
        sources = _Sources(decoders, readers, Reader(), clock, epoch, threading.Event())
        batches = prefetch(
            partial(self._load, sources), (indices[a:b] for a, b in bounds), self.prefetch_batches, LOAD_THREADS
        )
        try:
            for delivered, batch in enumerate(batches, first + 1):
                loaded = time.perf_counter()
                self._delivered = delivered
                self._quarantine(batch.bad)
                if len(batch.images) or self.shard[1] > 1:
                    with clock.stage("warp", len(batch.images)):
                        result = self._finish(batch)
                    del batch  # its photos are not needed while the consumer works
                    since = clock.delivered(len(result[1]), loaded)
                    yield result
                    del result
                    clock.asked(since)
            self._epoch, self._delivered = epoch + 1, 0
        finally:
            sources.stopped.set()
            batches.close()
            readers.shutdown()
            sources.files.close()
            decoders.close()

    def _begin_epoch(self) -> None:
        """Decide which epoch the next iteration is, and set the sizes that it has by the schedule."""
        # Over is an epoch that was left early, and one of which a loaded state has all batches: those who count them do
        # not ask for the end, so their state is from before it.
        over = not self._named and self._delivered >= len(self) if self._resuming else self._delivered > 0
        if over:
            self._epoch, self._delivered = self._epoch + 1, 0
        self._resuming = self._named = False
        if self.schedule is not None and self.augment is not None:
            self.augment.size, self.presize = self.schedule(self._epoch)

    def _epoch_indices(self, epoch: int) -> np.ndarray:
        n = len(self.samples)
        order = epoch_order(n, self.seed, epoch) if self.training else np.arange(n)
        return shard_order(order, self.shard, equal=self.training)

    def _load(self, sources: _Sources, indices: np.ndarray) -> _Batch:
        """Draw and read one batch, have it decoded in chunks, and put it together."""
        indices = np.array([row for row in indices.tolist() if row not in self._bad], np.int64)
        with sources.clock.stage("draw", len(indices)):
            uniforms = SampleUniforms(self.seed, sources.epoch, indices)
            position = uniforms("presize", 2) if self.training else torch.full((len(indices), 2), 0.5)
            presize = self.presize
            params = self._draw(uniforms, presize)
        with sources.clock.stage("read", len(indices)):
            contents = list(sources.readers.map(sources.files.read_bytes, [self.samples.paths[i] for i in indices]))
        plan = _Plan(contents, position, params, presize, [None] * len(indices), None, self._room(indices, presize))
        self._find_columns(plan)
        size = sources.decoders.chunk_size
        rows = [range(first, min(first + size, len(indices))) for first in range(0, len(indices), size)]
        chunks = sources.decoders.map(partial(self._load_chunk, sources, plan), rows)
        return self._gather(indices, chunks, plan)

    def _room(self, indices: np.ndarray, presize: int) -> Tensor | None:
        if self.mode == "direct" or self.device.type == "cuda":
            return None
        # NumPy asks for huge pages, torch does not, and fresh memory is paid for page by page.
        return torch.from_numpy(np.empty((len(indices), presize, presize, 3), np.uint8))

    def _draw(self, uniforms: SampleUniforms, presize: int) -> Params | None:
        """What happens to the presized images: independent of their pixels and sizes, so it is drawn first."""
        if self.augment is None:
            return None
        frame = (presize, presize)
        if self.training:
            return self.augment.draw(uniforms.batch, frame, uniforms=uniforms)
        return self.augment.without_chance(uniforms.batch, frame)

    def _find_columns(self, plan: _Plan) -> None:
        """Note what the headers tell of the photos' sizes, and which columns of them the warp will read.

        Only with mode="direct" on a CPU.
        """
        params = plan.params
        if self.mode == "resize" or self.device.type == "cuda":
            return
        assert params is not None, "checked when the loader was made"
        headers = [read_header(content) if isinstance(content, bytes) else None for content in plan.contents]
        sizes = [(header.height, header.width) if header and header.orientation == 1 else None for header in headers]
        columns = np.array([(0, size[1] if size else 0) for size in sizes], np.int64).reshape(-1, 2)
        # The others need all columns, or are shrunk first, for which the neighbourhood is needed too.
        wide = [i for i, size in enumerate(sizes) if size and size[0] < size[1] and not _may_be_shrunk(size, params)]
        if wide:
            known = [size for i in wide if (size := sizes[i])]
            whole = params.matrix[wide].double() @ plan.presize_matrix(torch.tensor(known), wide)
            columns[wide] = part_read(whole, known, _out_size(params))[:, [0, 2]].numpy()
        plan.sizes, plan.columns = list(sizes), columns

    def _load_chunk(self, sources: _Sources, plan: _Plan, decoder: Decoder, rows: range) -> _Chunk:
        """Decode some rows of a batch, and presize them, or shrink those that are far too large."""
        bad = {row: content for row in rows if isinstance(content := plan.contents[row], str)}
        encoded = {row: content for row in rows if isinstance(content := plan.contents[row], bytes)}
        if sources.stopped.is_set():
            encoded = {}  # nobody will look at the batch
        readable = list(encoded)
        wanted = None if plan.columns is None else plan.columns[readable]
        with torch.cuda.stream(decoder.stream):  # of no effect on a CPU
            with sources.clock.stage("decode", len(readable)):
                decoded, undecodable = decoder.decode(list(encoded.values()), wanted)
            bad |= {readable[k]: reason for k, reason in undecodable}
            good = [row for row in readable if row not in bad]
            shapes = [(int(height), int(width)) for height, width in decoder.sizes(decoded)]
            chunk = _Chunk(good, bad, shapes, [(0, width) for _, width in shapes], [], None)
            if self.mode == "resize":
                with sources.clock.stage("presize", len(good)):
                    chunk.images = self._presized(decoder, decoded, plan, good)
            else:
                chunk.images = decoder.tensors(decoded)
                self._note_columns(chunk, plan)
                self._shrink(sources, decoder, chunk, plan)
            if decoder.stream is not None:
                chunk.ready = decoder.stream.record_event()
        return chunk

    def _note_columns(self, chunk: _Chunk, plan: _Plan) -> None:
        """Of the photos that are not there as a whole: their sizes, and which columns are there."""
        for i, row in enumerate(chunk.rows):
            size = plan.sizes[row]
            if size is not None and plan.columns is not None:
                first, last = plan.columns[row].tolist()
                assert chunk.sizes[i] == (size[0], last - first), f"decoded {chunk.sizes[i]}, its header says {size}"
                chunk.sizes[i], chunk.columns[i] = size, (first, last)

    def _presized(self, decoder: Decoder, decoded: Decoded, plan: _Plan, rows: list[int]) -> list[Tensor]:
        """The squares of the photos, resized."""
        x0, y0, side = geometry.presize_box(torch.as_tensor(decoder.sizes(decoded)), plan.position[rows])
        top_left = torch.stack([x0, y0], 1)
        if plan.room is None:
            return list(decoder.presize(decoded, top_left, side, plan.presize))
        out = [plan.room[row] for row in rows]
        decoder.presize_into(decoded, top_left, side, out)
        return out

    def _shrink(self, sources: _Sources, decoder: Decoder, chunk: _Chunk, plan: _Plan) -> None:
        """Replace the photos that are far larger than needed by smaller ones."""
        assert plan.params is not None, "checked when the loader was made"
        large = [i for i, size in enumerate(chunk.sizes) if _may_be_shrunk(size, plan.params)]
        if not large:
            return
        rows = [chunk.rows[i] for i in large]
        presize = plan.presize_matrix(torch.tensor([chunk.sizes[i] for i in large]), rows)
        height, width = _out_size(plan.params)
        footprints = smallest_footprint(plan.params.matrix[rows].double() @ presize, width, height).tolist()
        smaller = {
            i: [math.ceil(side * SHRINK_TO / footprint) for side in chunk.sizes[i]]
            for i, footprint in zip(large, footprints, strict=True)
            if footprint > SHRINK_BEYOND
        }
        if smaller:
            with sources.clock.stage("presize", len(smaller)):
                shrunk = decoder.shrink([chunk.images[i] for i in smaller], np.array(list(smaller.values())))
            for i, image in zip(smaller, shrunk, strict=True):
                chunk.images[i] = image

    def _gather(self, indices: np.ndarray, chunks: list[_Chunk], plan: _Plan) -> _Batch:
        """One batch of what is good."""
        rows = [row for chunk in chunks for row in chunk.rows]
        images: Sequence[Tensor] | Tensor = [image for chunk in chunks for image in chunk.images]
        if plan.room is not None:
            images = plan.room if len(rows) == len(plan.room) else plan.room[rows]
        sizes = torch.tensor([size for chunk in chunks for size in chunk.sizes], dtype=torch.int64).reshape(-1, 2)
        presize = plan.presize_matrix(sizes, rows)
        targets = self._targets[indices[rows]]
        batch = _Batch(
            indices[rows],
            targets.pin_memory() if self.device.type == "cuda" else targets,
            {int(indices[row]): reason for chunk in chunks for row, reason in sorted(chunk.bad.items())},
            images,
            sizes,
            presize,
            matrix=presize,
            params=None,
            applied=None,
            ready=[chunk.ready for chunk in chunks if chunk.ready],
        )
        if plan.params is not None:
            batch.params = plan.params[torch.tensor(rows, dtype=torch.int64)]
            batch.matrix = batch.params.matrix.double() @ presize
            columns = [pair for chunk in chunks for pair in chunk.columns]
            applied = batch.matrix @ torch.linalg.inv(self._to_images(images, sizes, columns, presize))
            batch.applied = replace(batch.params, matrix=applied.float())
        return batch

    def _to_images(
        self, images: Sequence[Tensor] | Tensor, sizes: Tensor, columns: list[tuple[int, int]], presize: Tensor
    ) -> Tensor:
        """Decoded pixels -> pixels of the images that the warp reads, float64 [N, 3, 3]."""
        if self.mode == "resize":
            return presize
        shapes = torch.tensor([image.shape[:2] for image in images], dtype=torch.float64).reshape(-1, 2)
        first, last = torch.tensor(columns, dtype=torch.float64).reshape(-1, 2).unbind(1)
        (height, width), zero = shapes.unbind(1), torch.zeros_like(first)
        return geometry.box_matrix(first, zero, last - first, sizes[:, 0].double(), width, height)

    def _finish(self, batch: _Batch) -> Any:
        """The consumer's part: one warp, on the device's current stream."""
        for event in batch.ready:
            torch.cuda.current_stream(self.device).wait_event(event)  # the stream waits, the host does not
        targets = batch.targets.to(self.device, non_blocking=True)
        if not len(batch.images):
            x = self._empty(batch.applied)
        elif self.augment is None or batch.applied is None:
            x = batch.images if isinstance(batch.images, Tensor) else torch.stack(list(batch.images))
        else:
            x = self.augment.apply(batch.images, batch.applied)
        if not self.return_info:
            return x, targets
        indices, matrix, presize = torch.from_numpy(batch.indices), batch.matrix.float(), batch.presize.float()
        return x, targets, BatchInfo(indices, batch.sizes, matrix, presize, batch.params)

    def _empty(self, params: Params | None) -> Tensor:
        """A batch without images."""
        if self.augment is None or params is None:
            return torch.empty((0, self.presize, self.presize, 3), dtype=torch.uint8, device=self.device)
        return torch.empty((0, 3, *_out_size(params)), dtype=self.augment.dtype, device=self.device)

    def _quarantine(self, bad: dict[int, str]) -> None:
        for row, reason in bad.items():
            path = self.samples.paths[row]
            if self.on_error == "raise":
                raise BadFileError(f"ImageLoader: could not load {path}: {reason}. Remove it, or use on_error='skip'.")
            if row not in self._bad:
                self._bad[row] = reason
                log.warning("skipping %s: %s", path, reason)
            mine = -(-len(self.samples) // self.shard[1])
            if len(self._bad) > self.max_bad_share * mine:
                raise BadFileError(
                    f"ImageLoader: expected at most {self.max_bad_share:.0%} bad files, got {len(self._bad)} of "
                    f"{mine}, the last {path}: {reason}. If the storage is in order, clean the list with "
                    "`fastaug check`, or raise max_bad_share."
                )


def _out_size(params: Params) -> tuple[int, int]:
    """(height, width) that the batch was drawn for: augment.size may have been set to another since."""
    assert params.size is not None, "every Augment notes it"
    return params.size


def _may_be_shrunk(size: tuple[int, int], params: Params) -> bool:
    """Whether a photo is so large that its footprint may be above SHRINK_BEYOND. Cheaper to know than the footprint."""
    return min(size) > SHRINK_BEYOND * min(_out_size(params))


def _shard(shard: tuple[int, int] | None) -> tuple[int, int]:
    if shard is None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if distributed else (0, 1)
    rank, world = shard
    if not 0 <= rank < world:
        raise ValueError(f"ImageLoader: expected shard=(rank, world) with 0 <= rank < world, got {shard}.")
    return rank, world


__all__ = ["BadFileError", "BatchInfo", "ImageLoader"]
