"""The training loop, on tiny models and loaders."""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from fastaug.training.callbacks import KeepBest
from fastaug.training.learner import Learner

Batches = list[tuple[Tensor, Tensor]]


pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(classes: int = 3) -> nn.Sequential:
    """Two convolutions with batch-norm, and a linear head."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes),
    )  # fmt: skip


def three_groups(model: nn.Module) -> list[list[nn.Parameter]]:
    layers = list(model.children())
    return [[p for layer in layers[a:b] for p in layer.parameters()] for a, b in ((0, 3), (3, 5), (5, None))]


def loader(batches: int = 5, batch_size: int = 6, classes: int = 3) -> Batches:
    """Images whose class shows in the brightness of one channel."""
    g = torch.Generator().manual_seed(1)
    y = torch.randint(0, classes, (batches, batch_size), generator=g)
    x = torch.rand(batches, batch_size, 3, 8, 8, generator=g)
    x += 3 * nn.functional.one_hot(y, 3)[..., None, None]
    return list(zip(x, y, strict=True))


def learner(**arguments: Any) -> Learner:
    return Learner(loader(), loader(2), arguments.pop("model", tiny()), device="cpu", **arguments)


def cosine(a: float, b: float, share: float) -> float:
    return a + (b - a) * (1 - math.cos(math.pi * share)) / 2


def one_cycle(i: int, total: int, pct_start: float, low: float, high: float, end: float) -> float:
    """The value at batch i: a rise from low to high and a fall to end, along cosines, over batches 0..total-1."""
    peak = pct_start * total - 1
    return cosine(low, high, i / peak) if i <= peak else cosine(high, end, (i - peak) / (total - 1 - peak))


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Names of the entries of the model's state that differ from `before`; batch counters left out."""
    state = model.state_dict()
    return {name for name in state if "tracked" not in name and not torch.equal(state[name], before[name])}


def test_moved_sees_one_changed_number() -> None:
    model = tiny()
    before = copy.deepcopy(model.state_dict())
    assert moved(model, before) == set()
    with torch.no_grad():
        model[3].bias[2] += 1e-6
    assert moved(model, before) == {"3.bias"}


# Loss and metrics

ACTIVATIONS = torch.tensor(
    [
        [-0.9916, -2.2545],
        [0.1560, -1.9368],
        [-0.6164, 1.1047],
        [-2.0798, -2.1778],
        [1.6429, -3.7728],
        [-1.2445, -2.9512],
    ]
)
TARGETS = torch.tensor([0, 1, 0, 1, 1, 0])


def books() -> Learner:
    """The book's worked example: a model that returns its input."""
    batches = [(ACTIVATIONS[:4], TARGETS[:4]), (ACTIVATIONS[4:], TARGETS[4:])]
    model = nn.Linear(2, 2)
    nn.init.eye_(model.weight)
    nn.init.zeros_(model.bias)
    return Learner(batches, batches, model, device="cpu")


def test_loss_is_the_mean_cross_entropy() -> None:
    found = books().loss_func(ACTIVATIONS, TARGETS)
    assert found.item() == pytest.approx(1.7790, abs=1e-4)
    each = [books().loss_func(ACTIVATIONS[i : i + 1], TARGETS[i : i + 1]).item() for i in range(6)]
    assert each == pytest.approx([0.2491, 2.2091, 1.8857, 0.7434, 5.4201, 0.1667], abs=1e-4)


def test_validate_weighs_batches_by_their_images() -> None:
    assert books().validate() == pytest.approx({"loss": 1.7790, "error_rate": 4 / 6, "accuracy": 2 / 6}, abs=1e-4)
    summed = books()
    summed.loss_func = nn.CrossEntropyLoss(reduction="sum")
    assert summed.validate()["loss"] == pytest.approx(1.7790, abs=1e-4)


def test_a_metric_may_have_a_value_per_class_or_a_name_for_each() -> None:
    each = MulticlassAccuracy(num_classes=2, average=None)
    both = MetricCollection({"a": MulticlassAccuracy(average="micro"), "b": 1 - MulticlassAccuracy(average="micro")})
    learn = books()
    learn.metrics = {"per": each, "all": both}
    found = learn.validate()
    assert found == pytest.approx(
        {"loss": 1.7790, "per_0": 2 / 3, "per_1": 0, "all_a": 1 / 3, "all_b": 2 / 3}, abs=1e-4
    )
    learn.fit(1, 1e-9)
    assert learn.history.epochs[0]["per_1"] == 0
    KeepBest(monitor="per_0")(learn)
    learn.metrics = {"matrix": MulticlassConfusionMatrix(num_classes=2)}
    with pytest.raises(ValueError, match=r"of one number, or of one per class, got matrix of \[2, 2\]"):
        learn.validate()


WEIGHTED = [
    nn.CrossEntropyLoss(torch.tensor([1.0, 5.0, 20.0])),
    nn.CrossEntropyLoss(torch.tensor([1.0, 5.0, 20.0]), ignore_index=1, label_smoothing=0.1),
    nn.CrossEntropyLoss(ignore_index=0),
    nn.NLLLoss(torch.tensor([1.0, 5.0, 20.0])),
]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss_func", WEIGHTED)
def test_means_are_torchs_over_all_images_whatever_the_batches(loss_func: Any, reduction: str) -> None:
    model = tiny()[:1].append(nn.Flatten()).append(nn.Linear(144, 3))
    x, y = torch.rand(14, 3, 8, 8), torch.arange(14) // 5  # one class after the other; a batch has nothing that counts
    with torch.no_grad():
        wanted = float(loss_func(model(x), y))
    loss_func = copy.copy(loss_func)
    loss_func.reduction = reduction
    for size in (14, 5, 6):
        batches = list(zip(x.split(size), y.split(size), strict=True))
        learn = Learner(batches, batches, model, loss_func=loss_func, device="cpu")
        assert learn.validate()["loss"] == pytest.approx(wanted, rel=1e-5)
        if reduction == "mean" and size == 5 and loss_func.ignore_index >= 0:
            continue  # of nothing, which torch says is not a number
        learn.fit(1, 1e-12)
        assert learn.history.epochs[0]["train_loss"] == pytest.approx(wanted, rel=1e-4)


def test_a_sum_over_elements_is_validated_as_their_mean() -> None:
    x, y = torch.rand(7, 3, 8, 8), torch.rand(7, 3).round()
    batches = list(zip(x.split(4), y.split(4), strict=True))
    losses = [
        Learner(batches, batches, tiny(), loss_func=nn.BCEWithLogitsLoss(reduction=reduction), device="cpu").validate()
        for reduction in ("mean", "sum")
    ]
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=1e-5)


def test_get_preds() -> None:
    probabilities, targets = books().get_preds()
    assert probabilities[:, 0].tolist() == pytest.approx([0.7795, 0.8902, 0.1517, 0.5245, 0.9956, 0.8464], abs=1e-4)
    assert targets.tolist() == TARGETS.tolist()
    binary = books()
    binary.loss_func = nn.BCEWithLogitsLoss()
    assert torch.equal(binary.get_preds([(ACTIVATIONS, TARGETS)])[0], ACTIVATIONS.sigmoid())


def test_validation_changes_nothing() -> None:
    learn = learner()
    before = copy.deepcopy(learn.model.state_dict())
    learn.validate()
    learn.get_preds()
    assert moved(learn.model, before) == set()


# Schedules


def test_optimizer_is_fastais() -> None:
    learn = learner(splitter=three_groups)
    assert [group["weight_decay"] for group in learn.opt.param_groups] == [0.01, 0.0] * 3
    for group in learn.opt.param_groups:
        assert (group["betas"], group["eps"]) == ((0.9, 0.99), 1e-5)
        assert all((p.ndim == 1) is (group["weight_decay"] == 0) for p in group["params"])  # biases and norms are 1-D


class OwnNorm(nn.Module):
    """A norm that torch does not know, as timm has them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None]


def test_no_weight_decay_on_any_norm() -> None:
    norms = nn.Sequential(OwnNorm(), nn.LayerNorm([4, 6, 6]), nn.GroupNorm(2, 4), nn.RMSNorm([6, 6]))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norms, nn.Flatten(), nn.Linear(144, 3))
    learn = Learner(loader(), None, model, device="cpu")
    decays = {id(p): group["weight_decay"] for group in learn.opt.param_groups for p in group["params"]}
    decaying = {name for name, p in model.named_parameters() if decays[id(p)]}
    assert decaying == {"0.weight", "3.weight"}


@pytest.mark.parametrize("pct_start", [0.25, 0.5])
def test_one_cycle_per_group(pct_start: float) -> None:
    learn = learner(splitter=three_groups)
    learn.fit_one_cycle(4, slice(1e-5, 1e-3), pct_start=pct_start)
    assert len(learn.history.lrs) == len(learn.history.losses) == 20
    for group, high in enumerate((1e-5, 1e-4, 1e-3)):
        expected = [one_cycle(i, 20, pct_start, high / 25, high, high / 1e5) for i in range(20)]
        assert [lrs[group] for lrs in learn.history.lrs] == pytest.approx(expected, rel=1e-6)
    momenta = [one_cycle(i, 20, pct_start, 0.95, 0.85, 0.95) for i in range(20)]
    assert learn.history.moms == pytest.approx(momenta)
    assert learn.history.lrs[4][2] != pytest.approx(one_cycle(5, 20, pct_start, 4e-5, 1e-3, 1e-8), rel=1e-6)


def test_fine_tune_has_two_phases() -> None:
    learn = learner(splitter=three_groups)
    learn.fine_tune(2, base_lr=2e-3)
    lrs = learn.history.lrs
    assert len(lrs) == 15
    assert [row["epoch"] for row in learn.history.epochs] == [0, 1, 2]
    for group, high in enumerate((2e-4, 2e-4, 2e-3)):  # slice(base): a tenth in the body
        expected = [one_cycle(i, 5, 0.99, high / 25, high, high / 1e5) for i in range(5)]
        assert [rates[group] for rates in lrs[:5]] == pytest.approx(expected, rel=1e-6)
    for group, high in enumerate((1e-5, 1e-4, 1e-3)):  # slice(base / 2 / 100, base / 2)
        expected = [one_cycle(i, 10, 0.3, high / 5, high, high / 1e5) for i in range(10)]
        assert [rates[group] for rates in lrs[5:]] == pytest.approx(expected, rel=1e-6)


def test_fit_is_constant_also_after_a_cycle() -> None:
    learn = learner(splitter=three_groups)
    learn.fit_one_cycle(1, 1e-3)
    learn.fit(1, slice(1e-2))
    assert learn.history.lrs[5:] == [pytest.approx((1e-3, 1e-3, 1e-2))] * 5
    assert learn.history.moms[5:] == [0.9] * 5


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_cycles_of_few_batches_train(batches: int) -> None:
    learn = Learner(loader(batches), None, tiny(), device="cpu")
    learn.fit_one_cycle(1, 1e-3)  # of 4 batches torch's own scheduler divides by zero
    assert learn.history.lrs[0] == pytest.approx((4e-5, 4e-5))
    assert len(learn.history.lrs) == batches


def test_optimizers_with_and_without_momentum() -> None:
    for momentum in (0.0, 0.8):
        learn = learner(opt_func=lambda groups, m=momentum: torch.optim.SGD(groups, lr=0.1, momentum=m))
        learn.fit_one_cycle(1, 1e-3)
        assert max(learn.history.moms) == pytest.approx(0.95 if momentum else 0)
        learn.fit(1, 1e-3)
        assert learn.history.moms[-1] == momentum


def test_it_learns() -> None:
    learn = learner()
    learn.fit_one_cycle(8, 3e-2)
    assert learn.validate()["accuracy"] == 1.0
    first, last = learn.history.epochs[0], learn.history.epochs[-1]
    assert last["valid_loss"] < 0.5 * first["valid_loss"]
    assert last["train_loss"] == pytest.approx(sum(learn.history.losses[-5:]) / 5)
    assert set(last) == {"epoch", "train_loss", "images_per_s", "valid_loss", "error_rate", "accuracy", "seconds"}


# Freezing


def test_frozen_with_learning_batch_norm() -> None:
    learn = learner()
    before = copy.deepcopy(learn.model.state_dict())
    learn.freeze()
    learn.fit(1, 1e-2)
    norms = {f"{i}.{name}" for i in (1, 4) for name in ("weight", "bias", "running_mean", "running_var")}
    assert moved(learn.model, before) == {"7.weight", "7.bias"} | norms


def test_frozen_without_learning_batch_norm() -> None:
    learn = learner(train_bn=False)
    crossed: list[bool] = []
    learn.model[5].register_forward_hook(lambda module, inputs, output: crossed.append(output.requires_grad))
    before = copy.deepcopy(learn.model.state_dict())
    learn.freeze()
    learn.fit(1, 1e-2)
    assert moved(learn.model, before) == {"7.weight", "7.bias"}
    assert crossed
    assert not any(crossed)  # no graph, so no backward pass through the body


def test_batch_norm_that_was_frozen_keeps_its_statistics_when_its_layers_train(tmp_path: Path) -> None:
    """What the head has learned belongs to them: with those of a batch, a frozen run's accuracy is lost again."""
    learn, again = learner(train_bn=False, splitter=three_groups), learner(train_bn=False, splitter=three_groups)
    before = copy.deepcopy(learn.model.state_dict())
    learn.freeze_to(1)
    learn.fit(1, 1e-2)
    learn.unfreeze()
    learn.save(tmp_path / "learner.pth")
    learn.fit(1, 1e-2)
    assert {"1.running_mean", "1.running_var"} & moved(learn.model, before) == set()
    assert {"0.weight", "1.weight", "1.bias", "4.running_mean"} <= moved(learn.model, before)  # 4 was never frozen
    again.load(tmp_path / "learner.pth")
    again.fit(1, 1e-2)
    assert moved(again.model, learn.model.state_dict()) == set()
    learn.train_bn = True
    learn.unfreeze()
    learn.fit(1, 1e-2)
    assert "1.running_mean" in moved(learn.model, before)


def test_batch_norm_that_was_never_frozen_trains() -> None:
    learn = learner(train_bn=False)
    before = copy.deepcopy(learn.model.state_dict())
    learn.fit(1, 1e-2)
    assert "1.running_mean" in moved(learn.model, before)


def test_freeze_to() -> None:
    learn = learner(splitter=three_groups, train_bn=False)
    for n, frozen in ((0, 0), (1, 1), (2, 2), (-1, 2), (-3, 0)):
        learn.freeze_to(n)
        learns = [all(p.requires_grad for p in group) for group in learn.groups]
        assert learns == [False] * frozen + [True] * (3 - frozen)
    for n in (3, -4):
        with pytest.raises(ValueError, match="3 parameter groups, got"):
            learn.freeze_to(n)


def test_freezing_leaves_no_old_gradients_to_act_on() -> None:
    learn = learner(train_bn=False)
    learn.fit(1, 1e-2)
    learn.freeze()
    before = copy.deepcopy(learn.model.state_dict())
    learn.fit(1, 1e-2)
    assert moved(learn.model, before) == {"7.weight", "7.bias"}


# Files


def test_save_and_load_go_on_where_they_were(tmp_path: Path) -> None:
    learn = learner()
    learn.fit_one_cycle(1, 1e-2)
    learn.save(tmp_path / "new" / "learner.pth")
    learn.fit(1, 1e-2)
    again = learner(model=nn.Sequential(*tiny().children()).requires_grad_(True))
    again.load(tmp_path / "new" / "learner.pth")
    assert again.epoch == 1
    again.fit(1, 1e-2)  # the same only if the optimizer's memory came along
    assert moved(again.model, learn.model.state_dict()) == set()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["learner.pth"]


def test_load_rejects_another_optimizers_file(tmp_path: Path) -> None:
    learn, path = learner(), tmp_path / "learner.pth"
    learn.fit(1, 1e-2)
    learn.save(path)
    sgd = learner(opt_func=lambda groups: torch.optim.SGD(groups, lr=0.1))
    before = copy.deepcopy(sgd.model.state_dict())
    with pytest.raises(
        ValueError, match=r"load: expected a file of a learner with SGD .* got settings amsgrad, betas, .*"
    ):
        sgd.load(path)
    with pytest.raises(
        ValueError, match=r"got groups of \[2, 6\] parameters instead of \[1, 3, 1, 3, 1, 1\]|instead of"
    ):
        learner(splitter=three_groups).load(path)
    assert moved(sgd.model, before) == set()
    sgd.fit(1, 1e-2)


def test_a_splitter_that_misses_parameters_is_refused() -> None:
    def without_body(model: nn.Module) -> Any:
        return [model[4].parameters(), model[7].parameters()]

    with pytest.raises(
        ValueError, match=r"got one without 6: 0\.weight, 0\.bias, 1\.weight, 1\.bias, 3\.weight, …\. They"
    ):
        learner(splitter=without_body)
    model = tiny()
    model[:4].requires_grad_(False)
    learn = learner(model=model, splitter=without_body)  # generators will do too
    learn.fit(1, 1e-2)
    assert [line.split()[3] for line in learn.summary().table.splitlines()[1:6]] == ["-", "-", "-", "0", "1"]


def test_load_rejects_another_file(tmp_path: Path) -> None:
    torch.save(tiny().state_dict(), tmp_path / "bare.pth")
    with pytest.raises(ValueError, match=r"classifier\(weights=path\)"):
        learner().load(tmp_path / "bare.pth")
    learner().save(tmp_path / "3.pth")
    with pytest.raises(
        ValueError, match=r"load: expected a file of this model, got one of another: size mismatch .*3\.pth"
    ):
        learner(model=tiny(4)).load(tmp_path / "3.pth")


# Loaders


class EpochLoader:
    """Records the epochs it is set to; yields (x, y, info), one batch empty; knows its samples."""

    def __init__(self, classes: int = 3) -> None:
        self.epochs: list[int] = []
        self.samples = SimpleNamespace(classes=[str(k) for k in range(classes)])

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, str]]:
        for x, y in loader(2):
            yield x, y, "info"
        yield torch.empty(0, 3, 8, 8), torch.empty(0, dtype=torch.long), "info"


def test_epochs_are_announced_and_empty_batches_passed_over() -> None:
    batches = EpochLoader()
    learn = Learner(batches, batches, tiny(), device="cpu")
    learn.fit(2)
    learn.fit_one_cycle(1)
    assert batches.epochs == [0, 1, 2]
    assert len(learn.history.losses) == 6
    assert all(math.isfinite(loss) for loss in learn.history.losses)


def test_images_and_model_are_channels_last() -> None:
    learn = learner()
    seen: list[bool] = []
    learn.model[0].register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    learn.validate()
    assert seen == [True, True]
    assert learn.model[3].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_line_an_epoch_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    learner().fit(2)
    out, err = capsys.readouterr()
    assert [line.split("  ")[0] for line in out.splitlines()] == ["epoch 0", "epoch 1"]
    assert err == ""
    learner(progress=False).fit(1)
    assert capsys.readouterr() == ("", "")


def test_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    monkeypatch.setenv("COLUMNS", "160")
    learner().fit(2)
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().out)
    assert "error_rate" in shown
    assert re.search(r"loss \d\.\d{4}.* images/s +\d:\d\d:\d\d", shown)  # and the time left
    learner().lr_find(num_it=7)
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().out)
    assert re.search(r"7/7 loss \d\.\d{4} · [\d,]+ images/s", shown)
    quiet = learner(progress=False)
    quiet.fit(1)
    quiet.lr_find(num_it=2)
    assert capsys.readouterr().out == ""


# Errors


def test_a_clock_that_stands_still_between_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows `time.monotonic` counts in steps of 16 ms, longer than a small batch takes."""
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    learn = learner()
    learn.fit(1)
    learn.lr_find(num_it=4)
    assert learn.history.epochs[0]["images_per_s"] > 0


def test_nan_names_epoch_batch_and_rate() -> None:
    batches = loader()
    batches[2][0][0, 0, 0, 0] = float("nan")
    learn = Learner(batches, None, tiny(), device="cpu")
    before = copy.deepcopy(learn.model[7].state_dict())
    with pytest.raises(FloatingPointError, match=r"got nan in epoch 0, batch 2, at learning rate 0\.003\b"):
        learn.fit(1, 3e-3)
    assert len(learn.history.losses) == 3
    assert not any(torch.isnan(value).any() for value in learn.model[7].state_dict().values())
    assert not torch.equal(before["weight"], learn.model[7].weight)


def test_targets_that_the_model_has_no_output_for() -> None:
    with pytest.raises(ValueError, match=r"targets 0\.\.2 for 3 outputs, got 3\. Build the model with num_classes=4"):
        Learner([(torch.rand(2, 3, 8, 8), torch.tensor([0, 3]))], None, tiny(), device="cpu").fit(1)
    with pytest.warns(UserWarning, match=r"as many outputs as the samples have classes, 2, got 3\. .* num_classes=2"):
        Learner(EpochLoader(2), None, tiny(), device="cpu").validate([(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))])
    with pytest.raises(ValueError, match=r"the same classes in both loaders, got 3 \(0, 1, 2, …\) and 4 "):
        Learner(EpochLoader(3), EpochLoader(4), tiny(), device="cpu")
    with pytest.raises(ValueError, match="num_classes=5"):  # its samples have five classes, though no batch shows it
        Learner(EpochLoader(5), None, tiny(), device="cpu").fit(1)


def test_loaders_that_cannot_be_used() -> None:
    with pytest.raises(ValueError, match="train_loader to have batches"):
        Learner([], None, tiny(), device="cpu")
    with pytest.raises(ValueError, match="valid_loader to have batches"):
        Learner(loader(), [], tiny(), device="cpu")
    with pytest.raises(TypeError, match="a length, got generator"):
        Learner((batch for batch in loader()), None, tiny(), device="cpu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"float images .* got torch\.uint8 \[2, 9, 9, 3\]"):
        Learner([(torch.zeros(2, 9, 9, 3, dtype=torch.uint8), torch.zeros(2).long())], None, tiny(), device="cpu").fit(
            1
        )
    empty = [(torch.empty(0, 3, 8, 8), torch.empty(0).long())]
    with pytest.raises(ValueError, match="got none in a whole epoch"):
        Learner(empty, None, tiny(), device="cpu").fit(1)
    with pytest.raises(ValueError, match="there is no valid_loader"):
        Learner(loader(), None, tiny(), device="cpu").validate()


def test_other_errors() -> None:
    with pytest.raises(ValueError, match="model with parameters"):
        Learner(loader(), None, nn.Flatten(), device="cpu")
    for epochs in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="whole number of epochs"):
            learner().fit_one_cycle(epochs)  # type: ignore[arg-type]

    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny()

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return self.inner(x), None

    with pytest.raises(TypeError, match="returns a tensor, got tuple"):
        learner(model=Auxiliary()).fit(1)
