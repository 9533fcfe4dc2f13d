"""What the kernels for CPU cores share: how Numba compiles their loops, and LLVM's vectors. Imported lazily.

Numba's cache looks at the file of a kernel only: after a change here, delete `__pycache__` beside the kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit as _numba_njit

FASTMATH = {"contract", "arcp", "nsz", "reassoc", "nnan", "ninf"}
F = np.float32
njit: Any = _numba_njit  # its stubs lack the option _nrt, and know no types of the functions it compiles
# Loops that allocate nothing: without reference counts, and without Python's error for a division by zero, the compiler
# sees plain loops over memory and vectorises them.
row_loop = njit(nogil=True, _nrt=False, error_model="numpy", fastmath=FASTMATH)


def shuffle_lanes(builder: Any, vector: Any, lanes: list[int]) -> Any:
    """A vector of these lanes of another one."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def broadcast(builder: Any, scalar: Any, count: int) -> Any:
    """A vector of `count` times the same float."""
    empty = ir.Constant(ir.VectorType(ir.FloatType(), count), ir.Undefined)
    return shuffle_lanes(builder, builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0)), [0] * count)
