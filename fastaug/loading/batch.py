"""The making of a batch: draw, read, decode, resize, put together; and the one warp at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fastaug.augment.augment import Augment, Params
from fastaug.loading.decode import Decoder
from fastaug.loading.draws import Draws
from fastaug.loading.header import upright_size
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
class Batch:
    """What the background threads hand over: B images, without the bad ones.

    Attributes:
        targets: pinned where the device is a GPU.
        bad: row of the samples -> reason.
        images: what the warp reads.
        warp_params: `info.params`, but for these images instead of presized ones.
        presize: side of the presized images, pixels.
        ready: on a GPU: the decoders' streams have finished the images.
    """

    info: BatchInfo
    targets: Tensor
    bad: dict[int, str]
    images: Tensor | Sequence[Tensor]
    warp_params: Params | None
    presize: int
    ready: list[torch.cuda.Event]

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class _Chunk:
    """Some photos of a batch, decoded together; without the bad ones."""

    rows: list[int]  # of the batch
    photos: list[Photo]
    bad: dict[int, str]  # row of the batch -> reason
    ready: torch.cuda.Event | None


@dataclass
class BatchMaker:
    """Makes the batches of an epoch; called from several threads.

    Attributes:
        draw: rows of the samples, observer -> what is decided about them.
    """

    samples: Samples
    targets: Tensor
    mode: Mode
    device: torch.device
    draw: Callable[[np.ndarray, Observer], Draws]
    workers: Workers
    observer: Observer

    def make(self, indices: np.ndarray) -> Batch:
        """The batch of some rows of the samples."""
        observer = self.observer
        with observer.stage("draw", len(indices)) as tell:
            draws = self.draw(indices, observer)
            tell(draws)
        with observer.stage("read", len(indices)) as tell:
            contents = self.workers.read([self.samples.paths[row] for row in indices])
            tell(contents)
        # A GPU's decoder decodes whole photos: nothing need be known before.
        needs = [None] * len(indices) if self.device.type == "cuda" else self._needs(contents, draws)
        buffer = None if self.device.type == "cuda" else self.mode.buffer(draws)
        size = self.workers.decoders.chunk_size
        rows = [range(first, min(first + size, len(indices))) for first in range(0, len(indices), size)]
        chunks = self.workers.decoders.map(partial(self._load_chunk, contents, needs, draws, buffer), rows)
        return self._gather(indices, chunks, draws, buffer)

    def _needs(self, contents: Sequence[bytes | str], draws: Draws) -> list[Need | None]:
        """What is needed of each file; None where its header does not tell its size."""
        sizes = {row: upright_size(content) for row, content in enumerate(contents) if isinstance(content, bytes)}
        known = {row: size for row, size in sizes.items() if size is not None}
        needs: list[Need | None] = [None] * len(contents)
        for row, need in zip(known, self.mode.needs(draws[list(known)], list(known.values())), strict=True):
            needs[row] = need
        return needs

    def _load_chunk(
        self,
        contents: Sequence[bytes | str],
        needs: Sequence[Need | None],
        draws: Draws,
        buffer: Tensor | None,
        decoder: Decoder,
        rows: range,
    ) -> _Chunk:
        """Decode some rows of a batch, and resize those that the mode wants smaller."""
        bad = {row: content for row in rows if isinstance(content := contents[row], str)}
        encoded = {row: content for row in rows if isinstance(content := contents[row], bytes)}
        if self.workers.stopped:
            encoded = {}  # nobody will look at the batch
        with torch.cuda.stream(decoder.stream):  # of no effect on a CPU
            with self.observer.stage("decode", len(encoded)) as tell:
                found = decoder.decode(list(encoded.values()), [needs[row] for row in encoded])
                tell(found)
            outcomes = dict(zip(encoded, found, strict=True))
            bad |= {row: reason for row, reason in outcomes.items() if isinstance(reason, str)}
            photos = {row: photo for row, photo in outcomes.items() if isinstance(photo, Photo)}
            good = list(photos)
            resizing = self.mode.resizing(list(photos.values()), [needs[row] for row in good], draws[good])
            out = None if buffer is None else [buffer[row] for row in good]
            resized = list(photos.values())
            if len(resizing):
                with self.observer.stage("presize", len(resizing)):
                    resized = decoder.resize(resized, resizing, out)
            ready = None if decoder.stream is None else decoder.stream.record_event()
        return _Chunk(good, resized, bad, ready)

    def _gather(self, indices: np.ndarray, chunks: list[_Chunk], draws: Draws, buffer: Tensor | None) -> Batch:
        """One batch of what is good."""
        rows = [row for chunk in chunks for row in chunk.rows]
        photos = [photo for chunk in chunks for photo in chunk.photos]
        draws = draws[rows]
        sizes = torch.tensor([photo.size for photo in photos], dtype=torch.int64).reshape(-1, 2)
        matrix = draws.matrix(sizes)
        warp_params = None
        if draws.params is not None:
            to_photos = torch.stack([photo.matrix for photo in photos]) if photos else matrix
            warp_params = replace(draws.params, matrix=(matrix @ torch.linalg.inv(to_photos)).float())
        targets = self.targets[indices[rows]]
        presize = draws.presize_matrix(sizes).float()
        images: Tensor | Sequence[Tensor] = [photo.pixels for photo in photos]
        if buffer is not None:
            images = buffer if len(rows) == len(buffer) else buffer[rows]
        return Batch(
            BatchInfo(torch.from_numpy(indices[rows]), sizes, matrix.float(), presize, draws.params),
            targets.pin_memory() if self.device.type == "cuda" else targets,
            {int(indices[row]): reason for chunk in chunks for row, reason in sorted(chunk.bad.items())},
            images,
            warp_params,
            draws.presize,
            [chunk.ready for chunk in chunks if chunk.ready],
        )


def warp_batch(batch: Batch, augment: Augment | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """The consumer's part: x and y on the device, by one warp on its current stream."""
    for event in batch.ready:
        torch.cuda.current_stream(device).wait_event(event)  # the stream waits, the host does not
    targets = batch.targets.to(device, non_blocking=True)
    if augment is not None and batch.warp_params is not None:
        return _augmented(batch, augment, batch.warp_params, device), targets
    if not len(batch):
        return torch.empty((0, batch.presize, batch.presize, 3), dtype=torch.uint8, device=device), targets
    return batch.images if isinstance(batch.images, Tensor) else torch.stack(list(batch.images)), targets


def _augmented(batch: Batch, augment: Augment, params: Params, device: torch.device) -> Tensor:
    if len(batch):
        return augment.apply(batch.images, params)
    assert params.size is not None, "every Augment notes it"
    return torch.empty((0, 3, *params.size), dtype=augment.dtype, device=device)


__all__ = ["Batch", "BatchInfo", "BatchMaker", "warp_batch"]
