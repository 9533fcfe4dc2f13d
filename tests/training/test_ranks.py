"""Two processes do what one does with the combined batch: torchrun, gloo, on the CPU."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.factories import encode, torchrun
from tests.training.two_ranks import CASES, FAILURES, Failing, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """What each rank has after training, and the folder."""
    folder = tmp_path_factory.mktemp("ranks")
    for number in range(16):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9, 3), np.uint8)
        (folder / f"{number}.png").write_bytes(encode(pixels, "PNG") if number % 3 else b"bad")
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


@pytest.mark.parametrize("how", FAILURES)
def test_a_rank_without_validation_neither_ends_the_run_nor_holds_up_the_others(
    how: str, together: tuple[dict[str, Any], dict[str, Any], Path]
) -> None:
    """What the other ranks read counts, if this one has read nothing; nothing, if it got stuck in the middle."""
    first, second, _ = together
    assert agree(first[how]["model"], second[how]["model"])
    assert [row["epoch"] for row in first[how]["rows"]] == [0, 1]
    row = first[how]["rows"][-1]
    if how == "half":
        for row in (*first[how]["rows"], *second[how]["rows"]):
            assert all(math.isnan(row[name]) for name in ("valid_loss", "accuracy", "auroc"))
        assert "at most 50% bad files" in second[how]["preds"]
        assert "another rank" in first[how]["preds"]
        return
    x, y = (torch.cat(parts) for parts in zip(*((x, y) for x, y, _ in Failing(how, 0)), strict=True))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    model.load_state_dict(first[how]["model"])
    activations = model(x).detach()
    assert agree(first[how]["rows"], second[how]["rows"])
    assert row["valid_loss"] == pytest.approx(float(nn.functional.cross_entropy(activations, y)), rel=1e-5)
    assert row["accuracy"] == pytest.approx(float((activations.argmax(1) == y).float().mean()))
    for found in (first, second):
        assert agree(list(found[how]["preds"]), [activations.softmax(1), y])
    assert first[how]["warned"] == []
    assert len(second[how]["warned"]) == (2 if how == "bad" else 0)  # once an epoch
    assert all("this rank has no part in the validation: ImageLoader: exp" in text for text in second[how]["warned"])


def test_the_checkpoint_has_the_bad_files_of_all_ranks(together: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    first, second, folder = together
    every = {str(folder / f"{number}.png") for number in range(0, 16, 3)}
    met, other = ({path for path, _ in found["kept out"][0]} for found in (first, second))
    assert met
    assert other
    assert met | other == every
    assert not met & other
    for found in (first, second):
        assert {path for path, _ in found["kept out"][1]} == every
    assert {row for row, _, _ in torch.load(folder / "bad.pth")["loader"]["quarantined"]} == {*range(0, 16, 3)}
