"""Classifiers: heads, weights, groups, statistics."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import fastaug as fa
from fastaug.training import models
from fastaug.training.models import classifier, model_statistics, parameter_groups
from tests import factories


def state_of(name: str) -> dict[str, Tensor]:
    return classifier(name, 1000, weights=None).state_dict()


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "mobilenet_v3_small",
        "squeezenet1_1",
        "shufflenet_v2_x0_5",
        "timm:resnet18",
        "timm:test_vit",
        "timm:test_byobnet",
    ],
)
def test_body_is_loaded_and_the_last_layer_is_new(name: str) -> None:
    state = state_of(name)
    model = classifier(name, 5, weights=state)
    own = model.state_dict()
    differs = [key for key in own if own[key].shape != state[key].shape or not torch.equal(own[key], state[key])]
    last = [key for path in models._last_layers(model) for key in (f"{path}.weight", f"{path}.bias")]
    assert sorted(differs) == sorted(last)
    size = 160 if "test" in name else 64
    assert model.eval()(torch.rand(2, 3, size, size)).shape == (2, 5)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(tmp_path: Path, suffix: str) -> None:
    state, path = state_of("resnet18"), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(state, path)
    model = classifier("resnet18", 4, weights=str(path))
    assert torch.equal(model.state_dict()["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "timm:test_vit", "timm:test_byobnet"]
)
def test_a_head_of_as_many_classes_is_kept(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    own, path = classifier(name, 3, weights=None), tmp_path / "own.pth"
    torch.save(own.state_dict(), path)
    again = classifier(name, 3, weights=path).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in own.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "timm:test_byobnet"])
def test_a_fastai_head_is_kept_and_another_is_new(name: str) -> None:
    torch.manual_seed(1)
    own = classifier(name, 3, None, "fastai").state_dict()
    again = classifier(name, 3, own, "fastai").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in own.items())
    plain = classifier(name, 3, None).state_dict()
    other = classifier(name, 3, plain, "fastai").state_dict()
    body = [key for key in other if key in plain and other[key].shape == plain[key].shape]
    assert all(torch.equal(other[key], plain[key]) for key in body)
    assert len(body) < len(other)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_wrapped_models(prefix: str) -> None:
    own = classifier("timm:test_resnet", 3, None).state_dict()
    again = classifier("timm:test_resnet", 3, {f"{prefix}{key}": value for key, value in own.items()}).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in own.items())


@pytest.mark.parametrize("save", ["save", "export", "state_dict"])
def test_weights_from_what_a_learner_wrote(save: str, tmp_path: Path) -> None:
    samples = fa.Samples(["a.png", "b.png", "c.png"], [0, 1, 2], ["a", "b", "c"])
    loader = fa.ImageLoader(samples, 1, 8, fa.Augment([], 64), "cpu", training=False)
    with pytest.warns(UserWarning, match="two images or more of each class"):
        learn = factories.learner(loader, classifier("timm:test_resnet", 3, None))
    path = tmp_path / ("model.safetensors" if save == "export" else "model.pth")
    if save == "state_dict":
        torch.save({"state_dict": learn.model.state_dict(), "epoch": 3}, path)
    else:
        getattr(learn, save)(path)
    again = classifier("timm:test_resnet", 3, path).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in learn.model.state_dict().items())


def test_weights_that_do_not_fit() -> None:
    state = state_of("resnet18")
    old = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    assert isinstance(classifier("resnet18", 4, weights=old), nn.Module)  # files from before torch 1.0
    bad = {key: value for key, value in state.items() if key != "bn1.bias"} | {"extra": torch.zeros(1)}
    bad["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    with pytest.raises(
        ValueError, match=r"1 missing: bn1\.bias; 1 unexpected: extra; 1 of another shape: conv1\.weight \[64, 1"
    ):
        classifier("resnet18", 4, weights=bad)
    with pytest.raises(ValueError, match=r"missing: .*, …"):
        classifier("resnet34", 4, weights=state)


def test_weights_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        classifier("resnet18", 4, weights=tmp_path / "nowhere.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="a state dict"):
        classifier("resnet18", 4, weights=tmp_path / "list.pth")


@pytest.mark.parametrize("name", ["resnet18", "timm:test_byobnet"])
def test_no_download_says_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **arguments: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline) if ":" not in name else None
    if ":" in name:
        import timm

        create = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda *a, **k: offline() if k.get("pretrained") else create(*a, **k))
    with pytest.raises(RuntimeError, match=r"download .*no route to host.*weights="):
        models._downloaded(name)


def test_name_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"got 'resnet35'. Similar: .*resnet34"):
        classifier("resnet35", 4)
    with pytest.raises(ValueError, match="model of timm, got 'timm:nonsense'"):
        classifier("timm:nonsense", 4)
    with pytest.raises(ValueError, match="num_classes"):
        classifier("resnet18", 0)
    with pytest.raises(ValueError, match="head 'linear' or 'fastai'"):
        classifier("resnet18", 4, weights=None, head="cubic")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="pip install timm"):
        classifier("timm:resnet18", 4)


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", 512), ("vgg11", 512), ("convnext_tiny", 768), ("timm:resnet18", 512), ("timm:test_byobnet", 256)],
)
def test_fastai_head(name: str, channels: int) -> None:
    model = classifier(name, 7, weights=None, head="fastai")
    (head,) = models._head(model).values()
    kinds = [type(module).__name__ for module in head.children()]
    assert kinds == ["Flatten", "BatchNorm1d", "Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"]
    first, last = (module for module in head.children() if isinstance(module, nn.Linear))
    assert (first.in_features, first.out_features, last.in_features, last.out_features) == (2 * channels, 512, 512, 7)
    assert [module.p for module in head.children() if isinstance(module, nn.Dropout)] == [0.25, 0.5]
    assert model.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 7)
    assert {id(p) for p in parameter_groups(model)[-1]} == {id(p) for p in head.parameters()}


def test_fastai_head_pools_average_and_maximum() -> None:
    pooled = models._ConcatPool()(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]))
    assert pooled.flatten().tolist() == [3.0, 6.0]


@pytest.mark.parametrize("name", ["vit_b_16", "timm:test_vit", "densenet121"])
def test_fastai_head_where_it_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match="Use head='linear'"), torch.device("meta"):
        classifier(name, 7, weights=None, head="fastai")


def names_of(model: nn.Module) -> list[set[str]]:
    """Per group, the first part of its parameters' names."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{name_of[id(parameter)].partition(".")[0] for parameter in group} for group in parameter_groups(model)]


@pytest.mark.parametrize("name", ["resnet34", "timm:resnet34"])
def test_groups_of_a_resnet(name: str) -> None:
    with torch.device("meta"):
        model = classifier(name, 7, weights=None)
    assert names_of(model) == [{"conv1", "bn1", "layer1", "layer2"}, {"layer3", "layer4"}, {"fc"}]


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("vit_b_16", "heads"),
        ("swin_t", "head"),
        ("efficientnet_b0", "classifier"),
        ("timm:tf_efficientnet_lite0", "classifier"),
        ("timm:test_convnext", "head"),
    ],
)
def test_groups_of_other_models(name: str, head: str) -> None:
    with torch.device("meta"):
        model = classifier(name, 7, weights=None)
    body, last = parameter_groups(model)
    assert names_of(model)[1] == {head}
    assert len(body) + len(last) == len(list(model.parameters()))


def test_groups_of_a_plain_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    assert names_of(model) == [{"0"}, {"2"}]
    assert names_of(nn.Linear(3, 2)) == [{"weight", "bias"}]
    assert names_of(nn.Conv2d(3, 2, 1)) == [{"weight", "bias"}]
    assert parameter_groups(nn.Flatten()) == []


def test_statistics() -> None:
    assert model_statistics(classifier("timm:tf_efficientnet_lite0", 3, weights=None)) == ((0.5,) * 3, (0.5,) * 3)
    assert model_statistics(classifier("resnet18", 3, weights=None)) == fa.IMAGENET
    with torch.device("meta"):  # the one model of torchvision's that differs
        assert model_statistics(classifier("efficientnet_v2_l", 3, weights=None)) == ((0.5,) * 3, (0.5,) * 3)
    assert model_statistics(nn.Linear(3, 2)) == fa.IMAGENET


@pytest.mark.parametrize("name", ["timm:tf_efficientnet_lite0", "resnet18"])
def test_a_new_last_layer_on_pretrained_features_starts_small(name: str) -> None:
    """EfficientNets of timm start theirs with a bound of 1/sqrt(classes): 0.16 for 37, where torch's own is 0.03."""
    pretrained = classifier(name, 1000, weights=None).state_dict()
    model = classifier(name, 37, weights=pretrained)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    assert last.weight.abs().max() <= last.in_features**-0.5
    assert last.weight.std() > 0.4 * last.in_features**-0.5
