"""The calls of DALI's dynamic mode, within an EvalContext of the caller (`DaliDecoder._running`).

They have a file of their own, and a small one: DALI 2.4 parses the whole file that an operator is called from, to find
arguments that never change, which for a long one shows in every process's first batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import nvidia.dali.experimental.dynamic
from nvidia.dali import types as dali_types
from nvidia.dali.tensors import TensorListCPU

from fastaug.loading.options import FilterName

ndd: Any = nvidia.dali.experimental.dynamic  # its stubs do not know all that it has
types: Any = dali_types


def decode(files: Sequence[np.ndarray], device: str) -> list[Any]:
    """RGB uint8 [H, W, 3], as stored, of encoded files, uint8 1-D; on a GPU by its JPEG decoder.

    On a CPU these are numpy arrays, on a GPU DALI's TensorGPU.
    """
    images = ndd.decoders.image(
        ndd.as_batch(files, layout=""), device=device, output_type=types.RGB, adjust_orientation=False,
        jpeg_fancy_upsampling=True,  # as libjpeg-turbo does on the CPU; without it a GPU decodes other pixels
    )  # fmt: skip
    return images_of(images)


def images_of(batch: Any) -> list[Any]:
    """The images of a batch, which live as long as somebody has them.

    Not DALI's Tensors: these and their batch refer to each other, so that whole photos stayed in memory until the
    garbage collector came by. What they wrap is public, TensorCPU and TensorGPU; that a batch calls it _storage is
    not.
    """
    images = batch.evaluate()._storage
    found = [images[i] for i in range(len(images))]
    return [np.asarray(image) for image in found] if isinstance(images, TensorListCPU) else found


_FILTERS: dict[FilterName, Any] = {"lanczos": types.INTERP_LANCZOS3, "bilinear": types.INTERP_LINEAR}


def resize(
    images: Sequence[Any], sizes: np.ndarray, region: tuple[np.ndarray, np.ndarray], device: str, kind: FilterName
) -> Any:
    """A batch of resized images, as `fastaug.loading.resize` has them.

    Args:
        images: of `decode`, or tensors of torch.
        sizes: (height, width) of each result, float32 [N, 2].
        region: corners (y, x) float32 [N, 2], and the corners opposite.
        kind: of filter.
    """
    return ndd.resize(
        ndd.as_batch(images, layout="HWC"), size=ndd.as_batch(sizes), roi_start=ndd.as_batch(region[0]),
        roi_end=ndd.as_batch(region[1]), interp_type=_FILTERS[kind], antialias=True, device=device,
    ).evaluate()  # fmt: skip
