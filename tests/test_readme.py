"""The README's code runs as it stands, but for the folder, the download and the sizes."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_there_is_code() -> None:
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("block", BLOCKS, ids=["loop", "operators"])
def test_code_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    for i in range(20):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / "ab"[i % 2] / f"{i}.jpg")
    monkeypatch.chdir(tmp_path)
    for written, small in {
        '"resnet34", ': '"resnet18", weights=None, ',
        "batch_size=64": "batch_size=8",
        "size=224": "size=32",
        "range(3)": "range(1)",
    }.items():
        block = block.replace(written, small)
    exec(compile(block, str(README), "exec"), {})
