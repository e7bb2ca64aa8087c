"""Dimensions of observations that do not vary in a dataset: training divides them by 1."""

from __future__ import annotations

import zipfile

import numpy as np

_BLOCK = 1 << 18


def is_constant(rows: np.ndarray) -> np.ndarray:
    """Whether each column of [N, D] has one value alone, [D] bool.

    The values decide and not their deviation: the mean of equal numbers may be rounded, and that of nearly equal ones
    tells nothing of what they are worth.
    """
    constant = np.ones(rows.shape[1], dtype=bool)
    for start in range(0, len(rows), _BLOCK):
        constant &= (rows[start : start + _BLOCK] == rows[0]).all(axis=0)
    return constant


def constant_dimensions(rows: np.ndarray) -> list[int]:
    """The columns of [N, D] that have one value alone, counted from 0."""
    return np.flatnonzero(is_constant(rows)).tolist()


def array_header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array in an npz file, of which nothing else is read.

    Raises:
        ValueError: a length in its shape is no number of values. Numpy takes `True` for 1 and fails later.
    """
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"the header of {name.removesuffix('.npy')} says {list(shape)}, which is no shape")
    return shape, dtype
