"""Which code and which packages were measured. Imports nothing, so that warp_gpu.py runs with torch alone."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Package -> its version, or "not installed"."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git(*arguments: str) -> str:
    """What git says of this repository; nothing where it cannot."""
    done = subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def commit() -> str:
    return git("rev-parse", "HEAD") or "unknown"
