"""A device of torch that is neither "cpu" nor "cuda": tensors on it are apart from others, and it has no float64.

It stands for MPS, XPU and their like where there are none. Its numbers are computed on the CPU, so that results can be
compared; what mixes devices fails, as it would there. It stays registered: use it in a process of its own.

    python -c "from tests import other_device; other_device.register(); …"
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "toy"
MISSING: set[str] = set()  # operations that it does not have, such as "aten::hardswish_"
UNFINISHED: list[str] = []  # copies that nobody was to wait for
_computed: dict[int, Tensor] = {}  # by the storage of a tensor on the device: its numbers, on the CPU
_libraries = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")


def register() -> None:
    _setup_privateuseone_for_python_backend(NAME)
    has_storage = torch._C._has_storage
    torch._C._has_storage = lambda tensor: tensor.device.type != NAME and has_storage(tensor)  # to copy and to save
    everything, aten = _libraries
    everything.fallback(_run, "PrivateUse1")
    aten.impl("_copy_from", _copy_from, "PrivateUse1")
    aten.impl("as_strided", _as_strided, "PrivateUse1")
    aten.impl("convolution_overrideable", _convolution, "PrivateUse1")
    aten.impl("convolution_backward_overrideable", _convolution_backward, "PrivateUse1")


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _there(numbers: Tensor) -> Tensor:
    """A tensor on the device, contiguous to the eye; its numbers may be a view of another one's."""
    if numbers.dtype == torch.float64:
        raise TypeError("Cannot convert a TOY Tensor to float64 dtype as the TOY framework doesn't support float64.")
    tensor = torch._C._acc.create_empty_tensor(list(numbers.shape), numbers.dtype)
    _computed[_storage(tensor)] = numbers
    return tensor


def _here(thing: Any) -> Any:
    if isinstance(thing, Tensor) and thing.device.type == NAME:
        return _computed[_storage(thing)]
    return torch.device("cpu") if isinstance(thing, torch.device) and thing.type == NAME else thing


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    if op.name().split(".")[0] in MISSING:
        raise NotImplementedError(f"The operator '{op.name()}' is not currently implemented for the TOY device. If …")
    given = [thing for thing in pytree.tree_leaves((args, kwargs)) if isinstance(thing, Tensor)]
    for tensor in given:
        if tensor.device.type != NAME and tensor.dim():
            raise RuntimeError(f"{op.name()}: expected all tensors on {NAME}, got one on {tensor.device}")
    same, shared = {id(_here(one)): one for one in given}, {_storage(_here(one)) for one in given}

    def result(found: Any) -> Any:
        if not isinstance(found, Tensor):
            return found
        return same[id(found)] if id(found) in same else _there(found if _storage(found) in shared else _plain(found))

    args, kwargs = pytree.tree_map(_here, (args, kwargs))
    return pytree.tree_map(result, op(*args, **kwargs))


def _plain(numbers: Tensor) -> Tensor:
    return numbers.contiguous()


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    if non_blocking:
        UNFINISHED.append(f"{source.dtype} {list(source.shape)}")
    _here(target).copy_(_here(source))
    return target


def _as_strided(tensor: Tensor, size: list[int], stride: list[int], offset: int | None = None) -> Tensor:
    numbers = _plain(_here(tensor))  # torch takes the strides from what it sees
    return _there(numbers.as_strided(size, stride, numbers.storage_offset() + (offset or 0)))


def _convolution(*args: Any) -> Tensor:
    return _there(_plain(torch.ops.aten.convolution(*pytree.tree_map(_here, args))))


def _convolution_backward(gradient: Tensor, images: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor | None, ...]:
    *how, wanted = rest
    gradient, images, weight = map(_here, (gradient, images, weight))
    found = torch.ops.aten.convolution_backward(gradient, images, weight, [len(weight)], *how, wanted)
    return tuple(None if one is None else _there(_plain(one)) for one in found)
