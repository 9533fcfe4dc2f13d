"""The examples of other tasks than one class a photo: each learns from the photos that it draws, in the real library.

Targets of other photos, or masks and boxes that are warped otherwise than their photo, do not reach these figures.
"""

from __future__ import annotations

import importlib
import itertools
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.segmentation.lraspp import LRASPP
from torchvision.ops import MultiScaleRoIAlign

pytestmark = pytest.mark.usefixtures("one_thread")


def layers(*channels: int) -> nn.Sequential:
    """Halves the sides with each layer."""
    return nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in itertools.pairwise(channels)
        )
    )


def lraspp() -> LRASPP:
    backbone = nn.Sequential(OrderedDict(low=layers(3, 16, 32), high=layers(32, 32, 32)))
    return LRASPP(IntermediateLayerGetter(backbone, {"low": "low", "high": "high"}), 32, 32, num_classes=3)


def faster_rcnn() -> FasterRCNN:
    backbone: Any = layers(3, 16, 32, 32)
    backbone.out_channels = 32
    few = {f"rpn_{when}_nms_top_n_{part}": 32 for when in ("pre", "post") for part in ("train", "test")}
    return FasterRCNN(
        backbone,
        min_size=64,
        max_size=64,
        rpn_anchor_generator=AnchorGenerator(((16, 24, 32),), ((1.0,),)),
        rpn_batch_size_per_image=32,
        box_roi_pool=MultiScaleRoIAlign(["0"], 4, 2),
        box_head=nn.Sequential(nn.Flatten(), nn.Linear(32 * 4 * 4, 64), nn.ReLU()),
        box_predictor=FastRCNNPredictor(64, num_classes=3),
        box_batch_size_per_image=16,
        **few,
    )


def encoder() -> nn.Sequential:
    return nn.Sequential(layers(3, 16, 32, 64), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 512))


class Task(NamedTuple):
    """least: of the figure that the example returns."""

    count: int
    side: int
    arguments: dict[str, Any]
    least: float
    model: Callable[[], nn.Module] | None = None


TASKS = {
    "segmentation": Task(40, 64, {"size": 48, "batch_size": 8, "epochs": 14, "lr": 1e-2}, 0.82, lraspp),
    "detection": Task(60, 64, {"size": 64, "batch_size": 8, "epochs": 10, "lr": 7e-3}, 0.6, faster_rcnn),
    "simclr": Task(64, 64, {"size": 32, "batch_size": 16, "epochs": 20, "lr": 1e-3}, 0.4, encoder),
    "multi_label": Task(60, 40, {"size": 32, "batch_size": 8, "epochs": 6, "lr": 1e-2,
                                 "model_name": "timm:test_resnet", "weights": None}, 0.9),
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_it_learns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, example = TASKS[name], importlib.import_module(f"examples.{name}")
    torch.manual_seed(0)
    made = {} if task.model is None else {"encoder" if name == "simclr" else "model": task.model()}
    monkeypatch.setattr(example, "draw", partial(example.draw, count=task.count, side=task.side))
    assert example.main(**task.arguments, **made) >= task.least


def test_objects_that_are_found() -> None:
    found = importlib.import_module("examples.detection").found
    target = {"boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]]), "labels": torch.tensor([1, 2])}

    def share(boxes: Tensor, *labels: int) -> list[bool]:
        return found({"boxes": boxes, "labels": torch.tensor(labels)}, target).tolist()

    boxes, beside = target["boxes"], torch.tensor([[12.0, 0, 22, 10]])
    assert share(boxes.flip(0), 2, 1) == [True, True]
    assert share(boxes, 2, 1) == [False, False], "of other classes"
    assert share(boxes + torch.tensor([4.0, 0, 4, 0]), 1, 2) == [False, True], "IoU 6/14 and 16/24"
    assert share(torch.cat([beside, boxes]), 1, 1, 2) == [True, False], "two objects, so two boxes count"
    assert share(boxes[:0]) == [False, False]


def test_views_that_find_their_own_photo() -> None:
    nt_xent = importlib.import_module("examples.simclr").nt_xent
    first = torch.eye(4)
    loss, share = nt_xent(first, first)
    others, none = nt_xent(first, first.roll(1, 0))
    assert (share, none) == (1, 0)
    assert loss < 0.1 < others
