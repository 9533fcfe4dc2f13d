"""`fastaug predict` of folders, many files and bad ones."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import fastaug as fa
from fastaug.training.inference import Predictor
from tests.cli.commands import error_line, run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    network = fa.classifier("timm:test_resnet", 2, None)
    Predictor(network, ["dark", "light"], fa.aug_transforms(size=32), presize=40, device="cpu").save(path)
    return path


def test_a_folder_and_a_bad_file(model: Path, photos: Path, tmp_path: Path) -> None:
    bad, missing, good = tmp_path / "b\tad.jpg", tmp_path / "missing.jpg", sorted(photos.rglob("*.jpg"))
    bad.write_bytes(b"no photo")
    (photos / "dark" / "notes.txt").write_text("no image either")
    files = [missing, photos / "light", bad, photos, good[0], bad]
    wanted = [missing, *good[6:], bad, *good, good[0], bad]
    result = run("predict", model, *files, "--batch-size", "5", "--device", "cpu")
    assert result.exit_code == 1
    cells = [line.split("\t") for line in result.stdout.splitlines()]
    assert [cell[0] for cell in cells] == [str(path) for path in wanted if path in good]
    predictor = fa.load_classifier(model, "cpu")
    for path, name, probability in cells[:3]:
        expected, _, found = predictor.predict(path)
        assert (name, probability) == (expected, f"{found.max():.4f}")
    lines = result.stderr.splitlines()
    assert len(lines) == 2 + 1  # twice the same bad file
    assert all(line.startswith("skipping ") for line in lines)
    assert "No such file" in lines[0]
    assert r"b\tad.jpg: not an image format" in lines[1]

    figures = json.loads(run("predict", model, *files, "--batch-size", "5", "--device", "cpu", "--json").stdout)
    assert [one["file"] for one in figures] == [str(path) for path in wanted]
    assert [one["file"] for one in figures if "error" in one] == [str(path) for path in (missing, bad, bad)]
    assert [f"{one['probability']:.4f}" for one in figures if "error" not in one] == [cell[2] for cell in cells]


def test_a_page_of_the_photos(model: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    page = tmp_path / "made" / "page.html"
    result = run("predict", model, photos, tmp_path / "bad.jpg", "--device", "cpu", "--page", page)
    assert result.exit_code == 1
    text = page.read_text(encoding="utf-8")
    assert text.count("<figure") == len(result.stdout.splitlines()) == len(list(photos.rglob("*.jpg")))
    assert "bad.jpg: not an image format" in text
    assert "already" in error_line("predict", model, photos, "--device", "cpu", "--page", page, code=2)


def test_all_files_bad_and_no_photos(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    result = run("predict", model, tmp_path / "empty.jpg", "--device", "cpu")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"skipping {tmp_path / 'empty.jpg'}: the file is empty\n"
    (tmp_path / "folder").mkdir()
    assert "expected images" in error_line("predict", model, tmp_path / "folder", "--device", "cpu")


def exported(path: Path, outputs: int, classes: list[str], **settings: Any) -> Path:
    torch.manual_seed(0)
    network = fa.classifier("timm:test_resnet", outputs, None)
    Predictor(network, classes, fa.aug_transforms(size=32), presize=40, device="cpu", **settings).save(path)
    return path


def test_labels_come_with_their_probabilities(photos: Path, tmp_path: Path) -> None:
    files, limits = sorted(photos.rglob("*.jpg"))[4:8], {"says": "labels", "threshold": [0.5, 0.5, 1.0]}
    model = exported(tmp_path / "m.safetensors", 3, ["sea", "sky\n", "far"], **limits)
    predictor = fa.load_classifier(model, "cpu")
    probabilities = predictor.get_preds(files)
    predictor.threshold = [*probabilities[:, :2].median(0).values.tolist(), 1.0]  # so that there are all cases
    predictor.save(model)
    result = run("predict", model, *files, "--device", "cpu", "--page", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    figures = json.loads(run("predict", model, *files, "--device", "cpu", "--json").stdout)
    seen = [predictor.predict(file)[0] for file in files]
    assert [] in seen
    assert any(seen)
    for line, names, one, row in zip(result.stdout.splitlines(), seen, figures, probabilities, strict=True):
        path, *cells = line.split("\t")
        assert one["file"] == path
        assert sorted(label["class"] for label in one["labels"]) == sorted(names)
        shown = [(name, f"{row[predictor.classes.index(name)]:.4f}") for name in names]
        wanted = sorted(shown, key=lambda pair: -float(pair[1])) or [("none of these", f"{row.max():.4f}")]
        assert cells == [cell.replace("\n", "\\n") for pair in wanted for cell in pair]
        assert [f"{label['probability']:.4f}" for label in one["labels"]] == [cell for _, cell in wanted[: len(names)]]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<figure") == sum(max(len(names), 1) for names in seen)
    assert "<h1>4 photos</h1>" in page


def test_numbers_are_alone_in_their_line(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.jpg"))[:3]
    for classes in (["length", "width"], []):
        model = exported(tmp_path / "m.safetensors", 2, classes, activation="none", says="numbers")
        page = tmp_path / f"{len(classes)}.html"
        result = run("predict", model, *files, "--device", "cpu", "--page", page)
        assert result.exit_code == 0, result.output
        wanted = fa.load_classifier(model, "cpu").get_preds(files)
        lines = [line.split("\t") for line in result.stdout.splitlines()]
        assert lines == [[str(file), *(f"{x:.6g}" for x in row)] for file, row in zip(files, wanted, strict=True)]
        figures = json.loads(run("predict", model, *files, "--device", "cpu", "--json").stdout)
        numbers = [dict(zip(classes, row, strict=True)) if classes else row for row in wanted.tolist()]
        assert [one["numbers"] for one in figures] == numbers
        text = page.read_text(encoding="utf-8")
        shown = re.findall(r"<figcaption>(?:length )?(-?[\d.e-]+)", text)
        assert [float(x) for x in shown] == pytest.approx(sorted(wanted[:, 0].tolist(), reverse=True), rel=1e-5)
        assert "<h2" not in text


def test_files_that_the_storage_does_not_give(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are named as bad ones are, and the others come; a folder that may not be read is said."""
    files, opened, scan = sorted(photos.rglob("*.jpg")), os.open, os.scandir

    def refusing(path: Any, *rest: Any, **options: Any) -> Any:
        if path == str(files[1]):
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, *rest, **options)

    def listing(path: Any) -> Any:
        if str(path).endswith("light"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scan(path)

    monkeypatch.setattr("fastaug.samples.storage.WAITS_S", (0.001,) * 3)
    monkeypatch.setattr(os, "open", refusing)
    monkeypatch.setattr(os, "scandir", listing)
    result = run("predict", model, photos, "--device", "cpu", "--json")
    assert result.exit_code == 1
    dark = [file for file in files if file.parent.name == "dark"]
    said = json.loads(result.stdout)
    assert [one["file"] for one in said] == [str(file) for file in dark]
    assert [one["file"] for one in said if "error" in one] == [str(files[1])]
    assert "left out in" in result.stderr
    assert "1 not readable ('light')" in result.stderr
