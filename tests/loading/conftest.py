import numpy as np
import pytest
from PIL import Image

import fastaug as fa
from tests.compare import photo

# As in a folder of photos: landscape, portrait, square, small, large.
SIZES = [(300, 400), (400, 300), (333, 333), (120, 90), (256, 512), (700, 500), (60, 200)]
NAMES = ["astronaut", "chelsea", "coffee", "rocket", "retina"]


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> fa.Samples:
    """Fifty real photographs in two classes, no two the same."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for i in range(50):
        image = Image.fromarray(photo(NAMES[i % len(NAMES)]).numpy())
        height, width = SIZES[i % len(SIZES)]
        scale = max(height / image.height, width / image.width) * random.uniform(1.0, 1.3)
        image = image.resize((round(image.width * scale) + 1, round(image.height * scale) + 1), Image.Resampling.BOX)
        left, top = random.integers(image.width - width + 1), random.integers(image.height - height + 1)
        folder = root / ("even" if i % 2 == 0 else "odd")
        folder.mkdir(exist_ok=True)
        image.crop((left, top, left + width, top + height)).save(folder / f"{i:02}.jpg", quality=92)
    return fa.Samples.from_folder(root)
