"""`fastaug bench`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from fastaug.cli.options import Beside, Debug, Device, Json, Mode, Presize, Size, Source
from fastaug.cli.printing import importing_torch, print_figures, say

if TYPE_CHECKING:
    from torch import Tensor

    from fastaug.loading.loader import ImageLoader


def bench(
    source: Source,
    mode: Mode = "direct",
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    size: Size = 224,
    presize: Presize = 460,
    model: Beside = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long, after the first batch.")] = 10.0,
    num_threads: Annotated[int | None, typer.Option(min=1, show_default="the cores there are")] = None,
    device: Device = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """How many images a second the loader reads, decodes, presizes and warps, and whether it or the model is the limit.

    Any folder of images will do. The --model is trained on the batches; without one nothing is done with them.
    """
    from fastaug.cli.samples import find_samples
    from fastaug.samples.folders import find_images
    from fastaug.samples.samples import Samples

    if not source.is_list and source.place.is_dir() and source.pattern is None and source.level is None:
        images = find_images(source.place, "bench")
        for line in images.left_out.unread("bench"):
            say(line, err=True)
        samples = Samples(images.paths, [0] * len(images.paths), ["all"])
    else:
        samples = find_samples(source)
    with importing_torch():
        from fastaug.augment.fastai_names import aug_transforms
        from fastaug.loading.loader import ImageLoader
        from fastaug.loading.stats import merge_stats

    augment = aug_transforms(size=size, min_scale=0.75)
    batch_size = min(batch_size, len(samples))
    rows = max(len(samples), 8 * batch_size)  # a few photos come several times: one batch would tell nothing
    samples = samples.subset([row % len(samples) for row in range(rows)])
    loader = ImageLoader(samples, batch_size, presize, augment, device, mode=mode, num_threads=num_threads)
    step = _training_step(model, loader)
    stats, after_first_batches, end = [], 0, math.inf
    while time.perf_counter() < end:
        for batch, (x, y) in enumerate(loader):
            step(x, y)
            after_first_batches += len(y) if batch else 0
            end = min(end, time.perf_counter() + seconds)  # from the first batch on
            if time.perf_counter() > end:
                break
        stats.append(loader.stats())
    total = merge_stats(stats)
    names = ("images", "images_per_s", "first_batch_s", "waited_s", "warp_s", "model_s", "limit")
    figures = {name: getattr(total, name) for name in names} | {"quarantined": len(set(loader.quarantined))}
    speed = after_first_batches / (total.model_s + total.waited_s + total.warp_s)
    first = f"{speed:,.0f} images/s: {total.images:,} images, mode {mode}, {f'model {model}' if model else 'no model'}"
    print_figures(as_json, {"speed_images_per_s": speed, **figures}, [first, *str(total).split("\n")])


def _training_step(model: str | None, loader: ImageLoader) -> Callable[[Tensor, Tensor], None]:
    if model is None:
        return lambda x, y: None

    import torch

    from fastaug.training.loaders import LoaderAdapter, outputs_for
    from fastaug.training.losses import default_loss, fit_targets
    from fastaug.training.models import classifier

    samples, device = loader.samples, loader.device
    network = classifier(model, outputs_for(samples), None).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    known = LoaderAdapter(loader)
    loss_func, _ = default_loss(known.kind, known.none_of_these, known.unknown_pixel)

    def step(x: Tensor, y: Tensor) -> None:
        activations = network(x)
        loss_func(activations, fit_targets(loss_func, activations, y)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)  # or the waiting would be counted as somebody else's

    return step
