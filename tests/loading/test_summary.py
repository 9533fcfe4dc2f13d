"""The walk of one sample: what it says is what the loader does, and each step that can fail says so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import fastaug as fa
from fastaug.augment.augment import Drawn, Frame

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(4):
        (root / "ab"[i % 2]).mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 3 else 1
        pixels = rng.integers(0, 256, (50, 70 + i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "ab"[i % 2] / f"{i}.jpg", exif=exif)
    return fa.Samples.from_folder(root)


def loader(samples: fa.Samples, augment: Any = "default", **settings: Any) -> fa.ImageLoader:
    if augment == "default":
        augment = fa.aug_transforms(size=16, min_scale=0.75)
    return fa.ImageLoader(samples, 2, 40, augment, "cpu", **settings)


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d{4}", text)]


@pytest.mark.parametrize("mode", ["resize", "direct"])
def test_it_says_what_the_loader_does(mode: str, photos: fa.Samples) -> None:
    with loader(photos, mode=mode, seed=3, return_info=True) as images:
        next(iter(images))  # an epoch that is left early: the next one is walked
        before = images.state_dict()
        walks = [images.summary(row) for row in range(4)]
        assert images.state_dict() == before
        seen = []
        for x, y, info in images:
            for i, row in enumerate(info.indices.tolist()):
                steps = dict(walks[row].steps)
                assert walks[row].failed is None
                assert steps["sample"] == f"row {row} of 4, epoch 1: {photos.paths[row]}"
                assert steps["read"] == f"{Path(photos.paths[row]).stat().st_size:,} bytes"
                height, width = info.sizes[i].tolist()
                assert steps["decode"].startswith(f"{width} × {height} pixels (width × height), RGB")
                assert ("turned upright (EXIF orientation 6)" in steps["decode"]) is photos.paths[row].endswith("3.jpg")
                found = numbers(steps["matrix"])
                assert found[:9] == pytest.approx(info.matrix[i].flatten().tolist(), abs=6e-5)
                assert found[9:] == pytest.approx(info.params.color[i].flatten().tolist(), abs=6e-5)
                for name, drawn in info.params.drawn.items():
                    for key, value in drawn.items():
                        (word,) = re.findall(rf"\b{key} (\S+?)(?:,|$)", steps[name])
                        assert word == format(value[i].item(), ".4g" if value.is_floating_point() else "")
                low, high = (float(word) for word in re.findall(r"16\], (\S+) to (\S+)", steps["warp"])[0])
                assert (low, high) == pytest.approx((x[i].min().item(), x[i].max().item()), rel=1e-3)
                assert steps["target"] == f"{y[i]}, {'ab'[y[i]]!r} of 2 classes"
                x0, y0 = (float(word) for word in re.findall(r"at x (\S+), y (\S+),", steps["presize"])[0])
                square = torch.tensor([[x0, y0, 1.0], [x0 + min(height, width), y0 + min(height, width), 1.0]])
                corners = info.presize[i] @ square.T
                assert corners[:2].flatten().tolist() == pytest.approx([0, 40, 0, 40], abs=0.02)
                seen.append(row)
        assert sorted(seen) == [0, 1, 2, 3]
    assert "FAILED" not in str(walks[0])
    assert len({str(walk) for walk in walks}) == 4


def test_without_chance_and_without_an_augment(photos: fa.Samples) -> None:
    steps = dict(loader(photos, training=False).summary(1).steps)
    assert list(steps) == ["sample", "read", "decode", "presize", "augment", "matrix", "warp", "target"]
    assert steps["augment"].startswith("nothing random")
    steps = dict(loader(photos, fa.Augment([fa.CenterCrop(20)], 20), training=False).summary(1).steps)
    assert "augment" not in steps
    assert "CenterCrop" in steps
    steps = dict(loader(photos, None).summary(1).steps)
    assert list(steps) == ["sample", "read", "decode", "presize", "matrix", "output", "target"]
    assert "uint8 [1, 40, 40, 3]" in steps["output"]
    with pytest.raises(ValueError, match=r"summary: expected a row 0\.\.3 of the samples, got 4"):
        loader(photos).summary(4)


# Each step that can fail


class Broken(fa.RandomRotation):
    """Fails where it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__(10)
        self.where = where

    def parameters_from(self, u: Tensor) -> Drawn:
        if self.where == "draw":
            raise KeyError("no degrees")
        return super().parameters_from(u)

    def matrix(self, drawn: Drawn, frame: Frame, size: tuple[int, int]) -> tuple[Tensor, Frame]:
        matrix, frame = super().matrix(drawn, frame, size)
        if self.where == "nan":
            matrix = matrix * float("nan")
        return (matrix[:, :2], frame) if self.where == "shape" else (matrix, frame)


def broken_file(tmp_path: Path, content: bytes | None) -> fa.Samples:
    if content is not None:
        (tmp_path / "x.jpg").write_bytes(content)
    return fa.Samples([tmp_path / "x.jpg", tmp_path / "x.jpg"], [0, 1], ["a", "b"])


@pytest.mark.parametrize(
    ("content", "step", "reason"),
    [
        (None, "read", r"x\.jpg: No such file or directory"),
        (b"", "read", r"x\.jpg: the file is empty"),
        (b"no photo", "decode", "."),
        ("half", "decode", "."),
    ],
)
def test_files_that_fail(content: Any, step: str, reason: str, tmp_path: Path, photos: fa.Samples) -> None:
    if content == "half":
        content = Path(photos.paths[0]).read_bytes()
        content = content[: len(content) // 2]
    images = loader(broken_file(tmp_path, content))
    walk = images.summary(1)
    assert walk.failed == step
    assert re.search(reason, walk.reason)
    last = str(walk).splitlines()[-1]
    assert last.startswith(step)
    assert "FAILED: " in last
    assert walk.steps[-1][0] == {"read": "sample", "decode": "read"}[step]
    assert images.quarantined == []


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("draw", "KeyError: 'no degrees'"),
        ("nan", r"ValueError: expected a finite matrix \[1, 3, 3\], got \[\[\[nan"),
        ("shape", r"ValueError: Augment: expected the matrix of Broken as \[1, 3, 3\], got \[1, 2, 3\]"),
    ],
)
def test_an_operator_that_fails(where: str, reason: str, photos: fa.Samples) -> None:
    ops = [fa.RandomHorizontalFlip(), Broken(where), fa.RandomResizedCrop()]
    walk = loader(photos, fa.Augment(ops, 16)).summary()
    assert walk.failed == "Broken"
    assert re.match(reason, walk.reason)
    assert walk.steps[-1][0] == "RandomHorizontalFlip"
    assert "RandomResizedCrop" not in str(walk)


def test_a_warp_that_fails(photos: fa.Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = loader(photos, fa.Augment([], 16, backend="triton")).summary()
    assert walk.failed == "warp"
    assert "triton" in walk.reason
    assert walk.steps[-1][0] == "matrix"
    augment = fa.Augment([], 16)
    monkeypatch.setattr(augment, "apply", lambda images, params: torch.full((1, 3, 16, 16), float("nan")))
    walk = loader(photos, augment).summary()
    assert (walk.failed, walk.reason[:36]) == ("warp", "ValueError: expected finite numbers,")
