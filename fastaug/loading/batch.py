"""The making of a batch: draw, read, decode, resize, put together; and the warps at its end, one for each view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastaug.augment.augment import Augment, Params, apply_together
from fastaug.augment.color import LUMA, compose_color, saturation_matrix
from fastaug.loading.cache import Cache
from fastaug.loading.draws import Draws
from fastaug.loading.fetch import Fetcher, Found
from fastaug.loading.jpeg import orientation_of
from fastaug.loading.modes import Mode
from fastaug.loading.photo import Need, Photo, Resizing, Size, places_of
from fastaug.loading.pillow import Unreadable
from fastaug.loading.reading import NO_MEMORY
from fastaug.loading.stats import Observer
from fastaug.loading.targets import BatchTargets, View, pin, to_device
from fastaug.loading.workers import Workers
from fastaug.samples.samples import Samples
from fastaug.text import printable


@dataclass
class BatchInfo:
    """Where each image of a batch comes from and how it got here.

    Attributes:
        indices: int64 [B], rows of the samples.
        sizes: int64 [B, 2], (height, width) of the photos at full size, EXIF-upright.
        matrix: float32 [B, 3, 3], pixels at full size -> output pixels, corner-origin.
        presize: float32 [B, 3, 3], pixels at full size -> presized pixels.
        params: what was drawn for the presized images; None without an augment.
        extent: float32 [B, 4], x0, y0, x1, y1, pixels at full size: what the warp saw of each photo. With mode="resize"
            that is what the presize shows; beyond it is padding. The matrix does not tell: give it to `warp_masks` …
    """

    indices: Tensor
    sizes: Tensor
    matrix: Tensor
    presize: Tensor
    params: Params | None
    extent: Tensor


@dataclass
class BatchView:
    """One view of a batch's samples, ready to be warped.

    Attributes:
        images: what the warp reads.
        warp_params: `info.params`, but for these images instead of presized ones.
        frame: (height, width) of the presize.
        corners: of padded images: x and y of each in it.
    """

    info: BatchInfo
    images: Tensor | Sequence[Tensor]
    warp_params: Params | None
    frame: Size
    corners: list[tuple[int, int]]


@dataclass
class Batch:
    """What the background threads hand over: B images of each view, without the bad ones.

    Attributes:
        targets: y, on the CPU; pinned for a GPU.
        bad: row of the samples -> reason.
        ready: on a GPU: the decoders' streams have finished the images.
    """

    views: list[BatchView]
    targets: Any
    bad: dict[int, str]
    ready: list[torch.cuda.Event]

    def __len__(self) -> int:
        return len(self.views[0].info.indices)


@dataclass
class _Work:
    """What the threads that make one batch share: P photos, of each of which `images` images are made for each view.

    Attributes:
        views: what is decided about P · images images, for each view.
        needs: of each image of each view; None where the size of its photo is not known.
        buffers: for each view, memory for its images, if they are all of one size.
        target_files: what the files of the targets hold, P, or the reasons why there is nothing; None: there are none.
        made: the images of each view, `targets` what was made of those files, and `reasons` why not, by photo.
    """

    found: list[Found]
    views: Sequence[Draws]
    images: int
    needs: list[list[Need | None]]
    buffers: list[np.ndarray | None]
    target_files: list[bytes | str] | None
    made: list[dict[int, list[Photo]]]
    targets: dict[int, Any] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)

    def places(self, photo: int) -> range:
        """Of a photo's images in the batch."""
        return range(photo * self.images, (photo + 1) * self.images)


@dataclass
class BatchMaker:
    """Makes the batches of an epoch; called from several threads.

    Attributes:
        orientations: of photos, by row, as far as they are known: targets that are files are turned with their photos.
        augments: one for each view.
        pinned: whether targets are wanted in memory that a GPU reads by itself.
        cache: of photos.
        repeats: images of each photo, for each view.
        channels: 3, or 1 for grey images.
        least: images that a batch must have; with fewer it has none.
    """

    samples: Samples
    targets: BatchTargets
    orientations: dict[int, int]
    augments: Sequence[Augment | None]
    mode: Mode
    workers: Workers
    observer: Observer
    pinned: bool
    cache: Cache | None = None
    repeats: int = 1
    channels: int = 3
    least: int = 1

    def __post_init__(self) -> None:
        self.fetcher = Fetcher(self.workers, self.cache, self.observer)

    def make(self, indices: np.ndarray, draw: Callable[[], Sequence[Draws]]) -> Batch:
        """The batch of some rows of the samples; `draw` says what is decided about their images, for each view."""
        observer, decoder, photos = self.observer, self.workers.decoder, len(indices)
        with observer.stage("draw", photos) as tell:
            views = draw()
            tell(views[0])
        found = self.fetcher.find([self.samples.paths[row] for row in indices])
        needs = [self._needs(found, draws) for draws in views]
        on_cpu = decoder.device.type == "cpu"
        buffers: list[np.ndarray | None] = [None] * len(views)
        if on_cpu:
            shapes = [self.mode.buffer_shape(draws) for draws in views]
            buffers = [None if shape is None else self.workers.memory.take(shape) for shape in shapes]
        files = self.targets.files
        contents = None
        if files is not None:
            with observer.stage("read", 0):
                contents = self.workers.read([files[row] for row in indices])
        work = _Work(found, views, self.repeats, needs, buffers, contents, [{} for _ in views])
        load = partial(self._load, work, indices)
        presized = on_cpu and self.mode.resizes_all
        if not presized and contents is None and all(one.content is None for one in found):
            ready = [load(range(photos))]  # from the cache, to be warped as they are
        else:
            size = min(decoder.chunk_size, max(photos // decoder.threads, 1))  # every thread has some
            chunks = [range(first, min(first + size, photos)) for first in range(0, photos, size)]
            ready = self.workers.decode(load, chunks)
        batch = self._gather(work, indices)
        batch.ready = [event for event in ready if event]
        return batch

    def _needs(self, found: Sequence[Found], draws: Draws) -> list[Need | None]:
        """What is needed of the photo of each image; None where its size is not known."""
        sizes = [one.size for one in found for _ in range(self.repeats)]
        known = {place: size for place, size in enumerate(sizes) if size is not None}
        if len(known) == len(sizes):
            return [*self.mode.needs(draws, list(known.values()))]
        needs: list[Need | None] = [None] * len(sizes)
        for place, need in zip(known, self.mode.needs(draws[list(known)], list(known.values())), strict=True):
            needs[place] = need
        return needs

    def _load(self, work: _Work, indices: np.ndarray, photos: range) -> torch.cuda.Event | None:
        """Make the images of some photos, or say why there are none. Returns when they are ready."""
        decoder = self.workers.decoder
        with nullcontext() if decoder.stream is None else torch.cuda.stream(decoder.stream):
            wanted = [Need.of_all([of[i] for of in work.needs for i in work.places(photo)]) for photo in photos]
            fetched = self.fetcher.photos([work.found[photo] for photo in photos], wanted)
            good: dict[int, Photo] = {}
            for photo, outcome in zip(photos, fetched, strict=True):
                if isinstance(outcome, Photo):
                    reason = self._problem(work, photo, int(indices[photo]), outcome)
                    outcome = outcome if reason is None else reason
                if isinstance(outcome, Photo):
                    good[photo] = outcome
                else:
                    work.reasons[photo] = outcome
            needs = [self._certain_needs(work, good, view) for view in range(len(work.views))]
            shared = len(work.views) * work.images > 1
            if shared:
                together = [Need.of_all([of[i] for of in needs for i in work.places(photo)]) for photo in good]
                resizing = self.mode.shared([*good.values()], [need for need in together if need], work.views[0])
                good = dict(zip(good, self._resized([*good.values()], resizing), strict=True))
            for view, draws in enumerate(work.views):
                places = [i for photo in good for i in work.places(photo)]
                shown = [photo for photo in good.values() for _ in range(work.images)]
                resizing = self.mode.resizing(shown, [needs[view][i] for i in places], draws, shared)
                buffer = work.buffers[view]
                out = None if buffer is None else [buffer[i] for i in places]
                made = self._resized(shown, resizing, out)
                for k, photo in enumerate(good):
                    work.made[view][photo] = made[k * work.images : (k + 1) * work.images]
            return None if decoder.stream is None else decoder.stream.record_event()

    def _certain_needs(self, work: _Work, good: Mapping[int, Photo], view: int) -> dict[int, Need]:
        """What was needed of each image, unless the header told another size than the decoder, or none."""
        needs: dict[int, Need] = {}
        for number, photo in good.items():
            for i in work.places(number):
                need = work.needs[view][i]
                if need is None or need.size != photo.size:
                    (need,) = self.mode.needs(work.views[view][[i]], [photo.size])
                needs[i] = need
        return needs

    def _resized(self, photos: list[Photo], resizing: Resizing, out: Sequence[np.ndarray] | None = None) -> list[Photo]:
        if not len(resizing):
            return photos
        with self.observer.stage("presize", len(resizing)):
            return self.workers.decoder.resize(photos, resizing, out)

    def _problem(self, work: _Work, number: int, row: int, photo: Photo) -> str | None:
        """Why a photo has no target that can be used; None: it has, and if that is a file, it is decoded now."""
        reason = self.targets.check(row, photo.size)
        if reason is not None or work.target_files is None or self.targets.files is None:
            return reason
        content = work.target_files[number]
        if isinstance(content, str):
            kind = type(content)  # whose fault it is
            return kind(f"its mask {printable(self.targets.files[row])}: {content}")
        with self.observer.stage("decode", 0):
            orientation = self._orientation(work, number, row)
            if isinstance(orientation, str):
                return orientation
            try:
                work.targets[number] = self.targets.decode(row, content, photo.size, orientation)
            except Unreadable as error:
                return str(error)
            except MemoryError:  # it is as large as its photo, which is there
                return NO_MEMORY
        return None

    def _orientation(self, work: _Work, number: int, row: int) -> int | str:
        """EXIF's, of a photo that is upright already, or why it is not known. Of one from the cache it is known, or its
        file is read once."""
        found = work.found[number]
        if found.content is not None or row not in self.orientations:
            content = self.workers.read([found.path])[0] if found.content is None else found.content
            if isinstance(content, str):
                return type(content)(f"the photo's orientation is not known: {content}")
            self.orientations[row] = orientation_of(content)
        return self.orientations[row]

    def _gather(self, work: _Work, indices: np.ndarray) -> Batch:
        """One batch of what is good."""
        good = [photo for photo in range(len(indices)) if photo not in work.reasons]
        good = good if len(good) * work.images >= self.least else []
        bad = {int(indices[photo]): reason for photo, reason in sorted(work.reasons.items())}
        rows = np.repeat(indices[good], work.images)
        sizes = [photo.size for number in good for photo in work.made[0][number]]
        views = self._views(work, good, rows, torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2))
        decoded = [work.targets[photo] for photo in good for _ in range(work.images)] if work.target_files else []
        targets = self.targets.make(rows, decoded, sizes, [how for _, how in views])
        return Batch([made for made, _ in views], pin(targets) if self.pinned else targets, bad, [])

    def _views(self, work: _Work, good: list[int], rows: np.ndarray, sizes: Tensor) -> list[tuple[BatchView, View]]:
        """The views of what is good."""
        places = [i for photo in good for i in work.places(photo)]
        found, photos, where = list[tuple[BatchView, View]](), list[Photo](), (np.empty(0), np.empty(0))
        for view in range(len(work.views)):
            before, photos = photos, [photo for number in good for photo in work.made[view][number]]
            if not found or not all(map(is_, before, photos)):  # several views may be of the same pixels
                where = places_of(photos)
            found.append(self._view(work, view, places, rows, sizes, photos, *map(torch.from_numpy, where)))
        return found

    def _view(
        self, work: _Work, view: int, places: list[int], rows: np.ndarray, sizes: Tensor, photos: list[Photo],
        to_original: Tensor, extent: Tensor,
    ) -> tuple[BatchView, View]:  # fmt: skip
        """One view: what the warp reads, and how targets follow it."""
        draws, buffer = work.views[view], work.buffers[view]
        draws = draws if len(places) == len(draws) else draws.part(places)
        params, matrix, presize = draws.params, draws.matrix(sizes), draws.presize_matrix(sizes)
        warp_params = None
        if params is not None:
            warp_params = replace(params, matrix=(matrix @ to_original).float())
            warp_params = _grey(warp_params) if self.channels == 1 else warp_params
        images: Tensor | Sequence[Tensor] = [photo.pixels for photo in photos]
        if buffer is not None:
            images = torch.from_numpy(buffer if len(places) == len(buffer) else buffer[places])
        corners = [] if draws.method != "pad" else draws.boxes(sizes)[1][:, :2].int().tolist()
        info = BatchInfo(torch.from_numpy(rows), sizes, matrix.float(), presize.float(), params, extent.float())
        augment, erase = self.augments[view], None if params is None else params.erase
        pixel = to_original.diagonal(dim1=1, dim2=2)[:, :2]
        how = View(matrix, extent, draws.output, "zeros" if augment is None else augment.padding, erase, pixel)
        return BatchView(info, images, warp_params, draws.presize, corners), how


def warp_batch(
    batch: Batch, augments: Sequence[Augment | None], device: torch.device, channels: int = 3
) -> tuple[list[Tensor], Any]:
    """The consumer's part: x of each view, and y, on the device, by one warp each on its current stream."""
    for event in batch.ready:
        torch.cuda.current_stream(device).wait_event(event)  # the stream waits, the host does not
    moved: dict[int, Tensor] = {}  # several views may be of the same pixels

    def there(image: Tensor) -> Tensor:
        if device.type != "cuda":  # only that one warps; other devices get what the CPU warped
            return image
        if id(image) not in moved:
            moved[id(image)] = image.to(device)
        return moved[id(image)]

    each = [
        (augment, there(view.images) if isinstance(view.images, Tensor) else list(map(there, view.images)), view)
        for view, augment in zip(batch.views, augments, strict=True)
    ]
    warps = [(a, images, v.warp_params) for a, images, v in each if a is not None and v.warp_params is not None]
    if warps:
        xs = [x if channels == 3 else x[:, :1].contiguous() for x in apply_together(warps)]
    else:
        xs = [_presized(images, view, channels) for _, images, view in each]
    return [x.to(device) for x in xs], to_device(batch.targets, device)


def _presized(images: Tensor | Sequence[Tensor], view: BatchView, channels: int) -> Tensor:
    """Without an augment: uint8 [B, height, width, channels]."""
    x = images if isinstance(images, Tensor) else _framed(images, view)
    if channels == 1:
        x = (x.float() @ torch.tensor(LUMA, device=x.device)).round().to(torch.uint8)[..., None]
    return x


def _framed(images: Sequence[Tensor], view: BatchView) -> Tensor:
    """uint8 [B, height, width, 3] of the presize's frame, black beside images that are smaller."""
    if images and not view.corners:
        return torch.stack(list(images))
    out = torch.zeros(len(images), *view.frame, 3, dtype=torch.uint8, device=images[0].device if images else None)
    for whole, image, (x, y) in zip(out, images, view.corners, strict=True):
        height, width, _ = image.shape
        whole[y : y + height, x : x + width] = image
    return out


def _grey(params: Params) -> Params:
    """The same of the photos' luma, in all channels: luma is linear, so it may be taken first."""
    color = compose_color(params.color.double(), saturation_matrix(torch.zeros(len(params)))).float()
    erase_color = params.erase_color
    if erase_color is not None:
        erase_color = (erase_color @ torch.tensor(LUMA))[..., None].expand(erase_color.shape)
    return replace(params, color=color, erase_color=erase_color)


__all__ = ["Batch", "BatchInfo", "BatchMaker", "BatchView", "warp_batch"]
