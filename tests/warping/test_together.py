"""Several warps at once are the warps one by one, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastaug as fa
from fastaug.augment.augment import apply_together
from fastaug.warping import cpu
from fastaug.warping.warp import Call, Interpolation, Padding, warp, warp_together

SIZES = [(40, 30), (7, 13), (64, 65), (1, 1), (20, 50)]


def photos(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8) for size in SIZES]


def matrices(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.eye(3) + torch.randn(len(SIZES), 3, 3, generator=generator) * torch.tensor([0.2, 0.2, 5e-4])[:, None]


def calls(images: list[Tensor]) -> list[Call]:
    settings: list[tuple[int | tuple[int, int], Interpolation, Padding, torch.dtype]] = [
        (24, "antialias", "reflection", torch.float32),
        ((9, 33), "bilinear", "zeros", torch.float16),
        (5, "nearest", "border", torch.float32),
    ]
    color = torch.rand(len(SIZES), 3, 4, generator=torch.Generator().manual_seed(9))
    return [
        Call(images, matrices(i), size, interpolation, padding, color if i else None, dtype)
        for i, (size, interpolation, padding, dtype) in enumerate(settings)
    ]


def test_together_is_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    several = calls(photos())
    expected = [warp(*call) for call in several]
    asked: list[int] = []
    ours = cpu.warp_together
    monkeypatch.setattr(cpu, "warp_together", lambda given: asked.append(len(given)) or ours(given))
    for one, other in zip(warp_together(several), expected, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
        assert one.stride() == other.stride()
    assert asked == [3]
    swapped = warp_together([several[0], several[0]._replace(matrix=several[1].matrix)])
    assert not torch.equal(swapped[1], expected[0])


@pytest.mark.parametrize("change", [{"dtype": torch.float64}, {"backend": "reference"}, {"images": photos()[:0]}])
def test_what_another_backend_does_goes_one_by_one(change: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "warp_together", None)
    several = calls(photos())
    if "images" in change:
        several = [call._replace(matrix=call.matrix[:0], color=None) for call in several]
        several[0] = several[0]._replace(images=[])
    several[1:] = [call._replace(**change) for call in several[1:]]  # type: ignore[arg-type]
    for one, call in zip(warp_together(several), several, strict=True):
        assert torch.equal(one, warp(*call))


def test_floats_and_batches_and_errors() -> None:
    batch = torch.randint(0, 256, (5, 20, 30, 3), dtype=torch.uint8)
    several = [Call(batch, matrices(1), 16), Call(batch.float() / 255, matrices(2), 8)]
    for one, call in zip(warp_together(several), several, strict=True):
        assert torch.equal(one, warp(*call))
    singular = several[0]._replace(matrix=torch.zeros(5, 3, 3))
    with pytest.raises(ValueError, match="expected invertible matrices"):
        warp_together([several[0], singular])
    with pytest.raises(ValueError, match=r"expected a float matrix \[5, 3, 3\]"):
        warp_together([several[0], several[0]._replace(matrix=torch.zeros(4, 3, 3))])


def test_augments_together() -> None:
    images = torch.randint(0, 256, (4, 30, 40, 3), dtype=torch.uint8)
    large = fa.Augment([fa.RandomRotation(20), fa.RandomErasing(1.0)], 24)
    small = fa.Augment([fa.RandomResizedCrop((0.1, 0.5)), fa.ColorJitter(0.4)], 12, dtype=torch.float16)
    each = [(one, images, one.draw(4, (30, 40))) for one in (large, small, large)]
    for x, (augment, _, params) in zip(apply_together(each), each, strict=True):
        assert torch.equal(x, augment.apply(images, params))

    class Own(fa.Augment):
        def apply(self, images, params=None):  # type: ignore[no-untyped-def]
            return super().apply(images, params) + 1

    own = Own([fa.RandomRotation(20)], 24)
    params = own.draw(4, (30, 40))
    x, _ = apply_together([(own, images, params), (large, images, each[0][2])])
    assert torch.equal(x, fa.Augment([], 24).apply(images, params) + 1)
