"""Every Python block of README.md and docs/ runs as it stands, but for the model and the sizes.

The blocks of a page run in order and in one namespace, in a folder that holds `photos/`, twelve images of each of two
classes, and their `masks/`, `objects.json` and `photos.csv`. A block that cannot run has `<!-- not run: why -->` on the
line above it.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import typer.main
from PIL import Image
from torch import nn

from fastaug.cli.app import app
from fastaug.demo.photos import cut_photos
from fastaug.demo.weights import LITE0, lite0_weights
from fastaug.training import inference  # before `classifier` is replaced below: a module keeps what it has imported
from fastaug.training.models import classifier
from tests.factories import write_photos
from tests.test_task_examples import faster_rcnn, lraspp

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(?:python|py)\b[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
NOT_RUN = re.compile(r"<!-- not run: \S.*-->\s*$")
POINTS = ["left_eye", "right_eye", "nose"]
COMMANDS: Any = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SMALLER = {
    r"\blr_find\(\)": "lr_find(num_it=6)",
    r"\bbatch_size=\d+": "batch_size=8",
    r"\bpresize=\d+": "presize=40",
    r"(?<!pre)\bsize=\d+": "size=32",
}

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Of the libraries that the how-to pages plug into, about each other.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(fastai|fastcore|fasttransform|plum|lightning|torch)"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:lr_find"),  # of the tests' tiny models a sweep may say little
]


def blocks(text: str) -> list[tuple[int, str]]:
    """The lines on which the blocks that run begin, counted from 0, and their code."""
    return [
        (text[: found.start(2)].count("\n"), dedent(found[2]))
        for found in BLOCK.finditer(text)
        if not NOT_RUN.search(text[: found.start()])
    ]


def run_page(text: str, name: str) -> None:
    namespace: dict[str, Any] = {"__name__": "page"}
    for line, code in blocks(text):
        for written, small in SMALLER.items():
            code = re.sub(written, small, code)
        exec(compile("\n" * line + code, name, "exec"), namespace)  # the empty lines: errors name the page's line


def tiny_classifier(name: str, num_classes: int, weights: object = None, head: Any = "linear") -> nn.Module:
    return classifier("timm:test_resnet", num_classes, None, head)


def write_targets(folder: Path, names: list[str]) -> None:
    """Masks, objects and a table of photos of 50 × 40 pixels."""
    mask = np.zeros((40, 50), np.uint8)
    mask[10:30, 10:35] = 1
    box = {"bbox": [10, 10, 25, 20], "iscrowd": 0, "keypoints": [15, 15, 2, 30, 15, 2, 22, 25, 1]}
    images, objects, rows = [], [], []
    for i, name in enumerate(names):
        file = (folder / "masks" / name).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask * (1 + i % 2)).save(file)
        images.append({"id": i, "file_name": name, "width": 50, "height": 40})
        objects.append({"id": i, "image_id": i, "category_id": i % 2, **box})
        rows.append({"file": name, "tags": "sun sea"[: i % 3 * 4].strip(), "age": 20 + i})
    categories = [{"id": i, "name": name, "keypoints": POINTS} for i, name in enumerate(("cat", "dog"))]
    content = {"images": images, "annotations": objects, "categories": categories}
    (folder / "objects.json").write_text(json.dumps(content), encoding="utf-8")
    with (folder / "photos.csv").open("w", encoding="utf-8", newline="") as opened:
        table = csv.DictWriter(opened, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 50, 3), np.uint8)
    photos = {f"{('cat', 'dog')[i % 2]}/{i}.jpg": image for i, image in enumerate(pixels)}
    write_photos(tmp_path / "photos", photos)
    write_targets(tmp_path, list(photos))
    for name, made in (("detection.fasterrcnn", faster_rcnn), ("segmentation.lraspp", lraspp)):
        small = "_mobilenet_v3_large" + ("_320_fpn" if made is faster_rcnn else "")
        monkeypatch.setattr(f"torchvision.models.{name}{small}", lambda made=made, **settings: made())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastaug.classifier", tiny_classifier)  # first: a name is kept when it is first used
    monkeypatch.setattr("fastaug.training.models.classifier", tiny_classifier)
    monkeypatch.setattr(inference, "classifier", tiny_classifier)
    return tmp_path


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page.read_text("utf-8"))], ids=lambda page: page.stem
)
def test_code_of_the_page_runs(page: Path, folder: Path) -> None:
    run_page(page.read_text("utf-8"), str(page.relative_to(ROOT)))


def test_the_tutorial_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With pretrained weights, on crops of photographs: those to validate on overlap with those to train on."""
    weights = lite0_weights()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastaug.classifier", lambda name, num_classes: classifier(LITE0, num_classes, weights))
    monkeypatch.setitem(SMALLER, r"\bpresize=\d+", "presize=128")
    monkeypatch.setitem(SMALLER, r"(?<!pre)\bsize=\d+", "size=96")
    cut_photos(tmp_path / "photos", 5, 2, seed=0)
    run_page((ROOT / "docs/tutorial.md").read_text("utf-8"), "tutorial.md")
    (share,) = re.findall(r"^([\d.]+)% of the validation photos are right", capsys.readouterr().out, re.MULTILINE)
    assert float(share) >= 85


@pytest.mark.parametrize("page", ["segmentation", "detection", "labels-and-numbers", "views", "sampling", "frames"])
def test_each_task_takes_ten_lines_or_fewer(page: str) -> None:
    for _, code in blocks((ROOT / f"docs/how-to/{page}.md").read_text("utf-8")):
        assert len(re.findall(r"^(?!import |from ) *\S", code, re.MULTILINE)) <= 10, code


def test_the_readme_has_code() -> None:
    assert len(blocks((ROOT / "README.md").read_text("utf-8"))) == 2


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("# Page\n\n```python\na = 1\n```\n\n```python\nassert a == 2\n```\n", AssertionError),
        ("```py\nunknown\n```\n", NameError),
        ("- item\n\n  ```python\n  unknown\n  ```\n", NameError),
        ("```python\nassert dict(size=224, presize=460) != dict(size=32, presize=40)\n```\n", AssertionError),
        ("<!-- not run: -->\n```python\nunknown\n```\n", NameError),
    ],
    ids=["second block", "py", "indented", "smaller", "no reason"],
)
def test_wrong_code_is_found(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        run_page(text, "page.md")


def commands(text: str) -> list[list[str]]:
    """What is called of fastaug in a page: in blocks, and in backticks if there are options or arguments."""
    shell = "\n".join(found[1] for found in re.finditer(r"```(?:bash|sh|console)\n(.*?)```", text, re.DOTALL))
    shell += "\n" + "\n".join(line for line in text.split("\n") if line.startswith("    "))
    found = re.findall(r"^ *(?:\$ )?(?:.* -m )?fastaug ([a-z].*)$", shell, re.MULTILINE)
    found += re.findall(r"`fastaug ([a-z-]+ [^`]+)`", text)
    return [shlex.split(line.split("  #")[0].replace("…", "")) for line in found]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands(page.read_text("utf-8"))], ids=lambda page: page.stem
)
def test_commands_of_the_page_have_these_options(page: Path) -> None:
    for command, *arguments in commands(page.read_text("utf-8")):
        assert not unknown(command, arguments), f"fastaug {command} {shlex.join(arguments)}"


def unknown(command: str, arguments: list[str]) -> list[str]:
    known = {
        option for parameter in COMMANDS[command].params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    return [argument for argument in arguments if argument.startswith("-") and argument.split("=")[0] not in known]


def test_wrong_commands_are_found() -> None:
    text = "Run `fastaug train photos --epoch 3`, or `fastaug demo`:\n\n    fastaug bench photos  # no\n"
    assert commands(text) == [["bench", "photos"], ["train", "photos", "--epoch", "3"]]
    assert unknown("train", ["photos", "--epoch", "3", "--no-train-bn"]) == ["--epoch"]


def test_a_block_with_a_reason_is_not_run() -> None:
    assert blocks("<!-- not run: takes hours -->\n\n```python\nunknown\n```\n\n```python\na = 1\n```\n") == [
        (7, "a = 1\n")
    ]
