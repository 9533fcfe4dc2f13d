"""How fast is the fused warp on this GPU, and how far from its floor? Needs an NVIDIA GPU; uses no peer but torch.

    python benchmarks/warp_gpu.py --out results/warp_gpu.json          # everything
    python benchmarks/warp_gpu.py --batch 256 --quick                  # one batch size, bf16 only

uint8 460 x 460 -> 224 x 224, a random rotation, zoom and crop and a colour matrix per image, reflected borders. Every
configuration is compared with the specification first; a wrong one is not timed, and the script exits with 1. Batches
take turns, so that none is found in the cache. Times are those of the GPU, from events, while the host is kept ahead;
`call` is the host's own share. The floor moves each input byte and each output byte once, at the bandwidth of a large
device-to-device copy measured here. Peers: torch's grid_sample, and Kornia where it is installed, doing equal work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import platform
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]

# Only fastaug.warp is needed: an empty package in place of fastaug/__init__.py, which would import Kornia too.
_package = types.ModuleType("fastaug")
_package.__path__ = [str(ROOT / "fastaug")]
sys.modules.setdefault("fastaug", _package)

FRAME, SIZE = 460, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
CAST = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
ROTATING = 4  # batches that take turns


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--repeats", type=int, default=30, help="timed groups of calls")
    parser.add_argument("--quick", action="store_true", help="bfloat16 and the default tiles only")
    parser.add_argument("--out", type=Path, help="where the JSON goes; otherwise it is printed")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("warp_gpu: needs an NVIDIA GPU, and torch sees none. Nothing was measured.", file=sys.stderr)
        return 2
    from fastaug.warp import gpu

    bandwidth = copy_bandwidth()
    report: dict[str, Any] = {"environment": environment(), "copy_bytes_per_s": bandwidth, "rows": []}
    wrong = 0
    dtypes = {"bfloat16": DTYPES["bfloat16"]} if arguments.quick else DTYPES
    for batch in arguments.batch:
        batches = [make_batch(batch, seed) for seed in range(ROTATING)]
        for interpolation in ("bilinear", "antialias"):
            for name, dtype in dtypes.items():
                for label, function in candidates(gpu, interpolation, dtype, arguments.quick):
                    row: dict[str, Any] = {
                        "what": label, "interpolation": interpolation, "dtype": name, "batch": batch,
                    }  # fmt: skip
                    if label.startswith("fastaug"):
                        row["worst_levels"] = worst_levels(function, interpolation)  # of normalised values, up to 2.7
                        if not row["worst_levels"] <= 0.05 / min(STD) + 255 * CAST[dtype] * 3:
                            row["error"] = "wrong, not timed"
                            wrong += 1
                    if "error" not in row:
                        row |= measure(function, batches, arguments.repeats)
                        moved = batch * (FRAME * FRAME * 3 + SIZE * SIZE * 3 * dtype.itemsize)
                        row["images_per_s"] = batch / row["median_ms"] * 1e3
                        row["percent_of_copy_bandwidth"] = 100 * moved / (row["median_ms"] * 1e-3) / bandwidth
                    report["rows"].append(row)
                    print(json.dumps(row), file=sys.stderr)
    text = json.dumps(report, indent=1)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")
    else:
        print(text)
    return 1 if wrong else 0


Batch = tuple[Tensor, Tensor, Tensor]  # uint8 [B, 460, 460, 3] on the GPU; matrix [B, 3, 3], color [B, 3, 4] on the CPU
Candidate = Callable[[Tensor, Tensor, Tensor], Tensor]


def make_batch(batch: int, seed: int, device: str = "cuda") -> Batch:
    """Noise, rotated by up to 10 degrees, a square crop of 75 to 100 per cent of the area, scaled to 224."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, FRAME, FRAME, 3), dtype=torch.uint8, generator=generator)
    angle, side, x, y = torch.rand(4, batch, generator=generator, dtype=torch.float64)
    angle = (2 * angle - 1) * math.radians(10)
    side = FRAME * (0.75 + 0.25 * side).sqrt()
    x, y = side / 2 + x * (FRAME - side), side / 2 + y * (FRAME - side)
    scale = SIZE / side
    cos, sin = scale * angle.cos(), scale * angle.sin()
    matrix = torch.zeros(batch, 3, 3, dtype=torch.float64)
    matrix[:, 0] = torch.stack([cos, -sin, SIZE / 2 - cos * x + sin * y], 1)
    matrix[:, 1] = torch.stack([sin, cos, SIZE / 2 - sin * x - cos * y], 1)
    matrix[:, 2, 2] = 1
    std = torch.tensor(STD)
    color = torch.cat([torch.diag(1 / std), (-torch.tensor(MEAN) / std)[:, None]], 1).expand(batch, 3, 4).contiguous()
    return images.to(device), matrix, color


def candidates(gpu: Any, interpolation: str, dtype: torch.dtype, quick: bool) -> list[tuple[str, Candidate]]:
    """(label, function) of the default tile, of other tiles, and of the peers."""
    default = gpu.TILES[interpolation]
    tiles = [default]
    if not quick and dtype == torch.bfloat16:
        shapes = [(8, 16, 14, 4), (16, 16, 14, 4), (16, 16, 14, 8), (16, 8, 28, 4), (8, 32, 7, 4), (8, 8, 28, 2)]
        shapes += [(16, 16, 7, 4), (8, 16, 7, 4), (4, 8, 28, 1)]
        tiles += [gpu.Tile(*shape) for shape in shapes if shape != tuple(default)]

    def ours(tile: Any) -> Candidate:
        def run(images: Tensor, matrix: Tensor, color: Tensor) -> Tensor:
            gpu.TILES[interpolation] = tile
            try:
                return gpu.warp(images, matrix, (SIZE, SIZE), interpolation, "reflection", color, dtype)
            finally:
                gpu.TILES[interpolation] = default

        return run

    found = [(f"fastaug {'x'.join(map(str, tile))}", ours(tile)) for tile in tiles]
    if interpolation == "bilinear":
        found.append(("torch grid_sample", lambda images, matrix, color: grid_sample(images, matrix, color, dtype)))
        with contextlib.suppress(ImportError):
            found.append(("kornia warp_perspective", kornia_warp(dtype)))
    return found


def grid_sample(images: Tensor, matrix: Tensor, color: Tensor, dtype: torch.dtype) -> Tensor:
    """The same map and normalisation in torch's own operators."""
    to_unit = torch.tensor([[2 / SIZE, 0, -1], [0, 2 / SIZE, -1], [0, 0, 1]], dtype=torch.float64)
    from_unit = torch.tensor([[FRAME / 2, 0, FRAME / 2], [0, FRAME / 2, FRAME / 2], [0, 0, 1]], dtype=torch.float64)
    theta = torch.linalg.inv(to_unit @ matrix @ from_unit)[:, :2].float().pin_memory().to("cuda", non_blocking=True)
    grid = F.affine_grid(theta, [len(images), 3, SIZE, SIZE], align_corners=False)
    pixels = images.permute(0, 3, 1, 2).float()
    out = F.grid_sample(pixels, grid, "bilinear", "reflection", align_corners=False)
    return normalise(out, color, dtype)


def kornia_warp(dtype: torch.dtype) -> Candidate:
    from kornia.geometry.transform import warp_perspective

    half = torch.tensor([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]], dtype=torch.float64)

    def run(images: Tensor, matrix: Tensor, color: Tensor) -> Tensor:
        centred = (torch.linalg.inv(half) @ matrix @ half).float().pin_memory().to("cuda", non_blocking=True)
        pixels = images.permute(0, 3, 1, 2).float()
        out = warp_perspective(pixels, centred, (SIZE, SIZE), "bilinear", "reflection", align_corners=False)
        return normalise(out, color, dtype)

    return run


def normalise(out: Tensor, color: Tensor, dtype: torch.dtype) -> Tensor:
    scale, shift = (t.pin_memory().to("cuda", non_blocking=True) for t in (color[0, :, :3].diagonal(), color[0, :, 3]))
    return (out * (scale / 255)[:, None, None] + shift[:, None, None]).to(dtype)


def worst_levels(function: Candidate, interpolation: str) -> float:
    """Largest difference from the specification, in levels of 255, on a fresh batch of 3."""
    from fastaug.warp import reference

    images, matrix, color = make_batch(3, seed=time.time_ns() % 2**31)
    got = function(images, matrix, color).cpu().double()
    expected = reference.warp(images.cpu(), matrix, (SIZE, SIZE), interpolation, "reflection", color, torch.float64)
    worst = ((got - expected).abs().max() * 255).item()
    return worst if torch.isfinite(got).all() else math.inf


def measure(function: Candidate, batches: list[Batch], repeats: int, calls: int = 20) -> dict[str, float]:
    """Milliseconds of the GPU per call: median and quartiles over groups; the host's milliseconds per call."""
    for batch in batches * 3:
        function(*batch)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    host, device = [], []
    for group in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(100_000_000)  # about 50 ms, in which the host queues the whole group
        begin.record()
        started = time.perf_counter()
        for call in range(calls):
            function(*batches[(group + call) % len(batches)])
        host.append((time.perf_counter() - started) / calls * 1e3)
        end.record()
        torch.cuda.synchronize()
        device.append(begin.elapsed_time(end) / calls)
    quartiles = statistics.quantiles(device, n=4)
    return {
        "median_ms": statistics.median(device), "quartile_1_ms": quartiles[0], "quartile_3_ms": quartiles[2],
        "call_ms": statistics.median(host), "peak_bytes": torch.cuda.max_memory_allocated(),
    }  # fmt: skip


def copy_bandwidth(count: int = 20) -> float:
    """Bytes read plus bytes written per second by a copy of 1 GiB on the device, best of `count`."""
    source = torch.randint(0, 256, (1 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _ in range(count):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return 2 * source.numel() / (min(times) * 1e-3)


def environment() -> dict[str, Any]:
    import triton

    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip() or "unknown", "command": sys.argv, "device": torch.cuda.get_device_name(),
        "torch": torch.__version__, "cuda": torch.version.cuda, "triton": triton.__version__,
        "python": platform.python_version(), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
