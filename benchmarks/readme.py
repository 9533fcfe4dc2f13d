"""The tables and plots of the result files: in benchmarks/README.md all of them, in README.md the short table.

    python -m benchmarks.readme

A section holds the newest result of its suite and links to those of other machines. No figure is typed by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import HERE, RESULTS, target_line

README, TOP_README = HERE / "README.md", HERE.parent / "README.md"
Report = Mapping[str, Any]


def results_of(suite: str, folder: Path) -> list[tuple[Path, Report]]:
    """The result files of a suite, newest first."""
    found = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob(f"{suite}--*.json"))]
    return sorted(found, key=lambda entry: _told(entry[1], "date"), reverse=True)


def _told(report: Report, key: str) -> str:
    return str(report.get(key) or report.get("environment", {}).get(key, ""))


def as_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_markdown(report: Report) -> str:
    """A result file as Markdown."""
    if "tables" not in report:  # of warp_gpu.py, which imports nothing of this
        columns = list(dict.fromkeys(name for row in report["rows"] for name in row))
        return as_table(columns, [[_shown(row.get(name, "")) for name in columns] for row in report["rows"]])
    load, changed = report["load_average"], " with changes" if report["changed_since"] else ""
    parts = [
        f"{report['device']}, {report['cores']} cores, {report['threads']} threads; {report['date']}, commit "
        f"`{report['commit'][:7]}`{changed}; load average {load['before']:.1f} before, {load['after']:.1f} after; "
        f"`{report['command']}`"
    ]
    parts += [f"*{table['title']}*\n\n" + as_table(table["columns"], table["rows"]) for table in report["tables"]]
    lines = [f"- {target_line(target)}" for target in report["targets"]]
    lines += [f"- {kind}: {e['name']} ({e['reason']})" for kind in ("missing", "refused") for e in report[kind]]
    return "\n\n".join([*parts, "\n".join(lines)] if lines else parts)


def _shown(value: Any) -> str:
    """Floats with four digits, or as whole numbers."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def section(suite: str, folder: Path) -> str:
    """The newest result of a suite, and where those of other machines are."""
    newest, *others = results_of(suite, folder) or [None]
    if newest is None:
        return "not measured"
    links = [f"[{_told(report, 'device')}, {_told(report, 'date')}](results/{path.name})" for path, report in others]
    parts = [as_markdown(newest[1])]
    if suite in PLOTS:
        parts.append(f"![{suite}, plotted](results/{PLOTS[suite][0]})")
    return "\n\n".join([*parts, *([f"Other results: {'; '.join(links)}"] if links else [])])


def _fill(text: str, pattern: str, body: Callable[[str], str]) -> str:
    """Everything between `<!-- results: NAME -->` and `<!-- end -->`, for the names that fit, written anew."""

    def filled(match: re.Match[str]) -> str:
        return f"<!-- results: {match[1]} -->\n\n{body(match[1])}\n\n<!-- end -->"

    return re.sub(rf"<!-- results: ({pattern}) -->.*?<!-- end -->", filled, text, flags=re.DOTALL)


def fill_readme(readme: str, folder: Path) -> str:
    """The text of benchmarks/README.md with the section of every suite that it names."""
    return _fill(readme, r"\w+", lambda suite: section(suite, folder))


def plot_growth(report: Report, path: Path) -> None:
    """Milliseconds an image by number of augmentations."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in _first_batch(report):
        curves.setdefault(row["name"], []).append((row["count"], row["ms_per_image"]["median"]))
    _plot({"": curves}, "augmentations", "ms an image", path, log=True)


def _first_batch(report: Report) -> list[Report]:
    """The rows of growth's first batch size, which alone has every number of augmentations."""
    rows = report["rows"]
    return [row for row in rows if row.get("batch") == rows[0].get("batch")]


def plot_magnitudes(report: Report, path: Path) -> None:
    """PSNR under rotation, zoom and shrinking alone, means over the photos; without the paths of `LEFT_OUT`."""
    found: dict[str, dict[str, dict[float, list[float]]]] = {}
    for row in report["rows"]:
        if "magnitude" in row and row["path"] not in LEFT_OUT:
            of_path = found.setdefault(row["magnitude"], {}).setdefault(row["path"], {})
            of_path.setdefault(row["value"], []).append(row["psnr_db"])
    panels = {
        kind: {name: [(value, sum(db) / len(db)) for value, db in of.items()] for name, of in paths.items()}
        for kind, paths in found.items()
    }
    _plot(panels, "degrees, or times", "PSNR, dB", path)


LEFT_OUT = ("presize triangle + one bilinear warp", "presize Lanczos + one bilinear warp", "direct, bilinear")
Curves = Mapping[str, Sequence[tuple[float, float]]]


def _plot(panels: Mapping[str, Curves], x_label: str, y_label: str, path: Path, log: bool = False) -> None:
    """A panel each, the same names in the same colours; ours drawn thick."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.4 + 3.0 * len(panels), 4.2), squeeze=False, layout="constrained", sharey=True
    )
    for axis, (title, curves) in zip(axes[0], panels.items(), strict=True):
        for name, points in curves.items():
            axis.plot(
                *zip(*points, strict=True), marker="o", ms=3, lw=2.5 if name.startswith("fastaug") else 1, label=name
            )
        axis.set(title=title, xlabel=x_label, **({"yscale": "log"} if log else {}))
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel(y_label)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=7, frameon=False)
    figure.savefig(path, dpi=90)
    plt.close(figure)


PLOTS: dict[str, tuple[str, Callable[[Report, Path], None]]] = {
    "growth": ("growth.png", plot_growth),
    "fidelity": ("fidelity-by-magnitude.png", plot_magnitudes),
}


def write_plots(folder: Path) -> None:
    """Of each suite that has a plot, the newest result."""
    for suite, (name, plot) in PLOTS.items():
        for _, report in results_of(suite, folder)[:1]:
            plot(report, folder / name)


Line = tuple[str, str, str]  # what, fastaug, compared with


def _medians(report: Report, key: str, **only: Any) -> dict[str, float]:
    """Name -> median of the rows that have it and what `only` asks for."""
    rows = [row for row in report["rows"] if all(row.get(name, value) == value for name, value in only.items())]
    return {row["name"]: row[key]["median"] for row in rows if isinstance(row.get(key), dict)}


def _listed(values: Mapping[str, float], digits: int, loses: Callable[[float], bool]) -> str:
    """Competitors with their figures; in bold where they win."""
    shown = {name: f"{value:,.{digits}f}" for name, value in values.items()}
    return "; ".join(
        f"{name} {f'**{shown[name]}**' if loses(value) else shown[name]}" for name, value in values.items()
    )


def _fidelity(report: Report) -> list[Line]:
    mean: dict[str, list[float]] = {}
    for row in report["rows"]:
        if "magnitude" not in row:
            mean.setdefault(row["path"], []).append(row["psnr_db"])
    psnr = {name: sum(values) / len(values) for name, values in mean.items()}
    ours = {name.removeprefix("fastaug, mode "): psnr.pop(name) for name in list(psnr) if name.startswith("fastaug")}
    theirs = {name: value for name, value in psnr.items() if name.startswith(("fastai", "step by step"))}
    photos = len(report["settings"]["photos"])
    what = f"likeness to the scene (PSNR, dB), default transforms, {photos} photos"
    best = max(ours.values())
    return [(what, _listed(ours, 1, lambda _: False), _listed(theirs, 1, lambda value: value > best))]


def _warp_cpu(report: Report) -> list[Line]:
    every = _medians(report, "times_fastaug", batch=64)
    times = {name: value for name, value in every.items() if not name.startswith("fastaug")}
    return [("time of the augmentation alone, 460 → 224, antialiased", "1", _listed(times, 2, lambda value: value < 1))]


def _decode_to_batch(report: Report) -> list[Line]:
    speed = _medians(report, "images_per_s")
    ours = {name.removeprefix("fastaug, mode "): speed.pop(name) for name in list(speed) if name.startswith("fastaug")}
    best = max(ours.values())
    what = f"images/s from JPEG files ({report['settings']['folder']}) to batches"
    return [(what, _listed(ours, 0, lambda _: False), _listed(speed, 0, lambda value: value > best))]


def _fine_tune(report: Report) -> list[Line]:
    found: dict[str, list[Report]] = {}
    for row in report["rows"]:
        found.setdefault(row["name"], []).append(row)

    def mean(rows: Sequence[Report], key: str) -> float:
        return sum(row[key] for row in rows) / len(rows)

    usual = found.pop("fastai", [])
    ours = {name.removeprefix("fastaug, "): rows for name, rows in found.items()}
    settings = report["settings"]
    what = f"fine_tune({settings['epochs']}) of {settings['model'].removeprefix('timm:')} on {settings['folder']}: "
    lines = []
    for key, named, factor, sign in (("accuracy", "% right", 100, 1), ("cpu_seconds", "CPU seconds", 1, -1)):
        values = {name: factor * mean(rows, key) for name, rows in ours.items()}
        theirs = {"fastai": factor * mean(usual, key)} if usual else {}
        best = max(sign * value for value in values.values())
        loses = partial(_above, sign, best)
        lines.append((what + named, _listed(values, 0, lambda _: False), _listed(theirs, 0, loses)))
    return lines


def _above(sign: int, best: float, value: float) -> bool:
    return sign * value > best


def _growth(report: Report) -> list[Line]:
    times: dict[str, dict[int, float]] = {}
    for row in _first_batch(report):
        times.setdefault(row["name"], {})[row["count"]] = row["ms_per_image"]["median"]
    grown = {name: of[max(of)] / of[min(of)] for name, of in times.items()}
    ours = {name: grown.pop(name) for name in list(grown) if name.startswith("fastaug")}
    best = min(ours.values())
    what = "time of 8 augmentations / time of one"
    return [(what, f"{best:.1f}", _listed(grown, 1, lambda value: value < best))]


def _ideal(report: Report) -> list[Line]:
    share = {name: 100 * value for name, value in _medians(report, "share_of_ideal").items()}
    share.pop("one batch that stays on the device", None)
    ours = {name.removeprefix("fastaug, mode "): share.pop(name) for name in list(share) if name.startswith("fastaug")}
    best = max(ours.values())
    what = f"% of the training rate with an ideal loader, {report['settings']['model']}"
    return [(what, _listed(ours, 0, lambda _: False), _listed(share, 0, lambda value: value > best))]


def _cached_epochs(report: Report) -> list[Line]:
    speed = _medians(report, "images_per_s")
    ours = {name.removeprefix("fastaug, "): value for name, value in speed.items() if name.startswith("fastaug, cache")}
    theirs = {name: value for name, value in speed.items() if name.startswith(("DALI", "LitData"))}
    best = max(ours.values())
    what = f"images/s of epochs from a cache ({report['settings']['folder']}), LitData's of raw arrays, DALI's of files"
    return [(what, _listed(ours, 0, lambda _: False), _listed(theirs, 0, lambda value: value > best))]


def _views(report: Report) -> list[Line]:
    speed = _medians(report, "photos_per_s")
    ours = {"views of one decode": speed["fastaug, 10 views"]}
    theirs = {name: value for name, value in speed.items() if name.startswith(("torchvision", "fastaug, 10 loaders"))}
    best = max(ours.values())
    what = f"photos/s with ten views of each, 2 of 224 and 8 of 96 ({report['settings']['folder']})"
    return [(what, _listed(ours, 0, lambda _: False), _listed(theirs, 0, lambda value: value > best))]


LINES: dict[str, Callable[[Report], list[Line]]] = {
    "fidelity": _fidelity,
    "warp_cpu": _warp_cpu,
    "growth": _growth,
    "decode_to_batch": _decode_to_batch,
    "fine_tune": _fine_tune,
    "decode_to_batch_hires": _decode_to_batch,
    "cached_epochs": _cached_epochs,
    "views": _views,
    "ideal_loader": _ideal,
}
NO_GPU = "GPU: not measured. `benchmarks/gpu.sh` is the one call that measures it."


def summary(folder: Path) -> str:
    """The short table: of each suite the newest result, then the goals that it missed."""
    lines, missed, devices = [], [], []
    for suite, made in LINES.items():
        for _, report in results_of(suite, folder)[:1]:
            device = f"{report['device']}, {report['cores']} cores"
            devices += [device] if device not in devices else []
            lines += [[*line, str(1 + devices.index(device))] for line in made(report)]
            missed += [f"- {target_line(target)}" for target in report["targets"] if target["met"] is False]
    where = "; ".join(f"{i}: {device}" for i, device in enumerate(devices, 1))
    parts = [as_table(["", "fastaug", "compared with", "on"], lines).replace("--:", "---"), f"On {where}."]
    parts.append("Goals that were missed:\n\n" + "\n".join(missed) if missed else "No goal was missed.")
    return "\n\n".join([*parts, *([] if any(results_of("warp_gpu", folder)) else [NO_GPU])])


def fill_top_readme(readme: str, folder: Path) -> str:
    """The text of README.md with the short table."""
    return _fill(readme, "summary", lambda _: summary(folder))


def main() -> None:
    write_plots(RESULTS)
    for path, fill in ((README, fill_readme), (TOP_README, fill_top_readme)):
        path.write_text(fill(path.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")


if __name__ == "__main__":
    main()
