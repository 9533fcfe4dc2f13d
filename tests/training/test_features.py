"""Mixed precision, clipping, accumulation, MixUp, compile, binary cross-entropy, warnings and other errors."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

import fastaug as fa
from fastaug.samples.samples import Samples
from fastaug.training.inference import most_probable
from fastaug.training.interpretation import Interpretation
from fastaug.training.learner import Learner
from fastaug.training.losses import BinaryCrossEntropy
from tests import factories
from tests.compare import differences, snapshot
from tests.factories import Batches, tiny, write_photos

pytestmark = pytest.mark.usefixtures("one_thread")


def plain() -> nn.Sequential:
    """Without batch-norm: a batch is its images one by one."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def sgd(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=1.0)


def learner(loader: Any = None, model: nn.Module | None = None, **arguments: Any) -> Learner:
    return factories.learner(loader, model or plain(), list(Batches(2)), **{"opt_func": sgd, **arguments})


def close(a: dict[str, Tensor], b: dict[str, Tensor], atol: float = 1e-6) -> bool:
    return all(torch.allclose(a[name], b[name], rtol=0, atol=atol) for name in b)


def test_close_rejects_one_wrong_number() -> None:
    a = plain().state_dict()
    b = copy.deepcopy(a)
    assert close(a, b)
    b["3.bias"][2] += 1e-5
    assert not close(a, b)


# Precision


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_amp_computes_in_half_precision_and_keeps_float_weights(amp: Any) -> None:
    learn, exact = learner(amp=amp), learner()
    seen: list[torch.dtype] = []
    learn.model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    for one in (learn, exact):
        one.fit_one_cycle(2, 0.05)
    assert set(seen) == {{"bf16": torch.bfloat16, "fp16": torch.float16}[amp]}
    assert all(p.dtype == torch.float32 for p in learn.model.parameters())
    weights, wanted = learn.model.state_dict(), exact.model.state_dict()
    assert close(weights, wanted, 2e-2)
    assert not close(weights, wanted, 1e-7)
    assert learn.get_preds()[0].dtype == torch.float32


def test_fp16_scales_its_gradients_and_passes_over_steps_that_overflow() -> None:
    learn = learner(amp="fp16", clip_norm=1.0)
    scale = learn.scaler.get_scale()
    assert scale > 1000
    before = copy.deepcopy(learn.model.state_dict())
    handle = learn.model[3].weight.register_hook(lambda gradient: gradient * float("inf"))
    learn.fit_one_cycle(1, 0.05)
    assert differences(dict(before), dict(learn.model.state_dict())) == []
    assert learn.scaler.get_scale() == scale / 2**6
    handle.remove()
    learn.fit_one_cycle(1, 0.05)
    assert not close(before, learn.model.state_dict())


def test_the_scaler_is_saved_and_restored(tmp_path: Any) -> None:
    learn = learner(amp="fp16")
    learn.model[3].weight.register_hook(lambda gradient: gradient * float("inf"))
    learn.fit(1, 0.01)
    scale = learn.scaler.get_scale()
    learn.lr_find(num_it=5)
    assert learn.scaler.get_scale() == scale
    learn.save(tmp_path / "fp16.pth")
    again = learner(amp="fp16")
    again.load(tmp_path / "fp16.pth")
    assert again.scaler.get_scale() == scale


# Steps


def test_gradients_are_clipped_to_their_norm() -> None:
    for norm, rate in ((1e-3, 0.1), (None, 0.1)):
        learn = learner([next(iter(Batches()))], clip_norm=norm, opt_func=lambda g: torch.optim.SGD(g, lr=1.0))
        before = [p.detach().clone() for p in learn.model.parameters()]
        for group in learn.opt.param_groups:
            group["weight_decay"] = 0.0
        learn.fit(1, rate)
        moved = torch.cat(
            [(a - b.detach()).flatten() for a, b in zip(before, learn.model.parameters(), strict=True)]
        ).norm()
        assert (float(moved) == pytest.approx(rate * 1e-3, rel=1e-3)) is (norm is not None)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("batches", "accumulate"), [(6, 2), (6, 3), (5, 2), (2, 4)])
def test_accumulated_batches_are_one_large_batch(batches: int, accumulate: int, reduction: str) -> None:
    loss_func, rate = nn.CrossEntropyLoss(reduction=reduction), 0.1 if reduction == "mean" else 0.01
    small = [batch for batch, _ in zip(Batches(), range(batches), strict=False)]
    large = [
        tuple(torch.cat(parts) for parts in zip(*small[i : i + accumulate], strict=True))
        for i in range(0, batches, accumulate)
    ]
    split, whole = learner(small, accumulate=accumulate, loss_func=loss_func), learner(large, loss_func=loss_func)
    for learn in (split, whole):
        learn.fit(2, rate)
    assert close(split.model.state_dict(), whole.model.state_dict())
    assert len(split.history.losses) == 2 * batches
    once = learner(small, loss_func=loss_func)
    once.fit(2, rate)
    assert not close(once.model.state_dict(), whole.model.state_dict())


def test_compile_is_used_in_training() -> None:
    calls: list[bool] = []

    def compiled(model: nn.Module) -> Any:
        def call(x: Tensor) -> Tensor:
            calls.append(model.training)
            return model(x)

        return call

    learn = learner(compile=compiled)
    learn.fit(1, 0.1)
    assert calls == [True] * 6


def test_a_compiled_model_trains_to_the_same_weights() -> None:
    compiled, plain_one = learner(compile=functools.partial(torch.compile, backend="aot_eager")), learner()
    for learn in (compiled, plain_one):
        learn.freeze()
        learn.lr_find(1e-3, 1e-1, num_it=4)
        learn.fit(1, 0.05)
        learn.unfreeze()
        learn.fit_one_cycle(1, 0.05)
    assert close(compiled.model.state_dict(), plain_one.model.state_dict())
    assert compiled.model.state_dict().keys() == plain_one.model.state_dict().keys()


@pytest.mark.parametrize("mix", [v2.MixUp, v2.CutMix])
def test_images_are_mixed_in_training_only(mix: Any) -> None:
    seen: list[tuple[torch.Size, bool]] = []

    def loss_func(activations: Tensor, targets: Tensor) -> Tensor:
        seen.append((targets.shape, bool(targets.is_floating_point())))
        return nn.functional.cross_entropy(activations, targets)

    learn = learner(mix=mix(num_classes=3), loss_func=loss_func)
    learn.fit_one_cycle(1, 0.1)
    assert seen == [((4, 3), True)] * 6 + [((4,), False)] * 2


def test_label_smoothing_is_the_losss() -> None:
    losses = [learner(loss_func=nn.CrossEntropyLoss(label_smoothing=s)).validate()["loss"] for s in (0.0, 0.1)]
    a, y = plain()(torch.cat([x for x, _ in Batches(2)])), torch.cat([y for _, y in Batches(2)])
    smooth = -(0.9 * a.log_softmax(1)[torch.arange(8), y] + 0.1 * a.log_softmax(1).mean(1)).mean()
    assert losses[1] == pytest.approx(smooth.item(), rel=1e-5)
    assert losses[0] != pytest.approx(smooth.item(), rel=1e-4)
    learn = learner(loss_func=nn.CrossEntropyLoss(label_smoothing=0.1), mix=v2.MixUp(num_classes=3))
    report = Interpretation.from_learner(learn)
    assert report.losses.mean().item() == pytest.approx(smooth.item(), rel=1e-5)
    before = snapshot(learn)
    assert learn.lr_find(1e-4, 1.0, num_it=10).losses[0] > 0
    assert differences(before, snapshot(learn)) == []
    learn.fit(2, 0.05)
    assert learn.validate()["loss"] < losses[1]


@pytest.mark.parametrize("bad", [{"amp": "fp8"}, {"accumulate": 0}, {"clip_norm": 0.0}])
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Learner: expected amp 'bf16', 'fp16' or None"):
        learner(**bad)


# Binary cross-entropy

ACTIVATIONS = torch.tensor([[2.0, -1.0, 0.0], [-2.0, -3.0, -1.0], [1.0, 3.0, -4.0]])


def test_binary_cross_entropy_of_classes_is_the_mean_of_yes_and_no() -> None:
    loss = BinaryCrossEntropy()(ACTIVATIONS, torch.tensor([0, -1, 1]))
    p = ACTIVATIONS.sigmoid()
    yes = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 0]], dtype=torch.bool)
    wanted = -torch.where(yes, p.log(), (1 - p).log()).mean()
    assert float(loss) == pytest.approx(float(wanted), rel=1e-6)
    assert float(BinaryCrossEntropy()(ACTIVATIONS, yes.float())) == pytest.approx(float(wanted), rel=1e-6)
    assert float(BinaryCrossEntropy(reduction="sum")(ACTIVATIONS, yes.float())) == pytest.approx(9 * float(wanted))


def test_thresholds_leave_none_or_several() -> None:
    p = ACTIVATIONS.sigmoid()  # .88 .27 .50 / .12 .05 .27 / .73 .95 .02
    assert most_probable(p, BinaryCrossEntropy().threshold).tolist() == [0, -1, 1]
    assert BinaryCrossEntropy().decodes(p).tolist() == [[True, False, True], [False] * 3, [True, True, False]]
    each = BinaryCrossEntropy(threshold=torch.tensor([0.9, 0.99, 0.2]))
    assert most_probable(p, each.threshold).tolist() == [2, 2, -1]


def test_binary_training_reaches_several_labels_and_none() -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (60, 3), generator=g).float()
    x = torch.rand(60, 3, 8, 8, generator=g) * 0.2 + y[..., None, None]
    batches = list(zip(x.split(10), y.split(10), strict=True))
    learn = Learner(batches, batches, tiny(), loss_func=BinaryCrossEntropy(), device="cpu")
    learn.fit_one_cycle(12, 5e-2)
    assert learn.validate()["accuracy_multi"] > 0.97
    probabilities, targets = learn.get_preds()
    assert ((probabilities > 0.5) == (targets > 0.5)).float().mean() > 0.97
    classes = [(x, torch.where(y.sum(1) > 0, y.argmax(1), -1)) for x, y in batches]
    learn = Learner(classes, classes, tiny(), loss_func=BinaryCrossEntropy(), device="cpu")
    learn.fit_one_cycle(1, 1e-2)
    assert 0 < learn.validate()["accuracy_multi"] <= 1


# Input that does not fit


class WithSamples(Batches):
    def __init__(self, targets: list[int]) -> None:
        super().__init__()
        self.samples = Samples([f"{i}.jpg" for i in range(len(targets))], targets, ["cat", "dog", "owl"])


def test_classes_of_one_image_or_none_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"two images or more of each class .* fewer of 2: dog \(1\), owl \(0\)"):
        learner(WithSamples([0, 0, 1]))
    learner(WithSamples([0, 0, 1, 1, 2, 2]))


@pytest.mark.parametrize("batch", [torch.rand(4, 3, 8, 8), (torch.rand(4, 3, 8, 8),), (torch.rand(4, 3, 8, 8), "x")])
def test_a_loader_without_targets(batch: Any) -> None:
    with pytest.raises(TypeError, match=r"expected batches \(images, targets, \.\.\.\) .* Give a loader with targets"):
        learner([batch]).fit(1)


def test_layer_table() -> None:
    learn = learner(model=tiny(), train_bn=False)
    learn.freeze()
    learn.model[1].bias.requires_grad_(True)
    assert learn.summary().table.splitlines() == [
        "layer  kind         parameters  group",
        "0      Conv2d       112         0      frozen",
        "1      BatchNorm2d  8           0      in part",
        "6      Linear       51          1      trains",
        "171 parameters, 55 train",
    ]


def test_accumulation_and_a_sweep_restore_the_rest() -> None:
    learn = learner(accumulate=3, clip_norm=0.5)
    before = snapshot(learn)
    learn.lr_find(1e-4, 1.0, num_it=10)
    assert differences(before, snapshot(learn)) == []


def test_validation_is_in_the_epoch_that_is_trained(tmp_path: Path) -> None:
    """So that a schedule of its own goes with the training's, in a run that is resumed too."""
    pixels = torch.randint(0, 256, (8, 30, 40, 3), dtype=torch.uint8).numpy()
    folder = write_photos(tmp_path / "photos", {f"{'ab'[i % 2]}/{i}.png": pixels[i] for i in range(8)})
    seen: list[tuple[int, bool]] = []

    class Seen(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((x.shape[-1], self.training))
            return super().forward(x)

    def made() -> Learner:
        augment = fa.Augment([], 8)
        settings = {"augment": augment, "device": "cpu", "schedule": lambda epoch: (10 + epoch, 20 + epoch)}
        samples = fa.Samples.from_folder(folder)
        loaders = [fa.ImageLoader(samples, 4, training=training, **settings) for training in (True, False)]
        model = Seen(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2))
        return factories.learner(loaders[0], model, loaders[1], checkpoint=tmp_path / "checkpoint.pth")

    made().fit(2, 1e-3)
    assert seen == [(10, True), (10, True), (10, False), (10, False), (11, True), (11, True), (11, False), (11, False)]
    seen.clear()
    again = made()
    again.load(tmp_path / "checkpoint.pth")
    again.fit(1, 1e-3)
    assert seen == [(12, True), (12, True), (12, False), (12, False)]


# A batch of one image


def deep() -> nn.Sequential:
    """Whose last batch-norm sees one value per channel and image."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3)
    )


def cut(sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    x, y = torch.rand(sum(sizes), 3, 8, 8), torch.arange(sum(sizes)) % 3
    return list(zip(x.split(sizes), y.split(sizes), strict=True))


def test_a_batch_of_one_that_batch_norm_cannot_take_is_left_out_and_said() -> None:
    batches = cut([4, 1, 4])
    learn, without = learner(batches, deep()), learner([batches[0], batches[2]], deep())
    with pytest.warns(UserWarning, match=r"got a training batch of one image, .* left out\. Give the loader drop_last"):
        learn.fit(1, 0.01)
    without.fit(1, 0.01)
    assert len(learn.history.losses) == 2
    assert differences(dict(learn.model.state_dict()), dict(without.model.state_dict())) == []
    with pytest.warns(UserWarning, match="is left out"):
        assert len(learn.lr_find(num_it=10).losses) == 10
    with pytest.raises(ValueError, match=r"got nothing but a training batch of one image.*larger batch_size"):
        learner(cut([1]), deep()).fit(1)


def test_a_batch_of_one_that_can_be_taken_is(recwarn: pytest.WarningsRecorder) -> None:
    for model in (plain(), tiny(), deep()):
        learn = learner(cut([4, 1]), model, train_bn=False)
        if any(isinstance(module, nn.BatchNorm1d) for module in model):
            learn.freeze()  # batch-norm that keeps its statistics needs none
        learn.fit(1, 0.01)
        assert len(learn.history.losses) == 2
    assert not recwarn.list
