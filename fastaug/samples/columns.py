"""What the columns of a list say: classes, several labels, or numbers to regress on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from fastaug.samples.kinds import NONE, Chosen
from fastaug.samples.tables import TextTable
from fastaug.text import cut

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WORDS = {"true": 1.0, "false": 0.0}
_SAID = ("class", "labels", "numbers")  # kinds that `from_csv` can be told


def sorted_classes(names: Iterable[str], numbers: bool = False) -> list[str]:
    """Each name once, sorted as text. numbers: as numbers if all of them are."""
    distinct = set(names)
    numbers = numbers and all(map(_NUMBER.fullmatch, distinct))
    return sorted(distinct, key=(lambda name: (float(name), name)) if numbers else None)


def columns_named(target: str | Sequence[str] | None, kind: str | None, label_sep: str | None) -> list[str]:
    """The columns that `target` names; see `Samples.from_csv`.

    Raises:
        ValueError: arguments that do not go together.
    """
    one = isinstance(target, str)
    columns = [target] if isinstance(target, str) else list(target or ())
    if kind is not None and kind not in _SAID:
        raise ValueError(f"from_csv: expected kind= to be one of {', '.join(map(repr, _SAID))} or None, got {kind!r}.")
    if target is None and (kind is not None or label_sep is not None):
        raise ValueError("from_csv: expected target=None without kind= and label_sep=, got both. Name the column.")
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None or (target is not None and not columns):
        got = "an empty list" if twice is None else f"{twice!r} several times"
        raise ValueError(f"from_csv: expected columns as target=, each once, got {got}. None is for no targets.")
    if kind == "class" and not one:
        raise ValueError(f"from_csv: expected one column of classes, got the list target={columns}. Name it alone.")
    if label_sep is not None and (not one or kind not in (None, "labels") or not label_sep):
        raise ValueError(
            f"from_csv: expected label_sep= to be the text between labels in one column, got {label_sep!r} with "
            f"target={target!r} and kind={kind!r}. Leave out one of them."
        )
    return columns


def may_be_empty(kind: str | None, label_sep: str | None) -> bool:
    """Whether an empty value is one of none of the classes."""
    return label_sep is not None or kind in ("class", "labels")


def read_targets(table: TextTable, one: bool, kind: str | None, label_sep: str | None) -> Chosen:
    """The targets in a table; see `Samples.from_csv`.

    Args:
        one: a single column was named, not a list of them.
    Raises:
        ValueError: a value that is none of that kind, or a file in two rows with different targets.
    """
    if not table.columns:
        chosen = Chosen("none", None, [])
    elif not one:
        chosen = _of_columns(table, kind)
    elif label_sep is not None or kind == "labels":
        chosen = _several_labels(table, label_sep)
    elif kind == "numbers" or (kind is None and _are_fractions(table)):
        chosen = Chosen("numbers", _numbers(table)[:, 0].astype(np.float32), [])
    else:
        none = {"", str(NONE)} if kind == "class" else {""}
        classes = _some(sorted_classes(set(table.values[0]) - none, numbers=True), table, "classes")
        number = dict.fromkeys(none, NONE) | {name: i for i, name in enumerate(classes)}
        chosen = Chosen("class", [number[name] for name in table.values[0]], classes)
    _check_files(table, chosen)
    return chosen


def _are_fractions(table: TextTable) -> bool:
    """Whether the values of the only column are numbers of which one is not whole."""
    values = table.values[0]
    distinct = set(values)
    numbers = set(filter(_NUMBER.fullmatch, distinct))
    fraction = next((value for value in values if value in numbers and not float(value).is_integer()), None)
    if fraction is None:
        return False
    if numbers != distinct:
        name = next(value for value in values if value not in numbers)
        raise ValueError(
            f"from_csv: expected numbers or names of classes in column {table.columns[0]!r} of {table.name!r}, got "
            f"both, {cut(fraction)} in line {table.line_of(0, fraction)} and {cut(name)} in line "
            f'{table.line_of(0, name)}. Correct the line, or say kind="class".'
        )
    return True


def _several_labels(table: TextTable, label_sep: str | None) -> Chosen:
    values = table.values[0]
    split = {value: _labels(value, label_sep) for value in set(values)}
    found = sorted_classes((label for labels in split.values() for label in labels), numbers=True)
    classes = _some(found, table, "labels")
    number = {name: i for i, name in enumerate(classes)}
    rows = {value: tuple(sorted({number[label] for label in labels})) for value, labels in split.items()}
    return Chosen("labels", [rows[value] for value in values], classes)


def _some(classes: list[str], table: TextTable, what: str) -> list[str]:
    """The same, of which there must be one."""
    if not classes:
        raise ValueError(
            f"from_csv: expected {what} in column {table.columns[0]!r} of {table.name!r}, got none. Name another "
            "column, or None for no targets."
        )
    return classes


def _labels(value: str, label_sep: str | None) -> list[str]:
    parts = value.split(label_sep) if label_sep is not None else [value]
    return [part.strip() for part in parts if part.strip()]


def _of_columns(table: TextTable, kind: str | None) -> Chosen:
    numbers = _numbers(table)
    other = np.argwhere((numbers != 0) & (numbers != 1))
    if kind == "numbers" or (kind is None and len(other)):
        return Chosen("numbers", numbers.astype(np.float32), list(table.columns))
    if len(other):
        raise table.unexpected("0 or 1", *other[0])
    return Chosen("labels", [tuple(np.flatnonzero(row).tolist()) for row in numbers], list(table.columns))


def _numbers(table: TextTable) -> np.ndarray:
    """float64 [N, K], each finite as float32."""
    columns = []
    for column, values in enumerate(table.values):
        known = {value: _number(value) for value in set(values)}
        floats = np.array([known[value] for value in values])
        with np.errstate(over="ignore"):
            wrong = np.flatnonzero(~np.isfinite(floats.astype(np.float32)))
        if len(wrong):
            raise table.unexpected("a number", wrong[0], column)
        columns.append(floats)
    return np.stack(columns, 1)


def _number(value: str) -> float:
    """nan: it is none."""
    return float(value) if _NUMBER.fullmatch(value) else _WORDS.get(value.lower(), float("nan"))


def _check_files(table: TextTable, chosen: Chosen) -> None:
    """That a file which is in several rows has the same target in each."""
    if chosen.targets is None:
        return
    targets: Sequence[object] = chosen.targets.tolist() if chosen.kind == "numbers" else chosen.targets
    first: dict[str, int] = {}
    for row, path in enumerate(table.paths):
        before = first.setdefault(path, row)
        if before != row and targets[before] != targets[row]:
            one, other = (", ".join(values[i] for values in table.values) for i in (before, row))
            several = "; several labels belong into one of them, see label_sep=" if chosen.kind == "class" else ""
            raise ValueError(
                f"from_csv: expected one {'class' if chosen.kind == 'class' else 'target'} for each file in "
                f"{table.name!r}, got {cut(path, 300)} as {cut(one)} and as {cut(other)} (lines "
                f"{table.lines[before]} and {table.lines[row]}). Keep one of the lines{several}."
            )


__all__ = ["columns_named", "may_be_empty", "read_targets", "sorted_classes"]
