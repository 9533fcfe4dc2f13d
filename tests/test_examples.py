"""The examples, run with the real libraries on a few tiny photos: they learn, and nothing is moved on the way."""

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastaug as fa
from tests.factories import torchrun, write_photos
from tests.test_task_examples import TASKS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TINY = {"size": 32, "batch_size": 4, "epochs": 6}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "plain_pytorch": {"model_name": "timm:test_resnet", "weights": None},
    "with_lightning": {"model_name": "timm:test_resnet", "weights": None, "logger": False, "accelerator": "cpu",
                       "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
    "with_accelerate": {"model_name": "timm:test_resnet", "weights": None},
    "with_transformers": {"model_name": None, "lr": 0.01, "output_dir": "out", "save_strategy": "no", "use_cpu": True,
                          "disable_tqdm": True},
    "with_timm": {"model_name": "test_resnet", "pretrained": False, "lr": 0.01},
    "with_fastai": {"model_name": "resnet18", "pretrained": False},
    "with_torchvision_references": {"model_name": "resnet18", "lr": 0.01, "epochs": 10},
}  # fmt: skip
MIXES = ("with_torchvision_references",)  # its MixUp makes new batches of the loader's

# Warnings of the libraries about each other; what fastaug and the examples do still raises.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(fastai|fastcore|fasttransform|plum|lightning|torch)"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """25 photos, red or blue: a model that gets the right labels learns them at once."""
    pixels = np.random.default_rng(0).integers(0, 90, (25, 48, 64, 3), np.uint8)
    pixels[1::2, ..., 0] += 150
    pixels[::2, ..., 2] += 150
    named = {f"{'red' if i % 2 else 'blue'}/{i:02}.jpg": image for i, image in enumerate(pixels)}
    return str(write_photos(tmp_path_factory.mktemp("photos"), named))


def example(name: str) -> Any:
    return importlib.import_module(f"examples.{name}")


class Delivered:
    """The batches that the loaders gave out, and where in memory those are that modules were called with."""

    def __init__(self) -> None:
        self.batches: list[Tensor] = []  # kept, so that no other tensor takes their places
        self.training: list[bool] = []
        self.seen: set[int] = set()

    def look(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.seen |= {x.data_ptr() for x in inputs if isinstance(x, Tensor) and x.dim() == 4}


@pytest.fixture
def delivered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Delivered]:
    record, warp_batch = Delivered(), fa.ImageLoader._warp_batch

    def warp_and_note(self: fa.ImageLoader, batch: Any) -> Any:
        result = warp_batch(self, batch)
        record.batches.append(result[0])
        record.training.append(self.training)
        return result

    monkeypatch.setattr(fa.ImageLoader, "_warp_batch", warp_and_note)
    hook = nn.modules.module.register_module_forward_pre_hook(record.look)
    yield record
    hook.remove()


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*ARGUMENTS, *TASKS}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_example(name: str, photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delivered: Delivered) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    arguments = {**TINY, **ARGUMENTS[name]}
    right = example(name).main(photos, **arguments)
    assert right == 1.0
    batches = 20 // 4 * (arguments["epochs"] + (name == "with_fastai"))  # fine_tune has a frozen epoch before
    assert sum(delivered.training) == batches
    if name not in MIXES:
        assert all(x.data_ptr() in delivered.seen for x in delivered.batches), "a batch was moved or copied"


def test_a_moved_batch_is_noticed(delivered: Delivered, photos: str) -> None:
    loader = fa.ImageLoader(fa.Samples.from_folder(photos), 4, augment=fa.aug_transforms(size=16), device="cpu")
    model, moved = nn.Flatten(), []
    for x, _ in loader:
        moved.append(x if len(delivered.batches) % 2 else x.clone())  # kept: no later batch takes its place
        model(moved[-1])
    assert [x.data_ptr() in delivered.seen for x in delivered.batches] == [True, False] * 3


@pytest.mark.parametrize("name", ARGUMENTS)
def test_it_takes_about_five_lines(name: str) -> None:
    """Calls of fastaug: samples, augment, two loaders, and in some a model or their own list of operators."""
    calls = re.findall(r"\bfa\.[\w.]+\(", (EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
    assert 3 <= len(calls) <= 7


def test_two_ranks_share_the_photos(photos: str, tmp_path: Path) -> None:
    """Under torchrun with Lightning and with Accelerate: each photo to one rank, once, and none twice sharded."""
    script = Path(__file__).with_name("examples_two_ranks.py")
    torchrun(2, str(script), photos, str(tmp_path), environment={"ACCELERATE_USE_CPU": "true"}, cwd=tmp_path)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for name in ("lightning", "accelerate"):
        (accuracy, *first), (_, *second) = (rank[name] for rank in ranks)
        assert len(first) == len(second) == 10
        assert sorted(first + second) == list(range(20))
        assert 0 <= accuracy <= 1
    assert ranks[0]["accelerate"][0] == ranks[1]["accelerate"][0], "added up over the ranks"


class Seen:
    """What a loader's training batches held, as they were delivered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.rows: list[tuple[Any, ...]] = []
        warp_batch = fa.ImageLoader._warp_batch

        def warp_and_note(loader: fa.ImageLoader, batch: Any) -> Any:
            result = warp_batch(loader, batch)
            if loader.training:
                self.rows.append((loader.samples, *batch.views[0].info.indices.tolist(), result[0].sum().item()))
            return result

        monkeypatch.setattr(fa.ImageLoader, "_warp_batch", warp_and_note)

    def take(self) -> list[tuple[Any, ...]]:
        rows, self.rows = [row[1:] for row in self.rows], []
        return rows


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("cut", [3, 5, 10], ids=["in an epoch", "after its last batch", "after the second's"])
def test_lightning_goes_on_from_a_checkpoint(
    cut: int, photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    theirs, seen = example("with_lightning"), Seen(monkeypatch)
    quiet = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}

    def fit(checkpoint: str | None = None) -> list[tuple[Any, ...]]:
        keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=cut, save_top_k=-1)
        trainer = lightning.Trainer(max_epochs=3, callbacks=[keep], **quiet)
        model = theirs.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2)), 1e-3)
        trainer.fit(model, theirs.Photos(photos, 16, 4), ckpt_path=checkpoint)
        return seen.take()

    whole = fit()
    assert len(whole) == 15
    assert fit(str(tmp_path / f"step={cut}.ckpt")) == whole[cut:]


@pytest.mark.parametrize("cut", [3, 5])
def test_transformers_go_on_from_a_checkpoint(
    cut: int, photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, seen = example("with_transformers"), Seen(monkeypatch)
    arguments = {**TINY, **ARGUMENTS["with_transformers"], "output_dir": str(tmp_path)}
    arguments |= {"save_strategy": "steps", "save_steps": cut, "epochs": 3}
    theirs.main(photos, **arguments)
    whole = seen.take()
    checkpoint = tmp_path / f"checkpoint-{cut}"
    assert json.loads((checkpoint / "loader.json").read_text())["delivered"] == cut
    theirs.main(photos, **arguments, resume_from=str(checkpoint))
    assert seen.take() == whole[cut:]


def test_accelerate_saves_the_loader_with_the_rest(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)

    def made() -> fa.ImageLoader:
        samples = fa.Samples.from_folder(photos)
        loader = accelerator.prepare(fa.ImageLoader(samples, 4, augment=fa.aug_transforms(size=16), device="cpu"))
        accelerator.register_for_checkpointing(loader)
        return loader

    loader = made()
    for step, _ in enumerate(loader):
        if step == 2:
            accelerator.save_state(str(tmp_path))
            break
    whole = fa.ImageLoader(loader.samples, 4, augment=loader.augment, device="cpu")
    accelerator._custom_objects.clear()
    again = made()
    accelerator.load_state(str(tmp_path))
    for (x, y), (expected, labels) in zip(list(again), list(whole)[3:], strict=True):
        assert torch.equal(x, expected)
        assert torch.equal(y, labels)


def test_fastai_finds_a_rate_and_predicts(photos: str) -> None:
    from fastai.vision.all import DataLoaders, Learner, accuracy

    samples = fa.Samples.from_folder(photos)
    loader = fa.ImageLoader(samples, 4, augment=fa.aug_transforms(size=16), device="cpu")
    valid = fa.ImageLoader(samples, 5, augment=loader.augment, device="cpu", training=False)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    learn = Learner(DataLoaders(loader, valid), model, loss_func=nn.functional.cross_entropy, metrics=accuracy)
    with learn.no_bar(), learn.no_logging():
        assert learn.lr_find(num_it=30, show_plot=False).valley > 0
        learn.fit_one_cycle(2, 1e-3)
        logits, targets = learn.get_preds(dl=valid)
    assert targets.tolist() == list(samples.targets)
    assert logits.shape == (25, 2)
    assert (logits.argmax(1) == targets).float().mean() == 1.0
