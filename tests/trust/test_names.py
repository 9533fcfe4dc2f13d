"""Names and reasons: what steers a terminal never reaches one, nor a log, a report or a page; paths stay below root."""

from __future__ import annotations

import csv
import html
import json
import logging
import os
import re
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastaug as fa
from tests.cli.commands import TINY, run
from tests.factories import ROOT, write_tar
from tests.trust.faults import (
    CLASSES,
    TAR_END,
    one_line,
    raw,
    rows_of,
    small_loader,
    tar_member,
    within,
    write_photo,
)

FILES = [
    "\x1b[31mred\x1b[0m.jpg",
    "tab\there.jpg",
    "new\nline.jpg",
    "\x9b31mC1.jpg",
    "bytes\udce9.jpg",
    "\u202egpj.jpg",
    "<script>alert(1)<.jpg",
    "[bold]rich[.jpg",
    "$x^{\\frac$.jpg",
    "%s{0}.jpg",
    "\x1b]0;title\x07.jpg",
    "\r.jpg",
]
# A folder's name has no slash
FOLDERS = [name.replace("/", "") for name in CLASSES]
BAD = "bad\x1b[2J\n\t\udce9.jpg"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of photos with hostile names below a folder with one, and a bad file in each."""
    root = tmp_path_factory.mktemp("names") / "ph\x1b[1m\to\nt\udce9s"
    for number, folder in enumerate(FOLDERS):
        for i, name in enumerate(FILES):
            write_photo(root / folder / name, 7 * number + i, (40, 36))
        (root / folder / BAD).write_bytes(b"no photo")
    return root


def clean(text: str, what: str, tabs: bool = False) -> str:
    """Nothing in it that steers a terminal; lines are lines."""
    found = [char for char in raw(text) if not (tabs and char == "\t")]
    assert not found, f"{what} has {found[:5]!r}: {next(line for line in text.split(chr(10)) if raw(line))[:300]!r}"
    return text


def printed(*arguments: Any, code: int | None = None, tabs: bool = False) -> Any:
    """What a command prints, which is clean whatever it is."""
    with within(60):
        result = run(*arguments)
    clean(result.stdout, "stdout", tabs)
    clean(result.stderr, "stderr")
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    if code is not None:
        assert result.exit_code == code, result.output
    return result


def clean_files(folder: Path) -> list[str]:
    """All texts below a folder; the names of those that were looked at."""
    seen = []
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".csv", ".html", ".md", ".txt"):
            clean(path.read_text("utf-8", "surrogateescape").replace("\r\n", "\n"), path.name)
            seen.append(path.name)
    return seen


# Commands


def test_train(hostile: Path, tmp_path: Path) -> None:
    out = tmp_path / "out\x1b[31m\n"
    options = ["--freeze-epochs", "1", "--base-lr", "0.001"]
    result = printed("train", hostile, *TINY, *options, "--valid-fraction", "0.3", "--out", out, code=0)
    assert r"\x1b[31mred" in result.stdout, "and it says them"
    assert {"history.json", "history.csv"} <= set(clean_files(out))
    for name in ("confusion.png", "results.png", "curves.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 100
    assert fa.load_classifier(out / "model.safetensors", "cpu").classes == sorted(FOLDERS), "names themselves are kept"


def test_predict_has_a_line_for_each_file(hostile: Path, model_file: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = printed("predict", model_file, hostile, "--device", "cpu", "--page", page, code=1, tabs=True)
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert len(lines) == 2 * len(FILES)
    assert all(len(line) == 3 and 0 <= float(line[2]) <= 1 for line in lines), "file, class, probability"
    assert len(result.stderr.splitlines()) == 2, "a line for each bad file"
    assert clean_files(tmp_path) == ["page.html"]
    text = page.read_text("utf-8")
    assert "<script>alert" not in text
    assert "</script>\\x9b" not in text
    assert html.escape("<script>alert(1)<") in text


def test_predict_as_json(hostile: Path, model_file: Path) -> None:
    result = printed("predict", model_file, hostile, "--device", "cpu", "--json", code=1)
    found = json.loads(result.stdout)
    assert len(found) == 2 * len(FILES) + 2
    assert {os.path.basename(one["file"]) for one in found} == {*FILES, BAD}, "whole, behind JSON's own escapes"


def test_predict_of_files_by_name(hostile: Path, model_file: Path) -> None:
    files = [hostile / FOLDERS[0] / name for name in (*FILES[:5], BAD, "not\x1bthere.jpg")]
    result = printed("predict", model_file, *files, "--device", "cpu", code=1, tabs=True)
    assert len(result.stdout.splitlines()) == 5
    assert len(result.stderr.splitlines()) == 2
    printed("predict", str(hostile / "no\x1b[31m.safetensors"), hostile, code=1)


# Of a process that reads: the file of this name has errors of the storage. Python imports it by itself.
STUMBLING = """
import builtins, errno, io, os
def failing(real):
    def opened(path, *arguments, **options):
        if isinstance(path, (str, os.PathLike)) and os.path.basename(os.fspath(path)) == "%s{0}.jpg":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *arguments, **options)
    return opened
builtins.open = io.open = failing(open)
os.open = failing(os.open)
"""


def test_check(hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bad files, and two that the storage does not give: these are named apart, and stay in the list."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(STUMBLING)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{ROOT}")
    listed = tmp_path / "good\x1b.csv"
    result = printed("check", hostile, "--clean", listed, code=1)
    lines = result.stdout.splitlines()
    assert sum("bad\\x1b[2J" in line for line in lines) == 2
    assert "2 of 26" in result.stdout
    assert "4 of 26" not in result.stdout
    assert (result.stdout + result.stderr).count("%s{0}.jpg") == 2, "said that they were not read"
    samples = fa.Samples.from_csv(listed)
    assert sorted(map(os.path.basename, samples.paths)) == sorted([*FILES, *FILES]), "written so that it is read again"
    assert samples.classes == sorted(FOLDERS)


@pytest.mark.filterwarnings("ignore:lr_find. expected a curve:UserWarning")
def test_summary_show_and_lr_find(hostile: Path, tmp_path: Path) -> None:
    for row in (0, 4, len(FILES) + 2):
        printed("summary", hostile, "--row", row, "--device", "cpu", "--size", "16", "--presize", "16")
    printed("show", hostile, "--images", "4", "--out", tmp_path / "s\x1b\n.png", "--device", "cpu", code=0)
    options = [option for option in TINY if option not in ("--epochs", "1")]
    printed("lr-find", hostile, *options, "--batches", "12", "--out", tmp_path / "l\x1b\t.png", code=0)
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_prepare_cache_and_bench(hostile: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache\x1b[31m\n"
    result = printed("prepare", hostile, "--cache", cache, "--cache-size", "16", "--device", "cpu", code=0)
    assert result.stdout.count("bad:") == 2
    printed("prepare", hostile, "--cache", cache, "--cache-size", "16", "--device", "cpu", "--json", code=0)
    printed("cache", cache, code=0)
    printed("bench", hostile, "--seconds", "0.1", "--presize", "16", "--size", "16", "--device", "cpu")


ERRORS: dict[str, Callable[[str], list[str]]] = {
    "no folder": lambda name: ["check", f"/{name}"],
    "no list": lambda name: ["check", f"/{name}.csv"],
    "no archive": lambda name: ["check", f"/{name}.tar"],
    "no model": lambda name: ["predict", f"/{name}", "a.jpg"],
    "no cache": lambda name: ["cache", f"/{name}"],
    "a config": lambda name: ["train", "x", "--config", f"/{name}"],
    "a device": lambda name: ["bench", "x", "--device", name],
    "a pattern": lambda name: ["check", "/tmp", "--pattern", name],
    "an architecture": lambda name: ["train", "x", "--model", name],
    "a column": lambda name: ["check", "x.csv", "--target", name],
    "bytes": lambda name: ["train", "x", "--cache-bytes", name],
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case: str, tmp_path: Path) -> None:
    result = printed(*ERRORS[case]("a\x1b[31m\tb\u202e\x9bc\x07"))
    assert result.exit_code != 0


# The log, reports, plots


def test_the_log_and_errors(hostile: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = fa.Samples.from_folder(hostile)
    with caplog.at_level(logging.DEBUG, "fastaug"):
        rows_of(small_loader(samples, training=False))
    assert len(caplog.messages) >= 2
    for message in caplog.messages:
        one_line(message)
    with pytest.raises(fa.BadFileError) as caught:
        rows_of(small_loader(samples, training=False, on_error="raise"))
    one_line(caught.value)
    with pytest.raises(fa.BadFileError) as caught:
        rows_of(small_loader(samples, training=False, max_bad_share=0.0))
    one_line(caught.value)


def test_paths_that_no_system_opens(tmp_path: Path) -> None:
    """They are bad files, with a line that says why."""
    good = str(write_photo(tmp_path / "a.jpg"))
    paths = [
        good,
        f"{tmp_path}/a\0.jpg",
        f"{tmp_path}/{'x' * 5000}.jpg",
        f"{tmp_path}/\ud800.jpg",
        good + "/b.jpg",
        " ",
    ]
    loader = small_loader(fa.Samples(paths, [0] * len(paths), ["x"]), training=False, max_bad_share=1.0)
    assert rows_of(loader) == [0]
    assert [path for path, _ in loader.quarantined] == paths[1:]
    for _, reason in loader.quarantined:
        one_line(reason)


def test_what_notebooks_show(hostile: Path) -> None:
    samples = fa.Samples.from_folder(hostile)
    loader = small_loader(samples)
    for thing in (samples, loader, loader.summary(0), loader.stats()):
        for show in ("__repr__", "__str__", "_repr_html_"):
            if hasattr(thing, show):
                text = clean(getattr(thing, show)(), f"{show} of {type(thing).__name__}")
                assert "<script>" not in text or show != "_repr_html_"


@pytest.mark.parametrize("caller", ["from_folder", "from_split_folders", "from_filenames"])
def test_what_folders_with_hostile_names_say(tmp_path: Path, caller: str) -> None:
    for part in ("train", "val"):
        for folder in FOLDERS:
            write_photo(tmp_path / part / folder / "a" / FILES[0])
            (tmp_path / part / folder / "a\n\x1b.heic").write_bytes(b"")
            (tmp_path / part / folder / "a.\x1b[31m").write_bytes(b"")
    write_photo(tmp_path / "val" / "only\x1b[31m\n" / "a.jpg")
    arguments: dict[str, Any] = {"pattern": "(.)\x1b.jpg"} if caller == "from_filenames" else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            getattr(fa.Samples, caller)(tmp_path, **arguments)
        except ValueError as failure:
            one_line(failure)
    for one in caught:
        one_line(str(one.message))


def test_lists_and_archives_with_hostile_names(tmp_path: Path) -> None:
    with open(tmp_path / "l\x1b.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "label"), ("a\x1b[31m\n.jpg", "x"), ("a\x1b[31m\n.jpg", "y\x1b\n")])
    with pytest.raises(ValueError) as caught:
        fa.Samples.from_csv(tmp_path / "l\x1b.csv")
    one_line(caught.value)
    (tmp_path / "m.csv").write_text("f\x1bile,la\x1b[31mbel\nx,y\n")
    with pytest.raises(ValueError) as caught:
        fa.Samples.from_csv(tmp_path / "m.csv")
    one_line(caught.value)
    content = tar_member(b"a/\x1b[31m\n\xe9.jpg", b"x") + tar_member(b"a/b\n\x1b.heic", b"x") + TAR_END
    (tmp_path / "t\x1b.tar").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        fa.Samples.from_tar(tmp_path / "t\x1b.tar")
    one_line(caught.value)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        samples = fa.Samples.from_tar(tmp_path / "t\x1b.tar", target="folder")
    assert said
    for one in said:
        one_line(str(one.message))
    loader = small_loader(samples, training=False, max_bad_share=1.0)
    rows_of(loader)
    one_line(loader.quarantined[0][1])


def test_plots_of_classes_with_hostile_names(hostile: Path, tmp_path: Path) -> None:
    from fastaug.training import plots
    from tests.trust import children

    samples = fa.Samples.from_folder(hostile)
    settings: dict[str, Any] = {"augment": children.AUGMENT, "return_info": False}
    valid = small_loader(samples, training=False, **settings)
    learn = children.a_learner(small_loader(samples, **settings), valid)
    report = fa.Interpretation.from_learner(learn)
    plots.save_figure(report.plot_confusion_matrix(), tmp_path / "a.png")
    for show in ("__repr__", "_repr_html_"):
        if hasattr(report, show):
            clean(getattr(report, show)(), show)
    assert (tmp_path / "a.png").stat().st_size > 1000


# Paths that leave root


def listed(folder: Path, *paths: str) -> Path:
    with open(folder / "list.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([("file", "label"), *((path, "x") for path in paths)])
    return folder / "list.csv"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of photos, beside one that is not below it."""
    for name in ("root/a.jpg", "root/sub/b.jpg", "secret.jpg", "rooted/c.jpg"):
        write_photo(tmp_path / name)
    return tmp_path / "root"


OUTSIDE = [
    "../secret.jpg", "sub/../../secret.jpg", "./../secret.jpg", "..", "../rooted/c.jpg", "sub/../../rooted/c.jpg",
    "/etc/passwd", "//etc/passwd", "/", "../root/../secret.jpg", "sub//..//../secret.jpg", "../not/there.jpg",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_of_a_list_that_leaves_root_is_refused_with_its_line(root: Path, path: str) -> None:
    file = listed(root.parent, "a.jpg", "sub/b.jpg", path)
    for spelled in (root, str(root) + "/", root / "sub" / ".."):
        with pytest.raises(ValueError, match=r"line 4\b") as caught:
            fa.Samples.from_csv(file, root=spelled)
        assert "outside" in one_line(caught.value)
    samples = fa.Samples.from_csv(file, root=root, outside=True)
    assert os.path.normpath(samples.paths[2]) == os.path.normpath(os.path.join(root, path)), "if it is asked for"


def test_an_absolute_path_of_root_itself_is_below_it(root: Path) -> None:
    """Or refused as all absolute ones are; never another file."""
    file = listed(root.parent, "a.jpg", str(root / "sub" / "b.jpg"))
    try:
        samples = fa.Samples.from_csv(file, root=root)
    except ValueError as failure:
        one_line(failure)
    else:
        assert samples.paths[1] == str(root / "sub" / "b.jpg")


@pytest.mark.parametrize(
    "path", ["a.jpg", "sub/../a.jpg", "./a.jpg", "sub/./b.jpg", "..a.jpg", "sub/..b/c.jpg", "...jpg"]
)
def test_a_path_that_stays_is_taken(root: Path, path: str) -> None:
    assert len(fa.Samples.from_csv(listed(root.parent, "a.jpg", path), root=root)) == 2


def test_backslashes_leave_root_too(root: Path) -> None:
    """Where they are taken for slashes."""
    file = listed(root.parent, "sub\\b.jpg", "..\\secret.jpg")
    try:
        samples = fa.Samples.from_csv(file, root=root)
    except ValueError as failure:
        one_line(failure)
    else:
        for path in samples.paths:
            assert os.path.normpath(path).startswith(f"{root}/"), path


def test_without_root_a_list_says_where_its_files_are(root: Path) -> None:
    file = listed(root.parent, str(root / "a.jpg"), str(root.parent / "secret.jpg"))
    assert len(fa.Samples.from_csv(file)) == 2


def test_on_the_command_line(root: Path) -> None:
    file = listed(root.parent, "a.jpg", "../secret.jpg")
    for arguments in ((file, "--root", root), (root, "--csv", file)):
        line = printed("summary", *arguments, "--device", "cpu", code=1).stderr
        assert "line 3" in line
        assert "--outside" in line
        printed("summary", *arguments, "--outside", "--device", "cpu", code=0)


def coco(folder: Path, name: str) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": name}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 5, 5]} for i in (1, 2)],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/passwd", "sub/../../secret.jpg"])
def test_names_in_coco_that_leave_root(root: Path, path: str) -> None:
    with pytest.raises(ValueError, match="outside") as caught:
        fa.Samples.from_coco(coco(root.parent, path), root)
    one_line(caught.value)
    assert len(fa.Samples.from_coco(coco(root.parent, "sub/b.jpg"), root)) == 2


# Reasons do not print a file's bytes

SECRET = b"SECRETtoken"


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    import zlib

    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


IHDR = (b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0))
FULL_OF_SECRETS = {
    "text": SECRET * 20,
    "key": b"-----BEGIN PRIVATE KEY-----\n" + SECRET * 9,
    "short": SECRET[:6],
    "ppm": b"P6 " + SECRET + b" 4 255\n" + SECRET * 9,
    "ppm, size": b"P6\n4 " + SECRET + b"\n255\n" + SECRET * 9,
    "ppm, deep": b"P6 4 4 " + SECRET + b"\n" + SECRET * 9,
    "pgm, text": b"P2 2 2 255 1 2 " + SECRET + b" 4",
    "pbm, text": b"P1 2 2 1 0 " + SECRET,
    "pam": b"P7\n" + SECRET,
    "pfm": b"PF\n4 4\n" + SECRET + b"\n",
    "png, chunk": png(IHDR, (b"SECR", SECRET), (b"IDAT", SECRET)),
    "png, data": png(IHDR, (b"IDAT", SECRET * 5)),
    "png, kind": png((b"SECR", SECRET)),
    "gif": b"GIF89a" + SECRET * 9,
    "bmp": b"BM" + SECRET * 20,
    "tiff": b"II*\0" + SECRET * 20,
    "tiff, big": b"MM\0*" + SECRET * 20,
    "webp": b"RIFF" + SECRET[:4] + b"WEBP" + SECRET * 9,
    "jpeg": b"\xff\xd8\xff\xe0" + SECRET * 20,
    "jpeg, comment": b"\xff\xd8\xff\xfe\x00\x20" + SECRET * 9,
    "jp2": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + SECRET * 20,
    "avif": b"\x00\x00\x00\x20ftypavif" + SECRET * 20,
    "ftyp": b"\x00\x00\x00\x20ftypSECR" + SECRET * 20,
    "ico": b"\0\0\1\0\1\0" + SECRET * 20,
    "qoi": b"qoif" + SECRET * 20,
    "sgi": b"\x01\xda" + SECRET * 60,
    "pcx": b"\x0a\x05\x01\x08" + SECRET * 20,
    "psd": b"8BPS" + SECRET * 20,
    "eps": b"%!PS-Adobe-3.0 EPSF\n%%" + SECRET,
    "xpm": b"/* XPM */\n" + SECRET,
    "svg": b"<svg>" + SECRET,
    "html": b"<html>" + SECRET,
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + SECRET * 6,
}


def test_reasons_print_no_bytes_of_a_file(tmp_path: Path) -> None:
    paths = []
    for number, content in enumerate(FULL_OF_SECRETS.values()):
        path = tmp_path / f"{number:02}.jpg"
        path.write_bytes(content)
        paths.append(str(path))
    samples = fa.Samples(paths, [0] * len(paths), ["x"])
    loader = small_loader(samples, training=False, max_bad_share=1.0, batch_size=len(paths))
    assert rows_of(loader) == []
    told = {}
    for (path, reason), name in zip(sorted(loader.quarantined), FULL_OF_SECRETS, strict=True):
        one_line(reason)
        if re.search("(?i)secr|private", reason):
            told[name] = reason
        assert Path(path).stem.isdigit()
    assert not told, told


@pytest.mark.parametrize("name", ["text", "key", "ppm", "png, chunk"])
def test_reasons_of_masks_print_no_bytes(tmp_path: Path, name: str) -> None:
    write_photo(tmp_path / "images" / "1.jpg", 1, (4, 4))
    write_photo(tmp_path / "images" / "2.jpg", 1, (4, 4))
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "1.png").write_bytes(FULL_OF_SECRETS[name])
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "masks" / "2.png")
    samples = fa.Samples.from_folders(tmp_path / "images", tmp_path / "masks", ["x"])
    loader = small_loader(samples, training=False, max_bad_share=1.0)
    assert rows_of(loader) == [1]
    assert not re.search("(?i)secr|private", one_line(loader.quarantined[0][1]))


def test_labels_in_archives_are_not_printed(tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "a.jpg").read_bytes()
    for label in (
        b'{"label": ["SECRETtoken"]}',
        b'{"SECRETtoken": 1',
        b'{"label": {"SECRETtoken": 1}}',
        b'["SECRETtoken"]',
    ):
        write_tar(tmp_path / "t.tar", {"1.jpg": photo, "1.json": label})
        with pytest.raises(ValueError) as caught:
            fa.Samples.from_tar(tmp_path / "t.tar", target="json:label")
        assert "SECRET" not in one_line(caught.value)


# The helpers reject wrong answers


def test_raw_text_is_found() -> None:
    for text in ("\x1b[31m", "a\tb", "\x9b", "\udce9", "\u202e", "\u2028", "\x7f", "\r"):
        with pytest.raises(AssertionError):
            clean(f"a {text} b", "it")
    assert clean("ü – × 😀 \\x1b\nline", "it")
    assert clean("a\tb", "it", tabs=True)
