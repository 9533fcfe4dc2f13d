"""How much of the rate of an ideal loader, which costs nothing, is left with a real one?

    python -m benchmarks.ideal_loader FOLDER                 # a small model, for a CPU
    python -m benchmarks.ideal_loader FOLDER --device cuda   # ResNet-50, bfloat16, channels_last
    python -m benchmarks.ideal_loader --tiny

The same training step (forward, loss, backward, SGD) is fed with one batch that stays on the device, and with each
loader's. On a CPU training and loading share the cores, so what a loader costs is missing from the training; on a GPU
they only must keep up. Checked first: benchmarks/loaders.py; and that every pass of training changes the weights.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from benchmarks import common, loaders
from benchmarks.common import SIZE
from benchmarks.loaders import Batch, Passes
from fastaug.demo import comparison

IDEAL = "one batch that stays on the device"
CLASSES = 1000


def training(name: str, device: str) -> Callable[[Tensor, Tensor], None]:
    """One step of SGD on a batch."""
    model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES).to(device)
    model = model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step(x: Tensor, rows: Tensor) -> None:
        target = rows.to(device, non_blocking=True).long() % CLASSES
        with torch.autocast("cuda", torch.bfloat16, enabled=device != "cpu"):
            loss = F.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step.weights = lambda: torch.cat([p.detach().flatten()[:1] for p in model.parameters()])  # type: ignore[attr-defined]
    return step


def synthetic(job: loaders.Job) -> Passes:
    """The ideal: it costs nothing."""
    x = torch.randn(job.batch, 3, SIZE, SIZE).to(job.device, memory_format=torch.channels_last)
    rows = torch.arange(job.batch)

    def one_pass() -> Iterator[Batch]:
        return itertools.repeat((x, rows), len(job.files) // job.batch)

    return one_pass


def train(step: Callable[[Tensor, Tensor], None], passes: Passes, images: int) -> None:
    """One pass."""
    before, seen = step.weights(), 0  # type: ignore[attr-defined]
    for x, rows in passes():
        with torch.enable_grad():
            step(x, rows)
        seen += len(x)
    if seen != images or torch.equal(before, step.weights()):  # type: ignore[attr-defined]
        raise RuntimeError(f"expected {images} images in a pass and weights that change, got {seen}")


def measure(
    report: common.Report, ways: dict[str, Passes], step: Callable[[Tensor, Tensor], None], images: int, repeats: int
) -> None:
    used: dict[str, list[float]] = {name: [] for name in ways}

    def timed_pass(name: str) -> None:
        start = common.cpu_seconds()
        train(step, ways[name], images)
        used[name].append(common.cpu_seconds() - start)

    calls = {name: partial(timed_pass, name) for name in ways}
    # See decode_to_batch.py: DALI works ahead between passes.
    before = {
        name: partial(train, step, passes, images) if name.startswith("DALI") else common.settle
        for name, passes in ways.items()
    }
    train(step, ways[IDEAL], images)
    timed = comparison.take_turns(calls, repeats, before=before)
    lines = []
    for name, each in timed.items():
        speed = comparison.quartiles([images / seconds for seconds in each])
        share = common.ratios(timed[IDEAL], each)
        more = comparison.quartiles([1e3 * (a - b) / images for a, b in zip(used[name], used[IDEAL], strict=True)])
        report.rows.append(
            {"name": name, "images_per_s": speed, "share_of_ideal": share, "more_cpu_ms": more, "seconds": each}
        )
        percent = common.with_spread({k: 100 * v for k, v in share.items()}, 0)
        lines.append([name, common.with_spread(speed, 0), percent, common.with_spread(more)])
    settings = report.settings
    report.table(
        f"{settings['model']}, batch {settings['batch']}, {images} images a pass, {settings['threads']} threads, "
        f"{repeats} passes; middle half in brackets",
        ["", "images/s", "% of the ideal rate", "CPU ms an image, beyond the ideal's"], lines,
    )  # fmt: skip
    if settings["device"] != "cpu" and loaders.RESIZE in timed:
        kept = common.ratios(timed[IDEAL], timed[loaders.RESIZE])["median"]
        report.target(f"{loaders.RESIZE}: share of the ideal rate", kept, 0.95)


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="JPEG files; default: scikit-image's photos")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=512, help="images a pass; the files are repeated or cut")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--model", help="of torchvision; default: resnet50, on a CPU shufflenet_v2_x0_5")
    arguments = parser.parse_args()
    batch, images, repeats = (16, 32, 1) if arguments.tiny else (arguments.batch, arguments.images, arguments.repeats)
    images = loaders.images_of_pass(parser, images, batch, arguments.tiny)
    model = arguments.model or ("shufflenet_v2_x0_5" if arguments.device == "cpu" else "resnet50")
    loaders.begin(arguments.threads, arguments.seed)
    settings = {
        "batch": batch, "images": images, "threads": arguments.threads, "repeats": repeats, "seed": arguments.seed,
        "device": arguments.device, "model": model,
        "folder": arguments.folder.name if arguments.folder else "scikit-image",
        "decoder": loaders.decoder_of(arguments.device),
    }  # fmt: skip
    report = common.Report("ideal_loader", settings, arguments.device)
    with tempfile.TemporaryDirectory() as temporary:
        found = loaders.jpeg_files(arguments.folder, Path(temporary))
        files = list(itertools.islice(itertools.cycle(found), images))
        job = loaders.Job(files, batch, arguments.threads, arguments.seed, arguments.device)
        colors = loaders.mean_colors(found).repeat(-(-images // len(found)), 1)[:images]
        made = loaders.competitors((0,) if arguments.device == "cpu" else (arguments.threads,))
        ways, _ = loaders.admitted(report, made, job, colors)
        measure(report, {IDEAL: synthetic(job)} | ways, training(model, arguments.device), images, repeats)
    return report.finish(common.out_path(arguments))


if __name__ == "__main__":
    sys.exit(main())
