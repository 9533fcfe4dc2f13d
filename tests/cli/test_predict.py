"""`fastaug predict` of folders, many files and bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
