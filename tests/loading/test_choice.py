"""Which decoder is taken, and why; and where the photos go from there."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import fastaug as fa
from fastaug.loading import decode, loader
from fastaug.loading.decode import Choice, choose_decoder
from tests.factories import make_loader, run_python

INSTALL = "pip install 'fastaug[dali]' (CUDA 13) or 'fastaug[dali-cuda12]'"
SLOW = f"photos are decoded on the CPU and copied to 'cuda', which is slow. To decode there: {INSTALL}"
BY_NAME = "asked for by name"
ON_CPU = "libjpeg-turbo is the fastest on a CPU, and the device is '{}'"


@pytest.mark.parametrize(
    ("name", "device", "has_dali", "expected"),
    [
        ("auto", "cpu", True, Choice("jpeg", ON_CPU.format("cpu"))),
        ("auto", "cpu", False, Choice("jpeg", ON_CPU.format("cpu"))),
        ("auto", "mps", True, Choice("jpeg", ON_CPU.format("mps"))),
        ("auto", "mps", False, Choice("jpeg", ON_CPU.format("mps"))),
        ("auto", "cuda", True, Choice("dali", "it decodes on the GPU")),
        ("auto", "cuda", False, Choice("jpeg", "DALI, which decodes on the GPU, is not installed", SLOW)),
        *(("jpeg", device, there, Choice("jpeg", BY_NAME)) for device in ("cpu", "mps", "cuda") for there in (0, 1)),
        *(("dali", device, True, Choice("dali", BY_NAME)) for device in ("cpu", "mps", "cuda")),
    ],
)
def test_the_table(name: Any, device: str, has_dali: bool, expected: Choice) -> None:
    assert choose_decoder(name, torch.device(device), has_dali) == expected


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
def test_dali_by_name_without_it_is_an_error(device: str) -> None:
    with pytest.raises(ImportError, match=r"decoder='dali': DALI is not installed\. Install it: pip install 'fastaug"):
        choose_decoder("dali", torch.device(device), False)


def test_no_such_decoder() -> None:
    with pytest.raises(ValueError, match="expected 'auto', 'jpeg' or 'dali', got 'turbo'"):
        choose_decoder("turbo", torch.device("cpu"), True)  # type: ignore[arg-type]


def test_to_choose_costs_no_import() -> None:
    """Optional libraries are imported when they are needed."""
    out = run_python("""
        import sys
        from fastaug.loading import decode
        decode.has_dali()
        print(sorted({"nvidia.dali", "numba", "simplejpeg", "PIL"} & sys.modules.keys()))
    """)
    assert out.strip() == "[]"


@pytest.mark.parametrize("there", [{"nvidia"}, {"nvidia", "nvidia.dali"}, set()])
def test_has_dali(there: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder nvidia is there wherever torch is; without it, to ask for nvidia.dali is an error."""

    def find_spec(name: str) -> object:
        if name == "nvidia.dali" and "nvidia" not in there:
            raise ModuleNotFoundError
        return name if name in there else None

    monkeypatch.setattr(decode, "find_spec", find_spec)
    assert decode.has_dali() == ("nvidia.dali" in there)


class Gpu:
    """Stands for a GPU where there is none: what is copied to "cuda" stays on the CPU, in memory of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.copied: Counter[tuple[int, ...]] = Counter()  # by shape
        self.pinned: list[Tensor] = []
        move = Tensor.to

        def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if torch.device("cuda") not in args:
                return move(tensor, *args, **kwargs)
            assert not kwargs.get("non_blocking") or any(tensor is one for one in self.pinned)
            self.copied[tuple(tensor.shape)] += 1
            return tensor.clone()

        def pin_memory(tensor: Tensor) -> Tensor:
            self.pinned.append(tensor)
            return tensor

        monkeypatch.setattr(Tensor, "to", to)
        monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


def batches_of(some: fa.ImageLoader) -> list[tuple[Tensor, Tensor]]:
    return [(x, y) for x, y, _ in some]


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_without_dali_photos_are_copied_to_the_gpu(
    samples: fa.Samples, mode: Any, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "has_dali", lambda: False)
    settings: dict[str, Any] = {"augment": fa.aug_transforms(size=48), "mode": mode, "batch_size": 10, "presize": 64}
    expected = batches_of(make_loader(samples, **settings))
    assert not gpu.copied
    assert not gpu.pinned  # for the CPU nothing is pinned, whatever the machine has
    with pytest.warns(UserWarning, match="copied to") as caught:
        there = make_loader(samples, device="cuda", **settings)
    assert [str(one.message) for one in caught] == [f"ImageLoader: {SLOW}."]
    assert caught[0].filename == make_loader.__code__.co_filename  # where the loader is made
    assert there.decoder_choice.name == "jpeg"
    with warnings.catch_warnings(action="error"):  # it was said once
        found = batches_of(there)
        batches_of(there)
    for (x, y), (x_cpu, y_cpu) in zip(found, expected, strict=True):
        assert torch.equal(x, x_cpu)
        assert torch.equal(y, y_cpu)
    assert len(gpu.pinned) == gpu.copied[(10,)] == 10  # the targets of two epochs
    if mode == "resize":
        assert gpu.copied[(10, 64, 64, 3)] == 10
    else:  # each photo by itself
        assert sum(count for shape, count in gpu.copied.items() if len(shape) == 3) == 100


def test_with_dali_there_is_no_warning(samples: fa.Samples, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "has_dali", lambda: True)
    with warnings.catch_warnings(action="error"):
        assert make_loader(samples, device="cuda").decoder_choice == Choice("dali", "it decodes on the GPU")
        assert make_loader(samples, device="cuda", decoder="jpeg").decoder_choice == Choice("jpeg", BY_NAME)
    assert gpu.copied == {}


def test_a_loader_says_why(samples: fa.Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "has_dali", lambda: False)
    assert make_loader(samples).decoder_choice == Choice("jpeg", ON_CPU.format("cpu"))
    assert make_loader(samples, device="meta").decoder_choice.reason == ON_CPU.format("meta")
    with pytest.raises(ImportError, match=r"Install it: pip install 'fastaug\[dali\]' .*; or take decoder='jpeg'"):
        make_loader(samples, decoder="dali")


def test_a_dali_that_cannot_be_imported_says_how_to_install_it(
    samples: fa.Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "has_dali", lambda: True)
    monkeypatch.delitem(sys.modules, "fastaug.loading.dali", raising=False)
    for name in [name for name in sys.modules if name.startswith("nvidia.dali")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.delattr("fastaug.loading.dali", raising=False)
    with pytest.raises(ImportError, match=r"DALI's import failed .* Install it: pip install 'fastaug\[dali\]'"):
        next(iter(make_loader(samples, decoder="dali")))
