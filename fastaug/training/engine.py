"""One step of a training and what surrounds it: settings, batches, loss, gradients, groups, evaluation, undoing.

What the finder of rates, predictions and looks before training need; `learner.py` puts it all together.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.optim import Optimizer
from torchmetrics import MeanAbsoluteError, Metric
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score, MulticlassAccuracy, MultilabelF1Score

from fastaug.loaded import Kind, check, listed
from fastaug.loading.quarantine import BadFileError
from fastaug.machine import limits_named, rank, usable_device, world
from fastaug.training import ranks
from fastaug.training.checkpoint import check_optimizer, random_state, set_random_state
from fastaug.training.history import History
from fastaug.training.inference import AMP, Activation, Amp, mixed_precision
from fastaug.training.loaders import Loader, LoaderAdapter, check_statistics, checked_classes, checked_kind
from fastaug.training.losses import (
    ACTIVATIONS,
    BinaryCrossEntropy,
    default_loss,
    fit_targets,
    kind_of,
    name_of,
    one_hot,
    weight_of,
)
from fastaug.training.models import parameter_groups

Batch = tuple[Tensor, Tensor, Tensor | None]  # images on the device, targets, rows of the samples if the loader tells
_GROUP = Kind("settings of parameters", lambda value: isinstance(value, dict) and isinstance(value.get("params"), list))
_STATE = Kind("values by parameter", lambda value: isinstance(value, Mapping))
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # _NormBase: batch and instance norm


def adamw(groups: Iterable[dict[str, Any]]) -> Optimizer:
    """AdamW as fastai sets it; groups come with weight_decay=0 where there should be none."""
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.01)


class NoImagesError(ValueError):
    """A loader without images in a whole epoch."""


class Engine:
    """What a `Learner` trains with; see there for the arguments."""

    def __init__(
        self,
        train_loader: Loader,
        valid_loader: Loader | None,
        model: nn.Module,
        *,
        loss_func: Callable[[Tensor, Tensor], Tensor] | None = None,
        opt_func: Callable[[list[dict[str, Any]]], Optimizer] = adamw,
        metrics: Mapping[str, Metric] | None = None,
        activation: Activation | None = None,
        splitter: Callable[[nn.Module], list[list[nn.Parameter]]] = parameter_groups,
        train_bn: bool = True,
        amp: Amp | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        mix: Callable[[Tensor, Tensor], Any] | None = None,
        compile: Callable[[nn.Module], Any] | None = None,
        after_epoch: Sequence[Callable[[Any], bool | None]] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_batches: int | None = None,
        device: str | torch.device | None = None,
        progress: bool = True,
    ) -> None:
        if amp not in AMP or accumulate < 1 or not (clip_norm is None or clip_norm > 0):
            raise ValueError(
                "Learner: expected amp 'bf16', 'fp16' or None, accumulate of at least 1 and clip_norm above 0 or None, "
                f"got {amp!r}, {accumulate} and {clip_norm}."
            )
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"Learner: expected a model, a torch.nn.Module, got {model!r}. Make one: fa.classifier('resnet18', 37)."
            )
        self.train_loader, self.valid_loader = train_loader, valid_loader
        self.classes = len(checked_classes(train_loader, valid_loader))
        self.kind = checked_kind(train_loader, valid_loader)
        check_statistics(model, {"train_loader": train_loader, "valid_loader": valid_loader})
        self.device = usable_device("Learner", device)
        with self.limits_named("moving it there"):
            self.model: nn.Module = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        none_of_these = any(LoaderAdapter(loader or []).none_of_these for loader in (train_loader, valid_loader))
        unknown = LoaderAdapter(train_loader).unknown_pixel
        default, why = default_loss(self.kind, none_of_these, unknown)
        if loss_func is None and self.kind == "mask" and self.classes > unknown >= 0:
            raise ValueError(
                f"Learner: expected at most {unknown} classes of masks, in which {unknown} is unknown, got "
                f"{self.classes}. Give the loaders targets=TargetOptions(fill=-1)."
            )
        self.loss_func = loss_func or default
        if isinstance(self.loss_func, nn.Module):
            self.loss_func.to(self.device)  # weights of classes
        if activation not in (None, *get_args(Activation)):
            raise ValueError(f"Learner: expected activation 'softmax', 'sigmoid', 'none' or None, got {activation!r}.")
        self._activation = activation
        metrics = self._default_metrics() if metrics is None else metrics
        self.metrics = {name: metric.to(self.device) for name, metric in metrics.items()}
        self.groups, self.opt_func = [list(group) for group in splitter(self.model)], opt_func
        self._check_groups()
        if not self.groups:
            raise ValueError("Learner: expected a model with parameters, got none. Give a model that can learn.")
        self.train_bn, self.amp, self.clip_norm, self.accumulate = train_bn, amp, clip_norm, accumulate
        self.mix, self.compile, self.after_epoch = mix, compile, after_epoch
        self.checkpoint, self.checkpoint_batches = checkpoint, checkpoint_batches
        self.progress = progress and not rank()
        if loss_func is None and self.kind is not None and self.progress:
            measured = f", metrics {', '.join(self.metrics)}" if self.metrics else ""
            print(f"loss {name_of(self.loss_func)}{measured}: {why}", flush=True)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")
        self.create_opt()
        self._still: set[str] = set()  # batch-norm that was frozen without learning, by name
        self.history, self.epoch = History(), 0
        self.chosen: dict[str, Any] = {}  # what auto_fine_tune found, for a run that is resumed
        self.done = 0  # epochs of the latest fit
        self._fits = 0  # calls of fit, also those passed over
        self._seen: list[int] = []  # images of each batch of an epoch that is not over
        self._weights: list[float] = []  # and what its loss counts
        self._place: dict[str, Any] = {"fit": -1, "epochs": 0, "done": 0, "scheduler": None, "loader": None}
        self._resuming: dict[str, Any] | None = None

    @property
    def activation(self) -> Activation:
        """What makes probabilities of activations; "none": nothing."""
        return self._activation or ACTIVATIONS.get(kind_of(self.loss_func), "none")

    def _default_metrics(self) -> dict[str, Metric]:
        """Those that fit the loss; none for one that is not known. Validating their arguments waits for the GPU."""
        if self.activation == "softmax":
            ignored = getattr(self.loss_func, "ignore_index", -1)
            ignored = ignored if ignored >= 0 or self.kind == "mask" else None
            one, same = (
                MulticlassAccuracy(average="micro", validate_args=False, ignore_index=ignored) for _ in range(2)
            )
            return {"error_rate": 1 - one, "accuracy": same}
        if self.activation == "sigmoid":
            found: dict[str, Metric] = {"accuracy_multi": BinaryAccuracy(validate_args=False)}
            if self.kind == "labels":  # of few labels among many almost all are rightly said not to be there
                several = self.classes > 1
                f1 = MultilabelF1Score(self.classes, validate_args=False) if several else BinaryF1Score()
                found["f1"] = f1
            return found
        return {"mae": MeanAbsoluteError()} if kind_of(self.loss_func) == "numbers" else {}

    @property
    def copies_ahead(self) -> bool:
        """Whether a copy to the device need not be waited for. Only CUDA keeps what it copies from until it is done:
        MPS may read memory that was given back meanwhile (pytorch/pytorch#139550)."""
        return self.device.type == "cuda"

    def limits_named(self, what: str) -> AbstractContextManager[None]:
        """Within: what the device cannot do is said in one line. what: which part of the training it is."""
        return limits_named("Learner", what, self.device)

    @property
    def summed(self) -> bool:
        """Whether the loss is the sum over a batch, not the mean."""
        return getattr(self.loss_func, "reduction", "mean") == "sum"

    def _check_groups(self) -> None:
        """That the splitter has put every parameter that learns into a group."""
        grouped = {id(parameter) for group in self.groups for parameter in group}
        missed = [name for name, p in self.model.named_parameters() if p.requires_grad and id(p) not in grouped]
        if missed and grouped:
            raise ValueError(
                f"Learner: expected a splitter that puts every parameter into a group, got one without {len(missed)}: "
                f"{', '.join(missed[:5] + ['…'] * (len(missed) > 5))}. They would never learn: add them, or say so by "
                "requires_grad_(False)."
            )

    def create_opt(self) -> None:
        """A fresh optimizer, which remembers nothing."""
        plain = {id(p) for module in self.model.modules() if isinstance(module, _NORMS) for p in module.parameters()}
        plain |= {id(p) for name, p in self.model.named_parameters() if name.endswith("bias") or p.ndim < 2}
        groups: list[dict[str, Any]] = []
        self._group_of: list[int] = []  # optimizer group -> parameter group
        for i, group in enumerate(self.groups):
            for decay in ({}, {"weight_decay": 0.0}):
                if parameters := [p for p in group if (id(p) in plain) == bool(decay)]:
                    groups.append({"params": parameters, **decay})
                    self._group_of.append(i)
        self.opt = self.opt_func(groups)

    def set_rates(self, rates: Sequence[float]) -> None:
        """Give each parameter group its rate, and the optimizer the momentum that it was made with."""
        for group, i in zip(self.opt.param_groups, self._group_of, strict=True):
            group["lr"] = rates[i]
            group.update({name: self.opt.defaults[name] for name in ("betas", "momentum") if name in self.opt.defaults})

    def freeze_to(self, n: int) -> None:
        """Train the groups from `n` on, freeze those before (but see `train_bn`); a negative n counts from the end."""
        number = len(self.groups)
        if not -number <= n < number:
            raise ValueError(f"freeze_to: expected {-number} <= n < {number} for {number} parameter groups, got {n}.")
        for i, group in enumerate(self.groups):
            for parameter in group:
                parameter.requires_grad_(i >= n % number)
        if self.train_bn:
            self._still.clear()
        for name, module in self.model.named_modules():
            if isinstance(module, _BatchNorm) and self.train_bn:
                module.requires_grad_(True)
            elif isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
                self._still.add(name)

    def freeze(self) -> None:
        """Freeze all groups but the last."""
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Train everything."""
        self.freeze_to(0)

    def network(self) -> nn.Module:
        """The model as training calls it: over all ranks, as far as parameters learn now, and compiled."""
        network = nn.parallel.DistributedDataParallel(self.model) if world() > 1 else self.model
        return self.compile(network) if self.compile else network

    def train_mode(self) -> None:
        """The model in training mode, but for batch-norm that is frozen, or was with train_bn=False: the layers behind
        it have learned from the statistics that it has."""
        self.model.train()
        for name, module in self.model.named_modules():
            frozen = isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad
            if frozen or name in self._still:
                module.eval()

    def forward(self, network: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | float]:
        """The loss of a batch in training, and what it counts among others (see `weight_of`)."""
        if not len(y):  # the other ranks have images, and wait for gradients: give them zeros
            self.model.eval()
            nothing: Tensor = network(x.new_zeros(1, *x.shape[1:])).sum() * 0
            self.train_mode()
            return nothing, 0.0
        with self.limits_named("the forward pass"):
            mixed, target = self.mix(x, y.to(self.device)) if self.mix is not None else (x, y)
            return self.loss_of(*self.activate(network, mixed, target))

    def loss_of(self, activations: Tensor, y: Tensor) -> tuple[Tensor, Tensor | float]:
        """The loss of a batch, and what it counts."""
        y = fit_targets(self.loss_func, activations, y)
        return self.loss_func(activations, y), weight_of(self.loss_func, activations, y)

    def activate(self, network: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Activations in float32, and the targets beside them, after a check of what would else fail far from here."""
        with mixed_precision(self.device, self.amp):
            activations = network(x)
        if not isinstance(activations, Tensor):
            raise TypeError(
                f"Learner: expected a model that returns a tensor, got {type(activations).__name__}. "
                "Build the model without auxiliary outputs; of one that returns a dict wrap the part that counts."
            )
        if self.activation != "none":
            self._check_classes(activations, y)
        return activations.float() if self.amp else activations, y.to(self.device, non_blocking=self.copies_ahead)

    def _check_classes(self, activations: Tensor, y: Tensor) -> None:
        """That there is an output for each class; one output with a sigmoid is for two."""
        if activations.ndim < 2:
            return
        one_of_two = self.activation == "sigmoid" and activations.shape[1] == 1 and self.kind != "labels"
        outputs = 2 if one_of_two else activations.shape[1]
        known = y.device.type == "cpu" and not y.is_floating_point()  # else one would wait for the GPU
        there = y[y != getattr(self.loss_func, "ignore_index", -1)] if known else y[:0]
        lowest, highest = map(int, there.aminmax()) if len(there) else (0, -1)
        if lowest < 0 and hasattr(self.loss_func, "ignore_index"):
            raise ValueError(
                f"Learner: expected targets 0..{outputs - 1}, got {lowest}, none of the classes, which "
                f"{name_of(self.loss_func)} does not know. Leave loss_func out, or ignore such images, ignore_index=-1."
            )
        highest = max(highest, self.classes - 1)
        if highest >= outputs:
            raise ValueError(
                f"Learner: expected targets 0..{outputs - 1} for {activations.shape[1]} outputs, got "
                f"{highest}. Build the model with num_classes={highest + 1}."
            )
        if 0 < self.classes < outputs:
            warnings.warn(
                f"Learner: expected as many outputs as the samples have classes, {self.classes}, got "
                f"{outputs}. Build the model with num_classes={self.classes}: the others never are right.",
                stacklevel=2,
            )

    def backward(self, loss: Tensor, weight: Tensor | float) -> None:
        """Add the gradients of a batch, so that over the ranks they are those of all images together."""
        with self.limits_named("the backward pass"):
            self.scaler.scale(loss * ranks.share(weight, self.device, self.summed)).backward()

    def step(self, batches: int) -> None:
        """One step of the optimizer; of so many batches the mean of their gradients, or the sum with a summed loss."""
        with self.limits_named("the optimizer's step"):
            self._step(batches)

    def _step(self, batches: int) -> None:
        self.scaler.unscale_(self.opt)
        learning = [p for group in self.groups for p in group if p.grad is not None]
        for parameter in learning if batches > 1 and not self.summed else ():
            assert parameter.grad is not None, "chosen for having one"
            parameter.grad /= batches
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(learning, self.clip_norm)
        self.scaler.step(self.opt)
        self.scaler.update()
        self.opt.zero_grad()

    def batches(self, loader: Loader, keep_empty: bool = False, begun: bool = False) -> Iterator[Batch]:
        """Every batch, without the empty ones, unless several ranks have to keep step.

        begun: whether there were images before, in an epoch that is resumed; else it is an error if there are none.
        """
        empty = not begun
        for batch in loader:
            pair = batch[:2] if isinstance(batch, tuple | list) else ()
            if len(pair) < 2 or not all(isinstance(part, Tensor) for part in pair):
                parts = [type(part).__name__ for part in batch] if isinstance(batch, tuple | list) else ""
                raise TypeError(
                    "Learner: expected batches (images, targets, ...) of tensors from the loader, got "
                    f"{type(batch).__name__} {parts}. Give a loader with targets, and one view of each image."
                )
            x, y, *more = batch
            if not len(y) and not keep_empty:
                continue
            if not x.is_floating_point():
                raise ValueError(
                    f"Learner: expected float images [B, C, H, W] from the loader, got {x.dtype} {list(x.shape)}. "
                    "Give the loader an augment."
                )
            empty = False
            layout = torch.channels_last if x.ndim == 4 else torch.preserve_format
            x = x.to(self.device, non_blocking=self.copies_ahead, memory_format=layout)
            yield x, y, getattr(more[0], "indices", None) if more else None
        if empty:
            raise NoImagesError(
                "Learner: expected images from the loader, got none in a whole epoch. Give one that can be iterated "
                "again (a generator is used up after one epoch) and that has images which can be read."
            )

    def training_batches(self) -> Generator[Batch, None, None]:
        """Training batches without end, of a copy of the loader; its own position stays, or is put back."""
        own = LoaderAdapter(self.train_loader)
        copied, place = own.copied(), copy.deepcopy(own.position())
        try:
            for epoch in itertools.count(self.epoch):
                copied.set_epoch(epoch)
                yield from self.batches(copied.loader, keep_empty=world() > 1)
        finally:
            now = own.position() or {}
            if place is not None and any(now[name] != place[name] for name in place.keys() - {"quarantined"}):
                own.go_to(place)

    def trainable(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Without those of one image of which batch-norm, in training mode, could make no statistics; with a warning.

        Raises:
            ValueError: there is no other batch.
        """
        left_out = 0
        for x, y, rows in batches:
            if len(y) != 1 or not self._single_values(x):
                left_out = 0
                yield x, y, rows
                continue
            what = "a training batch of one image, of which batch-norm can make no statistics"
            left_out += 1
            if left_out >= len(self.train_loader):
                raise ValueError(
                    f"Learner: expected batches of two images or more, got nothing but {what}. "
                    "Give a larger batch_size."
                )
            warnings.warn(
                f"Learner: expected batches of two images or more, got {what}: it is left out. Give the loader "
                "drop_last=True, or a batch_size that leaves no remainder of one.",
                stacklevel=2,
            )
            if world() > 1:  # the others wait for this rank
                yield x[:0], y[:0], None

    def _single_values(self, x: Tensor) -> bool:
        """Whether batch-norm that is in training mode would get a single value per channel of this image."""
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm) and module.training]
        single: list[bool] = []

        def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            single.append(inputs[0].numel() == inputs[0].shape[1])

        hooks = [norm.register_forward_pre_hook(look) for norm in norms]
        if norms:
            self.model.eval()
            with torch.no_grad(), mixed_precision(self.device, self.amp):
                self.model(x)
            self.train_mode()
        for hook in hooks:
            hook.remove()
        return any(single)

    def evaluate(self, loader: Loader) -> Iterator[Batch]:
        """(activations, targets, rows) of every batch of `loader`, as it comes, in eval mode."""
        self.model.eval()
        for x, y, rows in self.batches(loader):
            with torch.no_grad(), self.limits_named("the forward pass"):
                activations, y = self.activate(self.model, x, y)
            yield activations, y, rows

    def validate(self, loader: Loader | None = None) -> dict[str, float]:
        """Mean loss and metrics (default: error_rate, accuracy) over `loader`, default valid_loader, in eval mode.

        Of an ImageLoader, one for training too, every image counts once, in its order, without chance.
        """
        with self.limits_named("validation"):
            return self._validate(LoaderAdapter(self.or_valid(loader)).in_order())

    def _validate(self, loader: Loader) -> dict[str, float]:
        for metric in self.metrics.values():
            metric.reset()
        sums = torch.zeros(4, device=self.device)  # losses, what they count, images, ranks that failed in the middle
        failures: list[ValueError] = []
        judged: tuple[Tensor, Tensor] | None = None
        seen = 0
        for activations, y, _ in until_failure(self.evaluate(loader), failures):
            seen += len(y)
            loss, weight = self.loss_of(activations, y)
            part = loss if self.summed else loss * weight
            sums[0] += part.where(weight > 0, 0) if isinstance(weight, Tensor) else part  # the mean of nothing is nan
            sums[1] += weight
            sums[2] += len(y)
            judged = self._judged(activations, y)
            for metric in self.metrics.values():
                metric.update(*judged)
        bad = [failure for failure in failures if isinstance(failure, BadFileError)]
        sums[3] = bool(bad and seen)
        loss, total, images, failed = ranks.total(sums).tolist()
        if failed or not images:  # all ranks know it now, and none waits for another
            raise failures[0] if failures else BadFileError("Learner: another rank found too many bad files.")
        if bad:
            warnings.warn(f"Learner: this rank has no part in the validation: {bad[0]}", stacklevel=5)
        if self.metrics and not all(ranks.gather(seen > 0)):
            self._match_metrics(judged)
        found = {"loss": loss / total if total else math.nan}
        with warnings.catch_warnings():  # a rank without images knows that it has nothing to compute of
            warnings.filterwarnings("default" if seen else "ignore", "The ``compute`` method of metric")
            for name, metric in self.metrics.items():
                found |= self._figures(name, metric.compute())
        return found

    def _match_metrics(self, judged: tuple[Tensor, Tensor] | None) -> None:
        """Bring those of ranks without images into the form of the others, which compute them together: torchmetrics
        gathers lists of tensors, which must have the same dimensions.

        judged: what this rank's metrics compared last; None: nothing.
        """
        examples = ranks.gather(judged and [part[:1].cpu() for part in judged])
        example = next(each for each in examples if each is not None)
        for metric in self.metrics.values() if judged is None else ():
            metric.update(*(part.to(self.device) for part in example))
            parts = [part for part in metric.modules() if isinstance(part, Metric)]
            lists = [(part, name, value) for part in parts for name, value in part.metric_state.items()]
            lists = [(part, name, [row[:0] for row in value]) for part, name, value in lists if isinstance(value, list)]
            metric.reset()
            for part, name, empty in lists:
                setattr(part, name, empty)

    def _judged(self, activations: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What metrics compare."""
        if self.activation == "sigmoid":
            probabilities, y = activations.sigmoid(), one_hot(y, activations.shape[1]).round().long()
            if isinstance(self.loss_func, BinaryCrossEntropy):
                return self.loss_func.decodes(probabilities).long(), y
            return probabilities, y
        if self.activation == "softmax" and y.shape == activations.shape:
            return activations, y.argmax(1)  # of probabilities
        return activations, fit_targets(self.loss_func, activations, y)

    def _figures(self, name: str, value: Any) -> dict[str, float]:
        """A metric's value by its name; of several values each by its own: its key, or its class."""
        if isinstance(value, Mapping):
            return {key: one for part in value for key, one in self._figures(f"{name}_{part}", value[part]).items()}
        value = torch.as_tensor(value)
        if value.numel() == 1:
            return {name: float(value)}
        if value.ndim != 1:
            raise ValueError(
                f"Learner: expected metrics of one number, or of one per class, got {name} of {list(value.shape)}. "
                "Compute it of learn.get_preds()."
            )
        known = LoaderAdapter(self.train_loader).classes
        classes = known if len(known) == len(value) else range(len(value))
        return {f"{name}_{one}": number for one, number in zip(classes, value.tolist(), strict=True)}

    def metric_of(self, column: str) -> Metric | None:
        """The metric whose value, or one of whose values, is this column of the history; None if there is none."""
        owners = [name for name in self.metrics if column == name or column.startswith(f"{name}_")]
        return self.metrics[max(owners, key=len)] if owners else None

    def end_epoch(self, row: dict[str, float], start: float) -> None:
        """Validate, and note the epoch in the history: with nan, and a warning, where no images could be read.

        row: what training gave. start: `perf_counter` when the epoch began.
        """
        row = {"epoch": float(self.epoch), **row}
        if self.valid_loader is not None:
            LoaderAdapter(self.valid_loader).follow(self.epoch)
            try:
                figures = self.validate()
            except (BadFileError, NoImagesError) as error:  # what was trained is not lost for it
                warnings.warn(f"Learner: no validation in epoch {self.epoch}: {error}", stacklevel=4)
                before = self.history.epochs[-1] if self.history.epochs else {}
                columns = [name for name in before if self.metric_of(name)] or [*self.metrics]  # of several values each
                figures = dict.fromkeys(("loss", *columns), math.nan)
            row |= {"valid_loss" if name == "loss" else name: value for name, value in figures.items()}
        self.history.epochs.append({**row, "seconds": time.perf_counter() - start})
        self.history.ends.append(len(self.history.losses))
        self.epoch += 1

    def or_valid(self, loader: Loader | None) -> Loader:
        loader = loader if loader is not None else self.valid_loader
        if loader is None:
            raise ValueError("Learner: expected a loader, got none and there is no valid_loader. Give one.")
        return loader

    def _state(self) -> dict[str, Any]:
        """What decides how training goes on, but for its place and the loader's."""
        return {
            "model": self.model.state_dict(),
            "buffers": dict(self.model.named_buffers()),  # also those that a state dict leaves out
            "optimizer": self.opt.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random_state(LoaderAdapter(self.train_loader).generator),
        }

    def _check_optimizer(self, saved: Mapping[str, Any]) -> None:
        """That its state is of an optimizer of this kind. (Another version of torch may know a setting more.)"""
        check("load", saved, {"param_groups": listed(_GROUP), "state": _STATE}, None, "optimizer.")
        groups, own = saved["param_groups"], self.opt.state_dict()["param_groups"]
        settings, known = (set(some[0]) - {"initial_lr", "max_lr", "min_lr"} for some in (groups, own))
        sizes, wanted = ([len(group["params"]) for group in some] for some in (groups, own))
        found = ""
        if settings - known and known - settings:
            found = f"settings {', '.join(sorted(settings - known))} instead of {', '.join(sorted(known - settings))}"
        elif sizes != wanted:
            found = f"groups of {sizes} parameters instead of {wanted}"
        if found:
            raise ValueError(
                f"load: expected a file of a learner with {type(self.opt).__name__} and this splitter, got {found}. "
                "Give the learner the opt_func and splitter of the run that was saved; for its weights alone give the "
                "file to classifier(weights=path)."
            )
        check_optimizer(saved, self.opt)

    def _set_state(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for name, buffer in self.model.named_buffers():
            buffer.copy_(state["buffers"][name])
        self.opt.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        set_random_state(state["random"], LoaderAdapter(self.train_loader).generator)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Afterwards model, optimizer and random states are what they were before."""
        state, modes = copy.deepcopy(self._state()), [(module, module.training) for module in self.model.modules()]
        self.opt.zero_grad()
        try:
            yield
        finally:
            self.opt.zero_grad()
            self._set_state(state)
            for module, training in modes:
                module.training = training


def until_failure(batches: Iterator[Batch], failures: list[ValueError]) -> Iterator[Batch]:
    """The batches until the files are too bad to go on, or all there are; why there are no more is noted."""
    try:
        yield from batches
    except (BadFileError, NoImagesError) as error:
        failures.append(error)
