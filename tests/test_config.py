"""A command's options in a file: whatever they are, they are read as they were written."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.main import get_command

from fastaug.cli.app import app
from fastaug.config import _read, write_config

TRAIN: Any = get_command(app).commands["train"]  # type: ignore[attr-defined]


def written(path: Path, **params: Any) -> dict[str, Any]:
    """What is read of a file with these options, and nothing else."""
    every = {parameter.name: None for parameter in TRAIN.params}
    context: Any = SimpleNamespace(info_name="train", command=TRAIN, params={**every, **params})
    write_config(context, path)
    return _read(path, TRAIN)


def names() -> st.SearchStrategy[str]:
    """Of files: any bytes but 0, as Python has them."""
    return st.binary(min_size=1, max_size=40).map(lambda name: os.fsdecode(name.replace(b"\0", b"0")))


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
@given(names() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
@example("a\nb\r\n\"'\\#\x7f\x1b[31m\x80\x85\x9f\ufeff\u2028\u202e😀\udcff = 1")
@example("\ufeff")
@example("'''\"\"\"")
@example(" # ")
def test_any_path_survives(tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    file = tmp_path_factory.getbasetemp() / "config.toml"
    found = written(file, folder=Path(path), pattern=path, model=path, target=[path, "b"])
    assert found == {"folder": str(Path(path)), "pattern": path, "model": path, "target": [path, "b"]}
    content = file.read_bytes()
    if max(path) < "\udc80":
        assert tomllib.loads(content.decode())["model"] == path  # as others read it
    assert not any((byte < 32 and byte != 10) or byte == 127 for byte in content)  # nothing that steers a terminal


def test_the_file_of_a_folder_with_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a\nb = 1\x1b[31m\x7f\u2028#\"'"
    assert written(folder / "config.toml", epochs=3) == {"epochs": "3"}
    first = (folder / "config.toml").read_text("utf-8").split("\n")[0]
    assert first.startswith("# fastaug ")
    assert r"a\nb = 1\x1b[31m\x7f\u2028#" in first


def test_numbers_survive(tmp_path: Path) -> None:
    for value in (0, -3, 1e-300, 1e22, 0.1, float("inf"), float("-inf"), 10**30):
        found = written(tmp_path / "config.toml", epochs=value)
        assert type(value)(found["epochs"]) == value
    assert written(tmp_path / "config.toml", epochs=True) == {"epochs": "True"}
