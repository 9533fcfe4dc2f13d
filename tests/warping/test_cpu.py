"""The Numba backend against the specification."""

import errno
import functools
import gc
import os
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
import torch
from numba.core import caching
from numba.core.dispatcher import Dispatcher
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import fastaug as fa
from fastaug.augment import geometry
from fastaug.loading import resize
from fastaug.warping import compiled, cpu, masks_cpu
from fastaug.warping.warp import choose_backend
from tests import factories
from tests.compare import assert_images_close, photo, random_image

LEVELS = 0.02  # of 255: float32 arithmetic against float64


draws = functools.partial(factories.draws, min_scale=0.3)


def scaling(scale: float, angle: float = 0.0) -> Tensor:
    turn = geometry.rotation_matrix(*(torch.tensor([v], dtype=torch.float64) for v in (angle, 300, 200)))
    return torch.diag(torch.tensor([scale, scale, 1.0], dtype=torch.float64)) @ turn


def both(images: Any, matrix: Tensor, size: tuple[int, int], *args: str, color: Tensor | None = None) -> Any:
    got = fa.warp(images, matrix, size, *args, color=color, backend="cpu")
    expected = fa.warp(images, matrix, size, *args, color=color, dtype=torch.float64, backend="reference")
    return got, expected


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs start as NaN, so that a pixel that nobody wrote is seen."""
    monkeypatch.setattr(cpu, "_new_output", lambda shape: np.full(shape, np.nan, np.float32))


@pytest.mark.parametrize("interpolation", ["antialias", "bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["reflection", "border", "zeros"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_batch_of_drawn_transforms(interpolation: str, padding: str, dtype: torch.dtype) -> None:
    images = torch.stack([photo("astronaut", 101, 90), photo("coffee", 101, 90), photo("chelsea", 101, 90)])
    images = images if dtype == torch.uint8 else images.to(dtype) / 255
    matrix = draws(3, (101, 90), (64, 70))
    got, expected = both(images, matrix, (64, 70), interpolation, padding)
    if interpolation == "nearest":  # float32 and float64 may disagree about the pixel at a boundary
        assert ((got - expected).abs() * 255 > LEVELS).double().mean() < 1e-3
    else:
        assert_images_close(got, expected, LEVELS)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (2, 2), (3, 5), (7, 13), (223, 225)])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (33, 17)])
@pytest.mark.parametrize("interpolation", ["antialias", "bilinear"])
def test_awkward_sizes(height: int, width: int, size: tuple[int, int], interpolation: str) -> None:
    images = torch.stack([random_image(height, width, seed) for seed in range(2)])
    got, expected = both(images, draws(2, (height, width), size), size, interpolation, "reflection")
    assert_images_close(got, expected, LEVELS)


@pytest.mark.parametrize("scale", [8.0, 2.0, 1.0, 0.9, 0.6, 0.5, 0.49, 0.4, 0.3, 0.2, 0.1, 1 / 40])
@pytest.mark.parametrize("angle", [0.0, 33.0])
@pytest.mark.parametrize("padding", ["reflection", "zeros"])
def test_from_enlarging_to_shrinking_40_times(scale: float, angle: float, padding: str) -> None:
    """Crosses from 4 taps to 6, 8 and any number. The place is off the grid: at whole numbers float32 may round."""
    image = random_image(200, 300)
    matrix = scaling(scale, angle)
    matrix[:, :2, 2] += 0.137
    got, expected = both(image[None], matrix, (20, 30), "antialias", padding)
    assert_images_close(got, expected, LEVELS)


def test_ragged_list_with_colors() -> None:
    images = [random_image(1, 1), random_image(9, 200), photo("chelsea"), photo("coffee", 64, 64)]
    sizes = torch.tensor([image.shape[:2] for image in images])
    color = torch.randn(4, 3, 4, generator=torch.Generator().manual_seed(0))
    got, expected = both(images, draws(4, sizes, (50, 40)), (50, 40), color=color)
    assert_images_close(got, expected, 5 * LEVELS)  # the colour matrix multiplies the error too


def test_large_photo() -> None:
    image = random_image(100, 6000)
    matrix = geometry.box_matrix(*(torch.tensor([v]).double() for v in (5700.3, 10.2, 80.0, 70.0, 60, 60)))
    got, expected = both(image[None], matrix, (60, 60))
    assert_images_close(got, expected, LEVELS)


def test_beyond_the_horizon_and_far_outside() -> None:
    image = random_image(20, 30)
    tilted = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0.08, 0.01, 1]]])
    for padding in ("reflection", "border", "zeros"):
        got, expected = both(image[None], tilted, (20, 40), "bilinear", padding)
        steady = expected.isfinite() & torch.tensor([u < 10 or u > 13 for u in range(40)])  # not at the horizon itself
        assert_images_close(got[steady], expected[steady], 1)
        assert torch.isfinite(got).all()
    got, _ = both(image[None], tilted, (20, 40), "antialias")
    assert torch.isfinite(got).all()


def test_singular_matrix_is_black_before_the_color_matrix() -> None:
    color = torch.tensor([[[1.0, 0, 0, 0.25], [0, 1, 0, 0.5], [0, 0, 1, 0.75]]])
    out = cpu.warp(random_image(5, 5)[None], torch.zeros(1, 3, 3), (4, 4), "antialias", "zeros", color, torch.float32)
    assert_images_close(out[0], torch.tensor([0.25, 0.5, 0.75]).view(3, 1, 1).expand(3, 4, 4), 0)


def test_a_half_pixel_shift_would_be_seen() -> None:
    image, matrix = photo("astronaut", 101, 90), draws(1, (101, 90), (64, 64))
    shifted = matrix.clone()
    shifted[:, :2, 2] += 0.5
    got = fa.warp(image[None], matrix, 64, backend="cpu")
    wrong = fa.warp(image[None], shifted, 64, dtype=torch.float64, backend="reference")
    with pytest.raises(AssertionError, match="apart"):
        assert_images_close(got, wrong, LEVELS)


def test_reads_and_writes_stay_inside_their_buffers() -> None:
    """The photo lies between guard pixels of another value, which must not show; the input is not written to."""
    guarded = torch.full((3, 40, 40, 3), 255, dtype=torch.uint8)
    guarded[1] = 0
    before = guarded.clone()
    for interpolation in ("antialias", "bilinear", "nearest"):
        for scale in (0.7, 0.4, 0.27, 0.1):
            out = fa.warp(guarded[1:2], scaling(scale, 20), 40, interpolation, backend="cpu")
            assert out.max() == 0
    assert torch.equal(guarded, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_output_dtype_and_layout(dtype: torch.dtype) -> None:
    image, matrix = photo("coffee", 60, 60), draws(1, (60, 60), (32, 32))
    got = fa.warp(image[None], matrix, 32, dtype=dtype, backend="cpu")
    expected = fa.warp(image[None], matrix, 32, backend="cpu")
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got, expected.to(dtype))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_same_bits_with_any_number_of_threads_and_any_batch(batch: int) -> None:
    images = torch.stack([random_image(70, 50, seed) for seed in range(5)])
    matrix = draws(5, (70, 50), (48, 48))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = fa.warp(images, matrix, 48, backend="cpu")
        for threads in (2, 3):
            torch.set_num_threads(threads)
            got = torch.cat([fa.warp(i, m, 48) for i, m in zip(images.split(batch), matrix.split(batch), strict=True)])
            assert torch.equal(got, expected)
    finally:
        torch.set_num_threads(before)


def test_two_threads_at_once() -> None:
    image, matrix = photo("coffee", 200, 200).expand(4, -1, -1, -1), draws(4, (200, 200), (64, 64))
    expected = fa.warp(image, matrix, 64)
    results: list[Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(fa.warp(image, matrix, 64))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(torch.equal(result, expected) for result in results)


class Warped(Dataset[Tensor]):
    """Four warps, for a DataLoader's workers."""

    def __init__(self, image: Tensor, matrix: Tensor):
        self.image, self.matrix = image, matrix

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return fa.warp(self.image[None], self.matrix, 32)[0]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_works_in_the_forked_workers_of_a_dataloader_after_use_in_the_parent() -> None:
    image, matrix = photo("coffee", 100, 100), draws(1, (100, 100), (32, 32))
    expected = fa.warp(image.expand(4, -1, -1, -1), matrix.expand(4, 3, 3), 32)
    loader = DataLoader(Warped(image, matrix), batch_size=4, num_workers=2, multiprocessing_context="fork")
    (got,) = list(loader)
    assert_images_close(got, expected, 0)


@pytest.mark.parametrize(
    ("device", "needs_grad", "double", "triton", "expected", "because"),
    [
        ("cpu", False, False, True, "cpu", "on the CPU"),
        ("cpu", False, False, False, "cpu", "on the CPU"),
        ("cpu", True, False, True, "reference", "gradients"),
        ("cpu", False, True, True, "reference", "float64"),
        ("cuda", False, False, True, "triton", "NVIDIA GPU"),
        ("cuda", False, False, False, "reference", "not installed"),
        ("cuda", True, False, True, "reference", "gradients"),
        ("cuda", False, True, True, "reference", "float64"),
        ("mps", False, False, True, "reference", "on mps"),
    ],
)
def test_the_table(device: str, needs_grad: bool, double: bool, triton: bool, expected: str, because: str) -> None:
    name, reason = choose_backend(device, needs_grad, double, triton)
    assert name == expected
    assert because in reason


def test_gradients_flow_with_auto() -> None:
    images = torch.rand(1, 8, 8, 3, requires_grad=True)
    fa.warp(images, torch.eye(3)[None], 4).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "triton"}, "backend 'triton' needs images on cuda, got them on cpu"),
        ({"backend": "cpu", "images": torch.rand(1, 8, 8, 3).double()}, "backend 'cpu' does not do float64"),
        ({"backend": "cpu", "dtype": torch.float64}, "does not do float64"),
        ({"backend": "cpu", "images": torch.rand(1, 8, 8, 3, requires_grad=True)}, "does not do gradients"),
    ],
)
def test_a_backend_asked_for_by_name_runs_or_raises(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        fa.warp(**({"images": torch.zeros(1, 8, 8, 3), "matrix": torch.eye(3)[None], "size": 4} | arguments))


@pytest.mark.parametrize(
    ("scale", "interpolation", "kernel"),
    [(5, "bilinear", "_warp_rows_2"), (2, "antialias", "_warp_rows_5"), (5, "antialias", "_warp_rows_8")],
)
def test_no_more_is_compiled_than_is_used(scale: float, interpolation: str, kernel: str) -> None:
    inverse = np.diag([scale, scale, 1.0])[None]
    (found,) = cpu._kernels(inverse, 32, 24, cpu._MODES[interpolation])
    assert found is getattr(cpu, kernel)
    horizon = np.array([[[1.0, 0, 0], [0, 1, 0], [0, -0.1, 1]]])
    assert cpu._kernels(horizon, 32, 24, 2) == [cpu._warp_rows_8]


def test_the_kernel_of_few_taps_is_right_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice looks at the corners only."""
    images = torch.randint(0, 256, (1, 60, 70, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    matrix = torch.tensor([[[0.2, 0.05, 1], [-0.03, 0.4, 1], [0.001, 0, 1]]])
    how: Any = (12, 14), "antialias", "reflection", None, torch.float32
    wanted = cpu.warp(images, matrix, *how)
    monkeypatch.setattr(cpu, "_kernels", lambda inverses, *_: [cpu._warp_rows_5])
    torch.testing.assert_close(cpu.warp(images, matrix, *how), wanted, atol=1e-5, rtol=0)


def _twice(out: np.ndarray) -> None:
    out[0] *= 2


@pytest.fixture
def notice(monkeypatch: pytest.MonkeyPatch) -> compiled._Notice:
    """As in a process that has said nothing yet."""
    fresh = compiled._Notice()
    monkeypatch.setattr(compiled, "_notice", fresh)
    return fresh


def doubled(function: Any = _twice) -> Any:
    """2, by a kernel that was loaded or compiled now, and the kernel."""
    kernel, out = compiled.kept_njit()(function), np.ones(1)
    kernel(out)
    assert out[0] == 2
    return kernel


NOT_KEPT = (
    "the CPU kernels cannot be kept on the disk ({}): each process compiles them anew, which takes some seconds. "
)


def test_without_any_folder_kernels_are_compiled_in_memory(
    notice: compiled._Notice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a read-only installation, of a user without a home."""

    def refuse(locator: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", refuse)
    for _ in range(2):
        assert not doubled().stats.cache_path
    (message,) = caplog.messages
    assert message.startswith(NOT_KEPT.format("no folder for them can be written to"))
    assert "Set NUMBA_CACHE_DIR" in message


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where Numba keeps things, which has the kernel already."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    doubled()
    assert sum(doubled().stats.cache_hits.values()) == 1
    return tmp_path


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", ["empty", "cut", "zeros", "text", "a folder"])
def test_a_damaged_cache_is_made_anew(
    notice: compiled._Notice, kept: Path, kind: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    (file,) = kept.rglob(f"*.{kind}")
    content = file.read_bytes()
    spoiled = {"empty": b"", "cut": content[: len(content) // 2], "zeros": bytes(len(content)), "text": b"what?"}
    if damage == "a folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(spoiled[damage])
    assert not doubled().stats.cache_hits
    if damage != "a folder":
        assert sum(doubled().stats.cache_hits.values()) == 1, "it was mended"
        assert not caplog.messages


def test_a_full_disk_for_the_cache(
    notice: compiled._Notice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is written of it is not used by anybody."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    with monkeypatch.context() as full:

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        full.setattr(caching.IndexDataCacheFile, "_save_data", refuse)
        for _ in range(2):
            doubled()
    (message,) = caplog.messages
    assert message.startswith(NOT_KEPT.format("No space left on device"))
    assert list(tmp_path.rglob("*.nb?")) == []
    doubled()
    assert sum(doubled().stats.cache_hits.values()) == 1


def test_compiling_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def event(function: object) -> Any:
        return SimpleNamespace(data={"dispatcher": SimpleNamespace(py_func=function)})

    notice = compiled._Notice()
    with caplog.at_level("INFO", "fastaug"):
        notice.on_start(event(np.median))  # somebody else's
        assert not caplog.messages
        for _ in range(2):
            notice.on_start(event(cpu.warp))
    assert caplog.messages == ["compiling the CPU kernels, once per installation: some seconds …"]


def test_compiling_is_said_to_be_for_this_process_where_that_is_so(caplog: pytest.LogCaptureFixture) -> None:
    notice = compiled._Notice()
    with caplog.at_level("INFO", "fastaug"):
        notice.cannot_keep("why")
        notice.on_start(SimpleNamespace(data={"dispatcher": SimpleNamespace(py_func=cpu.warp)}))
    assert caplog.messages[1:] == ["compiling the CPU kernels: some seconds …"]


def test_compiled_functions_have_names_of_their_own() -> None:
    """By their names a kernel of Numba's cache finds those that it calls, whichever process has compiled it."""
    ours = [one.py_func for one in gc.get_objects() if issubclass(type(one), Dispatcher)]
    ours = [function for function in ours if function.__module__ in (cpu.__name__, masks_cpu.__name__, resize.__name__)]
    names = Counter((function.__module__, function.__qualname__) for function in ours)
    assert len(names) > 20
    assert [name for name, count in names.items() if count > 1] == []
