import copy
import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

import fastaug as fa
from fastaug.augment.augment import Operator, Params, image_sizes
from fastaug.augment.rng import SampleUniforms
from tests.compare import assert_images_close, photo, random_image
from tests.factories import OPERATORS

IDS = [type(op).__name__ for op in OPERATORS]
PHOTO = photo("chelsea", 60, 60)


def uniforms(n: int, seed: int = 0) -> SampleUniforms:
    return SampleUniforms(seed, 0, list(range(n)))


def drawn(op: Operator, n: int = 10_000, seed: int = 0) -> dict[str, Tensor]:
    return op.parameters_from(uniforms(n, seed)(type(op).__name__, op.uniforms))


@pytest.mark.parametrize("op", OPERATORS, ids=IDS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 13), (33, 20)])
@pytest.mark.parametrize("layout", ["uint8 BHWC", "float32 BCHW", "float16 BHWC", "float64 BCHW strided"])
def test_alone_same_size_out_as_in(op: Operator, height: int, width: int, layout: str) -> None:
    images = torch.stack([random_image(height, width, seed) for seed in range(2)])
    if "float" in layout:
        images = images.to(getattr(torch, layout.split()[0])) / 255
    if "BCHW" in layout:
        images = images.permute(0, 3, 1, 2)
        images = images if "strided" in layout else images.contiguous()
    before = images.clone()
    out = op(images)
    assert out.shape == (2, 3, height, width)
    assert out.dtype == torch.float32
    assert torch.isfinite(out).all()
    assert torch.equal(images, before), "the input was written to"
    assert op(images[:0]).shape == (0, 3, height, width)
    assert op(images[0]).shape == (3, height, width)


@pytest.mark.parametrize("op", OPERATORS, ids=IDS)
def test_alone_eval_changes_nothing(op: Operator) -> None:
    out = copy.deepcopy(op).eval()(PHOTO[None])
    assert_images_close(out[0], PHOTO.permute(2, 0, 1) / 255, 1e-3)


@pytest.mark.parametrize("op", OPERATORS, ids=IDS)
def test_p_zero_changes_nothing(op: Operator) -> None:
    op = copy.deepcopy(op)
    op.p = 0.0
    assert_images_close(op(PHOTO[None])[0], PHOTO.permute(2, 0, 1) / 255, 1e-3)


@pytest.mark.parametrize("op", OPERATORS, ids=IDS)
def test_constant_image_stays_constant(op: Operator) -> None:
    image = torch.full((4, 20, 30, 3), 200, dtype=torch.uint8)
    out = op(image)
    assert (out.amax((2, 3)) - out.amin((2, 3))).max() < 1e-5


@pytest.mark.parametrize("op", OPERATORS, ids=IDS)
def test_pickles_copies_and_prints(op: Operator) -> None:
    again = pickle.loads(pickle.dumps(copy.deepcopy(op)))
    torch.manual_seed(0)
    expected = op(PHOTO[None])
    torch.manual_seed(0)
    assert torch.equal(again(PHOTO[None]), expected)
    assert type(op).__name__ in repr(again)
    assert "p=" in repr(again)


@pytest.mark.parametrize("op", OPERATORS, ids=IDS)
def test_every_image_gets_its_own_draw(op: Operator) -> None:
    torch.manual_seed(0)
    images = PHOTO.expand(16, -1, -1, -1)
    first, second = op(images), op(images)
    distinct = len({tuple(image.flatten()[::97].tolist()) for image in first})
    assert distinct >= {"RandomHorizontalFlip": 2, "RandomVerticalFlip": 2, "RandomDihedral": 6}.get(
        type(op).__name__, 16
    )
    assert not torch.equal(first, second), "the same draws again"


def test_crop_with_a_size() -> None:
    assert fa.RandomResizedCrop(size=24)(PHOTO[None]).shape == (1, 3, 24, 24)
    assert fa.RandomResizedCrop(size=(24, 30)).eval()(PHOTO[None]).shape == (1, 3, 24, 30)


def test_frequencies() -> None:
    assert drawn(fa.RandomHorizontalFlip(0.3))["flipped"].double().mean().item() == pytest.approx(0.3, abs=0.02)
    symmetries = torch.bincount(drawn(fa.RandomDihedral())["symmetry"], minlength=8) / 10_000
    assert (symmetries - 1 / 8).abs().max() < 0.02
    tilt = drawn(fa.RandomPerspective(0.2, p=0.75))
    still_x, still_y = (tilt[name] == 0 for name in ("tilt_x", "tilt_y"))
    assert still_x.double().mean().item() == pytest.approx(0.25, abs=0.02)
    assert (still_x & still_y).double().mean().item() == pytest.approx(1 / 16, abs=0.02)


@pytest.mark.parametrize(
    ("op", "name", "low", "high"),
    [
        (fa.RandomRotation(10), "degrees", -10, 10),
        (fa.RandomRotation((5, 20)), "degrees", 5, 20),
        (fa.RandomZoom((1.0, 1.1)), "zoom", 1, 1.1),
        (fa.RandomPerspective(0.2, p=1.0), "tilt_x", -0.2, 0.2),
        (fa.RandomResizedCrop((0.75, 1.0)), "scale", 0.75, 1),
        (fa.RandomResizedCrop(ratio=(0.5, 2.0)), "ratio", 0.5, 2),
        (fa.ColorJitter(brightness=0.2), "brightness", 0.8, 1.2),
        (fa.ColorJitter(contrast=(0.8, 1.25)), "contrast", 0.8, 1.25),
        (fa.ColorJitter(saturation=3.0), "saturation", 0, 4),
        (fa.ColorJitter(hue=0.1), "hue", -0.1, 0.1),
    ],
)
def test_bounds(op: Operator, name: str, low: float, high: float) -> None:
    values = drawn(op)[name]
    assert low <= values.min() < low + (high - low) * 0.01
    assert high - (high - low) * 0.01 < values.max() <= high


def test_crop_area_and_aspect_are_as_drawn() -> None:
    op, n = fa.RandomResizedCrop((0.3, 0.5), (0.8, 1.25)), 500
    params = fa.Augment([op], 64).draw(n, (100, 100), uniforms=uniforms(n))
    window = torch.linalg.inv(params.matrix)
    width, height = window[:, 0, 0] * 64, window[:, 1, 1] * 64
    chosen = params.drawn["RandomResizedCrop"]
    torch.testing.assert_close(width * height / 10_000, chosen["scale"].float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(width / height, chosen["ratio"].float(), atol=1e-4, rtol=0)
    assert (window[:, :2, 2] >= -1e-3).all()
    assert (window[:, 0, 2] + width <= 100.001).all()


def crops(scale: tuple[float, float], ratio: tuple[float, float], frame: tuple[int, int], n: int = 4000) -> Tensor:
    """Area as a share of the frame's, and aspect, float64 [n, 2], of crops that lie in the frame (height, width)."""
    params = fa.Augment([fa.RandomResizedCrop(scale, ratio)], 64).draw(n, frame, uniforms=uniforms(n))
    window = torch.linalg.inv(params.matrix.double())
    corner, sides = window[:, :2, 2], 64 * torch.stack([window[:, 0, 0], window[:, 1, 1]], 1)
    assert (corner > -1e-3).all()
    assert (corner + sides < torch.tensor(frame[::-1]) + 1e-3).all()
    return torch.stack([sides.prod(1) / (frame[0] * frame[1]), sides[:, 0] / sides[:, 1]], 1)


def torchvisions(scale: tuple[float, float], ratio: tuple[float, float], frame: tuple[int, int]) -> Tensor:
    """The same of torchvision's."""
    torch.manual_seed(0)
    draw = v2.RandomResizedCrop(1, scale, ratio).make_params
    drawn = [draw([torch.empty(3, *frame)]) for _ in range(4000)]
    sides = torch.tensor([[one["width"], one["height"]] for one in drawn], dtype=torch.float64)
    return torch.stack([sides.prod(1) / (frame[0] * frame[1]), sides[:, 0] / sides[:, 1]], 1)


def furthest(a: Tensor, b: Tensor) -> float:
    """Kolmogorov and Smirnov's distance of two samples: of as many as here, above .05 they are of two distributions."""
    at = torch.cat([a, b]).sort().values
    shares = (torch.searchsorted(each.sort().values, at, right=True) / len(each) for each in (a, b))
    return (next(shares) - next(shares)).abs().max().item()


RATIO = (3 / 4, 4 / 3)


@pytest.mark.parametrize("frame", [(460, 460), (100, 130), (90, 40), (50, 150)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0), (1.0, 1.0), (0.2, 0.5)])
@pytest.mark.parametrize("ratio", [RATIO, (1.0, 1.0), (0.3, 3.3), (2.0, 3.0)])
def test_a_crop_has_the_area_and_the_aspect_that_were_asked_for(
    frame: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    area, aspect = crops(scale, ratio, frame, 500).unbind(1)
    assert (aspect > ratio[0] - 1e-4).all()
    assert (aspect < ratio[1] + 1e-4).all()
    whole = frame[1] / frame[0]
    largest = min(1, ratio[1] / whole, whole / ratio[0])  # that a box of such an aspect can have
    if largest < scale[0]:  # then that one
        assert (area - largest).abs().max() < 1e-4
        assert (aspect - min(max(whole, ratio[0]), ratio[1])).abs().max() < 1e-4
    else:
        assert area.min() > scale[0] - 1e-4
        assert area.max() < min(scale[1], largest) + 1e-4
        uniform = torch.linspace(scale[0], min(scale[1], largest), 5000, dtype=torch.float64)
        assert scale[1] == scale[0] or furthest(area, uniform) < 0.07


def test_crops_are_torchvisions_where_every_aspect_fits() -> None:
    got, expected = crops((0.2, 0.6), RATIO, (460, 460)), torchvisions((0.2, 0.6), RATIO, (460, 460))
    assert furthest(got[:, 0], expected[:, 0]) < 0.05
    assert furthest(got[:, 1].log(), expected[:, 1].log()) < 0.05
    for other, column in ((crops((0.25, 0.6), RATIO, (460, 460)), 0), (crops((0.2, 0.6), (0.7, 1.3), (460, 460)), 1)):
        assert furthest(other[:, column], expected[:, column]) > 0.05


def test_difference_large_crops() -> None:
    """Torchvision draws area and aspect anew until they fit, which large areas rarely do; here the aspect follows."""
    got, expected = crops((0.08, 1.0), RATIO, (460, 460)), torchvisions((0.08, 1.0), RATIO, (460, 460))
    fits = 3 / 4  # the largest area that has every aspect
    shares = [(each[:, 0] > fits).double().mean().item() for each in (got, expected)]
    assert shares == pytest.approx([0.25 / 0.92, 0.15], abs=0.02)
    got, expected = (each[each[:, 0] <= fits] for each in (got, expected))
    assert furthest(got[:, 0], expected[:, 0]) < 0.05
    assert furthest(got[:, 1].log(), expected[:, 1].log()) < 0.05


def test_draws_of_which_all_fit_are_as_drawn() -> None:
    drawn = uniforms(50)("RandomResizedCrop", 5)
    op = fa.RandomResizedCrop((0.1, 0.7), RATIO)
    (width, height), named = (100, 100), op.parameters_from(drawn)
    frame = torch.full((50,), 100.0).double(), torch.full((50,), 100.0).double()
    matrix, _ = op.matrix(named, frame, (64, 64))
    area = named["scale"] * width * height
    assert torch.equal(matrix[:, 0, 0], 64 / torch.sqrt(area * named["ratio"]))


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_same_sample_same_parameters_under_any_batch_size(batch_size: int) -> None:
    augment = fa.aug_transforms(size=224, min_scale=0.75)
    whole = augment.draw(64, (460, 460), uniforms=SampleUniforms(1, 2, range(64)))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    for indices in order.split(batch_size):
        part = augment.draw(len(indices), (460, 460), uniforms=SampleUniforms(1, 2, indices))
        assert torch.equal(part.matrix, whole.matrix[indices])
        assert torch.equal(part.color, whole.color[indices])


def test_the_same_operator_twice_draws_twice() -> None:
    augment = fa.Augment([fa.RandomRotation(10), fa.RandomRotation(10), fa.RandomZoom()], 32)
    assert list(augment.named_ops()) == ["RandomRotation", "RandomRotation-2", "RandomZoom"]
    params = augment.draw(50, (40, 40), uniforms=uniforms(50))
    first, second = (params.drawn[name]["degrees"] for name in list(augment.named_ops())[:2])
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.4


def test_generator_repeats_and_is_independent_of_the_global_one() -> None:
    augment = fa.aug_transforms(size=32)
    a, b = (augment.draw(4, (40, 40), generator=torch.Generator().manual_seed(3)).matrix for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, augment.draw(4, (40, 40)).matrix)


def test_replay_gives_the_same() -> None:
    augment = fa.aug_transforms(size=32, min_scale=0.5)
    images = torch.stack([PHOTO, PHOTO.flip(0)])
    params = augment.draw(2, (60, 60))
    first = augment.apply(images, params)
    assert torch.equal(augment.apply(images, params), first)
    again = augment.compose(params.drawn, 2, (60, 60))
    assert torch.equal(again.matrix, params.matrix)
    assert torch.equal(again.color, params.color)
    torch.manual_seed(5)
    once = augment(images)
    torch.manual_seed(5)
    assert torch.equal(augment(images), once)


def test_a_batch_is_its_images_one_by_one() -> None:
    augment = fa.aug_transforms(size=32, min_scale=0.5)
    images = [photo("chelsea", 60, 40), photo("astronaut", 50, 70), photo("coffee", 33, 33)]
    params = augment.draw(3, image_sizes(images))
    together = augment.apply(images, params)
    for i, image in enumerate(images):
        alone = augment.apply(image[None], Params(params.matrix[i : i + 1], params.color[i : i + 1]))
        assert torch.equal(alone[0], together[i])


def test_composition_is_one_operator_after_the_other_in_coordinates() -> None:
    ops = [fa.RandomHorizontalFlip(), fa.RandomRotation(20), fa.RandomZoom(), fa.RandomPerspective(p=1.0)]
    n, frame = 6, (90, 120)
    joined = fa.Augment(ops, frame).draw(n, frame, uniforms=uniforms(n)).matrix.double()
    product = torch.eye(3, dtype=torch.float64)
    for op in ops:
        product = fa.Augment([op], frame).draw(n, frame, uniforms=uniforms(n)).matrix.double() @ product
    torch.testing.assert_close(joined / joined[:, 2:, 2:], product / product[:, 2:, 2:], atol=1e-4, rtol=1e-4)


def test_operators_after_a_crop_work_in_the_crop() -> None:
    """A rotation by 90 degrees after a 2:1 crop to a 2:1 output turns about the output's centre, without stretching."""
    ops = [fa.RandomResizedCrop((0.5, 0.5), (2.0, 2.0)), fa.RandomRotation((90, 90))]
    matrix = fa.Augment(ops, (100, 200)).draw(1, (200, 200)).matrix[0].double()
    scale = matrix[:2, :2]
    torch.testing.assert_close(scale @ scale.T, torch.eye(2, dtype=torch.float64), atol=1e-5, rtol=0)


def test_eval_is_the_whole_frame_normalised() -> None:
    augment = fa.aug_transforms(size=30, min_scale=0.3).eval()
    out = augment(PHOTO[None])
    assert torch.equal(out, augment(PHOTO[None]))
    params = augment.without_chance(1, (60, 60))
    torch.testing.assert_close(params.matrix[0], torch.diag(torch.tensor([0.5, 0.5, 1.0])))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in fa.IMAGENET)
    plain = fa.warp(PHOTO[None], params.matrix, 30)
    torch.testing.assert_close(out, (plain - mean) / std, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_output_dtype_and_layout(dtype: torch.dtype) -> None:
    out = fa.Augment(OPERATORS, (20, 30), dtype=dtype)(PHOTO.expand(3, -1, -1, -1))
    assert out.dtype == dtype
    assert out.shape == (3, 3, 20, 30)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("height", [60, 90])
def test_keep_inside_invents_no_pixel(height: int) -> None:
    """With a white photo on black, an output pixel that is not white was looked up outside the photo."""
    ops = [fa.RandomRotation(45), fa.RandomPerspective(0.4, p=1.0), fa.RandomZoom((0.6, 1.2))]
    white = torch.full((40, height, 60, 3), 255, dtype=torch.uint8)
    torch.manual_seed(0)
    free = fa.Augment(ops, 24, normalize=None, padding="zeros", interpolation="nearest")(white)
    torch.manual_seed(0)
    kept = fa.Augment(ops, 24, normalize=None, padding="zeros", interpolation="nearest", keep_inside=True)(white)
    assert free.min() == 0
    assert kept.min() == 1


def test_size_can_be_changed_between_batches() -> None:
    """What was drawn before keeps its size: batches may be on their way when a schedule changes it."""
    augment, images = fa.aug_transforms(size=32, min_scale=0.5), PHOTO.expand(3, -1, -1, -1)
    uniforms_of_3 = uniforms(3)
    before = augment.draw(3, (60, 60), uniforms=uniforms_of_3)
    small = augment.apply(images, before)
    augment.size = 48
    assert augment.size == (48, 48)
    assert "size=(48, 48)" in repr(augment)
    assert augment(images).shape == (3, 3, 48, 48)
    assert copy.deepcopy(augment).eval()(images).shape == (3, 3, 48, 48)
    assert torch.equal(augment.apply(images, before), small)
    fresh = fa.aug_transforms(size=48, min_scale=0.5).draw(3, (60, 60), uniforms=uniforms_of_3)
    after = augment.draw(3, (60, 60), uniforms=uniforms_of_3)
    assert torch.equal(after.matrix, fresh.matrix)
    assert after[:2].size == (48, 48)
    with pytest.raises(ValueError, match="Augment: expected a size above 0"):
        augment.size = (48, 0)


def test_nn_module_apply_still_works() -> None:
    seen: list[nn.Module] = []
    model = nn.Sequential(fa.aug_transforms(size=32), nn.Conv2d(3, 1, 1))
    model.apply(seen.append)
    assert any(isinstance(module, fa.Augment) for module in seen)
    assert any(isinstance(module, nn.Conv2d) for module in seen)


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (64, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_erasing_fills_its_rectangle_and_nothing_else(size: tuple[int, int], dtype: torch.dtype) -> None:
    """Of the drawn colour, normalised as the photo is; all other pixels are those of the same draw without erasing."""
    color, (mean, std) = (0.2, 0.4, 0.6), fa.IMAGENET
    ops = [fa.RandomRotation(20), fa.ColorJitter(0.3)]
    augment = fa.Augment([*ops, fa.RandomErasing(0.7, value=color)], size, dtype=dtype)
    params, images = augment.draw(12, (60, 60), uniforms=uniforms(12)), PHOTO.expand(12, -1, -1, -1)
    out, plain = augment.apply(images, params), augment.apply(images, Params(params.matrix, params.color))
    fill = torch.tensor([(c - m) / s for c, m, s in zip(color, mean, std, strict=True)]).to(dtype)
    rectangles = params.erase[:, 0].tolist()
    for image, other, (x0, y0, x1, y1) in zip(out, plain, rectangles, strict=True):
        inside = torch.zeros(size, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        assert torch.equal(image[:, ~inside], other[:, ~inside])
        torch.testing.assert_close(image[:, inside], fill[:, None].expand(3, int(inside.sum())))
    erased = [x1 > x0 for x0, _, x1, _ in rectangles]
    assert erased == params.drawn["RandomErasing"]["erased"].tolist()
    assert any(erased)
    assert not all(erased)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_erased_rectangles_are_as_drawn() -> None:
    n, height, width = 4000, 200, 300
    op = fa.RandomErasing(0.5, scale=(0.05, 0.2), ratio=(0.5, 2.0))
    params = fa.Augment([op], (height, width)).draw(n, (60, 60), uniforms=uniforms(n))
    x0, y0, x1, y1 = params.erase[:, 0].double().unbind(1)
    erased = x1 > x0
    assert erased.double().mean().item() == pytest.approx(0.5, abs=0.03)
    assert ((x1 == x0) == (y1 == y0)).all()
    assert (x0.min(), y0.min()) == (0, 0)
    assert (x1.max(), y1.max()) == (width, height)
    area, aspect = ((x1 - x0) * (y1 - y0))[erased] / (height * width), ((x1 - x0) / (y1 - y0))[erased]
    chosen = params.drawn["RandomErasing"]
    torch.testing.assert_close(area, chosen["scale"][erased], atol=0.003, rtol=0)
    torch.testing.assert_close(aspect, chosen["ratio"][erased], atol=0.06, rtol=0)  # whole pixels
    assert 0.05 <= chosen["scale"].min() < 0.052
    assert 0.198 < chosen["scale"].max() <= 0.2
    at = (x0 / (width - (x1 - x0)).clamp(min=1))[erased]
    assert at.mean().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("value", [None, 0.5, "random"])
def test_gradients_flow_around_the_erased_rectangle(value: Any) -> None:
    """0 inside it; outside those of the same draw without erasing. The values are those without gradients."""
    augment = fa.Augment([fa.RandomRotation(20), fa.RandomErasing(0.7, value=value), fa.RandomErasing(0.7)], 24)
    images = torch.rand(6, 3, 30, 30, generator=torch.Generator().manual_seed(0)).requires_grad_()
    params = augment.draw(6, (30, 30), uniforms=uniforms(6))
    plain = Params(params.matrix, params.color)
    weight = torch.rand(6, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    inside = torch.zeros(6, 1, 24, 24, dtype=torch.bool)
    for image, boxes in zip(inside, params.erase.tolist(), strict=True):
        for x0, y0, x1, y1 in boxes:
            image[:, y0:y1, x0:x1] = True
    assert 0 < inside.sum() < inside.numel()
    out = augment.apply(images, params)
    (got,) = torch.autograd.grad((out * weight).sum(), images)
    (expected,) = torch.autograd.grad((augment.apply(images, plain) * weight * ~inside).sum(), images)
    torch.testing.assert_close(got, expected)
    assert out.is_contiguous(memory_format=torch.channels_last)
    reference = fa.Augment(augment.ops, 24, backend="reference")
    assert torch.equal(out.detach(), reference.apply(images.detach(), params))
    with torch.no_grad():
        assert not augment.apply(images, params).requires_grad


def test_erased_area_is_not_less_than_asked_for() -> None:
    op = fa.RandomErasing(1.0, scale=(0.5, 0.9), ratio=(0.3, 3.3))
    x0, y0, x1, y1 = fa.Augment([op], 400).draw(500, (60, 60), uniforms=uniforms(500)).erase[:, 0].double().unbind(1)
    area = (x1 - x0) * (y1 - y0) / 400**2
    assert 0.498 < area.min() < 0.51
    assert 0.89 < area.max() < 0.902


@pytest.mark.parametrize("size", [1, 3, (2, 50)])
def test_a_rectangle_that_does_not_fit_is_shrunk(size: int | tuple[int, int]) -> None:
    augment = fa.Augment([fa.RandomErasing(1.0, scale=(0.9, 1.0), ratio=(0.1, 10.0))], size)
    x0, y0, x1, y1 = augment.draw(200, (60, 60), uniforms=uniforms(200)).erase[:, 0].unbind(1)
    assert (x0 >= 0).all()
    assert (y0 >= 0).all()
    assert (x1 > x0).all()
    assert (y1 > y0).all()
    assert (x1 <= augment.size[1]).all()
    assert (y1 <= augment.size[0]).all()


def test_erasing_values() -> None:
    white = torch.full((30, 20, 20, 3), 255, dtype=torch.uint8)
    for value, normalize, expected in (
        (None, None, 0.0), (None, fa.INCEPTION, 0.0), (0.0, fa.INCEPTION, -1.0), (0.25, None, 0.25)
    ):  # fmt: skip
        augment = fa.Augment([fa.RandomErasing(1.0, value=value)], 20, normalize=normalize)
        assert augment(white).amin((1, 2, 3)).tolist() == [expected] * 30
    augment = fa.Augment([fa.RandomErasing(1.0, value="random")], 20, normalize=fa.INCEPTION)
    drawn = augment.draw(300, (20, 20), uniforms=uniforms(300))
    assert -1 <= drawn.erase_color.min() < -0.95
    assert 0.95 < drawn.erase_color.max() <= 1
    assert len(torch.unique(drawn.erase_color.view(300, 3), dim=0)) == 300


def test_erasing_alone_in_eval_and_twice() -> None:
    op = fa.RandomErasing(1.0)
    out = op(PHOTO[None])
    assert (out == 0).all(1).sum() >= 0.02 * 60 * 60 * 0.9
    assert_images_close(copy.deepcopy(op).eval()(PHOTO[None])[0], PHOTO.permute(2, 0, 1) / 255, 1e-3)
    augment = fa.Augment([op, fa.RandomErasing(1.0, value=1.0)], 60, normalize=None)
    params = augment.draw(20, (60, 60), uniforms=uniforms(20))
    assert params.erase.shape == (20, 2, 4)
    for image, (x0, y0, x1, y1) in zip(
        augment.apply(PHOTO.expand(20, -1, -1, -1), params), params.erase[:, 1].tolist(), strict=True
    ):
        assert (image[:, y0:y1, x0:x1] == 1).all(), "the second lies over the first"
    assert augment.eval().without_chance(2, (60, 60)).erase is None


def test_erasing_is_a_pure_function_of_the_sample() -> None:
    augment = fa.Augment([fa.RandomRotation(5), fa.RandomErasing(value="random")], 24)
    whole = augment.draw(30, (60, 60), uniforms=SampleUniforms(1, 2, range(30)))
    part = augment.draw(3, (60, 60), uniforms=SampleUniforms(1, 2, [7, 3, 20]))
    assert torch.equal(part.erase, whole.erase[[7, 3, 20]])
    assert torch.equal(part.erase_color, whole[[7, 3, 20]].erase_color)


def test_aug_transforms_has_fastais_defaults() -> None:
    ops = {type(op).__name__: op for op in fa.aug_transforms().ops}
    assert list(ops) == ["RandomHorizontalFlip", "RandomPerspective", "RandomRotation", "RandomZoom", "ColorJitter"]
    assert (ops["RandomPerspective"].magnitude, ops["RandomPerspective"].p) == (0.2, 0.75)
    assert (ops["RandomRotation"].degrees, ops["RandomRotation"].p) == ((-10.0, 10.0), 0.75)
    assert (ops["RandomZoom"].scale, ops["RandomZoom"].p) == ((1.0, 1.1), 0.75)
    assert ops["RandomHorizontalFlip"].p == 0.5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"do_flip": False, "max_rotate": 0, "max_zoom": 1, "max_warp": 0, "max_lighting": 0}, []),
        ({"flip_vert": True, "mult": 0}, ["RandomDihedral", "RandomZoom"]),
        ({"do_flip": False, "mult": 0, "max_zoom": 1, "min_scale": 0.5}, ["RandomResizedCrop"]),
        ({"do_flip": False, "mult": 0, "max_zoom": 1, "min_zoom": 0.5}, ["RandomZoom"]),
    ],
)
def test_aug_transforms_leaves_out_what_is_off(arguments: dict[str, float], expected: list[str]) -> None:
    assert [type(op).__name__ for op in fa.aug_transforms(**arguments).ops] == expected


def test_aug_transforms_mult_and_passed_on_settings() -> None:
    augment = fa.aug_transforms(
        mult=2, size=(10, 20), min_scale=0.75, dtype=torch.bfloat16, padding="zeros", normalize=None,
        interpolation="bilinear", backend="reference", keep_inside=True,
    )  # fmt: skip
    ops = list(augment.ops)
    assert ops[1].magnitude == 0.4
    assert ops[2].degrees == (-20, 20)
    assert ops[4].brightness == (0.6, 1.4)
    assert ops[5].contrast == (0.6, 1 / 0.6)
    assert (ops[6].scale, ops[6].ratio) == ((0.75, 1.0), (1.0, 1.0))
    assert augment.size == (10, 20)
    assert (augment.dtype, augment.padding, augment.normalize) == (torch.bfloat16, "zeros", None)
    assert (augment.interpolation, augment.backend, augment.keep_inside) == ("bilinear", "reference", True)


def test_lighting_agrees_with_fastais_at_mid_grey() -> None:
    """fastai adds logit(c) and multiplies logits by k; a matrix can share value and slope at 0.5, and does."""
    logit, sigmoid = (lambda x: math.log(x / (1 - x))), (lambda x: 1 / (1 + math.exp(-x)))
    for c, k in itertools.product((0.4, 0.45, 0.6), (0.8, 1.1, 1.25)):
        jitter = fa.ColorJitter(brightness=0.2)
        neutral = {"contrast": torch.ones(1), "saturation": torch.ones(1), "hue": torch.zeros(1)}
        bright = jitter.color({"brightness": torch.tensor([2 * c]), **neutral}, 1)[0]
        assert bright[0, :3].sum().item() * 0.5 + bright[0, 3].item() == pytest.approx(sigmoid(logit(0.5) + logit(c)))
        jitter = jitter.color({"brightness": torch.ones(1), **neutral, "contrast": torch.tensor([k])}, 1)[0]
        step = 1e-4
        slope = (sigmoid(k * logit(0.5 + step)) - sigmoid(k * logit(0.5 - step))) / (2 * step)
        assert jitter[0, 0].item() == pytest.approx(slope, rel=1e-4)
        assert jitter[0, 0].item() * 0.5 + jitter[0, 3].item() == pytest.approx(0.5)


# Every setting that is a range or a number: the operator, and what is wrong for it beside what is wrong for all.
SETTINGS: list[tuple[type[Operator], str, list[Any]]] = [
    *((op, "p", [-0.1, 1.1, "0.5", (0, 1)]) for op in (*map(type, OPERATORS), fa.RandomErasing)),
    (fa.RandomRotation, "degrees", [-3, (20, 10), (1, 2, 3), "10", None]),
    (fa.RandomZoom, "scale", [1.2, (0, 1), (-1, 1), (1.2, 1.1), (1.0,), "12"]),
    (fa.RandomPerspective, "magnitude", [-0.1, 1, (0, 0.2), "0.2"]),
    *(
        (op, name, bad)
        for op in (fa.RandomResizedCrop, fa.RandomErasing)
        for name, bad in (("scale", [0.5, (0, 1), (-0.5, 1), (0.5, 1.2), (1, 0.5)]), ("ratio", [1, (0, 1), (2, 1)]))
    ),
    *(
        (fa.ColorJitter, name, [-0.2, (-0.2, 0.2), (1.2, 0.8), (0.8, 1.0, 1.2), "0.2", None])
        for name in ("brightness", "contrast", "saturation")
    ),
    (fa.ColorJitter, "hue", [-0.1, 0.6, (-0.6, 0), (0.1, -0.1), (0,), None]),
    (fa.RandomErasing, "value", [-0.1, 2, (0, 0), (0, 0, 2), "noise"]),
]


@pytest.mark.parametrize(
    ("op", "name", "value"),
    [
        (op, name, value)
        for op, name, bad in SETTINGS
        for value in [*bad, math.nan, math.inf, (math.nan, 1.0), (0.5, math.inf), torch.ones(2, 2)]
    ],
)
def test_numbers_that_mean_nothing_are_refused(op: type[Operator], name: str, value: Any) -> None:
    needed = {"degrees": 10} if op is fa.RandomRotation else {}
    with pytest.raises((ValueError, TypeError), match=f"{op.__name__}: expected .*{name}.*, got ") as caught:
        op(**{**needed, name: value})
    assert str(value) in str(caught.value)


def test_numbers_may_be_of_any_kind() -> None:
    assert fa.RandomRotation(np.int64(3)).degrees == (-3, 3)
    assert fa.ColorJitter(brightness=np.float32(0.25)).brightness == (0.75, 1.25)
    assert fa.RandomZoom(np.array([1, 2])).scale == (1, 2)
    assert fa.RandomZoom(torch.tensor([1.0, 1.5])).scale == (1, 1.5)
    assert fa.RandomRotation([-3, 5]).degrees == (-3, 5)
    assert fa.ColorJitter(saturation=3).saturation == (0, 4)


def test_torchvision_refuses_the_same_factors() -> None:
    for name in ("brightness", "contrast", "saturation"):
        with pytest.raises(ValueError):
            v2.ColorJitter(**{name: (-0.2, 0.2)})
        with pytest.raises(ValueError, match=r"factors.* 1 changes nothing"):
            fa.ColorJitter(**{name: (-0.2, 0.2)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fa.RandomHorizontalFlip(1.5), r"RandomHorizontalFlip: expected a probability p in \[0, 1\], got 1.5"),
        (lambda: fa.RandomRotation((20, 10)), "RandomRotation: expected degrees as .min, max."),
        (lambda: fa.RandomRotation(-3), "RandomRotation: expected degrees"),
        (lambda: fa.RandomZoom((0.0, 1.0)), "RandomZoom: expected scale .* above 0"),
        (lambda: fa.RandomZoom(1.2), "RandomZoom: expected scale as .min, max."),
        (lambda: fa.RandomPerspective(1.0), "RandomPerspective: expected a magnitude"),
        (lambda: fa.RandomResizedCrop((0.5, 1.2)), "RandomResizedCrop: expected a scale of at most 1"),
        (lambda: fa.RandomErasing(scale=(0.1, 2.0)), "RandomErasing: expected a scale of at most 1"),
        (lambda: fa.RandomErasing(2.0), "RandomErasing: expected a probability"),
        (lambda: fa.RandomErasing(value=124), r"RandomErasing: expected value to be .* in \[0, 1\].* got 124"),
        (lambda: fa.RandomErasing(value="noise"), "RandomErasing: expected value .* got 'noise'"),
        (
            lambda: fa.Augment([fa.RandomErasing(), fa.RandomZoom()], 32),
            "RandomErasing after all other operators.*Zoom",
        ),
        (lambda: fa.ColorJitter(hue=0.7), "ColorJitter: expected a hue within"),
        (lambda: fa.ColorJitter(brightness=math.nan), "ColorJitter: expected brightness"),
        (lambda: fa.Augment([nn.Identity()], 32), "Augment: expected operators .* got Identity"),
        (lambda: fa.Augment([], 0), "Augment: expected a size above 0"),
        (
            lambda: fa.Augment([], 32, normalize=([0.5] * 2, [0.5] * 2)),
            "normalize: expected .mean, std. with three values",
        ),
        (lambda: fa.Augment([], 32, normalize=((0.5,) * 3, (0.0,) * 3)), "std above 0"),
        (lambda: fa.Augment([], 32, normalize=((0.5,) * 3, (math.nan,) * 3)), "std above 0"),
        (lambda: fa.Augment([], 32, normalize=((124, 116, 104), (58, 57, 57))), "0, 1. units .*Divide by 255"),
        (lambda: fa.Augment([], 32, normalize="imagenet"), "expected .mean, std. .* got imagenet"),
        (lambda: fa.Augment([], 32, interpolation="bicubic"), "Augment: expected interpolation to be one of antialias"),
        (lambda: fa.Augment([], 32, padding="reflect"), "Augment: expected padding .* got 'reflect'"),
        (lambda: fa.Augment([], 32, dtype=torch.uint8), "Augment: expected dtype .* got torch.uint8"),
        (lambda: fa.Augment([], 32, backend="gpu"), "Augment: expected backend .* got 'gpu'"),
        (lambda: fa.Augment(fa.RandomZoom(), 32), r"Augment: expected a list of operators, got RandomZoom. Put it"),
        (lambda: fa.aug_transforms(max_lighting=1), r"max_lighting .* in \[0, 1\), got 1"),
        (lambda: fa.aug_transforms(mult=6), r"max_lighting .* in \[0, 1\), got 1.2"),
        (lambda: fa.Augment([], 32).draw(2, (0, 9)), "draw: expected a size above 0"),
        (lambda: fa.Augment([], 32).draw(2, (9,)), "draw: expected a size above 0"),
        (lambda: fa.Augment([], 32).draw(2, (9, 9), uniforms=uniforms(3)), "expected uniforms for 2 images, got"),
        (lambda: fa.RandomRotation(10)([PHOTO]), "expected images of one size, got a list"),
    ],
)
def test_errors_say_what_was_expected(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((ValueError, TypeError), match=message):
        make()


AUGMENT = fa.aug_transforms(size=16)
GREY = torch.rand(2, 1, 20, 30)


@pytest.mark.parametrize(
    "call", [AUGMENT, copy.deepcopy(AUGMENT).eval(), fa.RandomRotation(10)], ids=["", "eval", "op"]
)
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (Image.new("RGB", (30, 20)), r"got PIL.Image.Image. .*torch.from_numpy\(numpy.array\("),
        (np.zeros((20, 30, 3), np.uint8), r"got numpy.ndarray. .*torch.from_numpy\("),
        (GREY, r"got torch.float32 \[2, 1, 20, 30\].*Grey"),
        (GREY[0], r"got torch.float32 \[1, 1, 20, 30\].*Grey"),
        (GREY[0, 0], r"got torch.float32 \[20, 30\]"),
        (torch.zeros(20, 30, 3, dtype=torch.uint16), "got torch.uint16"),
        ("photo.jpg", "got str"),
    ],
)
def test_images_that_are_none_are_refused_at_once(call: nn.Module, images: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{type(call).__name__}: expected uint8 or float .*{message}"):
        call(images)


def test_a_list_of_images_with_channels_first() -> None:
    images = [photo("chelsea", 40, 30), photo("astronaut", 25, 50)]
    torch.manual_seed(0)
    expected = AUGMENT(images)
    torch.manual_seed(0)
    assert torch.equal(AUGMENT([image.permute(2, 0, 1) for image in images]), expected)
    assert image_sizes([image.permute(2, 0, 1) for image in images]).tolist() == [[40, 30], [25, 50]]


BYTES = photo("chelsea", 40, 60).permute(2, 0, 1)[None].float()  # 0..255


@pytest.mark.parametrize("images", [BYTES, BYTES[0], BYTES.permute(0, 2, 3, 1), BYTES.half(), [*BYTES]])
@pytest.mark.parametrize("call", [AUGMENT, copy.deepcopy(AUGMENT).eval(), fa.ColorJitter(0.1)], ids=["", "eval", "op"])
def test_floats_of_0_to_255_are_refused(call: nn.Module, images: Any) -> None:
    message = rf"{type(call).__name__}: expected floats in \[0, 1\], got up to .*\.to\(torch.uint8"
    with pytest.raises(ValueError, match=message):
        call(images if isinstance(call, fa.Augment) or not isinstance(images, list) else images[0])


def test_floats_that_no_colour_is_counted_in_may_be_large() -> None:
    """Heights, or 0 to 255 that stay so: only moved. And what is a little above 1."""
    assert fa.RandomRotation(10)(BYTES).max() > 100
    assert fa.Augment([fa.RandomZoom()], 20, normalize=None)(BYTES).max() > 100
    assert torch.isfinite(AUGMENT(BYTES / 255 * 3)).all()
    assert not torch.isfinite(AUGMENT(torch.full_like(BYTES, torch.nan))).any()


def test_center_crop_is_done_without_chance_too_and_equals_torchvisions() -> None:
    images = photo("chelsea", 60, 81).permute(2, 0, 1)[None]
    for size in (32, (40, 33), (61, 90), (7, 80)):
        expected = v2.functional.center_crop(images, size)
        for op in (fa.CenterCrop(size), fa.CenterCrop(size).eval()):
            black_outside = fa.Augment([op], size, normalize=None, padding="zeros")
            for mode in (True, False):
                assert torch.equal(black_outside.train(mode)(images.permute(0, 2, 3, 1)).mul(255).round(), expected)
    resized = fa.Augment([fa.RandomRotation(90), fa.CenterCrop(32)], 16, normalize=None).eval()
    cropped = fa.Augment([], 16, normalize=None)(v2.functional.center_crop(images, 32).permute(0, 2, 3, 1))
    found = resized(images.permute(0, 2, 3, 1))
    inner = slice(1, -1)  # pixels at the edge see what lies beyond the crop
    assert torch.allclose(found[..., inner, inner], cropped[..., inner, inner], atol=1e-3)
    assert fa.CenterCrop(32)(images.permute(0, 2, 3, 1)).shape == (1, 3, 32, 32)
