"""What loaders are asked: one that knows everything, and one that knows nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastaug as fa
from fastaug.training.checkpoint import random_state, set_random_state
from fastaug.training.loaders import LoaderAdapter
from tests.factories import Batches, tiny


def test_an_image_loader_knows_its_samples_and_augment() -> None:
    samples = fa.Samples(["a.jpg", "b.jpg", "c.jpg"], [1, 0, 1], ["x", "y"])
    augment = fa.Augment([], 8, normalize=fa.IMAGENET)
    own = fa.ImageLoader(samples, 2, 8, augment, "cpu")
    loader = LoaderAdapter(own)
    assert (loader.classes, loader.paths, loader.counts) == (["x", "y"], samples.paths, {"x": 1, "y": 2})
    assert (loader.augment, loader.normalize, loader.generator) == (augment, fa.IMAGENET, None)
    assert not own.return_info
    assert loader.with_rows().return_info  # type: ignore[attr-defined]
    assert not own.return_info


def test_a_loader_knows_its_place() -> None:
    own = Batches()
    loader = LoaderAdapter(own)
    loader.set_epoch(3)
    assert loader.position() == {"epoch": 3, "delivered": 0}
    loader.go_to({"epoch": 2, "delivered": 1})
    loader.go_to(None)
    assert (own.epoch, own.delivered) == (2, 1)
    assert own.state_dict() == loader.position()


def test_a_list_knows_nothing() -> None:
    own = [(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))]
    loader = LoaderAdapter(own)
    loader.set_epoch(3)
    loader.go_to({"epoch": 2})
    assert (loader.classes, list(loader.paths), loader.counts) == ([], [], {})
    assert loader.position() is loader.generator is loader.augment is loader.normalize is None
    assert loader.with_rows() is own


def test_generators_are_kept_and_missed() -> None:
    generator = torch.Generator().manual_seed(3)
    images = torch.utils.data.TensorDataset(torch.arange(12))
    assert LoaderAdapter(torch.utils.data.DataLoader(images, generator=generator)).generator is generator
    state = random_state(generator)
    drawn = torch.rand(2, generator=generator)
    set_random_state(state, generator)
    assert torch.equal(drawn, torch.rand(2, generator=generator))
    with pytest.raises(ValueError, match="expected a loader with a generator"):
        set_random_state(state)


IMAGES = torch.utils.data.TensorDataset(torch.zeros(4, 3, 8, 8), torch.zeros(4).long())


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ("photos", "got the string 'photos'.*fa.Samples.from_folder.*fa.ImageLoader"),
        (Path("photos"), r"got the path .*fa.ImageLoader"),
        (fa.Samples(["a.jpg"] * 4, [0, 0, 1, 1], ["x", "y"]), r"got Samples. .*fa.ImageLoader\(samples, …\)"),
        (IMAGES, r"got TensorDataset. .*DataLoader\(dataset, batch_size=64\)"),
        (torch.utils.data.Subset(IMAGES, [0]), r"got Subset. .*DataLoader\(dataset, batch_size=64\)"),
        (tiny(), r"got Sequential, a model. .*Learner\(train_loader, valid_loader, model\)"),
        (3, "got int"),
    ],
)
def test_what_is_no_loader_is_refused_where_it_is_given(loader: Any, message: str) -> None:
    for loaders, name in (((loader, None), "train_loader"), ((Batches(), loader), "valid_loader")):
        with pytest.raises(TypeError, match=f"Learner: expected {name} to be a loader of batches, {message}"):
            fa.Learner(*loaders, tiny(), device="cpu")


def test_what_is_no_model_is_refused_where_it_is_given() -> None:
    for model in ("resnet18", nn.Linear, None):
        with pytest.raises(TypeError, match=r"Learner: expected a model, .*fa.classifier\("):
            fa.Learner(Batches(), None, model, device="cpu")
