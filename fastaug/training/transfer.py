"""What chooses in transfer learning: the head on features of the frozen body; whether training the body has helped.

A frozen body makes the same features of an image in every epoch. So they are computed once, and the head gets as many
steps as it needs, which cost next to nothing: on few images an epoch has few steps, in which a new head hardly learns.
Source: Kumar et al., "Fine-tuning can distort pretrained features and underperform out-of-distribution", 2022.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from fastaug.loading.loader import ImageLoader
from fastaug.training import lr_finder, ranks
from fastaug.training.display import Display
from fastaug.training.engine import Batch, Engine
from fastaug.training.inference import mixed_precision
from fastaug.training.loaders import LoaderAdapter
from fastaug.training.losses import losses_of_each
from fastaug.training.models import NoHeadError, head_of
from fastaug.training.prediction import activations_of
from fastaug.training.rates import momentum_of, one_cycle

STEPS = 200  # of the head, in a cycle at the rate that lr_find calls steep
_BATCH = 64
_MOST_BYTES = 2**27  # of features: 26,000 images of 1,280 numbers


def linear_probe(learn: Engine, lr: float | None = None, steps: int = STEPS) -> float:
    """Train the head alone, for one cycle, on features that the frozen body makes once. One row of the history.

    The features are those of one augmented epoch and, where the loader is an ImageLoader, of the plain photos; of many
    images as many as fit into 128 MiB. Batch-norm of the body keeps its statistics now and when it trains later, as
    with `train_bn=False`: the head has learned from them. Numbers it learns as if their mean were 0 and their deviation
    1, for which rates are made, and then has both in its last layer, where that is linear.

    Args:
        lr: the highest rate. None: what `lr_find` calls steep on the features, or, of numbers, minimum.
        steps: batches of up to 64 images; of many images at least one pass over their features.
    Returns:
        The rate.
    Raises:
        NoHeadError: a model without a head, with several, or that goes on behind it. ValueError: steps < 1.
        FloatingPointError: the loss is not finite.
    """
    if steps < 1:
        raise ValueError(f"linear_probe: expected at least one step, got {steps}.")
    start, head = time.perf_counter(), head_of(learn.model)
    ranks.same_weights(learn.model)
    learn.train_bn = False
    learn.freeze()
    with Display(learn.progress, len(learn.train_loader)) as display:
        batches = _Batches(*_features(learn, head, display))
        made = time.perf_counter() - start
        scale = _Scale.taken_from(learn, head, batches)
        probe = Engine(
            batches, None, head, loss_func=learn.loss_func, opt_func=learn.opt_func, clip_norm=learn.clip_norm,
            device=learn.device, progress=False,
        )  # fmt: skip
        # Losses of numbers differ by so much from batch to batch that the steepest fall may be chance
        lr = lr or getattr(lr_finder.lr_find(probe), "steep" if scale is None else "minimum")
        losses = _one_cycle(probe, lr, max(steps, len(batches)), learn, 1.0 if scale is None else scale.unit)
        if scale is not None:
            scale.move_into(head)
        row = {"train_loss": sum(losses) / len(losses), "images_per_s": len(batches.targets) / made}
        learn.end_epoch(row, start)
        display.epoch(learn.history.epochs[-1])
    for call in learn.after_epoch:
        call(learn)
    return lr


def batch_size_for(images: int) -> int:
    """Of a data set for training: the largest of 64, 32 and 16 with which an epoch has 12 batches, else 8, or all."""
    return next((size for size in (64, 32, 16) if images >= 12 * size), max(min(8, images), 1))


class Judged(NamedTuple):
    """The model at one moment, and its loss on each image of the validation part, by the rows of the samples."""

    model: dict[str, Tensor]
    losses: dict[int, float]

    @property
    def mean(self) -> float:
        return sum(self.losses.values()) / len(self.losses)

    def gain(self, later: Judged) -> tuple[float, float]:
        """By how much the mean loss is lower later, on the images of both, and the standard error of that."""
        apart = torch.tensor([loss - later.losses[row] for row, loss in self.losses.items() if row in later.losses])
        error = float(apart.std()) / math.sqrt(len(apart)) if len(apart) > 1 else math.inf
        return float(apart.mean()), error


def start_loss(learn: Engine) -> float:
    """The loss of one who has learned nothing: that of the first batch; of numbers, if it is less, that of their mean,
    since all of them may be far from what a new head says, which is soon unlearned."""
    first = learn.history.losses[0]
    if learn.kind != "numbers":
        return first
    numbers = torch.as_tensor(LoaderAdapter(learn.train_loader).targets, dtype=torch.float32).to(learn.device)
    numbers = numbers.reshape(len(numbers), -1)
    return min(first, float(losses_of_each(learn.loss_func, numbers.mean(0).expand_as(numbers), numbers).mean()))


def judge(learn: Engine) -> Judged:
    """The learner's model as it is now."""
    activations, targets, rows = activations_of(learn, LoaderAdapter(learn.or_valid(None)).in_order(rows=True))
    losses = losses_of_each(learn.loss_func, activations, targets).tolist()
    state = {name: value.detach().clone() for name, value in learn.model.state_dict().items()}
    return Judged(state, dict(zip(rows.tolist(), losses, strict=True)))


class _Batches:
    """A loader of features [N, ...] and targets, shuffled anew each time, alike on all ranks."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets, self.generator = inputs, targets, torch.Generator().manual_seed(0)
        self.size = min(_BATCH, len(targets))

    def __len__(self) -> int:
        return len(self.targets) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.targets), generator=self.generator).to(self.targets.device)
        for rows in order.split(self.size)[: len(self)]:
            yield self.inputs[rows], self.targets[rows]


def _features(learn: Engine, head: nn.Module, display: Display) -> tuple[Tensor, Tensor]:
    """What reaches the head, float32 [N, ...], and the targets, of all ranks' images, on the device; in the order of
    their rows, as far as the loader tells them: whatever the number of ranks."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []

    def take(images: Iterator[Batch], most: float) -> None:
        for number, (x, y, rows) in enumerate(images, 1):
            if sum(inputs.nbytes for inputs, *_ in found) > most:
                break
            if len(y):
                known = torch.zeros(len(y), dtype=torch.int64) if rows is None else rows.cpu()
                found.append((_input_of(learn, head, x), y.to(learn.device), known))
            display.update(display.bar, completed=number, description="features of the frozen body")

    loader = learn.train_loader
    if isinstance(loader, ImageLoader):
        copied = LoaderAdapter(loader).copied(drop_last=False)  # no gradients here, which few images would sway
        copied.set_epoch(learn.epoch)
        take(learn.batches(copied.loader, keep_empty=True), _MOST_BYTES)
    else:
        with closing(learn.training_batches()) as batches:
            take(islice(batches, len(loader)), _MOST_BYTES)
    used = sum(inputs.nbytes for inputs, *_ in found)
    if isinstance(loader, ImageLoader) and 2 * used < _MOST_BYTES:  # they come in order: all of them, or none
        take(learn.batches(LoaderAdapter(loader).in_order(rows=True), keep_empty=True), math.inf)
    parts = [part for part in ranks.gather([torch.cat(each).cpu() for each in zip(*found, strict=True)]) if part]
    if not parts:
        raise ValueError("linear_probe: expected images to train on, got none that can be read.")
    inputs, targets, rows = (torch.cat([each.to(learn.device) for each in of]) for of in zip(*parts, strict=True))
    order = rows.argsort(stable=True)
    return inputs[order], targets[order]


def _input_of(learn: Engine, head: nn.Module, x: Tensor) -> Tensor:
    """What the head gets of these images."""
    calls: list[tuple[Tensor, object]] = []
    hook = head.register_forward_hook(lambda module, inputs, output: calls.append((inputs[0], output)))
    learn.model.eval()
    try:
        with torch.no_grad(), mixed_precision(learn.device, learn.amp), learn.limits_named("the forward pass"):
            activations = learn.model(x)
    finally:
        hook.remove()
    if len(calls) != 1 or calls[0][1] is not activations:
        raise NoHeadError(
            "linear_probe: expected a model that ends with its head, got one that goes on behind it. "
            "Use fine_tune, with enough freeze_epochs."
        )
    return calls[0][0].float()


class _Scale(NamedTuple):
    """Of numbers: mean and deviation of each, float [numbers], and the loss in their units of one that is 1 without."""

    mean: Tensor
    deviation: Tensor
    unit: float

    @classmethod
    def taken_from(cls, learn: Engine, head: nn.Module, batches: _Batches) -> Self | None:
        """The scale of the numbers that a head is to learn, which are of mean 0 and deviation 1 then, as it has them.

        None: it learns something else, or its last layer could not have them.
        """
        last = _last_linear(head)
        if learn.kind != "numbers" or last is None or last.bias is None:
            return None
        numbers = batches.targets.reshape(len(batches.targets), -1)
        mean, deviation = numbers.mean(0), numbers.std(0, correction=0)
        deviation = deviation.where(deviation > 0, 1.0)
        head.eval()
        with torch.no_grad():
            said = head(batches.inputs)

            def loss(of: Tensor, numbers: Tensor) -> float:
                return float(losses_of_each(learn.loss_func, of, numbers).mean())

            of_mean = loss(mean.expand_as(said), numbers)
            if loss(said, numbers) < of_mean:  # else it knows nothing that is worth keeping, and starts as a new one
                last.weight /= deviation[:, None]
                last.bias.sub_(mean).div_(deviation)
            batches.targets = (numbers - mean) / deviation
            unit = of_mean / (loss(torch.zeros_like(said), batches.targets) or 1.0)
        return cls(mean, deviation, unit)

    @torch.no_grad()
    def move_into(self, head: nn.Module) -> None:
        last = _last_linear(head)
        assert last is not None, "it was there when the scale was taken"
        last.weight *= self.deviation[:, None]
        last.bias.mul_(self.deviation).add_(self.mean)


def _last_linear(head: nn.Module) -> nn.Linear | None:
    """The layer that a head ends in."""
    last = head[-1] if isinstance(head, nn.Sequential) else head
    return last if isinstance(last, nn.Linear) else None


def _one_cycle(probe: Engine, lr: float, steps: int, learn: Engine, unit: float) -> list[float]:
    """Train on features; the losses of the batches, times unit, which the learner's history has too: there the body
    rests."""
    scheduler, network = one_cycle(probe.opt, [lr] * len(probe.opt.param_groups), steps), probe.network()
    for parameter in probe.model.parameters():
        parameter.requires_grad_(True)
    probe.train_mode()
    losses: list[Tensor] = []
    with closing(probe.training_batches()) as batches:
        for x, y, _ in islice(batches, steps):
            loss, weight = probe.forward(network, x, y)
            losses.append(loss.detach())
            group = probe.opt.param_groups[0]
            learn.history.lrs.append((*[0.0] * (len(learn.groups) - 1), float(group["lr"])))
            learn.history.moms.append(momentum_of(group))
            probe.backward(loss, weight)
            probe.step(1)
            if len(losses) < steps:
                scheduler.step()
    learn.history.losses += (each := (torch.stack(losses) * unit).tolist())
    if not all(map(math.isfinite, each)):
        raise FloatingPointError(
            f"linear_probe: expected finite losses, got {each[-1]} at learning rate {lr:.3g}. Give a lower lr, and "
            "load() what you saved: the head is spoilt."
        )
    return each
