"""The bad files of a data set, also such as end the process that decodes them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fastaug as fa
from fastaug.cli.app import app
from fastaug.loading.check import ENDS_THE_PROCESS, bad_files
from tests.factories import make_loader, spoil, write_tar


@pytest.fixture
def spoiled(samples: fa.Samples, tmp_path: Path) -> tuple[fa.Samples, dict[str, str]]:
    return spoil(samples, tmp_path)


def test_a_file_that_ends_the_process_is_named(
    spoiled: tuple[fa.Samples, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, bad = spoiled
    killer = samples.paths[9]
    (tmp_path / "sitecustomize.py").write_text(
        "import os, fastaug.samples.sources as s\n"
        "def read(self, path, read=s.Reader.read_bytes):\n"
        f"    if path == {killer!r}: os.abort()\n"
        "    return read(self, path)\n"
        "s.Reader.read_bytes = read\n"
    )
    root = str(Path(fa.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), root]))
    counted: list[int] = []
    found = bad_files(samples, 2, counted.append)
    assert list(found) == sorted(found)
    assert all(found.values())
    assert found.pop(9) == ENDS_THE_PROCESS
    assert {samples.paths[row] for row in found} == set(bad.values())
    assert sum(counted) == len(samples)


def test_thousands_of_bad_members_of_an_archive(samples: fa.Samples, tmp_path: Path) -> None:
    """Through the command, which leaves the good ones in a list that can be loaded."""
    photo = Path(samples.paths[0]).read_bytes()
    wrong = (b"", b"no picture", photo[:900], photo[:3000])
    content = {f"c/{i:04}.jpg": photo if i % 40 == 0 else wrong[i % 4] for i in range(2000)}
    archive, clean = write_tar(tmp_path / "a.tar", content), tmp_path / "clean.csv"
    result = CliRunner().invoke(app, ["check", str(archive), "--pattern", "(c)/", "--clean", str(clean), "--json"])
    assert result.exit_code == 1, result.output
    said = json.loads(result.stdout)
    assert (said["files"], len(said["bad"])) == (2000, 1950)
    assert {re.split("; | \\(", bad["reason"])[0] for bad in said["bad"]} == {
        "the file is empty",
        "not an image format that is read",
        "damaged or truncated image data",
    }
    good = fa.Samples.from_csv(clean)
    assert len(good) == 50
    assert sum(len(y) for _, y, _ in make_loader(good, on_error="raise", drop_last=False)) == 50


def test_a_process_that_cannot_begin(samples: fa.Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RuntimeError, match="check: expected a process that decodes, got: "):
        bad_files(samples.subset([0]), 1)


def test_command_lists_them_and_writes_the_others(spoiled: tuple[fa.Samples, dict[str, str]], tmp_path: Path) -> None:
    samples, bad = spoiled
    samples.to_csv(tmp_path / "all.csv")
    clean = tmp_path / "clean.csv"
    result = CliRunner().invoke(app, ["check", str(tmp_path / "all.csv"), "--clean", str(clean)])
    assert result.exit_code == 1, result.output
    *lines, last = result.stdout.splitlines()
    assert {line.split(": ")[0] for line in lines} == set(bad.values())
    assert last.startswith(f"4 of {len(samples)} files are bad")
    good = fa.Samples.from_csv(clean)
    assert good.paths == [path for path in samples.paths if path not in set(bad.values())]
    again = CliRunner().invoke(app, ["check", str(clean), "--json"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == {"files": len(good), "bad": []}
