"""Resuming: a run that was killed and goes on ends with the same weights, bit for bit; and keeping the best epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchmetrics import MeanAbsoluteError, MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from fastaug.files import DiskFullError
from fastaug.training.callbacks import KeepBest
from fastaug.training.learner import Learner
from tests import factories
from tests.compare import differences, snapshot
from tests.factories import Batches, full_disk, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


class Killed(Exception):
    pass


def dies_after(batches: int) -> Callable[..., Any]:
    """A hook that ends the run with the model's training step number `batches` + 1."""
    left = [batches]

    def hook(module: nn.Module, inputs: Any) -> None:
        left[0] -= module.training
        if left[0] < 0:
            raise Killed

    return hook


def learner(path: Path | None = None, **arguments: Any) -> Learner:
    model = tiny(0.4)
    torch.manual_seed(11)
    return factories.learner(model=model, valid=list(Batches(2)), checkpoint=path, **{"amp": None, **arguments})


RUNS: dict[str, Callable[[Learner], None]] = {
    "fit": lambda learn: learn.fit(4, slice(1e-3, 1e-2)),
    "one cycle": lambda learn: learn.fit_one_cycle(4, 1e-2),
    "fine_tune": lambda learn: learn.fine_tune(2, 1e-2, freeze_epochs=2),
    "auto_fine_tune": lambda learn: learn.auto_fine_tune(base_lr=2e-3),
    "auto_fine_tune, one cycle": lambda learn: learn.auto_fine_tune(4, 1e-2),
    "swept": lambda learn: (learn.fit_one_cycle(2, learn.lr_find(num_it=20).valley), learn.fit(2)),  # type: ignore
}


def without_times(learn: Learner) -> dict[str, Any]:
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s")} for row in learn.history.epochs]
    return {**snapshot(learn), "rows": rows}


@pytest.mark.parametrize("killed_after", [0, 5, 6, 9, 14, 23])
@pytest.mark.parametrize("run", RUNS)
def test_a_killed_run_goes_on_to_the_same_weights(
    run: str, killed_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastaug.training.learner._CYCLE_STEPS", 30)  # of auto_fine_tune: 5, 10 and 20 epochs
    path = tmp_path / "run.pth"
    whole = learner()
    RUNS[run](whole)
    killed = learner(path, checkpoint_batches=2)
    killed.save(path)
    hook = killed.model.register_forward_pre_hook(dies_after(killed_after + 20 * (run == "swept")))
    with pytest.raises(Killed):
        RUNS[run](killed)
    hook.remove()
    torch.manual_seed(99)
    resumed = learner(path, checkpoint_batches=2)
    resumed.load(path, resume=True)
    RUNS[run](resumed)
    assert differences(without_times(whole), without_times(resumed)) == []
    again = learner(path)
    again.load(path, resume=True)
    RUNS[run](again)  # everything is done: nothing happens
    again.model.eval()
    assert differences(without_times(whole), without_times(again)) == []


def test_the_comparison_sees_a_run_that_was_not_resumed_exactly(tmp_path: Path) -> None:
    whole, other = learner(), learner()
    whole.fit_one_cycle(2, 1e-2)
    other.fit_one_cycle(1, 1e-2)
    other.save(tmp_path / "1.pth")
    other.load(tmp_path / "1.pth")
    other.fit_one_cycle(1, 1e-2)
    assert "/model 6.weight" in differences(without_times(whole), without_times(other))


def test_batches_after_the_last_checkpoint_are_repeated(tmp_path: Path) -> None:
    killed = learner(tmp_path / "run.pth", checkpoint_batches=2)
    killed.model.register_forward_pre_hook(dies_after(9))
    with pytest.raises(Killed):
        killed.fit(2)
    resumed = learner()
    resumed.load(tmp_path / "run.pth")
    assert (resumed.epoch, len(resumed.history.losses)) == (1, 8)
    assert resumed.train_loader.state_dict() == {"epoch": 1, "delivered": 2}


class EndsInBadFiles(Batches):
    """After four batches there are none with images any more, as where the last files are bad."""

    kills = False

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in super().__iter__():
            if self.delivered <= 4:
                yield batch
            elif self.kills:
                raise Killed


def test_a_resumed_epoch_may_have_no_images_left(tmp_path: Path) -> None:
    whole = learner(loader=EndsInBadFiles())
    whole.fit_one_cycle(2, 1e-2)
    killed, resumed = (learner(tmp_path / "run", loader=EndsInBadFiles(), checkpoint_batches=2) for _ in range(2))
    killed.train_loader.kills = True  # type: ignore[attr-defined]
    with pytest.raises(Killed):
        killed.fit_one_cycle(2, 1e-2)
    resumed.load(tmp_path / "run", resume=True)
    assert len(resumed.history.losses) == 4
    resumed.fit_one_cycle(2, 1e-2)
    assert differences(without_times(whole), without_times(resumed)) == []


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_loader_of_torch_resumes_at_epoch_ends(shuffled: bool, tmp_path: Path) -> None:
    images = torch.utils.data.TensorDataset(torch.rand(12, 3, 8, 8), torch.arange(12) % 3)

    def make(path: Path | None = None) -> Learner:
        generator = torch.Generator().manual_seed(2) if shuffled else None
        loader = torch.utils.data.DataLoader(images, 4, shuffle=True, generator=generator)
        return learner(path, loader=loader, checkpoint_batches=1)

    whole, killed, resumed = make(), make(tmp_path / "run.pth"), make()
    torch.manual_seed(7)
    whole.fit_one_cycle(3, 1e-2)
    killed.model.register_forward_pre_hook(dies_after(5))
    torch.manual_seed(7)
    with pytest.raises(Killed):
        killed.fit_one_cycle(3, 1e-2)
    resumed.load(tmp_path / "run.pth", resume=True)
    resumed.fit_one_cycle(3, 1e-2)
    assert differences(without_times(whole), without_times(resumed)) == []


def test_other_calls_than_those_of_the_run(tmp_path: Path) -> None:
    learn = learner(tmp_path / "run.pth")
    learn.fit(2)
    learn.load(tmp_path / "run.pth", resume=True)
    with pytest.raises(ValueError, match=r"call 1 was for 2 epochs, got one for 3\. Make the same calls again"):
        learn.fit(3)
    learn.load(tmp_path / "run.pth", resume=True)
    with pytest.raises(ValueError, match=r"call 1 was for 2 epochs, got one for 2 of a cycle\. Make the same"):
        learn.fit_one_cycle(2)


def test_load_goes_on_without_resume(tmp_path: Path) -> None:
    whole, second = learner(), learner()
    torch.manual_seed(11)
    whole.fit(1)
    whole.fit_one_cycle(2, 1e-2)
    first = learner()
    first.fit(1)
    first.save(tmp_path / "1.pth")
    second.load(tmp_path / "1.pth")
    second.fit_one_cycle(2, 1e-2)
    assert differences(without_times(whole), without_times(second)) == []


# The best epoch


def metric_learner(values: list[float], keep: KeepBest) -> Learner:
    """A learner whose validation loss is what `values` say."""
    learn = learner(after_epoch=[keep])
    plain, left = learn.validate, iter(values)
    learn.validate = lambda loader=None: {**plain(loader), "loss": next(left)}  # type: ignore[method-assign]
    return learn


def test_best_epoch_is_saved_and_patience_ends_the_fit(tmp_path: Path) -> None:
    learn = metric_learner([3.0, 2.0, 2.5, 2.0, 1.0], KeepBest(tmp_path / "best.pth", patience=2))
    learn.fit_one_cycle(5)
    assert [row["valid_loss"] for row in learn.history.epochs] == [3, 2, 2.5, 2]
    again = learner()
    again.load(tmp_path / "best.pth")
    assert again.epoch == 2
    learn = metric_learner([3.0, 2.0, 2.5, 2.0, 1.0], KeepBest(patience=3))
    learn.fit(3)
    learn.fit(2)  # counts from its own start
    assert learn.epoch == 5


def test_an_epoch_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    learn = metric_learner([math.nan, 3.0, math.nan, 2.0], KeepBest(tmp_path / "best.pth", patience=2))
    learn.fit(4)
    again = learner()
    again.load(tmp_path / "best.pth")
    assert again.epoch == 4


def rate() -> Metric:
    return MulticlassAccuracy(average="micro")


@pytest.mark.parametrize(
    ("monitor", "metric", "expected"),
    [
        ("accuracy", rate(), [0, 1]),
        ("error_rate", 1 - rate(), [0, 2]),
        ("percent", 100 * rate(), [0, 1]),
        ("percent_wrong", 100 * (1 - rate()), [0, 2]),
        ("both", rate() - 2 * (1 - rate()), [0, 1]),
        ("mae", MeanAbsoluteError(), [0, 2]),
        ("score", 1 / (1 + MeanAbsoluteError()), [0, 1]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_which_values_of_a_metric_are_better(monitor: str, metric: Metric, expected: list[int]) -> None:
    assert epochs_saved(KeepBest("best.pth", monitor), {monitor: metric}, [0.5, 0.7, 0.4]) == expected


def epochs_saved(keep: KeepBest, metrics: Any, values: list[float], fits: int = 1) -> list[int]:
    """The epochs that are kept where the monitored column has these values."""
    saved: list[int] = []
    learn = learner(after_epoch=[keep], metrics=metrics, loader=list(Batches(1)))
    rows = iter(values)
    learn.validate = lambda loader=None: {"loss": 1.0, keep.monitor: next(rows)}  # type: ignore[method-assign]
    learn.save = lambda path: saved.append(learn.epoch - 1)  # type: ignore[method-assign]
    for _ in range(fits):
        learn.fit(len(values) // fits)
    return saved


def test_an_unknown_direction_is_asked_for() -> None:
    for metric in (MeanMetric(), 2 * MeanMetric(), rate() - rate(), rate()[0]):
        with pytest.raises(
            ValueError, match=r"known whether more is better, got 'own'\. Give mode='min' or mode='max'"
        ):
            epochs_saved(KeepBest(None, "own"), {"own": metric}, [0.5])
    values = [0.5, 0.7, 0.4]
    assert epochs_saved(KeepBest("best.pth", "own", mode="max"), {"own": MeanMetric()}, values) == [0, 1]
    assert epochs_saved(KeepBest("best.pth", "accuracy", mode="min"), {"accuracy": rate()}, values) == [0, 2]
    with pytest.raises(ValueError, match="KeepBest: expected mode 'min', 'max' or None, got 'up'"):
        KeepBest(mode="up")  # type: ignore[arg-type]


def test_the_best_is_that_of_all_fits() -> None:
    keep = KeepBest("best.pth", "accuracy")
    assert epochs_saved(keep, {"accuracy": rate()}, [0.5, 0.7, 0.6, 0.8], fits=2) == [0, 1, 3]


def test_a_callback_that_fails_costs_no_checkpoint(tmp_path: Path) -> None:
    """Not even one that saves to a disk that is full, which is an error, and says so."""
    (tmp_path / "full").mkdir()
    keep = KeepBest(tmp_path / "full" / "best.pth")
    learn = learner(tmp_path / "run.pth", after_epoch=[lambda learn: True, keep])
    with (
        full_disk(tmp_path / "full"),
        pytest.raises(DiskFullError, match=r"disk full: '.*/best.pth' needs [\d,]+ bytes"),
    ):
        learn.fit(2)
    whole, again = learner(), learner()
    whole.fit(1)
    again.load(tmp_path / "run.pth", resume=True)
    again.model.eval()
    assert differences(without_times(whole), without_times(again)) == []
    again.fit(2)  # it was to be the last epoch
    assert again.epoch == 1


def test_unknown_column() -> None:
    with pytest.raises(ValueError, match="KeepBest: expected monitor to be one of epoch, train_loss"):
        learner(after_epoch=[KeepBest(monitor="f1")]).fit(1)


def test_an_early_end_is_the_end_also_after_resuming(tmp_path: Path) -> None:
    learn = learner(tmp_path / "run.pth", after_epoch=[lambda learn: True])
    learn.fit(3)
    weights = copy.deepcopy(learn.model.state_dict())
    again = learner()
    again.load(tmp_path / "run.pth", resume=True)
    again.fit(3)
    assert differences(dict(weights), dict(again.model.state_dict())) == []


def test_after_an_interruption_one_may_fit_again_and_save(tmp_path: Path) -> None:
    learn = learner(opt_func=lambda groups: torch.optim.SGD(groups, lr=1.0))
    hook = learn.model.register_forward_pre_hook(dies_after(8))
    with pytest.raises(Killed):
        learn.fit_one_cycle(3, 1e-3)
    hook.remove()
    learn.save(tmp_path / "interrupted.pth")
    learn.fit(1, 1e-6)
    assert learn.history.epochs[-1]["train_loss"] == pytest.approx(sum(learn.history.losses[-6:]) / 6)
    again = learner(opt_func=lambda groups: torch.optim.SGD(groups, lr=1.0))
    again.load(tmp_path / "interrupted.pth", resume=True)
    again.fit_one_cycle(3, 1e-3)
    assert again.epoch == 3
