"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastaug.files import whole_file


def test_a_file_appears_whole_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    with whole_file(path) as unfinished:
        unfinished.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with whole_file(str(path)) as unfinished:
        unfinished.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert os.listdir(path.parent) == ["b.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("shared", [False, True])
def test_where_writing_fails_nothing_changes(error: type[BaseException], shared: bool, tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    path.write_text("before")

    def fail() -> None:
        with whole_file(path, shared) as unfinished:
            unfinished.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    with pytest.raises(FileNotFoundError), whole_file(path, shared):
        pass  # nothing was written
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["b.txt"]


def test_two_processes_write_under_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.txt"
    with whole_file(path, shared=True) as one:
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with whole_file(path, shared=True) as other:
            assert one != other
            one.write_text("one")
            other.write_text("other")
        assert path.read_text() == "other"
    assert path.read_text() == "one"
