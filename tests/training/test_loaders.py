"""What loaders are asked: one that knows everything, and one that knows nothing."""

from __future__ import annotations

import pytest
import torch

import fastaug as fa
from fastaug.training.checkpoint import random_state, set_random_state
from fastaug.training.loaders import LoaderAdapter
from tests.factories import Batches


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
