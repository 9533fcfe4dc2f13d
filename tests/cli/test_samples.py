"""What FOLDER may be, on the command line."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import pytest
from typer.main import get_command

from fastaug.cli.app import app
from fastaug.cli.errors import WrongOption
from fastaug.cli.samples import Source, find_samples, split_samples
from fastaug.config import _read
from tests.cli.commands import TINY, error_line, run
from tests.factories import jpeg, write_tar


def make(root: Path, *names: str) -> Path:
    content = jpeg(24, 18)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


SPLIT = [f"{part}/{name}/{i}.jpg" for part in ("train", "val", "test") for name in ("cat", "dog") for i in range(4)]


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_train_uses_the_folders_that_are_there_and_breaks_at_no_name(tmp_path: Path) -> None:
    names = {"cat": "$10_to_$20", "dog": "a\n\x1b[31mb\udce9"}
    root = make(tmp_path / "p\udce9ts", *(re.sub("cat|dog", lambda found: names[found[0]], name) for name in SPLIT))
    result = run("train", root, *TINY, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert r"in batches of 4, 8 to validate, 2 classes: $10_to_$20, a\n\x1b[31mb\udce9" in result.stdout
    assert rf"train/, val/ of '{tmp_path}/p\udce9ts'; left aside: test/" in result.stderr
    assert "\x1b[31m" not in result.output
    assert (tmp_path / "out" / "confusion.png").exists()
    assert _read(tmp_path / "out" / "config.toml", get_command(app).commands["train"])["folder"] == str(root)


def test_halves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make(tmp_path / "a", *SPLIT)
    train, valid = split_samples(Source(root), 0.5, 0)
    assert {Path(path).parts[-3] for path in train.paths} == {"train"}
    assert {Path(path).parts[-3] for path in valid.paths} == {"val"}
    assert len(find_samples(Source(root))) == 8
    assert len(find_samples(Source(root), every=True)) == 24
    assert "train/ of" in capsys.readouterr().err
    without = make(tmp_path / "b", *(name for name in SPLIT if not name.startswith("val")))
    train, valid = split_samples(Source(without), 0.5, 0)
    assert {Path(path).parts[-3] for path in [*train.paths, *valid.paths]} == {"train"}
    assert (len(train), len(valid)) == (4, 4)
    assert "left aside: test/" in capsys.readouterr().err
    vehicles = make(tmp_path / "c", "car/1.jpg", "car/2.jpg", "train/1.jpg", "train/2.jpg")
    assert split_samples(Source(vehicles), 0.5, 0)[0].classes == ["car", "train"]
    classes = make(tmp_path / "d", "test/1.jpg", "test/2.jpg", "train/1.jpg", "train/2.jpg")
    assert split_samples(Source(classes, level=-1), 0.5, 0)[0].classes == ["test", "train"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["l.csv", "L.CSV", "l.tsv", "l.txt"])
def test_lists(tmp_path: Path, name: str) -> None:
    make(tmp_path, "cat/1.jpg", "dog/1.jpg")
    separator = "\t" if name == "l.tsv" else ","
    rows = (("image_id", "species"), ("cat/1.jpg", "caf\xe9"), ("dog/1.jpg", "dog"))
    (tmp_path / name).write_text("".join(f"{separator.join(row)}\n" for row in rows), encoding="latin-1")
    line = error_line("check", tmp_path / name)
    assert line.endswith("Name them, as --path image_id, --target species.\n")
    columns = ["--path-column", "image_id", "--target", "species"]  # as it was called before
    assert "say --encoding latin-1 if a spreadsheet" in error_line("check", tmp_path / name, *columns)
    source = Source(tmp_path / name, path="image_id", target=["species"], encoding="latin-1")
    assert find_samples(source).classes == ["café", "dog"]
    assert find_samples(source).paths[0] == f"{tmp_path}/cat/1.jpg"
    assert find_samples(source._replace(root=Path("/x"))).paths[0] == "/x/cat/1.jpg"


def test_archives_and_what_is_left_out_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_tar(tmp_path / "a.tar", {"cat/1.jpg": b"", "dog/2.jpg": b"", "cat/3.heic": b""})
    with pytest.warns(UserWarning, match="left out"):
        assert find_samples(Source(tmp_path / "?.tar", pattern="(cat|dog)")).classes == ["cat", "dog"]
    monkeypatch.setattr("fastaug.loading.check.bad_files", lambda *_: {})
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as outside of tests
        result = run("check", archive, "--target", "folder")
    assert (result.exit_code, result.stdout) == (0, "0 of 2 files are bad\n")
    assert result.stderr.startswith(f"warning: from_tar: left out in '{archive}': 1 .heic ('cat/3.heic'). Convert")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["p.zip", "p.tar.gz", "p.parquet", "1.jpg"])
def test_what_else_there_is_is_told_what_it_may_be(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    assert error_line("check", tmp_path / name, code=2) == (
        "error: FOLDER: expected a folder of images, a .tar archive that is not compressed, or a list "
        f"(.csv, .tsv, .txt), got '{tmp_path / name}'. Unpack or convert it.\n"
    )


def test_options_that_say_nothing_of_it_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "l.csv").write_text("file,label\ncat/1.jpg,cat\n")
    for source, message in (
        (Source(tmp_path, path="image"), r"--path: expected a list"),
        (Source(tmp_path / "l.csv", pattern="(.)"), r"--pattern: expected a folder or an archive, got .*l\.csv"),
        (Source(tmp_path, pattern="(.)", level=1), r"--level: expected a folder without --pattern"),
    ):
        with pytest.raises(WrongOption, match=message):
            find_samples(source)


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_clean_with_names_that_are_not_utf8(tmp_path: Path) -> None:
    root = make(tmp_path / "p", "cat/0.jpg", "cat/1.jpg", "cat/a\n\x1b[31m.jpg")
    os.link(root / "cat/0.jpg", os.fsencode(root) + b"/cat/z\xe9.jpg")
    (root / "cat/bad\x1b.jpg").write_bytes(b"junk")
    result = run("check", root, "--clean", tmp_path / "good.csv")
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{root}/cat/bad\\x1b.jpg: ")
    assert result.stdout.endswith(f"\n1 of 5 files are bad; the others: {tmp_path}/good.csv\n")
    again = find_samples(Source(tmp_path / "good.csv"))
    assert [os.path.basename(path) for path in again.paths] == ["0.jpg", "1.jpg", "a\n\x1b[31m.jpg", "z\udce9.jpg"]
