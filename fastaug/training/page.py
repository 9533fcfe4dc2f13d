"""A page of photos with what a model says of them: one HTML file with everything in it, for any browser."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import interpolate

from fastaug.files import whole_file
from fastaug.loading.jpeg import encode
from fastaug.text import printable
from fastaug.training import plots
from fastaug.training.inference import Predictor

THUMBNAIL = 160  # its longer side, pixels; about 6 kB a photo
_STYLE = """
:root { color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif }
body { margin: 1.5rem } h2 { margin: 1.5rem 0 .5rem; font-size: 1.1rem }
section { display: grid; grid-template-columns: repeat(auto-fill, 160px); gap: .8rem }
figure { margin: 0 } img { max-width: 160px; display: block; border-radius: 4px }
figcaption { overflow-wrap: anywhere; font-size: 12px } nav a { margin-right: 1em }
"""


class Photo(NamedTuple):
    """What is shown of one: its path, the class, how probable that is, or the number, and a JPEG as base64."""

    path: str
    name: str
    value: float
    caption: str
    jpeg: str


class Page:
    """Photos by the class that a model takes them for, the surest first, below each of several labels; or by the first
    of their numbers, the largest first; then the files that could not be read."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.photos, self.bad = predictor, list[Photo](), list[tuple[str, str]]()
        self.count = 0

    def add(self, paths: Sequence[str], images: Tensor, probabilities: Tensor) -> None:
        """A batch: images as the model got them, [B, 3, H, W], and what `Predictor` says of them, [B, classes]."""
        if not len(paths):
            return
        self.count += len(paths)
        images = plots.denormalized(images.float().cpu(), self.predictor.augment.normalize)
        smaller = min(THUMBNAIL / max(images.shape[2:]), 1.0)
        small = interpolate(images, scale_factor=smaller, mode="bilinear", antialias=True) if smaller < 1 else images
        for path, image, row in zip(paths, small, probabilities, strict=True):
            said, jpeg = self.predictor.describe(row), _jpeg(image)
            if self.predictor.says == "numbers":
                named = bool(self.predictor.classes)
                caption = ", ".join(f"{name} {number:.6g}" if named else f"{number:.6g}" for name, number in said)
                self.photos.append(Photo(path, "", said[0][1], caption, jpeg))
            else:
                self.photos += [Photo(path, name, value, f"{value:.1%}", jpeg) for name, value in said]

    def add_bad(self, path: str, reason: str) -> None:
        self.bad.append((path, reason))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Into one file, whole or not at all; its folder is made."""
        names = sorted({photo.name for photo in self.photos})
        groups = {name: [photo for photo in self.photos if photo.name == name] for name in names}
        links, parts, by_name = [], [], self.predictor.says != "numbers"
        for number, (name, photos) in enumerate(groups.items()):
            title = f"{_text(name)} ({len(photos)})"
            heading = f'<h2 id="c{number}">{title}</h2>' if by_name else ""
            links += [f'<a href="#c{number}">{title}</a>'] if by_name else []
            photos.sort(key=lambda photo: -photo.value)
            parts.append(f"{heading}<section>{''.join(map(_figure, photos))}</section>")
        if self.bad:
            lines = "".join(f"<li>{_text(path)}: {_text(reason)}</li>" for path, reason in self.bad)
            parts.append(f"<h2>Not read ({len(self.bad)})</h2><ul>{lines}</ul>")
        head = f'<meta charset="utf-8"><title>{self.count} photos</title><style>{_STYLE}</style>'
        body = f"<h1>{self.count} photos</h1><nav>{' '.join(links)}</nav>{''.join(parts)}"
        with whole_file(path) as file:
            file.write(f"<!DOCTYPE html><html><head>{head}</head><body>{body}</body></html>\n".encode())


def _figure(photo: Photo) -> str:
    title, name = _text(photo.path), _text(Path(photo.path).name)
    return (
        f'<figure title="{title}"><img loading="lazy" alt="{name}" src="data:image/jpeg;base64,{photo.jpeg}">'
        f"<figcaption>{_text(photo.caption)}<br>{name}</figcaption></figure>"
    )


def _text(name: str) -> str:
    return html.escape(printable(name))


def _jpeg(image: Tensor) -> str:
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return base64.b64encode(encode(pixels.numpy())).decode("ascii")
