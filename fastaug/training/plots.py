"""Figures from data: images, training curves, confusion matrices, bars. The only file that imports matplotlib.

Figures are made without pyplot, so nothing is global, no window opens and no display is needed; `figure.savefig(path)`
writes them. Names are text, never formulas: a class may be called "$10".
"""

from __future__ import annotations

import importlib.util
import io
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fastaug.files import whole_file
from fastaug.text import printable
from fastaug.training.history import History, metrics_in
from fastaug.warping.warp import channels_first

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Figure

BLUE, ORANGE, GREY = "#1f77b4", "#ff7f0e", "#9aa5b1"
GREEN, RED = "#1a7f37", "#cf222e"
MAX_CLASSES_WITH_NUMBERS = 40  # above, the numbers in the cells of a confusion matrix could not be read
LABEL_LENGTH = 24  # longer class names are cut
LETTERS_PER_INCH = 15  # of a title


def show_images(
    images: Tensor | Sequence[Tensor],
    titles: Sequence[str] = (),
    columns: int | None = None,
    inches: float = 1.7,
    heading: str = "",
    right: Sequence[bool | None] = (),
) -> Figure:
    """Images side by side, each pixel a sharp square.

    Args:
        images: a batch or a list of images, uint8 [H, W, 3] or float [3, H, W] in [0, 1]; values outside are clipped.
        titles: one per image, or none; lines that are wider than the image are cut.
        columns: images per row; None: as square as it gets.
        inches: width of one image; the picture has 120 pixels per inch.
        heading: one line above all.
        right: whether what is said of each image is right: a green frame; wrong: a dashed red one; None: neither.
    Raises:
        ValueError: no images, or another number of titles.
    """
    pixels = [_pixels(image) for image in images]
    if not pixels or (titles and len(titles) != len(pixels)):
        raise ValueError(
            f"show_images: expected images, and a title for each or none, got {len(pixels)} images and "
            f"{len(titles)} titles."
        )
    columns = columns or math.ceil(math.sqrt(len(pixels)))
    rows = math.ceil(len(pixels) / columns)
    tallest = max(image.shape[0] / image.shape[1] for image in pixels)
    lines = 1 + max((title.count("\n") for title in titles), default=-1)
    figure = _figure(columns * inches, rows * (inches * tallest + 0.07 + 0.15 * lines) + 0.4 * bool(heading))
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, wspace=0.01, hspace=0.01)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image in zip(grid, pixels, strict=False):
        axes.imshow(image, interpolation="nearest")
    for axes, title in zip(grid, titles, strict=False):
        lines_of_title = [_cut(printable(line), int(LETTERS_PER_INCH * inches)) for line in title.split("\n")]
        axes.set_title("\n".join(lines_of_title), fontsize=9, pad=3, parse_math=False)
    for axes, good in zip(grid, right, strict=False):
        if good is not None:
            color, line = (GREEN, "-") if good else (RED, "--")
            axes.title.set_color(color)
            axes.set_axis_on()
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set(color=color, linewidth=2.5, linestyle=line)
    if heading:
        figure.suptitle(heading, fontsize=11, parse_math=False)
    return figure


def denormalized(images: Tensor, normalize: tuple[Sequence[float], Sequence[float]] | None) -> Tensor:
    """Images [B, 3, H, W] back in [0, 1]: times std, plus mean. None: they were not normalised. Grey ones get three
    channels."""
    images = images.expand(-1, 3, -1, -1) if images.ndim == 4 and images.shape[1] == 1 else images
    if normalize is None:
        return images
    mean, std = (images.new_tensor(values)[:, None, None] for values in normalize)
    return images * std + mean


def plot_curves(history: History) -> Figure:
    """The loss of each batch and of each epoch; beside it, where there was validation, its accuracy or other metrics.

    Raises:
        ValueError: a history without epochs.
    """
    rows = history.epochs
    if not rows:
        raise ValueError("plot_curves: expected a history with epochs, got none. Train first.")
    ends = np.arange(1, len(rows) + 1)
    names = metrics_in(rows[0])
    names = [name for name in names if name != "error_rate"] if "accuracy" in names else names
    figure = _figure(9 if names else 5, 3.6)
    left, *right = figure.subplots(1, 1 + bool(names), squeeze=False)[0]
    known = history.ends or np.linspace(0, len(history.losses), len(rows) + 1)[1:]  # of a history that lacks them
    batches = np.interp(np.arange(1, len(history.losses) + 1), [0, *known], [0, *ends])
    left.plot(batches, history.losses, color=GREY, linewidth=0.8, label="training, each batch")
    left.plot(ends, [row["train_loss"] for row in rows], "o-", color=BLUE, label="training")
    if "valid_loss" in rows[0]:
        left.plot(ends, [row["valid_loss"] for row in rows], "o-", color=ORANGE, label="validation")
    _label_curves(left, "loss", len(rows))
    if min(history.losses, default=0) >= 0:
        left.set_ylim(bottom=0)
    for axes in right:
        for name, color in zip(names, [ORANGE, *(f"C{i}" for i in range(2, 2 + len(names)))], strict=False):
            axes.plot(ends, [row[name] for row in rows], "o-", color=color, label=f"validation: {name}")
        _label_curves(axes, "accuracy" if names == ["accuracy"] else "metrics", len(rows))
        if names == ["accuracy"]:
            axes.set_ylim(0, 1.02)
    return figure


def plot_rates(lrs: Sequence[float], losses: Sequence[float], marks: Mapping[str, float]) -> Figure:
    """The loss over the learning rate, on a logarithmic axis, with a dot and the rate for each of `marks`.

    The axis ends at twice the loss of the first point (of a negative one: at 0), so that where the loss explodes does
    not flatten the rest.
    """
    figure = _figure(6.5, 3.8)
    axes = figure.subplots()
    axes.plot(lrs, losses, color=GREY)
    for i, (name, rate) in enumerate(marks.items()):
        loss = float(np.interp(np.log(rate), np.log(lrs), losses))
        axes.plot([rate], [loss], "o", color=f"C{i}", label=f"{name} {rate:.1e}")
    axes.set_xscale("log")
    top = min(max(losses), losses[0] + abs(losses[0]))
    axes.set_ylim(top=top + 0.05 * abs(top))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss, smoothed")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def plot_confusion_matrix(matrix: Tensor | np.ndarray, classes: Sequence[str]) -> Figure:
    """How often each class (row) was taken for each class (column); the colour is the share of the row.

    Args:
        matrix: integer [classes, classes], rows actual, columns predicted.
        classes: their names.
    Raises:
        ValueError: a matrix of another shape.
    """
    counts, number = np.asarray(matrix), len(classes)
    if counts.shape != (number, number):
        raise ValueError(
            f"plot_confusion_matrix: expected a matrix [{number}, {number}] for {number} classes, got "
            f"{list(counts.shape)}."
        )
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(max(3.5, 0.42 * number + 1.6), 14.0)
    figure = _figure(side, side)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    text_pt = min(10.0, max(2.0, 0.6 * 72 * (side - 1.6) / number))
    names = [_cut(printable(name), LABEL_LENGTH) for name in classes]
    axes.set_xticks(range(number), names, rotation=90, fontsize=text_pt, parse_math=False)
    axes.set_yticks(range(number), names, fontsize=text_pt, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    axes.set_title(f"{int(np.trace(counts)):,} of {int(counts.sum()):,} right", fontsize=11)
    if number <= MAX_CLASSES_WITH_NUMBERS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=text_pt)
    return figure


def plot_dots(rows: Mapping[str, Mapping[str, float]]) -> Figure:
    """Shares of each class as dots in a line, one below the other.

    Args:
        rows: by class, the same figures of each, between 0 and 1, by name.
    """
    names, width = [_cut(printable(name), LABEL_LENGTH) for name in rows], 6.5
    figure = _figure(width, min(1.2 + 0.24 * len(names), 40.0))
    axes = figure.subplots()
    places = np.arange(len(names))
    for what, marker, color in zip(next(iter(rows.values()), {}), "<>o", (ORANGE, GREY, BLUE), strict=False):
        values = [row[what] for row in rows.values()]
        axes.plot(values, places, marker, color=color, label=what, clip_on=False)
    axes.set_yticks(places, names, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def plot_pairs(actual: Tensor | np.ndarray, predicted: Tensor | np.ndarray, names: Sequence[str]) -> Figure:
    """What is predicted over what is actual, [N, numbers] each; on the line both are the same."""
    actual, predicted = np.asarray(actual), np.asarray(predicted)
    columns = math.ceil(math.sqrt(len(names)))
    lines = math.ceil(len(names) / columns)
    figure = _figure(3.6 * columns, 3.6 * lines)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    for axes, name, x, y in zip(grid, names, actual.T, predicted.T, strict=False):
        axes.plot(x, y, ".", color=BLUE, alpha=0.6)
        axes.axline((float(np.mean(x)), float(np.mean(x))), slope=1, color=GREY, linewidth=0.8)
        axes.set_xlabel("actual")
        axes.set_ylabel("predicted")
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.set_title(_cut(printable(name), LABEL_LENGTH), fontsize=11, parse_math=False)
    return figure


def plot_bars(
    labels: Sequence[str], values: Sequence[float], spread: Sequence[tuple[float, float]], unit: str, heading: str = ""
) -> Figure:
    """Horizontal bars, the first on top, with the value beside each and its spread as a line.

    Args:
        labels, values: one per bar; a label may have several lines.
        spread: (low, high) of each value, such as its quartiles.
        unit: of the values, written below the axis.
    Raises:
        ValueError: lengths that differ.
    """
    if not len(labels) == len(values) == len(spread):
        raise ValueError(
            f"plot_bars: expected a value and a spread for each of {len(labels)} labels, got {len(values)} and "
            f"{len(spread)}."
        )
    figure = _figure(7, 1.2 + 0.55 * len(labels))
    axes = figure.subplots()
    errors = np.array([(value - low, high - value) for value, (low, high) in zip(values, spread, strict=True)]).T
    colors = [BLUE, *[GREY] * (len(labels) - 1)]
    caps = {"capsize": 4, "linewidth": 1.2}
    places = np.arange(len(labels))
    bars = axes.barh(places, values, 0.6, xerr=errors, color=colors, error_kw=caps)
    shown = ["\n".join(map(printable, label.split("\n"))) for label in labels]
    axes.set_yticks(places, shown, parse_math=False)
    axes.bar_label(bars, fmt="{:,.0f}", padding=6)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(high for _, high in spread))
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(heading, fontsize=11, parse_math=False)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write the figure, as PNG or as the path's suffix says; the folder is made."""
    path = Path(path)
    with whole_file(path) as file:
        figure.savefig(file, format=path.suffix[1:] or "png")
    return path


def check_installed() -> None:
    """Before work whose end is a picture.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("plots: expected matplotlib, found none. Run: pip install 'fastaug[plots]'")


def _figure(width: float, height: float) -> Figure:
    check_installed()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    # For notebooks, which show by themselves only what pyplot made: the value of a cell, once.
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _label_curves(axes: Axes, what: str, epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epochs")
    axes.set_ylabel(what)
    axes.set_xlim(0, epochs * 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    axes.grid(alpha=0.3)
    for text in axes.legend(fontsize=8).get_texts():
        text.set_parse_math(False)


def _pixels(image: Tensor) -> np.ndarray[Any, Any]:
    """uint8 [H, W, 3 or 1] or float [3, H, W] as what imshow takes: [H, W, 3], uint8 or in [0, 1]."""
    image = image.detach().cpu()
    if image.dim() == 3 and image.shape[2] == 1 and not image.is_floating_point():
        image = image.expand(-1, -1, 3)
    if image.dim() != 3:
        raise ValueError(f"show_images: expected images [H, W, 3] or [3, H, W], got {list(image.shape)}.")
    if channels_first(image):
        image = image.permute(1, 2, 0)
    return np.asarray(image.float().clamp(0, 1) if image.is_floating_point() else image)
