import kornia
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from fastaug.augment import color
from tests.compare import assert_images_close, photo

IMAGE = photo("astronaut", 60, 80).permute(2, 0, 1).double() / 255


def recolor(matrix: Tensor, image: Tensor = IMAGE) -> Tensor:
    return torch.einsum("dc,chw->dhw", matrix[0, :, :3], image) + matrix[0, :, 3, None, None]


def factor(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize("value", [0.0, 0.5, 0.8, 1.0])
def test_brightness_and_saturation_are_torchvisions(value: float) -> None:
    got = recolor(color.brightness_matrix(factor(value)))
    assert_images_close(got, v2.functional.adjust_brightness(IMAGE, value), 1e-3)
    got = recolor(color.saturation_matrix(factor(value)))
    assert_images_close(got, v2.functional.adjust_saturation(IMAGE, value), 0.05)  # its luma weights add up to 0.9999


@pytest.mark.parametrize("value", [0.0, 0.5, 0.9, 1.0])
def test_contrast_is_torchvisions_about_mid_grey(value: float) -> None:
    flat = IMAGE - v2.functional.rgb_to_grayscale(IMAGE).mean() + 0.5  # an image whose mean luma is mid-grey
    flat = 0.5 + (flat - 0.5) / (flat - 0.5).abs().max() / 2
    flat = flat - v2.functional.rgb_to_grayscale(flat).mean() + 0.5
    inside = flat.clamp(0, 1)
    got, expected = (
        recolor(color.contrast_matrix(factor(value)), inside),
        v2.functional.adjust_contrast(inside, value),
    )
    assert_images_close(got, expected, 0.5)


SIX = torch.tensor([[200, 60, 60], [190, 150, 50], [70, 180, 80], [60, 160, 170], [70, 80, 190], [170, 60, 160]])


def angles(rgb: Tensor) -> Tensor:
    """Hue in turns, from colours [N, 3]: the angle about grey, red at 0, green at 1/3."""
    r, g, b = rgb.double().unbind(1)
    return torch.atan2(3**0.5 * (g - b), 2 * r - g - b) / (2 * torch.pi)


def assert_turns_alike(got: Tensor, expected: Tensor, before: Tensor, turns: float) -> None:
    """Colours [N, 3] whose hue went as the expected ones', within half the turn: YIQ and HSV have other angles."""
    went, should = ((angles(colors) - angles(before) + 0.5) % 1 - 0.5 for colors in (got, expected))
    apart = (went - should).abs().max().item()
    assert apart <= abs(turns) / 2, f"expected hues {should.tolist()} further, got {went.tolist()}"


def others_hue(name: str, turns: float) -> Tensor:
    """What other libraries make of SIX, [6, 3] in [0, 255]."""
    image = SIX.to(torch.uint8).T.reshape(1, 3, 6, 1)
    if name == "torchvision":
        return v2.functional.adjust_hue(image.float() / 255, turns)[0, :, :, 0].T * 255
    if name == "Kornia":
        return kornia.enhance.adjust_hue(image.float() / 255, turns * 2 * torch.pi)[0, :, :, 0].T * 255
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def turned():  # type: ignore[no-untyped-def]
        pixels = fn.external_source(source=lambda: [image[0].permute(1, 2, 0).contiguous().numpy()], batch=True)
        return fn.hue(pixels, hue=360 * turns)

    pipeline = turned()
    pipeline.build()
    return torch.from_numpy(np.array(pipeline.run()[0].as_cpu()[0]))[:, 0].float()


@pytest.mark.parametrize("turns", [0.1, -0.1, 0.03])
@pytest.mark.parametrize("name", ["torchvision", "Kornia", "DALI"])
def test_hue_turns_the_way_of_others(name: str, turns: float) -> None:
    before = SIX.double().T[..., None] / 255
    expected = others_hue(name, turns)
    right, wrong = (recolor(color.hue_matrix(factor(way)), before)[..., 0].T * 255 for way in (turns, -turns))
    if name == "DALI":  # the same matrix: the same pixels, which it rounds and clips
        assert (right.clamp(0, 255) - expected).abs().max() < 1.5
        assert (wrong.clamp(0, 255) - expected).abs().max() > 10
    assert_turns_alike(right, expected, SIX, turns)
    with pytest.raises(AssertionError, match="expected hues"):
        assert_turns_alike(wrong, expected, SIX, turns)


def test_hue_turns_the_chroma_and_keeps_the_luma() -> None:
    luma = torch.tensor(color.LUMA, dtype=torch.float64)
    turned = recolor(color.hue_matrix(factor(0.3)))
    torch.testing.assert_close(torch.tensordot(luma, turned, 1), torch.tensordot(luma, IMAGE, 1), atol=1e-5, rtol=0)
    assert (turned - IMAGE).abs().max() > 0.1
    for nothing in (0.0, 1.0):
        assert_images_close(recolor(color.hue_matrix(factor(nothing))), IMAGE, 1e-6)
    grey = torch.full_like(IMAGE, 0.4)
    assert_images_close(recolor(color.hue_matrix(factor(0.37)), grey), grey, 1e-2)
    red = torch.tensor([1.0, 0, 0], dtype=torch.float64).view(3, 1, 1)
    for third, primary in ((1 / 3, 1), (-1 / 3, 2)):  # from red to green, from red to blue
        assert recolor(color.hue_matrix(factor(third)), red).argmax() == primary


def test_normalisation_is_torchvisions() -> None:
    got = recolor(color.normalize_matrix(color.IMAGENET, 1))
    assert_images_close(got, v2.functional.normalize(IMAGE, *map(list, color.IMAGENET)), 1e-9)


def test_composition_is_one_after_the_other() -> None:
    first, last = color.contrast_matrix(factor(0.7)), color.normalize_matrix(color.IMAGENET, 1)
    got = recolor(color.compose_color(last, first))
    assert_images_close(got, recolor(last, recolor(first)), 1e-9)
