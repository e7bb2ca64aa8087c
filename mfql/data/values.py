"""Values of a dataset's arrays: what is no number, no flag, or nothing to float32 is refused by its rows."""

from __future__ import annotations

import numpy as np

from mfql.errors import UserError, note

_SHOWN = 5
# Published files may have actions somewhat out of their bounds, which are clipped; so far out are none of these units.
_MOST_OUT = 1e3


def refuse(faulty: np.ndarray, what: str, fault: str, remedy: str, one: str = "transition") -> None:
    """Refuse rows, if there are any.

    Args:
        faulty: [N] bool.
        what: the file and its array.
        fault: what the values of these rows are.
        remedy: what to do about it.
        one: what a row is called.

    Raises:
        UserError: names how many rows, and the first.
    """
    if faulty.any():
        count, first = int(faulty.sum()), int(np.argmax(faulty))
        raise UserError(f"{what} of {count} of {len(faulty)} {one}s are {fault}, first of {one} {first}", remedy)


def listed(rows: np.ndarray) -> str:
    """The first of some numbers of rows, in words."""
    shown = ", ".join(map(str, rows[:_SHOWN].tolist()))
    return f"{shown}, ..." if len(rows) > _SHOWN else shown


def flags(values: np.ndarray, what: str, remedy: str) -> np.ndarray:
    """Flags [N] as bool: 0 and 1, or 0 and one other number above it, as a mask of bytes has 255.

    Args:
        values: [N] numbers.
        what: the file and its array.
        remedy: what to do about others.

    Raises:
        UserError: a value is not finite or negative, or there are several beside 0.
    """
    if values.dtype.kind == "b":
        return values
    refuse(~np.isfinite(values), what, "no finite numbers", remedy, "row")
    marked: np.ndarray = np.not_equal(values, 0)
    found = np.unique(values[marked])
    if len(found) == 0 or (len(found) == 1 and found[0] == 1):
        return marked
    if len(found) > 1 or found[0] < 1:
        refuse(marked & (values != 1), what, "neither 0 nor 1", remedy, "row")
    note(f"{what} are 0 and {found[0]:g}, read as 0 and 1")
    return marked


def as_float32(values: np.ndarray, what: str, remedy: str, one: str = "transition") -> np.ndarray:
    """Values [N, ...] as training sees them.

    Raises:
        UserError: some are not finite, or are beyond what float32 has numbers for.
    """
    refuse(~_finite(values), what, "no finite numbers", remedy, one)
    with np.errstate(over="ignore"):
        cast = values.astype(np.float32, copy=False)
    largest = f"beyond {np.finfo(np.float32).max:.2g}, the largest number of float32, in which training sees them"
    refuse(~_finite(cast), what, largest, "Scale them, in the environment too.", one)
    return cast


def refuse_absurd_actions(actions: np.ndarray, what: str, remedy: str, one: str = "transition") -> None:
    """Refuse actions [N, A] that are no finite numbers, or so far beyond -1 and 1 that they mean something else.

    Raises:
        UserError: names how many rows, and the first.
    """
    as_float32(actions, what, remedy, one)
    far = (np.abs(actions) > _MOST_OUT).reshape(len(actions), -1).any(axis=1)
    refuse(far, what, f"beyond {_MOST_OUT:g} times their bounds of -1 and 1", remedy, one)


def require_real(dtype: np.dtype, what: str, remedy: str) -> None:
    """Refuse an array by its type.

    Args:
        dtype: of its values.
        what: the file and its array.
        remedy: what to do about it.

    Raises:
        UserError: they are complex, text or Python's objects.
    """
    if dtype.kind not in "biuf":
        told = "which is complex" if dtype.kind == "c" else "which is no number"
        raise UserError(f"{what} has the type {dtype}, {told}", remedy)


def real_numbers(values: np.ndarray, what: str, remedy: str) -> np.ndarray:
    """The same values, whose type `require_real` has seen."""
    require_real(values.dtype, what, remedy)
    return values


def _finite(values: np.ndarray) -> np.ndarray:
    """Whether all numbers of a row are finite, [N] bool."""
    return np.asarray(np.isfinite(values.reshape(len(values), -1)).all(axis=1))
