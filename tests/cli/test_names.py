"""Names of files and classes that would steer a terminal, break a line or a table, or become markup."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

import fastaug as fa
from fastaug.cli.app import run as run_in_process
from fastaug.cli.printing import as_json_text
from fastaug.text import printable
from fastaug.training.inference import Predictor
from tests.cli.commands import TINY, run
from tests.factories import write_tar

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ["red\x1b[31m\n\tcat\u202e", "$x^2$ <script>\udce9\"'", "l" * 210 + "\x1b]0;t\x07", "sep\u2028\r\x9b2J"]
FILES = ["a\tb\n\x1b[2J.jpg", "\x1b]0;title\x07\u202egpj.jpg", "th\udce9 $a$ <b>.jpg", "n" * 200 + ".jpg"]
BAD = ["bad\x1b[31m\n\t.jpg", "--seed=3 mode='x'\r.jpg"]
OPTIONS = ["--device", "cpu", "--size", "32", "--presize", "40"]


@pytest.fixture(scope="module")
def hostile(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of four photos each, and two files that are none."""
    root = tmp_path_factory.mktemp("names") / "d\x1b[1m\n\t\udce9"
    some = sorted(photos.rglob("*.jpg"))
    for i, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for j, file in enumerate(FILES):
            shutil.copy(some[(4 * i + j) % len(some)], root / name / file)
    for file in BAD:
        (root / CLASSES[0] / file).write_bytes(b"SECRET no photo")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model\x1b[31m.safetensors"
    network = fa.classifier("timm:test_resnet", 4, None)
    Predictor(network, CLASSES, fa.aug_transforms(size=32), presize=40, device="cpu").save(path)
    return path


def raw(text: str, allowed: str = "\n") -> set[str]:
    """What would not have been printed."""
    return {character for character in set(text) - set(allowed) if printable(character) != character}


def test_the_scan_finds_what_is_raw() -> None:
    assert raw("a\x1bb\tc\u202e\udce9\n") == {"\x1b", "\t", "\u202e", "\udce9"}


@pytest.mark.filterwarnings("ignore:lr_find")  # of few batches it says little
@pytest.mark.parametrize(
    ("arguments", "code", "lines"),
    [
        (["show", "{root}", *OPTIONS, "--out", "{tmp}/s\x1b\n.png"], 0, 1),
        (["summary", "{root}", *OPTIONS], 0, None),
        (["prepare", "{root}", "--device", "cpu", "--cache", "{tmp}/c\x1b\n"], 0, 2 + 2),
        (["check", "{tar}", "--target", "folder"], 1, 2 + 1),
        (["lr-find", "{root}", *OPTIONS, *TINY[:4], "--batches", "2", "--out", "{tmp}/l\x1b\n.png"], 0, None),
        (["bench", "{root}", *OPTIONS, "--batch-size", "4", "--seconds", "0.1"], 0, None),
        (["train", "{root}/no\x1b\n", *TINY], 1, 0),
        (["cache", "{root}/no\x1b\n"], 1, 0),
        (["predict", "{root}/no\x1b\n", "{root}"], 1, 0),
        (["show", "{root}", "--out", "{root}/" + CLASSES[0] + "/" + FILES[0]], 2, 0),
        (["check", "{root}", "--pattern", "(\x1b\n"], 1, 0),
        (["check", "{root}", "--pattern", r"(x\d+)"], 1, 0),
    ],
    ids=lambda value: "-".join(value[:1]) if isinstance(value, list) else "",
)
def test_nothing_raw_is_printed_and_no_line_is_broken(
    arguments: list[str], code: int, lines: int | None, hostile: Path, tmp_path: Path
) -> None:
    """A line on standard output for each result, one on standard error for each warning, bad file or error."""
    if "{tar}" in arguments:
        files = sorted(path for path in hostile.rglob("*") if path.is_file())
        content = {str(path.relative_to(hostile)): path.read_bytes() for path in files}
        write_tar(tmp_path / "t\x1b\n.tar", content, errors="surrogateescape")
    places = {"{root}": str(hostile), "{tmp}": str(tmp_path), "{tar}": str(tmp_path / "t\x1b\n.tar")}
    result = run(*(replaced(argument, places) for argument in arguments))
    assert result.exit_code == code, result.output
    assert raw(result.stdout) == raw(result.stderr) == set()
    assert "SECRET" not in result.output
    assert lines is None or result.stdout.count("\n") == lines
    assert all(line.startswith(("skipping ", "error: ", "warning: ")) for line in result.stderr.split("\n")[:-1])


def replaced(text: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        text = text.replace(name, place)
    return text


def test_a_training(hostile: Path, tmp_path: Path) -> None:
    """The bad file among the results is one line too; what it leaves can be read by programs."""
    out = tmp_path / "out\x1b\n"
    options = [*TINY, "--valid-fraction", "0.5", "--freeze-epochs", "0"]
    result = run("train", hostile, *options, "--out", out)
    assert result.exit_code == 0, result.output
    assert raw(result.output) == set()
    skipped, results = result.stdout.split("\n")[-3:-1]
    assert skipped.startswith(f"skipped 2 files that could not be read, the first '{printable(str(hostile))}/")
    assert results == f"results: {printable(str(out))}"
    for name in ("history.json", "history.csv"):
        assert raw((out / name).read_text(encoding="utf-8")) <= {"\r"}


def test_predict_has_a_line_for_each_file_and_columns_stay(model: Path, hostile: Path, tmp_path: Path) -> None:
    page = tmp_path / "p\x1b.html"
    result = run("predict", model, hostile, "--device", "cpu", "--page", page)
    assert result.exit_code == 1
    rows = [line.split("\t") for line in result.stdout.split("\n")[:-1]]
    assert len(rows) == 16
    assert {len(row) for row in rows} == {3}
    assert {row[1] for row in rows} <= {printable(name) for name in CLASSES}
    assert raw(result.stdout, "\n\t") == raw(result.stderr) == set()
    assert result.stderr.count("\n") == 2
    text = page.read_text(encoding="utf-8")
    assert raw(text) == set()
    assert not {"<script", "<b>", "SECRET"} & {part for part in ("<script", "<b>", "SECRET") if part in text}


@pytest.mark.parametrize("command", ["predict", "prepare"])
def test_json_holds_the_names_as_they_are(command: str, model: Path, hostile: Path, tmp_path: Path) -> None:
    arguments = [model, hostile] if command == "predict" else [hostile, "--cache", tmp_path / "c\x1b\n"]
    result = run(command, *arguments, "--device", "cpu", "--json")
    assert result.stdout.isascii()
    found = json.loads(result.stdout)
    paths = [one["file"] for one in found] if command == "predict" else [one["path"] for one in found["bad"]]
    assert len(paths) == (18 if command == "predict" else 2)
    assert all(map(os.path.exists, paths))
    if command == "prepare":
        assert Path(found["folder"]).is_dir()


def test_json_has_null_for_what_is_no_number() -> None:
    def unknown(constant: str) -> None:
        raise AssertionError(constant)

    figures = {"a": float("nan"), "b": [1.5, (float("inf"), {"c": -float("inf")})], "d\x1b\udce9": True}
    text = as_json_text(figures)
    assert json.loads(text, parse_constant=unknown) == {"a": None, "b": [1.5, [None, {"c": None}]], "d\x1b\udce9": True}


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_a_pipe_of_any_encoding(
    encoding: str, model: Path, hostile: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipes = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    for name, pipe in pipes.items():
        monkeypatch.setattr(sys, name, pipe)
    monkeypatch.setattr(sys, "argv", ["fastaug", "predict", str(model), str(hostile), "--device", "cpu"])
    with pytest.raises(SystemExit) as end:
        run_in_process()
    assert end.value.code == 1
    texts = []
    for pipe in pipes.values():
        pipe.flush()
        assert isinstance(pipe.buffer, io.BytesIO)
        texts.append(pipe.buffer.getvalue().decode(encoding))
    assert [text.count("\n") for text in texts] == [16, 2]
