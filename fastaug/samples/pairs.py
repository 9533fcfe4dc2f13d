"""Files that belong together, by the same name with another ending: photos, and their masks or annotations."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from fastaug.samples.folders import Images, find_files, find_images

_MOST_NAMED = 3


def photos_and_masks(
    images: str | os.PathLike[str], masks: str | os.PathLike[str], suffix: str, caller: str
) -> tuple[list[str], list[str], list[str]]:
    """Paths of the photos and of their masks, and what is to be said; see `Samples.from_folders`.

    Raises:
        ValueError: a photo without a mask, a mask without a photo, or several of one name.
    """
    of_photos = find_images(images, caller)
    one_folder = os.path.isdir(masks) and os.path.samefile(images, masks)
    if one_folder and not suffix:
        raise ValueError(
            f"{caller}: expected photos and masks that are told apart, got {of_photos.root!r} for both. Give two "
            "folders, or the suffix= that the names of masks have."
        )
    of_masks = of_photos if one_folder else find_images(masks, caller)
    for found in (of_photos, of_masks):
        found.left_out.check_folders(caller)
    said = of_photos.left_out.warning(caller) + ([] if one_folder else of_masks.left_out.warning(caller))
    photos, files = of_photos.paths, of_masks.paths
    if suffix:
        files = [path for path in files if os.path.splitext(path)[0].endswith(suffix)]
        taken = set(map(os.path.abspath, files))  # the folder of the masks may lie in that of the photos
        photos = [path for path in photos if os.path.abspath(path) not in taken]
    there = by_name(of_photos.root, photos, caller)
    named = {name.removesuffix(suffix): path for name, path in by_name(of_masks.root, files, caller).items()}
    check_pairs(there, named, of_photos.root, of_masks.root, "mask", caller)
    return list(there.values()), [named[name] for name in there], said


def photos_and_texts(
    images: str | os.PathLike[str], texts: str | os.PathLike[str], ending: str, caller: str
) -> tuple[Images, dict[str, str], dict[str, str], list[str]]:
    """The photos; these by name; the files with that ending by name; and what is to be said."""
    photos = find_images(images, caller)
    found = find_files(texts, caller, (ending,), f"{ending} files")
    for some in (photos, found):  # a photo without its text would be one without objects
        some.left_out.check_folders(caller)
    there, files = (by_name(some.root, some.paths, caller) for some in (photos, found))
    return photos, there, files, photos.left_out.warning(caller) + found.left_out.unread(caller)


def by_name(root: str, paths: Iterable[str], caller: str) -> dict[str, str]:
    """The path below the root, without ending -> path.

    Raises:
        ValueError: two paths that differ in their ending alone.
    """
    start = len(os.path.join(root, ""))
    found: dict[str, str] = {}
    for path in paths:
        name = os.path.splitext(path[start:])[0]
        before = found.setdefault(name, path)
        if before != path:
            raise ValueError(
                f"{caller}: expected one file of each name in {root!r}, got {before!r} and {path!r}. Move one of them "
                "away, or rename it."
            )
    return found


def check_pairs(
    photos: Mapping[str, str], others: Mapping[str, str], root: str, other_root: str, what: str, caller: str
) -> None:
    """That both have the same names.

    Raises:
        ValueError: how many have not, and the first of them.
    """
    without = [path for name, path in photos.items() if name not in others]
    left = [path for name, path in others.items() if name not in photos]
    if without or left:
        got = [
            f"{len(paths):,} {kind} of {total:,} without the other ({_first(paths)})"
            for paths, kind, total in ((without, "photos", len(photos)), (left, f"{what}s", len(others)))
            if paths
        ]
        raise ValueError(
            f"{caller}: expected photos in {root!r} and {what}s in {other_root!r} by the same names with other "
            f"endings, got {' and '.join(got)}. Add what is missing, or move the others away."
        )


def _first(paths: list[str]) -> str:
    return ", ".join(map(repr, paths[:_MOST_NAMED])) + (", …" if len(paths) > _MOST_NAMED else "")


__all__ = ["by_name", "check_pairs", "photos_and_masks", "photos_and_texts"]
