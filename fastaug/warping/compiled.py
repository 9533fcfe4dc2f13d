"""What the kernels for CPU cores share: how Numba compiles their loops, and LLVM's vectors. Imported lazily.

Numba's cache looks at the file of a kernel only: after a change here, delete `__pycache__` beside the kernels.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit as _numba_njit
from numba import types
from numba.core import event
from numba.core.caching import FunctionCache as _NumbaCache
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic as _numba_intrinsic

log = logging.getLogger("fastaug")
FASTMATH = {"contract", "arcp", "nsz", "reassoc", "nnan", "ninf"}
F = np.float32
# Numba's stubs lack the option _nrt, and know no types of what it compiles.
njit: Any = _numba_njit
intrinsic: Any = _numba_intrinsic
_FunctionCache: Any = _NumbaCache
# Loops that allocate nothing: without reference counts, and without Python's error for a division by zero, the compiler
# sees plain loops over memory and vectorises them.
row_loop = njit(nogil=True, _nrt=False, error_model="numpy", fastmath=FASTMATH)


class _Notice(event.Listener):
    """Says once that kernels are compiled, which takes seconds; those from Numba's cache are not."""

    said = False
    kept = True  # on the disk, for other processes

    def cannot_keep(self, reason: object) -> None:
        """Say so, once."""
        if self.kept:
            self.kept = False
            log.warning(
                "the CPU kernels cannot be kept on the disk (%s): each process compiles them anew, which takes some "
                "seconds. Set NUMBA_CACHE_DIR to a folder that can be written to, before Python starts.",
                reason,
            )

    def on_start(self, event: Any) -> None:
        ours = event.data["dispatcher"].py_func.__module__.startswith("fastaug.")
        if ours and not self.said:
            self.said = True
            text = f"compiling the CPU kernels{', once per installation' if self.kept else ''}: some seconds …"
            if sys.stderr is not None and sys.stderr.isatty():
                print(f"fastaug: {text}", file=sys.stderr)
            else:
                log.info(text)

    def on_end(self, event: Any) -> None:
        pass


_notice = _Notice()
event.register("numba:compile", _notice)
if hasattr(os, "register_at_fork"):  # forks wait for what is being compiled: a child would wait for its end for ever
    lock = global_compiler_lock
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


class _Kept(_FunctionCache):  # type: ignore[misc]
    """Numba's cache of a kernel. Whatever is wrong with it, the kernel is compiled."""

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            return super().load_overload(signature, target)
        except Exception:  # cut off or damaged: whatever a pickle, or what becomes of it, may raise
            self._forget()
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        try:
            super().save_overload(signature, result)
        except Exception as error:  # as a full disk
            self._forget()
            _notice.cannot_keep((isinstance(error, OSError) and error.strerror) or type(error).__name__)

    def _forget(self) -> None:
        """What the index names is not all there, or of an earlier version of the kernel."""
        with contextlib.suppress(OSError):
            os.unlink(self._cache_file._index_path)


def kept_njit(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """What Python calls, and Numba keeps on the disk, where it can: beside its file, or in the user's cache."""

    def compiled(function: Callable[..., None]) -> Any:
        dispatcher = njit(nogil=True, _nrt=False, **options)(function)
        try:
            dispatcher._cache = _Kept(function)
        except (RuntimeError, OSError):  # an installation that cannot be written to, of a user without a home
            _notice.cannot_keep("no folder for them can be written to")
        return dispatcher

    return compiled


def named(*what: object) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For each of several functions that one function makes, by what it is made of: a name of its own.

    In Numba's cache they are told apart by name and types, beside a number that each process counts by itself. Of two
    of one name a process would call the one that it had first, also from a kernel that another process has compiled.
    """

    def renamed(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__qualname__ = "_".join([function.__qualname__, *map(str, what)])
        return function

    return renamed


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
