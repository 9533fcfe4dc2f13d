"""What FOLDER may be, and how it is divided."""

from __future__ import annotations

import glob
from pathlib import Path

from fastaug.cli.errors import WrongOption
from fastaug.cli.options import LISTS, Source
from fastaug.cli.printing import say
from fastaug.machine import rank
from fastaug.samples.folders import split_names, subfolders
from fastaug.samples.samples import Samples


def find_samples(source: Source, every: bool = False) -> Samples:
    """The samples of FOLDER; where it is divided into folders to train and to validate, those to train, and it says so.

    Args:
        every: those of all its parts.
    """
    folder, name = source.place, source.place.name.lower()
    if source.is_list:
        options = source.given("path", "target", "label_sep", "kind", "root", "outside", "encoding")
        return Samples.from_csv(folder, **options | source.target_given(several=True))
    if not folder.is_dir():
        if name.endswith(".tar") or glob.has_magic(folder.name) or "{" in name:
            return Samples.from_tar(folder, **source.given("pattern", "target") | source.target_given(several=False))
        if folder.exists():
            raise WrongOption(
                f"FOLDER: expected a folder of images, a .tar archive that is not compressed, or a list "
                f"({', '.join(LISTS)}), got '{folder}'. Unpack or convert it."
            )
    if source.pattern is not None:
        return Samples.from_filenames(folder, **source.given("pattern"))
    level, parts = source.given("level"), _parts(source)
    if len(parts) < 2:
        return Samples.from_folder(folder, **level)
    if every:
        return Samples.from_folder(folder, level=-1)
    first = next(iter(parts.values()))[0]
    _say_aside(folder, {first})
    return Samples.from_folder(folder / first)


def split_samples(source: Source, valid_fraction: float, seed: int) -> tuple[Samples, Samples]:
    """To train and to validate: the folders for it where FOLDER has such, else by the fraction, of each class where a
    photo has one."""
    parts = _parts(source)
    if "training" in parts and "validation" in parts:
        train, valid = Samples.from_split_folders(source.place, **source.given("pattern"))
        _say_aside(source.place, {parts["training"][0], parts["validation"][0]})
        return train, valid
    samples = find_samples(source)
    return samples.split(valid_fraction, seed, stratify=samples.kind == "class")


def _parts(source: Source) -> dict[str, list[str]]:
    """The folders in FOLDER that are parts of a split, by kind; none where --level says which folder is the class."""
    if source.level is not None or source.is_list or not source.place.is_dir():
        return {}
    return split_names(subfolders(source.place))


def _say_aside(folder: Path, used: set[str]) -> None:
    aside = [f"{name}/" for name in subfolders(folder) if name not in used]
    if aside and not rank():
        names = ", ".join(sorted(f"{name}/" for name in used))
        say(f"{names} of '{folder}'; left aside: {', '.join(aside)}", err=True)
