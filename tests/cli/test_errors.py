"""Errors in the words of the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from fastaug.cli.app import app
from fastaug.cli.errors import in_options, one_line
from fastaug.cli.printing import json_alone, print_figures, say
from tests.cli.commands import TINY, error_line, run

GROUP: Any = typer.main.get_command(app)


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("split: expected valid_fraction between 0 and 1, got 1.5.",
         "split: expected --valid-fraction between 0 and 1, got 1.5."),
        ("expected a GPU for device='cuda', found none. Use device='cpu'.",
         "expected a GPU for --device cuda, found none. Use --device cpu."),
        ("got 4 samples for 1 rank(s). Lower batch_size or pass drop_last=False.",
         "got 4 samples for 1 rank(s). Lower --batch-size."),
        ("could not load a.jpg: empty. Remove it, or use on_error='skip'.", "could not load a.jpg: empty. Remove it."),
        ("clean the list with `fastaug check`, or raise max_bad_share.", "clean the list with `fastaug check`."),
        ("Set train_bn=False, or train_bn=True (seed=3, base_lr=2e-3).",
         "Set --no-train-bn, or --train-bn (--seed 3, --base-lr 2e-3)."),
        ("a model of this size in 'batch_size/model/size=3.jpg' of data/valid_fraction",
         "a model of this size in 'batch_size/model/size=3.jpg' of data/valid_fraction"),
        ("Name the columns with path= and target=.", "Name the columns with --path and --target."),
        ("set PYTORCH_ENABLE_MPS_FALLBACK=1", "set PYTORCH_ENABLE_MPS_FALLBACK=1"),
    ],
)  # fmt: skip
def test_arguments_of_python_are_called_as_the_options(message: str, wanted: str) -> None:
    assert in_options(message, GROUP.commands["train"].params) == wanted


def test_an_option_that_the_command_lacks_is_not_named() -> None:
    assert in_options("expected valid_fraction", GROUP.commands["bench"].params) == "expected valid_fraction"


def test_errors_speak_of_options(photos: Path) -> None:
    line = error_line("train", photos, *TINY, "--valid-fraction", "1.5")
    assert line == "error: split: expected --valid-fraction between 0 and 1, got 1.5.\n"
    assert "Use --device cpu." in error_line("bench", photos, "--device", "cuda:99")


def test_what_comes_from_files_cannot_steer_the_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "\x1b[31mred\u202e"
    line = error_line("show", folder)
    assert "\x1b[31mred" not in line
    assert r"\x1b[31mred\u202e" in line
    assert one_line(ValueError("a\nb")) == "a b"


def test_json_is_alone_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    for wanted in (True, False):
        with json_alone(wanted):
            print("a library's line")
            say("one of ours")
            print_figures(wanted, {"a": 1}, ["a 1"])
    print("later")
    out, err = capsys.readouterr()
    assert out == '{\n  "a": 1\n}\na library\'s line\none of ours\na 1\nlater\n'
    assert err == "a library's line\none of ours\n"
    assert sys.stdout is not sys.stderr


@pytest.mark.parametrize(
    ("arguments", "option", "there"),
    [
        (["train", "--out", "out"], "--out", "out/model.safetensors"),
        (["train", "--out", "out"], "--out", "out/checkpoint.pth"),
        (["demo", "--out", "out"], "--out", "out/model.safetensors"),
        (["show", "--out", "out/a.png"], "--out", "out/a.png"),
        (["lr-find", "--out", "out/a.png"], "--out", "out/a.png"),
        (["predict", "model.safetensors", "--page", "out/a.html"], "--page", "out/a.html"),
        (["check", "--clean", "out/a.csv"], "--clean", "out/a.csv"),
    ],
)
def test_nothing_is_overwritten_in_silence(
    arguments: list[str], option: str, there: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / there).write_text("somebody's work")
    folder = [] if arguments[0] == "demo" else [photos]
    line = error_line(arguments[0], *folder, *arguments[1:], code=2)
    otherwise = ", --resume" if arguments[0] == "train" else ""
    assert line == (
        f"error: {option}: expected a new file, got '{there}', which is there already. Give another {option}"
        f"{otherwise}, or --overwrite.\n"
    )
    assert (tmp_path / there).read_text() == "somebody's work"


def test_overwrite_overwrites(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastaug.loading.check.bad_files", lambda *_: {})
    clean = tmp_path / "clean.csv"
    clean.write_text("somebody's work")
    assert run("check", photos, "--clean", clean, "--overwrite").exit_code == 0
    assert clean.read_text().startswith("file,label\n")


def test_a_demo_may_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bool] = []
    monkeypatch.setattr("fastaug.demo.run.run_demo", lambda *_, **__: said.append(True))
    for name in ("report.json", "model.safetensors"):
        (tmp_path / name).write_text("")
    result = run("demo", "--out", tmp_path)
    assert (result.exit_code, said) == (0, [True])
    assert result.stdout == f"{tmp_path} holds an earlier demo, which is overwritten\n"
