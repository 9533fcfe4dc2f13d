"""The calls of DALI's dynamic mode, within an EvalContext of the caller (`Decoder._running`).

They have a file of their own, and a small one: DALI 2.4 parses the whole file that an operator is called from, to find
arguments that never change, which for a long one shows in every process's first batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

try:
    import nvidia.dali.experimental.dynamic
    from nvidia.dali import types as dali_types
    from nvidia.dali.tensors import TensorListCPU
except ImportError as error:
    raise ImportError(
        f"Decoder: DALI's dynamic mode is needed to load images, and its import failed ({error}). "
        "Install it with: pip install nvidia-dali-cuda130"
    ) from error

ndd: Any = nvidia.dali.experimental.dynamic  # its stubs do not know all that it has
types: Any = dali_types


def decode(files: Sequence[np.ndarray], columns: np.ndarray | None, device: str) -> list[Any]:
    """RGB uint8 [H, W, 3], upright, of encoded files, uint8 1-D; on a GPU by its JPEG decoder.

    On a CPU these are numpy arrays, on a GPU DALI's TensorGPU.

    columns: int64 [N, 2], first column and one past the last of each; None: all of all.
    """
    encoded = ndd.as_batch(files, layout="")
    settings = {
        "device": device,
        "output_type": types.RGB,
        "adjust_orientation": True,
        "jpeg_fancy_upsampling": True,  # as libjpeg-turbo does on the CPU; without it a GPU decodes other pixels
    }
    if columns is None:
        return images_of(ndd.decoders.image(encoded, **settings))
    spans = columns[:, :1], columns[:, 1:] - columns[:, :1]
    start, width = (ndd.as_batch(values.astype(np.int32)) for values in spans)  # other types are cast by an operator
    return images_of(ndd.decoders.image_slice(encoded, start=start, shape=width, axis_names="W", **settings))


def images_of(batch: Any) -> list[Any]:
    """The images of a batch, which live as long as somebody has them.

    Not DALI's Tensors: these and their batch refer to each other, so that whole photos stayed in memory until the
    garbage collector came by. What they wrap is public, TensorCPU and TensorGPU; that a batch calls it _storage is
    not.
    """
    images = batch.evaluate()._storage
    found = [images[i] for i in range(len(images))]
    return [np.asarray(image) for image in found] if isinstance(images, TensorListCPU) else found


def shape(image: Any) -> tuple[int, ...]:
    """Of one of `images_of`."""
    return image.shape if isinstance(image, np.ndarray) else tuple(image.shape())


def image_shape(file: np.ndarray) -> list[int]:
    """Height, width and channels as they are stored."""
    shape: list[int] = np.asarray(ndd.peek_image_shape(ndd.as_batch([file], layout="")).tensors[0]).tolist()
    return shape


def resize(images: Sequence[Any], sizes: np.ndarray, region: tuple[np.ndarray, np.ndarray], device: str) -> Any:
    """A batch of resized images, as `fastaug.loading.resize` has them.

    Args:
        images: of `decode`, or tensors of torch.
        sizes: (height, width) of each result, float32 [N, 2].
        region: corners (y, x) float32 [N, 2], and the corners opposite.
    """
    return ndd.resize(
        ndd.as_batch(images, layout="HWC"), size=ndd.as_batch(sizes), roi_start=ndd.as_batch(region[0]),
        roi_end=ndd.as_batch(region[1]), interp_type=types.INTERP_LANCZOS3, antialias=True, device=device,
    ).evaluate()  # fmt: skip
