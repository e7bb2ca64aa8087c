"""Dimensions of observations that do not vary in a dataset: training divides them by 1."""

from __future__ import annotations

import zipfile
from pathlib import Path

import h5py
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


def constant_dimensions_of(path: Path) -> list[int]:
    """Those of a training file of OGBench's (.npz) or D4RL's (.hdf5), over the rows that training sees as observations.

    A trajectory's last row is none: in OGBench's layout it is a next observation alone, in D4RL's what followed it was
    not recorded. Of images there are none.

    Raises:
        OSError, ValueError, KeyError: the file is damaged, or is no dataset.
    """
    if path.suffix == ".hdf5":
        with h5py.File(path) as file:
            kept = ~file["timeouts"][()].reshape(-1).astype(bool)
            kept[-1] = False
            observations = file["observations"][()].astype(np.float32, copy=False)
    else:
        with np.load(path, allow_pickle=False) as arrays:
            if len(array_header(arrays.zip, "observations.npy")[0]) != 2:
                return []
            kept = arrays["terminals"] == 0
            observations = arrays["observations"]
    if observations.ndim != 2 or not kept.any():
        return []
    return constant_dimensions(observations[kept].astype(np.float32, copy=False))


def array_header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array in an npz file, of which nothing else is read."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, dtype
