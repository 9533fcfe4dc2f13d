"""The learning-rate finder: its curve, its suggestions, and that nothing of it stays."""

from __future__ import annotations

import math
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastaug as fa
from fastaug.training.checkpoint import random_state
from fastaug.training.lr_finder import FoundRates
from tests import factories
from tests.compare import differences, snapshot
from tests.factories import Batches, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


def learner(loader: Any = None, **arguments: Any) -> fa.Learner:
    return factories.learner(loader, **{"model": tiny(0.3), **arguments})


def test_rates_and_smoothing() -> None:
    seen: list[float] = []
    losses = iter(torch.linspace(2, 1, 20))

    def loss_func(activations: Tensor, targets: Tensor) -> Tensor:
        seen.append(learn.opt.param_groups[-1]["lr"])
        return next(losses) + 0 * activations.sum()

    learn = learner(loss_func=loss_func)
    found = learn.lr_find(1e-4, 1.0, num_it=20)
    assert seen == found.lrs
    assert found.lrs == pytest.approx([1e-4 * 1e4 ** (i / 20) for i in range(20)])
    assert len(learn.history.losses) == learn.epoch == 0
    average = 0.0
    for i, loss in enumerate(torch.linspace(2, 1, 20).tolist()):
        average = 0.98 * average + 0.02 * loss
        assert found.losses[i] == pytest.approx(average / (1 - 0.98 ** (i + 1)))


def test_default_is_a_hundred_batches_up_to_ten_unless_it_gets_worse() -> None:
    flat = learner(loss_func=lambda activations, targets: activations.sum() * 0 + 1).lr_find()
    assert len(flat.lrs) == 100  # of a loader with six batches
    assert (flat.lrs[0], flat.lrs[-1]) == (1e-7, pytest.approx(1e-7 * 1e8**0.99))
    values = [*[1.0] * 50, *[1000.0] * 50]
    for stop_div, number in ((True, 51), (False, 100)):
        losses = iter(values)
        learn = learner(loss_func=lambda activations, targets, losses=losses: activations.sum() * 0 + next(losses))
        assert len(learn.lr_find(stop_div=stop_div).lrs) == number


def test_the_sweep_is_a_training() -> None:
    learn = learner(opt_func=lambda groups: torch.optim.SGD(groups, lr=1.0), model=tiny())
    found = learn.lr_find(1e-3, 3.0, num_it=60)
    assert min(found.losses) < 0.9 * found.losses[0]
    assert 1e-3 < found.valley < 3


def draw(module: nn.Module, inputs: Any) -> None:
    module.scratch += random.random() + np.random.rand()  # noqa: NPY002 (what is global must be restored too)


@pytest.mark.parametrize("state", ["new", "trained", "frozen", "left early"])
def test_everything_is_restored(state: str) -> None:
    loader = Batches()
    learn = learner(loader, train_bn=False)
    if state != "new":
        learn.fit_one_cycle(1, 1e-2)
    if state == "frozen":
        learn.freeze()
    if state == "left early":
        next(iter(loader))
    learn.model.register_buffer("scratch", torch.zeros(1), persistent=False)
    learn.model.register_forward_pre_hook(draw)
    random.seed(3)
    before, generators = snapshot(learn), random_state()
    learn.lr_find(1e-4, 1.0, num_it=15)
    assert differences(before, snapshot(learn)) == []
    assert differences(generators, random_state()) == []


def test_training_goes_on_as_if_there_had_been_no_sweep() -> None:
    plain, swept = learner(), learner()
    for learn in (plain, swept):
        torch.manual_seed(5)
        for _ in range(2):  # the second sweep follows a training
            if learn is swept:
                learn.lr_find(num_it=30)
            learn.fit_one_cycle(2, 1e-2)
    for learn in (plain, swept):
        learn.history.epochs.clear()
    assert differences(snapshot(plain), snapshot(swept)) == []


def test_a_loader_of_torch_is_restored_too() -> None:
    images = torch.utils.data.TensorDataset(torch.rand(12, 3, 8, 8), torch.arange(12) % 3)
    generator = torch.Generator().manual_seed(2)
    loader = torch.utils.data.DataLoader(images, 4, shuffle=True, generator=generator)
    learn = learner(loader)
    before = generator.get_state()
    learn.lr_find(num_it=7)
    assert torch.equal(before, generator.get_state())


def test_a_failure_is_undone() -> None:
    batches = list(Batches())
    learn = learner([*batches[:3], (batches[3][0], batches[3][1] + 3)])
    before = snapshot(learn)
    with pytest.raises(ValueError, match="num_classes="):
        learn.lr_find()
    assert differences(before, snapshot(learn)) == []


# What the suggestions of fastai 2.8.12 say of this curve: `valley(lrs[10:-5], losses[10:-5], 100)` and so on, with
LRS = [1e-7 * 1e8 ** (i / 100) for i in range(100)]
LOSSES = [
    2 - 1.4 / (1 + math.exp(-(i - 55) / 5)) + 4 * max(0, (i - 75) / 25) ** 2 + 0.001 * math.sin(3 * i)
    for i in range(100)
]
SUGGESTIONS = {
    100: {
        "valley": 0.0004786300996784121,
        "slide": 4.786300905834651e-06,
        "minimum": 0.010000000149011612,
        "steep": 0.002511886414140463,
    },
    70: {
        "valley": 0.00015848931798245758,
        "slide": 4.786300905834651e-06,
        "minimum": 0.0013182567432522773,
        "steep": 0.002511886414140463,
    },
}


@pytest.mark.parametrize("points", SUGGESTIONS)
def test_suggestions_are_fastais(points: int) -> None:
    found = FoundRates(LRS[:points], LOSSES[:points])
    for name, rate in SUGGESTIONS[points].items():
        assert getattr(found, name) == pytest.approx(rate, rel=1e-5)
        shifted = FoundRates([1.1 * lr for lr in LRS[:points]], LOSSES[:points])
        assert getattr(shifted, name) != pytest.approx(rate, rel=1e-2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_sweep(value: float) -> None:
    losses = iter([*torch.linspace(2, 1, 40).tolist(), value])
    learn = learner(loss_func=lambda activations, targets: next(losses) + 0 * activations.sum())
    found = learn.lr_find()
    assert len(found.lrs) == len(found.losses) == 40
    assert all(math.isfinite(loss) for loss in found.losses)
    assert found.lrs[0] < found.valley < found.lrs[-1]
    with pytest.raises(FloatingPointError, match=r"lr_find: expected a finite loss, got .* in the first batch"):
        learner(loss_func=lambda activations, targets: activations.sum() * value).lr_find()


@pytest.mark.parametrize("number", [1, 2, 3, 6, 12, 20])
def test_few_points_are_enough(number: int) -> None:
    found = FoundRates(LRS[40 : 40 + number], LOSSES[40 : 40 + number], number)
    with warnings.catch_warnings(action="ignore"):
        rates = [getattr(found, name) for name in ("valley", "steep", "slide", "minimum")]
    for rate in (*rates[:3], 10 * rates[3]):
        assert found.lrs[0] * 0.999 <= rate <= found.lrs[-1] * 1.001
    falling = FoundRates([10.0**i for i in range(-6, 0)], [6.0, 5, 4, 3, 2, 1])
    assert falling.minimum == pytest.approx(1e-2)


@pytest.mark.parametrize("name", ["valley", "steep", "slide", "minimum"])
def test_a_suggestion_that_says_little_is_not_silent(name: str) -> None:
    few = FoundRates(LRS[40:45], LOSSES[40:45], 5)
    with pytest.warns(UserWarning, match=rf"curve of 6 points or more .*, got 5, of which {name} is number"):
        getattr(few, name)
    flat = FoundRates(LRS, [1.0] * 100)
    if name != "slide":  # which is well within where nothing changes
        with pytest.warns(UserWarning, match=rf"got 85, of which {name} is number 0"):
            getattr(flat, name)
    few.plot()  # shows what there is


def test_a_negative_loss_is_swept_and_read_like_any_other() -> None:
    def below_zero(activations: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(activations, targets) - 5

    sgd = {"opt_func": lambda groups: torch.optim.SGD(groups, lr=1.0), "model": tiny()}
    found, above = learner(loss_func=below_zero, **sgd).lr_find(1e-3, 3.0, 60), learner(**sgd).lr_find(1e-3, 3.0, 60)
    assert len(found.lrs) == 60
    assert np.allclose(np.array(found.losses) + 5, above.losses, atol=1e-5)
    assert (found.valley, found.minimum) == (above.valley, above.minimum)
    (axes,) = found.plot().get_axes()
    assert axes.get_ylim()[1] > max(found.losses)
    losses = iter([-1.0, -1.5, *[9.0] * 100])
    worse = learner(loss_func=lambda activations, targets: activations.sum() * 0 + next(losses)).lr_find()
    assert 2 < len(worse.lrs) < 50


def test_plot_marks_the_suggestions() -> None:
    found = FoundRates(LRS, LOSSES)
    (axes,) = found.plot().get_axes()
    marked = {line.get_label().split()[0]: line.get_xdata()[0] for line in axes.get_lines()[1:]}
    assert marked == {name: getattr(found, name) for name in ("minimum", "steep", "valley", "slide")}
    assert axes.get_xscale() == "log"
    FoundRates([1e-3], [1.0]).plot()


@pytest.mark.parametrize("arguments", [(0.0, 1.0), (1.0, 0.1), (1e-3, float("inf")), (1e-3, 1.0, 1)])
def test_bad_arguments(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="lr_find: expected 0 < start_lr < end_lr"):
        learner().lr_find(*arguments)


def test_unknown_optimizers_work() -> None:
    learn = learner(
        opt_func=lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=0.9),
        model=nn.Sequential(nn.Flatten(), nn.Linear(192, 3)),
    )
    assert learn.lr_find(num_it=10).valley > 0
