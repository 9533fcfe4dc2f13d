"""What the kernels for CPU cores share: how Numba compiles their loops, and LLVM's vectors. Imported lazily.

Numba's cache looks at the file of a kernel only: after a change here, delete `__pycache__` beside the kernels.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit as _numba_njit
from numba import types
from numba.core import event
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic as _numba_intrinsic

log = logging.getLogger("fastaug")
FASTMATH = {"contract", "arcp", "nsz", "reassoc", "nnan", "ninf"}
F = np.float32
# Numba's stubs lack the option _nrt, and know no types of what it compiles.
njit: Any = _numba_njit
intrinsic: Any = _numba_intrinsic
# Loops that allocate nothing: without reference counts, and without Python's error for a division by zero, the compiler
# sees plain loops over memory and vectorises them.
row_loop = njit(nogil=True, _nrt=False, error_model="numpy", fastmath=FASTMATH)


class _Notice(event.Listener):
    """Says once that kernels are compiled, which takes seconds; those from Numba's cache are not."""

    said = False

    def on_start(self, event: Any) -> None:
        ours = event.data["dispatcher"].py_func.__module__.startswith("fastaug.")
        if ours and not self.said:
            self.said = True
            text = "compiling the CPU kernels, once per installation: some seconds …"
            if sys.stderr is not None and sys.stderr.isatty():
                print(f"fastaug: {text}", file=sys.stderr)
            else:
                log.info(text)

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Notice())
if hasattr(os, "register_at_fork"):  # forks wait for what is being compiled: a child would wait for its end for ever
    lock = global_compiler_lock
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


@intrinsic  # type: ignore[untyped-decorator]
def wide_vectors(typing_context: Any) -> Any:
    """Called in a function: the compiler may use vectors of 64 bytes for its loops, which it shuns on AVX-512."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite does not know it by name
        return context.get_dummy_value()

    return types.void(), generate


def shuffle_lanes(builder: Any, vector: Any, lanes: Sequence[int], other: Any = None) -> Any:
    """A vector of these lanes of another one, or of two, one after the other."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined) if other is None else other, mask)


def broadcast(builder: Any, scalar: Any, count: int) -> Any:
    """A vector of `count` times the same float."""
    empty = ir.Constant(ir.VectorType(ir.FloatType(), count), ir.Undefined)
    return shuffle_lanes(builder, builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0)), [0] * count)
