"""Figures: what is drawn in them, not only that they exist."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastaug.training import plots
from fastaug.training.history import History

HISTORY = History(
    epochs=[
        {"epoch": 0.0, "train_loss": 2.0, "images_per_s": 9.0, "valid_loss": 1.5, "error_rate": 0.6, "accuracy": 0.4},
        {"epoch": 1.0, "train_loss": 1.0, "images_per_s": 9.0, "valid_loss": 0.5, "error_rate": 0.1, "accuracy": 0.9},
    ],
    losses=[2.5, 1.5, 1.2, 0.8],
)


def lines(axes) -> dict[str, list[tuple[float, float]]]:
    """Label -> points of the curves."""
    return {line.get_label(): [tuple(point) for point in line.get_xydata().tolist()] for line in axes.get_lines()}


def test_titles_wider_than_their_image_are_cut() -> None:
    figure = plots.show_images(torch.rand(2, 3, 5, 7), ["a" * 20 + "\n" + "b" * 80, "c"], inches=2.0)
    assert [each.get_title() for each in figure.get_axes()] == ["a" * 20 + "\n" + "b" * 29 + "…", "c"]


def test_show_images_shows_each_image_in_its_place() -> None:
    floats = torch.rand(3, 3, 5, 7)
    figure = plots.show_images(floats, ["a", "b", "c"], columns=2, heading="above")
    axes = figure.get_axes()
    assert [each.get_title() for each in axes] == ["a", "b", "c", ""]
    assert figure.get_suptitle() == "above"
    assert all(each.get_images()[0].get_interpolation() == "nearest" for each in axes[:3])
    assert not axes[3].get_images()
    for each, image in zip(axes, floats, strict=False):
        np.testing.assert_array_equal(each.get_images()[0].get_array(), image.permute(1, 2, 0))


def test_show_images_takes_bytes_and_clips_floats() -> None:
    picture = torch.randint(0, 256, (4, 6, 3), dtype=torch.uint8)
    bright = torch.full((3, 4, 6), 1.5)
    first, second = (each.get_images()[0].get_array() for each in plots.show_images([picture, bright]).get_axes())
    np.testing.assert_array_equal(first, picture)
    assert second.max() == 1


def test_show_images_pixels_reach_the_file(tmp_path: Path) -> None:
    image = torch.zeros(3, 2, 2)
    image[0, 0, 1] = 1  # red, top right
    path = plots.save_figure(plots.show_images([image]), tmp_path / "made" / "red.png")
    with Image.open(path) as picture:
        pixels = np.array(picture.convert("RGB")).astype(int)
    rows, columns = np.nonzero((pixels[..., 0] == 255) & (pixels[..., 1] == 0))
    dark_rows, dark_columns = np.nonzero(pixels.sum(-1) == 0)
    assert len(rows) > 1000
    assert rows.max() < dark_rows.mean() + 5
    assert columns.min() > dark_columns.mean()


@pytest.mark.parametrize(("images", "titles"), [([], []), ([torch.zeros(3, 2, 2)], ["a", "b"])])
def test_show_images_refuses(images, titles) -> None:
    with pytest.raises(ValueError, match="show_images: expected images, and a title for each"):
        plots.show_images(images, titles)


def test_show_images_refuses_a_grey_image() -> None:
    with pytest.raises(ValueError, match=r"expected images \[H, W, 3\] or \[3, H, W\], got \[4, 4\]"):
        plots.show_images([torch.zeros(4, 4)])


def test_curves_hold_the_history() -> None:
    loss, accuracy = plots.plot_curves(HISTORY).get_axes()
    assert lines(loss) == {
        "training, each batch": [(0.5, 2.5), (1.0, 1.5), (1.5, 1.2), (2.0, 0.8)],
        "training": [(1.0, 2.0), (2.0, 1.0)],
        "validation": [(1.0, 1.5), (2.0, 0.5)],
    }
    assert lines(accuracy) == {"validation: accuracy": [(1.0, 0.4), (2.0, 0.9)]}
    assert (loss.get_xlabel(), loss.get_ylabel(), accuracy.get_ylabel()) == ("epochs", "loss", "accuracy")
    assert [text.get_text() for text in loss.get_legend().get_texts()] == list(lines(loss))


def test_curves_without_validation_are_one_plot() -> None:
    history = History(epochs=[{"epoch": 0.0, "train_loss": 2.0, "images_per_s": 9.0, "seconds": 1.0}], losses=[2.0])
    (loss,) = plots.plot_curves(history).get_axes()
    assert set(lines(loss)) == {"training, each batch", "training"}


def test_curves_of_other_metrics_are_named() -> None:
    rows = [{**row, "f1": 0.5} for row in HISTORY.epochs]
    _, metrics = plots.plot_curves(History(epochs=rows, losses=HISTORY.losses)).get_axes()
    assert metrics.get_ylabel() == "metrics"
    assert set(lines(metrics)) == {"validation: accuracy", "validation: f1"}


def test_curves_need_epochs() -> None:
    with pytest.raises(ValueError, match="plot_curves: expected a history with epochs"):
        plots.plot_curves(History())


def test_confusion_matrix_shows_counts_and_shares() -> None:
    matrix = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    (axes,) = plots.plot_confusion_matrix(matrix, ["cat", "dog", "a class with a very long name"]).get_axes()
    numbers = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    assert numbers == {(0, 0): "3", (1, 0): "1", (1, 1): "4"}  # (column, row)
    np.testing.assert_allclose(axes.get_images()[0].get_array(), [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]])
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [label.get_text() for label in axes.get_xticklabels()]
    assert names[:2] == ["cat", "dog"]
    assert len(names[2]) == plots.LABEL_LENGTH
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("predicted", "actual", "7 of 8 right")


def test_confusion_matrix_of_many_classes_has_no_numbers() -> None:
    number = plots.MAX_CLASSES_WITH_NUMBERS + 1
    (axes,) = plots.plot_confusion_matrix(np.eye(number, dtype=int), [str(i) for i in range(number)]).get_axes()
    assert not axes.texts


def test_confusion_matrix_refuses_another_shape() -> None:
    with pytest.raises(ValueError, match=r"expected a matrix \[2, 2\] for 2 classes, got \[3, 3\]"):
        plots.plot_confusion_matrix(np.eye(3), ["a", "b"])


def test_bars_have_values_spread_and_labels() -> None:
    labels, spreads = ["fast", "slow\n(it)"], [(850, 1000), (39, 44)]
    (axes,) = plots.plot_bars(labels, [900.0, 40.0], spreads, "images/s", "speed").get_axes()
    assert [patch.get_width() for patch in axes.patches] == [900, 40]
    assert [label.get_text() for label in axes.get_yticklabels()] == labels
    assert [text.get_text() for text in axes.texts] == ["900", "40"]
    assert (axes.get_xlabel(), axes.get_title()) == ("images/s", "speed")
    assert axes.yaxis_inverted()  # the first on top
    (spread,) = axes.collections
    assert [segment[:, 0].tolist() for segment in spread.get_segments()] == [[850, 1000], [39, 44]]


def test_bars_refuse_other_lengths() -> None:
    with pytest.raises(ValueError, match="plot_bars: expected a value and a spread for each of 2 labels, got 1 and 0"):
        plots.plot_bars(["a", "b"], [1.0], [], "s")


def test_names_are_text_whatever_is_in_them(tmp_path: Path) -> None:
    """ "$" begins a formula in matplotlib, and a formula that ends nowhere is an error when the picture is written."""
    names = ["$10_to_$20", "a^{\\frac$x$", "two\nlines\x1b[31m", "th\udce9"]
    shown = ["$10_to_$20", "a^{\\frac$x$", "two\\nlines\\x1b[31m", "th\\udce9"]
    matrix = plots.plot_confusion_matrix(np.eye(4, dtype=int), names)
    (axes,) = matrix.get_axes()
    assert [label.get_text() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())] == shown * 2
    bars = plots.plot_bars(names, [1, 2, 3, 4], [(1, 1), (2, 2), (3, 3), (4, 4)], "s", "$20 to $30 a_{")
    lines = [shown[0], shown[1], "two\nlines\\x1b[31m", shown[3]]  # labels of bars may have several
    assert [label.get_text() for label in bars.get_axes()[0].get_yticklabels()] == lines
    images = plots.show_images(torch.rand(4, 3, 5, 7), ["$10_to_$20\n$", *shown[1:]], heading="$10_to_$20")
    assert images.get_axes()[0].get_title() == "$10_to_$20\n$"
    history = History([{**row, "$cost_to_$": 1.0} for row in HISTORY.epochs], HISTORY.losses)
    for figure in (matrix, bars, images, plots.plot_curves(history)):
        plots.save_figure(figure, tmp_path / "names.png")
