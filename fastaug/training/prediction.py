"""What a trained model says of images: probabilities, the same over augmented passes, and of one file."""

from __future__ import annotations

import inspect
import os
from typing import Any

import torch
from torch import Tensor

from fastaug.loading.loader import ImageLoader
from fastaug.loading.quarantine import BadFileError
from fastaug.machine import rank
from fastaug.samples.samples import Samples
from fastaug.training import ranks
from fastaug.training.engine import Engine, until_failure
from fastaug.training.inference import Predictor, Says, to_probabilities
from fastaug.training.loaders import Loader, LoaderAdapter

_SETTINGS = inspect.signature(ImageLoader).parameters.keys() - {"samples", "schedule"}


def activations_of(learn: Engine, loader: Loader, everywhere: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """(activations float32 [N, classes], targets, rows int64 [N]) on the CPU, in the order of the rows.

    Rows are those that the loader's batches tell, or else they are counted. Of all ranks' shares, unless every rank has
    all images (everywhere=False).
    """
    failures, mine = list[ValueError](), None
    if found := list(until_failure(learn.evaluate(loader), failures)):
        rows = [some for _, _, some in found if some is not None]
        activations = torch.cat([a.float() for a, _, _ in found]).cpu()
        targets = torch.cat([y for _, y, _ in found]).cpu()
        mine = activations, targets, torch.cat(rows) if rows else torch.arange(len(activations))
    failed = bool(found and failures)
    told = ranks.gather((mine, failed)) if everywhere else [(mine, failed)]
    shares = [share for share, _ in told if share is not None]  # a rank may have no images at all
    if not shares or any(failed for _, failed in told):  # all ranks know it now, and none waits for another
        raise failures[0] if failures else BadFileError("Learner: another rank found too many bad files.")
    everything = [torch.cat(parts) for parts in zip(*shares, strict=True)]
    order = everything[2].argsort(stable=True)
    return everything[0][order], everything[1][order], everything[2][order]


def threshold(learn: Engine) -> float | Tensor | None:
    """From which probability on a class counts as seen; None where the loss knows one class per image."""
    return getattr(learn.loss_func, "threshold", 0.0) if learn.activation == "sigmoid" else None


def probabilities_of(learn: Engine, activations: Tensor) -> Tensor:
    """Softmax or sigmoid, as the loss says; activations of other losses as they are."""
    return activations if learn.activation == "none" else to_probabilities(activations, threshold(learn))


def loader_like(loader: Loader, samples: Samples | None = None, **changes: Any) -> ImageLoader:
    """A loader of the same photos, or of `samples`, with some settings changed; one rank alone, every sample once."""
    if not isinstance(loader, ImageLoader):
        raise TypeError(
            f"Learner: expected an ImageLoader, whose files can be loaded again, got {type(loader).__name__}. "
            "Use get_preds with a loader of your own."
        )
    same = {name: getattr(loader, name) for name in _SETTINGS if hasattr(loader, name)}
    same |= {"decoder": loader.decoder_choice.name, "shard": (0, 1), "drop_last": False, "return_info": True}
    same |= {"weights": None, "repeats": 1}  # every sample once
    return ImageLoader(samples or loader.samples, **{**same, **changes})


def get_preds(learn: Engine, loader: Loader | None = None) -> tuple[Tensor, Tensor]:
    """(probabilities float32 [N, classes], targets [N]) on the CPU of `loader`, default valid_loader, of all ranks.

    Probabilities are the softmax of the activations, or their sigmoid where the loss is a binary one; with any other
    loss the activations themselves come instead, unless `Learner(activation=...)` says what they are.
    Of an ImageLoader, one for training too, they are those of every sample once, not augmented, in the order of the
    samples, without those of files that cannot be read. Any other loader is taken as it comes, which is warned of where
    one of torch's shuffles or leaves out images.
    """
    activations, targets, _ = activations_of(learn, LoaderAdapter(learn.or_valid(loader)).in_order(rows=True))
    return probabilities_of(learn, activations), targets


def tta(learn: Engine, loader: Loader | None = None, n: int = 4, beta: float = 0.25) -> tuple[Tensor, Tensor]:
    """`get_preds` with test-time augmentation: the mean over n augmented passes, and a share beta of the plain one.

    Raises:
        ValueError: n < 1, beta outside 0..1, masks, files that cannot be read. TypeError: the loader is no ImageLoader.
    Source: fastai 2.8, `Learner.tta`.
    """
    if n < 1 or not 0 <= beta <= 1:
        raise ValueError(f"tta: expected n of at least 1 and beta between 0 and 1, got {n} and {beta}.")
    if learn.kind == "mask":
        raise ValueError("tta: expected one target for each image, got masks, whose pixels are elsewhere in each pass.")
    loader = learn.or_valid(loader)
    augment = LoaderAdapter(learn.train_loader).augment or LoaderAdapter(loader).augment
    augmented = loader_like(loader, training=True, augment=augment)
    passes = []
    for epoch in range(n):
        augmented.set_epoch(epoch)
        activations, _, _ = activations_of(learn, augmented, everywhere=False)
        passes.append(probabilities_of(learn, activations))
    plain, targets = get_preds(learn, loader)
    if any(len(one) != len(plain) for one in passes):
        raise ValueError("tta: expected the same images in every pass, got files that could not be read. Remove them.")
    return torch.stack(passes).mean(0).lerp(plain, beta), targets


def predict(learn: Engine, path: str | os.PathLike[str]) -> tuple[Any, Any, Tensor]:
    """`Predictor.predict` of a file, seen as the validation images are. TypeError: the learner has no ImageLoader."""
    return predictor(learn).predict(path)


def export(learn: Engine, path: str | os.PathLike[str], architecture: str | None = None) -> None:
    """Write the model with its classes and preprocessing into one safetensors file, for `fa.load_classifier(path)`.

    Arguments and errors are those of `Predictor.save`. TypeError: the learner has no ImageLoader.
    """
    if not rank():
        predictor(learn).save(path, architecture)


def predictor(learn: Engine) -> Predictor:
    """Model, classes and preprocessing of the validation images, without the rest of the learner."""
    source = loader_like(learn.valid_loader if learn.valid_loader is not None else learn.train_loader)
    if source.augment is None:
        raise ValueError("Learner: expected a loader with an augment, got one without. Give the loader an augment.")
    limit = threshold(learn)
    plain = limit.tolist() if isinstance(limit, Tensor) else limit
    settings = source.augment, source.presize, source.mode, plain, learn.amp, learn.device, learn.activation
    framing = source.resize_method, source.channels
    return Predictor(learn.model, source.samples.classes, *settings, said_of(learn), *framing)


def said_of(learn: Engine) -> Says:
    """What the model says of an image, as the samples and the loss have it."""
    if learn.kind == "labels" and learn.activation == "sigmoid":
        return "labels"
    return "numbers" if learn.kind == "numbers" and learn.activation == "none" else "class"
