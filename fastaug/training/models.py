"""Classifiers from torchvision and timm: pretrained weights, a head of the right size, parameter groups.

A model is a body, which is pretrained, and a head, which is the module that ends in the last layer.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import torch
import torchvision
from torch import Tensor, nn

from fastaug.augment.color import model_statistics as model_statistics
from fastaug.loaded import Kind, named, read_torch, reading
from fastaug.text import printable

Head = Literal["linear", "fastai"]
_PLAIN = re.compile(r"[\w.]+")  # names of models; others are addresses, from which timm would download
_PREFIXES = ("module.", "_orig_mod.")
_HEADS = ("fc", "classifier", "heads", "head")  # what torchvision's models call the module that ends in the last layer


class NoHeadError(ValueError):
    """The model does not end in one head behind a body."""


def classifier(
    name: str,
    num_classes: int,
    weights: str | os.PathLike[str] | Mapping[str, Tensor] | None = "DEFAULT",
    head: Head = "linear",
) -> nn.Module:
    """A model for images [B, 3, H, W] -> activations [B, num_classes], pretrained but for a last layer of its own.

    Args:
        name: a classification model of torchvision ("resnet34"), or of timm ("timm:tf_efficientnet_lite0").
        num_classes: outputs of the last layer.
        weights: "DEFAULT": the library's own ImageNet weights, downloaded once. A path to a .pth or .safetensors
            state dict, or the state dict itself: every tensor must fit but those of the last layer. None: random.
            A last layer, or "fastai" head, that fits too is kept: one's own of as many classes, and ImageNet's with
            num_classes=1000. Files of `Learner.save` and `learn.export`, and names that begin with "module." or
            "_orig_mod.", as those of models in DistributedDataParallel or torch.compile, will do.
        head: "linear" keeps the architecture and renews its last layer. "fastai" replaces pooling and head by average
            and max pooling concatenated, batch-norm, dropout .25, 512, ReLU, batch-norm, dropout .5, linear.
    Returns:
        The model on the CPU, in training mode. `model_statistics(model)` says how to normalise its images;
        `model.built_as` remembers name, num_classes, head, and whether it is pretrained.
    Raises:
        ValueError: an unknown name, num_classes < 1, a broken file, weights that do not fit, a head that the model
            cannot have. FileNotFoundError: no file at the path. RuntimeError: no download. ImportError: no timm.
    Source: torchvision 0.29 `get_model`, timm 1.0 `create_model`, fastai 2.8 `create_head`.
    """
    if num_classes < 1:
        raise ValueError(f"classifier: expected num_classes of at least 1, got {num_classes}.")
    if head not in ("linear", "fastai"):
        raise ValueError(f"classifier: expected head 'linear' or 'fastai', got {head!r}.")
    model = _build(name, num_classes)
    state, problem, of_file = None, "", ""
    if weights is not None:
        if not isinstance(weights, Mapping):
            of_file = f" The file is '{printable(os.fspath(weights))}'." if weights != "DEFAULT" else ""
            weights = _downloaded(name) if weights == "DEFAULT" else _read(weights)
        state = _plain_names(weights)
        problem = _load_body(model, state)
        for path in _last_layers(model):  # some architectures start theirs for training from scratch: too large here
            cast(Any, model.get_submodule(path)).reset_parameters()
    model = _with_fastai_head(model, name, num_classes) if head == "fastai" else model
    if state is not None and _fits(model, state):
        model.load_state_dict(state, strict=False)  # num_batches_tracked may be missing
    elif problem:
        raise ValueError(
            f"classifier: expected weights that fit {name!r}, got {problem}. Give this model's state dict.{of_file}"
        )
    built = {"name": name, "num_classes": num_classes, "head": head, "pretrained": weights is not None}
    cast(Any, model).built_as = built
    return model


def parameter_groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """The model's parameters in groups from first layers to last, for `freeze_to` and for rates that grow.

    A ResNet (of torchvision or timm) has three: stem with layer1 and 2, layer3 and 4, head. Any other model that has a
    head has two: body and head. The head is timm's `get_classifier()`, torchvision's fc, classifier, heads or head, or
    else the last linear layer. A model without one of these, or with nothing but one, is a single group.

    Returns:
        Every parameter once, whatever its requires_grad; no empty group.
    Source: fastai 2.8, `_resnet_split` and `default_split`.
    """
    in_head = {id(parameter) for module in _head(model).values() for parameter in module.parameters()}
    layers = [layer for i in range(1, 5) if isinstance(layer := getattr(model, f"layer{i}", None), nn.Module)]
    deep = {id(parameter) for layer in layers[2:] for parameter in layer.parameters()} if len(layers) == 4 else set()
    groups: list[list[nn.Parameter]] = [[], [], []]
    for parameter in model.parameters():
        groups[2 if id(parameter) in in_head else 1 if id(parameter) in deep else 0].append(parameter)
    return [group for group in groups if group]


def layer_table(model: nn.Module, groups: list[list[nn.Parameter]]) -> str:
    """The layers that have parameters of their own: name, kind, number, group, and whether they learn."""
    group_of = {id(parameter): i for i, group in enumerate(groups) for parameter in group}
    rows = [("layer", "kind", "parameters", "group", "")]
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own:
            learns = {parameter.requires_grad for parameter in own}
            state = "trains" if learns == {True} else "frozen" if learns == {False} else "in part"
            of = ",".join(sorted({str(group_of.get(id(parameter), "-")) for parameter in own}))
            rows.append((name or "-", type(module).__name__, f"{sum(p.numel() for p in own):,}", of, state))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    total = sum(p.numel() for p in model.parameters())
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return "\n".join([*lines, f"{total:,} parameters, {learning:,} train"])


def _timm(name: str) -> ModuleType | None:
    """timm, if the name asks for it."""
    if not name.startswith("timm:"):
        return None
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"classifier: expected timm for {name!r}, found none. Run: pip install timm") from error
    return timm


def _build(name: str, num_classes: int) -> nn.Module:
    """The model with random weights and its own kind of head."""
    timm = _timm(name)
    known = timm.list_models() if timm else torchvision.models.list_models(module=torchvision.models)
    short = name.removeprefix("timm:")
    if short.partition(".")[0] not in known or not _PLAIN.fullmatch(short):
        where = "timm" if timm else "torchvision (timm's begin with 'timm:')"
        similar = ", ".join(difflib.get_close_matches(short, known, n=5)) or "nothing"
        raise ValueError(f"classifier: expected a classification model of {where}, got {name!r}. Similar: {similar}.")
    if timm:
        return cast(nn.Module, timm.create_model(short, pretrained=False, num_classes=num_classes))
    model: nn.Module = torchvision.models.get_model(short, weights=None, num_classes=num_classes)
    preset = cast(Any, torchvision.models.get_model_weights(short)).DEFAULT.transforms()
    cast(Any, model).pretrained_cfg = {"mean": preset.mean, "std": preset.std}  # where timm's models have it
    return model


def _downloaded(name: str) -> Mapping[str, Tensor]:
    timm = _timm(name)
    try:
        if timm:
            model = timm.create_model(name.removeprefix("timm:"), pretrained=True)
        else:
            model = torchvision.models.get_model(name, weights="DEFAULT")
    except Exception as error:  # each library and its downloader fail in their own ways; all mean the same here
        raise RuntimeError(
            f"classifier: expected to download the weights of {name!r}, got {type(error).__name__}: {error}. "
            "Check the network, or give weights= a path to a state dict, or None for random weights."
        ) from error
    return cast(Mapping[str, Tensor], model.state_dict())


def _read(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """A state dict from a .pth or .safetensors file; never runs code from the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"classifier: expected weights 'DEFAULT', None or a file, got '{printable(str(path))}'. Check the path."
        )
    with reading("classifier", path, "a file of weights"):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return cast(Mapping[str, Tensor], load_file(path))
        state = read_torch(path)
        for key in ("model", "state_dict"):  # Learner.save's and others' checkpoints
            if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
                state = state[key]
        if not named(Kind("a tensor", _is_plain)).fits(state):
            raise ValueError(
                f"classifier: expected a state dict (names -> tensors) in '{path}', got something else. "
                "Save model.state_dict() alone."
            )
        return cast(Mapping[str, Tensor], state)


def _is_plain(value: object) -> bool:
    """Whether it is a tensor of numbers, all of them there."""
    known = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return known and not (cast(Tensor, value).is_quantized or cast(Tensor, value).is_complex())


def _plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what DistributedDataParallel and torch.compile put before every name."""
    state = dict(state)
    while state and (prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), "")):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _load_body(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Load everything but the last layer, or else say what is missing, left over or of another shape."""
    last = tuple(f"{path}." for path in _last_layers(model))
    own = {key: value.shape for key, value in model.state_dict().items() if not key.startswith(last)}
    given = {key: value for key, value in state.items() if not key.startswith(last)}
    shapes = [(key, value.shape, own[key]) for key, value in given.items() if value.shape != own.get(key, value.shape)]
    wrong = {
        "missing": [key for key in own if key not in given and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in given if key not in own],
        "of another shape": [f"{key} {list(found)} for {list(wanted)}" for key, found, wanted in shapes],
    }
    if any(wrong.values()):
        some = {what: [printable(key[:100]) for key in keys[:5]] for what, keys in wrong.items() if keys}
        lists = {what: ", ".join(keys + ["…"] * (len(wrong[what]) > 5)) for what, keys in some.items()}
        return "; ".join(f"{len(wrong[what])} {what}: {keys}" for what, keys in lists.items())
    model.load_state_dict(given, strict=False)
    return ""


def _fits(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether it is this model's whole, the head included."""
    own, given = (
        {key: value.shape for key, value in one.items() if not key.endswith("num_batches_tracked")}
        for one in (model.state_dict(), state)
    )
    return own == given


def _head(model: nn.Module) -> dict[str, nn.Module]:
    """The module that ends in the last layer, by path; several where a model has several heads."""
    heads: list[nn.Module] = [module for name, module in model.named_children() if name in _HEADS][-1:]
    if callable(getattr(model, "get_classifier", None)):
        found = cast(Any, model).get_classifier()
        heads = list(found) if isinstance(found, tuple) else [found]
    if not any(list(head.parameters()) for head in heads):
        heads = list[nn.Module](module for module in model.modules() if isinstance(module, nn.Linear))[-1:]
    return {path: module for path, module in model.named_modules() if any(module is head for head in heads)}


def head_of(model: nn.Module) -> nn.Module:
    """The module that ends in the last layer.

    Raises:
        NoHeadError: a model with several heads, with none, or that is nothing but its head.
    """
    heads = [head for head in _head(model).values() if head is not model]
    if len(heads) != 1:
        raise NoHeadError(
            f"head_of: expected a model with one head behind a body, got {len(heads)} heads. Use fine_tune."
        )
    return heads[0]


def _last_layers(model: nn.Module) -> list[str]:
    """Paths of the layers that produce the activations: the last linear or convolution of each head."""
    paths = []
    for path, head in _head(model).items():
        inner = [name for name, module in head.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        paths += [f"{path}.{inner[-1]}".rstrip(".")] if inner else []
    return paths


class _ConcatPool(nn.Module):
    """[B, C, H, W] -> [B, 2C, 1, 1]: the average and the maximum of every channel."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)], dim=1)


def _with_fastai_head(model: nn.Module, name: str, num_classes: int) -> nn.Module:
    """Replace pooling and head in place, so that the model stays what it is."""
    path, pool, area = next(iter(_head(model)), ""), getattr(model, "avgpool", None), 1
    try:
        if _timm(name):
            cast(Any, model).reset_classifier(num_classes, global_pool="catavgmax")
        elif not isinstance(pool, nn.AdaptiveAvgPool2d):
            raise TypeError("no average pooling to replace")
        else:  # VGG pools to 7 × 7
            area = math.prod(cast(tuple[int, int], nn.modules.utils._pair(pool.output_size)))
            model.avgpool = _ConcatPool()
        linear = next(module for module in model.get_submodule(path).modules() if isinstance(module, nn.Linear))
    except (AssertionError, AttributeError, StopIteration, TypeError, ValueError) as error:
        raise ValueError(
            f"classifier: expected a model that pools [B, C, H, W] for head='fastai', got {name!r}. Use head='linear'."
        ) from error
    channels = linear.in_features if _timm(name) else 2 * linear.in_features // area
    head = nn.Sequential(
        nn.Flatten(),
        nn.BatchNorm1d(channels),
        nn.Dropout(0.25),
        nn.Linear(channels, 512, bias=False),
        nn.ReLU(),
        nn.BatchNorm1d(512),
        nn.Dropout(0.5),
        nn.Linear(512, num_classes, bias=False),
    )
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    model.set_submodule(path, head)
    return model
