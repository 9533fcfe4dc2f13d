from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.factories import write_photos


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve noisy images in two folders, one brighter; their names tell the class too."""
    rng = np.random.default_rng(0)
    pixels = {
        f"{name}/{name}_photo_{i}.jpg": rng.integers(low, low + 128, (40 + i, 60 - i, 3), np.uint8)
        for name, low in (("dark", 0), ("light", 128))
        for i in range(6)
    }
    return write_photos(tmp_path_factory.mktemp("photos"), pixels)
