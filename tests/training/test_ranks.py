"""Two processes do what one does with the combined batch: torchrun, gloo, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.factories import torchrun
from tests.training.two_ranks import CASES, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """What each rank has after training, and the folder."""
    folder = tmp_path_factory.mktemp("ranks")
    torchrun(2, "-m", "tests.training.two_ranks", str(folder))
    first, second = (torch.load(folder / f"rank{i}.pt", weights_only=False) for i in range(2))
    return first, second, folder


def agree(a: Any, b: Any) -> bool:
    """Whether nested numbers and tensors agree but for rounding."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(agree(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(agree, a, b))
    return torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-4, atol=1e-5)


def test_agree_rejects_a_small_error_anywhere() -> None:
    found = {"a": [torch.ones(3), {"b": 2.0}]}
    assert agree(found, {"a": [torch.ones(3), {"b": 2.000001}]})
    assert not agree(found, {"a": [torch.ones(3), {"b": 2.001}]})
    assert not agree(found, {"a": [torch.tensor([1, 1, 1.001]), {"b": 2.0}]})
    assert not agree(found, {"a": [torch.ones(3)]})


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one(case: str, together: tuple[dict[str, Any], dict[str, Any], Path], tmp_path: Path) -> None:
    first, second, folder = together
    alone = train(case, str(tmp_path))
    for key, value in alone.items():
        assert agree(first[case][key], value), key
        assert agree(second[case][key], value), key
    untrained = torch.load(tmp_path / f"{case}-1.pth", weights_only=True)["model"]
    assert agree(torch.load(folder / f"{case}-2.pth", weights_only=True)["model"], untrained)


def test_the_ranks_rely_on_each_other(together: tuple[dict[str, Any], dict[str, Any], Path], tmp_path: Path) -> None:
    """A rank alone with its half of the batch ends elsewhere: the test above can tell."""
    half = train("uneven", str(tmp_path), part=1, parts=2)
    assert half["gradients"].keys() == together[0]["uneven"]["gradients"].keys() == half["model"].keys()
    for key in ("model", "gradients"):
        assert not agree(together[0]["uneven"][key], half[key])
