"""Fine-tuning on few photos: as accurate as fastai, in less time? And what does a better schedule reach?

    python -m benchmarks.fine_tune FOLDER --pattern '(.+)_\\d+\\.jpg$'            # against fastai, fine_tune(3)
    python -m benchmarks.fine_tune FOLDER --pattern '(.+)_\\d+\\.jpg$' --head fastai
    python -m benchmarks.fine_tune FOLDER --pattern '(.+)_\\d+\\.jpg$' --recipe   # schedules, with several splits
    python -m benchmarks.fine_tune --tiny

Equal for fastai and fastaug: backbone and its weights, head (linear, or fastai's with --head fastai) and its first
weights, epochs, rates, batch, split (80/20 of each class), statistics, groups of parameters, sizes, torch's threads.
Not equal, because it is what each has: the loader with its augmentation, memory layout, and what is left out where
nothing learns. The time is that of the call of fine_tune, validation after each epoch included, everything loaded and
compiled before. fastaug runs twice: with train_bn=True it does what fastai does, batch-norm of the frozen body goes on
learning and the backward pass crosses the body; with train_bn=False it does not.
Checked first: both show the same validation photos, and the same model gets the same first activations.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import fastaug as fa
from benchmarks import common
from benchmarks.common import PRESIZE, SIZE
from benchmarks.interpolation import MODEL, STATISTICS, FeatureBatches, frozen_body, labelled, percent, write_textures
from fastaug.demo import comparison
from fastaug.demo.weights import lite0_weights
from fastaug.training.models import parameter_groups

FASTAI, RECIPE = "fastai", "recipe"
SAME_BN, FROZEN_BN = "fastaug, train_bn=True (as fastai)", "fastaug, train_bn=False"
SAME_WITHIN_LEVELS = 3.0  # fastai's validation is moved by up to half a pixel, and interpolated twice
VALID_FRACTION = 0.2
HEAD_SPLITS = 10
HEAD_SCHEDULES = [(epochs, lr) for epochs in (1, 3, 5, 8) for lr in (2e-3, 4e-3, 1e-2, 3e-2)]


def loaders(train: fa.Samples, valid: fa.Samples, batch: int, seed: int) -> tuple[fa.ImageLoader, fa.ImageLoader]:
    augment = common.default_augment(normalize=STATISTICS)
    settings: dict[str, Any] = {"batch_size": batch, "presize": PRESIZE, "augment": augment, "seed": seed}
    settings |= {"device": "cpu", "mode": "direct", "num_threads": torch.get_num_threads(), "on_error": "raise"}
    return fa.ImageLoader(train, **settings), fa.ImageLoader(valid, training=False, **settings)


def fastai_loaders(train: fa.Samples, valid: fa.Samples, batch: int, workers: int) -> Any:
    """Its recipe: Resize(460) for each photo; aug_transforms(size=224, min_scale=0.75) and Normalize for the batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it scripts functions for torch.jit when it is imported
        from fastai.data.core import Datasets
        from fastai.data.transforms import IntToFloatTensor, Normalize, ToTensor
        from fastai.vision.augment import Resize, aug_transforms
        from fastai.vision.core import PILImage
    paths, targets = train.paths + valid.paths, train.targets + valid.targets
    rows = list(range(len(paths)))
    datasets = Datasets(
        rows,
        [[lambda row: PILImage.create(paths[row])], [lambda row: torch.tensor(targets[row])]],
        splits=[rows[: len(train)], rows[len(train) :]],
    )
    return datasets.dataloaders(
        bs=batch, num_workers=workers, device=torch.device("cpu"), after_item=[Resize(PRESIZE), ToTensor()],
        after_batch=[
            IntToFloatTensor(), *aug_transforms(size=SIZE, min_scale=0.75),
            Normalize.from_stats(*STATISTICS, cuda=False),
        ],
    )  # fmt: skip


def fastai_learner(dls: Any, model: nn.Module) -> Any:
    import fastai.callback.schedule  # noqa: F401  it gives the learner its fine_tune
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    from fastai.metrics import accuracy

    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), splitter=parameter_groups, metrics=accuracy)
    learn.remove_cbs([cb for cb in learn.cbs if type(cb).__name__ == "ProgressCallback"])
    learn.recorder.train_metrics, learn.logger = False, lambda _: None
    return learn


def share_right(model: nn.Module, loader: Any) -> float:
    """Of the photos of a loader."""
    model.eval()
    right, seen = 0, 0
    for x, y in loader:
        with torch.no_grad():
            right += int((model(x).argmax(1) == y).sum())
        seen += len(y)
    return right / seen


class Contest:
    """One split and one first model for all."""

    def __init__(self, samples: fa.Samples, settings: dict[str, Any], seed: int, weights: Any):
        self.settings, self.seed = settings, seed
        self.train, self.valid = split(samples, seed)
        torch.manual_seed(seed)
        self.first = fa.classifier(MODEL, len(samples.classes), weights, settings["head"])

    def model(self) -> nn.Module:
        return copy.deepcopy(self.first)

    def learner(self, train_bn: bool) -> fa.Learner:
        made = loaders(self.train, self.valid, self.settings["batch"], self.seed)
        torch.manual_seed(self.seed)
        return fa.Learner(*made, self.model(), train_bn=train_bn, device="cpu", progress=False)

    def fastaug(self, train_bn: bool) -> tuple[float, nn.Module, float]:
        """(seconds, the model, share right)."""
        learn = self.learner(train_bn)
        start = time.perf_counter()
        learn.fine_tune(self.settings["epochs"], self.settings["lr"])
        seconds = time.perf_counter() - start
        return seconds, learn.model, learn.history.epochs[-1]["accuracy"]

    def fastai(self) -> tuple[float, nn.Module, float]:
        dls = fastai_loaders(self.train, self.valid, self.settings["batch"], self.settings["fastai_workers"])
        torch.manual_seed(self.seed)
        learn = fastai_learner(dls, self.model())
        start = time.perf_counter()
        learn.fine_tune(self.settings["epochs"], self.settings["lr"])
        seconds = time.perf_counter() - start
        return seconds, learn.model, float(learn.recorder.values[-1][-1])

    def admitted(self, report: common.Report) -> bool:
        """Whether fastai sees the same validation photos, and the same activations come out of its copy of the model.

        It also loads every library and compiles what is compiled.
        """
        ours = next(iter(loaders(self.train, self.valid, self.settings["batch"], self.seed)[1]))
        for loader in loaders(self.train, self.valid, self.settings["batch"], self.seed)[:1]:
            next(iter(loader))
        dls = fastai_loaders(self.train, self.valid, self.settings["batch"], 0)
        x, y = next(iter(dls.valid))
        next(iter(dls.train))
        x, y = x.as_subclass(Tensor), y.as_subclass(Tensor)
        if not torch.equal(y, ours[1]):
            return report.admit(f"{FASTAI}, targets", float("inf"), 0, "")
        model = fastai_learner(dls, self.model()).model.eval()
        with torch.no_grad():
            apart = float((model(ours[0][:2]) - self.model().eval()(ours[0][:2])).abs().max())
        difference = comparison.difference_levels(*[each.double() * 0.5 + 0.5 for each in (x, ours[0])])
        return all(
            [
                report.admit(f"{FASTAI}, validation photos", difference, SAME_WITHIN_LEVELS, "levels"),
                report.admit(f"{FASTAI}, activations", apart, 1e-3, ""),
            ]
        )


def contest(report: common.Report, samples: fa.Samples, weights: Any, out: Path | None) -> None:
    """fastai and fastaug, in turn for each seed; the file is written after each seed."""
    for seed in report.settings["seeds"]:
        made = Contest(samples, report.settings, seed, weights)
        ways = {SAME_BN: partial(made.fastaug, True), FROZEN_BN: partial(made.fastaug, False)}
        with report.peer(FASTAI):
            if not made.admitted(report):
                report.finish(out)
                return
            ways[FASTAI] = made.fastai
        shared = loaders(made.train, made.valid, report.settings["batch"], seed)[1]
        for name, way in ways.items():
            cpu = common.cpu_seconds()
            seconds, model, right = way()
            row = {"name": name, "seed": seed, "seconds": seconds, "cpu_seconds": common.cpu_seconds() - cpu}
            row |= {"accuracy": right, "accuracy_same_images": share_right(model, shared), "images": len(made.valid)}
            report.rows.append(row)
            print(row, flush=True)
        show_contest(report)
        report.finish(out)


def show_contest(report: common.Report) -> None:
    """The table and the goals, of the seeds that are there."""
    report.tables.clear()
    report.targets.clear()
    of = {name: [row for row in report.rows if row["name"] == name] for name in (FASTAI, SAME_BN, FROZEN_BN)}
    lines = []
    for name, rows in of.items():
        if not rows:
            continue
        pairs = list(zip(rows, of[FASTAI], strict=False))
        share = {key: _mean([row[key] / other[key] for row, other in pairs]) for key in ("seconds", "cpu_seconds")}
        cells = [percent([row[key] for row in rows]) for key in ("accuracy", "accuracy_same_images")]
        for key, of_fastai in share.items():
            cells += [f"{_mean([row[key] for row in rows]):.0f}", "" if of_fastai is None else f"{of_fastai:.2f}"]
        lines.append([name, *cells])
        if name != FASTAI:
            gain = _mean([100 * (row["accuracy"] - other["accuracy"]) for row, other in pairs])
            report.target(f"{name}: accuracy over fastai's, in points", gain, 0)
            report.target(f"{name}: share of fastai's time", share["seconds"], 0.55, at_least=False)
    settings = report.settings
    report.table(
        f"fine_tune({settings['epochs']}, {settings['lr']:g}), {len(of[SAME_BN])} seed(s), {report.rows[0]['images']} "
        "photos held back; % right (lowest to highest)",
        ["", "right", "right on fastaug's validation images", "seconds", "of fastai's", "CPU seconds", "of fastai's"],
        lines,
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def recipe(report: common.Report, samples: fa.Samples, weights: Any, rate: float, seed: int) -> None:
    """fine_tune with a rate of lr_find, more frozen epochs, and no train_bn; one row."""
    settings, made = report.settings, Contest(samples, report.settings, seed, weights)
    learn = made.learner(train_bn=False)
    start = time.perf_counter()
    learn.fine_tune(settings["epochs"], rate, freeze_epochs=settings["freeze_epochs"])
    accuracies = [row["accuracy"] for row in learn.history.epochs]
    report.rows.append(
        {
            "name": RECIPE, "seed": seed, "lr": rate, "seconds": time.perf_counter() - start,
            "validation": len(made.valid), "accuracies": accuracies, "accuracy": accuracies[-1],
            "accuracy_frozen": accuracies[settings["freeze_epochs"] - 1],
        }
    )  # fmt: skip
    print(report.rows[-1], flush=True)


def show_recipe(report: common.Report) -> None:
    """The table and the goal; the mean of the splits that are there."""
    settings, rows = report.settings, [row for row in report.rows if row["name"] == RECIPE]
    report.tables[:] = [table for table in report.tables if table["columns"][0] != "after"]
    report.targets[:] = [target for target in report.targets if not target["what"].startswith(RECIPE)]
    report.table(
        f"rate {rows[0]['lr']:.2g} (lr_find's steep), {settings['freeze_epochs']} frozen epochs and "
        f"{settings['epochs']} with everything, train_bn=False; {len(rows)} splits; % right (lowest to highest)",
        ["after", "accuracy"],
        [
            ["the frozen epochs", percent([row["accuracy_frozen"] for row in rows])],
            ["all of it", percent([row["accuracy"] for row in rows])],
        ],
    )
    report.target(f"{RECIPE}: % right", 100 * sum(row["accuracy"] for row in rows) / len(rows), 80)


def head_schedules(report: common.Report, samples: fa.Samples, weights: Any, cache: Path | None) -> float:
    """What a head alone reaches, by rate and epochs: cheap, since the features of a frozen body are computed once.

    Returns:
        The rate that `lr_find` suggests as `steep`, for the first split.
    """
    settings, body, targets = report.settings, frozen_body(weights), torch.tensor(samples.targets)

    def features(training: bool, epoch: int) -> Tensor:
        train, valid = loaders(samples, samples, settings["batch"], settings["seed"])
        loader = train if training else valid
        loader.drop_last, loader.return_info = False, True
        loader.set_epoch(epoch)
        parts, rows = [], []
        for x, _, info in loader:
            with torch.no_grad():
                parts.append(body(x.contiguous(memory_format=torch.channels_last)))
            rows.append(info.indices)
        return torch.cat(parts)[torch.cat(rows).argsort()]

    of = [MODEL, settings["weights"], settings["seed"], settings["drawn_epochs"], len(samples)]
    kept = torch.load(cache, weights_only=True) if cache is not None and cache.is_file() else {"of": of}
    if kept["of"] != of:
        raise ValueError(f"expected features of {of} in {cache}, got those of {kept['of']}. Give another file.")
    if "plain" not in kept:
        kept |= {"drawn": [features(True, i) for i in range(settings["drawn_epochs"])], "plain": features(False, 0)}
        if cache is not None:
            torch.save(kept, cache)
    drawn, plain = kept["drawn"], kept["plain"]

    def learner(seed: int) -> tuple[fa.Learner, list[int]]:
        train, valid = ([samples.paths.index(path) for path in part.paths] for part in split(samples, seed))
        torch.manual_seed(seed)
        head = nn.Linear(plain.shape[1], len(samples.classes))
        batches = FeatureBatches(drawn, targets, torch.tensor(train), settings["batch"], seed)
        return fa.Learner(batches, None, head, device="cpu", progress=False), valid

    first = settings["seed"]
    found = learner(first)[0].lr_find()
    settings["lr_find"] = {name: getattr(found, name) for name in ("minimum", "steep", "valley", "slide")}

    def shares_of(epochs: int, lr: float) -> list[float]:
        """The share right of each split, which is also noted as a row."""
        shares = []
        for seed in range(first, first + settings["head_splits"]):
            learn, valid = learner(seed)
            learn.fit_one_cycle(epochs, lr)
            with torch.no_grad():
                shares.append(float((learn.model(plain[valid]).argmax(1) == targets[valid]).double().mean()))
        report.rows.append({"name": "head alone", "epochs": epochs, "lr": lr, "accuracy": shares})
        return shares

    table: dict[int, list[str]] = {}
    for epochs, lr in HEAD_SCHEDULES:
        table.setdefault(epochs, []).append(percent(shares_of(epochs, lr)))
    shares = shares_of(settings["head_epochs"], found.steep)
    report.table(
        f"head alone with the rate of lr_find, {settings['head_splits']} splits; % right (lowest to highest)",
        ["epochs", "rate (steep)", "right"],
        [[f"{settings['head_epochs']}", f"{found.steep:.2g}", percent(shares)]],
    )
    report.target("head alone with the rate of lr_find: % right", 100 * sum(shares) / len(shares), 80)
    report.table(
        f"head alone on a frozen body, batch {settings['batch']}, fit_one_cycle, {settings['head_splits']} splits; "
        "% right (lowest to highest)",
        ["epochs", *[f"rate {lr:g}" for lr in dict.fromkeys(lr for _, lr in HEAD_SCHEDULES)]],
        [[str(epochs), *cells] for epochs, cells in table.items()],
    )
    return found.steep


def split(samples: fa.Samples, seed: int) -> tuple[fa.Samples, fa.Samples]:
    return samples.split(VALID_FRACTION, seed=seed, stratify=True)


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="labelled photos; with --tiny: textures made for it")
    parser.add_argument("--pattern", help="label in the file name, a regular expression; default: folders are classes")
    parser.add_argument("--recipe", action="store_true", help="schedules instead of the comparison")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--freeze-epochs", type=int, default=5, help="of the recipe")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--head", choices=["linear", "fastai"], default="linear", help="fastai: the one it puts on a body"
    )
    parser.add_argument("--drawn-epochs", type=int, default=8, help="augmented epochs for the heads alone")
    parser.add_argument("--features", type=Path, help="file that keeps the recipe's features between runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fastai-workers", type=int, default=2, help="fastai's default is one for each core")
    arguments = parser.parse_args()
    tiny = arguments.tiny
    if not (tiny or arguments.folder):
        parser.error("expected a folder of labelled photos, got none; without one there is only --tiny")
    torch.set_num_threads(arguments.threads)
    settings = {
        "model": MODEL, "weights": "none" if tiny else "lite0_weights()", "size": SIZE, "presize": PRESIZE,
        "batch": 4 if tiny else arguments.batch, "lr": arguments.lr, "epochs": 1 if tiny else arguments.epochs,
        "freeze_epochs": 1 if tiny else arguments.freeze_epochs,
        "fastai_workers": 0 if tiny else arguments.fastai_workers,
        "head": arguments.head, "seed": arguments.seed, "head_epochs": 1 if tiny else 8,
        "head_splits": 1 if tiny else HEAD_SPLITS,
        "drawn_epochs": 1 if tiny else arguments.drawn_epochs, "threads": arguments.threads,
        "seeds": [arguments.seed + i for i in range(arguments.seeds)], "valid_fraction": VALID_FRACTION,
        "folder": arguments.folder.name if arguments.folder else None, "timm": timm.__version__,
        "environment": {name: value for name, value in os.environ.items() if name.startswith(("MALLOC_", "OMP_"))},
    }  # fmt: skip
    with_head = "fine_tune" if arguments.head == "linear" else "fine_tune_fastai_head"
    report = common.Report("fine_tune_recipe" if arguments.recipe else with_head, settings)
    weights = None if tiny else lite0_weights()
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.folder:
            samples = labelled(arguments.folder, arguments.pattern)
        else:
            samples = write_textures(Path(temporary, "textures"), arguments.seed, each=3, grain_levels=6.0)
        if arguments.recipe:
            rate = head_schedules(report, samples, weights, arguments.features)
            status = report.finish(common.out_path(arguments))
            for seed in settings["seeds"]:
                recipe(report, samples, weights, rate, seed)
                show_recipe(report)  # after each split, so that a run that is ended leaves what it has
                status = report.finish(common.out_path(arguments))
            return status
        contest(report, samples, weights, common.out_path(arguments))
    return 1 if report.refused else 0


if __name__ == "__main__":
    sys.exit(main())
