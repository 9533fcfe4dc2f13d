"""The loader as other libraries hold it: an IterableDataset of whole batches, with a length, an epoch and a state."""

import itertools
import pickle
from typing import Any

import pytest
from torch.utils.data import DataLoader, IterableDataset

import fastaug as fa
from fastaug.loading.loader import BatchInfo
from tests.compare import assert_same_batches
from tests.factories import make_loader

AUGMENT = fa.aug_transforms(size=16)


def theirs(test: Any) -> Any:
    """Warnings of the libraries about each other."""
    test = pytest.mark.filterwarnings("ignore::DeprecationWarning:(lightning|torch|torchdata)")(test)
    return pytest.mark.filterwarnings("ignore:.set_vital. is deprecated")(test)


def test_behind_torchs_dataloader(samples: fa.Samples) -> None:
    """What insists on a DataLoader gets one: the same batches, the same length, and nothing is copied."""
    loader = make_loader(samples, augment=AUGMENT)
    assert isinstance(loader, IterableDataset)
    wrapped = DataLoader(loader, batch_size=None)
    assert len(wrapped) == len(loader)
    epochs = [list(wrapped) for _ in range(2)]
    alone = make_loader(samples, augment=AUGMENT)
    for epoch in epochs:
        assert_same_batches(epoch, list(alone))
        assert all(isinstance(info, BatchInfo) for _, _, info in epoch)
    loader.set_epoch(0)
    given: list[int] = []
    warp_batch = loader._warp_batch
    loader._warp_batch = lambda batch: (result := warp_batch(batch), given.append(result[0].data_ptr()))[0]  # type: ignore
    batches = list(wrapped)
    assert_same_batches(batches, epochs[0])
    assert [x.data_ptr() for x, _, _ in batches] == given


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_are_refused(samples: fa.Samples, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would load everything: the epoch would come twice."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)  # how long torch waits for each to end
    wrapped = DataLoader(make_loader(samples, augment=AUGMENT), batch_size=None, num_workers=workers)
    with pytest.raises(RuntimeError, match=rf"a DataLoader with {workers} worker\(s\).* Use .*num_workers=0"):
        next(batches := iter(wrapped))
    batches._shutdown_workers()


@theirs
@pytest.mark.parametrize("done", [1, 7, 8, 13])
def test_torchdatas_stateful_dataloader(samples: fa.Samples, done: int) -> None:
    """Its state holds the loader's, and goes on from it, in an epoch and at its end."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    def wrapped() -> StatefulDataLoader:
        return StatefulDataLoader(make_loader(samples, augment=AUGMENT), batch_size=None)

    whole, cut = wrapped(), wrapped()
    expected = list(whole) + list(whole)
    taken = list(itertools.islice(itertools.chain(cut, cut), done))
    assert_same_batches(taken, expected[:done])
    state, again = pickle.loads(pickle.dumps(cut.state_dict())), wrapped()
    again.load_state_dict(state)
    assert_same_batches(list(again), expected[done : 7 if done < 7 else 14])


@theirs
def test_lightnings_fabric(samples: fa.Samples) -> None:
    """Fabric takes DataLoaders only; it leaves the batches where they are."""
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    loader = make_loader(samples, augment=AUGMENT)
    with pytest.raises(TypeError, match="Only PyTorch DataLoader"):
        fabric.setup_dataloaders(loader)
    wrapped = fabric.setup_dataloaders(DataLoader(loader, batch_size=None))
    assert len(wrapped) == len(loader)
    assert_same_batches(list(wrapped), list(make_loader(samples, augment=AUGMENT)))


def test_accelerates_prepare(samples: fa.Samples) -> None:
    """The loader itself comes back; a DataLoader around it becomes one of Accelerate's and gives the same batches."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    loader = make_loader(samples, augment=AUGMENT)
    assert accelerator.prepare(loader) is loader
    plain = make_loader(samples, augment=AUGMENT, return_info=False)
    wrapped = accelerator.prepare(DataLoader(plain, batch_size=None))
    assert type(wrapped).__module__.startswith("accelerate")
    assert_same_batches(list(wrapped), list(loader))


def counted(loader: fa.ImageLoader, batches: int) -> list[Any]:
    """As Lightning and transformers do it: exactly so many batches, the end is not asked for."""
    iterator = iter(loader)
    return [next(iterator) for _ in range(batches)]


def test_a_state_from_after_the_last_batch_goes_on_with_the_next_epoch(samples: fa.Samples) -> None:
    loader, again, whole = (make_loader(samples, augment=AUGMENT) for _ in range(3))
    n = len(loader)
    first, second = list(whole), list(whole)
    assert_same_batches(counted(loader, n), first)
    state = loader.state_dict()
    assert (state["epoch"], state["delivered"]) == (0, n)
    assert_same_batches(counted(loader, n), second)
    again.load_state_dict(state)
    assert_same_batches(list(again), second)


@pytest.mark.parametrize(("named", "left"), [(0, 0), (1, 7)])
def test_an_epoch_that_is_over_can_be_named(samples: fa.Samples, named: int, left: int) -> None:
    loader, again = (make_loader(samples, augment=AUGMENT) for _ in range(2))
    counted(loader, len(loader))
    again.load_state_dict(loader.state_dict())
    again.set_epoch(named)
    assert len(list(again)) == left
    assert again.state_dict()["epoch"] == named + 1
