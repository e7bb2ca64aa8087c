"""Layouts of datasets' files, as far as they are read without their environment: OGBench's and D4RL's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mfql.data.constant import constant_dimensions
from mfql.data.opening import hdf5_values, open_hdf5, open_npz


@dataclass(frozen=True)
class Layout:
    """What a file of a suite tells by itself; the functions raise OSError, ValueError or KeyError of a damaged one.

    Args:
        arrays: the names that a file has at its top.
        lengths: gives the rows of each episode of a file, [episodes].
        constant: gives the dimensions of observations that have one value alone over the rows of a training file that
            training sees as observations, counted from 0; of images there are none.
    """

    arrays: frozenset[str]
    lengths: Callable[[Path], np.ndarray]
    constant: Callable[[Path], list[int]]


def _ogbench_lengths(path: Path) -> np.ndarray:
    with open_npz(path) as arrays:
        return np.diff(np.flatnonzero(arrays["terminals"]), prepend=-1)


def _ogbench_constant(path: Path) -> list[int]:
    """A trajectory's last row does not count: it is a next observation alone."""
    with open_npz(path) as arrays:
        if len(arrays.header("observations")[0]) != 2:
            return []
        return _constant(arrays["observations"], arrays["terminals"] == 0)


def _d4rl_lengths(path: Path) -> np.ndarray:
    with open_hdf5(path) as file:
        ends = hdf5_values(file["terminals"]).astype(bool) | hdf5_values(file["timeouts"]).astype(bool)
    ends[-1] = True
    return np.diff(np.flatnonzero(ends), prepend=-1)


def _d4rl_constant(path: Path) -> list[int]:
    """A row that timed out does not count, nor does the last: what followed them was not recorded."""
    with open_hdf5(path) as file:
        kept = ~hdf5_values(file["timeouts"]).reshape(-1).astype(bool)
        kept[-1] = False
        return _constant(hdf5_values(file["observations"]), kept)


def _constant(observations: np.ndarray, kept: np.ndarray) -> list[int]:
    if observations.ndim != 2 or not kept.any():
        return []
    return constant_dimensions(observations[kept].astype(np.float32, copy=False))


OGBENCH = Layout(frozenset({"observations", "actions", "terminals"}), _ogbench_lengths, _ogbench_constant)
D4RL = Layout(frozenset({"observations", "actions", "rewards", "terminals", "timeouts"}), _d4rl_lengths, _d4rl_constant)
