"""Imports point one way: what may import what, and who knows which library."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "fastaug"

# Each room, and those below it that it may import from; a folder, or a file beside the folders.
ROOMS = {
    "fastaug": set(),  # the public names, all lazy
    "__main__": {"cli"},
    "cli": {
        "config",
        "demo",
        "training",
        "loading",
        "caching",
        "augment",
        "samples",
        "machine",
        "memory",
        "text",
        "fastaug",
    },
    "config": {"files", "text", "fastaug"},
    "demo": {"training", "loading", "augment", "warping", "samples", "machine", "files", "text", "fastaug"},
    "training": {"loading", "augment", "warping", "samples", "machine", "files", "loaded", "text"},
    "loading": {"augment", "caching", "warping", "samples", "machine", "loaded", "memory", "text"},
    "caching": {"files", "machine", "text"},
    "augment": {"warping", "text"},
    "samples": {"files", "text"},
    "warping": {"memory"},
    "machine": set(),
    "files": set(),
    "loaded": {"text"},
    "memory": set(),
    "text": set(),
}

COMMANDS = {"bench", "cache", "check", "demo", "lr_find", "predict", "prepare", "show", "summary", "train"}

# Libraries that are optional, heavy, or likely to be replaced: the files that know each.
KNOWN_BY = {
    "nvidia": {"loading/dali.py"},
    "fcntl": {"files.py"},
    "mmap": {"caching/pixels.py"},
    "triton": {"warping/gpu.py"},
    "numba": {"warping/compiled.py", "warping/cpu.py", "loading/resize.py"},
    "llvmlite": {"warping/compiled.py", "warping/cpu.py", "loading/resize.py"},
    "matplotlib": {"training/plots.py"},
    "timm": {"training/models.py"},
    "kornia": {"augment/geometry.py", "demo/stepwise.py"},
    "torchmetrics": {"training/callbacks.py", "training/engine.py", "training/interpretation.py"},
    "safetensors": {"training/inference.py", "training/models.py"},
    "tensorboard": {"training/results.py"},
    "rich": {"cli/progress.py", "training/display.py"},
    "typer": {f"cli/{name}.py" for name in (*COMMANDS, "app", "options", "printing")} | {"config.py"},
    "PIL": {"loading/libtiff.py", "loading/pillow.py", "demo/photos.py", "demo/fidelity.py"},
    "simplejpeg": {"loading/jpeg.py"},
}


def imports_of(file: Path, package: Path = PACKAGE, types: bool = True) -> set[str]:
    """The modules that a file imports anywhere in it, late ones too: fastaug's files, others' packages.

    types: also what is imported for type checkers only.
    """
    found: set[str] = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    checking = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    skipped = {id(inner) for node in checking for inner in ast.walk(node) if not types}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: expected absolute imports"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names}
            found |= {name if exists(name, package) else module for name in inner}
    return found


def exists(name: str, package: Path) -> bool:
    path = package.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def graph(package: Path = PACKAGE) -> dict[str, set[str]]:
    """fastaug.room.file -> the files of fastaug that it imports; without fastaug itself, whose names are all lazy."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name == "fastaug":
            continue
        found[name] = {module for module in imports_of(file, package) if module.split(".")[0] == "fastaug"}
    return found


def misdirected(found: dict[str, set[str]]) -> list[str]:
    return [
        f"{file} -> {module}"
        for file, modules in found.items()
        for module in sorted(modules)
        if room_of(module) != room_of(file) and room_of(module) not in ROOMS[room_of(file)]
    ]


def test_rooms_import_from_rooms_below_only() -> None:
    assert misdirected(graph()) == []


def test_the_rooms_themselves_have_no_circle() -> None:
    assert list(TopologicalSorter(ROOMS).static_order())


def test_files_have_no_circles() -> None:
    """In a room neither; imports for types count too."""
    assert list(TopologicalSorter(graph()).static_order())


def test_only_the_files_named_here_know_a_library() -> None:
    users: dict[str, set[str]] = {library: set() for library in KNOWN_BY}
    for file in PACKAGE.rglob("*.py"):
        for library in {module.split(".")[0] for module in imports_of(file, types=False)} & users.keys():
            users[library].add(str(file.relative_to(PACKAGE)))
    assert users == KNOWN_BY


def test_every_room_is_named_here() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - {"__init__"} | {"fastaug"} == ROOMS.keys()


def test_an_import_that_points_up_or_in_a_circle_is_found(tmp_path: Path) -> None:
    package = tmp_path / "fastaug"
    for name, text in {
        "augment/__init__.py": "",
        "augment/a.py": "from fastaug.augment import b\nimport torch\n",
        "augment/b.py": "import timm\ndef late():\n    from fastaug.loading.c import something\n",
        "loading/__init__.py": "",
        "loading/c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fastaug.augment.a import A\n",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    found = graph(package)
    assert found["fastaug.augment.a"] == {"fastaug.augment.b"}
    assert imports_of(package / "augment" / "b.py", package) == {"timm", "fastaug.loading.c"}
    assert imports_of(package / "loading" / "c.py", package, types=False) == {"typing"}
    assert misdirected(found) == ["fastaug.augment.b -> fastaug.loading.c"]
    with pytest.raises(CycleError):
        list(TopologicalSorter(found).static_order())
