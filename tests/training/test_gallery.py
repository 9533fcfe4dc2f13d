"""Photos with what a model says of them: as a figure, and as a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastaug as fa
from fastaug.training.page import Page
from fastaug.training.plots import GREEN, RED
from tests import factories
from tests.factories import write_photos

pytestmark = pytest.mark.usefixtures("one_thread")


class Bright(nn.Module):
    """Says the second class of what is brighter than half."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.scale, self.outputs = nn.Parameter(torch.tensor(20.0)), outputs

    def forward(self, x: Tensor) -> Tensor:
        light = self.scale * (x.mean((1, 2, 3)) - 0.5)[:, None]
        return light if self.outputs == 1 else torch.cat([-light, light], 1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    """Six: three dark ones, one of which is called light, three light ones; and one that is no photo."""
    levels = {"dark/0": 10, "dark/1": 60, "light/2": 50, "light/3": 200, "light/4": 250, "light/5": 180}
    pixels = {f"{name}.png": np.full((20, 30, 3), level, np.uint8) for name, level in levels.items()}
    root = write_photos(tmp_path_factory.mktemp("photos"), pixels)
    (root / "light/6.png").write_bytes(b"no photo")
    return fa.Samples.from_folder(root)


def learner(photos: fa.Samples, outputs: int = 2, **arguments: Any) -> fa.Learner:
    augment = fa.Augment([fa.RandomRotation(90)], 16, normalize=((0.2,) * 3, (0.5,) * 3))
    loader = fa.ImageLoader(photos, 2, 20, augment, "cpu", training=False)
    model = nn.Sequential(Denormalize(), Bright(outputs))
    return factories.learner(loader, model, loader, **arguments)


class Denormalize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 + 0.2


def shown(figure: Any) -> list[tuple[str, str, str, float]]:
    """Of each image: title, colour and kind of its frame, mean brightness."""
    axes = [one for one in figure.get_axes() if one.get_images()]
    return [
        (one.get_title(), one.title.get_color(), one.spines["top"].get_linestyle(),
         float(one.get_images()[0].get_array().mean()))
        for one in axes
    ]  # fmt: skip


def test_right_and_wrong_are_told_apart_not_by_colour_alone(photos: fa.Samples) -> None:
    learn = learner(photos)
    found = shown(learn.show_results())
    assert [title.split(" ")[0] for title, *_ in found] == ["\N{CHECK MARK}"] * 2 + ["\N{BALLOT X}"] + [
        "\N{CHECK MARK}"
    ] * 3
    assert found[2][0] == "\N{BALLOT X} dark 100%\nis light"
    assert [(color, line) for _, color, line, _ in found] == [(GREEN, "-")] * 2 + [(RED, "--")] + [(GREEN, "-")] * 3
    assert [level for *_, level in found] == pytest.approx([x / 255 for x in (10, 60, 50, 200, 250, 180)], abs=0.01)
    assert len(shown(learn.show_results(3))) <= 3
    assert shown(learn.show_results(4)) == shown(learn.show_results(4))
    with pytest.raises(ValueError, match="show_results: expected n of at least 1, got 0"):
        learn.show_results(0)


def test_results_of_other_losses(photos: fa.Samples) -> None:
    numbers = [(torch.rand(3, 3, 8, 8), torch.tensor([0.5, 2.0, 3.0]))]
    learn = factories.learner(numbers, Bright(1), numbers, loss_func=nn.MSELoss())
    for title, color, *_ in shown(learn.show_results()):
        assert re.fullmatch(r"-?[\d.]+\nis [\d.]+", title)
        assert color not in (GREEN, RED)
    several = [(torch.rand(3, 3, 8, 8) * 0.1, torch.tensor([[1, 0], [0, 1], [0, 0]]))]
    learn = factories.learner(several, Bright(2), several, loss_func=fa.BinaryCrossEntropy())
    assert [title for title, *_ in shown(learn.show_results())] == [
        "\N{CHECK MARK} 0\n", "\N{BALLOT X} 0\nis 1", "\N{BALLOT X} 0\nis none of these"
    ]  # fmt: skip
    one = learner(photos, 1, loss_func=nn.BCEWithLogitsLoss())
    assert [title.split(" ")[1] for title, *_ in shown(one.show_results())] == ["dark"] * 3 + ["light"] * 3
    soft = [(torch.rand(2, 3, 8, 8) * 0.1, torch.tensor([[0.9, 0.1], [0.2, 0.8]]))]
    learn = factories.learner(soft, Bright(2), soft)
    assert [title[0] for title, *_ in shown(learn.show_results())] == ["\N{CHECK MARK}", "\N{BALLOT X}"]


def test_a_page_has_every_photo_by_class_and_no_markup_from_names(photos: fa.Samples, tmp_path: Path) -> None:
    predictor = fa.Predictor(Bright(), ["<b>dark", "light"], fa.Augment([], 16, normalize=None), 20, device="cpu")
    paths = [*photos.paths[:5], "<script>\x1b.png"]
    x = torch.tensor([0.1, 0.45, 0.2, 0.8, 0.9, 0.7])[:, None, None, None].expand(6, 3, 300, 200)
    page = Page(predictor)
    page.add(paths[:4], x[:4], predictor.probabilities(predictor.activations(x[:4])))
    page.add(paths[4:], x[4:], predictor.probabilities(predictor.activations(x[4:])))
    page.add([], x[:0], torch.zeros(0, 2))
    page.add_bad("bad & broken.png", "no <image>")
    page.write(tmp_path / "made" / "page.html")
    text = (tmp_path / "made" / "page.html").read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,/9j/") == 6
    assert re.findall(r"<h2[^>]*>([^<]*)</h2>", text) == ["&lt;b&gt;dark (3)", "light (3)", "Not read (1)"]
    shares = [float(share) for share in re.findall(r"<figcaption>([\d.]+)%", text)]
    assert shares[:3] == sorted(shares[:3], reverse=True)
    assert shares[3:] == sorted(shares[3:], reverse=True)
    assert "&lt;script&gt;\\x1b.png" in text
    assert "bad &amp; broken.png: no &lt;image&gt;" in text
    assert not re.search("<script|<image|<b>|\x1b", text)
