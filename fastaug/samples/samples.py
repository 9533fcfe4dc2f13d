"""Which images there are and what they show: paths, targets and class names, found, split and described.

No image is opened here, so a million samples cost a path string and an int each; members of archives cost less.
"""

from __future__ import annotations

import math
import operator
import os
import posixpath
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastaug.samples.annotations import Found
from fastaug.samples.archives import Layout, find_archives, index_archives
from fastaug.samples.coco import read_coco
from fastaug.samples.columns import columns_named, may_be_empty, read_targets, sorted_classes
from fastaug.samples.folders import (
    WHAT_IS_TAKEN,
    find_images,
    find_split,
    mixed_in_archives,
    named_by_file,
    named_by_folder,
    split_names,
    subfolders,
    the_one,
)
from fastaug.samples.given import choose
from fastaug.samples.kinds import KINDS, Chosen, Kind
from fastaug.samples.pairs import photos_and_masks
from fastaug.samples.sources import MemberPaths
from fastaug.samples.split import first_rows, numbered_groups, on_both_sides, stratified, whole_groups
from fastaug.samples.tables import located, read_table, write_table
from fastaug.samples.targets import MaskFiles
from fastaug.samples.voc import read_voc
from fastaug.samples.yolo import read_yolo
from fastaug.text import cut, html_table, printable, short

MAX_CLASSES = 1_000_000  # a larger number in an archive is no class
_MOST_DIGITS = 18  # that are read as a number: of more than 4,300 Python makes none
_MOST_ROWS = 20  # of a table in a notebook


@dataclass(frozen=True, slots=True, repr=False)
class Samples:
    """The images of a data set: one path and one target each.

    Args:
        paths: one per image; strings, or anything `os.fspath` takes.
        targets: one per image, all of one kind:

            - "class": an index into `classes`; -1 is none of them.
            - "labels": a list of names of classes, or of their indices; an empty list is none of them. Or a row of 0
              and 1 for each image, [N, C]; lists are such rows where each has C entries that are 0 or 1.
            - "numbers": floats [N] or [N, K] to regress on, without `classes` or with a name for each column.
            - "none": None for all.
            - "mask", "objects": made by `from_folders`, and by `from_coco`, `from_voc` and `from_yolo`.
        classes: the class names, each once, in the order of the targets.
    Attributes:
        kind: which of these kinds it is.
        targets: by kind list[int]; list[tuple[int, ...]], sorted indices; float32 [N] or [N, K]; None;
            `MaskFiles`; `Objects`.
    Raises:
        ValueError: lengths that differ, a target without a class, a class name given twice, numbers not finite.
        TypeError: targets of no kind, a single string where a list belongs.
    """

    paths: Sequence[str]  # a list, except for members of archives
    targets: Any
    classes: list[str]
    kind: Kind

    def __init__(
        self, paths: Iterable[str | os.PathLike[str]], targets: Any, classes: Iterable[str] | None = None
    ) -> None:
        for name, given in (("paths", paths), ("classes", classes)):
            if isinstance(given, str):
                raise TypeError(f"Samples: expected a list of {name}, got the string {given!r}. Put it into a list.")
        names = None if classes is None else [str(name) for name in classes]
        for name, count in Counter(names).items():
            if count > 1:
                raise ValueError(
                    f"Samples: expected every class once, got {name!r} {count} times. "
                    "Merge the classes of the same name."
                )
        files = paths if isinstance(paths, MemberPaths) else [os.fspath(path) for path in paths]
        self._hold(files, choose(targets, names, files))

    def _hold(self, paths: Sequence[str], chosen: Chosen) -> None:
        object.__setattr__(self, "paths", paths)
        for name, value in chosen._asdict().items():
            object.__setattr__(self, name, value)

    @classmethod
    def _of(cls, paths: Sequence[str], chosen: Chosen) -> Samples:
        """Of what was looked at before."""
        samples = object.__new__(cls)
        samples._hold(paths, chosen)
        return samples

    @classmethod
    def from_folder(cls, root: str | os.PathLike[str], level: int | None = None) -> Samples:
        """All images under `root`, at any depth, sorted by path; the class is the name of the folder a file lies in.

        Classes are sorted as text, as ImageFolder's and fastai's: "10" before "2".

        Left out are hidden files and folders (a leading dot), thumbnails and trash ("@eaDir", "__MACOSX", "#recycle"),
        images outside the class folders, and files without an image's extension; a warning counts all that may have
        been an image.

        Args:
            root: the folder.
            level: which folder is the class: 1 the first below the root, 2 the one in it …; -1 the one that the file
                lies in, -2 the one above that … None is -1, and refuses what looks like a split, such as train/ and
                val/ (see `from_split_folders`), and warns where folders of one name at several places are one class,
                or where one class lies in another.
        Raises:
            FileNotFoundError, NotADirectoryError: no such folder.
            ValueError: no image in it, none at that level, or what looks like a split.
        """
        paths, names, said = named_by_folder(find_images(root, "from_folder"), level, "from_folder")
        _warn(said)
        return cls._from_names(paths, names)

    @classmethod
    def from_split_folders(
        cls,
        root: str | os.PathLike[str],
        train: str | None = None,
        valid: str | None = None,
        level: int | None = None,
        pattern: str | None = None,
    ) -> tuple[Samples, Samples]:
        """(train, valid) from two folders in `root`, each with a folder for each class; both have the same classes.

        Args:
            root: the folder above both. What else lies in it is left aside, a folder "test" too.
            train, valid: their names. None: the one that has a usual name, such as "train"; "val", "valid",
                "validation" or "dev".
            level: as of `from_folder`, counted within each of them.
            pattern: as of `from_filenames`, where the names of files tell the class.
        A warning says so if files of one are, by links, in the other too.

        Raises:
            FileNotFoundError, NotADirectoryError: no such folder.
            ValueError: no such folders in it, several, or a class that only validation has.
        """
        caller, root = "from_split_folders", os.fspath(root)
        there = subfolders(root)
        found = split_names(there)
        chosen = [train or the_one("training", found, there, root, caller)]
        chosen.append(valid or the_one("validation", found, there, root, caller))
        halves, files = [], []
        for name in chosen:
            images = find_images(os.path.join(root, name), caller)
            if pattern is not None:
                paths, names, said = named_by_file(images, _regex(pattern, caller), caller)
            elif level is None and images.are_direct():
                raise ValueError(
                    f"{caller}: expected class folders in {images.root!r}, got images. Say pattern= if the names of "
                    "files tell the class."
                )
            else:
                paths, names, said = named_by_folder(images, level, caller)
            _warn(said)
            halves.append((paths, names))
            files.append(images.real_files(paths))
        train_files, valid_files = files
        why = f"Take them out of {chosen[0]!r} or {chosen[1]!r}: a model knows what it was trained with."
        _warn(on_both_sides(train_files, valid_files, caller, why))
        (train_paths, train_names), (valid_paths, valid_names) = halves
        missing = Counter(valid_names)
        for name in set(train_names):
            del missing[name]
        if missing:
            listed = ", ".join(f"{name} ({count:,} images)" for name, count in sorted(missing.items())[:5])
            raise ValueError(
                f"{caller}: expected every class of {chosen[1]!r} in {chosen[0]!r} too, got {printable(listed)} in "
                f"{chosen[1]!r} alone. Add images to train with, or move the folder away."
            )
        both = cls._from_names(train_paths, train_names)
        number = {name: i for i, name in enumerate(both.classes)}
        return both, cls(valid_paths, [number[name] for name in valid_names], both.classes)

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
        images = find_images(root, "from_filenames")
        paths, names, said = named_by_file(images, regex, "from_filenames")
        split = find_split(images.parts().values())
        if split:
            parts = ", ".join(map(repr, split[1]))
            said.append(
                f"from_filenames: what looks like a split into {parts} in {os.path.join(images.root, *split[0])!r} is "
                "mixed. from_split_folders(…, pattern=…) gives two halves."
            )
        _warn(said)
        return cls._from_names(paths, names)

    @classmethod
    def from_csv(
        cls,
        csv: str | os.PathLike[str],
        root: str | os.PathLike[str] | None = None,
        path: str = "file",
        target: str | Sequence[str] | None = "label",
        sep: str | None = None,
        encoding: str | None = None,
        label_sep: str | None = None,
        kind: Literal["class", "labels", "numbers"] | None = None,
        outside: bool = False,
    ) -> Samples:
        """The rows of a CSV file with a header line, in the file's order. Spaces around values count for nothing.

        Args:
            csv: the file.
            root: folder that the paths in the file are relative to. None: the working directory or the folder of the
                list, decided for the whole list by where the first files are; it is an error if some are in each.
                Where none is found, paths stay as they are written.
            path: name of the column with the image's path.
            target: name of the column with the target: the class, or a number to regress on. A list of columns: a label
                each, named as the column, if all values are 0 and 1 (or true and false), otherwise numbers. None: there
                are no targets.
            sep: what separates the values. None: a comma, semicolon, tab or "|", whichever the header has.
            encoding: such as "latin-1". None: UTF-8, or UTF-16 where the file begins as such; other bytes are an
                error, unless they are the name of a file that there is.
            label_sep: what is between several labels in the one column `target`; an empty value is none of them.
            kind: of targets. None: labels with `label_sep`; numbers if all values are numbers and one is not whole;
                otherwise classes. Say "numbers" where whole numbers are to be regressed on, "labels" or "class" where
                an empty value, and -1, is none of the classes. Classes are sorted, as numbers if all of them are
                numbers.
            outside: paths may leave `root`, absolute or by "..".
        Raises:
            FileNotFoundError: no such file.
            ValueError: a column that is missing, a row with an empty or missing value, or one that is not of its
                kind, no rows at all, a file in two rows with different targets, an address instead of a file, a path
                that leaves `root`, another encoding.
        """
        one = isinstance(target, str)
        columns = columns_named(target, kind, label_sep)
        hint = ', or say kind="class" if it means none of the classes' if one and kind is None else ""
        table = read_table(csv, path, columns, sep, encoding, one and may_be_empty(kind, label_sep), hint)
        chosen = read_targets(table, one, kind, label_sep)
        return cls._of(located(table, root, outside), chosen)

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

        There, members whose names agree up to the first dot belong together; up to the last one where several images
        would, and each has its own class. Left out is what `from_folder` leaves out. Every archive is indexed once, by
        its headers; the images are then read by their offsets, in any order. A sample's path is
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
        paths, labels, left_out = index_archives(found, layout, None if index is None else os.fspath(index))
        if not len(paths):
            got = str(left_out) or "none"
            raise ValueError(f"from_tar: expected images in {cut(archives, 300)}, got {got}. {WHAT_IS_TAKEN}")
        _warn(left_out.warning("from_tar"))
        if pattern is None and target == "folder":
            folders = {posixpath.dirname(paths.name(row)) for row in range(len(paths))}
            _warn(mixed_in_archives(folders))
        if classes is None:
            distinct = set(labels)
            if pattern is not None or target == "folder" or not all(map(_is_number, distinct)):
                return cls._from_names(paths, labels)
            largest = max(distinct, key=_as_number)
            if _as_number(largest) >= MAX_CLASSES:
                raise ValueError(f"from_tar: expected indices of classes below {MAX_CLASSES:,}, got {cut(largest)}.")
            classes = list(map(str, range(_as_number(largest) + 1)))
        return cls(paths, _numbered(labels, list(classes)), classes)

    @classmethod
    def from_folders(
        cls,
        images: str | os.PathLike[str],
        masks: str | os.PathLike[str],
        classes: Iterable[str] | None = None,
        upright: bool = False,
        suffix: str = "",
    ) -> Samples:
        """Photos with their masks: the same path below `images` and `masks`, with another ending. Sorted by path.

        Masks are files of one channel, whose values are the classes: a palette's indices, or 8 or 16 bits.

        Args:
            images: the folder of the photos, searched as by `from_folder`.
            masks: the folder of the masks.
            classes: names of the values 0, 1, …, if there are any.
            upright: the masks are upright already. False: each is turned as the EXIF of its photo says.
            suffix: what the names of masks have after those of their photos, such as "_mask"; other files in `masks`
                are none. With it `images` and `masks` may be one folder.
        Raises:
            FileNotFoundError, NotADirectoryError: no such folder.
            ValueError: photos without a mask, masks without a photo, several files of one name.
        """
        paths, files, said = photos_and_masks(images, masks, suffix, "from_folders")
        _warn(said)
        return cls(paths, MaskFiles(files, upright), classes)

    @classmethod
    def from_coco(
        cls,
        json: str | os.PathLike[str],
        root: str | os.PathLike[str],
        classes: Iterable[str] | None = None,
        pairs: Iterable[tuple[int | str, int | str]] = (),
        outside: bool = False,
    ) -> Samples:
        """The images of a COCO file, in its order, with their boxes, labels, crowds and keypoints.

        Images without annotations stay. Boxes without area are left out, and a warning counts them. The coordinates are
        those of the file.

        Args:
            json: the file, of instances or of keypoints.
            root: the folder that the names in the file are relative to.
            classes: names of categories to take, in this order; objects of others are left out. None: all, sorted by
                their id; where several have one name, it is "name (id)".
            pairs: keypoints that a mirror exchanges, by name or by number: [("left_eye", "right_eye"), …].
            outside: names may leave `root`, absolute or by "..".
        Raises:
            FileNotFoundError: no such file.
            ValueError: not COCO's JSON; an annotation of an unknown image or category, without a box, or with another
                number of keypoints, which the error names by its id; a name that leaves `root`.
        Source: COCO's data format (cocodataset.org/#format-data).
        """
        return cls._of_objects(read_coco(json, root, classes, pairs, outside))

    @classmethod
    def from_voc(
        cls,
        images: str | os.PathLike[str],
        annotations: str | os.PathLike[str],
        classes: Iterable[str] | None = None,
    ) -> Samples:
        """Photos with an XML file each, as Pascal VOC has them: the same path with another ending. Sorted by path.

        Pixels count from 1 in these files, and the last one is in the box: 1 … 10 is 0 … 10 here. Parts and flags such
        as "difficult" are not read; boxes without area are left out, and a warning counts them.

        Args:
            images: the folder of the photos, searched as by `from_folder`.
            annotations: the folder of the XML files.
            classes: names of classes to take, in this order; a warning counts objects of others. None: all, sorted.
        Raises:
            FileNotFoundError, NotADirectoryError: no such folder.
            ValueError: photos without annotation or the other way round, what is no such XML.
        Source: the development kit of Pascal VOC 2012.
        """
        return cls._of_objects(read_voc(images, annotations, classes))

    @classmethod
    def from_yolo(
        cls,
        images: str | os.PathLike[str],
        labels: str | os.PathLike[str],
        classes: Iterable[str],
        pairs: Iterable[tuple[int, int]] = (),
    ) -> Samples:
        """Photos with texts as YOLO's: the same path with another ending. Sorted by path.

        A line is an object: class, x and y of the centre, width, height, then x, y and visibility of each keypoint, all
        as shares of the photo's width and height. A photo without a text has no objects. Boxes without area and texts
        without a photo are left out, and a warning counts them.

        Args:
            images: the folder of the photos, searched as by `from_folder`.
            labels: the folder of the texts.
            classes: the names of the classes 0, 1, …
            pairs: keypoints that a mirror exchanges, by number: [(1, 2), …].
        Raises:
            FileNotFoundError, NotADirectoryError: no such folder.
            ValueError: a line that is none of these, which the error names; no objects at all.
        Source: the formats of Ultralytics' detection and pose data sets.
        """
        return cls._of_objects(read_yolo(images, labels, classes, pairs))

    @classmethod
    def _of_objects(cls, found: Found) -> Samples:
        for text in found.said:
            warnings.warn(text, stacklevel=3)
        return cls(found.paths, found.objects, found.classes)

    def to_csv(
        self,
        csv: str | os.PathLike[str],
        path: str = "file",
        target: str = "label",
        label_sep: str | None = None,
    ) -> None:
        """Write a file that `from_csv` reads: a row per image, its path and the name of its class.

        It is there as a whole or not at all. Names that are not UTF-8 are written as the bytes that they are. An image
        of none of the classes has an empty value, which `from_csv` reads with kind="class"; numbers that are all whole
        it reads with kind="numbers".

        Args:
            csv: the file.
            path: name of the column with the image's path.
            target: name of the column with the target; of several numbers, each has a column of its own name.
            label_sep: what is between several labels of an image. None: each class has a column of 0 and 1.
        Raises:
            ValueError: masks and objects, which are no values in a table; a class that holds `label_sep`; a column
                that is named as `path`.
        """
        header, rows = KINDS[self.kind].cells(self.targets, self.classes, target, label_sep)
        if path in header:
            raise ValueError(f"to_csv: expected columns of different names, got {path!r} twice. Give another path=.")
        write_table(csv, (path, *header), ((file, *values) for file, values in zip(self.paths, rows, strict=False)))

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
        """One class name per path -> targets; classes sorted as text."""
        classes = sorted_classes(names)
        index = {name: i for i, name in enumerate(classes)}
        return cls(paths, [index[name] for name in names], classes)

    def split(
        self,
        valid_fraction: float = 0.2,
        seed: int = 42,
        by: Callable[[str], bool] | None = None,
        stratify: bool = False,
        groups: Sequence[Hashable] | Callable[[str], Hashable] | None = None,
    ) -> tuple[Samples, Samples]:
        """Divide into (train, valid). Both keep kind, the full list of classes and the order of the rows.

        The same rows and seed give the same halves in every process and Python version: the rows are ranked by the
        numbers of `random.Random(seed).random()`, the one sequence that Python promises not to change. Rows with the
        same path are on the same side, where the first of them is.

        Args:
            valid_fraction: share of validation, between 0 and 1, of the files; rounded to whole ones.
            seed: another seed, another split.
            by: called with each path, True for validation; `valid_fraction` and `seed` then count for nothing. A
                warning says so if it puts rows of one file on both sides.
            stratify: the same share of every class, as near as whole images allow. A class of two or more images
                has at least one on each side; a class of one image stays in training.
            groups: what must not be divided, such as the patient of each sample: one value per row, or a function of
                the path. Whole groups are drawn, each that brings validation nearer to its share, at least one.
        Raises:
            ValueError: a fraction outside (0, 1), a side left without images, several of `by`, `stratify` and `groups`,
                a sample without a group, a file in two groups, `stratify` where a photo has not one class.
        """
        ways = [name for name, given in (("by=", by), ("groups=", groups)) if given is not None]
        ways += ["stratify=True"] if stratify else []
        if len(ways) > 1:
            raise ValueError(
                f"split: expected either {' or '.join(ways)}, got {'both' if len(ways) == 2 else 'all'}. Each decides "
                "by itself which images are for validation."
            )
        if by is None and not 0 < valid_fraction < 1:
            raise ValueError(f"split: expected valid_fraction between 0 and 1, got {valid_fraction}.")
        if stratify and self.kind != "class":
            raise ValueError(
                f"split: expected one class a photo for stratify=True, got targets of kind {self.kind!r}. Leave it out."
            )
        first = first_rows(self.paths, spelling=True)
        if by is not None:
            chosen = [row for row, path in enumerate(self.paths) if by(path)]
        else:
            draw = random.Random(operator.index(seed)).random
            rank = [draw() for _ in self.paths]
            order = sorted(range(len(self)) if first is None else sorted(set(first)), key=rank.__getitem__)
            total = math.floor(len(order) * valid_fraction + 0.5)
            if groups is not None:
                files = set(whole_groups(order, numbered_groups(groups, self.paths, first), total))
            else:
                files = set(stratified(order, self.targets, valid_fraction, total) if stratify else order[:total])
            chosen = sorted(files) if first is None else [row for row, its in enumerate(first) if its in files]
        others = sorted(set(range(len(self))).difference(chosen))
        train, valid = self.subset(others), self.subset(chosen)
        if not len(train) or not len(valid):
            side = "validation" if len(train) else "training"
            why = "by=" if by is not None else f"valid_fraction={valid_fraction}"
            raise ValueError(
                f"split: expected images on both sides, got {len(train)} for training and {len(valid)} "
                f"for validation. Change {why} so that {side} gets some of the {len(self)}."
            )
        if by is not None and first is not None:
            names = {first[row]: self.paths[row] for row in chosen}
            why = "by= decided otherwise about another row of the file: let it depend on the file alone."
            _warn(on_both_sides((first[row] for row in others), names, "split", why))
        return train, valid

    def first_rows(self) -> list[int] | None:
        """For each row the first one with the same path; None: every row is its own."""
        return first_rows(self.paths)

    def subset(self, indices: Iterable[int]) -> Samples:
        """The rows with these indices, in this order; kind and classes stay."""
        rows = list(indices)
        taken = self.paths.take(rows) if isinstance(self.paths, MemberPaths) else [self.paths[row] for row in rows]
        return Samples._of(taken, Chosen(self.kind, KINDS[self.kind].take(self.targets, rows), list(self.classes)))

    def counts(self) -> dict[str, int]:
        """Images per class, in the order of the classes, 0 included; of objects, the boxes.

        Empty where targets are no classes: of numbers, masks, and none.
        """
        return KINDS[self.kind].counts(self.targets, self.classes)

    def targets_crc32(self) -> int:
        """A checksum of all targets, the same on every machine."""
        return KINDS[self.kind].crc32(self.targets)

    def describe(self) -> str:
        """A line with the totals and a line per class: how many images it has; per column of numbers their range."""
        rows = [(short(name), *figures) for name, *figures in KINDS[self.kind].table(self.targets, self.classes).rows]
        width = max((len(row[0]) for row in rows), default=0)
        lines = (f"{name:<{width}}  " + "  ".join(f"{figure:>7}" for figure in figures) for name, *figures in rows)
        return "\n".join([repr(self), *lines])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        return self.paths[index], KINDS[self.kind].of(self.targets, index)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Samples):
            return NotImplemented
        mine, others = ((one.kind, one.classes, one.paths) for one in (self, other))
        return mine == others and KINDS[self.kind].equal(self.targets, other.targets)

    def __repr__(self) -> str:
        names = f": {shortened(self.classes)}" if self.classes else ""
        return f"Samples({self._totals()}{names})"

    def _repr_html_(self) -> str:
        """For notebooks: images per class."""
        header, rows = KINDS[self.kind].table(self.targets, self.classes)
        more = [(f"… {len(rows) - _MOST_ROWS:,} more",)] if len(rows) > _MOST_ROWS else []
        return html_table(self._totals(), [*rows[:_MOST_ROWS], *more], header)

    def _totals(self) -> str:
        return f"{len(self):,} images, {KINDS[self.kind].summary(self.targets, self.classes)}"


def _numbered(labels: list[str], classes: list[str]) -> list[int]:
    """Targets of labels that are indices into classes, or names of them."""
    number = {name: i for i, name in enumerate(classes)}
    for label in dict.fromkeys(labels):  # in their order, so that an error always names the same one
        if label in number:
            continue
        if not _is_number(label) or _as_number(label) >= len(classes):
            raise ValueError(
                f"from_tar: expected indices into classes, got {cut(label)}, which is also none of the {len(classes)} "
                f"names ({shortened(classes)}). Give all classes, or leave out classes=."
            )
        number[label] = _as_number(label)
    return [number[label] for label in labels]


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _as_number(name: str) -> int:
    return int(name) if len(name) <= _MOST_DIGITS else 10**_MOST_DIGITS


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


def _warn(said: Iterable[str]) -> None:
    for text in said:
        warnings.warn(text, stacklevel=3)  # where the user calls


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first names, as can be printed."""
    return ", ".join(map(short, names[:most])) + (", …" if len(names) > most else "")
