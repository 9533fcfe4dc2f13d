"""On a device that is neither "cpu" nor "cuda": batches and trainings, and errors that say what it cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import fastaug as fa
from fastaug.cli.app import app
from tests.compare import photo
from tests.factories import learner, run_python, tiny, write_photos

BEGIN = """
import sys, warnings
warnings.simplefilter("error")
import torch
from torch import nn
from typer.testing import CliRunner
import fastaug as fa
from fastaug.cli.app import app
from tests import other_device
from tests.factories import Batches, learner, make_loader, tiny
warnings.filterwarnings("ignore", "Overriding a previously registered")
other_device.register()
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = photo("chelsea").numpy()
    names = [f"{name}/{i}.{kind}" for i, kind in enumerate(("jpg", "png", "webp", "jpg", "png")) for name in "ab"]
    crops = {name: pixels[3 * i : 3 * i + 90, : 100 + i] for i, name in enumerate(names)}
    return write_photos(tmp_path_factory.mktemp("photos"), crops)


def test_the_stand_in_computes_as_the_cpu_and_mixes_with_nothing() -> None:
    run_python(BEGIN + """
def gradients(device):
    images = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(0)).to(device)
    model = tiny().to(device)
    model(images).square().sum().backward()
    return [parameter.grad.cpu() for parameter in model.parameters()]
for a, b in zip(gradients("toy"), gradients("cpu"), strict=True):
    torch.testing.assert_close(a, b)
there = torch.ones(2, device="toy")
for wrong in (lambda: there + torch.ones(2), lambda: there.double(), lambda: nn.Linear(2, 2)(there)):
    try:
        wrong()
    except (RuntimeError, TypeError):
        continue
    raise SystemExit("taken")
""")  # fmt: skip


def test_batches_are_made_on_the_cpu_and_copied(photos: Path) -> None:
    run_python(BEGIN + """
samples = fa.Samples.from_folder(sys.argv[1])
augment = fa.aug_transforms(size=32)
for mode, augment in (("resize", augment), ("direct", augment), ("resize", None)):
    there, here = (
        make_loader(samples, augment=augment, batch_size=3, presize=64, mode=mode, device=device)
        for device in ("toy", "cpu")
    )
    assert there.decoder_choice.name == "jpeg" and "'toy'" in there.decoder_choice.reason
    for (x, y, _), (x_cpu, y_cpu, _) in zip(there, here, strict=True):
        assert x.device.type == y.device.type == "toy"
        assert x.dtype == x_cpu.dtype and torch.equal(x.cpu(), x_cpu) and torch.equal(y.cpu(), y_cpu)
    assert not there.quarantined
assert not other_device.UNFINISHED  # memory that was given back would be copied: pytorch/pytorch#139550
""", str(photos))  # fmt: skip


def test_a_training_is_the_cpus(tmp_path: Path) -> None:
    run_python(BEGIN + """
def trained(device):
    learn = learner(valid=Batches(2), device=device, checkpoint=sys.argv[1] + device, accumulate=2, clip_norm=1.0)
    learn.lr_find(num_it=4)
    learn.freeze()
    learn.fit_one_cycle(1, 2e-3)
    learn.unfreeze()
    learn.fit_one_cycle(1, slice(1e-5, 1e-3))
    learn.load(sys.argv[1] + device)
    return learn
there, here = trained("toy"), trained("cpu")
assert {p.device.type for p in there.model.parameters()} == {"toy"}
assert {metric.device.type for metric in there.metrics.values()} == {"toy"}
torch.testing.assert_close(torch.tensor(there.history.losses), torch.tensor(here.history.losses))
for a, b in zip(there.history.epochs, here.history.epochs, strict=True):
    assert abs(a["train_loss"] - b["train_loss"]) < 1e-5 and a["accuracy"] == b["accuracy"]
for a, b in zip(there.get_preds(), here.get_preds(), strict=True):
    torch.testing.assert_close(a, b)
assert not other_device.UNFINISHED
""", str(tmp_path / "checkpoint-"))  # fmt: skip


def test_the_commands(photos: Path, tmp_path: Path) -> None:
    """train, predict, show; and a model that the device lacks an operation for is said in one line."""
    out = run_python(BEGIN + """
folder, out = sys.argv[1:]
def fastaug(*arguments):
    return CliRunner().invoke(app, [*arguments, "--device", "toy"])
sizes = ["--size", "32", "--presize", "40"]
train = ["train", folder, *sizes, "--weights", "none", "--epochs", "1", "--batch-size", "4", "--out", out]
done = fastaug(*train, "--model", "mobilenet_v3_small")
assert done.exit_code == 0, done.output
done = fastaug("predict", out + "/model.safetensors", folder + "/a/0.jpg")
assert done.exit_code == 0 and done.output.count("\\t") == 2, done.output
done = fastaug("show", folder, *sizes, "--out", out + "/show.png")
assert done.exit_code == 0, done.output
other_device.MISSING.add("aten::hardswish_")
done = fastaug(*train, "--model", "mobilenet_v3_small", "--overwrite")
print(done.exit_code, done.stderr)
""", str(photos), str(tmp_path / "out"))  # fmt: skip
    code, _, message = out.partition(" ")
    assert code == "1"
    assert message.strip() == (
        "error: Learner: expected a model that the device 'toy' can run, got in the forward pass: The operator "
        "'aten::hardswish_' is not currently implemented for the TOY device. If …. To go on, use --device cpu."
    )


def test_what_fails_is_named_wherever_it_fails() -> None:
    out = run_python(BEGIN + """
def missing(name):
    return lambda learn: other_device.MISSING.add(name)
def double_layer(learn):
    learn.model[0].forward = lambda x: x.double()
def double_metric(learn):
    learn.metrics["accuracy"].update = lambda x, y: x.double()
def other(learn):
    learn.model[0].forward = lambda x: x[..., :3].reshape(7)
for spoil in (missing("aten::threshold_backward"), missing("aten::lerp"), double_layer, double_metric, other):
    learn = learner(valid=Batches(2), device="toy")
    spoil(learn)
    try:
        learn.fit(1)
    except RuntimeError as error:
        print(error)
    other_device.MISSING.clear()
try:
    learner(model=tiny().double(), device="toy")
except RuntimeError as error:
    print(error)
""").splitlines()  # fmt: skip
    parts = ["the backward pass", "the optimizer's step", "the forward pass", "validation"]
    begin = "Learner: expected a model that the device 'toy' can run, got in"
    for line, part in zip(out, [*parts, None, "moving it there"], strict=True):
        if part is None:  # nothing to do with the device
            assert line.startswith("shape '[7]' is invalid")
        else:
            assert line.startswith(f"{begin} {part}: "), line
            assert line.endswith(". To go on, use device='cpu'.")


def test_a_device_that_is_not_there(photos: Path) -> None:
    samples = fa.Samples.from_folder(photos)
    with pytest.raises(RuntimeError, match=r"^ImageLoader: expected .+ got device='mps' \(.+\)\. Use"):
        fa.ImageLoader(samples, 2, device="mps")
    with pytest.raises(RuntimeError, match=r"^Learner: expected .+ got device='xpu'"):
        learner(device="xpu")
    with pytest.raises(RuntimeError, match=r"^Predictor: expected .+ got device='mps'"):
        fa.Predictor(tiny(), ["a"], fa.Augment([], size=8), device="mps")
    for command, where in (("show", "ImageLoader"), ("train", "train")):
        done = CliRunner().invoke(app, [command, str(photos), "--device", "mps"])
        assert done.exit_code == 1
        assert done.stderr.startswith(f"error: {where}: expected a device that is there, got --device mps ")
        assert done.stderr.count("\n") == 1


def test_shapes_and_dtypes_of_a_device_without_numbers(photos: Path) -> None:
    """torch's own "meta"."""
    samples = fa.Samples.from_folder(photos)
    augment = fa.aug_transforms(size=32, normalize=fa.IMAGENET)
    x, y = next(iter(fa.ImageLoader(samples, 4, 64, augment, "meta")))
    assert x.is_meta
    assert x.shape == (4, 3, 32, 32)
    assert y.is_meta
    assert y.dtype == torch.int64
