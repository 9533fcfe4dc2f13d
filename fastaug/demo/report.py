"""report.md from report.json: every number in the text comes from the dictionary, so the two cannot disagree."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fastaug import __version__
from fastaug.machine import core_count

PACKAGES = ("torch", "torchvision", "timm", "kornia", "simplejpeg", "pillow", "numba", "scikit-image")
OPTIONAL = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")

# The fields are those of report.json, and what `markdown` makes of them.
TEXT = """\
# fastaug demo

Made by `{command}` in {seconds[total]:.0f} s.

## A model learns to tell {data[classes]} photographs apart

Accuracy: **{accuracy:.1f} %** ({training[right]} of {data[valid]}; guessing would give {guessing:.1f} %).

Each class is one of the photographs that scikit-image ships. {data[train]} training crops come from the left \
{train_share:.0f} % of each, {data[valid]} validation crops from the rest: no pixel is in both, so the model has to \
recognise parts that it has not seen. {training[model]}, with ImageNet weights from a Python package, was fine-tuned \
with `Learner.auto_fine_tune` on batches of {scale[batch_size]} from `ImageLoader`, augmented by \
`aug_transforms(size={scale[size]}, min_scale=0.75)`: first the head, on features of the frozen body, then everything \
if that helps.

![a batch](batch.png)

| epoch | trained | training loss | validation loss | accuracy | seconds |
|--:|---|--:|--:|--:|--:|
{epochs}

![loss and accuracy](curves.png)

![some of the validation crops, and what the model says](results.png)

![confusion matrix](confusion.png)

## Sharpness: one interpolation against several

The same drawn perspective, rotation, zoom and crop, once as one matrix and one interpolation, once step by step with \
Kornia: each a bilinear interpolation at {scale[presize]} pixels, crop and resize last. Both start from the same \
presized photo.

![one detail, enlarged](enlarged.png)

The squares with the finest detail, each output pixel enlarged. *source*: the photo itself, merely resized. *truth*: \
the scene under the same transform, averaged over each output pixel.

PSNR against the truth in dB, mean of {scale[draws]} draws (higher is better):

| photo | one warp | step by step | difference |
|---|--:|--:|--:|
{photos}

The scene is the photograph as scikit-image ships it; the photo is its copy, box-downsampled two or three times. The \
truth is sampled from the scene by Kornia, not by fastaug.

## Speed: one pass against several

Augmentation alone, {scale[presize]} → {scale[size]} pixels, {scale[repeats]} runs of each:

| | images/s, median | middle half of the runs |
|---|--:|--:|
{ways}

One warp is **{speed[ratio][median]:.1f} times** as fast (middle half of the runs: {speed[ratio][q1]:.1f} to \
{speed[ratio][q3]:.1f}).

![speed](speed.png)

Both get the same {speed[batch]} photos as uint8 and the same drawn parameters, every operator acts on every image, \
and both return normalised float32. Before timing, both were checked to show the same: means over 8 × 8 pixels differ \
by {speed[difference_levels]:.2f} of 255 on average; at most {speed[tolerance_levels]:.0f} is allowed. The runs took \
turns.

## What these numbers do not say

- The task is tiny: one validation image is {points:.1f} points of accuracy, and crops of one photo resemble each \
other. It shows that the parts work together, not how well a model would do elsewhere.
- The detail in a PSNR depends on the photo: smooth ones gain more decibels, though less can be seen.
- Step by step is one way among several: float32 throughout, bilinear, nothing clipped, nothing rounded in between. \
Libraries differ in their filters.
- The times are those of one short run on one machine, with whatever else it was doing. Reading, decoding and drawing \
are not in them.

## Made with

{environment[device]}, {environment[cores]} cores, {environment[torch_threads]} threads; \
Python {environment[python]}, {packages}. Seconds: {phases}. All numbers: [report.json](report.json); \
model and history: [model.safetensors](model.safetensors), [history.csv](history.csv).
"""


def environment(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": f"{device.type}: {name}",
        "cores": core_count(),
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {"fastaug": __version__, **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {package: version(package) for package in PACKAGES}
    for package in OPTIONAL:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def markdown(report: dict[str, Any]) -> str:
    """The report as text with its pictures, which lie beside it."""
    data, training, speed = report["data"], report["training"], report["speed"]
    epochs = [
        f"| {row['epoch']:.0f} | {'all' if row['epoch'] else 'head'} | "
        f"{row['train_loss']:.3f} | {row['valid_loss']:.3f} | {100 * row['accuracy']:.1f} % | {row['seconds']:.1f} |"
        for row in training["history"]
    ]
    photos = [
        f"| {photo['name']}, {photo['width']} × {photo['height']} | {photo['one_warp_db']:.1f} | "
        f"{photo['step_by_step_db']:.1f} | {photo['one_warp_db'] - photo['step_by_step_db']:+.1f} |"
        for photo in report["fidelity"]["photos"]
    ]
    ways = [
        f"| {name} | {speed[key]['median']:,.0f} | {speed[key]['q1']:,.0f} to {speed[key]['q3']:,.0f} |"
        for name, key in (("one warp", "one_warp"), ("step by step, Kornia", "step_by_step"))
    ]
    return TEXT.format(
        **report,
        accuracy=100 * training["accuracy"],
        guessing=100 / data["classes"],
        points=100 / data["valid"],
        train_share=100 * data["train_share"],
        epochs="\n".join(epochs),
        photos="\n".join(photos),
        ways="\n".join(ways),
        packages=", ".join(f"{name} {number}" for name, number in report["environment"]["packages"].items()),
        phases=", ".join(f"{name} {s:.1f}" for name, s in report["seconds"].items() if name != "total"),
    )
