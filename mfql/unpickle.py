"""Arrays from a pickle, of which nothing is run: the authors' released checkpoints are such files.

A pickle names functions that its reader is to call. Here only those that make numpy's arrays, types and scalars can be
named, and the one by which jax pickles an array, in whose place the numpy array inside is taken.
"""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

from mfql.errors import UserError
from mfql.files import read_bytes

# Bytes of a pickle: those of the released code have a hundredth of it.
_MOST = 4 << 30


def load_arrays(path: str | Path) -> Any:
    """The dicts, lists, numbers, texts and numpy arrays of a pickle, nested as they are in it.

    Raises:
        UserError: the file cannot be read, is no pickle, or asks for anything else; nothing of it was run.
    """
    try:
        content = read_bytes(path, _MOST)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "Give the file of a released checkpoint.") from error
    try:
        value = _ArraysAlone(io.BytesIO(content)).load()
        _check(value)
    except _Foreign as error:
        raise UserError(
            f"{path} is no pickle of arrays alone: it asks for {error}",
            "Nothing of it was run. Do not load it elsewhere unless you trust who made it.",
        ) from error
    except _FAULTS as error:
        raise UserError(f"{path} is no readable pickle: {error}", "Copy it again from its source.") from error
    return value


class _Foreign(Exception):
    """Something that is no array, by its name."""


# What reading a damaged pickle raises.
_FAULTS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


class _ArraysAlone(pickle.Unpickler):  # noqa: S301 - it admits arrays alone
    def find_class(self, module: str, name: str) -> Any:
        """What a pickle names, if it is admitted; nothing is imported."""
        # Numpy 2 has moved its core.
        found = _ADMITTED.get((module.replace("numpy.core.", "numpy._core."), name))
        if found is None:
            raise _Foreign(f"{module}.{name}")
        return found


def _jax_array(function: Any, arguments: tuple[Any, ...], state: Any, _: Any) -> np.ndarray:
    """The numpy array inside a pickled jax array."""
    if function is not _RECONSTRUCT:
        raise _Foreign("a jax array without a numpy array")
    array = function(*arguments)
    array.__setstate__(state)
    return array


# The functions that numpy itself pickles an array, a contiguous array and a scalar with, wherever its release has them.
_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "scalar"): np.float32(0).__reduce__()[0],
    ("numpy._core.numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0],
    ("jax._src.array", "_reconstruct_array"): _jax_array,
}


def _check(value: Any) -> None:
    """Refuse what is neither plain nor an array of numbers."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check(key)
            _check(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item)
    elif isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "biufcSU":
            raise _Foreign(f"an array of {value.dtype}")
    elif not isinstance(value, int | float | complex | str | bytes | None):
        raise _Foreign(f"{type(value).__module__}.{type(value).__qualname__}")
