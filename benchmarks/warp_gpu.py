"""How fast is the fused warp on this GPU, and how far from its floor? Needs an NVIDIA GPU, and of packages only torch.

    python benchmarks/warp_gpu.py --out results/warp_gpu.json          # everything
    python benchmarks/warp_gpu.py --batch 256 --quick                  # one batch size, bf16 only

uint8 460 x 460 -> 224 x 224, a random rotation, zoom and crop and a colour matrix per image, reflected borders. Every
candidate is compared with the specification first, and a wrong one is not timed: ours everywhere, and the script exits
with 1; a peer (benchmarks/gpu_peers.py) where its output looks at the photo, for not every one reflects. Batches take
turns, so that none is found in the cache. Other tiles than the default are timed at the largest batch only.

Times are those of the GPU, from events, while the host is kept ahead. Where the host waits for the GPU itself (`waits`)
it cannot be, and the waiting is part of both times. `busy_ms` is what the kernels and copies take by themselves,
`launches` their number, `call_ms` the host's own share. The floor moves each input byte and each output byte once, at
the bandwidth of a large device-to-device copy measured here.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script it would not find its neighbours

from benchmarks.gpu_peers import FRAME, MEAN, PEERS, SIZE, STD, Candidate
from benchmarks.on_gpu import kernel_ms, waits
from benchmarks.versions import commit, installed

ROOT = Path(__file__).resolve().parents[1]
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
CAST = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
ROTATING = 4  # batches that take turns
EDGE_PX = 2  # so far inside the photo a bilinear interpolation does not see its edge
PEER_MEAN_LEVELS, PEER_WORST_LEVELS = 0.5, 2.0  # rounding to uint8 and then to bfloat16: at most 1
CYCLES_PER_S = 2e9  # of the GPU's clock, about
PACKAGES = ("kornia", "triton-augment", "cvcuda-cu13")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64, 128, 256, 512])
    parser.add_argument("--repeats", type=int, default=30, help="timed groups of calls")
    parser.add_argument("--quick", action="store_true", help="bfloat16 and the default tiles only")
    parser.add_argument("--out", type=Path, help="where the JSON goes; otherwise it is printed")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("warp_gpu: needs an NVIDIA GPU, and torch sees none. Nothing was measured.", file=sys.stderr)
        return 2
    bandwidth = copy_bandwidth()
    rows: list[dict[str, Any]] = []
    report: dict[str, Any] = {"environment": environment(), "copy_bytes_per_s": bandwidth, "rows": rows}
    dtypes = {"bfloat16": DTYPES["bfloat16"]} if arguments.quick else DTYPES
    checks = {interpolation: make_check(interpolation) for interpolation in ("bilinear", "antialias")}
    missing: set[str] = set()
    for batch in arguments.batch:
        batches = [make_batch(batch, seed) for seed in range(ROTATING)]
        for interpolation, check in checks.items():
            for name, dtype in dtypes.items():
                tiles = not arguments.quick and dtype == torch.bfloat16 and batch == max(arguments.batch)
                setting = {"interpolation": interpolation, "dtype": name, "batch": batch}
                timed = partial(measure, batches=batches, repeats=arguments.repeats)
                for row in compared(ways(interpolation, dtype, tiles), check, timed, setting, missing):
                    if "median_ms" in row:
                        moved = batch * (FRAME * FRAME * 3 + SIZE * SIZE * 3 * dtype.itemsize)
                        row["images_per_s"] = batch / row["median_ms"] * 1e3
                        row["percent_of_copy_bandwidth"] = 100 * moved / (row["median_ms"] * 1e-3) / bandwidth
                    rows.append(row)
                    print(json.dumps(row), file=sys.stderr)
        if arguments.out:  # after each batch size: a run that is cut short leaves what it has
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    if not arguments.out:
        print(json.dumps(report, indent=1))
    return 1 if failed(rows) else 0


Batch = tuple[Tensor, Tensor, Tensor]  # uint8 [B, 460, 460, 3] on the GPU; matrix [B, 3, 3], color [B, 3, 4] on the CPU


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


OURS = "fastaug"


class Way(NamedTuple):
    label: str  # ours begin with OURS
    make: Callable[[], Candidate]
    mean_levels: float  # at most so far from the specification, in levels of 255
    worst_levels: float


def ways(interpolation: str, dtype: torch.dtype, tiles: bool) -> list[Way]:
    """Ours, with the default tile or with all, and the peers, none of which antialiases."""
    from fastaug.warping import gpu

    default = gpu.TILES[interpolation]
    shapes = [default]
    if tiles:
        others = [(8, 16, 14, 4), (16, 16, 14, 4), (16, 16, 14, 8), (16, 8, 28, 4), (8, 32, 7, 4), (8, 8, 28, 2)]
        others += [(16, 16, 7, 4), (8, 16, 7, 4), (4, 8, 28, 1)]
        shapes += [gpu.Tile(*shape) for shape in others if shape != tuple(default)]
    allowed = 0.05 + 255 * CAST[dtype] * 3 * max(STD)  # normalised values are below 3

    def ours(tile: Any) -> Candidate:
        def run(images: Tensor, matrix: Tensor, color: Tensor) -> Tensor:
            gpu.TILES[interpolation] = tile
            try:
                return gpu.warp(images, matrix, (SIZE, SIZE), interpolation, "reflection", color, dtype)
            finally:
                gpu.TILES[interpolation] = default

        return run

    found = [Way(f"{OURS} {'x'.join(map(str, tile))}", partial(ours, tile), allowed, allowed) for tile in shapes]
    if interpolation == "bilinear":
        found += [
            Way(label, partial(make, dtype), PEER_MEAN_LEVELS, PEER_WORST_LEVELS) for label, make in PEERS.items()
        ]
    return found


class Check(NamedTuple):
    batch: Batch
    expected: Tensor  # float64 [B, 3, 224, 224], normalised
    inside: Tensor  # bool [B, 1, 224, 224]: output pixels that see nothing but the photo


def make_check(interpolation: str, device: str = "cuda") -> Check:
    """What the specification makes of a fresh batch of 3."""
    from fastaug.warping import reference

    batch = make_batch(3, time.time_ns() % 2**31, device)
    images, matrix, color = batch[0].cpu(), *batch[1:]
    expected = reference.warp(images, matrix, (SIZE, SIZE), interpolation, "reflection", color, torch.float64)
    middle = torch.zeros(images.shape)
    middle[:, EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX] = 1
    seen = reference.warp(middle, matrix, (SIZE, SIZE), "bilinear", "zeros", None, torch.float64)
    return Check(batch, expected, seen[:, :1] > 0.999)


def levels_off(got: Tensor, check: Check, everywhere: bool) -> dict[str, float]:
    """Mean and largest difference from the specification, in levels of 255 of the photo; infinite if it is no picture.

    Args:
        got: [B, 3, 224, 224], normalised.
        everywhere: also where the output sees the edge of the photo, or what is beyond it.
    """
    if got.shape != check.expected.shape or not got.isfinite().all():
        return {"mean_levels": math.inf, "worst_levels": math.inf}
    off = (got.cpu().double() - check.expected).abs() * (255 * torch.tensor(STD, dtype=torch.float64)[:, None, None])
    off = off if everywhere else off[check.inside.expand_as(off)]
    return {"mean_levels": off.mean().item(), "worst_levels": off.max().item()}


def compared(
    found: Sequence[Way],
    check: Check,
    timed: Callable[[Candidate], dict[str, Any]],
    setting: dict[str, Any],
    missing: set[str],
) -> Iterator[dict[str, Any]]:
    """A row for each way: what it took if its answer was right, otherwise an error.

    Args:
        missing: the peers that could not be imported; each is told once, and added.
    """
    for way in found:
        row: dict[str, Any] = {"what": way.label}
        try:
            candidate = way.make()
        except ImportError as error:
            if way.label not in missing:
                missing.add(way.label)
                absent = isinstance(error, ModuleNotFoundError)
                yield row | {"error": "not installed" if absent else f"cannot be imported: {error}"}
            continue
        row |= setting
        ours = way.label.startswith(OURS)
        try:
            row |= levels_off(candidate(*check.batch), check, everywhere=ours)
            right = row["mean_levels"] <= way.mean_levels and row["worst_levels"] <= way.worst_levels
            row |= timed(candidate) if right else {"error": "wrong, not timed"}
        except Exception as error:
            if ours:
                raise
            row["error"] = f"failed: {type(error).__name__}: {error}"  # the other candidates' figures are worth having
        yield row


def failed(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether ours was wrong; peers may be wrong, or missing."""
    return any("error" in row and row["what"].startswith(OURS) for row in rows)


def measure(function: Candidate, batches: list[Batch], repeats: int, calls: int = 20) -> dict[str, Any]:
    """Milliseconds of the GPU per call: median and quartiles over groups; the host's milliseconds per call; memory."""
    for batch in batches * 3:
        function(*batch)
    torch.cuda.synchronize()
    one_call = partial(function, *batches[0])
    waiting = waits(one_call)
    started = time.perf_counter()
    for batch in batches:
        function(*batch)
    host_s = (time.perf_counter() - started) / len(batches)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    host, device = [], []
    for group in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        if not waiting:  # long enough that the host queues the whole group meanwhile
            torch.cuda._sleep(int(CYCLES_PER_S * min(2.0, 0.005 + 3 * calls * host_s)))
        begin.record()
        started = time.perf_counter()
        for call in range(calls):
            function(*batches[(group + call) % len(batches)])
        host.append((time.perf_counter() - started) / calls * 1e3)
        end.record()
        torch.cuda.synchronize()
        device.append(begin.elapsed_time(end) / calls)
    quartiles = statistics.quantiles(device, n=4)
    peak = torch.cuda.max_memory_allocated()
    each = kernel_ms(one_call)
    return {
        "median_ms": statistics.median(device), "quartile_1_ms": quartiles[0], "quartile_3_ms": quartiles[2],
        "call_ms": statistics.median(host), "waits": waiting, "launches": len(each), "busy_ms": sum(each),
        "peak_bytes": peak,
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

    return {
        "commit": commit(), "command": sys.argv, "device": torch.cuda.get_device_name(),
        "torch": torch.__version__, "cuda": torch.version.cuda, "triton": triton.__version__, **installed(PACKAGES),
        "python": platform.python_version(), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


if __name__ == "__main__":
    # Only fastaug.warp is needed: an empty package in place of fastaug/__init__.py, which would import Kornia too.
    _package = types.ModuleType("fastaug")
    _package.__path__ = [str(ROOT / "fastaug")]
    sys.modules.setdefault("fastaug", _package)
    sys.exit(main())
