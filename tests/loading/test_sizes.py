"""Progressive resizing: the output's size and the presize change between epochs, by hand or by a schedule."""

import itertools
import json
import threading
from typing import Any

import pytest
import torch

import fastaug as fa
from fastaug.loading import loader as loading
from fastaug.warping import cpu
from tests.compare import assert_same_batches
from tests.factories import epoch, make_loader


def fresh(samples: fa.Samples, size: Any, presize: int, number: int, **arguments: Any) -> fa.ImageLoader:
    """A loader that never had other sizes, at an epoch."""
    loader = make_loader(samples, augment=fa.aug_transforms(size=size, min_scale=0.5), presize=presize, **arguments)
    loader.set_epoch(number)
    return loader


SIZES = [(16, 24), ((20, 12), 48), (32, 40)]


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_set_between_epochs_is_as_if_made_so(samples: fa.Samples, mode: str) -> None:
    """Bit for bit the batches of a new loader, matrices included."""
    loader = fresh(samples, *SIZES[0], 0, mode=mode)
    for number, (size, presize) in enumerate(SIZES):
        loader.augment.size, loader.presize = size, presize
        assert_same_batches([epoch(loader)], [epoch(fresh(samples, size, presize, number, mode=mode))])
    with pytest.raises(AssertionError, match="other pixels"):
        assert_same_batches([epoch(loader)], [epoch(fresh(samples, 32, 48, 3, mode=mode))])


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_set_in_an_epoch_leaves_batches_on_their_way_whole(samples: fa.Samples, mode: str) -> None:
    """Each batch is whole, with one presize and one output size, old or new: never some of both in one batch."""
    loader = fresh(samples, 16, 48, 0, mode=mode, prefetch_batches=2)
    pairs = itertools.product((16, 24), (48, 32))
    moments = [list(fresh(samples, size, presize, 0, mode=mode)) for size, presize in pairs]
    seen = []
    for number, (x, _, info) in enumerate(loader):
        if number == 0:
            loader.presize, loader.augment.size = 32, (24, 24)
        options = [batch for batches in moments if (batch := batches[number])[0].shape == x.shape]
        assert any(torch.equal(x, b[0]) and torch.equal(info.matrix, b[2].matrix) for b in options), number
        seen.append(x.shape[-1])
    assert seen == sorted(seen)
    assert set(seen) == {16, 24}


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_a_schedule_sets_them_for_each_epoch(samples: fa.Samples, mode: str) -> None:
    loader = make_loader(
        samples, augment=fa.aug_transforms(size=8, min_scale=0.5), mode=mode, schedule=lambda number: SIZES[number]
    )
    for number, (size, presize) in enumerate(SIZES):
        assert_same_batches([epoch(loader)], [epoch(fresh(samples, size, presize, number, mode=mode))])
    loader.set_epoch(1)
    assert epoch(loader)[0].shape[-2:] == (20, 12)


def test_a_resumed_run_has_the_schedules_sizes(samples: fa.Samples) -> None:
    def made() -> fa.ImageLoader:
        return make_loader(samples, augment=fa.aug_transforms(size=8), schedule=SIZES.__getitem__)

    loader, again = made(), made()
    batches = list(itertools.islice(itertools.chain(loader, loader), 10))
    again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    for (x, _, _), (expected, _, _) in zip([batches[-1], *again], list(fresh_chain(made))[9:], strict=True):
        assert torch.equal(x, expected)


def fresh_chain(made: Any) -> Any:
    loader = made()
    return itertools.chain(list(loader), list(loader))


def test_a_schedule_is_its_own_loaders(samples: fa.Samples) -> None:
    """One Augment in all: what one loader's schedule says reaches no other, and does not stay behind."""
    augment = fa.aug_transforms(size=8)
    train = make_loader(samples, augment=augment, schedule=lambda number: (16 + 8 * number, 48 + number))
    valid = make_loader(samples, augment=augment, training=False)
    same = make_loader(samples, augment=augment, training=False, schedule=train.schedule)
    seen = []
    for _ in range(2):
        batches = [next(iter(loader)) for loader in (train, valid, same)]
        sides = [min(size.tolist()) * info.presize[0, 0, 0].item() for _, _, info in batches for size in info.sizes[:1]]
        seen.append([(x.shape[-1], round(side)) for (x, _, _), side in zip(batches, sides, strict=True)])
        assert (augment.size, [loader.presize for loader in (train, valid, same)]) == ((8, 8), [128, 128, 128])
    assert seen == [[(16, 48), (8, 128), (16, 48)], [(24, 49), (8, 128), (24, 49)]]


def test_the_summary_sees_the_next_epochs_size_and_leaves_the_present_one(samples: fa.Samples) -> None:
    loader = make_loader(samples, augment=fa.aug_transforms(size=8), presize=20, schedule=SIZES.__getitem__)
    next(iter(loader))
    assert "[1, 3, 20, 12]" in str(loader.summary())
    assert "to 48 × 48 (width × height): resized with the Lanczos filter" in str(loader.summary())
    assert (loader.augment.size, loader.presize) == ((8, 8), 20)


def test_nothing_is_built_again(samples: fa.Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another size costs no compilation and no more decoders or threads than another epoch does."""
    made: list[int] = []

    def counted(*arguments: Any, make: Any = loading.make_decoder) -> Any:
        made.append(1)
        return make(*arguments)

    monkeypatch.setattr(loading, "make_decoder", counted)
    loader = fresh(samples, 16, 24, 0)
    operators, targets = list(loader.augment.ops), loader._batch_targets
    epoch(loader)
    kernels, threads = compiled(), threading.active_count()
    for size, presize in SIZES[1:]:
        loader.augment.size, loader.presize = size, presize
        epoch(loader)
    assert compiled() == kernels
    assert kernels, "the CPU kernel was used, and is Numba's"
    assert threading.active_count() <= threads
    assert len(made) == 3
    assert loader._batch_targets is targets
    assert list(loader.augment.ops) == operators


def compiled() -> dict[str, int]:
    """Numba's functions in the CPU backend, and for how many types each of them was compiled."""
    functions = {name: f for name, f in vars(cpu).items() if hasattr(f, "signatures")}
    return {name: len(f.signatures) for name, f in functions.items() if f.signatures}


def test_a_schedule_needs_an_augment(samples: fa.Samples) -> None:
    with pytest.raises(ValueError, match="schedule needs an augment, whose size it sets"):
        make_loader(samples, schedule=lambda number: (16, 32))


def test_a_wrong_size_in_a_schedule_is_named(samples: fa.Samples) -> None:
    loader = make_loader(samples, augment=fa.aug_transforms(size=8), schedule=lambda number: (0, 32))
    with pytest.raises(ValueError, match="Augment: expected a size above 0"):
        next(iter(loader))
