"""What the benchmarks share: drawn transforms, peers, checks, timing in turns, and results as JSON.

A script makes a `Report`, checks every competitor with `Report.admit` before it measures it, adds rows, and ends with
`Report.finish`: the table on the screen, the JSON, and the exit status (1 if an answer was wrong).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import importlib.util
import json
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table
from torch import Tensor

import fastaug as fa
from benchmarks import versions
from fastaug.augment import geometry
from fastaug.augment.augment import Augment, Params
from fastaug.demo.comparison import quartiles
from fastaug.demo.stepwise import bilinear
from fastaug.training.plots import denormalized

HERE = versions.HERE
RESULTS = HERE / "results"
PRESIZE, SIZE = 460, 224
MEAN, STD = fa.IMAGENET
PACKAGES = (
    "torch", "torchvision", "kornia", "numpy", "numba", "pillow", "simplejpeg", "opencv-python-headless", "fastai",
    "nvidia-dali-cuda130", "nvidia-dali-cuda120", "spdl", "litdata", "scikit-image",
)  # fmt: skip
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}


def scikit_image_photos(names: Sequence[str]) -> list[Path]:
    """Files in skimage/data; no package is imported and nothing is downloaded."""
    package = importlib.util.find_spec("skimage")
    folders = (package and package.submodule_search_locations) or []
    found = [path for folder in folders for name in names if (path := Path(folder, "data", name)).is_file()]
    if not found:
        raise FileNotFoundError("expected the photos of scikit-image, found none: pip install scikit-image")
    return found


def photo_files(folder: Path) -> list[Path]:
    """The JPEG and PNG files below a folder, sorted."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise FileNotFoundError(f"expected .jpg or .png files in {folder}, found none")
    return found


def open_rgb(path: Path) -> np.ndarray:
    """uint8 [H, W, 3], EXIF-upright."""
    with Image.open(path) as photo:
        return np.array(ImageOps.exif_transpose(photo).convert("RGB"))


def presized_batch(files: Sequence[Path], batch: int) -> Tensor:
    """uint8 [batch, 460, 460, 3]: the centred square of each file, in turn."""
    squares = []
    for path in files[:batch]:
        photo = Image.fromarray(open_rgb(path))
        squares.append(np.array(ImageOps.fit(photo, (PRESIZE, PRESIZE), Image.Resampling.LANCZOS)))
    return torch.from_numpy(np.stack([squares[i % len(squares)] for i in range(batch)]))


def default_augment(**settings: Any) -> Augment:
    """fastai's default transforms, 224 pixels, with its usual min_scale."""
    return fa.aug_transforms(**{"size": SIZE, "min_scale": 0.75, **settings})


def draw_whole_crops(augment: Augment, batch: int, seed: int, shared_crop: bool = False, **change: Tensor) -> Params:
    """Draw for presized images. The crops are moved to whole pixels, the only ones that fastai has.

    Args:
        shared_crop: the first image's crop for all of them, as in fastai.
        change: name of an operator -> what its parameters are multiplied with (0 switches a tilt off).
    """
    drawn = augment.draw(batch, (PRESIZE, PRESIZE), torch.Generator().manual_seed(seed)).drawn
    crop = drawn["RandomResizedCrop"]
    if shared_crop:
        crop.update({key: value[:1].expand(batch) for key, value in crop.items()})
    side = (crop["scale"].sqrt() * PRESIZE).round()
    slack = (PRESIZE - side).clamp(min=1)
    crop["scale"] = (side / PRESIZE) ** 2
    crop["x"], crop["y"] = ((crop[axis] * slack).round() / slack for axis in ("x", "y"))
    for name, factor in change.items():
        drawn[name] = {key: value * factor for key, value in drawn[name].items()}
    return augment.compose(drawn, batch, (PRESIZE, PRESIZE))


def crop_pixels(params: Params) -> tuple[Tensor, Tensor, Tensor]:
    """x0, y0 and side of the drawn crops in presized pixels, int64 [B]."""
    crop = params.drawn["RandomResizedCrop"]
    side = (crop["scale"].sqrt() * PRESIZE).round()
    x0, y0 = ((PRESIZE - side) * crop[axis] for axis in ("x", "y"))
    return x0.round().long(), y0.round().long(), side.long()


def step_matrices(augment: Augment, params: Params) -> dict[str, Tensor]:
    """The matrix of every geometric operator by itself, float64 [B, 3, 3], in their order."""
    frame = (torch.full((len(params),), float(PRESIZE), dtype=torch.float64),) * 2
    steps = {}
    for name, op in augment.named_ops().items():
        if not isinstance(op, fa.ColorJitter):
            steps[name], frame = op.matrix(params.drawn[name], frame, augment.size)
    return steps


def kornia_warp(x: Tensor, matrix: Tensor, size: int) -> Tensor:
    """One bilinear interpolation with Kornia. x: float [B, 3, H, W]; matrix: ours."""
    from kornia.geometry.transform import warp_affine

    centred = geometry.to_integer_centred(matrix.double()).to(x)
    if torch.equal(centred[:, 2], torch.tensor([0.0, 0.0, 1.0]).expand(len(x), 3)):
        settings: dict[str, Any] = {"mode": "bilinear", "padding_mode": "reflection", "align_corners": False}
        return warp_affine(x, centred[:, :2], (size, size), **settings)
    return bilinear(x, matrix.double(), (size, size))


def kornia_step_by_step(x: Tensor, augment: Augment, params: Params) -> Tensor:
    """Each operator by itself on the images that drew it, as Kornia's own modules do; crop and resize last.

    x: float [B, 3, 460, 460] -> [B, 3, 224, 224]; no lighting.
    """
    for name, matrix in step_matrices(augment, params).items():
        if name == "RandomResizedCrop":
            return kornia_warp(x, matrix, SIZE)
        acts = (matrix - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2)) > 1e-9
        if not acts.any():
            continue
        x = x.clone()
        x[acts] = x[acts].flip(3) if name == "RandomHorizontalFlip" else kornia_warp(x[acts], matrix[acts], PRESIZE)
    raise AssertionError("expected a crop as the last geometric operator")


def inside_photo(matrix: Tensor, width: float, height: float, size: int = SIZE, margin: float = 0.0) -> Tensor:
    """Which output pixels look at the photo, at least `margin` pixels from its edge. bool [B, size, size]."""
    v, u = torch.meshgrid(*[torch.arange(size, dtype=torch.float64) + 0.5] * 2, indexing="ij")
    seen = torch.stack([u, v, torch.ones_like(u)], -1) @ torch.linalg.inv(matrix.double()).mT[:, None]
    x, y = seen[..., 0] / seen[..., 2], seen[..., 1] / seen[..., 2]
    return (x >= margin) & (x <= width - margin) & (y >= margin) & (y <= height - margin)


def denormalised(x: Tensor) -> Tensor:
    return denormalized(x.double(), (MEAN, STD))


def settle(patience_s: float = 10.0) -> None:
    """Wait until nothing runs in the background: DALI's pipelines go on filling their queues after a pass."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        before = time.process_time()  # of all threads
        time.sleep(0.1)
        if time.process_time() - before < 0.01:
            return


def cpu_seconds() -> float:
    """Of this process and of its worker processes, those that have ended included."""
    import psutil

    own = psutil.Process()
    times = [own.cpu_times()]
    with contextlib.suppress(psutil.NoSuchProcess):
        times += [child.cpu_times() for child in own.children(recursive=True)]
    return sum(t.user + t.system for t in times) + times[0].children_user + times[0].children_system


def peak_bytes(call: Callable[[], object], device: str = "cpu") -> int:
    """Memory that a call needs at its peak, beyond what was in use before it; on a CPU looked at a thousand times a
    second, so that a peak of a shorter call may be missed."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    import psutil

    with contextlib.suppress(OSError, AttributeError):  # what was freed earlier must not hide what is needed now
        ctypes.CDLL(None).malloc_trim(0)
    process, over = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not over.wait(0.001):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    kept = call()
    most = max(most, process.memory_info().rss)
    over.set()
    watcher.join()
    del kept
    return most - before


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Spread of the ratio, round by round: what slows a whole round down cancels."""
    return quartiles([a / b for a, b in zip(above, below, strict=True)])


def with_spread(value: Mapping[str, float], digits: int = 1) -> str:
    return f"{value['median']:,.{digits}f} ({value['q1']:,.{digits}f} to {value['q3']:,.{digits}f})"


class Report:
    """One run of one suite.

    Args:
        suite: name of the script.
        settings: whatever decides the result.
        device: "cpu" or "cuda", whose results are a suite of their own.
    """

    def __init__(self, suite: str, settings: Mapping[str, Any], device: str = "cpu"):
        self.suite = suite if device == "cpu" else f"{suite}_gpu"
        self.settings, self.device = dict(settings), device
        self.rows: list[dict[str, Any]] = []
        self.tables: list[dict[str, Any]] = []
        self.targets: list[dict[str, Any]] = []
        self.missing: list[dict[str, str]] = []
        self.refused: list[dict[str, str]] = []
        self._load = os.getloadavg()[0]

    def admit(self, name: str, difference: float, tolerance: float, unit: str) -> bool:
        """Whether a competitor's answer was right; a wrong one is noted and must not be measured."""
        if difference <= tolerance:
            return True
        self.refused.append({"name": name, "reason": f"{difference:.3g} {unit} off, at most {tolerance:g} allowed"})
        return False

    @contextmanager
    def peer(self, name: str) -> Iterator[None]:
        """Within: a peer that cannot be imported is named as missing."""
        try:
            yield
        except ImportError as error:
            entry = {"name": name, "reason": str(error)}
            self.missing += [entry] if entry not in self.missing else []

    def target(self, what: str, value: float | None, goal: float, at_least: bool = True) -> None:
        """A goal and whether it was met; None: it could not be measured."""
        met = None if value is None else bool(value >= goal if at_least else value <= goal)
        self.targets.append({"what": what, "value": value, "goal": f"{'≥' if at_least else '≤'} {goal:g}", "met": met})

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.tables.append({"title": title, "columns": list(columns), "rows": [list(row) for row in rows]})

    def as_dict(self) -> dict[str, Any]:
        return {
            "suite": self.suite,
            **environment(self.device),
            "load_average": {"before": self._load, "after": os.getloadavg()[0]},
            "settings": self.settings,
            **{name: getattr(self, name) for name in ("rows", "targets", "missing", "refused", "tables")},
        }

    def finish(self, out: Path | None) -> int:
        """Print, write the JSON to `out` (a file, or a folder, where it gets a name), return the exit status."""
        report = self.as_dict()
        console = Console(width=None if sys.stdout.isatty() else 140)
        for table in self.tables:
            shown = Table(*table["columns"], title=table["title"], title_justify="left")
            for row in table["rows"]:
                shown.add_row(*row)
            console.print(shown)
        for target in self.targets:
            console.print(target_line(target))
        for kind in ("missing", "refused"):
            for entry in report[kind]:
                console.print(f"{kind}: {entry['name']}: {entry['reason']}", markup=False)
        if out is not None:
            path = out if out.suffix == ".json" else out / f"{self.suite}--{device_slug(self.device)}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            console.print(f"written: {path}")
        return 1 if self.refused else 0


def target_line(target: Mapping[str, Any]) -> str:
    value = "not measured" if target["value"] is None else f"{target['value']:.2f}"
    return (
        f"{target['what']}: {value}, goal {target['goal']}: "
        + {True: "met", False: "NOT MET", None: "unknown"}[target["met"]]
    )


def environment(device: str = "cpu") -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "commit": versions.commit(),
        "changed_since": bool(versions.git("status", "--porcelain", "--", "../fastaug")),
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(
            ["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *map(_without_folders, sys.argv[1:])]
        ),
        "device": processor() if device == "cpu" else torch.cuda.get_device_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions.installed(PACKAGES),
    }


def _without_folders(argument: str) -> str:
    """Paths by their last part: where they lie on this machine says nothing."""
    return Path(argument).name if "/" in argument else argument


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def device_slug(device: str = "cpu") -> str:
    name = processor() if device == "cpu" else torch.cuda.get_device_name()
    words = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)|@.*| CPU", "", name).lower()).strip("-")
    return f"{words}-{len(os.sched_getaffinity(0))}-cores" if device == "cpu" else words


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every suite has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--tiny", action="store_true", help="seconds instead of minutes; for tests, no numbers to quote")
    made.add_argument("--out", type=Path, help="JSON file or folder; default: results/, with --tiny nothing is written")
    made.add_argument("--seed", type=int, default=0)
    return made


def out_path(arguments: argparse.Namespace) -> Path | None:
    return arguments.out or (None if arguments.tiny else RESULTS)
