"""Does the way of interpolating change what a model learns? One warp against step by step, everything else equal.

    python -m benchmarks.interpolation FOLDER --pattern '(.+)_\\d+\\.jpg$'
    python -m benchmarks.interpolation --tiny

Four ways show the same drawn views of the same photos: step by step (each operator its own bilinear interpolation),
one bilinear warp, and fastaug's two modes. A pretrained body that is frozen, batch-norm included, turns them into
features; a linear head learns from those of several augmented epochs, with the same first weights, order and rates for
every way. So this is about what a frozen body sees, not about training it. Every photo is tested once per seed, by the
head of the fold that it was held back from. A seed decides draws, folds, heads and, of the textures, the images.
Validated twice: as who trains this way would (step by step: one bilinear interpolation to the final size), and all on
the same images, fastaug's resize mode.

The textures are made here: photographs of noise. A class is a direction and a frequency of faint grain, below what 224
pixels can hold even in the largest view; under it lies strong coarse structure, and over it camera noise.
Checked first: every way shows what fastaug's resize mode shows.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import fastaug as fa
from benchmarks import common
from benchmarks.common import PRESIZE, SIZE
from fastaug.augment.rng import SampleUniforms
from fastaug.demo import comparison
from fastaug.demo.stepwise import step_by_step
from fastaug.demo.weights import lite0_weights

STEPWISE, BILINEAR = "step by step, bilinear", "one bilinear warp"
RESIZE, DIRECT = "fastaug, mode resize", "fastaug, mode direct"
MODEL, STATISTICS = "timm:tf_efficientnet_lite0", ((0.5,) * 3, (0.5,) * 3)
SAME_WITHIN_LEVELS = 1.5  # of 255; photos that are one pixel apart differ by about 2
PETS, TEXTURES = "photos", "textures"
# Cycles per pixel of the texture's photo. A view shows 0.45 to 0.57 output pixels for one of the photo's, so the finer
# one has 0.33 to 0.42 cycles per output pixel; 0.5 is what pixels can hold.
FREQUENCIES, DIRECTIONS = (0.13, 0.19), ("upright", "level", "slanted", "all ways")
PHOTO_SIDE, COARSE_LEVELS, NOISE_LEVELS, JPEG_QUALITY = 500, 40.0, 8.0, 92


def texture(rng: np.random.Generator, direction: str, frequency: float, grain_levels: float) -> np.ndarray:
    """One photo, uint8 [500, 500, 3]: coarse 1/f structure, grain of the class, camera noise; deviations in levels."""
    y, x = np.meshgrid(*[np.fft.fftfreq(PHOTO_SIDE)] * 2, indexing="ij")
    radius = np.hypot(y, x)
    angle = np.abs(np.angle(np.exp(2j * np.arctan2(y, x)))) / 2  # 0: waves along x, pi / 2: along y

    def noise(gain: np.ndarray, levels: float) -> np.ndarray:
        made = np.fft.ifft2(np.fft.fft2(rng.standard_normal(radius.shape)) * gain).real
        return (made - made.mean()) / made.std() * levels

    towards = {"upright": 0.0, "level": np.pi / 2, "slanted": np.pi / 4}
    band = np.exp(-(((radius - frequency) / 0.02) ** 2))
    if direction in towards:
        band = band * np.exp(-(((angle - towards[direction]) / 0.25) ** 2))
    coarse = noise(np.where(radius < 0.06, 1 / np.maximum(radius, 1 / PHOTO_SIDE), 0), COARSE_LEVELS)
    grey = 127 + coarse + noise(band, grain_levels)
    photo = grey[..., None] + rng.normal(0, NOISE_LEVELS, (*grey.shape, 3))
    return photo.round().clip(0, 255).astype(np.uint8)


def write_textures(folder: Path, seed: int, each: int, grain_levels: float) -> fa.Samples:
    """JPEG files in a folder for each class; the same for the same seed."""
    for k, (direction, frequency) in enumerate(itertools.product(DIRECTIONS, FREQUENCIES)):
        place = folder / f"{direction.replace(' ', '-')}-{frequency}"
        place.mkdir(parents=True)
        for i in range(each):
            photo = texture(np.random.default_rng((seed, k, i)), direction, frequency, grain_levels)
            Image.fromarray(photo).save(place / f"{i:03}.jpg", quality=JPEG_QUALITY)
    return fa.Samples.from_folder(folder)


def labelled(folder: Path, pattern: str | None) -> fa.Samples:
    """The photos of a folder; without a pattern for their names its folders are the classes."""
    return fa.Samples.from_filenames(folder, pattern) if pattern else fa.Samples.from_folder(folder)


def views(samples: fa.Samples, batch: int, seed: int, epoch: int | None) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """(rows, images of each way) of every batch; epoch None: as for validation, without anything drawn."""
    augment = common.default_augment(normalize=STATISTICS)
    bilinear = common.default_augment(normalize=STATISTICS, interpolation="bilinear")
    settings = {"batch_size": batch, "presize": PRESIZE, "device": "cpu", "training": epoch is not None, "seed": seed}
    settings |= {"drop_last": False, "return_info": True, "on_error": "raise", "scale": "exact"}
    squares = fa.ImageLoader(samples, **settings)
    photos = fa.ImageLoader(samples, augment=augment, mode="direct", **settings)
    for loader in (squares, photos):
        loader.set_epoch(epoch or 0)
    for (images, _, info), (direct, _, same) in zip(squares, photos, strict=True):
        assert torch.equal(info.indices, same.indices), "expected the same photos in the same order"
        frame = (PRESIZE, PRESIZE)
        if epoch is None:
            params = augment.without_chance(len(images), frame)
            stepwise = bilinear.apply(images, params)
        else:
            uniforms = SampleUniforms(seed, epoch, info.indices)  # what the loaders draw
            params = augment.draw(len(images), frame, uniforms=uniforms)
            stepwise = step_by_step(images, augment, params)
        yield (
            info.indices,
            {
                STEPWISE: stepwise,
                BILINEAR: bilinear.apply(images, params),
                RESIZE: augment.apply(images, params),
                DIRECT: direct,
            },
        )


def features(samples: fa.Samples, body: nn.Module, batch: int, seed: int, epoch: int | None) -> dict[str, Tensor]:
    """Of every way float [N, C], in the order of the samples."""
    rows, found = [], {}
    for indices, ways in views(samples, batch, seed, epoch):
        rows.append(indices)
        for name, x in ways.items():
            with torch.no_grad():
                found.setdefault(name, []).append(body(x.contiguous(memory_format=torch.channels_last)))
    back = torch.cat(rows).argsort()
    return {name: torch.cat(parts)[back] for name, parts in found.items()}


def frozen_body(weights: object) -> nn.Module:
    """Images [B, 3, H, W] -> [B, 1280], in eval mode."""
    model = fa.classifier(MODEL, 2, weights=weights)
    model.reset_classifier(0)
    return model.to(memory_format=torch.channels_last).eval()


def check(report: common.Report, samples: fa.Samples, batch: int, seed: int) -> None:
    """Every way shows the same, drawn and plain: means over blocks, where a mirrored or moved view would be far off."""
    std = torch.tensor(STATISTICS[1])[:, None, None]
    for epoch in (0, None):
        _, ways = next(views(samples, batch, seed, epoch))
        shown = {name: x.double() * std + 0.5 for name, x in ways.items()}
        for name, x in shown.items():
            difference = comparison.difference_levels(x, shown[RESIZE])
            report.admit(
                f"{name}, {'validation' if epoch is None else 'drawn'}", difference, SAME_WITHIN_LEVELS, "levels"
            )


class FeatureBatches:
    """A loader of features: epoch e has those of drawn epoch e, again from the first when there are no more."""

    def __init__(self, epochs: list[Tensor], targets: Tensor, rows: Tensor, batch: int, seed: int):
        self.epochs, self.targets, self.rows, self.batch, self.seed = epochs, targets, rows, batch, seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(1000 * self.seed + self.epoch))
        for rows in self.rows[order].split(self.batch):
            yield self.epochs[self.epoch % len(self.epochs)][rows], self.targets[rows]


def right(
    drawn: list[Tensor], plain: dict[str, Tensor], targets: Tensor, seed: int, folds: int, settings: dict
) -> dict[str, Tensor]:
    """Whether each sample is classified rightly by a head that has not seen it, bool [N], on each kind of images."""
    shuffled = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    found = {name: torch.zeros(len(targets), dtype=torch.bool) for name in plain}
    for fold in range(folds):
        held = shuffled[fold::folds]
        rest = shuffled[~torch.isin(shuffled, held)]
        torch.manual_seed(1000 * seed + fold)
        head = nn.Linear(drawn[0].shape[1], int(targets.max()) + 1)
        loader = FeatureBatches(drawn, targets, rest, settings["batch"], seed)
        learn = fa.Learner(loader, None, head, device="cpu", progress=False)
        learn.fit_one_cycle(settings["head_epochs"], settings["lr"])
        with torch.no_grad():
            for name, x in plain.items():
                found[name][held] = head(x[held]).argmax(1) == targets[held]
    return found


def measure(report: common.Report, what: str, samples: fa.Samples, body: nn.Module, seed: int) -> None:
    """Rows of one set and one seed."""
    settings, targets = report.settings, torch.tensor(samples.targets)
    drawn = [features(samples, body, settings["batch"], seed, epoch) for epoch in range(settings["drawn_epochs"])]
    plain = features(samples, body, settings["batch"], seed, None)
    for way in plain:
        own = right(
            [each[way] for each in drawn], {"own": plain[way], "same": plain[RESIZE]}, targets, seed,
            settings["folds"], settings,
        )  # fmt: skip
        accuracy = {name: float(found.double().mean()) for name, found in own.items()}
        report.rows.append({"set": what, "seed": seed, "way": way, "samples": len(samples), **accuracy})
        print(what, seed, way, accuracy, flush=True)


def show(report: common.Report) -> None:
    """A table for each set: mean and range over the seeds, and the differences to step by step seed by seed."""
    report.tables.clear()
    for what in dict.fromkeys(row["set"] for row in report.rows):
        rows = [row for row in report.rows if row["set"] == what]
        lines = []
        for way in dict.fromkeys(row["way"] for row in rows):
            cells = [way]
            for kind in ("own", "same"):
                mine = [row[kind] for row in rows if row["way"] == way]
                usual = [row[kind] for row in rows if row["way"] == STEPWISE]
                gain = [a - b for a, b in zip(mine, usual, strict=True)]
                cells += [percent(mine), percent(gain, "+") if way != STEPWISE else ""]
            lines.append(cells)
        seeds = len({row["seed"] for row in rows})
        report.table(
            f"{what}: {rows[0]['samples']} images, % right of those held back, {seeds} seeds (lowest to highest)",
            ["way", "validated its own way", "over step by step", "validated on the same images", "over step by step"],
            lines,
        )  # fmt: skip


def percent(shares: list[float], sign: str = "") -> str:
    values = [100 * share for share in shares]
    return f"{np.mean(values):{sign}.1f} ({min(values):{sign}.1f} to {max(values):{sign}.1f})"


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="labelled photos; default: only the textures")
    parser.add_argument("--pattern", help="label in the file name, a regular expression; default: folders are classes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--drawn-epochs", type=int, default=4)
    parser.add_argument("--head-epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--textures", type=int, default=20, help="images of each of the 8 classes")
    parser.add_argument("--grain", type=float, default=6.0, help="standard deviation of the grain, levels of 255")
    arguments = parser.parse_args()
    tiny = arguments.tiny
    settings = {
        "model": MODEL, "weights": "none" if tiny else "lite0_weights()", "size": SIZE, "presize": PRESIZE,
        "batch": arguments.batch, "drawn_epochs": 1 if tiny else arguments.drawn_epochs,
        "head_epochs": 1 if tiny else arguments.head_epochs, "folds": 2 if tiny else 5, "lr": arguments.lr,
        "seeds": [arguments.seed + i for i in range(1 if tiny else arguments.seeds)],
        "textures_each": 2 if tiny else arguments.textures, "grain_levels": arguments.grain,
        "folder": arguments.folder.name if arguments.folder else None, "timm": timm.__version__,
    }  # fmt: skip
    report = common.Report("interpolation", settings)
    torch.manual_seed(arguments.seed)
    body = frozen_body(None if tiny else lite0_weights())
    sets = {}
    if arguments.folder:
        sets[PETS] = labelled(arguments.folder, arguments.pattern)
    with tempfile.TemporaryDirectory() as temporary:
        for seed in settings["seeds"]:
            made = write_textures(Path(temporary, str(seed)), seed, settings["textures_each"], arguments.grain)
            for what, samples in {TEXTURES: made, **sets}.items():
                check(report, samples, settings["batch"], seed)
                if report.refused:
                    return report.finish(None)
                measure(report, what, samples, body, seed)
            show(report)  # after each seed, so that a run that is ended leaves what it has
            status = report.finish(common.out_path(arguments))
    return status


if __name__ == "__main__":
    sys.exit(main())
