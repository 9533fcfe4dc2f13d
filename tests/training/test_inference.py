"""The exported classifier: one file, read without the trainer, that says what the learner said."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

import fastaug as fa
from fastaug.training.inference import most_probable, to_probabilities
from tests.factories import write_photos

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    rng = np.random.default_rng(0)
    pixels = {
        f"{name}/{i}.jpg": rng.integers(80 * (i % 3), 80 * (i % 3) + 80, (50 + i, 70, 3), np.uint8)
        for i, name in enumerate(("dark", "grey", "light") * 2)
    }
    return fa.Samples.from_folder(write_photos(tmp_path_factory.mktemp("photos"), pixels))


def learner(photos: fa.Samples, model: nn.Module | str = "timm:test_resnet", **arguments: Any) -> fa.Learner:
    if isinstance(model, str):
        torch.manual_seed(0)
        model = fa.classifier(model, 3, None, arguments.pop("head", "linear"))
    settings = {"batch_size": 2, "presize": 40, "device": "cpu", "mode": arguments.pop("mode", "resize")}
    augment = fa.aug_transforms(size=(32, 24), min_scale=0.75, padding="zeros", normalize=((0.4, 0.5, 0.6), (0.2,) * 3))
    train, valid = (fa.ImageLoader(photos, augment=augment, training=t, **settings) for t in (True, False))
    return fa.Learner(train, valid, model, device="cpu", **arguments)


def test_the_file_says_what_the_learner_says_and_needs_no_trainer(photos: fa.Samples, tmp_path: Path) -> None:
    learn = learner(photos)
    learn.fit_one_cycle(1, 1e-2)
    file = tmp_path / "made" / "pets.safetensors"
    learn.export(file)
    assert [path.name for path in file.parent.iterdir()] == ["pets.safetensors"]
    program = (
        "import sys, json, fastaug as fa; p = fa.load_classifier(sys.argv[1], 'cpu'); "
        "found = p.get_preds(sys.argv[2:], batch_size=4).tolist(); "
        "print(json.dumps([found, p.predict(sys.argv[2])[:2], "
        "[name for name in sys.modules if name.startswith(('fastaug.training', 'torchmetrics', 'matplotlib'))]]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(file), *photos.paths], capture_output=True, text=True, check=True
    )
    found, (name, index), imported = json.loads(run.stdout)
    assert sorted(imported) == [f"fastaug.training{name}" for name in ("", ".inference", ".models")]
    assert torch.allclose(torch.tensor(found), learn.get_preds()[0], atol=1e-6)
    assert (name, index) == learn.predict(photos.paths[0])[:2]
    spread = learn.get_preds()[0].std(0).max()
    assert spread > 1e-3  # of the images: else any would do


@pytest.mark.parametrize(
    "setting",
    [
        {"mode": "direct"},
        {"amp": "bf16"},
        {"head": "fastai", "model": "resnet18"},
        {"loss_func": fa.BinaryCrossEntropy(threshold=torch.tensor([0.4, 0.999, 0.2]))},
        {"loss_func": fa.BinaryCrossEntropy(threshold=0.999)},
        {"loss_func": nn.BCEWithLogitsLoss()},
    ],
    ids=["direct", "amp", "fastai head", "thresholds", "none of these", "binary"],
)
def test_every_setting_comes_along(setting: dict[str, Any], photos: fa.Samples, tmp_path: Path) -> None:
    learn = learner(photos, **setting)
    learn.export(tmp_path / "m.safetensors")
    predictor = fa.load_classifier(tmp_path / "m.safetensors", "cpu")
    for path in photos.paths[:3]:
        name, index, probabilities = learn.predict(path)
        again = predictor.predict(path)
        assert (name, index) == again[:2]
        assert torch.equal(probabilities, again[2])
    assert torch.allclose(predictor.get_preds(photos.paths), learn.get_preds()[0], atol=1e-6)
    predictor.presize, predictor.augment.padding = 44, "border"
    assert not torch.allclose(predictor.get_preds(photos.paths), learn.get_preds()[0], atol=1e-6)


def test_exporting_changes_nothing(photos: fa.Samples, tmp_path: Path) -> None:
    learn = learner(photos)
    before, random = copy.deepcopy(learn.model.state_dict()), torch.get_rng_state()
    learn.export(tmp_path / "m.safetensors")
    fa.load_classifier(tmp_path / "m.safetensors", "cpu")
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in learn.model.state_dict().items())


def test_a_model_made_elsewhere_needs_its_name(photos: fa.Samples, tmp_path: Path) -> None:
    torch.manual_seed(0)
    learn = learner(photos, torchvision.models.resnet18(num_classes=3))
    with pytest.raises(ValueError, match=r"made by fa\.classifier, .* got ResNet\. Give architecture="):
        learn.export(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"expected a model that is 'resnet34' .* Missing key"):
        learn.export(tmp_path / "m.safetensors", architecture="resnet34")
    assert list(tmp_path.iterdir()) == []
    learn.export(tmp_path / "m.safetensors", architecture="resnet18")
    found = fa.load_classifier(tmp_path / "m.safetensors", "cpu").get_preds(photos.paths)
    assert torch.allclose(found, learn.get_preds()[0], atol=1e-5)


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def test_a_model_that_was_changed_is_not_taken_for_its_name(photos: fa.Samples, tmp_path: Path) -> None:
    learn = learner(photos)
    learn.model.act1 = Halved()  # no parameter of another name or shape: only the activations tell
    with pytest.raises(ValueError, match=r"'timm:test_resnet' .* got other activations for the same images"):
        learn.export(tmp_path / "m.safetensors")


def test_files_that_are_none(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match=r"load_classifier: expected a file, got '.*no\.safetensors'"):
        fa.load_classifier(tmp_path / "no.safetensors")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ValueError, match="expected a safetensors file"):
        fa.load_classifier(tmp_path / "text")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare")
    with pytest.raises(ValueError, match=r"learn\.export wrote, .* one without classes"):
        fa.load_classifier(tmp_path / "bare")
    save_file({"a": torch.zeros(1)}, tmp_path / "new", {"fastaug": json.dumps({"format": 99})})
    with pytest.raises(ValueError, match="format 99, this version reads 3"):
        fa.load_classifier(tmp_path / "new")


def test_bad_photos(photos: fa.Samples, tmp_path: Path) -> None:
    predictor = fa.Predictor(fa.classifier("timm:test_resnet", 3, None), photos.classes, fa.Augment([], 32), 40)
    (tmp_path / "text.jpg").write_bytes(b"no photo")
    with pytest.raises(fa.BadFileError, match=r"text\.jpg"):
        predictor.get_preds([photos.paths[0], tmp_path / "text.jpg"])
    with pytest.raises(ValueError, match="expected at least one file"):
        predictor.get_preds([])


def test_deciding() -> None:
    p = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.2, 0.3]])
    assert most_probable(p, None).tolist() == [1, 2]
    assert most_probable(p, 0.4).tolist() == [1, -1]
    assert most_probable(p, [0.1, 0.6, 0.1]).tolist() == [2, 2]
    a = torch.tensor([[0.0, 2.0]])
    assert torch.equal(to_probabilities(a), a.softmax(1))
    assert torch.equal(to_probabilities(a, 0.5), a.sigmoid())


def test_labels_and_numbers_are_said_as_such(photos: fa.Samples, tmp_path: Path) -> None:
    torch.manual_seed(0)
    augment, path = fa.Augment([], 32, normalize=None), photos.paths[0]
    labels = fa.Predictor(
        fa.classifier("timm:test_resnet", 3, None), list("abc"), augment, 40, device="cpu", threshold=[0.9, 0.0, 0.1],
        says="labels",
    )  # fmt: skip
    p = torch.tensor([[0.95, 0.6, 0.7], [0.8, 0.4, 0.05], [0.1, 0.5, 0.2]])
    assert labels.seen(p).tolist() == [[True] * 3, [False] * 3, [False, True, True]]
    said = [labels.describe(row) for row in p]
    assert [[name for name, _ in of] for of in said] == [["a", "c", "b"], ["none of these"], ["b", "c"]]
    assert [value for of in said for _, value in of] == pytest.approx([0.95, 0.7, 0.6, 0.8, 0.5, 0.2])
    labels.threshold = [0.9, 0.0, math.inf]  # the last one is switched off
    labels.save(tmp_path / "labels.safetensors")
    again = fa.load_classifier(tmp_path / "labels.safetensors", "cpu")
    names, indices, probabilities = again.predict(path)
    assert torch.equal(probabilities, labels.predict(path)[2])
    assert indices == [i for i in range(3) if labels.seen(probabilities[None])[0, i]]
    assert names == ["abc"[i] for i in indices]
    one = fa.Predictor(fa.classifier("timm:test_resnet", 1, None), ["a"], augment, 40, threshold=0.5, says="labels")
    assert one.predict(path)[:2] in ((["a"], [0]), ([], []))

    for outputs, classes in ((1, []), (1, ["age"]), (2, []), (2, ["length", "width"])):
        model, file = fa.classifier("timm:test_resnet", outputs, None), tmp_path / "numbers.safetensors"
        fa.Predictor(model, classes, augment, 40, device="cpu", activation="none", says="numbers").save(file)
        predictor = fa.load_classifier(file, "cpu")
        number, index, numbers = predictor.predict(path)
        assert (number if outputs > 1 else [number], index) == (numbers.tolist(), None)
        assert [name for name, _ in predictor.describe(numbers)] == (classes or [[""], ["0", "1"]][outputs - 1])
    del model.built_as
    named = fa.Predictor(model, [], augment, 40, device="cpu", activation="none", says="numbers")
    named.save(file, "timm:test_resnet")
    assert torch.equal(fa.load_classifier(file, "cpu").get_preds([path]), named.get_preds([path]))


OF_FORMAT_1 = {
    "format",
    "architecture",
    "classes",
    "seen_as",
    "dtype",
    "presize",
    "mode",
    "threshold",
    "amp",
    "activation",
}


def described(file: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(file, "pt") as content:
        return dict(json.loads(content.metadata()["fastaug"]))


def format_of(file: Path) -> int:
    return int(described(file)["format"])


def test_the_format_goes_up_only_where_an_older_version_would_read_it_wrongly(tmp_path: Path) -> None:
    model, file = fa.classifier("timm:test_resnet", 3, None), tmp_path / "m.safetensors"
    augment = fa.Augment([], 32, normalize=None)
    for settings, version in (({}, 1), ({"threshold": 0.5}, 1), ({"activation": "none"}, 2), ({"says": "labels"}, 3)):
        fa.Predictor(model, list("abc"), augment, 40, device="cpu", **settings).save(file)
        assert format_of(file) == version
        assert described(file).keys() - OF_FORMAT_1 == ({"says"} if version == 3 else set())
        assert described(file).keys() >= OF_FORMAT_1


@pytest.mark.parametrize(
    ("settings", "ops", "channels"),
    [
        ({"presize": 44}, [fa.CenterCrop(32)], 3),
        ({"presize": 44, "resize_method": "torchvision"}, [fa.RandomHorizontalFlip(), fa.CenterCrop((32, 24))], 3),
        ({"presize": (40, 60)}, [], 3),
        ({"presize": (40, 60), "resize_method": "pad"}, [], 3),
        ({"presize": 44, "resize_method": "squish", "mode": "direct"}, [], 3),
        ({"presize": 44, "channels": 1}, [], 1),
    ],
    ids=["centre crop", "torchvision", "high and wide", "pad", "squish", "grey"],
)
def test_the_framing_of_the_validation_comes_along(
    settings: dict[str, Any], ops: list[Any], channels: int, photos: fa.Samples, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    augment = fa.Augment(ops, (32, 24), normalize=None)
    loader = fa.ImageLoader(photos, 4, augment=augment, device="cpu", training=False, **settings)
    model = fa.classifier("timm:test_resnet", 3, None) if channels == 3 else nn.Sequential(nn.Flatten(), Norm())
    learn = fa.Learner(loader, None, model, device="cpu")
    wanted = learn.get_preds(loader)[0]
    if channels == 1:  # of classifier's there is none of one channel, so there is no file
        assert learn.predict(photos.paths[1])[2].tolist() == pytest.approx(wanted[1].tolist())
        assert learn.show_batch(2).get_axes()
        assert fa.Interpretation.from_learner(learn, loader).plot_top_losses(2).get_axes()
        assert learn.show_results(2, loader).get_axes()
        return
    learn.export(tmp_path / "m.safetensors")
    assert format_of(tmp_path / "m.safetensors") == 3
    predictor = fa.load_classifier(tmp_path / "m.safetensors", "cpu")
    assert torch.allclose(predictor.get_preds(photos.paths), wanted, atol=1e-6)
    assert [type(op).__name__ for op in predictor.augment.ops] == ["CenterCrop"] * any(op.uniforms == 0 for op in ops)
    plain = fa.Predictor(predictor.model, photos.classes, fa.Augment([], (32, 24), normalize=None), 44, device="cpu")
    assert not torch.allclose(plain.get_preds(photos.paths), wanted, atol=1e-4)  # it makes a difference


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor([0.2, 0.5, 0.8]))

    def forward(self, x: Tensor) -> Tensor:
        return -((x.mean(1, keepdim=True) - self.levels) ** 2)


class Middle(fa.CenterCrop):
    """An operator of one's own."""


@pytest.mark.parametrize("name", ["RandomRotation", "Operator", "torch", "output_size", "Middle"])
def test_a_file_names_only_operators_that_draw_nothing(name: str, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    predictor = fa.Predictor(
        fa.classifier("timm:test_resnet", 3, None), list("abc"), fa.Augment([fa.CenterCrop(8)], 16)
    )
    predictor.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        described = json.loads(file.metadata()["fastaug"])
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
    assert described["operators"] == [["CenterCrop", {"size": [8, 8]}]]
    described["operators"] = [[name, {"size": [8, 8]}]]
    save_file(state, tmp_path / "b.safetensors", {"format": "pt", "fastaug": json.dumps(described)})
    with pytest.raises(ValueError, match=f"load_classifier: expected operators CenterCrop, got '{name}'"):
        fa.load_classifier(tmp_path / "b.safetensors")


def test_an_operator_of_ones_own_that_is_done_in_validation_is_not_exported(tmp_path: Path) -> None:
    predictor = fa.Predictor(fa.classifier("timm:test_resnet", 3, None), list("abc"), fa.Augment([Middle(8)], 16))
    with pytest.raises(ValueError, match=r"export: expected operators of fastaug .* got Middle"):
        predictor.save(tmp_path / "m.safetensors")
