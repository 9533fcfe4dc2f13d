"""The images of a folder: found at any depth, with what is left out counted, and the class in the name of a folder.

One pass of `os.scandir`; no file is opened or asked for its size.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from fastaug.samples.sources import IMAGE_EXTENSIONS
from fastaug.samples.storage import is_the_storages, retried
from fastaug.text import cut, printable

# Folders of copies, of thumbnails and of what was deleted, which Synology, QNAP, macOS and Windows make.
NO_DATA = {"@eadir", "__macosx", "#recycle", "@recycle", "$recycle.bin"}
_OF_THE_SYSTEM = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
# Of images that nothing here decodes.
IMAGES_NOT_READ = (
    ".heic", ".heif", ".jxl", ".svg", ".psd", ".exr", ".hdr", ".dcm", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw",
    ".orf", ".rw2", ".raf",
)  # fmt: skip
# What lies beside images and is none: no word about it, unless there is something else to say.
_BESIDE_IMAGES = (
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".md", ".html", ".log", ".py",
    ".ipynb", ".npy", ".npz", ".cls",
)  # fmt: skip
_SPLITS = {
    "training": re.compile(r"train(ing)?([ _-]?(set|data|images))?", re.IGNORECASE),
    "validation": re.compile(r"(val|valid|validation|dev)([ _-]?(set|data|images))?", re.IGNORECASE),
    "test": re.compile(r"(test|testing|eval|evaluation)([ _-]?(set|data|images))?", re.IGNORECASE),
}
_USUAL_NAMES = {"training": "train, training", "validation": "val, valid, validation, dev", "test": "test, testing"}
_MOST_KINDS = 5  # that are named
_NOT_READABLE, _NO_FILES = "not readable", "not files"  # kinds that are left out: of folders; FIFOs and the like

Parts = tuple[str, ...]  # the names of the folders from the root down


class LeftOut:
    """What was not taken, counted by kind, with an example of each.

    Args:
        where: the folder or archive.
        below: what the paths of all examples begin with, which is not shown.
    """

    def __init__(self, where: str, below: str = "") -> None:
        self.where, self.below = where, below
        self.kinds: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, example: str) -> None:
        count, first = self.kinds.get(kind, (0, example))
        self.kinds[kind] = count + 1, min(first, example)

    def add_file(self, name: str, path: str) -> None:
        """A file without an image's extension."""
        if name.lower() not in _OF_THE_SYSTEM:
            self.add(os.path.splitext(name)[1].lower() or "without an ending", path)

    def matters(self) -> bool:
        """Whether an image may be among it."""
        return bool(self.kinds.keys() - set(_BESIDE_IMAGES))

    def __str__(self) -> str:
        kinds = sorted(self.kinds.items(), key=lambda item: (-item[1][0], item[0]))
        named = [
            f"{count:,} {printable(kind)} ({cut(example[len(self.below) :] or os.curdir, 300)})"
            for kind, (count, example) in kinds[:_MOST_KINDS]
        ]
        rest = [count for _, (count, _) in kinds[_MOST_KINDS:]]
        return ", ".join([*named, *([f"{sum(rest):,} of {len(rest)} other kinds"] if rest else [])])

    def check_folders(self, caller: str) -> None:
        """That all of them may be read. Raises PermissionError."""
        if _NOT_READABLE in self.kinds:
            count, example = self.kinds[_NOT_READABLE]
            raise PermissionError(
                f"{caller}: expected folders that may be read in {self.where!r}, got {count:,} that may not, the first "
                f"{example!r}. Let this user read it."
            )

    def unread(self, caller: str) -> list[str]:
        """The line to say where endings do not matter: of folders that may not be read, and of what is no file."""
        only = LeftOut(self.where, self.below)
        only.kinds = {kind: self.kinds[kind] for kind in (_NOT_READABLE, _NO_FILES) if kind in self.kinds}
        return only.warning(caller)

    def warning(self, caller: str) -> list[str]:
        """The line to say, or none."""
        return [f"{caller}: left out in {self.where!r}: {self}. {_TO_BE_TAKEN}."] if self.matters() else []


_TO_BE_TAKEN = "Convert or rename what should be loaded"
WHAT_IS_TAKEN = f"{_TO_BE_TAKEN}; the endings are {' '.join(IMAGE_EXTENSIONS)}."


class Images(NamedTuple):
    """The images under a root, sorted by code points, and what else there was."""

    root: str
    paths: list[str]
    left_out: LeftOut
    links: frozenset[str] = frozenset()  # those of the paths that are links

    def are_direct(self) -> bool:
        """Whether all of them lie in the root itself."""
        return not any(self.parts().values())

    def parts(self) -> dict[str, Parts]:
        """folder with images -> the names from the root down to it."""
        below = len(os.path.join(self.root, ""))
        return {folder: _parts(folder[below:]) for folder in set(map(os.path.dirname, self.paths))}

    def real_files(self, paths: Iterable[str]) -> dict[str, str]:
        """The files behind these of the paths, without links in them -> the path."""
        folders = {folder: os.path.realpath(folder) for folder in set(map(os.path.dirname, self.paths))}
        real = {}
        for path in paths:
            folder, name = os.path.split(path)
            real[os.path.realpath(path) if path in self.links else os.path.join(folders[folder], name)] = path
        return real


def find_images(root: str | os.PathLike[str], caller: str) -> Images:
    """All images under `root`; linked folders are followed, each folder once.

    Raises:
        FileNotFoundError, NotADirectoryError: no such folder. PermissionError: it may not be read. ValueError: no image
            in it. OSError: the storage did not list one of the folders in it.
    """
    return find_files(root, caller, IMAGE_EXTENSIONS, "images", WHAT_IS_TAKEN)


def find_files(
    root: str | os.PathLike[str], caller: str, endings: tuple[str, ...], what: str, advice: str = "Check the path."
) -> Images:
    """`find_images` for files of other endings. what, advice: for the error where there is none."""
    root = os.fspath(root)
    try:
        is_folder = stat.S_ISDIR(retried(lambda: os.stat(root)).st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise FileNotFoundError(
            f"{caller}: expected a folder, got {root!r}, which does not exist. Check the path."
        ) from None
    except OSError as error:
        raise _not_readable(root, error, caller) from None
    if not is_folder:
        raise NotADirectoryError(
            f"{caller}: expected a folder, got the file {root!r}. Give the folder that it lies in; a list to "
            "from_csv, a tar archive to from_tar; unpack any other archive first."
        )
    paths: list[str] = []
    links: list[str] = []
    left_out, seen, waiting = LeftOut(root, os.path.join(root, "")), {os.path.realpath(root)}, [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = retried(partial(_entries, folder))
        except OSError as error:
            if folder == root or is_the_storages(error):
                raise _not_readable(folder, error, caller) from None
            left_out.add(_NOT_READABLE, folder)
            continue
        inner = []
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if _is_folder(entry, caller):
                if name.lower() in NO_DATA:
                    left_out.add(f"{name}/", entry.path)
                else:
                    inner.append(entry.path)
            elif name.lower().endswith(endings):
                if not _may_be_read(entry):
                    left_out.add(_NO_FILES, entry.path)
                    continue
                paths.append(entry.path)
                if entry.is_symlink():
                    links.append(entry.path)
            else:
                left_out.add_file(name, entry.path)
        for path in sorted(inner, reverse=True):  # so that always the same one of two links is followed
            real = os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                waiting.append(path)
    if not paths:
        raise ValueError(f"{caller}: expected {what} under {root!r}, got {str(left_out) or 'none'}. {advice}")
    return Images(root, sorted(paths), left_out, frozenset(links))


def named_by_folder(images: Images, level: int | None, caller: str) -> tuple[list[str], list[str], list[str]]:
    """Paths, the name of the folder at `level` for each, and what is to be said; see `Samples.from_folder`.

    Raises:
        ValueError: no image at that level; without a level, what looks like a split.
    """
    if level == 0:
        raise ValueError(f"{caller}: expected level=1, 2, … from the root down, or -1, -2, … from the file up, got 0.")
    parts = images.parts()
    if level is None:
        found = find_split(parts.values())
        if found:
            raise ValueError(f"{caller}: expected folders of classes, got {_split_advice(images.root, parts, *found)}")
    name_of = {folder: _at(above, level or -1) for folder, above in parts.items()}
    if level is None and not any(name_of.values()):  # the root alone
        name_of = dict.fromkeys(name_of, os.path.basename(os.path.abspath(images.root)))
    folders = [os.path.dirname(path) for path in images.paths]
    paths, names = [], []
    for path, folder in zip(images.paths, folders, strict=True):
        name = name_of[folder]
        if name:
            paths.append(path)
            names.append(name)
        else:
            images.left_out.add("outside the class folders", path)
    if not paths:
        raise ValueError(f"{caller}: expected images in folders at level {level} below {images.root!r}, got none.")
    said = images.left_out.warning(caller)
    return paths, names, said + (mixed(parts.values(), caller) if level is None else [])


def named_by_file(images: Images, pattern: re.Pattern[str], caller: str) -> tuple[list[str], list[str], list[str]]:
    """Paths, what group 1 of the pattern finds in the name of each file, and what is to be said.

    Raises:
        ValueError: a name that does not match.
    """
    found = [pattern.search(os.path.basename(path)) for path in images.paths]
    names = [match[1] if match else None for match in found]
    unmatched = [path for path, name in zip(images.paths, names, strict=True) if not name]
    if unmatched:
        raise ValueError(
            f"{caller}: expected every file name to match {pattern.pattern!r}, got {len(unmatched)} of "
            f"{len(images.paths)} that do not, the first {unmatched[0]!r}. "
            "Correct the pattern, try ignore_case=True, or move the files away."
        )
    return images.paths, [name for name in names if name], images.left_out.warning(caller)


def _split_advice(root: str, parts: Mapping[str, Parts], place: Parts, names: list[str]) -> str:
    where = os.path.join(root, *place)
    found = f"what looks like a split into {', '.join(map(repr, names))} in {where!r}"
    if place and {(*place, name) for name in names} <= set(parts.values()):  # cat/train, cat/val, dog/train, …
        advice = f"Use from_folder({root!r}, level={len(place)}).split(by=lambda path: {names[-1]!r} in path)"
    else:
        advice = (
            f"Give {where!r} to from_split_folders or `fastaug train`, or take {os.path.join(where, names[0])!r} alone"
        )
    return f"{found}. {advice}; if these are the classes, say level=-1."


LEVELS = "Say level=-1 if that is right, level=1 if the first folder below the root is the class."


def mixed(folders: Iterable[Parts], caller: str, advice: str = LEVELS) -> list[str]:
    """What is to be said about classes of one name at several places, and about classes that lie in others."""
    by_name: dict[str, list[Parts]] = {}
    every = {parts for parts in folders if parts}
    for parts in sorted(every):
        by_name.setdefault(parts[-1], []).append(parts)
    said = []
    several = [places for places in by_name.values() if len(places) > 1]
    if several:
        first, second, *_ = ("/".join(parts) for parts in several[0])
        others = f" ({len(several)} such classes)" if len(several) > 1 else ""
        said.append(
            f"{caller}: {first!r} and {second!r} together are the class {several[0][0][-1]!r}{others}. {advice}"
        )
    inner = next((parts for parts in sorted(every) if len(parts) > 1 and parts[:-1] in every), None)
    if inner and not several:
        said.append(
            f"{caller}: {'/'.join(inner)!r} lies in {'/'.join(inner[:-1])!r}, and both hold images: two classes. "
            f"{advice}"
        )
    return said


def mixed_in_archives(folders: Iterable[str]) -> list[str]:
    """What is to be said about the folders within archives; there is nothing else to choose from them."""
    parts = {_parts(folder) for folder in folders}
    found = find_split(parts)
    if found:
        names = found[1]
        return [
            f"from_tar: what looks like a split into {', '.join(map(repr, names))} is mixed. Divide it with "
            f"split(by=lambda path: {f'/{names[-1]}/'!r} in path)."
        ]
    return mixed(parts, "from_tar", "If another folder is the class, say pattern=.")


def find_split(folders: Iterable[Parts]) -> tuple[Parts, list[str]] | None:
    """Where folders lie beside each other whose names are those of a split's parts, and these; the topmost."""
    children: dict[Parts, set[str]] = {}
    for parts in folders:
        for depth, name in enumerate(parts):
            children.setdefault(parts[:depth], set()).add(name)
    for place, names in sorted(children.items(), key=lambda item: (len(item[0]), item[0])):
        of_kind = split_names(names)
        if len(of_kind) > 1:
            return place, [name for found in of_kind.values() for name in found]
    return None


def split_names(names: Iterable[str]) -> dict[str, list[str]]:
    """ "training", "validation", "test" -> the names that are such."""
    every = sorted(names)
    found = {kind: [name for name in every if usual.fullmatch(name)] for kind, usual in _SPLITS.items()}
    return {kind: names for kind, names in found.items() if names}


def subfolders(root: str | os.PathLike[str]) -> list[str]:
    """The names of the folders in it, sorted; hidden ones are left out."""
    entries = retried(lambda: _entries(root))
    return sorted(entry.name for entry in entries if not entry.name.startswith(".") and retried(entry.is_dir))


def the_one(kind: str, found: Mapping[str, list[str]], there: list[str], root: str, caller: str) -> str:
    """The folder of this kind."""
    names = found.get(kind, [])
    if len(names) == 1:
        return names[0]
    argument, got = "train" if kind == "training" else "valid", printable(", ".join(names or there))
    if names:
        raise ValueError(f"{caller}: expected one folder for {kind} in {root!r}, got {got}. Name it, {argument}=.")
    raise ValueError(
        f"{caller}: expected a folder for {kind} in {root!r} ({_USUAL_NAMES[kind]}), got {got or 'none'}. "
        f"Name it, {argument}=; or divide what there is with from_folder and split."
    )


def _entries(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as listing:
        return list(listing)


def _is_folder(entry: os.DirEntry[str], caller: str) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link to itself
        if not is_the_storages(error):
            return False
    try:
        return retried(entry.is_dir)
    except OSError as error:
        raise _not_readable(entry.path, error, caller, "look at") from None


def _may_be_read(entry: os.DirEntry[str]) -> bool:
    """No FIFO, device or socket; what is not there, as behind a broken link, is found to be bad by its name."""
    try:
        return entry.is_file() or not os.path.exists(entry.path)
    except OSError:
        return True


def _not_readable(folder: str, error: OSError, caller: str, to: str = "list") -> OSError:
    """What to raise instead: a data set without some of its images would be another one."""
    if is_the_storages(error):
        return OSError(
            f"{caller}: could not {to} {folder!r}: {error.strerror}. See to the disk or the network, and try again."
        )
    return type(error)(
        f"{caller}: expected a folder that may be read, got {folder!r}: {error.strerror or error}. Let this user read "
        "it."
    )


def _at(parts: Parts, level: int) -> str:
    """The name at a level; "" where there is none."""
    place = level - 1 if level > 0 else level
    return parts[place] if -len(parts) <= place < len(parts) else ""


def _parts(path: str) -> Parts:
    return tuple(part for part in path.replace(os.sep, "/").split("/") if part not in ("", "."))


__all__ = [
    "IMAGES_NOT_READ", "NO_DATA", "WHAT_IS_TAKEN", "Images", "LeftOut", "find_files", "find_images", "find_split",
    "mixed", "mixed_in_archives", "named_by_file", "named_by_folder", "split_names", "subfolders", "the_one",
]  # fmt: skip
