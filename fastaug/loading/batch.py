"""The making of a batch: draw, read, decode, resize, put together; and the one warp at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fastaug.augment.augment import Augment, Params
from fastaug.loading.cache import Cache
from fastaug.loading.draws import Draws
from fastaug.loading.fetch import Fetcher, Found
from fastaug.loading.modes import Mode
from fastaug.loading.photo import Need, Photo
from fastaug.loading.stats import Observer
from fastaug.loading.workers import Workers
from fastaug.samples.samples import Samples


@dataclass
class BatchInfo:
    """Where each image of a batch comes from and how it got here.

    Attributes:
        indices: int64 [B], rows of the samples.
        sizes: int64 [B, 2], (height, width) of the photos at full size, EXIF-upright.
        matrix: float32 [B, 3, 3], pixels at full size -> output pixels, corner-origin.
        presize: float32 [B, 3, 3], pixels at full size -> presized pixels.
        params: what was drawn for the presized images; None without an augment.
    """

    indices: Tensor
    sizes: Tensor
    matrix: Tensor
    presize: Tensor
    params: Params | None


@dataclass
class Batch:
    """What the background threads hand over: B images, without the bad ones.

    Attributes:
        targets: pinned for a GPU.
        bad: row of the samples -> reason.
        images: what the warp reads.
        warp_params: `info.params`, but for these images instead of presized ones.
        ready: on a GPU: the decoders' streams have finished the images.
    """

    info: BatchInfo
    targets: Tensor
    bad: dict[int, str]
    images: Tensor | Sequence[Tensor]
    warp_params: Params | None
    ready: list[torch.cuda.Event]

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class BatchMaker:
    """Makes the batches of an epoch; called from several threads.

    Attributes:
        pinned: whether targets are wanted in memory that a GPU reads by itself.
        cache: of photos.
        least: images that a batch must have; with fewer it has none.
    """

    samples: Samples
    targets: Tensor
    mode: Mode
    workers: Workers
    observer: Observer
    pinned: bool
    cache: Cache | None = None
    least: int = 1

    def __post_init__(self) -> None:
        self.fetcher = Fetcher(self.workers, self.cache, self.observer)

    def make(self, indices: np.ndarray, draw: Callable[[], Draws]) -> Batch:
        """The batch of some rows of the samples; `draw` says what is decided about them."""
        observer, decoder = self.observer, self.workers.decoder
        with observer.stage("draw", len(indices)) as tell:
            draws = draw()
            tell(draws)
        found = self.fetcher.find([self.samples.paths[row] for row in indices])
        needs = self._needs(found, draws)
        shape = self.mode.buffer_shape(draws) if decoder.device.type == "cpu" else None
        buffer = None if shape is None else self.workers.memory.take(shape)
        load = partial(self._load, found, needs, draws, buffer)
        if shape is None and all(one.content is None for one in found):
            made = [load(range(len(indices)))]  # from the cache, to be warped as they are
        else:
            size = decoder.chunk_size
            chunks = [range(first, min(first + size, len(indices))) for first in range(0, len(indices), size)]
            made = self.workers.decode(load, chunks)
        batch = self._gather(indices, [outcome for outcomes, _ in made for outcome in outcomes], draws, buffer)
        batch.ready = [ready for _, ready in made if ready]
        return batch

    def _needs(self, found: Sequence[Found], draws: Draws) -> list[Need | None]:
        """What is needed of each sample; None where its size is not known."""
        known = {row: one.size for row, one in enumerate(found) if one.size is not None}
        needs: list[Need | None] = [None] * len(found)
        for row, need in zip(known, self.mode.needs(draws[list(known)], list(known.values())), strict=True):
            needs[row] = need
        return needs

    def _load(
        self,
        found: Sequence[Found],
        needs: Sequence[Need | None],
        draws: Draws,
        buffer: np.ndarray | None,
        rows: range,
    ) -> tuple[list[Photo | str], torch.cuda.Event | None]:
        """Photos of some rows of a batch, or the reasons why there are none, and when they are ready."""
        decoder = self.workers.decoder
        with nullcontext() if decoder.stream is None else torch.cuda.stream(decoder.stream):
            fetched = self.fetcher.photos([found[row] for row in rows], [needs[row] for row in rows])
            outcomes = dict(zip(rows, fetched, strict=True))
            photos = {row: photo for row, photo in outcomes.items() if isinstance(photo, Photo)}
            wanted = [self._need_of(photo, needs[row], draws, row) for row, photo in photos.items()]
            resizing = self.mode.resizing(list(photos.values()), wanted, draws)
            if len(resizing):
                out = None if buffer is None else [buffer[row] for row in photos]
                with self.observer.stage("presize", len(resizing)):
                    outcomes |= zip(photos, decoder.resize(list(photos.values()), resizing, out), strict=True)
            ready = None if decoder.stream is None else decoder.stream.record_event()
        return list(outcomes.values()), ready

    def _need_of(self, photo: Photo, need: Need | None, draws: Draws, row: int) -> Need:
        """What was needed, unless the header told another size than the decoder, or none."""
        if need is not None and need.size == photo.size:
            return need
        (need,) = self.mode.needs(draws[[row]], [photo.size])
        return need

    def _gather(
        self, indices: np.ndarray, outcomes: list[Photo | str], draws: Draws, buffer: np.ndarray | None
    ) -> Batch:
        """One batch of what is good."""
        good = {row: outcome for row, outcome in enumerate(outcomes) if isinstance(outcome, Photo)}
        good = good if len(good) >= self.least else {}
        rows, photos = list(good), list(good.values())
        bad = {int(indices[row]): reason for row, reason in enumerate(outcomes) if isinstance(reason, str)}
        draws = draws if len(rows) == len(draws) else draws.part(rows)
        params = draws.params
        sizes = torch.tensor([photo.size for photo in photos], dtype=torch.int64).reshape(-1, 2)
        matrix = draws.matrix(sizes)
        warp_params = None
        if params is not None:
            to_original = torch.tensor([photo.inverse for photo in photos], dtype=torch.float64).reshape(-1, 3, 3)
            warp_params = replace(params, matrix=(matrix @ to_original).float())
        images: Tensor | Sequence[Tensor] = [photo.pixels for photo in photos]
        if buffer is not None:
            images = torch.from_numpy(buffer if len(rows) == len(buffer) else buffer[rows])
        elif not photos:
            images = torch.empty((0, draws.presize, draws.presize, 3), dtype=torch.uint8)
        targets = self.targets[indices[rows]]
        targets = targets.pin_memory() if self.pinned else targets
        presize = draws.presize_matrix(sizes).float()
        info = BatchInfo(torch.from_numpy(indices[rows]), sizes, matrix.float(), presize, params)
        return Batch(info, targets, bad, images, warp_params, [])


def warp_batch(batch: Batch, augment: Augment | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """The consumer's part: x and y on the device, by one warp on its current stream."""
    for event in batch.ready:
        torch.cuda.current_stream(device).wait_event(event)  # the stream waits, the host does not
    images = batch.images
    if device.type == "cuda":  # it warps; other devices get what the CPU warped
        images = images.to(device) if isinstance(images, Tensor) else [image.to(device) for image in images]
    if augment is not None and batch.warp_params is not None:
        x = augment.apply(images, batch.warp_params)
    else:
        x = images if isinstance(images, Tensor) else torch.stack(list(images))
    return x.to(device), batch.targets.to(device, non_blocking=device.type == "cuda")


__all__ = ["Batch", "BatchInfo", "BatchMaker", "warp_batch"]
