"""The wheel: what is in it, and that it works where the source folder is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import fastaug as fa

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what it is made of: setuptools leaves build/ and an egg-info where it builds."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("fastaug", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out)]
    built = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=200, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = out.glob("*.whl")
    return file


def test_the_wheel_is_the_package_and_nothing_else(wheel: Path) -> None:
    assert wheel.name.startswith(f"fastaug-{fa.__version__}-")
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "fastaug").rglob("*.py")} | {"fastaug/py.typed"}
    assert {name for name in names if ".dist-info/" not in name} == package
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_wheel_works_alone(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, which sees the dependencies but not the source."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment), "platbase": str(environment)}))
    zipfile.ZipFile(wheel).extractall(site)
    dependencies = [path for path in sys.path if path.endswith("-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies))
    script = """
import fastaug as fa, torch
from pathlib import Path
x = fa.aug_transforms(size=8)(torch.zeros(2, 20, 30, 3, dtype=torch.uint8))
assert x.shape == (2, 3, 8, 8)
assert fa.Learner and fa.classifier
print(Path(fa.__file__).parent)
from fastaug.cli import main
main()
"""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    command = [str(environment / "bin" / "python"), "-P", "-W", "error", "-c", script, "--version"]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == str(site / "fastaug")
    assert done.stdout.split("\n")[1].startswith("fastaug ")
