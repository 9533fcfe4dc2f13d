"""What notebooks show: `repr` and `_repr_html_`, figures, names to complete, warnings; by stand-ins for IPython."""

from __future__ import annotations

import builtins
import io
import pickle
import re
import sys
import types
import warnings
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import _pylab_helpers
from PIL import Image

import fastaug as fa
from fastaug.loading.stats import LoaderStats
from fastaug.training import display, plots
from fastaug.training.history import History
from fastaug.training.lr_finder import FoundRates
from tests.factories import Batches, learner

HOSTILE = "<script>alert('&')</script>\n\x1b[31m\udce9"  # a class; files have such names too
SAMPLES = fa.Samples([f"{HOSTILE}/{i}.jpg" for i in range(28)], [0] * 20 + [1] * 8, [HOSTILE, "pug"])
AUGMENT = fa.Augment([fa.RandomRotation(10), fa.ColorJitter(0.2)], (224, 160))
ROWS = [{"epoch": float(i), "train_loss": 2.5 - i, "accuracy": 0.25 * i, "seconds": 1.0} for i in range(3)]
STATS = LoaderStats(640, 0.5, 8.0, 1.0, 1.0, {"read": (640, 1.0), "decode": (640, 4.0)})
FOUND = FoundRates([10.0**-k for k in range(20, 0, -1)], [abs(k - 13.0) for k in range(20)], 20)


def loader(**settings: Any) -> fa.ImageLoader:
    return fa.ImageLoader(SAMPLES, 8, 128, AUGMENT, "cpu", **settings)


def trained() -> fa.Learner:
    learn = learner(valid=Batches())
    learn.fit(1)
    return learn


def report() -> fa.Interpretation:
    probabilities, targets = torch.eye(2).repeat(500, 1), torch.tensor([0, 1] * 499 + [1, 1])
    predicted = probabilities.argmax(1)
    return fa.Interpretation(probabilities, targets, targets, targets, predicted, SAMPLES.classes, [])


# The thing, what its repr says, and the cells of its table, some of them.
SHOWN: list[tuple[str, Any, list[str], list[str]]] = [
    ("samples", lambda: SAMPLES, ["28 images", "2 classes"], ["pug", "8", "20"]),
    (
        "loader", loader,
        ["ImageLoader(", "images=28", "batch_size=8", "batches=3", "training=True", "mode='resize'", "presize=128",
         "size=(224, 160)", "device='cpu'", "decoder='jpeg'", "epoch=0", "quarantined=0"],
        ["images", "28", "mode", "resize"],
    ),
    ("loader of a rank", lambda: loader(shard=(1, 2)), ["shard=(1, 2)"], ["shard", "(1, 2)"]),
    ("augment", lambda: AUGMENT, ["size=(224, 160)", "RandomRotation"],
     ["RandomRotation", "degrees=(-10.0, 10.0), p=1.0"]),
    (
        "learner", trained,
        ["Learner(model='Sequential'", "parameters=171", "learning=171", "device='cpu'", "train_batches=6",
         "valid_batches=6", "epochs=1", "accuracy="],
        ["model", "Sequential"],
    ),
    ("history", lambda: History(ROWS, [1.0] * 900, [(0.1, 0.2)] * 900, [0.9] * 900),
     ["History(3 epochs, 900 batches", "train_loss 0.5000", "accuracy 0.5000"], ["train_loss", "2.5000", "0.2500"]),
    ("no history", History, ["History(0 epochs, 0 batches)"], []),
    ("rates", lambda: FOUND, ["FoundRates(", "valley=", "steep=", "minimum=", "slide=", "points=20"], ["valley"]),
    ("stats", lambda: STATS, ["decoding", "160 images/s", "The loader is the limit"], ["decoding", "160"]),
    ("report", report, ["Interpretation(1,000 images", "999 right", "2 classes"], []),
]  # fmt: skip


class Cells(HTMLParser):
    """The texts of a table's cells, and every tag that there is."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(html)
        assert not self.open, "tags that are not closed"

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] in (["td"], ["th"]):
            self.cells.append(data)


@pytest.mark.parametrize(("make", "said", "cells"), [case[1:] for case in SHOWN], ids=[case[0] for case in SHOWN])
def test_what_is_shown_is_short_and_says_what_it_is(make: Any, said: list[str], cells: list[str]) -> None:
    thing = make()
    text = repr(thing)
    for part in said:
        assert part in text
    assert len(text) < 600
    if not hasattr(thing, "_repr_html_"):
        assert not cells
        return
    html = thing._repr_html_()
    found = Cells(html)
    assert set(cells) <= set(found.cells)
    assert found.tags <= {"table", "tr", "td", "th", "caption"}, "a name became markup"
    assert len(html) < 6000
    html.encode("utf-8")  # what a notebook does with it
    text.encode("utf-8")


def test_a_table_of_many_classes_is_cut() -> None:
    samples = fa.Samples([f"{i}.jpg" for i in range(5000)], list(range(5000)), [f"class {i}" for i in range(5000)])
    html = samples._repr_html_()
    assert "4,980 more" in html
    assert html.count("<tr>") < 30
    assert len(loader()._repr_html_()) < 3000


@pytest.mark.parametrize(
    "draw",
    [
        FOUND.plot,
        lambda: plots.show_images(torch.rand(2, 3, 8, 8)),
        lambda: plots.plot_confusion_matrix(np.eye(2, dtype=int), ["a", "b"]),
    ],
)
def test_a_figure_is_shown_once(draw: Any) -> None:
    """As the value of its cell, by itself: pyplot, which would show it again, does not know it."""
    figure = draw()
    assert _pylab_helpers.Gcf.get_all_fig_managers() == []
    picture = Image.open(io.BytesIO(figure._repr_png_()))
    assert picture.format == "PNG"
    assert pickle.loads(pickle.dumps(figure))._repr_png_() == figure._repr_png_()
    assert picture.size == tuple(round(side * figure.dpi) for side in figure.get_size_inches())


def test_names_to_complete_are_the_public_ones() -> None:
    names = [name for name in dir(fa) if not name.startswith("_")]
    assert set(fa.__all__) <= set(names)
    assert not {"Any", "TYPE_CHECKING", "importlib"} & set(names)
    assert "__version__" in dir(fa)


class ZMQInteractiveShell:
    """The notebook's, by name, as rich recognises it."""


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """In a notebook without ipywidgets, which shows these."""
    shown: list[Any] = []
    module = types.ModuleType("IPython.display")
    module.display = shown.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    display.can_show_a_bar.cache_clear()
    return shown


def test_without_ipywidgets_one_warning_and_a_line_an_epoch(
    notebook: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    learn = learner(valid=Batches(), progress=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn.fit(3)
        learn.lr_find(num_it=8)
    assert [str(warning.message) for warning in caught] == [
        "Learner: expected ipywidgets, which a bar in a notebook needs, found none. Run: pip install ipywidgets; "
        "or pass progress=False."
    ]
    assert len(re.findall(r"^epoch \d  train_loss ", capsys.readouterr().out, re.MULTILINE)) == 3
    assert notebook == []
