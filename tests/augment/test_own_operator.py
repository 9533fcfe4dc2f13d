"""Operators that a user writes, as the docs say, work everywhere without touching the package."""

import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import fastaug as fa
from fastaug.augment.augment import Step
from tests.compare import assert_images_close, photo

ROOT = Path(__file__).parents[2]


class RandomShear(fa.Operator):
    """Push the image's upper half to the right and its lower half to the left, or the other way round."""

    uniforms = 2  # random numbers that an image needs

    def __init__(self, degrees, p=1.0):
        super().__init__(p)
        self.degrees = degrees

    def parameters_from(self, u):
        degrees = self.degrees * (2 * u[:, 1] - 1)
        return {"degrees": torch.where(u[:, 0] < self.p, degrees, 0.0)}

    def matrix(self, drawn, frame, size):
        _, height = frame
        slope = torch.tan(torch.deg2rad(drawn["degrees"]))
        matrix = torch.eye(3, dtype=torch.float64).repeat(len(slope), 1, 1)
        matrix[:, 0, 1] = -slope
        matrix[:, 0, 2] = slope * height / 2  # the centre stays where it is
        return matrix, frame


class RandomChannelSwap(fa.Operator):
    """Exchange red and blue."""

    uniforms = 1

    def parameters_from(self, u: Tensor) -> dict[str, Tensor]:
        return {"swapped": u[:, 0] < self.p}

    def color(self, drawn: dict[str, Tensor], batch: int) -> Tensor:
        matrix = torch.eye(3, 4).repeat(batch, 1, 1)
        matrix[drawn["swapped"]] = matrix[drawn["swapped"]][:, [2, 1, 0]]
        return matrix


class RandomBar(fa.Operator):
    """Fill some rows with red."""

    uniforms = 1

    def parameters_from(self, u: Tensor) -> dict[str, Tensor]:
        return {"y": u[:, 0]}

    def erasure(self, drawn: dict[str, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        height, width = size
        top = (drawn["y"] * (height - 2)).long()
        zero = torch.zeros_like(top)
        return torch.stack([zero, top, zero + width, top + 2], 1), torch.tensor([1.0, 0, 0]).expand(len(top), 3)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    root = tmp_path_factory.mktemp("photos")
    for name, (height, width) in {"astronaut": (300, 400), "chelsea": (220, 330), "coffee": (333, 333)}.items():
        (root / "all").mkdir(exist_ok=True)
        Image.fromarray(photo(name)[:height, :width].numpy()).save(root / "all" / f"{name}.jpg", quality=92)
    return fa.Samples.from_folder(root)


def load(samples: fa.Samples, augment: fa.Augment, mode: str = "resize") -> Any:
    loader = fa.ImageLoader(samples, 3, 128, augment, "cpu", mode=mode, return_info=True, num_threads=2)
    ((x, _, info),) = loader
    return x, info


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/how-to/operators.md"])
def test_the_docs_show_this_operator(page: str) -> None:
    assert inspect.getsource(RandomShear) in (ROOT / page).read_text()


def test_alone() -> None:
    images = photo("chelsea", 60, 80)[None].repeat(4, 1, 1, 1)
    op = RandomShear(20)
    assert repr(op) == "RandomShear(degrees=20, p=1.0)"
    out = op(images)
    assert out.shape == (4, 3, 60, 80)
    assert len({float(image.sum()) for image in out}) == 4, "each image has its own draw"
    still = images.permute(0, 3, 1, 2) / 255
    assert_images_close(op.eval()(images), still, 1e-3)
    assert_images_close(RandomShear(20, p=0)(images), still, 1e-3)
    with pytest.raises(ValueError, match=r"RandomShear: expected a probability p in \[0, 1\], got 2"):
        RandomShear(20, p=2)


def test_in_augment_the_points_go_where_the_shear_says() -> None:
    augment = fa.Augment([RandomShear(20), fa.RandomHorizontalFlip(p=1.0), RandomShear(10)], (60, 80))
    params = augment.draw(5, (60, 80))
    first, second = (params.drawn[name]["degrees"].deg2rad().tan() for name in ("RandomShear", "RandomShear-2"))
    moved, _ = fa.transform_points(torch.tensor([[[40.0, 10.0]]]).expand(5, 1, 2), params.matrix, (60, 80))
    expected = torch.stack([80 - (40 + 20 * first) + 20 * second, torch.full((5,), 10.0)], 1)
    torch.testing.assert_close(moved[:, 0], expected.float(), atol=1e-3, rtol=0)
    again = augment.compose(params.drawn, 5, (60, 80))
    assert torch.equal(again.matrix, params.matrix)


@pytest.mark.parametrize("make", [lambda: RandomShear(20), RandomChannelSwap, RandomBar])
def test_under_pickling_and_in_aug_transforms(make: Callable[[], fa.Operator]) -> None:
    augment = fa.aug_transforms(size=32, min_scale=0.5, xtra_tfms=[make()])
    again = pickle.loads(pickle.dumps(augment))
    images = photo("coffee", 60, 80)[None].repeat(3, 1, 1, 1)
    torch.manual_seed(0)
    expected = augment(images)
    torch.manual_seed(0)
    assert torch.equal(again(images), expected)
    assert repr(again) == repr(augment)
    assert type(make()).__name__ in augment.draw(3, (60, 80)).drawn


def test_in_both_modes_of_the_loader(samples: fa.Samples) -> None:
    augment = fa.aug_transforms(size=64, min_scale=0.75, max_rotate=0, normalize=None, xtra_tfms=[RandomShear(15)])
    (resized, info), (direct, other) = load(samples, augment), load(samples, augment, "direct")
    assert torch.equal(info.indices, other.indices)
    assert torch.equal(info.matrix, other.matrix)
    assert (info.params.drawn["RandomShear"]["degrees"].abs() > 0.1).all()
    for index, image, expected in zip(info.indices, direct, resized, strict=True):
        # the rim may differ: where resize mode mirrors its square, direct mode sees the rest of the photo
        difference = (image - expected)[:, 20:44, 20:44].abs() * 255
        assert difference.mean() < 4, f"sample {index}"


def agreement(mask: Tensor, matrix: Tensor, image: Tensor) -> float:
    """In how much of an image its bright part is the warped mask, pixels near the threshold left out."""
    warped, gray = fa.warp_masks(mask.to(torch.uint8)[None], matrix[None], 64)[0], image.mean(0) * 255
    clear = ((gray - 128).abs() > 40) & (warped != 255)
    assert clear.float().mean() > 0.15, "too little to prove anything"
    return float((warped == (gray > 128))[clear].float().mean())


def test_masks_go_through_the_same_matrix(samples: fa.Samples) -> None:
    """Each photo's mask is its bright part; warped, it is the bright part of the warped photo."""
    x, info = load(samples, fa.Augment([RandomShear(25)], 64, normalize=None), "direct")
    for image, index, matrix in zip(x, info.indices, info.matrix, strict=True):
        with Image.open(samples.paths[int(index)]) as picture:
            mask = torch.from_numpy(np.array(picture)).float().mean(-1) > 128
        assert agreement(mask, matrix, image) > 0.97
        assert agreement(mask.flip(1), matrix, image) < 0.9, "another mask is seen"


@pytest.mark.parametrize("normalize", [None, fa.INCEPTION])
def test_one_of_colour(normalize: Any) -> None:
    images = photo("astronaut", 40, 40)[None]
    swapped = fa.Augment([RandomChannelSwap(p=1.0), fa.RandomVerticalFlip(0.0)], 40, normalize=normalize)(images)
    plain = fa.Augment([], 40, normalize=normalize)(images)
    torch.testing.assert_close(swapped, plain[:, [2, 1, 0]])
    assert torch.equal(fa.Augment([RandomChannelSwap(p=0.0)], 40, normalize=normalize)(images), plain)


def test_one_that_erases(samples: fa.Samples) -> None:
    augment = fa.Augment([RandomShear(10), RandomBar()], 64, normalize=fa.INCEPTION)
    for mode in ("resize", "direct"):
        x, info = load(samples, augment, mode)
        for image, (x0, y0, x1, y1) in zip(x, info.params.erase[:, 0].tolist(), strict=True):
            assert (x0, x1, y1 - y0) == (0, 64, 2)
            assert image[:, y0:y1].flatten(1).unique(dim=1).tolist() == [[1.0], [-1.0], [-1.0]]
    with pytest.raises(ValueError, match=r"expected RandomBar after all other operators.*got RandomBar, RandomShear"):
        fa.Augment([RandomBar(), RandomShear(10)], 64)


def test_two_classes_of_one_name_are_two_operators() -> None:
    other = type("RandomShear", (RandomChannelSwap,), {})
    assert list(fa.Augment([RandomShear(10), other()], 64).named_ops()) == ["RandomShear", "RandomShear-2"]


def returning(method: str, value: Any) -> fa.Operator:
    return type("Wrong", (RandomChannelSwap,), {method: lambda self, *arguments: value})()


@pytest.mark.parametrize(
    ("method", "value", "message"),
    [
        ("matrix", (torch.eye(3), None), r"the matrix of Wrong-2 as \[2, 3, 3\], got \[3, 3\]"),
        ("matrix", (torch.eye(4).expand(2, 4, 4), None), r"the matrix of Wrong-2 as \[2, 3, 3\], got \[2, 4, 4\]"),
        ("color", torch.eye(3).expand(2, 3, 3), r"the color of Wrong-2 as \[2, 3, 4\], got \[2, 3, 3\]"),
        ("erasure", (torch.zeros(4), None), r"the rectangle in erasure of Wrong-2 as \[2, 4\], got \[4\]"),
        ("erasure", (torch.zeros(2, 4), torch.zeros(3)), r"the colour in erasure of Wrong-2 as \[2, 3\], got \[3\]"),
    ],
)
def test_wrong_shapes_are_named(method: str, value: Any, message: str) -> None:
    augment = fa.Augment([returning("unused", None), returning(method, value)], 32)
    with pytest.raises(ValueError, match=f"Augment: expected {message}. Return one for each image of the batch"):
        augment.draw(2, (40, 40))


def test_an_observer_is_told_of_each_operator_and_of_the_one_that_fails() -> None:
    seen: list[tuple[str, Step | Exception]] = []

    def observe(name: str, take: Callable[[], Step]) -> Step:
        try:
            seen.append((name, step := take()))
        except Exception as error:
            seen.append((name, error))
            raise
        return step

    augment = fa.Augment([RandomShear(10), fa.RandomResizedCrop(), RandomChannelSwap()], 32)
    torch.manual_seed(0)
    params = augment.draw(2, (40, 50), observe=observe)
    torch.manual_seed(0)
    assert torch.equal(augment.draw(2, (40, 50)).matrix, params.matrix)
    assert [name for name, _ in seen] == list(params.drawn)
    steps = [step for _, step in seen if isinstance(step, Step)]
    assert all(step.drawn is params.drawn[name] for name, step in zip(params.drawn, steps, strict=True))
    torch.testing.assert_close((steps[1].matrix @ steps[0].matrix).float(), params.matrix)
    assert steps[1].frame[0].tolist() == [32, 32]
    seen.clear()
    augment = fa.Augment([RandomShear(10), returning("matrix", (torch.eye(3), None))], 32)
    with pytest.raises(ValueError, match="the matrix of Wrong"):
        augment.draw(2, (40, 50), observe=observe)
    assert [(name, type(what)) for name, what in seen] == [("RandomShear", Step), ("Wrong", ValueError)]
