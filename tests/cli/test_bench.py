"""`fastaug bench` of folders as they come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import run

pytestmark = pytest.mark.usefixtures("one_thread")


def test_any_folder_will_do_and_the_first_line_says_how_fast(photos: Path, tmp_path: Path) -> None:
    """Of images at any place, in what looks like a split too; with a file that is none."""
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))):
        place = tmp_path / ("", "train/a", "val/a")[number % 3] / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    options = ["--size", "32", "--presize", "40", "--batch-size", "4", "--seconds", "0.2", "--device", "cpu"]
    result = run("bench", tmp_path, *options)
    assert result.exit_code == 0, result.output
    first, *_, last = result.stdout.splitlines()
    speed, unit, rest = first.split(" ", 2)
    assert float(speed.replace(",", "")) > 1
    assert unit == "images/s:"
    assert rest.endswith(" images, mode direct, no model")
    assert last.startswith("The loader is the limit: ")

    result = run("bench", tmp_path, *options, "--json")
    figures = json.loads(result.stdout)
    assert figures["quarantined"] == 1
    total = figures["model_s"] + figures["waited_s"] + figures["warp_s"]
    assert 0 < figures["speed_images_per_s"] * total < figures["images"]
