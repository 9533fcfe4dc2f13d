"""A store in a folder: made when there is none, opened by every process that wants it."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastaug.caching.index import Header
from fastaug.caching.store import Store, log
from fastaug.files import HAS_LOCKS, close_all, is_at, locked
from fastaug.text import printable

INDEX, PIXELS = "index", "pixels"
_ATTEMPTS = 100  # others may be making it anew

# Loaders of one process share what is open: to train and to validate they often have the same cache.
_open: weakref.WeakValueDictionary[str, Store] = weakref.WeakValueDictionary()
_told = set[str]()  # of which it was said that they cannot be


def folder_name(settings: Mapping[str, Any]) -> str:
    """Of the folder for these settings, among those for others."""
    return "-".join(str(settings[name]) for name in ("cache_size", "decoder", "scale"))


def open_folder(folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> Store | None:
    """The store of these settings in a folder, which is made; None where it cannot be, and a warning says why.

    Raises:
        ValueError: what is there is no folder.
    """
    path = Path(os.path.abspath(folder), folder_name(settings))
    known = _open.get(str(path))
    if known is not None and known.is_at(path / INDEX):
        return known
    try:
        store: Store | None = _open_or_make(path, settings)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise ValueError(
            f"cache: expected a folder, or none yet, got {printable(str(folder))!r}. Name another one."
        ) from None
    except OSError as error:
        store = _open_to_read(path, settings, error)
    if store is not None:
        _open[str(path)] = store
    return store


def disk_left(folder: str | os.PathLike[str]) -> int:
    """Free bytes where a folder is, or will be."""
    path = Path(os.path.abspath(folder))
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _open_or_make(path: Path, settings: Mapping[str, Any]) -> Store:
    if not HAS_LOCKS:
        raise OSError("this system has no locks that several processes could take turns by")
    path.mkdir(parents=True, exist_ok=True)
    for _ in range(_ATTEMPTS):
        files: list[int] = []
        try:
            for name in (INDEX, PIXELS):
                files.append(os.open(path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
                if not stat.S_ISREG(os.fstat(files[-1]).st_mode):
                    raise FileExistsError
            with locked(files[0]):
                if _ready(path, files, settings):
                    return Store(files, str(path))
        except BaseException:
            close_all(files)
            raise
        close_all(files)
    raise OSError("others make it anew all the time")


def _ready(path: Path, files: list[int], settings: Mapping[str, Any]) -> bool:
    """Whether these are the files of the cache; otherwise they are made such, or others must be opened.

    The pixels of an index that is new are new as well: bytes that others still look at are given out by their own.
    """
    if not all(is_at(file, path / name) for file, name in zip(files, (INDEX, PIXELS), strict=True)):
        return False
    header = Header.read(files[0])
    if header is not None and header.settings == settings:
        return True
    if any(os.fstat(file).st_size for file in files):  # of other settings, or damaged
        for name in (PIXELS, INDEX):
            (path / name).unlink()
        return False
    Header(dict(settings), 0, secrets.token_bytes(16)).write(files[0])
    return True


def _open_to_read(path: Path, settings: Mapping[str, Any], error: OSError) -> Store | None:
    files: list[int] = []
    try:
        for name in (INDEX, PIXELS):
            files.append(os.open(path / name, os.O_RDONLY | os.O_CLOEXEC))
        header = Header.read(files[0])
        if header is not None and header.settings == settings:
            store = Store(files, str(path))
            store.stop_filling(error)
            return store
    except OSError:
        pass
    close_all(files)
    if str(path) not in _told:
        _told.add(str(path))
        reason = printable(error.strerror or str(error))
        text = "cache %s: there is none, and it cannot be made (%s). Everything is decoded each time."
        log.warning(text, printable(str(path)), reason)
    return None
