"""The head on features of the frozen body, and whether training the body helps."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastaug as fa
from fastaug.training import learner, transfer
from fastaug.training.engine import Engine
from fastaug.training.models import NoHeadError
from fastaug.training.transfer import Judged, batch_size_for, linear_probe
from tests import factories
from tests.factories import Batches, write_photos

pytestmark = pytest.mark.usefixtures("one_thread")


def body(learn: fa.Learner) -> dict[str, Tensor]:
    state = learn.model.state_dict()
    return {name: value.clone() for name, value in state.items() if not name.startswith("6.")}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def contrary() -> list[tuple[Tensor, Tensor]]:
    """For validation: what training teaches is wrong here."""
    return [(x, (y + 1) % 3) for x, y in Batches(6)]


@pytest.fixture
def short_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one epoch, two and four; and the body is always tried."""
    monkeypatch.setattr(learner, "_CYCLE_STEPS", 6)
    monkeypatch.setattr(learner, "_FITTED", 0.0)
    monkeypatch.setattr(learner, "_GAINED", 0.0)


class Told(list[str]):
    def __call__(self, line: str) -> None:
        self.append(line)


# The head alone


def test_the_head_learns_and_the_body_stays() -> None:
    learn = factories.learner(valid=list(Batches()))
    before, start, head = body(learn), learn.validate(), learn.model[6].weight.clone()  # type: ignore[index]
    rate = learn.linear_probe()
    assert same(body(learn), before)
    assert not torch.equal(head, learn.model[6].weight)  # type: ignore[index]
    (row,) = learn.history.epochs
    assert row["valid_loss"] == learn.validate()["loss"] < 0.7 * start["loss"]
    assert row["epoch"] == 0
    assert learn.epoch == 1
    assert len(learn.history.losses) == len(learn.history.lrs) == len(learn.history.moms) == transfer.STEPS
    assert learn.history.ends == [transfer.STEPS]
    assert row["train_loss"] == pytest.approx(sum(learn.history.losses) / transfer.STEPS)
    assert max(rates[-1] for rates in learn.history.lrs) == pytest.approx(rate, rel=0.01)
    assert {rates[0] for rates in learn.history.lrs} == {0.0}


def test_batch_norm_stays_when_the_body_trains_later() -> None:
    learn = factories.learner()
    mean = learn.model[1].running_mean.clone()  # type: ignore[index]
    learn.linear_probe(1e-2, 20)
    learn.unfreeze()
    learn.fit(1, 1e-2)
    assert torch.equal(mean, learn.model[1].running_mean)  # type: ignore[index]


def test_the_features_are_what_the_body_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    engine = Engine.__init__
    monkeypatch.setattr(transfer.Engine, "__init__", lambda self, *a, **k: (made.append(a), engine(self, *a, **k))[1])
    learn = factories.learner()
    made.clear()
    rate = linear_probe(learn)
    features, head = made[0][0], made[0][2]
    assert head is learn.model[6]  # type: ignore[index]
    learn.model.eval()
    epoch = list(Batches())
    with torch.no_grad():
        wanted = torch.cat([learn.model[:6](x) for x, _ in epoch])  # type: ignore[index]
    assert torch.equal(features.inputs, wanted)
    assert torch.equal(features.targets, torch.cat([y for _, y in epoch]))
    again = factories.learner()
    probe = Engine(transfer._Batches(wanted, features.targets), None, again.model[6], device="cpu", progress=False)  # type: ignore[index]
    assert rate == pytest.approx(fa.Learner.lr_find(probe).steep)  # type: ignore[arg-type]


def test_of_photos_the_plain_ones_are_features_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 20, 30, 3), np.uint8)
    samples = fa.Samples.from_folder(write_photos(tmp_path, {f"{'abc'[i % 3]}/{i}.png": pixels[i] for i in range(10)}))
    loader = fa.ImageLoader(samples, 4, 16, fa.aug_transforms(size=8, min_scale=0.5), "cpu")
    seen: list[int] = []
    inner = transfer._input_of

    def counted(learn: Engine, head: nn.Module, x: Tensor) -> Tensor:
        seen.append(len(x))
        return inner(learn, head, x)

    monkeypatch.setattr(transfer, "_input_of", counted)
    learn = factories.learner(loader)
    learn.linear_probe(1e-2, 3)
    assert seen == [4, 4, 2, 4, 4, 2]  # all of them augmented, and as they are
    assert loader.state_dict()["epoch"] == loader.state_dict()["delivered"] == 0
    seen.clear()
    monkeypatch.setattr(transfer, "_MOST_BYTES", 300)  # of features of 64 bytes: no room for both
    factories.learner(loader).linear_probe(1e-2, 3)
    assert seen == [4, 4]
    seen.clear()
    monkeypatch.setattr(transfer, "_MOST_BYTES", 100)
    factories.learner(loader).linear_probe(1e-2, 3)
    assert seen == [4]


class Goes(nn.Module):
    """On behind its head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 2, 3), nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.head(self.body(x).flatten(1))


def test_models_without_a_head_to_train_alone() -> None:
    for model, message in (
        (nn.Sequential(nn.Flatten(), nn.Conv1d(1, 3, 1)), "got 0 heads"),
        (Goes(), "goes on behind"),
    ):
        learn = factories.learner(model=model)
        with pytest.raises(NoHeadError, match=message):
            learn.linear_probe()


def test_steps_and_rates_that_are_none() -> None:
    with pytest.raises(ValueError, match="at least one step, got 0"):
        factories.learner().linear_probe(steps=0)
    learn = factories.learner()
    with torch.no_grad():
        learn.model[6].bias[0] = math.nan  # type: ignore[index]
    with pytest.raises(FloatingPointError, match=r"finite losses, got nan at learning rate 0\.01\. Give a lower lr"):
        learn.linear_probe(0.01)


# The body, if it helps


@pytest.mark.usefixtures("short_cycles")
def test_a_body_whose_training_helps_is_trained_on() -> None:
    learn, told = factories.learner(valid=list(Batches())), Told()
    before = body(learn)
    learn.auto_fine_tune(base_lr=0.05, say=told)
    assert not same(before, body(learn))
    assert [line[:7] for line in told] == ["head: t", "head: v", "body, 1", "body, 2", "body, 4"][: len(told)]
    assert len(told) > 3
    assert "a rate of 5.0e-02, which was given" in told[0]
    losses = [row["valid_loss"] for row in learn.history.epochs]
    assert learn.validate()["loss"] == pytest.approx(min(losses[0], losses[1], losses[3], losses[-1]))


@pytest.mark.usefixtures("short_cycles")
def test_a_body_whose_training_harms_is_as_it_was() -> None:
    learn, told = factories.learner(valid=contrary()), Told()
    before = body(learn)
    learn.auto_fine_tune(base_lr=0.05, say=told)
    assert same(before, body(learn))
    assert len(learn.history.epochs) == 2
    assert told[-1].startswith("body, 1 epoch: validation loss ")
    assert told[-1].endswith("worse than before: the model is as it was then, and this is the end")
    assert learn.validate()["loss"] == pytest.approx(learn.history.epochs[0]["valid_loss"])


@pytest.mark.usefixtures("short_cycles")
def test_a_gain_that_may_be_chance_is_kept_and_ends_it() -> None:
    learn, told = factories.learner(valid=list(Batches())), Told()
    learn.auto_fine_tune(base_lr=1e-6, say=told)
    assert len(learn.history.epochs) == 2
    assert re.search(r"Lower by 0\.0000 ± 0\.0000, not enough for more: this is the end|worse than before", told[-1])


def test_cycles_have_a_hundred_steps_or_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    cycles: list[int] = []
    monkeypatch.setattr(fa.Learner, "fit_one_cycle", lambda self, epochs, rates: cycles.append((epochs, rates)))
    monkeypatch.setattr(learner, "judge", lambda learn: Judged({}, {0: 2.0 - len(cycles), 1: 2.1 - len(cycles)}))
    for batches, first in ((6, 17), (100, 1), (101, 1)):
        cycles.clear()
        factories.learner(Batches(batches, 1), valid=list(Batches())).auto_fine_tune(
            base_lr=1e-4, say=lambda line: None
        )
        assert cycles == [(first * times, slice(1e-6, 1e-5)) for times in (1, 2, 4)]


def test_a_body_is_not_trained_where_nothing_is_left_to_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "validate", lambda learn: {"loss": 0.02})
    learn, told = factories.learner(valid=list(Batches())), Told()
    learn.auto_fine_tune(base_lr=0.01, say=told)  # the first batch has a loss of ln 3
    assert len(learn.history.epochs) == 1
    assert told[-1] == "body: not trained. A validation loss of 0.0200 leaves nothing to gain"


def test_a_body_is_not_trained_where_the_head_fits_the_images() -> None:
    learn, told = factories.learner(valid=contrary()), Told()
    before = body(learn)
    learn.auto_fine_tune(base_lr=0.3, say=told)
    assert same(before, body(learn))
    assert len(learn.history.epochs) == 1
    assert told[-1].startswith("body: not trained. The head alone fits the training images, with a loss of 0.")


@pytest.mark.parametrize(("epochs", "trained"), [(0, 0), (1, 1), (3, 3)])
def test_epochs_that_are_given(epochs: int, trained: int) -> None:
    learn = factories.learner(valid=list(Batches()))
    before = body(learn)
    learn.auto_fine_tune(epochs, 0.05, say=lambda line: None)
    assert len(learn.history.epochs) == 1 + trained
    assert same(before, body(learn)) == (not epochs)


@pytest.mark.usefixtures("short_cycles")
def test_a_model_without_a_head_is_trained_frozen() -> None:
    learn, told = factories.learner(model=Goes(), valid=list(Batches())), Told()
    learn.auto_fine_tune(1, say=told)
    assert f"for {math.ceil(transfer.STEPS / 6)} frozen epochs, since the model does not end in one head" in told[0]
    assert len(learn.history.epochs) == math.ceil(transfer.STEPS / 6) + 1


def test_what_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match="there is no valid_loader"):
        factories.learner().auto_fine_tune()
    with pytest.raises(ValueError, match="-1"):
        factories.learner(valid=list(Batches())).auto_fine_tune(-1)


def test_what_is_said_is_printed_where_progress_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    factories.learner(valid=list(Batches()), progress=False).auto_fine_tune(0, 0.01)
    assert "head:" not in capsys.readouterr().out
    factories.learner(valid=list(Batches())).auto_fine_tune(0, 0.01)
    assert "head: trained on the features of the frozen body, at a rate of 1.0e-02" in capsys.readouterr().out


def test_gain_is_of_the_same_images() -> None:
    first = Judged({}, {1: 1.0, 2: 2.0, 3: 9.0})
    gain, error = first.gain(Judged({}, {1: 0.5, 2: 0.5, 4: 0.0}))
    assert gain == pytest.approx(1.0)  # .5 and 1.5
    assert error == pytest.approx(0.5)
    assert first.mean == 4
    assert first.gain(Judged({}, {1: 0.0}))[1] == math.inf


def test_batch_size_for_few_images() -> None:
    assert [batch_size_for(n) for n in (10**6, 768, 767, 384, 207, 192, 191, 28, 5, 0)] == [
        64,
        64,
        32,
        32,
        16,
        16,
        8,
        8,
        5,
        1,
    ]


def test_fine_tune_names_a_head_that_gets_few_steps() -> None:
    with pytest.warns(UserWarning, match=r"expected 50 steps or more for the head, got 6: .*auto_fine_tune\(\)"):
        factories.learner().fine_tune(1)
    learn = factories.learner()
    before = body(learn)
    learn.fine_tune(0, freeze_epochs=9)  # 54
    assert len(learn.history.epochs) == 9
    assert learn.train_bn or same(before, body(learn))
