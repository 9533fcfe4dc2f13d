"""Run by torchrun in test_ranks.py: trains on this rank's part of the batches, and writes what came of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

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


def main(folder: str) -> None:
    torch.set_num_threads(1)
    ranks.join("cpu")
    found = {case: train(case, folder, rank(), world()) for case in CASES}
    torch.save(found, f"{folder}/rank{rank()}.pt")
    ranks.leave()


if __name__ == "__main__":
    main(sys.argv[1])
