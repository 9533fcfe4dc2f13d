"""Lists of images with several labels, or numbers, from the list to the prediction."""

from __future__ import annotations

import csv
import json
import re
import tomllib
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image
from typer.main import get_command

import fastaug as fa
from fastaug.cli.app import app
from fastaug.cli.errors import WrongOption
from fastaug.cli.options import Source
from fastaug.cli.samples import find_samples, split_samples
from fastaug.config import _read
from tests.cli.commands import TINY, error_line, run

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ["--size", "32", "--presize", "40", "--device", "cpu"]


@pytest.fixture(scope="module")
def table(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list, whatever its name, of the twelve photos: tags in one column, the same as columns, and numbers."""
    path = tmp_path_factory.mktemp("list") / "photos.list"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["photo", "tags", "light", "odd", "age", "length", "width"])
        for i, photo in enumerate(sorted(photos.rglob("*.jpg"))):
            light, odd = int("light" in photo.name), i % 2
            tags = ";".join(["light"] * light + ["odd"] * odd)
            writer.writerow([photo.relative_to(photos), tags, light, odd, 20 + i, i / 4, 3 * i])
    return path


def of(table: Path, photos: Path, *targets: str) -> list[str | Path]:
    return ["--csv", table, "--path", "photo", "--root", photos, *(x for name in targets for x in ("--target", name))]


def test_what_is_in_a_list(table: Path, photos: Path) -> None:
    source = Source(csv=table, path="photo", root=photos)
    for options, kind, classes in (
        ({"target": ["tags"], "label_sep": ";"}, "labels", ["light", "odd"]),
        ({"target": ["light", "odd"]}, "labels", ["light", "odd"]),
        ({"target": ["age"], "kind": "numbers"}, "numbers", ["age"]),
        ({"target": ["length", "width"]}, "numbers", ["length", "width"]),
        ({"target": ["age"]}, "class", [str(i) for i in range(20, 32)]),
    ):
        samples = find_samples(source._replace(**options))
        assert (samples.kind, samples.classes or ["age"]) == (kind, classes)
        assert samples.paths[0] == str(photos / "dark" / "dark_photo_0.jpg")
    train, valid = split_samples(source._replace(target=["age"], kind="numbers"), 0.25, 0)
    assert (len(train), len(valid)) == (9, 3)
    folder = find_samples(source._replace(root=None, folder=photos, target=["age"]))
    assert folder.paths == find_samples(source._replace(target=["age"])).paths


def test_what_does_not_go_together(table: Path, photos: Path, tmp_path: Path) -> None:
    for source, message in (
        (Source(), "FOLDER: expected a folder of images, an archive or a list, got none. Give it, or --csv"),
        (Source(photos, csv=table, root=photos), "--root: expected either FOLDER or --root beside --csv, got both"),
        (Source(photos, label_sep=";"), r"--label-sep: expected a list \(\.csv\)"),
        (Source(photos, kind="numbers"), r"--kind: expected a list \(\.csv\)"),
        (Source(csv=table, pattern="(.)"), r"--pattern: expected a folder or an archive"),
        (Source(tmp_path / "a.tar", target=["cls", "json:a"]), "--target: expected one for an archive, got 2"),
    ):
        with pytest.raises(WrongOption, match=message):
            find_samples(source)
    assert error_line("train", *TINY, code=2).startswith("error: FOLDER: expected a folder of images")
    line = error_line("check", *of(table, photos, "tag"))
    assert "expected a column 'tag'" in line
    assert "--target" in line
    assert "from_csv: expected" in error_line("train", *of(table, photos, "tags"), "--kind", "numbers", *TINY)
    (tmp_path / "one.csv").write_text(f"file,label\n{photos}/a.jpg,cat\n{photos}/b.jpg,\n{photos}/c.jpg,cat\n")
    assert "--kind labels" in error_line("train", tmp_path / "one.csv", "--kind", "class", *TINY)


def test_paths_that_leave_the_root(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text(f"file,label\n{photos}/a.jpg,cat\n")
    line = error_line("check", tmp_path / "one.csv", "--root", tmp_path)
    assert "in line 2 of" in line
    assert line.endswith("which leaves it. Correct the line, or say --outside.\n")
    source = Source(tmp_path / "one.csv", root=tmp_path, outside=True)
    assert find_samples(source).paths == [f"{photos}/a.jpg"]
    with pytest.raises(WrongOption, match=r"--outside: expected a list \(\.csv\)"):
        find_samples(source._replace(folder=photos, root=None))


def test_a_clean_list_is_read_with_the_same_separator(table: Path, photos: Path, tmp_path: Path) -> None:
    options = *of(table, photos, "tags"), "--label-sep", ";"
    checked = run("check", *options, "--clean", tmp_path / "clean.csv")
    assert checked.exit_code == 0, checked.output
    before = find_samples(Source(csv=table, path="photo", root=photos, target=["tags"], label_sep=";"))
    assert find_samples(Source(csv=tmp_path / "clean.csv", label_sep=";")) == before


def test_the_options_are_written_and_read_again(tmp_path: Path) -> None:
    command = get_command(app).commands["train"]
    (tmp_path / "c.toml").write_text('csv = "a.csv"\npath-column = "photo"\ntarget = ["a", "b"]\nlabel-sep = " "\n')
    read = _read(tmp_path / "c.toml", command)
    assert read == {"csv": "a.csv", "path": "photo", "target": ["a", "b"], "label_sep": " "}
    (tmp_path / "c.toml").write_text('target = "breed"\n')  # as it was written before there could be several
    assert _read(tmp_path / "c.toml", command) == {"target": ["breed"]}


Trained = tuple[Result, Path]


@pytest.fixture(scope="module")
def labels(table: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    out = tmp_path_factory.mktemp("labels") / "out"
    return run("train", *of(table, photos, "tags"), "--label-sep", ";", *TINY, "--out", out), out


@pytest.fixture(scope="module")
def numbers(table: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    out = tmp_path_factory.mktemp("numbers") / "out"
    return run("train", *of(table, photos, "length", "width"), *TINY, "--out", out, "--json"), out


def best(epochs: list[dict[str, float]]) -> dict[str, float]:
    """The one after which the model was left as it is."""
    return min(epochs, key=lambda row: row["valid_loss"])


def test_train_on_labels(labels: Trained, table: Path, photos: Path, tmp_path: Path) -> None:
    result, out = labels
    assert result.exit_code == 0, result.output
    first, chosen, *_, figures, last = result.stdout.splitlines()
    assert first == "10 images to train, in batches of 4, 2 to validate, 2 labels: light, odd"
    assert chosen.startswith("loss BinaryCrossEntropy, metrics accuracy_multi, f1: ")
    row = best(json.loads((out / "history.json").read_text())["epochs"])
    assert figures.startswith(f"f1 {row['f1']:.4f}, the mean of 2 labels, validation loss ")
    assert last == f"results: {out}"
    for name in ("curves.png", "per_class.png", "results.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 300
    assert not (out / "confusion.png").exists()
    predictor = fa.load_classifier(out / "model.safetensors", "cpu")
    assert (predictor.classes, predictor.says, predictor.threshold) == (["light", "odd"], "labels", 0.5)
    config = tomllib.loads((out / "config.toml").read_text("utf-8"))
    assert (config["csv"], config["path"], config["target"]) == (str(table), "photo", ["tags"])
    assert (config["label-sep"], "folder" in config, "kind" in config) == (";", False, False)
    again = run("train", "--config", out / "config.toml", "--out", tmp_path / "again", "--json")
    assert again.exit_code == 0, again.output
    found = json.loads(again.stdout)
    assert found["f1"] == pytest.approx(row["f1"])
    assert found["per_class"].keys() == {"light", "odd"}
    line = run("predict", out / "model.safetensors", photos / "dark", "--device", "cpu").stdout.splitlines()[0]
    assert {*line.split("\t")[1::2]} <= {"light", "odd", "none of these"}


def test_train_on_numbers(numbers: Trained, photos: Path) -> None:
    result, out = numbers
    assert result.exit_code == 0, result.output
    assert "2 numbers: length, width" in result.stderr
    assert "loss MSELoss, metrics mae: the targets are numbers" in result.stderr
    found = json.loads(result.stdout)
    assert found["errors"].keys() == {"length", "width"}
    errors = [error["mae"] for error in found["errors"].values()]
    assert sum(errors) / 2 == pytest.approx(best(found["epochs"])["mae"])
    for name in ("curves.png", "numbers.png", "results.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 300
    predictor = fa.load_classifier(out / "model.safetensors", "cpu")
    assert (predictor.classes, predictor.says) == (["length", "width"], "numbers")
    said = json.loads(run("predict", out / "model.safetensors", photos / "dark", "--device", "cpu", "--json").stdout)
    assert all(one["numbers"].keys() == {"length", "width"} for one in said)


@pytest.mark.filterwarnings("ignore:lr_find. expected a curve")  # random weights
def test_the_other_commands_follow(table: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastaug.loading.check.bad_files", lambda *_: {})  # which takes a process, and seconds
    model = ["--model", "timm:test_resnet"]
    for targets, described in (
        (["light", "odd"], r"Samples(12 images, 2 labels"), (["length", "width"], "Samples(12 images, 2 numbers each"),
    ):  # fmt: skip
        options = of(table, photos, *targets)
        shown = run("show", *options, *SMALL, "--images", "4", "--out", tmp_path / f"{targets[0]}.png")
        assert shown.exit_code == 0, shown.output
        assert f"4 photos of {described}" in shown.stdout
        summary = run("summary", *options, *SMALL, *model)
        assert summary.exit_code == 0, summary.output
        assert re.search(r"^model +ResNet: float32 \[1, 2\]", summary.stdout, re.MULTILINE)
        assert re.search(r"^loss +(BinaryCrossEntropy|MSELoss), the mean", summary.stdout, re.MULTILINE)
        bench = run("bench", *options, *SMALL, *model, "--batch-size", "4", "--seconds", "0.1")
        assert bench.exit_code == 0, bench.output
        checked = run("check", *options, "--clean", tmp_path / f"{targets[0]}.csv")
        assert checked.exit_code == 0, checked.output
        again = find_samples(Source(csv=tmp_path / f"{targets[0]}.csv", target=targets))
        assert (again.kind, again.classes) == ("labels" if "odd" in targets else "numbers", targets)
    some = tmp_path / "some.csv"
    some.write_text(
        "file,label\n"
        + "".join(f"{path},{'xy'[i]}\n" for i, path in enumerate(again.paths[:2]))
        + f"{again.paths[2]},\n"
    )
    bench = run("bench", some, "--kind", "class", *SMALL, *model, "--batch-size", "4", "--seconds", "0.1")
    assert bench.exit_code == 0, bench.output
    rates = ["--batches", "8", "--batch-size", "4", "--weights", "none", "--out", tmp_path / "rates.png"]
    found = run("lr-find", *options, *SMALL, *model, *rates)
    assert found.exit_code == 0, found.output
    prepared = run("prepare", *options, "--cache", tmp_path / "cache", "--cache-size", "40", "--device", "cpu")
    assert prepared.exit_code == 0, prepared.output
    assert prepared.stdout.startswith("12 photos made")
