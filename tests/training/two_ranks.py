"""Run by torchrun in test_ranks.py: trains on this rank's part of the batches, and writes what came of it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

import fastaug as fa
from fastaug.machine import rank, world
from fastaug.training import ranks
from fastaug.training.learner import Learner

CASES: dict[str, dict[str, Any]] = {
    "equal": {},
    "uneven": {"sizes": [6, 3, 0]},  # of the first rank, of 6 images in the batch
    "frozen": {"frozen": True},
    "accumulated": {"accumulate": 2, "clip_norm": 0.1},
    "chosen": {"chosen": True},
    "weighted": {"loss_func": nn.CrossEntropyLoss(torch.tensor([1.0, 5.0, 20.0]), ignore_index=1), "sizes": [3, 2, 5]},
    "summed": {"loss_func": nn.CrossEntropyLoss(reduction="sum")},
}


FAILURES = ("empty", "none", "bad", "half")


class Shard:
    """The rows of each batch of six that fall to this rank; all of them if it is alone."""

    def __init__(self, sizes: list[int], part: int, parts: int) -> None:
        g = torch.Generator().manual_seed(1)
        self.y = torch.randint(0, 3, (len(sizes), 6), generator=g)
        self.x = torch.rand(len(sizes), 6, 3, 8, 8, generator=g)
        self.bounds = [((0, size), (size, 6))[part] if parts > 1 else (0, 6) for size in sizes]

    def __len__(self) -> int:
        return len(self.bounds)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, SimpleNamespace]]:
        for i, (a, b) in enumerate(self.bounds):
            yield self.x[i, a:b], self.y[i, a:b], SimpleNamespace(indices=torch.arange(6 * i + a, 6 * i + b))


def train(case: str, folder: str, part: int = 0, parts: int = 1) -> dict[str, Any]:
    settings = dict(CASES[case])
    loader = Shard(settings.pop("sizes", [3, 3, 3]), part, parts)
    frozen, chosen = settings.pop("frozen", False), settings.pop("chosen", False)
    torch.manual_seed(part)  # only the first rank's weights may count
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(1, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    learn = Learner(loader, loader, model, device="cpu", opt_func=lambda g: torch.optim.SGD(g, lr=1.0), **settings)
    gradients = {} if chosen else gradients_of(learn, parts > 1)  # which give all ranks the weights of the first
    if chosen:
        learn.auto_fine_tune(1, 0.01)
    learn.fit(1, 0.02)
    if frozen:
        learn.freeze()
    found = learn.lr_find(1e-3, 1e-1, num_it=7)
    learn.fit_one_cycle(2, 0.05)
    learn.save(f"{folder}/{case}-{parts}.pth")
    rows = [{k: v for k, v in row.items() if k not in ("images_per_s", "seconds")} for row in learn.history.epochs]
    return {"model": model.state_dict(), "rows": rows, "preds": learn.get_preds(), "found": found.losses,
            "gradients": gradients}  # fmt: skip


def gradients_of(learn: Learner, several: bool) -> dict[str, Tensor]:
    """Those of all batches added up, before any step."""
    network = learn.network()
    learn.train_mode()
    for x, y, _ in learn.batches(learn.train_loader, keep_empty=several):
        learn.backward(*learn.forward(network, x, y))
    found = {name: p.grad.clone() for name, p in learn.model.named_parameters() if p.grad is not None}
    learn.opt.zero_grad()
    return found


class Failing(Shard):
    """For validation; of the second rank there is nothing, or nothing that can be read, or not all of it."""

    def __init__(self, how: str, part: int) -> None:
        super().__init__([3, 3], part, 2)
        self.how = how if part else "all"

    def __iter__(self) -> Iterator[Any]:
        for number, (x, y, info) in enumerate(super().__iter__()):
            if self.how == "bad" or (self.how == "half" and number):
                raise fa.BadFileError("ImageLoader: expected at most 50% bad files, got more.")
            if self.how == "empty":
                yield x[:0], y[:0], SimpleNamespace(indices=info.indices[:0])
            elif self.how != "none":
                yield x, y, info


def fail(how: str, part: int) -> dict[str, Any]:
    """What becomes of a training whose validation fails on the second rank, and of predictions."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    # of a number, of lists of numbers, and of lists of rows, which the ranks put together
    metrics = {
        "accuracy": MulticlassAccuracy(3, average="micro"),
        "auroc": MulticlassAUROC(3),
    }
    valid = Failing(how, part)
    learn = Learner(Shard([3, 3], part, 2), valid, model, device="cpu", metrics=metrics, progress=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn.fit(2, 0.02)
        try:
            preds: Any = learn.get_preds()
        except fa.BadFileError as error:
            preds = str(error)
    rows = [{k: v for k, v in row.items() if k not in ("images_per_s", "seconds")} for row in learn.history.epochs]
    return {"rows": rows, "preds": preds, "model": model.state_dict(), "warned": [str(one.message) for one in caught]}


def keep_out(folder: str) -> list[list[tuple[str, str]]]:
    """The bad files that this rank has met when the checkpoint is written, and those that it knows from it."""
    paths = [f"{folder}/{number}.png" for number in range(16)]
    samples = fa.Samples(paths, [i % 3 for i in range(16)], ["a", "b", "c"])
    found = []
    for path in (None, f"{folder}/bad.pth"):
        loader = fa.ImageLoader(samples, 4, 8, fa.Augment([], 8), "cpu", max_bad_share=1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
        learn = Learner(loader, None, model, device="cpu", progress=False, checkpoint=f"{folder}/bad.pth")
        if path is None:
            learn.fit(1)
            ranks.gather(0)  # until the first has written it
        else:
            learn.load(path)
        found.append(loader.quarantined)
    return found


def main(folder: str) -> None:
    torch.set_num_threads(1)
    ranks.join("cpu")
    found = {case: train(case, folder, rank(), world()) for case in CASES}
    found |= {how: fail(how, rank()) for how in FAILURES}
    found["kept out"] = keep_out(folder)
    torch.save(found, f"{folder}/rank{rank()}.pt")
    ranks.leave()


if __name__ == "__main__":
    main(sys.argv[1])
