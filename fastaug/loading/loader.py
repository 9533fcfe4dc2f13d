"""ImageLoader: its settings, and iteration. Background threads make batches, the consumer warps them."""

from __future__ import annotations

import gc
import os
import time
import warnings
import weakref
import zlib
from collections.abc import Callable, Generator, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal, Self, SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from fastaug.augment.augment import Augment
from fastaug.augment.rng import SampleUniforms
from fastaug.loading import arguments
from fastaug.loading.batch import Batch, BatchInfo, BatchMaker, warp_batch
from fastaug.loading.cache import DEVICE, Cache, open_cache
from fastaug.loading.decode import choose_decoder, default_threads, has_dali, make_decoder
from fastaug.loading.draws import Ahead, Draws, draw
from fastaug.loading.iteration import Iteration, Stop
from fastaug.loading.modes import MODES
from fastaug.loading.options import INSTALL_DALI, MAX_PIXELS, DecoderName, ModeName, ResizeMethod, ScaleName
from fastaug.loading.order import batch_bounds, batch_count, copies_of, epoch_order, shard_order, weighted_order
from fastaug.loading.position import Position, check_state, names_crc32
from fastaug.loading.quarantine import MAX_BAD_SHARE, BadFileError, OnError, Quarantine, StorageError, Tally
from fastaug.loading.stats import Clock, LoaderStats, Observer
from fastaug.loading.summary import Summary, summarize
from fastaug.loading.targets import TargetOptions, targets_of
from fastaug.loading.workers import Workers, beside_forks, prefetch
from fastaug.machine import rank, usable_device, world
from fastaug.samples.samples import Samples
from fastaug.samples.sources import MAX_FILE_BYTES
from fastaug.text import described, html_table

# Batches that are loaded or being loaded, beside the one that the consumer has; 64 images of 460 × 460 are 41 MB.
PREFETCH_BATCHES = 3
# Batches that are being loaded at a time: while one is decoded, the next one is drawn and read.
LOAD_THREADS = 2

_PLACED = ("mask", "objects")  # targets that have a place on their photo, and so differ from view to view


class ImageLoader(IterableDataset[Any]):
    """Batches of augmented images: decoded, presized and warped once.

    Args:
        samples: what to load.
        batch_size: images per batch; with drop_last at most as many as there are to train, with a warning.
        presize: the frame that photos are resized to before the warp: the side of a square, or (height, width), pixels.
            Larger than the final size, to leave margin for rotation and crop, and of its shape. It may be set to
            another one at any time; batches that are on their way keep theirs.
        augment: an `Augment`, or None for the presized uint8 images themselves.
        device: where the batches are wanted, "cuda", "cpu" or another one of torch; None: "cuda" where there is one.
            For others than CUDA they are made on the CPU.
        training: True: the presize at a random position, a new permutation each epoch, random draws, incomplete last
            batch dropped. False: file order, every sample once, everything centred and nothing random, whatever mode
            `augment` is in; operators that draw nothing, such as `CenterCrop`, are done.
        seed: of everything random. Draws are a pure function of (seed, epoch, row of the sample, operator, view).
        mode: "resize": photos are resized to `presize`, then one warp: two interpolations. "direct": the presize is
            multiplied into the matrix and the warp reads the decoded photo: one interpolation, the same draws. Photos
            that are more than SHRINK_BEYOND times too large are shrunk first, to SHRINK_TO times.
        shard: (rank, world); None: from torch.distributed where it is initialised, else (0, 1). Ranks share no sample,
            or with weights no draw of one, and have the same number of batches. Training: the last n % world samples of
            an epoch's order are left out of that epoch. Otherwise every sample is in exactly one rank, whose last batch
            may be shorter, or empty.
        drop_last: leave out an incomplete last batch, and in training one that bad files left a single image, on which
            batch-norm may fail. None: as `training`.
        on_error: "skip" yields the batch without the bad file and notes it in `quarantined`, or, where the storage did
            not give it, in `missed`; "raise" raises BadFileError, or StorageError.
        return_info: yield (x, y, BatchInfo) instead of (x, y).
        num_threads: that decode, and as many that read; None: the cores that this process may use, shared with the
            ranks of its machine (LOCAL_WORLD_SIZE), at most 64, with DALI at most 16.
        prefetch_batches: batches loaded or being loaded, beside the one that the consumer has. Changes no pixel.
        max_bad_share: of this rank's samples of an epoch; with more bad ones among them BadFileError is raised after
            all, in each such epoch; with missed ones, StorageError.
        schedule: for progressive resizing, a function of the epoch that returns (size, presize), for which each epoch's
            batches are drawn, whatever `augment.size` and `presize` are. A resumed run has the right ones by itself.
        resize_method: how photos come into the presize: "crop", the largest box of its shape; "squish", the whole
            photo, whatever its shape; "pad", the whole photo, its shape kept, and padding beside it (a letterbox, which
            counts as inside for `keep_inside`);
            "torchvision": the short side becomes the presize's, by a bilinear filter, and a box of that is taken, in
            the middle where training is False: with `CenterCrop` its validation, pixel by pixel (mode="resize").
        channels: 3, RGB, or 1, grey: the luma of ITU-R BT.601.
        views: of each photo, which is read and decoded once: their number, each made by `augment`; or a list of
            Augments, one for each. Each view has draws of its own; those of the first are those of a loader without
            views. What is made of a photo before the warp is made once, fine enough for all of its views: with
            mode="resize" the whole photo is resized, unless it is far longer than the presize, and the views' frames
            are cut out of it.
        targets: what becomes of masks and boxes, see `TargetOptions`.
        weights: one for each sample, 0 or more: an epoch of the training is as many samples as there are, each drawn
            with replacement by them. A sample that comes again in an epoch has draws of its own.
        balance: "classes": weights with which each class comes equally often; -1, none of them, is one of them here.
        repeats: images of each sample that follow each other in an epoch of the training, read and decoded once, each
            with draws of its own; batch_size counts images.
        read_timeout: seconds that a file may take to be read, all tries together; a read that hangs for longer is given
            up, and the file missed. More than 4 × num_threads that hang at a time raise StorageError. None: as long as
            it takes.
        max_file_bytes: larger files are bad, and are not read.
        decoder: "auto"; "jpeg", libjpeg-turbo and Pillow, on the CPU; "dali". See `decoder_choice`.
        scale: "auto": on a CPU, JPEGs that are far larger than needed are decoded at 1/2, 1/4 or 1/8, which leaves
            twice the pixels that are needed; "exact": every pixel is decoded.
        max_pixels: larger images are bad files.
        cache: photos are decoded once and kept: "memory", the host's, shared by the ranks of the machine; "device", the
            GPU's; or a folder, which is made. Only pixels are kept: what is drawn is drawn anew each epoch. The first
            epoch fills it while it trains, and has the pixels of every later one. None: decode each time.
        cache_size: the short side of what is kept, pixels; of smaller photos everything is. None: the longer side
            of `presize` as it is now.
        cache_bytes: that the cache may take; what does not fit is decoded each time. None: half of what is left.
    Yields:
        x on `device`: the augment's dtype [B, channels, height, width], or uint8 [B, height, width, channels] of the
        presize without one. With views a tuple of such, and of `BatchInfo`, if that is asked for.
        y on `device`, by what the samples have: a class each: int64 [B]. Several: float32 [B, classes] of 0 and 1.
        Numbers: float32 [B] or [B, K]. Nothing: None. Masks: int64 [B, height, width]. Boxes: a list of B dicts. Of
        masks and boxes with views a tuple, one for each.
        A batch of bad files only is left out, as is one of a single image (see drop_last), but with several ranks it is
        yielded, empty: ranks that take turns would otherwise wait for ever.
    Raises:
        ValueError, TypeError: arguments that do not fit. RuntimeError: no such device. ImportError: decoder="dali"
            without DALI.
    Attributes:
        decoder_choice: which decoder is taken, and why: (name, reason, advice or None).
        cache_size: the short side of what is kept; None without a cache.
        quarantined: [(path, reason)] of the bad files met so far, in the order of delivery. They are not tried again by
            this loader, nor by one that its `state_dict` is loaded into.
        missed: [(path, reason)] of the files that the storage did not give in the latest epoch, each tried 4 times.
            They are left out of their batches, and tried again in the next epoch.

    Iterating again starts the next epoch; `set_epoch` names one.

    It is an IterableDataset of whole batches: what insists on a DataLoader gets `DataLoader(loader, batch_size=None)`,
    without workers, since the loader has threads of its own.

    While it is iterated there are num_threads threads that decode, as many that read, and LOAD_THREADS; DALI has
    num_threads of its own, and as many of its codecs. In memory are at most prefetch_batches batches, and up to 4
    photos for each thread that decodes (DALI: 4 × (num_threads + 1), at most 64). With mode="direct" a batch is its
    photos, those far too large decoded or shrunk to about (SHRINK_BEYOND × size)² pixels and their surroundings. On a
    GPU only the targets are pinned, 8 bytes for a class, a byte or more for each pixel of a mask, besides what DALI
    pins for its decoder.
    Leaving the loop, `close`, the end of a `with` block, an exception or Ctrl-C give all of it back.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int = 64,
        presize: int | tuple[int, int] = 460,
        augment: Augment | None = None,
        device: str | torch.device | None = None,
        training: bool = True,
        seed: int = 0,
        mode: ModeName = "resize",
        shard: tuple[int, int] | None = None,
        drop_last: bool | None = None,
        on_error: OnError = "skip",
        return_info: bool = False,
        num_threads: int | None = None,
        prefetch_batches: int = PREFETCH_BATCHES,
        max_bad_share: float = MAX_BAD_SHARE,
        schedule: Callable[[int], tuple[int | tuple[int, int], int | tuple[int, int]]] | None = None,
        decoder: DecoderName = "auto",
        scale: ScaleName = "auto",
        max_pixels: int = MAX_PIXELS,
        cache: str | os.PathLike[str] | None = None,
        cache_size: int | None = None,
        cache_bytes: int | None = None,
        resize_method: ResizeMethod = "crop",
        channels: int = 3,
        views: int | Sequence[Augment] = 1,
        targets: TargetOptions | None = None,
        weights: Sequence[float] | np.ndarray | Tensor | None = None,
        balance: Literal["classes"] | None = None,
        repeats: int = 1,
        read_timeout: float | None = None,
        max_file_bytes: int = MAX_FILE_BYTES,
    ):
        arguments.check_samples(samples)
        arguments.check_choices(mode, on_error, decoder, scale, resize_method)
        others: list[Augment] | None = None
        if isinstance(views, SupportsIndex):
            self.views = arguments.whole("views", views)
        else:
            augment, *others = arguments.several_augments(views, augment, schedule)
            self.views = 1 + len(others)
        arguments.check_channels(channels, others or [])
        self.mode, self.schedule, self.channels = mode, schedule, channels
        self._other_augments: list[Augment] | None = others  # of a list
        self.augment = augment
        arguments.check_share("max_bad_share", max_bad_share)
        arguments.check_targets(targets)
        self.samples, self.resize_method = samples, resize_method
        self._viewed = others is not None or self.views > 1  # and so x is a tuple
        self.targets = targets or TargetOptions()
        self.batch_size, self.presize = arguments.whole("batch_size", batch_size), presize
        self.device = usable_device("ImageLoader", device)
        self.decoder_choice = choose_decoder(decoder, self.device, has_dali())
        if self.decoder_choice.advice:
            warnings.warn(f"ImageLoader: {self.decoder_choice.advice}.", stacklevel=2)
        self.scale, self.max_pixels = scale, arguments.whole("max_pixels", max_pixels)
        self.seed = arguments.whole("seed", seed, None)
        self.training, self.on_error = training, on_error
        self.shard = arguments.checked_shard(shard or (rank(), world()))
        self.drop_last = training if drop_last is None else drop_last
        self.prefetch_batches = arguments.whole("prefetch_batches", prefetch_batches)
        self.return_info, self.max_bad_share = return_info, max_bad_share
        threads = default_threads(self.decoder_choice.name) if num_threads is None else num_threads
        self.num_threads = arguments.whole("num_threads", threads)
        arguments.check_cache(cache)
        if cache == DEVICE and self.device.type == "cuda" and self.decoder_choice.name != "dali":
            raise ValueError(
                f"ImageLoader: cache='device' needs a decoder that works there, got '{self.decoder_choice.name}'. "
                f"Install DALI: {INSTALL_DALI}; or use cache='memory'."
            )
        self.cache, self.cache_bytes = cache, arguments.of_a_cache("cache_bytes", cache_bytes, cache)
        self.cache_size = arguments.of_a_cache("cache_size", cache_size, cache)
        if cache is not None and self.cache_size is None:
            self.cache_size = max(arguments.sides(self.presize))  # no method needs more of a photo
        self._mode = MODES[mode]()
        self._batch_targets = targets_of(samples, self.targets)
        self._orientations: dict[int, int] = {}
        self.weights = arguments.sample_weights(weights, balance, samples)
        self.repeats = arguments.whole("repeats", repeats)
        if self.batch_size % self.repeats:
            raise ValueError(
                f"ImageLoader: expected a batch_size that is a multiple of repeats, {self.repeats}, got "
                f"{self.batch_size}. A sample's images come in one batch: take {self.repeats} × as many as photos."
            )
        self.read_timeout = arguments.checked_timeout(read_timeout)
        self.max_file_bytes = arguments.whole("max_file_bytes", max_file_bytes)
        self._position = Position()
        self._quarantine = Quarantine(samples)
        self._clock = Clock()
        self._iterations: set[weakref.ref[Iteration]] = set()  # a WeakSet must not change while another thread looks
        share = len(samples) // self.shard[1] * self.repeats  # of each rank in training
        if training and not share:
            raise ValueError(
                f"ImageLoader: expected at least one sample for each of {self.shard[1]} rank(s), got {len(samples)} "
                "samples. Add some."
            )
        if training and self.drop_last and share < self.batch_size:
            warnings.warn(
                f"ImageLoader: expected enough samples for batches of {self.batch_size}, got {share} for this rank, "
                f"which are one batch now. To say so: batch_size={share}.",
                stacklevel=2,
            )
            self.batch_size = share
        self._opened_cache = self._open_cache()

    def _open_cache(self) -> Cache | None:
        if self.cache is None or self.cache_size is None:
            return None
        device = self.device if self.device.type == "cuda" else torch.device("cpu")
        return open_cache(
            self.cache, self.cache_size, self.cache_bytes, self.decoder_choice.name, self.scale, device
        )  # fmt: skip

    @property
    def presize(self) -> int | tuple[int, int]:
        """The side of the square that photos are resized to before the warp, or (height, width), pixels."""
        return self._presize

    @presize.setter
    def presize(self, presize: int | tuple[int, int]) -> None:
        self._presize = arguments.checked_presize(presize, self.resize_method)

    @property
    def augment(self) -> Augment | None:
        """Of the photos, or of their first view."""
        return self._augment

    @augment.setter
    def augment(self, augment: Augment | None) -> None:
        arguments.check_augment(augment, self.schedule, self.mode, self._other_augments is not None)
        arguments.check_channels(self.channels, [augment])
        self._augment = augment

    @property
    def augments(self) -> list[Augment | None]:
        """One for each view."""
        if self._other_augments is None:
            return [self.augment] * self.views
        return [self.augment, *self._other_augments]

    @property
    def quarantined(self) -> list[tuple[str, str]]:
        return self._quarantine.listed()

    @property
    def missed(self) -> list[tuple[str, str]]:
        return self._quarantine.missed()

    def __len__(self) -> int:
        """Batches per epoch, the same for every rank."""
        photos = self.batch_size // self._images
        return batch_count(len(self.samples), self.shard[1], photos, self.training, self.drop_last)

    @property
    def _images(self) -> int:
        """Of each photo, for each view."""
        return self.repeats if self.training else 1

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration this epoch, from its start, or from where a loaded state stands in it."""
        self._position.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, in plain numbers, strings and lists: batches delivered, not batches prefetched."""
        return {**self._position.state(self._identity()), "quarantined": self._quarantine.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next iteration continue, bit for bit, where `state_dict` was taken.

        After the last batch of an epoch that is the next epoch, unless `set_epoch` names the one that is over: then
        nothing is left of it.
        A state from the start or the end of an epoch may be loaded with another batch size or another number of ranks,
        and a state of one rank by all of them.

        Raises:
            ValueError: a state of other files, other targets or another seed, or, in the middle of an epoch, of other
                batches. Files may have moved together: their names below their common folder count.
        """
        epoch, delivered = check_state(state, self._identity(), len(self))
        self._quarantine.restore(state["quarantined"], moved="names_crc32" in state)
        self._position.resume(epoch, delivered)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a state to be continued in the middle of an epoch."""
        return {
            "seed": self.seed,
            "samples": len(self.samples),
            "targets_crc32": self.samples.targets_crc32(),
            "weights_crc32": 0 if self.weights is None else zlib.crc32(self.weights.tobytes()),
            "repeats": self.repeats,
            "names_crc32": self._names_crc32,
            "training": self.training,
            "batch_size": self.batch_size,
            "ranks": self.shard[1],
            "drop_last": self.drop_last,
        }

    @cached_property
    def _names_crc32(self) -> int:
        return names_crc32(self.samples.paths)

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
        return self.walk(row)[0]

    def walk(self, row: int = 0) -> tuple[Summary, tuple[Any, Any] | None]:
        """`summary`, and the batch (x, y) of that sample, of its first view; None where a step failed."""
        position = replace(self._position)
        position.begin(len(self))

        def make(observer: Observer) -> Batch:
            with self._workers(1) as workers:
                rows, first = np.array([row], np.int64), np.zeros(1, np.int64)
                draw = partial(self._draw, position.epoch, self._scheduled(position.epoch), observer, rows, first)
                return self._maker(workers, observer).make(rows, draw)

        def warp(batch: Batch) -> tuple[list[Tensor], Any]:
            x, y = self._warped(batch)
            return x, y[0] if self.views > 1 and self.samples.kind in _PLACED else y

        return summarize(self.samples, row, position.epoch, self._mode, self.augment, make, warp)

    def close(self) -> None:
        """End every iteration: the threads, and what was prefetched. Iterating again is possible.

        Any thread may call it, also while another one waits for a batch, whose loop ends then; and a signal handler.
        """
        for known in tuple(self._iterations):
            iteration = known()
            if iteration is not None:
                iteration.close()
        if self.decoder_choice.name == "dali":  # its results refer to each other in circles, which keep its threads
            gc.collect()

    def _settings(self) -> dict[str, object]:
        """What is shown of it."""
        settings: dict[str, object] = {"images": len(self.samples), "batch_size": self.batch_size, "batches": len(self)}
        settings |= {name: getattr(self, name) for name in ("training", "mode", "presize")}
        usual = {"resize_method": "crop", "channels": 3, "views": 1, "repeats": 1}
        settings |= {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}
        settings |= {} if self.weights is None else {"weights": f"{self.weights.min():.3g} to 1 of the largest"}
        settings |= {} if self.augment is None else {"size": self.augment.size}
        settings |= {"device": str(self.device), "decoder": self.decoder_choice.name}
        if self.cache is not None:
            settings |= {"cache": os.fspath(self.cache), "cache_size": self.cache_size}
        settings |= {"shard": self.shard} if self.shard[1] > 1 else {}
        settings |= {"epoch": self._position.epoch, "quarantined": len(self.quarantined)}
        return settings | ({"missed": len(self.missed)} if self.missed else {})

    def __repr__(self) -> str:
        return described("ImageLoader", self._settings())

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html_table("ImageLoader", self._settings().items())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: without what belongs to a running iteration. A copy goes its own way from here."""
        own = {"_clock": None, "_iterations": None, "_opened_cache": None}
        quarantine = copy(self._quarantine)  # what is bad for one is so for both, but each misses its own
        return {**self.__dict__, **own, "_position": replace(self._position), "_quarantine": quarantine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _clock=Clock(), _iterations=set())
        self._opened_cache = self._open_cache()

    def __iter__(self) -> Iteration:
        worker = get_worker_info()
        if worker is not None:
            raise RuntimeError(
                f"ImageLoader: expected to be iterated in the process that trains, got a DataLoader with "
                f"{worker.num_workers} worker(s), each of which would load everything. Use DataLoader(loader, "
                "batch_size=None, num_workers=0), or the loader itself."
            )
        iteration = Iteration(self._iterate)
        self._iterations.add(weakref.ref(iteration, self._iterations.discard))
        return iteration

    def _iterate(self, stop: Stop) -> Generator[Any, None, None]:
        position = self._position
        position.begin(len(self))
        if self._opened_cache is not None and not self._opened_cache.is_current():
            self._opened_cache = self._open_cache()
        epoch, first = position.epoch, position.delivered
        indices, copies = self._epoch_indices(epoch)
        bounds = batch_bounds(len(indices), self.batch_size // self._images, len(self))
        done = bounds[first - 1][1] if first else 0
        self._quarantine.begin()
        tally = Tally(self._quarantine, indices, done, self.on_error, self.max_bad_share)
        bounds = bounds[first:]
        with self._workers(self.num_threads) as workers:
            stop.then(workers.stop)
            loading = dict.fromkeys(("read", "draw"), LOAD_THREADS)
            decoding = dict.fromkeys(("decode", "keep", "cache", "presize"), workers.decoder.threads)
            self._clock = clock = Clock({**loading, **decoding})
            least = 2 if self.training and self.drop_last and self.batch_size > 1 else 1
            rows = [indices[a:b] for a, b in bounds]
            drawn_for = [(indices[a:b], copies[a:b]) for a, b in bounds]
            ahead = Ahead(partial(self._draw, epoch, self._scheduled(epoch), clock), drawn_for)
            make = partial(self._make, self._maker(workers, clock, least), ahead, rows)
            batches = prefetch(make, range(len(rows)), self.prefetch_batches, LOAD_THREADS, stop.ask)
            try:
                for delivered, batch in enumerate(batches, first + 1):
                    if stop.asked:  # it may have been made in part only
                        return
                    loaded = time.perf_counter()
                    tally.add(rows[delivered - first - 1], batch.bad)
                    position.delivered = delivered
                    if len(batch) or self.shard[1] > 1:
                        with clock.stage("warp", len(batch)):
                            result, images = self._warp_batch(batch), len(batch)
                        del batch  # its photos are not needed while the consumer works
                        since = clock.delivered(images, loaded)
                        yield result
                        del result
                        clock.asked(since)
                position.end(epoch)
            finally:
                batches.close()  # which asks `stop`

    def _workers(self, num_threads: int) -> Workers:
        device = self.device if self.device.type == "cuda" else "cpu"
        decoder = make_decoder(self.decoder_choice.name, device, num_threads, self.scale, self.max_pixels)
        return Workers(decoder, num_threads, self.read_timeout, self.max_file_bytes)

    def _epoch_indices(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """This rank's rows of the samples, and how often each came before in the epoch, on whatever rank."""
        n, part = len(self.samples), partial(shard_order, shard=self.shard, equal=self.training)
        if self.training and self.weights is not None:
            order = weighted_order(np.cumsum(self.weights), self.seed, epoch)
            return part(order), part(copies_of(order))
        rows = part(epoch_order(n, self.seed, epoch) if self.training else np.arange(n))
        return rows, np.zeros_like(rows)

    def _make(self, maker: BatchMaker, ahead: Ahead, batches: list[np.ndarray], number: int) -> Batch:
        """A batch, without what is known to be bad."""
        rows, images = batches[number], maker.repeats
        good = [place for place, row in enumerate(rows.tolist()) if row not in self._quarantine]
        if len(good) == len(rows):
            return maker.make(rows, partial(ahead, number))
        places = [place * images + i for place in good for i in range(images)]
        return maker.make(rows[good], lambda: [draws.part(places) for draws in ahead(number)])

    def _scheduled(self, epoch: int) -> tuple[int | tuple[int, int], int | tuple[int, int]] | None:
        return None if self.schedule is None else self.schedule(epoch)

    def _draw(
        self,
        epoch: int,
        scheduled: tuple[int | tuple[int, int], int | tuple[int, int]] | None,
        observer: Observer,
        indices: np.ndarray,
        copies: np.ndarray,
    ) -> list[Draws]:
        """For the images of some samples, of each view."""
        augments, presize, images = self.augments, self.presize, self._images  # they may be set at any time
        if scheduled is not None:
            augments = [None if augment is None else augment.with_size(scheduled[0]) for augment in augments]
            presize = arguments.checked_presize(scheduled[1], self.resize_method)
        if images > 1:
            indices, copies = np.repeat(indices, images), (copies[:, None] * images + np.arange(images)).ravel()
        how = arguments.sides(presize), self.training
        return [
            draw(
                SampleUniforms(self.seed, epoch, indices, copies, view), augment, *how,
                None if view else observer.operator, self.resize_method,
            )
            for view, augment in enumerate(augments)
        ]  # fmt: skip

    def _maker(self, workers: Workers, observer: Observer, least: int = 1) -> BatchMaker:
        pinned = self.device.type == "cuda"
        parts = self.samples, self._batch_targets, self._orientations, self.augments, self._mode, workers, observer
        return BatchMaker(*parts, pinned, self._opened_cache, self._images, self.channels, least)

    def _warped(self, batch: Batch) -> tuple[list[Tensor], Any]:
        return beside_forks(partial(warp_batch, batch, self.augments, self.device, self.channels))

    def _warp_batch(self, batch: Batch) -> Any:
        x, y = self._warped(batch)
        info = [view.info for view in batch.views]
        if self._viewed:
            y = (y,) if self.views == 1 and self.samples.kind in _PLACED else y
            return (tuple(x), y, tuple(info)) if self.return_info else (tuple(x), y)
        return (x[0], y, info[0]) if self.return_info else (x[0], y)


__all__ = ["BadFileError", "BatchInfo", "ImageLoader", "StorageError"]
