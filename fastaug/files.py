"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike[str], shared: bool = False) -> Iterator[Path]:
    """`with whole_file(path) as unfinished:` write `unfinished`, which becomes `path` at the end of the block.

    It lies beside `path`, whose folder is made. Where the block fails it is removed, and `path` stays what it was.

    Args:
        path: of the file.
        shared: several processes may write it at a time, so each needs another name meanwhile. Otherwise the name is
            the same each time, and what a killed process leaves is overwritten by the next.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + (f".{os.getpid()}" if shared else "") + ".unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
