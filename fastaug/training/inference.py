"""A trained classifier with its classes and its preprocessing, in memory and in one file. Needs nothing of the trainer.

The file is safetensors: the tensors of the model's state dict, and JSON in the metadata under "fastaug".
"""

from __future__ import annotations

import inspect
import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from fastaug.augment import operators
from fastaug.augment.augment import Augment, Operator
from fastaug.files import whole_file
from fastaug.loaded import (
    ANY,
    NOTHING,
    NUMBER,
    TEXT,
    TRUTH,
    Kind,
    check,
    listed,
    named,
    one_of,
    reading,
    shown,
    whole,
)
from fastaug.loading.arguments import sides
from fastaug.loading.loader import ImageLoader
from fastaug.loading.options import MAX_PIXELS, ModeName, ResizeMethod
from fastaug.machine import limits_named, usable_device
from fastaug.samples.samples import Samples
from fastaug.text import printable
from fastaug.training.models import Head, classifier
from fastaug.warping.warp import DTYPES, INTERPOLATIONS, PADDINGS

NONE = "none of these"
Amp = Literal["bf16", "fp16"]
AMP: dict[Amp | None, torch.dtype | None] = {None: None, "bf16": torch.bfloat16, "fp16": torch.float16}
Activation = Literal["softmax", "sigmoid", "none"]
Says = Literal["class", "labels", "numbers"]
_FORMAT = 3  # raised where an older version could not read the file; 2: activation="none"; 3: what is in _NEWER
_NEWER: dict[str, Any] = {
    "says": "class",
    "resize_method": "crop",
    "channels": 3,
}  # as it was before there was a choice
# Operators that draw nothing, and so are done in validation too: what a file may name
_NOT_RANDOM: dict[str, type[Operator]] = {
    name: kind for name, kind in vars(operators).items() if getattr(kind, "uniforms", None) == 0
}
# What a file holds: of an Augment that draws nothing, of the loader, and of the model
_SIZE = whole(1) | listed(whole(1), 2)
_THRESHOLD = Kind("a number", lambda value: NUMBER.fits(value) and value == value)  # infinity: never
_SEEN_AS = {
    "size": _SIZE,
    "interpolation": one_of(*INTERPOLATIONS),
    "padding": one_of(*PADDINGS),
    "normalize": NOTHING | listed(listed(NUMBER, 1, 3), 2),
    "keep_inside": TRUTH,
}
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
_ARCHITECTURE = {"name": TEXT, "num_classes": whole(1), "head": one_of(*get_args(Head))}
_FILE = {
    "architecture": named(ANY),
    "classes": listed(TEXT),
    "seen_as": named(ANY),
    "dtype": one_of(*_DTYPES),
    "presize": _SIZE,
    "mode": one_of(*get_args(ModeName)),
    "threshold": NOTHING | _THRESHOLD | listed(_THRESHOLD),
    "amp": one_of(*AMP),
}
_LATER = {
    "activation": one_of(None, *get_args(Activation)),
    "says": one_of(*get_args(Says)),
    "resize_method": one_of(*get_args(ResizeMethod)),
    "channels": one_of(1, 3),
}


@dataclass
class Predictor:
    """What a trained model says of image files, seen as the validation images were; see `load_classifier`.

    Attributes:
        model: images -> activations [B, classes]. classes: their names, in the order of the outputs.
        augment: size, normalisation and so on; nothing random is done, `CenterCrop` is.
        presize, mode: as of `ImageLoader`.
        threshold: None: probabilities are the softmax of the activations. Else their sigmoid, and a class counts as
            seen from this probability on; a number, or one per class. One output is a yes or no: class 1 or 0 of two.
        amp: "bf16" or "fp16": the model computes in it where that is safe. device: default "cuda" where there is one.
        activation: "none": activations are no probabilities, and given as they are; None: as threshold says.
        says: "class": one of each image, or none of these. "labels": any number of them. "numbers": one per output;
            classes are their names, if they have any.
        resize_method, channels: as of `ImageLoader`.
    """

    model: nn.Module
    classes: list[str]
    augment: Augment
    presize: int | tuple[int, int] = 460
    mode: ModeName = "resize"
    threshold: float | list[float] | None = None
    amp: Amp | None = None
    device: str | torch.device | None = None
    activation: Activation | None = None
    says: Says = "class"
    resize_method: ResizeMethod = "crop"
    channels: int = 3

    def __post_init__(self) -> None:
        self.device = usable_device("Predictor", self.device)
        self.activation = self.activation or ("softmax" if self.threshold is None else "sigmoid")
        self.model = self.model.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def predict(self, path: str | os.PathLike[str]) -> tuple[Any, Any, Tensor]:
        """What one file shows.

        Returns:
            (class, its index, probabilities float32 [classes]); -1 is "none of these". Of several labels lists of
            them, in the order of the classes; none are an empty list. Of numbers (the number or a list of them, None,
            float32 [numbers]).
        Raises:
            BadFileError: it cannot be read. ValueError: a model that tells none of these.
        """
        probabilities = self.get_preds([path])
        if self.says == "numbers":
            numbers = probabilities[0].tolist()
            return numbers[0] if len(numbers) == 1 else numbers, None, probabilities[0]
        if self.says == "labels":
            indices = self.seen(probabilities)[0].nonzero()[:, 0].tolist()
            return [self.name(index) for index in indices], indices, probabilities[0]
        index = int(self.decide(probabilities)[0])
        return self.name(index), index, probabilities[0]

    def describe(self, row: Tensor) -> list[tuple[str, float]]:
        """What `get_preds` says of one file, for people: the class, or the labels, the surest first, with how probable
        they are; or the numbers with their names."""
        if self.says == "numbers":
            names = self.classes or ([""] if len(row) == 1 else map(str, range(len(row))))
            return list(zip(names, row.tolist(), strict=True))
        if self.says == "labels":
            seen = self.seen(row[None])[0].tolist()
            sure = [index for index in row.argsort(descending=True).tolist() if seen[index]]
            return [(self.name(index), float(row[index])) for index in sure] or [(NONE, float(row.max()))]
        index = int(self.decide(row[None])[0])
        return [(self.name(index), self.confidence(row, index))]

    def loader(self, paths: Sequence[str | os.PathLike[str]], batch_size: int = 64, **settings: Any) -> ImageLoader:
        """Of these files, in their order, as the model sees them; with settings of `ImageLoader`."""
        own = {name: getattr(self, name) for name in ("mode", "resize_method", "channels")}
        settings = {"training": False, "shard": (0, 1), **own, **settings}
        samples = Samples(paths, [0] * len(paths), ["photo"])
        return ImageLoader(samples, batch_size, self.presize, self.augment, self.device, **settings)

    def get_preds(self, paths: Sequence[str | os.PathLike[str]], batch_size: int = 64) -> Tensor:
        """Probabilities float32 [N, classes] (activation="none": activations) of N files, on the CPU, in their order.

        Raises:
            ValueError: no file. BadFileError: one that cannot be read.
        """
        found = [self.activations(x).cpu() for x, _ in self.loader(paths, batch_size, on_error="raise")]
        if not found:
            raise ValueError("get_preds: expected at least one file, got none.")
        return self.probabilities(torch.cat(found))

    @torch.no_grad()
    def activations(self, images: Tensor) -> Tensor:
        """float32 [B, classes] of images [B, 3, H, W] that are normalised already."""
        self.model.eval()
        with limits_named("Predictor", "the forward pass", images.device), mixed_precision(images.device, self.amp):
            activations: Tensor = self.model(images).float()
        return activations

    def probabilities(self, activations: Tensor) -> Tensor:
        """Softmax or sigmoid of activations [B, classes]; with activation="none" these themselves."""
        return activations if self.activation == "none" else to_probabilities(activations, self.threshold)

    def decide(self, probabilities: Tensor) -> Tensor:
        """int64 [B]: which class each image is of; -1: none of these."""
        plain = self.activation == "none"
        if probabilities.ndim != 2 or (plain and probabilities.shape[1] != len(self.classes)):
            raise ValueError(
                f"predict: expected a model with an output for each of {len(self.classes)} classes, got one with "
                f"{list(probabilities.shape[1:])}{' and no activation' * plain}. get_preds says what it gives."
            )
        return most_probable(probabilities, self.threshold)

    def seen(self, probabilities: Tensor) -> Tensor:
        """bool [B, classes]: which labels each image has."""
        return seen_labels(probabilities, self.threshold)

    def name(self, index: int) -> str:
        return NONE if index < 0 else self.classes[index] if index < len(self.classes) else str(index)

    def confidence(self, probabilities: Tensor, index: int) -> float:
        """How probable that class is, of one file's probabilities; of "none of these", how much so the nearest one."""
        if len(probabilities) == 1 and self.activation == "sigmoid":
            return float(probabilities[0] if index else 1 - probabilities[0])
        return float(probabilities[index] if index >= 0 else probabilities.max())

    def save(self, path: str | os.PathLike[str], architecture: str | None = None) -> None:
        """Write model, classes and preprocessing into one file for `load_classifier`, whole or not at all.

        Args:
            path: of the file, such as "pets.safetensors"; its folder is made.
            architecture: the name under which `classifier` makes this model, if it was not made there.
        Raises:
            ValueError: a model that cannot be made again by its name, or that computes something else then.
        """
        from safetensors.torch import save

        built = getattr(self.model, "built_as", None)
        if architecture is not None:
            outputs = len(self.classes) or self.activations(self._any_images()).shape[1]
            built = {"name": architecture, "num_classes": outputs, "head": "linear"}
        self._check(built)
        newer: dict[str, Any] = {name: getattr(self, name) for name in _NEWER if getattr(self, name) != _NEWER[name]}
        if kept := [_settings_of(operator) for operator in self.augment.ops if not operator.uniforms]:
            newer["operators"] = kept
        old = 2 if self.activation == "none" else 1
        described = {
            "format": _FORMAT if newer or not isinstance(self.presize, int) else old,
            "architecture": built,
            "classes": self.classes,
            "seen_as": {name: getattr(self.augment, name) for name in _SEEN_AS},
            "dtype": str(self.augment.dtype).removeprefix("torch."),
            **{name: getattr(self, name) for name in ("presize", "mode", "threshold", "amp", "activation")},
            **newer,
        }
        plain = torch.contiguous_format  # safetensors knows no other
        state = {name: t.detach().cpu().clone(memory_format=plain) for name, t in self.model.state_dict().items()}
        with whole_file(path) as file:
            told = json.dumps(described)
            metadata = {"format": "pt", "fastaug": told, "crc32": str(_crc32(state, told))}
            file.write(save(state, metadata))

    def _check(self, built: dict[str, Any] | None) -> None:
        """That the model can be made again, and then says the same."""
        if built is None:
            raise ValueError(
                "export: expected a model made by fa.classifier, which can be made again by its name, got "
                f"{type(self.model).__name__}. Give architecture='resnet34' (or 'timm:…') if it is one of torchvision "
                "or timm as it stands; else save model.state_dict() beside the code that makes the model."
            )
        images = self._any_images()
        try:
            again = replace(self, model=_build(built, self.model.state_dict()))
            one, other = (predictor.activations(images).cpu() for predictor in (self, again))
            same = torch.allclose(one, other, 1e-3, 1e-4, equal_nan=True)
            problem = "" if same else "other activations for the same images"
        except RuntimeError as error:  # names and shapes that do not fit, or a forward pass that fails
            problem = " ".join(str(error).split())[:200]
        if problem:
            raise ValueError(
                f"export: expected a model that is {built['name']!r} of {built['num_classes']} outputs and head "
                f"{built['head']!r} as fa.classifier makes it, got {problem}. Save model.state_dict() beside the code "
                "that makes the model."
            )

    def _any_images(self) -> Tensor:
        """Two, of the kind that the model gets."""
        images = torch.rand(2, self.channels, *self.augment.size, generator=torch.Generator().manual_seed(0))
        return images.to(self.device, self.augment.dtype)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device | None = None) -> Self:
        """See `load_classifier`."""
        path, device = Path(path), usable_device("load_classifier", device)
        if not path.is_file():
            got = printable(str(path))
            raise FileNotFoundError(f"load_classifier: expected a file, got '{got}', which is none. Check the path.")
        with reading("load_classifier", path, "a safetensors file"):
            arguments = _read(path)
        return cls(**arguments, device=device)


def _read(path: Path) -> dict[str, Any]:
    """The arguments of a Predictor, from its file."""
    from safetensors import safe_open

    open(path, "rb").close()  # safetensors has other errors than the system
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        described = json.loads(metadata.get("fastaug", "null"))
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    if metadata.get("crc32") not in (None, str(_crc32(state, metadata.get("fastaug", "")))):
        raise ValueError("load_classifier: expected a whole file, got one with another checksum than it had.")
    version = described.get("format", 0) if isinstance(described, dict) else 0
    if not whole(1, _FORMAT).fits(version):
        found = f"format {shown(version)}, this version reads {_FORMAT}" if version else "one without classes"
        raise ValueError(
            f"load_classifier: expected a file that learn.export wrote, got '{path}', {found}. "
            "Bare weights go into fa.classifier(weights=path)."
        )
    check("load_classifier", described, _FILE, {**_LATER, "operators": listed(ANY)})
    check("load_classifier", described["seen_as"], _SEEN_AS, None, "seen_as.")
    built = described["architecture"]
    most = max((len(tensor) for tensor in state.values() if tensor.ndim), default=0)  # the last layer's, or more
    check("load_classifier", built, {**_ARCHITECTURE, "num_classes": whole(1, most)}, None, "architecture.")
    if isinstance(described["threshold"], list):
        outputs = {"threshold": listed(_THRESHOLD, built["num_classes"])}
        check("load_classifier", described, outputs)
    kept = [_operator(*one) for one in described.get("operators", ())]
    augment = Augment(kept, dtype=_DTYPES[described["dtype"]], **described["seen_as"])
    for what, size in (("size", augment.size), ("presize", described["presize"])):
        if math.prod(sides(size)) > MAX_PIXELS:
            raise ValueError(f"load_classifier: expected a {what} of at most {MAX_PIXELS:,} pixels, got {size}.")
    model = _build(built, state)
    settings = {name: described.get(name) for name in ("classes", "presize", "mode", "threshold", "amp", "activation")}
    settings |= {name: described.get(name, before) for name, before in _NEWER.items()}
    if isinstance(settings["presize"], list):
        settings["presize"] = tuple(settings["presize"])
    return {"model": model, "augment": augment, **settings}


def load_classifier(path: str | os.PathLike[str], device: str | torch.device | None = None) -> Predictor:
    """A trained classifier from the file that `learn.export(path)` wrote; never runs code from the file.

    `.predict(file)` is (class, index, probabilities), or what else the model says, as `learn.predict`;
    `.get_preds(files)` float32 [N, classes].

    Raises:
        FileNotFoundError: no such file. ValueError: not a whole file of `export`. ImportError: a model of timm without
            timm. RuntimeError: no such device.
    """
    return Predictor.load(path, device)


def mixed_precision(device: torch.device, amp: Amp | None) -> AbstractContextManager[Any]:
    """Within, a model computes in it where that is safe; None: as it is, also where torch has no such thing."""
    return nullcontext() if amp is None else torch.autocast(device.type, AMP[amp])


def to_probabilities(activations: Tensor, threshold: object = None) -> Tensor:
    """Softmax, or, where classes have a threshold, sigmoid."""
    return activations.softmax(1) if threshold is None else activations.sigmoid()


def most_probable(probabilities: Tensor, threshold: float | list[float] | Tensor | None) -> Tensor:
    """int64 [B]: the most probable class, of those above their threshold if there is one; -1 if none is.

    Of a single output, with a threshold: 1 from there on (or, where it is 0, from .5), else 0.
    """
    if threshold is None:
        return probabilities.argmax(1)
    least = torch.as_tensor(threshold, device=probabilities.device)
    if probabilities.shape[1] == 1:
        return (probabilities >= least.where(least > 0, 0.5))[:, 0].long()
    seen = probabilities >= least
    return torch.where(seen.any(1), probabilities.masked_fill(~seen, -1).argmax(1), -1)


def seen_labels(probabilities: Tensor, threshold: float | list[float] | Tensor | None) -> Tensor:
    """bool [B, classes]: which labels are seen: from their threshold on; where there is none, or it is 0, from .5."""
    least = torch.as_tensor(0.0 if threshold is None else threshold, device=probabilities.device)
    return probabilities >= least.where(least > 0, 0.5)


def _crc32(state: Mapping[str, Tensor], told: str) -> int:
    """Of everything that a file holds; safetensors itself has no checksum."""
    crc = zlib.crc32(told.encode())
    for name in sorted(state):
        content: Any = state[name].reshape(-1).view(torch.uint8).numpy()
        crc = zlib.crc32(content, zlib.crc32(name.encode(), crc))
    return crc


def _operator(name: str, settings: dict[str, Any]) -> Operator:
    """One of a file's."""
    if name not in _NOT_RANDOM:
        raise ValueError(
            f"load_classifier: expected operators {', '.join(_NOT_RANDOM)}, got {name!r}. A newer version may know it."
        )
    return _NOT_RANDOM[name](**settings)


def _settings_of(operator: nn.Module) -> tuple[str, dict[str, Any]]:
    """The class of one that draws nothing, and so is done in validation too, and what it was made with."""
    kind = type(operator)
    if _NOT_RANDOM.get(kind.__name__) is not kind:
        raise ValueError(
            f"export: expected operators of fastaug where they draw nothing, got {kind.__name__}, which "
            "load_classifier would not know. Leave it out, or save model.state_dict() beside its code."
        )
    return kind.__name__, {name: getattr(operator, name) for name in inspect.signature(kind).parameters}


def _build(built: dict[str, Any], state: dict[str, Tensor]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # random weights are drawn first, which nobody should notice
        model = classifier(built["name"], built["num_classes"], None, built["head"])
    model.load_state_dict(state)
    return model
