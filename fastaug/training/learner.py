"""The training loop: fit, one cycle, fine-tune, save and load.

The settings are fastai's (2.8): AdamW, one cycle of learning rate and momentum, no weight decay on biases and norms.
Losses stay on the device and are fetched twice a second, so that a GPU does not wait for the host.
"""

from __future__ import annotations

import copy
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from fastaug.files import whole_file
from fastaug.loaded import read_torch, reading, shown, whole
from fastaug.machine import rank, world
from fastaug.text import described, html_table
from fastaug.training import gallery, lr_finder, prediction, preview, ranks, transfer
from fastaug.training.checkpoint import alike, check_file
from fastaug.training.display import Display
from fastaug.training.engine import Engine
from fastaug.training.history import History
from fastaug.training.loaders import LoaderAdapter
from fastaug.training.losses import name_of
from fastaug.training.models import NoHeadError
from fastaug.training.rates import momentum_of, one_cycle, slice_rates
from fastaug.training.transfer import Judged, judge

_REFRESH_S = 0.5
_LEAST_STEPS = 50
_CYCLE_STEPS = 100  # at least; in fewer a body gets worse at every rate, and does not recover
_FITTED = 0.1  # share of the validation loss below which the training loss has nothing left to teach
_GAINED = 0.02  # share of the loss of the first batch below which the validation loss leaves nothing to gain
_LEAST_GAIN = 0.01  # of the loss, for which more epochs are worth their time


class Learner(Engine):
    """Trains a classifier of images, or whatever else gives activations for images: of labels, numbers, or pixels.

    Args:
        train_loader: yields (images float [B, C, H, W], targets int [B], ...) and has a length; batches without images
            are passed over, and so are those of one where batch-norm would get a single value per channel. Its
            `set_epoch(epoch)` is called before each epoch if it has one.
        valid_loader: the same, for `validate`; None trains without validation.
        model: images -> activations [B, classes]. Moved to the device, in channels_last memory.
        loss_func: (activations, targets) -> scalar. Default: what fits the kind of the loader's samples, and it is
            said which: BinaryCrossEntropy with several labels an image, and where some are of no class (-1); MSELoss
            with numbers; cross-entropy, which ignores 255, with masks; else cross-entropy. They are means over the
            batch. (With a sum, other learning rates are right.)
        opt_func: groups of parameters -> optimizer. Default: AdamW, momentum .9, .99, eps 1e-5, weight decay .01.
        metrics: torchmetrics' by name, for `validate`; of several values each has a name of its own. Default:
            error_rate and accuracy; accuracy_multi with a binary loss, and of several labels f1, its mean over these;
            mae with a loss of numbers (MSELoss, L1Loss, …); none with a loss that is not torch's.
        activation: "softmax", "sigmoid" or "none", what makes probabilities of activations for metrics, `get_preds` and
            so on. Default: as the loss says; "none", and so the model's own numbers, with losses of numbers and with
            those that are not torch's.
        splitter: model -> groups of parameters, first layers first, for `freeze_to` and for rates that grow.
        train_bn: batch-norm in frozen groups. True, fastai's default: it goes on learning, so the backward pass crosses
            the body. False: frozen too, running statistics included; the backward pass ends where learning does. When
            these layers train later, it normalises by those statistics still, and its weight and bias learn.
        amp: "bf16" or "fp16": the model computes in it where that is safe; fp16 with scaled gradients. None: float32.
        clip_norm: the largest norm that all gradients together may have; longer ones are shortened to it.
        accumulate: batches per step of the optimizer, which gets the mean of their gradients. (Rates and momentum go on
            with every batch; an epoch ends with a step.)
        mix: (images, targets) -> the same mixed, in training only: MixUp or CutMix of torchvision.transforms.v2.
        compile: `torch.compile`, or a partial of it; used in training.
        after_epoch: called with the learner after each epoch, such as `KeepBest`; if one returns True the fit ends.
        checkpoint: file that `save` writes after each epoch, for `load(checkpoint, resume=True)`.
        checkpoint_batches: write it also within an epoch, every so many batches, if the loader has a `state_dict`.
        device: default "cuda" where there is one, else "cpu".
        progress: a bar, and a line per epoch; never anything where the output is not a terminal.
    Raises:
        ValueError: a loader without batches, with several views or without targets; a model without parameters;
            settings that are none. TypeError: a loader without a length, or, when it is used, without targets.

    Where torch.distributed is initialised each rank trains on its own batches, and gradients, losses and metrics are
    those of all images together, whatever each rank's share of them. Batch-norm looks at one rank's images, and the
    statistics of rank 0 count. Only rank 0 writes; `save`, like all else, is called by every rank.
    """

    # One file each, with their docstrings:
    lr_find = lr_finder.lr_find
    linear_probe = transfer.linear_probe
    show_batch, summary = preview.show_batch, preview.summary
    show_results = gallery.show_results
    get_preds, tta, predict, export = prediction.get_preds, prediction.tta, prediction.predict, prediction.export

    def _settings(self) -> dict[str, object]:
        """What is shown of it."""
        parameters = list(self.model.parameters())
        learning = sum(each.numel() for each in parameters if each.requires_grad)
        settings: dict[str, object] = {"model": type(self.model).__name__}
        settings |= {"parameters": sum(each.numel() for each in parameters), "learning": learning}
        settings |= {"classes": self.classes} if self.classes and self.kind != "numbers" else {}
        settings |= {"targets": self.kind} if self.kind is not None else {}
        settings |= {"loss": name_of(self.loss_func)}
        settings |= {"device": str(self.device), "train_batches": len(self.train_loader)}
        settings |= {} if self.valid_loader is None else {"valid_batches": len(self.valid_loader)}
        last = self.history.epochs[-1] if self.history.epochs else {}
        return settings | {"epochs": self.epoch} | {name: last[name] for name in self.metrics if name in last}

    def __repr__(self) -> str:
        return described("Learner", self._settings())

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html_table("Learner", self._settings().items())

    def fit(self, epochs: int, lr: float | slice = 1e-3) -> None:
        """Train at a constant rate (a `slice`: one per parameter group, see `slice_rates`) and momentum."""
        self.set_rates(slice_rates(lr, len(self.groups)))
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
        batches, rates = _whole(epochs) * len(self.train_loader), [rates[i] for i in self._group_of]
        scheduler = one_cycle(self.opt, rates, batches, pct_start, div, div_final)
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
        slice(base_lr / lr_mult, base_lr). Source: fastai 2.8, `fine_tune`. With epochs=0 the head alone is trained. On
        few images `auto_fine_tune` reaches more: it gives the head steps, not epochs.
        """
        steps = freeze_epochs * len(self.train_loader) // self.accumulate
        if freeze_epochs and steps < _LEAST_STEPS:
            warnings.warn(
                f"fine_tune: expected {_LEAST_STEPS} steps or more for the head, got {steps}: it will hardly learn "
                "before the body does. Use auto_fine_tune(), more freeze_epochs or a smaller batch_size.",
                stacklevel=2,
            )
        if freeze_epochs:
            self.freeze()
            self.fit_one_cycle(freeze_epochs, slice(base_lr), pct_start=0.99)
        if not epochs:
            return
        base_lr /= 2
        self.unfreeze()
        self.fit_one_cycle(epochs, slice(base_lr / lr_mult, base_lr), pct_start=pct_start, div=div)

    def auto_fine_tune(
        self, epochs: int | None = None, base_lr: float | None = None, say: Callable[[str], None] | None = None
    ) -> None:
        """Train the head on features of the frozen body (`linear_probe`), then everything as long as that helps.

        The body is not trained where the head alone fits the training images (their loss is below a tenth of that on
        the validation part), or that loss is below 2 % of what it was at first (of numbers: of that of their mean, if
        that is less). Otherwise it is, at
        slice(base_lr / 100, base_lr / 10), for a cycle of 100 steps or an epoch, then for one twice as long, and one
        four times; the next one follows where the validation loss fell by more than 1 % and its standard error. If a
        cycle did not lower it at all, the model is put back to where it was before. A model that does not end in one
        head is trained frozen instead. `train_bn` is False from here on.

        Args:
            epochs: of the body, in one cycle. 0: the head alone. None: as above.
            base_lr: rate of the head. None: found on its features.
            say: called with a line for each choice, with the reason. None: printed, if `progress` is wanted.
        Raises:
            ValueError: no valid_loader, which chooses; epochs < 0. Errors of `linear_probe` and `fit_one_cycle`.
        Source: Kumar et al. 2022 (head first), Loshchilov and Hutter 2017 (cycles of growing length).
        """
        if say is None:
            say = print if self.progress else lambda line: None
        self.or_valid(None)
        self.train_bn = False
        if self._resuming is None:
            self._choose_head(base_lr, say)
        rate, frozen_epochs = self.chosen["base_lr"], self.chosen["frozen_epochs"]
        if frozen_epochs:
            self.freeze()
            self.fit_one_cycle(frozen_epochs, slice(rate))
        if self._resuming is None:
            row = self.history.epochs[-1]
            if math.isnan(row["valid_loss"]):
                say("There are no images that could tell whether training the body helps, so this is the end.")
                return
            say(f"head: {_scores(row)}")
            self.chosen["cycles"] = self._choose_cycles(epochs, row["valid_loss"], say)
            if self.chosen["cycles"]:
                self.chosen["best"] = tuple(judge(self))
        self.unfreeze()
        for cycle in self.chosen["cycles"]:
            self.fit_one_cycle(cycle, slice(rate / 100, rate / 10))
            if self._resuming is not None:
                continue  # the run that is resumed went on from here
            before, now = Judged(*self.chosen["best"]), judge(self)
            gain, error = before.gain(now)
            what = f"body, {cycle} epoch{'s' * (cycle > 1)}: {_scores(self.history.epochs[-1])}"
            if gain < 0:
                self.model.load_state_dict(before.model)
                say(f"{what}. That is worse than before: the model is as it was then, and this is the end")
                break
            self.chosen["best"] = tuple(now)
            if gain <= max(error, _LEAST_GAIN * before.mean) or now.mean < _GAINED * transfer.start_loss(self):
                say(f"{what}. Lower by {gain:.4f} ± {error:.4f}, not enough for more: this is the end")
                break
            say(f"{what}. Lower by {gain:.4f} ± {error:.4f}")
        self.chosen = {}  # a file that is saved now need not hold it

    def _choose_cycles(self, epochs: int | None, wanted: float, say: Callable[[str], None]) -> list[int]:
        """Epochs of each cycle in which the body may be trained."""
        if epochs is not None:
            return [_whole(epochs)] if epochs else []
        losses = self.history.losses[-transfer.STEPS // 10 :]
        left = sum(losses) / len(losses)
        if wanted < _GAINED * transfer.start_loss(self):
            say(f"body: not trained. A validation loss of {wanted:.4f} leaves nothing to gain")
            return []
        if left < _FITTED * wanted:
            say(
                f"body: not trained. The head alone fits the training images, with a loss of {left:.4f}: they have "
                "nothing left to teach. Give a number of epochs to train it all the same"
            )
            return []
        first = math.ceil(_CYCLE_STEPS / len(self.train_loader))
        return [first, 2 * first, 4 * first]

    def _choose_head(self, base_lr: float | None, say: Callable[[str], None]) -> None:
        """Train the head on features, or, of a model without one, choose how many frozen epochs it gets."""
        frozen_epochs = 0
        try:
            rate = self.linear_probe(base_lr)
            how = "on the features of the frozen body"
        except NoHeadError:
            self.freeze()
            rate = base_lr or self.lr_find().steep
            frozen_epochs = math.ceil(transfer.STEPS / len(self.train_loader))
            how = f"for {frozen_epochs} frozen epochs, since the model does not end in one head"
        say(f"head: trained {how}, at a rate of {rate:.1e}, which was {'given' if base_lr else 'found by lr_find'}")
        self.chosen = {"base_lr": rate, "frozen_epochs": frozen_epochs}

    def _fit(self, epochs: int, scheduler: OneCycleLR | None) -> None:
        number, self._fits, self.done = self._fits, self._fits + 1, 0
        if self._resuming is None:
            self._place = {"fit": number, "epochs": epochs}
            self._note_place(scheduler, None)
        elif number < self._resuming["fit"]:
            return  # finished before the run ended
        else:
            state, self._resuming = self._resuming, None
            if (state["epochs"], state["scheduler"] is None) != (epochs, scheduler is None):
                was, now = (" of a cycle" * (not plain) for plain in (state["scheduler"] is None, scheduler is None))
                raise ValueError(
                    f"load: expected the calls of fit of the run that is resumed, in which call {number + 1} was for "
                    f"{state['epochs']} epochs{was}, got one for {epochs}{now}. Make the same calls again."
                )
            self._restore(state)  # again, because a new cycle has set the optimizer's rates
            if scheduler is not None:
                scheduler.load_state_dict(state["scheduler"])
        network = self.network()
        with Display(self.progress, _whole(epochs) * len(self.train_loader)) as display:
            while self.done < epochs:
                start = time.perf_counter()
                try:
                    row = self._train_epoch(network, scheduler, display)
                finally:
                    self._seen, self._weights = [], []  # also where the epoch was interrupted: it is not continued here
                self.end_epoch(row, start)
                self.done += 1
                self._note_place(scheduler, LoaderAdapter(self.train_loader).position())
                display.epoch(self.history.epochs[-1])
                ends: list[bool | None] = []
                try:
                    ends.extend(call(self) for call in self.after_epoch)  # all are called, whatever one says
                finally:  # an error of one, such as a full disk, does not cost the epoch
                    if any(ends):
                        self.done = self._place["done"] = epochs
                    if self.checkpoint is not None:
                        self.save(self.checkpoint)

    def _note_place(self, scheduler: OneCycleLR | None, position: dict[str, Any] | None) -> None:
        """Remember for `save` where the training stands, and the loader in it."""
        self._place |= {"done": self.done, "scheduler": scheduler and scheduler.state_dict(), "loader": position}

    def _train_epoch(self, network: nn.Module, scheduler: OneCycleLR | None, display: Display) -> dict[str, float]:
        """One pass over the training images; returns train_loss, the mean over them, and images_per_s."""
        self.train_mode()
        loader = LoaderAdapter(self.train_loader)
        loader.set_epoch(self.epoch)
        every = self.checkpoint_batches if self.checkpoint and loader.position() is not None else None
        before, pending = sum(self._seen), 0  # batches whose gradients wait for a step
        waiting: list[tuple[Tensor, Tensor | float]] = []  # losses still on the device, and what each counts
        self.opt.zero_grad()
        start = fetched = time.perf_counter()
        coming = self.batches(self.train_loader, keep_empty=world() > 1, begun=before > 0)
        for x, y, _ in self.trainable(coming):
            loss, weight = self.forward(network, x, y)
            waiting.append((loss.detach(), weight))
            self._seen.append(len(y))
            self._record_rates()
            if self.device.type == "cpu" or time.perf_counter() - fetched > _REFRESH_S:
                self._fetch(waiting)
                fetched = time.perf_counter()
                speed, batches = (sum(self._seen) - before) / (fetched - start), len(self._seen)
                display.batch(self.history.losses[-1], speed, self.done * len(self.train_loader) + batches)
            self.backward(loss, weight)
            pending = (pending + 1) % self.accumulate
            if not pending:
                self.step(self.accumulate)
            if scheduler is not None and scheduler.last_epoch + 1 < scheduler.total_steps:
                with warnings.catch_warnings():  # that the first step waits, or was left out by the scaler, is known
                    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                    scheduler.step()
            number = len(self._seen)  # after the last batch comes validation first
            if every and not pending and not number % every and number < len(self.train_loader):
                self._fetch(waiting)
                self._note_place(scheduler, loader.position())
                self.save(self.checkpoint or "")
        if pending:
            self.step(pending)
        self._fetch(waiting)
        ranks.same_buffers(self.model)
        seen, losses = sum(self._seen), self.history.losses[-len(self._seen) :]
        total = sum(losses) if self.summed else sum(map(math.prod, zip(losses, self._weights, strict=True)))
        whole, weight, new = ranks.totals((total, sum(self._weights), seen - before), self.device)
        return {
            "train_loss": whole / weight if weight else math.nan,
            "images_per_s": new / (time.perf_counter() - start),
        }

    def _fetch(self, waiting: list[tuple[Tensor, Tensor | float]]) -> None:
        """Move losses, and what they count, from the device into the history, in one transfer."""
        first = len(self.history.losses) + len(waiting) - len(self._seen)  # row of the epoch's first batch
        there = [loss for loss, _ in waiting] + [weight for _, weight in waiting if isinstance(weight, Tensor)]
        numbers: list[float] = torch.stack(there).tolist() if there else []
        losses, fetched = numbers[: len(waiting)], iter(numbers[len(waiting) :])
        self._weights += [next(fetched) if isinstance(weight, Tensor) else weight for _, weight in waiting]
        waiting.clear()
        for batch, loss in enumerate(losses, len(self.history.losses)):
            self.history.losses.append(loss)
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"Learner: expected a finite loss, got {loss} in epoch {self.epoch}, batch {batch - first}, at "
                    f"learning rate {self.history.lrs[batch][-1]:.3g}. Lower the rate or look for images that are not "
                    "finite, and load() what you saved: the model may be spoilt."
                )

    def _record_rates(self) -> None:
        rates = {i: float(group["lr"]) for group, i in zip(self.opt.param_groups, self._group_of, strict=True)}
        self.history.lrs.append(tuple(rates.values()))
        self.history.moms.append(momentum_of(self.opt.param_groups[0]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write model, optimizer, scheduler, history, random states and the loader's position: whole or not at all."""
        state = {**self._state(), "epoch": self.epoch, "history": asdict(self.history), "seen": self._seen}
        state |= {"weights": self._weights, "still": sorted(self._still), "chosen": self.chosen}
        state |= self._place
        bad = (state["loader"] or {}).get("quarantined", ())
        told = ranks.gather((state["random"], bad))  # of each rank: the rest is the same on all of them
        state["random"] = [random for random, _ in told]
        if bad or any(others for _, others in told):
            every = {row: [row, *what] for _, some in told for row, *what in some}
            state["loader"] = {**state["loader"], "quarantined": [*every.values()]}
        if not rank():
            with whole_file(path) as file:
                torch.save(state, file)

    def load(self, path: str | os.PathLike[str], resume: bool = False) -> None:
        """Read what `save` wrote, for the same model and optimizer; never runs code from the file.

        What follows is as if it had followed the `save`: bit for bit on a CPU, with a loader that is a pure function of
        the epoch (`set_epoch`), that has a `state_dict`, or that draws from torch's generators.

        Args:
            resume: for a run that was ended from outside. Make the same calls of fit again: those that the run had
                finished are passed over, and the one that it was in goes on where the file was written.
        Raises:
            OSError: no such file, or it cannot be read. ValueError: not a whole file of `save`, or one of another
                model, optimizer or loader; nothing of the learner is changed then.
        """
        with reading("load", path, "a file of Learner.save"):
            state = read_torch(path)
            check_file(state)
            if state["model"].keys() == self.model.state_dict().keys():  # else torch says it of the model
                self._check_optimizer(state["optimizer"])
            self._check_scheduler(state["scheduler"])
            before = copy.deepcopy(self._state())
            try:
                self._restore(state)
            except BaseException:
                self._set_state(before)
                raise
        self._resuming, self._fits = state if resume and state["fit"] >= 0 else None, 0

    def _restore(self, state: dict[str, Any]) -> None:
        state = copy.deepcopy(state)
        history = History(**state["history"])
        self._set_state({**state, "random": state["random"][rank() % len(state["random"])]})
        LoaderAdapter(self.train_loader).go_to(state["loader"])  # the last that may fail
        self.epoch, self.done, self._seen = state["epoch"], state["done"], state["seen"]
        self._weights = state.get("weights", [float(images) for images in self._seen])
        self._still.update(state.get("still", ()))
        self.chosen = state.get("chosen", {})
        self.history, self._place = history, {name: state[name] for name in self._place}

    def _check_scheduler(self, saved: Mapping[str, Any] | None) -> None:
        """That its state is of a cycle of this optimizer."""
        if saved is None:
            return
        opt = copy.copy(self.opt)  # a schedule sets the rates, where they are tensors in place
        opt.param_groups = copy.deepcopy([{**group, "params": []} for group in opt.param_groups])
        own = one_cycle(opt, [1.0] * len(opt.param_groups), 2).state_dict()
        wrong = [name for name in own if name in saved and not alike(saved[name], own[name])]
        if wrong or not whole(0, saved.get("total_steps", 0)).fits(saved.get("last_epoch")):
            name = wrong[0] if wrong else "last_epoch"
            raise ValueError(
                f"load: expected scheduler.{name} of a cycle of this learner, got {shown(saved.get(name))}."
            )


def _whole(epochs: int) -> int:
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"fit: expected a whole number of epochs, 1 or more, got {epochs!r}.")
    return epochs


def _scores(row: Mapping[str, float]) -> str:
    """Of an epoch: the validation loss and what tells most beside it."""
    names = [name for name in row if name in ("valid_loss", "accuracy", "f1", "mae")]
    return ", ".join(f"{name.replace('valid_', 'validation ')} {row[name]:.4f}" for name in names)
