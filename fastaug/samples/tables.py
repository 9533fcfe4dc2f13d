"""Lists of images as CSV, as spreadsheets, pandas and other systems write them."""

from __future__ import annotations

import csv as csv_module
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, NamedTuple

from fastaug.files import whole_file
from fastaug.samples.sources import IMAGE_EXTENSIONS, file_of, first_outside
from fastaug.text import cut

if TYPE_CHECKING:
    from _csv import Reader

SEPARATORS = ",;\t|"  # that are looked for
_LOOKED_AT = 32  # files, to find out where all of them are

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_COLUMN = re.compile(r"[\w .()#/-]{1,60}")  # a name of one; other files' lines are nobody's to print
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # bytes, as `surrogateescape` reads them
_BYTE_ORDERS = (b"\xff\xfe", b"\xfe\xff")  # that UTF-16 begins with


class TextTable(NamedTuple):
    """The rows of a list: paths, and what is written in the columns with the targets.

    Args:
        name: of the file.
        paths: as they are written.
        columns: the names of the columns. values: for each of them its texts, one per row.
        lines: the line that each row ends in.
    """

    name: str
    paths: list[str]
    columns: Sequence[str]
    values: list[list[str]]
    lines: list[int]

    def line_of(self, column: int, value: str) -> int:
        """Of its first row with this value."""
        return self.lines[self.values[column].index(value)]

    def unexpected(self, expected: str, row: int, column: int) -> ValueError:
        """The error that names the place of a value."""
        return ValueError(
            f"from_csv: expected {expected} in line {self.lines[row]} of {self.name!r}, column "
            f"{self.columns[column]!r}, got {cut(self.values[column][row])}. Correct the line, or name other columns."
        )


def read_table(
    csv: str | os.PathLike[str],
    path: str,
    targets: Sequence[str],
    sep: str | None,
    encoding: str | None,
    empty: bool,
    if_empty: str = "",
) -> TextTable:
    """The path and the values of every row; see `Samples.from_csv`.

    Args:
        targets: names of the columns.
        empty: their values may be. if_empty: what else there is to do where they may not.
    """
    name = os.fspath(csv)
    paths: list[str] = []
    columns: list[list[str]] = [[] for _ in targets]
    lines: list[int] = []
    with _opened(name, encoding) as file:
        reader, header = _reader(file, name, [path, *targets], sep)
        path_column = header.index(path)
        target_columns = [(column, header.index(target)) for column, target in zip(columns, targets, strict=True)]
        for row in _rows(reader, name):
            if not row:
                continue
            where = f"line {reader.line_num} of {name!r}"
            if len(row) != len(header):
                raise ValueError(
                    f"from_csv: expected {len(header)} values in {where}, got {len(row)}: {cut(row)}. "
                    "Correct the line; quote values that hold a comma."
                )
            file_path = row[path_column].strip()
            if not file_path:
                raise _missing(path, where, row)
            if "://" in file_path and _ADDRESS.match(file_path):
                raise ValueError(
                    f"from_csv: expected a file in {where}, got the address {cut(file_path)}. Download it first."
                )
            paths.append(file_path)
            lines.append(reader.line_num)
            for values, place in target_columns:
                value = row[place].strip()
                if not value and not empty:
                    raise _missing(header[place], where, row, if_empty)
                if not value.isascii() and _NOT_UTF8.search(value) and not _NOT_UTF8.search(file_path):
                    raise _NotUTF8(reader.line_num, name, value)
                values.append(value)
    if not paths:
        raise ValueError(f"from_csv: expected at least one row below the header of {name!r}, got none.")
    return TextTable(name, paths, targets, columns, lines)


def _missing(column: str, where: str, row: list[str], more: str = "") -> ValueError:
    return ValueError(f"from_csv: expected a {column!r} in {where}, got {cut(row)}. Fill in or delete the line{more}.")


def located(table: TextTable, root: str | os.PathLike[str] | None, outside: bool) -> list[str]:
    """The paths below `root`; None: as they are written, or beside the list, wherever the first of them are.

    Args:
        outside: they may leave `root`.
    """
    found = _located(table.paths, table.name, root)
    if root is not None and not outside:
        row = first_outside(root, found)
        if row is not None:
            raise ValueError(
                f"from_csv: expected a path within root={os.fspath(root)!r} in line {table.lines[row]} of "
                f"{table.name!r}, got {cut(table.paths[row], 300)}, which leaves it. Correct the line, or say "
                "outside=True."
            )
    not_utf8 = next((i for i, path in enumerate(table.paths) if not path.isascii() and _NOT_UTF8.search(path)), None)
    if not_utf8 is not None and not os.path.exists(file_of(found[not_utf8])):
        raise _NotUTF8(table.lines[not_utf8], table.name, table.paths[not_utf8])
    return found


def write_table(csv: str | os.PathLike[str], header: Sequence[str], rows: Iterator[tuple[str, ...]]) -> None:
    """A file that `read_table` reads. Names that are not UTF-8 are written as the bytes that they are."""
    with whole_file(csv) as file, io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="") as text:
        writer = csv_module.writer(text)
        writer.writerow(header)
        writer.writerows(rows)


class _NotUTF8(ValueError):
    def __init__(self, line: int, name: str, value: str) -> None:
        super().__init__(
            f"from_csv: expected UTF-8 in line {line} of {name!r}, got {cut(value)}. Save it as UTF-8, or say "
            "encoding='latin-1' if a spreadsheet wrote it."
        )


@contextmanager
def _opened(name: str, encoding: str | None) -> Iterator[IO[str]]:
    """The file as text. encoding: None: UTF-8, with bytes that are none kept apart, or UTF-16 if it begins as such."""
    if os.path.exists(name) and not os.path.isfile(name):
        raise ValueError(f"from_csv: expected a list, got {name!r}, which is no file. Check the path.")
    try:
        with open(name, "rb") as start:
            wide = start.read(2) in _BYTE_ORDERS
    except FileNotFoundError:
        raise FileNotFoundError(
            f"from_csv: expected a list, got {name!r}, which is not there. Check the path."
        ) from None
    if encoding is None:
        opened = open(name, newline="", encoding="utf-16" if wide else "utf-8-sig", errors="surrogateescape")  # noqa: SIM115
    else:
        opened = open(name, newline="", encoding=encoding)  # noqa: SIM115
    with opened:
        try:
            yield opened
        except UnicodeError as error:
            raise ValueError(
                f"from_csv: expected {encoding or 'UTF-8'} in {name!r}, got something else ({error}). Name another "
                "encoding=."
            ) from None


def _reader(file: IO[str], name: str, columns: list[str], sep: str | None) -> tuple[Reader, list[str]]:
    """A reader of the rows below the header, and the header."""
    if sep is not None and len(sep) != 1:
        raise ValueError(f"from_csv: expected one character as sep=, got {sep!r}.")
    most: list[str] = []
    for separator in sep or SEPARATORS:
        file.seek(0)
        reader = csv_module.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
        try:
            header = [value.strip() for value in next(reader, [])]
        except csv_module.Error:  # quotes that do not go with this separator
            continue
        if all(column in header for column in columns):
            twice = next((column for column in columns if header.count(column) > 1), None)
            if twice is not None:
                raise ValueError(
                    f"from_csv: expected one column {twice!r} in {name!r}, got it {header.count(twice)} times. Rename "
                    "the others."
                )
            return reader, header
        most = max(most, header, key=len)
    missing = next(column for column in columns if column not in most)
    expected = f"from_csv: expected a column {missing!r} in {name!r}, got"
    named = any(column in most for column in columns) or all(column in "".join(most) for column in columns)
    if most and not named and (len(most) < 2 or not all(map(_COLUMN.fullmatch, most))):
        raise ValueError(f"{expected} a first line that names no columns. Give a list, or name another file.")
    if not most or most[0].lower().endswith(IMAGE_EXTENSIONS):
        advice = f"Write the names of the columns, {' and '.join(map(repr, columns))}, into the first line"
    else:
        advice = f"Name them, as path={cut(most[0])}, target={cut(most[-1])}"
        if len(most) == 1:
            advice += ", and say sep= if what separates them is none of , ; | and tab"
    raise ValueError(f"{expected} {cut(most, 300)}. {advice}.")


def _rows(reader: Reader, name: str) -> Iterator[list[str]]:
    # The line in which the row begins that is read: a quote that is not closed goes on to the end of the file.
    begins = reader.line_num + 1
    try:
        for row in reader:
            yield row
            begins = reader.line_num + 1
    except csv_module.Error as error:
        raise ValueError(
            f"from_csv: expected CSV in line {begins} of {name!r}, got something else: {error}. Look at its quotes."
        ) from None


def _located(paths: list[str], name: str, root: str | os.PathLike[str] | None) -> list[str]:
    folder = os.path.dirname(name)
    roots = [os.fspath(root)] if root is not None else [""]
    if root is None and os.path.abspath(folder) != os.getcwd():
        roots.append(folder)
    relative = [path for path in paths[: 4 * _LOOKED_AT] if not os.path.isabs(path)][:_LOOKED_AT]
    spellings: list[Callable[[str], str]] = [str]
    backslashes = next((path for path in relative if "\\" in path), None) if os.sep == "/" else None
    if backslashes is not None:
        spellings.append(_with_slashes)
    for spelled in spellings:
        there = {base: _first_there(base, map(spelled, relative)) for base in roots}
        places = [base for base in roots if there[base] is not None]
        if len(places) > 1:
            raise ValueError(
                f"from_csv: expected the files of {name!r} in one place, got {there['']!r} from the working directory "
                f"and {there[folder]!r} beside the list. Say which: root='.' or root={folder!r}."
            )
        if places == [""] and spelled is str:
            return paths
        if places:
            return [os.path.join(places[0], spelled(path)) for path in paths]
    if backslashes is not None:
        raise ValueError(
            f"from_csv: expected paths with slashes in {name!r}, got {backslashes!r}, with backslashes, and with "
            "slashes it is not there either. Write them as this system does, or say root=."
        )
    return [os.path.join(root, path) for path in paths] if root is not None else paths


def _first_there(base: str, paths: Iterator[str]) -> str | None:
    return next((path for path in paths if os.path.exists(file_of(os.path.join(base, path)))), None)


def _with_slashes(path: str) -> str:
    return path.replace("\\", "/")


__all__ = ["SEPARATORS", "TextTable", "located", "read_table", "write_table"]
