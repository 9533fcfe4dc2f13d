"""What single functions take, by pytest-benchmark: for comparing two commits on one machine.

    pytest benchmarks/test_functions.py --benchmark-enable --benchmark-autosave
    pytest benchmarks/test_functions.py --benchmark-enable --benchmark-compare --benchmark-compare-fail=median:10%
    pytest benchmarks/test_functions.py --benchmark-enable --benchmark-group-by=param:batch -k peers

The tables in README.md come from the scripts instead, in which competitors take turns: of functions timed one after the
other, as here, each meets whatever the machine does at that moment. Every answer is checked before it is timed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fastaug as fa
from benchmarks import common, warp_cpu
from benchmarks.common import PRESIZE, SIZE
from fastaug.augment.rng import SampleUniforms
from fastaug.loading.decode import make_decoder
from fastaug.loading.order import epoch_order
from fastaug.loading.resize import resize

SEED = 0
PEERS = (
    warp_cpu.OURS, warp_cpu.OURS_BILINEAR, warp_cpu.WARP_AFFINE, warp_cpu.KORNIA_STEPS,
    "Kornia warp_perspective + normalise", "torchvision v2 step by step", "fastai batch transforms", "DALI warp_affine",
)  # fmt: skip

Benchmark = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def photos() -> list[Any]:
    return common.scikit_image_photos(warp_cpu.PHOTOS)


@pytest.fixture(scope="module")
def ways(photos: list[Any]) -> Iterator[Callable[[int], tuple[torch.Tensor, dict[str, Any]]]]:
    made: dict[int, tuple[torch.Tensor, dict[str, Any]]] = {}
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:

        def of_batch(batch: int) -> tuple[torch.Tensor, dict[str, Any]]:
            if batch not in made:
                images = common.presized_batch(photos, batch)
                made[batch] = images, warp_cpu.competitors(common.Report("functions", {}), images, pool)
            return made[batch]

        yield of_batch
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("default")  # of other libraries
@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("batch", [1, 8, 64])
def test_warp_of_ours_and_peers(benchmark: Benchmark, ways: Any, batch: int, name: str) -> None:
    images, found = ways(batch)
    if name not in found:
        pytest.skip(f"missing: {name}")
    way = found[name]
    assert warp_cpu.difference(way, images, SEED) <= warp_cpu.SAME_WITHIN_LEVELS
    params = warp_cpu.params_for(way, batch, SEED, light=True)
    benchmark.pedantic(way.run, args=(params,), rounds=5, warmup_rounds=1)  # type: ignore[attr-defined]


def test_draw(benchmark: Benchmark) -> None:
    """The parameters of 64 images, and their matrices."""
    augment, uniforms = fa.aug_transforms(size=SIZE), SampleUniforms(SEED, 0, np.arange(64))
    params = benchmark(lambda: augment.draw(64, (PRESIZE, PRESIZE), uniforms=uniforms))
    assert params.matrix.shape == (64, 3, 3)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (2848, 4272)])
def test_presize(benchmark: Benchmark, height: int, width: int) -> None:
    photo = np.random.default_rng(SEED).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = np.empty((PRESIZE, PRESIZE, 3), np.uint8)
    side = float(min(height, width))
    benchmark(resize, photo, (0.0, 0.0, side, side), out)
    pillow = Image.fromarray(photo).resize((PRESIZE, PRESIZE), Image.Resampling.LANCZOS, box=(0, 0, side, side))
    assert np.abs(out.astype(float) - np.asarray(pillow)).mean() < 1


def test_decode(benchmark: Benchmark) -> None:
    """Eight small JPEG files, in one thread."""
    photo, file = Image.fromarray(common.open_rgb(common.scikit_image_photos(["chelsea.png"])[0])), io.BytesIO()
    photo.save(file, "JPEG", quality=90)
    decoder = make_decoder("jpeg", num_threads=1)
    photos = benchmark(decoder.decode, [file.getvalue()] * 8)
    assert np.array_equal(photos[7].pixels.numpy(), np.asarray(Image.open(file)))
    decoder.close()


def test_order_of_a_million_samples(benchmark: Benchmark) -> None:
    order = benchmark(epoch_order, 1_000_000, SEED, 3)
    assert np.array_equal(np.sort(order), np.arange(1_000_000))


def test_masks(benchmark: Benchmark) -> None:
    """Segmentation masks of 64 presized photos, through the matrix of each."""
    params = fa.aug_transforms(size=SIZE).draw(64, (PRESIZE, PRESIZE), uniforms=SampleUniforms(SEED, 0, np.arange(64)))
    masks = torch.randint(0, 21, (64, PRESIZE, PRESIZE), dtype=torch.uint8)
    out = benchmark(fa.warp_masks, masks, params.matrix, SIZE)
    assert out.shape == (64, SIZE, SIZE)
