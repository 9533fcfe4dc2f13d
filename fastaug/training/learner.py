"""The training loop: fit, one cycle, fine-tune, freeze, validate, predict, save.

The settings are fastai's (2.8): AdamW, one cycle of learning rate and momentum, no weight decay on biases and norms.
Losses stay on the device and are fetched twice a second, so that a GPU does not wait for the host.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from fastaug.training.models import parameter_groups
from fastaug.training.rates import slice_rates

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # _NormBase: batch and instance norm
_REFRESH_S = 0.5


class Loader(Protocol):
    """What the Learner needs of a loader: batches (images, targets, ...), and how many there are."""

    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...


@dataclass
class History:
    """What happened in training, over all calls of fit.

    epochs: per epoch: epoch, train_loss, images_per_s, valid_loss and the metrics, seconds.
    losses, lrs, moms: per batch: the loss, the learning rate of every parameter group (the head's last), the momentum.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    lrs: list[tuple[float, ...]] = field(default_factory=list)
    moms: list[float] = field(default_factory=list)


class ErrorRate(MulticlassAccuracy):
    """1 - accuracy."""

    def compute(self) -> Tensor:
        return 1 - super().compute()


def adamw(groups: Iterable[dict[str, Any]]) -> Optimizer:
    """AdamW as fastai sets it; groups come with weight_decay=0 where there should be none."""
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.01)


class Learner:
    """Trains a classifier of images.

    Args:
        train_loader: yields (images float [B, C, H, W], targets int [B], ...) and has a length; batches without images
            are passed over. Its `set_epoch(epoch)` is called before each epoch if it has one.
        valid_loader: the same, for `validate`; None trains without validation.
        model: images -> activations [B, classes]. Moved to the device, in channels_last memory.
        loss_func: (activations, targets) -> scalar. Default: cross-entropy, the mean over the batch. (With a sum, other
            learning rates are right.)
        opt_func: groups of parameters -> optimizer. Default: AdamW, momentum .9, .99, eps 1e-5, weight decay .01.
        metrics: torchmetrics' by name, for `validate`. Default: error_rate and accuracy.
        splitter: model -> groups of parameters, first layers first, for `freeze_to` and for rates that grow.
        train_bn: batch-norm in frozen groups. True, fastai's default: it goes on learning, so the backward pass crosses
            the body. False: frozen too, running statistics included; the backward pass ends where learning does.
        device: default "cuda" where there is one, else "cpu".
        progress: a bar, and a line per epoch; never anything where the output is not a terminal.
    Raises:
        ValueError: a loader without batches, a model without parameters. TypeError: a loader without a length.
    """

    def __init__(
        self,
        train_loader: Loader,
        valid_loader: Loader | None,
        model: nn.Module,
        *,
        loss_func: Callable[[Tensor, Tensor], Tensor] | None = None,
        opt_func: Callable[[list[dict[str, Any]]], Optimizer] = adamw,
        metrics: Mapping[str, Metric] | None = None,
        splitter: Callable[[nn.Module], list[list[nn.Parameter]]] = parameter_groups,
        train_bn: bool = True,
        device: str | torch.device | None = None,
        progress: bool = True,
    ) -> None:
        self.train_loader = _checked(train_loader, "train_loader")
        self.valid_loader = None if valid_loader is None else _checked(valid_loader, "valid_loader")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model: nn.Module = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss_func = loss_func or nn.CrossEntropyLoss()
        if metrics is None:
            settings: dict[str, Any] = {"average": "micro", "validate_args": False}  # validating waits for the GPU
            metrics = {"error_rate": ErrorRate(**settings), "accuracy": MulticlassAccuracy(**settings)}
        self.metrics = {name: metric.to(self.device) for name, metric in metrics.items()}
        self.groups, self.opt_func = splitter(self.model), opt_func
        if not self.groups:
            raise ValueError("Learner: expected a model with parameters, got none. Give a model that can learn.")
        self.train_bn, self.progress = train_bn, progress
        self.history, self.epoch = History(), 0
        self.create_opt()

    def create_opt(self) -> None:
        """A fresh optimizer, which remembers nothing."""
        plain = {id(p) for module in self.model.modules() if isinstance(module, _NORMS) for p in module.parameters()}
        plain |= {id(p) for name, p in self.model.named_parameters() if name.endswith("bias")}
        groups: list[dict[str, Any]] = []
        self._group_of: list[int] = []  # optimizer group -> parameter group
        for i, group in enumerate(self.groups):
            decayed = [p for p in group if id(p) not in plain]
            undecayed = [p for p in group if id(p) in plain]
            for settings in ({"params": decayed}, {"params": undecayed, "weight_decay": 0.0}):
                if settings["params"]:
                    groups.append(settings)
                    self._group_of.append(i)
        self.opt = self.opt_func(groups)

    def freeze_to(self, n: int) -> None:
        """Train the groups from `n` on, freeze those before (but see `train_bn`); a negative n counts from the end."""
        number = len(self.groups)
        if not -number <= n < number:
            raise ValueError(f"freeze_to: expected {-number} <= n < {number} for {number} parameter groups, got {n}.")
        for i, group in enumerate(self.groups):
            for parameter in group:
                parameter.requires_grad_(i >= n % number)
        for module in self.model.modules():
            if self.train_bn and isinstance(module, _BatchNorm):
                module.requires_grad_(True)

    def freeze(self) -> None:
        """Freeze all groups but the last."""
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Train everything."""
        self.freeze_to(0)

    def fit(self, epochs: int, lr: float | slice = 1e-3) -> None:
        """Train at a constant rate (a `slice`: one per parameter group, see `slice_rates`) and momentum."""
        rates = slice_rates(lr, len(self.groups))
        for group, i in zip(self.opt.param_groups, self._group_of, strict=True):
            group["lr"] = rates[i]
            group.update({name: self.opt.defaults[name] for name in ("betas", "momentum") if name in self.opt.defaults})
        self._fit(epochs, None)

    def fit_one_cycle(
        self,
        epochs: int,
        lr_max: float | slice = 1e-3,
        pct_start: float = 0.25,
        div: float = 25.0,
        div_final: float = 1e5,
    ) -> None:
        """Train one cycle: the rate rises from lr_max / div to lr_max and falls to lr_max / div_final, along cosines.

        Meanwhile the momentum falls from .95 to .85 and returns.

        Args:
            epochs: passes over the training images.
            lr_max: a number, or a slice (see `slice_rates`).
            pct_start: share of the batches in which the rate rises.
            div, div_final: lr_max over the first and over the last rate.
        Raises:
            ValueError: epochs < 1, bad rates, targets that the model has no output for, images that are not float.
            FloatingPointError: the loss is not finite.
        Differs from: fastai, whose schedule ends one batch later, so that it never quite reaches the last rate.
        Source: `torch.optim.lr_scheduler.OneCycleLR`; fastai 2.8, `fit_one_cycle`.
        """
        rates = slice_rates(lr_max, len(self.groups))
        total = max(_whole(epochs) * len(self.train_loader), 2)
        scheduler = OneCycleLR(
            self.opt,
            max_lr=[rates[i] for i in self._group_of],
            total_steps=total,
            pct_start=max(pct_start, (1 + 1e-6) / total),  # torch divides by zero where the rise is exactly one batch
            div_factor=div,
            final_div_factor=div_final / div,  # torch counts from the first rate
            cycle_momentum=bool(_momentum(self.opt.defaults)),
        )
        self._fit(epochs, scheduler)

    def fine_tune(
        self,
        epochs: int,
        base_lr: float = 2e-3,
        freeze_epochs: int = 1,
        lr_mult: float = 100,
        pct_start: float = 0.3,
        div: float = 5.0,
    ) -> None:
        """Train the head for `freeze_epochs`, then everything for `epochs`, at half the rate and less in the body.

        freeze; one cycle at slice(base_lr) with pct_start .99; halve base_lr; unfreeze; one cycle at
        slice(base_lr / lr_mult, base_lr). Source: fastai 2.8, `fine_tune`.
        """
        if freeze_epochs:
            self.freeze()
            self.fit_one_cycle(freeze_epochs, slice(base_lr), pct_start=0.99)
        base_lr /= 2
        self.unfreeze()
        self.fit_one_cycle(epochs, slice(base_lr / lr_mult, base_lr), pct_start=pct_start, div=div)

    def _fit(self, epochs: int, scheduler: OneCycleLR | None) -> None:
        with _Display(self.progress, _whole(epochs) * len(self.train_loader)) as display:
            for _ in range(epochs):
                start = time.monotonic()
                row = {"epoch": float(self.epoch), **self._train_epoch(scheduler, display)}
                if self.valid_loader is not None:
                    row |= {"valid_loss" if name == "loss" else name: value for name, value in self.validate().items()}
                row["seconds"] = time.monotonic() - start
                self.history.epochs.append(row)
                self.epoch += 1
                display.epoch(row)

    def _train_epoch(self, scheduler: OneCycleLR | None, display: _Display) -> dict[str, float]:
        """One pass over the training images; returns train_loss, the mean over them, and images_per_s."""
        self.model.train()
        for module in self.model.modules():  # batch-norm that is frozen should not move at all
            if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
                module.eval()
        if hasattr(self.train_loader, "set_epoch"):
            self.train_loader.set_epoch(self.epoch)
        first = len(self.history.losses)
        sizes: list[int] = []
        waiting: list[Tensor] = []  # losses still on the device
        start = fetched = time.monotonic()
        for x, y, highest in self._batches(self.train_loader):
            self.opt.zero_grad()
            loss = self._loss(self.model(x), y, highest)
            waiting.append(loss.detach())
            sizes.append(len(y))
            self._record_rates()
            if self.device.type == "cpu" or time.monotonic() - fetched > _REFRESH_S:
                self._fetch(waiting, first)
                fetched = time.monotonic()
                display.batch(self.history.losses[-1], sum(sizes) / (fetched - start), len(self.history.losses))
            loss.backward()
            self.opt.step()
            if scheduler is not None and scheduler.last_epoch + 1 < scheduler.total_steps:
                scheduler.step()
        self.opt.zero_grad()
        self._fetch(waiting, first)
        mean = sum(map(math.prod, zip(self.history.losses[first:], sizes, strict=True))) / sum(sizes)
        return {"train_loss": mean, "images_per_s": sum(sizes) / (time.monotonic() - start)}

    def _fetch(self, waiting: list[Tensor], first: int) -> None:
        """Move losses from the device into the history, in one transfer; `first` is the epoch's first row there."""
        losses: list[float] = torch.stack(waiting).tolist() if waiting else []
        waiting.clear()
        for loss in losses:
            self.history.losses.append(loss)
            if not math.isfinite(loss):
                batch = len(self.history.losses) - 1
                raise FloatingPointError(
                    f"Learner: expected a finite loss, got {loss} in epoch {self.epoch}, batch {batch - first}, at "
                    f"learning rate {self.history.lrs[batch][-1]:.3g}. Lower the rate or look for images that are not "
                    "finite, and load() what you saved: the model may be spoilt."
                )

    def _record_rates(self) -> None:
        rates = {i: float(group["lr"]) for group, i in zip(self.opt.param_groups, self._group_of, strict=True)}
        self.history.lrs.append(tuple(rates.values()))
        self.history.moms.append(_momentum(self.opt.param_groups[0]))

    def _batches(self, loader: Loader) -> Iterator[tuple[Tensor, Tensor, int]]:
        """(images, targets, highest target or -1 where asking for it would wait for the GPU), on the device."""
        classes = len(getattr(getattr(loader, "samples", None), "classes", ()))
        empty = True
        for x, y, *_ in loader:
            if not len(y):
                continue
            if not x.is_floating_point():
                raise ValueError(
                    f"Learner: expected float images [B, C, H, W] from the loader, got {x.dtype} {list(x.shape)}. "
                    "Give the loader an augment."
                )
            looked_at = y.device.type == "cpu" or (empty and not classes)
            highest = int(y.max()) if looked_at and not y.is_floating_point() else -1
            empty = False
            layout = torch.channels_last if x.ndim == 4 else torch.preserve_format
            x = x.to(self.device, non_blocking=True, memory_format=layout)
            yield x, y.to(self.device, non_blocking=True), max(highest, classes - 1)
        if empty:
            raise ValueError(
                "Learner: expected images from the loader, got none in a whole epoch. Give one that can be iterated "
                "again (a generator is used up after one epoch) and that has images which can be read."
            )

    def _loss(self, activations: Tensor, y: Tensor, highest: int) -> Tensor:
        """The loss, after a check of what would otherwise fail far from its cause."""
        if not isinstance(activations, Tensor):
            raise TypeError(
                f"Learner: expected a model that returns a tensor, got {type(activations).__name__}. "
                "Build the model without auxiliary outputs."
            )
        if activations.ndim > 1 and highest >= activations.shape[1]:
            raise ValueError(
                f"Learner: expected targets 0..{activations.shape[1] - 1} for {activations.shape[1]} outputs, got "
                f"{highest}. Build the model with num_classes={highest + 1}."
            )
        return self.loss_func(activations, y)

    def validate(self, loader: Loader | None = None) -> dict[str, float]:
        """Mean loss and metrics (default: error_rate, accuracy) over `loader`, default valid_loader, in eval mode."""
        for metric in self.metrics.values():
            metric.reset()
        total, images = torch.zeros((), device=self.device), 0
        summed = getattr(self.loss_func, "reduction", "mean") == "sum"
        for activations, y, highest in self._activations(loader):
            total += self._loss(activations, y, highest) * (1 if summed else len(y))
            images += len(y)
            for metric in self.metrics.values():
                metric.update(activations, y)
        return {"loss": total.item() / images} | {
            name: float(metric.compute()) for name, metric in self.metrics.items()
        }

    def get_preds(self, loader: Loader | None = None) -> tuple[Tensor, Tensor]:
        """(probabilities float32 [N, classes], targets [N]) on the CPU for `loader`, default valid_loader, in order.

        Probabilities are the softmax of the activations, or their sigmoid where the loss is `nn.BCEWithLogitsLoss`.
        """
        binary = isinstance(self.loss_func, nn.BCEWithLogitsLoss)
        batches = [(a.sigmoid() if binary else a.softmax(1), y) for a, y, _ in self._activations(loader)]
        return torch.cat([p.float() for p, _ in batches]).cpu(), torch.cat([y for _, y in batches]).cpu()

    def _activations(self, loader: Loader | None) -> Iterator[tuple[Tensor, Tensor, int]]:
        """(activations, targets, highest target) of every batch, in eval mode, without gradients."""
        loader = loader if loader is not None else self.valid_loader
        if loader is None:
            raise ValueError("Learner: expected a loader, got none and there is no valid_loader. Give one.")
        self.model.eval()
        for x, y, highest in self._batches(loader):
            with torch.no_grad():
                activations = self.model(x)
            yield activations, y, highest

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write model, optimizer and number of epochs trained to `path`, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".unfinished")
        state = {"model": self.model.state_dict(), "optimizer": self.opt.state_dict(), "epoch": self.epoch}
        torch.save(state, unfinished)
        unfinished.replace(path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read what `save` wrote, for the same model and optimizer; never runs code from the file.

        Raises:
            FileNotFoundError: no such file. ValueError: not a file of `save`. RuntimeError: another model's.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        if not isinstance(state, dict) or set(state) != {"model", "optimizer", "epoch"}:
            raise ValueError(
                f"load: expected a file that Learner.save wrote, got another, '{os.fspath(path)}'. "
                "A bare state dict goes into classifier(weights=path)."
            )
        self.model.load_state_dict(state["model"])
        self.opt.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]


class _Display:
    """One bar for a whole fit and a line per epoch on a terminal; elsewhere nothing."""

    def __init__(self, wanted: bool, batches: int) -> None:
        console = Console()
        self.shown = wanted and (console.is_terminal or console.is_jupyter)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console, disable=not self.shown, transient=True)
        self.task = self.bar.add_task("", total=batches)
        self.metric, self.before = "", -1

    def __enter__(self) -> _Display:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def batch(self, loss: float, images_per_s: float, done: int) -> None:
        """Show the loss of batch number `done` of the history."""
        self.before = done - 1 if self.before < 0 else self.before
        text = f"loss {loss:.4f}{self.metric} · {images_per_s:,.0f} images/s"
        self.bar.update(self.task, completed=done - self.before, description=text)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Print the epoch's figures and keep its error rate beside the bar."""
        self.metric = f" · error {row['error_rate']:.4f}" if "error_rate" in row else ""
        if self.shown:
            whole = ("epoch", "images_per_s", "seconds")
            line = "  ".join(f"{name} {value:{'.0f' if name in whole else '.4f'}}" for name, value in row.items())
            self.bar.console.print(line, highlight=False)


def _checked(loader: Loader, name: str) -> Loader:
    if not hasattr(loader, "__len__"):
        raise TypeError(
            f"Learner: expected {name} to have a length, got {type(loader).__name__} without one. "
            "One cycle needs the number of batches: give a loader or a list."
        )
    if not len(loader):
        raise ValueError(
            f"Learner: expected {name} to have batches, got none. "
            "Give more images, a smaller batch_size or drop_last=False."
        )
    return loader


def _momentum(settings: Mapping[str, Any]) -> float:
    """The momentum in an optimizer's settings; 0 if it has none."""
    return float(settings["betas"][0]) if "betas" in settings else float(settings.get("momentum", 0))


def _whole(epochs: int) -> int:
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"fit: expected a whole number of epochs, 1 or more, got {epochs!r}.")
    return epochs
