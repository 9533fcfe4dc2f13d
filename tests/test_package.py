"""The wheel: what is in it, and that it works where the source folder is not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import fastaug as fa
from tests.compare import photo
from tests.factories import run_python, write_photos, write_tar

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


def test_everything_works_without_dali_triton_and_posix(tmp_path: Path) -> None:
    """As on macOS and Windows: neither can be imported, and what only POSIX has is not there.

    Warnings are errors, but for the decoder's advice there should be none anyway.
    """
    pixels = photo("chelsea").numpy()
    names = [f"{name}/{i}.{kind}" for i, kind in enumerate(("jpg", "png", "webp", "jpg", "bmp")) for name in "ab"]
    folder = write_photos(tmp_path / "photos", {name: pixels[i : i + 90, :120] for i, name in enumerate(names)})
    content = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}
    archive = write_tar(tmp_path / "photos.tar", content)
    run_python("""
        import os, pathlib, signal, subprocess, sys, warnings
        warnings.simplefilter("error")
        import numba, torch, torchmetrics, torchvision, typer  # what is done to `os` should not surprise them
        from importlib.machinery import PathFinder

        class NotInstalled(PathFinder):
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                refused = {"nvidia", "triton", "fcntl", "resource", "pwd", "grp", "termios"}
                return None if name.split(".")[0] in refused else super().find_spec(name, path, target)

        sys.meta_path[sys.meta_path.index(PathFinder)] = NotInstalled
        for name in [name for name in sys.modules if name.split(".")[0] in ("nvidia", "triton", "resource", "fcntl")]:
            del sys.modules[name]
        posix = "sched_getaffinity register_at_fork pread O_CLOEXEC fork getuid geteuid statvfs sysconf killpg".split()
        for name in posix:
            delattr(os, name)

        import fastaug as fa
        from fastaug.loading.decode import has_dali
        from fastaug.warping import warp
        from typer.testing import CliRunner
        from fastaug.cli.app import app

        assert not has_dali() and not warp.HAS_TRITON
        folder, archive, out = sys.argv[1:]
        files, members = fa.Samples.from_folder(folder), fa.Samples.from_tar(archive, target="folder")
        assert files.classes == members.classes == ["a", "b"]
        for samples in (files, members):
            for mode in ("resize", "direct"):
                loader = fa.ImageLoader(samples, 4, 64, fa.aug_transforms(size=32), mode=mode)
                assert sum(len(x) for x, y in loader) == 8 and not loader.quarantined
        assert [x.shape for x, y in fa.ImageLoader(files, 4, 64)] == [(4, 64, 64, 3)] * 2
        train, valid = files.split(0.4, seed=1, stratify=True)
        loader = fa.ImageLoader(train, 2, 64, fa.aug_transforms(size=32))
        valid_loader = fa.ImageLoader(valid, 2, 64, fa.aug_transforms(size=32), training=False)
        fa.Learner(loader, valid_loader, fa.classifier("mobilenet_v3_small", 2, None)).fit(1)
        sizes = ["--size", "32", "--presize", "40"]
        for command in (
            ["check", folder],
            ["check", archive, "--pattern", "(.)/"],
            ["show", archive, "--pattern", "(.)/", *sizes, "--out", out + "/show.png"],
            ["train", folder, *sizes, "--model", "mobilenet_v3_small", "--weights", "none", "--epochs", "1",
             "--batch-size", "4", "--out", out],
            ["predict", out + "/model.safetensors", folder + "/a/0.jpg"],
            ["summary", folder, *sizes],
        ):
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 0, (command, done.output)
        assert not any(name.split(".")[0] in ("nvidia", "triton") for name in sys.modules)
        assert not any(hasattr(os, name) for name in posix)
    """, str(folder), str(archive), str(tmp_path / "out"))  # fmt: skip


def test_what_pip_installs(wheel: Path) -> None:
    """DALI only with an extra; the decoders of the CPU always."""
    metadata = zipfile.ZipFile(wheel).read(f"fastaug-{fa.__version__}.dist-info/METADATA").decode()
    required = [line.removeprefix("Requires-Dist: ") for line in metadata.splitlines() if line.startswith("Requires-")]
    plain = [one for one in required if "extra ==" not in one]
    packages = {re.split(r"[<>=!;]", one)[0].strip() for one in plain}
    assert {"simplejpeg", "pillow", "numba", "torch", "matplotlib"} <= packages
    assert not [one for one in plain if "nvidia" in one or "platform_system" in one]
    for extra, package in {"dali": "cuda130", "dali-cuda12": "cuda120", "demo": "cuda130", "test": "cuda130"}.items():
        (dali,) = {one for one in required if "nvidia-dali" in one and f'extra == "{extra}"' in one}
        assert dali.startswith(f"nvidia-dali-{package}")
        assert 'platform_system == "Linux"' in dali
