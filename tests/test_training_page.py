"""The code of docs/training.md runs, one block after the other, but for the model and the sizes."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PAGE = Path(__file__).resolve().parents[1] / "docs" / "training.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
SMALL = {
    '"resnet34", ': '"timm:test_resnet", weights=None, ',
    "batch_size=64": "batch_size=8",
    "size=224": "size=32",
    "lr_find()": "lr_find(num_it=6)",
}


@pytest.mark.usefixtures("one_thread")
def test_the_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    for i in range(30):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / "ab"[i % 2] / f"{i}.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in BLOCKS:
        for written, small in SMALL.items():
            block = block.replace(written, small)
        exec(compile(block, str(PAGE), "exec"), names)
    assert "RandomResizedCrop" in capsys.readouterr().out
    written = {"batch.png", "rates.png", "confusion.png", "losses.png", "best.pth", "run.pth", "pets.safetensors"}
    assert written | {"photos", "log"} == {path.name for path in tmp_path.iterdir()}
    first = names["valid"].paths[0]
    assert names["learn"].predict(first)[:2] == names["predictor"].predict(first)[:2]
    assert len(names["probabilities"]) == len(names["valid"])
