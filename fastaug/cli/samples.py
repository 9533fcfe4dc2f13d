"""What FOLDER may be."""

from __future__ import annotations

import glob
from pathlib import Path

from fastaug.samples.samples import Samples


def find_samples(folder: Path, pattern: str | None) -> Samples:
    if folder.suffix == ".csv":
        return Samples.from_csv(folder)
    if folder.suffix == ".tar" or glob.has_magic(folder.name):
        return Samples.from_tar(folder, pattern=pattern)
    return Samples.from_filenames(folder, pattern) if pattern else Samples.from_folder(folder)
