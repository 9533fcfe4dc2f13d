"""Lists of images as CSV: as spreadsheets, pandas and other systems write them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastaug.samples.samples import Samples
from tests.factories import write_tar


def table(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


# Values


def test_spaces_around_values_and_names_of_columns_are_none_of_theirs(tmp_path: Path) -> None:
    found = Samples.from_csv(
        table(tmp_path, ' file , label\na.jpg,cat\nb.jpg, cat \n c.jpg,"a cat, asleep"\nd.jpg, "dog"\n')
    )
    assert found.classes == ["a cat, asleep", "cat", "dog"]
    assert found.paths == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


@pytest.mark.parametrize(
    "classes", [["0.0", "1.0", "2.0", "10.0"], ["-10", "-9", "+1", "2"], ["1e-3", "0.5", "2e3"], [".5", "1."]]
)
def test_numbers_are_sorted_as_numbers(tmp_path: Path, classes: list[str]) -> None:
    rows = "".join(f"{i}.jpg,{name}\n" for i, name in enumerate(sorted(classes)))
    assert Samples.from_csv(table(tmp_path, "file,label\n" + rows), kind="class").classes == classes


@pytest.mark.parametrize("classes", [["1", "10", "2", "nan"], ["1", "10", "9_"], ["1", "10", "٢"]])
def test_text_is_sorted_as_text(tmp_path: Path, classes: list[str]) -> None:
    rows = "".join(f"{i}.jpg,{name}\n" for i, name in enumerate(classes))
    assert Samples.from_csv(table(tmp_path, "file,label\n" + rows)).classes == classes


@pytest.mark.parametrize("sep", [",", ";", "\t", "|"])
def test_the_separator_is_found_from_the_header(tmp_path: Path, sep: str) -> None:
    text = "".join(f"{sep.join(row)}\n" for row in (("id", "file", "label"), ("1", "a.jpg", "x"), ("2", "b.jpg", "y")))
    assert Samples.from_csv(table(tmp_path, text)) == Samples(["a.jpg", "b.jpg"], [0, 1], ["x", "y"])


def test_the_separator_is_found_where_the_header_is_quoted(tmp_path: Path) -> None:
    assert Samples.from_csv(table(tmp_path, '"file";"label"\n"a.jpg";"1,5"\n')).classes == ["1,5"]


def test_a_list_without_a_header_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"got \['a\.JPG', 'cat'\]\. Write the names of the columns, 'file' and 'label', "
    ):
        Samples.from_csv(table(tmp_path, "a.JPG,cat\nb.jpg,dog\n"))
    with pytest.raises(ValueError, match=r"got \[\]\. Write the names"):
        Samples.from_csv(table(tmp_path, ""))


def test_the_separator_may_be_said(tmp_path: Path) -> None:
    path = table(tmp_path, "file:label\na.jpg:x,y\n")
    assert Samples.from_csv(path, sep=":").classes == ["x,y"]
    with pytest.raises(ValueError, match=r"column 'file' in .*t\.csv', got \['file:label'\]\. .*sep="):
        Samples.from_csv(path)
    with pytest.raises(ValueError, match="sep"):
        Samples.from_csv(path, sep="::")


@pytest.mark.parametrize(
    "text",
    [
        "root:x:0:0:root:/root:/bin/bash\nbin:x:1:1\n",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1r\n",
        "password=root,user=a\n",
        "x" * 100_000 + "root\n",
    ],
)
def test_lines_of_other_files_are_not_printed(tmp_path: Path, text: str) -> None:
    message = (
        r"a column 'file' in .*t\.csv', got a first line that names no columns\. Give a list, or name another file"
    )
    with pytest.raises(ValueError, match=message) as error:
        Samples.from_csv(table(tmp_path, text))
    assert "root" not in str(error.value).replace(str(tmp_path), "")


@pytest.mark.parametrize(
    "text",
    [
        "file,label\na.jpg," + "x" * 100_000 + ",2\n",
        "file,label\n," + "x" * 100_000 + "\n",
        "file,label\nxy://" + "x" * 100_000 + ",1\n",
        "file,label\na,0.5\nb," + "x" * 100_000 + "\n",
        "file,label\na,0\na," + "x" * 100_000 + "\n",
        "file,label," + "x," * 50_000 + "label\n",
        "file," + ",".join(["y"] * 50_000) + "\n",
    ],
)
def test_what_errors_print_of_a_list_is_cut(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"^from_csv: expected .* in .*t\.csv'") as error:
        Samples.from_csv(table(tmp_path, text))
    assert len(str(error.value)) < 1000


def test_what_is_no_file_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a list, got .*, which is no file"):
        Samples.from_csv(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_a_spreadsheet_writes(tmp_path: Path, encoding: str) -> None:
    path = table(tmp_path, "file\tlabel\r\na.jpg\tcafé\r\n".encode(encoding))
    assert Samples.from_csv(path).classes == ["café"]


def test_latin_1_is_named_and_may_be_said(tmp_path: Path) -> None:
    path = table(tmp_path, "file,label\na.jpg,thé\nb.jpg,café\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"expected UTF-8 in line 2 of .*t\.csv', got 'th\\udce9'.*encoding='latin-1'"):
        Samples.from_csv(path)
    assert Samples.from_csv(path, encoding="latin-1").classes == ["café", "thé"]
    with pytest.raises(ValueError, match=r"t\.csv.*ascii"):
        Samples.from_csv(path, encoding="ascii")
    with pytest.raises(ValueError, match=r"column 'file' in"):
        Samples.from_csv(table(tmp_path, "fichier,étiquette\na.jpg,x\n".encode("latin-1")))
    with pytest.raises(LookupError, match="klingon"):
        Samples.from_csv(path, encoding="klingon")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('file,label\na.jpg,"cat\nb.jpg,dog\n', r"line 2 .*t\.csv.*quote"),
        ("file,label,label\na.jpg,cat,dog\n", r"one column 'label'"),
        (
            "file,label\nhttps://x.org/1.jpg,cat\n",
            r"a file in line 2 .*got the address 'https://x\.org/1\.jpg'.*Download",
        ),
        ("file,label\ns3://bucket/1.jpg,cat\n", r"got the address 's3:"),
        (
            "file,label\na.jpg,cat\nb.jpg,cat\na.jpg,dog\n",
            r"one class for each file.*'a\.jpg'.*'cat'.*'dog'.*lines 2 and 4",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Samples.from_csv(table(tmp_path, text))


def test_a_file_that_is_listed_twice_stays(tmp_path: Path) -> None:
    assert len(Samples.from_csv(table(tmp_path, "file,label\na.jpg,cat\nb.jpg,dog\na.jpg,cat\n"))) == 3


# Where the files are


@pytest.mark.parametrize("root", ["/photos", "/photos/", "/photos/x/..", "photos", ".", ""])
@pytest.mark.parametrize("name", ["/etc/passwd", "../a.jpg", "b/../../a.jpg", "../photos2/a.jpg", "//etc/passwd"])
def test_paths_that_leave_the_root_are_refused_unless_asked_for(tmp_path: Path, root: str, name: str) -> None:
    path = table(tmp_path, f"file,label\nb/..a.jpg,x\n\n{name},y\n")
    with pytest.raises(
        ValueError, match=rf"a path within root='{root}' in line 4 of .*, got '{name}', .* outside=True"
    ):
        Samples.from_csv(path, root=root)
    assert Samples.from_csv(path, root=root, outside=True).paths[1] == os.path.join(root, name)
    assert Samples.from_csv(path).paths[1] == name, "there is none to leave"


def test_paths_within_the_root(tmp_path: Path) -> None:
    """Absolute ones too; of a member of an archive the archive counts, whatever the member is called."""
    write_tar(tmp_path / "a.tar", {"../../x.jpg": b"x"})
    paths = [f"{tmp_path}/a.jpg", "b/../c..d.jpg", "a.tar//../../x.jpg@512+1", "..d/1.jpg"]
    path = table(tmp_path, "file,label\n" + "".join(f"{name},x\n" for name in paths))
    expected = [paths[0], *(f"{tmp_path}/{name}" for name in paths[1:])]
    assert Samples.from_csv(path, root=tmp_path).paths == expected
    for name in ("../a.tar//x.jpg@512+1", "..\\a.jpg"):
        path = table(tmp_path / "below", f"file,label\n{name},x\n")
        (tmp_path / "a.jpg").touch()
        with pytest.raises(ValueError, match=r"line 2 .*, which leaves it"):
            Samples.from_csv(path, root=tmp_path / "below")


def test_files_beside_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path / "data", "file,label\ncat/1.jpg,cat\ncat/2.jpg,cat\n/else/3.jpg,cat\n")
    monkeypatch.chdir(tmp_path)
    assert Samples.from_csv(path).paths[0] == "cat/1.jpg", "nothing is there: as it is written"
    touch(tmp_path / "data/cat/2.jpg")
    assert Samples.from_csv(path).paths == [f"{tmp_path}/data/cat/1.jpg", f"{tmp_path}/data/cat/2.jpg", "/else/3.jpg"]
    assert Samples.from_csv("data/t.csv").paths[0] == "data/cat/1.jpg"
    assert Samples.from_csv(path, root="elsewhere", outside=True).paths[1] == "elsewhere/cat/2.jpg"
    touch(tmp_path / "cat/1.jpg")
    with pytest.raises(
        ValueError, match=r"in one place, got 'cat/1\.jpg' from the working directory and 'cat/2\.jpg' .*root="
    ):
        Samples.from_csv(path)
    assert Samples.from_csv(path, root="", outside=True).paths[1] == "cat/2.jpg"
    monkeypatch.chdir(tmp_path / "data")
    assert Samples.from_csv(path).paths[1] == "cat/2.jpg"


def test_members_of_archives_beside_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path / "data", "file,label\na.tar//cat/1.jpg@512+9,cat\n")
    touch(tmp_path / "data/a.tar")
    assert Samples.from_csv(path).paths == [f"{tmp_path}/data/a.tar//cat/1.jpg@512+9"]


@pytest.mark.skipif(os.sep != "/", reason="they are separators there")
def test_backslashes(tmp_path: Path) -> None:
    path = table(tmp_path, "file,label\ncat\\1.jpg,cat\ncat\\2.jpg,cat\n")
    with pytest.raises(ValueError, match=r"got 'cat\\\\1\.jpg', with backslashes, .*not there"):
        Samples.from_csv(path)
    touch(tmp_path / "cat/1.jpg")
    assert Samples.from_csv(path).paths == [f"{tmp_path}/cat/1.jpg", f"{tmp_path}/cat/2.jpg"]
    assert Samples.from_csv(path, root=tmp_path).paths[0] == f"{tmp_path}/cat/1.jpg"
    touch(tmp_path / "cat\\2.jpg")
    assert Samples.from_csv(path).paths[0] == f"{tmp_path}/cat\\1.jpg", "it may be a name"


# There and back


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_not_utf8_there_and_back(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "photos")
    for name in (b"cat/1.jpg", b"cat/z\xe9.jpg", b"th\xe9/1.jpg", "café/1.jpg".encode(), b"a\nb/1.jpg", b'"q",/\r.jpg'):
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        open(os.path.join(folder, name), "wb").close()
    samples = Samples.from_folder(tmp_path / "photos")
    samples.to_csv(tmp_path / "list.csv")
    assert Samples.from_csv(tmp_path / "list.csv") == samples
    assert samples.classes[-1] == "th\udce9"
    assert "\\n" in repr(samples)
    long = Samples(["1.jpg", "2.jpg"], [0, 1], ["n" * 300, "cat"])
    assert max(map(len, [repr(long), *long.describe().splitlines()])) < 120
    assert (repr(samples) + samples.describe().replace("\n", "")).isprintable()


def test_a_list_is_written_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "list.csv"
    Samples(["a.jpg"], [0], ["cat"]).to_csv(path)
    with pytest.raises(UnicodeEncodeError):
        Samples(["b.jpg", "c.jpg"], [0, 1], ["dog", "\ud800"]).to_csv(path)
    assert path.read_text() == "file,label\na.jpg,cat\n"
    assert os.listdir(tmp_path / "new") == ["list.csv"]


# Splitting


@pytest.mark.parametrize("stratify", [False, True])
def test_a_file_that_is_listed_twice_stays_on_one_side(stratify: bool) -> None:
    samples = Samples([f"{i}.jpg" for i in range(20)] * 2, [i % 2 for i in range(20)] * 2, ["a", "b"])
    train, valid = samples.split(0.2, stratify=stratify)
    assert (len(train), len(valid)) == (32, 8)
    assert not set(train.paths) & set(valid.paths)
    once = samples.subset(range(20)).split(0.2, stratify=stratify)[1]
    assert valid.paths == once.paths * 2, "the files are divided as they are without the second rows"
