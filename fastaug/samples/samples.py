"""Which images there are and what they show: paths, targets and class names, found, split and described.

No image is opened here, so a million samples cost a path string and an int each; members of archives cost less.
"""

from __future__ import annotations

import csv as csv_module
import math
import operator
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fastaug.files import whole_file
from fastaug.samples.archives import Layout, find_archives, index_archives
from fastaug.samples.sources import IMAGE_EXTENSIONS, MemberPaths

MAX_CLASSES = 1_000_000  # a larger number in an archive is no class


@dataclass(frozen=True, slots=True, repr=False)
class Samples:
    """The images of a data set: one path and one target each.

    Args:
        paths: one per image; strings, or anything `os.fspath` takes.
        targets: one per image, an index into `classes`.
        classes: the class names, each once, in the order of the targets.
    Raises:
        ValueError: lengths that differ, a target without a class, a class name given twice.
        TypeError: a target that is not an integer, a single string where a list belongs.
    """

    paths: Sequence[str]  # a list, except for members of archives
    targets: list[int]
    classes: list[str]

    def __init__(self, paths: Iterable[str | os.PathLike[str]], targets: Iterable[int], classes: Iterable[str]) -> None:
        for name, given in (("paths", paths), ("classes", classes)):
            if isinstance(given, str):
                raise TypeError(f"Samples: expected a list of {name}, got the string {given!r}. Put it into a list.")
        names = [str(name) for name in classes]
        files = paths if isinstance(paths, MemberPaths) else [os.fspath(path) for path in paths]
        try:
            rows = list(map(operator.index, targets))
        except TypeError as error:
            raise TypeError(
                f"Samples: expected integer targets, got something else ({error}). "
                "Give indices into classes, not names."
            ) from None
        if len(files) != len(rows):
            raise ValueError(
                f"Samples: expected one target per path, got {len(files)} paths and {len(rows)} targets. "
                "Make both lists from the same rows."
            )
        for name, count in Counter(names).items():
            if count > 1:
                raise ValueError(
                    f"Samples: expected every class once, got {name!r} {count} times. "
                    "Merge the classes of the same name."
                )
        if rows and (min(rows) < 0 or max(rows) >= len(names)):
            row = next(i for i, target in enumerate(rows) if not 0 <= target < len(names))
            raise ValueError(
                f"Samples: expected targets 0..{len(names) - 1} for {len(names)} classes, got {rows[row]} "
                f"for {files[row]!r} (row {row}). Add the class or correct the target."
            )
        object.__setattr__(self, "paths", files)
        object.__setattr__(self, "targets", rows)
        object.__setattr__(self, "classes", names)

    @classmethod
    def from_folder(cls, root: str | os.PathLike[str]) -> Samples:
        """All images under `root`, at any depth, sorted by path; the class is the name of the folder a file lies in.

        Hidden files and folders (a leading dot) and files without an image's extension are left out.

        Raises:
            FileNotFoundError, NotADirectoryError: no such folder.
            ValueError: no image in it.
        """
        paths = _image_files(root, "from_folder")
        folders = [os.path.dirname(path) for path in paths]
        name_of = {folder: os.path.basename(os.path.abspath(folder)) for folder in set(folders)}
        return cls._from_names(paths, [name_of[folder] for folder in folders])

    @classmethod
    def from_filenames(cls, root: str | os.PathLike[str], pattern: str, ignore_case: bool = False) -> Samples:
        r"""All images under `root` (as `from_folder`); the class is group 1 of `pattern`, searched in the file name.

        Args:
            root: the folder, searched at any depth.
            pattern: a regular expression with at least one group, such as r"(.+)_\d+\.jpg$".
            ignore_case: match letters of either case. The class keeps the case that the file has.
        Raises:
            FileNotFoundError, NotADirectoryError: no such folder.
            ValueError: no image, no valid pattern with a group, or a file name that does not match.
        """
        regex = _regex(pattern, "from_filenames", re.IGNORECASE if ignore_case else 0)
        paths = _image_files(root, "from_filenames")
        found = [regex.search(os.path.basename(path)) for path in paths]
        names = [match.group(1) if match else None for match in found]
        unmatched = [path for path, name in zip(paths, names, strict=True) if not name]
        if unmatched:
            raise ValueError(
                f"from_filenames: expected every file name to match {pattern!r}, got {len(unmatched)} of "
                f"{len(paths)} that do not, the first {unmatched[0]!r}. "
                "Correct the pattern, try ignore_case=True, or move the files away."
            )
        return cls._from_names(paths, [name for name in names if name])

    @classmethod
    def from_csv(
        cls,
        csv: str | os.PathLike[str],
        root: str | os.PathLike[str] | None = None,
        path: str = "file",
        target: str = "label",
    ) -> Samples:
        """The rows of a CSV file with a header line, in the file's order.

        Args:
            csv: the file, UTF-8, separated by commas.
            root: folder that the paths in the file are relative to; None leaves them as they are written.
            path: name of the column with the image's path.
            target: name of the column with the class. Classes are sorted, as numbers if all of them are numbers.
        Raises:
            FileNotFoundError: no such file.
            ValueError: a column that is missing, a row with an empty or missing value, no rows at all.
        """
        paths, names = [], []
        with open(csv, newline="", encoding="utf-8-sig") as file:
            reader = csv_module.reader(file)
            header = next(reader, [])
            for column in (path, target):
                if column not in header:
                    raise ValueError(
                        f"from_csv: expected a column {column!r} in {os.fspath(csv)!r}, got {header}. "
                        "Name the columns with path= and target=."
                    )
            path_column, target_column = header.index(path), header.index(target)
            for row in reader:
                if not row:
                    continue
                where = f"line {reader.line_num} of {os.fspath(csv)!r}"
                if len(row) != len(header):
                    raise ValueError(
                        f"from_csv: expected {len(header)} values in {where}, got {len(row)}: {row}. "
                        "Correct the line; quote values that hold a comma."
                    )
                if not row[path_column].strip() or not row[target_column].strip():
                    raise ValueError(
                        f"from_csv: expected a {path!r} and a {target!r} in {where}, got {row}. "
                        "Fill in or delete the line."
                    )
                paths.append(row[path_column] if root is None else os.path.join(root, row[path_column]))
                names.append(row[target_column])
        if not paths:
            raise ValueError(f"from_csv: expected at least one row below the header of {os.fspath(csv)!r}, got none.")
        return cls._from_names(paths, names)

    @classmethod
    def from_tar(
        cls,
        archives: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        target: str = "cls",
        classes: Sequence[str] | None = None,
        pattern: str | None = None,
        image: str | None = None,
        index: str | os.PathLike[str] | None = None,
    ) -> Samples:
        r"""The images in tar archives of WebDataset's layout.

        There, members whose names agree up to the first dot belong together. Every archive is indexed once, by its
        headers; the images are then read by their offsets, in any order. A sample's path is
        `archive.tar//name@offset+size`; `paths` makes them when they are asked for, so that in memory a sample takes at
        most 15 bytes, its name, and 8 bytes for its target.

        Args:
            archives: a path, a pattern such as "train-*.tar" (its archives come sorted) or "train-{000..146}.tar", or
                a list of such. Not compressed.
            target: where an image's class is: "cls" or another extension, the text of the member beside the image;
                "json:label", a field of the JSON beside it; or "folder", the folder within the archive.
            classes: the class names, if the archives hold indices into them, or some of these names. None: where the
                archives hold numbers, these are the targets, and the classes are "0", "1", …; names are sorted.
            pattern: instead of `target`, a regular expression for the image's name within the archive; its group 1 is
                the class.
            image: extension of the images, such as "jpg", where several images belong together. None: any image's.
            index: a file (.npz) to keep the index in. It is read instead of the archives as long as these have the same
                sizes and times of change, and otherwise written anew.
        Raises:
            FileNotFoundError: no such archive. ValueError: a damaged or compressed one, an image without a class, two
            images of one sample, no images at all.
        Source: the WebDataset format (`webdataset`, `base_plus_ext`).
        """
        if pattern is not None:
            _regex(pattern, "from_tar")
        found = find_archives(archives)
        layout = Layout(target, pattern, image and image.lower().lstrip("."))
        paths, labels = index_archives(found, layout, None if index is None else os.fspath(index))
        if not len(paths):
            raise ValueError(
                f"from_tar: expected images in {archives!r}, got none. Looked for {', '.join(IMAGE_EXTENSIONS)}."
            )
        if classes is None:
            distinct = set(labels)
            if pattern is not None or target == "folder" or not all(map(_is_number, distinct)):
                return cls._from_names(paths, labels)
            largest = max(map(int, distinct))
            if largest >= MAX_CLASSES:
                raise ValueError(f"from_tar: expected indices of classes below {MAX_CLASSES:,}, got {largest}.")
            classes = list(map(str, range(largest + 1)))
        return cls(paths, _numbered(labels, list(classes)), classes)

    def to_csv(self, csv: str | os.PathLike[str], path: str = "file", target: str = "label") -> None:
        """Write a file that `from_csv` reads: a row per image, its path and the name of its class."""
        with whole_file(csv) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as table:
            writer = csv_module.writer(table)
            writer.writerow([path, target])
            writer.writerows((file, self.classes[row]) for file, row in zip(self.paths, self.targets, strict=True))

    @classmethod
    def from_dataset(cls, ds: Any) -> Samples:
        """What a data set of torchvision's kind holds: `ds.samples`, pairs of path and target, and `ds.classes`.

        Raises:
            TypeError: an object without these attributes.
        """
        missing = [name for name in ("samples", "classes") if not hasattr(ds, name)]
        if missing:
            raise TypeError(
                f"from_dataset: expected an object with .samples and .classes, got {type(ds).__name__} "
                f"without .{' and .'.join(missing)}. Use Samples(paths, targets, classes)."
            )
        return cls([path for path, _ in ds.samples], [target for _, target in ds.samples], ds.classes)

    @classmethod
    def _from_names(cls, paths: Sequence[str], names: list[str]) -> Samples:
        """One class name per path -> targets; classes sorted, as numbers if all of them are (so "10" follows "9")."""
        distinct = set(names)
        numeric = all(map(_is_number, distinct))
        classes = sorted(distinct, key=(lambda name: (int(name), name)) if numeric else None)
        index = {name: i for i, name in enumerate(classes)}
        return cls(paths, [index[name] for name in names], classes)

    def split(
        self,
        valid_fraction: float = 0.2,
        seed: int = 42,
        by: Callable[[str], bool] | None = None,
        stratify: bool = False,
    ) -> tuple[Samples, Samples]:
        """Divide into (train, valid). Both keep the full list of classes and the order of the rows.

        The same rows and seed give the same halves in every process and Python version: the rows are ranked by the
        numbers of `random.Random(seed).random()`, the one sequence that Python promises not to change.

        Args:
            valid_fraction: share of validation, between 0 and 1; rounded to whole images.
            seed: another seed, another split.
            by: called with each path, True for validation; `valid_fraction` and `seed` then count for nothing.
            stratify: the same share of every class, as near as whole images allow. A class of two or more images
                has at least one on each side; a class of one image stays in training.
        Raises:
            ValueError: a fraction outside (0, 1), a side left without images, `by` together with `stratify`.
        """
        if by is not None and stratify:
            raise ValueError("split: expected either by= or stratify=True, got both. by= decides every image itself.")
        if by is None and not 0 < valid_fraction < 1:
            raise ValueError(f"split: expected valid_fraction between 0 and 1, got {valid_fraction}.")
        if by is not None:
            chosen = [row for row, path in enumerate(self.paths) if by(path)]
        else:
            draw = random.Random(operator.index(seed)).random
            rank = [draw() for _ in self.paths]
            order = sorted(range(len(self)), key=rank.__getitem__)
            total = math.floor(len(self) * valid_fraction + 0.5)
            chosen = sorted(self._stratified(order, valid_fraction, total) if stratify else order[:total])
        train, valid = self.subset(sorted(set(range(len(self))).difference(chosen))), self.subset(chosen)
        if not len(train) or not len(valid):
            side = "validation" if len(train) else "training"
            why = "by=" if by is not None else f"valid_fraction={valid_fraction}"
            raise ValueError(
                f"split: expected images on both sides, got {len(train)} for training and {len(valid)} "
                f"for validation. Change {why} so that {side} gets some of the {len(self)}."
            )
        return train, valid

    def _stratified(self, order: list[int], fraction: float, total: int) -> list[int]:
        """The validation rows: each class's share rounded down (1..n-1 of n), then up where most was lost."""
        by_class: dict[int, list[int]] = {}
        for row in order:
            by_class.setdefault(self.targets[row], []).append(row)
        most = {k: max(len(rows) - 1, 0) for k, rows in by_class.items()}
        take = {k: min(max(math.floor(len(rows) * fraction), 1), most[k]) for k, rows in by_class.items()}
        lost = {k: len(rows) * fraction - take[k] for k, rows in by_class.items() if take[k] < most[k]}
        spare = max(total - sum(take.values()), 0)
        for k in sorted((k for k in lost if lost[k] > 0), key=lambda k: -lost[k])[:spare]:
            take[k] += 1
        return [row for k, rows in by_class.items() for row in rows[: take[k]]]

    def subset(self, indices: Iterable[int]) -> Samples:
        """The rows with these indices, in this order; the classes stay."""
        rows = list(indices)
        taken = self.paths.take(rows) if isinstance(self.paths, MemberPaths) else [self.paths[row] for row in rows]
        return Samples(taken, [self.targets[row] for row in rows], self.classes)

    def counts(self) -> dict[str, int]:
        """Images per class, in the order of the classes, 0 included."""
        number = Counter(self.targets)
        return {name: number[i] for i, name in enumerate(self.classes)}

    def describe(self) -> str:
        """A line with the totals and a line per class: how many images it has."""
        width = max(map(len, self.classes), default=0)
        return "\n".join([repr(self), *(f"{name:<{width}}  {count:>7,}" for name, count in self.counts().items())])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self.paths[index], self.targets[index]

    def __repr__(self) -> str:
        return f"Samples({len(self):,} images, {len(self.classes):,} classes: {_shortened(self.classes)})"


def _numbered(labels: list[str], classes: list[str]) -> list[int]:
    """Targets of labels that are indices into classes, or names of them."""
    number = {name: i for i, name in enumerate(classes)}
    for label in dict.fromkeys(labels):  # in their order, so that an error always names the same one
        if label in number:
            continue
        if not _is_number(label) or int(label) >= len(classes):
            raise ValueError(
                f"from_tar: expected indices into classes, got {label!r}, which is also none of the {len(classes)} "
                f"names ({_shortened(classes)}). Give all classes, or leave out classes=."
            )
        number[label] = int(label)
    return [number[label] for label in labels]


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _regex(pattern: str, caller: str, flags: int = 0) -> re.Pattern[str]:
    """The pattern, which has a group for the class."""
    try:
        regex = re.compile(pattern, flags)
    except re.error as error:
        raise ValueError(f"{caller}: expected a regular expression, got {pattern!r}: {error}.") from None
    if regex.groups < 1:
        raise ValueError(
            f"{caller}: expected a pattern with a group for the class, got {pattern!r}. "
            "Put parentheses round the part that names the class."
        )
    return regex


def _image_files(root: str | os.PathLike[str], caller: str) -> list[str]:
    """Paths of all images under `root`, sorted by code points; linked folders are followed, each folder once."""
    root = os.fspath(root)
    if not os.path.isdir(root):
        if os.path.exists(root):
            raise NotADirectoryError(f"{caller}: expected a folder, got the file {root!r}. Give the folder above it.")
        raise FileNotFoundError(f"{caller}: expected a folder, got {root!r}, which does not exist. Check the path.")
    paths, seen = [], {os.path.realpath(root)}
    for folder, subfolders, files in os.walk(root, followlinks=True):
        kept = []
        for name in sorted(subfolders):
            real = os.path.realpath(os.path.join(folder, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                kept.append(name)
        subfolders[:] = kept
        paths += [
            os.path.join(folder, name)
            for name in files
            if not name.startswith(".") and name.lower().endswith(IMAGE_EXTENSIONS)
        ]
    if not paths:
        raise ValueError(
            f"{caller}: expected images under {root!r}, got none. "
            f"Looked at any depth for {', '.join(IMAGE_EXTENSIONS)}, hidden files left out."
        )
    return sorted(paths)


def _shortened(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
