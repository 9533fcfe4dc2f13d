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


def test_hue_turns_the_chroma_and_keeps_the_luma() -> None:
    luma = torch.tensor(color.LUMA, dtype=torch.float64)
    turned = recolor(color.hue_matrix(factor(0.3)))
    torch.testing.assert_close(torch.tensordot(luma, turned, 1), torch.tensordot(luma, IMAGE, 1), atol=1e-5, rtol=0)
    assert (turned - IMAGE).abs().max() > 0.1
    for nothing in (0.0, 1.0):
        assert_images_close(recolor(color.hue_matrix(factor(nothing))), IMAGE, 1e-6)
    grey = torch.full_like(IMAGE, 0.4)
    assert_images_close(recolor(color.hue_matrix(factor(0.37)), grey), grey, 1e-2)
    third = recolor(color.hue_matrix(factor(-1 / 3)), torch.tensor([1.0, 0, 0], dtype=torch.float64).view(3, 1, 1))
    assert third.argmax() in (1, 2)  # a third of a turn takes red to another primary


def test_normalisation_is_torchvisions() -> None:
    got = recolor(color.normalize_matrix(color.IMAGENET, 1))
    assert_images_close(got, v2.functional.normalize(IMAGE, *map(list, color.IMAGENET)), 1e-9)


def test_composition_is_one_after_the_other() -> None:
    first, last = color.contrast_matrix(factor(0.7)), color.normalize_matrix(color.IMAGENET, 1)
    got = recolor(color.compose_color(last, first))
    assert_images_close(got, recolor(last, recolor(first)), 1e-9)
